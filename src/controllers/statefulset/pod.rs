//! An ordinal's pod and its claims: what they are called, what they carry, and who takes the claims along. No IO.
//!
//! Rules: upstream `stateful_set_utils.go`.

use serde_json::{Map, Value, json};

use super::plan::Set;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::claim::owner_reference;
use crate::controllers::common::pods;
use crate::controllers::common::revisions::{POD_REVISION, Revision};

/// Label: the pod's name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label: the pod's ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod of an ordinal.
pub fn pod(set: &Set, owner: &Object, value: &Value, ordinal: i64, revision: &Revision) -> Value {
    let mut pod = pods::from_template(&revision.template, &set.name, owner_reference(&res::STATEFUL_SETS, owner));
    let name = set.pod_name(ordinal);
    pod["metadata"]["name"] = name.as_str().into();
    identify(&mut pod, set, value, ordinal);
    pod["metadata"]["labels"][POD_REVISION] = revision.name.as_str().into();
    pod["spec"]["hostname"] = name.into();
    if let Some(service) = value.str_at("/spec/serviceName").filter(|s| !s.is_empty()) {
        pod["spec"]["subdomain"] = service.into();
    }
    pod
}

/// Labels that tell which pod it is, and the volumes of its claims.
pub fn identify(pod: &mut Value, set: &Set, value: &Value, ordinal: i64) {
    let name = set.pod_name(ordinal);
    pod["metadata"]["labels"][POD_NAME] = name.into();
    pod["metadata"]["labels"][POD_INDEX] = ordinal.to_string().into();
    let claims: Vec<(String, String)> = claim_names(set, value, ordinal);
    if claims.is_empty() {
        return;
    }
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|(volume, claim)| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let others = pod["spec"].items_at("/volumes").iter();
    volumes.extend(others.filter(|v| claims.iter().all(|(name, _)| v.str_at("/name") != Some(name))).cloned());
    pod["spec"]["volumes"] = volumes.into();
}

/// True when a pod is not what its ordinal's should be.
pub fn is_mistaken(pod: &Value, set: &Set, value: &Value, ordinal: i64) -> bool {
    let labels = pod.get_at("/metadata/labels").cloned().unwrap_or_default();
    let named = labels.get(POD_NAME).and_then(Value::as_str) == Some(&set.pod_name(ordinal));
    let claims = claim_names(set, value, ordinal);
    let mounts = |(volume, claim): &(String, String)| {
        pod.items_at("/spec/volumes")
            .iter()
            .any(|v| v.str_at("/name") == Some(volume) && v.str_at("/persistentVolumeClaim/claimName") == Some(claim))
    };
    !named || labels.get(POD_INDEX).is_none() || !claims.iter().all(mounts)
}

/// The names of an ordinal's volumes and claims.
pub fn claim_names(set: &Set, value: &Value, ordinal: i64) -> Vec<(String, String)> {
    let templates = value.items_at("/spec/volumeClaimTemplates").iter();
    let names = templates.filter_map(|t| t.str_at("/metadata/name"));
    names.map(|n| (n.to_owned(), format!("{n}-{}", set.pod_name(ordinal)))).collect()
}

/// The claims of an ordinal.
pub fn claims(set: &Set, owner: &Object, value: &Value, ordinal: i64) -> Vec<Value> {
    let templates = value.items_at("/spec/volumeClaimTemplates").iter();
    let names = claim_names(set, value, ordinal);
    let selector = value.get_at("/spec/selector/matchLabels").and_then(Value::as_object).cloned().unwrap_or_default();
    templates
        .zip(names)
        .map(|(template, (_, name))| {
            let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": owner.meta.namespace}, "spec": template["spec"]});
            let mut labels: Map<String, Value> =
                template.get_at("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
            labels.extend(selector.clone());
            claim["metadata"]["labels"] = labels.into();
            if let Some(annotations) = template.get_at("/metadata/annotations") {
                claim["metadata"]["annotations"] = annotations.clone();
            }
            if let Some(owners) = owners(&[], &Takers::new(value), owner, None) {
                claim["metadata"]["ownerReferences"] = owners.into();
            }
            claim
        })
        .collect()
}

/// With whom claims go, by `persistentVolumeClaimRetentionPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takers {
    /// With the set.
    pub with_set: bool,
    /// With a pod that is scaled away.
    pub with_pod: bool,
}

impl Takers {
    /// From the set's body.
    pub fn new(value: &Value) -> Self {
        let deletes = |field: &str| {
            value.str_at(&format!("/spec/persistentVolumeClaimRetentionPolicy/{field}")) == Some("Delete")
        };
        Self { with_set: deletes("whenDeleted"), with_pod: deletes("whenScaled") }
    }
}

/// The owners that a claim should have instead of `known`; none when those are right. `pod` is the claim's pod when it is
/// being scaled away. Others' references stay. Rule: upstream `updateClaimOwnerRefForSetAndPod`.
pub fn owners(known: &[Value], takers: &Takers, set: &Object, pod: Option<&Object>) -> Option<Vec<Value>> {
    let wanted = match pod.filter(|_| takers.with_pod) {
        Some(pod) => Some(owner_reference(&res::PODS, pod)),
        None => takers.with_set.then(|| owner_reference(&res::STATEFUL_SETS, set)),
    };
    let uids = |all: &[&Value]| all.iter().map(|r| r["uid"].clone()).collect::<Vec<_>>();
    let wanted = wanted.filter(|_| !is_foreign(known, set));
    let present: Vec<&Value> = known.iter().filter(|r| is_ours(r, set)).collect();
    if uids(&present) == uids(&wanted.iter().collect::<Vec<_>>()) {
        return None;
    }
    let others = known.iter().filter(|r| !is_ours(r, set)).cloned();
    Some(others.chain(wanted).collect())
}

/// True for an owner that is the set, or a pod of its.
fn is_ours(owner: &Value, set: &Object) -> bool {
    match owner.str_at("/kind") {
        Some("StatefulSet") => owner["uid"] == *set.meta.uid,
        Some("Pod") => {
            owner["apiVersion"] == "v1" && owner.str_at("/name").is_some_and(|n| n.starts_with(&set.meta.name))
        }
        _ => false,
    }
}

/// True of a claim that somebody else manages: it is theirs, and the policy says nothing of it.
pub fn is_foreign(owners: &[Value], set: &Object) -> bool {
    owners.iter().any(|r| r["controller"] == true && !is_ours(r, set))
}
