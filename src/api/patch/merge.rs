//! JSON merge patch.
//!
//! Rules: RFC 7386; upstream `evanphx/json-patch` v4 (`MergePatch`), which also drops nulls inside lists of new values.

use serde_json::{Map, Value};

use crate::api::status::{ApiResult, Status};

/// Merges a patch into an object.
///
/// # Errors
/// 400 when the patch is no object.
pub fn apply(mut object: Value, patch: Value) -> ApiResult<Value> {
    match patch {
        Value::Object(_) => {
            merge(&mut object, patch);
            Ok(object)
        }
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        other => Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            super::json_type(&other)
        ))),
    }
}

fn merge(target: &mut Value, patch: Value) {
    let fields = match patch {
        Value::Object(fields) if target.is_object() => fields,
        mut other => {
            // An object or list in place of something else: there is nothing for its nulls to remove.
            if !(target.is_object() && other.is_array()) {
                drop_nulls(&mut other);
            }
            *target = other;
            return;
        }
    };
    let Some(map) = target.as_object_mut() else { return };
    merge_fields(map, fields);
}

fn merge_fields(map: &mut Map<String, Value>, fields: Map<String, Value>) {
    for (name, value) in fields {
        if value.is_null() {
            map.shift_remove(&name);
        } else {
            merge(map.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The merge patch that makes `new` of `old`.
pub fn diff(old: &Value, new: &Value) -> Value {
    let mut patch = Map::new();
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    for (name, value) in new {
        match (old.get(name), value) {
            (Some(before), value) if before == value => {}
            (Some(before @ Value::Object(_)), Value::Object(_)) => {
                patch.insert(name.clone(), diff(before, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(name.as_str())) {
        patch.insert(name.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}}); "nested")]
    #[test_case(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}); "lists are replaced")]
    #[test_case(json!({"a": 1}), json!({"a": {"b": null, "c": {"d": null}}}), json!({"a": {"c": {}}}); "nulls in what is new")]
    #[test_case(json!({}), json!({"a": [{"b": null, "c": 1}]}), json!({"a": [{"c": 1}]}); "nulls in new lists")]
    #[test_case(json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"}); "another type")]
    fn merges(object: Value, patch: Value, want: Value) {
        assert_eq!(apply(object, patch).unwrap(), want);
    }

    #[test_case(json!([1]), "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}")]
    #[test_case(json!(null), "Invalid JSON Patch")]
    fn refuses(patch: Value, message: &str) {
        let status = apply(json!({}), patch).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (400, message));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..4i64).prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_a_diff_says_makes_the_new_object(
            old in prop::collection::btree_map("[a-d]", value(), 0..4),
            new in prop::collection::btree_map("[a-d]", value(), 0..4),
        ) {
            let old = Value::Object(old.into_iter().collect());
            let new = Value::Object(new.into_iter().collect());
            prop_assert_eq!(apply(old.clone(), diff(&old, &new)).unwrap(), new);
        }
    }
}
