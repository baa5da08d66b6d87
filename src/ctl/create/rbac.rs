//! Roles and bindings.

use serde_json::{Value, json};

use super::{Generate, object, set_unless_empty};
use crate::ctl::cx::{Cx, Done};
use crate::ctl::fail::{Failure, fail};

const GROUP: &str = "rbac.authorization.k8s.io";
const API: &str = "rbac.authorization.k8s.io/v1";

/// Verbs that a rule is expected to name.
const VERBS: [&str; 13] = [
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];

/// What a rule is made of.
#[derive(Debug, Clone, clap::Args)]
struct RuleFlags {
    /// Verbs
    #[arg(long, value_delimiter = ',')]
    verb: Vec<String>,
    /// Resources, as pods, deployments.apps, pods/log
    #[arg(long, value_delimiter = ',')]
    resource: Vec<String>,
    /// Names
    #[arg(long, value_delimiter = ',')]
    resource_name: Vec<String>,
}

impl RuleFlags {
    fn some_verb(&self) -> Done {
        if self.verb.is_empty() {
            fail!("at least one verb must be specified");
        }
        Ok(())
    }

    /// One rule; the groups are filled in when discovery has been read.
    fn rules(&self) -> Done<Vec<Value>> {
        for verb in self.verb.iter().filter(|v| *v != "*" && !VERBS.contains(&v.as_str())) {
            eprintln!("Warning: '{verb}' is not a standard resource verb");
        }
        let verbs = if self.verb.iter().any(|v| v == "*") { vec!["*"] } else { once_each(&self.verb) };
        let mut rule = json!({"verbs": verbs, "resources": once_each(&self.resource)});
        set_unless_empty(&mut rule, "/resourceNames", json!(once_each(&self.resource_name)));
        Ok(vec![rule])
    }
}

/// The words without those that stood before.
fn once_each(words: &[String]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for word in words {
        if !all.contains(&word.as_str()) {
            all.push(word);
        }
    }
    all
}

/// Verbs of paths that are no resources.
const PATH_VERBS: [&str; 8] = ["*", "get", "post", "put", "delete", "patch", "head", "options"];

/// Verbs that only some resources know, as (verb, group, resource).
const SPECIAL: [(&str, &str, &str); 10] = [
    ("bind", GROUP, "roles"),
    ("bind", GROUP, "clusterroles"),
    ("escalate", GROUP, "roles"),
    ("escalate", GROUP, "clusterroles"),
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("impersonate", "authentication.k8s.io", "userextras"),
    ("impersonate", "authentication.k8s.io", "uids"),
    ("use", "policy", "podsecuritypolicies"),
];

fn check_special(verbs: &Value, group: &str, resource: &str) -> Done {
    for verb in verbs.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let known = SPECIAL.iter().filter(|(v, ..)| *v == verb);
        if known.clone().count() > 0 && !known.clone().any(|(_, g, r)| *g == group && *r == resource) {
            fail!("can not perform '{verb}' on '{resource}' in group '{group}'");
        }
    }
    Ok(())
}

/// True when the object has rules whose groups are still to be found.
pub fn has_rules(object: &Value) -> bool {
    object["rules"].is_array()
}

/// Splits the rules by API group, which discovery knows.
pub async fn fill_groups(cx: &Cx, object: &mut Value) -> Done {
    let Value::Array(rules) = object["rules"].take() else { return Ok(()) };
    let mut filled: Vec<Value> = Vec::new();
    for rule in rules {
        let Some(Value::Array(resources)) = rule.get("resources") else {
            filled.push(rule);
            continue;
        };
        let mut by_group: Vec<(String, Vec<String>)> = Vec::new();
        for resource in resources.iter().filter_map(Value::as_str) {
            let (group, name) = if resource == "*" {
                (String::new(), "*".to_owned())
            } else {
                let (bare, sub) = resource.split_once('/').map_or((resource, None), |(b, s)| (b, Some(s)));
                let sub = sub.filter(|s| !s.is_empty());
                let found = cx.mapper().await?.find(bare).map_err(|e| match bare.split_once('.') {
                    Some((name, group)) => Failure::Verbatim(format!(
                        "the server doesn't have a resource type {name:?} in group {group:?}"
                    )),
                    None => e.verbatim(),
                })?;
                let found = &found.res;
                check_special(&rule["verbs"], &found.group, &found.plural)?;
                (found.group.to_string(), sub.map_or(found.plural.to_string(), |s| format!("{}/{s}", found.plural)))
            };
            match by_group.iter_mut().find(|(g, _)| *g == group) {
                Some((_, names)) => names.push(name),
                None => by_group.push((group, vec![name])),
            }
        }
        for (group, names) in by_group {
            let mut part = json!({"apiGroups": [group], "resources": names});
            set_unless_empty(&mut part, "/resourceNames", rule["resourceNames"].clone());
            part["verbs"] = rule["verbs"].clone();
            filled.push(part);
        }
    }
    object["rules"] = filled.into();
    Ok(())
}

/// A role
#[derive(Debug, Clone, clap::Args)]
pub struct Role {
    name: String,
    #[command(flatten)]
    rule: RuleFlags,
}

impl Generate for Role {
    fn generate(&self) -> Done<Value> {
        self.rule.some_verb()?;
        if self.rule.resource.is_empty() {
            fail!("at least one resource must be specified");
        }
        let mut role = object(API, "Role", &self.name);
        role["rules"] = self.rule.rules()?.into();
        Ok(role)
    }
}

/// A cluster role
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterRole {
    name: String,
    #[command(flatten)]
    rule: RuleFlags,
    /// Paths that are no resources
    #[arg(long = "non-resource-url", value_delimiter = ',')]
    urls: Vec<String>,
    /// Roles with these labels are added up
    #[arg(long, default_value = "", hide_default_value = true)]
    aggregation_rule: String,
}

impl Generate for ClusterRole {
    fn generate(&self) -> Done<Value> {
        let mut role = object(API, "ClusterRole", &self.name);
        if !self.aggregation_rule.is_empty() {
            let rule = &self.rule;
            if ![&rule.verb, &rule.resource, &rule.resource_name, &self.urls].into_iter().all(Vec::is_empty) {
                fail!("aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames");
            }
            let labels = super::workload::labels(&self.aggregation_rule)?;
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            role["rules"] = Value::Null;
            return Ok(role);
        }
        self.rule.some_verb()?;
        let mut rules = Vec::new();
        if !self.rule.resource.is_empty() {
            rules = self.rule.rules()?;
        }
        if !self.urls.is_empty() {
            if let Some(verb) = self.rule.verb.iter().find(|v| !PATH_VERBS.contains(&v.as_str())) {
                fail!("invalid verb: '{verb}' for nonResourceURL");
            }
            if self.urls.iter().any(|url| url != "*" && !url.starts_with('/')) {
                fail!("nonResourceURL should start with /");
            }
            rules.push(json!({"nonResourceURLs": self.urls, "verbs": self.rule.verb}));
        }
        if rules.is_empty() {
            fail!("one of resource or nonResourceURL must be specified");
        }
        role["rules"] = rules.into();
        Ok(role)
    }
}

/// Who is bound.
///
/// **Invariant:** `user` keeps the name of the flag for the kubeconfig's user, so that it stands in its place.
#[derive(Debug, Clone, clap::Args)]
pub struct Subjects {
    /// Users
    #[arg(long, value_delimiter = ',')]
    user: Vec<String>,
    /// Groups
    #[arg(long = "group", value_delimiter = ',')]
    groups: Vec<String>,
    /// Service accounts, as namespace:name
    #[arg(long = "serviceaccount", value_delimiter = ',')]
    accounts: Vec<String>,
}

impl Subjects {
    /// As a binding has them.
    pub fn list(&self) -> Done<Vec<Value>> {
        let named = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
        let mut all: Vec<Value> = self.user.iter().map(|u| named("User", u)).collect();
        all.extend(self.groups.iter().map(|g| named("Group", g)));
        for account in &self.accounts {
            let Some((ns, name)) =
                account.split_once(':').filter(|(ns, n)| !ns.is_empty() && !n.is_empty() && !n.contains(':'))
            else {
                fail!("serviceaccount must be <namespace>:<name>")
            };
            all.push(json!({"kind": "ServiceAccount", "name": name, "namespace": ns}));
        }
        Ok(all)
    }
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str, subjects: &Subjects) -> Done<Value> {
    let mut binding = object(API, kind, name);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    set_unless_empty(&mut binding, "/subjects", subjects.list()?.into());
    Ok(binding)
}

/// A binding of a role in a namespace
#[derive(Debug, Clone, clap::Args)]
pub struct RoleBinding {
    name: String,
    /// The role
    #[arg(long)]
    role: Option<String>,
    /// The cluster role
    #[arg(long)]
    clusterrole: Option<String>,
    #[command(flatten)]
    subjects: Subjects,
}

impl Generate for RoleBinding {
    fn generate(&self) -> Done<Value> {
        let (kind, role) = match (&self.role, &self.clusterrole) {
            (Some(role), None) => ("Role", role),
            (None, Some(role)) => ("ClusterRole", role),
            _ => fail!("exactly one of clusterrole or role must be specified"),
        };
        binding("RoleBinding", &self.name, kind, role, &self.subjects)
    }
}

/// A binding of a cluster role
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterRoleBinding {
    name: String,
    /// The cluster role
    #[arg(long)]
    clusterrole: String,
    #[command(flatten)]
    subjects: Subjects,
}

impl Generate for ClusterRoleBinding {
    fn generate(&self) -> Done<Value> {
        binding("ClusterRoleBinding", &self.name, "ClusterRole", &self.clusterrole, &self.subjects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_no_group() {
        let subjects = Subjects { user: vec!["jane".into()], groups: vec![], accounts: vec!["kube-system:x".into()] };
        assert_eq!(
            subjects.list().unwrap(),
            [
                json!({"apiGroup": GROUP, "kind": "User", "name": "jane"}),
                json!({"kind": "ServiceAccount", "name": "x", "namespace": "kube-system"})
            ]
        );
        assert!(Subjects { accounts: vec!["x".into()], ..subjects }.list().is_err());
    }
}
