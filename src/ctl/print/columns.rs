//! Own columns: `NAME:.metadata.name,IMAGE:.spec.containers[*].image`.

use serde_json::Value;

use super::jsonpath::{self, JsonPath};
use super::tab;
use crate::ctl::cx::Done;
use crate::ctl::fail::{Failure, fail};
use crate::util::order::Arrange;

/// Headers and what stands below them.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<(String, JsonPath)>,
    headers: bool,
}

impl Columns {
    /// Reads `HEADER:PATH,…`.
    pub fn parse(spec: &str, no_headers: bool) -> Done<Self> {
        let mut columns = Vec::new();
        for part in split(spec) {
            let Some((header, path)) = part.split_once(':') else {
                fail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")
            };
            columns.push((header.to_owned(), relaxed(path)?));
        }
        Ok(Self { columns, headers: !no_headers })
    }

    /// Reads a file: a line of headers, a line of paths.
    pub fn of_file(text: &str, no_headers: bool) -> Done<Self> {
        let mut lines = text.lines();
        let (Some(headers), Some(paths)) = (lines.next(), lines.next()) else {
            fail!("expected two lines in the custom-columns file: headers and paths")
        };
        let (headers, paths): (Vec<_>, Vec<_>) =
            (headers.split_whitespace().collect(), paths.split_whitespace().collect());
        if headers.len() != paths.len() {
            fail!("number of headers ({}) and field specifications ({}) don't match", headers.len(), paths.len());
        }
        let columns =
            headers.into_iter().zip(paths).map(|(h, p)| Ok((h.to_owned(), relaxed(p)?))).collect::<Done<_>>()?;
        Ok(Self { columns, headers: !no_headers })
    }

    /// The table of an object, or of a list's items.
    pub fn text(&self, object: &Value) -> Done<String> {
        let items = match object.get("items") {
            Some(Value::Array(items)) => items.as_slice(),
            _ => std::slice::from_ref(object),
        };
        let mut out = String::new();
        if self.headers {
            let headers: Vec<&str> = self.columns.iter().map(|(h, _)| h.as_str()).collect();
            out += &(headers.join("\t") + "\n");
        }
        for item in items {
            let cells = self.columns.iter().map(|(_, path)| cell(path, item)).collect::<Done<Vec<_>>>()?;
            out += &(cells.join("\t") + "\n");
        }
        Ok(tab::align(&out, tab::GET))
    }
}

fn cell(path: &JsonPath, item: &Value) -> Done<String> {
    let found = path.find(item).map_err(|e| Failure::Plain(e.to_string()))?;
    if found.is_empty() {
        return Ok("<none>".into());
    }
    Ok(found.into_iter().map(go_value).collect::<Vec<_>>().join(","))
}

/// A value as Go's `%v` prints it, which is what custom columns show.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v))).collect();
            pairs.arrange();
            format!("map[{}]", pairs.join(" "))
        }
        other => jsonpath::show(other),
    }
}

fn relaxed(path: &str) -> Done<JsonPath> {
    JsonPath::relaxed(path).map_err(|e| Failure::Plain(e.to_string()))
}

/// Splits at commas that stand in no brackets or quotes.
fn split(spec: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    for (i, c) in spec.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '(' | '{') => depth += 1,
            (None, ']' | ')' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(&spec[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&spec[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_per_item_and_what_is_missing() {
        let list = json!({"items": [
            {"metadata": {"name": "a"}, "spec": {"c": [{"image": "x"}, {"image": "y"}], "m": {"b": 1, "a": [2]}}},
            {"metadata": {"name": "b"}}]});
        let columns = Columns::parse(
            "NAME:.metadata.name,IMAGES:.spec.c[*].image,M:spec.m,P:.spec.c[?(@.image==\"x,y\")].image",
            false,
        );
        let want = "NAME   IMAGES   M                P\na      x,y      map[a:[2] b:1]   <none>\nb      <none>   <none>           <none>\n";
        assert_eq!(columns.unwrap().text(&list).unwrap(), want);
    }

    #[test]
    fn of_a_file() {
        let columns = Columns::of_file("NAME  Z\nmetadata.name .z\n", true).unwrap();
        assert_eq!(columns.text(&json!({"metadata": {"name": "a"}, "z": 1})).unwrap(), "a     1\n");
        assert!(Columns::of_file("A B\n.a\n", false).is_err());
    }
}
