//! The status of a Job, in two steps around the removal of finalizers, so that every pod is counted once whatever
//! crashes in between: first the uids of ended pods are written down, then the pods lose their finalizers, then uids
//! whose pods lost it become counters.
//!
//! Rules: upstream `trackJobStatusAndRemoveFinalizers`, `enactJobFinished`.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::model::{Job, JobPod};
use super::plan::{Counts, End, failures, newly_succeeded, predecessors};
use crate::api::value::ValueExt;
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::pods::Phase;
use crate::util::clock::rfc3339;

/// Uids in the status at most; upstream's `MaxUncountedPods`.
const UNCOUNTED_MAX: usize = 500;

/// The first step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Noted {
    /// To be written.
    pub status: Value,
    /// Pods that then lose the finalizer, by name.
    pub untrack: Vec<String>,
    /// The Job was suspended (true) or resumed (false) just now.
    pub suspended: Option<bool>,
}

/// Writes down what ended, and the decision, before finalizers go. With a decision every pod is let go: of a Job that ends
/// badly what has not ended well counts as failed, of one that ends well the pods it cut off count as nothing.
pub fn note(job: &Job, pods: &[JobPod], end: Option<&End>, now: Timestamp) -> Noted {
    let counts = Counts::of(job, pods);
    let mut status = job.status.clone();
    let mut noted = Noted::default();
    if job.started().is_none() && !job.suspended {
        status["startTime"] = rfc3339(now).into();
    }
    let over = end.is_some() || job.deleting;
    let badly = end.is_some_and(|e| !e.well);
    let kept = if over { Default::default() } else { predecessors(job, &counts, pods) };
    let is_kept = |p: &JobPod| p.index.and_then(|i| kept.get(&i)).is_some_and(|k| k.view.uid == p.view.uid);
    let goes = |p: &&JobPod| over || p.view.phase == Phase::Succeeded || (p.has_failed(job) && !is_kept(p));
    let (mut good, mut bad) = (job.uncounted("succeeded"), job.uncounted("failed"));
    let has_failed = |p: &JobPod| p.view.phase != Phase::Succeeded && (badly || p.has_failed(job));
    let failed: HashSet<&str> = failures(job, pods, has_failed).map(|p| p.view.uid.as_str()).collect();
    let succeeded: HashSet<&str> = newly_succeeded(job, pods).map(|p| p.view.uid.as_str()).collect();
    for pod in pods.iter().filter(|p| p.tracked).filter(goes) {
        if good.len() + bad.len() >= UNCOUNTED_MAX {
            break;
        }
        let uid = pod.view.uid.as_str();
        if failed.contains(uid) {
            bad.push(uid.to_owned());
        } else if !job.indexed && succeeded.contains(uid) {
            good.push(uid.to_owned());
        }
        noted.untrack.push(pod.view.name.clone());
    }
    put_uncounted(&mut status, &good, &bad);
    if job.indexed {
        put(&mut status, "succeeded", counts.succeeded);
        put_text(&mut status, "completedIndexes", &counts.done.to_string());
        if job.per_index.is_some() {
            status["failedIndexes"] = counts.lost.to_string().into();
        }
    }
    put_pods(&mut status, &counts);
    let mut all = status.items_at("/conditions").to_vec();
    match end {
        Some(end) => interim(&mut all, end, now),
        None => noted.suspended = suspension(&mut all, &mut status, job, now),
    }
    if !all.is_empty() {
        status["conditions"] = all.into();
    }
    noted.status = status;
    noted
}

/// Counts what is written down and no longer tracked, and ends the Job when nothing of it is left.
pub fn settle(job: &Job, pods: &[JobPod], end: Option<&End>, now: Timestamp) -> Value {
    let mut status = job.status.clone();
    let tracked = |uid: &String| pods.iter().any(|p| p.tracked && p.view.uid == *uid);
    let mut left = [Vec::new(), Vec::new()];
    for (kind, left) in ["succeeded", "failed"].into_iter().zip(&mut left) {
        let (wait, count): (Vec<_>, Vec<_>) = job.uncounted(kind).into_iter().partition(tracked);
        put(&mut status, kind, job.reported(kind) + count.len() as i64);
        *left = wait;
    }
    put_uncounted(&mut status, &left[0], &left[1]);
    let counts = Counts::of(job, pods);
    put_pods(&mut status, &counts);
    let idle = counts.active == 0 && counts.terminating == 0 && counts.ready == 0;
    let ended_uncounted = pods.iter().any(|p| p.tracked && p.view.has_ended());
    if let Some(end) = end.filter(|_| idle && !ended_uncounted && left.iter().all(Vec::is_empty)) {
        let mut all = status.items_at("/conditions").to_vec();
        let kind = if end.well { "Complete" } else { "Failed" };
        add(&mut all, kind, end, now);
        status["conditions"] = all.into();
        // A clock may have been set back; a Job that was suspended may have no start, which who ends must have.
        let ended = job.started().map_or(now, |at| at.max(now));
        if end.well {
            status["completionTime"] = rfc3339(ended).into();
        }
        let of_nothing = job.suspended && job.completions == Some(0);
        if job.started().is_none() && !of_nothing {
            status["startTime"] = rfc3339(ended).into();
        }
    }
    status
}

fn put_uncounted(status: &mut Value, good: &[String], bad: &[String]) {
    let mut uncounted = json!({});
    for (kind, all) in [("succeeded", good), ("failed", bad)] {
        if !all.is_empty() {
            uncounted[kind] = json!(all);
        }
    }
    status["uncountedTerminatedPods"] = uncounted;
}

fn put_pods(status: &mut Value, counts: &Counts) {
    put(status, "active", counts.active);
    status["ready"] = counts.ready.into();
    status["terminating"] = counts.terminating.into();
}

/// Numbers that are nothing are not there.
fn put(status: &mut Value, field: &str, number: i64) {
    match number {
        0 => drop(status.remove_at(&format!("/{field}"))),
        n => status[field] = n.into(),
    }
}

fn put_text(status: &mut Value, field: &str, text: &str) {
    match text {
        "" => drop(status.remove_at(&format!("/{field}"))),
        text => status[field] = text.into(),
    }
}

/// What is decided, while pods still end.
fn interim(all: &mut Vec<Value>, end: &End, now: Timestamp) {
    add(all, if end.well { "SuccessCriteriaMet" } else { "FailureTarget" }, end, now);
}

fn add(all: &mut Vec<Value>, kind: &str, end: &End, now: Timestamp) {
    let known = conditions::is_true(all, kind);
    if !known {
        conditions::set(all, &Condition::new(kind, "True", &end.reason, end.message.clone()), &rfc3339(now));
        if let Some(last) = all.iter_mut().find(|c| c.str_at("/type") == Some(kind)) {
            last["lastProbeTime"] = rfc3339(now).into();
        }
    }
}

/// The condition Suspended. A suspended Job has not started, a resumed one starts anew; one that never was suspended says
/// nothing.
fn suspension(all: &mut Vec<Value>, status: &mut Value, job: &Job, now: Timestamp) -> Option<bool> {
    let was = conditions::is_true(all, "Suspended");
    let (condition, reason, message) = match (was, job.suspended) {
        (false, true) => ("True", "JobSuspended", "Job suspended"),
        (true, false) => ("False", "JobResumed", "Job resumed"),
        _ => return None,
    };
    conditions::set(all, &Condition::new("Suspended", condition, reason, message), &rfc3339(now));
    if let Some(known) = all.iter_mut().find(|c| c.str_at("/type") == Some("Suspended")) {
        known["lastProbeTime"] = rfc3339(now).into();
    }
    match job.suspended {
        true => drop(status.remove_at("/startTime")),
        false => status["startTime"] = rfc3339(now).into(),
    }
    Some(job.suspended)
}
