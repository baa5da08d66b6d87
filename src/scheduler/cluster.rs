//! Nodes and the pods on them: the snapshot that decisions are made on.
//!
//! In: changes of nodes and pods, assumptions of the scheduler. Out: [`NodeInfo`]s with their sums kept up to date.
//! There is one copy; a decision borrows it, so nothing is copied for a cycle.
//! **Invariant:** every change costs what one node or one pod costs; the result equals that of building it anew.
//! **Invariant:** a pod counts on at most one node, assumed or bound.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::object::Object;

use super::counts::{Counts, Moves};
use super::domains::{self, Domains};
use super::order::Order;
use super::plugins::{affinity, spread};
use super::pod::{HostPort, Labels, PodInfo, Taint, label};
use super::raw;
use super::resources::Resources;
use super::terms::Terms;

/// A node and what is on it. A copy, to try something on, shares what no pod changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInfo {
    /// Where it stands among the cluster's nodes; a copy stands for the same one.
    pub at: usize,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Arc<[(Box<str>, Box<str>)]>,
    /// Taints.
    pub taints: Arc<[Taint]>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What it has for pods.
    pub allocatable: Resources,
    /// Features that it declares to have.
    pub features: Arc<[String]>,
    /// Images it has: name, and bytes as it says.
    pub images: Arc<[(Box<str>, i64)]>,
    /// Pods on it.
    pub pods: Vec<Arc<PodInfo>>,
    /// What they need, their number included.
    pub requested: Resources,
    /// CPU and memory they need, with defaults for those that ask for nothing.
    pub non_zero: (i64, i64),
    /// Host ports they have.
    pub ports: Vec<HostPort>,
}

impl NodeInfo {
    /// Decodes a node, without pods. The error is the JSON decoder's.
    pub fn new(object: &Object) -> Result<Self, serde_json::Error> {
        let raw::Node { spec, status } = object.decode()?;
        let taint = |t: raw::Taint| Taint { key: t.key.into(), value: t.value.into(), effect: t.effect.into() };
        let image = |i: raw::Image| i.names.into_iter().map(move |n| (n.into_boxed_str(), i.size_bytes));
        Ok(Self {
            name: object.meta.name.as_str().into(),
            labels: object.meta.labels.clone().into(),
            taints: spec.taints.into_iter().map(taint).collect(),
            unschedulable: spec.unschedulable,
            allocatable: Resources::from_list(&status.allocatable),
            features: status.declared_features.into(),
            images: status.images.into_iter().flat_map(image).collect(),
            ..Self::default()
        })
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        label(&self.labels, name)
    }

    /// Puts a pod on it.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.ports.extend_from_slice(&pod.ports);
        self.pods.push(pod);
    }

    /// Takes a pod off it; gives it back if it was there.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| *p.uid == *uid)?;
        let pod = self.pods.swap_remove(at);
        self.count(&pod, -1);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.requested.pods += sign;
        self.requested.scalar.retain(|(_, amount)| *amount != 0);
        self.non_zero.0 += sign * pod.non_zero.0;
        self.non_zero.1 += sign * pod.non_zero.1;
    }
}

/// Where a pod counts.
#[derive(Debug, Clone)]
struct Placed {
    node: Box<str>,
    /// Bound by us, but not yet seen bound.
    assumed: bool,
}

/// An image that some nodes have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Image {
    /// Bytes, as the first node said that had it; upstream takes that for all.
    pub size: i64,
    /// How many nodes have it.
    pub nodes: i64,
}

/// All nodes, and where each pod is.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    /// For each of them a number that no state of any node had before.
    versions: Vec<u64>,
    newest: u64,
    at: HashMap<Arc<str>, usize>,
    order: Order,
    /// Pods on nodes that are not there (any more, or yet).
    homeless: HashMap<Box<str>, Vec<Arc<PodInfo>>>,
    placed: HashMap<Box<str>, Placed>,
    /// What pods on nodes say about other pods.
    terms: Terms,
    /// By image name.
    images: HashMap<Box<str>, Image>,
    /// What moved lately.
    moves: Moves,
    /// The parts of the cluster that nodes are in.
    domains: domains::Kept,
    /// Counts of pods that are spread, which follow the moves.
    pub spread: Counts<spread::Kind>,
    /// Counts of pods that others want to be near to or far from, which follow the moves.
    pub affinity: Counts<affinity::Kind>,
    /// Labels of namespaces.
    namespaces: HashMap<Box<str>, Labels>,
}

impl Cluster {
    /// All nodes, in no order that means anything.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// Their indexes, in the order in which they are looked at.
    pub fn order(&self) -> &[usize] {
        self.order.list(|name| self.index(name))
    }

    /// Tells states of nodes apart: a node that has the same as before, under whatever index, has not changed. Never 0.
    pub fn version(&self, at: usize) -> u64 {
        self.versions[at]
    }

    /// The node at an index is about to have another state.
    fn changes(&mut self, at: usize) {
        self.newest += 1;
        match self.versions.get_mut(at) {
            Some(version) => *version = self.newest,
            None => self.versions.push(self.newest),
        }
    }

    /// A node is promised to others than before, which counts for those who ask for it.
    pub fn promises_changed(&mut self, name: &str) {
        if let Some(at) = self.index(name) {
            self.changes(at);
        }
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index(name).map(|i| &self.nodes[i])
    }

    /// Where a node stands among [`Self::nodes`].
    pub fn index(&self, name: &str) -> Option<usize> {
        self.at.get(name).copied()
    }

    /// The node that a pod counts on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|p| &*p.node)
    }

    /// Labels of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// A namespace as it is now; true where that says something new.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        let new = self.namespaces.get(name) != Some(&labels);
        if new {
            self.moves.all_changed();
            self.namespaces.insert(name.into(), labels);
        }
        new
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some() {
            self.moves.all_changed();
        }
    }

    /// What moved lately.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// The parts of the cluster that nodes are in, by the value of a label.
    pub fn domains(&self, key: &str) -> Arc<Domains> {
        self.domains.of(&self.nodes, self.moves.layout(), key)
    }

    /// An image by name; all zero where no node has it.
    pub fn image(&self, name: &str) -> Image {
        self.images.get(name).copied().unwrap_or_default()
    }

    /// What pods on nodes say about other pods.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// True when a pod counts on some node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// True when a pod counts only because we assume so.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|p| p.assumed)
    }

    /// True where a pod was assumed to be on `node` and is: it counts for good.
    pub fn confirm(&mut self, uid: &str, node: &str, labels: &Labels) -> bool {
        let same = self.pod(uid).is_some_and(|p| p.labels == *labels);
        let placed = self.placed.get_mut(uid).filter(|p| same && *p.node == *node);
        placed.map(|placed| placed.assumed = false).is_some()
    }

    /// A pod that counts on a node that is there.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let node = self.node(self.node_of(uid)?)?;
        // Looked up from the end: who is asked for came lately.
        node.pods.iter().rev().find(|p| *p.uid == *uid)
    }

    /// Puts a new state of a pod in the place of the one that counts on the same node. False, and nothing is done, where
    /// the pod does not count there, or takes something else than before.
    pub fn renew(&mut self, pod: &Arc<PodInfo>) -> bool {
        let Some(placed) = self.placed.get_mut(&pod.uid).filter(|p| p.node == pod.node) else { return false };
        let Some(at) = self.at.get(&*pod.node).copied() else { return false };
        let known = self.nodes[at].pods.iter_mut().find(|p| p.uid == pod.uid);
        let Some(known) = known.filter(|known| known.wants_the_same(pod)) else { return false };
        placed.assumed = false;
        let old = std::mem::replace(known, pod.clone());
        // Who has been running for longer is more important to those who look for victims.
        if old.started != pod.started {
            self.changes(at);
        }
        true
    }

    /// A node as it is now, with the pods that are already known to be on it. Gives back what stood there before, without
    /// its pods and images.
    pub fn set_node(&mut self, mut node: NodeInfo) -> Option<NodeInfo> {
        if let Some(at) = self.at.get(&node.name).copied() {
            self.changes(at);
            let images = std::mem::take(&mut self.nodes[at].images);
            self.forget_images(&images);
            self.note_images(&node.images);
            let old = &mut self.nodes[at];
            self.order.renew(old, &node);
            if (&old.labels, &old.taints) != (&node.labels, &node.taints) {
                self.moves.all_changed();
                for pod in &old.pods {
                    self.terms.note(pod, old, -1);
                    self.terms.note(pod, &node, 1);
                }
            }
            node.at = at;
            node.requested = std::mem::take(&mut old.requested);
            node.pods = std::mem::take(&mut old.pods);
            node.ports = std::mem::take(&mut old.ports);
            node.non_zero = old.non_zero;
            return Some(std::mem::replace(old, node));
        }
        self.moves.all_changed();
        self.note_images(&node.images);
        for pod in self.homeless.remove(&*node.name).unwrap_or_default() {
            self.terms.note(&pod, &node, 1);
            node.add(pod);
        }
        node.at = self.nodes.len();
        self.at.insert(node.name.clone(), node.at);
        self.changes(node.at);
        self.order.add(&node);
        self.nodes.push(node);
        None
    }

    /// A node is gone; its pods wait for it to come back. Gives back what it was, without them.
    pub fn remove_node(&mut self, name: &str) -> Option<NodeInfo> {
        let at = self.at.remove(name)?;
        self.moves.all_changed();
        let mut node = self.nodes.swap_remove(at);
        self.versions.swap_remove(at);
        if let Some(moved) = self.nodes.get_mut(at) {
            moved.at = at;
            self.at.insert(moved.name.clone(), at);
        }
        self.order.remove(&node);
        self.forget_images(&node.images);
        for pod in &node.pods {
            self.terms.note(pod, &node, -1);
        }
        let pods = std::mem::take(&mut node.pods);
        if !pods.is_empty() {
            self.homeless.insert((*node.name).into(), pods);
        }
        Some(node)
    }

    fn note_images(&mut self, images: &[(Box<str>, i64)]) {
        for (name, size) in images {
            self.images.entry(name.clone()).or_insert(Image { size: *size, nodes: 0 }).nodes += 1;
        }
    }

    fn forget_images(&mut self, images: &[(Box<str>, i64)]) {
        for (name, _) in images {
            if let Some(image) = self.images.get_mut(name) {
                image.nodes -= 1;
                if image.nodes == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// A pod counts on `node` from now on; where it counted before does not matter.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        self.displace(&pod.uid);
        self.placed.insert(pod.uid.clone(), Placed { node: node.into(), assumed });
        match self.at.get(node).copied() {
            Some(at) => {
                self.changes(at);
                self.terms.note(&pod, &self.nodes[at], 1);
                self.moves.note(&pod, at, 1);
                self.nodes[at].add(pod);
            }
            None => self.homeless.entry(node.into()).or_default().push(pod),
        }
    }

    /// A pod counts nowhere any more; gives it back if it did.
    pub fn displace(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.placed.remove(uid)?;
        if let Some(at) = self.at.get(&*placed.node).copied() {
            self.changes(at);
            let pod = self.nodes[at].remove(uid)?;
            self.moves.note(&pod, at, -1);
            self.terms.note(&pod, &self.nodes[at], -1);
            return Some(pod);
        }
        let pods = self.homeless.get_mut(&placed.node)?;
        let at = pods.iter().position(|p| *p.uid == *uid)?;
        let pod = pods.swap_remove(at);
        if pods.is_empty() {
            self.homeless.remove(&placed.node);
        }
        Some(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::pod::PodTerm;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(n: u8) -> Arc<PodInfo> {
        let key = "zone".into();
        let term = PodTerm { selector: None, namespaces: Box::default(), namespace_selector: None, key };
        Arc::new(PodInfo {
            uid: format!("p{n}").into(),
            requests: Resources {
                cpu: i64::from(n) + 1,
                scalar: vec![("x/y".into(), i64::from(n % 3))],
                ..Default::default()
            },
            non_zero: (i64::from(n), 7),
            ports: Box::new([HostPort { ip: "0.0.0.0".into(), protocol: "TCP".into(), port: i32::from(n % 4) }]),
            anti_affinity: if n % 2 == 1 { Box::new([term.clone()]) } else { Box::default() },
            affinity: if n % 3 == 1 { Box::new([term.clone()]) } else { Box::default() },
            affinity_preferred: if n % 3 == 2 { Box::new([(i64::from(n), term)]) } else { Box::default() },
            ..PodInfo::default()
        })
    }

    #[test]
    fn a_state_that_takes_the_same_only_replaces_the_other() {
        let mut cluster = Cluster::default();
        cluster.set_node(node(0, 0));
        cluster.place(pod(1), "n0", true);
        let before = cluster.moves().now();
        let on =
            |node: &str, started: &str| PodInfo { node: node.into(), started: started.into(), ..(*pod(1)).clone() };
        assert!(cluster.renew(&on("n0", "now").into()));
        assert_eq!((&*cluster.nodes[0].pods[0].started, cluster.is_assumed("p1")), ("now", false));
        let other = PodInfo { deleting: true, ..on("n0", "now") };
        assert!(!cluster.renew(&on("n1", "now").into()) && !cluster.renew(&other.into()));
        assert_eq!(cluster.moves().now(), before, "nothing moved");
    }

    fn node(n: u8, taints: u8) -> NodeInfo {
        let taints: Vec<_> = (0..taints).map(|t| json!({"key": format!("t{t}"), "effect": "NoSchedule"})).collect();
        // Its zone changes with its taints, and one state has none.
        let labels = if taints.len() == 2 { json!({}) } else { json!({"zone": format!("z{}", taints.len())}) };
        let value = json!({"metadata": {"name": format!("n{n}"), "labels": labels}, "spec": {"taints": taints},
            "status": {"images": [{"names": [format!("i{n}"), "all"], "sizeBytes": 5}]}});
        NodeInfo::new(&Object::from_value(&value, &[])).unwrap()
    }

    #[derive(Debug, Clone)]
    enum Change {
        Node(u8, u8),
        NoNode(u8),
        Place(u8, u8),
        Gone(u8),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..4u8, 0..3u8).prop_map(|(n, t)| Change::Node(n, t)),
            (0..4u8).prop_map(Change::NoNode),
            (0..8u8, 0..4u8).prop_map(|(p, n)| Change::Place(p, n)),
            (0..8u8).prop_map(Change::Gone),
        ]
    }

    fn canonical(cluster: &Cluster) -> Vec<NodeInfo> {
        let mut nodes = cluster.nodes.clone();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for node in &mut nodes {
            node.pods.sort_by(|a, b| a.uid.cmp(&b.uid));
            node.ports.sort_by_key(|p| p.port);
            // Their order depends on how they came.
            node.at = 0;
        }
        nodes
    }

    proptest! {
        #[test]
        fn changes_give_what_building_anew_gives(changes in proptest::collection::vec(change(), 0..60)) {
            let mut cluster = Cluster::default();
            let (mut nodes, mut pods) = (HashMap::new(), HashMap::new());
            for c in changes {
                match c {
                    Change::Node(n, t) => {
                        nodes.insert(n, t);
                        // Whoever asks in between sees the parts of that moment only.
                        cluster.domains("zone");
                        cluster.set_node(node(n, t));
                    }
                    Change::NoNode(n) => {
                        nodes.remove(&n);
                        cluster.remove_node(&format!("n{n}"));
                    }
                    Change::Place(p, n) => {
                        pods.insert(p, n);
                        cluster.place(pod(p), &format!("n{n}"), false);
                    }
                    Change::Gone(p) => {
                        let there = pods.remove(&p).is_some();
                        prop_assert_eq!(cluster.displace(&format!("p{p}")).is_some(), there);
                    }
                }
            }
            let mut anew = Cluster::default();
            for (p, n) in &pods {
                anew.place(pod(*p), &format!("n{n}"), false);
            }
            for (n, t) in &nodes {
                anew.set_node(node(*n, *t));
            }
            prop_assert!(cluster.nodes.iter().enumerate().all(|(at, node)| node.at == at));
            let mut order = cluster.order().to_vec();
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..cluster.nodes.len()));
            let zones = cluster.domains("zone");
            for (a, b) in cluster.nodes.iter().flat_map(|a| cluster.nodes.iter().map(move |b| (a, b))) {
                prop_assert_eq!(zones.of(a) == zones.of(b), a.label("zone") == b.label("zone"));
                prop_assert!(zones.of(a).is_none_or(|part| part < zones.count()));
            }
            prop_assert_eq!(canonical(&cluster), canonical(&anew));
            prop_assert_eq!(&cluster.images, &anew.images);
            prop_assert_eq!(&cluster.terms, &anew.terms);
            prop_assert_eq!(cluster.homeless.keys().len(), anew.homeless.keys().len());
        }
    }
}
