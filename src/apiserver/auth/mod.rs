//! Who asks (authentication) and whether they may (authorization).
//!
//! In: a connection's certificate and a request's headers. Out: a [`UserInfo`](crate::api::user::UserInfo) or 401, then
//! a [`Decision`](crate::api::user::Decision) or 403.
//!
//! **Invariant:** credentials that are there but wrong are 401, never anonymous.
//! **Invariant:** decisions read indexes and the watch cache; they do no IO.

pub mod admission;
pub mod authn;
pub mod impersonate;
pub mod lookup;
pub mod node;
pub mod rbac;
pub mod restriction;
pub mod review;
pub mod tokens;

use std::sync::Arc;

use crate::api::status::Status;
use crate::api::user::{Attributes, Decision, UserInfo};

/// Says whether a user may do something.
pub trait Authorizer: Send + Sync {
    /// The decision. On every request's way: fast, no IO.
    fn authorize(&self, attributes: &Attributes, user: &UserInfo) -> Decision;

    /// The decision and why, for access reviews and audit.
    fn explain(&self, attributes: &Attributes, user: &UserInfo) -> (Decision, String) {
        match self.authorize(attributes, user) {
            Decision::Allow => (Decision::Allow, String::new()),
            Decision::Deny(why) => (Decision::Deny(why.clone()), why),
            Decision::NoOpinion(why) => (Decision::NoOpinion(why.clone()), why),
        }
    }
}

/// Asks one after another until one has an opinion: Node, then RBAC.
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

impl Union {
    fn ask(&self, one: impl Fn(&dyn Authorizer) -> (Decision, String)) -> (Decision, String) {
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            match one(&**authorizer) {
                (Decision::NoOpinion(_), why) if why.is_empty() => {}
                (Decision::NoOpinion(_), why) => reasons.push(why),
                opinion => return opinion,
            }
        }
        let reason = reasons.join("\n");
        (Decision::NoOpinion(reason.clone()), reason)
    }
}

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes, user: &UserInfo) -> Decision {
        self.ask(|a| match a.authorize(attributes, user) {
            Decision::NoOpinion(why) => (Decision::NoOpinion(String::new()), why),
            opinion => (opinion, String::new()),
        })
        .0
    }

    fn explain(&self, attributes: &Attributes, user: &UserInfo) -> (Decision, String) {
        self.ask(|a| a.explain(attributes, user))
    }
}

/// Upstream's words for a request that nobody allowed.
pub fn forbidden_text(attributes: &Attributes, user: &UserInfo, reason: &str) -> String {
    let Attributes { verb, group, namespace, .. } = attributes;
    let mut text = match attributes.is_resource() {
        false => format!("User {:?} cannot {verb} path {:?}", user.name, attributes.path),
        true => {
            let resource = match &*attributes.subresource {
                "" => attributes.resource.clone(),
                sub => format!("{}/{sub}", attributes.resource),
            };
            let place = match &**namespace {
                "" => "at the cluster scope".to_owned(),
                ns => format!("in the namespace {ns:?}"),
            };
            format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}", user.name)
        }
    };
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

/// The 403 for a request that nobody allowed.
pub fn forbidden(attributes: &Attributes, user: &UserInfo, reason: &str) -> Box<Status> {
    let text = forbidden_text(attributes, user, reason);
    Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &text)
}

#[cfg(test)]
mod tests;
