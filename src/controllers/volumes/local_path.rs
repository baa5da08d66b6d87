//! Volumes that are directories of a node: the class `local-path`, as k3s users know it.
//!
//! A claim of the class whose pod has got a node is given a directory there: this controller asks the node to make it, then
//! makes the volume, which is bound to that node for good. When the volume is released it asks the node to remove the
//! directory, and then removes the volume. The node itself needs no right to anything for this ([`NodeApi`]), and it only
//! touches directories of its own storage directory.
//!
//! Rules: `rancher/local-path-provisioner`, whose annotations and names are kept. The size of a volume is not enforced.
//! **Invariant:** a volume of a node that is away stays until the node is back; of a node whose object is gone it is removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::model::{Claim, Class, Volume};
use super::{PROVISIONED_BY, PROVISIONER, SELECTED_NODE};
use crate::api::object::{Object, ObjectKey};
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, res};
use crate::runtime::node_api::NodeApi;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Who makes these volumes.
pub const NAME: &str = "rancher.io/local-path";
/// The class.
pub const CLASS: &str = "local-path";
/// On what orch made: it is orch's to take away when the part is disabled.
const OWN: &str = "app.kubernetes.io/managed-by";
/// On a volume: its node.
const NODE: &str = "local.path.provisioner/selected-node";
/// On a claim: `local` or `hostPath`.
const TYPE: &str = "volumeType";
/// On a class: the same for claims that do not say.
const DEFAULT_TYPE: &str = "defaultVolumeType";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Before a node that cannot be reached, or whose pod still has the volume, is asked again. Nothing tells of either.
const AWAY: Duration = Duration::from_secs(10);

/// The way to a node by its name.
pub type Nodes = Arc<dyn Fn(&str) -> ApiResult<Arc<dyn NodeApi>> + Send + Sync>;

/// Makes volumes; none without a way to nodes.
pub fn provisioner(nodes: Option<Nodes>) -> Box<dyn Reconciler> {
    Box::new(Provisioner(nodes))
}

/// Removes them.
pub fn deleter(nodes: Option<Nodes>) -> Box<dyn Reconciler> {
    Box::new(Deleter(nodes))
}

/// Makes the class once a node is there that can serve it; takes it away where this part is disabled.
pub fn class(nodes: Option<Nodes>) -> Box<dyn Reconciler> {
    Box::new(ClassMaker { nodes, done: AtomicBool::new(false) })
}

struct Provisioner(Option<Nodes>);

#[async_trait]
impl Reconciler for Provisioner {
    fn name(&self) -> &'static str {
        "local-path-provisioner"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUME_CLAIMS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(nodes) = &self.0 else { return Ok(Requeue::Never) };
        let Some(object) = cx.get(&res::PERSISTENT_VOLUME_CLAIMS, key).filter(|c| c.mentions(NAME)) else {
            return Ok(Requeue::Never);
        };
        let claim = Claim::new(&object);
        let class = claim.class.as_deref().and_then(|name| cx.lister(&res::STORAGE_CLASSES).get("", name));
        let Some(class) = class.filter(|c| asked(&claim, &object, c)) else { return Ok(Requeue::Never) };
        let name = format!("pvc-{}", claim.uid);
        if cx.lister(&res::PERSISTENT_VOLUMES).get("", &name).is_some() {
            return Ok(Requeue::Never);
        }
        let failed = |why: String| {
            let message = format!("failed to provision volume with StorageClass \"{}\": {why}", class.meta.name);
            cx.events.warning(&object, "ProvisioningFailed", message);
        };
        let chosen = match chosen(&claim) {
            Ok(node) => node,
            Err(why) => {
                failed(why.to_owned());
                return Ok(Requeue::Never);
            }
        };
        let Some(node) = cx.lister(&res::NODES).get("", chosen) else {
            failed(format!("node \"{chosen}\" not found"));
            // The scheduler chooses again.
            let body = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
            cx.change(&res::PERSISTENT_VOLUME_CLAIMS, &object, None, &body).await?;
            return Ok(Requeue::Never);
        };
        let made = match nodes(chosen) {
            Ok(api) => api.make_local_volume(&directory(&claim)).await,
            Err(away) => Err(away),
        };
        let path = match made {
            Ok(path) => path,
            Err(why) => {
                failed(why.to_string());
                return if away(&why) { Ok(Requeue::After(AWAY)) } else { Err(why.into()) };
            }
        };
        let volume = volume(&object, &class, &node, &path);
        match cx.client.create(&res::PERSISTENT_VOLUMES, "", &volume).await {
            Err(e) if e.reason != Reason::AlreadyExists => return Err(e.into()),
            _ => {}
        }
        cx.events.normal(&object, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
        Ok(Requeue::Never)
    }
}

/// Nobody answered there, or a pod still has it: nothing is wrong, and it is asked again.
fn away(status: &crate::api::status::Status) -> bool {
    matches!(status.reason, Reason::ServiceUnavailable | Reason::Timeout | Reason::Conflict)
}

/// True when this controller is to make a volume for the claim.
fn asked(claim: &Claim, object: &Object, class: &Object) -> bool {
    let annotations = &object.value()["metadata"]["annotations"];
    let by = PROVISIONER.iter().any(|key| annotations[*key] == NAME);
    let class = Class::new(class);
    by && class.provisioner == NAME && claim.volume.is_empty() && !claim.deleting
}

/// The node on which the volume is to be, or why there can be none.
fn chosen(claim: &Claim) -> Result<&str, &'static str> {
    if claim.modes.iter().any(|m| m != "ReadWriteOnce" && m != "ReadWriteOncePod") {
        return Err("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes");
    }
    if claim.selector.is_some() {
        return Err("claim.Spec.Selector is not supported");
    }
    if claim.block {
        return Err("a directory of a node is no block device; volumeMode has to be Filesystem");
    }
    claim.selected_node.as_deref().ok_or("configuration error, no node was specified")
}

/// Name of the claim's directory, as k3s has it.
fn directory(claim: &Claim) -> String {
    format!("pvc-{}_{}_{}", claim.uid, claim.namespace, claim.name)
}

/// The volume of a claim at `path` on the node.
fn volume(claim: &Object, class: &Object, node: &Object, path: &str) -> Value {
    let (c, k) = (claim.value(), class.value());
    let kind = c["metadata"]["annotations"][TYPE].as_str().or(k["metadata"]["annotations"][DEFAULT_TYPE].as_str());
    let hostname = node.meta.label(HOSTNAME).unwrap_or(&node.meta.name);
    let mut spec = json!({
        "accessModes": c["spec"]["accessModes"], "volumeMode": "Filesystem", "storageClassName": class.meta.name,
        "capacity": {"storage": c["spec"]["resources"]["requests"]["storage"]},
        "persistentVolumeReclaimPolicy": k.str_at("/reclaimPolicy").unwrap_or("Delete"),
        "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.meta.namespace,
            "name": claim.meta.name, "uid": claim.meta.uid, "resourceVersion": claim.revision.to_string()},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": HOSTNAME, "operator": "In", "values": [hostname]}]}]}},
    });
    match kind {
        Some("local") => spec["local"] = json!({"path": path}),
        _ => spec["hostPath"] = json!({"path": path, "type": "DirectoryOrCreate"}),
    }
    if let Some(options) = k.get("mountOptions") {
        spec["mountOptions"] = options.clone();
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "spec": spec, "metadata": {
        "name": format!("pvc-{}", claim.meta.uid),
        "annotations": {PROVISIONED_BY: NAME, NODE: node.meta.name}}})
}

struct Deleter(Option<Nodes>);

#[async_trait]
impl Reconciler for Deleter {
    fn name(&self) -> &'static str {
        "local-path-deleter"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PERSISTENT_VOLUMES)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(nodes) = &self.0 else { return Ok(Requeue::Never) };
        let Some(object) = cx.get(&res::PERSISTENT_VOLUMES, key).filter(|v| v.mentions(NAME)) else {
            return Ok(Requeue::Never);
        };
        let volume = Volume::new(&object);
        let over = volume.phase == "Released" && volume.reclaim == "Delete";
        if volume.provisioner.as_deref() != Some(NAME) || !over || volume.deleting {
            return Ok(Requeue::Never);
        }
        let value = object.value();
        let node = value["metadata"]["annotations"][NODE].as_str().unwrap_or_default();
        let path = value.str_at("/spec/local/path").or(value.str_at("/spec/hostPath/path")).unwrap_or_default();
        if cx.lister(&res::NODES).get("", node).is_some() {
            let removed = match nodes(node) {
                Ok(api) => api.remove_local_volume(path).await,
                Err(away) => Err(away),
            };
            if let Err(why) = removed {
                cx.events.warning(&object, "VolumeFailedDelete", format!("cannot remove {path} on node {node}: {why}"));
                return if away(&why) { Ok(Requeue::After(AWAY)) } else { Err(why.into()) };
            }
        }
        let options = DeleteOptions::of_uid(object.meta.uid.as_str());
        match cx.client.delete(&res::PERSISTENT_VOLUMES, "", &key.name, &options).await {
            Err(e) if e.reason != Reason::NotFound => Err(e.into()),
            _ => Ok(Requeue::Never),
        }
    }
}

struct ClassMaker {
    nodes: Option<Nodes>,
    /// Once a start: what people change or remove afterwards is theirs.
    done: AtomicBool,
}

#[async_trait]
impl Reconciler for ClassMaker {
    fn name(&self) -> &'static str {
        "local-path-class"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        if self.done.load(Ordering::Relaxed) {
            return Ok(Requeue::Never);
        }
        let known = cx.lister(&res::STORAGE_CLASSES).get("", CLASS);
        match (&self.nodes, known) {
            // A Node that nobody runs serves nothing: clusters without one have no such class.
            (Some(nodes), _) if nodes(&key.name).is_err() => return Ok(Requeue::Never),
            (Some(_), None) => match cx.client.create(&res::STORAGE_CLASSES, "", &class_object()).await {
                Err(e) if e.reason != Reason::AlreadyExists => return Err(e.into()),
                _ => {}
            },
            (None, Some(class)) if class.meta.label(OWN) == Some("orch") => {
                let options = DeleteOptions::of_uid(class.meta.uid.as_str());
                match cx.client.delete(&res::STORAGE_CLASSES, "", CLASS, &options).await {
                    Err(e) if e.reason != Reason::NotFound => return Err(e.into()),
                    _ => {}
                }
            }
            _ => {}
        }
        self.done.store(true, Ordering::Relaxed);
        Ok(Requeue::Never)
    }
}

/// The class, with k3s's settings.
fn class_object() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": NAME, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "metadata": {"name": CLASS, "labels": {OWN: "orch"},
            "annotations": {DEFAULT_TYPE: "local", "storageclass.kubernetes.io/is-default-class": "true"}}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn object(value: Value) -> Object {
        Object::from_value(&value, &[])
    }

    fn claim() -> Value {
        json!({"metadata": {"name": "data-db-0", "namespace": "n", "uid": "1-2", "annotations": {SELECTED_NODE: "a"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    }

    #[test_case("/spec/accessModes", json!(["ReadWriteMany"]) => false; "only one node reaches a directory")]
    #[test_case("/spec/selector", json!({"matchLabels": {"a": "b"}}) => false; "a new directory has no labels")]
    #[test_case("/spec/volumeMode", json!("Block") => false; "it is no device")]
    #[test_case("/metadata/annotations", json!({}) => false; "it has to be somewhere")]
    #[test_case("/spec/accessModes", json!(["ReadWriteOncePod"]) => true; "one pod")]
    fn what_a_directory_can_be(at: &str, value: Value) -> bool {
        let mut c = claim();
        c.set_at(at, value);
        chosen(&Claim::new(&object(c))).is_ok()
    }

    #[test]
    fn a_volume_stays_on_its_node() {
        let class = object(class_object());
        let node = object(json!({"metadata": {"name": "a", "labels": {HOSTNAME: "a.example"}}}));
        let c = object(claim());
        let v = volume(&c, &class, &node, "/s/x");
        let term = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
        assert_eq!(v.str_at(term), Some("a.example"));
        assert_eq!((v.str_at("/spec/local/path"), v.str_at("/spec/claimRef/uid")), (Some("/s/x"), Some("1-2")));
        assert_eq!(directory(&Claim::new(&c)), "pvc-1-2_n_data-db-0");
        let mut other = claim();
        other["metadata"]["annotations"][TYPE] = "hostPath".into();
        assert_eq!(volume(&object(other), &class, &node, "/s/x").str_at("/spec/hostPath/path"), Some("/s/x"));
    }
}
