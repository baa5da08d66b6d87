//! Which pod addresses belong to which node: one subnet of the cluster's range each.
//!
//! Rule: upstream `pkg/controller/nodeipam`, range allocator: the mask is /24 for IPv4 and /64 for IPv6.
//! **Invariant:** one worker, so two nodes never get the same subnet.

use std::collections::HashSet;

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{Patch, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Gives each node a subnet of each range.
pub struct Ipam {
    ranges: Vec<IpNet>,
}

impl Ipam {
    /// Over these ranges, one or one of each family.
    pub fn over(ranges: Vec<IpNet>) -> Box<dyn Reconciler> {
        Box::new(Self { ranges })
    }
}

/// The first subnet of `range` that nobody has.
fn free(range: &IpNet, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let mask: u8 = if range.addr().is_ipv4() { 24 } else { 64 };
    range.subnets(mask.max(range.prefix_len())).ok()?.find(|net| !taken.contains(net))
}

fn subnets(node: &Value) -> Vec<IpNet> {
    node.items_at("/spec/podCIDRs").iter().filter_map(|c| c.as_str()?.parse().ok()).collect()
}

#[async_trait]
impl Reconciler for Ipam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES)
    }

    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(node) = cx.get(&res::NODES, key) else { return Ok(Requeue::Never) };
        if !subnets(&node.value()).is_empty() || node.is_deleting() {
            return Ok(Requeue::Never);
        }
        let all = cx.lister(&res::NODES).list(None);
        let taken: HashSet<IpNet> = all.iter().flat_map(|n| subnets(&n.value())).collect();
        let found: Option<Vec<IpNet>> = self.ranges.iter().map(|r| free(r, &taken)).collect();
        let Some(found) = found.filter(|f| !f.is_empty()) else {
            cx.events.warning(&node, "CIDRNotAvailable", format!("Node {} status is now: CIDRNotAvailable", key.name));
            return Err(Error::Object {
                what: format!("pod addresses for node {key}"),
                reason: "the cluster CIDR is used up".into(),
            });
        };
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let body = json!({"spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        cx.client.patch(&res::NODES, "", &key.name, None, Patch::Merge(&body)).await?;
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn every_node_has_its_own_and_a_gap_is_filled() {
        let cluster = Cluster::new();
        let ipam = Ipam { ranges: vec!["10.42.0.0/23".parse().unwrap()] };
        let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}});
        for name in ["a", "b", "c"] {
            cluster.put(node(name));
        }
        let cidr = |name: &str| cluster.get(&res::NODES, "", name).unwrap().str_at("/spec/podCIDR").map(str::to_owned);
        cluster.reconcile(&ipam, "", "a").await.unwrap();
        cluster.reconcile(&ipam, "", "b").await.unwrap();
        assert_eq!((cidr("a").as_deref(), cidr("b").as_deref()), (Some("10.42.0.0/24"), Some("10.42.1.0/24")));
        assert!(cluster.reconcile(&ipam, "", "c").await.is_err(), "used up");
        cluster.client().delete(&res::NODES, "", "a", &Default::default()).await.unwrap();
        cluster.reconcile(&ipam, "", "c").await.unwrap();
        assert_eq!(cidr("c").as_deref(), Some("10.42.0.0/24"));
    }
}
