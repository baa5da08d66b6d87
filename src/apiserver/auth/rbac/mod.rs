//! Role-based access control: roles and bindings in compiled form, indexed by subject.
//!
//! In: Roles, ClusterRoles and their bindings, as the watch cache delivers them. Out: decisions.
//!
//! **Invariant:** a decision decodes nothing and allocates nothing but a service account's name.
//! **Invariant:** a binding whose role does not exist grants nothing; it begins to when the role appears.
//!
//! Rules: upstream `plugin/pkg/auth/authorizer/rbac` and `pkg/registry/rbac/validation`.

pub mod bootstrap;
pub mod escalation;
pub mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::Authorizer;
use crate::api::object::Object;
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;
use crate::runtime::{Delta, Listers};
pub use rules::Rule;

/// The API group of the kinds here.
pub const GROUP: &str = "rbac.authorization.k8s.io";
/// Plural names of the kinds the evaluator follows.
pub const RESOURCES: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

/// Namespace (empty for a ClusterRole) and name.
type RoleKey = (Box<str>, Box<str>);

/// One subject of one binding.
#[derive(Debug)]
struct Grant {
    /// `("ns", "name")`, the namespace empty for a ClusterRoleBinding.
    binding: RoleKey,
    role: RoleKey,
    /// `User "jane"`, for reasons.
    subject: Box<str>,
}

/// What identifies a subject: a user's name (service accounts by their long name), or a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

/// Values by namespace (empty: the whole cluster), then by name.
type Scoped<T> = HashMap<Box<str>, HashMap<Box<str>, T>>;

#[derive(Debug, Default)]
struct State {
    roles: Scoped<Arc<[Rule]>>,
    /// Grants by user name.
    users: Scoped<Vec<Arc<Grant>>>,
    /// Grants by group.
    groups: Scoped<Vec<Arc<Grant>>>,
    /// The subjects under which a binding stands in the maps, to take it out again.
    bindings: HashMap<RoleKey, Vec<Subject>>,
}

impl State {
    fn rules(&self, (namespace, name): &RoleKey) -> Option<&Arc<[Rule]>> {
        self.roles.get(namespace)?.get(name)
    }

    fn map(&mut self, subject: &Subject) -> &mut Scoped<Vec<Arc<Grant>>> {
        match subject {
            Subject::User(_) => &mut self.users,
            Subject::Group(_) => &mut self.groups,
        }
    }

    fn unbind(&mut self, key: &RoleKey) {
        for subject in self.bindings.remove(key).unwrap_or_default() {
            let (Subject::User(name) | Subject::Group(name)) = &subject;
            let map = self.map(&subject);
            let Some(names) = map.get_mut(&key.0) else { continue };
            if let Some(grants) = names.get_mut(name) {
                grants.retain(|g| g.binding != *key);
                if grants.is_empty() {
                    names.remove(name);
                }
            }
            if names.is_empty() {
                map.remove(&key.0);
            }
        }
    }

    fn bind(&mut self, key: RoleKey, body: &Value) {
        self.unbind(&key);
        let role_namespace = match body.str_at("/roleRef/kind") {
            Some("Role") => key.0.clone(),
            _ => "".into(),
        };
        let role: RoleKey = (role_namespace, body.str_at("/roleRef/name").unwrap_or_default().into());
        let mut subjects = Vec::new();
        for value in body.items_at("/subjects") {
            let Some((subject, described)) = subject_of(value, &key.0) else { continue };
            let grant = Arc::new(Grant { binding: key.clone(), role: role.clone(), subject: described });
            let (Subject::User(name) | Subject::Group(name)) = &subject;
            let name = name.clone();
            self.map(&subject).entry(key.0.clone()).or_default().entry(name).or_default().push(grant);
            subjects.push(subject);
        }
        self.bindings.insert(key, subjects);
    }

    /// Calls `each` with every grant that `user` has in `namespace`, those for the whole cluster first; stops when it
    /// says so.
    fn each_grant(&self, user: &UserInfo, namespace: &str, mut each: impl FnMut(&Grant, &[Rule]) -> bool) -> bool {
        let mut scopes = [Some(""), Some(namespace).filter(|n| !n.is_empty())].into_iter().flatten();
        scopes.any(|scope| {
            let by_user = self.users.get(scope).and_then(|m| m.get(&*user.name));
            let groups = self.groups.get(scope);
            let by_group = user.groups.iter().filter_map(|g| groups?.get(&**g));
            by_user
                .into_iter()
                .chain(by_group)
                .flatten()
                .any(|grant| self.rules(&grant.role).is_some_and(|rules| each(grant, rules)))
        })
    }
}

fn subject_of(value: &Value, binding_namespace: &str) -> Option<(Subject, Box<str>)> {
    let name = value.str_at("/name")?;
    match value.str_at("/kind")? {
        "User" => Some((Subject::User(name.into()), format!("User {name:?}").into())),
        "Group" => Some((Subject::Group(name.into()), format!("Group {name:?}").into())),
        "ServiceAccount" => {
            let namespace = value.str_at("/namespace").filter(|n| !n.is_empty()).unwrap_or(binding_namespace);
            if namespace.is_empty() {
                return None;
            }
            let described = format!("ServiceAccount {:?}", format!("{name}/{namespace}"));
            Some((Subject::User(service_account_name(namespace, name).into()), described.into()))
        }
        _ => None,
    }
}

/// The user name of a service account.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The evaluator.
#[derive(Debug, Default)]
pub struct Rbac(RwLock<State>);

impl Rbac {
    /// Takes in an object of one of [`RESOURCES`]; others are ignored.
    pub fn upsert(&self, object: &Object) {
        let key: RoleKey = (object.meta.namespace.as_str().into(), object.meta.name.as_str().into());
        match &*object.gvk.kind {
            "Role" | "ClusterRole" => {
                let rules = Arc::from(Rule::list(&object.value()));
                self.0.write().roles.entry(key.0).or_default().insert(key.1, rules);
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let body = object.value();
                self.0.write().bind(key, &body);
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&self, object: &Object) {
        let key: RoleKey = (object.meta.namespace.as_str().into(), object.meta.name.as_str().into());
        let mut state = self.0.write();
        match &*object.gvk.kind {
            "Role" | "ClusterRole" => {
                if let Some(names) = state.roles.get_mut(&key.0) {
                    names.remove(&key.1);
                    if names.is_empty() {
                        state.roles.remove(&key.0);
                    }
                }
            }
            "RoleBinding" | "ClusterRoleBinding" => state.unbind(&key),
            _ => {}
        }
    }

    /// Takes in what the watch cache tells.
    pub fn apply(&self, delta: &Delta) {
        match delta {
            Delta::Upsert { new, .. } => self.upsert(new),
            Delta::Delete(old) => self.remove(old),
            Delta::Synced => {}
        }
    }

    /// Follows the four resources until the source ends. `ready` is called once all of them have been read.
    pub async fn follow(&self, listers: &dyn Listers, ready: impl FnOnce()) {
        use futures::StreamExt;
        let streams = RESOURCES.map(|r| listers.lister(GROUP, r).deltas());
        let mut deltas = futures::stream::select_all(streams);
        let (mut synced, mut ready) = (0, Some(ready));
        while let Some(delta) = deltas.next().await {
            self.apply(&delta);
            synced += usize::from(matches!(delta, Delta::Synced));
            if synced == RESOURCES.len()
                && let Some(ready) = ready.take()
            {
                ready();
            }
        }
    }

    /// The rules that `user` has in `namespace` (empty: in the whole cluster), as escalation checks and
    /// SelfSubjectRulesReview want them.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut out = Vec::new();
        self.0.read().each_grant(user, namespace, |_, rules| {
            out.extend_from_slice(rules);
            false
        });
        out
    }

    /// The rules of a role; `namespace` is empty for a ClusterRole.
    pub fn role_rules(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.0.read().rules(&(namespace.into(), name.into())).cloned()
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes, user: &UserInfo) -> Decision {
        if user.in_group(UserInfo::MASTERS) {
            return Decision::Allow;
        }
        let allowed = |_: &Grant, rules: &[Rule]| rules.iter().any(|r| r.allows(attributes));
        match self.0.read().each_grant(user, &attributes.namespace, allowed) {
            true => Decision::Allow,
            false => Decision::NoOpinion(String::new()),
        }
    }

    fn explain(&self, attributes: &Attributes, user: &UserInfo) -> (Decision, String) {
        if user.in_group(UserInfo::MASTERS) {
            return (Decision::Allow, String::new());
        }
        let mut reason = String::new();
        self.0.read().each_grant(user, &attributes.namespace, |grant, rules| {
            let allowed = rules.iter().any(|r| r.allows(attributes));
            if allowed {
                reason = grant.reason();
            }
            allowed
        });
        match reason.is_empty() {
            true => (Decision::NoOpinion(String::new()), reason),
            false => (Decision::Allow, reason),
        }
    }
}

impl Grant {
    /// Upstream's words for why a request was allowed.
    fn reason(&self) -> String {
        let (namespace, name) = &self.binding;
        let binding = match &**namespace {
            "" => format!("ClusterRoleBinding {name:?}"),
            ns => format!("RoleBinding {:?}", format!("{name}/{ns}")),
        };
        let kind = if self.role.0.is_empty() { "ClusterRole" } else { "Role" };
        format!("RBAC: allowed by {binding} of {kind} {:?} to {}", self.role.1, self.subject)
    }
}

#[cfg(test)]
mod tests;
