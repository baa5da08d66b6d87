//! Canonical JSON of a typed value: what upstream gets by decoding into its Go types and encoding again.
//!
//! In: a parsed body and its struct. Out: fields in upstream's order, map keys sorted, nulls and empty optionals gone,
//! always-written fields there, quantities, times and durations in canonical form, and the paths of unknown fields.
//! Nothing is copied: subtrees move.
//!
//! Upstream: `sigs.k8s.io/json` (case-sensitive, strict errors collected), Go's `encoding/json` presence rules, and the
//! way through protobuf storage, on which an empty list becomes a nil one.
//!
//! **Invariant:** canonicalizing what is canonical changes nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{FieldDef, Omit, SchemaOr, StructDef, Type, table, time};
use crate::api::codec::MAX_STRICT_ERRORS;
use crate::api::meta::quantity::{Quantity, QuantityError};

/// A canonical value and what was left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Canonical {
    /// The value.
    pub value: Value,
    /// Paths of fields that the struct does not have, as `spec.containers[0].foo`, in document order.
    pub unknown: Vec<String>,
}

/// Why a value does not fit its type. Messages are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another JSON type than the field's. `field` is the innermost struct and the path without indexes.
    #[error("json: cannot unmarshal {got} into Go {}{field} of type {want}", if field.is_empty() { "value" } else { "struct field " })]
    Type {
        /// `string`, `number 1.5`, `object` …
        got: String,
        /// `Container.spec.containers.name`.
        field: String,
        /// The Go type.
        want: String,
    },
    /// A quantity that is none.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A time that is none.
    #[error("parsing time {0:?} as {1:?}: cannot parse {0:?} as \"2006\"")]
    Time(String, &'static str),
    /// A duration that is none.
    #[error("time: invalid duration {0:?}")]
    Duration(String),
    /// Bytes that are no base64.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    /// What is neither a schema nor its alternative.
    #[error("{0}")]
    Schema(&'static str),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Canonicalizes an object or any other struct. The first error in document order wins.
pub fn canonicalize(value: Value, def: &'static StructDef) -> Result<Canonical> {
    let mut walk = Walk { unknown: Vec::new(), path: Vec::new(), owner: def };
    let value = walk.of_struct(value, def)?;
    Ok(Canonical { value, unknown: walk.unknown })
}

/// What is left to do with the members of a struct.
enum Order {
    /// Nothing: they are as upstream writes them.
    Canonical,
    /// Putting them in order: where each belongs, none for those that are left out.
    Other(Vec<Option<usize>>),
}

struct Walk {
    unknown: Vec<String>,
    /// Field names on the way, for messages.
    path: Vec<&'static str>,
    /// The innermost struct, for messages.
    owner: &'static StructDef,
}

impl Walk {
    fn of_struct(&mut self, value: Value, def: &'static StructDef) -> Result<Value> {
        let mut members = match value {
            Value::Object(members) => members,
            Value::Null => return Ok(zero_struct(def)),
            other => return Err(self.mismatch(&other, &Type::Struct(def))),
        };
        let owner = std::mem::replace(&mut self.owner, def);
        let order = self.members(&mut members, def)?;
        self.owner = owner;
        Ok(Value::Object(match order {
            Order::Canonical => members,
            Order::Other(places) => rebuilt(members, &places, def),
        }))
    }

    /// Canonicalizes the members of a struct where they stand; tells what else there is to do.
    fn members(&mut self, members: &mut Map<String, Value>, def: &'static StructDef) -> Result<Order> {
        let (fields, always) = (def.fields(), def.always_written());
        let mut places: Vec<Option<usize>> = Vec::with_capacity(members.len());
        // Always-written fields that were seen, and the place behind the last one: a canonical struct ascends.
        let (mut written, mut next, mut canonical) = (0, 0, true);
        for (key, value) in members.iter_mut() {
            let Some(index) = find_field(fields, key, next) else {
                if self.unknown.len() < MAX_STRICT_ERRORS {
                    self.unknown.push(key.clone());
                }
                canonical = false;
                places.push(None);
                continue;
            };
            let field = &fields[index];
            if !value.is_null() {
                self.member(field, value)?;
            }
            let kept = match value {
                Value::Null => field.is_always_written() && absent(field).is_null(),
                _ => !is_left_out(field, value),
            };
            written += usize::from(kept && field.is_always_written());
            canonical &= kept && index >= next;
            next = index + 1;
            places.push(kept.then_some(index));
        }
        Ok(if canonical && written == always.len() { Order::Canonical } else { Order::Other(places) })
    }

    fn member(&mut self, field: &'static FieldDef, value: &mut Value) -> Result<()> {
        if is_plain(&field.ty, value) {
            return Ok(());
        }
        let unknown_before = self.unknown.len();
        self.path.push(field.go_path);
        *value = self.of_type(value.take(), &field.ty)?;
        self.path.pop();
        for path in &mut self.unknown[unknown_before..] {
            let dot = if path.starts_with('[') { "" } else { "." };
            path.insert_str(0, dot);
            path.insert_str(0, field.json);
        }
        Ok(())
    }

    /// Canonicalizes what is not null.
    fn of_type(&mut self, value: Value, ty: &'static Type) -> Result<Value> {
        match (ty, value) {
            (Type::String, v @ Value::String(_)) | (Type::Bool, v @ Value::Bool(_)) => Ok(v),
            (Type::Int32, Value::Number(n)) => match n.as_i64() {
                Some(i) if i32::try_from(i).is_ok() => Ok(Value::Number(n)),
                _ => Err(self.mismatch(&Value::Number(n), ty)),
            },
            (Type::Int64, Value::Number(n)) if n.is_i64() => Ok(Value::Number(n)),
            (Type::Float, Value::Number(n)) => Ok(float(&n)),
            (Type::Bytes, Value::String(text)) => bytes(text),
            (Type::Quantity, value) => quantity(&value),
            (Type::IntOrString, v @ Value::String(_)) => Ok(v),
            (Type::IntOrString, value) => self.of_type(value, &Type::Int32),
            (Type::Time, Value::String(text)) => moment(text, "2006-01-02T15:04:05Z07:00", None, time::format_seconds),
            (Type::MicroTime, Value::String(text)) => {
                moment(text, "2006-01-02T15:04:05.000000Z07:00", Some(6), time::format_micros)
            }
            (Type::Duration, Value::String(text)) => match time::parse_duration(&text) {
                Some(nanos) => Ok(time::format_duration(nanos).into()),
                None => Err(DecodeError::Duration(text)),
            },
            (Type::FieldsV1 | Type::RawExtension | Type::Json, value) => Ok(value),
            (Type::Items, value @ Value::Array(_)) => self.of_type(value, &Type::List(&Type::String)),
            (Type::Schema(or), value) => {
                // Upstream reads these types by functions of their own, which do not tell of unknown fields.
                let told = self.unknown.len();
                let out = self.of_schema(value, *or);
                self.unknown.truncate(told);
                out
            }
            (Type::Struct(def), value) => self.of_struct(value, def),
            (Type::List(element), Value::Array(items)) => self.of_list(items, element),
            (Type::Map(element), Value::Object(members)) => self.of_map(members, element),
            (ty, value) => Err(self.mismatch(&value, ty)),
        }
    }

    fn of_list(&mut self, mut items: Vec<Value>, element: &'static Type) -> Result<Value> {
        for (index, item) in items.iter_mut().enumerate() {
            let unknown_before = self.unknown.len();
            let value = item.take();
            *item = if value.is_null() { zero(element) } else { self.of_type(value, element)? };
            self.prefix(unknown_before, || format!("[{index}]"));
        }
        Ok(Value::Array(items))
    }

    fn of_map(&mut self, mut members: Map<String, Value>, element: &'static Type) -> Result<Value> {
        for (key, item) in &mut members {
            if matches!((element, &*item), (Type::String, Value::String(_))) {
                continue;
            }
            let unknown_before = self.unknown.len();
            let value = item.take();
            *item = if value.is_null() { zero(element) } else { self.of_type(value, element)? };
            self.prefix(unknown_before, || key.clone());
        }
        if !members.keys().is_sorted() {
            members.sort_keys();
        }
        Ok(Value::Object(members))
    }

    fn of_schema(&mut self, value: Value, or: SchemaOr) -> Result<Value> {
        let schema = Type::Struct(schema_def());
        match (or, value) {
            (_, value @ Value::Object(_)) => self.of_struct(value, schema_def()),
            (SchemaOr::Bool, value @ Value::Bool(_)) => Ok(value),
            (SchemaOr::Strings, Value::Array(items)) => self.of_list(items, &Type::String),
            (SchemaOr::Array, Value::Array(items)) => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    match item {
                        item @ Value::Object(_) => out.push(self.of_struct(item, schema_def())?),
                        other => return Err(self.mismatch(&other, &schema)),
                    }
                }
                Ok(Value::Array(out))
            }
            (SchemaOr::Bool, _) => Err(DecodeError::Schema("boolean or JSON schema expected")),
            (SchemaOr::Strings, _) => Err(DecodeError::Schema("list of strings or JSON schema expected")),
            (SchemaOr::Array, _) => Err(DecodeError::Schema("list of JSON schemas or JSON schema expected")),
        }
    }

    /// Puts a path part before the unknown fields that were found below it.
    fn prefix(&mut self, since: usize, part: impl Fn() -> String) {
        for path in &mut self.unknown[since..] {
            let dot = if path.starts_with('[') { "" } else { "." };
            *path = format!("{}{dot}{path}", part());
        }
    }

    fn mismatch(&self, value: &Value, want: &Type) -> DecodeError {
        let integer = matches!(want, Type::Int32 | Type::Int64);
        let got = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if integer => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let field = match self.path.is_empty() {
            true => String::new(),
            false => format!("{}.{}", self.owner.short_name(), self.path.join(".")),
        };
        DecodeError::Type { got, field, want: go_type(want) }
    }
}

/// The field of a member; mostly it is at `next` or a little behind.
fn find_field(fields: &[FieldDef], name: &str, next: usize) -> Option<usize> {
    let (before, behind) = fields.split_at(next);
    let behind = behind.iter().position(|f| f.json == name).map(|i| i + next);
    behind.or_else(|| before.iter().position(|f| f.json == name))
}

/// True for a value that canonicalization leaves as it is.
fn is_plain(ty: &Type, value: &Value) -> bool {
    matches!((ty, value), (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)))
}

/// The members in the order of the fields, with what is always written.
fn rebuilt(members: Map<String, Value>, places: &[Option<usize>], def: &'static StructDef) -> Map<String, Value> {
    let (fields, always) = (def.fields(), def.always_written());
    let mut found: Vec<(usize, String, Value)> = Vec::with_capacity(members.len() + always.len());
    let kept = members.into_iter().zip(places).filter_map(|((key, value), place)| Some(((*place)?, key, value)));
    found.extend(kept);
    let written = found.len();
    for &index in always {
        if !found[..written].iter().any(|(i, ..)| *i == index) {
            found.push((index, fields[index].json.to_owned(), absent(&fields[index])));
        }
    }
    found.sort_unstable_by_key(|(index, ..)| *index);
    found.into_iter().map(|(_, key, value)| (key, value)).collect()
}

fn schema_def() -> &'static StructDef {
    table().by_name("apiextensions.v1.JSONSchemaProps").expect("the table has JSON schemas")
}

/// What upstream writes for a field that nothing set but that is always written.
fn absent(field: &FieldDef) -> Value {
    if field.pointer { Value::Null } else { zero(&field.ty) }
}

/// The JSON of a type's zero value.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::Duration => "0s".into(),
        Type::Struct(def) => zero_struct(def),
        Type::Schema(SchemaOr::Bool) => false.into(),
        Type::Bytes | Type::Time | Type::MicroTime | Type::FieldsV1 | Type::RawExtension | Type::Json => Value::Null,
        Type::Schema(_) | Type::Items | Type::List(_) | Type::Map(_) => Value::Null,
    }
}

fn zero_struct(def: &StructDef) -> Value {
    let member = |i: &usize| (def.fields()[*i].json.to_owned(), absent(&def.fields()[*i]));
    Value::Object(def.always_written().iter().map(member).collect())
}

/// True for a value that a field's presence rule leaves out, or that storage makes nil.
fn is_left_out(field: &FieldDef, value: &Value) -> bool {
    if field.pointer {
        return false;
    }
    match value {
        Value::Array(items) => items.is_empty() && !keeps_raw(&field.ty) && !field.keeps_empty,
        Value::Object(members) => {
            let zero_struct = field.omit == Omit::Zero && matches!(field.ty, Type::Struct(_));
            members.is_empty() && (matches!(field.ty, Type::Map(_)) || zero_struct)
        }
        _ if field.omit == Omit::Never || field.ty.is_go_struct() => false,
        Value::String(text) => text.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        Value::Null => true,
    }
}

fn keeps_raw(ty: &Type) -> bool {
    matches!(ty, Type::Json | Type::RawExtension | Type::FieldsV1 | Type::Schema(_))
}

/// Go writes whole floats without a fraction.
fn float(n: &serde_json::Number) -> Value {
    /// Up to here an f64 holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match n.as_f64() {
        Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < EXACT => Value::from(f as i64),
        _ => Value::Number(n.clone()),
    }
}

fn bytes(text: String) -> Result<Value> {
    use base64::DecodeError as E;
    let wrapped = text.contains(['\n', '\r']);
    let packed = if wrapped { text.replace(['\n', '\r'], "") } else { text };
    let Err(error) = STANDARD.decode(&packed) else { return Ok(Value::String(packed)) };
    // Upstream's decoder tells the first byte that cannot stand there.
    let foreign = |c: u8| !(c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'='));
    Err(DecodeError::Base64(packed.bytes().position(foreign).unwrap_or(match error {
        E::InvalidByte(at, _) | E::InvalidLastSymbol(at, _) => at,
        E::InvalidLength(len) => len / 4 * 4,
        E::InvalidPadding => packed.len(),
    })))
}

fn quantity(value: &Value) -> Result<Value> {
    let parsed = match value {
        Value::String(text) => Quantity::parse(text.trim())?,
        Value::Number(n) => Quantity::parse(&n.to_string())?,
        _ => return Err(QuantityError.into()),
    };
    Ok(parsed.to_string().into())
}

fn moment(
    text: String,
    layout: &'static str,
    fraction: Option<usize>,
    format: fn(Timestamp) -> String,
) -> Result<Value> {
    match time::parse_rfc3339(&text, fraction) {
        Some(t) if time::is_zero(t) => Ok(Value::Null),
        Some(_) if time::is_canonical(&text, fraction.unwrap_or(0)) => Ok(Value::String(text)),
        Some(t) => Ok(format(t).into()),
        None => Err(DecodeError::Time(text, layout)),
    }
}

/// The Go type as messages name it; named texts (`v1.Protocol`) appear as `string`.
fn go_type(ty: &Type) -> String {
    match ty {
        Type::String => "string".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Float => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Time | Type::MicroTime | Type::Duration => "string".into(),
        Type::FieldsV1 | Type::RawExtension | Type::Json | Type::Schema(_) => "object".into(),
        Type::Items => "[]string".into(),
        Type::Struct(def) => {
            let version = def.package().rsplit_once('.').map_or("v1", |(_, v)| v);
            format!("{version}.{}", def.short_name())
        }
        Type::List(element) => format!("[]{}", go_type(element)),
        Type::Map(value) => format!("map[string]{}", go_type(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn canon(group: &str, version: &str, value: Value) -> Result<Canonical> {
        let def = table().kind(group, version, value["kind"].as_str().unwrap()).unwrap();
        canonicalize(value, def)
    }

    fn core(value: Value) -> Value {
        canon("", "v1", value).unwrap().value
    }

    #[test]
    fn a_pod_in_upstreams_order() {
        let pod = core(json!({
            "spec": {"containers": [{"image": "x", "name": "a", "resources": {"limits": {"memory": "1024Ki", "cpu": 0.5}},
                                     "env": [], "ports": null}], "nodeName": ""},
            "metadata": {"name": "p", "labels": {"b": "1", "a": null}, "creationTimestamp": null},
            "apiVersion": "v1", "kind": "Pod",
        }));
        assert_eq!(
            pod.to_string(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"a":"","b":"1"}},"#.to_owned()
                + r#""spec":{"containers":[{"name":"a","image":"x","resources":{"limits":{"cpu":"500m","memory":"1Mi"}}}]},"#
                + r#""status":{}}"#
        );
    }

    #[test]
    fn always_written_fields() {
        let service = core(json!({"kind": "Service", "apiVersion": "v1", "spec": {"ports": [{"port": 80}]}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "targetPort": 0}));
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
        let role = json!({"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "rules": []});
        let role = canon("rbac.authorization.k8s.io", "v1", role).unwrap().value;
        assert_eq!(role["rules"], Value::Null, "storage makes an empty list nil");
    }

    #[test]
    fn unknown_fields_are_left_out_and_named() {
        let pod = json!({"kind": "Pod", "Spec": {}, "spec": {"containers": [{"name": "a"}, {"nam": "b", "ports": [{"x": 1}]}]}});
        let got = canon("", "v1", pod).unwrap();
        assert_eq!(got.unknown, ["Spec", "spec.containers[1].nam", "spec.containers[1].ports[0].x"]);
        assert!(got.value.get("Spec").is_none());
    }

    #[test_case(json!({"kind": "Pod", "spec": {"containers": [{"name": 1}]}}),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string")]
    #[test_case(json!({"kind": "Pod", "spec": {"containers": {}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container")]
    #[test_case(json!({"kind": "Pod", "spec": {"containers": [[]]}}),
        "json: cannot unmarshal array into Go struct field PodSpec.spec.containers of type v1.Container")]
    #[test_case(json!({"kind": "ConfigMap", "data": {"a": true}}),
        "json: cannot unmarshal bool into Go struct field ConfigMap.data of type string")]
    #[test_case(json!({"kind": "ConfigMap", "metadata": {"labels": "x"}}),
        "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string")]
    #[test_case(json!({"kind": "Service", "spec": {"ports": [{"port": 1099511627776i64}]}}),
        "json: cannot unmarshal number 1099511627776 into Go struct field ServicePort.spec.ports.port of type int32")]
    #[test_case(json!({"kind": "Secret", "data": {"a": "b*=="}}), "illegal base64 data at input byte 1")]
    #[test_case(json!({"kind": "Node", "status": {"capacity": {"cpu": "x"}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    fn errors(value: Value, want: &str) {
        assert_eq!(canon("", "v1", value).unwrap_err().to_string(), want);
    }

    #[test_case(json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": {}}]}, "status": {}}), true; "as it is")]
    #[test_case(json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}), false; "no status")]
    #[test_case(json!({"metadata": {"name": "p"}, "kind": "Pod", "spec": {"containers": []}, "status": {}}), false; "in another order")]
    #[test_case(json!({"kind": "Role", "metadata": {"name": "r"}, "rules": null}), true; "a null that is always written")]
    #[test_case(json!({"kind": "Role", "metadata": {"name": "r"}, "rules": []}), false; "an empty list in its place")]
    #[test_case(json!({"kind": "Role", "metadata": {"name": "r", "labels": null}, "rules": null}), false; "a null below")]
    #[test_case(json!({"kind": "Role", "metadata": {"name": "r"}, "rules": null, "x": 1}), false; "an unknown field")]
    fn only_what_is_canonical_stays_as_it_is(value: Value, stays: bool) {
        let group = if value["kind"] == "Pod" { "" } else { "rbac.authorization.k8s.io" };
        let made = canon(group, "v1", value.clone()).unwrap().value;
        let (before, after) = (value.to_string(), made.to_string());
        assert_eq!(after == before, stays, "{after}");
        assert_eq!(canon(group, "v1", made.clone()).unwrap().value.to_string(), made.to_string());
    }

    #[test]
    fn schemas_are_walked() {
        let schema =
            json!({"type": "object", "x": 1, "additionalProperties": {"items": {"type": "string", "title": ""}}});
        let def = schema_def();
        let got = canonicalize(schema, def).unwrap();
        assert_eq!(got.unknown, ["x"]);
        let want = json!({"type": "object", "additionalProperties": {"items": {"type": "string"}}});
        assert_eq!(got.value, want);
        assert!(canonicalize(json!({"additionalProperties": "x"}), def).is_err());
    }

    #[test]
    fn times_and_raw_values() {
        let lease = json!({"kind": "Lease", "metadata": {"creationTimestamp": "2026-01-02T03:04:05+01:00"},
            "spec": {"renewTime": "2026-01-02T03:04:05.000000Z"}});
        let lease = canon("coordination.k8s.io", "v1", lease).unwrap().value;
        assert_eq!(lease["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
        assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
        let revision = json!({"kind": "ControllerRevision", "data": {"b": null, "a": []}, "revision": 0});
        let revision = canon("apps", "v1", revision).unwrap().value;
        assert_eq!(
            revision.to_string(),
            r#"{"kind":"ControllerRevision","metadata":{},"data":{"b":null,"a":[]},"revision":0}"#
        );
    }
}
