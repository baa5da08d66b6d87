//! Even numbers of like pods over zones, hosts, or whatever a label names.
//!
//! Upstream: `plugins/podtopologyspread`.

use std::sync::Arc;

use super::super::cluster::NodeInfo;
use super::super::counts::{Move, Parts, Sums};
use super::super::domains::Domains;
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::{Labels, NodeTerm, PodInfo, Spread, Toleration};
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

/// What of a pod decides which nodes and pods its constraints count.
#[derive(Debug)]
pub struct Kind {
    namespace: Box<str>,
    constraints: Box<[Spread]>,
    soft: bool,
    all_keys: bool,
    tolerations: Box<[Toleration]>,
    node_selector: Labels,
    node_required: Option<Box<[NodeTerm]>>,
}

/// Constraints of a pod, all that refuse nodes or all that score them, which count the pods of all nodes.
struct Census<'a> {
    cx: &'a Cycle<'a>,
    constraints: &'a [&'a Spread],
    /// For each of them the parts that it counts.
    domains: Vec<Arc<Domains>>,
    soft: bool,
    /// Nodes that lack the key of one of them count for none.
    all_keys: bool,
}

impl<'a> Census<'a> {
    fn new(cx: &'a Cycle<'a>, constraints: &'a [&'a Spread], soft: bool, all_keys: bool) -> Self {
        let domains = constraints.iter().map(|c| cx.cluster.domains(&c.key)).collect();
        Self { cx, constraints, domains, soft, all_keys }
    }

    /// Pods in the parts of the cluster, for each constraint.
    fn parts(&self) -> Parts {
        let cluster = self.cx.cluster;
        let anew = || (self.kind(), self.count());
        cluster.spread.of(|kind| self.is(kind), cluster.moves(), |parts, step| self.follow(parts, step), anew)
    }

    fn kind(&self) -> Kind {
        let pod = self.cx.pod;
        Kind {
            namespace: pod.namespace.clone(),
            constraints: self.constraints.iter().map(|c| (*c).clone()).collect(),
            soft: self.soft,
            all_keys: self.all_keys,
            tolerations: pod.tolerations.clone(),
            node_selector: pod.node_selector.clone(),
            node_required: pod.node_required.clone(),
        }
    }

    fn is(&self, kind: &Kind) -> bool {
        let pod = self.cx.pod;
        kind.namespace == pod.namespace
            && (kind.soft, kind.all_keys) == (self.soft, self.all_keys)
            && kind.constraints.iter().eq(self.constraints.iter().copied())
            && kind.tolerations == pod.tolerations
            && kind.node_selector == pod.node_selector
            && kind.node_required == pod.node_required
    }

    fn has_keys(&self, node: &NodeInfo) -> bool {
        !self.all_keys || self.domains.iter().all(|domains| domains.of(node).is_some())
    }

    /// True for a constraint whose parts are the nodes themselves, whoever takes part.
    fn is_by_host(&self, c: &Spread) -> bool {
        self.soft && &*c.key == HOSTNAME
    }

    /// The constraints, with the parts that they count.
    fn each(&self) -> impl Iterator<Item = (&'a Spread, &Domains)> {
        self.constraints.iter().copied().zip(self.domains.iter().map(|d| &**d))
    }

    /// The part that a node is in for a constraint.
    fn part(&self, (c, domains): (&Spread, &Domains), node: &NodeInfo) -> Option<usize> {
        if self.is_by_host(c) { Some(node.at) } else { domains.of(node) }
    }

    /// The same, where it takes part.
    fn counted_part(&self, (c, domains): (&Spread, &Domains), node: &NodeInfo) -> Option<usize> {
        self.part((c, domains), node).filter(|_| self.is_by_host(c) || takes_part(c, self.cx.pod, node))
    }

    fn count(&self) -> Parts {
        let nodes = self.cx.cluster.nodes();
        let size = |(c, domains): (&Spread, &Domains)| if self.is_by_host(c) { nodes.len() } else { domains.count() };
        let mut all: Vec<Sums> = self.each().map(|c| Sums::new(size(c))).collect();
        for node in nodes.iter().filter(|n| self.has_keys(n)) {
            for (c, parts) in self.each().zip(&mut all) {
                let Some(part) = self.counted_part(c, node) else { continue };
                let n = node.pods.iter().filter(|p| is_counted(c.0, self.cx.pod, p)).count() as i64;
                // For a hard constraint a part without pods counts too.
                parts.add(part, n);
            }
        }
        all.into_iter().map(Arc::new).collect()
    }

    /// Takes a pod that moved into the counts.
    fn follow(&self, all: &mut Parts, step: &Move) {
        let node = &self.cx.cluster.nodes()[step.at];
        if !self.has_keys(node) {
            return;
        }
        for (c, parts) in self.each().zip(all) {
            if !is_counted(c.0, self.cx.pod, &step.pod) {
                continue;
            }
            if let Some(part) = self.counted_part(c, node) {
                Arc::make_mut(parts).add(part, step.sign);
            }
        }
    }
}

/// One hard constraint, with the number of pods in each part of the cluster.
struct Counted<'a> {
    constraint: &'a Spread,
    parts: Arc<Sums>,
    domains: Arc<Domains>,
    /// The newcomer itself.
    own: i64,
}

impl Counted<'_> {
    fn least(&self) -> i64 {
        if (self.parts.iter().count() as i64) < self.constraint.min_domains {
            return 0;
        }
        self.parts.iter().min().unwrap_or(0)
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
            let Some(part) = counted.domains.of(node) else {
                return Err(Refusal::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let there = counted.parts.get(part).unwrap_or(0);
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
        let all_keys = self.constraints.iter().all(|c| c.domains.of(node).is_some());
        for (counted, least) in self.constraints.iter_mut().zip(&mut self.least) {
            if !all_keys || !counted.constraint.counts(pod) || !takes_part(counted.constraint, self.pod, node) {
                continue;
            }
            let part = counted.domains.of(node).filter(|part| counted.parts.get(*part).is_some());
            if let Some(part) = part {
                Arc::make_mut(&mut counted.parts).add(part, sign);
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
        let census = Census::new(cx, &hard, false, true);
        let counted = |((constraint, domains), parts): ((&&'a Spread, &Arc<Domains>), Arc<Sums>)| {
            let (domains, own) = (domains.clone(), i64::from(constraint.counts(cx.pod)));
            Counted { constraint, parts, domains, own }
        };
        let constraints: Vec<Counted<'a>> = hard.iter().zip(&census.domains).zip(census.parts()).map(counted).collect();
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
            Event::PodGone(gone, _) => counted(gone),
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
    let census = Census::new(cx, constraints, true, all_keys);
    let ignored: Vec<bool> = nodes.iter().map(|n| !census.has_keys(n)).collect();
    let kept = || nodes.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(n, _)| *n);
    // The more parts the feasible nodes are in, the more a constraint weighs.
    let size = |(c, domains): (&Spread, &Domains)| {
        if census.is_by_host(c) {
            return kept().count();
        }
        let mut seen = vec![false; domains.count()];
        kept().filter_map(|n| domains.of(n)).filter(|part| !std::mem::replace(&mut seen[*part], true)).count()
    };
    let weights: Vec<f64> = census.each().map(|c| ((size(c) + 2) as f64).ln()).collect();
    let parts = census.parts();
    let raw = |node: &NodeInfo| {
        let mut score = 0.0;
        for ((c, parts), weight) in census.each().zip(&parts).zip(&weights) {
            if c.1.of(node).is_none() {
                continue;
            }
            let there = census.part(c, node).and_then(|part| parts.get(part)).unwrap_or(0);
            score += there as f64 * weight + (c.0.max_skew - 1) as f64;
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
