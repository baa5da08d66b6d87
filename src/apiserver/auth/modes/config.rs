//! `apiserver.config.k8s.io AuthorizationConfiguration`: who is asked whether a request may be done, in which order. Pure.
//!
//! Rules: upstream `apiserver/pkg/apis/apiserver/validation`. Beside them: Node and RBAC have to be among the authorizers,
//! because orch's own parts are authorized by them, and nothing turns authorization off.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::conditions;
use crate::admission::policy::Conditions;
use crate::api::meta::names;
use crate::api::value::ValueExt;

/// Expressions of one webhook. Upstream's bound.
const CONDITIONS_MAX: usize = 64;
/// Longest time that a webhook may be given. Upstream's.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// One that is asked.
#[derive(Debug)]
pub enum Mode {
    /// What kubelets need of what is bound to their node.
    Node,
    /// Roles.
    Rbac,
    /// Nobody may anything that was not allowed before.
    AlwaysDeny,
    /// A webhook.
    Webhook(Webhook),
}

/// A webhook, as it is configured.
#[derive(Debug)]
pub struct Webhook {
    /// Its name, for the log.
    pub name: String,
    /// A kubeconfig.
    pub file: PathBuf,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes is kept.
    pub allowed_ttl: Duration,
    /// How long anything else is.
    pub denied_ttl: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// No answer is a no; otherwise the next one is asked.
    pub fails_closed: bool,
    /// Which requests it is asked about: those for which all hold.
    pub conditions: Conditions,
}

/// Why there are no authorizers as asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn wrong<T>(at: &str, why: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{at}: {why}")))
}

/// Upstream's default.
pub fn default_modes() -> Vec<Mode> {
    vec![Mode::Node, Mode::Rbac]
}

/// Reads a configuration file's text, YAML or JSON.
pub fn parse(text: &str) -> Result<Vec<Mode>, ConfigError> {
    let value: Value = serde_yaml::from_str(text).map_err(|e| ConfigError(format!("is no YAML: {e}")))?;
    let version = value.str_at("/apiVersion").unwrap_or_default();
    let known = ["v1", "v1beta1", "v1alpha1"].iter().any(|v| version == format!("apiserver.config.k8s.io/{v}"));
    if value.str_at("/kind") != Some("AuthorizationConfiguration") || !known {
        return wrong("kind", "must be AuthorizationConfiguration of apiserver.config.k8s.io/v1");
    }
    only(&value, "file", &["apiVersion", "kind", "authorizers"])?;
    let mut modes = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, one) in value.items_at("/authorizers").iter().enumerate() {
        let at = format!("authorizers[{i}]");
        only(one, &at, &["type", "name", "webhook"])?;
        let (kind, name) = (one.str_at("/type").unwrap_or_default(), one.str_at("/name").unwrap_or_default());
        if let Some(why) = names::dns1123_subdomain(name).into_iter().next() {
            return wrong(&format!("{at}.name"), format!("authorizer name is invalid: {why}"));
        }
        if !seen.insert(name.to_owned()) {
            return wrong(&format!("{at}.name"), format!("{name:?} stands twice"));
        }
        let webhook = &one["webhook"];
        if kind != "Webhook" && !webhook.is_null() {
            return wrong(&format!("{at}.webhook"), "may only be specified when type=Webhook");
        }
        modes.push(match kind {
            "Webhook" if webhook.is_null() => return wrong(&format!("{at}.webhook"), "required when type=Webhook"),
            "Webhook" => Mode::Webhook(Webhook::parse(webhook, &format!("{at}.webhook"), name)?),
            kind => plain(kind).map_err(|why| ConfigError(format!("{at}.type: {why}")))?,
        });
    }
    checked(modes)
}

/// What `--authorization-mode` names; `webhook` is what the other flags say of one.
pub fn from_flags(list: &[String], mut webhook: Option<Webhook>) -> Result<Vec<Mode>, ConfigError> {
    let mut modes = Vec::new();
    for name in list {
        modes.push(match name.as_str() {
            "Webhook" => match webhook.take() {
                Some(webhook) => Mode::Webhook(webhook),
                None => {
                    return wrong(
                        "--authorization-mode",
                        "Webhook needs --authorization-webhook-config-file, and stands once",
                    );
                }
            },
            name => plain(name).map_err(|why| ConfigError(format!("--authorization-mode: {why}")))?,
        });
    }
    if webhook.is_some() {
        return wrong("--authorization-webhook-config-file", "needs Webhook among --authorization-mode");
    }
    checked(modes)
}

fn plain(kind: &str) -> Result<Mode, String> {
    match kind {
        "Node" => Ok(Mode::Node),
        "RBAC" => Ok(Mode::Rbac),
        "AlwaysDeny" => Ok(Mode::AlwaysDeny),
        "AlwaysAllow" => {
            Err("AlwaysAllow would turn authorization off; bind a role to those who may everything".into())
        }
        other => Err(format!("{other:?} is none of Node, RBAC, Webhook, AlwaysDeny")),
    }
}

fn checked(modes: Vec<Mode>) -> Result<Vec<Mode>, ConfigError> {
    let count = |wanted: fn(&Mode) -> bool| modes.iter().filter(|m| wanted(m)).count();
    match (count(|m| matches!(m, Mode::Node)), count(|m| matches!(m, Mode::Rbac))) {
        (1, 1) => Ok(modes),
        _ => Err(ConfigError(
            "Node and RBAC have to be among the authorizers, once each: orch's own parts need them".into(),
        )),
    }
}

impl Webhook {
    /// Of the file's `webhook`.
    fn parse(value: &Value, at: &str, name: &str) -> Result<Self, ConfigError> {
        only(
            value,
            at,
            &[
                "authorizedTTL",
                "unauthorizedTTL",
                "cacheAuthorizedRequests",
                "cacheUnauthorizedRequests",
                "timeout",
                "subjectAccessReviewVersion",
                "matchConditionSubjectAccessReviewVersion",
                "failurePolicy",
                "connectionInfo",
                "matchConditions",
            ],
        )?;
        let text = |name: &str| value.str_at(&format!("/{name}")).unwrap_or_default();
        let time = |name: &str| {
            duration(text(name)).map_or_else(|| wrong(&format!("{at}.{name}"), "must be a time above 0s"), Ok)
        };
        let timeout = time("timeout")?;
        if timeout > TIMEOUT_MAX {
            return wrong(&format!("{at}.timeout"), "must be > 0s and <= 30s");
        }
        let version = text("subjectAccessReviewVersion").to_owned();
        if !matches!(version.as_str(), "v1" | "v1beta1") {
            return wrong(&format!("{at}.subjectAccessReviewVersion"), "must be v1 or v1beta1");
        }
        let has_conditions = !value.items_at("/matchConditions").is_empty();
        if has_conditions && text("matchConditionSubjectAccessReviewVersion") != "v1" {
            return wrong(
                &format!("{at}.matchConditionSubjectAccessReviewVersion"),
                "must be v1 where there are match conditions",
            );
        }
        let fails_closed = match text("failurePolicy") {
            "Deny" => true,
            "NoOpinion" => false,
            _ => return wrong(&format!("{at}.failurePolicy"), "must be NoOpinion or Deny"),
        };
        let connection = &value["connectionInfo"];
        only(connection, &format!("{at}.connectionInfo"), &["type", "kubeConfigFile"])?;
        let file = PathBuf::from(connection.str_at("/kubeConfigFile").unwrap_or_default());
        if connection.str_at("/type") != Some("KubeConfigFile") || !file.is_absolute() {
            return wrong(
                &format!("{at}.connectionInfo"),
                "must be of type KubeConfigFile, with the absolute path of one",
            );
        }
        // A flag of its own for what a time of zero says.
        let kept = |flag: &str, ttl: Duration| if value[flag] == false { Duration::ZERO } else { ttl };
        Ok(Self {
            name: name.to_owned(),
            file,
            version,
            allowed_ttl: kept("cacheAuthorizedRequests", time("authorizedTTL")?),
            denied_ttl: kept("cacheUnauthorizedRequests", time("unauthorizedTTL")?),
            timeout,
            fails_closed,
            conditions: match_conditions(value, at)?,
        })
    }
}

fn match_conditions(value: &Value, at: &str) -> Result<Conditions, ConfigError> {
    let all = value.items_at("/matchConditions");
    if all.len() > CONDITIONS_MAX {
        return wrong(&format!("{at}.matchConditions"), format!("must have at most {CONDITIONS_MAX} items"));
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in all.iter().enumerate() {
        let at = format!("{at}.matchConditions[{i}]");
        only(condition, &at, &["expression"])?;
        let text = condition.str_at("/expression").unwrap_or_default().trim();
        if text.is_empty() || !seen.insert(text) {
            return wrong(&format!("{at}.expression"), "is required, and stands once");
        }
        if let Err(why) = conditions::check(text) {
            return wrong(&format!("{at}.expression"), why);
        }
    }
    Ok(Conditions::new(value, &conditions::env()))
}

fn only(value: &Value, at: &str, known: &[&str]) -> Result<(), ConfigError> {
    let Some(map) = value.as_object() else { return wrong(at, "must be a map") };
    match map.keys().find(|k| !known.contains(&k.as_str())) {
        Some(other) => wrong(at, format!("unknown field {other:?}")),
        None => Ok(()),
    }
}

/// A time above zero, as Go writes it.
fn duration(text: &str) -> Option<Duration> {
    let time = text.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(time).ok().filter(|d| !d.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn file(change: impl FnOnce(&mut Value)) -> Result<Vec<Mode>, ConfigError> {
        let mut value = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [
                {"type": "Webhook", "name": "first", "webhook": {
                    "timeout": "3s", "authorizedTTL": "5m", "unauthorizedTTL": "30s", "subjectAccessReviewVersion": "v1",
                    "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/etc/k"},
                    "matchConditions": [{"expression": "has(request.resourceAttributes)"}],
                }},
                {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"},
            ],
        });
        change(&mut value);
        parse(&value.to_string())
    }

    #[test]
    fn a_file_says_who_is_asked() {
        let modes = file(|_| {}).unwrap();
        let Mode::Webhook(first) = &modes[0] else { panic!("{modes:?}") };
        assert_eq!((first.name.as_str(), first.fails_closed, first.timeout), ("first", true, Duration::from_secs(3)));
        assert_eq!((first.allowed_ttl, first.denied_ttl), (Duration::from_secs(300), Duration::from_secs(30)));
        assert!(matches!(modes[1..], [Mode::Node, Mode::Rbac]));
        let modes = file(|v| v["authorizers"][0]["webhook"]["cacheAuthorizedRequests"] = false.into()).unwrap();
        assert!(matches!(&modes[0], Mode::Webhook(w) if w.allowed_ttl.is_zero()));
    }

    #[test_case("/authorizers/1", json!({"type": "AlwaysAllow", "name": "all"}), "would turn authorization off")]
    #[test_case("/authorizers/1", json!({"type": "ABAC", "name": "all"}), "is none of Node, RBAC")]
    #[test_case("/authorizers/1", json!({"type": "RBAC", "name": "again"}), "Node and RBAC have to be among")]
    #[test_case("/authorizers/1/name", json!("rbac"), "authorizers[2].name: \"rbac\" stands twice")]
    #[test_case("/authorizers/1/name", json!("A_"), "authorizers[1].name: authorizer name is invalid")]
    #[test_case("/authorizers/1/webhook", json!({}), "may only be specified when type=Webhook")]
    #[test_case("/authorizers/0/webhook", Value::Null, "required when type=Webhook")]
    #[test_case("/authorizers/0/webhook/timeout", json!("31s"), "must be > 0s and <= 30s")]
    #[test_case("/authorizers/0/webhook/authorizedTTL", json!("0s"), "authorizedTTL: must be a time above 0s")]
    #[test_case("/authorizers/0/webhook/failurePolicy", json!("Ignore"), "must be NoOpinion or Deny")]
    #[test_case("/authorizers/0/webhook/subjectAccessReviewVersion", json!("v2"), "must be v1 or v1beta1")]
    #[test_case("/authorizers/0/webhook/connectionInfo/kubeConfigFile", json!("k"), "the absolute path of one")]
    #[test_case("/authorizers/0/webhook/matchConditions", json!([{"expression": "request.nope == ''"}]), "matchConditions[0].expression: ")]
    #[test_case("/authorizers/0/webhook/matchConditions", json!([{"expression": "request.user"}]), "must evaluate to bool")]
    #[test_case("/authorizers/0/webhook/more", json!(1), "unknown field \"more\"")]
    fn what_is_no_configuration_is_told(path: &str, to: Value, why: &str) {
        let told = file(|v| v.set_at(path, to)).unwrap_err().0;
        assert!(told.contains(why), "{told}");
    }

    #[test_case(&["Node", "RBAC"], Ok(2))]
    #[test_case(&["Node", "RBAC", "AlwaysDeny"], Ok(3))]
    #[test_case(&["RBAC"], Err("Node and RBAC have to be"))]
    #[test_case(&["AlwaysAllow"], Err("turn authorization off"))]
    #[test_case(&["Node", "RBAC", "Webhook"], Err("needs --authorization-webhook-config-file"))]
    fn flags_name_modes(list: &[&str], want: Result<usize, &str>) {
        let list: Vec<String> = list.iter().map(|t| (*t).to_owned()).collect();
        match (from_flags(&list, None), want) {
            (got, Ok(count)) => assert_eq!(got.unwrap().len(), count),
            (got, Err(why)) => assert!(got.unwrap_err().0.contains(why)),
        }
    }
}
