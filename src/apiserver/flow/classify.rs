//! Which FlowSchema a request belongs to. Pure.
//!
//! Rules: upstream `apiserver/pkg/util/flowcontrol/rule.go` and the API reference of FlowSchemas.

use serde_json::Value;

use crate::api::user::{Attributes, UserInfo};
use crate::api::value::ValueExt;

/// Anything.
const ALL: &str = "*";

/// What makes requests of one schema one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// They are all one.
    Nothing,
    /// Who asks.
    User,
    /// The namespace.
    Namespace,
}

/// A FlowSchema, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The name of its priority level.
    pub level: String,
    /// The lower, the earlier it is asked.
    pub precedence: i64,
    /// What tells flows apart.
    pub by: By,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, Clone, PartialEq)]
enum Subject {
    User(String),
    Group(String),
    Account { prefix: String, name: String },
}

#[derive(Debug, Clone, PartialEq)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Paths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn texts(v: &Value, member: &str) -> Vec<String> {
    let all = v.get(member).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Schema {
    /// From a FlowSchema.
    pub fn of(object: &Value) -> Self {
        let text = |at: &str| object.str_at(at).unwrap_or_default().to_owned();
        Self {
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            level: text("/spec/priorityLevelConfiguration/name"),
            precedence: object.int_at("/spec/matchingPrecedence").unwrap_or(1000),
            by: match object.str_at("/spec/distinguisherMethod/type") {
                Some("ByUser") => By::User,
                Some("ByNamespace") => By::Namespace,
                _ => By::Nothing,
            },
            rules: object.items_at("/spec/rules").iter().map(Rule::of).collect(),
        }
    }

    /// True for requests of it.
    pub fn matches(&self, user: &UserInfo, a: &Attributes) -> bool {
        self.rules.iter().any(|r| r.matches(user, a))
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let subject = |s: &Value| {
            let text = |at: &str| s.str_at(at).unwrap_or_default().to_owned();
            match s.str_at("/kind")? {
                "User" => Some(Subject::User(text("/user/name"))),
                "Group" => Some(Subject::Group(text("/group/name"))),
                "ServiceAccount" => Some(Subject::Account {
                    prefix: format!("system:serviceaccount:{}:", text("/serviceAccount/namespace")),
                    name: text("/serviceAccount/name"),
                }),
                _ => None,
            }
        };
        let resources = |r: &Value| Resources {
            verbs: texts(r, "verbs"),
            groups: texts(r, "apiGroups"),
            resources: texts(r, "resources"),
            cluster: r.bool_at("/clusterScope") == Some(true),
            namespaces: texts(r, "namespaces"),
        };
        let paths = |r: &Value| Paths { verbs: texts(r, "verbs"), paths: texts(r, "nonResourceURLs") };
        Self {
            subjects: rule.items_at("/subjects").iter().filter_map(subject).collect(),
            resources: rule.items_at("/resourceRules").iter().map(resources).collect(),
            paths: rule.items_at("/nonResourceRules").iter().map(paths).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, a: &Attributes) -> bool {
        let what = match a.is_resource() {
            true => self.resources.iter().any(|r| r.matches(a)),
            false => self.paths.iter().any(|p| p.matches(a)),
        };
        what && self.subjects.iter().any(|s| s.is(user))
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == ALL || *name == user.name,
            Self::Group(name) => name == ALL || user.in_group(name),
            Self::Account { prefix, name } => {
                user.name.strip_prefix(prefix.as_str()).is_some_and(|rest| name == ALL || rest == name)
            }
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == ALL || one == wanted)
}

impl Resources {
    fn matches(&self, a: &Attributes) -> bool {
        let place = match a.namespace.is_empty() {
            true => self.cluster,
            false => has(&self.namespaces, &a.namespace),
        };
        let resource = || {
            let whole = |one: &String| match one.split_once('/') {
                Some((parent, sub)) => parent == a.resource && sub == a.subresource,
                None => *one == a.resource && a.subresource.is_empty(),
            };
            self.resources.iter().any(|one| one == ALL || whole(one))
        };
        place && has(&self.verbs, &a.verb) && has(&self.groups, &a.group) && resource()
    }
}

impl Paths {
    fn matches(&self, a: &Attributes) -> bool {
        let path = |one: &String| match one.strip_suffix('*') {
            Some(prefix) => a.path.starts_with(prefix),
            None => *one == a.path,
        };
        has(&self.verbs, &a.verb) && self.paths.iter().any(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::request::RequestInfo;
    use test_case::test_case;

    /// The schemas that every cluster has, in the order they are asked.
    fn first() -> Vec<Schema> {
        let objects = crate::registry::first_objects();
        let mut all: Vec<Schema> =
            objects.iter().filter(|(plural, _)| *plural == "flowschemas").map(|(_, o)| Schema::of(o)).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        all
    }

    #[test_case("admin", &["system:masters"], "DELETE", "/api/v1/nodes/n" => ("exempt".into(), "exempt".into()); "the administrator")]
    #[test_case("x", &[], "GET", "/healthz" => ("probes".into(), "exempt".into()); "a probe")]
    #[test_case("system:node:n", &["system:nodes"], "PATCH", "/api/v1/nodes/n/status" => ("system-node-high".into(), "node-high".into()); "a heartbeat")]
    #[test_case("system:node:n", &["system:nodes"], "GET", "/api/v1/pods" => ("system-nodes".into(), "system".into()); "a node")]
    #[test_case("system:serviceaccount:kube-system:a", &["system:serviceaccounts"], "PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l" => ("system-leader-election".into(), "leader-election".into()); "an election")]
    #[test_case("system:serviceaccount:n:a", &["system:serviceaccounts"], "GET", "/api/v1/pods" => ("service-accounts".into(), "workload-low".into()); "a workload")]
    #[test_case("joe", &[], "GET", "/api/v1/pods" => ("global-default".into(), "global-default".into()); "anybody")]
    fn schemas(user: &str, groups: &[&str], method: &str, path: &str) -> (String, String) {
        let user = UserInfo::authenticated(user, groups);
        let info = RequestInfo::parse(&method.parse().unwrap(), path, "");
        let all = first();
        let found = all.iter().find(|s| s.matches(&user, &info.attributes)).unwrap();
        (found.name.clone(), found.level.clone())
    }

    #[test]
    fn subresources_and_paths_are_told_apart() {
        let schema = Schema::of(
            &serde_json::json!({"spec": {"rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "namespaces": ["n"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a/*"]}]}]}}),
        );
        let is = |path: &str| {
            schema.matches(&UserInfo::anonymous(), &RequestInfo::parse(&http::Method::GET, path, "").attributes)
        };
        assert!(is("/api/v1/namespaces/n/pods/p/log") && is("/a/b"));
        assert!(!is("/api/v1/namespaces/n/pods/p") && !is("/api/v1/namespaces/m/pods/p/log") && !is("/b"));
    }
}
