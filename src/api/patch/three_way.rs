//! Patches that a client makes of three objects: what it applied last, what it applies now, what the server has.
//!
//! Rules: `kubectl apply`; upstream `strategicpatch.CreateThreeWayMergePatch` and
//! `jsonmergepatch.CreateThreeWayJSONMergePatch`. Deletions and orders that change nothing are left out.

use serde_json::{Map, Value, json};

use super::strategic::{DELETE_PRIMITIVES, ELEMENT_ORDER, PATCH, RETAIN_KEYS, same_element};
use crate::api::schema::View;

type Fields = Map<String, Value>;

/// A strategic merge patch that brings `current` to `modified`, and removes what `original` had and `modified` has not.
/// An empty object when there is nothing to do.
pub fn three_way(original: &Value, modified: &Value, current: &Value, view: View<'_>) -> Value {
    Value::Object(maps(original, modified, current, Some(view)))
}

/// A JSON merge patch of the same meaning, for kinds whose types are not known to strategic merge: lists are replaced.
pub fn three_way_merge(original: &Value, modified: &Value, current: &Value) -> Value {
    Value::Object(maps(original, modified, current, None))
}

fn maps(original: &Value, modified: &Value, current: &Value, view: Option<View<'_>>) -> Fields {
    let mut patch = Fields::new();
    let empty = Fields::new();
    let original = original.as_object().unwrap_or(&empty);
    let current = current.as_object().unwrap_or(&empty);
    let modified = modified.as_object().unwrap_or(&empty);
    for (name, wanted) in modified {
        let before = original.get(name).unwrap_or(&Value::Null);
        let field = view.map(|v| v.field(name));
        match (current.get(name), wanted) {
            (None, Value::Null) => {}
            (None, _) => {
                patch.insert(name.clone(), wanted.clone());
            }
            (Some(is @ Value::Object(_)), Value::Object(_)) if !field.is_some_and(|f| f.merge().replace) => {
                let mut below = maps(before, wanted, is, field);
                if !below.is_empty() {
                    retain(&mut below, wanted, field.is_some_and(|f| f.merge().retain_keys));
                    patch.insert(name.clone(), Value::Object(below));
                }
            }
            (Some(Value::Array(is)), Value::Array(list)) => {
                let was = before.as_array().map_or(&[][..], Vec::as_slice);
                match field.filter(|f| f.merge().merge) {
                    Some(field) => lists(&mut patch, name, [was, list, is], field),
                    None if is == list => {}
                    None => {
                        patch.insert(name.clone(), wanted.clone());
                    }
                }
            }
            (Some(is), _) if is == wanted => {}
            (Some(_), _) => {
                patch.insert(name.clone(), wanted.clone());
            }
        }
    }
    for name in
        original.keys().filter(|name| !modified.contains_key(name.as_str()) && current.contains_key(name.as_str()))
    {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

/// Names the fields that may stay, where the type is a union.
fn retain(patch: &mut Fields, wanted: &Value, retain_keys: bool) {
    if let (true, Some(wanted)) = (retain_keys, wanted.as_object()) {
        let mut names: Vec<&String> = wanted.keys().collect();
        names.sort();
        patch.insert(RETAIN_KEYS.into(), json!(names));
    }
}

/// The patch of one merged list: `[original, modified, current]`.
fn lists(patch: &mut Fields, name: &str, [original, modified, current]: [&[Value]; 3], view: View<'_>) {
    let key = view.merge().key;
    let has = |list: &[Value], item: &Value| list.iter().any(|o| same_element(o, item, key));
    let gone: Vec<&Value> = original.iter().filter(|o| !has(modified, o) && has(current, o)).collect();
    let mut changes = Vec::new();
    for wanted in modified {
        match (current.iter().find(|c| same_element(c, wanted, key)), key) {
            (None, _) => changes.push(wanted.clone()),
            (Some(is), Some(key)) => {
                let was = original.iter().find(|o| same_element(o, wanted, Some(key))).unwrap_or(&Value::Null);
                let mut below = maps(was, wanted, is, Some(view.element()));
                if !below.is_empty() {
                    retain(&mut below, wanted, view.merge().retain_keys);
                    below.insert(key.into(), wanted[key].clone());
                    changes.push(Value::Object(below));
                }
            }
            (Some(_), None) => {}
        }
    }
    let mut places = current.iter();
    let in_order = modified.iter().all(|m| places.any(|c| same_element(c, m, key)));
    if changes.is_empty() && gone.is_empty() && in_order {
        return;
    }
    let order: Vec<Value> =
        modified.iter().map(|m| key.map_or_else(|| m.clone(), |key| json!({key: m[key]}))).collect();
    if !order.is_empty() {
        patch.insert(format!("{ELEMENT_ORDER}{name}"), Value::Array(order));
    }
    match key {
        Some(key) => changes.extend(gone.iter().map(|o| json!({PATCH: "delete", key: o[key]}))),
        None if !gone.is_empty() => {
            patch.insert(format!("{DELETE_PRIMITIVES}{name}"), json!(gone));
        }
        None => {}
    }
    if !changes.is_empty() {
        patch.insert(name.into(), Value::Array(changes));
    }
}
