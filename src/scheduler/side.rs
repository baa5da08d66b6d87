//! What placing a pod looks at beside pods and nodes: Services and controllers, volumes, budgets.
//!
//! Services are asked for with every pod, so their selectors are kept decoded; the rest is read through listers when a
//! pod needs it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::scan;
use crate::runtime::{Lister, Listers};

use super::cluster::NodeInfo;
use super::devices::Inventory;
use super::devices::model::Claim as DeviceClaim;
use super::plugins::devices::NewClaim;
use super::pod::{Controller, PodInfo, Spread, label};
use super::profile::DefaultSpread;
use super::volumes::{Claim, ClaimRef, Class, Volume, VolumePlan};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Listers, and selectors of Services.
pub struct Side {
    services: HashMap<Box<str>, HashMap<Box<str>, Selector>>,
    replica_sets: Arc<dyn Lister>,
    stateful_sets: Arc<dyn Lister>,
    replication_controllers: Arc<dyn Lister>,
    claims: Arc<dyn Lister>,
    volumes: Arc<dyn Lister>,
    classes: Arc<dyn Lister>,
    csi_nodes: Arc<dyn Lister>,
    csi_drivers: Arc<dyn Lister>,
    capacities: Arc<dyn Lister>,
    attachments: Arc<dyn Lister>,
    /// Volumes that a decision gave away and that are not written yet, with the claim.
    taken: HashMap<Box<str>, ClaimRef>,
    /// Nodes for which a decision asks for the volumes of claims, by the claim's uid, and that are not written yet.
    selected: HashMap<Box<str>, Box<str>>,
    /// `PodDisruptionBudget`s.
    pub budgets: Arc<dyn Lister>,
    /// Devices, and the claims of them.
    pub devices: Inventory,
    device_claims: Arc<dyn Lister>,
}

impl Side {
    /// Over these listers; no Services yet.
    pub fn new(listers: &dyn Listers) -> Self {
        Self {
            services: HashMap::new(),
            replica_sets: listers.lister("apps", "replicasets"),
            stateful_sets: listers.lister("apps", "statefulsets"),
            replication_controllers: listers.lister("", "replicationcontrollers"),
            claims: listers.lister("", "persistentvolumeclaims"),
            volumes: listers.lister("", "persistentvolumes"),
            classes: listers.lister("storage.k8s.io", "storageclasses"),
            csi_nodes: listers.lister("storage.k8s.io", "csinodes"),
            csi_drivers: listers.lister("storage.k8s.io", "csidrivers"),
            capacities: listers.lister("storage.k8s.io", "csistoragecapacities"),
            attachments: listers.lister("storage.k8s.io", "volumeattachments"),
            taken: HashMap::new(),
            selected: HashMap::new(),
            budgets: listers.lister("policy", "poddisruptionbudgets"),
            devices: Inventory::default(),
            device_claims: listers.lister("resource.k8s.io", "resourceclaims"),
        }
    }

    /// A Service as it is now.
    pub fn set_service(&mut self, service: &Object) {
        let selector = service.value().get_at("/spec/selector").map(Selector::from_map).unwrap_or_default();
        if selector.is_empty() {
            return self.remove_service(service);
        }
        let of_namespace = self.services.entry(service.meta.namespace.as_str().into()).or_default();
        of_namespace.insert(service.meta.name.as_str().into(), selector);
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, service: &Object) {
        if let Some(all) = self.services.get_mut(service.meta.namespace.as_str()) {
            all.remove(service.meta.name.as_str());
            if all.is_empty() {
                self.services.remove(service.meta.namespace.as_str());
            }
        }
    }

    /// The constraints of pods that have none: by host with a skew of 3, by zone with 5, over the pods of their Services
    /// and controller. None where there is neither. Upstream: `plugins/podtopologyspread` (`systemDefaultConstraints`).
    pub fn default_spread(&self, pod: &PodInfo, defaults: &DefaultSpread) -> Box<[Spread]> {
        if !pod.spread.is_empty() {
            return Box::default();
        }
        let Some(selector) = self.selector_of_owners(pod) else { return Box::default() };
        if let DefaultSpread::List(all) = defaults {
            return all.iter().map(|raw| Spread::over(raw, Some(selector.clone()))).collect();
        }
        let soft = |key: &str, max_skew| Spread {
            key: key.into(),
            max_skew,
            hard: false,
            min_domains: 1,
            selector: Some(selector.clone()),
            honor_affinity: true,
            honor_taints: false,
        };
        Box::new([soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)])
    }

    /// Upstream: `plugins/helper` (`DefaultSelector`).
    fn selector_of_owners(&self, pod: &PodInfo) -> Option<Selector> {
        let mut all = Vec::new();
        for selector in self.services.get(&pod.namespace).into_iter().flat_map(HashMap::values) {
            if selector.matches(|k| label(&pod.labels, k)) {
                all.extend_from_slice(&selector.0);
            }
        }
        if let Some((kind, name)) = &pod.controller {
            let lister = match kind {
                Controller::ReplicaSet => &self.replica_sets,
                Controller::StatefulSet => &self.stateful_sets,
                Controller::ReplicationController => &self.replication_controllers,
            };
            let owner = lister.get(&pod.namespace, name).map(|o| o.value());
            match owner.as_ref().and_then(|o| o.get_at("/spec/selector")) {
                Some(map) if *kind == Controller::ReplicationController => all.extend(Selector::from_map(map).0),
                // One that cannot be read adds nothing.
                Some(selector) => all.extend(from_label_selector(selector).into_iter().flat_map(|s| s.0)),
                None => {}
            }
        }
        (!all.is_empty()).then_some(Selector(all))
    }
}

/// Storage.
impl Side {
    /// A claim by name, with what decisions did to it.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<Claim> {
        let mut claim = self.claims.get(namespace, name).map(|o| Claim::new(&o))?;
        claim.selected_node = claim.selected_node.or_else(|| self.selected.get(&claim.uid).cloned());
        Some(claim)
    }

    /// A volume by name.
    pub fn volume(&self, name: &str) -> Option<Volume> {
        if name.is_empty() { None } else { self.volumes.get("", name).map(|o| Volume::new(&o)) }
    }

    /// All volumes of some classes, with what decisions did to them.
    pub fn volumes_of(&self, classes: &HashSet<&str>) -> Vec<Volume> {
        let all = self.volumes.list(None);
        let read = |o: &Arc<Object>| {
            let mut volume = Volume::new(o);
            volume.claimed_by = self.taken.get(&volume.name).cloned().or(volume.claimed_by);
            volume
        };
        all.iter().map(read).filter(|v| classes.contains(&*v.class)).collect()
    }

    /// A storage class by name.
    pub fn class(&self, name: &str) -> Option<Class> {
        self.classes.get("", name).map(|o| Class::new(&o))
    }

    /// How many volumes each driver attaches to a node, for those that have a limit.
    pub fn volume_limits(&self, node: &str) -> HashMap<String, i64> {
        let csi = self.csi_nodes.get("", node).map(|o| o.value()).unwrap_or_default();
        let limit = |d: &Value| Some((d.str_at("/name")?.to_owned(), d.int_at("/allocatable/count")?));
        csi.items_at("/spec/drivers").iter().filter_map(limit).collect()
    }

    /// The volumes, by name, that are attached to each node.
    pub fn attached(&self) -> HashMap<String, Vec<String>> {
        let mut out: HashMap<String, Vec<String>> = HashMap::new();
        for attachment in self.attachments.list(None) {
            let mut found = scan::fields(&attachment.json, &["/spec/nodeName", "/spec/source/persistentVolumeName"]);
            if let (Some(volume), Some(node)) = (found.pop(), found.pop()) {
                out.entry(node).or_default().push(volume);
            }
        }
        out
    }

    /// True when the driver of a class, if it says how much space there is, has enough that the node reaches.
    pub fn has_space(&self, claim: &Claim, class: &Class, node: &NodeInfo) -> bool {
        let driver = self.csi_drivers.get("", &class.provisioner).map(|o| o.value());
        if !driver.is_some_and(|d| d.bool_at("/spec/storageCapacity").unwrap_or(false)) {
            return true;
        }
        let bytes = |c: &Value, at: &str| c.str_at(at).and_then(|q| Quantity::parse(q).ok()).map(|q| q.value());
        self.capacities.list(None).iter().map(|o| o.value()).any(|c| {
            let largest = bytes(&c, "/maximumVolumeSize").or_else(|| bytes(&c, "/capacity"));
            let reached =
                c.get("nodeTopology").and_then(from_label_selector).is_some_and(|s| s.matches(|k| node.label(k)));
            c.str_at("/storageClassName") == Some(&class.name) && reached && largest.is_some_and(|n| n >= claim.size)
        })
    }

    /// True when a decision has given the volume away.
    pub fn is_taken(&self, volume: &str) -> bool {
        self.taken.contains_key(volume)
    }

    /// Remembers what a decision for a node gives away: others that use the same claims go by it.
    pub fn take(&mut self, plan: &VolumePlan, node: &str) {
        self.taken.extend(plan.bind.iter().map(|m| (m.volume.clone(), m.claim.reference())));
        self.selected.extend(plan.provision.iter().map(|claim| (claim.uid.clone(), node.into())));
    }

    /// Forgets it: it is written, or will not be.
    pub fn release(&mut self, plan: &VolumePlan) {
        for m in &plan.bind {
            self.taken.remove(&m.volume);
        }
        for claim in &plan.provision {
            self.selected.remove(&claim.uid);
        }
    }
}

/// Devices.
impl Side {
    /// The writes about a claim have ended, well or not: what the API has of it counts again.
    pub fn settle_devices(&mut self, claim: &DeviceClaim) {
        if let Some(now) = self.device_claims.get(&claim.namespace, &claim.name) {
            self.devices.set_claim(&now);
        }
        self.devices.forget(&claim.uid);
    }

    /// The same about one that was to be made.
    pub fn settle_new_claim(&mut self, new: &NewClaim) {
        if let Some(made) = &new.made {
            self.settle_devices(made);
        }
        self.devices.forget(&new.of.claim.uid);
    }
}

fn from_label_selector(selector: &Value) -> Option<Selector> {
    Selector::from_label_selector(selector).ok()
}
