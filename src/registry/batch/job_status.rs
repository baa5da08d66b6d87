//! What may become of a job's status. In: the job and what it was. Out: what is wrong with the change.
//!
//! Others than orch may run a job (`spec.managedBy`); who reads it must be able to trust that its end is one.
//!
//! Rules: upstream `getStatusValidationOptions`, `validateJobStatus`, `ValidateJobStatusUpdate`.
//!
//! **Invariant:** most rules hold for what changed only: a spec may change before its controller has seen it, and a status
//! from before a rule must not block the next one.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::validate::Field;

use super::job_policy;

/// Which conditions stand at True.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Marks {
    complete: bool,
    failed: bool,
    met: bool,
    target: bool,
}

impl Marks {
    fn of(job: &Value) -> Self {
        let has = |kind: &str| stands(job, kind, "True");
        Self {
            complete: has("Complete"),
            failed: has("Failed"),
            met: has("SuccessCriteriaMet"),
            target: has("FailureTarget"),
        }
    }

    fn finished(self) -> bool {
        self.complete || self.failed
    }
}

fn stands(job: &Value, kind: &str, status: &str) -> bool {
    let conditions = job.items_at("/status/conditions");
    conditions.iter().any(|c| c.str_at("/type") == Some(kind) && c.str_at("/status") == Some(status))
}

/// A change of a status, and what of it changed.
struct Change<'a> {
    job: &'a Value,
    old: &'a Value,
    status: Field<'a>,
    is: Marks,
    was: Marks,
}

/// Looks at an update of the subresource `status`.
pub fn update(job: &Value, old: &Value, errs: &FieldErrors) {
    let status = Field::root(job, errs).at("status");
    let change = Change { job, old, status, is: Marks::of(job), was: Marks::of(old) };
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        change.status.not_negative(count);
    }
    change.uncounted();
    change.conditions();
    change.times();
    change.counts();
    change.indexes();
    change.no_way_back();
}

impl Change<'_> {
    fn changed(&self, field: &str) -> bool {
        let old = self.old.get("status").and_then(|s| s.get(field)).unwrap_or(&Value::Null);
        self.status.at(field).value != old
    }

    /// A number that is not there is none.
    fn count_changed(&self, field: &str) -> bool {
        self.count(field) != self.old_count(field)
    }

    fn count(&self, field: &str) -> i64 {
        self.status.int(field).unwrap_or(0)
    }

    fn old_count(&self, field: &str) -> i64 {
        self.old.get("status").and_then(|s| s.get(field)).and_then(Value::as_i64).unwrap_or(0)
    }

    fn finished_changed(&self) -> bool {
        self.is.finished() != self.was.finished()
    }

    /// Upstream leaves the value out: it would be all conditions.
    fn refuse_conditions(&self, wrong: bool, detail: &str) {
        if wrong {
            self.status.errs.at("conditions").refused(detail);
        }
    }

    fn uncounted(&self) {
        let all = self.status.at("uncountedTerminatedPods");
        let mut seen = HashSet::new();
        for uid in all.items("succeeded").chain(all.items("failed")) {
            if uid.as_text().is_empty() {
                uid.invalid("must not be empty");
            } else if !seen.insert(uid.as_text()) {
                uid.errs.duplicate(uid.as_text());
            }
        }
        let asked = self.finished_changed() || self.changed("uncountedTerminatedPods");
        if asked && self.is.finished() && !seen.is_empty() {
            all.invalid("must be empty for finished job");
        }
    }

    fn conditions(&self) {
        let (is, was) = (self.is, self.was);
        let complete = is.complete != was.complete;
        self.refuse_conditions(
            (complete || is.failed != was.failed) && is.complete && is.failed,
            "cannot set Complete=True and Failed=true conditions",
        );
        self.refuse_conditions(
            (complete || is.target != was.target) && is.complete && is.target,
            "cannot set Complete=True and FailureTarget=true conditions",
        );
        self.refuse_conditions(
            (is.failed != was.failed || self.changed("failedIndexes")) && is.failed && !is.target,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        );
        self.refuse_conditions(
            (complete || is.met != was.met) && is.complete && !is.met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        );
        self.refuse_conditions(is.met && is.failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
        self.refuse_conditions(
            is.met && is.target,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        );
        let policy = self.job.get_at("/spec/successPolicy").is_some_and(|p| !p.is_null());
        self.refuse_conditions(
            policy && is.complete && !is.met,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        );
    }

    fn times(&self) {
        let (is, was) = (self.is, self.was);
        let (start, end) = (self.status.at("startTime"), self.status.at("completionTime"));
        let (start_changed, end_changed) = (self.changed("startTime"), self.changed("completionTime"));
        let (started, ended) = (!start.value.is_null(), !end.value.is_null());
        let asked = is.complete != was.complete || end_changed;
        if asked && ended && !is.complete {
            end.invalid("cannot set completionTime when there is no Complete=True condition");
        }
        if asked && !ended && is.complete {
            end.errs.required("completionTime is required for Complete jobs");
        }
        let at = |field: &Field<'_>| field.as_text().parse::<jiff::Timestamp>().ok();
        if (start_changed || end_changed) && at(&start).zip(at(&end)).is_some_and(|(start, end)| end < start) {
            end.invalid("must be equal to or after `startTime`");
        }
        let spec = self.job.get("spec").unwrap_or(&Value::Null);
        let suspended = spec.bool_at("/suspend") == Some(true);
        // A job of nothing ends while it is suspended.
        let of_nothing = suspended && spec.int_at("/completions") == Some(0);
        if (self.finished_changed() || start_changed) && is.finished() && !started && !of_nothing {
            start.errs.required("startTime is required for finished job");
        }
        let had = |field: &str| self.old.get("status").and_then(|s| s.get(field)).is_some_and(|v| !v.is_null());
        if ended && had("completionTime") && end_changed {
            end.invalid("field is immutable");
        }
        let resumed = stands(self.old, "Suspended", "True") && stands(self.job, "Suspended", "False");
        if start_changed && had("startTime") && !suspended && !resumed {
            start.invalid("field is immutable for unsuspended job once set");
        }
    }

    fn counts(&self) {
        let finished = self.is.finished();
        if finished && self.count("active") > 0 && (self.finished_changed() || self.count_changed("active")) {
            self.status.at("active").invalid("active>0 is invalid for finished job");
        }
        if finished && self.count("terminating") > 0 && (self.finished_changed() || self.changed("terminating")) {
            self.status.at("terminating").invalid("terminating>0 is invalid for finished job");
        }
        let asked = self.changed("ready") || self.count_changed("active");
        if asked && self.status.int("ready").is_some_and(|n| n > self.count("active")) {
            self.status.at("ready").invalid("cannot set more ready pods than active");
        }
        if self.count("failed") < self.old_count("failed") {
            self.status.errs.at("failed").invalid(self.count("failed"), "cannot decrease the failed counter");
        }
        // An indexed job may become smaller, and with it what of it is done.
        let spec = self.job.get("spec").unwrap_or(&Value::Null);
        let elastic = is_indexed(spec) && spec.int_at("/completions") == spec.int_at("/parallelism");
        if self.count("succeeded") < self.old_count("succeeded") && !elastic {
            self.status.errs.at("succeeded").invalid(self.count("succeeded"), "cannot decrease the succeeded counter");
        }
    }

    fn indexes(&self) {
        let spec = self.job.get("spec").unwrap_or(&Value::Null);
        let completions = spec.int_at("/completions");
        let (done, lost) = (self.status.at("completedIndexes"), self.status.at("failedIndexes"));
        let (done_changed, lost_changed) = (self.changed("completedIndexes"), self.changed("failedIndexes"));
        let limited = spec.int_at("/backoffLimitPerIndex").is_some();
        if let (true, Some(why)) = (done_changed, wrong_indexes(&done, completions)) {
            done.invalid(format!("error parsing completedIndexes: {why}"));
        }
        if let (true, Some(why)) = (lost_changed && limited, wrong_indexes(&lost, completions)) {
            lost.invalid(format!("error parsing failedIndexes: {why}"));
        }
        if done_changed && !done.as_text().is_empty() && !is_indexed(spec) {
            done.invalid("cannot set non-empty completedIndexes when non-indexed completion mode");
        }
        if lost_changed && !lost.value.is_null() && !limited {
            lost.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
        if let (true, Some(all)) = (done_changed || lost_changed, completions)
            && let Some(both) = job_policy::overlap(done.as_text(), lost.as_text(), all)
        {
            lost.invalid(format!("failedIndexes and completedIndexes overlap at index: {both}"));
        }
    }

    /// An end stays one.
    fn no_way_back(&self) {
        let (is, was) = (self.is, self.was);
        for (kind, is, was) in [
            ("Failed", is.failed, was.failed),
            ("Complete", is.complete, was.complete),
            ("FailureTarget", is.target, was.target),
        ] {
            self.refuse_conditions(was && !is, &format!("cannot disable the terminal {kind}=True condition"));
        }
        self.refuse_conditions(was.met && !is.met, "cannot disable the SuccessCriteriaMet=True condition");
        self.refuse_conditions(
            was.complete && !was.met && is.met,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        );
    }
}

fn is_indexed(spec: &Value) -> bool {
    spec.str_at("/completionMode") == Some("Indexed")
}

fn wrong_indexes(field: &Field<'_>, completions: Option<i64>) -> Option<String> {
    job_policy::indexes(field.as_text(), completions?).err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    const T1: &str = "2026-01-01T00:00:01Z";
    const T2: &str = "2026-01-01T00:00:02Z";

    fn marks(all: &[&str]) -> Value {
        all.iter()
            .map(|c| match c.strip_prefix('!') {
                Some(kind) => json!({"type": kind, "status": "False"}),
                None => json!({"type": c, "status": "True"}),
            })
            .collect()
    }

    fn done() -> Value {
        json!({"startTime": T1, "completionTime": T2, "conditions": marks(&["SuccessCriteriaMet", "Complete"])})
    }

    fn and(mut status: Value, more: Value) -> Value {
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    }

    fn causes(spec: Value, old: Value, new: Value) -> Vec<(String, String)> {
        let errs = FieldErrors::new();
        update(&json!({"spec": spec, "status": new}), &json!({"spec": spec, "status": old}), &errs);
        errs.take().into_iter().map(|c| (c.field, c.message)).collect()
    }

    #[test_case(json!({}), json!({"startTime": T1}); "starts")]
    #[test_case(json!({"startTime": T1}), done(); "ends well")]
    #[test_case(json!({"startTime": T1}), json!({"startTime": T1, "conditions": marks(&["FailureTarget", "Failed"])}); "ends badly")]
    #[test_case(json!({"completionTime": T1}), json!({"completionTime": T1, "active": 1}); "what was wrong before")]
    #[test_case(json!({"startTime": T1, "conditions": marks(&["Suspended"])}),
        json!({"startTime": T2, "conditions": marks(&["!Suspended"])}); "is resumed")]
    #[test_case(json!({}), json!({"conditions": marks(&["OracleTest"])}); "anything else")]
    fn fine(old: Value, new: Value) {
        let found = causes(json!({}), old, new);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test_case(json!({}), json!({"completionTime": T1}), "completionTime",
        "Invalid value: \"2026-01-01T00:00:01Z\": cannot set completionTime when there is no Complete=True condition")]
    #[test_case(json!({"startTime": T1}), and(done(), json!({"completionTime": null})), "completionTime",
        "Required value: completionTime is required for Complete jobs")]
    #[test_case(json!({"startTime": T1}), and(done(), json!({"completionTime": "2026-01-01T00:00:00Z"})), "completionTime",
        "Invalid value: \"2026-01-01T00:00:00Z\": must be equal to or after `startTime`"; "ends before it starts")]
    #[test_case(done(), and(done(), json!({"completionTime": "2026-01-01T00:00:03Z"})), "completionTime",
        "Invalid value: \"2026-01-01T00:00:03Z\": field is immutable"; "ends again")]
    #[test_case(json!({}), and(done(), json!({"startTime": null})), "startTime",
        "Required value: startTime is required for finished job")]
    #[test_case(json!({"startTime": T1}), json!({}), "startTime",
        "Invalid value: null: field is immutable for unsuspended job once set")]
    #[test_case(json!({"startTime": T1}), json!({"startTime": T1, "conditions": marks(&["Failed"])}), "conditions",
        "Invalid value: cannot set Failed=True condition without the FailureTarget=true condition")]
    #[test_case(json!({"startTime": T1}), and(done(), json!({"conditions": marks(&["Complete"])})), "conditions",
        "Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition")]
    #[test_case(json!({}), json!({"conditions": marks(&["SuccessCriteriaMet", "FailureTarget"])}), "conditions",
        "Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")]
    #[test_case(json!({"conditions": marks(&["FailureTarget"])}), json!({}), "conditions",
        "Invalid value: cannot disable the terminal FailureTarget=True condition")]
    #[test_case(json!({"conditions": marks(&["SuccessCriteriaMet"])}), json!({}), "conditions",
        "Invalid value: cannot disable the SuccessCriteriaMet=True condition")]
    #[test_case(json!({"startTime": T1}), and(done(), json!({"active": 1})), "active",
        "Invalid value: 1: active>0 is invalid for finished job")]
    #[test_case(done(), and(done(), json!({"terminating": 1})), "terminating",
        "Invalid value: 1: terminating>0 is invalid for finished job")]
    #[test_case(json!({}), json!({"active": 1, "ready": 2}), "ready",
        "Invalid value: 2: cannot set more ready pods than active")]
    #[test_case(json!({}), json!({"active": -1}), "active", "Invalid value: -1: must be greater than or equal to 0")]
    #[test_case(json!({"failed": 2}), json!({"failed": 1}), "failed",
        "Invalid value: 1: cannot decrease the failed counter")]
    #[test_case(json!({"succeeded": 1}), json!({}), "succeeded",
        "Invalid value: 0: cannot decrease the succeeded counter")]
    #[test_case(json!({}), json!({"uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["a"]}}),
        "uncountedTerminatedPods.failed[0]", "Duplicate value: \"a\"")]
    #[test_case(json!({}), json!({"uncountedTerminatedPods": {"succeeded": [""]}}),
        "uncountedTerminatedPods.succeeded[0]", "Invalid value: \"\": must not be empty")]
    #[test_case(done(), and(done(), json!({"uncountedTerminatedPods": {"failed": ["a"]}})), "uncountedTerminatedPods",
        "Invalid value: {\"failed\":[\"a\"]}: must be empty for finished job")]
    #[test_case(json!({}), json!({"completedIndexes": "0"}), "completedIndexes",
        "Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode")]
    #[test_case(json!({}), json!({"failedIndexes": ""}), "failedIndexes",
        "Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null")]
    fn refused(old: Value, new: Value, field: &str, message: &str) {
        assert_eq!(causes(json!({}), old, new), [(format!("status.{field}"), message.to_owned())]);
    }

    #[test_case(json!({"completedIndexes": "0,2-3", "failedIndexes": "1"}), None; "apart")]
    #[test_case(json!({"completedIndexes": "0,5"}), Some("completedIndexes"); "too large")]
    #[test_case(json!({"completedIndexes": "2,1"}), Some("completedIndexes"); "out of order")]
    #[test_case(json!({"failedIndexes": "x"}), Some("failedIndexes"); "no number")]
    #[test_case(json!({"completedIndexes": "0,2-4", "failedIndexes": "1,3"}), Some("failedIndexes"); "done and failed")]
    fn indexes(new: Value, wrong: Option<&str>) {
        let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2, "backoffLimitPerIndex": 1});
        let fields: Vec<String> = causes(spec, json!({}), new).into_iter().map(|c| c.0).collect();
        assert_eq!(fields, wrong.iter().map(|f| format!("status.{f}")).collect::<Vec<_>>());
    }

    #[test_case(5, true; "with its parallelism")]
    #[test_case(3, false; "alone")]
    fn a_smaller_job_has_less_done(parallelism: i64, want: bool) {
        let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": parallelism});
        let old = json!({"succeeded": 8, "completedIndexes": "0-7"});
        assert_eq!(causes(spec, old, json!({"succeeded": 5, "completedIndexes": "0-4"})).is_empty(), want);
    }

    #[test]
    fn a_suspended_job_may_forget_its_start() {
        assert!(causes(json!({"suspend": true}), json!({"startTime": T1}), json!({})).is_empty());
    }
}
