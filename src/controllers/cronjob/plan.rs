//! When a CronJob's next Job is due, which finished ones go, and what its status says of the others. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/cronjob` (`cronjob_controllerv2.go`, `utils.go`).

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::api::cron::Schedule;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::pods::time;
use crate::controllers::job::model::Job;
use crate::util::order::Arrange;

/// More missed times than this are told of.
const MISSED_MANY: i64 = 100;

/// A Job of a CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// When it started, or was made.
    pub started: Option<Timestamp>,
    /// `Some(true)`: it completed; `Some(false)`: it failed.
    pub finished: Option<bool>,
    /// When it completed.
    pub completed: Option<Timestamp>,
}

impl Run {
    /// From the Job.
    pub fn new(object: &Object) -> Self {
        let job = Job::new(object);
        Self {
            name: object.meta.name.clone(),
            uid: object.meta.uid.clone(),
            started: job.started().or_else(|| time(Some(&object.meta.created))),
            finished: job.is_finished().then(|| job.condition("Complete").is_some()),
            completed: time(job.status.str_at("/completionTime")),
        }
    }
}

/// Finished Jobs beyond the limits of the history, the oldest first.
pub fn stale<'a>(cron: &Value, runs: &'a [Run]) -> Vec<&'a Run> {
    let mut all = Vec::new();
    for (limit, well) in [("/spec/successfulJobsHistoryLimit", true), ("/spec/failedJobsHistoryLimit", false)] {
        let Some(keep) = cron.int_at(limit).and_then(|n| usize::try_from(n).ok()) else { continue };
        let mut those: Vec<&Run> = runs.iter().filter(|r| r.finished == Some(well)).collect();
        those.arrange_by(|a, b| (a.started, &a.name).cmp(&(b.started, &b.name)));
        those.truncate(those.len().saturating_sub(keep));
        all.extend(those);
    }
    all
}

/// The status without Jobs that finished or are gone, and what to tell of them: reason and message.
pub fn observe(cron: &Value, runs: &[Run]) -> (Value, Vec<(&'static str, String)>) {
    let mut status = cron.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let mut told = Vec::new();
    let mut active = status.items_at("/active").to_vec();
    active.retain(|r| {
        let name = r.str_at("/name").unwrap_or_default();
        match runs.iter().find(|run| Some(run.uid.as_str()) == r.str_at("/uid")) {
            None => told.push(("MissingJob", format!("Active job went missing: {name}"))),
            Some(run) if run.finished.is_none() => return true,
            Some(run) => {
                let how = if run.finished == Some(true) { "Complete" } else { "Failed" };
                told.push(("SawCompletedJob", format!("Saw completed job: {name}, condition: {how}")));
            }
        }
        false
    });
    put_active(&mut status, active);
    let last = runs.iter().filter(|r| r.finished == Some(true)).filter_map(|r| r.completed).max();
    if let Some(last) = last.filter(|t| time(status.str_at("/lastSuccessfulTime")).is_none_or(|known| known < *t)) {
        status["lastSuccessfulTime"] = crate::util::clock::rfc3339(last).into();
    }
    (status, told)
}

/// Names of Jobs that run and that the status does not know: somebody else made them, or a crash came before it was written.
pub fn unexpected<'a>(cron: &Value, runs: &'a [Run]) -> Vec<&'a str> {
    let known = |run: &Run| cron.items_at("/status/active").iter().any(|r| r.str_at("/uid") == Some(run.uid.as_str()));
    runs.iter().filter(|run| run.finished.is_none() && !known(run)).map(|run| run.name.as_str()).collect()
}

/// Sets `active`; an empty list is not there.
pub fn put_active(status: &mut Value, active: Vec<Value>) {
    match active.is_empty() {
        true => drop(status.remove_at("/active")),
        false => status["active"] = active.into(),
    }
}

/// What is due now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// The latest time that has come and had no Job.
    pub at: Option<Timestamp>,
    /// So many times were missed that somebody should know.
    pub missed_many: bool,
    /// When to look again.
    pub next: Option<Timestamp>,
}

/// The latest scheduled time that has passed since the last Job, or since the CronJob was made, and not before
/// `startingDeadlineSeconds` ago.
pub fn due(cron: &Value, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Due {
    let mut due = Due { next: schedule.next(now, zone), ..Due::default() };
    let last = cron.str_at("/status/lastScheduleTime").or(cron.str_at("/metadata/creationTimestamp"));
    let Some(mut since) = time(last) else { return due };
    if let Some(deadline) = cron.int_at("/spec/startingDeadlineSeconds") {
        let earliest = Timestamp::from_second(now.as_second().saturating_sub(deadline)).unwrap_or(since);
        since = since.max(earliest);
    }
    let Some(first) = schedule.next(since, zone).filter(|t| *t <= now) else { return due };
    due.at = Some(first);
    let Some(second) = schedule.next(first, zone).filter(|t| *t <= now) else { return due };
    // Jump close to now, then walk: years of missed minutes cost a few steps.
    let between = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / between + 1;
    due.missed_many = missed > MISSED_MANY;
    let near = Timestamp::from_second(first.as_second() + (missed - 2).max(0) * between).unwrap_or(first);
    let mut at = if near == first { Some(first) } else { schedule.next(near, zone).filter(|t| *t <= now) };
    // An uneven schedule may have nothing after that jump.
    if at.is_none() {
        at = Some(first);
    }
    while let Some(t) = at {
        due.at = Some(t);
        at = schedule.next(t, zone).filter(|t| *t <= now);
    }
    due
}

/// True when it is too late to start what was due at `at`.
pub fn is_too_late(cron: &Value, at: Timestamp, now: Timestamp) -> bool {
    cron.int_at("/spec/startingDeadlineSeconds").is_some_and(|d| at.as_second() + d < now.as_second())
}

/// The Job of a time: its name is the time's, so that two who look cannot make two.
pub fn job_of(cron: &Value, at: Timestamp, zone: &TimeZone, owner: &Value) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let name = format!("{}-{}", cron.str_at("/metadata/name").unwrap_or_default(), at.as_second() / 60);
    let mut metadata = json!({"name": name, "ownerReferences": [owner]});
    for key in ["labels", "annotations"] {
        if let Some(v) = template.get_at("/metadata").and_then(|m| m.get(key)).filter(|v| v.is_object()) {
            metadata[key] = v.clone();
        }
    }
    let shown = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z");
    metadata["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] = shown.into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn cron(schedule: &str, deadline: Option<i64>, last: Option<&str>) -> Value {
        let mut v = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": schedule, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}});
        if let Some(d) = deadline {
            v["spec"]["startingDeadlineSeconds"] = d.into();
        }
        if let Some(last) = last {
            v["status"]["lastScheduleTime"] = last.into();
        }
        v
    }

    #[test_case("* * * * *", None, None, "2026-01-01T00:00:50Z", None, false; "not yet")]
    #[test_case("* * * * *", None, None, "2026-01-01T00:01:00Z", Some("2026-01-01T00:01:00Z"), false; "now")]
    #[test_case("* * * * *", None, Some("2026-01-01T00:01:00Z"), "2026-01-01T00:01:59Z", None, false; "done already")]
    #[test_case("* * * * *", None, Some("2026-01-01T00:01:00Z"), "2026-01-01T00:05:20Z", Some("2026-01-01T00:05:00Z"), false; "the last of a few")]
    #[test_case("* * * * *", None, None, "2027-01-01T00:00:10Z", Some("2027-01-01T00:00:00Z"), true; "a year")]
    #[test_case("0 8 * * 1-5", None, None, "2026-01-12T00:00:00Z", Some("2026-01-09T08:00:00Z"), false; "uneven")]
    #[test_case("0 * * * *", Some(60), None, "2026-01-01T05:30:00Z", None, false; "before the deadline")]
    #[test_case("0 * * * *", Some(60), None, "2026-01-01T05:00:30Z", Some("2026-01-01T05:00:00Z"), false; "within the deadline")]
    fn what_is_due(text: &str, deadline: Option<i64>, last: Option<&str>, now: &str, want: Option<&str>, many: bool) {
        let schedule = Schedule::parse(text).unwrap();
        let due = due(&cron(text, deadline, last), &schedule, &TimeZone::UTC, now.parse().unwrap());
        assert_eq!((due.at.map(|t| t.to_string()), due.missed_many), (want.map(str::to_owned), many));
        assert!(due.next.is_some());
    }

    #[test]
    fn history_is_cut_and_active_ones_are_watched() {
        let at = |s| Timestamp::from_second(s).ok();
        let run = |name: &str, started, finished: Option<bool>| Run {
            name: name.into(),
            uid: name.into(),
            started: at(started),
            finished,
            completed: finished.and(at(started + 5)),
        };
        let runs = [run("a", 3, Some(true)), run("b", 1, Some(true)), run("c", 2, Some(false)), run("d", 9, None)];
        let mut cron = cron("* * * * *", None, None);
        let names: Vec<&str> = stale(&cron, &runs).iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
        let active = |name: &str| json!({"name": name, "uid": name});
        cron["status"]["active"] = json!([active("a"), active("gone"), active("d")]);
        let (status, told) = observe(&cron, &runs);
        assert_eq!(unexpected(&cron, &runs), Vec::<&str>::new(), "what finished is history");
        assert_eq!(unexpected(&json!({}), &runs), ["d"]);
        assert_eq!(status, json!({"active": [active("d")], "lastSuccessfulTime": "1970-01-01T00:00:08Z"}));
        assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), ["SawCompletedJob", "MissingJob"]);
    }

    #[test]
    fn a_job_is_named_by_its_time() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let job = job_of(&cron("* * * * *", None, None), Timestamp::from_second(7200).unwrap(), &zone, &json!({}));
        assert_eq!(job.str_at("/metadata/name"), Some("c-120"));
        let at = "/metadata/annotations/batch.kubernetes.io~1cronjob-scheduled-timestamp";
        assert_eq!(job.str_at(at), Some("1970-01-01T03:00:00+01:00"));
    }
}
