//! What has to happen so that a StatefulSet has its pods, each under its own name. No IO, no clock.
//!
//! **Invariant:** an ordinal has one name, so it has one pod at most: one that is on its way out, or whose node is silent,
//! is waited for, never replaced.
//! Rules: upstream `stateful_set_control.go` (`updateStatefulSet`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::numbers::{self, Round};
use crate::controllers::common::pods::{Phase, PodView};
use crate::util::order::Arrange;

/// A StatefulSet.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Set {
    pub name: String,
    pub generation: i64,
    pub deleting: bool,
    pub replicas: i64,
    /// First ordinal.
    pub start: i64,
    /// `Parallel`: pods do not wait for one another.
    pub parallel: bool,
    pub on_delete: bool,
    /// Pods below it, counted from the first, keep the current revision.
    pub partition: i64,
    /// Pods that may be missing during an update, resolved.
    pub max_unavailable: i64,
    pub min_ready: i64,
}

impl Set {
    /// From the object's body.
    pub fn new(object: &Object, v: &Value) -> Self {
        let replicas = v.int_at("/spec/replicas").unwrap_or(1);
        let rolling = |field: &str| v.get_at("/spec/updateStrategy/rollingUpdate").and_then(|r| r.get(field));
        let max = rolling("maxUnavailable").map_or(1, |m| numbers::resolve(Some(m), replicas, Round::Down));
        Self {
            name: object.meta.name.clone(),
            generation: object.meta.generation,
            deleting: object.is_deleting(),
            replicas,
            start: v.int_at("/spec/ordinals/start").unwrap_or(0),
            parallel: v.str_at("/spec/podManagementPolicy") == Some("Parallel"),
            on_delete: v.str_at("/spec/updateStrategy/type") == Some("OnDelete"),
            partition: rolling("partition").and_then(Value::as_i64).unwrap_or(0),
            max_unavailable: max.max(1),
            min_ready: v.int_at("/spec/minReadySeconds").unwrap_or(0),
        }
    }

    /// True for the ordinals it should have.
    pub fn has(&self, ordinal: i64) -> bool {
        (self.start..self.start + self.replicas).contains(&ordinal)
    }

    /// The name of an ordinal's pod.
    pub fn pod_name(&self, ordinal: i64) -> String {
        format!("{}-{ordinal}", self.name)
    }
}

/// The ordinal in a pod's name, when the rest of the name is the set's.
pub fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| digits.parse().ok()).flatten()
}

/// A pod of a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// What all workloads ask of pods.
    pub view: PodView,
    /// Its ordinal.
    pub ordinal: i64,
    /// Name of its revision.
    pub revision: String,
    /// Labels or volumes are not what the ordinal's should be.
    pub mistaken: bool,
}

impl Member {
    fn is_running_and_ready(&self) -> bool {
        self.view.phase == Phase::Running && self.view.is_ready()
    }

    fn is_available(&self, set: &Set, now: Timestamp) -> bool {
        self.is_running_and_ready() && self.view.is_available(set.min_ready, now)
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the claims of an ordinal that are missing, then its pod, of the update's or of the current revision.
    Create {
        /// Which.
        ordinal: i64,
        /// Of the new revision.
        updated: bool,
    },
    /// Make the claims of an ordinal that are missing.
    Claims(i64),
    /// Put the identity of an ordinal's pod right.
    Fix(i64),
    /// Delete an ordinal's pod.
    Delete(i64),
}

/// What to do now; changes of pods bring the next steps.
pub fn plan(set: &Set, members: &[Member], update: &str, now: Timestamp) -> Vec<Step> {
    let mut steps = Vec::new();
    if set.deleting {
        return steps;
    }
    let complete = replicas(set, members, now, &mut steps);
    if !complete || !condemned(set, members, now, &mut steps) || set.on_delete {
        return steps;
    }
    // What was just decided has to be seen before anything is updated.
    let moving = |s: &Step| matches!(s, Step::Create { .. } | Step::Delete(_));
    if !steps.iter().any(moving) || set.parallel {
        let gone: Vec<i64> =
            steps.iter().filter_map(|s| if let Step::Delete(o) = s { Some(*o) } else { None }).collect();
        update_pods(set, members, update, now, &gone, &mut steps);
    }
    steps
}

fn find(members: &[Member], ordinal: i64) -> Option<&Member> {
    members.iter().find(|m| m.ordinal == ordinal)
}

/// Pods that should be there. False when the rest has to wait for one of them.
fn replicas(set: &Set, members: &[Member], now: Timestamp, steps: &mut Vec<Step>) -> bool {
    for ordinal in set.start..set.start + set.replicas {
        let Some(member) = find(members, ordinal) else {
            let updated = set.on_delete || ordinal >= set.start + set.partition;
            steps.push(Step::Create { ordinal, updated });
            if !set.parallel {
                return false;
            }
            continue;
        };
        if member.view.has_ended() && !member.view.deleting {
            // It is made anew under the same name, when it is gone.
            steps.push(Step::Delete(ordinal));
        } else if member.view.phase == Phase::Pending && !member.view.deleting {
            steps.push(Step::Claims(ordinal));
        }
        if !set.parallel && (member.view.deleting || !member.is_available(set, now)) {
            return false;
        }
        if member.mistaken && !member.view.deleting && !member.view.has_ended() {
            steps.push(Step::Fix(ordinal));
        }
    }
    true
}

/// Pods that should not be there, the highest first. False when the rest has to wait.
fn condemned(set: &Set, members: &[Member], now: Timestamp, steps: &mut Vec<Step>) -> bool {
    let mut surplus: Vec<&Member> = members.iter().filter(|m| !set.has(m.ordinal)).collect();
    surplus.arrange_by_key(|m| std::cmp::Reverse(m.ordinal));
    let unavailable = |m: &Member| m.view.deleting || !m.is_available(set, now);
    let first_unavailable = surplus.iter().rev().find(|m| unavailable(m)).map(|m| m.ordinal);
    for member in surplus {
        if set.parallel {
            if !member.view.deleting {
                steps.push(Step::Delete(member.ordinal));
            }
            continue;
        }
        let waits = member.view.deleting || (unavailable(member) && first_unavailable != Some(member.ordinal));
        if !waits {
            steps.push(Step::Delete(member.ordinal));
        }
        return false;
    }
    true
}

/// Pods of an older revision, from the highest ordinal down to the partition, as many at once as may be missing.
fn update_pods(set: &Set, members: &[Member], update: &str, now: Timestamp, gone: &[i64], steps: &mut Vec<Step>) {
    let all = set.start..set.start + set.replicas;
    let is_available =
        |o: i64| !gone.contains(&o) && find(members, o).is_some_and(|m| !m.view.deleting && m.is_available(set, now));
    let mut missing = all.clone().filter(|o| !is_available(*o)).count() as i64;
    // How many above are on their way: with one pod at a time that alone is what counts, so that a broken
    // old pod below does not stand in the way of its own repair.
    let mut waiting = 0;
    for ordinal in all.rev().filter(|o| *o >= set.start + set.partition) {
        if waiting >= set.max_unavailable {
            return;
        }
        let Some(member) = find(members, ordinal) else {
            waiting += 1;
            continue;
        };
        let old = member.revision != update && !member.view.deleting && !gone.contains(&ordinal);
        if old {
            let costs = is_available(ordinal);
            if costs && set.max_unavailable > 1 && missing >= set.max_unavailable {
                return;
            }
            steps.push(Step::Delete(ordinal));
            missing += i64::from(costs);
        }
        waiting += i64::from(old || !is_available(ordinal));
    }
}

/// Seconds until the next pod has been ready for long enough.
pub fn next_available(set: &Set, members: &[Member], now: Timestamp) -> Option<i64> {
    let ready = members.iter().filter(|m| m.is_running_and_ready() && !m.is_available(set, now));
    ready.filter_map(|m| Some(m.view.ready_since?.as_second() + set.min_ready - now.as_second())).min()
}

/// The status to report, in place of `old`.
pub fn status(
    old: Option<&Value>,
    set: &Set,
    members: &[Member],
    revisions: (&str, &str),
    collisions: i64,
    now: Timestamp,
) -> Value {
    let (mut current, update) = revisions;
    let mut status = old.cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let count = |f: &dyn Fn(&Member) -> bool| members.iter().filter(|m| f(m)).count() as i64;
    let of = |revision: &str| count(&|m| !m.view.deleting && m.revision == revision);
    let (replicas, ready) = (members.len() as i64, count(&|m| m.is_running_and_ready()));
    // A roll-out is over when all that should be there are new and ready: while some are missing, those below a partition have to
    // come back as they were.
    if !set.on_delete && [of(update), ready, replicas].iter().all(|n| *n == set.replicas) {
        current = update;
    }
    status["replicas"] = replicas.into();
    status["availableReplicas"] = count(&|m| m.is_available(set, now)).into();
    for (field, n) in [("readyReplicas", ready), ("currentReplicas", of(current)), ("updatedReplicas", of(update))] {
        match n {
            0 => drop(status.remove_at(&format!("/{field}"))),
            n => status[field] = n.into(),
        }
    }
    status["observedGeneration"] = set.generation.into();
    status["currentRevision"] = current.into();
    status["updateRevision"] = update.into();
    status["collisionCount"] = collisions.into();
    status
}
