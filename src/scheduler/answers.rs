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

use std::sync::Arc;

use super::cluster::Cluster;
use super::cycle::{Checked, Nominated};
use super::framework::{Cycle, Reasons};
use super::pod::{HostPort, Labels, NodeTerm, PodInfo, Toleration};
use super::preempt::Plan;
use super::resources::Resources;

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

/// Of one node.
#[derive(Debug, Default)]
struct Answer {
    /// The node's when it was asked; 0: never.
    version: u64,
    fits: Option<Checked>,
    plan: Option<Result<Arc<Plan>, Reasons>>,
}

/// What nodes said to the last pods.
#[derive(Debug, Default)]
pub struct Answers {
    wants: Option<Wants>,
    /// By the node's index; none while nothing is kept.
    nodes: Vec<Answer>,
    /// The node that is promised to this pod itself: for it the promise does not count, for its like it does.
    own: Option<usize>,
}

impl Answers {
    /// Another pod's turn. `alone`: all its checks look at the pod and the node alone.
    pub fn begin(&mut self, cx: &Cycle<'_>, nominated: &Nominated, alone: bool) {
        let is_like = alone && self.wants.as_ref().is_some_and(|wants| wants.is_of(&cx.profile.name, cx.pod));
        if !is_like {
            self.nodes.clear();
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

    /// Whether a node fits: as it said before, or as `ask` says now.
    pub fn fits(&mut self, cluster: &Cluster, at: usize, ask: impl FnOnce() -> Checked) -> Checked {
        match self.of(cluster, at) {
            Some(answer) => answer.fits.get_or_insert_with(ask).clone(),
            None => ask(),
        }
    }

    /// The same for who has to go from it.
    pub fn plan(
        &mut self,
        cluster: &Cluster,
        at: usize,
        ask: impl FnOnce() -> Result<Arc<Plan>, Reasons>,
    ) -> Result<Arc<Plan>, Reasons> {
        match self.of(cluster, at) {
            Some(answer) => answer.plan.get_or_insert_with(ask).clone(),
            None => ask(),
        }
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
