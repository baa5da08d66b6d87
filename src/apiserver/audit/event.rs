//! `audit.k8s.io/v1 Event`: one stage of one request as JSON. Pure.
//!
//! Rules: upstream `apiserver/pkg/audit/request.go`; fields stand in upstream's order and are left out where upstream
//! leaves them out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::{Level, Stage};
use crate::api::user::{Attributes, UserInfo};
use crate::api::value::ValueExt;
use crate::apiserver::auth::review::user_value;

/// Longest user agent that is kept whole, bytes; upstream's limit and mark.
const USER_AGENT_MAX: usize = 1024;
const TRUNCATED: &str = "...TRUNCATED";

/// What is known of a request, from its beginning on.
#[derive(Debug, Clone)]
pub struct Event {
    /// How much is kept.
    pub level: Level,
    /// Names the request.
    pub id: String,
    /// Path and query.
    pub uri: String,
    /// The verb.
    pub verb: String,
    /// Who asks.
    pub user: UserInfo,
    /// Who they want to be.
    pub impersonated: Option<UserInfo>,
    /// The verb under which they may be impersonated; empty where nothing constrains it.
    pub constraint: String,
    /// Where from, the client first.
    pub source_ips: Vec<String>,
    /// With what.
    pub user_agent: String,
    /// What for; null for paths.
    pub object: Value,
    /// How it went; null until that is known.
    pub status: Value,
    /// The request's body.
    pub request: Value,
    /// The answer's.
    pub response: Value,
    /// When it came.
    pub received: Timestamp,
    /// What parts of the server noted.
    pub annotations: BTreeMap<String, String>,
}

impl Event {
    /// The event of a stage, reached at `now`.
    pub fn at(&self, stage: Stage, now: Timestamp) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| {
            let empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if !empty {
                out.insert(name.to_owned(), value);
            }
        };
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", self.level.name().into());
        put("auditID", self.id.as_str().into());
        put("stage", stage.name().into());
        put("requestURI", self.uri.as_str().into());
        put("verb", self.verb.as_str().into());
        put("user", user_value(&self.user));
        put("impersonatedUser", self.impersonated.as_ref().map(user_value).unwrap_or_default());
        if !self.constraint.is_empty() {
            put("authenticationMetadata", json!({"impersonationConstraint": self.constraint}));
        }
        put("sourceIPs", json!(self.source_ips));
        put("userAgent", self.user_agent.as_str().into());
        put("objectRef", self.object.clone());
        put("responseStatus", self.status.clone());
        put("requestObject", self.request.clone());
        put("responseObject", self.response.clone());
        put("requestReceivedTimestamp", micro(self.received));
        put("stageTimestamp", micro(if stage == Stage::RequestReceived { self.received } else { now }));
        if !self.annotations.is_empty() {
            put("annotations", json!(self.annotations));
        }
        Value::Object(out)
    }

    /// Fills what the path did not say of the object from the request's body.
    pub fn note_object(&mut self, body: &Value) {
        let Some(object) = self.object.as_object_mut() else { return };
        for (field, path) in [
            ("namespace", "/metadata/namespace"),
            ("name", "/metadata/name"),
            ("uid", "/metadata/uid"),
            ("resourceVersion", "/metadata/resourceVersion"),
        ] {
            if let Some(text) = body.str_at(path).filter(|t| !t.is_empty())
                && !object.contains_key(field)
            {
                object.insert(field.to_owned(), text.into());
            }
        }
    }
}

/// A time with the microseconds that upstream's have.
fn micro(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()
}

/// What a request is for; null for a path.
pub fn object_ref(a: &Attributes) -> Value {
    if !a.is_resource() {
        return Value::Null;
    }
    let mut out = Map::new();
    for (name, text) in [
        ("resource", &a.resource),
        ("namespace", &a.namespace),
        ("name", &a.name),
        ("apiGroup", &a.group),
        ("apiVersion", &a.version),
        ("subresource", &a.subresource),
    ] {
        if !text.is_empty() {
            out.insert(name.to_owned(), text.as_str().into());
        }
    }
    Value::Object(out)
}

/// The status of an answer: its code, and of a Status what it says.
pub fn response_status(code: u16, status: Option<&Value>) -> Value {
    let mut out = Map::new();
    out.insert("metadata".into(), json!({}));
    for field in ["status", "message", "reason", "details"] {
        if let Some(value) = status.and_then(|s| s.get(field)).filter(|v| !v.is_null()) {
            out.insert(field.to_owned(), value.clone());
        }
    }
    out.insert("code".into(), code.into());
    Value::Object(out)
}

/// The client first, then the proxies that name it, and who the connection is from.
pub fn source_ips(headers: &http::HeaderMap, peer: Option<std::net::IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut out: Vec<String> = Vec::new();
    let addresses = text("x-forwarded-for").split(',').chain([text("x-real-ip")]).map(str::trim);
    for address in addresses.filter_map(|a| a.parse::<std::net::IpAddr>().ok()).chain(peer) {
        let address = address.to_string();
        if out.last() != Some(&address) {
            out.push(address);
        }
    }
    out
}

/// The user agent, cut where it is too long.
pub fn user_agent(headers: &http::HeaderMap) -> String {
    let text = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.get(..USER_AGENT_MAX) {
        Some(start) if text.len() > USER_AGENT_MAX => format!("{start}{TRUNCATED}"),
        _ => text.to_owned(),
    }
}

/// Takes the managed fields out of an object, of a list's items and of a table's rows.
pub fn without_managed_fields(value: &mut Value) {
    value.remove_at("/metadata/managedFields");
    for (list, within) in [("items", ""), ("rows", "/object")] {
        let Some(items) = value.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for item in items {
            item.remove_at(&format!("{within}/metadata/managedFields"));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use test_case::test_case;

    use super::*;

    #[test]
    fn an_event_reads_as_upstreams() {
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        let attributes = Attributes {
            group: "apps".into(),
            version: "v1".into(),
            resource: "deployments".into(),
            namespace: "n".into(),
            ..Attributes::default()
        };
        let mut event = Event {
            level: Level::Request,
            id: "id".into(),
            uri: "/apis/apps/v1/namespaces/n/deployments?x=y".into(),
            verb: "create".into(),
            user: UserInfo::authenticated("jane", &[]),
            impersonated: None,
            constraint: String::new(),
            source_ips: vec!["192.0.2.1".into()],
            user_agent: String::new(),
            object: object_ref(&attributes),
            status: Value::Null,
            request: Value::Null,
            response: Value::Null,
            received: at("2026-01-02T03:04:05Z"),
            annotations: BTreeMap::new(),
        };
        let first = event.at(Stage::RequestReceived, at("2026-01-02T03:04:06Z"));
        let names: Vec<&String> = first.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "kind",
                "apiVersion",
                "level",
                "auditID",
                "stage",
                "requestURI",
                "verb",
                "user",
                "sourceIPs",
                "objectRef",
                "requestReceivedTimestamp",
                "stageTimestamp",
            ]
        );
        assert_eq!(first["stageTimestamp"], "2026-01-02T03:04:05.000000Z");
        event.note_object(&json!({"metadata": {"name": "web", "namespace": "other", "uid": "u"}}));
        assert_eq!(event.object["name"], "web");
        assert_eq!((&event.object["namespace"], &event.object["uid"]), (&json!("n"), &json!("u")));
        event.status = response_status(409, Some(&json!({"status": "Failure", "reason": "Conflict", "code": 409})));
        event.annotations.insert("authorization.k8s.io/decision".into(), "allow".into());
        let last = event.at(Stage::ResponseComplete, at("2026-01-02T03:04:05.123456789Z"));
        assert_eq!(last["stageTimestamp"], "2026-01-02T03:04:05.123456Z");
        assert_eq!(
            last["responseStatus"],
            json!({"metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409})
        );
        assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "allow");
    }

    #[test_case("", "", &["192.0.2.9"])]
    #[test_case("192.0.2.1, 192.0.2.2", "", &["192.0.2.1", "192.0.2.2", "192.0.2.9"])]
    #[test_case("what, 192.0.2.1", "192.0.2.1", &["192.0.2.1", "192.0.2.9"]; "twice, and no address")]
    fn sources(forwarded: &str, real: &str, want: &[&str]) {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        headers.insert("x-real-ip", real.parse().unwrap());
        assert_eq!(source_ips(&headers, Some("192.0.2.9".parse().unwrap())), want);
    }

    #[test]
    fn managed_fields_and_long_agents_are_cut() {
        let one = || json!({"metadata": {"name": "a", "managedFields": [1]}});
        let mut all = json!({"metadata": {"managedFields": []}, "items": [one()], "rows": [{"object": one()}]});
        without_managed_fields(&mut all);
        let clean = json!({"metadata": {"name": "a"}});
        assert_eq!(all, json!({"metadata": {}, "items": [clean], "rows": [{"object": clean}]}));
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "x".repeat(2000).parse().unwrap());
        assert_eq!(user_agent(&headers).len(), USER_AGENT_MAX + TRUNCATED.len());
    }
}
