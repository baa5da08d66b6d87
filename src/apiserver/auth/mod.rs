//! Who asks (authentication) and whether they may (authorization).
//!
//! In: a connection's certificate and a request's headers. Out: a [`UserInfo`](crate::api::user::UserInfo) or 401, then
//! a [`Decision`](crate::api::user::Decision) or 403.
//!
//! **Invariant:** credentials that are there but wrong are 401, never anonymous.
//! **Invariant:** decisions read indexes and the watch cache; they do no IO, except where webhooks are configured.

pub mod admission;
pub mod authn;
pub mod impersonate;
pub mod lookup;
pub mod modes;
pub mod node;
pub mod oidc;
mod owners;
pub mod rbac;
pub mod remote;
pub mod restriction;
pub mod review;
pub mod token_webhook;
pub mod tokens;

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
