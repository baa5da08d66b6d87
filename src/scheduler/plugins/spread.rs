//! Even numbers of like pods over zones, hosts, or whatever a label names.
//!
//! Upstream: `plugins/podtopologyspread`.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::cluster::NodeInfo;
use super::super::counts::{Move, Parts};
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::{PodInfo, Spread};
use super::nodes::untolerated;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Hard constraints refuse nodes; soft ones, and those of Services and controllers, make them worse.
pub struct PodTopologySpread;

/// True when nodes like this take part in a constraint.
fn takes_part(c: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!c.honor_affinity || pod.wants_node(&node.name, &node.labels))
        && (!c.honor_taints || untolerated(pod, node).is_none())
}

/// True for a pod that counts for a constraint; those that are going do not. An empty selector means no pod here, though
/// it means the newcomer itself.
fn is_counted(c: &Spread, pod: &PodInfo, other: &PodInfo) -> bool {
    c.selector.as_ref().is_some_and(|s| !s.is_empty())
        && !other.deleting
        && other.namespace == pod.namespace
        && c.counts(other)
}

/// How many pods on a node count for a constraint.
fn matching(c: &Spread, pod: &PodInfo, node: &NodeInfo) -> i64 {
    node.pods.iter().filter(|p| is_counted(c, pod, p)).count() as i64
}

fn has_keys(hard: &[&Spread], node: &NodeInfo) -> bool {
    hard.iter().all(|c| node.label(&c.key).is_some())
}

/// Counts all nodes for hard constraints.
fn count(cx: &Cycle<'_>, hard: &[&Spread]) -> Parts {
    let mut all: Vec<HashMap<Box<str>, i64>> = hard.iter().map(|_| HashMap::new()).collect();
    for node in cx.cluster.nodes().iter().filter(|n| has_keys(hard, n)) {
        for (c, parts) in hard.iter().zip(&mut all) {
            let Some(part) = node.label(&c.key) else { continue };
            if takes_part(c, cx.pod, node) {
                let n = matching(c, cx.pod, node);
                match parts.get_mut(part) {
                    Some(sum) => *sum += n,
                    None => drop(parts.insert(part.into(), n)),
                }
            }
        }
    }
    all.into_iter().map(Arc::new).collect()
}

/// Takes a pod that moved into the counts.
fn follow(cx: &Cycle<'_>, hard: &[&Spread], all: &mut Parts, step: &Move) {
    let node = &cx.cluster.nodes()[step.at];
    if !has_keys(hard, node) {
        return;
    }
    for (c, parts) in hard.iter().zip(all) {
        if !is_counted(c, cx.pod, &step.pod) || !takes_part(c, cx.pod, node) {
            continue;
        }
        if let Some(n) = node.label(&c.key).and_then(|part| Arc::make_mut(parts).get_mut(part)) {
            *n += step.sign;
        }
    }
}

/// One hard constraint, with the number of pods in each part of the cluster.
struct Counted<'a> {
    constraint: &'a Spread,
    parts: Arc<HashMap<Box<str>, i64>>,
    /// The newcomer itself.
    own: i64,
}

impl Counted<'_> {
    fn least(&self) -> i64 {
        if (self.parts.len() as i64) < self.constraint.min_domains {
            return 0;
        }
        self.parts.values().copied().min().unwrap_or(0)
    }
}

struct Even<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Counted<'a>>,
    /// The least number of pods of each constraint.
    least: Vec<i64>,
}

impl Filter for Even<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for (counted, least) in self.constraints.iter().zip(&self.least) {
            let Some(part) = node.label(&counted.constraint.key) else {
                return Err(Refusal::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let there = counted.parts.get(part).copied().unwrap_or(0);
            if there + counted.own - least > counted.constraint.max_skew {
                return Err(Refusal::retry("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn changed(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        if pod.deleting || pod.namespace != self.pod.namespace {
            return;
        }
        let all_keys = self.constraints.iter().all(|c| node.label(&c.constraint.key).is_some());
        for (counted, least) in self.constraints.iter_mut().zip(&mut self.least) {
            if !all_keys || !counted.constraint.counts(pod) || !takes_part(counted.constraint, self.pod, node) {
                continue;
            }
            let parts = Arc::make_mut(&mut counted.parts);
            if let Some(n) = node.label(&counted.constraint.key).and_then(|part| parts.get_mut(part)) {
                *n += sign;
                *least = counted.least();
            }
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let hard: Vec<&Spread> = cx.pod.spread.iter().filter(|c| c.hard).collect();
        if hard.is_empty() {
            return PreFilter::Skip;
        }
        let follow = |parts: &mut Parts, step: &Move| follow(cx, &hard, parts, step);
        let parts = cx.cluster.counts.of(cx.pod, cx.cluster.moves(), follow, || count(cx, &hard));
        let constraints: Vec<Counted<'_>> = hard
            .into_iter()
            .zip(parts)
            .map(|(constraint, parts)| Counted { constraint, parts, own: i64::from(constraint.counts(cx.pod)) })
            .collect();
        let least = constraints.iter().map(Counted::least).collect();
        PreFilter::Check(Box::new(Even { pod: cx.pod, constraints, least }))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let own: Vec<&Spread> = cx.pod.spread.iter().filter(|c| !c.hard).collect();
        // The defaults take nodes that lack some of the keys; constraints of one's own do not.
        let (constraints, all_keys) =
            if cx.pod.spread.is_empty() { (cx.default_spread.iter().collect::<Vec<_>>(), false) } else { (own, true) };
        if constraints.is_empty() {
            return None;
        }
        Some(scores(cx, &constraints, nodes, all_keys))
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        let counted = |p: &PodInfo| p.namespace == pod.namespace && pod.spread.iter().any(|c| c.hard && c.counts(p));
        let keys = |n: &NodeInfo| {
            pod.spread.iter().filter(|c| c.hard).map(|c| n.label(&c.key).map(str::to_owned)).collect::<Vec<_>>()
        };
        match event {
            Event::Itself => true,
            Event::PodPlaced(old, new) => counted(new) || old.as_ref().is_some_and(|old| counted(old)),
            Event::PodGone(gone) => counted(gone),
            Event::Node(None, new) => keys(new).iter().all(Option::is_some),
            Event::Node(Some(old), new) => {
                keys(old) != keys(new) || old.taints != new.taints || old.labels != new.labels
            }
            _ => false,
        }
    }
}

/// Soft constraints: fewer pods in a node's parts are better, the more so the fewer parts there are.
fn scores(cx: &Cycle<'_>, constraints: &[&Spread], nodes: &[&NodeInfo], all_keys: bool) -> Vec<i64> {
    let ignored: Vec<bool> =
        nodes.iter().map(|n| all_keys && !constraints.iter().all(|c| n.label(&c.key).is_some())).collect();
    let kept = || nodes.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(n, _)| *n);
    // Only parts that some feasible node is in are counted.
    let mut parts: Vec<HashMap<&str, i64>> = constraints
        .iter()
        .map(|c| {
            if &*c.key == HOSTNAME {
                HashMap::new()
            } else {
                kept().filter_map(|n| n.label(&c.key)).map(|p| (p, 0)).collect()
            }
        })
        .collect();
    let weights: Vec<f64> = constraints
        .iter()
        .zip(&parts)
        .map(|(c, parts)| {
            let size = if &*c.key == HOSTNAME { kept().count() } else { parts.len() };
            ((size + 2) as f64).ln()
        })
        .collect();
    let relevant = constraints.iter().any(|c| &*c.key != HOSTNAME);
    for node in cx.cluster.nodes().iter().filter(|_| relevant) {
        if all_keys && !constraints.iter().all(|c| node.label(&c.key).is_some()) {
            continue;
        }
        for (c, parts) in constraints.iter().zip(&mut parts) {
            let Some(sum) = node.label(&c.key).and_then(|part| parts.get_mut(part)) else { continue };
            if takes_part(c, cx.pod, node) {
                *sum += matching(c, cx.pod, node);
            }
        }
    }
    let raw = |node: &NodeInfo| {
        let mut score = 0.0;
        for ((c, parts), weight) in constraints.iter().zip(&parts).zip(&weights) {
            let Some(part) = node.label(&c.key) else { continue };
            let n = if &*c.key == HOSTNAME { matching(c, cx.pod, node) } else { parts.get(part).copied().unwrap_or(0) };
            score += n as f64 * weight + (c.max_skew - 1) as f64;
        }
        score.round() as i64
    };
    let mut out: Vec<i64> = nodes.iter().zip(&ignored).map(|(n, ignored)| if *ignored { 0 } else { raw(n) }).collect();
    normalise(&mut out, &ignored);
    out
}

/// The fewest become [`MAX_SCORE`]; nodes that lack a key get nothing.
fn normalise(scores: &mut [i64], ignored: &[bool]) {
    let kept = || scores.iter().zip(ignored).filter(|(_, i)| !**i).map(|(s, _)| *s);
    let (min, max) = (kept().min().unwrap_or(0), kept().max().unwrap_or(0));
    for (score, ignored) in scores.iter_mut().zip(ignored) {
        *score = match (ignored, max) {
            (true, _) => 0,
            (_, 0) => MAX_SCORE,
            _ => MAX_SCORE * (max + min - *score) / max,
        };
    }
}
