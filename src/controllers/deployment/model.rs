//! A Deployment and its ReplicaSets as the plan sees them.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::numbers::{self, Round};

/// Which rollout a ReplicaSet belongs to.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that became current again.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when a ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That with the surge.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The revision to go back to, as clients of `extensions/v1beta1` asked for it.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// The label that tells a Deployment's ReplicaSets apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not take over.
const NOT_COPIED: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX, ROLLBACK_TO];

/// A Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Deploy {
    pub name: String,
    pub generation: i64,
    pub deleting: bool,
    pub replicas: i64,
    pub paused: bool,
    pub recreate: bool,
    /// Pods above `replicas` during a rollout, resolved.
    pub max_surge: i64,
    /// Pods that may be missing during a rollout, resolved.
    pub max_unavailable: i64,
    pub min_ready: i64,
    /// Seconds; none means no deadline.
    pub deadline: Option<i64>,
    /// ReplicaSets to keep; none means all.
    pub history: Option<usize>,
    pub template: Value,
    pub selector: Value,
    pub annotations: Map<String, Value>,
    pub status: Value,
}

impl Deploy {
    /// From the object.
    pub fn new(object: &Object) -> Self {
        let v = object.value();
        let replicas = v.int_at("/spec/replicas").unwrap_or(1);
        let recreate = v.str_at("/spec/strategy/type") == Some("Recreate");
        let (max_surge, max_unavailable) = match recreate {
            true => (0, 0),
            false => fenceposts(v.get_at("/spec/strategy/rollingUpdate"), replicas),
        };
        let deadline = v.int_at("/spec/progressDeadlineSeconds").filter(|s| *s != i64::from(i32::MAX));
        Self {
            name: object.meta.name.clone(),
            generation: object.meta.generation,
            deleting: object.is_deleting(),
            replicas,
            paused: v.bool_at("/spec/paused").unwrap_or(false),
            recreate,
            max_surge,
            max_unavailable,
            min_ready: v.int_at("/spec/minReadySeconds").unwrap_or(0),
            deadline,
            history: v.int_at("/spec/revisionHistoryLimit").and_then(|n| usize::try_from(n).ok()),
            template: v["spec"]["template"].clone(),
            selector: v["spec"]["selector"].clone(),
            annotations: map_at(&v, "/metadata/annotations"),
            status: v.get("status").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        }
    }

    /// Annotations that new ReplicaSets take over.
    pub fn copied_annotations(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.annotations.iter().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()))
    }

    /// Most pods at any time.
    pub fn max_pods(&self) -> i64 {
        self.replicas + self.max_surge
    }

    /// Fewest available pods at any time.
    pub fn min_available(&self) -> i64 {
        self.replicas - self.max_unavailable
    }

    /// A number of the status.
    pub fn reported(&self, field: &str) -> i64 {
        self.status.get(field).and_then(Value::as_i64).unwrap_or(0)
    }

    /// The Progressing condition.
    pub fn progressing(&self) -> Option<&Value> {
        crate::controllers::common::conditions::get(self.status.items_at("/conditions"), "Progressing")
    }
}

/// maxSurge rounds up, maxUnavailable down; when both come to nothing, one pod may be missing, or nothing could move.
/// Rule: upstream `ResolveFenceposts`, `MaxUnavailable`.
fn fenceposts(rolling: Option<&Value>, replicas: i64) -> (i64, i64) {
    let field = |name: &str| rolling.and_then(|r| r.get(name));
    let surge = numbers::resolve(field("maxSurge"), replicas, Round::Up);
    let unavailable = numbers::resolve(field("maxUnavailable"), replicas, Round::Down);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(replicas)),
        (s, u) => (s, u.min(replicas)),
    }
}

/// A ReplicaSet of a Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Set {
    pub name: String,
    pub created: String,
    pub generation: i64,
    pub observed: i64,
    pub deleting: bool,
    pub desired: i64,
    pub replicas: i64,
    pub ready: i64,
    pub available: i64,
    /// Pods on their way out; none where its controller has not told yet.
    pub terminating: Option<i64>,
    pub min_ready: i64,
    /// Without the hash label.
    pub template: Value,
    pub annotations: Map<String, Value>,
    /// Its ReplicaFailure condition.
    pub failure: Option<Value>,
    /// Pods that have not ended, those being deleted among them.
    pub running_pods: usize,
}

impl Set {
    /// From the object; `running_pods` is counted by who can see pods.
    pub fn new(object: &Arc<Object>, running_pods: usize) -> Self {
        let v = object.value();
        let mut template = v["spec"]["template"].clone();
        template.remove_at(&format!("/metadata/labels/{HASH_LABEL}"));
        let count = |p: &str| v.int_at(p).unwrap_or(0);
        Self {
            name: object.meta.name.clone(),
            created: object.meta.created.clone(),
            generation: object.meta.generation,
            observed: count("/status/observedGeneration"),
            deleting: object.is_deleting(),
            desired: v.int_at("/spec/replicas").unwrap_or(1),
            replicas: count("/status/replicas"),
            ready: count("/status/readyReplicas"),
            available: count("/status/availableReplicas"),
            terminating: v.int_at("/status/terminatingReplicas"),
            min_ready: count("/spec/minReadySeconds"),
            template,
            annotations: map_at(&v, "/metadata/annotations"),
            failure: crate::controllers::common::conditions::get(v.items_at("/status/conditions"), "ReplicaFailure")
                .cloned(),
            running_pods,
        }
    }

    /// Its revision; 0 when it has none.
    pub fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    /// An annotation that holds a number.
    pub fn number(&self, annotation: &str) -> Option<i64> {
        self.annotations.get(annotation)?.as_str()?.parse().ok()
    }
}

fn map_at(value: &Value, path: &str) -> Map<String, Value> {
    value.get_at(path).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// A template without the hash label and without empty labels, for comparing.
pub fn bare_template(template: &Value) -> Value {
    let mut bare = template.clone();
    bare.remove_at(&format!("/metadata/labels/{HASH_LABEL}"));
    if bare.get_at("/metadata/labels").and_then(Value::as_object).is_some_and(Map::is_empty) {
        bare.remove_at("/metadata/labels");
    }
    bare.remove_at("/metadata/creationTimestamp");
    bare
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"maxSurge": "25%", "maxUnavailable": "25%"}), 3, (1, 0))]
    #[test_case(json!({"maxSurge": "25%", "maxUnavailable": "25%"}), 10, (3, 2))]
    #[test_case(json!({"maxSurge": 0, "maxUnavailable": "10%"}), 3, (0, 1); "something must be able to move")]
    #[test_case(json!({"maxSurge": 0, "maxUnavailable": 9}), 3, (0, 3))]
    #[test_case(json!({"maxSurge": 1, "maxUnavailable": 0}), 0, (1, 0))]
    fn surge_and_unavailable(rolling: Value, replicas: i64, want: (i64, i64)) {
        assert_eq!(fenceposts(Some(&rolling), replicas), want);
    }
}
