//! The end of a pod: it is stopped, and then what is left of it goes.
//!
//! **Invariant:** the API forgets a pod only after nothing of it runs and nothing of it is mounted.

use std::time::Duration;

use super::{Desired, Phase, Worker, text};
use crate::api::status::Reason;
use crate::client::{DeleteOptions, res};
use crate::kubelet::pod::{PodInventory, PodView};
use crate::kubelet::runtime::RuntimeError;
use crate::kubelet::shared::Shared;
use crate::kubelet::{container, stop, volumes};

/// Attempts to remove a cgroup whose last process the kernel has not quite ended, before the pod goes on without.
const CGROUP_PATIENCE: u32 = 5;
impl Worker {
    pub(super) async fn terminate(&mut self, pod: &PodView, gone: bool) -> Result<Option<Duration>, String> {
        let shared = self.shared.clone();
        let inventory = shared.inventory(&pod.uid).await?;
        if !gone {
            self.report(pod, &inventory, false).await?;
        }
        let mut hurried = pod.clone();
        if let Some(most) = self.failure.as_ref().and_then(|f| f.kind.grace_seconds()) {
            let own = pod.deletion_grace().or(pod.spec.termination_grace_period_seconds).unwrap_or(most);
            hurried.pod.metadata.deletion_grace_period_seconds = Some(most.min(own));
        }
        let pod = &hurried;
        let grace = pod.deletion_grace();
        let mut desired = self.desired.clone();
        let shorter = async {
            let less = |d: &Desired| match (d.pod.deletion_grace(), grace) {
                (Some(new), Some(old)) => new < old,
                (Some(_), None) => true,
                (None, _) => false,
            };
            // Nothing changes any more once the sender is gone.
            if desired.wait_for(less).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stopping = stop::pod(&shared, pod, &inventory, self.failures > 0);
        tokio::pin!(shorter, stopping);
        // What is on its way out is not started again, but clients may still be served: upstream goes on asking for that.
        self.prober.only_readiness();
        loop {
            tokio::select! {
                biased;
                // A second deletion may leave less time: begin anew, hooks have had their chance.
                () = &mut shorter => {
                    self.failures = 0;
                    return Ok(Some(Duration::ZERO));
                }
                stopped = &mut stopping => {
                    stopped.map_err(text)?;
                    break;
                }
                // Each container's end is told as it comes, not with the last one's.
                () = self.wake.notified(), if !gone => {
                    self.tell_unhealthy(pod);
                    if let Ok(now) = shared.last_inventory(&pod.uid) {
                        self.report(pod, &now, false).await?;
                    }
                }
            }
        }
        self.phase = Phase::Terminated;
        Ok(None)
    }

    pub(super) async fn clean_up(&mut self, pod: &PodView, desired: &Desired) -> Result<Option<Duration>, String> {
        let shared = self.shared.clone();
        self.prober.stop();
        let inventory = shared.inventory(&pod.uid).await?;
        if inventory.is_running() {
            // Something came up late: a sandbox whose making was cut off.
            self.phase = Phase::Terminating;
            stop::pod(&shared, pod, &inventory, true).await.map_err(text)?;
            self.phase = Phase::Terminated;
        }
        self.room = None;
        if !desired.gone {
            self.report(pod, &inventory, true).await?;
        }
        let dir = shared.pod_dir(&pod.uid);
        volumes::teardown(&dir.join("volume-subpaths")).map_err(|e| format!("cannot remove volume-subpaths: {e}"))?;
        shared.csi.tear_down(&dir).await?;
        for part in ["volumes", "volumeDevices"] {
            volumes::teardown(&dir.join(part)).map_err(|e| format!("cannot remove {part}: {e}"))?;
        }
        if let Some(tree) = &shared.cgroups
            && let Err(e) = tree.remove_pod(&pod.uid)
        {
            let why = format!("cannot remove its cgroup: {e}");
            if self.failures < CGROUP_PATIENCE {
                return Err(why);
            }
            tracing::warn!(pod = pod.name, namespace = pod.namespace, "{why}; it stays");
        }
        if !(desired.gone || pod.deleting()) {
            // Finished, and kept for its logs until somebody deletes it.
            return Ok(None);
        }
        for c in &inventory.containers {
            container::forget(&shared.config, pod, c)
                .map_err(|e| format!("cannot remove the log of {}: {e}", c.name))?;
        }
        remove_all(&shared, &inventory).await.map_err(text)?;
        volumes::teardown(&dir).map_err(|e| format!("cannot remove the pod's directory: {e}"))?;
        volumes::teardown(&container::log_dir(&shared.config, pod))
            .map_err(|e| format!("cannot remove its logs: {e}"))?;
        if desired.gone {
            self.phase = Phase::Done;
            return Ok(None);
        }
        let options = DeleteOptions { grace: Some(0), ..DeleteOptions::of_uid(&pod.uid) };
        match shared.client.delete(&res::PODS, &pod.namespace, &pod.name, &options).await {
            Ok(_) => {}
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(e) => return Err(format!("cannot delete it from the API: {e}")),
        }
        // The deletion comes back as a change; finalizers may keep the object until then.
        Ok(None)
    }
}

async fn remove_all(shared: &Shared, inventory: &PodInventory) -> Result<(), RuntimeError> {
    let absent = |r: Result<(), RuntimeError>| match r {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    };
    for c in &inventory.containers {
        absent(shared.runtime.remove_container(&c.id).await)?;
    }
    for s in &inventory.sandboxes {
        absent(shared.runtime.stop_sandbox(&s.id).await)?;
        absent(shared.runtime.remove_sandbox(&s.id).await)?;
    }
    Ok(())
}
