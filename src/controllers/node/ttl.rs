//! How long a node's kubelet may keep what it read of ConfigMaps and Secrets: the more nodes there are, the longer.
//!
//! The node's annotation tells it. Rule: upstream `pkg/controller/ttl`.
//! **Invariant:** sizes overlap, so that a cluster of a size around a boundary does not write all of its nodes again and again.

use std::collections::HashSet;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use crate::api::object::ObjectKey;
use crate::client::{Patch, optional, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Upstream's `v1.ObjectTTLAnnotationKey`.
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const POINTER: &str = "/metadata/annotations/node.alpha.kubernetes.io~1ttl";
/// Nodes, at least and at most, and the seconds that are then told.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for so many nodes, from the one that was right before.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// The nodes there are, and the step that this makes.
#[derive(Default)]
struct Size {
    nodes: HashSet<String>,
    step: usize,
}

#[derive(Default)]
struct Ttl(Mutex<Size>);

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Ttl::default())
}

#[async_trait]
impl Reconciler for Ttl {
    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let node = cx.get(&res::NODES, key);
        let seconds = {
            let mut size = self.0.lock();
            if size.nodes.is_empty() {
                // After a start all of them are there before the first one is looked at.
                size.nodes.extend(cx.lister(&res::NODES).list(None).iter().map(|n| n.meta.name.clone()));
            }
            match &node {
                Some(_) => size.nodes.insert(key.name.clone()),
                None => size.nodes.remove(&key.name),
            };
            size.step = step(size.step, size.nodes.len());
            STEPS[size.step].2
        };
        let Some(node) = node else { return Ok(Requeue::Never) };
        if node.text_at(POINTER).parse::<u32>() != Ok(seconds) {
            let body = json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}});
            optional(cx.client.patch(&res::NODES, "", &key.name, None, Patch::Merge(&body)).await)?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    #[test_case(0, 100, 0)]
    #[test_case(0, 101, 15)]
    #[test_case(1, 90, 15; "sizes overlap")]
    #[test_case(1, 89, 0)]
    #[test_case(0, 5000, 300; "all at one time")]
    #[test_case(4, 0, 0; "and away again")]
    fn seconds_follow_size(before: usize, nodes: usize, want: u32) {
        assert_eq!(STEPS[step(before, nodes)].2, want);
    }

    #[tokio::test]
    async fn a_node_is_told_once_and_again_when_there_are_many() {
        let cluster = Cluster::new();
        let put =
            |n: usize| cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}")}}));
        let told = || {
            let node = cluster.get(&res::NODES, "", "n0").unwrap();
            node["metadata"]["annotations"][ANNOTATION].clone()
        };
        put(0);
        let controller = Ttl::default();
        cluster.reconcile(&controller, "", "n0").await.unwrap();
        assert_eq!(told(), "0");
        cluster.api.take_log();
        cluster.reconcile(&controller, "", "n0").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
        (1..=100).for_each(|n| drop(put(n)));
        for n in 1..=100 {
            cluster.reconcile(&controller, "", &format!("n{n}")).await.unwrap();
        }
        assert_eq!(told(), "0", "at its next change");
        cluster.reconcile(&controller, "", "n0").await.unwrap();
        assert_eq!(told(), "15");
    }
}
