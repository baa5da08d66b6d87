//! Who may grant what: nobody grants more than he has, unless he holds the verbs `escalate` or `bind`.
//!
//! Pure: the registry's hooks for roles and bindings call these with the caller's own rules.
//! Rules: upstream `pkg/registry/rbac/{role,rolebinding,…}/policybased` and `validation.ConfirmNoEscalation`.

use serde_json::{Value, json};

use super::rules::{Rule, missing, quoted};
use super::{GROUP, Rbac};
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Status};
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;
use crate::apiserver::auth::Authorizer;
use crate::util::order::Arrange;

/// What of `rules` the holder of `owner_rules` does not have; empty when all is covered.
pub fn covers(owner_rules: &[Rule], rules: &[Rule]) -> Vec<Rule> {
    missing(owner_rules, rules)
}

/// Upstream's words for an escalation.
pub fn escalation_text(user: &UserInfo, missing: &[Rule]) -> String {
    let mut lines: Vec<String> = missing.iter().map(Rule::to_string).collect();
    lines.arrange();
    lines.dedup();
    format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(user.groups.iter().map(String::as_str)),
        lines.join("\n")
    )
}

fn holds(rbac: &dyn Authorizer, user: &UserInfo, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let attributes = Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    rbac.authorize(&attributes, user) == Decision::Allow
}

/// May `user` write this Role or ClusterRole (`resource`: `roles`, `clusterroles`)? `authorizer` is the whole chain.
pub fn check_role(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &str,
    role: &Value,
) -> ApiResult<()> {
    let (namespace, name) = place(role);
    if user.in_group(UserInfo::MASTERS) || holds(authorizer, user, "escalate", resource, namespace, name) {
        return Ok(());
    }
    if role.get("aggregationRule").is_some_and(|a| !a.is_null()) {
        // Aggregation takes in what others write later: only who may do everything may ask for it.
        let all = |urls: bool| {
            Rule::from_value(&match urls {
                true => json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
                false => json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            })
        };
        let lacking = missing(&rbac.rules_for(user, namespace), &[all(false), all(true)]);
        if !lacking.is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(GROUP, resource, name, why));
        }
    }
    refuse_escalation(rbac, user, resource, namespace, name, &Rule::list(role))
}

/// May `user` write this RoleBinding or ClusterRoleBinding (`resource`: `rolebindings`, `clusterrolebindings`)?
pub fn check_binding(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &str,
    binding: &Value,
) -> ApiResult<()> {
    let (namespace, name) = place(binding);
    let role = binding.str_at("/roleRef/name").unwrap_or_default();
    let (role_resource, role_namespace) = match binding.str_at("/roleRef/kind") {
        Some("Role") => ("roles", namespace),
        _ => ("clusterroles", ""),
    };
    if user.in_group(UserInfo::MASTERS) || holds(authorizer, user, "bind", role_resource, namespace, role) {
        return Ok(());
    }
    let Some(rules) = rbac.role_rules(role_namespace, role) else {
        // Upstream names the binding's resource with the role's name here.
        return Err(Status::not_found(GROUP, resource, role));
    };
    refuse_escalation(rbac, user, resource, namespace, name, &rules)
}

fn refuse_escalation(
    rbac: &Rbac,
    user: &UserInfo,
    resource: &str,
    namespace: &str,
    name: &str,
    rules: &[Rule],
) -> ApiResult<()> {
    match missing(&rbac.rules_for(user, namespace), rules) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => Err(Status::forbidden(GROUP, resource, name, &escalation_text(user, &lacking))),
    }
}

fn place(object: &Value) -> (&str, &str) {
    let text = |path| object.str_at(path).unwrap_or_default();
    (text("/metadata/namespace"), text("/metadata/name"))
}

/// The rules of an aggregated ClusterRole: those of all other ClusterRoles its selectors match, in order of their names,
/// each once. `None` for a role that aggregates nothing.
pub fn aggregated_rules(role: &Value, cluster_roles: &[&Object]) -> Option<Vec<Value>> {
    role.get("aggregationRule").filter(|a| !a.is_null())?;
    let own = role.str_at("/metadata/name").unwrap_or_default();
    let mut all: Vec<&&Object> = cluster_roles.iter().filter(|o| o.meta.name != own).collect();
    all.arrange_by(|a, b| a.meta.name.cmp(&b.meta.name));
    let mut out: Vec<Value> = Vec::new();
    for selector in role.items_at("/aggregationRule/clusterRoleSelectors") {
        // One that cannot be parsed was refused at validation; it selects nothing.
        let Ok(selector) = Selector::from_label_selector(selector) else { continue };
        for other in all.iter().filter(|o| selector.matches(|k| o.meta.label(k))) {
            for rule in other.value().items_at("/rules") {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
        }
    }
    Some(out)
}
