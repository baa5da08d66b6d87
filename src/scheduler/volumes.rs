//! The volumes of a pod that matter for placing it.

use serde_json::Value;

use super::cluster::NodeInfo;
use super::pod::{Labels, NodeTerm, label};
use crate::api::meta::labels::Selector;
use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::value::ValueExt;

/// Claims and disks of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Volumes {
    /// Claims by name, in the pod's namespace; true where the claim is made for this pod (ephemeral).
    pub claims: Box<[(Box<str>, bool)]>,
    /// Disks named in the pod itself: what identifies them, and whether only for reading. One may have several names.
    pub disks: Box<[(Box<str>, bool)]>,
}

impl Volumes {
    /// From `spec.volumes` of the pod `pod`.
    pub fn new(pod: &str, volumes: &[Value]) -> Self {
        let claim = |v: &Value| match v.str_at("/persistentVolumeClaim/claimName") {
            Some(name) => Some((name.into(), false)),
            None => v.get("ephemeral").and_then(|_| v.str_at("/name")).map(|n| (format!("{pod}-{n}").into(), true)),
        };
        Self { claims: volumes.iter().filter_map(claim).collect(), disks: volumes.iter().flat_map(disks).collect() }
    }

    /// Claims that the pod names itself; those that are made for it are not among them.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().filter(|(_, ephemeral)| !ephemeral).map(|(name, _)| &**name)
    }
}

/// Upstream: `plugins/volumerestrictions` (`isVolumeConflict`), which knows GCE PD, EBS, iSCSI and RBD.
fn disks(v: &Value) -> Vec<(Box<str>, bool)> {
    let read_only = |at: &str| v.bool_at(at).unwrap_or(false);
    if let Some(name) = v.str_at("/gcePersistentDisk/pdName") {
        return vec![(format!("gce:{name}").into(), read_only("/gcePersistentDisk/readOnly"))];
    }
    if let Some(id) = v.str_at("/awsElasticBlockStore/volumeID") {
        // Never shared, not even for reading.
        return vec![(format!("ebs:{id}").into(), false)];
    }
    if let Some(iqn) = v.str_at("/iscsi/iqn") {
        return vec![(format!("iscsi:{iqn}").into(), read_only("/iscsi/readOnly"))];
    }
    let Some(image) = v.str_at("/rbd/image") else { return Vec::new() };
    let (pool, reads) = (v.str_at("/rbd/pool").unwrap_or("rbd"), read_only("/rbd/readOnly"));
    // One monitor that both name makes it the same image: each is a name of it.
    let monitors = v.items_at("/rbd/monitors").iter().filter_map(Value::as_str);
    monitors.map(|monitor| (format!("rbd:{monitor}:{pool}:{image}").into(), reads)).collect()
}

/// A `PersistentVolumeClaim`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Claim {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub revision: u64,
    /// The uid of whom it was made for and goes with; empty for none.
    pub controller: Box<str>,
    pub labels_wanted: Selector,
    pub class: Box<str>,
    /// `volumeAttributesClassName`.
    pub attributes: Box<str>,
    /// The volume that it names.
    pub volume: Box<str>,
    /// Bound for good, by both sides.
    pub bound: bool,
    pub lost: bool,
    pub deleting: bool,
    pub once_per_pod: bool,
    pub modes: Box<[Box<str>]>,
    pub block: bool,
    /// Bytes.
    pub size: i64,
    pub selected_node: Option<Box<str>>,
}

/// The annotation that says both sides of a claim are bound.
pub const BIND_COMPLETED: &str = "/metadata/annotations/pv.kubernetes.io~1bind-completed";
const SELECTED_NODE: &str = "/metadata/annotations/volume.kubernetes.io~1selected-node";
const OLD_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

fn bytes(v: &Value, at: &str) -> i64 {
    v.str_at(at).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.value())
}

fn texts(v: &Value, at: &str) -> Box<[Box<str>]> {
    v.items_at(at).iter().filter_map(Value::as_str).map(Into::into).collect()
}

fn text(v: &Value, at: &str) -> Box<str> {
    v.str_at(at).unwrap_or_default().into()
}

/// The storage class of a claim or volume; old manifests name it in an annotation, which counts more. Upstream:
/// `component-helpers/storage/volume` (`GetPersistentVolumeClaimClass`).
fn class_of(v: &Value) -> Box<str> {
    v.str_at(OLD_CLASS).or_else(|| v.str_at("/spec/storageClassName")).unwrap_or_default().into()
}

impl Claim {
    /// What a volume says of it.
    pub fn reference(&self) -> ClaimRef {
        (self.namespace.clone(), self.name.clone(), self.uid.clone())
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let modes = texts(&v, "/spec/accessModes");
        let selector = v.get_at("/spec/selector").map(Selector::from_label_selector);
        Self {
            namespace: o.meta.namespace.as_str().into(),
            name: o.meta.name.as_str().into(),
            uid: o.meta.uid.as_str().into(),
            revision: o.revision,
            controller: o.meta.controller().map_or("", |owner| &owner.uid).into(),
            labels_wanted: selector.and_then(Result::ok).unwrap_or_default(),
            class: class_of(&v),
            attributes: text(&v, "/spec/volumeAttributesClassName"),
            volume: text(&v, "/spec/volumeName"),
            bound: v.str_at("/spec/volumeName").is_some_and(|n| !n.is_empty()) && v.get_at(BIND_COMPLETED).is_some(),
            lost: v.str_at("/status/phase") == Some("Lost"),
            deleting: o.is_deleting(),
            once_per_pod: modes.iter().any(|m| &**m == "ReadWriteOncePod"),
            modes,
            block: v.str_at("/spec/volumeMode") == Some("Block"),
            size: bytes(&v, "/spec/resources/requests/storage"),
            selected_node: v.str_at(SELECTED_NODE).map(Into::into),
        }
    }
}

/// Which claim: namespace, name and uid, which is empty where somebody keeps a volume for a claim that may not be there yet.
pub type ClaimRef = (Box<str>, Box<str>, Box<str>);

/// A `PersistentVolume`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Volume {
    pub name: Box<str>,
    pub revision: u64,
    pub labels: Labels,
    pub class: Box<str>,
    /// `volumeAttributesClassName`.
    pub attributes: Box<str>,
    pub modes: Box<[Box<str>]>,
    pub block: bool,
    /// Bytes.
    pub size: i64,
    /// Its phase says that anybody may have it.
    pub available: bool,
    pub deleting: bool,
    /// The claim that has it, or shall have it.
    pub claimed_by: Option<ClaimRef>,
    /// Nodes that reach it; none means all.
    pub nodes: Option<Box<[NodeTerm]>>,
    /// Driver and handle.
    pub csi: Option<(String, String)>,
}

impl Volume {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let claim = v.get_at("/spec/claimRef");
        Self {
            name: o.meta.name.as_str().into(),
            revision: o.revision,
            labels: o.meta.labels.clone(),
            class: class_of(&v),
            attributes: text(&v, "/spec/volumeAttributesClassName"),
            modes: texts(&v, "/spec/accessModes"),
            block: v.str_at("/spec/volumeMode") == Some("Block"),
            size: bytes(&v, "/spec/capacity/storage"),
            available: v.str_at("/status/phase") == Some("Available"),
            deleting: o.is_deleting(),
            claimed_by: claim.map(|c| (text(c, "/namespace"), text(c, "/name"), text(c, "/uid"))),
            nodes: v.get_at("/spec/nodeAffinity/required").map(NodeTerm::all_from),
            csi: v.str_at("/spec/csi/driver").map(|d| (d.to_owned(), text(&v, "/spec/csi/volumeHandle").into())),
        }
    }

    /// True when the node can use it.
    pub fn reachable(&self, node: &NodeInfo) -> bool {
        self.reachable_from(&node.name, &node.labels)
    }

    /// The same for a node by name and labels.
    pub fn reachable_from(&self, node: &str, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.nodes.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node, labels)))
    }

    /// True when somebody keeps it for the claim, or it has it already.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.claimed_by.as_ref().is_some_and(|(ns, name, uid)| {
            *ns == claim.namespace && *name == claim.name && (uid.is_empty() || *uid == claim.uid)
        })
    }

    /// True when the claim could have it, whoever has it now.
    fn could_hold(&self, claim: &Claim) -> bool {
        (&self.class, &self.attributes, self.block) == (&claim.class, &claim.attributes, claim.block)
            && self.size >= claim.size
            && !self.deleting
    }

    /// True when nobody has it, and the claim may.
    fn is_free_for(&self, claim: &Claim) -> bool {
        self.available
            && self.claimed_by.is_none()
            && claim.modes.iter().all(|m| self.modes.contains(m))
            && claim.labels_wanted.matches(|k| label(&self.labels, k))
    }
}

/// The volume, of those that nobody else is about to get, that a claim gets on a node: the one that is kept for it, or none
/// where the node does not reach that; else the smallest that suits. `volumes`: the smallest first.
/// Upstream: `component-helpers/storage/volume` (`FindMatchingVolume`).
pub fn match_for<'v>(
    claim: &Claim,
    volumes: impl Iterator<Item = &'v Volume> + Clone,
    node: &NodeInfo,
) -> Option<&'v Volume> {
    let mut some = volumes.filter(|v| v.could_hold(claim));
    match some.clone().find(|v| v.is_for(claim)) {
        Some(kept) => Some(kept).filter(|v| v.reachable(node)),
        None => some.find(|v| v.is_free_for(claim) && v.reachable(node)),
    }
}

/// A `StorageClass`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Class {
    pub name: Box<str>,
    pub provisioner: String,
    /// Claims wait for their first pod.
    pub waits: bool,
    /// Where volumes can be made; none means anywhere. Each is a set of labels with allowed values.
    pub topologies: Vec<Vec<(String, Vec<String>)>>,
}

impl Class {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let expression = |e: &Value| {
            let values = e.items_at("/values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            (text(e, "/key").into(), values)
        };
        let term = |t: &Value| t.items_at("/matchLabelExpressions").iter().map(expression).collect();
        Self {
            name: o.meta.name.as_str().into(),
            provisioner: text(&v, "/provisioner").into(),
            waits: v.str_at("/volumeBindingMode") == Some("WaitForFirstConsumer"),
            topologies: v.items_at("/allowedTopologies").iter().map(term).collect(),
        }
    }

    /// True when somebody makes volumes of it.
    pub fn provisions(&self) -> bool {
        !self.provisioner.is_empty() && self.provisioner != NO_PROVISIONER
    }

    /// True when volumes can be made for the node.
    pub fn reaches(&self, node: &NodeInfo) -> bool {
        let holds = |(key, values): &(String, Vec<String>)| {
            node.label(key).is_some_and(|there| values.iter().any(|v| v == there))
        };
        self.topologies.is_empty() || self.topologies.iter().any(|t| !t.is_empty() && t.iter().all(holds))
    }
}

/// A volume for a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The volume's name.
    pub volume: Box<str>,
    /// The volume's, as it was looked at.
    pub revision: u64,
    /// Somebody kept the volume for the claim.
    pub kept: bool,
    /// The claim.
    pub claim: Claim,
}

/// What has to be written before a pod with waiting claims can be bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VolumePlan {
    /// Volumes, with the claims that get them.
    pub bind: Vec<Match>,
    /// Claims for which a volume is to be made.
    pub provision: Vec<Claim>,
}

impl VolumePlan {
    /// True when nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}
