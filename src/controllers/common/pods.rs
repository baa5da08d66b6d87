//! Pods as plans see them, and pods made from templates.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::conditions;
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;

/// Longest name of a pod, bytes; a prefix of names is one as well.
const NAME_MAX: usize = 253;

/// Where a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// Its node is silent.
    Unknown,
    /// Runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
}

/// What plans ask of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodView {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Phase.
    pub phase: Phase,
    /// Since when it is ready; none when it is not.
    pub ready_since: Option<Timestamp>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It is being deleted.
    pub deleting: bool,
    /// Its node, empty while unscheduled.
    pub node: String,
    /// Most restarts of any of its containers.
    pub restarts: i64,
    /// Most restarts of any of its sidecars.
    pub sidecar_restarts: i64,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub cost: i32,
    /// How many pods of related owners run on its node.
    pub crowd: usize,
}

impl PodView {
    /// Decodes the body once.
    pub fn new(pod: &Object) -> Self {
        let value = pod.value();
        let ready = conditions::get(value.items_at("/status/conditions"), "Ready")
            .filter(|c| c.str_at("/status") == Some("True"))
            .map(|c| time(c.str_at("/lastTransitionTime")).unwrap_or(Timestamp::UNIX_EPOCH));
        let restarts = value.items_at("/status/containerStatuses").iter().filter_map(|c| c.int_at("/restartCount"));
        let inits = value.items_at("/spec/initContainers");
        let is_sidecar =
            |c: &&Value| inits.iter().any(|i| i["name"] == c["name"] && i.str_at("/restartPolicy") == Some("Always"));
        let sidecars = value.items_at("/status/initContainerStatuses").iter().filter(is_sidecar);
        Self {
            name: pod.meta.name.clone(),
            uid: pod.meta.uid.clone(),
            phase: phase(&value),
            ready_since: ready,
            created: time(Some(&pod.meta.created)),
            deleting: pod.is_deleting(),
            node: value.str_at("/spec/nodeName").unwrap_or_default().to_owned(),
            restarts: restarts.max().unwrap_or(0),
            sidecar_restarts: sidecars.filter_map(|c| c.int_at("/restartCount")).max().unwrap_or(0),
            cost: value
                .str_at("/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost")
                .and_then(|c| c.parse().ok())
                .unwrap_or(0),
            crowd: 0,
        }
    }

    /// Not ended and not being deleted.
    pub fn is_active(&self) -> bool {
        !self.has_ended() && !self.deleting
    }

    /// Being deleted, and not yet ended.
    pub fn is_terminating(&self) -> bool {
        self.deleting && !self.has_ended()
    }

    /// Ended, well or badly.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Ready now.
    pub fn is_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Ready for at least `min_ready` seconds.
    pub fn is_available(&self, min_ready: i64, now: Timestamp) -> bool {
        self.ready_since.is_some_and(|t| min_ready == 0 || t.as_second() + min_ready <= now.as_second())
    }
}

fn phase(pod: &Value) -> Phase {
    match pod.str_at("/status/phase") {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

/// As [`PodView::is_active`], without decoding the pod.
pub fn is_active(pod: &Object) -> bool {
    !pod.is_deleting() && !matches!(pod.text_at("/status/phase").as_str(), "Succeeded" | "Failed")
}

/// An RFC 3339 time.
pub fn time(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|t| t.parse().ok())
}

/// What only a pod with claims of devices has: most have none, and are not decoded to find that out.
pub const DEVICE_CLAIMS: &str = "resourceClaims";
/// The same of a claim that the scheduler made for extended resources; such a pod may have no other.
const EXTENDED_CLAIM: &str = "extendedResourceClaimStatus";

/// The claims of devices that a pod names, and those that were made for it.
pub fn device_claims(pod: &Object) -> Vec<ObjectKey> {
    if !pod.mentions(DEVICE_CLAIMS) && !pod.mentions(EXTENDED_CLAIM) {
        return Vec::new();
    }
    let (ns, pod) = (&*pod.meta.namespace, pod.value());
    let all = pod.items_at("/spec/resourceClaims").iter().chain(pod.items_at("/status/resourceClaimStatuses"));
    let all = all.chain(pod.get_at("/status/extendedResourceClaimStatus"));
    all.filter_map(|c| c.str_at("/resourceClaimName")).map(|name| ObjectKey::new(ns, name)).collect()
}

/// A pod from a template, owned; its name is made by the server from the owner's, and shortened there.
/// Rule: upstream `getPodsPrefix`.
pub fn from_template(template: &Value, owner_name: &str, owner: Value) -> Value {
    let dash = if owner_name.len() < NAME_MAX { "-" } else { "" };
    let prefix = format!("{owner_name}{dash}");
    let mut metadata = json!({"generateName": prefix, "ownerReferences": [owner]});
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(v) = template.get_at("/metadata").and_then(|m| m.get(key)).filter(|v| !v.is_null()) {
            metadata[key] = v.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Views of many pods.
pub fn views(pods: &[Arc<Object>]) -> Vec<PodView> {
    pods.iter().map(|p| PodView::new(p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(0, 100, true; "at once")]
    #[test_case(30, 129, false; "not long enough")]
    #[test_case(30, 130, true; "long enough")]
    fn available(min_ready: i64, now: i64, want: bool) {
        let pod = PodView { ready_since: Some(Timestamp::from_second(100).unwrap()), ..PodView::default() };
        assert_eq!(pod.is_available(min_ready, Timestamp::from_second(now).unwrap()), want);
    }

    #[test]
    fn pods_take_labels_and_owner_from_their_template() {
        let template = json!({"metadata": {"labels": {"a": "b"}, "name": "ignored"}, "spec": {"x": 1}});
        let pod = from_template(&template, "web", json!({"uid": "u"}));
        assert_eq!(pod["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(pod["metadata"]["generateName"], "web-");
        assert!(pod["metadata"].get("name").is_none());
        assert_eq!(pod["spec"]["x"], 1);
    }

    #[test_case(80, 81; "the server shortens it")]
    #[test_case(252, 253; "as long as a name may be")]
    #[test_case(253, 253; "no room for the dash")]
    fn prefixes_of_names(owner: usize, want: usize) {
        let pod = from_template(&json!({"spec": {}}), &"n".repeat(owner), json!({}));
        assert_eq!(pod["metadata"]["generateName"].as_str().map(str::len), Some(want));
    }

    #[test]
    fn restarts_of_sidecars_are_counted_apart() {
        let pod = json!({"metadata": {"name": "a"},
            "spec": {"initContainers": [{"name": "once"}, {"name": "beside", "restartPolicy": "Always"}]},
            "status": {"containerStatuses": [{"name": "main", "restartCount": 1}],
                "initContainerStatuses": [{"name": "once", "restartCount": 9}, {"name": "beside", "restartCount": 4}]}});
        let view = PodView::new(&Object::from_value(&pod, &[]));
        assert_eq!((view.restarts, view.sidecar_restarts), (1, 4));
    }

    #[test_case(json!({"status": {"phase": "Running"}}), true)]
    #[test_case(json!({}), true; "not seen by its node yet")]
    #[test_case(json!({"status": {"phase": "Failed"}}), false)]
    #[test_case(json!({"status": {"phase": "Succeeded"}}), false)]
    #[test_case(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false; "going")]
    fn active_without_decoding(pod: Value, want: bool) {
        let object = Object::from_value(&pod, &[]);
        assert_eq!((is_active(&object), PodView::new(&object).is_active()), (want, want));
    }
}
