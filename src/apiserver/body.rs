//! Bodies of requests: read with a bound, decoded by their content type, made canonical, with what strictness finds.
//!
//! Rules: upstream `apiserver/pkg/endpoints/handlers` (`limitedReadBody`, `fieldValidation`) and
//! `apimachinery/pkg/runtime/serializer`.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::api::codec;
use crate::api::meta::Gvk;
use crate::api::schema::{self, StructDef};
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::{RequestCx, Resource};

use super::request::Query;
use crate::util::order::Arrange;

/// Bytes of one request body. Upstream: 3 MiB (etcd's request limit doubled for encoding).
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Bytes of a body that is too large which are read and dropped before the answer.
pub const MAX_DRAIN_BYTES: usize = 16 * 1024 * 1024;

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// From the query; `kind` names the options in the error.
    pub fn parse(query: &Query, kind: &str) -> ApiResult<Self> {
        match query.get("fieldValidation").unwrap_or_default() {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => {
                let errs = FieldErrors::new();
                errs.at("fieldValidation").not_supported(other, &["", "Ignore", "Strict", "Warn"]);
                Err(Status::invalid("meta.k8s.io", kind, "", errs.take()))
            }
        }
    }
}

/// Reads a body to its end, or to the bound. What is beyond the bound is read and dropped, up to [`MAX_DRAIN_BYTES`]: a
/// client that is still sending when the connection closes never sees the answer.
pub async fn read<B>(body: B) -> ApiResult<Bytes>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<tower::BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut parts, mut size) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("the request's body could not be read: {}", e.into())))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= MAX_BODY_BYTES {
            parts.push(data);
        } else if size <= MAX_BODY_BYTES + MAX_DRAIN_BYTES {
            parts.clear();
        } else {
            break;
        }
    }
    if size > MAX_BODY_BYTES {
        let why = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        return Err(Status::new(Reason::RequestEntityTooLarge, why));
    }
    Ok(match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    })
}

/// A value, and what strictness minds about its text.
pub struct Raw {
    /// The value.
    pub value: Value,
    /// As it is told: `duplicate field "spec.foo"`, or `line 3: key "foo" already set in map`.
    pub found: Vec<String>,
    /// Of JSON, how many fields of the text are before each.
    places: Vec<usize>,
}

impl Raw {
    /// A value that was no client's text.
    pub fn made(value: Value) -> Self {
        Self::patched(value, Vec::new())
    }

    /// What a patch made, and what was found in the patch.
    pub fn patched(value: Value, found: Vec<String>) -> Self {
        Self { value, found, places: Vec::new() }
    }
}

/// Decodes by content type; `def` is for protobuf.
pub fn decode(bytes: &[u8], headers: &HeaderMap, gvk: &Gvk) -> ApiResult<Raw> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => json_raw(bytes).map_err(|why| unreadable(gvk, &why)),
        "application/yaml" => yaml_raw(bytes).map_err(|why| unreadable(gvk, &why)),
        "application/vnd.kubernetes.protobuf" => {
            let value = proto_value(bytes, gvk).map_err(|why| unreadable(gvk, &why))?;
            Ok(Raw::made(value))
        }
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// JSON; the error is a text.
pub fn json_raw(bytes: &[u8]) -> Result<Raw, String> {
    let parsed = codec::json::parse(bytes).map_err(|e| e.to_string())?;
    let found = parsed.duplicates.iter().map(|f| format!("duplicate field {f:?}")).collect();
    Ok(Raw { value: parsed.value, found, places: parsed.places })
}

/// YAML; the error is a text.
pub fn yaml_raw(bytes: &[u8]) -> Result<Raw, String> {
    let parsed = codec::yaml::parse_last_wins(bytes).map_err(|e| e.to_string())?;
    let found = if parsed.duplicates.is_empty() { Vec::new() } else { codec::yaml::duplicate_keys(bytes) };
    Ok(Raw::patched(parsed.value, found))
}

/// A JSON patch: a list of operations, which have no fields but upstream's four.
pub fn json_patch_raw(bytes: &[u8]) -> Result<Raw, String> {
    let mut raw = json_raw(bytes)?;
    raw.found.iter_mut().for_each(|f| f.insert_str(0, "json patch "));
    for (i, operation) in raw.value.as_array().into_iter().flatten().enumerate() {
        let names = operation.as_object().into_iter().flat_map(|o| o.keys());
        let unknown = names.filter(|n| !matches!(n.as_str(), "op" | "path" | "from" | "value"));
        raw.found.extend(unknown.map(|n| format!("json patch unknown field \"[{i}].{n}\"")));
    }
    Ok(raw)
}

/// Protobuf: the envelope says what it is; the caller checks that against what it should be.
pub fn proto_value(bytes: &[u8], gvk: &Gvk) -> Result<Value, String> {
    let envelope = codec::proto::open(bytes).map_err(|e| e.to_string())?;
    let (group, version) = crate::api::meta::gvk::split(envelope.api_version);
    let table = schema::table();
    let def = match envelope.kind {
        "" => table.kind(&gvk.group, &gvk.version, &gvk.kind),
        kind => table.kind(group, version, kind),
    };
    let def =
        def.ok_or_else(|| format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version))?;
    codec::proto::decode(&envelope, def).map_err(|e| e.to_string())
}

fn unreadable(gvk: &Gvk, why: &str) -> Box<Status> {
    Status::bad_request(format!("{} in version {:?} cannot be handled as a {}: {why}", gvk.kind, gvk.version, gvk.kind))
}

/// Checks the type, makes the value canonical, and deals with unknown and duplicate fields.
pub fn canonical(
    raw: Raw,
    gvk: &Gvk,
    def: Option<&'static StructDef>,
    strictness: FieldValidation,
    cx: &RequestCx,
) -> ApiResult<Value> {
    let Raw { mut value, mut found, places } = raw;
    check_type(&mut value, gvk)?;
    let Some(def) = def else { return Ok(value) };
    // Of what has duplicate fields, the order of its fields is kept.
    let order = (!places.is_empty()).then(|| fields(&value));
    let made = schema::canonicalize(value, def).map_err(|e| unreadable(gvk, &e.to_string()))?;
    let unknown = made.unknown.iter().map(|f| format!("unknown field {f:?}"));
    match order {
        None => found.extend(unknown),
        Some(order) => {
            let place = |path: &String| order.iter().position(|f| f == path).unwrap_or(order.len());
            let mut placed: Vec<(usize, String)> = made.unknown.iter().map(place).zip(unknown).collect();
            placed.extend(places.into_iter().zip(found));
            // Stable: at one place the unknown field is before the duplicate.
            placed.arrange_by_key(|(place, _)| *place);
            found = placed.into_iter().map(|(_, f)| f).collect();
        }
    }
    report(found, gvk, strictness, cx)?;
    Ok(made.value)
}

/// The paths of all fields of a value, in the order of its text.
fn fields(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, out: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, below)| {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                out.push(path.clone());
                walk(below, &path, out);
            }),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, below)| walk(below, &format!("{at}[{i}]"), out))
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(value, "", &mut out);
    out
}

/// The same for an object of a resource: of a definition's kind, its schema says what is known.
pub fn canonical_of(raw: Raw, res: &Resource, strictness: FieldValidation, cx: &RequestCx) -> ApiResult<Value> {
    let gvk = &res.info.gvk;
    let Some(custom) = &res.custom else { return canonical(raw, gvk, res.def, strictness, cx) };
    let Raw { value, mut found, .. } = raw;
    if !value.is_object() {
        return Err(unreadable(gvk, "it is not an object"));
    }
    custom.check_type(&value)?;
    let made = custom.decode(value).map_err(|why| unreadable(gvk, &why))?;
    found.extend(made.unknown.iter().map(|f| format!("unknown field {f:?}")));
    report(found, gvk, strictness, cx)?;
    Ok(made.value)
}

/// The configuration of an apply, which is checked but stays as the client wrote it: what it does not name it does not own.
/// That it has unknown fields the apply itself finds. The second is the error of its duplicate keys, which comes behind
/// all others.
pub fn canonical_apply(
    raw: Raw,
    res: &Resource,
    strictness: FieldValidation,
    cx: &RequestCx,
) -> ApiResult<(Value, Option<Box<Status>>)> {
    let Raw { value: config, found, .. } = raw;
    canonical_of(Raw::made(config.clone()), res, FieldValidation::Ignore, cx)?;
    // The type is not made up either.
    for field in ["/apiVersion", "/kind"] {
        if config.str_at(field).unwrap_or_default().is_empty() {
            let field = field.trim_start_matches('/');
            return Err(Status::bad_request(format!("Object '{field}' is missing in the applied configuration")));
        }
    }
    let refused = match strictness {
        FieldValidation::Strict if !found.is_empty() => {
            let why =
                format!("error strict decoding YAML: error converting YAML to JSON: {}", unmarshal_errors(&found));
            Some(Status::bad_request(why))
        }
        FieldValidation::Warn => {
            found.into_iter().for_each(|f| cx.warn(f));
            None
        }
        _ => None,
    };
    Ok((config, refused))
}

/// What go-yaml makes of lines.
fn unmarshal_errors(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

fn report(mut found: Vec<String>, gvk: &Gvk, strictness: FieldValidation, cx: &RequestCx) -> ApiResult<()> {
    let mut seen = HashSet::new();
    found.retain(|f| seen.insert(f.clone()));
    match strictness {
        _ if found.is_empty() => Ok(()),
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            found.into_iter().for_each(|f| cx.warn(f));
            Ok(())
        }
        FieldValidation::Strict => {
            let lines = found.iter().take_while(|f| f.starts_with("line ")).count();
            let rest = found.split_off(lines);
            let yaml = (!found.is_empty()).then(|| unmarshal_errors(&found));
            let found: Vec<String> = yaml.into_iter().chain(rest).collect();
            Err(unreadable(gvk, &format!("strict decoding error: {}", found.join(", "))))
        }
    }
}

fn check_type(value: &mut Value, gvk: &Gvk) -> ApiResult<()> {
    if !value.is_object() {
        if value.is_null() {
            return Err(unreadable(gvk, "EOF"));
        }
        let what = json_type(value);
        return Err(unreadable(gvk, &format!("json: cannot unmarshal {what} into Go value of type v1.{}", gvk.kind)));
    }
    for field in ["apiVersion", "kind"] {
        let found = value.get(field).filter(|v| !v.is_null() && !v.is_string());
        if let Some(what) = found.map(json_type) {
            let why = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go struct field .{field} of type string"
            );
            return Err(Status::bad_request(why));
        }
    }
    let wanted = gvk.api_version();
    let (api_version, kind) =
        (value.str_at("/apiVersion").unwrap_or_default(), value.str_at("/kind").unwrap_or_default());
    if !kind.is_empty() && kind != gvk.kind {
        let version = if api_version.is_empty() { wanted.as_str() } else { api_version };
        let version = crate::api::meta::gvk::split(version).1;
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: the kind in the data does not match the expected kind",
            gvk.kind
        )));
    }
    if !api_version.is_empty() && api_version != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    value["apiVersion"] = wanted.into();
    value["kind"] = json!(gvk.kind);
    Ok(())
}

/// What Go calls a value that is not null.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::user::UserInfo;
    use jiff::Timestamp;

    fn check(body: &str, strictness: FieldValidation) -> (ApiResult<Value>, Vec<String>) {
        let gvk = Gvk::new("", "v1", "ConfigMap");
        let cx = RequestCx::new(UserInfo::default(), "t", Timestamp::UNIX_EPOCH);
        let def = schema::table().kind("", "v1", "ConfigMap");
        let raw = decode(body.as_bytes(), &HeaderMap::new(), &gvk);
        let made = raw.and_then(|raw| canonical(raw, &gvk, def, strictness, &cx));
        (made, cx.take_warnings())
    }

    #[test]
    fn strictness_decides_about_unknown_and_duplicate_fields() {
        let body = r#"{"metadata":{"name":"a"},"data":{},"data":{"k":"v"},"nope":1}"#;
        let (made, warnings) = check(body, FieldValidation::Warn);
        assert_eq!(made.unwrap()["data"]["k"], "v");
        assert_eq!(warnings, ["duplicate field \"data\"", "unknown field \"nope\""]);
        assert_eq!(check(body, FieldValidation::Ignore).1.len(), 0);
        assert_eq!(check(body, FieldValidation::Strict).0.unwrap_err().code, 400);
    }

    #[test]
    fn yaml_and_json_patches_have_duplicates_too() {
        let raw = yaml_raw(b"metadata: {name: c}\ndata: {a: x}\ndata: {a: z}\n").unwrap();
        assert_eq!(
            (&raw.value["data"]["a"], raw.found),
            (&json!("z"), vec!["line 3: key \"data\" already set in map".into()])
        );
        let raw = json_patch_raw(br#"[{"op":"add","op":"test","path":"/a","oops":1}]"#).unwrap();
        assert_eq!(raw.found, ["json patch duplicate field \"[0].op\"", "json patch unknown field \"[0].oops\""]);
    }

    #[test]
    fn another_kind_is_refused() {
        assert_eq!(check(r#"{"kind":"Pod","apiVersion":"v1"}"#, FieldValidation::Warn).0.unwrap_err().code, 400);
        assert_eq!(check(r#"{"apiVersion":"apps/v1"}"#, FieldValidation::Warn).0.unwrap_err().code, 400);
        assert_eq!(check("[1]", FieldValidation::Warn).0.unwrap_err().code, 400);
        assert_eq!(check(r#"{"kind":7}"#, FieldValidation::Warn).0.unwrap_err().code, 400);
        assert_eq!(check("{", FieldValidation::Warn).0.unwrap_err().code, 400);
    }
}
