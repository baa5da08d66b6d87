//! Definitions of kinds that CustomResourceDefinitions make: their schema, with what every object has.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/controller/openapi/builder` and `openapi/v2/conversion.go`.
//!
//! **Invariant:** v2 says nothing that its clients would refuse objects for: what v2 cannot express is left open.

use serde_json::{Map, Value, json};

use super::definitions::reference;
use super::paths::gvk_value;
use super::{Form, Kind};
use crate::api::meta::Gvk;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// What v2 has no word for, or its clients read otherwise.
const NOT_IN_V2: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "nullable", "default", "example", "externalDocs", "x-kubernetes-validations"];

/// `com.example.stable.v1.CronTab` of the group `stable.example.com`.
pub(super) fn name(gvk: &Gvk, kind: &str) -> String {
    let mut parts: Vec<&str> = gvk.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{kind}", parts.join("."), gvk.version)
}

/// The definitions of a kind and its list; none for a built-in one.
pub(super) fn definitions(form: Form, kind: Kind<'_>) -> Vec<(String, Value)> {
    let Some((schema, list_kind)) = kind.custom else { return Vec::new() };
    let gvk = &kind.info.gvk;
    let own = name(gvk, &gvk.kind);
    let list_gvk = Gvk { kind: list_kind.to_owned().into(), ..gvk.clone() };
    let list = json!({
        "description": format!("{list_kind} is a list of {}", gvk.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "items": {"description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", kind.info.plural),
                "type": "array", "items": reference(form, &own)},
            "kind": {"description": KIND, "type": "string"},
            "metadata": described(form, LIST_META, LIST_METADATA),
        },
        "x-kubernetes-group-version-kind": [gvk_value(&list_gvk)],
    });
    vec![(own, object(form, schema, gvk)), (name(gvk, list_kind), list)]
}

/// A reference with a description beside it.
fn described(form: Form, name: &str, description: &str) -> Value {
    let mut value = match form {
        Form::V3 => json!({"allOf": [reference(form, name)]}),
        Form::V2 => reference(form, name),
    };
    value["description"] = description.into();
    value
}

fn object(form: Form, schema: &Value, gvk: &Gvk) -> Value {
    let keeps = schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool).unwrap_or(false);
    let open = form == Form::V2 && keeps;
    let mut made = match form {
        // kubectl takes everything for unknown that stands beside named properties.
        _ if open => json!({"type": "object"}),
        Form::V3 => schema.clone(),
        Form::V2 => for_v2(schema),
    };
    if !open {
        let properties = &mut made["properties"];
        if !properties.is_object() {
            *properties = Value::Object(Map::new());
        }
        properties["apiVersion"] = json!({"description": API_VERSION, "type": "string"});
        properties["kind"] = json!({"description": KIND, "type": "string"});
        properties["metadata"] = described(form, OBJECT_META, METADATA);
    }
    made["x-kubernetes-group-version-kind"] = json!([gvk_value(gvk)]);
    made
}

fn for_v2(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
    let (keeps, nullable) = (flag("x-kubernetes-preserve-unknown-fields"), flag("nullable"));
    let either = flag("x-kubernetes-int-or-string");
    let mut out = Map::new();
    for (key, value) in map.iter().filter(|(key, _)| !NOT_IN_V2.contains(&key.as_str())) {
        match key.as_str() {
            "items" | "properties" if keeps || nullable => {}
            "additionalProperties" if nullable => {}
            "type" if nullable || either => {}
            "items" | "additionalProperties" => drop(out.insert(key.clone(), for_v2(value))),
            "properties" => {
                let all = value.as_object().into_iter().flatten();
                out.insert(key.clone(), all.map(|(name, below)| (name.clone(), for_v2(below))).collect());
            }
            _ => drop(out.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(out)
}
