//! Jobs and cron jobs.

use serde_json::Value;

use super::{Out, annotations, controller, head, pod_template, text, time};
use crate::api::value::ValueExt;
use crate::ctl::age;
use crate::ctl::pods::selector_query;

fn or_unset(object: &Value, path: &str) -> String {
    object.int_at(path).map_or("<unset>".into(), |n| n.to_string())
}

fn n(object: &Value, path: &str) -> i64 {
    object.int_at(path).unwrap_or(0)
}

/// Describes a job.
pub fn job(out: &mut Out, job: &Value) {
    out.field(0, "Name", text(&job["metadata"]["name"]));
    out.field(0, "Namespace", text(&job["metadata"]["namespace"]));
    out.some(0, "Selector", Some(&selector_query(&job["spec"]["selector"])));
    out.map(0, "Labels", &job["metadata"]["labels"], "=");
    annotations(out, 0, job);
    out.some(0, "Controlled By", controller(job).as_deref());
    out.field(0, "Parallelism", text(&job["spec"]["parallelism"]));
    out.field(0, "Completions", or_unset(job, "/spec/completions"));
    out.some(0, "Completion Mode", job.str_at("/spec/completionMode"));
    out.some(0, "Suspend", job.bool_at("/spec/suspend").map(|s| s.to_string()).as_deref());
    out.some(0, "Backoff Limit", job.int_at("/spec/backoffLimit").map(|s| s.to_string()).as_deref());
    out.some(
        0,
        "TTL Seconds After Finished",
        job.int_at("/spec/ttlSecondsAfterFinished").map(|s| s.to_string()).as_deref(),
    );
    let (start, end) = (job.str_at("/status/startTime"), job.str_at("/status/completionTime"));
    out.some(0, "Start Time", start.map(time).as_deref());
    out.some(0, "Completed At", end.map(time).as_deref());
    let lasted =
        start.and_then(|s| s.parse::<jiff::Timestamp>().ok()).zip(end.and_then(|e| e.parse::<jiff::Timestamp>().ok()));
    out.some(0, "Duration", lasted.map(|(s, e)| age::human(e.as_second() - s.as_second())).as_deref());
    out.some(
        0,
        "Active Deadline Seconds",
        job.int_at("/spec/activeDeadlineSeconds").map(|s| format!("{s}s")).as_deref(),
    );
    let ready = job.int_at("/status/ready").map_or(String::new(), |r| format!(" ({r} Ready)"));
    let counts = [n(job, "/status/active"), n(job, "/status/succeeded"), n(job, "/status/failed")];
    let [active, succeeded, failed] = counts;
    out.field(0, "Pods Statuses", format!("{active} Active{ready} / {succeeded} Succeeded / {failed} Failed"));
    if job.str_at("/spec/completionMode") == Some("Indexed") {
        let done = job.str_at("/status/completedIndexes").filter(|d| !d.is_empty()).unwrap_or("<none>");
        out.field(0, "Completed Indexes", done);
    }
    out.line(0, "Pod Template:");
    pod_template(out, 1, &job["spec"]["template"]);
}

/// Describes a cron job.
pub fn cron_job(out: &mut Out, job: &Value) {
    head(out, job);
    out.field(0, "Schedule", text(&job["spec"]["schedule"]));
    out.some(0, "Time Zone", job.str_at("/spec/timeZone"));
    out.field(0, "Concurrency Policy", text(&job["spec"]["concurrencyPolicy"]));
    let suspend = job.bool_at("/spec/suspend").map_or("<unset>", |s| if s { "True" } else { "False" });
    out.field(0, "Suspend", suspend);
    out.field(0, "Successful Job History Limit", or_unset(job, "/spec/successfulJobsHistoryLimit"));
    out.field(0, "Failed Job History Limit", or_unset(job, "/spec/failedJobsHistoryLimit"));
    let deadline = job.int_at("/spec/startingDeadlineSeconds").map_or("<unset>".into(), |s| format!("{s}s"));
    out.field(0, "Starting Deadline Seconds", deadline);
    let spec = &job["spec"]["jobTemplate"]["spec"];
    let selector = selector_query(&spec["selector"]);
    out.field(0, "Selector", if selector.is_empty() { "<unset>" } else { &selector });
    out.field(0, "Parallelism", or_unset(spec, "/parallelism"));
    out.field(0, "Completions", or_unset(spec, "/completions"));
    out.some(0, "Active Deadline Seconds", spec.int_at("/activeDeadlineSeconds").map(|s| format!("{s}s")).as_deref());
    out.line(0, "Pod Template:");
    pod_template(out, 1, &spec["template"]);
    out.field(0, "Last Schedule Time", job.str_at("/status/lastScheduleTime").map_or("<unset>".into(), time));
    let active: Vec<String> = job.items_at("/status/active").iter().map(|a| text(&a["name"])).collect();
    out.field(0, "Active Jobs", if active.is_empty() { "<none>".into() } else { active.join(", ") });
}
