//! Counts over all nodes that follow what moves, so that pods of one kind, which come one after another, do not each count
//! the cluster anew.
//!
//! In: pods that come to nodes and leave them ([`Moves`]). Out: the numbers of pods in the parts of the cluster that
//! constraints of spreading count ([`Counts`]).
//!
//! **Invariant:** counts that followed the moves are those that counting anew gives.
//! **Invariant:** nothing is followed over a change of the nodes themselves: then it is counted anew.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::pod::{PodInfo, Spread};

/// Moves that are remembered; who last counted before them counts anew.
const MOVES_KEPT: usize = 4096;
/// Kinds of pods whose counts are kept.
const COUNTS_KEPT: usize = 8;

/// A pod came to a node (`sign` 1), or left it (-1).
#[derive(Debug)]
pub struct Move {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The node, by index.
    pub at: usize,
    /// 1 or -1.
    pub sign: i64,
}

/// A moment between moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Changes with the nodes.
    layout: u64,
    /// Moves since the nodes are as they are.
    number: u64,
}

/// The last moves.
#[derive(Debug, Default)]
pub struct Moves {
    now: Mark,
    recent: VecDeque<Move>,
}

impl Moves {
    /// Notes one.
    pub fn note(&mut self, pod: &Arc<PodInfo>, at: usize, sign: i64) {
        self.now.number += 1;
        self.recent.push_back(Move { pod: pod.clone(), at, sign });
        if self.recent.len() > MOVES_KEPT {
            self.recent.pop_front();
        }
    }

    /// Nodes came, went or are others than before.
    pub fn nodes_changed(&mut self) {
        self.now = Mark { layout: self.now.layout + 1, number: 0 };
        self.recent.clear();
    }

    /// The present.
    pub fn now(&self) -> Mark {
        self.now
    }

    /// The moves since then; none where they are not known any more.
    pub fn since(&self, mark: Mark) -> Option<impl Iterator<Item = &Move>> {
        let missed = usize::try_from(self.now.number - mark.number.min(self.now.number)).unwrap_or(usize::MAX);
        let known = mark.layout == self.now.layout && missed <= self.recent.len();
        known.then(|| self.recent.range(self.recent.len() - missed..))
    }
}

/// Pods in the parts of the cluster, for each of some constraints.
pub type Parts = Vec<Arc<HashMap<Box<str>, i64>>>;

/// Counts of the kinds of pods that were looked at last.
#[derive(Debug, Default)]
pub struct Counts(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    /// One of them.
    pod: Box<Kind>,
    parts: Parts,
    mark: Mark,
}

/// What of a pod decides which nodes and pods it counts.
#[derive(Debug, PartialEq)]
struct Kind {
    namespace: Box<str>,
    spread: Box<[Spread]>,
    tolerations: Box<[super::pod::Toleration]>,
    node_selector: super::pod::Labels,
    node_required: Option<Box<[super::pod::NodeTerm]>>,
}

impl Kind {
    fn of(pod: &PodInfo) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            spread: pod.spread.clone(),
            tolerations: pod.tolerations.clone(),
            node_selector: pod.node_selector.clone(),
            node_required: pod.node_required.clone(),
        }
    }

    fn is_of(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.namespace
            && self.spread == pod.spread
            && self.tolerations == pod.tolerations
            && self.node_selector == pod.node_selector
            && self.node_required == pod.node_required
    }
}

impl Counts {
    /// The counts for a pod: those that were kept for its like, after `follow` has taken each move since into them, or what
    /// `anew` counts.
    pub fn of(
        &self,
        pod: &PodInfo,
        moves: &Moves,
        follow: impl Fn(&mut Parts, &Move),
        anew: impl FnOnce() -> Parts,
    ) -> Parts {
        let mut all = self.0.lock();
        let known = all.iter().position(|k| k.pod.is_of(pod)).and_then(|at| all.remove(at));
        let kept = known.and_then(|mut kept| {
            for step in moves.since(kept.mark)? {
                follow(&mut kept.parts, step);
            }
            kept.mark = moves.now();
            Some(kept)
        });
        let kept = kept.unwrap_or_else(|| Kept { pod: Box::new(Kind::of(pod)), parts: anew(), mark: moves.now() });
        let parts = kept.parts.clone();
        all.push_front(kept);
        all.truncate(COUNTS_KEPT);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_known_as_far_as_they_are_kept() {
        let (mut moves, pod) = (Moves::default(), Arc::new(PodInfo::default()));
        let start = moves.now();
        moves.note(&pod, 3, 1);
        let later = moves.now();
        moves.note(&pod, 4, -1);
        let seen = |moves: &Moves, mark| moves.since(mark).map(|m| m.map(|m| (m.at, m.sign)).collect::<Vec<_>>());
        assert_eq!(seen(&moves, start), Some(vec![(3, 1), (4, -1)]));
        assert_eq!(seen(&moves, later), Some(vec![(4, -1)]));
        assert_eq!(seen(&moves, moves.now()), Some(vec![]));
        (0..MOVES_KEPT).for_each(|at| moves.note(&pod, at, 1));
        assert_eq!(seen(&moves, later), None, "too long ago");
        let before = moves.now();
        moves.nodes_changed();
        assert_eq!(seen(&moves, before), None, "indexes mean other nodes now");
    }
}
