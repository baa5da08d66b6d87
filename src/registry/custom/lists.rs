//! Lists that are sets or maps: no element twice, and which element is which.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/apiserver/schema/listtype`.

use serde_json::Value;

use crate::api::schema::{Keys, ListType, View};
use crate::registry::errors::FieldErrors;
use crate::registry::validate::Field;

/// Finds what is twice.
pub(super) fn check(field: &Field<'_>, schema: &Value) {
    match field.value {
        Value::Object(map) => {
            for (name, value) in map {
                let property = schema.get("properties").and_then(|p| p.get(name));
                let more = schema.get("additionalProperties").filter(|a| a.is_object());
                match (property, more) {
                    (Some(below), _) => check(&Field { value, errs: field.errs.at(name) }, below),
                    (None, Some(below)) => check(&Field { value, errs: field.errs.key(name) }, below),
                    (None, None) => {}
                }
            }
        }
        Value::Array(list) => {
            check_elements(field, list, schema);
            let Some(items) = schema.get("items").filter(|i| i.is_object()) else { return };
            for (i, value) in list.iter().enumerate() {
                check(&Field { value, errs: field.errs.index(i) }, items);
            }
        }
        _ => {}
    }
}

fn check_elements(field: &Field<'_>, list: &[Value], schema: &Value) {
    let told = |i: usize, value: Value| field.errs.index(i).duplicate(value);
    // Texts of the identities: values have no hash, and lists may be long.
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    match View::crd(schema).list() {
        ListType::Atomic => {}
        ListType::Set => {
            for (i, value) in
                list.iter().enumerate().filter(|(_, v)| !seen.insert(crate::api::go_json::sorted(v).to_string()))
            {
                told(i, value.clone());
            }
        }
        ListType::Map(keys) => {
            for (i, value) in list.iter().enumerate() {
                let identity = identity(value, keys);
                if !seen.insert(identity.to_string()) {
                    told(i, identity);
                }
            }
        }
    }
}

fn identity(value: &Value, keys: Keys<'_>) -> Value {
    keys.iter().filter_map(|key| Some((key.to_owned(), value.get(key)?.clone()))).collect()
}

/// True when nothing is twice.
pub(super) fn is_valid(value: &Value, schema: &Value) -> bool {
    let errs = FieldErrors::new();
    check(&Field::root(value, &errs), schema);
    errs.is_empty()
}

/// The element of the old list that is the same by its keys; none in lists without keys.
pub(super) fn counterpart<'o>(element: &Value, old: &'o Value, schema: &Value) -> Option<&'o Value> {
    let ListType::Map(keys) = View::crd(schema).list() else { return None };
    let wanted = identity(element, keys);
    old.as_array()?.iter().find(|o| identity(o, keys) == wanted)
}
