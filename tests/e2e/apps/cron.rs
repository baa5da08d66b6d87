//! CronJobs, without waiting for a minute to pass: the schedule names one that has passed, and the status says that nothing
//! has run for longer.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::is_listed_and_deleted;
use crate::scenario::{Api, name, names, template};

/// The schedule of the minute that was so many minutes ago.
fn minutes_ago(minutes: i64) -> String {
    let then = (Timestamp::now() - SignedDuration::from_mins(minutes)).to_zoned(TimeZone::UTC);
    format!("{} {} * * *", then.minute(), then.hour())
}

fn cron(app: &str, schedule: &str, policy: &str) -> Value {
    let mut template = template(app, &["sleep", "1000"]);
    template["spec"]["restartPolicy"] = "Never".into();
    json!({
        "metadata": {"name": app, "labels": {"app": app}},
        "spec": {
            "schedule": schedule, "timeZone": "Etc/UTC", "concurrencyPolicy": policy,
            "jobTemplate": {"metadata": {"labels": {"app": app}}, "spec": {"template": template}},
        },
    })
}

/// What its status says if it last ran ten minutes ago.
fn last_ran_long_ago() -> Value {
    json!({"status": {"lastScheduleTime": (Timestamp::now() - SignedDuration::from_mins(10)).strftime("%FT%TZ").to_string()}})
}

/// The names of the Jobs that it says are active, sorted.
fn active(cron: &Value) -> Vec<String> {
    let all = cron["status"]["active"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<String> = all.iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

/// "[sig-apps] CronJob should schedule multiple jobs concurrently", "[sig-apps] CronJob should replace jobs when
/// ReplaceConcurrent", "[sig-apps] CronJob should not schedule new jobs when ForbidConcurrent"
pub async fn concurrency(api: Api) {
    let (first, second) = (minutes_ago(4), minutes_ago(2));
    let policies = [("allow", "Allow"), ("replace", "Replace"), ("forbid", "Forbid")];
    let mut before = Vec::new();
    for (app, policy) in policies {
        api.create("cronjobs", cron(app, &first, policy)).await;
        api.patch(&format!("cronjobs/{app}/status"), last_ran_long_ago()).await;
    }
    for (app, _) in policies {
        let one = api.until("the first run", &format!("cronjobs/{app}"), |c| active(c).len() == 1).await;
        api.until_pods("its pod runs", app, |p| p.len() == 1 && p[0]["status"]["phase"] == "Running").await;
        before.push(active(&one).remove(0));
        api.patch(&format!("cronjobs/{app}"), json!({"spec": {"schedule": second}})).await;
    }
    let both = api.until("both run", "cronjobs/allow", |c| active(c).len() == 2).await;
    assert!(active(&both).contains(&before[0]));
    api.until_pods("both have pods", "allow", |p| p.len() == 2).await;
    api.until("the second alone runs", "cronjobs/replace", |c| active(c).len() == 1 && active(c)[0] != before[1]).await;
    api.gone(&format!("jobs/{}", before[1])).await;
    api.until("it says why not", "events?fieldSelector=reason%3DJobAlreadyActive", |e| {
        e["items"].as_array().is_some_and(|all| all.iter().any(|e| e["involvedObject"]["name"] == "forbid"))
    })
    .await;
    assert_eq!(names(&api.get("jobs?labelSelector=app%3Dforbid").await), before[2..]);
}

/// "[sig-apps] CronJob should not schedule jobs when suspended"
pub async fn suspended(api: Api) {
    let due = minutes_ago(2);
    let mut idle = cron("idle", &due, "Allow");
    idle["spec"]["suspend"] = true.into();
    api.create("cronjobs", idle).await;
    api.create("cronjobs", cron("busy", &due, "Allow")).await;
    for app in ["idle", "busy"] {
        api.patch(&format!("cronjobs/{app}/status"), last_ran_long_ago()).await;
    }
    api.until("the other runs", "cronjobs/busy", |c| active(c).len() == 1).await;
    assert!(names(&api.get("jobs?labelSelector=app%3Didle").await).is_empty());
    api.patch("cronjobs/idle", json!({"spec": {"suspend": false}})).await;
    api.until("it runs what it missed", "cronjobs/idle", |c| active(c).len() == 1).await;
}

/// What was missed is made up for within the deadline that it has, and not after it.
pub async fn missed(api: Api) {
    let due = minutes_ago(2);
    for (app, seconds) in [("late", 30), ("intime", 600)] {
        let mut cron = cron(app, &due, "Allow");
        cron["spec"]["startingDeadlineSeconds"] = seconds.into();
        api.create("cronjobs", cron).await;
        api.patch(&format!("cronjobs/{app}/status"), last_ran_long_ago()).await;
    }
    api.until("it runs late", "cronjobs/intime", |c| active(c).len() == 1).await;
    assert!(names(&api.get("jobs?labelSelector=app%3Dlate").await).is_empty());
}

/// "[sig-apps] CronJob should support CronJob API operations"
pub async fn operations(api: Api) {
    let since = api.get("cronjobs").await["metadata"]["resourceVersion"].clone();
    let made = api.create("cronjobs", cron("ops", "0 0 31 12 *", "Allow")).await;
    assert_eq!(api.get("cronjobs/ops").await["metadata"]["uid"], made["metadata"]["uid"]);
    let patched = api.patch("cronjobs/ops", json!({"metadata": {"annotations": {"patched": "true"}}})).await;
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let updated = api.update("cronjobs/ops", |c| c["metadata"]["annotations"]["updated"] = "true".into()).await;
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    let time = "2020-01-01T00:00:00Z";
    let of_status = api
        .patch(
            "cronjobs/ops/status",
            json!({"metadata": {"annotations": {"s": "1"}}, "status": {"lastScheduleTime": time}}),
        )
        .await;
    assert_eq!((&of_status["status"]["lastScheduleTime"], &of_status["spec"]), (&json!(time), &made["spec"]));
    let put =
        api.update("cronjobs/ops/status", |c| c["status"]["lastScheduleTime"] = "2020-02-02T00:00:00Z".into()).await;
    assert_eq!(put["status"]["lastScheduleTime"], "2020-02-02T00:00:00Z");
    assert_eq!(api.get("cronjobs/ops/status").await["metadata"]["uid"], made["metadata"]["uid"]);
    is_listed_and_deleted(&api, "/apis/batch/v1", "cronjobs", "ops").await;
    let mut seen = Vec::new();
    api.follow("cronjobs", &since, |kind, object| {
        assert_eq!(name(object), "ops");
        seen.push(kind.to_owned());
        kind == "DELETED"
    })
    .await;
    assert_eq!(seen[..3], ["ADDED", "MODIFIED", "MODIFIED"]);
}
