//! A pod's status for the API.
//!
//! **Invariant:** a status is told only when it is news, and on top of the newest one that is known.

use std::sync::Arc;

use serde_json::Value;

use super::{RETRY, Worker};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{Patch, res};
use crate::kubelet::pod::{PodInventory, PodView};
use crate::kubelet::status;

impl Worker {
    /// The pod with the newest status that is known, ours or the API's.
    pub(super) fn with_reported_status(&self, pod: &Arc<PodView>) -> Arc<PodView> {
        let revision = pod.pod.metadata.resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0);
        match &self.reported {
            Some((ours, status)) if *ours > revision => {
                let mut newer = (**pod).clone();
                newer.status = status.clone();
                Arc::new(newer)
            }
            _ => pod.clone(),
        }
    }

    /// Tells the API the status, if it is news.
    pub(super) async fn report(&mut self, pod: &PodView, inventory: &PodInventory, ended: bool) -> Result<(), String> {
        let pod = self.with_reported_status(&Arc::new(pod.clone()));
        // An orch before this one rejected it; there is nothing to add.
        if pod.is_terminal() && inventory.is_empty() && pod.status.get("containerStatuses").is_none() {
            return Ok(());
        }
        let (results, facts) = (self.prober.results(), self.shared.facts.load());
        let runtime_name = self.shared.runtime_name.load();
        let input = status::Input {
            pod: &pod,
            inventory,
            probes: &results,
            waiting: &self.memory.waiting,
            ended,
            failure: self.failure.as_deref(),
            resize: &self.memory.resize,
            host_ips: &facts.host_ips,
            runtime_name: &runtime_name,
            now: self.shared.clock.now(),
        };
        let mut new = status::status(input);
        keep_failure(&pod, &mut new);
        let Some(patch) = status::patch(&pod, &pod.status, &new) else { return Ok(()) };
        let patch = Patch::Strategic(&patch);
        match self.shared.client.patch(&res::PODS, &pod.namespace, &pod.name, Some("status"), patch).await {
            Ok(answer) => {
                let revision = answer.str_at("/metadata/resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0);
                self.reported = Some((revision, answer.get_at("/status").cloned().unwrap_or(Value::Null)));
                Ok(())
            }
            // It is gone, or another one of its name is there: the change is on its way to us.
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(e) => {
                // Running the pod matters more than telling of it.
                tracing::warn!(pod = pod.name, namespace = pod.namespace, "cannot report its status: {e}");
                let wake = self.wake.clone();
                wake.notify_one();
                tokio::time::sleep(RETRY.base).await;
                Ok(())
            }
        }
    }
}

/// What ended a pod stays its reason after a restart of orch: the API remembers it.
fn keep_failure(pod: &PodView, new: &mut Value) {
    if pod.status.str_at("/phase") != Some("Failed") || new.get("reason").is_some() {
        return;
    }
    if let Some(reason) = pod.status.get("reason").cloned() {
        new["phase"] = "Failed".into();
        new["reason"] = reason;
        new["message"] = pod.status.get("message").cloned().unwrap_or(Value::Null);
    }
}
