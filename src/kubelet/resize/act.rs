//! Giving running containers what they were given: pod cgroup and runtime.
//!
//! **Invariant:** the pod's cgroup never limits its containers to less than one of them has or is about to have.

use super::{Progress, message};
use crate::kubelet::cgroups;
use crate::kubelet::pod::{Member, PodInventory, PodView};
use crate::kubelet::runtime::{ContainerStatus, LinuxResources};
use crate::kubelet::shared::Shared;
use crate::runtime::events::EventType;

/// Tells of a change, and makes room for it in the pod's cgroup.
pub fn begin(shared: &Shared, pod: &PodView, inventory: &PodInventory, progress: &mut Progress) {
    if !std::mem::replace(&mut progress.told, true) {
        let message = message("Pod resize started", pod, None);
        shared.event(pod, None, EventType::Normal, "ResizeStarted", message);
    }
    if let Err(e) = widen(shared, pod, inventory, progress) {
        // What is too narrow for it is told by the container that does not fit.
        tracing::warn!(pod = pod.name, namespace = pod.namespace, "{e}");
    }
}

/// Gives the containers what they were given, and tells how that went.
pub async fn finish(shared: &Shared, pod: &PodView, inventory: &PodInventory, progress: &mut Progress) {
    match apply(shared, pod, inventory, progress).await {
        Ok(()) => {
            (progress.error, progress.failures) = (None, 0);
            if progress.behind(pod, inventory).is_empty() {
                progress.told = false;
                let message = message("Pod resize completed", pod, None);
                shared.event(pod, None, EventType::Normal, "ResizeCompleted", message);
            }
        }
        Err(why) => {
            progress.failures = progress.failures.saturating_add(1);
            if progress.error.as_ref() != Some(&why) {
                let message = message("Pod resize error", pod, Some(&why));
                shared.event(pod, None, EventType::Warning, "ResizeError", message);
            }
            progress.error = Some(why);
        }
    }
}

/// Makes room in the pod's cgroup for what it has and for what it is about to have.
fn widen(shared: &Shared, pod: &PodView, inventory: &PodInventory, progress: &Progress) -> Result<(), String> {
    let before = cgroups::of_pod(&progress.as_it_is(pod, inventory));
    limit(shared, pod, &cgroups::wider(&before, &cgroups::of_pod(pod)))
}

/// Gives running containers what they were given, then the pod's cgroup no more than that.
async fn apply(
    shared: &Shared,
    pod: &PodView,
    inventory: &PodInventory,
    progress: &mut Progress,
) -> Result<(), String> {
    for (c, member) in progress.behind(pod, inventory) {
        if progress.restarts(member, &c.id) {
            // It is on its way out; the next one is made with it.
            return Ok(());
        }
        keeps_what_it_uses(shared, progress, c, member).await?;
        let unified = cgroups::is_unified(&shared.config.cgroup_root);
        let resources = cgroups::container(pod, member, shared.facts.load().memory, unified);
        let updated = shared.runtime.update_resources(&c.id, &resources).await;
        updated.map_err(|e| format!("cannot change the resources of container {}: {e}", c.name))?;
        progress.set(&c.id, member.spec.resources.clone());
    }
    limit(shared, pod, &cgroups::of_pod(pod))
}

/// Memory in use is not taken away: the kernel would end the container for it.
async fn keeps_what_it_uses(
    shared: &Shared,
    progress: &Progress,
    c: &ContainerStatus,
    member: &Member,
) -> Result<(), String> {
    let bytes = |r| cgroups::amount(r, true, "memory").map_or(i64::MAX, |q| q.value());
    let limit = bytes(member.spec.resources.as_ref());
    if progress.of(&c.id).is_some_and(|has| bytes(has) <= limit) {
        return Ok(());
    }
    let usage = shared.runtime.usage().await.map_err(|e| format!("cannot tell what container {} uses: {e}", c.name))?;
    let used =
        usage.iter().find(|u| u.id == c.id).map_or(0, |u| i64::try_from(u.memory_working_set).unwrap_or(i64::MAX));
    if used >= limit {
        return Err(format!("container {} uses {used} bytes of memory, more than the limit of {limit}", c.name));
    }
    Ok(())
}

fn limit(shared: &Shared, pod: &PodView, limits: &LinuxResources) -> Result<(), String> {
    let Some(tree) = &shared.cgroups else { return Ok(()) };
    tree.limit_pod(pod, limits).map_err(|e| format!("cannot change the limits of its cgroup: {e}"))
}
