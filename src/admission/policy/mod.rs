//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules that users write as expressions.
//!
//! A request meets each policy whose constraints it matches, once for each binding that it matches and once for each
//! object of parameters of the binding. Rules: upstream `apiserver/pkg/admission/plugin/policy`.
//!
//! **Invariant:** policies and bindings are compiled once for each of their revisions.
//! **Invariant:** what one policy may spend on one request is bounded, whatever its expressions say.

mod bound;
pub(super) mod compiled;
mod mutating;
pub(super) mod request;
mod validating;

pub use compiled::Conditions;
use std::sync::Arc;

use crate::api::cel::authorizer::{Answer, Authorizer, Question};
use crate::api::user::UserInfo;

pub use mutating::MutatingAdmissionPolicy;
pub use validating::ValidatingAdmissionPolicy;

/// The group of policies and their bindings.
const GROUP: &str = "admissionregistration.k8s.io";

/// Says who may do what: given by the server.
pub trait Ask: Send + Sync {
    /// Answers an expression's question; about the user, unless it names somebody else.
    fn ask(&self, user: &UserInfo, question: &Question) -> Answer;
}

/// The questions of one user.
struct Asked {
    ask: Arc<dyn Ask>,
    user: UserInfo,
}

impl Authorizer for Asked {
    fn check(&self, question: &Question) -> Answer {
        self.ask.ask(&self.user, question)
    }
}
