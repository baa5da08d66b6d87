//! What placing a pod looks at beside pods and nodes: Services and controllers, volumes, budgets.
//!
//! Services are asked for with every pod, so their selectors are kept decoded; the rest is read through listers when a
//! pod needs it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::runtime::{Lister, Listers};

use super::pod::{PodInfo, Spread, label};

/// Listers, and selectors of Services.
pub struct Side {
    services: HashMap<Box<str>, HashMap<Box<str>, Selector>>,
    replica_sets: Arc<dyn Lister>,
    stateful_sets: Arc<dyn Lister>,
    replication_controllers: Arc<dyn Lister>,
    /// `PersistentVolumeClaim`s.
    pub claims: Arc<dyn Lister>,
    /// `PersistentVolume`s.
    pub volumes: Arc<dyn Lister>,
    /// `StorageClass`es.
    pub classes: Arc<dyn Lister>,
    /// `CSINode`s.
    pub csi_nodes: Arc<dyn Lister>,
    /// `PodDisruptionBudget`s.
    pub budgets: Arc<dyn Lister>,
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
            budgets: listers.lister("policy", "poddisruptionbudgets"),
        }
    }

    /// A Service as it is now.
    pub fn set_service(&mut self, service: &Object) {
        let selector = service.value().pointer("/spec/selector").map(Selector::from_map).unwrap_or_default();
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
    pub fn default_spread(&self, pod: &PodInfo) -> Box<[Spread]> {
        if !pod.spread.is_empty() {
            return Box::default();
        }
        let Some(selector) = self.selector_of_owners(pod) else { return Box::default() };
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
            let lister = match &**kind {
                "ReplicaSet" => Some(&self.replica_sets),
                "StatefulSet" => Some(&self.stateful_sets),
                "ReplicationController" => Some(&self.replication_controllers),
                _ => None,
            };
            let owner = lister.and_then(|l| l.get(&pod.namespace, name)).map(|o| o.value());
            match owner.as_ref().and_then(|o| o.pointer("/spec/selector")) {
                Some(map) if &**kind == "ReplicationController" => all.extend(Selector::from_map(map).0),
                Some(selector) => all.extend(from_label_selector(selector)?.0),
                None => {}
            }
        }
        (!all.is_empty()).then_some(Selector(all))
    }
}

fn from_label_selector(selector: &Value) -> Option<Selector> {
    Selector::from_label_selector(selector).ok()
}
