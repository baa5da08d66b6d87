//! The reviews: kinds that are asked and answered but never stored. Bodies in, bodies with a status out.
//!
//! Pure but for [`token_review`], which asks the token authenticators.
//! Rules: upstream `pkg/registry/{authorization,authentication}` and `pkg/apis/authorization/validation`.

use serde_json::{Map, Value, json};

use super::authn::{AuthError, BearerTokens, with_authenticated_group};
use super::modes::selectors;
use super::rbac::Rbac;
use crate::api::status::{ApiResult, Cause, Status};
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;

const AUTHORIZATION: &str = "authorization.k8s.io";

/// Which of the three access reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// SubjectAccessReview: anybody, anywhere.
    Subject,
    /// LocalSubjectAccessReview: anybody, in the namespace of the request.
    Local,
    /// SelfSubjectAccessReview: the caller.
    Own,
}

impl Access {
    fn kind(self) -> &'static str {
        match self {
            Self::Subject => "SubjectAccessReview",
            Self::Local => "LocalSubjectAccessReview",
            Self::Own => "SelfSubjectAccessReview",
        }
    }
}

/// What an access review asks, and about whom. `namespace` is the request's, for [`Access::Local`].
pub fn access_question(
    which: Access,
    body: &Value,
    namespace: &str,
    caller: &UserInfo,
) -> ApiResult<(Attributes, UserInfo)> {
    let causes = validate(which, body, namespace);
    if !causes.is_empty() {
        // Upstream names no kind here.
        return Err(Status::invalid(AUTHORIZATION, "", "", causes));
    }
    if which == Access::Local && body.str_at("/metadata/namespace").is_some_and(|n| !n.is_empty() && n != namespace) {
        return Err(Status::bad_request("the namespace of the object does not match the namespace on the request"));
    }
    let spec = &body["spec"];
    let user = match which {
        Access::Own => caller.clone(),
        _ => subject_of(spec, "/user"),
    };
    Ok((attributes(spec), user))
}

/// The review with its answer.
pub fn access_answer(which: Access, body: &Value, (decision, reason): (Decision, String)) -> Value {
    let mut status = Map::new();
    status.insert("allowed".into(), (decision == Decision::Allow).into());
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied".into(), true.into());
    }
    if !reason.is_empty() {
        status.insert("reason".into(), reason.into());
    }
    answered(body, AUTHORIZATION, which.kind(), status.into())
}

fn answered(body: &Value, group: &str, kind: &str, status: Value) -> Value {
    let mut out = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {}});
    for field in ["metadata", "spec"] {
        if let Some(value) = body.get(field).filter(|v| !v.is_null()) {
            out[field] = value.clone();
        }
    }
    out["status"] = status;
    out
}

/// A user that a review names; his name stands at `name`.
pub(super) fn subject_of(spec: &Value, name: &str) -> UserInfo {
    let texts =
        |v: &Value| -> Vec<String> { v.items_at("").iter().filter_map(|t| t.as_str().map(str::to_owned)).collect() };
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: spec.str_at(name).unwrap_or_default().into(),
        uid: spec.str_at("/uid").unwrap_or_default().into(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(k, v)| (k.to_lowercase(), texts(v))).collect(),
    }
}

fn attributes(spec: &Value) -> Attributes {
    let text = |path: &str| spec.str_at(path).unwrap_or_default().to_owned();
    if !is_set(spec, "resourceAttributes") {
        return Attributes {
            verb: text("/nonResourceAttributes/verb"),
            path: text("/nonResourceAttributes/path"),
            ..Attributes::default()
        };
    }
    let at = |field: &str| text(&format!("/resourceAttributes/{field}"));
    Attributes {
        verb: at("verb"),
        group: at("group"),
        version: at("version"),
        resource: at("resource"),
        subresource: at("subresource"),
        namespace: at("namespace"),
        name: at("name"),
        path: String::new(),
        field_selector: selectors::text(&spec["resourceAttributes"]["fieldSelector"], true),
        label_selector: selectors::text(&spec["resourceAttributes"]["labelSelector"], false),
    }
}

fn is_set(spec: &Value, field: &str) -> bool {
    spec.get(field).is_some_and(|v| !v.is_null())
}

fn validate(which: Access, body: &Value, namespace: &str) -> Vec<Cause> {
    let spec = &body["spec"];
    let mut causes = Vec::new();
    let mut outside = Vec::new();
    let mut invalid = |field: &str, value: String, why: &str| {
        let message = format!("Invalid value: {value}: {why}");
        causes.push(Cause { reason: "FieldValueInvalid", message, field: format!("spec.{field}") });
    };
    let (resource, path) = (is_set(spec, "resourceAttributes"), is_set(spec, "nonResourceAttributes"));
    let go_path = || {
        let text = |p: &str| spec.str_at(p).unwrap_or_default().to_owned();
        json!({"Path": text("/nonResourceAttributes/path"), "Verb": text("/nonResourceAttributes/verb")}).to_string()
    };
    if which != Access::Own
        && spec.str_at("/user").unwrap_or_default().is_empty()
        && spec.items_at("/groups").is_empty()
    {
        invalid("user", "\"\"".into(), "at least one of user or group must be specified");
    }
    let named = body["metadata"].as_object().is_some_and(|m| {
        let allowed = |k: &str| k == "managedFields" || k == "namespace" && which == Access::Local;
        m.iter().any(|(k, v)| !v.is_null() && !allowed(k))
    });
    if named {
        outside.push(("metadata", body["metadata"].to_string(), "must be empty"));
    }
    if which == Access::Local {
        if path {
            invalid("nonResourceAttributes", go_path(), "disallowed on this kind of request");
        } else if !resource {
            invalid(
                "resourceAttributes",
                "null".into(),
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
        } else if spec.str_at("/resourceAttributes/namespace").unwrap_or_default() != namespace {
            let value = spec.str_at("/resourceAttributes/namespace").unwrap_or_default();
            invalid("resourceAttributes.namespace", format!("{value:?}"), "must match metadata.namespace");
        }
    } else if resource && path {
        invalid("nonResourceAttributes", go_path(), "cannot be specified in combination with resourceAttributes");
    } else if !resource && !path {
        invalid(
            "resourceAttributes",
            "null".into(),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let value = &spec["resourceAttributes"][selector];
        let raw = value.str_at("/rawSelector").unwrap_or_default();
        if !raw.is_empty() && !value.items_at("/requirements").is_empty() {
            let field = format!("resourceAttributes.{selector}.rawSelector");
            invalid(&field, format!("{raw:?}"), "may not specified at the same time as requirements");
        }
    }
    causes.extend(outside.into_iter().map(|(field, value, why)| Cause {
        reason: "FieldValueInvalid",
        message: format!("Invalid value: {value}: {why}"),
        field: field.into(),
    }));
    causes
}

/// Answers a SelfSubjectReview: the caller as the server sees it.
pub fn self_subject_review(caller: &UserInfo, now: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": now}, "status": {"userInfo": user_value(caller)},
    })
}

/// A user as `authentication.k8s.io/v1 UserInfo`; what is empty is left out.
pub fn user_value(user: &UserInfo) -> Value {
    let mut out = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            out.insert(field.into(), text.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        out.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        out.insert("extra".into(), json!(user.extra));
    }
    Value::Object(out)
}

/// Answers a SelfSubjectRulesReview. Where webhooks decide too, nobody knows all that is allowed.
pub fn self_subject_rules_review(body: &Value, caller: &UserInfo, rbac: &Rbac, webhooks: bool) -> ApiResult<Value> {
    let namespace = body.str_at("/spec/namespace").unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rbac.rules_for(caller, namespace) {
        let value = rule.to_value();
        if !rule.resources.is_empty() {
            let mut one = value.clone();
            one.remove_at("/nonResourceURLs");
            resources.push(one);
        }
        if !rule.urls.is_empty() {
            paths.push(json!({"verbs": value["verbs"], "nonResourceURLs": value["nonResourceURLs"]}));
        }
    }
    if caller.in_group(UserInfo::MASTERS) && resources.is_empty() {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": webhooks});
    if webhooks {
        status["evaluationError"] = "webhook authorizer does not support user rule resolution".into();
    }
    let mut out = answered(body, AUTHORIZATION, "SelfSubjectRulesReview", status);
    // Upstream gives the question back empty.
    out["spec"] = json!({});
    Ok(out)
}

/// Answers a TokenReview.
pub async fn token_review(body: &Value, tokens: &BearerTokens) -> ApiResult<Value> {
    let token = body.str_at("/spec/token").unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> =
        body.items_at("/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let wanted = if asked.is_empty() { &tokens.audiences } else { &asked };
    let status = match tokens.user(token, wanted).await {
        Ok(found) => {
            let mut status = json!({"authenticated": true, "user": user_value(&with_authenticated_group(found.user))});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
        Err(AuthError(why)) => json!({"user": {}, "error": why}),
    };
    Ok(answered(body, "authentication.k8s.io", "TokenReview", status))
}
