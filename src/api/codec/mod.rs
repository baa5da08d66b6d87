//! Bodies: JSON, YAML and protobuf in; the same out.
//!
//! In: bytes of a bounded length. Out: a canonical `serde_json::Value` of a built-in kind and warnings about fields that
//! were unknown or twice there ([`decode`]), or the parts of that way by themselves.
//!
//! **Invariant:** no body, however nested or malformed, overflows the stack or grows beyond a small multiple of its
//! length.

pub mod json;
pub mod proto;
pub mod yaml;

use std::fmt::Display;

use serde_json::Value;

use super::meta::Gvk;
use super::schema::{StructDef, canonicalize};
use super::status::{ApiResult, Status};

/// Bytes of one request body that are read at most. Upstream: `MaxRequestBodyBytes`.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Nesting of lists and objects in one body. Upstream stops at 10,000; real objects stay below 60.
pub const MAX_DEPTH: usize = 120;

/// Unknown and duplicate fields of a body that are told at most; upstream's decoder stops at the same number.
pub const MAX_STRICT_ERRORS: usize = 100;

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// What happens to unknown and duplicate fields, as `fieldValidation` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter; none for what it does not know.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Canonical, without defaults.
    pub value: Value,
    /// For the `Warning` headers, as `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Decodes a body as the kind of `def`. The error is a 400, worded as upstream's.
pub fn decode(
    body: &[u8],
    form: Form,
    gvk: &Gvk,
    def: &'static StructDef,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let (value, duplicates) = read(body, form, def).map_err(|e| undecodable(gvk, e))?;
    let canonical = canonicalize(value, def).map_err(|e| undecodable(gvk, e))?;
    let duplicates = duplicates.into_iter().map(|path| format!("duplicate field \"{path}\""));
    let unknown = canonical.unknown.into_iter().map(|path| format!("unknown field \"{path}\""));
    let warnings: Vec<String> = duplicates.chain(unknown).collect();
    match validation {
        FieldValidation::Strict if !warnings.is_empty() => Err(strict_error(gvk, &warnings)),
        FieldValidation::Ignore => Ok(Decoded { value: canonical.value, warnings: Vec::new() }),
        _ => Ok(Decoded { value: canonical.value, warnings }),
    }
}

/// A body as a value, not yet canonical, and its duplicate fields. For protobuf, `def` is the kind of the message.
pub fn read(body: &[u8], form: Form, def: &'static StructDef) -> Result<(Value, Vec<String>), ReadError> {
    Ok(match form {
        Form::Json => {
            let parsed = json::parse(body)?;
            (parsed.value, parsed.duplicates)
        }
        Form::Yaml => (yaml::parse(body)?, Vec::new()),
        Form::Protobuf => (proto::decode(&proto::open(body)?, def)?, Vec::new()),
    })
}

/// Why a body is not of its form.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // one for each form
pub enum ReadError {
    #[error(transparent)]
    Json(#[from] json::JsonError),
    #[error(transparent)]
    Yaml(#[from] yaml::YamlError),
    #[error(transparent)]
    Proto(#[from] proto::ProtoError),
}

/// 400: the body is not of the kind.
pub fn undecodable(gvk: &Gvk, why: impl Display) -> Box<Status> {
    let Gvk { version, kind, .. } = gvk;
    Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

/// 400: unknown or duplicate fields where they are refused. `found` as in [`Decoded::warnings`].
pub fn strict_error(gvk: &Gvk, found: &[String]) -> Box<Status> {
    undecodable(gvk, format_args!("strict decoding error: {}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::table;
    use test_case::test_case;

    fn config_map(body: &[u8], form: Form, validation: FieldValidation) -> ApiResult<Decoded> {
        let gvk = Gvk::new("", "v1", "ConfigMap");
        decode(body, form, &gvk, table().kind("", "v1", "ConfigMap").unwrap(), validation)
    }

    const ODD: &[u8] =
        br#"{"kind":"ConfigMap","kind":"ConfigMap","apiVersion":"v1","metadata":{"nam":"x"},"data":{"a":"b"}}"#;

    #[test_case(FieldValidation::Warn, 2)]
    #[test_case(FieldValidation::Ignore, 0)]
    fn odd_fields_are_dropped(validation: FieldValidation, warnings: usize) {
        let got = config_map(ODD, Form::Json, validation).unwrap();
        assert_eq!(got.warnings.len(), warnings);
        assert_eq!(got.value["metadata"], serde_json::json!({}));
    }

    #[test_case(ODD, Form::Json, "strict decoding error: duplicate field \"kind\", unknown field \"metadata.nam\"")]
    #[test_case(
        br#"{"data":[]}"#,
        Form::Json,
        "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string"
    )]
    #[test_case(b"[]", Form::Json, "json: cannot unmarshal array into Go value of type v1.ConfigMap")]
    #[test_case(b"k8s\0\xff", Form::Protobuf, "proto: unexpected end of the message")]
    fn refusals(body: &[u8], form: Form, want: &str) {
        let error = config_map(body, form, FieldValidation::Strict).unwrap_err();
        assert_eq!(error.code, 400);
        assert_eq!(error.message, format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: {want}"));
    }

    #[test]
    fn all_forms_mean_the_same() {
        let json = br#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b"}}"#;
        let from_json = config_map(json, Form::Json, FieldValidation::Strict).unwrap();
        let yaml = yaml::to_string(&from_json.value);
        let proto = proto::encode(&from_json.value, table().kind("", "v1", "ConfigMap").unwrap());
        assert_eq!(config_map(yaml.as_bytes(), Form::Yaml, FieldValidation::Strict).unwrap(), from_json);
        assert_eq!(config_map(&proto, Form::Protobuf, FieldValidation::Strict).unwrap(), from_json);
    }
}
