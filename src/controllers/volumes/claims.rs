//! Claims get their volumes.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::model::{Claim, Class, Volume, is_default};
use super::plan::{self, Around, ForClaim, Say};
use super::{BIND_COMPLETED, BY_CONTROLLER, PROVISIONER, pods_using};
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::status;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::order::Arrange;

/// The controller.
pub struct Claims;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Claims)
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn speaks_as(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUME_CLAIMS)
            .mapped(&res::PERSISTENT_VOLUMES, wanting)
            .mapped(&res::STORAGE_CLASSES, |_, cx| pending(cx, |_| true))
    }

    /// One: two claims at a time would want the same volume.
    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::PERSISTENT_VOLUME_CLAIMS, key) else { return Ok(Requeue::Never) };
        let claim = Claim::new(&object);
        let volumes = candidates(cx, &claim);
        let class = claim.class.as_deref().and_then(|name| cx.lister(&res::STORAGE_CLASSES).get("", name));
        let class = class.map(|c| Class::new(&c));
        let unsaid = claim.class.is_none() && !claim.bind_completed;
        let default = if unsaid { default_class(cx) } else { None };
        let waits = class.as_ref().is_some_and(|c| c.waits) && claim.selected_node.is_none() && !claim.bind_completed;
        let waiting_pods = if waits { waiting_pods(cx, &claim) } else { Vec::new() };
        let around = Around {
            volumes: &volumes,
            class: class.as_ref(),
            default: default.as_deref(),
            waiting_pods: &waiting_pods,
        };
        act(cx, &object, plan::claim(&claim, &around)).await?;
        Ok(Requeue::Never)
    }
}

/// Claims that may want a volume: the one that it names, else all that wait for one like it.
fn wanting(volume: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let v = Volume::new(volume);
    match &v.claim {
        Some(r) => vec![ObjectKey::new(r.namespace.as_str(), r.name.as_str())],
        None => pending(cx, |c| {
            let by_class = c.volume.is_empty() && c.class.as_deref().unwrap_or_default() == v.class;
            c.volume == v.name || by_class
        }),
    }
}

/// Claims that are not bound.
fn pending(cx: &Cx, which: impl Fn(&Claim) -> bool) -> Vec<ObjectKey> {
    let all = cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).list(None);
    let open = all.iter().filter(|c| !c.mentions(BIND_COMPLETED));
    open.map(|c| (c, Claim::new(c))).filter(|(_, c)| which(c)).map(|(o, _)| ObjectKey::from(&o.meta)).collect()
}

/// The volumes that could be meant by a claim: the one that it names, those that name it, and the free ones of its class.
fn candidates(cx: &Cx, claim: &Claim) -> Vec<Volume> {
    let lister = cx.lister(&res::PERSISTENT_VOLUMES);
    if claim.bind_completed || !claim.volume.is_empty() {
        return lister.get("", &claim.volume).iter().map(|o| Volume::new(o)).collect();
    }
    let all = lister.list(None);
    let could = |o: &&Arc<Object>| o.mentions("Available") || o.mentions(&claim.name);
    all.iter().filter(could).map(|o| Volume::new(o)).collect()
}

/// The newest class that is marked as the default; by name where they are equally old.
fn default_class(cx: &Cx) -> Option<String> {
    let mut all = cx.lister(&res::STORAGE_CLASSES).list(None);
    all.retain(|c| is_default(c));
    all.arrange_by(|a, b| b.meta.created.cmp(&a.meta.created).then_with(|| a.meta.name.cmp(&b.meta.name)));
    all.first().map(|c| c.meta.name.clone())
}

/// The pods that use a claim, have no node yet and have not ended.
fn waiting_pods(cx: &Cx, claim: &Claim) -> Vec<String> {
    let waits = |p: &&Arc<Object>| {
        let pod = p.value();
        let ended = matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"));
        // None of its containers runs: one without a node that is being deleted has ended too.
        !ended && !p.is_deleting() && pod.str_at("/spec/nodeName").unwrap_or_default().is_empty()
    };
    let pods = pods_using(cx, &claim.namespace, &claim.name);
    pods.iter().filter(waits).map(|p| p.meta.name.clone()).collect()
}

fn tell(cx: &Cx, object: &Arc<Object>, say: Option<Say>) {
    match say {
        Some(Say { warning: true, reason, message }) => cx.events.warning(object, reason, message),
        Some(Say { warning: false, reason, message }) => cx.events.normal(object, reason, message),
        None => {}
    }
}

async fn act(cx: &Cx, object: &Arc<Object>, decision: ForClaim) -> Result<(), Error> {
    match decision {
        ForClaim::Leave => Ok(()),
        ForClaim::Bind(volume) => bind(cx, object, &volume).await,
        ForClaim::Wait(say) => {
            tell(cx, object, say);
            set_status(cx, object, "Pending", None).await.map(drop)
        }
        ForClaim::Default(class) => {
            let body = json!({"spec": {"storageClassName": class}});
            cx.change(&res::PERSISTENT_VOLUME_CLAIMS, object, None, &body).await?;
            Ok(())
        }
        ForClaim::Provision(by, say) => {
            let known = object.value();
            let annotations = &known["metadata"]["annotations"];
            if PROVISIONER.iter().any(|key| annotations[*key] != by.as_str()) {
                let body = json!({"metadata": {"annotations": {PROVISIONER[0]: by, PROVISIONER[1]: by}}});
                cx.change(&res::PERSISTENT_VOLUME_CLAIMS, object, None, &body).await?;
            }
            tell(cx, object, say);
            Ok(())
        }
        ForClaim::Lost(say) => {
            if set_status(cx, object, "Lost", None).await? {
                tell(cx, object, Some(say));
            }
            Ok(())
        }
        ForClaim::Impossible(say, reason) => {
            tell(cx, object, Some(say));
            Err(Error::Object { what: format!("claim {}/{}", object.meta.namespace, object.meta.name), reason })
        }
    }
}

/// Writes both sides of a binding, the volume first, as far as they are not written yet.
async fn bind(cx: &Cx, object: &Arc<Object>, volume: &str) -> Result<(), Error> {
    let gone = |what: &str| Error::Object { what: what.to_owned(), reason: "it went away while it was bound".into() };
    let volumes = cx.lister(&res::PERSISTENT_VOLUMES);
    let taken = volumes.get("", volume).ok_or_else(|| gone("the volume"))?;
    if let Some(body) = volume_side(&taken, object) {
        cx.change(&res::PERSISTENT_VOLUMES, &taken, None, &body).await?;
    }
    let taken = volumes.get("", volume).ok_or_else(|| gone("the volume"))?;
    super::supply::set_phase(cx, &taken, "Bound", "").await?;
    if let Some(body) = claim_side(object, volume) {
        cx.change(&res::PERSISTENT_VOLUME_CLAIMS, object, None, &body).await?;
    }
    let claims = cx.lister(&res::PERSISTENT_VOLUME_CLAIMS);
    let bound = claims.get(&object.meta.namespace, &object.meta.name).filter(|c| c.meta.uid == object.meta.uid);
    set_status(cx, &bound.ok_or_else(|| gone("the claim"))?, "Bound", Some(&taken.value())).await.map(drop)
}

/// What is to be changed on a volume for it to be the claim's; none when it is already.
pub(super) fn volume_side(volume: &Object, claim: &Object) -> Option<Value> {
    let (v, c) = (Volume::new(volume), Claim::new(claim));
    let known = v.claim.as_ref().is_some_and(|r| v.is_for(&c) && r.uid == c.uid);
    if known {
        return None;
    }
    let mut body = json!({"spec": {"claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": c.namespace,
        "name": c.name, "uid": c.uid, "resourceVersion": claim.revision.to_string()}}});
    if !v.is_for(&c) {
        body["metadata"] = json!({"annotations": {BY_CONTROLLER: "yes"}});
    }
    Some(body)
}

/// What is to be changed on a claim for it to have the volume; none when it has it already.
fn claim_side(claim: &Object, volume: &str) -> Option<Value> {
    let c = Claim::new(claim);
    let mut body = json!({});
    if !c.bind_completed {
        body["metadata"] = json!({"annotations": {BIND_COMPLETED: "yes"}});
    }
    if c.volume != volume {
        body["spec"] = json!({"volumeName": volume});
        body["metadata"]["annotations"][BY_CONTROLLER] = "yes".into();
    }
    (body != json!({})).then_some(body)
}

/// The claim's phase, and of a bound one what its volume has. The capacity is written when it becomes bound, and not
/// again: afterwards it may differ for good reasons. True when something was written.
async fn set_status(cx: &Cx, object: &Arc<Object>, phase: &str, volume: Option<&Value>) -> Result<bool, Error> {
    let value = object.value();
    let mut new = value.get("status").cloned().unwrap_or_else(|| json!({}));
    let becomes = new["phase"] != phase;
    new["phase"] = phase.into();
    match volume {
        None => {
            for field in ["accessModes", "capacity"] {
                new.as_object_mut().map(|s| s.remove(field));
            }
        }
        Some(volume) => {
            new["accessModes"] = volume.get_at("/spec/accessModes").cloned().unwrap_or_default();
            if becomes {
                new["capacity"] = volume.get_at("/spec/capacity").cloned().unwrap_or_default();
                match volume.str_at("/spec/volumeAttributesClassName") {
                    Some(class) => new["currentVolumeAttributesClassName"] = class.into(),
                    None => drop(new.remove_at("/currentVolumeAttributesClassName")),
                }
            }
        }
    }
    status::write(cx, &res::PERSISTENT_VOLUME_CLAIMS, object, new).await
}
