//! Claims and volumes that are in use stay until they are not: their finalizers go when nobody uses them.
//!
//! Rules: upstream `pkg/controller/volume/{pvcprotection,pvprotection}`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{claim_keys, claims_of};
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{Res, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Keeps a claim.
pub const CLAIM: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume.
pub const VOLUME: &str = "kubernetes.io/pv-protection";

/// Claims: kept while a pod that has a node names them.
pub fn claims() -> Box<dyn Reconciler> {
    Box::new(Claims)
}

/// Volumes: kept while they are bound.
pub fn volumes() -> Box<dyn Reconciler> {
    Box::new(Volumes)
}

struct Claims;

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUME_CLAIMS).mapped(&res::PODS, claim_keys)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::PERSISTENT_VOLUME_CLAIMS, key) else { return Ok(Requeue::Never) };
        let used = || cx.lister(&res::PODS).list(Some(&key.namespace)).iter().any(|pod| uses(pod, &object));
        protect(cx, &res::PERSISTENT_VOLUME_CLAIMS, &object, CLAIM, used).await
    }
}

struct Volumes;

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUMES)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::PERSISTENT_VOLUMES, key) else { return Ok(Requeue::Never) };
        let bound = || object.value().str_at("/status/phase") == Some("Bound");
        protect(cx, &res::PERSISTENT_VOLUMES, &object, VOLUME, bound).await
    }
}

/// True when a pod may still have the claim's data open. One without a node does not: a kubelet starts nothing with a claim
/// that is being deleted.
pub(super) fn uses(pod: &Object, claim: &Object) -> bool {
    let named = claims_of(pod).into_iter().find(|(name, _)| *name == claim.meta.name);
    let Some((_, ephemeral)) = named else { return false };
    let value = pod.value();
    if value.str_at("/spec/nodeName").unwrap_or_default().is_empty() {
        return false;
    }
    let shut_down = pod.is_deleting() && value.int_at("/metadata/deletionGracePeriodSeconds") == Some(0);
    !ephemeral || (!shut_down && claim.meta.owners.iter().any(|o| o.uid == pod.meta.uid))
}

/// Adds the finalizer where it is missing, and takes it away from what is being deleted and not used.
async fn protect(
    cx: &Cx,
    res: &Res,
    object: &Arc<Object>,
    finalizer: &str,
    used: impl Fn() -> bool,
) -> Result<Requeue, Error> {
    let has = object.meta.finalizers.iter().any(|f| &**f == finalizer);
    let wanted: Vec<Value> = match (object.is_deleting(), has) {
        (true, true) if !used() => {
            object.meta.finalizers.iter().filter(|f| &***f != finalizer).map(|f| (&**f).into()).collect()
        }
        (false, false) => object.meta.finalizers.iter().map(|f| &**f).chain([finalizer]).map(Into::into).collect(),
        _ => return Ok(Requeue::Never),
    };
    cx.change(res, object, None, &json!({"metadata": {"finalizers": wanted}})).await?;
    Ok(Requeue::Never)
}
