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
    /// One rule; the groups are filled in when discovery has been read.
    fn rules(&self) -> Done<Vec<Value>> {
        if self.verb.is_empty() {
            fail!("at least one verb must be specified");
        }
        for verb in self.verb.iter().filter(|v| *v != "*" && !VERBS.contains(&v.as_str())) {
            eprintln!("Warning: '{verb}' is not a standard resource verb");
        }
        let verbs: Vec<&str> =
            if self.verb.iter().any(|v| v == "*") { vec!["*"] } else { self.verb.iter().map(String::as_str).collect() };
        let mut rule = json!({"verbs": verbs, "resources": self.resource});
        set_unless_empty(&mut rule, "/resourceNames", json!(self.resource_name));
        Ok(vec![rule])
    }
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
                ("*".to_owned(), "*".to_owned())
            } else {
                let (bare, sub) = resource.split_once('/').map_or((resource, None), |(b, s)| (b, Some(s)));
                let found = cx.mapper().await?.find(bare).map_err(Failure::verbatim)?;
                let found = &found.res;
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
            let labels = super::workload::labels(&self.aggregation_rule)?;
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            role["rules"] = Value::Null;
            return Ok(role);
        }
        let mut rules = Vec::new();
        if !self.rule.resource.is_empty() {
            rules = self.rule.rules()?;
        }
        if !self.urls.is_empty() {
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
#[derive(Debug, Clone, clap::Args)]
struct Subjects {
    /// Users
    #[arg(long = "user", value_delimiter = ',')]
    users: Vec<String>,
    /// Groups
    #[arg(long = "group", value_delimiter = ',')]
    groups: Vec<String>,
    /// Service accounts, as namespace:name
    #[arg(long = "serviceaccount", value_delimiter = ',')]
    accounts: Vec<String>,
}

impl Subjects {
    fn list(&self) -> Done<Vec<Value>> {
        let named = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
        let mut all: Vec<Value> = self.users.iter().map(|u| named("User", u)).collect();
        all.extend(self.groups.iter().map(|g| named("Group", g)));
        for account in &self.accounts {
            let Some((ns, name)) = account.split_once(':').filter(|(ns, n)| !ns.is_empty() && !n.is_empty()) else {
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
        let subjects = Subjects { users: vec!["jane".into()], groups: vec![], accounts: vec!["kube-system:x".into()] };
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
