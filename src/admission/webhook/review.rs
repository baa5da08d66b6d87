//! An AdmissionReview there and back.
//!
//! In: a request and the objects. Out: what is sent; what came back, checked and read. Nothing here does IO.
//!
//! **Invariant:** an answer that does not fit the question is a failed call, never a decision.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/webhook/request` and `…/webhook/errors`.

use serde_json::{Map, Value, json};

use crate::api::meta::Gvk;
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::Admission;

use super::hook::Hook;
use crate::admission::matching::{GroupVersion, name_of, namespace_of};

/// The lowest code that a refusal may have.
const REFUSAL_CODE_MIN: u16 = 400;

/// What a webhook decided.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: Result<(), Box<Status>>,
    /// JSON patch operations, of a mutating webhook that allowed.
    pub patch: Option<Value>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log: `webhook/key` and a text.
    pub annotations: Vec<(String, String)>,
}

/// What is asked, in the version that the hook's rules name.
pub struct Question<'a> {
    /// The request.
    pub admission: &'a Admission<'a>,
    /// What the rules matched.
    pub version: &'a GroupVersion,
    /// The new object.
    pub new: Option<&'a Value>,
    /// The current object.
    pub old: Option<&'a Value>,
}

impl Question<'_> {
    /// The review to send, with an id of its own.
    pub fn review(&self, hook: &Hook, uid: &str) -> Value {
        let a = self.admission;
        let (group, version) = self.version;
        let own = gvk_value(&a.resource.info.gvk);
        let asked = self.kind();
        let kind = if asked == own {
            json!({"group": group, "version": version, "kind": a.resource.info.gvk.kind})
        } else {
            asked.clone()
        };
        let resource = |group: &str, version: &str| json!({"group": group, "version": version, "resource": a.resource.info.plural});
        let name = name_of(a, self.new);
        let mut request = Map::new();
        let mut put = |key: &str, value: Value| {
            request.insert(key.to_owned(), value);
        };
        put("uid", uid.into());
        put("kind", kind);
        put("resource", resource(group, version));
        if !a.subresource.is_empty() {
            put("subResource", a.subresource.into());
        }
        put("requestKind", asked);
        put("requestResource", resource(&a.resource.info.gvk.group, &a.resource.info.gvk.version));
        if !a.subresource.is_empty() {
            put("requestSubResource", a.subresource.into());
        }
        if !name.is_empty() {
            put("name", name.into());
        }
        if let Some(namespace) = namespace_of(a) {
            put("namespace", namespace.into());
        }
        put("operation", a.operation.into());
        put("userInfo", user(a));
        put("object", self.new.cloned().unwrap_or_default());
        put("oldObject", self.old.cloned().unwrap_or_default());
        put("dryRun", a.cx.dry_run.into());
        put("options", options(a));
        json!({
            "kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{}", hook.version), "request": request,
        })
    }

    /// The kind of what was sent: the object's own, which for subresources is not the resource's. An object of the
    /// resource's kind may be shown in the version of the rules; it was sent in the request's.
    fn kind(&self) -> Value {
        let own = &self.admission.resource.info.gvk;
        let sent = self.new.or(self.old).and_then(|o| Some((o.str_at("/apiVersion")?, o.str_at("/kind")?)));
        match sent {
            Some((api_version, kind)) => {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let (rules_group, rules_version) = self.version;
                match *own.kind == *kind && group == rules_group && version == rules_version {
                    true => gvk_value(own),
                    false => json!({"group": group, "version": version, "kind": kind}),
                }
            }
            None => gvk_value(own),
        }
    }
}

fn gvk_value(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn user(a: &Admission<'_>) -> Value {
    let user = &a.cx.user;
    let mut info = Map::new();
    if !user.name.is_empty() {
        info.insert("username".into(), user.name.as_str().into());
    }
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

fn options(a: &Admission<'_>) -> Value {
    let kind = match a.operation {
        "CREATE" => "CreateOptions",
        "UPDATE" => "UpdateOptions",
        "DELETE" => "DeleteOptions",
        _ => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if a.cx.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if !a.cx.field_manager.is_empty() && kind != "DeleteOptions" {
        options["fieldManager"] = a.cx.field_manager.as_str().into();
    }
    options
}

/// Reads an answer to the review `uid`.
///
/// # Errors
/// Why it is none.
pub fn answer(body: &[u8], hook: &Hook, uid: &str, mutating: bool) -> Result<Decision, String> {
    let review: Value = serde_json::from_slice(body).map_err(|e| format!("the answer is no JSON: {e}"))?;
    let r = review.get("response").filter(|r| r.is_object()).ok_or("webhook response was absent")?;
    if hook.version == "v1" {
        let kind = (review.str_at("/apiVersion").unwrap_or_default(), review.str_at("/kind").unwrap_or_default());
        if kind != ("admission.k8s.io/v1", "AdmissionReview") {
            let found = format!("{}, Kind={}", kind.0, kind.1);
            return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}"));
        }
        let found = r.str_at("/uid").unwrap_or_default();
        if found != uid {
            return Err(format!("expected response.uid={uid:?}, got {found:?}"));
        }
    }
    let warnings = r.items_at("/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let notes = r.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    let note = |(key, text): (&String, &Value)| Some((format!("{}/{key}", hook.name), text.as_str()?.to_owned()));
    let annotations = notes.filter_map(note).collect();
    if r.bool_at("/allowed") != Some(true) {
        let allowed = Err(refusal(&hook.name, r.get("status")));
        return Ok(Decision { allowed, patch: None, warnings, annotations });
    }
    let patch = if mutating { patch(r, hook)? } else { None };
    Ok(Decision { allowed: Ok(()), patch, warnings, annotations })
}

fn patch(r: &Value, hook: &Hook) -> Result<Option<Value>, String> {
    use base64::Engine;
    let text = r.str_at("/patch").unwrap_or_default();
    let kind = r.str_at("/patchType");
    match (text.is_empty(), kind) {
        (true, None) => return Ok(None),
        (true, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
        (false, None) if hook.version == "v1" => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (false, Some(kind)) if kind != "JSONPatch" => {
            return Err(format!("webhook returned invalid response.patchType of {kind:?}"));
        }
        (false, _) => {}
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    let bytes = bytes.map_err(|e| format!("webhook returned a response.patch that is no base64: {e}"))?;
    let patch = serde_json::from_slice(&bytes);
    patch.map(Some).map_err(|e| format!("webhook returned a response.patch that is no JSON: {e}"))
}

/// The Status of a refusal. A webhook that refuses cannot say that all went well.
fn refusal(name: &str, status: Option<&Value>) -> Box<Status> {
    let empty = Value::Null;
    let given = status.unwrap_or(&empty);
    let code = given.int_at("/code").and_then(|c| u16::try_from(c).ok()).unwrap_or_default().max(REFUSAL_CODE_MIN);
    let mut refused = Status::from_value(given, code);
    refused.code = code;
    let denied = format!("admission webhook {name:?} denied the request");
    refused.message = match (given.str_at("/message").unwrap_or_default(), given.str_at("/reason").unwrap_or_default())
    {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    if given.str_at("/reason").is_none_or(str::is_empty) {
        refused.reason = Reason::Unknown;
    }
    refused
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn hook(version: &str) -> Hook {
        let made =
            json!({"metadata": {"name": "x"}, "webhooks": [{"name": "a.b.c", "admissionReviewVersions": [version]}]});
        Hook::all(&crate::api::object::Object::from_value(&made, &[])).remove(0)
    }

    fn review(response: Value) -> Vec<u8> {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string().into()
    }

    #[test_case(json!({"uid": "u", "allowed": true}) => Ok(()))]
    #[test_case(json!({"uid": "w", "allowed": true}) => Err("expected response.uid=\"u\", got \"w\"".into()); "another's answer")]
    #[test_case(json!(null) => Err("webhook response was absent".into()); "nothing")]
    #[test_case(json!({"uid": "u", "allowed": true, "patch": "W10="}) => Err("webhook returned response.patch but not response.patchType".into()); "patch alone")]
    #[test_case(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch"}) => Err("webhook returned response.patchType but not response.patch".into()); "type alone")]
    #[test_case(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "X"}) => Err("webhook returned invalid response.patchType of \"X\"".into()); "another type")]
    #[test_case(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"}) => Ok(()); "both")]
    fn checked(response: Value) -> Result<(), String> {
        answer(&review(response), &hook("v1"), "u", true).map(|d| assert!(d.allowed.is_ok()))
    }

    #[test]
    fn an_answer_in_another_form_is_no_decision() {
        let body = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "response": {"uid": "u", "allowed": true}});
        let why = answer(body.to_string().as_bytes(), &hook("v1"), "u", false).unwrap_err();
        assert!(why.contains("got admission.k8s.io/v1beta1"), "{why}");
        assert!(answer(body.to_string().as_bytes(), &hook("v1beta1"), "other", false).unwrap().allowed.is_ok());
        assert!(answer(b"<html>", &hook("v1"), "u", false).is_err());
    }

    #[test_case(json!({}), 400, "denied the request without explanation")]
    #[test_case(json!({"status": {"message": "no", "code": 200, "status": "Success"}}), 400, "denied the request: no"; "success is none")]
    #[test_case(json!({"status": {"reason": "Forbidden", "code": 403}}), 403, "denied the request: Forbidden"; "a reason")]
    #[test_case(json!({"status": {"reason": "Teapot", "message": "tea", "code": 418}}), 418, "denied the request: tea"; "own code")]
    fn refused(mut response: Value, code: u16, ending: &str) {
        response["uid"] = "u".into();
        let status = answer(&review(response), &hook("v1"), "u", false).unwrap().allowed.unwrap_err();
        assert_eq!(status.code, code);
        assert_eq!(status.message, format!("admission webhook \"a.b.c\" {ending}"));
    }
}
