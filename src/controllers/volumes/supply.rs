//! Volumes follow their claims: available, bound, released.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::BY_CONTROLLER;
use super::model::{Claim, Volume};
use super::plan::{self, ForVolume, Reclaim, Say};
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::status;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Volumes;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Volumes)
}

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        "persistent-volume-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUMES).mapped(&res::PERSISTENT_VOLUME_CLAIMS, of_claim)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::PERSISTENT_VOLUMES, key) else { return Ok(Requeue::Never) };
        let volume = Volume::new(&object);
        let claim = volume.claim.as_ref().and_then(|r| {
            let found = cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).get(&r.namespace, &r.name);
            found.filter(|c| c.meta.uid == r.uid)
        });
        let decision = plan::volume(&volume, claim.as_ref().map(|c| Claim::new(c)).as_ref());
        match decision {
            ForVolume::Leave => {}
            ForVolume::Phase(phase) => drop(set_phase(cx, &object, phase, "").await?),
            ForVolume::Release => release(cx, &object, &volume).await?,
            ForVolume::Unbind(wholly) => unbind(cx, &object, wholly).await?,
            ForVolume::Mismatch => {
                let Some(claim) = &claim else { return Ok(Requeue::Never) };
                let (v, c) = (&object.meta.name, &claim.meta.name);
                let why = "due to incompatible volumeMode.";
                let to_volume =
                    format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{c}\" {why}");
                let to_claim = format!("Cannot bind PersistentVolume \"{v}\" to requested PersistentVolumeClaim {why}");
                cx.events.warning(&object, "VolumeMismatch", to_volume);
                cx.events.warning(claim, "VolumeMismatch", to_claim);
            }
        }
        Ok(Requeue::Never)
    }
}

/// The volumes that a claim has, or that name it.
fn of_claim(claim: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let c = Claim::new(claim);
    // Once it is bound it can only be about that one; before, others may have been made for it.
    if c.bind_completed && !c.volume.is_empty() {
        return vec![ObjectKey::new("", c.volume)];
    }
    let all = cx.lister(&res::PERSISTENT_VOLUMES).list(None);
    let concerned = |v: &&Arc<Object>| v.meta.name == c.volume || v.mentions(&claim.meta.uid);
    all.iter().filter(concerned).map(|v| ObjectKey::from(&v.meta)).collect()
}

/// Says what phase a volume is in. True when that is news.
pub(super) async fn set_phase(cx: &Cx, volume: &Arc<Object>, phase: &str, message: &str) -> Result<bool, Error> {
    let value = volume.value();
    if value.str_at("/status/phase") == Some(phase) {
        return Ok(false);
    }
    let mut new = value.get("status").cloned().unwrap_or_else(|| json!({}));
    new["phase"] = phase.into();
    match message {
        "" => drop(new.remove_at("/message")),
        text => new["message"] = text.into(),
    }
    status::write(cx, &res::PERSISTENT_VOLUMES, volume, new).await
}

/// The claim is gone. A volume that has failed stays so for people to see.
async fn release(cx: &Cx, object: &Arc<Object>, volume: &Volume) -> Result<(), Error> {
    if volume.phase != "Failed" {
        set_phase(cx, object, "Released", "").await?;
    }
    let Reclaim::Failed(Say { reason, message, .. }) = plan::reclaim(volume) else { return Ok(()) };
    let Some(fresh) = cx.lister(&res::PERSISTENT_VOLUMES).get("", &object.meta.name) else { return Ok(()) };
    if set_phase(cx, &fresh, "Failed", &message).await? {
        cx.events.warning(&fresh, reason, message);
    }
    Ok(())
}

/// Gives a volume back that its claim does not want. What a person reserved stays reserved.
async fn unbind(cx: &Cx, object: &Arc<Object>, wholly: bool) -> Result<(), Error> {
    let body = match wholly {
        true => json!({"metadata": {"annotations": {BY_CONTROLLER: null}}, "spec": {"claimRef": null}}),
        false => json!({"spec": {"claimRef": {"uid": null}}}),
    };
    cx.change(&res::PERSISTENT_VOLUMES, object, None, &body).await?;
    // The phase follows when the change comes back.
    Ok(())
}
