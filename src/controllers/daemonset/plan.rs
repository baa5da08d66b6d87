//! What has to happen so that each node that should has one pod of a DaemonSet, of its newest template. No IO, no clock.
//!
//! Rules: upstream `daemon_controller.go` (`podsShouldBeOnNode`), `update.go` (`rollingUpdate`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::nodes::Fit;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::numbers::{self, Round};
use crate::controllers::common::pods::{Phase, PodView};
use crate::util::order::Arrange;

/// Pods that one pass makes or deletes at most; upstream's `BurstReplicas` of DaemonSets.
const BURST: usize = 250;

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

type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Daemon>>;

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
    let surging = !ds.on_delete && max_surge > 0;
    for (node, fit) in nodes {
        match by_node.get(node.as_str()) {
            None if fit.run => plan.create.push(node.clone()),
            None => {}
            Some(here) if fit.stay => one_node(&mut plan, node, here, surging && fit.run, surging, wait, &available),
            Some(here) => plan.delete.extend(here.iter().filter(|p| !p.view.deleting).map(|p| p.view.name.clone())),
        }
    }
    // Pods on their way to nodes that are gone; those that were there are the garbage collector's.
    let strays = by_node.iter().filter(|(node, _)| !nodes.contains_key(**node)).flat_map(|(_, here)| here);
    plan.delete.extend(strays.filter(|p| !p.bound && !p.view.deleting).map(|p| p.view.name.clone()));
    // What was just decided has to be seen before anything is updated.
    if !ds.on_delete && plan.create.is_empty() && plan.delete.is_empty() {
        for (node, _) in nodes.iter().filter(|(_, fit)| fit.run) {
            by_node.entry(node).or_default();
        }
        match surging {
            false => replace(&mut plan, &by_node, max_unavailable, &available),
            true => surge(&mut plan, nodes, &by_node, (max_surge, desired), &available),
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    let ready = pods.iter().filter(|p| p.view.is_ready() && !available(p) && !p.view.deleting);
    let next = ready.filter_map(|p| Some(p.view.ready_since?.as_second() + ds.min_ready - now.as_second())).min();
    plan.after = [plan.after, next].into_iter().flatten().min();
    plan
}

/// Pods by node; on each the one on its node first, then the older. One that has ended and is going is no matter any more.
/// Rule: upstream `getNodesToDaemonPods`.
fn group(pods: &[Daemon]) -> ByNode<'_> {
    let mut all = ByNode::new();
    for pod in pods.iter().filter(|p| !(p.view.deleting && p.view.has_ended())) {
        all.entry(pod.view.node.as_str()).or_default().push(pod);
    }
    for here in all.values_mut() {
        here.arrange_by_key(|p| (!p.bound, p.view.created, p.view.name.clone()));
    }
    all
}

/// The pods of one node where they may stay: ended ones go, and all but one (but two during an update with surge). With
/// surge one that is going is not waited for, if the node is to `run` one.
fn one_node(
    plan: &mut Plan,
    node: &str,
    here: &[&Daemon],
    run: bool,
    surging: bool,
    wait: &dyn Fn(&str) -> i64,
    available: &dyn Fn(&Daemon) -> bool,
) {
    let mut alive: Vec<&Daemon> = Vec::new();
    let mut waiting = false;
    for pod in here.iter().filter(|p| !p.view.deleting) {
        match pod.view.phase {
            Phase::Failed | Phase::Succeeded => {
                let well = pod.view.phase == Phase::Succeeded;
                let left = if well { 0 } else { wait(node) };
                if left > 0 {
                    plan.after = Some(plan.after.map_or(left, |a| a.min(left)));
                    waiting = true;
                } else {
                    plan.ended.push((pod.view.name.clone(), node.to_owned(), well));
                    plan.delete.push(pod.view.name.clone());
                }
            }
            _ => alive.push(pod),
        }
    }
    // Upstream does not wait for failed ones either, and so makes pods without end where each fails at once.
    if run && alive.is_empty() && !waiting {
        plan.create.push(node.to_owned());
    }
    let mut keep: Vec<&Daemon> = alive.iter().take(1).copied().collect();
    if surging {
        let new = alive.iter().find(|p| p.updated).copied();
        let old = alive.iter().find(|p| !p.updated).copied();
        keep = match (new, old) {
            (Some(new), Some(old)) if available(new) || !old.view.is_ready() => vec![new],
            (new, old) => new.into_iter().chain(old).collect(),
        };
    }
    let surplus = alive.iter().filter(|p| !keep.iter().any(|k| k.view.name == p.view.name));
    plan.delete.extend(surplus.map(|p| p.view.name.clone()));
}

/// The pod of the newest template and the older one of a node, those that are going apart. None when there are more of a
/// sort: that has to be put right first. Rule: upstream `findUpdatedPodsOnNode`.
fn pair<'a>(here: &[&'a Daemon]) -> Option<(Option<&'a Daemon>, Option<&'a Daemon>)> {
    let (mut new, mut old) = (None, None);
    for pod in here.iter().copied().filter(|p| !p.view.deleting) {
        let place = if pod.updated { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// An update that takes old pods away first: those that are of no use at once, others as far as pods may be missing. Old
/// pods where none should be made go with the others, and have no successor.
fn replace(plan: &mut Plan, by_node: &ByNode<'_>, max: i64, available: &dyn Fn(&Daemon) -> bool) {
    let (mut missing, mut useless, mut candidates) = (0, Vec::new(), Vec::new());
    for here in by_node.values() {
        match pair(here) {
            Some((Some(new), None)) if available(new) => {}
            Some((None, Some(old))) if available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                missing += 1;
                useless.push(old);
            }
            _ => missing += 1,
        }
    }
    let budget = usize::try_from(max - missing).unwrap_or(0);
    let going = useless.into_iter().chain(candidates.into_iter().take(budget));
    plan.delete.extend(going.map(|p| p.view.name.clone()));
}

/// An update that brings new pods first, up to `max` beside those that are of use. Old pods where none should be made go
/// while more than `desired` are available.
fn surge(
    plan: &mut Plan,
    nodes: &Nodes,
    by_node: &ByNode<'_>,
    (max, desired): (i64, i64),
    available: &dyn Fn(&Daemon) -> bool,
) {
    let (mut coming, mut of_use) = (0, 0);
    let (mut useless, mut candidates, mut homeless) = (Vec::new(), Vec::new(), Vec::new());
    for (node, here) in by_node {
        let Some(fit) = nodes.get(*node) else { continue };
        let Some((new, old)) = pair(here) else {
            coming += 1;
            continue;
        };
        of_use += i64::from(old.or(new).is_some_and(available));
        match (new, old) {
            (None, Some(old)) if fit.run && available(old) => candidates.push((*node).to_owned()),
            (None, Some(_)) if fit.run => useless.push((*node).to_owned()),
            (None, Some(old)) if available(old) => homeless.push(old.view.name.clone()),
            (None, Some(old)) => plan.delete.push(old.view.name.clone()),
            (Some(new), Some(_)) if !available(new) => coming += 1,
            _ => {}
        }
    }
    let budget = |n: i64| usize::try_from(n).unwrap_or(0);
    plan.create.extend(useless.into_iter().chain(candidates.into_iter().take(budget(max - coming))));
    plan.delete.extend(homeless.into_iter().take(budget(of_use - desired)));
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
        // Of two during a surge the older one counts.
        let Some(first) = here.and_then(|h| h.first()).filter(|_| fit.run) else { continue };
        current += 1;
        ready += i64::from(first.view.is_ready());
        available += i64::from(first.view.is_available(ds.min_ready, now));
        updated += i64::from(first.updated);
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
