//! Addresses and ports that belong to one Service each.
//!
//! What is taken is what the Services in the watch cache have, and what writes in flight hold. A write holds what it took
//! until the watch cache shows it, so two of them never get the same. Addresses come from the server's own range and, beside
//! it, from each ServiceCIDR that is ready; an IPAddress that somebody made is taken, too.
//!
//! Rules: upstream `pkg/registry/core/service/{ipallocator,portallocator}`: the lower band of each range is left to those
//! who ask for a certain address or port, as long as the upper one has room.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde_json::Value;

use crate::api::object::Object;
use crate::api::services::{IP_ALLOCATOR, IP_MANAGED_BY_LABEL};
use crate::api::value::ValueExt;

use super::strategy::View;

const NETWORKING: &str = "networking.k8s.io";

/// Ranges of a cluster; clones share what is held.
#[derive(Clone)]
pub struct Allocators {
    /// Addresses of Services.
    pub(super) addresses: Pool,
    /// Ports that every node opens.
    pub(super) ports: Pool,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// Ports of a Service at a revision, so that it is parsed once.
struct Known {
    revision: u64,
    ports: Box<[u32]>,
}

impl Default for Allocators {
    /// 10.43.0.0/16 and 30000-32767.
    fn default() -> Self {
        Self::new((Ipv4Addr::new(10, 43, 0, 0), 16), 30000..=32767)
    }
}

impl Allocators {
    /// Over a network in prefix notation (its own and its broadcast address are left out) and a range of ports.
    pub fn new(network: (Ipv4Addr, u8), ports: RangeInclusive<u16>) -> Self {
        let net = Ipv4Net::new_assert(network.0, network.1.clamp(1, 30));
        Self {
            addresses: Pool::of_network(net).expect("a network of so few bits has addresses"),
            ports: Pool::new(
                u32::from(*ports.start())..=u32::from(*ports.end()),
                ((u32::from(ports.end() - ports.start()) + 1) / 32).clamp(16, 128),
            ),
            known: Arc::default(),
        }
    }

    /// What the Services but one have: addresses and ports.
    pub(super) fn taken(&self, view: &dyn View, but: &str) -> (HashSet<u32>, HashSet<u32>) {
        let services = view.list("", "services", None);
        let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
        let mut known = self.known.lock();
        if known.len() > 2 * services.len() + 16 {
            known.clear();
        }
        for service in services.iter().filter(|s| s.meta.uid != but) {
            // The first selectable field is `spec.clusterIP`.
            if let Some(ip) = service.fields.first().and_then(|f| f.parse::<Ipv4Addr>().ok()) {
                addresses.insert(u32::from(ip));
            }
            let entry = known.get(&service.meta.uid).filter(|k| k.revision == service.revision);
            match entry {
                Some(entry) => ports.extend(&entry.ports),
                None => {
                    let made = Known { revision: service.revision, ports: node_ports(service) };
                    ports.extend(&made.ports);
                    known.insert(service.meta.uid.clone(), made);
                }
            }
        }
        drop(known);
        // Those of Services follow the Services; the others are somebody's own.
        for ip in view
            .list(NETWORKING, "ipaddresses", None)
            .iter()
            .filter(|i| i.meta.label(IP_MANAGED_BY_LABEL) != Some(IP_ALLOCATOR))
        {
            addresses.extend(ip.meta.name.parse::<Ipv4Addr>().map(u32::from));
        }
        (addresses, ports)
    }

    /// A certain address, of whichever range has it.
    pub(super) fn take_address(&self, view: &dyn View, number: u32, taken: &HashSet<u32>) -> Result<Hold, Refused> {
        match self.addresses.take(number, taken) {
            Err(Refused::OutOfRange) => {
                let mut more = self.more(view);
                more.find(|pool| pool.range.contains(&number))
                    .map_or(Err(Refused::OutOfRange), |p| p.take(number, taken))
            }
            got => got,
        }
    }

    /// Any address: of the server's own range, and of the others where that is full.
    pub(super) fn take_any_address(&self, view: &dyn View, taken: &HashSet<u32>) -> Result<Hold, Refused> {
        let own = self.addresses.take_any(taken);
        own.or_else(|full| self.more(view).find_map(|pool| pool.take_any(taken).ok()).ok_or(full))
    }

    /// The ranges of ServiceCIDRs that are ready; the server's own is among them.
    fn more(&self, view: &dyn View) -> impl Iterator<Item = Pool> {
        let held = self.addresses.held.clone();
        let all = view.list(NETWORKING, "servicecidrs", None).into_iter().filter(|c| !c.is_deleting());
        all.map(|c| c.value()).filter(is_ready).flat_map(move |cidr| {
            let nets: Vec<Ipv4Net> =
                cidr.items_at("/spec/cidrs").iter().filter_map(|c| c.as_str()?.parse().ok()).collect();
            let held = held.clone();
            nets.into_iter().filter_map(move |net| Some(Pool { held: held.clone(), ..Pool::of_network(net)? }))
        })
    }
}

fn is_ready(cidr: &Value) -> bool {
    cidr.items_at("/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn node_ports(service: &Object) -> Box<[u32]> {
    // The second selectable field is `spec.type`.
    if service.fields.get(1).is_some_and(|t| &**t == "ClusterIP" || &**t == "ExternalName") {
        return Box::default();
    }
    let value = service.value();
    let listed = value.items_at("/spec/ports").iter().filter_map(|p| p.int_at("/nodePort"));
    listed.chain(value.int_at("/spec/healthCheckNodePort")).filter_map(|n| u32::try_from(n).ok()).collect()
}

/// Why a certain number cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Not in the range.
    #[error("the provided value is not in the range")]
    OutOfRange,
    /// Another one has it.
    #[error("the provided value is already allocated")]
    Taken,
    /// There is none left.
    #[error("range is full")]
    Full,
}

/// Numbers of a range, some of them held by writes in flight.
#[derive(Clone)]
pub(super) struct Pool {
    range: RangeInclusive<u32>,
    /// How many from the start are left to those who ask for a certain one.
    lower: u32,
    held: Arc<Mutex<HashSet<u32>>>,
}

impl Pool {
    fn new(range: RangeInclusive<u32>, lower: u32) -> Self {
        let size = range.end() - range.start();
        Self { range, lower: lower.min(size), held: Arc::default() }
    }

    /// Addresses of a network but its own and its broadcast address; none where nothing is left.
    fn of_network(net: Ipv4Net) -> Option<Self> {
        let (first, last) = (u32::from(net.network()).checked_add(1)?, u32::from(net.broadcast()).checked_sub(1)?);
        let size = 1u64 << (32 - net.prefix_len());
        (first <= last).then(|| Self::new(first..=last, (size / 16).clamp(16, 256) as u32))
    }

    /// The range.
    pub(super) fn range(&self) -> &RangeInclusive<u32> {
        &self.range
    }

    /// A certain number.
    pub(super) fn take(&self, number: u32, taken: &HashSet<u32>) -> Result<Hold, Refused> {
        if !self.range.contains(&number) {
            return Err(Refused::OutOfRange);
        }
        let mut held = self.held.lock();
        if taken.contains(&number) || !held.insert(number) {
            return Err(Refused::Taken);
        }
        Ok(Hold { number, held: self.held.clone() })
    }

    /// Any number: from a random place upwards, the upper band first.
    pub(super) fn take_any(&self, taken: &HashSet<u32>) -> Result<Hold, Refused> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let middle = first + self.lower;
        let mut held = self.held.lock();
        for (from, to) in [(middle, last), (first, middle.saturating_sub(1))] {
            if from > to {
                continue;
            }
            let start = rand::random_range(from..=to);
            let free = (start..=to).chain(from..start).find(|n| !taken.contains(n) && !held.contains(n));
            if let Some(number) = free {
                held.insert(number);
                return Ok(Hold { number, held: self.held.clone() });
            }
        }
        Err(Refused::Full)
    }
}

/// A number that nobody else gets while this is there.
pub(super) struct Hold {
    /// The number.
    pub(super) number: u32,
    held: Arc<Mutex<HashSet<u32>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(10..=13, 2)
    }

    #[test]
    fn a_held_number_is_not_given_twice() {
        let pool = pool();
        let none = HashSet::new();
        let hold = pool.take(11, &none).unwrap();
        assert_eq!(pool.take(11, &none).err(), Some(Refused::Taken));
        drop(hold);
        assert!(pool.take(11, &none).is_ok());
        assert_eq!(pool.take(14, &none).err(), Some(Refused::OutOfRange));
    }

    #[test]
    fn the_upper_band_goes_first_and_all_of_it_can_be_had() {
        let pool = pool();
        let none = HashSet::new();
        let holds: Vec<Hold> = (0..4).map(|_| pool.take_any(&none).unwrap()).collect();
        let mut first: Vec<u32> = holds[..2].iter().map(|h| h.number).collect();
        first.sort_unstable();
        assert_eq!(first, [12, 13]);
        assert_eq!(pool.take_any(&none).err(), Some(Refused::Full));
        drop(holds);
        assert_eq!(pool.take_any(&HashSet::from([10, 12, 13])).map(|h| h.number), Ok(11));
    }

    #[test]
    fn networks_leave_their_ends_out() {
        let a = Allocators::default();
        let range = a.addresses.range();
        assert_eq!(Ipv4Addr::from(*range.start()), Ipv4Addr::new(10, 43, 0, 1));
        assert_eq!(Ipv4Addr::from(*range.end()), Ipv4Addr::new(10, 43, 255, 254));
    }

    struct Stored(Vec<(&'static str, Arc<Object>)>);

    impl View for Stored {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
            None
        }
        fn list(&self, _: &str, resource: &str, _: Option<&str>) -> Vec<Arc<Object>> {
            self.0.iter().filter(|(r, _)| *r == resource).map(|(_, o)| o.clone()).collect()
        }
    }

    fn stored(all: &[(&'static str, Value)]) -> Stored {
        Stored(all.iter().map(|(r, o)| (*r, Arc::new(Object::from_value(o, &["/spec/clusterIP"])))).collect())
    }

    fn number(ip: &str) -> u32 {
        u32::from(ip.parse::<Ipv4Addr>().unwrap())
    }

    #[test]
    fn more_ranges_give_addresses_when_they_are_ready() {
        let a = Allocators::new((Ipv4Addr::new(10, 9, 0, 0), 30), 30000..=30100);
        let cidr = |status: &str, more: Value| {
            let mut cidr = serde_json::json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "more"},
                "spec": {"cidrs": ["10.8.0.0/30", "fd00::/112"]}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
            json_patch::merge(&mut cidr, &more);
            stored(&[("servicecidrs", cidr)])
        };
        let none = HashSet::new();
        let asked = number("10.8.0.1");
        let of = |view: &Stored| a.take_address(view, asked, &none).map(|h| h.number);
        assert_eq!(of(&cidr("False", serde_json::json!({}))), Err(Refused::OutOfRange));
        let dying = serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(of(&cidr("True", dying)), Err(Refused::OutOfRange));
        let ready = cidr("True", serde_json::json!({}));
        assert_eq!(of(&ready), Ok(asked));
        // Four addresses in all; a write in flight holds each.
        let all: Vec<Hold> = (0..4).map(|_| a.take_any_address(&ready, &none).unwrap()).collect();
        assert_eq!(a.take_any_address(&ready, &none).err(), Some(Refused::Full));
        let mut numbers: Vec<u32> = all.iter().map(|h| h.number).collect();
        assert!(numbers[..2].iter().all(|n| *n > number("10.9.0.0")), "the server's own go first");
        numbers.sort_unstable();
        assert_eq!(numbers, ["10.8.0.1", "10.8.0.2", "10.9.0.1", "10.9.0.2"].map(number));
        assert_eq!(of(&ready), Err(Refused::Taken));
    }

    #[test]
    fn an_address_that_somebody_made_is_taken() {
        let a = Allocators::default();
        let ip = |name: &str, labels: Value| {
            let meta = serde_json::json!({"name": name, "labels": labels});
            (
                "ipaddresses",
                serde_json::json!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1", "metadata": meta}),
            )
        };
        let ours = serde_json::json!({IP_MANAGED_BY_LABEL: IP_ALLOCATOR});
        let view = stored(&[ip("10.43.0.77", serde_json::json!({})), ip("10.43.0.78", ours)]);
        let (taken, _) = a.taken(&view, "");
        assert_eq!(taken, HashSet::from([number("10.43.0.77")]), "what a Service had goes with it");
    }
}
