//! Kinds that are asked, not stored: reviews, the health of components, what nodes and pods use.
//!
//! In: a canonical body and who asks. Out: the same with a status.
//!
//! **Invariant:** nothing here is stored or watched.

use serde_json::{Value, json};

use crate::api::scheme::KindInfo;
use crate::api::status::{ApiResult, Status};
use crate::registry::{RequestCx, Resource, metrics};
use crate::util::clock::rfc3339;

use super::auth::review::{self, Access};
use super::usage::Which;
use super::{Api, Call, verbs};

/// What a create of a kind that nobody can get asks for.
#[derive(Debug, Clone, Copy)]
enum Review {
    /// Whose is a token?
    Token,
    /// May somebody do something?
    Access(Access),
    /// What may I do in a namespace?
    Rules,
    /// Who am I?
    Own,
}

/// REVIEWS by group and plural name. Add one here.
const REVIEWS: &[(&str, &str, Review)] = &[
    ("authentication.k8s.io", "tokenreviews", Review::Token),
    ("authentication.k8s.io", "selfsubjectreviews", Review::Own),
    ("authorization.k8s.io", "subjectaccessreviews", Review::Access(Access::Subject)),
    ("authorization.k8s.io", "localsubjectaccessreviews", Review::Access(Access::Local)),
    ("authorization.k8s.io", "selfsubjectaccessreviews", Review::Access(Access::Own)),
    ("authorization.k8s.io", "selfsubjectrulesreviews", Review::Rules),
];

/// What this process runs, under the names that tools expect.
const COMPONENTS: &[(&str, &str)] = &[("controller-manager", "ok"), ("scheduler", "ok"), ("etcd-0", "ok")];

impl Api {
    /// A create of a kind that nobody can get.
    pub(super) async fn virtual_create(
        &self,
        res: &Resource,
        call: &Call,
        cx: &RequestCx,
        new: Value,
    ) -> ApiResult<Value> {
        let info = &res.info;
        let found = REVIEWS.iter().find(|(group, plural, _)| *group == info.gvk.group && *plural == info.plural);
        let Some((.., which)) = found else { return Err(verbs::method_not_allowed()) };
        match which {
            Review::Token => review::token_review(&new, &self.access.bearer).await,
            Review::Access(which) => {
                let namespace = &call.info.attributes.namespace;
                let (a, user) = review::access_question(*which, &new, namespace, &call.user)?;
                Ok(review::access_answer(*which, &new, self.access.explain(&a, &user).await))
            }
            Review::Rules => {
                review::self_subject_rules_review(&new, &call.user, &self.access.rbac, self.access.asks_webhooks())
            }
            Review::Own => Ok(review::self_subject_review(&call.user, &rfc3339(cx.now))),
        }
    }
}

impl Api {
    /// The objects of a kind that is made up when asked for; none for kinds that are stored. More than `which` may come.
    pub(super) async fn made(&self, res: &Resource, which: &Which<'_>) -> Option<Vec<Value>> {
        if res.info.gvk.group == metrics::GROUP && res.custom.is_none() {
            return Some(self.meter.objects(&self.registry, &res.info.plural, which).await);
        }
        components(&res.info)
    }
}

fn components(info: &KindInfo) -> Option<Vec<Value>> {
    if !info.gvk.group.is_empty() || info.plural != "componentstatuses" {
        return None;
    }
    let one = |(name, message): &(&str, &str)| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": message}]})
    };
    Some(COMPONENTS.iter().map(one).collect())
}

/// One of them; 404 when there is none of that name.
pub(super) fn made_one(info: &KindInfo, all: Vec<Value>, name: &str) -> ApiResult<Value> {
    let found = all.into_iter().find(|o| o["metadata"]["name"] == name);
    found.ok_or_else(|| Status::not_found(&info.gvk.group, &info.plural, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_made_up() {
        let kinds = crate::registry::kinds::all(&crate::registry::allocators::Allocators::default());
        let info = &kinds.iter().find(|r| r.info.plural == "componentstatuses").expect("a row").info;
        let all = components(info).expect("not stored");
        assert_eq!(all.len(), 3);
        assert_eq!(made_one(info, all.clone(), "scheduler").unwrap()["conditions"][0]["status"], "True");
        assert_eq!(made_one(info, all, "nope").unwrap_err().code, 404);
        let pods = &kinds.iter().find(|r| r.info.plural == "pods").expect("a row").info;
        assert!(components(pods).is_none());
    }

    #[test]
    fn every_review_is_answered() {
        let asked =
            |r: &&Resource| r.info.verbs == crate::api::scheme::Verbs::CREATE && r.info.gvk.group.starts_with("auth");
        let kinds = crate::registry::kinds::all(&crate::registry::allocators::Allocators::default());
        for r in kinds.iter().filter(asked) {
            let known = REVIEWS.iter().any(|(g, p, _)| *g == r.info.gvk.group && *p == r.info.plural);
            assert!(known, "{}", r.info.plural);
        }
        assert_eq!(kinds.iter().filter(asked).count(), REVIEWS.len());
    }
}
