//! What pods on nodes say about other pods, by term: pods of one kind say the same, so a newcomer looks at each term once and
//! not at each pod.
//!
//! **Invariant:** what is here equals what counting all pods on all nodes anew gives.

use std::collections::HashMap;

use super::cluster::NodeInfo;
use super::counts::{Values, add};
use super::pod::{Labels, PodInfo, PodTerm};

/// Numbers by term and part of the cluster; nothing is kept of a part that counts zero.
pub type ByTerm = HashMap<PodTerm, Values>;

/// Terms of the pods on nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Required anti-affinity: how many pods keep away those that the term means.
    pub away: ByTerm,
    /// Required affinity: how many pods are near those that the term means.
    pub near: ByTerm,
    /// Preferred affinity: the sum of the weights, less than zero where they would rather be apart.
    pub wishes: ByTerm,
}

impl Terms {
    /// A pod is on this node (`sign` 1), or is no more (-1).
    pub fn note(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        if !pod.has_affinity() {
            return;
        }
        for term in &pod.anti_affinity {
            count(&mut self.away, term, node, sign);
        }
        for term in &pod.affinity {
            count(&mut self.near, term, node, sign);
        }
        for (weight, term) in &pod.affinity_preferred {
            count(&mut self.wishes, term, node, sign * weight);
        }
        for (weight, term) in &pod.anti_affinity_preferred {
            count(&mut self.wishes, term, node, -sign * weight);
        }
    }

    /// True where some pod is rather near some pods, or far from them.
    pub fn has_opinions(&self) -> bool {
        !self.near.is_empty() || !self.wishes.is_empty()
    }
}

fn count(all: &mut ByTerm, term: &PodTerm, node: &NodeInfo, n: i64) {
    let Some(part) = node.label(&term.key) else { return };
    match all.get_mut(term) {
        Some(values) => {
            add(values, part, n);
            if values.is_empty() {
                all.remove(term);
            }
        }
        None if n != 0 => drop(all.insert(term.clone(), HashMap::from([(part.into(), n)]))),
        None => {}
    }
}

/// The terms that mean a pod, whose namespace has `labels`, with their numbers.
pub fn that_mean<'a>(
    all: &'a ByTerm,
    pod: &'a PodInfo,
    labels: Option<&'a Labels>,
) -> impl Iterator<Item = (&'a str, &'a Values)> {
    all.iter().filter(move |(term, _)| term.matches(pod, labels)).map(|(term, values)| (&*term.key, values))
}
