//! What a structural schema makes of a custom resource: fields it does not know go, defaults come.
//!
//! In: a decoded object and the `openAPIV3Schema` of its version. Out: the object as the server keeps it, and the paths
//! of what went.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/apiserver/schema` (`pruning`, `defaulting`, `objectmeta`).
//!
//! **Invariant:** the schema is structural (`registry::apiextensions` has checked it): every field has its own node, what
//! stands below `allOf` and its like only narrows and is not looked at here.

use serde_json::{Map, Value};

use super::{StructDef, canonicalize, table};

const KEEP: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
/// Fields of every object, which no schema has to name.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// The schema of a member: its property, else that of additional properties. `Some(None)`: allowed, and nothing is known
/// of what is below.
fn member<'s>(schema: &'s Value, name: &str) -> Option<Option<&'s Value>> {
    if let Some(property) = schema.get("properties").and_then(|p| p.get(name)) {
        return Some(Some(property));
    }
    match schema.get("additionalProperties") {
        Some(more @ Value::Object(_)) => Some(Some(more)),
        Some(Value::Bool(true)) => Some(None),
        _ => None,
    }
}

/// Drops what the schema does not know; gives back the paths of it, as `spec.ports[0].nope`.
pub fn prune(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut gone = Vec::new();
    let mut path = String::new();
    prune_node(object, Some(schema), true, false, &mut path, &mut gone);
    gone
}

/// `kept` below something whose unknown fields are preserved, until a schema takes over again.
fn prune_node(
    value: &mut Value,
    schema: Option<&Value>,
    root: bool,
    kept: bool,
    path: &mut String,
    gone: &mut Vec<String>,
) {
    let kept = kept || schema.is_some_and(|s| flag(s, KEEP));
    match value {
        Value::Object(map) => {
            let embedded = root || schema.is_some_and(|s| flag(s, EMBEDDED));
            map.retain(|name, below| {
                if embedded && META.contains(&name.as_str()) {
                    return true;
                }
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                let known = schema.and_then(|s| member(s, name));
                match known {
                    Some(next) => prune_node(below, next, false, false, path, gone),
                    None if !kept => gone.push(path.clone()),
                    None => {}
                }
                path.truncate(length);
                known.is_some() || kept
            });
        }
        Value::Array(list) => {
            let items = schema.and_then(|s| s.get("items")).filter(|i| i.is_object());
            if items.is_none() && kept {
                return;
            }
            for (i, item) in list.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{i}]"));
                prune_node(item, items, false, kept, path, gone);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// A null where the schema allows none.
fn is_foreign_null(value: &Value, schema: &Value) -> bool {
    value.is_null() && !flag(schema, "nullable")
}

fn default_of(schema: &Value) -> Option<&Value> {
    schema.get("default").filter(|d| !d.is_null())
}

/// Drops nulls of fields that may not be null and have no default: they mean that nothing was said.
pub fn prune_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => map.retain(|name, below| {
            let Some(Some(next)) = member(schema, name) else { return true };
            if is_foreign_null(below, next) && default_of(next).is_none() {
                return false;
            }
            prune_nulls(below, next);
            true
        }),
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                list.iter_mut().for_each(|item| prune_nulls(item, items));
            }
        }
        _ => {}
    }
}

/// Fills defaults where a field is absent, or null and may not be.
pub fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let Some(default) = default_of(property) else { continue };
                if map.get(name).is_none_or(|v| is_foreign_null(v, property)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, below) in map.iter_mut() {
                let Some(Some(next)) = member(schema, name) else { continue };
                if is_foreign_null(below, next)
                    && let Some(filled) = default_of(next)
                {
                    *below = filled.clone();
                }
                default(below, next);
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.get("items").filter(|i| i.is_object()) else { return };
            for item in list {
                if is_foreign_null(item, items)
                    && let Some(filled) = default_of(items)
                {
                    *item = filled.clone();
                }
                default(item, items);
            }
        }
        _ => {}
    }
}

/// What to do with metadata that does not fit its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It is an error: a client sent it.
    Refuse,
    /// It goes: it has been stored before.
    Drop,
}

fn object_meta() -> &'static StructDef {
    table().by_name("meta.v1.ObjectMeta").expect("the table has the metadata of objects")
}

/// Makes the object's metadata, and that of the resources embedded in it, canonical; gives back the paths of the fields
/// that went.
///
/// # Errors
/// What does not fit its type, unless that is to be dropped.
pub fn coerce(object: &mut Value, schema: &Value, misfit: Misfit) -> Result<Vec<String>, String> {
    let mut gone = Vec::new();
    coerce_node(object, schema, true, misfit, "", &mut gone)?;
    Ok(gone)
}

fn coerce_node(
    value: &mut Value,
    schema: &Value,
    root: bool,
    misfit: Misfit,
    path: &str,
    gone: &mut Vec<String>,
) -> Result<(), String> {
    let below_path = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => {
            if root || flag(schema, EMBEDDED) {
                coerce_meta(map, misfit, &below_path("metadata"), gone)?;
            }
            for (name, below) in map.iter_mut().filter(|(name, _)| !root || *name != "metadata") {
                if let Some(Some(next)) = member(schema, name) {
                    coerce_node(below, next, false, misfit, &below_path(name), gone)?;
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.get("items").filter(|i| i.is_object()) else { return Ok(()) };
            for (i, item) in list.iter_mut().enumerate() {
                coerce_node(item, items, false, misfit, &format!("{path}[{i}]"), gone)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_meta(map: &mut Map<String, Value>, misfit: Misfit, path: &str, gone: &mut Vec<String>) -> Result<(), String> {
    for name in ["apiVersion", "kind"] {
        if map.get(name).is_some_and(|v| !v.is_string()) {
            match misfit {
                Misfit::Drop => drop(map.shift_remove(name)),
                Misfit::Refuse => return Err(format!("{name} must be a string")),
            }
        }
    }
    let Some(metadata) = map.get_mut("metadata") else { return Ok(()) };
    match canonicalize(metadata.clone(), object_meta()) {
        Ok(made) => {
            *metadata = made.value;
            gone.extend(made.unknown.iter().map(|field| format!("{path}.{field}")));
        }
        Err(error) if misfit == Misfit::Refuse => return Err(error.to_string()),
        Err(_) => drop_misfits(metadata),
    }
    Ok(())
}

/// Keeps the members of metadata that fit, one by one.
fn drop_misfits(metadata: &mut Value) {
    let Value::Object(map) = metadata else {
        *metadata = Value::Object(Map::new());
        return;
    };
    let mut kept = Map::new();
    for (name, value) in std::mem::take(map) {
        let alone = Value::Object(Map::from_iter([(name, value)]));
        if let Ok(made) = canonicalize(alone, object_meta())
            && let Value::Object(members) = made.value
        {
            kept.extend(members);
        }
    }
    *map = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer", "default": 3},
            "s": {"type": "string"},
            "maybe": {"type": "string", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"strict": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "x": {"type": "integer", "default": 1}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "tmpl": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }}}})
    }

    #[test_case(json!({"spec": {"s": "a", "z": 1}, "other": {}}), json!({"spec": {"s": "a"}}), &["spec.z", "other"]; "unknown")]
    #[test_case(json!({"kind": "K", "metadata": {"any": 1}}), json!({"kind": "K", "metadata": {"any": 1}}), &[]; "meta")]
    #[test_case(json!({"spec": {"free": {"q": {"r": 1}}}}), json!({"spec": {"free": {"q": {"r": 1}}}}), &[]; "preserved")]
    #[test_case(json!({"spec": {"free": {"strict": {"a": "", "b": 1}}}}), json!({"spec": {"free": {"strict": {"a": ""}}}}),
        &["spec.free.strict.b"]; "a schema takes over again")]
    #[test_case(json!({"spec": {"map": {"k": {"x": 1, "y": 2}}}}), json!({"spec": {"map": {"k": {"x": 1}}}}),
        &["spec.map.k.y"]; "below a map")]
    #[test_case(json!({"spec": {"list": [{"p": "", "q": 1}]}}), json!({"spec": {"list": [{"p": ""}]}}),
        &["spec.list[0].q"]; "in a list")]
    #[test_case(json!({"spec": {"tmpl": {"kind": "X", "data": {"a": 1}}}}), json!({"spec": {"tmpl": {"kind": "X", "data": {"a": 1}}}}),
        &[]; "embedded")]
    fn prunes(mut given: Value, want: Value, gone: &[&str]) {
        assert_eq!(prune(&mut given, &schema()), gone);
        assert_eq!(given, want);
    }

    #[test_case(json!({"spec": {}}), json!({"spec": {"n": 3}}); "absent")]
    #[test_case(json!({"spec": {"n": null, "s": null, "maybe": null}}), json!({"spec": {"n": 3, "maybe": null}}); "nulls")]
    #[test_case(json!({}), json!({}); "no parent is made")]
    #[test_case(json!({"spec": {"n": 0, "map": {"k": {}}, "list": [{}, {"p": "UDP"}]}}),
        json!({"spec": {"n": 0, "map": {"k": {"x": 1}}, "list": [{"p": "TCP"}, {"p": "UDP"}]}}); "inside")]
    fn defaults(mut given: Value, want: Value) {
        prune_nulls(&mut given, &schema());
        default(&mut given, &schema());
        assert_eq!(given, want);
        default(&mut given, &schema());
        assert_eq!(given, want, "and again changes nothing");
    }

    #[test]
    fn metadata_is_made_canonical_everywhere() {
        let mut object = json!({"metadata": {"name": "a", "junk": 1},
            "spec": {"tmpl": {"kind": "X", "metadata": {"name": "b", "more": 1}}}});
        let gone = coerce(&mut object, &schema(), Misfit::Refuse).unwrap();
        assert_eq!(gone, ["metadata.junk", "spec.tmpl.metadata.more"]);
        assert_eq!(object["spec"]["tmpl"]["metadata"], json!({"name": "b"}));
        let mut wrong = json!({"metadata": {"name": true, "labels": {"a": "b"}}});
        assert!(coerce(&mut wrong.clone(), &schema(), Misfit::Refuse).is_err());
        coerce(&mut wrong, &schema(), Misfit::Drop).unwrap();
        assert_eq!(wrong, json!({"metadata": {"labels": {"a": "b"}}}));
    }
}
