//! Another size in the middle of a rollout: spread over the ReplicaSets in proportion to what they have.
//!
//! Rules: upstream `deployment/sync.go` (`scale`) and `GetReplicaSetProportion`.

use std::cmp::Reverse;

use super::model::{DESIRED, Deploy, MAX, Set};
use super::plan::Action;
use crate::util::order::Arrange;

/// A change of one ReplicaSet's size.
pub fn to(set: &Set, size: i64) -> Action {
    Action::Scale { set: set.name.clone(), from: set.desired, to: size.max(0) }
}

/// What to do when the Deployment was resized (or is paused).
pub fn scale(d: &Deploy, sets: &[Set], new: Option<usize>) -> Vec<Action> {
    if let Some(only) = active_or_latest(sets, new) {
        return if only.desired == d.replicas { Vec::new() } else { vec![to(only, d.replicas)] };
    }
    if new.is_some_and(|i| is_saturated(d, &sets[i])) {
        let old = sets.iter().enumerate().filter(|(i, s)| Some(*i) != new && s.desired > 0);
        return old.map(|(_, s)| to(s, 0)).collect();
    }
    if d.recreate { Vec::new() } else { spread(d, sets) }
}

/// The one active ReplicaSet; where none is active, the new one or else the latest. None when several are active.
fn active_or_latest(sets: &[Set], new: Option<usize>) -> Option<&Set> {
    let mut active = sets.iter().filter(|s| s.desired > 0);
    match (active.next(), active.next()) {
        (Some(one), None) => Some(one),
        (Some(_), Some(_)) => None,
        (None, _) => new.map(|i| &sets[i]).or_else(|| sets.iter().max_by(|a, b| a.created.cmp(&b.created))),
    }
}

fn is_saturated(d: &Deploy, set: &Set) -> bool {
    set.desired == d.replicas && set.number(DESIRED) == Some(d.replicas) && set.available == d.replicas
}

/// Larger ReplicaSets take the larger share; what rounding leaves goes to the largest.
fn spread(d: &Deploy, sets: &[Set]) -> Vec<Action> {
    let mut active: Vec<&Set> = sets.iter().filter(|s| s.desired > 0).collect();
    let total: i64 = active.iter().map(|s| s.desired).sum();
    let allowed = if d.replicas > 0 { d.max_pods() } else { 0 };
    let to_add = allowed - total;
    if to_add >= 0 {
        active.arrange_by_key(|s| (Reverse(s.desired), Reverse(s.created.clone())));
    } else {
        active.arrange_by_key(|s| (Reverse(s.desired), s.created.clone()));
    }
    let mut added = 0;
    let mut sizes: Vec<i64> = Vec::with_capacity(active.len());
    for set in &active {
        let share = share(d, set, to_add - added, to_add);
        added += share;
        sizes.push(set.desired + share);
    }
    if let Some(first) = sizes.first_mut().filter(|_| to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    let outdated = |s: &Set| s.number(DESIRED) != Some(d.replicas) || s.number(MAX) != Some(d.max_pods());
    active.iter().zip(sizes).filter(|(s, n)| s.desired != *n || outdated(s)).map(|(s, n)| to(s, n)).collect()
}

/// A ReplicaSet's part of `to_add`, of which `left` is still to be given.
fn share(d: &Deploy, set: &Set, left: i64, to_add: i64) -> i64 {
    if set.desired == 0 || to_add == 0 || left == 0 {
        return 0;
    }
    let fraction = if d.replicas == 0 {
        -set.desired
    } else {
        let before = set.number(MAX).filter(|n| *n > 0).unwrap_or_else(|| d.reported("replicas")).max(1);
        (set.desired as f64 * d.max_pods() as f64 / before as f64).round() as i64 - set.desired
    };
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}
