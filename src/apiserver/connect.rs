//! Subresources: those that store into the object, and those that do something else.

use std::sync::Arc;

use crate::api::scheme::Verbs;
use crate::api::status::ApiResult;
use crate::registry::{Op, Resource};

use super::respond::Answer;
use super::{Api, Call, verbs, websocket};

impl Api {
    /// A request for a subresource.
    pub(super) async fn subresource(&self, res: Arc<Resource>, mut call: Call) -> ApiResult<Answer> {
        let a = &call.info.attributes;
        let Some(sub) = res.info.subresources.iter().find(|s| s.name == a.subresource) else {
            return self.unknown_path(&res.info.gvk.group);
        };
        if sub.name == "proxy" {
            return self.proxy(&res, call).await;
        }
        if !call.info.rest.is_empty() {
            return self.unknown_path(&res.info.gvk.group);
        }
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
            (true, Verbs::GET) if sub.name == "log" => {
                let answer = self.pod_log(&call).await?;
                websocket::log(answer, &mut call)
            }
            (true, Verbs::GET) => self.get(&res, &call).await,
            (true, Verbs::UPDATE) => self.update(&res, call, op).await,
            (true, Verbs::PATCH) => self.patch(&res, call, op).await,
            _ => self.special(res, call, verb).await,
        }
    }

    /// Subresources with a behaviour of their own.
    async fn special(&self, res: Arc<Resource>, call: Call, verb: Verbs) -> ApiResult<Answer> {
        let sub = call.info.attributes.subresource.as_str();
        match (&*res.info.gvk.group, &*res.info.plural, sub) {
            ("", "pods", "exec" | "attach" | "portforward") => self.pod_stream(&res, call).await,
            ("", "serviceaccounts", "token") => self.issue_token(&res, call).await,
            (_, _, "scale") => self.scale(&res, call, verb).await,
            ("", "pods", "binding") => self.bind_pod(&res, call).await,
            ("", "pods", "eviction") => self.evict_pod(&res, call).await,
            _ => Err(verbs::method_not_allowed()),
        }
    }
}
