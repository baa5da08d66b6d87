//! Names of the cluster → records, without IO.
//!
//! Rules: the Kubernetes DNS specification 1.1.0; where it is silent, what CoreDNS's `kubernetes` plugin answers.
//!
//! **Invariant:** a name below the cluster's domain is answered here, if only by "no such name"; it never leaves the node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::api::object::ObjectKey;
use crate::api::services::{Endpoint, Protocol, Service, Slice};

/// Seconds that an answer may be kept; CoreDNS's default.
pub const TTL: u32 = 5;
/// The version of the specification that `dns-version` tells.
const SPECIFICATION: &str = "1.1.0";
/// SRV weights of one name add up to this.
const SRV_WEIGHTS: u16 = 100;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Code.
    pub code: ResponseCode,
    /// The records asked for.
    pub answers: Vec<Record>,
    /// Addresses of the names in them.
    pub additionals: Vec<Record>,
    /// The zone's SOA, where there are no answers.
    pub authority: Option<Record>,
}

/// One Service and its slices.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    slices: BTreeMap<String, Slice>,
    /// What it added to the reverse names.
    reverse: BTreeSet<(IpAddr, String)>,
}

/// The cluster's names.
pub struct Zone {
    domain: Name,
    labels: Vec<String>,
    /// Addresses whose reverse names are ours.
    networks: Vec<ipnet::IpNet>,
    entries: HashMap<ObjectKey, Entry>,
    slice_owner: HashMap<ObjectKey, ObjectKey>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
}

/// Outcome of a lookup inside the zone.
enum Found {
    Records(Vec<Record>, Vec<Record>),
    /// The name exists, with records of other types.
    Nothing,
    NoName,
}

impl Zone {
    /// An empty zone for `domain`, as `cluster.local`; `networks` hold pods and Services.
    pub fn new(domain: &str, networks: Vec<ipnet::IpNet>) -> Result<Self, String> {
        let labels: Vec<String> = domain.trim_end_matches('.').split('.').map(str::to_ascii_lowercase).collect();
        let name = Name::from_ascii(format!("{}.", labels.join("."))).map_err(|e| format!("domain {domain:?}: {e}"))?;
        Ok(Self {
            domain: name,
            labels,
            networks,
            entries: HashMap::new(),
            slice_owner: HashMap::new(),
            reverse: HashMap::new(),
        })
    }

    /// A Service is there.
    pub fn set_service(&mut self, key: ObjectKey, service: Service) {
        self.entries.entry(key.clone()).or_default().service = Some(service);
        self.index(&key);
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.service = None;
        }
        self.index(key);
    }

    /// A slice is there.
    pub fn set_slice(&mut self, key: ObjectKey, slice: Slice) {
        if self.slice_owner.get(&key) != slice.service.as_ref() {
            self.remove_slice(&key);
        }
        let Some(service) = slice.service.clone() else { return };
        self.entries.entry(service.clone()).or_default().slices.insert(key.name.clone(), slice);
        self.slice_owner.insert(key, service.clone());
        self.index(&service);
    }

    /// A slice is gone.
    pub fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(service) = self.slice_owner.remove(key) else { return };
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.slices.remove(&key.name);
        }
        self.index(&service);
    }

    /// Brings the reverse names of a Service up to date.
    fn index(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let new = entry.reverse_names(key);
        let old = std::mem::replace(&mut entry.reverse, new.clone());
        if entry.service.is_none() && entry.slices.is_empty() {
            self.entries.remove(key);
        }
        for (address, name) in old.difference(&new) {
            if let Some(names) = self.reverse.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.reverse.remove(address);
                }
            }
        }
        for (address, name) in new.difference(&old) {
            self.reverse.entry(*address).or_default().insert(name.clone());
        }
    }

    /// The answer; none for a name that is not the cluster's. `has_namespace` knows the namespaces.
    pub fn answer(&self, name: &Name, kind: RecordType, has_namespace: impl Fn(&str) -> bool) -> Option<Reply> {
        let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
        let found = if labels.ends_with(&self.labels) {
            let inside: Vec<&str> = labels[..labels.len() - self.labels.len()].iter().map(String::as_str).collect();
            self.inside(name, &inside, kind, has_namespace)
        } else {
            self.reverse(name, &labels, kind)?
        };
        let (code, answers, additionals) = match found {
            Found::Records(answers, additionals) if !answers.is_empty() => {
                (ResponseCode::NoError, answers, additionals)
            }
            Found::Records(..) | Found::Nothing => (ResponseCode::NoError, Vec::new(), Vec::new()),
            Found::NoName => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
        };
        let authority = answers.is_empty().then(|| self.soa());
        Some(Reply { code, answers, additionals, authority })
    }

    fn inside(&self, name: &Name, labels: &[&str], kind: RecordType, has: impl Fn(&str) -> bool) -> Found {
        match labels {
            [] => match kind {
                RecordType::SOA => Found::Records(vec![self.soa()], vec![]),
                RecordType::NS => record(name, self.below("ns.dns").map(|n| RData::NS(NS(n)))),
                _ => Found::Nothing,
            },
            ["dns-version"] if kind == RecordType::TXT => {
                record(name, Some(RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))))
            }
            ["dns-version"] | ["svc" | "pod"] => Found::Nothing,
            [namespace, "svc" | "pod"] if has(namespace) => Found::Nothing,
            [service, namespace, "svc"] => self.service(name, service, namespace, kind),
            [host, service, namespace, "svc"] => self.endpoint(name, host, service, namespace, kind),
            [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => match Protocol::parse(protocol) {
                    Some(protocol) => self.ports(name, service, namespace, kind, Some((port, protocol))),
                    None => Found::NoName,
                },
                _ => Found::NoName,
            },
            [address, namespace, "pod"] if has(namespace) => match dashed(address) {
                Some(address) => addresses(name, [address], kind),
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }

    fn entry(&self, service: &str, namespace: &str) -> Option<(&Entry, &Service)> {
        let entry = self.entries.get(&ObjectKey::new(namespace, service))?;
        Some((entry, entry.service.as_ref()?))
    }

    fn service(&self, name: &Name, service: &str, namespace: &str, kind: RecordType) -> Found {
        let Some((entry, found)) = self.entry(service, namespace) else { return Found::NoName };
        if let Some(external) = &found.external_name {
            let target = Name::from_ascii(format!("{}.", external.trim_end_matches('.'))).ok();
            return match kind {
                RecordType::A | RecordType::AAAA | RecordType::CNAME => {
                    record(name, target.map(|t| RData::CNAME(CNAME(t))))
                }
                _ => Found::Nothing,
            };
        }
        if kind == RecordType::SRV {
            return self.ports(name, service, namespace, kind, None);
        }
        if !found.headless {
            return addresses(name, found.cluster_ips.iter().copied(), kind);
        }
        let all: BTreeSet<IpAddr> = entry.published(found).flat_map(|(_, e)| e.addresses.iter().copied()).collect();
        if all.is_empty() { Found::NoName } else { addresses(name, all, kind) }
    }

    fn endpoint(&self, name: &Name, host: &str, service: &str, namespace: &str, kind: RecordType) -> Found {
        let Some((entry, found)) = self.entry(service, namespace) else { return Found::NoName };
        let all: BTreeSet<IpAddr> = entry
            .published(found)
            .flat_map(|(_, e)| e.addresses.iter().map(move |a| (e, *a)))
            .filter(|(e, a)| host_of(e, *a) == host)
            .map(|(_, a)| a)
            .collect();
        if all.is_empty() { Found::NoName } else { addresses(name, all, kind) }
    }

    /// SRV records of one port, or of all.
    fn ports(
        &self,
        name: &Name,
        service: &str,
        namespace: &str,
        kind: RecordType,
        only: Option<(&str, Protocol)>,
    ) -> Found {
        let Some((entry, found)) = self.entry(service, namespace) else { return Found::NoName };
        let wanted = |n: &str, p: Protocol| only.is_none_or(|(name, protocol)| n == name && p == protocol);
        let own = format!("{service}.{namespace}.svc");
        // A name has one record for a port, with the addresses of both families.
        let mut targets: BTreeMap<(u16, String), BTreeSet<IpAddr>> = BTreeMap::new();
        if found.headless {
            for (slice, endpoint) in entry.published(found) {
                let numbers = slice.ports.iter().filter(|p| wanted(&p.name, p.protocol)).filter_map(|p| p.port);
                for number in numbers {
                    for address in &endpoint.addresses {
                        let host = host_of(endpoint, *address);
                        targets.entry((number, format!("{host}.{own}"))).or_default().insert(*address);
                    }
                }
            }
        } else {
            for port in found.ports.iter().filter(|p| wanted(&p.name, p.protocol)) {
                targets.entry((port.port, own.clone())).or_default().extend(&found.cluster_ips);
            }
        }
        if targets.is_empty() {
            return Found::NoName;
        }
        if kind != RecordType::SRV {
            return Found::Nothing;
        }
        let count = u16::try_from(targets.len()).unwrap_or(u16::MAX);
        let weight = (SRV_WEIGHTS / count).max(1);
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for ((port, target), addresses) in targets {
            let Some(target) = self.below(&target) else { continue };
            additionals.extend(addresses.into_iter().map(|a| Record::from_rdata(target.clone(), TTL, address_data(a))));
            answers.push(Record::from_rdata(name.clone(), TTL, RData::SRV(SRV::new(0, weight, port, target))));
        }
        additionals.dedup();
        Found::Records(answers, additionals)
    }

    /// Reverse names; none where the address is not the cluster's.
    fn reverse(&self, name: &Name, labels: &[String], kind: RecordType) -> Option<Found> {
        let address = reverse_address(labels)?;
        let Some(names) = self.reverse.get(&address) else {
            return self.networks.iter().any(|n| n.contains(&address)).then_some(Found::NoName);
        };
        if kind != RecordType::PTR {
            return Some(Found::Nothing);
        }
        let records = names.iter().filter_map(|n| self.below(n)).map(|n| RData::PTR(PTR(n)));
        Some(Found::Records(records.map(|d| Record::from_rdata(name.clone(), TTL, d)).collect(), vec![]))
    }

    fn below(&self, relative: &str) -> Option<Name> {
        Name::from_ascii(relative).ok()?.append_domain(&self.domain).ok()
    }

    /// How long "no" holds: as long as a "yes".
    fn soa(&self) -> Record {
        let name = |n: &str| self.below(n).unwrap_or_else(|| self.domain.clone());
        let soa = SOA::new(name("ns.dns"), name("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }
}

impl Entry {
    /// Endpoints whose names are answered, with their slices.
    fn published(&self, service: &Service) -> impl Iterator<Item = (&Slice, &Endpoint)> {
        let all = service.publish_not_ready;
        let pairs = self.slices.values().flat_map(|s| s.endpoints.iter().map(move |e| (s, e)));
        pairs.filter(move |(_, e)| all || e.ready)
    }

    fn reverse_names(&self, key: &ObjectKey) -> BTreeSet<(IpAddr, String)> {
        let Some(service) = &self.service else { return BTreeSet::new() };
        let own = format!("{}.{}.svc", key.name, key.namespace);
        let mut all: BTreeSet<_> = service.cluster_ips.iter().map(|a| (*a, own.clone())).collect();
        for (_, endpoint) in self.published(service) {
            // Pods of a Service with an address of its own have a name only where they were given one.
            if service.headless || !endpoint.hostname.is_empty() {
                all.extend(endpoint.addresses.iter().map(|a| (*a, format!("{}.{own}", host_of(endpoint, *a)))));
            }
        }
        all
    }
}

/// The name of an endpoint below its Service.
fn host_of(endpoint: &Endpoint, address: IpAddr) -> String {
    if endpoint.hostname.is_empty() { address.to_string().replace(['.', ':'], "-") } else { endpoint.hostname.clone() }
}

/// `10-42-0-7` or `fd00--7` as an address.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let (digits, zone) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    let digits: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
    match (zone[0].as_str(), zone[1].as_str(), digits.len()) {
        ("in-addr", "arpa", 4) => digits.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        ("ip6", "arpa", 32) => {
            let groups: Vec<String> = digits.chunks(4).map(|c| c.concat()).collect();
            groups.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => None,
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    }
}

fn record(name: &Name, data: Option<RData>) -> Found {
    Found::Records(data.into_iter().map(|d| Record::from_rdata(name.clone(), TTL, d)).collect(), Vec::new())
}

/// The addresses of the family that was asked for.
fn addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Found {
    let wanted = |a: &IpAddr| match kind {
        RecordType::A => a.is_ipv4(),
        RecordType::AAAA => a.is_ipv6(),
        _ => false,
    };
    let data = all.into_iter().filter(wanted).map(address_data);
    Found::Records(data.map(|d| Record::from_rdata(name.clone(), TTL, d)).collect(), Vec::new())
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
