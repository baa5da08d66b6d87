//! The next step of a Deployment. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/deployment` (`sync.go`, `rolling.go`, `recreate.go`, `deployment_util.go`).
//! **Invariant:** a plan never brings the pods above `max_pods` nor the available ones below `min_available` by itself.

use super::model::{DESIRED, Deploy, MAX, REVISION, REVISION_HISTORY, Set, bare_template};
use super::scale;
use crate::util::order::Arrange;

/// Revisions of history kept in a ReplicaSet's annotation, bytes. Upstream's `MaxRevHistoryLengthInChars`.
const HISTORY_BYTES: usize = 2000;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the ReplicaSet of the current template, with these annotations beside the copied ones.
    Create {
        /// Its size.
        replicas: i64,
        /// Its revision.
        revision: i64,
    },
    /// Give a ReplicaSet these annotations (and the Deployment's `minReadySeconds`).
    Annotate {
        /// Which.
        set: String,
        /// Name and value.
        annotations: Vec<(String, String)>,
    },
    /// Give a ReplicaSet another size.
    Scale {
        /// Which.
        set: String,
        /// From this size.
        from: i64,
        /// To this one.
        to: i64,
    },
    /// Delete a ReplicaSet that is history.
    Delete {
        /// Which.
        set: String,
    },
    /// Tell the Deployment its revision.
    Revise(i64),
}

/// The index of the ReplicaSet with the current template: the oldest one, should there be several.
pub fn current(d: &Deploy, sets: &[Set]) -> Option<usize> {
    let want = bare_template(&d.template);
    let mut same: Vec<usize> = (0..sets.len()).filter(|i| bare_template(&sets[*i].template) == want).collect();
    same.arrange_by(|a, b| (&sets[*a].created, &sets[*a].name).cmp(&(&sets[*b].created, &sets[*b].name)));
    same.first().copied()
}

/// What to do now. Actions change ReplicaSets, whose changes lead to the next plan.
pub fn plan(d: &Deploy, sets: &[Set]) -> Vec<Action> {
    if d.deleting {
        return Vec::new();
    }
    let new = current(d, sets);
    let mut actions = revise(d, sets, new);
    let steps = if d.paused || is_resized(d, sets) {
        scale::scale(d, sets, new)
    } else if d.recreate {
        recreate(d, sets, new)
    } else {
        roll(d, sets, new)
    };
    let idle = steps.is_empty();
    actions.extend(steps);
    if idle && (d.paused || is_complete(d, sets, new)) {
        actions.extend(clean_up(d, sets, new));
    }
    actions
}

/// True when the Deployment was given another size than its ReplicaSets know of. Rule: upstream `isScalingEvent`.
pub fn is_resized(d: &Deploy, sets: &[Set]) -> bool {
    sets.iter().any(|s| s.desired > 0 && s.number(DESIRED).is_some_and(|n| n != d.replicas))
}

/// Keeps revisions: the current ReplicaSet has the highest, and the Deployment has the same.
fn revise(d: &Deploy, sets: &[Set], new: Option<usize>) -> Vec<Action> {
    let Some(new) = new else { return Vec::new() };
    let set = &sets[new];
    let next = next_revision(sets, Some(new));
    let mut annotations: Vec<(String, String)> = d
        .copied_annotations()
        .filter(|(k, v)| set.annotations.get(*k) != Some(v))
        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect();
    let old = set.revision();
    if old < next {
        annotations.push((REVISION.into(), next.to_string()));
        if old > 0 {
            let before = set.annotations.get(REVISION_HISTORY).and_then(|h| h.as_str()).unwrap_or_default();
            annotations.push((REVISION_HISTORY.into(), history(before, old)));
        }
    }
    let mut actions = Vec::new();
    if !annotations.is_empty() || set.min_ready != d.min_ready {
        actions.push(Action::Annotate { set: set.name.clone(), annotations });
    }
    let revision = old.max(next);
    if d.annotations.get(REVISION).and_then(|r| r.as_str()) != Some(revision.to_string().as_str()) {
        actions.push(Action::Revise(revision));
    }
    actions
}

/// One more than the highest revision of the others.
fn next_revision(sets: &[Set], new: Option<usize>) -> i64 {
    let others = sets.iter().enumerate().filter(|(i, _)| Some(*i) != new);
    others.map(|(_, s)| s.revision()).max().unwrap_or(0) + 1
}

/// `1,3` and then `5`; the oldest go when it grows too long.
fn history(before: &str, revision: i64) -> String {
    let mut all: Vec<String> = before.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    all.push(revision.to_string());
    while all.join(",").len() > HISTORY_BYTES {
        all.remove(0);
    }
    all.join(",")
}

/// A rolling update: first the new ones as far as the surge allows, then the old ones as far as availability allows.
fn roll(d: &Deploy, sets: &[Set], new: Option<usize>) -> Vec<Action> {
    let Some(new) = new else {
        let replicas = new_size(d, sets, 0);
        return vec![Action::Create { replicas, revision: next_revision(sets, None) }];
    };
    let set = &sets[new];
    let size = if set.desired > d.replicas { d.replicas } else { new_size(d, sets, set.desired) };
    if size != set.desired {
        return vec![scale::to(set, size)];
    }
    shrink_old(d, sets, new)
}

/// How large the new ReplicaSet may be now. Rule: upstream `NewRSNewReplicas`.
fn new_size(d: &Deploy, sets: &[Set], now: i64) -> i64 {
    if d.recreate {
        return d.replicas;
    }
    let total: i64 = sets.iter().map(|s| s.desired).sum();
    let room = d.max_pods() - total;
    if room <= 0 { now } else { now + room.min(d.replicas - now).max(0) }
}

/// Unhealthy pods of old ReplicaSets go first, then healthy ones. Rule: upstream `reconcileOldReplicaSets`.
fn shrink_old(d: &Deploy, sets: &[Set], new: usize) -> Vec<Action> {
    let mut old: Vec<&Set> =
        sets.iter().enumerate().filter(|(i, s)| *i != new && s.desired > 0).map(|(_, s)| s).collect();
    old.arrange_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
    let total: i64 = sets.iter().map(|s| s.desired).sum();
    let new_missing = sets[new].desired - sets[new].available;
    let mut budget = total - d.min_available() - new_missing;
    if old.is_empty() || budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i64> = old.iter().map(|s| s.desired).collect();
    for (set, size) in old.iter().zip(&mut sizes) {
        let unhealthy = (set.desired - set.available).clamp(0, budget.max(0));
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let available: i64 = sets.iter().map(|s| s.available).sum();
    let mut spare = available - d.min_available();
    for size in &mut sizes {
        let gone = (*size).min(spare.max(0));
        *size -= gone;
        spare -= gone;
    }
    old.iter().zip(sizes).filter(|(s, size)| s.desired != *size).map(|(s, size)| scale::to(s, size)).collect()
}

/// All old pods end before the first new one starts.
fn recreate(d: &Deploy, sets: &[Set], new: Option<usize>) -> Vec<Action> {
    let old = || sets.iter().enumerate().filter(|(i, _)| Some(*i) != new).map(|(_, s)| s);
    let shrink: Vec<Action> = old().filter(|s| s.desired > 0).map(|s| scale::to(s, 0)).collect();
    if !shrink.is_empty() || old().any(|s| s.running_pods > 0) {
        return shrink;
    }
    match new {
        None => vec![Action::Create { replicas: d.replicas, revision: next_revision(sets, None) }],
        Some(i) if sets[i].desired != d.replicas => vec![scale::to(&sets[i], d.replicas)],
        Some(_) => Vec::new(),
    }
}

/// True when all pods are new ones, and available.
pub fn is_complete(d: &Deploy, sets: &[Set], new: Option<usize>) -> bool {
    let Some(new) = new.map(|i| &sets[i]) else { return false };
    let total: i64 = sets.iter().map(|s| s.replicas).sum();
    let available: i64 = sets.iter().map(|s| s.available).sum();
    new.replicas == d.replicas && total == d.replicas && available == d.replicas
}

/// Old ReplicaSets beyond the history limit, the oldest revisions first. One that still has pods stays.
fn clean_up(d: &Deploy, sets: &[Set], new: Option<usize>) -> Vec<Action> {
    let Some(limit) = d.history else { return Vec::new() };
    let mut old: Vec<&Set> =
        sets.iter().enumerate().filter(|(i, s)| Some(*i) != new && !s.deleting).map(|(_, s)| s).collect();
    old.arrange_by_key(|s| (s.revision(), s.created.clone()));
    let surplus = old.len().saturating_sub(limit);
    let empty = |s: &&Set| s.replicas == 0 && s.desired == 0 && s.generation <= s.observed;
    old.into_iter().take(surplus).filter(empty).map(|s| Action::Delete { set: s.name.clone() }).collect()
}

/// Annotations that say how large the whole is meant to be; proportional scaling needs them.
pub fn size_annotations(d: &Deploy) -> [(String, String); 2] {
    [(DESIRED.into(), d.replicas.to_string()), (MAX.into(), d.max_pods().to_string())]
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
