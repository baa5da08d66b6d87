//! Answers that hold for the next pod: whether a node fits, and who would have to go, changes only when the node does, and
//! most pods come in rows that ask for the same.
//!
//! In: pods, one after the other. Out: what was found for their like on nodes that have not changed. Nothing is kept before
//! the second of a row has come, so that pods that all differ cost nothing.
//!
//! **Invariant:** what is kept is what the filters would say now: only checks that look at the pod and the node alone are
//! kept, and promises of a node count as changes of it ([`super::cycle::Nominated::take_moved`]).
//!
//! Like `scores`, this is what upstream's `OpportunisticBatching` is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::Cluster;
use super::cycle::{Checked, Nominated, Refused};
use super::framework::{Cycle, Reason};
use super::pod::{HostPort, Labels, NodeTerm, PodInfo, Toleration};
use super::preempt::Plan;
use super::resources::Resources;

/// Different refusals that are looked through for one like the next.
const LIKE_LATELY: usize = 8;

/// What of a pod such checks look at.
#[derive(Debug, PartialEq)]
struct Wants {
    profile: Box<str>,
    priority: i32,
    preempts: bool,
    node: Box<str>,
    requests: Resources,
    ports: Box<[HostPort]>,
    tolerations: Box<[Toleration]>,
    node_selector: Labels,
    node_required: Option<Box<[NodeTerm]>>,
}

impl Wants {
    fn of(profile: &str, pod: &PodInfo) -> Self {
        Self {
            profile: profile.into(),
            priority: pod.priority,
            preempts: pod.preempts,
            node: pod.node.clone(),
            requests: pod.requests.clone(),
            ports: pod.ports.clone(),
            tolerations: pod.tolerations.clone(),
            node_selector: pod.node_selector.clone(),
            node_required: pod.node_required.clone(),
        }
    }

    fn is_of(&self, profile: &str, pod: &PodInfo) -> bool {
        (&*self.profile, self.priority, self.preempts) == (profile, pod.priority, pod.preempts)
            && (&self.node, &self.requests, &self.ports) == (&pod.node, &pod.requests, &pod.ports)
            && (&self.tolerations, &self.node_selector) == (&pod.tolerations, &pod.node_selector)
            && self.node_required == pod.node_required
    }
}

/// Of one node. A refusal is told by its number: thousands of nodes give the same.
#[derive(Debug, Default)]
struct Answer {
    /// The node's when it was asked; 0: never.
    version: u64,
    fits: Option<Result<(), u32>>,
    plan: Option<Result<Arc<Plan>, u32>>,
}

/// How many nodes gave each refusal, by its number.
#[derive(Debug, Default)]
pub struct Tally(Vec<usize>);

impl Tally {
    /// One more node.
    pub fn note(&mut self, number: u32) {
        let at = number as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] += 1;
    }

    /// The numbers that some nodes gave, and how many.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().copied().enumerate().filter(|(_, n)| *n > 0)
    }
}

/// What nodes said to the last pods.
#[derive(Debug, Default)]
pub struct Answers {
    wants: Option<Wants>,
    /// By the node's index; none while nothing is kept.
    nodes: Vec<Answer>,
    /// Refusals, by number.
    refusals: Vec<Refused>,
    /// The node that is promised to this pod itself: for it the promise does not count, for its like it does.
    own: Option<usize>,
}

impl Answers {
    /// Another pod's turn. `alone`: all its checks look at the pod and the node alone.
    pub fn begin(&mut self, cx: &Cycle<'_>, nominated: &Nominated, alone: bool) {
        let is_like = alone && self.wants.as_ref().is_some_and(|wants| wants.is_of(&cx.profile.name, cx.pod));
        // Of nodes that all have reasons of their own there may come to be any number.
        if !is_like || self.refusals.len() > 2 * cx.cluster.nodes().len() {
            self.nodes.clear();
            self.refusals.clear();
            self.wants = alone.then(|| Wants::of(&cx.profile.name, cx.pod));
            return;
        }
        self.nodes.resize_with(cx.cluster.nodes().len(), Answer::default);
        self.own = nominated.node_of(&cx.pod.uid).and_then(|name| cx.cluster.index(name));
    }

    /// True where something is kept.
    pub fn are_kept(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether a node fits: as it said before, or as `ask` says now. The error is the number of its refusal.
    pub fn fits(&mut self, cluster: &Cluster, at: usize, ask: impl FnOnce() -> Checked) -> Result<(), u32> {
        if let Some(known) = self.of(cluster, at).and_then(|answer| answer.fits) {
            return known;
        }
        let said = ask().map_err(|refused| self.number(refused));
        if let Some(answer) = self.of(cluster, at) {
            answer.fits = Some(said);
        }
        said
    }

    /// The same for who has to go from it; `keep`: the answer holds as long as the node does not change.
    pub fn plan(
        &mut self,
        cluster: &Cluster,
        at: usize,
        keep: bool,
        ask: impl FnOnce() -> Result<Arc<Plan>, Refused>,
    ) -> Result<Arc<Plan>, u32> {
        if let Some(known) = self.of(cluster, at).filter(|_| keep).and_then(|answer| answer.plan.clone()) {
            return known;
        }
        let said = ask().map_err(|refused| self.number(refused));
        if let Some(answer) = self.of(cluster, at).filter(|_| keep) {
            answer.plan = Some(said.clone());
        }
        said
    }

    /// Who refused, and why, by the number that it was told by.
    pub fn refused(&self, number: u32) -> &Refused {
        &self.refusals[number as usize]
    }

    /// How many nodes gave a reason.
    pub fn reasons(&self, tally: &Tally) -> BTreeMap<Reason, usize> {
        let mut out = BTreeMap::new();
        for (number, n) in tally.iter() {
            for reason in self.refusals[number].1.reasons.as_slice() {
                *out.entry(reason.clone()).or_default() += n;
            }
        }
        out
    }

    /// The plugins that refused.
    pub fn plugins(&self, tally: &Tally) -> impl Iterator<Item = &'static str> {
        tally.iter().map(|(number, _)| self.refusals[number].0)
    }

    fn number(&mut self, refused: Refused) -> u32 {
        let from = self.refusals.len().saturating_sub(LIKE_LATELY);
        let known = self.refusals[from..].iter().rposition(|known| *known == refused);
        let at = known.map_or(self.refusals.len(), |at| from + at);
        if at == self.refusals.len() {
            self.refusals.push(refused);
        }
        at as u32
    }

    fn of(&mut self, cluster: &Cluster, at: usize) -> Option<&mut Answer> {
        let answer = self.nodes.get_mut(at).filter(|_| self.own != Some(at))?;
        let version = cluster.version(at);
        if answer.version != version {
            *answer = Answer { version, ..Answer::default() };
        }
        Some(answer)
    }
}
