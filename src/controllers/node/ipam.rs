//! Which pod addresses belong to which node: one subnet of the cluster's range each.
//!
//! Rule: upstream `pkg/controller/nodeipam`, range allocator: the mask is /24 for IPv4 and /64 for IPv6.
//! **Invariant:** one worker, so two nodes never get the same subnet.
//! **Invariant:** a node keeps what it has. One that was there before its cluster became dual-stack has no subnet of IPv6, as
//! upstream has it, because a node's subnets cannot change; an event says so, and what to do.
//! **Invariant:** what is taken is read from all nodes once, and follows each node's changes from then on: a new node of a
//! large cluster does not read all the others.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{Patch, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::families::Family;

/// Gives each node a subnet of each range.
pub struct Ipam {
    ranges: Vec<IpNet>,
    /// None until the first look at all nodes.
    taken: Mutex<Option<Taken>>,
}

/// The subnets that nodes have.
#[derive(Default)]
struct Taken {
    of: HashMap<String, Vec<IpNet>>,
    /// How many nodes have each: people may give one to two.
    all: HashMap<IpNet, usize>,
    /// Nodes that were told that they have too few.
    told: HashSet<String>,
    /// For each range the number of a subnet before which all are taken: a large cluster's are not gone through for every
    /// new node.
    full: HashMap<IpNet, u128>,
}

impl Taken {
    /// A node has these now.
    fn set(&mut self, node: &str, subnets: Vec<IpNet>) {
        let before = match subnets.is_empty() {
            true => self.of.remove(node),
            false => self.of.insert(node.to_owned(), subnets.clone()),
        };
        for net in subnets {
            *self.all.entry(net).or_default() += 1;
        }
        for net in before.unwrap_or_default() {
            if let Some(count) = self.all.get_mut(&net) {
                *count -= 1;
                if *count == 0 {
                    self.all.remove(&net);
                    for (range, full) in self.full.iter_mut().filter(|(range, _)| range.contains(&net)) {
                        *full = number(range, &net).min(*full);
                    }
                }
            }
        }
    }
}

impl Ipam {
    fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges, taken: Mutex::default() }
    }

    /// The family that a node with these subnets has none of.
    fn lacking(&self, has: &[IpNet]) -> Option<Family> {
        let of = |net: &IpNet| Family::of(net.addr());
        let missing = self.ranges.iter().map(of).find(|family| !has.iter().any(|net| of(net) == *family));
        missing.filter(|_| !has.is_empty())
    }

    /// Over these ranges, one or one of each family.
    pub fn over(ranges: Vec<IpNet>) -> Box<dyn Reconciler> {
        Box::new(Self::new(ranges))
    }
}

/// How long the prefix of a range's subnets is.
fn mask(range: &IpNet) -> u8 {
    let usual = if range.addr().is_ipv4() { 24 } else { 64 };
    range.prefix_len().max(usual)
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The number of the range's subnet in which a net begins.
fn number(range: &IpNet, net: &IpNet) -> u128 {
    (bits(net.network()) - bits(range.network())) >> (range.max_prefix_len() - mask(range))
}

/// The range's subnet of a number; none behind its end.
fn subnet(range: &IpNet, number: u128) -> Option<IpNet> {
    let below = u32::from(mask(range) - range.prefix_len());
    // A range of all addresses has so many that nobody counts to their end.
    if number >> below.min(127) != 0 {
        return None;
    }
    let first = bits(range.network()) + (number << (range.max_prefix_len() - mask(range)));
    let first = match range {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(first).ok()?.into()),
        IpNet::V6(_) => IpAddr::V6(first.into()),
    };
    IpNet::new(first, mask(range)).ok()
}

/// The first subnet of `range` that nobody has.
fn free(range: &IpNet, taken: &mut Taken) -> Option<IpNet> {
    let full = taken.full.entry(*range).or_default();
    loop {
        let net = subnet(range, *full)?;
        if !taken.all.contains_key(&net) {
            return Some(net);
        }
        *full += 1;
    }
}

fn subnets(node: &Value) -> Vec<IpNet> {
    node.items_at("/spec/podCIDRs").iter().filter_map(|c| c.as_str()?.parse().ok()).collect()
}

#[async_trait]
impl Reconciler for Ipam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "cidrAllocator"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES)
    }

    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let node = cx.get(&res::NODES, key);
        let has = node.as_ref().map(|n| subnets(&n.value())).unwrap_or_default();
        let waiting = node.clone().filter(|node| has.is_empty() && !node.is_deleting());
        let (node, found): (_, Option<Vec<IpNet>>) = {
            let mut taken = self.taken.lock();
            let taken = taken.get_or_insert_with(|| {
                let mut taken = Taken::default();
                cx.lister(&res::NODES).list(None).iter().for_each(|n| taken.set(&n.meta.name, subnets(&n.value())));
                taken
            });
            let lacks = self.lacking(&has);
            taken.set(&key.name, has);
            let Some(node) = waiting else {
                // Each process says it once.
                match (node, lacks) {
                    (Some(node), Some(family)) if taken.told.insert(key.name.clone()) => {
                        let message = format!(
                            "Node {} has no pod addresses of {family}, and none can be added; drain it and delete the Node: its kubelet registers it anew, with addresses of both families",
                            key.name
                        );
                        cx.events.warning(&node, "PodCIDRMissing", message);
                    }
                    (None, _) => drop(taken.told.remove(&key.name)),
                    _ => {}
                }
                return Ok(Requeue::Never);
            };
            (node, self.ranges.iter().map(|r| free(r, taken)).collect())
        };
        let Some(found) = found.filter(|f| !f.is_empty()) else {
            cx.events.normal(&node, "CIDRNotAvailable", format!("Node {} status is now: CIDRNotAvailable", key.name));
            return Err(Error::Object {
                what: format!("pod addresses for node {key}"),
                reason: "the cluster CIDR is used up".into(),
            });
        };
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let body = json!({"spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        cx.client.patch(&res::NODES, "", &key.name, None, Patch::Merge(&body)).await?;
        if let Some(taken) = &mut *self.taken.lock() {
            taken.set(&key.name, found);
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    #[test_case("10.42.0.0/16", &[(0, "10.42.0.0/24"), (255, "10.42.255.0/24")], 256)]
    #[test_case("10.42.7.0/24", &[(0, "10.42.7.0/24")], 1)]
    #[test_case("10.42.7.128/25", &[(0, "10.42.7.128/25")], 1; "smaller than what a node gets")]
    #[test_case("0.0.0.0/0", &[(0xff_ffff, "255.255.255.0/24")], 1 << 24)]
    #[test_case("fd00::/56", &[(0, "fd00::/64"), (255, "fd00:0:0:ff::/64")], 256)]
    fn subnets_are_counted(range: &str, some: &[(u128, &str)], end: u128) {
        let range: IpNet = range.parse().unwrap();
        for (n, want) in some {
            let net: IpNet = want.parse().unwrap();
            assert_eq!((subnet(&range, *n), number(&range, &net)), (Some(net), *n));
        }
        assert_eq!(subnet(&range, end), None);
    }

    #[tokio::test]
    async fn every_node_has_its_own_and_a_gap_is_filled() {
        let cluster = Cluster::new();
        let ipam = Ipam::new(vec!["10.42.0.0/23".parse().unwrap()]);
        let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}});
        for name in ["a", "b", "c"] {
            cluster.put(node(name));
        }
        let cidr = |name: &str| cluster.get(&res::NODES, "", name).unwrap().str_at("/spec/podCIDR").map(str::to_owned);
        cluster.reconcile(&ipam, "", "a").await.unwrap();
        cluster.reconcile(&ipam, "", "b").await.unwrap();
        assert_eq!((cidr("a").as_deref(), cidr("b").as_deref()), (Some("10.42.0.0/24"), Some("10.42.1.0/24")));
        let (cx, writer) = cluster.cx_and_events();
        assert!(ipam.reconcile(&ObjectKey::new("", "c"), &cx).await.is_err(), "used up");
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let told = cluster.api.all(&res::EVENTS).remove(0);
        assert_eq!((told.str_at("/reason"), told.str_at("/type")), (Some("CIDRNotAvailable"), Some("Normal")));
        cluster.client().delete(&res::NODES, "", "a", &Default::default()).await.unwrap();
        cluster.reconcile(&ipam, "", "a").await.unwrap();
        cluster.reconcile(&ipam, "", "c").await.unwrap();
        assert_eq!(cidr("c").as_deref(), Some("10.42.0.0/24"));
        // Another process finds what is taken, and a subnet that two have is free when both have gone.
        let (again, mut twin) = (Ipam::new(ipam.ranges.clone()), node("twin"));
        twin["spec"]["podCIDRs"] = json!(["10.42.1.0/24"]);
        cluster.put(twin);
        cluster.put(node("d"));
        assert!(cluster.reconcile(&again, "", "d").await.is_err(), "used up");
        for gone in ["b", "twin"] {
            assert!(cluster.reconcile(&again, "", "d").await.is_err(), "somebody has it");
            cluster.client().delete(&res::NODES, "", gone, &Default::default()).await.unwrap();
            cluster.reconcile(&again, "", gone).await.unwrap();
        }
        cluster.reconcile(&again, "", "d").await.unwrap();
        assert_eq!(cidr("d").as_deref(), Some("10.42.1.0/24"));
    }

    #[tokio::test]
    async fn a_node_gets_a_subnet_of_each_range_and_keeps_what_it_had() {
        let cluster = Cluster::new();
        let ipam = Ipam::new(vec!["10.42.0.0/16".parse().unwrap(), "fd42::/56".parse().unwrap()]);
        let node = |name: &str, cidrs: &[&str]| {
            let spec = if cidrs.is_empty() { json!({}) } else { json!({"podCIDR": cidrs[0], "podCIDRs": cidrs}) };
            cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}));
        };
        node("elder", &["10.42.0.0/24"]);
        node("new", &[]);
        for name in ["elder", "elder", "new"] {
            cluster.reconcile(&ipam, "", name).await.unwrap();
        }
        let spec = |name: &str| cluster.get(&res::NODES, "", name).unwrap()["spec"].clone();
        assert_eq!(spec("new"), json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd42::/64"]}));
        assert_eq!(spec("elder")["podCIDRs"], json!(["10.42.0.0/24"]));
        assert_eq!(ipam.taken.lock().as_ref().unwrap().told, HashSet::from(["elder".to_owned()]));
    }
}
