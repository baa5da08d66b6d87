//! NodeRestriction: what a kubelet may write, beyond what its authorization can see. Pure; the admission plugin calls
//! [`check`].
//!
//! Rules: upstream `plugin/pkg/admission/noderestriction`.

use serde_json::Value;

use super::lookup::ObjectLookup;
use super::node::LEASES;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Create.
    Create,
    /// Update or patch.
    Update,
    /// Delete.
    Delete,
}

/// A write of a node's.
#[derive(Debug, Clone, Copy)]
pub struct NodeWrite<'a> {
    /// The node: `node::identity` of the user.
    pub node: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name in the URL, or of the body.
    pub name: &'a str,
    /// What.
    pub operation: Operation,
    /// The new object (for a subresource: its body); null for deletions.
    pub new: &'a Value,
    /// The stored object; null where there is none.
    pub old: &'a Value,
}

/// Labels with these prefixes a node may set on itself; other `kubernetes.io` and `k8s.io` ones it may not.
const OWN_LABEL_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Single labels a node may set on itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// Refuses what the node may not write.
pub fn check(write: &NodeWrite<'_>, lookup: &dyn ObjectLookup) -> ApiResult<()> {
    let decided = match (write.group, write.resource, write.subresource) {
        _ if write.node.is_empty() => Err("could not determine node from user".into()),
        ("", "pods", "") => pod(write),
        ("", "pods", "status") => pod_status(write),
        ("", "pods", "eviction") => eviction(write, lookup),
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => node(write),
        ("", "serviceaccounts", "token") => token(write, lookup),
        ("coordination.k8s.io", "leases", _) => lease(write),
        ("storage.k8s.io", "csinodes", _) => same_name(write, "can only access CSINode"),
        ("", "persistentvolumeclaims", "status") if write.operation == Operation::Update => claim_status(write),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
        _ => Ok(()),
    };
    decided.map_err(|why| Status::forbidden(write.group, write.resource, write.name, &why))
}

type Checked = Result<(), String>;

fn pod(w: &NodeWrite<'_>) -> Checked {
    let node = w.node;
    match w.operation {
        Operation::Create => {
            if w.new.get_at(MIRROR).is_none() {
                return Err(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                ));
            }
            if w.new.str_at("/spec/nodeName") != Some(node) {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            if !w.new.items_at("/metadata/ownerReferences").iter().all(|o| {
                o.str_at("/kind") == Some("Node")
                    && o.str_at("/name") == Some(node)
                    && o.bool_at("/blockOwnerDeletion") != Some(true)
            }) {
                return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
            }
            if w.new.str_at("/spec/serviceAccountName").is_some_and(|s| !s.is_empty()) {
                return Err(format!("node {node:?} can not create pods that reference a service account"));
            }
            refers_to_api_objects(w.new)
                .map_or(Ok(()), |what| Err(format!("node {node:?} can not create pods that reference {what}")))
        }
        Operation::Delete if w.old.str_at("/spec/nodeName") == Some(node) => Ok(()),
        Operation::Delete => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        Operation::Update => {
            Err(format!("unexpected operation UPDATE, node {node:?} can only create and delete mirror pods"))
        }
    }
}

fn refers_to_api_objects(pod: &Value) -> Option<&'static str> {
    let volumes = pod.items_at("/spec/volumes");
    let any = |field: &str| volumes.iter().any(|v| v.get(field).is_some());
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let env = |from: &str, key: &str| {
        containers.iter().flat_map(|list| pod["spec"][list].items_at("")).any(|c| {
            c.items_at("/envFrom").iter().any(|e| e.get(from).is_some())
                || c.items_at("/env").iter().any(|e| e["valueFrom"].get(key).is_some())
        })
    };
    let projected =
        |field: &str| volumes.iter().flat_map(|v| v.items_at("/projected/sources")).any(|s| s.get(field).is_some());
    if any("secret")
        || projected("secret")
        || env("secretRef", "secretKeyRef")
        || !pod.items_at("/spec/imagePullSecrets").is_empty()
    {
        return Some("secrets");
    }
    if any("configMap") || projected("configMap") || env("configMapRef", "configMapKeyRef") {
        return Some("configmaps");
    }
    if projected("serviceAccountToken") {
        return Some("service account tokens");
    }
    if !pod.items_at("/spec/resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    (any("persistentVolumeClaim") || any("ephemeral")).then_some("persistentvolumeclaims")
}

fn pod_status(w: &NodeWrite<'_>) -> Checked {
    if w.operation != Operation::Update {
        return Err(format!("unexpected operation, node {:?} can only update pod status", w.node));
    }
    if w.old.str_at("/spec/nodeName") != Some(w.node) {
        return Err(format!("node {:?} can only update pod status for pods with spec.nodeName set to itself", w.node));
    }
    let labels =
        |o: &Value| o.get_at("/metadata/labels").cloned().filter(|l| l.as_object().is_some_and(|m| !m.is_empty()));
    if labels(w.new) != labels(w.old) {
        return Err(format!("node {:?} cannot update labels through pod status", w.node));
    }
    // A node may read the claims that stand here: it is not the one who writes them.
    let made = |o: &Value| -> Vec<_> {
        let all = o.items_at("/status/resourceClaimStatuses").iter();
        all.map(|s| (s.get("name").cloned(), s.get("resourceClaimName").cloned())).collect()
    };
    if made(w.new) != made(w.old) {
        // As upstream spells it.
        return Err(format!("node {:?} cannot update resource claim statues", w.node));
    }
    let extended = |o: &Value| o.get_at("/status/extendedResourceClaimStatus").cloned().filter(|s| !s.is_null());
    match extended(w.new) == extended(w.old) {
        true => Ok(()),
        false => Err(format!("node {:?} cannot update extended resource claim status", w.node)),
    }
}

fn eviction(w: &NodeWrite<'_>, lookup: &dyn ObjectLookup) -> Checked {
    if w.operation != Operation::Create {
        return Err(format!("unexpected operation, node {:?} can only create pod evictions", w.node));
    }
    match lookup.pods_on(w.node).iter().any(|p| p.meta.namespace == w.namespace && p.meta.name == w.name) {
        true => Ok(()),
        false => Err(format!("node {:?} can only evict pods with spec.nodeName set to itself", w.node)),
    }
}

fn node(w: &NodeWrite<'_>) -> Checked {
    let requested = if w.name.is_empty() { w.new.str_at("/metadata/name").unwrap_or_default() } else { w.name };
    if requested != w.node {
        return Err(format!("node {:?} is not allowed to modify node {requested:?}", w.node));
    }
    if w.operation == Operation::Delete {
        return Err(format!("node {:?} is not allowed to delete itself", w.node));
    }
    if w.new.get_at("/spec/configSource").is_some_and(|v| !v.is_null())
        && w.new["spec"]["configSource"] != w.old["spec"]["configSource"]
    {
        return Err(format!("node {:?} is not allowed to set or update configSource", w.node));
    }
    let lists = |o: &Value, path: &str| o.items_at(path).to_vec();
    if w.operation == Operation::Update {
        if lists(w.new, "/spec/taints") != lists(w.old, "/spec/taints") {
            return Err(format!("node {:?} is not allowed to modify taints", w.node));
        }
        if lists(w.new, "/metadata/ownerReferences") != lists(w.old, "/metadata/ownerReferences") {
            return Err(format!("node {:?} is not allowed to modify ownerReferences", w.node));
        }
    }
    let forbidden = forbidden_labels(w.new, w.old);
    match forbidden.is_empty() {
        true => Ok(()),
        false => Err(format!("node {:?} is not allowed to modify labels: {}", w.node, forbidden.join(", "))),
    }
}

/// Labels that were changed and are not the node's to change, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |o: &Value| o.get_at("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    let mut changed: Vec<String> =
        new.keys().chain(old.keys()).filter(|k| new.get(*k) != old.get(*k)).cloned().collect();
    changed.retain(|label| !is_own_label(label));
    changed.arrange();
    changed.dedup();
    changed
}

fn is_own_label(label: &str) -> bool {
    let prefix = label.split_once('/').map_or("", |(p, _)| p);
    let below = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|p| p.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = below("kubernetes.io") || below("k8s.io");
    !reserved || OWN_LABELS.contains(&label) || OWN_LABEL_PREFIXES.iter().any(|p| below(p))
}

fn token(w: &NodeWrite<'_>, lookup: &dyn ObjectLookup) -> Checked {
    let text = |path: &str| w.new.str_at(path).unwrap_or_default();
    if text("/spec/boundObjectRef/kind") != "Pod" || text("/spec/boundObjectRef/apiVersion") != "v1" {
        return Err("node requested token not bound to a pod".into());
    }
    if text("/spec/boundObjectRef/uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let name = text("/spec/boundObjectRef/name");
    let pods = lookup.pods_on(w.node);
    let Some(pod) = pods.iter().find(|p| p.meta.namespace == w.namespace && p.meta.name == name) else {
        return Err(format!("node requested token bound to a pod scheduled on a different node or unknown: {name:?}"));
    };
    if pod.meta.uid != text("/spec/boundObjectRef/uid") {
        return Err("the UID in the bound object reference does not match the UID in record".into());
    }
    audience(
        w.new,
        &pod.value(),
        |driver| {
            let found = lookup.get("storage.k8s.io", "csidrivers", "", driver).map(|d| d.value()).unwrap_or_default();
            found
                .items_at("/spec/tokenRequests")
                .iter()
                .filter_map(|r| r.str_at("/audience").map(str::to_owned))
                .collect()
        },
        |claim| {
            let claim = lookup.get("", "persistentvolumeclaims", w.namespace, claim)?.value();
            let volume = lookup.get("", "persistentvolumes", "", claim.str_at("/spec/volumeName")?)?.value();
            volume.str_at("/spec/csi/driver").map(str::to_owned)
        },
    )
}

/// A node may ask only for audiences that the pod's projected volumes name, or the drivers of its volumes; none stands for
/// the API's.
fn audience(
    request: &Value,
    pod: &Value,
    audiences_of: impl Fn(&str) -> Vec<String>,
    driver_of: impl Fn(&str) -> Option<String>,
) -> Checked {
    let asked = request.items_at("/spec/audiences");
    let volumes = pod.items_at("/spec/volumes");
    let named = |asked: &str| {
        let sources = volumes.iter().flat_map(|v| v.items_at("/projected/sources"));
        let mut named = sources.filter_map(|s| s.get("serviceAccountToken")?.str_at("/audience"));
        named.any(|a| a == asked)
    };
    let driver = |v: &Value| match (v.str_at("/csi/driver"), v.str_at("/persistentVolumeClaim/claimName")) {
        (Some(driver), _) => Some(driver.to_owned()),
        (None, Some(claim)) => driver_of(claim),
        (None, None) if v.get("ephemeral").is_some() => {
            let own = pod.str_at("/metadata/name").unwrap_or_default();
            driver_of(&format!("{own}-{}", v.str_at("/name")?))
        }
        (None, None) => None,
    };
    let of_drivers = |asked: &str| {
        let mut all = volumes.iter().filter_map(driver).flat_map(|d| audiences_of(&d));
        all.any(|a| a == asked)
    };
    match asked {
        [] => Ok(()),
        [one] if one.as_str().is_some_and(|a| a.is_empty() || named(a) || of_drivers(a)) => Ok(()),
        [one] => Err(format!("audience {one} not found in pod spec volume")),
        _ => Err("node may only request 0 or 1 audiences".into()),
    }
}

/// A node reports how far a volume was expanded, and nothing else.
fn claim_status(w: &NodeWrite<'_>) -> Checked {
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for path in [
            "/metadata/resourceVersion",
            "/metadata/managedFields",
            "/status/capacity",
            "/status/conditions",
            "/status/allocatedResources",
            "/status/allocatedResourceStatuses",
        ] {
            rest.remove_at(path);
        }
        rest
    };
    match rest(w.new) == rest(w.old) {
        true => Ok(()),
        false => Err(format!(
            "node {:?} is not allowed to update fields other than status.capacity and status.conditions",
            w.node
        )),
    }
}

fn lease(w: &NodeWrite<'_>) -> Checked {
    if w.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    same_name(w, "can only access node lease")
}

fn same_name(w: &NodeWrite<'_>, what: &str) -> Checked {
    let name = if w.name.is_empty() { w.new.str_at("/metadata/name").unwrap_or_default() } else { w.name };
    match name == w.node {
        true => Ok(()),
        false => Err(format!("{what} with the same name as the requesting node")),
    }
}
