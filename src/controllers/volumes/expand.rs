//! Claims that ask for more: told that somebody else has to give it.
//!
//! Only drivers can make a volume larger, and theirs are controllers of their own; no source that orch serves itself can be.
//! Rules: upstream `pkg/controller/volume/expand`.

use async_trait::async_trait;
use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::res;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Expand;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Expand)
}

#[async_trait]
impl Reconciler for Expand {
    fn name(&self) -> &'static str {
        "expand-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "volume_expand"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUME_CLAIMS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(claim) = cx.get(&res::PERSISTENT_VOLUME_CLAIMS, key) else { return Ok(Requeue::Never) };
        if wants_more(&claim.value()) {
            let message = "waiting for an external controller to expand this PVC";
            cx.events.normal(&claim, "ExternalExpanding", message);
        }
        Ok(Requeue::Never)
    }
}

/// True when a bound claim asks for more than it has.
pub(super) fn wants_more(claim: &Value) -> bool {
    let size = |at: &str| claim.str_at(at).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.nanos());
    let bound = claim.str_at("/status/phase") == Some("Bound");
    bound && size("/spec/resources/requests/storage") > size("/status/capacity/storage")
}
