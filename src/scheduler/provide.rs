//! Writes what was decided about volumes: which claim gets which, and where new ones are to be made; then waits until the
//! volume controller has bound the claims.
//!
//! **Invariant:** each write replaces the version that was looked at: what somebody else decided meanwhile is not written over.
//! **Invariant:** who waits looks again when something of storage changed, never by the clock.
//! Upstream: `plugins/volumebinding/binder` (`bindAPIUpdate`, `checkBindings`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::pod::PodInfo;
use super::volumes::{Claim, Volume, VolumePlan};
use crate::api::object::Object;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, res};
use crate::runtime::{Lister, Listers};

/// How long claims may take to be bound.
const VOLUMES_BOUND: Duration = Duration::from_secs(600);

/// What those who wait look at.
pub(super) struct Provider {
    pods: Arc<dyn Lister>,
    nodes: Arc<dyn Lister>,
    claims: Arc<dyn Lister>,
    volumes: Arc<dyn Lister>,
    /// Says that something of it changed.
    changed: watch::Sender<()>,
}

impl Provider {
    pub(super) fn new(listers: &dyn Listers) -> Self {
        Self {
            pods: listers.lister("", "pods"),
            nodes: listers.lister("", "nodes"),
            claims: listers.lister("", "persistentvolumeclaims"),
            volumes: listers.lister("", "persistentvolumes"),
            changed: watch::Sender::new(()),
        }
    }

    /// Those who wait look again.
    pub(super) fn look_again(&self) {
        self.changed.send_replace(());
    }

    /// The pod as it is now; none where it is gone, or going.
    pub(super) fn pod(&self, pod: &PodInfo) -> Option<Arc<Object>> {
        self.pods.get(&pod.namespace, &pod.name).filter(|o| *o.meta.uid == *pod.uid && !o.is_deleting())
    }

    /// Writes, and waits. The error is upstream's sentence.
    pub(super) async fn provide(
        &self,
        client: &Client,
        pod: &PodInfo,
        node: &str,
        plan: &VolumePlan,
    ) -> Result<(), String> {
        let mut changed = self.changed.subscribe();
        let written = write(client, node, plan).await.map_err(|error| error.message)?;
        let wait = async {
            while !self.are_bound(pod, node, plan, &written)? {
                changed.changed().await.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let result = tokio::time::timeout(VOLUMES_BOUND, wait).await;
        let result = result.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        result.map_err(|why: String| format!("binding volumes: {why}"))
    }

    /// True when all claims are bound; the error says why they will not be, so that the pod has to be tried again.
    fn are_bound(&self, pod: &PodInfo, node: &str, plan: &VolumePlan, written: &Written) -> Result<bool, String> {
        let Some(there) = self.nodes.get("", node) else {
            return Err(format!("failed to get node {node:?}: node {node:?} not found"));
        };
        if self.pod(pod).is_none() {
            return Err(format!("pod does not exist any more: pod {:?} not found", pod.name));
        }
        for (found, revision) in plan.bind.iter().zip(&written.volumes) {
            let volume = self.volumes.get("", &found.volume).ok_or_else(|| {
                format!("failed to check binding: could not find v1.PersistentVolume {:?}", found.volume)
            })?;
            let claim = self.claim(&found.claim).ok_or_else(|| {
                format!("failed to check binding: could not find v1.PersistentVolumeClaim {:?}", found.claim.key())
            })?;
            if volume.revision < *revision {
                return Ok(false);
            }
            let volume = Volume::new(&volume);
            must_reach(&volume, &there)?;
            if volume.claimed_by.as_ref().is_none_or(|(_, _, uid)| uid.is_empty()) {
                return Err(format!("ClaimRef got reset for pv {:?}", volume.name));
            }
            if !claim.bound {
                return Ok(false);
            }
        }
        for (asked, revision) in plan.provision.iter().zip(&written.claims) {
            let claim = self.claim(asked).ok_or_else(|| {
                format!("failed to check provisioning pvc: could not find v1.PersistentVolumeClaim {:?}", asked.key())
            })?;
            if claim.revision < *revision {
                return Ok(false);
            }
            // Who cannot make the volume there takes the node away again.
            if claim.selected_node.as_deref() != Some(node) {
                return Err(format!("provisioning failed for PVC {:?}", claim.name));
            }
            if !claim.volume.is_empty() {
                let Some(volume) = self.volumes.get("", &claim.volume) else { return Ok(false) };
                must_reach(&Volume::new(&volume), &there)?;
            }
            if !claim.bound {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn claim(&self, claim: &Claim) -> Option<Claim> {
        let now = self.claims.get(&claim.namespace, &claim.name)?;
        (*now.meta.uid == *claim.uid).then(|| Claim::new(&now))
    }
}

/// The node may have other labels by now, and who made the volume may have made it elsewhere.
fn must_reach(volume: &Volume, node: &Object) -> Result<(), String> {
    match volume.reachable_from(&node.meta.name, &node.meta.labels) {
        true => Ok(()),
        false => Err(format!(
            "pv {:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms",
            volume.name, node.meta.name
        )),
    }
}

/// The revisions that the writes made, in the order of the plan: what is older than them says nothing.
#[derive(Default)]
struct Written {
    volumes: Vec<u64>,
    claims: Vec<u64>,
}

async fn write(client: &Client, node: &str, plan: &VolumePlan) -> ApiResult<Written> {
    let revision = |o: &Value| o.str_at("/metadata/resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0);
    let mut written = Written::default();
    for found in &plan.bind {
        let claim = &found.claim;
        let mut body = json!({
            "metadata": {"resourceVersion": found.revision.to_string()},
            "spec": {"claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace,
                "name": claim.name, "uid": claim.uid, "resourceVersion": claim.revision.to_string()}}});
        // Without it, the volume stays kept for the claim when it is let go: so whoever kept it wants it.
        if !found.kept {
            body["metadata"]["annotations"] = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
        }
        let patch = Patch::Merge(&body);
        let now = client.patch(&res::PERSISTENT_VOLUMES, "", &found.volume, None, patch).await?;
        written.volumes.push(revision(&now));
    }
    for claim in &plan.provision {
        let body = json!({"metadata": {"uid": claim.uid, "resourceVersion": claim.revision.to_string(),
            "annotations": {"volume.kubernetes.io/selected-node": node}}});
        let (ns, name) = (&*claim.namespace, &*claim.name);
        let now = client.patch(&res::PERSISTENT_VOLUME_CLAIMS, ns, name, None, Patch::Merge(&body)).await?;
        written.claims.push(revision(&now));
    }
    Ok(written)
}
