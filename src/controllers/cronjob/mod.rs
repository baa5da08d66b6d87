//! CronJobs: a Job at each time of a schedule.
//!
//! Reads the CronJob and its Jobs, cuts the history, reports which run, and makes the Job that is due.
//! **Invariant:** a time has one Job: its name is made of the time.

pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use self::plan::Run;
use crate::api::cron::Schedule;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Propagation, optional, res};
use crate::controllers::common::pods::time;
use crate::controllers::common::{claim, status as common};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;

/// The controller.
pub struct CronJobs;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(CronJobs)
}

#[async_trait]
impl Reconciler for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::CRON_JOBS).owned(&res::JOBS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::CRON_JOBS, key) else { return Ok(Requeue::Never) };
        observe(cx, &object).await?;
        let Some(object) = cx.get(&res::CRON_JOBS, key).filter(|o| !o.is_deleting()) else { return Ok(Requeue::Never) };
        let cron = object.value();
        if cron.bool_at("/spec/suspend") == Some(true) {
            return Ok(Requeue::Never);
        }
        let Some((schedule, zone)) = read_schedule(cx, &object, &cron) else { return Ok(Requeue::Never) };
        let now = cx.now();
        let due = plan::due(&cron, &schedule, &zone, now);
        if due.at.is_none() && due.next.is_none() {
            let text = cron.str_at("/spec/schedule").unwrap_or_default();
            let message =
                format!("invalid schedule: {text} : time difference between two schedules is less than 1 second");
            cx.events.warning(&object, "InvalidSchedule", message);
        }
        if due.missed_many {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            cx.events.warning(&object, "TooManyMissedTimes", message);
        }
        if let Some(at) = due.at {
            start(cx, &object, &cron, at, &zone).await?;
        }
        let wait = due.next.map(|t| t.duration_since(now));
        Ok(wait.map_or(Requeue::Never, |w| Requeue::After(w.unsigned_abs().max(Duration::from_millis(1)))))
    }
}

/// The schedule and its time zone; says so when they cannot be read, and waits for a better one.
fn read_schedule(cx: &Cx, object: &Arc<Object>, cron: &Value) -> Option<(Schedule, TimeZone)> {
    // Upstream's manager lives in its machine's zone, which in its containers is UTC.
    let name = cron.str_at("/spec/timeZone");
    let Ok(zone) = name.map_or(Ok(TimeZone::UTC), TimeZone::get) else {
        let message = format!("invalid timeZone: {:?}", name.unwrap_or_default());
        cx.events.warning(object, "UnknownTimeZone", message);
        return None;
    };
    let text = cron.str_at("/spec/schedule").unwrap_or_default();
    match Schedule::parse(text) {
        Ok(schedule) => Some((schedule, zone)),
        Err(why) => {
            cx.events.warning(object, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
            None
        }
    }
}

/// Reports what became of the Jobs and cuts the history.
async fn observe(cx: &Cx, object: &Arc<Object>) -> Result<(), Error> {
    let cron = object.value();
    let mut jobs = cx.lister(&res::JOBS).by_index("owner", &object.meta.uid);
    jobs.retain(|j| j.meta.controller().is_some_and(|c| c.uid == object.meta.uid));
    let runs: Vec<Run> = jobs.iter().map(|j| Run::new(j)).collect();
    for name in plan::unexpected(&cron, &runs) {
        let message = format!("Saw a job that the controller did not create or forgot: {name}");
        cx.events.warning(object, "UnexpectedJob", message);
    }
    let (status, told) = plan::observe(&cron, &runs);
    if common::write(cx, &res::CRON_JOBS, object, status).await? {
        told.into_iter().for_each(|(reason, message)| cx.events.normal(object, reason, message));
    }
    // Not before it is written down how they ended.
    for run in plan::stale(&cron, &runs) {
        delete_job(cx, object, &run.name, &run.uid).await?;
    }
    Ok(())
}

async fn delete_job(cx: &Cx, cron: &Arc<Object>, name: &str, uid: &str) -> Result<(), Error> {
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of_uid(uid) };
    match optional(cx.client.delete(&res::JOBS, &cron.meta.namespace, name, &options).await) {
        Ok(_) => cx.events.normal(cron, "SuccessfulDelete", format!("Deleted job {name}")),
        Err(error) => {
            cx.events.warning(cron, "FailedDelete", format!("Deleted job: {error}"));
            return Err(error.into());
        }
    }
    Ok(())
}

/// Makes the Job of `at`, if the policies let it.
async fn start(cx: &Cx, object: &Arc<Object>, cron: &Value, at: Timestamp, zone: &TimeZone) -> Result<(), Error> {
    if plan::is_too_late(cron, at, cx.now()) {
        // Go's RFC1123Z.
        let shown = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        cx.events.warning(object, "MissSchedule", format!("Missed scheduled time to start a job: {shown}"));
        return Ok(());
    }
    let job = plan::job_of(cron, at, zone, &claim::owner_reference(&res::CRON_JOBS, object));
    let name = job.str_at("/metadata/name").unwrap_or_default().to_owned();
    let mut active = cron.items_at("/status/active").to_vec();
    let known = active.iter().any(|r| r.str_at("/name") == Some(&name));
    if known || time(cron.str_at("/status/lastScheduleTime")) == Some(at) {
        return Ok(());
    }
    let policy = cron.str_at("/spec/concurrencyPolicy").unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        cx.events.normal(object, "JobAlreadyActive", message);
        return Ok(());
    }
    if policy == "Replace" {
        for known in active.drain(..) {
            let text = |at: &str| known.str_at(at).unwrap_or_default();
            delete_job(cx, object, text("/name"), text("/uid")).await?;
        }
    }
    let made = match cx.client.create(&res::JOBS, &object.meta.namespace, &job).await {
        Ok(made) => {
            cx.events.normal(object, "SuccessfulCreate", format!("Created job {name}"));
            made
        }
        // Made before a crash that came before the status: it is ours, and counts.
        Err(error) if error.reason == Reason::AlreadyExists => {
            let made = cx.client.get(&res::JOBS, &object.meta.namespace, &name).await?;
            if !made.items_at("/metadata/ownerReferences").iter().any(|o| o["uid"] == *object.meta.uid) {
                cx.events.warning(object, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error.into());
            }
            made
        }
        Err(error) => {
            if !error.has_cause("NamespaceTerminating") {
                cx.events.warning(object, "FailedCreate", format!("Error creating job: {error}"));
            }
            return Err(error.into());
        }
    };
    active.push(json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": object.meta.namespace, "name": name,
        "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}));
    let Some(fresh) = cx.get(&res::CRON_JOBS, &ObjectKey::from(&object.meta)) else { return Ok(()) };
    let mut status = fresh.value().get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    plan::put_active(&mut status, active);
    status["lastScheduleTime"] = rfc3339(at).into();
    common::write(cx, &res::CRON_JOBS, &fresh, status).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    fn cron(policy: &str) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c", "namespace": "n", "uid": "uid-c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
                "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}})
    }

    #[test_case("Allow", 2, 2)]
    #[test_case("Forbid", 1, 1)]
    #[test_case("Replace", 1, 1)]
    #[tokio::test]
    async fn a_second_job_while_the_first_one_runs(policy: &str, jobs: usize, active: usize) {
        let cluster = Cluster::new();
        cluster.put(cron(policy));
        assert_eq!(cluster.reconcile(&CronJobs, "n", "c").await.unwrap(), Requeue::After(Duration::from_secs(60)));
        assert!(cluster.api.all(&res::JOBS).is_empty());
        for _ in 0..2 {
            cluster.clock.advance(60);
            cluster.reconcile(&CronJobs, "n", "c").await.unwrap();
            // Once only.
            cluster.reconcile(&CronJobs, "n", "c").await.unwrap();
        }
        let stored = cluster.get(&res::CRON_JOBS, "n", "c").unwrap();
        assert_eq!((cluster.api.all(&res::JOBS).len(), stored.items_at("/status/active").len()), (jobs, active));
        assert_eq!(cluster.api.all(&res::JOBS)[0]["metadata"]["labels"], json!({"a": "b"}));
    }

    #[tokio::test]
    async fn finished_jobs_leave_the_list_and_then_the_cluster() {
        let cluster = Cluster::new();
        cluster.put(cron("Allow"));
        for _ in 0..3 {
            cluster.clock.advance(60);
            cluster.reconcile(&CronJobs, "n", "c").await.unwrap();
            for mut job in cluster.api.all(&res::JOBS) {
                job["status"] = json!({"completionTime": "2026-01-01T00:09:00Z", "conditions": [{"type": "Complete", "status": "True"}]});
                cluster.put(job);
            }
            cluster.reconcile(&CronJobs, "n", "c").await.unwrap();
        }
        let stored = cluster.get(&res::CRON_JOBS, "n", "c").unwrap();
        assert_eq!(cluster.api.all(&res::JOBS).len(), 1);
        assert!(stored.items_at("/status/active").is_empty());
        assert_eq!(stored.str_at("/status/lastSuccessfulTime"), Some("2026-01-01T00:09:00Z"));
    }

    async fn told(cluster: &Cluster, writer: crate::runtime::events::EventWriter) -> (Value, Value) {
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let event = cluster.api.all(&res::EVENTS).remove(0);
        (event["reason"].clone(), event["message"].clone())
    }

    #[tokio::test]
    async fn a_schedule_that_never_comes_is_told_of() {
        let cluster = Cluster::new();
        let mut cron = cron("Allow");
        cron["spec"]["schedule"] = "0 0 30 2 *".into();
        cluster.put(cron);
        let (cx, writer) = cluster.cx_and_events();
        assert_eq!(CronJobs.reconcile(&ObjectKey::new("n", "c"), &cx).await.unwrap(), Requeue::Never);
        drop(cx);
        let why = "invalid schedule: 0 0 30 2 * : time difference between two schedules is less than 1 second";
        assert_eq!(told(&cluster, writer).await, ("InvalidSchedule".into(), why.into()));
    }

    #[tokio::test]
    async fn a_time_that_was_missed_is_told_of() {
        let cluster = Cluster::new();
        let mut cron = cron("Allow");
        cron["spec"]["startingDeadlineSeconds"] = 10.into();
        let object = Arc::new(Object::from_value(&cron, &[]));
        let (cx, writer) = cluster.cx_and_events();
        let at = cx.now();
        cluster.clock.advance(11);
        start(&cx, &object, &cron, at, &TimeZone::UTC).await.unwrap();
        drop(cx);
        let what = "Missed scheduled time to start a job: Thu, 01 Jan 2026 00:00:00 +0000";
        assert_eq!(told(&cluster, writer).await, ("MissSchedule".into(), what.into()));
    }
}
