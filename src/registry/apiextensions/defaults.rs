//! Defaults in the schema of a custom resource: each must fit the schema that it stands in.
//!
//! In: the root of a structural schema. Out: where a default has fields that would be pruned, or a value that the schema
//! refuses. Rules: upstream `apiextensions-apiserver/pkg/apiserver/schema/defaulting` and `apiserver/validation`.
//!
//! **Invariant:** a schema is structural when it comes here, so its types say what values may be.

use std::collections::HashMap;

use serde_json::Value;

use super::schema::META;
use crate::api::value::ValueExt;
use crate::registry::custom::validate;
use crate::registry::validate::Field;

/// All defaults of a schema.
pub fn check(root: &Field<'_>) {
    walk(root, true, false);
}

fn walk(s: &Field<'_>, embedded: bool, meta: bool) {
    let default = s.at("default");
    if !default.value.is_null() {
        if !meta && has_unknown(default.value, s.value, embedded) {
            default.invalid("must not have unknown fields");
        }
        validate::check(&default, s.value, None, &HashMap::new());
    }
    if s.at("items").value.is_object() {
        walk(&s.at("items"), s.at("items").flag("x-kubernetes-embedded-resource"), meta);
    }
    for (name, property) in s.entries("properties") {
        let is_meta = meta || (embedded && META.contains(&name));
        walk(&property, property.flag("x-kubernetes-embedded-resource"), is_meta);
    }
}

/// True when pruning would drop something.
fn has_unknown(value: &Value, schema: &Value, embedded: bool) -> bool {
    if schema.bool_at("/x-kubernetes-preserve-unknown-fields") == Some(true) {
        return false;
    }
    match value {
        Value::Array(list) => match schema.get("items") {
            Some(items) => list.iter().any(|v| has_unknown(v, items, is_embedded(items))),
            None => false,
        },
        Value::Object(map) => map.iter().any(|(name, v)| {
            let more = schema.get("additionalProperties").filter(|a| !a.is_null() && **a != false);
            match (schema.get("properties").and_then(|p| p.get(name)), more) {
                _ if embedded && META.contains(&name.as_str()) => false,
                (Some(below), _) | (None, Some(below)) => has_unknown(v, below, is_embedded(below)),
                (None, None) => true,
            }
        }),
        _ => false,
    }
}

fn is_embedded(schema: &Value) -> bool {
    schema.bool_at("/x-kubernetes-embedded-resource") == Some(true)
}
