//! Resources inside of resources: they have a type and valid metadata.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/apiserver/schema/objectmeta/validation.go`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::meta;
use crate::registry::validate::Field;

/// Checks all resources embedded below an object, which is none itself.
pub(super) fn check(field: &Field<'_>, schema: &Value) {
    match field.value {
        Value::Object(map) => {
            if schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool) == Some(true) {
                resource(field);
            }
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
            let Some(items) = schema.get("items").filter(|i| i.is_object()) else { return };
            for (i, value) in list.iter().enumerate() {
                check(&Field { value, errs: field.errs.index(i) }, items);
            }
        }
        _ => {}
    }
}

fn resource(o: &Field<'_>) {
    if o.needs("apiVersion") && o.text("apiVersion").matches('/').count() > 1 {
        o.at("apiVersion").invalid("must be a group and a version, or a version");
    }
    if o.needs("kind") {
        o.at("kind").reasons(names::dns1035_label(&o.text("kind").to_lowercase()));
    }
    let metadata = o.at("metadata");
    for name in ["name", "generateName"] {
        if !metadata.text(name).is_empty() {
            metadata.at(name).reasons(names::path_segment(metadata.text(name)));
        }
    }
    if !metadata.text("namespace").is_empty() {
        metadata.at("namespace").reasons(names::dns1123_label(metadata.text("namespace")));
    }
    meta::validate_labels(metadata.at("labels").value, &metadata.errs.at("labels"));
}
