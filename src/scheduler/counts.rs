//! Counts over all nodes that follow what moves, so that pods of one kind, which come one after another, do not each count
//! the cluster anew.
//!
//! In: pods that come to nodes and leave them ([`Moves`]). Out: the numbers of pods in the parts of the cluster that
//! constraints of spreading and terms of affinity count ([`Counts`]).
//!
//! **Invariant:** counts that followed the moves are those that counting anew gives.
//! **Invariant:** nothing is followed over a change of the nodes themselves: then it is counted anew.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::pod::PodInfo;

/// Moves that are remembered; who last counted before them counts anew.
const MOVES_KEPT: usize = 4096;
/// Kinds of pods whose counts are kept.
const COUNTS_KEPT: usize = 32;

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

    /// Nodes, or labels that decide what counts, are others than before.
    pub fn all_changed(&mut self) {
        self.now = Mark { layout: self.now.layout + 1, number: 0 };
        self.recent.clear();
    }

    /// The present.
    pub fn now(&self) -> Mark {
        self.now
    }

    /// Tells states of the nodes and their labels apart.
    pub fn layout(&self) -> u64 {
        self.now.layout
    }

    /// The moves since then; none where they are not known any more.
    pub fn since(&self, mark: Mark) -> Option<impl Iterator<Item = &Move>> {
        let missed = usize::try_from(self.now.number - mark.number.min(self.now.number)).unwrap_or(usize::MAX);
        let known = mark.layout == self.now.layout && missed <= self.recent.len();
        known.then(|| self.recent.range(self.recent.len() - missed..))
    }
}

/// Numbers by the value of a node label.
pub type Values = HashMap<Box<str>, i64>;

/// Adds to the number of a part; what becomes zero is dropped.
pub fn add(values: &mut Values, part: &str, n: i64) {
    match values.get_mut(part) {
        Some(sum) => {
            *sum += n;
            if *sum == 0 {
                values.remove(part);
            }
        }
        None if n != 0 => drop(values.insert(part.into(), n)),
        None => {}
    }
}

/// Pods in the parts of the cluster, which have numbers ([`super::domains`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Vec<Option<i64>>);

impl Sums {
    /// Of so many parts, none of which counts yet.
    pub fn new(parts: usize) -> Self {
        Self(vec![None; parts])
    }

    /// The number of a part; none of one that does not count, though no pod is in it.
    pub fn get(&self, part: usize) -> Option<i64> {
        self.0.get(part).copied().flatten()
    }

    /// Adds to the number of a part, which counts from now on.
    pub fn add(&mut self, part: usize, n: i64) {
        if let Some(sum) = self.0.get_mut(part) {
            *sum = Some(sum.unwrap_or(0) + n);
        }
    }

    /// The numbers of all parts that count.
    pub fn iter(&self) -> impl Iterator<Item = i64> {
        self.0.iter().copied().flatten()
    }
}

/// Pods in the parts of the cluster, for each of some constraints or terms.
pub type Parts = Vec<Arc<Sums>>;

/// Counts for the kinds of pods that were looked at last; `K` says which nodes and pods a kind counts.
#[derive(Debug)]
pub struct Counts<K>(Mutex<VecDeque<Kept<K>>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[derive(Debug)]
struct Kept<K> {
    kind: K,
    parts: Parts,
    mark: Mark,
}

impl<K> Counts<K> {
    /// The counts for a kind: those that were kept for it, after `follow` has taken each move since into them, or what
    /// `anew` counts.
    pub fn of(
        &self,
        is_it: impl Fn(&K) -> bool,
        moves: &Moves,
        follow: impl Fn(&mut Parts, &Move),
        anew: impl FnOnce() -> (K, Parts),
    ) -> Parts {
        let mut all = self.0.lock();
        let known = all.iter().position(|k| is_it(&k.kind)).and_then(|at| all.remove(at));
        let kept = known.and_then(|mut kept| {
            for step in moves.since(kept.mark)? {
                follow(&mut kept.parts, step);
            }
            kept.mark = moves.now();
            Some(kept)
        });
        let kept = kept.unwrap_or_else(|| {
            let (kind, parts) = anew();
            Kept { kind, parts, mark: moves.now() }
        });
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
        moves.all_changed();
        assert_eq!(seen(&moves, before), None, "indexes mean other nodes now");
    }
}
