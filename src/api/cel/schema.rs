//! Structural schemas as types, and JSON as values of them.
//!
//! Rules: upstream `apiserver/pkg/cel/common/{schemas,values}.go`.
//!
//! **Invariant:** a member that does not fit its schema becomes an error once it is looked at, never a panic: schemas are
//! validated beside the rules, not before them.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::escape::escape;
use super::types::{Object, Type};
use super::value::{Key, List, ListKind, Map, Val};
use super::{lib_format, lib_time};

/// Members of every object that expressions see without a schema naming them.
const META: [&str; 2] = ["name", "generateName"];

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Json, name: &str) -> &'a str {
    schema.get(name).and_then(Json::as_str).unwrap_or_default()
}

/// True for a schema whose objects are whole resources within others.
pub fn is_embedded(schema: &Json) -> bool {
    flag(schema, "x-kubernetes-embedded-resource")
}

/// The schema of the values of a map; none for an object with fields.
pub fn values_of(schema: &Json) -> Option<&Json> {
    schema.get("additionalProperties").filter(|a| a.is_object())
}

/// How the elements of a list are told apart.
pub fn list_kind(schema: &Json) -> ListKind {
    match text(schema, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten();
            ListKind::Map(keys.filter_map(Json::as_str).map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    }
}

/// The type of what a schema describes; none when it says too little. `name` is the type's, where it is an object;
/// `root` for whole resources.
pub fn type_of(schema: &Json, name: &str, root: bool) -> Option<Type> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Type::Dyn);
    }
    let below = |s: &Json, part: &str| type_of(s, &format!("{name}.{part}"), is_embedded(s));
    Some(match text(schema, "type") {
        "array" => Type::list(below(schema.get("items")?, "@idx")?),
        "object" => match values_of(schema) {
            Some(values) => Type::map(Type::String, below(values, "@elem")?),
            None => object(schema, name, root),
        },
        "string" => match text(schema, "format") {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => return None,
    })
}

fn object(schema: &Json, name: &str, root: bool) -> Type {
    let mut fields = BTreeMap::new();
    let properties = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
    for (field, property) in properties {
        let type_ = type_of(property, &format!("{name}.{field}"), is_embedded(property));
        if let (Some(type_), Some(escaped)) = (type_, escape(field)) {
            fields.insert(escaped, type_);
        }
    }
    if root {
        fields.insert("kind".into(), Type::String);
        fields.insert("apiVersion".into(), Type::String);
        fields.insert("metadata".into(), Type::object(&format!("{name}.metadata"), META.map(|m| (m, Type::String))));
    }
    Type::Object(Arc::new(Object { name: name.to_owned(), fields, open: false }))
}

/// A value of a schema.
pub fn value(json: &Json, schema: &Json) -> Val {
    match json {
        Json::Null => Val::Null,
        _ if flag(schema, "x-kubernetes-int-or-string") => Val::from_json(json),
        Json::Array(items) => {
            let of = schema.get("items").unwrap_or(&Json::Null);
            let items = items.iter().map(|v| value(v, of)).collect();
            Val::List(Arc::new(List::new(items, list_kind(schema))))
        }
        Json::Object(members) => match values_of(schema) {
            Some(of) => Val::map(members.iter().map(|(k, v)| (k.as_str(), value(v, of)))),
            None => fields(members, schema),
        },
        Json::Number(n) if text(schema, "type") == "number" => Val::Double(n.as_f64().unwrap_or_default()),
        Json::Number(n) if text(schema, "type") == "integer" => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Val::Int(i),
            (_, Some(d)) if d.fract() == 0.0 && d.abs() < 9.0e18 => Val::Int(d as i64),
            _ => Val::Bad(format!("invalid data, expected int, got {n}").into()),
        },
        Json::String(s) => string(s, text(schema, "format")),
        other => Val::from_json(other),
    }
}

fn fields(members: &serde_json::Map<String, Json>, schema: &Json) -> Val {
    let properties = schema.get("properties").and_then(Json::as_object);
    let mut out = IndexMap::with_capacity(members.len());
    for (name, v) in members {
        let made = match properties.and_then(|p| p.get(name)) {
            Some(of) => value(v, of),
            None => Val::from_json(v),
        };
        out.insert(Key::Str(escape(name).unwrap_or_else(|| name.clone()).into()), made);
    }
    Val::Map(Arc::new(Map::new(out, None)))
}

fn string(s: &str, format: &str) -> Val {
    let bad = |what: &str| Val::Bad(format!("invalid data, expected {what}, got \"{s}\"").into());
    match format {
        "byte" => lib_format::base64(s).map_or_else(|| bad("bytes"), |b| Val::Bytes(b.into())),
        "duration" => lib_time::parse_duration(s).map_or_else(|| bad("duration"), Val::Duration),
        "date" => lib_time::parse_timestamp(&format!("{s}T00:00:00Z")).map_or_else(|| bad("date"), Val::Time),
        "date-time" => lib_time::parse_timestamp(s).map_or_else(|| bad("date-time"), Val::Time),
        _ => Val::from(s),
    }
}
