//! Giving running containers what they were given: pod cgroup and runtime.
//!
//! **Invariant:** the pod's cgroup never limits its containers to less than one of them has or is about to have.

use super::Progress;
use crate::kubelet::cgroups;
use crate::kubelet::pod::{Member, PodInventory, PodView};
use crate::kubelet::runtime::ContainerStatus;
use crate::kubelet::shared::Shared;

/// Makes room in the pod's cgroup for what it has and for what it is about to have.
pub fn widen(shared: &Shared, pod: &PodView, inventory: &PodInventory, progress: &Progress) -> Result<(), String> {
    let before = cgroups::of_pod(&progress.as_it_is(pod, inventory));
    limit(shared, pod, &cgroups::wider(&before, &cgroups::of_pod(pod)))
}

/// Gives running containers what they were given, then the pod's cgroup no more than that.
pub async fn apply(
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

fn limit(shared: &Shared, pod: &PodView, limits: &crate::kubelet::runtime::LinuxResources) -> Result<(), String> {
    let Some(tree) = &shared.cgroups else { return Ok(()) };
    tree.limit_pod(pod, limits).map_err(|e| format!("cannot change the limits of its cgroup: {e}"))
}
