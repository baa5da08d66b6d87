//! Server-side tables: a kind's columns over its objects, as `meta.k8s.io` Table.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::{self, JsonPath};
use super::scheme::{Cell, Column, KindInfo, age, object_age};
use super::value::ValueExt;

/// What of the object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// From the query parameter `includeObject`; empty means metadata.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or_default() {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

static PLAIN: [Column; 2] = [Column::NAME, Column::created_at()];

fn columns(info: &KindInfo) -> &[Column] {
    if info.columns.is_empty() { &PLAIN } else { &info.columns }
}

/// `columnDefinitions`.
pub fn definitions(info: &KindInfo) -> Value {
    let one = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    columns(info).iter().filter(|c| c.listed).map(one).collect()
}

/// One row. `api_version` is that of the Table, for partial metadata.
pub fn row(info: &KindInfo, object: &Value, include: Include, api_version: &str, now: Timestamp) -> Value {
    let cells: Value = columns(info).iter().map(|c| cell(c, object, now)).collect();
    let mut row = json!({"cells": cells});
    if let Some(conditions) = info.row_conditions {
        let conditions = conditions(object);
        if !conditions.is_null() {
            row["conditions"] = conditions;
        }
    }
    row["object"] = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(info, object, api_version),
        Include::Object => object.clone(),
    };
    row
}

/// `PartialObjectMetadata` of an object.
pub fn partial(info: &KindInfo, object: &Value, api_version: &str) -> Value {
    let mut metadata = object["metadata"].clone();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
        && let Some(name) = info.derived_annotation
    {
        annotations.shift_remove(name);
        if annotations.is_empty() {
            metadata.remove_at("/annotations");
        }
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata})
}

/// A whole Table. `metadata` is that of the list.
pub fn table(info: &KindInfo, metadata: Value, rows: Vec<Value>, api_version: &str, with_columns: bool) -> Value {
    let columns = if with_columns { definitions(info) } else { json!([]) };
    json!({"kind": "Table", "apiVersion": api_version, "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Fn(f) => f(object, now),
        Cell::Age => object_age(object, now).into(),
        Cell::At(pointer) => match object.get_at(pointer) {
            Some(Value::Null) | None => match &*column.kind {
                "integer" | "number" => 0.into(),
                "boolean" => false.into(),
                _ => "".into(),
            },
            Some(v @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => match (&*column.kind, v) {
                ("string", Value::Number(n)) => n.to_string().into(),
                ("string", Value::Bool(b)) => b.to_string().into(),
                _ => v.clone(),
            },
            Some(other) => other.to_string().into(),
        },
        Cell::JsonPath(path) => json_path_cell(path, &column.kind, object, now),
    }
}

/// A custom resource's cell: a text of all that the path finds, else the first value where it is of the column's type.
/// Upstream: `tableconvertor.ConvertToTable` and `cellForJSONValue`.
fn json_path_cell(path: &JsonPath, kind: &str, object: &Value, now: Timestamp) -> Value {
    let found = path.find(object).unwrap_or_default();
    let Some(first) = found.first() else { return Value::Null };
    match (kind, first) {
        ("string", _) => found.iter().map(|v| jsonpath::show(v)).collect::<Vec<_>>().join(" ").into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(_) => age(Some(text), now).into(),
            Err(_) => "<invalid>".into(),
        },
        ("integer", Value::Number(n)) => match n.as_f64() {
            Some(float) if n.is_f64() => json!(float as i64),
            _ => json!(n),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        _ => Value::Null,
    }
}

/// The text at a pointer, for cells; `absent` where there is none.
pub fn text_or(object: &Value, pointer: &str, absent: &str) -> Value {
    object.str_at(pointer).filter(|t| !t.is_empty()).unwrap_or(absent).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_cells_and_metadata() {
        let info = KindInfo::namespaced("", "v1", "X", "xs", "x");
        let object = json!({"metadata": {"name": "a"}, "spec": {}});
        let row = row(&info, &object, Include::Metadata, "meta.k8s.io/v1", Timestamp::UNIX_EPOCH);
        assert_eq!(row["cells"], json!(["a", ""]));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(Include::parse(Some("Nope")), None);
        let derived = info.derived_annotation("d");
        let annotated = json!({"metadata": {"annotations": {"d": "1"}}});
        assert_eq!(partial(&derived, &annotated, "v1")["metadata"], json!({}));
    }
}
