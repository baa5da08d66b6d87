//! Subresources: those that store into the object, and those that do something else.

use std::sync::Arc;

use crate::api::scheme::Verbs;
use crate::api::status::ApiResult;
use crate::registry::{Op, Resource};

use super::respond::{self, Answer};
use super::{Api, Call, verbs};

impl Api {
    /// A request for a subresource.
    pub(super) async fn subresource(&self, res: Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let a = &call.info.attributes;
        let Some(sub) = res.info.subresources.iter().find(|s| s.name == a.subresource) else {
            return Ok(respond::text(404, "404 page not found\n"));
        };
        let verb = match a.verb.as_str() {
            "get" => Verbs::GET,
            "create" => Verbs::CREATE,
            "update" => Verbs::UPDATE,
            "patch" => Verbs::PATCH,
            "delete" => Verbs::DELETE,
            _ => return Err(verbs::method_not_allowed()),
        };
        if !sub.verbs.has(verb) || a.name.is_empty() || res.info.is_namespaced() && a.namespace.is_empty() {
            return Err(verbs::method_not_allowed());
        }
        let op = Op::Subresource(sub.name.clone());
        match (sub.gvk.is_none(), verb) {
            (true, Verbs::GET) => self.get(&res, &call),
            (true, Verbs::UPDATE) => self.update(&res, call, op).await,
            (true, Verbs::PATCH) => self.patch(&res, call, op).await,
            _ => Err(verbs::method_not_allowed()),
        }
    }
}
