//! `--sort-by`: rows and objects in the order of a field.

use std::cmp::Ordering;

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::ctl::cx::Done;
use crate::ctl::fail::{Failure, fail};
use crate::ctl::print::jsonpath::JsonPath;
use crate::util::order::Arrange;

pub fn sorter(expression: &str) -> Done<Option<JsonPath>> {
    match expression {
        "" => Ok(None),
        text => JsonPath::relaxed(text).map(Some).map_err(|e| Failure::Plain(e.to_string())),
    }
}

pub fn sort_rows(table: &mut Value, path: &JsonPath) -> Done {
    if let Some(Value::Array(rows)) = table.get_mut("rows") {
        sort_by(rows, path, |row| &row["object"])?;
    }
    Ok(())
}

pub fn sort_objects(objects: &mut [Value], path: &JsonPath) -> Done {
    // Rows of a table stay in their order where none has the field; objects, kubectl refuses to print.
    let missing = |o: &Value| path.find(o).map_or(true, |found| found.is_empty());
    if !objects.is_empty() && objects.iter().all(missing) {
        fail!("couldn't find any field with path {:?} in the list of objects", path.text());
    }
    sort_by(objects, path, |o| o)
}

fn sort_by(items: &mut [Value], path: &JsonPath, object: impl Fn(&Value) -> &Value) -> Done {
    let mut keyed: Vec<(Option<Value>, Value)> = Vec::with_capacity(items.len());
    for item in items.iter() {
        let found = path.find(object(item)).map_err(|e| Failure::Plain(e.to_string()))?;
        keyed.push((found.first().map(|v| (*v).clone()), item.clone()));
    }
    keyed.arrange_by(|(a, _), (b, _)| match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => compare(a, b),
    });
    for (slot, (_, item)) in items.iter_mut().zip(keyed) {
        *slot = item;
    }
    Ok(())
}

/// Numbers by value, quantities by amount, the rest as text with runs of digits by their number.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a.nanos().cmp(&b.nanos()),
            _ => natural(a, b),
        },
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// `a2` before `a10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (da, db) = (digits(a), digits(b));
        if da > 0 && db > 0 {
            let (na, nb) = (a[..da].trim_start_matches('0'), b[..db].trim_start_matches('0'));
            let order = na.len().cmp(&nb.len()).then(na.cmp(nb)).then(da.cmp(&db));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[da..], &b[db..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("a2", "a10", Ordering::Less)]
    #[test_case("a10", "a10", Ordering::Equal)]
    #[test_case("b", "a10", Ordering::Greater)]
    #[test_case("a", "a1", Ordering::Less)]
    #[test_case("007", "7", Ordering::Greater; "leading zeros decide last")]
    fn natural_order(a: &str, b: &str, want: Ordering) {
        assert_eq!(natural(a, b), want);
    }

    #[test]
    fn sorts_by_path_and_puts_the_missing_first() {
        let mut items = vec![json!({"n": 10}), json!({"n": 9}), json!({})];
        sort_objects(&mut items, &JsonPath::relaxed(".n").unwrap()).unwrap();
        assert_eq!(items, [json!({}), json!({"n": 9}), json!({"n": 10})]);
        let mut amounts = vec![json!({"q": "1Gi"}), json!({"q": "500Mi"})];
        sort_objects(&mut amounts, &JsonPath::relaxed("q").unwrap()).unwrap();
        assert_eq!(amounts[0], json!({"q": "500Mi"}));
        assert!(sort_objects(&mut items, &JsonPath::relaxed(".nope").unwrap()).is_err());
    }
}
