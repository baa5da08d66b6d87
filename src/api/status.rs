//! `metav1.Status`: the one shape of every error that leaves the API server, and the reason ↔ code table.
//!
//! Rules: upstream `apimachinery/pkg/api/errors` and `util/validation/field`.

use serde_json::{Value, json};

use crate::api::value::ValueExt;

/// Why a request failed, as `metav1.StatusReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are upstream's
pub enum Reason {
    Unknown,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

const TABLE: &[(Reason, &str, u16)] = &[
    (Reason::Unknown, "", 500),
    (Reason::BadRequest, "BadRequest", 400),
    (Reason::Unauthorized, "Unauthorized", 401),
    (Reason::Forbidden, "Forbidden", 403),
    (Reason::NotFound, "NotFound", 404),
    (Reason::MethodNotAllowed, "MethodNotAllowed", 405),
    (Reason::NotAcceptable, "NotAcceptable", 406),
    (Reason::AlreadyExists, "AlreadyExists", 409),
    (Reason::Conflict, "Conflict", 409),
    (Reason::Gone, "Gone", 410),
    (Reason::Expired, "Expired", 410),
    (Reason::RequestEntityTooLarge, "RequestEntityTooLarge", 413),
    (Reason::UnsupportedMediaType, "UnsupportedMediaType", 415),
    (Reason::Invalid, "Invalid", 422),
    (Reason::TooManyRequests, "TooManyRequests", 429),
    (Reason::InternalError, "InternalError", 500),
    (Reason::StoreReadError, "StorageReadError", 500),
    (Reason::ServerTimeout, "ServerTimeout", 500),
    (Reason::ServiceUnavailable, "ServiceUnavailable", 503),
    (Reason::Timeout, "Timeout", 504),
];

impl Reason {
    /// Upstream's spelling.
    pub fn as_str(self) -> &'static str {
        TABLE.iter().find(|(r, ..)| *r == self).map_or("", |(_, s, _)| s)
    }

    /// The HTTP code.
    pub fn code(self) -> u16 {
        TABLE.iter().find(|(r, ..)| *r == self).map_or(500, |(.., c)| *c)
    }

    /// The reason with this spelling.
    pub fn parse(text: &str) -> Self {
        TABLE.iter().find(|(_, s, _)| *s == text).map_or(Reason::Unknown, |(r, ..)| *r)
    }
}

/// One field that is wrong, as `field.Error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub reason: &'static str,
    /// The message, with the value quoted where upstream quotes it.
    pub message: String,
    /// The field path, as `spec.ports[2].port`.
    pub field: String,
}

/// An error that becomes a Status.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// Why.
    pub reason: Reason,
    /// The HTTP code; mostly `reason.code()`.
    pub code: u16,
    /// For people.
    pub message: String,
    /// `details`: group, kind, name, uid, causes, retryAfterSeconds; null when there are none.
    pub details: Value,
    /// `metadata.continue`: where a list that has expired may go on.
    pub go_on: Option<String>,
}

/// The result of an API operation.
pub type ApiResult<T> = Result<T, Box<Status>>;

impl Status {
    /// An error with a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { reason, code: reason.code(), message: message.into(), details: Value::Null, go_on: None })
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::new(Reason::BadRequest, message)
    }

    /// 500. The message is logged by the caller where it matters.
    pub fn internal(message: impl std::fmt::Display) -> Box<Self> {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
            .with_details(json!({"causes": [{"message": message.to_string()}]}))
    }

    /// 404 for an object. `resource` is the plural name.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Box<Self> {
        Self::new(Reason::NotFound, format!("{} \"{name}\" not found", qualified(group, resource)))
            .with_object(group, resource, name)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Box<Self> {
        Self::new(Reason::AlreadyExists, format!("{} \"{name}\" already exists", qualified(group, resource)))
            .with_object(group, resource, name)
    }

    /// 409 for a stale resourceVersion or a failed precondition.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Box<Self> {
        let q = qualified(group, resource);
        Self::new(Reason::Conflict, format!("Operation cannot be fulfilled on {q} \"{name}\": {why}"))
            .with_object(group, resource, name)
    }

    /// 403. `why` is what stands behind the object's name.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Box<Self> {
        let q = qualified(group, resource);
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{q} is forbidden: {why}"),
            _ => format!("{q} \"{name}\" is forbidden: {why}"),
        };
        Self::new(Reason::Forbidden, message).with_object(group, resource, name)
    }

    /// True when one of its causes has this reason. Upstream's `HasStatusCause`.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.details.items_at("/causes").iter().any(|c| c["reason"] == *reason)
    }

    /// 422 with all causes. `kind` is the kind's name.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Box<Self> {
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let list = match &texts[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        let mut status =
            Self::new(Reason::Invalid, format!("{} \"{name}\" is invalid: {list}", qualified(group, kind)))
                .with_object(group, kind, name);
        if !causes.is_empty() {
            status.details["causes"] = Value::Array(causes);
        }
        status
    }

    /// 410: the revision is no longer there.
    pub fn expired(message: impl Into<String>) -> Box<Self> {
        Self::new(Reason::Expired, message)
    }

    /// Replaces the details.
    pub fn with_details(mut self: Box<Self>, details: Value) -> Box<Self> {
        self.details = details;
        self
    }

    /// Names the object in the details, as upstream does: empty parts are left out.
    pub fn with_object(mut self: Box<Self>, group: &str, kind: &str, name: &str) -> Box<Self> {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        self.details = Value::Object(details);
        self
    }

    /// The wire form.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.as_str(), "details": self.details, "code": self.code,
        });
        let map = v.as_object_mut().expect("made as an object");
        if self.reason == Reason::Unknown {
            map.shift_remove("reason");
        }
        if self.details.is_null() {
            map.shift_remove("details");
        }
        if let Some(token) = &self.go_on {
            map["metadata"] = json!({"continue": token});
        }
        v
    }

    /// From the wire form; what is no Status becomes one with the HTTP code.
    pub fn from_value(v: &Value, http_code: u16) -> Box<Self> {
        let text = |key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default();
        Box::new(Self {
            reason: Reason::parse(text("reason")),
            code: v.get("code").and_then(Value::as_u64).map_or(http_code, |c| c as u16),
            message: match text("message") {
                "" => format!("the server answered {http_code}"),
                m => m.to_owned(),
            },
            details: v.get("details").cloned().unwrap_or(Value::Null),
            go_on: v.get_at("/metadata/continue").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

/// `deployments.apps`, `pods`.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstreams() {
        let s = Status::not_found("apps", "deployments", "web");
        assert_eq!(s.message, "deployments.apps \"web\" not found");
        assert_eq!(s.code, 404);
        assert_eq!(s.to_value()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        let back = Status::from_value(&s.to_value(), 404);
        assert_eq!(back, s);
    }

    #[test]
    fn all_causes_are_told() {
        let cause = |f: &str| Cause { reason: "FieldValueRequired", message: "Required value".into(), field: f.into() };
        let s = Status::invalid("", "Pod", "p", vec![cause("a"), cause("b")]);
        assert_eq!(s.message, "Pod \"p\" is invalid: [a: Required value, b: Required value]");
        assert_eq!(s.to_value()["details"]["causes"].as_array().unwrap().len(), 2);
        assert!(s.has_cause("FieldValueRequired") && !s.has_cause("FieldValueInvalid"));
    }
}
