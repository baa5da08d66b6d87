//! Pods bring claims along: each generic ephemeral volume gets one that goes with its pod.
//!
//! Rules: upstream `pkg/controller/volume/ephemeral`.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::claim::owner_reference;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Ephemeral;

/// What only a pod with such volumes has.
const OF_PODS: &str = "ephemeral";

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Ephemeral)
}

#[async_trait]
impl Reconciler for Ephemeral {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "ephemeral_volume"
    }

    fn watches(&self) -> Watches {
        // A claim that went is made again for the pod that owned it.
        Watches::own_that(&res::PODS, |pod| pod.mentions(OF_PODS)).owned(&res::PERSISTENT_VOLUME_CLAIMS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(pod) = cx.get(&res::PODS, key).filter(|p| !p.is_deleting()) else { return Ok(Requeue::Never) };
        if !pod.mentions(OF_PODS) {
            return Ok(Requeue::Never);
        }
        let value = pod.value();
        if matches!(value.str_at("/status/phase"), Some("Succeeded" | "Failed")) {
            return Ok(Requeue::Never);
        }
        for (volume, claim) in claims(&pod, &value) {
            if let Err(why) = ensure(cx, &pod, key, &claim).await {
                cx.events.warning(&pod, "FailedBinding", format!("ephemeral volume {volume}: {why}"));
                return Err(Error::Object { what: format!("pod {key}, ephemeral volume {volume}"), reason: why });
            }
        }
        Ok(Requeue::Never)
    }
}

/// Makes the claim where it is not there; why the volume has none.
async fn ensure(cx: &Cx, pod: &Object, key: &ObjectKey, claim: &Value) -> Result<(), String> {
    let (ns, name) = (&key.namespace, claim.str_at("/metadata/name").unwrap_or_default());
    match cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).get(ns, name) {
        Some(known) if known.meta.controller().is_some_and(|o| o.uid == pod.meta.uid) => Ok(()),
        Some(_) => Err(format!("PVC {ns}/{name} was not created for pod {key} (pod is not owner)")),
        None => match cx.client.create(&res::PERSISTENT_VOLUME_CLAIMS, ns, claim).await {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("create PVC {name}: {e}")),
        },
    }
}

/// The ephemeral volumes of a pod, by their names, and their claims.
pub(super) fn claims(pod: &Object, value: &Value) -> Vec<(String, Value)> {
    let claim = |volume: &Value| {
        let template = volume.get_at("/ephemeral/volumeClaimTemplate")?;
        let of = volume.str_at("/name")?;
        let name = format!("{}-{of}", pod.meta.name);
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": template["spec"],
            "metadata": {"name": name, "namespace": pod.meta.namespace,
                "ownerReferences": [owner_reference(&res::PODS, pod)]}});
        for field in ["labels", "annotations"] {
            if let Some(map) = template.get_at(&format!("/metadata/{field}")) {
                claim["metadata"][field] = map.clone();
            }
        }
        Some((of.to_owned(), claim))
    };
    value.items_at("/spec/volumes").iter().filter_map(claim).collect()
}
