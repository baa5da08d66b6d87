//! A Job and its pods as the plan sees them.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::indexes::Indexes;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;
use crate::controllers::common::pods::{Phase, PodView, time};

/// Keeps a pod in the API until its end was counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Label of the Job's name on its pods.
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Annotation and label of a pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often the pod's index has failed before.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: how many failures of the pod's index did not count.
pub const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// `spec.managedBy` of the Jobs that are this controller's.
pub const MANAGER: &str = "kubernetes.io/job-controller";

/// A Job.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Job {
    pub name: String,
    pub deleting: bool,
    pub spec: Value,
    pub status: Value,
    pub completions: Option<i64>,
    pub parallelism: i64,
    pub indexed: bool,
    pub suspended: bool,
    pub backoff_limit: i64,
    /// `backoffLimitPerIndex`.
    pub per_index: Option<i64>,
    /// A pod is replaced only when it has ended, not when it is being deleted.
    pub only_replace_ended: bool,
}

impl Job {
    /// From the object.
    pub fn new(object: &Object) -> Self {
        let v = object.value();
        let has_policy = v.get_at("/spec/podFailurePolicy").is_some();
        Self {
            name: object.meta.name.clone(),
            deleting: object.is_deleting(),
            completions: v.int_at("/spec/completions"),
            parallelism: v.int_at("/spec/parallelism").unwrap_or(1),
            indexed: v.str_at("/spec/completionMode") == Some("Indexed"),
            suspended: v.bool_at("/spec/suspend").unwrap_or(false),
            backoff_limit: v.int_at("/spec/backoffLimit").unwrap_or(6),
            per_index: v.int_at("/spec/backoffLimitPerIndex"),
            only_replace_ended: has_policy || v.str_at("/spec/podReplacementPolicy") == Some("Failed"),
            spec: v["spec"].clone(),
            status: v.get("status").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        }
    }

    /// Somebody else's, by `spec.managedBy`.
    pub fn is_foreign(&self) -> bool {
        self.spec.str_at("/managedBy").is_some_and(|m| m != MANAGER)
    }

    /// A condition that stands at True.
    pub fn condition(&self, kind: &str) -> Option<&Value> {
        conditions::get(self.status.items_at("/conditions"), kind).filter(|c| c.str_at("/status") == Some("True"))
    }

    /// Complete or failed, for good.
    pub fn is_finished(&self) -> bool {
        self.condition("Complete").is_some() || self.condition("Failed").is_some()
    }

    /// When it finished.
    pub fn finished_at(&self) -> Option<Timestamp> {
        let condition = self.condition("Complete").or_else(|| self.condition("Failed"))?;
        time(condition.str_at("/lastTransitionTime"))
    }

    /// When it started, or was resumed.
    pub fn started(&self) -> Option<Timestamp> {
        time(self.status.str_at("/startTime"))
    }

    /// A number of the status.
    pub fn reported(&self, field: &str) -> i64 {
        self.status.get(field).and_then(Value::as_i64).unwrap_or(0)
    }

    /// Uids of ended pods (`succeeded` or `failed`) that are not in the counters yet.
    pub fn uncounted(&self, kind: &str) -> Vec<String> {
        let all =
            self.status.get_at("/uncountedTerminatedPods").map_or(&[] as &[Value], |u| u.items_at(&format!("/{kind}")));
        all.iter().filter_map(|u| u.as_str().map(str::to_owned)).collect()
    }

    /// Indexes that the status lists in `field`.
    pub fn listed(&self, field: &str) -> Indexes {
        Indexes::parse(self.status.get(field).and_then(Value::as_str).unwrap_or_default())
    }

    /// An index that the Job has (it may have had more).
    pub fn has_index(&self, index: i64) -> bool {
        index >= 0 && self.completions.is_some_and(|n| index < n)
    }
}

/// A pod of a Job.
#[derive(Debug, Clone, Default)]
pub struct JobPod {
    /// What all workloads ask of pods.
    pub view: PodView,
    /// Has the finalizer: its end is not counted yet.
    pub tracked: bool,
    /// Completion index.
    pub index: Option<i64>,
    /// Earlier failures of its index that counted.
    pub failures: i64,
    /// Earlier failures of its index that did not.
    pub ignored: i64,
    /// When it ended, as well as can be told.
    pub ended: Option<Timestamp>,
    /// The Job itself deletes it in this very step: no failure of its own.
    pub cut: bool,
    /// The body, for policies.
    pub value: Value,
}

impl JobPod {
    /// From the object.
    pub fn new(pod: &Object) -> Self {
        let value = pod.value();
        let annotation = |key: &str| -> Option<i64> {
            value.get_at("/metadata/annotations").and_then(|a| a.get(key)).and_then(Value::as_str)?.parse().ok()
        };
        Self {
            view: PodView::new(pod),
            tracked: pod.meta.finalizers.iter().any(|f| &**f == FINALIZER),
            index: annotation(INDEX),
            failures: annotation(INDEX_FAILURES).unwrap_or(0),
            ignored: annotation(INDEX_IGNORED).unwrap_or(0),
            ended: ended(&value),
            cut: false,
            value,
        }
    }

    /// Counts as failed: it failed, or it is on its way out and the Job does not wait for its end.
    /// Rule: upstream `isPodFailed`.
    pub fn has_failed(&self, job: &Job) -> bool {
        match self.view.phase {
            Phase::Failed => true,
            Phase::Succeeded => false,
            _ => !job.only_replace_ended && self.view.deleting && !self.cut,
        }
    }

    /// On its way out, not ended.
    pub fn is_terminating(&self) -> bool {
        self.view.deleting && !self.view.has_ended()
    }

    /// A completion index that the Job has; every pod of a Job without indexes is in its place.
    pub fn has_place(&self, job: &Job) -> bool {
        !job.indexed || self.index.is_some_and(|i| job.has_index(i))
    }

    /// Statuses of its containers, init containers last.
    pub fn containers(&self) -> impl Iterator<Item = &Value> {
        let all = ["/status/containerStatuses", "/status/initContainerStatuses"];
        all.into_iter().flat_map(|at| self.value.items_at(at))
    }
}

/// The last end of a container; else when the pod stopped being ready; else when it was deleted or created.
/// Rule: upstream `getFinishedTime`.
fn ended(pod: &Value) -> Option<Timestamp> {
    let ready = conditions::get(pod.items_at("/status/conditions"), "Ready");
    let unready = ready.filter(|c| c.str_at("/status") == Some("False"));
    containers_ended(pod)
        .or_else(|| time(unready?.str_at("/lastTransitionTime")))
        .or_else(|| deleted(pod))
        .or_else(|| time(pod.str_at("/metadata/creationTimestamp")))
}

/// When the last container ended, if all did. Containers that are started first and run along end last.
fn containers_ended(pod: &Value) -> Option<Timestamp> {
    let along = |status: &&Value| {
        let mut all = pod.items_at("/spec/initContainers").iter();
        all.any(|c| c.get("name") == status.get("name") && c.str_at("/restartPolicy") == Some("Always"))
    };
    let first = pod.items_at("/status/initContainerStatuses").iter().filter(along);
    let ends = first.chain(pod.items_at("/status/containerStatuses"));
    let ends: Option<Vec<Timestamp>> = ends.map(|c| time(c.str_at("/state/terminated/finishedAt"))).collect();
    ends?.into_iter().max()
}

/// When somebody deleted it: its timestamp says until when it has time to end.
fn deleted(pod: &Value) -> Option<Timestamp> {
    let until = time(pod.str_at("/metadata/deletionTimestamp"))?;
    let grace = pod.int_at("/metadata/deletionGracePeriodSeconds").unwrap_or(0);
    Timestamp::from_second(until.as_second().saturating_sub(grace)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn status(name: &str, at: Option<i64>) -> Value {
        let at = at.map(|s| Timestamp::from_second(s).unwrap().to_string());
        json!({"name": name, "state": at.map_or(json!({"running": {}}), |t| json!({"terminated": {"finishedAt": t}}))})
    }

    #[test_case(json!({"containerStatuses": [status("a", Some(50)), status("b", Some(40))]}), 50; "the last of two")]
    #[test_case(json!({"containerStatuses": [status("a", Some(50)), status("b", None)]}), 70; "one runs")]
    #[test_case(json!({"containerStatuses": [status("a", Some(50))], "initContainerStatuses":
        [status("along", Some(60)), status("before", Some(65))]}), 60; "one that runs along ends last")]
    #[test_case(json!({"containerStatuses": [status("a", Some(50))], "initContainerStatuses": [status("along", None)]}), 70;
        "one that runs along still does")]
    #[test_case(json!({"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:55Z"}]}), 55;
        "no longer ready")]
    #[test_case(json!({}), 70; "deleted thirty seconds before its time is over")]
    fn when_a_pod_ended(status: Value, want: i64) {
        let pod = json!({"status": status, "spec": {"initContainers":
                [{"name": "before"}, {"name": "along", "restartPolicy": "Always"}]},
            "metadata": {"creationTimestamp": "1970-01-01T00:00:10Z", "deletionTimestamp": "1970-01-01T00:01:40Z",
                "deletionGracePeriodSeconds": 30}});
        assert_eq!(ended(&pod).map(|t| t.as_second()), Some(want));
    }
}
