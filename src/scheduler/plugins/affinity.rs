//! Pods that want to be near other pods, or far from them.
//!
//! Upstream: `plugins/interpodaffinity`.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::cluster::{Cluster, NodeInfo};
use super::super::counts::{Parts, Sums, Values, add};
use super::super::domains::Domains;
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::{PodInfo, PodTerm};
use super::super::terms;

/// Required terms of both sides refuse nodes; preferred terms of both sides score them.
pub struct InterPodAffinity;

fn matches(term: &PodTerm, pod: &PodInfo, cluster: &Cluster) -> bool {
    term.matches(pod, cluster.namespace(&pod.namespace))
}

/// Terms that count the pods they mean.
#[derive(Debug)]
pub struct Kind {
    /// The first so many count only pods that all of them mean.
    together: usize,
    terms: Box<[PodTerm]>,
}

/// Terms of one pod, which count pods on all nodes.
struct Census<'a> {
    together: usize,
    terms: Vec<&'a PodTerm>,
    /// For each of them the parts that it counts.
    domains: Vec<Arc<Domains>>,
}

impl<'a> Census<'a> {
    fn new(together: usize, terms: Vec<&'a PodTerm>, cluster: &Cluster) -> Self {
        let domains = terms.iter().map(|t| cluster.domains(&t.key)).collect();
        Self { together, terms, domains }
    }

    /// What a pod requires: nearness, all terms together, then distance.
    fn required(pod: &'a PodInfo, cluster: &Cluster) -> Self {
        Self::new(pod.affinity.len(), pod.affinity.iter().chain(&pod.anti_affinity).collect(), cluster)
    }

    /// What a pod prefers: nearness, then distance.
    fn preferred(pod: &'a PodInfo, cluster: &Cluster) -> Self {
        let all = pod.affinity_preferred.iter().chain(&pod.anti_affinity_preferred);
        Self::new(0, all.map(|(_, term)| term).collect(), cluster)
    }

    fn is(&self, kind: &Kind) -> bool {
        kind.together == self.together && kind.terms.iter().eq(self.terms.iter().copied())
    }

    /// Pods that are meant, for each term by its parts.
    fn parts(&self, cluster: &Cluster) -> Parts {
        let anew = || {
            let terms = self.terms.iter().map(|t| (*t).clone()).collect();
            (Kind { together: self.together, terms }, self.count(cluster))
        };
        let follow = |parts: &mut Parts, step: &super::super::counts::Move| {
            let node = &cluster.nodes()[step.at];
            self.each(&step.pod, node, cluster, |i, part| Arc::make_mut(&mut parts[i]).add(part, step.sign));
        };
        cluster.affinity.of(|kind| self.is(kind), cluster.moves(), follow, anew)
    }

    fn count(&self, cluster: &Cluster) -> Parts {
        let mut all: Vec<Sums> = self.domains.iter().map(|d| Sums::new(d.count())).collect();
        for node in cluster.nodes() {
            for pod in &node.pods {
                self.each(pod, node, cluster, |i, part| all[i].add(part, 1));
            }
        }
        all.into_iter().map(Arc::new).collect()
    }

    /// The terms that mean `other`, by index, with the part that it is in.
    fn each(&self, other: &PodInfo, node: &NodeInfo, cluster: &Cluster, mut to: impl FnMut(usize, usize)) {
        let (near, alone) = self.terms.split_at(self.together);
        let near = if near.iter().all(|t| matches(t, other, cluster)) { near } else { &[] };
        let alone = alone.iter().enumerate().filter(|(_, t)| matches(t, other, cluster));
        for i in (0..near.len()).chain(alone.map(|(i, _)| self.together + i)) {
            if let Some(part) = self.domains[i].of(node) {
                to(i, part);
            }
        }
    }
}

/// Near and far, as far as required.
struct Near<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    census: Census<'a>,
    /// Pods that the newcomer's terms mean.
    parts: Parts,
    /// Pods that all of its affinity terms mean.
    near: i64,
    /// Terms of others that keep the newcomer away: their keys, and the pods that have them.
    forbid: Vec<(&'a str, &'a Values)>,
    /// It would satisfy its own affinity.
    own: bool,
    moved: Moved,
}

/// What is pretended to have moved.
#[derive(Default)]
struct Moved {
    /// By term and part, for the newcomer's terms.
    own: HashMap<(usize, usize), i64>,
    /// By key, for those of others.
    others: HashMap<Box<str>, Values>,
}

impl Near<'_> {
    /// Pods that the newcomer's term means in the part that the node is in.
    fn meant(&self, i: usize, node: &NodeInfo) -> i64 {
        let Some(part) = self.census.domains[i].of(node) else { return 0 };
        let moved = match self.moved.own.is_empty() {
            true => 0,
            false => self.moved.own.get(&(i, part)).copied().unwrap_or(0),
        };
        self.parts[i].get(part).unwrap_or(0) + moved
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let terms = self.census.together;
        if self.census.domains[..terms].iter().any(|domains| domains.of(node).is_none()) {
            return false;
        }
        // The first of a group that wants to be with itself has to go somewhere.
        (0..terms).all(|i| self.meant(i, node) > 0) || (self.own && self.near == 0)
    }

    fn is_forbidden(&self, node: &NodeInfo) -> bool {
        let there = |key: &str, values: &Values| node.label(key).and_then(|part| values.get(part)).copied();
        if self.moved.others.is_empty() {
            return self.forbid.iter().any(|(key, values)| there(key, values).is_some_and(|n| n > 0));
        }
        let all = |key: &str| -> i64 {
            let real = self.forbid.iter().filter(|(k, _)| *k == key).filter_map(|(k, values)| there(k, values));
            real.sum::<i64>() + self.moved.others.get(key).and_then(|values| there(key, values)).unwrap_or(0)
        };
        let keys = self.forbid.iter().map(|(key, _)| *key).chain(self.moved.others.keys().map(|key| &**key));
        keys.into_iter().any(|key| all(key) > 0)
    }
}

impl Filter for Near<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.is_near(node) {
            return Err(Refusal::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if (self.census.together..self.census.terms.len()).any(|i| self.meant(i, node) > 0) {
            return Err(Refusal::retry("node(s) didn't match pod anti-affinity rules"));
        }
        match self.is_forbidden(node) {
            true => Err(Refusal::retry("node(s) didn't satisfy existing pods anti-affinity rules")),
            false => Ok(()),
        }
    }

    fn changed(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        let Moved { own, others } = &mut self.moved;
        for term in pod.anti_affinity.iter().filter(|t| matches(t, self.pod, self.cluster)) {
            if let Some(part) = node.label(&term.key) {
                add(others.entry(term.key.clone()).or_default(), part, sign);
            }
        }
        let (near, together) = (&mut self.near, self.census.together);
        self.census.each(pod, node, self.cluster, |i, part| {
            *own.entry((i, part)).or_default() += sign;
            *near += if i < together { sign } else { 0 };
        });
        own.retain(|_, n| *n != 0);
        others.retain(|_, values| !values.is_empty());
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let (pod, cluster) = (cx.pod, cx.cluster);
        let forbid: Vec<_> = terms::that_mean(&cluster.terms().away, pod, cluster.namespace(&pod.namespace)).collect();
        let census = Census::required(pod, cluster);
        if census.terms.is_empty() && forbid.is_empty() {
            return PreFilter::Skip;
        }
        let parts = if census.terms.is_empty() { Parts::new() } else { census.parts(cluster) };
        let own = pod.affinity.iter().all(|t| matches(t, pod, cluster));
        let near = parts[..census.together].iter().flat_map(|sums| sums.iter()).sum();
        PreFilter::Check(Box::new(Near { pod, cluster, census, parts, near, forbid, own, moved: Moved::default() }))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let (pod, cluster, args) = (cx.pod, cx.cluster, &cx.profile.args);
        let census = Census::preferred(pod, cluster);
        let others = cluster.terms();
        if census.terms.is_empty() && (args.ignore_preferred_of_existing || !others.has_opinions()) {
            return None;
        }
        let parts = if census.terms.is_empty() { Parts::new() } else { census.parts(cluster) };
        let weights = pod.affinity_preferred.iter().map(|(weight, _)| *weight);
        let weights = weights.chain(pod.anti_affinity_preferred.iter().map(|(weight, _)| -weight));
        let own = census.domains.iter().zip(&parts).zip(weights).map(|((domains, sums), n)| (domains, sums, n));
        let own: Vec<_> = own.filter(|(_, sums, _)| sums.iter().any(|n| n != 0)).collect();
        let that_mean = |all| terms::that_mean(all, pod, cluster.namespace(&pod.namespace));
        let near = that_mean(&others.near).map(|(key, values)| (key, values, args.hard_pod_affinity_weight));
        let wishes = that_mean(&others.wishes).map(|(key, values)| (key, values, 1));
        let others: Vec<(&str, &Values, i64)> = near.chain(wishes).filter(|(_, v, _)| !v.is_empty()).collect();
        if own.is_empty() && others.is_empty() {
            return None;
        }
        let sum = |node: &&NodeInfo| {
            let own = own.iter().map(|(domains, sums, n)| domains.of(node).and_then(|p| sums.get(p)).unwrap_or(0) * n);
            let others = others
                .iter()
                .map(|(key, values, n)| node.label(key).and_then(|part| values.get(part)).copied().unwrap_or(0) * n);
            own.sum::<i64>() + others.sum::<i64>()
        };
        Some(between(&nodes.iter().map(sum).collect::<Vec<i64>>()))
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        // The namespaces of a term are looked up when the pod is tried; here a wider guess does no harm.
        let means = |term: &PodTerm, other: &PodInfo| {
            term.selector.as_ref().is_some_and(|s| s.matches(|k| super::super::pod::label(&other.labels, k)))
        };
        let keeps_apart = |other: &PodInfo| {
            pod.anti_affinity.iter().any(|t| means(t, other)) || other.anti_affinity.iter().any(|t| means(t, pod))
        };
        let partner = |other: &PodInfo| pod.affinity.iter().any(|t| means(t, other));
        match event {
            Event::Itself => true,
            Event::PodPlaced(None, new) => partner(new),
            Event::PodPlaced(Some(old), new) => old.labels != new.labels && (partner(new) || keeps_apart(old)),
            Event::PodGone(gone, _) => keeps_apart(gone),
            Event::Node(None, _) => true,
            Event::Node(Some(old), new) => old.labels != new.labels,
            _ => false,
        }
    }
}

/// The least becomes 0, the largest [`MAX_SCORE`].
fn between(raw: &[i64]) -> Vec<i64> {
    let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let scale = |s: i64| {
        if max == min { 0 } else { (MAX_SCORE as f64 * ((s - min) as f64 / (max - min) as f64)) as i64 }
    };
    raw.iter().copied().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&[0, 0], &[0, 0])]
    #[test_case(&[-90, 30, 0], &[0, 100, 75])]
    #[test_case(&[10, 20, 13], &[0, 100, 30])]
    fn scaled(raw: &[i64], want: &[i64]) {
        assert_eq!(between(raw), want);
    }
}
