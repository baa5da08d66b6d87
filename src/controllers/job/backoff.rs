//! How long a Job waits after failures. No IO, no clock.
//!
//! Rules: upstream `backoff_utils.go`.

use jiff::Timestamp;

use super::model::{Job, JobPod};
use super::plan::newly_succeeded;
use crate::controllers::common::pods::Phase;

/// Seconds after the first failure until the next pod; doubles with each failure in a row.
const BACKOFF_BASE: i64 = 10;
/// Most of these seconds.
const BACKOFF_MAX: i64 = 600;

/// Failures since the last success. It outlives the pods: one that was deleted failed all the same.
/// Rule: upstream `backoffRecord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streak {
    failures: i64,
    last: Option<Timestamp>,
}

impl Streak {
    /// Of a Job that nobody has looked at before: all that its pods tell.
    pub fn of(job: &Job, pods: &[JobPod]) -> Self {
        let succeeded = pods.iter().filter(|p| p.view.phase == Phase::Succeeded);
        // One without the finalizer that is on its way out may have been too many, no failure.
        let failed = |p: &&JobPod| p.view.phase == Phase::Failed || (p.tracked && p.has_failed(job));
        Self::default().after(succeeded, pods.iter().filter(failed))
    }

    /// With what ended since.
    pub fn and(self, job: &Job, pods: &[JobPod]) -> Self {
        let known = job.uncounted("failed");
        // What a policy ignores was a failure still, and waited for.
        let fresh = |p: &&JobPod| p.tracked && p.has_place(job) && p.has_failed(job) && !known.contains(&p.view.uid);
        self.after(newly_succeeded(job, pods), pods.iter().filter(fresh))
    }

    fn after<'a>(self, succeeded: impl Iterator<Item = &'a JobPod>, failed: impl Iterator<Item = &'a JobPod>) -> Self {
        // Without a time it is of no use here, but a success nevertheless.
        let success = succeeded.map(|p| p.ended.unwrap_or(Timestamp::MIN)).max();
        let mut streak = if success.is_some() { Self::default() } else { self };
        for at in failed.filter_map(|p| p.ended).filter(|at| success.is_none_or(|s| *at > s)) {
            streak.failures += 1;
            streak.last = streak.last.max(Some(at));
        }
        streak
    }

    /// Seconds until the next try: doubled with each failure.
    pub fn wait(self, now: Timestamp) -> i64 {
        self.last.map_or(0, |last| delay(self.failures, last, now))
    }
}

/// Seconds until the next try after so many failures in a row.
pub fn delay(failures: i64, last: Timestamp, now: Timestamp) -> i64 {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(16);
    let wait = (BACKOFF_BASE << doublings).min(BACKOFF_MAX);
    (last.as_second() + wait - now.as_second()).max(0)
}
