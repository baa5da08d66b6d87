//! Volumes and claims: who gets which volume, what becomes of it afterwards, and that neither goes while it is used.
//!
//! [`claims`] binds claims to volumes or asks for new ones; [`volumes`] follows what became of a volume's claim; [`protect`]
//! takes finalizers away; [`ephemeral`] makes the claims that pods bring along; [`attach`]
//! has drivers attach volumes to nodes; [`local_path`] makes and removes volumes that
//! are directories of a node. Which volume suits is in [`plan`], over [`model`].
//!
//! Rules: upstream `pkg/controller/volume/{persistentvolume,pvcprotection,pvprotection,ephemeral}`.
//! **Invariant:** a binding is written to the volume before the claim, and completed before anybody may rely on it: the
//! annotation `bind-completed` comes last.
//! **Invariant:** a volume is bound to the uid of a claim, so that a claim of the same name never gets the data of the last.

pub mod attach;
pub mod claims;
pub mod ephemeral;
pub mod expand;
pub mod local_path;
pub mod model;
pub mod plan;
pub mod protect;
pub mod supply;
#[cfg(test)]
mod tests;

use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::res;
use crate::runtime::Cx;

/// On a claim: both sides of its binding are written.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either side: the binding was this controller's choice, which it may take back.
pub const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node that its first pod was given.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume; the second one is its old name, which provisioners still read.
pub const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Marks default classes; the second one is its old name.
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The claims that a pod uses: names, and whether the claim is made for this pod alone.
pub fn claims_of(pod: &Object) -> Vec<(String, bool)> {
    if !pod.mentions("persistentVolumeClaim") && !pod.mentions("ephemeral") {
        return Vec::new();
    }
    let value = pod.value();
    let claim = |v: &serde_json::Value| match v.str_at("/persistentVolumeClaim/claimName") {
        Some(name) => Some((name.to_owned(), false)),
        None => v.get("ephemeral").and_then(|_| v.str_at("/name")).map(|n| (format!("{}-{n}", pod.meta.name), true)),
    };
    value.items_at("/spec/volumes").iter().filter_map(claim).collect()
}

/// Keys of the claims that a pod uses.
fn claim_keys(pod: &Object, _: &Cx) -> Vec<ObjectKey> {
    claims_of(pod).into_iter().map(|(name, _)| ObjectKey::new(&pod.meta.namespace, name)).collect()
}

/// Pods of a namespace that use a claim.
fn pods_using(cx: &Cx, namespace: &str, claim: &str) -> Vec<std::sync::Arc<Object>> {
    let mut pods = cx.lister(&res::PODS).list(Some(namespace));
    pods.retain(|p| claims_of(p).iter().any(|(name, _)| name == claim));
    pods
}
