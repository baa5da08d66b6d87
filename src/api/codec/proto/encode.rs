//! JSON to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::Writer;
use crate::api::codec::json;
use crate::api::schema::{FieldDef, SchemaOr, StructDef, Type, table, time};

/// Writes the fields of a struct. What has another JSON type than the table says counts as absent.
pub(super) fn message(w: &mut Writer, value: &Value, def: &StructDef) {
    static NONE: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    let members = value.as_object().unwrap_or_else(|| NONE.get_or_init(Map::new));
    fields(w, members, def, def.protobuf_order(), 0);
}

/// Writes fields that lie in the same embedded message, `depth` levels down. `order` is sorted by their numbers.
fn fields(w: &mut Writer, members: &Map<String, Value>, def: &StructDef, order: &[usize], depth: usize) {
    let mut rest = order;
    while let Some(first) = rest.first() {
        let field = &def.fields()[*first];
        match field.via.get(depth) {
            None => {
                one(w, field, members.get(field.json).filter(|v| !v.is_null()));
                rest = &rest[1..];
            }
            Some(number) => {
                let same = |i: &&usize| def.fields()[**i].via.get(depth) == Some(number);
                let (inner, after) = rest.split_at(rest.iter().take_while(same).count());
                w.message(*number, |w| fields(w, members, def, inner, depth + 1));
                rest = after;
            }
        }
    }
}

fn one(w: &mut Writer, field: &FieldDef, value: Option<&Value>) {
    if value.is_some() || !(field.pointer || is_nil_when_absent(&field.ty)) {
        typed(w, field.pb, value.unwrap_or(&Value::Null), &field.ty);
    }
}

/// Lists, maps and bytes; all else is written even when nothing was set.
fn is_nil_when_absent(ty: &Type) -> bool {
    matches!(ty, Type::List(_) | Type::Map(_) | Type::Bytes)
}

fn typed(w: &mut Writer, number: u32, value: &Value, ty: &Type) {
    let text = || value.as_str().unwrap_or_default();
    match ty {
        Type::String => w.text(number, text()),
        Type::Bool => w.varint(number, u64::from(value.as_bool().unwrap_or(false))),
        Type::Int32 | Type::Int64 => w.varint(number, value.as_i64().unwrap_or(0) as u64),
        Type::Float => w.double(number, value.as_f64().unwrap_or(0.0)),
        Type::Bytes => w.bytes(number, &STANDARD.decode(text()).unwrap_or_default()),
        Type::Quantity => w.message(number, |w| w.text(1, if value.is_null() { "0" } else { text() })),
        Type::IntOrString => w.message(number, |w| {
            w.varint(1, u64::from(value.is_string()));
            w.varint(2, value.as_i64().unwrap_or(0) as u64);
            w.text(3, text());
        }),
        Type::Time | Type::MicroTime => w.message(number, |w| {
            let Some(t) = time::parse_rfc3339(text(), None) else { return };
            let micros = i64::from(t.subsec_nanosecond()) / 1000;
            w.varint(1, t.as_second() as u64);
            w.varint(2, if matches!(ty, Type::MicroTime) { micros as u64 * 1000 } else { 0 });
        }),
        Type::Duration => w.message(number, |w| w.varint(1, time::parse_duration(text()).unwrap_or(0) as u64)),
        Type::FieldsV1 | Type::RawExtension | Type::Json => w.message(number, |w| {
            if !value.is_null() {
                w.bytes(1, &json::to_vec(value));
            }
        }),
        Type::Items => w.message(number, |w| {
            value.as_array().into_iter().flatten().for_each(|item| typed(w, 1, item, &Type::String));
        }),
        Type::Schema(or) => w.message(number, |w| schema(w, value, *or)),
        Type::Struct(def) => w.message(number, |w| message(w, value, def)),
        Type::List(element) => {
            value.as_array().into_iter().flatten().for_each(|item| typed(w, number, item, element));
        }
        Type::Map(element) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                w.message(number, |w| {
                    w.text(1, key);
                    typed(w, 2, item, element);
                });
            }
        }
    }
}

fn schema(w: &mut Writer, value: &Value, or: SchemaOr) {
    let def = table().by_name("apiextensions.v1.JSONSchemaProps").expect("the table has JSON schemas");
    let number = if or == SchemaOr::Bool { 2 } else { 1 };
    if or == SchemaOr::Bool {
        // A schema allows, as upstream's decoder has it.
        w.varint(1, u64::from(value.as_bool().unwrap_or(value.is_object())));
    }
    match value {
        Value::Object(_) => w.message(number, |w| message(w, value, def)),
        Value::Array(items) => {
            let ty = if or == SchemaOr::Strings { Type::String } else { Type::Struct(def) };
            items.iter().for_each(|item| typed(w, 2, item, &ty));
        }
        _ => {}
    }
}
