//! Pods that want to be near other pods, or far from them.
//!
//! Upstream: `plugins/interpodaffinity`.

use std::collections::HashMap;

use super::super::cluster::{Cluster, NodeInfo};
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::{PodInfo, PodTerm};

/// Required terms of both sides refuse nodes; preferred terms of both sides score them.
pub struct InterPodAffinity;

/// Numbers by topology key and value.
#[derive(Debug, Default)]
struct Parts(HashMap<Box<str>, HashMap<Box<str>, i64>>);

impl Parts {
    fn add(&mut self, key: &str, node: &NodeInfo, n: i64) {
        let Some(value) = node.label(key) else { return };
        if !self.0.contains_key(key) {
            self.0.insert(key.into(), HashMap::new());
        }
        let values = self.0.get_mut(key).expect("made above");
        match values.get_mut(value) {
            Some(sum) => *sum += n,
            None => drop(values.insert(value.into(), n)),
        }
    }

    fn get(&self, key: &str, node: &NodeInfo) -> i64 {
        node.label(key).and_then(|value| self.0.get(key)?.get(value)).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.values().all(|values| values.values().all(|n| *n == 0))
    }
}

fn matches(term: &PodTerm, pod: &PodInfo, cluster: &Cluster) -> bool {
    term.matches(pod, cluster.namespaces.get(&pod.namespace))
}

/// Near and far, as far as required.
struct Near<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    /// Pods that all of the newcomer's affinity terms mean.
    near: Parts,
    /// Pods that its anti-affinity terms mean, each for itself.
    far: Parts,
    /// Pods whose anti-affinity terms mean the newcomer.
    forbid: Parts,
    /// It would satisfy its own affinity.
    own: bool,
}

impl Near<'_> {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, n: i64) {
        for term in &other.anti_affinity {
            if matches(term, self.pod, self.cluster) {
                self.forbid.add(&term.key, node, n);
            }
        }
        self.count_wanted(other, node, n);
    }

    fn count_wanted(&mut self, other: &PodInfo, node: &NodeInfo, n: i64) {
        let pod = self.pod;
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|t| matches(t, other, self.cluster)) {
            for term in &pod.affinity {
                self.near.add(&term.key, node, n);
            }
        }
        for term in &pod.anti_affinity {
            if matches(term, other, self.cluster) {
                self.far.add(&term.key, node, n);
            }
        }
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let terms = &self.pod.affinity;
        if terms.iter().any(|t| node.label(&t.key).is_none()) {
            return false;
        }
        // The first of a group that wants to be with itself has to go somewhere.
        terms.iter().all(|t| self.near.get(&t.key, node) > 0) || (self.own && self.near.is_empty())
    }
}

impl Filter for Near<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.is_near(node) {
            return Err(Refusal::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if self.pod.anti_affinity.iter().any(|t| self.far.get(&t.key, node) > 0) {
            return Err(Refusal::retry("node(s) didn't match pod anti-affinity rules"));
        }
        let forbidden = self
            .forbid
            .0
            .iter()
            .any(|(key, values)| node.label(key).is_some_and(|value| values.get(value).is_some_and(|n| *n > 0)));
        match forbidden {
            true => Err(Refusal::retry("node(s) didn't satisfy existing pods anti-affinity rules")),
            false => Ok(()),
        }
    }

    fn changed(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        self.count(pod, node, sign);
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let pod = cx.pod;
        let wants = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        let own = pod.affinity.iter().all(|t| matches(t, pod, cx.cluster));
        let (near, far, forbid) = Default::default();
        let mut filter = Near { pod, cluster: cx.cluster, near, far, forbid, own };
        if !wants && !cx.cluster.has_anti_affinity() {
            return PreFilter::Skip;
        }
        for node in cx.cluster.nodes() {
            if node.with_anti_affinity > 0 {
                for other in node.pods.iter().filter(|p| !p.anti_affinity.is_empty()) {
                    for term in other.anti_affinity.iter().filter(|t| matches(t, pod, cx.cluster)) {
                        filter.forbid.add(&term.key, node, 1);
                    }
                }
            }
            if wants {
                for other in &node.pods {
                    filter.count_wanted(other, node, 1);
                }
            }
        }
        if !wants && filter.forbid.is_empty() { PreFilter::Skip } else { PreFilter::Check(Box::new(filter)) }
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let pod = cx.pod;
        let wishes = !pod.affinity_preferred.is_empty() || !pod.anti_affinity_preferred.is_empty();
        let args = &cx.profile.args;
        if !wishes && (args.ignore_preferred_of_existing || !cx.cluster.has_affinity()) {
            return None;
        }
        let mut parts = Parts::default();
        for node in cx.cluster.nodes() {
            if wishes {
                for other in &node.pods {
                    add_all(&mut parts, &pod.affinity_preferred, other, node, 1, cx.cluster);
                    add_all(&mut parts, &pod.anti_affinity_preferred, other, node, -1, cx.cluster);
                }
            }
            if node.with_affinity == 0 {
                continue;
            }
            for other in node.pods.iter().filter(|p| p.has_affinity()) {
                for term in other.affinity.iter().filter(|t| matches(t, pod, cx.cluster)) {
                    parts.add(&term.key, node, args.hard_pod_affinity_weight);
                }
                add_all(&mut parts, &other.affinity_preferred, pod, node, 1, cx.cluster);
                add_all(&mut parts, &other.anti_affinity_preferred, pod, node, -1, cx.cluster);
            }
        }
        if parts.0.is_empty() {
            return None;
        }
        let raw: Vec<i64> = nodes.iter().map(|node| parts.0.keys().map(|key| parts.get(key, node)).sum()).collect();
        Some(between(&raw))
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
            Event::PodGone(gone) => keeps_apart(gone),
            Event::Node(None, _) => true,
            Event::Node(Some(old), new) => old.labels != new.labels,
            _ => false,
        }
    }
}

/// Adds the weights of the terms that mean `pod` to the parts that `node` is in.
fn add_all(parts: &mut Parts, terms: &[(i64, PodTerm)], pod: &PodInfo, node: &NodeInfo, sign: i64, cluster: &Cluster) {
    for (weight, term) in terms.iter().filter(|(_, t)| matches(t, pod, cluster)) {
        parts.add(&term.key, node, sign * weight);
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
