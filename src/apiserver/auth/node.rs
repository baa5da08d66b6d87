//! The Node authorizer: a kubelet may read what the pods bound to its node refer to, and write its own things.
//!
//! Relations are looked up through the pods of the node; there is no graph to keep.
//!
//! **Invariant:** no opinion is the worst answer given here; RBAC may still allow.
//! Rules: upstream `plugin/pkg/auth/authorizer/node`.

use std::sync::Arc;

use serde_json::Value;

use super::Authorizer;
use super::lookup::ObjectLookup;
use super::rbac::{Rule, bootstrap};
use crate::api::meta::fields::FieldSelector;
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;

/// The group of all nodes.
pub const NODES_GROUP: &str = "system:nodes";
/// The namespace of the nodes' heartbeats.
pub const LEASES: &str = "kube-node-lease";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "create", "update", "patch", "delete"];

/// The node a user is: `None` for all who are none, `Some("")` for one that does not say which.
pub fn identity(user: &UserInfo) -> Option<&str> {
    if !user.in_group(NODES_GROUP) {
        return None;
    }
    user.name.strip_prefix("system:node:")
}

/// What of a pod's refers to an object of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// Its ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim.
    ResourceClaim,
}

/// True when a pod refers to `name` (in its namespace) by a reference of this kind.
pub fn pod_refers(pod: &Value, kind: Reference, name: &str) -> bool {
    let named = |value: &Value, path: &str| value.str_at(path) == Some(name);
    let containers = || {
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| pod["spec"][list].items_at(""))
    };
    let env = |source: &str, key: &str| {
        containers().any(|c| {
            c.items_at("/envFrom").iter().any(|e| named(e, &format!("/{source}/name")))
                || c.items_at("/env").iter().any(|e| named(e, &format!("/valueFrom/{key}/name")))
        })
    };
    let volume = |paths: &[&str], projected: &str| {
        pod.items_at("/spec/volumes").iter().any(|v| {
            paths.iter().any(|p| named(v, p)) || v.items_at("/projected/sources").iter().any(|s| named(s, projected))
        })
    };
    match kind {
        Reference::Secret => {
            pod.items_at("/spec/imagePullSecrets").iter().any(|s| named(s, "/name"))
                || env("secretRef", "secretKeyRef")
                || volume(SECRET_VOLUMES, "/secret/name")
        }
        Reference::ConfigMap => {
            env("configMapRef", "configMapKeyRef") || volume(&["/configMap/name"], "/configMap/name")
        }
        Reference::Claim => {
            let own = pod.str_at("/metadata/name").unwrap_or_default();
            let ephemeral = |v: &Value| {
                v.get_at("/ephemeral/volumeClaimTemplate").is_some()
                    && v.str_at("/name")
                        .is_some_and(|v| name.strip_prefix(own).and_then(|r| r.strip_prefix('-')) == Some(v))
            };
            pod.items_at("/spec/volumes").iter().any(|v| named(v, "/persistentVolumeClaim/claimName") || ephemeral(v))
        }
        Reference::ServiceAccount => named(pod, "/spec/serviceAccountName"),
        Reference::ResourceClaim => {
            pod.items_at("/spec/resourceClaims").iter().any(|c| named(c, "/resourceClaimName"))
                || pod.items_at("/status/resourceClaimStatuses").iter().any(|c| named(c, "/resourceClaimName"))
                || named(pod, "/status/extendedResourceClaimStatus/resourceClaimName")
        }
    }
}

/// Where a volume names a Secret.
const SECRET_VOLUMES: &[&str] = &[
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
];

/// The authorizer.
pub struct NodeAuthorizer {
    lookup: Arc<dyn ObjectLookup>,
    /// What every node may do whatever it runs: upstream's `system:node` role.
    fixed: Box<[Rule]>,
}

impl NodeAuthorizer {
    /// Over these objects.
    pub fn new(lookup: Arc<dyn ObjectLookup>) -> Self {
        Self { lookup, fixed: bootstrap::cluster_role_rules("system:node") }
    }

    /// `Ok` allows; the error is why there is no opinion.
    fn decide(&self, a: &Attributes, node: &str) -> Result<(), String> {
        match (&*a.group, &*a.resource) {
            ("", "secrets") => self.referred(a, node, READ, Reference::Secret),
            ("", "configmaps") => self.referred(a, node, READ, Reference::ConfigMap),
            ("", "persistentvolumeclaims") if a.subresource == "status" => {
                self.referred(a, node, &["update", "patch"], Reference::Claim)
            }
            ("", "persistentvolumeclaims") => self.referred(a, node, &["get"], Reference::Claim),
            ("", "serviceaccounts") if a.subresource == "token" => {
                self.referred(a, node, &["create"], Reference::ServiceAccount)
            }
            ("", "serviceaccounts") => self.referred(a, node, &["get"], Reference::ServiceAccount),
            ("resource.k8s.io", "resourceclaims") => self.referred(a, node, &["get"], Reference::ResourceClaim),
            ("", "persistentvolumes") => self.volume(a, node),
            ("storage.k8s.io", "volumeattachments") => self.attachment(a, node),
            ("coordination.k8s.io", "leases") => own(a, node, LEASES),
            ("storage.k8s.io", "csinodes") => own(a, node, ""),
            ("", "nodes") if READ.contains(&&*a.verb) => match a.name == node || selects(a, "metadata.name", node) {
                true => Ok(()),
                false => Err(format!("node {node:?} cannot read {:?}, only its own Node object", a.name)),
            },
            ("", "pods") if READ.contains(&&*a.verb) && a.subresource.is_empty() => self.pods(a, node),
            ("resource.k8s.io", "resourceslices") => match &*a.verb {
                "get" | "create" | "update" | "patch" | "delete" => Ok(()),
                _ if selects(a, "spec.nodeName", node) => Ok(()),
                _ => {
                    Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector".into())
                }
            },
            _ if self.fixed.iter().any(|r| r.allows(a)) => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn referred(&self, a: &Attributes, node: &str, verbs: &[&str], kind: Reference) -> Result<(), String> {
        if !verbs.contains(&&*a.verb) {
            return Err(format!("can only {} this type of resource", verbs.join("/")));
        }
        if a.name.is_empty() {
            return Err("can only read resources of this type by name".into());
        }
        if a.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        let plain = kind != Reference::Claim && kind != Reference::ServiceAccount;
        if plain && !a.subresource.is_empty() {
            return Err("cannot get subresource".into());
        }
        let pods = self.lookup.pods_on(node);
        match pods.iter().any(|p| p.meta.namespace == a.namespace && pod_refers(&p.value(), kind, &a.name)) {
            true => Ok(()),
            // A PersistentVolume may name a Secret for a claim of the node's.
            false if kind == Reference::Secret && self.secret_of_volume(a, node) => Ok(()),
            false => Err(no_relationship(node)),
        }
    }

    /// The PersistentVolumes that are bound to claims of pods on the node.
    fn volumes(&self, node: &str) -> Vec<Value> {
        let mut out = Vec::new();
        for pod in self.lookup.pods_on(node) {
            let body = pod.value();
            for volume in body.items_at("/spec/volumes") {
                let claim = match volume.str_at("/persistentVolumeClaim/claimName") {
                    Some(name) => name.to_owned(),
                    None if volume.get("ephemeral").is_some() => {
                        format!("{}-{}", pod.meta.name, volume.str_at("/name").unwrap_or_default())
                    }
                    None => continue,
                };
                let claim =
                    self.lookup.get("", "persistentvolumeclaims", &pod.meta.namespace, &claim).map(|c| c.value());
                let name = claim.as_ref().and_then(|c| c.str_at("/spec/volumeName"));
                out.extend(name.and_then(|n| self.lookup.get("", "persistentvolumes", "", n)).map(|v| v.value()));
            }
        }
        out
    }

    fn volume(&self, a: &Attributes, node: &str) -> Result<(), String> {
        if a.verb != "get" || !a.subresource.is_empty() || a.name.is_empty() {
            return Err("can only get individual resources of this type".into());
        }
        match self.volumes(node).iter().any(|v| v.str_at("/metadata/name") == Some(&a.name)) {
            true => Ok(()),
            false => Err(no_relationship(node)),
        }
    }

    fn secret_of_volume(&self, a: &Attributes, node: &str) -> bool {
        const REFS: [&str; 8] = [
            "/azureFile/secretName",
            "/csi/nodePublishSecretRef",
            "/csi/nodeStageSecretRef",
            "/csi/nodeExpandSecretRef",
            "/iscsi/secretRef",
            "/cephfs/secretRef",
            "/rbd/secretRef",
            "/flexVolume/secretRef",
        ];
        let volumes = self.volumes(node);
        volumes.iter().any(|volume| {
            let spec = &volume["spec"];
            let claim_namespace = spec.str_at("/claimRef/namespace").unwrap_or_default();
            REFS.iter().filter_map(|path| spec.get_at(path)).any(|reference| match reference {
                Value::String(name) => *name == a.name && claim_namespace == a.namespace,
                other => {
                    other.str_at("/name") == Some(&a.name)
                        && other.str_at("/namespace").unwrap_or(claim_namespace) == a.namespace
                }
            })
        })
    }

    fn attachment(&self, a: &Attributes, node: &str) -> Result<(), String> {
        if a.verb != "get" || a.name.is_empty() {
            return Err("can only get individual resources of this type".into());
        }
        let found = self.lookup.get("storage.k8s.io", "volumeattachments", "", &a.name).map(|o| o.value());
        match found.is_some_and(|o| o.str_at("/spec/nodeName") == Some(node)) {
            true => Ok(()),
            false => Err(no_relationship(node)),
        }
    }

    fn pods(&self, a: &Attributes, node: &str) -> Result<(), String> {
        if a.verb == "get" {
            let on = |p: &Arc<crate::api::object::Object>| p.meta.namespace == a.namespace && p.meta.name == a.name;
            return match self.lookup.pods_on(node).iter().any(on) {
                true => Ok(()),
                false => Err(no_relationship(node)),
            };
        }
        match selects(a, "spec.nodeName", node) {
            true => Ok(()),
            false => Err("can only list/watch pods with spec.nodeName field selector".into()),
        }
    }
}

fn no_relationship(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    FieldSelector::parse(&a.field_selector).is_ok_and(|s| s.exact(field) == Some(value))
}

/// An object that bears the node's name; creating names it only in the body, which NodeRestriction looks at.
fn own(a: &Attributes, node: &str, namespace: &str) -> Result<(), String> {
    if !WRITE.contains(&&*a.verb) {
        return Err(format!("can only {} this type of resource", WRITE.join("/")));
    }
    if !a.subresource.is_empty() {
        return Err("cannot authorize subresources".into());
    }
    if a.namespace != namespace {
        return Err(format!("can only access objects in the {namespace:?} system namespace"));
    }
    match a.name == node || (a.verb == "create" && a.name.is_empty()) {
        true => Ok(()),
        false => Err(format!("can only access {} with the same name as the requesting node", a.resource)),
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes, user: &UserInfo) -> Decision {
        let Some(node) = identity(user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", user.name));
        }
        match self.decide(attributes, node) {
            Ok(()) => Decision::Allow,
            Err(why) => Decision::NoOpinion(why),
        }
    }
}
