//! Addresses and ports that belong to one Service each.
//!
//! What is taken is what the Services in the watch cache have, and what writes in flight hold. A write holds what it took
//! until the watch cache shows it, so two of them never get the same. Addresses of a family come from the server's own range
//! and, beside it, from each ServiceCIDR that is ready; an IPAddress that somebody made is taken, too.
//!
//! **Invariant:** pools of both families share what is held: no number is an address of both.
//!
//! Rules: upstream `pkg/registry/core/service/{ipallocator,portallocator}`: the lower band of each range is left to those
//! who ask for a certain address or port, as long as the upper one has room.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use serde_json::Value;

use crate::api::object::Object;
use crate::api::services::{IP_ALLOCATOR, IP_MANAGED_BY_LABEL};
use crate::api::value::ValueExt;
use crate::util::families::{Family, Networks};

use super::strategy::View;

const NETWORKING: &str = "networking.k8s.io";

/// Ranges of a cluster; clones share what is held.
#[derive(Clone)]
pub struct Allocators {
    /// Addresses of Services, of IPv4.
    v4: Pool,
    /// Of IPv6, where the cluster has both families.
    v6: Option<Pool>,
    /// Ports that every node opens.
    pub(super) ports: Pool,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// What a Service has at a revision, so that it is parsed once.
struct Known {
    revision: u64,
    ports: Box<[u16]>,
    /// The second one of its addresses.
    second: Option<Box<Number>>,
}

impl Default for Allocators {
    /// 10.43.0.0/16 and 30000-32767.
    fn default() -> Self {
        let net = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);
        Self::new(net.into(), 30000..=32767)
    }
}

impl Allocators {
    /// Over the networks of Services (what is nobody's of each is left out) and a range of ports.
    pub fn new(networks: Networks, ports: RangeInclusive<u16>) -> Self {
        let v4 = Ipv4Net::new_assert(networks.v4.network(), networks.v4.prefix_len().clamp(1, 30));
        let v4 = Pool::of_network(v4.into()).expect("a network of so few bits has addresses");
        let v6 = networks.v6.and_then(|net| Pool::of_network(net.into()));
        Self {
            v6: v6.map(|pool| pool.beside(&v4)),
            v4,
            ports: Pool::new(
                Number::from(*ports.start())..=Number::from(*ports.end()),
                ((u32::from(ports.end() - ports.start()) + 1) / 32).clamp(16, 128),
            ),
            known: Arc::default(),
        }
    }

    /// Addresses of a family; none where the cluster does not have it.
    fn addresses(&self, family: Family) -> Option<&Pool> {
        match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// True when Services may have addresses of a family.
    pub(super) fn has(&self, family: Family) -> bool {
        self.addresses(family).is_some()
    }

    /// What the Services but one have: addresses and ports.
    pub(super) fn taken(&self, view: &dyn View, but: &str) -> (HashSet<Number>, HashSet<Number>) {
        let services = view.list("", "services", None);
        let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
        let mut known = self.known.lock();
        if known.len() > 2 * services.len() + 16 {
            known.clear();
        }
        for service in services.iter().filter(|s| s.meta.uid != but) {
            // The first selectable field is `spec.clusterIP`.
            let first: Option<IpAddr> = service.fields.first().and_then(|f| f.parse().ok());
            addresses.extend(first.map(number));
            if known.get(&service.meta.uid).is_none_or(|k| k.revision != service.revision) {
                // Without an address of IPv6 there is no second one.
                let two = first.is_some_and(|ip| self.v6.is_some() || ip.is_ipv6());
                let second = two.then(|| second_address(service)).flatten().map(Box::new);
                let made = Known { revision: service.revision, ports: node_ports(service), second };
                known.insert(service.meta.uid.clone(), made);
            }
            if let Some(has) = known.get(&service.meta.uid) {
                ports.extend(has.ports.iter().map(|p| Number::from(*p)));
                addresses.extend(has.second.as_deref());
            }
        }
        drop(known);
        // Those of Services follow the Services; the others are somebody's own.
        for ip in view
            .list(NETWORKING, "ipaddresses", None)
            .iter()
            .filter(|i| i.meta.label(IP_MANAGED_BY_LABEL) != Some(IP_ALLOCATOR))
        {
            addresses.extend(ip.meta.name.parse::<IpAddr>().map(number));
        }
        (addresses, ports)
    }

    /// A certain address, of whichever range has it.
    pub(super) fn take_address(&self, view: &dyn View, ip: IpAddr, taken: &HashSet<Number>) -> Result<Hold, Refused> {
        let (family, number) = (Family::of(ip), number(ip));
        let own = self.addresses(family).ok_or(Refused::OutOfRange)?;
        match own.take(number, taken) {
            Err(Refused::OutOfRange) => {
                let mut more = self.more(view, family);
                more.find(|pool| pool.range.contains(&number))
                    .map_or(Err(Refused::OutOfRange), |p| p.take(number, taken))
            }
            got => got,
        }
    }

    /// Any address of a family: of the server's own range, and of the others where that is full.
    pub(super) fn take_any_address(
        &self,
        view: &dyn View,
        family: Family,
        taken: &HashSet<Number>,
    ) -> Result<Hold, Refused> {
        let own = self.addresses(family).ok_or(Refused::OutOfRange)?.take_any(taken);
        own.or_else(|full| self.more(view, family).find_map(|pool| pool.take_any(taken).ok()).ok_or(full))
    }

    /// The ranges of ServiceCIDRs that are ready; the server's own is among them.
    fn more(&self, view: &dyn View, family: Family) -> impl Iterator<Item = Pool> {
        let own = self.v4.clone();
        let all = view.list(NETWORKING, "servicecidrs", None).into_iter().filter(|c| !c.is_deleting());
        all.map(|c| c.value()).filter(is_ready).flat_map(move |cidr| {
            let nets = cidr.items_at("/spec/cidrs").iter().filter_map(|c| c.as_str()?.parse::<IpNet>().ok());
            let nets = nets.filter(|net| Family::of(net.addr()) == family);
            nets.filter_map(|net| Some(Pool::of_network(net)?.beside(&own))).collect::<Vec<_>>()
        })
    }
}

/// What pools are made of: an address or a port.
pub(super) type Number = u128;

/// The number of an address. One of IPv4 has that of the address of IPv6 that stands for it.
fn number(ip: IpAddr) -> Number {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn second_address(service: &Object) -> Option<Number> {
    let ip = service.only(&["spec", "clusterIPs"]).str_at("/spec/clusterIPs/1")?.parse().ok()?;
    Some(number(ip))
}

fn is_ready(cidr: &Value) -> bool {
    cidr.items_at("/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn node_ports(service: &Object) -> Box<[u16]> {
    // The second selectable field is `spec.type`.
    if service.fields.get(1).is_some_and(|t| &**t == "ClusterIP" || &**t == "ExternalName") {
        return Box::default();
    }
    let value = service.value();
    let listed = value.items_at("/spec/ports").iter().filter_map(|p| p.int_at("/nodePort"));
    listed.chain(value.int_at("/spec/healthCheckNodePort")).filter_map(|n| u16::try_from(n).ok()).collect()
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
    range: RangeInclusive<Number>,
    /// How many from the start are left to those who ask for a certain one.
    lower: Number,
    held: Arc<Mutex<HashSet<Number>>>,
}

impl Pool {
    fn new(range: RangeInclusive<Number>, lower: u32) -> Self {
        let size = range.end() - range.start();
        Self { range, lower: Number::from(lower).min(size), held: Arc::default() }
    }

    /// Addresses of a network but its own and, of IPv4, its broadcast address; none where nothing is left.
    fn of_network(net: IpNet) -> Option<Self> {
        let first = number(net.network()).checked_add(1)?;
        let last = number(net.broadcast()) - Number::from(net.addr().is_ipv4());
        let size = 1u128 << (net.max_prefix_len() - net.prefix_len()).min(32);
        (first <= last).then(|| Self::new(first..=last, (size / 16).clamp(16, 256) as u32))
    }

    /// The same; what another one's writes hold, its writes hold, too.
    fn beside(self, other: &Self) -> Self {
        Self { held: other.held.clone(), ..self }
    }

    /// The range.
    pub(super) fn range(&self) -> &RangeInclusive<Number> {
        &self.range
    }

    /// A certain number.
    pub(super) fn take(&self, number: Number, taken: &HashSet<Number>) -> Result<Hold, Refused> {
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
    pub(super) fn take_any(&self, taken: &HashSet<Number>) -> Result<Hold, Refused> {
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
    number: Number,
    held: Arc<Mutex<HashSet<Number>>>,
}

impl Hold {
    /// What an address's pool gave.
    pub(super) fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.number).to_canonical()
    }

    /// What a port's pool gave.
    pub(super) fn port(&self) -> u16 {
        self.number as u16
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

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
        let mut first: Vec<Number> = holds[..2].iter().map(|h| h.number).collect();
        first.sort_unstable();
        assert_eq!(first, [12, 13]);
        assert_eq!(pool.take_any(&none).err(), Some(Refused::Full));
        drop(holds);
        assert_eq!(pool.take_any(&HashSet::from([10, 12, 13])).map(|h| h.number), Ok(11));
    }

    #[test]
    fn networks_leave_their_ends_out() {
        let a = Allocators::default();
        assert_eq!(*a.v4.range(), number("10.43.0.1")..=number("10.43.255.254"));
    }

    #[test_case("10.0.0.0/30", Some(("10.0.0.1", "10.0.0.2")))]
    #[test_case("10.0.0.0/31", None)]
    #[test_case("0.0.0.0/0", Some(("0.0.0.1", "255.255.255.254")))]
    #[test_case("fd00::/112", Some(("fd00::1", "fd00::ffff")); "the last one of IPv6 is as good as any")]
    #[test_case("fd00::/127", Some(("fd00::1", "fd00::1")))]
    #[test_case("fd00::/128", None)]
    #[test_case("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", None; "behind which there is none")]
    #[test_case("fd00::/8", Some(("fd00::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")))]
    fn addresses_of_networks(net: &str, want: Option<(&str, &str)>) {
        let got = Pool::of_network(net.parse().unwrap());
        assert_eq!(got.map(|p| p.range), want.map(|(first, last)| number(first)..=number(last)));
    }

    #[test]
    fn each_family_has_its_own_addresses() {
        let a = Allocators::new("10.9.0.0/30,fd09::/126".parse().unwrap(), 30000..=30100);
        let (view, none) = (stored(&[]), HashSet::new());
        let all: Vec<Hold> = (0..3).map(|_| a.take_any_address(&view, Family::V6, &none).unwrap()).collect();
        assert_eq!(a.take_any_address(&view, Family::V6, &none).err(), Some(Refused::Full));
        let mut addresses: Vec<String> = all.iter().map(|h| h.address().to_string()).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, ["fd09::1", "fd09::2", "fd09::3"]);
        assert!(a.take_any_address(&view, Family::V4, &none).unwrap().address().is_ipv4());
        let of = |ip: &str| a.take_address(&view, ip.parse().unwrap(), &none).map(|h| h.address().to_string());
        assert_eq!(of("fd09::2"), Err(Refused::Taken));
        drop(all);
        assert_eq!((of("fd09::2"), of("fd08::2")), (Ok("fd09::2".to_owned()), Err(Refused::OutOfRange)));
        let single = Allocators::default();
        assert!(a.has(Family::V6) && !single.has(Family::V6) && single.has(Family::V4));
        let of = single.take_address(&view, "fd09::2".parse().unwrap(), &none).map(|h| h.number);
        assert_eq!(of, Err(Refused::OutOfRange));
    }

    #[test]
    fn both_addresses_of_a_service_are_taken() {
        let service = |uid: &str, ips: [&str; 2]| {
            let meta = serde_json::json!({"name": uid, "uid": uid});
            (
                "services",
                serde_json::json!({"kind": "Service", "apiVersion": "v1", "metadata": meta,
                "spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips}}),
            )
        };
        let view = stored(&[service("a", ["10.9.0.1", "fd09::1"]), service("b", ["fd09::2", "10.9.0.2"])]);
        let dual = Allocators::new("10.9.0.0/24,fd09::/112".parse().unwrap(), 30000..=30100);
        for _ in 0..2 {
            let (taken, _) = dual.taken(&view, "");
            assert_eq!(taken, ["10.9.0.1", "fd09::1", "fd09::2", "10.9.0.2"].map(number).into());
        }
        assert_eq!(dual.taken(&view, "a").0, ["fd09::2", "10.9.0.2"].map(number).into());
        // A cluster that had both families does not give the address again that a Service has as its second one.
        assert!(Allocators::default().taken(&view, "").0.contains(&number("10.9.0.2")));
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

    fn number(ip: &str) -> Number {
        super::number(ip.parse().unwrap())
    }

    #[test]
    fn more_ranges_give_addresses_when_they_are_ready() {
        let a = Allocators::new("10.9.0.0/30".parse().unwrap(), 30000..=30100);
        let cidr = |status: &str, more: Value| {
            let mut cidr = serde_json::json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "more"},
                "spec": {"cidrs": ["10.8.0.0/30", "fd00::/112"]}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
            json_patch::merge(&mut cidr, &more);
            stored(&[("servicecidrs", cidr)])
        };
        let none = HashSet::new();
        let asked: IpAddr = "10.8.0.1".parse().unwrap();
        let of = |view: &Stored| a.take_address(view, asked, &none).map(|h| h.address());
        assert_eq!(of(&cidr("False", serde_json::json!({}))), Err(Refused::OutOfRange));
        let dying = serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(of(&cidr("True", dying)), Err(Refused::OutOfRange));
        let ready = cidr("True", serde_json::json!({}));
        assert_eq!(of(&ready), Ok(asked));
        // Four addresses in all; a write in flight holds each.
        let all: Vec<Hold> = (0..4).map(|_| a.take_any_address(&ready, Family::V4, &none).unwrap()).collect();
        assert_eq!(a.take_any_address(&ready, Family::V4, &none).err(), Some(Refused::Full));
        let mut numbers: Vec<Number> = all.iter().map(|h| h.number).collect();
        assert!(numbers[..2].iter().all(|n| *n > number("10.9.0.0")), "the server's own go first");
        numbers.sort_unstable();
        assert_eq!(numbers, ["10.8.0.1", "10.8.0.2", "10.9.0.1", "10.9.0.2"].map(number));
        assert_eq!(of(&ready), Err(Refused::Taken));
        // A range of a family that the server does not have gives none.
        assert_eq!(a.take_address(&ready, "fd00::1".parse().unwrap(), &none).err(), Some(Refused::OutOfRange));
        let dual = Allocators::new("10.9.0.0/30,fd09::/112".parse().unwrap(), 30000..=30100);
        assert!(dual.take_address(&ready, "fd00::1".parse().unwrap(), &none).is_ok());
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
