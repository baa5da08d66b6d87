//! The points at which plugins decide, as upstream's scheduling framework has them.
//!
//! A cycle looks at one pod: each plugin says once what it will check ([`Plugin::pre_filter`]), then checks node by node
//! ([`Filter`]), then scores those that passed ([`Plugin::score`]). Which events may help a refused pod is
//! [`Plugin::wakes`].
//! **Invariant:** plugins are pure: they read the cycle, and act on nothing.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::cluster::{Cluster, NodeInfo};
use super::devices::model::Class;
use super::pod::{PodInfo, Spread};
use super::profile::Profile;
use super::side::Side;

/// The best score of a plugin, before its weight.
pub const MAX_SCORE: i64 = 100;

/// Why a node is not for a pod, in upstream's words.
pub type Reason = Cow<'static, str>;

/// Reasons of one refusal. Mostly it is one, and thousands of nodes may have it, so it takes no memory of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reasons {
    /// There is none.
    #[default]
    None,
    /// There is one.
    One(Reason),
    /// There are several.
    Many(Vec<Reason>),
}

impl Reasons {
    /// One more.
    pub fn push(&mut self, reason: impl Into<Reason>) {
        let reason = reason.into();
        *self = match std::mem::take(self) {
            Self::None => Self::One(reason),
            Self::One(first) => Self::Many(vec![first, reason]),
            Self::Many(mut all) => {
                all.push(reason);
                Self::Many(all)
            }
        };
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Reason] {
        match self {
            Self::None => &[],
            Self::One(reason) => std::slice::from_ref(reason),
            Self::Many(all) => all,
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

/// A node is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// All reasons, as they are counted in messages.
    pub reasons: Reasons,
    /// No victim would change this.
    pub final_: bool,
    /// Something is wrong: the pod is not to be placed on any node before that is put right.
    pub error: bool,
}

impl Refusal {
    /// One that a victim might change.
    pub fn retry(reason: impl Into<Reason>) -> Self {
        Self { reasons: Reasons::One(reason.into()), final_: false, error: false }
    }

    /// One that stays whatever pods go.
    pub fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self { reasons: Reasons::One(reason.into()), final_: true, error: false }
    }

    /// One that ends the attempt.
    pub fn error(reason: impl Into<Reason>) -> Self {
        Self { reasons: Reasons::One(reason.into()), final_: true, error: true }
    }
}

/// What one decision is about.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// Where everything is.
    pub cluster: &'a Cluster,
    /// Everything else.
    pub side: &'a Side,
    /// The scheduler that the pod names.
    pub profile: &'a Profile,
    /// Constraints that pods without their own get from their scheduler, over the pods of their Services and controllers.
    pub default_spread: Box<[Spread]>,
}

/// What a plugin says of a pod before it sees nodes.
pub enum PreFilter<'a> {
    /// Nothing to check.
    Skip,
    /// Check each node.
    Check(Box<dyn Filter + 'a>),
    /// Only these nodes come into question.
    Only(HashSet<String>, Box<dyn Filter + 'a>),
    /// No node will do.
    Reject(String),
}

/// Checks nodes for one pod.
pub trait Filter: Send {
    /// Says whether the pod may go to this node.
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal>;
    /// Pretends that a pod is on the node from now on (`sign` 1) or is no more (-1). The node is as it was after the
    /// change.
    fn changed(&mut self, _pod: &PodInfo, _node: &NodeInfo, _sign: i64) {}
}

/// A rule of placement. Stateless: what it needs is in the cycle.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// What there is to check.
    fn pre_filter<'a>(&self, _cx: &'a Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Skip
    }
    /// Scores from 0 to [`MAX_SCORE`] for nodes that passed, in their order; `None` where it has no opinion.
    fn score(&self, _cx: &Cycle<'_>, _nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        None
    }
    /// True where the score of a node depends on nothing but the resources of the pod and the node, and not on the other
    /// nodes: it holds for the next pod that asks for the same, as long as the node does not change.
    fn scores_by_resources(&self) -> bool {
        false
    }
    /// True where its checks look at nothing but the pod and the node: what a node says holds for the next pod that wants the
    /// same, as long as the node does not change.
    fn checks_node_alone(&self) -> bool {
        false
    }
    /// True when the event may make a node fit that this plugin refused to the pod.
    fn wakes(&self, _event: &Event, _pod: &PodInfo) -> bool {
        false
    }
}

/// A node that a pod has left.
#[derive(Debug, Clone, Default)]
pub struct Freed {
    /// As it is without the pod.
    pub node: NodeInfo,
    /// Pods that it is promised to.
    pub promised: Vec<Arc<PodInfo>>,
}

/// Something happened that may help a waiting pod.
#[derive(Debug)]
pub enum Event {
    /// A node came, or changed: before (where known) and now, without pods.
    Node(Option<Box<NodeInfo>>, Box<NodeInfo>),
    /// A node is gone: as it was, without pods.
    NodeGone(Box<NodeInfo>),
    /// A pod is on a node from now on, or changed there: before and now.
    PodPlaced(Option<Arc<PodInfo>>, Arc<PodInfo>),
    /// A pod left its node, or will not come to it; what the node is now, where it is still there.
    PodGone(Arc<PodInfo>, Option<Box<Freed>>),
    /// The waiting pod itself changed.
    Itself,
    /// Labels of a namespace changed.
    Namespace,
    /// Something of storage changed.
    Storage,
    /// A volume is attached to its node no more.
    Detached,
    /// There may be other devices.
    Devices,
    /// A class of devices came, or changed.
    DeviceClass(Arc<Class>),
    /// A claim of devices changed.
    #[allow(missing_docs)]
    Claim { namespace: Box<str>, name: Box<str>, freed: bool },
}

/// Scales scores so that the largest becomes [`MAX_SCORE`]; `reverse` makes the largest the worst.
/// Upstream: `plugins/helper` (`DefaultNormalizeScore`).
pub fn normalise(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (max, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => *score,
            (_, true) => MAX_SCORE - MAX_SCORE * *score / max,
            (_, false) => MAX_SCORE * *score / max,
        };
    }
}
