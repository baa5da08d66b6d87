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

use std::sync::Arc;

use serde_json::Value;

use super::asking::Asking;
use crate::api::cel::authorizer::{Answer, Authorizer, Question};
use crate::api::status::ApiResult;
use crate::api::user::UserInfo;

pub use compiled::Conditions;
use mutating::MutatingAdmissionPolicy;
use validating::ValidatingAdmissionPolicy;

/// The group of policies and their bindings.
const GROUP: &str = "admissionregistration.k8s.io";

/// Both plugins, in the order in which they are asked.
pub(super) struct Policies {
    mutating: MutatingAdmissionPolicy,
    validating: ValidatingAdmissionPolicy,
}

impl Policies {
    /// `ask` answers what expressions ask the authorizer.
    pub fn new(ask: Arc<dyn Ask>) -> Self {
        Self { mutating: MutatingAdmissionPolicy::new(ask.clone()), validating: ValidatingAdmissionPolicy::new(ask) }
    }

    /// Changes the new object.
    ///
    /// # Errors
    /// The refusal of a policy that cannot be decided.
    pub async fn mutate(&self, cx: &Asking<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        self.mutating.mutate(cx, new, old).await
    }

    /// Refuses, or not; `new` is none for a deletion.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, cx: &Asking<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        self.validating.validate(cx, new, old).await
    }
}

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
