//! The order in which nodes are looked at: zones by turns, so that any part of a large cluster has nodes of all zones.
//!
//! In: nodes that come, go, or are in another zone. Out: their indexes in that order, made anew when somebody asks after a
//! change.
//! Upstream: `scheduler/backend/cache/node_tree`.
//! **Invariant:** each node is in it once, and those of a zone stand as they came.

use std::sync::{Arc, OnceLock};

use super::cluster::NodeInfo;

/// See the module.
#[derive(Debug, Default)]
pub struct Order {
    zones: Vec<Zone>,
    list: OnceLock<Box<[usize]>>,
}

#[derive(Debug)]
struct Zone {
    key: (Box<str>, Box<str>),
    nodes: Vec<Arc<str>>,
}

impl Order {
    /// A node is new.
    pub fn add(&mut self, node: &NodeInfo) {
        self.list = OnceLock::new();
        let key = key(node);
        match self.zones.iter_mut().find(|zone| is_of(&zone.key, key)) {
            Some(zone) => zone.nodes.push(node.name.clone()),
            None => {
                let key = (key.0.into(), key.1.into());
                self.zones.push(Zone { key, nodes: vec![node.name.clone()] });
            }
        }
    }

    /// A node is gone, so others may have other indexes.
    pub fn remove(&mut self, node: &NodeInfo) {
        self.list = OnceLock::new();
        let key = key(node);
        let Some(at) = self.zones.iter().position(|zone| is_of(&zone.key, key)) else { return };
        let nodes = &mut self.zones[at].nodes;
        nodes.retain(|name| *name != node.name);
        if nodes.is_empty() {
            self.zones.remove(at);
        }
    }

    /// A node has another state.
    pub fn renew(&mut self, old: &NodeInfo, new: &NodeInfo) {
        if key(old) != key(new) {
            self.remove(old);
            self.add(new);
        }
    }

    /// Indexes of all nodes. `index` tells that of a name.
    pub fn list(&self, index: impl Fn(&str) -> Option<usize>) -> &[usize] {
        self.list.get_or_init(|| {
            let most = self.zones.iter().map(|zone| zone.nodes.len()).max().unwrap_or(0);
            let turn = |i: usize| self.zones.iter().filter_map(move |zone| zone.nodes.get(i));
            (0..most).flat_map(turn).filter_map(|name| index(name)).collect()
        })
    }
}

/// Region and zone. Upstream: `component-helpers/node/topology` (`GetZoneKey`).
fn key(node: &NodeInfo) -> (&str, &str) {
    let of = |old: &str, new: &str| node.label(old).or_else(|| node.label(new)).unwrap_or_default();
    (
        of("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        of("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    )
}

fn is_of(zone: &(Box<str>, Box<str>), key: (&str, &str)) -> bool {
    (&*zone.0, &*zone.1) == key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cluster::Cluster;
    use super::*;
    use crate::api::object::Object;

    fn node(name: &str, zone: &str) -> NodeInfo {
        let value = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
        NodeInfo::new(&Object::from_value(&value, &[])).unwrap()
    }

    fn names(cluster: &Cluster) -> String {
        cluster.order().iter().map(|at| &*cluster.nodes()[*at].name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn zones_take_turns() {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")] {
            cluster.set_node(node(name, zone));
        }
        assert_eq!(names(&cluster), "a1 b1 c1 a2 b2 a3");
        cluster.remove_node("a1");
        assert_eq!(names(&cluster), "a2 b1 c1 a3 b2", "who is left stands as before");
        cluster.set_node(node("c1", "b"));
        assert_eq!(names(&cluster), "a2 b1 a3 b2 c1", "into another zone");
        cluster.set_node(node("c2", "c"));
        cluster.set_node(node("a2", "a"));
        assert_eq!(names(&cluster), "a2 b1 c2 a3 b2 c1", "a state of the same zone moves nobody");
    }
}
