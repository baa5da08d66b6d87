//! Defaults in the schema of a custom resource: each must fit the schema that it stands in.
//!
//! In: the root of a structural schema. Out: where a default has fields that would be pruned, or a value that the schema
//! refuses. Rules: upstream `apiextensions-apiserver/pkg/apiserver/schema/defaulting` and `apiserver/validation`.
//!
//! **Invariant:** a schema is structural when it comes here, so its types say what values may be.

use serde_json::Value;

use super::schema::META;
use crate::api::value::ValueExt;
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
        value(&default, s.value);
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

/// A value against a schema.
fn value(v: &Field<'_>, schema: &Value) {
    if v.value.is_null() && schema.bool_at("/nullable") == Some(true) {
        return;
    }
    if !has_type(v.value, schema) {
        v.errs.type_invalid(v.value.clone(), format!("must be of type {}", schema.str_at("/type").unwrap_or_default()));
        return;
    }
    let allowed = schema.items_at("/enum");
    if !allowed.is_empty() && !allowed.contains(v.value) {
        v.errs.not_supported(v.value.clone(), &[]);
    }
    match v.value {
        Value::String(text) => check_text(v, text, schema),
        Value::Number(n) => check_number(v, n.as_f64().unwrap_or_default(), schema),
        Value::Array(list) => check_list(v, list, schema),
        Value::Object(map) => check_map(v, map, schema),
        _ => {}
    }
    check_junctors(v, schema);
}

fn has_type(value: &Value, schema: &Value) -> bool {
    if schema.bool_at("/x-kubernetes-int-or-string") == Some(true) {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema.str_at("/type").unwrap_or_default() {
        "" => true,
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// A limit of the schema as a count.
fn limit(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}

fn check_text(v: &Field<'_>, text: &str, schema: &Value) {
    let length = text.chars().count();
    if let Some(max) = limit(schema, "maxLength").filter(|max| length > *max) {
        v.errs.too_long(max);
    }
    if let Some(min) = limit(schema, "minLength").filter(|min| length < *min) {
        v.invalid(format!("should be at least {min} chars long"));
    }
    let pattern = schema.str_at("/pattern").unwrap_or_default();
    if !pattern.is_empty() && regex::Regex::new(pattern).is_ok_and(|r| !r.is_match(text)) {
        v.invalid(format!("should match '{pattern}'"));
    }
}

fn check_number(v: &Field<'_>, n: f64, schema: &Value) {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let strict = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
    if let Some(max) = number("maximum").filter(|max| n > *max || (strict("exclusiveMaximum") && n >= *max)) {
        v.invalid(format!("should be less than {max}"));
    }
    if let Some(min) = number("minimum").filter(|min| n < *min || (strict("exclusiveMinimum") && n <= *min)) {
        v.invalid(format!("should be greater than {min}"));
    }
    if let Some(step) = number("multipleOf").filter(|step| *step > 0.0 && (n / step).fract() != 0.0) {
        v.invalid(format!("should be a multiple of {step}"));
    }
}

fn check_list(v: &Field<'_>, list: &[Value], schema: &Value) {
    if let Some(max) = limit(schema, "maxItems").filter(|max| list.len() > *max) {
        v.errs.too_many(list.len(), max);
    }
    if let Some(min) = limit(schema, "minItems").filter(|min| list.len() < *min) {
        v.invalid(format!("should have at least {min} items"));
    }
    let Some(items) = schema.get("items") else { return };
    for (i, element) in list.iter().enumerate() {
        value(&Field { value: element, errs: v.errs.index(i) }, items);
    }
}

fn check_map(v: &Field<'_>, map: &serde_json::Map<String, Value>, schema: &Value) {
    if let Some(max) = limit(schema, "maxProperties").filter(|max| map.len() > *max) {
        v.errs.too_many(map.len(), max);
    }
    if let Some(min) = limit(schema, "minProperties").filter(|min| map.len() < *min) {
        v.invalid(format!("should have at least {min} properties"));
    }
    for name in schema.items_at("/required").iter().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            v.errs.at(name).required("");
        }
    }
    for (name, member) in map {
        let named = schema.get("properties").and_then(|p| p.get(name));
        if let Some(below) = named.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object())) {
            value(&Field { value: member, errs: v.errs.at(name) }, below);
        }
    }
}

fn fits(v: &Field<'_>, schema: &Value) -> bool {
    let errs = crate::registry::errors::FieldErrors::new();
    value(&Field { value: v.value, errs: errs.clone() }, schema);
    errs.is_empty()
}

fn check_junctors(v: &Field<'_>, schema: &Value) {
    schema.items_at("/allOf").iter().for_each(|part| value(v, part));
    let any = schema.items_at("/anyOf");
    if !any.is_empty() && !any.iter().any(|part| fits(v, part)) {
        v.invalid("must validate at least one schema (anyOf)");
    }
    let one = schema.items_at("/oneOf");
    if !one.is_empty() && one.iter().filter(|part| fits(v, part)).count() != 1 {
        v.invalid("must validate one and only one schema (oneOf)");
    }
    if schema.get("not").is_some_and(|n| n.is_object() && fits(v, n)) {
        v.invalid("must not validate the schema (not)");
    }
}
