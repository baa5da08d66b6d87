//! The `kms` entry of a configuration. Pure.
//!
//! Rules: upstream `apiserver/pkg/apis/apiserver/validation/validation_encryption.go`.

use std::time::Duration;

use serde_json::Value;

use super::Kms;
use crate::api::schema::time::parse_duration;
use crate::api::value::ValueExt;
use crate::store::sealed::config::{ConfigError, only, wrong};

/// Deadline of a call to a plugin where the file says none.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

impl Kms {
    /// The plugin of an entry. Its endpoint is a unix socket; `unix:///@name` is one without a file.
    pub fn parse(at: &str, body: &Value) -> Result<Self, ConfigError> {
        only(body, at, &["apiVersion", "name", "endpoint", "timeout", "cachesize"])?;
        match body.str_at("/apiVersion").filter(|v| !v.is_empty()) {
            Some("v2") => {}
            None | Some("v1") => {
                let why = "version v1 is deprecated and not served; give \"v2\" and a plugin that speaks it";
                return wrong(&format!("{at}.apiVersion"), why);
            }
            Some(other) => return wrong(&format!("{at}.apiVersion"), format!("{other:?} is not v2")),
        }
        if body.get("cachesize").is_some_and(|v| !v.is_null()) {
            return wrong(&format!("{at}.cachesize"), "is not supported in v2");
        }
        let name = body.str_at("/name").unwrap_or_default();
        if name.is_empty() || name.contains(':') {
            return wrong(&format!("{at}.name"), "must not be empty or have a colon");
        }
        let endpoint = body.str_at("/endpoint").unwrap_or_default();
        let Some(path) = endpoint.strip_prefix("unix://").filter(|p| p.len() > 1 && p.starts_with('/')) else {
            return wrong(&format!("{at}.endpoint"), format!("{endpoint:?} is no unix socket as unix:///run/kms.sock"));
        };
        let socket = path.strip_prefix("/@").map_or_else(|| path.to_owned(), |name| format!("\0{name}"));
        let timeout = match body.get("timeout").filter(|v| !v.is_null()) {
            None => KMS_TIMEOUT,
            Some(given) => {
                let nanos =
                    given.as_str().and_then(parse_duration).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
                let Some(nanos) = nanos else {
                    return wrong(&format!("{at}.timeout"), "must be a positive duration as 3s");
                };
                Duration::from_nanos(nanos)
            }
        };
        Ok(Self::new(name, socket.into(), timeout))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    #[test_case(json!({}), None; "well")]
    #[test_case(json!({"timeout": "1m0.5s"}), None; "a timeout")]
    #[test_case(json!({"endpoint": "unix:///@kms"}), None; "a socket without a file")]
    #[test_case(json!({"apiVersion": "v1"}), Some("k.apiVersion: version v1"); "the old version")]
    #[test_case(json!({"apiVersion": null}), Some("k.apiVersion: version v1"); "no version is the old one")]
    #[test_case(json!({"apiVersion": "v3"}), Some("k.apiVersion: \"v3\""); "an unknown version")]
    #[test_case(json!({"cachesize": 5}), Some("k.cachesize"))]
    #[test_case(json!({"name": ""}), Some("k.name"); "no name")]
    #[test_case(json!({"name": "a:b"}), Some("k.name"); "a colon")]
    #[test_case(json!({"endpoint": "tcp://1.2.3.4:5"}), Some("k.endpoint"); "another protocol")]
    #[test_case(json!({"endpoint": "unix://"}), Some("k.endpoint"); "no path")]
    #[test_case(json!({"timeout": "0s"}), Some("k.timeout"); "no time")]
    #[test_case(json!({"timeout": "soon"}), Some("k.timeout"); "no duration")]
    #[test_case(json!({"keys": []}), Some("k: unknown field \"keys\""); "a member of another provider")]
    fn entries(change: Value, want: Option<&str>) {
        let mut body = json!({"apiVersion": "v2", "name": "a", "endpoint": "unix:///run/kms.sock"});
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let found = Kms::parse("k", &body).map(drop).map_err(|e| e.to_string());
        match (&found, want) {
            (Ok(()), None) => {}
            (Err(why), Some(want)) if why.starts_with(want) => {}
            _ => panic!("{found:?}, not {want:?}"),
        }
    }
}
