//! Protobuf to JSON. Unknown numbers are skipped, as upstream skips them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{Field, Reader};
use super::{MAGIC, ProtoError, object, open};
use crate::api::codec::{MAX_DEPTH, json};
use crate::api::schema::{FieldDef, SchemaOr, StructDef, Type, table, time};

type Result<T> = std::result::Result<T, ProtoError>;

/// Reads a struct.
pub(super) fn message(bytes: &[u8], def: &'static StructDef, depth: usize) -> Result<Value> {
    let mut members = object();
    into(&mut members, bytes, def, &mut Vec::new(), depth)?;
    Ok(Value::Object(members))
}

/// Reads a message into the members of its struct; `via` are the embedded messages that it lies in.
fn into(
    members: &mut Map<String, Value>,
    bytes: &[u8],
    def: &'static StructDef,
    via: &mut Vec<u32>,
    depth: usize,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::Depth);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, content)) = reader.next()? {
        let here = |f: &&FieldDef| f.pb == number && f.via == &via[..];
        if let Some(field) = def.fields().iter().find(here) {
            member(members, field, content, depth + 1)?;
            continue;
        }
        let inside = |f: &FieldDef| f.via.len() > via.len() && f.via.starts_with(via) && f.via[via.len()] == number;
        if def.fields().iter().any(inside) {
            via.push(number);
            into(members, content.bytes()?, def, via, depth + 1)?;
            via.pop();
        }
    }
    Ok(())
}

fn member(members: &mut Map<String, Value>, field: &'static FieldDef, content: Field<'_>, depth: usize) -> Result<()> {
    match &field.ty {
        Type::List(element) => {
            let list = members.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (element, content) {
                // Packed numbers, which a reader of proto2 takes too.
                (Type::Int32 | Type::Int64 | Type::Bool, Field::Bytes(packed)) => {
                    let mut packed = Reader::new(packed);
                    while !packed.is_empty() {
                        items.push(typed(Field::Varint(packed.varint()?), element, depth)?);
                    }
                }
                _ => items.push(typed(content, element, depth)?),
            }
        }
        Type::Map(element) => {
            let map = members.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = map else { return Ok(()) };
            let (mut key, mut value) = ("", None);
            let mut entry = Reader::new(content.bytes()?);
            while let Some((number, content)) = entry.next()? {
                match number {
                    1 => key = content.text()?,
                    2 => value = Some(typed(content, element, depth)?),
                    _ => {}
                }
            }
            // Null is the zero value of what a map holds.
            entries.insert(key.to_owned(), value.unwrap_or(Value::Null));
        }
        ty => {
            members.insert(field.json.to_owned(), typed(content, ty, depth)?);
        }
    }
    Ok(())
}

fn typed(content: Field<'_>, ty: &'static Type, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::String => content.text()?.into(),
        Type::Bool => (content.varint()? != 0).into(),
        Type::Int32 => (content.varint()? as i32).into(),
        Type::Int64 => (content.varint()? as i64).into(),
        Type::Float => Number::from_f64(content.double()?).map_or(Value::Null, Value::Number),
        Type::Bytes => STANDARD.encode(content.bytes()?).into(),
        Type::Quantity => inner(content, 1)?.map_or(Ok("0".into()), |f| f.text().map(Value::from))?,
        Type::IntOrString => int_or_string(content)?,
        Type::Time | Type::MicroTime => moment(content, ty)?,
        Type::Duration => {
            let nanos = inner(content, 1)?.map_or(Ok(0), Field::varint)?;
            time::format_duration(nanos as i64).into()
        }
        Type::FieldsV1 | Type::RawExtension | Type::Json => match inner(content, 1)? {
            None => Value::Null,
            Some(raw) => raw_value(raw.bytes()?, depth)?,
        },
        Type::Items => {
            let mut items = Vec::new();
            let mut reader = Reader::new(content.bytes()?);
            while let Some((number, item)) = reader.next()? {
                if number == 1 {
                    items.push(item.text()?.into());
                }
            }
            Value::Array(items)
        }
        Type::Schema(or) => schema(content, *or, depth)?,
        Type::Struct(def) => message(content.bytes()?, def, depth)?,
        // No list of lists and no map of maps is in the API.
        Type::List(_) | Type::Map(_) => return Err(ProtoError::WireType),
    })
}

/// The last field with this number of a small message.
fn inner(content: Field<'_>, wanted: u32) -> Result<Option<Field<'_>>> {
    let (mut reader, mut found) = (Reader::new(content.bytes()?), None);
    while let Some((number, field)) = reader.next()? {
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

fn int_or_string(content: Field<'_>) -> Result<Value> {
    let number = |n: u32| inner(content, n).and_then(|f| f.map_or(Ok(0), Field::varint));
    match number(1)? {
        0 => Ok((number(2)? as i32).into()),
        _ => inner(content, 3)?.map_or(Ok("".into()), |f| f.text().map(Value::from)),
    }
}

fn moment(content: Field<'_>, ty: &Type) -> Result<Value> {
    let Some(seconds) = inner(content, 1)? else { return Ok(Value::Null) };
    let nanos = inner(content, 2)?.map_or(Ok(0), Field::varint)? as i32;
    let Ok(t) = Timestamp::new(seconds.varint()? as i64, nanos) else { return Ok(Value::Null) };
    Ok(if matches!(ty, Type::MicroTime) { time::format_micros(t) } else { time::format_seconds(t) }.into())
}

/// Raw content is JSON, or a whole protobuf body: `depth` goes on in it, else bodies within bodies would have no end.
fn raw_value(raw: &[u8], depth: usize) -> Result<Value> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if !raw.starts_with(&MAGIC) {
        return Ok(json::parse_at(raw, depth).map_err(|_| ProtoError::Json)?.value);
    }
    let envelope = open(raw)?;
    let (group, version) = crate::api::meta::gvk::split(envelope.api_version);
    let def = table().kind(group, version, envelope.kind).ok_or(ProtoError::Content("kind"))?;
    super::decode_at(&envelope, def, depth + 1)
}

fn schema(content: Field<'_>, or: SchemaOr, depth: usize) -> Result<Value> {
    let def = table().by_name("apiextensions.v1.JSONSchemaProps").expect("the table has JSON schemas");
    let schema_number = if or == SchemaOr::Bool { 2 } else { 1 };
    let (mut allows, mut items) = (false, Vec::new());
    let mut reader = Reader::new(content.bytes()?);
    while let Some((number, field)) = reader.next()? {
        match (or, number) {
            (_, n) if n == schema_number => return message(field.bytes()?, def, depth + 1),
            (SchemaOr::Bool, 1) => allows = field.varint()? != 0,
            (SchemaOr::Strings, 2) => items.push(field.text()?.into()),
            (SchemaOr::Array, 2) => items.push(message(field.bytes()?, def, depth + 1)?),
            _ => {}
        }
    }
    Ok(if or == SchemaOr::Bool { allows.into() } else { Value::Array(items) })
}
