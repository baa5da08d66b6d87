//! An authorization webhook: a SubjectAccessReview sent, one back.
//!
//! **Invariant:** [`ANSWERS_MAX`] answers are kept, each for the time that its kind has; failures never are.
//! **Invariant:** a request that its conditions leave out is never sent.
//!
//! Rules: upstream `apiserver/plugin/pkg/authorizer/webhook`.

use std::time::Instant;

use serde_json::{Value, json};

use super::conditions;
use super::config::Webhook;
use crate::api::cel::Named;
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;
use crate::apiserver::auth::remote::Remote;
use crate::util::ttl::TtlCache;

/// Answers that are kept. Upstream's bound.
const ANSWERS_MAX: usize = 8192;
/// A question that is longer than this, bytes, is always asked anew: it is no usual one. Upstream's bound.
const KEPT_QUESTION_MAX: usize = 10_000;

/// A webhook that is asked.
pub struct Asked {
    config: Webhook,
    remote: Remote,
    answers: TtlCache<String, (Decision, String)>,
}

impl Asked {
    /// Over the way to it.
    pub fn new(config: Webhook, remote: Remote) -> Self {
        Self { config, remote, answers: TtlCache::new(ANSWERS_MAX) }
    }

    /// What it says, and why.
    pub async fn decide(&self, a: &Attributes, user: &UserInfo) -> (Decision, String) {
        let spec = conditions::spec(a, user);
        match self.is_asked_about(&spec) {
            Ok(true) => {}
            Ok(false) => return no_opinion(),
            Err(why) => return self.failed(&why),
        }
        let key = spec.to_string();
        if let Some(answer) = self.answers.get(&key, Instant::now()) {
            return answer;
        }
        let review = question(spec, &self.config.version);
        let answer = match self.remote.ask(&review, self.config.timeout).await {
            Ok(answer) => answer,
            Err(why) => return self.failed(&why.to_string()),
        };
        let decision = match read(&answer["status"]) {
            Ok(decision) => decision,
            Err(why) => return self.failed(why),
        };
        let ttl = if decision.0 == Decision::Allow { self.config.allowed_ttl } else { self.config.denied_ttl };
        if key.len() < KEPT_QUESTION_MAX {
            self.answers.put(key, decision.clone(), ttl, Instant::now());
        }
        decision
    }

    fn is_asked_about(&self, spec: &Value) -> Result<bool, String> {
        let conditions = &self.config.conditions;
        if conditions.is_empty() {
            return Ok(true);
        }
        conditions.hold(&Named(&[("request", conditions::value(spec))]))
    }

    /// What no answer means.
    pub fn failed(&self, why: &str) -> (Decision, String) {
        tracing::error!(webhook = self.config.name, "an authorization webhook gives no answer: {why}");
        match self.config.fails_closed {
            true => (Decision::Deny(String::new()), String::new()),
            false => no_opinion(),
        }
    }
}

fn no_opinion() -> (Decision, String) {
    (Decision::NoOpinion(String::new()), String::new())
}

fn question(mut spec: Value, version: &str) -> Value {
    if version == "v1beta1"
        && let Some(map) = spec.as_object_mut()
        && let Some(groups) = map.shift_remove("groups")
    {
        map.insert("group".into(), groups);
    }
    let version = format!("authorization.k8s.io/{version}");
    json!({"kind": "SubjectAccessReview", "apiVersion": version, "metadata": {}, "spec": spec})
}

fn read(status: &Value) -> Result<(Decision, String), &'static str> {
    let reason = status.str_at("/reason").unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Err("it returned both allow and deny"),
        (true, false) => Ok((Decision::Allow, reason)),
        (false, true) => Ok((Decision::Deny(reason.clone()), reason)),
        (false, false) if !status.is_object() => Err("its answer has no status"),
        (false, false) => Ok((Decision::NoOpinion(reason.clone()), reason)),
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(json!({"allowed": true, "reason": "r"}), Ok(Decision::Allow))]
    #[test_case(json!({"allowed": false, "denied": true, "reason": "r"}), Ok(Decision::Deny("r".into())))]
    #[test_case(json!({"allowed": false, "reason": "r"}), Ok(Decision::NoOpinion("r".into())))]
    #[test_case(json!({"allowed": true, "denied": true}), Err("it returned both allow and deny"))]
    #[test_case(Value::Null, Err("its answer has no status"))]
    fn answers(status: Value, want: Result<Decision, &str>) {
        assert_eq!(read(&status).map(|(d, _)| d), want);
    }

    #[test]
    fn questions_are_reviews() {
        let a = Attributes {
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "n".into(),
            field_selector: "spec.nodeName=x".into(),
            label_selector: "a in (b,c)".into(),
            ..Attributes::default()
        };
        let spec = conditions::spec(&a, &UserInfo::authenticated("jane", &[]));
        assert_eq!(
            spec,
            json!({
                "user": "jane", "groups": ["system:authenticated"],
                "resourceAttributes": {
                    "namespace": "n", "verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["x"]}]},
                    "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}]},
                },
            })
        );
        assert_eq!(question(spec.clone(), "v1")["spec"], spec);
        let old = question(spec, "v1beta1");
        assert_eq!((&old["spec"]["group"][0], old["spec"].get("groups")), (&json!("system:authenticated"), None));
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        let spec = conditions::spec(&path, &UserInfo::anonymous());
        assert_eq!(spec["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    }

    #[test_case("has(request.resourceAttributes) && request.resourceAttributes.namespace == 'n'", true)]
    #[test_case("request.user == 'jane' && request.uid == ''", true)]
    #[test_case("request.resourceAttributes.subresource == ''", true)]
    #[test_case("'x' in request.groups", false)]
    #[test_case("has(request.nonResourceAttributes)", false)]
    #[test_case(
        "request.resourceAttributes.labelSelector.requirements.exists(r, r.key == 'a' && 'b' in r.values)",
        true
    )]
    fn conditions_see_the_review(text: &str, want: bool) {
        conditions::check(text).unwrap();
        let of = json!({"matchConditions": [{"expression": text}]});
        let all = crate::admission::policy::Conditions::new(&of, &conditions::env());
        let a = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "n".into(),
            label_selector: "a=b".into(),
            ..Attributes::default()
        };
        let spec = conditions::spec(&a, &UserInfo::authenticated("jane", &[]));
        assert_eq!(all.hold(&Named(&[("request", conditions::value(&spec))])), Ok(want));
    }
}
