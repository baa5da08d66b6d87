//! Claims, volumes and classes of volume attributes that are in use stay until they are not: their finalizers go when nobody
//! uses them.
//!
//! Rules: upstream `pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}`.

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

/// Keeps a class of volume attributes.
const CLASS: &str = "kubernetes.io/vac-protection";
/// Where a claim and a volume name such a class.
const CLASS_OF_CLAIM: [&str; 3] = [
    "/spec/volumeAttributesClassName",
    "/status/currentVolumeAttributesClassName",
    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
];
const CLASS_OF_VOLUME: [&str; 1] = ["/spec/volumeAttributesClassName"];

/// Claims: kept while a pod that has a node names them.
pub fn claims() -> Box<dyn Reconciler> {
    Box::new(Claims)
}

/// Volumes: kept while they are bound.
pub fn volumes() -> Box<dyn Reconciler> {
    Box::new(Volumes)
}

/// Classes of volume attributes: kept while a claim or a volume names them.
pub fn classes() -> Box<dyn Reconciler> {
    Box::new(Classes)
}

struct Classes;

/// The class keys that an object names.
fn classes_of(object: &Object, at: &[&str]) -> Vec<ObjectKey> {
    let value = object.value();
    at.iter().filter_map(|at| value.str_at(at)).filter(|n| !n.is_empty()).map(|n| ObjectKey::new("", n)).collect()
}

#[async_trait]
impl Reconciler for Classes {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::VOLUME_ATTRIBUTES_CLASSES)
            .mapped(&res::PERSISTENT_VOLUME_CLAIMS, |claim, cx| leaving(cx, classes_of(claim, &CLASS_OF_CLAIM)))
            .mapped(&res::PERSISTENT_VOLUMES, |volume, cx| leaving(cx, classes_of(volume, &CLASS_OF_VOLUME)))
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::VOLUME_ATTRIBUTES_CLASSES, key) else { return Ok(Requeue::Never) };
        let named = |res: &Res, at: &[&str]| cx.lister(res).list(None).iter().any(|o| classes_of(o, at).contains(key));
        let used = || {
            named(&res::PERSISTENT_VOLUME_CLAIMS, &CLASS_OF_CLAIM) || named(&res::PERSISTENT_VOLUMES, &CLASS_OF_VOLUME)
        };
        protect(cx, &res::VOLUME_ATTRIBUTES_CLASSES, &object, CLASS, used).await
    }
}

/// Of these classes, those that are being deleted: the others need no look at what names them.
fn leaving(cx: &Cx, classes: Vec<ObjectKey>) -> Vec<ObjectKey> {
    let all = cx.lister(&res::VOLUME_ATTRIBUTES_CLASSES);
    classes.into_iter().filter(|key| all.get("", &key.name).is_some_and(|c| c.is_deleting())).collect()
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
