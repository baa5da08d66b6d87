//! What has to happen so that each node that should has one pod of a DaemonSet, of its newest template. No IO, no clock.
//!
//! Rules: upstream `daemon_controller.go` (`podsShouldBeOnNode`), `update.go` (`rollingUpdate`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::nodes::Fit;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::batch::BURST;
use crate::controllers::common::numbers::{self, Round};
use crate::controllers::common::pods::{Phase, PodView};
use crate::util::order::Arrange;

/// A DaemonSet.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Daemons {
    pub generation: i64,
    pub min_ready: i64,
    pub on_delete: bool,
    pub max_unavailable: Value,
    pub max_surge: Value,
}

impl Daemons {
    /// From the object's body.
    pub fn new(object: &Object, v: &Value) -> Self {
        let rolling = |f: &str| {
            v.get_at("/spec/updateStrategy/rollingUpdate").and_then(|r| r.get(f)).cloned().unwrap_or_default()
        };
        Self {
            generation: object.meta.generation,
            min_ready: v.int_at("/spec/minReadySeconds").unwrap_or(0),
            on_delete: v.str_at("/spec/updateStrategy/type") == Some("OnDelete"),
            max_unavailable: rolling("maxUnavailable"),
            max_surge: rolling("maxSurge"),
        }
    }

    /// Pods that may be missing, and pods too many, during an update of so many. One of them is at least one.
    fn limits(&self, desired: i64) -> (i64, i64) {
        let unavailable = numbers::resolve(Some(&self.max_unavailable), desired, Round::Up);
        let surge = numbers::resolve(Some(&self.max_surge), desired, Round::Up);
        if unavailable == 0 && surge == 0 { (1, 0) } else { (unavailable, surge) }
    }
}

/// A pod of a DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Daemon {
    /// What all workloads ask of pods; `node` is where it is, or where it is to go.
    pub view: PodView,
    /// Made of the newest template.
    pub updated: bool,
    /// It is on its node, not on its way.
    pub bound: bool,
}

/// Nodes by name, and what each is to a DaemonSet.
pub type Nodes = BTreeMap<String, Fit>;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    /// Pods that go, by name.
    pub delete: Vec<String>,
    /// Those among them that had ended: pod, node, and whether it ended well.
    pub ended: Vec<(String, String, bool)>,
    /// Look again after so many seconds.
    pub after: Option<i64>,
}

/// One step. `wait` gives the seconds until a pod that failed on a node may be replaced.
pub fn plan(ds: &Daemons, nodes: &Nodes, pods: &[Daemon], wait: &dyn Fn(&str) -> i64, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut by_node = group(pods);
    let available = |p: &Daemon| !p.view.deleting && p.view.is_available(ds.min_ready, now);
    let desired = nodes.values().filter(|f| f.run).count() as i64;
    let (max_unavailable, max_surge) = ds.limits(desired);
    for (node, fit) in nodes {
        let here = by_node.remove(node.as_str()).unwrap_or_default();
        if here.is_empty() {
            if fit.run {
                plan.create.push(node.clone());
            }
        } else if !fit.stay {
            plan.delete.extend(here.iter().filter(|p| !p.view.deleting).map(|p| p.view.name.clone()));
        } else {
            one_node(&mut plan, node, &here, !ds.on_delete && max_surge > 0, wait, &available);
        }
    }
    // Pods on their way to nodes that are gone; those that were there are the garbage collector's.
    for pod in by_node.into_values().flatten().filter(|p| !p.bound && !p.view.deleting) {
        plan.delete.push(pod.view.name.clone());
    }
    if !ds.on_delete {
        let by_node = group(pods);
        match max_surge {
            0 => replace(&mut plan, nodes, &by_node, max_unavailable, &available),
            max => surge(&mut plan, nodes, &by_node, max, &available),
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    let ready = pods.iter().filter(|p| p.view.is_ready() && !available(p) && !p.view.deleting);
    let next = ready.filter_map(|p| Some(p.view.ready_since?.as_second() + ds.min_ready - now.as_second())).min();
    plan.after = [plan.after, next].into_iter().flatten().min();
    plan
}

/// Pods by node; on each the one on its node first, then the older.
fn group(pods: &[Daemon]) -> BTreeMap<&str, Vec<&Daemon>> {
    let mut all: BTreeMap<&str, Vec<&Daemon>> = BTreeMap::new();
    for pod in pods {
        all.entry(pod.view.node.as_str()).or_default().push(pod);
    }
    for here in all.values_mut() {
        here.arrange_by_key(|p| (!p.bound, p.view.created, p.view.name.clone()));
    }
    all
}

/// The pods of one node that should have one: ended ones go, and all but one (but two during an update with surge).
fn one_node(
    plan: &mut Plan,
    node: &str,
    here: &[&Daemon],
    surging: bool,
    wait: &dyn Fn(&str) -> i64,
    available: &dyn Fn(&Daemon) -> bool,
) {
    let mut alive: Vec<&Daemon> = Vec::new();
    for pod in here.iter().filter(|p| !p.view.deleting) {
        match pod.view.phase {
            Phase::Failed | Phase::Succeeded => {
                let well = pod.view.phase == Phase::Succeeded;
                let left = if well { 0 } else { wait(node) };
                if left > 0 {
                    plan.after = Some(plan.after.map_or(left, |a| a.min(left)));
                } else {
                    plan.ended.push((pod.view.name.clone(), node.to_owned(), well));
                    plan.delete.push(pod.view.name.clone());
                }
            }
            _ => alive.push(pod),
        }
    }
    let mut keep: Vec<&Daemon> = alive.iter().take(1).copied().collect();
    if surging {
        let new = alive.iter().find(|p| p.updated).copied();
        let old = alive.iter().find(|p| !p.updated).copied();
        keep = match (new, old) {
            (Some(new), Some(_)) if available(new) => vec![new],
            (new, old) => new.into_iter().chain(old).collect(),
        };
    }
    let surplus = alive.iter().filter(|p| !keep.iter().any(|k| k.view.name == p.view.name));
    plan.delete.extend(surplus.map(|p| p.view.name.clone()));
}

/// The newest and the older pod of a node.
fn pair<'a>(here: Option<&Vec<&'a Daemon>>) -> (Option<&'a Daemon>, Option<&'a Daemon>) {
    let all = || here.into_iter().flatten().copied();
    (all().find(|p| p.updated), all().find(|p| !p.updated))
}

/// An update that takes old pods away first: those that are of no use at once, others as far as pods may be missing.
fn replace(
    plan: &mut Plan,
    nodes: &Nodes,
    by_node: &BTreeMap<&str, Vec<&Daemon>>,
    max: i64,
    available: &dyn Fn(&Daemon) -> bool,
) {
    let (mut missing, mut useless, mut candidates) = (0, Vec::new(), Vec::new());
    for (node, _) in nodes.iter().filter(|(_, fit)| fit.run) {
        match pair(by_node.get(node.as_str())) {
            (None, Some(old)) if old.view.deleting || plan.delete.contains(&old.view.name) => missing += 1,
            (None, Some(old)) if !available(old) => useless.push(old),
            (None, Some(old)) => candidates.push(old),
            (Some(new), None) if available(new) => {}
            _ => missing += 1,
        }
    }
    let budget = usize::try_from(max - missing).unwrap_or(0);
    let going = useless.into_iter().chain(candidates.into_iter().take(budget));
    plan.delete.extend(going.filter(|p| p.view.phase <= Phase::Running).map(|p| p.view.name.clone()));
}

/// An update that brings new pods first: an old one goes when its successor is of use.
fn surge(
    plan: &mut Plan,
    nodes: &Nodes,
    by_node: &BTreeMap<&str, Vec<&Daemon>>,
    max: i64,
    available: &dyn Fn(&Daemon) -> bool,
) {
    let (mut coming, mut useless, mut candidates) = (0, Vec::new(), Vec::new());
    for (node, _) in nodes.iter().filter(|(_, fit)| fit.run) {
        match pair(by_node.get(node.as_str())) {
            (None, Some(old)) if old.view.deleting => {}
            (None, Some(old)) if !available(old) => useless.push(node.clone()),
            (None, Some(_)) => candidates.push(node.clone()),
            (Some(new), Some(_)) if !available(new) => coming += 1,
            _ => {}
        }
    }
    let budget = usize::try_from(max - coming).unwrap_or(0);
    plan.create.extend(useless.into_iter().chain(candidates.into_iter().take(budget)));
}

/// The status to report, in place of `old`.
pub fn status(
    old: Option<&Value>,
    ds: &Daemons,
    nodes: &Nodes,
    pods: &[Daemon],
    collisions: i64,
    now: Timestamp,
) -> Value {
    let by_node = group(pods);
    let (mut current, mut ready, mut available, mut updated) = (0, 0, 0, 0);
    let (mut desired, mut misplaced) = (0, 0);
    for (node, fit) in nodes {
        let here = by_node.get(node.as_str());
        desired += i64::from(fit.run);
        misplaced += i64::from(!fit.run && here.is_some());
        let Some(first) = here.and_then(|h| h.first()).filter(|_| fit.run) else { continue };
        current += 1;
        ready += i64::from(first.view.is_ready());
        available += i64::from(first.view.is_available(ds.min_ready, now));
        // During a surge the new one beside the old counts.
        updated += i64::from(here.is_some_and(|h| h.iter().any(|p| p.updated)));
    }
    let mut status = old.cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    for (field, n) in [
        ("currentNumberScheduled", current),
        ("numberMisscheduled", misplaced),
        ("desiredNumberScheduled", desired),
        ("numberReady", ready),
    ] {
        status[field] = n.into();
    }
    for (field, n) in [
        ("updatedNumberScheduled", updated),
        ("numberAvailable", available),
        ("numberUnavailable", desired - available),
        ("collisionCount", collisions),
        ("observedGeneration", ds.generation),
    ] {
        match n {
            0 => drop(status.remove_at(&format!("/{field}"))),
            n => status[field] = n.into(),
        }
    }
    status
}
