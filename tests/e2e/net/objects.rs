//! Listers filled by hand.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::BoxStream;
use orch::api::object::{Object, ObjectKey};
use orch::runtime::{Delta, Lister, Listers};
use serde_json::{Value, json};

type Current = BTreeMap<ObjectKey, Arc<Object>>;

#[derive(Default)]
pub struct Objects(Mutex<(Current, Vec<mpsc::UnboundedSender<Delta>>)>);

impl Objects {
    fn tell(&self, delta: impl FnOnce(&mut Current) -> Option<Delta>) {
        let mut all = self.0.lock().unwrap();
        if let Some(delta) = delta(&mut all.0) {
            all.1.retain(|to| to.unbounded_send(delta.clone()).is_ok());
        }
    }

    pub fn put(&self, object: &Value) {
        let new = Arc::new(Object::from_value(object, &[]));
        self.tell(|all| {
            let old = all.insert(ObjectKey::from(&new.meta), new.clone());
            Some(Delta::Upsert { old, new })
        });
    }

    pub fn remove(&self, namespace: &str, name: &str) {
        self.tell(|all| all.remove(&ObjectKey::new(namespace, name)).map(Delta::Delete));
    }
}

impl Lister for Objects {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.lock().unwrap().0.get(&ObjectKey::new(namespace, name)).cloned()
    }

    fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let all = self.0.lock().unwrap();
        all.0.values().filter(|o| namespace.is_none_or(|n| o.meta.namespace == n)).cloned().collect()
    }

    fn by_index(&self, _: &str, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn field<'o>(&self, _: &'o Object, _: &str) -> &'o str {
        ""
    }

    fn deltas(&self) -> BoxStream<'static, Delta> {
        let (to, from) = mpsc::unbounded();
        let mut all = self.0.lock().unwrap();
        for new in all.0.values() {
            to.unbounded_send(Delta::Upsert { old: None, new: new.clone() }).unwrap();
        }
        to.unbounded_send(Delta::Synced).unwrap();
        all.1.push(to);
        from.boxed()
    }

    fn synced(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub struct Cluster(Mutex<HashMap<(String, String), Arc<Objects>>>);

impl Cluster {
    pub fn of(&self, group: &str, resource: &str) -> Arc<Objects> {
        self.0.lock().unwrap().entry((group.into(), resource.into())).or_default().clone()
    }

    pub fn services(&self) -> Arc<Objects> {
        self.of("", "services")
    }

    /// A Service of one TCP and one UDP port.
    pub fn service(&self, name: &str, address: &str, extra: Value) {
        let mut spec = json!({"clusterIP": address, "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}]});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        self.services()
            .put(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "test"},
            "spec": spec}));
    }

    /// A Node with addresses and pod ranges, each with commas between them; either may be empty.
    pub fn node(&self, name: &str, addresses: &str, ranges: &str) {
        let list = |text: &str| text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let internal = |address: String| json!({"type": "InternalIP", "address": address});
        let addresses: Vec<Value> = list(addresses).into_iter().map(internal).collect();
        self.of("", "nodes").put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": list(ranges)}, "status": {"addresses": addresses}}));
    }

    /// Its endpoints, all ready, on node `node`.
    pub fn endpoints(&self, service: &str, addresses: &[&str]) {
        self.endpoints_on("node", service, addresses);
    }

    /// The same on another node.
    pub fn endpoints_on(&self, node: &str, service: &str, addresses: &[&str]) {
        self.slice(node, service, "IPv4", addresses);
    }

    /// Its IPv6 endpoints, all ready, on node `node`.
    pub fn endpoints6(&self, service: &str, addresses: &[&str]) {
        self.slice("node", service, "IPv6", addresses);
    }

    /// The endpoints of one family, on a node.
    pub fn slice(&self, node: &str, service: &str, family: &str, addresses: &[&str]) {
        let endpoint = |a: &&str| json!({"addresses": [a], "nodeName": node, "conditions": {"ready": true}});
        self.of("discovery.k8s.io", "endpointslices").put(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-{}", family.to_lowercase()), "namespace": "test",
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": family,
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8053, "protocol": "UDP"}]}));
    }
}

impl Listers for Cluster {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        self.of(group, resource)
    }
}
