//! Definitions: a schema per struct of the wire table, and of the scalars that have names.

use serde_json::{Map, Value, json};

use super::words::{self, Words};
use super::{Form, published_name};
use crate::api::schema::{FieldDef, ListType, Omit, SchemaOr, StructDef, Type};

/// A named definition that is no struct of the table.
pub(super) struct Scalar {
    /// Published name.
    pub(super) name: &'static str,
    /// JSON type; empty for any.
    kind: &'static str,
    format: &'static str,
    /// The types that v3 names instead of one.
    one_of: &'static [&'static str],
}

const fn scalar(
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    one_of: &'static [&'static str],
) -> Scalar {
    Scalar { name, kind, format, one_of }
}

pub(super) static QUANTITY: Scalar =
    scalar("io.k8s.apimachinery.pkg.api.resource.Quantity", "string", "", &["string", "number"]);
pub(super) static PATCH: Scalar = scalar("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "object", "", &[]);
static INT_OR_STRING: Scalar =
    scalar("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "string", "int-or-string", &["integer", "string"]);
static TIME: Scalar = scalar("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "string", "date-time", &[]);
static MICRO_TIME: Scalar = scalar("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "string", "date-time", &[]);
static FIELDS_V1: Scalar = scalar("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object", "", &[]);
static RAW: Scalar = scalar("io.k8s.apimachinery.pkg.runtime.RawExtension", "object", "", &[]);
static ANY: Scalar = scalar("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "", "", &[]);
static OR_ARRAY: Scalar =
    scalar("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "", "", &[]);
static OR_BOOL: Scalar =
    scalar("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "", "", &[]);
static OR_STRINGS: Scalar =
    scalar("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "", "", &[]);

/// The named scalar that a type is published as.
pub(super) fn scalar_of(ty: &Type) -> Option<&'static Scalar> {
    Some(match ty {
        Type::Quantity => &QUANTITY,
        Type::IntOrString => &INT_OR_STRING,
        Type::Time => &TIME,
        Type::MicroTime => &MICRO_TIME,
        Type::FieldsV1 => &FIELDS_V1,
        Type::RawExtension => &RAW,
        Type::Json => &ANY,
        Type::Schema(SchemaOr::Array) => &OR_ARRAY,
        Type::Schema(SchemaOr::Bool) => &OR_BOOL,
        Type::Schema(SchemaOr::Strings) => &OR_STRINGS,
        _ => return None,
    })
}

/// A reference to a definition.
pub(super) fn reference(form: Form, name: &str) -> Value {
    let place = if form == Form::V3 { "#/components/schemas/" } else { "#/definitions/" };
    json!({ "$ref": format!("{place}{name}") })
}

/// The schema of a named scalar.
pub(super) fn of_scalar(form: Form, words: &Words<'_>, scalar: &Scalar) -> Value {
    let mut schema = Map::new();
    if let Some(text) = words.of_struct(scalar.name) {
        schema.insert("description".into(), text.into());
    }
    if !scalar.format.is_empty() {
        schema.insert("format".into(), scalar.format.into());
    }
    if form == Form::V3 && !scalar.one_of.is_empty() {
        schema.insert("oneOf".into(), scalar.one_of.iter().map(|kind| json!({ "type": kind })).collect());
    } else if !scalar.kind.is_empty() {
        schema.insert("type".into(), scalar.kind.into());
    }
    Value::Object(schema)
}

/// The schema of a struct, without its group-version-kinds.
pub(super) fn of_struct(form: Form, words: &Words<'_>, def: &StructDef) -> Map<String, Value> {
    let name = published_name(def);
    let mut properties = Map::new();
    for field in def.fields() {
        let text = words.of_field(&name, field.json).or_else(|| of_list(words, def, field.json));
        properties.insert(field.json.into(), of_field(form, def, field, text.map(Into::into)));
    }
    let mut schema = Map::new();
    let own = words.of_struct(&name).map(String::from);
    if let Some(text) = own.or_else(|| is_list(def).map(|kind| format!("{kind}List is a list of {kind} objects."))) {
        schema.insert("description".into(), text.into());
    }
    schema.insert("type".into(), "object".into());
    let required: Vec<Value> = def.fields().iter().filter(|f| f.required).map(|f| f.json.into()).collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if !properties.is_empty() {
        schema.insert("properties".into(), Value::Object(properties));
    }
    if def.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    schema
}

/// The kind that a list holds.
fn is_list(def: &StructDef) -> Option<&'static str> {
    def.short_name().strip_suffix("List").filter(|_| def.kind && def.field("items").is_some())
}

/// Lists are generic where the descriptions come from: they say of their fields what all lists say.
fn of_list<'a>(words: &Words<'a>, def: &StructDef, field: &str) -> Option<std::borrow::Cow<'a, str>> {
    let kind = is_list(def)?;
    match field {
        "items" => Some(format!("The {kind} objects.").into()),
        "metadata" => words.of_struct("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
        // These two are described alike on every kind.
        _ => words.of_field("io.k8s.api.core.v1.Pod", field),
    }
}

fn of_field(form: Form, def: &StructDef, field: &FieldDef, description: Option<String>) -> Value {
    let values = words::values(def.name, field.json);
    let mut schema = match of_type(form, &field.ty, &values) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    if let Some(mut text) = description {
        if !values.is_empty() {
            text.push_str("\n\nPossible enum values:");
            values.iter().for_each(|v| text.push_str(&format!("\n - `{v:?}`")));
        }
        schema.insert("description".into(), text.into());
    }
    if let Some(default) = field.schema_default() {
        schema.insert("default".into(), default);
    } else if form == Form::V3 && !field.pointer && field.omit != Omit::Zero && matches!(field.ty, Type::Struct(_)) {
        schema.insert("default".into(), json!({}));
    }
    add_merging(&mut schema, field);
    Value::Object(beside_reference(form, schema))
}

fn add_merging(schema: &mut Map<String, Value>, field: &FieldDef) {
    match field.list {
        None => {}
        Some(ListType::Atomic) => drop(schema.insert("x-kubernetes-list-type".into(), "atomic".into())),
        Some(ListType::Set) => drop(schema.insert("x-kubernetes-list-type".into(), "set".into())),
        Some(ListType::Map(keys)) => {
            let keys: Vec<Value> = keys.iter().map(Value::from).collect();
            schema.insert("x-kubernetes-list-map-keys".into(), keys.into());
            schema.insert("x-kubernetes-list-type".into(), "map".into());
        }
    }
    if let Some(atomic) = field.atomic {
        schema.insert("x-kubernetes-map-type".into(), if atomic { "atomic" } else { "granular" }.into());
    }
    if let Some(key) = field.merge.key {
        schema.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    let flags =
        [(field.merge.merge, "merge"), (field.merge.retain_keys, "retainKeys"), (field.merge.replace, "replace")];
    let strategies: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    if !strategies.is_empty() {
        schema.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
}

/// Beside a `$ref` nothing counts in OpenAPI 3.0: it goes into an `allOf`.
fn beside_reference(form: Form, mut schema: Map<String, Value>) -> Map<String, Value> {
    if form == Form::V3
        && schema.len() > 1
        && let Some(reference) = schema.shift_remove("$ref")
    {
        schema.insert("allOf".into(), json!([{ "$ref": reference }]));
    }
    schema
}

fn of_type(form: Form, ty: &Type, values: &[&str]) -> Value {
    if let Some(scalar) = scalar_of(ty) {
        return reference(form, scalar.name);
    }
    match ty {
        Type::String if !values.is_empty() => json!({"type": "string", "enum": values}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Float => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Struct(def) => reference(form, &published_name(def)),
        Type::Items => json!({"type": "array", "items": of_element(form, &Type::String, values)}),
        Type::List(element) => json!({"type": "array", "items": of_element(form, element, values)}),
        Type::Map(value) => json!({"type": "object", "additionalProperties": of_element(form, value, values)}),
        _ => json!({"type": "string"}),
    }
}

/// What a list or map holds: in v3 with the zero value that Go gives to an element that is null.
fn of_element(form: Form, ty: &Type, values: &[&str]) -> Value {
    let zero = match ty {
        _ if form == Form::V2 => None,
        Type::String => Some(json!("")),
        Type::Bool => Some(json!(false)),
        Type::Int32 | Type::Int64 => Some(json!(0)),
        Type::Struct(_) => Some(json!({})),
        _ => None,
    };
    let Value::Object(mut schema) = of_type(form, ty, values) else { return Value::Null };
    if let Some(zero) = zero {
        schema.insert("default".into(), zero);
    }
    Value::Object(beside_reference(form, schema))
}
