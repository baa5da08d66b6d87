//! Cells of server-side tables that kinds share.
//!
//! Rules: upstream `pkg/printers/internalversion`.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::scheme::{Column, age};
use crate::api::value::ValueExt;

/// What stands for nothing.
pub const NONE: &str = "<none>";

/// `a=b,c=d` in the order of the keys; `<none>` when empty.
pub fn label_text(map: Option<&Value>) -> String {
    let mut all: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    all.sort();
    if all.is_empty() { NONE.to_owned() } else { all.join(",") }
}

/// A label selector in the query form, by key; empty for the one that selects everything.
pub fn selector_query(selector: &Value) -> String {
    let mut all: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        all.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for e in selector.items_at("/matchExpressions") {
        let key = e.str_at("/key").unwrap_or_default();
        let mut values: Vec<&str> = e.items_at("/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let list = values.join(",");
        let text = match e.str_at("/operator").unwrap_or_default() {
            "In" => format!("{key} in ({list})"),
            "NotIn" => format!("{key} notin ({list})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        all.push((key.to_owned(), text));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// A selector for a cell.
fn selector_text(selector: &Value) -> String {
    match selector_query(selector) {
        text if text.is_empty() => NONE.to_owned(),
        text => text,
    }
}

fn of_containers(containers: &[Value], field: &str) -> Value {
    containers.iter().filter_map(|c| c.get(field)?.as_str()).collect::<Vec<_>>().join(",").into()
}

const TEMPLATE: &str = "/spec/template/spec/containers";

/// Names of a template's containers.
pub const CONTAINERS: Column = Column::new("Containers", |o, _| of_containers(o.items_at(TEMPLATE), "name")).wide();
/// Images of a template's containers.
pub const IMAGES: Column = Column::new("Images", |o, _| of_containers(o.items_at(TEMPLATE), "image")).wide();
/// A workload's label selector.
pub const SELECTOR: Column =
    Column::new("Selector", |o, _| o.get_at("/spec/selector").map_or(NONE.into(), |s| selector_text(s).into())).wide();

/// Names of containers at a pointer.
pub fn container_names(object: &Value, pointer: &str) -> Value {
    of_containers(object.items_at(pointer), "name")
}

/// Images of containers at a pointer.
pub fn container_images(object: &Value, pointer: &str) -> Value {
    of_containers(object.items_at(pointer), "image")
}

/// How many keys the maps at the pointers have together.
pub fn keys(object: &Value, pointers: &[&str]) -> Value {
    let count = |p: &&str| object.get_at(p).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    pointers.iter().map(count).sum::<usize>().into()
}

/// The text at a pointer; `<none>` where there is none.
pub fn or_none(object: &Value, pointer: &str) -> Value {
    object.str_at(pointer).filter(|t| !t.is_empty()).unwrap_or(NONE).into()
}

/// The integer at a pointer.
pub fn int(object: &Value, pointer: &str) -> i64 {
    object.int_at(pointer).unwrap_or(0)
}

/// Time since the time at a pointer.
pub fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    age(object.str_at(pointer), now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2")]
    #[test_case(json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "z", "operator": "DoesNotExist"}]}), "a=b,!z")]
    #[test_case(json!({"matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["y", "x"]}]}), "k notin (x,y)")]
    #[test_case(json!({}), "")]
    fn selectors(selector: Value, want: &str) {
        assert_eq!(selector_query(&selector), want);
    }
}
