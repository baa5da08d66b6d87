//! Claims, volumes and classes, as the binder looks at them. No IO.

use serde_json::Value;

use super::{BIND_COMPLETED, BY_CONTROLLER, IS_DEFAULT, PROVISIONED_BY, SELECTED_NODE};
use crate::api::meta::labels::Selector;
use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::value::ValueExt;

/// The class of a claim or volume in old manifests.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// On a volume: the driver outside of Kubernetes that it is left to.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// The class of attributes of a claim or volume.
const ATTRIBUTES: &str = "/spec/volumeAttributesClassName";

fn texts(v: &Value, at: &str) -> Vec<String> {
    v.items_at(at).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn size(v: &Value, at: &str) -> i128 {
    v.str_at(at).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.nanos())
}

fn annotation<'v>(v: &'v Value, key: &str) -> Option<&'v str> {
    v["metadata"]["annotations"][key].as_str()
}

fn class(v: &Value) -> Option<String> {
    annotation(v, OLD_CLASS).or_else(|| v.str_at("/spec/storageClassName")).map(str::to_owned)
}

/// A claim.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // as upstream's fields
pub struct Claim {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub deleting: bool,
    /// None when nobody has said anything about a class; empty for "no class".
    pub class: Option<String>,
    /// Its class of attributes; empty for none.
    pub attributes: String,
    /// The volume that it names.
    pub volume: String,
    pub modes: Vec<String>,
    pub block: bool,
    /// In billionths of a byte.
    pub size: i128,
    /// None without a selector; an unreadable one matches nothing.
    pub selector: Option<Option<Selector>>,
    pub bind_completed: bool,
    pub by_controller: bool,
    pub selected_node: Option<String>,
    pub phase: String,
}

impl Claim {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let selector = v.get_at("/spec/selector").filter(|s| !s.is_null());
        Self {
            namespace: o.meta.namespace.clone(),
            name: o.meta.name.clone(),
            uid: o.meta.uid.clone(),
            deleting: o.is_deleting(),
            class: class(&v),
            attributes: v.str_at(ATTRIBUTES).unwrap_or_default().to_owned(),
            volume: v.str_at("/spec/volumeName").unwrap_or_default().to_owned(),
            modes: texts(&v, "/spec/accessModes"),
            block: v.str_at("/spec/volumeMode") == Some("Block"),
            size: size(&v, "/spec/resources/requests/storage"),
            selector: selector.map(|s| Selector::from_label_selector(s).ok()),
            bind_completed: annotation(&v, BIND_COMPLETED).is_some(),
            by_controller: annotation(&v, BY_CONTROLLER).is_some(),
            selected_node: annotation(&v, SELECTED_NODE).map(str::to_owned),
            phase: v.str_at("/status/phase").unwrap_or_default().to_owned(),
        }
    }
}

/// Whose a volume is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    /// Empty while it is only reserved.
    pub uid: String,
}

/// What a volume is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// A path of whatever node its pod is on.
    HostPath(String),
    /// A server's directory.
    Nfs,
    /// A driver's: its policy is the driver's to follow.
    Driver,
    /// Anything else.
    #[default]
    Other,
}

impl Source {
    fn of(volume: &Value) -> Self {
        let has = |source: &str| volume["spec"].get(source).is_some_and(|s| !s.is_null());
        match volume.str_at("/spec/hostPath/path") {
            Some(path) => Self::HostPath(path.to_owned()),
            None if has("nfs") => Self::Nfs,
            None if has("csi") || annotation(volume, MIGRATED_TO).is_some() => Self::Driver,
            None => Self::Other,
        }
    }
}

/// A volume.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Volume {
    pub name: String,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    pub deleting: bool,
    pub class: String,
    /// Its class of attributes; empty for none.
    pub attributes: String,
    pub modes: Vec<String>,
    pub block: bool,
    /// In billionths of a byte.
    pub size: i128,
    pub phase: String,
    pub claim: Option<ClaimRef>,
    pub by_controller: bool,
    /// Who made it; none when a person did.
    pub provisioner: Option<String>,
    /// `Retain`, `Delete` or `Recycle`.
    pub reclaim: String,
    pub source: Source,
}

impl Volume {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let text = |at: &str| v.str_at(at).unwrap_or_default().to_owned();
        let claim = v.get_at("/spec/claimRef").filter(|c| !c.is_null()).map(|_| ClaimRef {
            namespace: text("/spec/claimRef/namespace"),
            name: text("/spec/claimRef/name"),
            uid: text("/spec/claimRef/uid"),
        });
        Self {
            name: o.meta.name.clone(),
            labels: o.meta.labels.clone(),
            deleting: o.is_deleting(),
            class: class(&v).unwrap_or_default(),
            attributes: text(ATTRIBUTES),
            modes: texts(&v, "/spec/accessModes"),
            block: v.str_at("/spec/volumeMode") == Some("Block"),
            size: size(&v, "/spec/capacity/storage"),
            phase: text("/status/phase"),
            claim,
            by_controller: annotation(&v, BY_CONTROLLER).is_some(),
            provisioner: annotation(&v, PROVISIONED_BY).map(str::to_owned),
            reclaim: text("/spec/persistentVolumeReclaimPolicy"),
            source: Source::of(&v),
        }
    }

    /// True when it is this claim's, or kept for it.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.claim.as_ref().is_some_and(|r| {
            r.namespace == claim.namespace && r.name == claim.name && (r.uid.is_empty() || r.uid == claim.uid)
        })
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// True when a selector of a claim admits it.
    pub fn selected_by(&self, claim: &Claim) -> bool {
        match &claim.selector {
            None => true,
            Some(selector) => selector.as_ref().is_some_and(|s| s.matches(|k| self.label(k))),
        }
    }
}

/// A class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Class {
    pub name: String,
    pub provisioner: String,
    /// Claims wait for their first pod.
    pub waits: bool,
}

impl Class {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        Self {
            name: o.meta.name.clone(),
            provisioner: v.str_at("/provisioner").unwrap_or_default().to_owned(),
            waits: v.str_at("/volumeBindingMode") == Some("WaitForFirstConsumer"),
        }
    }
}

/// True when a class is marked as the default one.
pub fn is_default(class: &Object) -> bool {
    let v = class.value();
    IS_DEFAULT.iter().any(|key| annotation(&v, key) == Some("true"))
}
