//! ConfigMaps and Secrets: keys and values that pods read.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo, Selectable};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Strategy};
use crate::registry::validate::config_key;
use crate::registry::{Resource, cells};

/// Bytes of all values of one object.
const MAX_BYTES: usize = 1024 * 1024;

/// A column of upstream's that says `string` and holds a number.
const fn count(cell: crate::api::scheme::CellFn) -> Column {
    Column::new("Data", cell)
}

const MAP_COLUMNS: &[Column] = &[Column::NAME, count(|o, _| cells::keys(o, &["/data", "/binaryData"])), Column::AGE];
const SECRET_COLUMNS: &[Column] =
    &[Column::NAME, Column::text("Type", "/type"), count(|o, _| cells::keys(o, &["/data"])), Column::AGE];
const SECRET_FIELDS: &[Selectable] = &[Selectable::new("type", "/type")];

/// ConfigMaps.
pub fn config_map() -> Resource {
    let info = KindInfo::namespaced("", "v1", "ConfigMap", "configmaps", "configmap").short(&["cm"]);
    Resource::new(info.columns(MAP_COLUMNS), Box::new(ConfigMaps))
}

/// Secrets.
pub fn secret() -> Resource {
    let info = KindInfo::namespaced("", "v1", "Secret", "secrets", "secret");
    Resource::new(info.selectable(SECRET_FIELDS).columns(SECRET_COLUMNS), Box::new(Secrets))
}

struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, new: &Value, old: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        let mut size = 0;
        for map in ["data", "binaryData"] {
            for (key, value) in new.get(map).and_then(Value::as_object).into_iter().flatten() {
                errs.at(map).key(key).all_invalid(key, config_key(key));
                if map == "data" && new.get("binaryData").and_then(|d| d.get(key)).is_some() {
                    errs.at(map).key(key).invalid(key.clone(), "duplicate of key present in binaryData");
                }
                let text = value.as_str().unwrap_or_default();
                size += if map == "data" { text.len() } else { decoded_len(text) };
            }
        }
        if size > MAX_BYTES {
            errs.whole().too_long(MAX_BYTES);
        }
        if let Some(old) = old {
            frozen(new, old, &["data", "binaryData"], errs);
        }
    }
}

struct Secrets;

impl Strategy for Secrets {
    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        use base64::Engine;
        if new.str_at("/type") != Some("kubernetes.io/tls") {
            return Vec::new();
        }
        let certificate = new.get("data").and_then(|d| d.get("tls.crt")).and_then(Value::as_str).unwrap_or_default();
        let pem = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap_or_default();
        if String::from_utf8_lossy(&pem).contains("-----BEGIN") {
            return Vec::new();
        }
        vec!["tls: there is no PEM data in the certificate".to_owned()]
    }

    fn validate(&self, new: &Value, old: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        let data = errs.at("data");
        let mut size = 0;
        for (key, value) in new.get("data").and_then(Value::as_object).into_iter().flatten() {
            data.key(key).all_invalid(key, config_key(key));
            size += decoded_len(value.as_str().unwrap_or_default());
        }
        if size > MAX_BYTES {
            data.too_long(MAX_BYTES);
        }
        by_type(new, errs, &data);
        if let Some(old) = old {
            if new.get("type") != old.get("type") {
                errs.at("type").invalid(new["type"].clone(), "field is immutable");
            }
            frozen(new, old, &["data"], errs);
        }
    }
}

fn decoded_len(base64: &str) -> usize {
    base64.len() / 4 * 3 - base64.bytes().rev().take_while(|b| *b == b'=').count().min(base64.len() / 4 * 3)
}

/// What is marked immutable stays as it is, the mark included.
fn frozen(new: &Value, old: &Value, maps: &[&str], errs: &FieldErrors) {
    if old.bool_at("/immutable") != Some(true) {
        return;
    }
    const WHY: &str = "field is immutable when `immutable` is set";
    if new.bool_at("/immutable") != Some(true) {
        errs.at("immutable").forbidden(WHY);
    }
    for map in maps.iter().filter(|m| new.get(m) != old.get(m)) {
        errs.at(map).forbidden(WHY);
    }
}

/// Keys that a type needs.
fn by_type(secret: &Value, errs: &FieldErrors, data: &FieldErrors) {
    let has = |key: &str| secret.get("data").and_then(|d| d.get(key)).is_some();
    match secret.str_at("/type").unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let account = secret.get("metadata").and_then(|m| m.get("annotations")?.get(ACCOUNT)?.as_str());
            if account.unwrap_or_default().is_empty() {
                errs.at("metadata").at("annotations").key(ACCOUNT).required("");
            }
        }
        "kubernetes.io/dockercfg" => docker(secret, ".dockercfg", data),
        "kubernetes.io/dockerconfigjson" => docker(secret, ".dockerconfigjson", data),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            data.key("username").required("");
            data.key("password").required("");
        }
        "kubernetes.io/ssh-auth" => {
            let key = secret.get_at("/data/ssh-privatekey").and_then(Value::as_str);
            if key.unwrap_or_default().is_empty() {
                data.key("ssh-privatekey").required("");
            }
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].iter().filter(|k| !has(k)) {
                data.key(key).required("");
            }
        }
        _ => {}
    }
}

const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// JSON under a key. What it holds is not told.
fn docker(secret: &Value, key: &str, data: &FieldErrors) {
    use base64::Engine;
    let at = data.key(key);
    let Some(text) = secret.get("data").and_then(|d| d.get(key)).and_then(Value::as_str) else {
        at.required("");
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
        at.invalid("<secret contents redacted>", "must be a JSON object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("", 0)]
    #[test_case("YQ==", 1)]
    #[test_case("YWE=", 2)]
    #[test_case("YWFh", 3)]
    fn lengths(text: &str, want: usize) {
        assert_eq!(decoded_len(text), want);
    }

    #[test]
    fn frozen_stays_frozen() {
        let errs = FieldErrors::new();
        let old = json!({"immutable": true, "data": {"a": "b"}});
        frozen(&json!({"data": {"a": "c"}}), &old, &["data", "binaryData"], &errs);
        frozen(&old, &old, &["data"], &errs);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), ["immutable", "data"]);
    }
}
