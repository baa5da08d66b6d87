//! Services and endpoints → rules, without IO.
//!
//! In: decoded Services and EndpointSlices as they change. Out: a [`Change`], the difference between what the kernel has
//! and what it should have. [`plan`] decides for one Service; [`Model`] keeps what was decided and compares.
//!
//! A model is of one address family; a cluster of both has two, which share nothing. A Service without a cluster address of
//! the family has no rules in it, as with upstream's proxier of each family.
//!
//! **Invariant:** a change to one Service costs what that Service costs, whatever the number of others.
//! **Invariant:** a front (address, protocol, port) has one owner; others wait until it is free, real Services before
//! the node's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::api::object::ObjectKey;
use crate::api::services::{Endpoint, Protocol, Service, ServicePort, Slice, TrafficPolicy};
use crate::util::families::Family;

/// What the rules depend on besides Services.
#[derive(Debug, Clone)]
pub struct Context {
    /// Of what packets the rules are.
    pub family: Family,
    /// This node's name; endpoints on it are local.
    pub node_name: String,
    /// Addresses of pods; traffic to Services from elsewhere is masqueraded.
    pub cluster_cidr: Option<IpNet>,
    /// The node's zone; empty where it has none, or while it is not known.
    pub zone: String,
    /// Addresses of the family that the node itself answers.
    pub local_services: Vec<LocalService>,
}

/// A Service address that a process of this node answers (the cluster's DNS), whoever else has no endpoints for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// For the log, as `dns`.
    pub name: String,
    /// The Service's address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
    /// Where the process listens; not a loopback address.
    pub target: SocketAddr,
}

/// What packets are addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Front {
    /// An address.
    Address(IpAddr, Protocol, u16),
    /// A port of every address of the node.
    Node(Protocol, u16),
}

/// What happens to a packet at a front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It goes on in this chain.
    Chain(String),
    /// Its sender is told that nobody is there.
    Reject,
    /// It is dropped.
    Drop,
}

/// An element of one of the table's maps and sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// front → action.
    Front(Front, Action),
    /// (group, index) → endpoint.
    Endpoint(u32, u32, SocketAddr),
    /// The endpoint is one of the group: a client may stay with it.
    Live(u32, SocketAddr),
    /// A pod that may reach itself through a Service.
    Hairpin(IpAddr),
}

/// A rule of a chain, in order; the kernel's form is made in `nft`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Masquerade it.
    Mark,
    /// Masquerade it unless it comes from this network.
    MarkOutside(IpNet),
    /// Packets from this network go on there.
    GotoFrom(IpNet, String),
    /// Packets of the node itself are masqueraded and go on there.
    GotoFromNode(String),
    /// All go on there.
    Goto(String),
    /// The client's endpoint of before, while it lives and no more than so many seconds passed.
    Stay(u32, u32),
    /// Any of `1` endpoints of group `0`, remembered for `2` seconds.
    PickAndRemember(u32, u32, u32),
    /// Any of `1` endpoints of group `0`.
    Pick(u32, u32),
    /// Nobody takes it.
    Drop,
}

/// A chain of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// `namespace/name:port`, for people.
    pub comment: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Connections to forget: those of the front, or only those that went to the endpoint. UDP has no other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stale {
    /// What they were addressed to.
    pub front: Front,
    /// Where they went; none for nowhere in particular.
    pub endpoint: Option<SocketAddr>,
}

/// What has to change in the kernel: one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// New chains.
    pub add_chains: Vec<Chain>,
    /// Chains whose rules are others now.
    pub set_chains: Vec<Chain>,
    /// Chains that go.
    pub del_chains: Vec<String>,
    /// Elements that go, before others come.
    pub del: Vec<Element>,
    /// Elements that come.
    pub add: Vec<Element>,
    /// Connections to forget afterwards.
    pub stale: Vec<Stale>,
}

impl Change {
    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// How packets come to a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Internal,
    External,
    LoadBalancer,
}

/// The rules of one Service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortRules {
    /// Names its chains and groups.
    id: u32,
    comment: String,
    udp: bool,
    fronts: Vec<(Front, Action)>,
    chains: Vec<Chain>,
    all: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    uses_local: bool,
    hairpins: BTreeSet<IpAddr>,
    remembers: bool,
}

/// Endpoints of one Service port as this node sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Backends {
    all: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    here: BTreeSet<IpAddr>,
}

impl Backends {
    /// The ready ones; where there are none, those that are on their way out but still answer (KEP-1669).
    fn of(port: &ServicePort, slices: &BTreeMap<String, Slice>, cx: &Context) -> Self {
        let (mut ready, mut near, mut leaving) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let with_port = |s: &&Slice| s.ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol);
        let reach = Reach::of(slices.values().filter(with_port).flat_map(|s| &s.endpoints), cx);
        let mut here = BTreeSet::new();
        for slice in slices.values() {
            let Some(number) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
                continue;
            };
            let Some(number) = number.port else { continue };
            for endpoint in &slice.endpoints {
                // All addresses of an endpoint are one pod; the first of the family is the one to use.
                let Some(address) = endpoint.addresses.iter().copied().find(|a| cx.family.has(a)) else { continue };
                let local = endpoint.node == cx.node_name;
                if local {
                    here.insert(address);
                }
                let at = (SocketAddr::new(address, number), local);
                if endpoint.ready {
                    ready.insert(at);
                    if reach.takes(endpoint, cx) {
                        near.insert(at);
                    }
                } else if endpoint.serving && endpoint.terminating {
                    leaving.insert(at);
                }
            }
        }
        let choose = |ready: &BTreeSet<(SocketAddr, bool)>, want_local: bool| -> Vec<SocketAddr> {
            let pick = |from: &BTreeSet<(SocketAddr, bool)>| -> Vec<SocketAddr> {
                let mut found: Vec<_> = from.iter().filter(|(_, l)| *l || !want_local).map(|(a, _)| *a).collect();
                found.dedup();
                found
            };
            let found = pick(ready);
            if found.is_empty() { pick(&leaving) } else { found }
        };
        Self { all: choose(&near, false), local: choose(&ready, true), here }
    }
}

/// Which endpoints are near enough, as their hints have it: where all that are ready have hints, and some are for this node
/// or its zone, only those. Upstream: `topologyModeFromHints`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Everywhere,
    Zone,
    Node,
}

impl Reach {
    fn of<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, cx: &Context) -> Self {
        let ready: Vec<&Endpoint> = endpoints.filter(|e| e.ready).collect();
        let hinted = |hints: fn(&Endpoint) -> &Vec<String>, own: &String| {
            ready.iter().all(|e| !hints(e).is_empty()) && ready.iter().any(|e| hints(e).contains(own))
        };
        if hinted(|e| &e.for_nodes, &cx.node_name) {
            Self::Node
        } else if hinted(|e| &e.for_zones, &cx.zone) {
            Self::Zone
        } else {
            Self::Everywhere
        }
    }

    fn takes(self, endpoint: &Endpoint, cx: &Context) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Zone => endpoint.for_zones.contains(&cx.zone),
            Self::Node => endpoint.for_nodes.contains(&cx.node_name),
        }
    }
}

/// What one Service needs. `id` gives the number of a port, the same one each time.
pub fn plan(
    service: &Service,
    slices: &BTreeMap<String, Slice>,
    cx: &Context,
    mut id: impl FnMut(&ServicePort) -> u32,
) -> Vec<PortRules> {
    if service.external_name.is_some() || !service.cluster_ips.iter().any(|a| cx.family.has(a)) {
        return Vec::new();
    }
    service.ports.iter().map(|port| plan_port(service, port, slices, cx, id(port))).collect()
}

fn plan_port(
    service: &Service,
    port: &ServicePort,
    slices: &BTreeMap<String, Slice>,
    cx: &Context,
    id: u32,
) -> PortRules {
    let mut backends = Backends::of(port, slices, cx);
    let fronts = fronts(service, port, cx.family);
    if backends.all.is_empty()
        && let Some(own) = cx
            .local_services
            .iter()
            .find(|l| fronts.iter().any(|(f, _)| *f == Front::Address(l.address, l.protocol, l.port)))
    {
        backends = Backends { all: vec![own.target], local: vec![own.target], here: BTreeSet::new() };
    }
    let name = service.key.as_ref().map(ToString::to_string).unwrap_or_default();
    let comment = if port.name.is_empty() { name } else { format!("{name}:{}", port.name) };
    let mut rules = PortRules { id, comment, udp: port.protocol == Protocol::Udp, ..Default::default() };
    if backends.all.is_empty() {
        rules.fronts = fronts.into_iter().map(|(f, _)| (f, Action::Reject)).collect();
        return rules;
    }
    rules.remembers = service.affinity_seconds.is_some();
    for (front, way) in fronts {
        let action = match way {
            Way::Internal if service.internal_policy == TrafficPolicy::Local && backends.local.is_empty() => {
                Action::Drop
            }
            Way::Internal => Action::Chain(chain_name("svc", id)),
            Way::External => Action::Chain(chain_name("ext", id)),
            Way::LoadBalancer if service.source_ranges.is_empty() => Action::Chain(chain_name("ext", id)),
            Way::LoadBalancer => Action::Chain(chain_name("lb", id)),
        };
        rules.fronts.push((front, action));
    }
    rules.chains = chains(service, &rules, &backends, cx);
    rules.uses_local =
        service.internal_policy == TrafficPolicy::Local || service.external_policy == TrafficPolicy::Local;
    rules.all = backends.all;
    rules.local = if rules.uses_local { backends.local } else { Vec::new() };
    rules.hairpins = backends.here;
    rules
}

/// Every front of a port and how packets come to it.
fn fronts(service: &Service, port: &ServicePort, family: Family) -> Vec<(Front, Way)> {
    let address = |ips: &[IpAddr], way: Way| -> Vec<(Front, Way)> {
        let own = ips.iter().filter(|a| family.has(a));
        own.map(|a| (Front::Address(*a, port.protocol, port.port), way)).collect()
    };
    let mut all = address(&service.cluster_ips, Way::Internal);
    all.extend(address(&service.external_ips, Way::External));
    all.extend(address(&service.load_balancer_ips, Way::LoadBalancer));
    if port.node_port != 0 {
        all.push((Front::Node(port.protocol, port.node_port), Way::External));
    }
    let mut seen = BTreeSet::new();
    all.retain(|(front, _)| seen.insert(*front));
    all
}

/// The chains that the fronts lead to, and those these lead to.
fn chains(service: &Service, rules: &PortRules, backends: &Backends, cx: &Context) -> Vec<Chain> {
    let id = rules.id;
    let leads_to = |kind: &str| {
        let name = chain_name(kind, id);
        rules.fronts.iter().any(|(_, action)| matches!(action, Action::Chain(c) if *c == name))
    };
    let balance = |group: u32, n: usize| -> Vec<Rule> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        match (n, service.affinity_seconds) {
            (0, _) => vec![Rule::Drop],
            (n, None) => vec![Rule::Pick(group, n)],
            // The last one is for the day when the table of clients is full.
            (n, Some(s)) => vec![Rule::Stay(group, s), Rule::PickAndRemember(group, n, s), Rule::Pick(group, n)],
        }
    };
    let mut chains = Vec::new();
    let mut add = |kind: &str, rules_of: Vec<Rule>| {
        chains.push(Chain { name: chain_name(kind, id), comment: rules.comment.clone(), rules: rules_of });
    };
    if leads_to("svc") {
        let mut list: Vec<Rule> = cx.cluster_cidr.map(Rule::MarkOutside).into_iter().collect();
        list.extend(match service.internal_policy {
            TrafficPolicy::Cluster => balance(group_all(id), backends.all.len()),
            TrafficPolicy::Local => balance(group_local(id), backends.local.len()),
        });
        add("svc", list);
    }
    if leads_to("ext") || leads_to("lb") {
        match service.external_policy {
            TrafficPolicy::Cluster => {
                let mut list = vec![Rule::Mark];
                list.extend(balance(group_all(id), backends.all.len()));
                add("ext", list);
            }
            TrafficPolicy::Local => {
                // The cluster's own clients need no node in between: they get any endpoint.
                add("all", balance(group_all(id), backends.all.len()));
                let mut list: Vec<Rule> =
                    cx.cluster_cidr.map(|net| Rule::GotoFrom(net, chain_name("all", id))).into_iter().collect();
                list.push(Rule::GotoFromNode(chain_name("all", id)));
                list.extend(balance(group_local(id), backends.local.len()));
                add("ext", list);
            }
        }
    }
    if leads_to("lb") {
        let ranges = service.source_ranges.iter().filter(|net| cx.family.has(&net.addr()));
        let mut list: Vec<Rule> = ranges.map(|net| Rule::GotoFrom(*net, chain_name("ext", id))).collect();
        list.push(Rule::Drop);
        add("lb", list);
    }
    chains
}

fn chain_name(kind: &str, id: u32) -> String {
    format!("{kind}-{id}")
}

/// The group of all endpoints of a port.
fn group_all(id: u32) -> u32 {
    id * 2
}

/// The group of this node's endpoints of a port.
fn group_local(id: u32) -> u32 {
    id * 2 + 1
}

impl PortRules {
    /// Its elements, but for hairpins, which Services share.
    fn elements(&self) -> BTreeSet<Element> {
        let mut all: BTreeSet<Element> = self.fronts.iter().map(|(f, a)| Element::Front(*f, a.clone())).collect();
        for (group, endpoints) in [(group_all(self.id), &self.all), (group_local(self.id), &self.local)] {
            for (index, endpoint) in (0..).zip(endpoints) {
                all.insert(Element::Endpoint(group, index, *endpoint));
                if self.remembers {
                    all.insert(Element::Live(group, *endpoint));
                }
            }
        }
        all
    }
}

/// What was decided for all Services, and what of it is to be decided again.
pub struct Model {
    cx: Context,
    services: HashMap<ObjectKey, Service>,
    slices: HashMap<ObjectKey, BTreeMap<String, Slice>>,
    slice_owner: HashMap<ObjectKey, ObjectKey>,
    rules: BTreeMap<ObjectKey, Vec<PortRules>>,
    ids: HashMap<ObjectKey, BTreeMap<(String, Protocol), u32>>,
    next_id: u32,
    owners: HashMap<Front, ObjectKey>,
    waiting: HashMap<Front, BTreeSet<ObjectKey>>,
    hairpins: BTreeMap<IpAddr, usize>,
    dirty: BTreeSet<ObjectKey>,
}

impl Model {
    /// One that knows the node's own services only.
    pub fn new(cx: Context) -> Self {
        let mut model = Self {
            services: HashMap::new(),
            slices: HashMap::new(),
            slice_owner: HashMap::new(),
            rules: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 1,
            owners: HashMap::new(),
            waiting: HashMap::new(),
            hairpins: BTreeMap::new(),
            dirty: BTreeSet::new(),
            cx,
        };
        for own in model.cx.local_services.clone() {
            let key = ObjectKey::new("", format!("{}-{}", own.name, own.protocol.lower()));
            let port = ServicePort { name: String::new(), protocol: own.protocol, port: own.port, node_port: 0 };
            let cluster_ips = vec![own.address];
            model.set_service(
                key.clone(),
                Service { key: Some(key), cluster_ips, ports: vec![port], ..Default::default() },
            );
        }
        model
    }

    /// The family that it is of.
    pub fn family(&self) -> Family {
        self.cx.family
    }

    /// A Service is there, or another than before.
    pub fn set_service(&mut self, key: ObjectKey, service: Service) {
        if self.services.get(&key) != Some(&service) {
            self.services.insert(key.clone(), service);
            self.dirty.insert(key);
        }
    }

    /// The node is in a zone, or in another than before.
    pub fn set_zone(&mut self, zone: &str) {
        if self.cx.zone != zone {
            zone.clone_into(&mut self.cx.zone);
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, key: &ObjectKey) {
        if self.services.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    /// A slice is there, or another than before.
    pub fn set_slice(&mut self, key: ObjectKey, slice: Slice) {
        if self.slice_owner.get(&key) != slice.service.as_ref() {
            self.remove_slice(&key);
        }
        if slice.family.is_some_and(|f| f != self.cx.family) {
            return self.remove_slice(&key);
        }
        let Some(service) = slice.service.clone() else { return };
        let of_service = self.slices.entry(service.clone()).or_default();
        if of_service.get(&key.name) != Some(&slice) {
            of_service.insert(key.name.clone(), slice);
            self.slice_owner.insert(key, service.clone());
            self.dirty.insert(service);
        }
    }

    /// A slice is gone.
    pub fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(service) = self.slice_owner.remove(key) else { return };
        if let Some(of_service) = self.slices.get_mut(&service) {
            of_service.remove(&key.name);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    /// Chains and Services there are, for metrics and checks.
    pub fn chain_count(&self) -> usize {
        self.rules.values().flatten().map(|p| p.chains.len()).sum()
    }

    /// Decides again what has changed and says how the kernel has to follow.
    pub fn take_change(&mut self) -> Change {
        let mut change = Change::default();
        let (mut del, mut add) = (BTreeSet::new(), BTreeSet::new());
        while let Some(key) = self.dirty.pop_first() {
            let new = self.decide(&key);
            let old = self.rules.remove(&key).unwrap_or_default();
            compare(&old, &new, &mut change, &mut del, &mut add);
            self.count_hairpins(&old, &new, &mut del, &mut add);
            if !new.is_empty() {
                self.rules.insert(key, new);
            }
        }
        // What one Service gives away another one of the same change may have taken.
        change.del = del.difference(&add).cloned().collect();
        change.add = add.difference(&del).cloned().collect();
        change
    }

    /// All there is, as if the kernel had nothing.
    pub fn everything(&self) -> Change {
        let all = || self.rules.values().flatten();
        Change {
            add_chains: all().flat_map(|p| p.chains.iter().cloned()).collect(),
            add: all()
                .flat_map(PortRules::elements)
                .chain(self.hairpins.keys().map(|a| Element::Hairpin(*a)))
                .collect(),
            ..Default::default()
        }
    }

    fn decide(&mut self, key: &ObjectKey) -> Vec<PortRules> {
        let none = BTreeMap::new();
        let mut planned = match self.services.get(key) {
            None => {
                self.ids.remove(key);
                Vec::new()
            }
            Some(service) => {
                let ids = self.ids.entry(key.clone()).or_default();
                let next = &mut self.next_id;
                let id = |port: &ServicePort| {
                    *ids.entry((port.name.clone(), port.protocol)).or_insert_with(|| {
                        let id = *next;
                        *next += 1;
                        id
                    })
                };
                plan(service, self.slices.get(key).unwrap_or(&none), &self.cx, id)
            }
        };
        let wanted: BTreeSet<Front> = planned.iter().flat_map(|p| p.fronts.iter().map(|(f, _)| *f)).collect();
        let mut had: BTreeSet<Front> =
            self.rules.get(key).into_iter().flatten().flat_map(|p| p.fronts.iter().map(|(f, _)| *f)).collect();
        had.retain(|f| !wanted.contains(f) && self.owners.get(f) == Some(key));
        for front in had {
            self.release(front);
        }
        if planned.is_empty() {
            self.waiting.retain(|_, who| {
                who.remove(key);
                !who.is_empty()
            });
        }
        for port in &mut planned {
            port.fronts.retain(|(front, _)| self.claim(*front, key));
        }
        planned
    }

    /// True when the front is the Service's own from now on.
    fn claim(&mut self, front: Front, key: &ObjectKey) -> bool {
        match self.owners.get(&front) {
            Some(owner) if owner == key => true,
            Some(owner) if !owner.namespace.is_empty() || key.namespace.is_empty() => {
                if self.waiting.entry(front).or_default().insert(key.clone()) && !key.namespace.is_empty() {
                    tracing::warn!(service = %key, %owner, ?front, "address and port are taken by another service");
                }
                false
            }
            Some(owner) => {
                let owner = owner.clone();
                self.dirty.insert(owner.clone());
                self.waiting.entry(front).or_default().insert(owner);
                self.owners.insert(front, key.clone());
                true
            }
            None => {
                self.owners.insert(front, key.clone());
                true
            }
        }
    }

    fn release(&mut self, front: Front) {
        self.owners.remove(&front);
        self.dirty.extend(self.waiting.remove(&front).unwrap_or_default());
    }

    fn count_hairpins(
        &mut self,
        old: &[PortRules],
        new: &[PortRules],
        del: &mut BTreeSet<Element>,
        add: &mut BTreeSet<Element>,
    ) {
        for address in new.iter().flat_map(|p| &p.hairpins) {
            let count = self.hairpins.entry(*address).or_insert(0);
            *count += 1;
            if *count == 1 {
                add.insert(Element::Hairpin(*address));
            }
        }
        for address in old.iter().flat_map(|p| &p.hairpins) {
            if let Some(count) = self.hairpins.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.hairpins.remove(address);
                    del.insert(Element::Hairpin(*address));
                }
            }
        }
    }
}

/// Adds to `change` what leads from the old rules of a Service to the new ones.
fn compare(
    old: &[PortRules],
    new: &[PortRules],
    change: &mut Change,
    del: &mut BTreeSet<Element>,
    add: &mut BTreeSet<Element>,
) {
    let elements = |of: &[PortRules]| of.iter().flat_map(PortRules::elements).collect::<BTreeSet<_>>();
    let (before, after) = (elements(old), elements(new));
    del.extend(before.difference(&after).cloned());
    add.extend(after.difference(&before).cloned());
    let by_name = |of: &[PortRules]| -> BTreeMap<String, Chain> {
        of.iter().flat_map(|p| p.chains.iter().map(|c| (c.name.clone(), c.clone()))).collect()
    };
    let (mut gone, next) = (by_name(old), by_name(new));
    for (name, chain) in next {
        match gone.remove(&name) {
            None => change.add_chains.push(chain),
            Some(same) if same == chain => {}
            Some(_) => change.set_chains.push(chain),
        }
    }
    change.del_chains.extend(gone.into_keys());
    change.stale.extend(stale(old, new));
}

/// UDP "connections" whose other end is another one now: the kernel would go on sending to the old one.
fn stale(old: &[PortRules], new: &[PortRules]) -> Vec<Stale> {
    let mut all = BTreeSet::new();
    let find = |of: &[PortRules], id: u32| of.iter().find(|p| p.id == id).cloned().unwrap_or_default();
    for before in old.iter().filter(|p| p.udp) {
        let after = find(new, before.id);
        for endpoint in before.all.iter().filter(|e| !after.all.contains(e)) {
            all.extend(before.fronts.iter().map(|(front, _)| Stale { front: *front, endpoint: Some(*endpoint) }));
        }
    }
    for after in new.iter().filter(|p| p.udp && !p.all.is_empty()) {
        if find(old, after.id).all.is_empty() {
            all.extend(after.fronts.iter().map(|(front, _)| Stale { front: *front, endpoint: None }));
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
