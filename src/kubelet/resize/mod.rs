//! Changing what containers are given while they run: what a pod asks for, is given, and has. Pure but for [`act`].
//!
//! Rules: upstream `pkg/kubelet/allocation` (who gets what) and `kuberuntime_manager.computePodResizeAction` (how).
//!
//! Upstream keeps two check points on the disk. Here the view of a pod that a worker sees says what it is given; what a
//! container was made with stands on the container, and what it has by now in the pod's status. Who was ended in between
//! decides again, and gives a running container once more what it has.
//!
//! **Invariant:** a pod is given all that it asks for or nothing new.

pub mod act;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::{Value, json};

use super::admit::{self, Site};
use super::cgroups;
use super::pod::{Member, PodInventory, PodView, Role, keys};
use super::runtime::{ContainerStatus, State};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Type of the condition of a pod that is not given what it asks for.
pub const PENDING: &str = "PodResizePending";
/// Type of the condition of a pod that has not yet what it was given.
pub const IN_PROGRESS: &str = "PodResizeInProgress";
/// What can be changed.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Why a pod is not given what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` until there is room, or `Infeasible` on this node.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Resources of containers that may be changed, by name.
pub type Given = BTreeMap<String, Option<ResourceRequirements>>;

fn lasting(member: &Member) -> bool {
    matches!(member.role, Role::App | Role::Sidecar)
}

/// What the view of a pod gives it.
pub fn given(pod: &PodView) -> Given {
    let lasting = pod.members.iter().filter(|m| lasting(m));
    lasting.map(|m| (m.name().to_owned(), m.spec.resources.clone())).collect()
}

/// What a pod was given by an orch before this one, as far as its status tells.
pub fn remembered(pod: &PodView) -> Given {
    let status = |m: &Member| Some((m.name().to_owned(), status_of(pod, m.name())?));
    pod.members.iter().filter(|m| lasting(m)).filter_map(status).collect()
}

/// The resources that the status says a container has.
fn status_of(pod: &PodView, name: &str) -> Option<Option<ResourceRequirements>> {
    let lists = ["/containerStatuses", "/initContainerStatuses"];
    let mut all = lists.iter().flat_map(|l| pod.status.items_at(l));
    let resources = all.find(|s| s.str_at("/name") == Some(name))?.get("resources")?;
    serde_json::from_value(resources.clone()).ok().map(Some)
}

/// The pod with these resources in place of its own.
pub fn with(pod: &PodView, given: &Given) -> PodView {
    let mut pod = pod.clone();
    for member in pod.members.iter_mut().filter(|m| lasting(m)) {
        if let Some(resources) = given.get(member.name()) {
            member.spec.resources.clone_from(resources);
        }
    }
    pod
}

/// Whether the pod asks for other amounts than these.
pub fn asks_for_more_or_less(pod: &PodView, given: &Given) -> bool {
    let lasting = pod.members.iter().filter(|m| lasting(m));
    lasting
        .into_iter()
        .any(|m| given.get(m.name()).is_some_and(|g| !changed(g.as_ref(), m.spec.resources.as_ref()).is_empty()))
}

/// Which resources are not the same.
fn changed(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> Vec<&'static str> {
    let same = |what: &str| [false, true].iter().all(|&limits| amount(a, limits, what) == amount(b, limits, what));
    RESOURCES.into_iter().filter(|what| !same(what)).collect()
}

fn amount(r: Option<&ResourceRequirements>, limits: bool, what: &str) -> Option<Quantity> {
    cgroups::amount(r, limits, what)
}

/// Whether the node can give the pod what it asks for, beside what the others were given. Upstream: `canResizePod`.
pub fn fits(pod: &PodView, site: &Site, others: &[&PodView]) -> Result<(), Pending> {
    let Some(node) = &site.node else { return Ok(()) };
    for (what, milli) in [("memory", false), ("cpu", true)] {
        let allocatable = node.str_at(&format!("/status/allocatable/{what}")).and_then(|q| Quantity::parse(q).ok());
        let Some(capacity) = allocatable.map(|q| if milli { q.milli_value() } else { q.value() }) else { continue };
        let requested = cgroups::requested(pod, what);
        if requested > capacity {
            let message =
                format!("Node didn't have enough capacity: {what}, requested: {requested}, capacity: {capacity}");
            return Err(Pending { reason: "Infeasible", message });
        }
    }
    admit::room(pod, node, others).map_err(|message| Pending { reason: "Deferred", message })
}

/// How far a pod is on the way to what it was given.
#[derive(Debug, Default)]
pub struct Progress {
    /// What running containers have, by id.
    has: HashMap<String, Option<ResourceRequirements>>,
    /// Why it is not given what it asks for.
    pub pending: Option<Arc<Pending>>,
    /// Why the last attempt to give it failed.
    pub error: Option<String>,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// A change has been told of and not its end.
    pub told: bool,
}

impl Progress {
    /// Notes what there is: of containers that were not seen before, what they were made with or are said to have.
    pub fn look(&mut self, pod: &PodView, inventory: &PodInventory) {
        self.has.retain(|id, _| inventory.containers.iter().any(|c| c.id == *id));
        for (c, member) in running(pod, inventory) {
            let own = |m: &Member| m.spec.resources.clone();
            let known = || status_of(pod, &c.name).or_else(|| made_with(c)).unwrap_or_else(|| own(member));
            // One that was made again is not the one that the status tells of.
            let fresh = !pod_tells_of(pod, c);
            let has = || if fresh { made_with(c).unwrap_or_else(|| own(member)) } else { known() };
            self.has.entry(c.id.clone()).or_insert_with(has);
        }
    }

    /// What a container has; none when it was not seen.
    pub fn of(&self, id: &str) -> Option<Option<&ResourceRequirements>> {
        self.has.get(id).map(Option::as_ref)
    }

    /// A container has this now.
    pub fn set(&mut self, id: &str, resources: Option<ResourceRequirements>) {
        self.has.insert(id.to_owned(), resources);
    }

    /// Running containers that have something else than they were given.
    pub fn behind<'a>(&self, pod: &'a PodView, inventory: &'a PodInventory) -> Vec<(&'a ContainerStatus, &'a Member)> {
        let behind = |(c, m): &(&ContainerStatus, &Member)| !self.change(m, &c.id).is_empty();
        running(pod, inventory).filter(behind).collect()
    }

    /// Whether a container has to be made anew to get what it was given.
    pub fn restarts(&self, member: &Member, id: &str) -> bool {
        let policies = || member.spec.resize_policy.iter().flatten();
        let restart =
            |what: &&str| policies().any(|p| p.resource_name == *what && p.restart_policy == "RestartContainer");
        lasting(member) && self.change(member, id).iter().any(restart)
    }

    fn change(&self, member: &Member, id: &str) -> Vec<&'static str> {
        self.of(id).map_or_else(Vec::new, |has| changed(has, member.spec.resources.as_ref()))
    }

    /// The pod with what its containers have.
    pub fn as_it_is(&self, pod: &PodView, inventory: &PodInventory) -> PodView {
        let has =
            running(pod, inventory).filter_map(|(c, m)| Some((m.name().to_owned(), self.has.get(&c.id)?.clone())));
        with(pod, &has.collect())
    }
}

fn running<'a>(
    pod: &'a PodView,
    inventory: &'a PodInventory,
) -> impl Iterator<Item = (&'a ContainerStatus, &'a Member)> {
    let lasting = pod.members.iter().filter(|m| lasting(m));
    let running = |m: &'a Member| Some((inventory.newest(m.name()).filter(|c| c.state == State::Running)?, m));
    lasting.filter_map(running)
}

/// Whether the pod's status is of this container.
fn pod_tells_of(pod: &PodView, c: &ContainerStatus) -> bool {
    let lists = ["/containerStatuses", "/initContainerStatuses"];
    let mut ids = lists.iter().flat_map(|l| pod.status.items_at(l)).filter_map(|s| s.str_at("/containerID"));
    ids.any(|id| id.rsplit('/').next() == Some(&c.id))
}

/// What a container was made with, as it says itself.
fn made_with(c: &ContainerStatus) -> Option<Option<ResourceRequirements>> {
    serde_json::from_str(c.annotations.get(keys::RESOURCES)?).ok()
}

/// What a container that is made says of what it is made with.
pub fn mark(member: &Member) -> String {
    json!(member.spec.resources).to_string()
}

/// What events say: the title, and as JSON what the pod is given, and why not.
pub fn message(title: &str, pod: &PodView, error: Option<&str>) -> String {
    let list = |role: Role| -> Vec<Value> {
        let resources = |m: &Member| m.spec.resources.as_ref().map_or_else(|| json!({}), |r| json!(r));
        pod.of(role).map(|m| json!({"name": m.name(), "resources": resources(m)})).collect()
    };
    let mut said = json!({});
    for (key, role) in [("initContainers", Role::Sidecar), ("containers", Role::App)] {
        let all = list(role);
        if !all.is_empty() {
            said[key] = all.into();
        }
    }
    said["generation"] = pod.generation().into();
    if let Some(error) = error {
        said["error"] = error.into();
    }
    format!("{title}: {said}")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
