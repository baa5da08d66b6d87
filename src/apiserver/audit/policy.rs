//! `audit.k8s.io/v1 Policy`: how much of which requests is kept. Pure.
//!
//! Rules: upstream `apiserver/pkg/audit/policy` and `apis/audit/validation`: the first rule that matches counts, and what
//! none matches is not kept.

use serde_json::Value;

use crate::api::user::{Attributes, UserInfo};
use crate::api::value::ValueExt;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and how it went.
    Metadata,
    /// The body of the request, too.
    Request,
    /// That of the answer, too.
    RequestResponse,
}

impl Level {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Metadata, Self::Request, Self::RequestResponse].into_iter().find(|l| l.name() == text)
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It came, and nobody has looked at it.
    RequestReceived,
    /// The head of its answer went out; only of long-running requests.
    ResponseStarted,
    /// All of its answer went out.
    ResponseComplete,
    /// The server failed in the middle.
    Panic,
}

impl Stage {
    const ALL: [Self; 4] = [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What a policy says of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How much is kept.
    pub level: Level,
    omitted: [bool; 4],
    /// Bodies are kept without managed fields.
    pub omit_managed_fields: bool,
}

impl Verdict {
    /// True when events of a stage are kept.
    pub fn keeps(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted[stage as usize]
    }
}

/// A group with some of its resources.
#[derive(Debug, Default)]
struct Group {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Group>,
    namespaces: Vec<String>,
    urls: Vec<String>,
}

/// A policy.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    otherwise: Verdict,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

const RULE_FIELDS: &[&str] = &[
    "level",
    "users",
    "userGroups",
    "verbs",
    "resources",
    "namespaces",
    "nonResourceURLs",
    "omitStages",
    "omitManagedFields",
];

impl Policy {
    /// Reads a file's text, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let value: Value = serde_yaml::from_str(text).map_err(|e| PolicyError(format!("is no YAML: {e}")))?;
        if value.str_at("/apiVersion") != Some("audit.k8s.io/v1") || value.str_at("/kind") != Some("Policy") {
            return Err(PolicyError("must be a Policy of audit.k8s.io/v1".into()));
        }
        only(&value, "", &["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"])?;
        let omitted = stages(&value, "")?;
        let base = Verdict { level: Level::None, omitted, omit_managed_fields: value["omitManagedFields"] == true };
        let rules = value.items_at("/rules");
        if rules.is_empty() {
            return Err(PolicyError("rules: a policy without rules keeps nothing; leave the flag away instead".into()));
        }
        let rules = rules.iter().enumerate().map(|(i, r)| Rule::parse(r, &format!("rules[{i}]"), base));
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, otherwise: base })
    }

    /// What is to be kept of a request.
    pub fn judge(&self, user: &UserInfo, a: &Attributes) -> Verdict {
        self.rules.iter().find(|r| r.matches(user, a)).map_or(self.otherwise, |r| r.verdict)
    }
}

impl Rule {
    fn parse(value: &Value, at: &str, base: Verdict) -> Result<Self, PolicyError> {
        only(value, at, RULE_FIELDS)?;
        let text = value.str_at("/level").unwrap_or_default();
        let level = Level::parse(text).ok_or_else(|| {
            PolicyError(format!("{at}.level: {text:?} is none of None, Metadata, Request, RequestResponse"))
        })?;
        let own = stages(value, at)?;
        let omitted = std::array::from_fn(|i| own[i] || base.omitted[i]);
        let omit_managed_fields = value["omitManagedFields"].as_bool().unwrap_or(base.omit_managed_fields);
        let mut resources = Vec::new();
        for (i, group) in value.items_at("/resources").iter().enumerate() {
            let at = format!("{at}.resources[{i}]");
            only(group, &at, &["group", "resources", "resourceNames"])?;
            let found = Group {
                group: group.str_at("/group").unwrap_or_default().to_owned(),
                resources: texts(group, "resources"),
                names: texts(group, "resourceNames"),
            };
            if !found.names.is_empty() && found.resources.is_empty() {
                return Err(PolicyError(format!("{at}.resourceNames: needs resources beside it")));
            }
            resources.push(found);
        }
        let (namespaces, urls) = (texts(value, "namespaces"), texts(value, "nonResourceURLs"));
        let of_resources = !resources.is_empty() || !namespaces.is_empty();
        if of_resources && !urls.is_empty() {
            return Err(PolicyError(format!(
                "{at}.nonResourceURLs: a rule is for resources or for URLs, not for both"
            )));
        }
        for url in &urls {
            let star = url.find('*').is_some_and(|i| i + 1 != url.len());
            if url != "*" && (!url.starts_with('/') || star) {
                return Err(PolicyError(format!(
                    "{at}.nonResourceURLs: {url:?} is no path, or has a * before its end"
                )));
            }
        }
        Ok(Self {
            verdict: Verdict { level, omitted, omit_managed_fields },
            users: texts(value, "users"),
            groups: texts(value, "userGroups"),
            verbs: texts(value, "verbs"),
            resources,
            namespaces,
            urls,
        })
    }

    fn matches(&self, user: &UserInfo, a: &Attributes) -> bool {
        let one_of = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
        if !one_of(&self.users, &user.name) || !one_of(&self.verbs, &a.verb) {
            return false;
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|g| user.in_group(g)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return a.is_resource()
                && one_of(&self.namespaces, &a.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|g| g.matches(a)));
        }
        self.urls.is_empty() || !a.is_resource() && self.urls.iter().any(|u| path_matches(u, &a.path))
    }
}

impl Group {
    fn matches(&self, a: &Attributes) -> bool {
        if self.group != a.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.names.is_empty() || self.names.contains(&a.name);
        named
            && self.resources.iter().any(|pattern| match pattern.split_once('/') {
                None => pattern == "*" || a.subresource.is_empty() && *pattern == a.resource,
                Some(("*", sub)) => !a.subresource.is_empty() && sub == a.subresource,
                Some((resource, "*")) => resource == a.resource,
                Some((resource, sub)) => resource == a.resource && sub == a.subresource,
            })
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn texts(value: &Value, member: &str) -> Vec<String> {
    value.items_at(&format!("/{member}")).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn stages(value: &Value, at: &str) -> Result<[bool; 4], PolicyError> {
    let mut out = [false; 4];
    for text in texts(value, "omitStages") {
        match Stage::ALL.iter().find(|s| s.name() == text) {
            Some(stage) => out[*stage as usize] = true,
            None => {
                return Err(PolicyError(
                    format!("{at}.omitStages: {text:?} is no stage").trim_start_matches('.').into(),
                ));
            }
        }
    }
    Ok(out)
}

/// Refuses members that are not known: a misspelt one would change what is kept.
fn only(value: &Value, at: &str, known: &[&str]) -> Result<(), PolicyError> {
    let Some(map) = value.as_object() else { return Err(PolicyError(format!("{at}: must be a map"))) };
    match map.keys().find(|k| !known.contains(&k.as_str())) {
        Some(other) => Err(PolicyError(format!("{at}: unknown field {other:?}").trim_start_matches(": ").into())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints, services]}]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", /version]}
- {level: Request, resources: [{group: "", resources: [configmaps]}], namespaces: [kube-system]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps]}]}
- {level: Request, verbs: [get], resources: [{group: "", resources: ["pods/*"]}], omitManagedFields: false}
- {level: RequestResponse, resources: [{group: apps, resources: ["*/scale", deployments], resourceNames: [web]}]}
- {level: None, namespaces: [""]}
- {level: Metadata, omitStages: [ResponseStarted]}
"#;

    fn asks(verb: &str, what: &str, namespace: &str, name: &str) -> Attributes {
        let mut a =
            Attributes { verb: verb.into(), namespace: namespace.into(), name: name.into(), ..Default::default() };
        if what.starts_with('/') {
            a.path = what.into();
            return a;
        }
        let (group, rest) = what.split_once(':').unwrap();
        let (resource, sub) = rest.split_once('/').unwrap_or((rest, ""));
        (a.group, a.resource, a.subresource) = (group.into(), resource.into(), sub.into());
        a
    }

    #[test_case("system:kube-proxy", asks("watch", ":services", "", ""), Level::None)]
    #[test_case("jane", asks("get", "/api/v1", "", ""), Level::None; "a prefix")]
    #[test_case("jane", asks("get", "/metrics", "", ""), Level::Metadata; "another path")]
    #[test_case("jane", asks("get", ":configmaps", "kube-system", "a"), Level::Request)]
    #[test_case("jane", asks("get", ":configmaps", "n", "a"), Level::Metadata; "another namespace")]
    #[test_case("jane", asks("get", ":secrets", "n", "a"), Level::Metadata)]
    #[test_case("jane", asks("get", ":pods/log", "n", "a"), Level::Request; "any subresource")]
    #[test_case("jane", asks("get", ":pods", "n", "a"), Level::Request; "and the resource itself")]
    #[test_case("jane", asks("update", "apps:statefulsets/scale", "n", "web"), Level::RequestResponse; "scale of anything")]
    #[test_case("jane", asks("update", "apps:deployments", "n", "web"), Level::RequestResponse; "by its name")]
    #[test_case("jane", asks("update", "apps:deployments", "n", "db"), Level::Metadata; "another name")]
    #[test_case("jane", asks("get", ":nodes", "", "a"), Level::None; "in no namespace")]
    fn the_first_rule_that_matches_counts(user: &str, a: Attributes, want: Level) {
        let policy = Policy::parse(POLICY).unwrap();
        let verdict = policy.judge(&UserInfo::authenticated(user, &[]), &a);
        assert_eq!(verdict.level, want);
        assert!(!verdict.keeps(Stage::RequestReceived));
        assert_eq!(verdict.keeps(Stage::ResponseComplete), want > Level::None);
        assert_eq!(verdict.omit_managed_fields, !a.resource.starts_with("pods"));
    }

    #[test]
    fn stages_are_left_out_by_the_policy_and_by_the_rule() {
        let policy = Policy::parse(POLICY).unwrap();
        let of = |a| policy.judge(&UserInfo::authenticated("jane", &[]), &a).keeps(Stage::ResponseStarted);
        assert!(of(asks("watch", ":secrets", "n", "")) && !of(asks("watch", "batch:jobs", "n", "")));
    }

    #[test_case("kind: Policy", "must be a Policy of audit.k8s.io/v1")]
    #[test_case("rules: []", "rules: a policy without rules")]
    #[test_case("rules: [{level: All}]", "rules[0].level: \"All\" is none of")]
    #[test_case("rules: [{level: None, user: [a]}]", "rules[0]: unknown field \"user\"")]
    #[test_case("rules: [{level: None, omitStages: [Later]}]", "rules[0].omitStages: \"Later\" is no stage")]
    #[test_case("rules: [{level: None, nonResourceURLs: [a]}]", "\"a\" is no path")]
    #[test_case("rules: [{level: None, nonResourceURLs: ['/a*b']}]", "has a * before its end")]
    #[test_case("rules: [{level: None, nonResourceURLs: [/a], namespaces: [n]}]", "for resources or for URLs")]
    #[test_case("rules: [{level: None, resources: [{group: '', resourceNames: [a]}]}]", "needs resources beside it")]
    fn what_is_no_policy_is_told(text: &str, why: &str) {
        let text = match text.starts_with("rules") {
            true => format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}"),
            false => text.to_owned(),
        };
        let told = Policy::parse(&text).unwrap_err().0;
        assert!(told.contains(why), "{told}");
    }
}
