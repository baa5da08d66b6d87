//! What has to happen so that a Job comes to its end: pods to make and to delete, or the end itself. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/job` (`syncJob`, `manageJob`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::backoff::{Streak, delay};
use super::indexes::Indexes;
use super::model::{Job, JobPod};
use super::policy::{self, Verdict};
use crate::api::value::ValueExt;
use crate::controllers::common::batch::BURST;
use crate::controllers::common::pods::Phase;
use crate::controllers::replicaset::plan::deletion_order;
use crate::util::order::Arrange;

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Well, or badly.
    pub well: bool,
    /// Reason of the condition.
    pub reason: String,
    /// Message of the condition.
    pub message: String,
}

impl End {
    fn new(well: bool, reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(Self { well, reason: reason.to_owned(), message: message.into() })
    }
}

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewPod {
    /// Completion index of an indexed Job.
    pub index: Option<i64>,
    /// With limits per index: earlier failures of the index that counted, and that did not.
    pub failures: Option<(i64, i64)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The Job is decided.
    pub end: Option<End>,
    /// Pods to delete, by name.
    pub delete: Vec<String>,
    /// Pods to make.
    pub create: Vec<NewPod>,
    /// Look again after so many seconds.
    pub after: Option<i64>,
}

/// What the pods and the status add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Ended well, counted or not.
    pub succeeded: i64,
    /// Ended badly, counted or not.
    pub failed: i64,
    /// On their way out.
    pub terminating: i64,
    /// Ready ones among the active.
    pub ready: i64,
    /// Neither ended nor on their way out.
    pub active: i64,
    /// Indexes that are done.
    pub done: Indexes,
    /// Indexes that failed for good.
    pub lost: Indexes,
}

impl Counts {
    /// Adds up.
    pub fn of(job: &Job, pods: &[JobPod]) -> Self {
        let done = done(job, pods);
        let lost = lost(job, pods, &done);
        let fresh = |kind: &str| job.reported(kind) + job.uncounted(kind).len() as i64;
        let succeeded = match job.indexed {
            true => done.count(),
            false => fresh("succeeded") + newly_succeeded(job, pods).count() as i64,
        };
        let active = || pods.iter().filter(|p| p.view.is_active());
        Self {
            succeeded,
            failed: fresh("failed") + newly_failed(job, pods).count() as i64,
            terminating: pods.iter().filter(|p| p.is_terminating()).count() as i64,
            ready: active().filter(|p| p.view.is_ready()).count() as i64,
            active: active().count() as i64,
            done,
            lost,
        }
    }
}

/// Pods that ended well and that nobody counted; of Jobs without indexes.
pub fn newly_succeeded<'a>(job: &'a Job, pods: &'a [JobPod]) -> impl Iterator<Item = &'a JobPod> {
    let (known, failed) = (job.uncounted("succeeded"), job.uncounted("failed"));
    pods.iter().filter(move |p| {
        p.tracked && p.view.phase == Phase::Succeeded && !known.contains(&p.view.uid) && !failed.contains(&p.view.uid)
    })
}

/// Pods whose failure counts and was not counted.
pub fn newly_failed<'a>(job: &'a Job, pods: &'a [JobPod]) -> impl Iterator<Item = &'a JobPod> {
    failures(job, pods, move |p| p.has_failed(job))
}

/// Of the pods that `failed` holds for those that count and that nobody counted.
pub fn failures<'a>(
    job: &'a Job,
    pods: &'a [JobPod],
    failed: impl Fn(&JobPod) -> bool + 'a,
) -> impl Iterator<Item = &'a JobPod> {
    let known = job.uncounted("failed");
    pods.iter().filter(move |p| {
        p.tracked
            && p.has_place(job)
            && failed(p)
            && !known.contains(&p.view.uid)
            && policy::judge(job, p) != Verdict::Ignore
    })
}

/// Indexes that are done, by the status and by pods that nobody counted. None can have failed for good before.
fn done(job: &Job, pods: &[JobPod]) -> Indexes {
    let mut all = job.listed("completedIndexes").below(job.completions.unwrap_or(0));
    if job.indexed {
        let lost = job.listed("failedIndexes");
        let fresh = pods.iter().filter(|p| p.tracked && p.view.phase == Phase::Succeeded).filter_map(|p| p.index);
        fresh.filter(|i| job.has_index(*i) && !lost.contains(*i)).for_each(|i| all.insert(i));
    }
    all
}

/// Indexes that failed too often; what is done cannot fail any more.
fn lost(job: &Job, pods: &[JobPod], done: &Indexes) -> Indexes {
    let Some(limit) = job.per_index else { return Indexes::default() };
    let mut all = job.listed("failedIndexes").below(job.completions.unwrap_or(0));
    for pod in pods.iter().filter(|p| p.tracked && p.has_failed(job)) {
        let over = match policy::judge(job, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            _ => pod.failures >= limit,
        };
        if let Some(index) = pod.index.filter(|i| over && job.has_index(*i) && !done.contains(*i)) {
            all.insert(index);
        }
    }
    all
}

/// With limits per index: for each index that is to be tried again the failed pod that knows how often it was. It keeps
/// its finalizer until its successor is there.
pub fn predecessors<'a>(job: &Job, counts: &Counts, pods: &'a [JobPod]) -> BTreeMap<i64, &'a JobPod> {
    let mut last: BTreeMap<i64, &JobPod> = BTreeMap::new();
    if job.per_index.is_none() {
        return last;
    }
    for pod in pods.iter().filter(|p| p.tracked && p.has_failed(job)) {
        let Some(index) = pod.index.filter(|i| job.has_index(*i)) else { continue };
        let tries = |p: &JobPod| p.failures + p.ignored;
        if last.get(&index).is_none_or(|known| tries(known) < tries(pod)) {
            last.insert(index, pod);
        }
    }
    let replaced = |index: i64, pod: &JobPod| {
        pods.iter().any(|p| {
            p.index == Some(index) && p.view.is_active() && p.failures + p.ignored > pod.failures + pod.ignored
        })
    };
    last.retain(|i, pod| !counts.done.contains(*i) && !counts.lost.contains(*i) && !replaced(*i, pod));
    last
}

/// One step. `streak` is what failed lately, these pods included.
pub fn plan(job: &Job, pods: &[JobPod], streak: Streak, now: Timestamp) -> Plan {
    let counts = Counts::of(job, pods);
    let active: Vec<&JobPod> = pods.iter().filter(|p| p.view.is_active()).collect();
    if let Some(end) = end(job, pods, &counts, now) {
        let delete = if job.deleting { Vec::new() } else { names(&active) };
        return Plan { end: Some(end), delete, ..Plan::default() };
    }
    let mut plan = if job.deleting { Plan::default() } else { manage(job, pods, &counts, active, streak, now) };
    let left = counts.active - plan.delete.len() as i64;
    let enough = match job.completions {
        None => counts.succeeded > 0,
        Some(n) => counts.succeeded >= n,
    };
    if enough && left == 0 {
        plan.end = End::new(true, "CompletionsReached", "Reached expected number of succeeded pods");
        return plan;
    }
    let deadline = deadline(job).filter(|_| !job.suspended).map(|at| at - now.as_second());
    plan.after = [plan.after, deadline].into_iter().flatten().min();
    plan
}

fn names(pods: &[&JobPod]) -> Vec<String> {
    pods.iter().map(|p| p.view.name.clone()).collect()
}

/// When the Job has been at work for too long, in seconds since the epoch.
fn deadline(job: &Job) -> Option<i64> {
    Some(job.started()?.as_second() + job.spec.int_at("/activeDeadlineSeconds")?)
}

/// Whether the Job is decided: what was decided stays; then policies, limits, deadline, indexes, in this order.
fn end(job: &Job, pods: &[JobPod], counts: &Counts, now: Timestamp) -> Option<End> {
    for (condition, well) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
        if let Some(known) = job.condition(condition) {
            let text = |at: &str| known.str_at(at).unwrap_or_default();
            return End::new(well, text("/reason"), text("/message"));
        }
    }
    let judged = pods.iter().filter(|p| p.has_failed(job)).map(|p| policy::judge(job, p));
    for verdict in judged {
        if let Verdict::FailJob(message) = verdict {
            return End::new(false, "PodFailurePolicy", message);
        }
    }
    if counts.failed > job.backoff_limit || restarted_too_often(job, pods) {
        return End::new(false, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if !job.suspended && deadline(job).is_some_and(|at| at <= now.as_second()) {
        return End::new(false, "DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if !job.indexed {
        return None;
    }
    if job.per_index.is_some() {
        let lost = counts.lost.count();
        if job.spec.int_at("/maxFailedIndexes").is_some_and(|max| lost > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return End::new(false, "MaxFailedIndexesExceeded", message);
        }
        if lost > 0 && job.completions.is_some_and(|n| lost + counts.done.count() >= n) {
            return End::new(false, "FailedIndexes", "Job has failed indexes");
        }
    }
    End::new(true, "SuccessPolicy", policy::success(job, &counts.done)?)
}

/// Of pods that restart their containers in place, the restarts are the failures.
fn restarted_too_often(job: &Job, pods: &[JobPod]) -> bool {
    if job.spec.str_at("/template/spec/restartPolicy") != Some("OnFailure") {
        return false;
    }
    let alive = pods.iter().filter(|p| matches!(p.view.phase, Phase::Running | Phase::Pending));
    let restarts: i64 = alive.flat_map(|p| p.containers()).filter_map(|c| c.int_at("/restartCount")).sum();
    restarts > 0 && restarts >= job.backoff_limit
}

/// Pods to make or to delete, never both at once.
fn manage(
    job: &Job,
    pods: &[JobPod],
    counts: &Counts,
    mut active: Vec<&JobPod>,
    streak: Streak,
    now: Timestamp,
) -> Plan {
    let wanted = match job.completions {
        _ if job.suspended => 0,
        None if counts.succeeded > 0 => counts.active,
        None => job.parallelism,
        Some(n) => (n - counts.succeeded).clamp(0, job.parallelism),
    };
    active.arrange_by(|a, b| deletion_order(&a.view, &b.view, now));
    let surplus = usize::try_from(counts.active - wanted).unwrap_or(0);
    let mut delete = if job.indexed { misplaced(job, &active) } else { Vec::new() };
    let others: Vec<String> = names(&active).into_iter().filter(|n| !delete.contains(n)).collect();
    delete.extend(others.into_iter().take(surplus.saturating_sub(delete.len())));
    delete.truncate(BURST);
    if !delete.is_empty() || job.suspended {
        return Plan { delete, ..Plan::default() };
    }
    let leaving = if job.only_replace_ended { counts.terminating } else { 0 };
    let missing = usize::try_from(wanted - leaving - counts.active).unwrap_or(0).min(BURST);
    if missing == 0 {
        return Plan::default();
    }
    let wait = if job.per_index.is_none() { streak.wait(now) } else { 0 };
    if wait > 0 {
        return Plan { after: Some(wait), ..Plan::default() };
    }
    match job.indexed {
        false => Plan { create: vec![NewPod::default(); missing], ..Plan::default() },
        true => pending(job, pods, counts, missing, now),
    }
}

/// Pods without a place in an indexed Job: of no index, of one that it no longer has, or of one that another pod has.
/// Of two that run for the same index the one that would be deleted last stays.
fn misplaced(job: &Job, active: &[&JobPod]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let keep = |p: &&&JobPod| !p.index.is_some_and(|i| job.has_index(i) && taken.insert(i));
    active.iter().rev().filter(keep).map(|p| p.view.name.clone()).collect()
}

/// The first indexes that have no pod; with limits per index, those of them whose time has come: one that waits keeps
/// its turn. Rule: upstream `firstPendingIndexes`, `getPodCreationInfoForIndependentIndexes`.
fn pending(job: &Job, pods: &[JobPod], counts: &Counts, missing: usize, now: Timestamp) -> Plan {
    let holds = |p: &&JobPod| p.view.is_active() || (job.only_replace_ended && p.is_terminating());
    let taken: BTreeSet<i64> = pods.iter().filter(holds).filter_map(|p| p.index).collect();
    let before = predecessors(job, counts, pods);
    let mut plan = Plan::default();
    let all = 0..job.completions.unwrap_or(0);
    let open = all.filter(|i| !taken.contains(i) && !counts.done.contains(*i) && !counts.lost.contains(*i));
    for index in open.take(missing) {
        let mut failures = job.per_index.map(|_| (0, 0));
        if let Some(last) = before.get(&index) {
            let wait = last.ended.map_or(0, |at| delay(last.failures + last.ignored + 1, at, now));
            if wait > 0 {
                plan.after = Some(plan.after.map_or(wait, |w| w.min(wait)));
                continue;
            }
            failures = Some(match policy::judge(job, last) {
                Verdict::Ignore => (last.failures, last.ignored + 1),
                _ => (last.failures + 1, last.ignored),
            });
        }
        plan.create.push(NewPod { index: Some(index), failures });
    }
    plan
}
