//! What the kernel has to be told so that pods of all nodes reach each other. No IO.
//!
//! Rules: flannel's backends `vxlan` and `host-gw`. With vxlan every node has one device; its address is the first of the
//! node's pod range, its MAC address is made of that ([`mac`]). To another node's range leads one route over the device;
//! which MAC is behind the route's gateway, and which node behind the MAC, is told the kernel beforehand: nothing is asked
//! by broadcast and nothing is learned from packets. With host-gw the route's gateway is the node itself.
//!
//! IPv6 goes the same ways: over the same device, packed into IPv4, with the first address of the node's other range, behind
//! the same MAC; with host-gw through the node's IPv6 address, which it needs for that.
//!
//! **Invariant:** a range has one route or none: of nodes whose ranges overlap only the oldest is routed, by all nodes alike.
//! **Invariant:** a route that somebody else made ([`Route::ours`] is false) is never changed or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::util::families::{Family, Networks};
use crate::util::order::Arrange;

/// Bytes that vxlan puts around a packet: inner Ethernet, vxlan, UDP and IPv4 headers.
pub const VXLAN_OVERHEAD: u32 = 50;
/// What every IPv4 machine takes: pods get no smaller MTU.
pub const MIN_MTU: u32 = 576;
/// What IPv6 needs of every link: the kernel has none of it on a smaller one.
const MIN_IPV6_MTU: u32 = 1280;
/// First bytes of the devices' MAC addresses, locally administered; the node's first pod address follows. All nodes know
/// it from the range, so nothing has to be published, and a device that is made again is found under the same address.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x59];

/// Bytes of a hardware address.
pub type Mac = [u8; 6];

/// How packets get to other nodes; k3s's `--flannel-backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Packed into UDP: works wherever nodes reach each other.
    #[default]
    Vxlan,
    /// Routed by the network's own means: all nodes in one subnet.
    HostGw,
    /// Not at all: somebody else connects the nodes.
    None,
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vxlan" => Ok(Self::Vxlan),
            "host-gw" => Ok(Self::HostGw),
            "none" => Ok(Self::None),
            "wireguard-native" => Err("wireguard-native is not built yet; use vxlan, host-gw or none".into()),
            _ => Err("must be vxlan, host-gw or none".into()),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::None => "none",
        })
    }
}

impl Backend {
    /// The MTU of pods on a node whose interface has `link`'s.
    pub fn pod_mtu(self, link: u32) -> u32 {
        match self {
            Self::Vxlan => link.saturating_sub(VXLAN_OVERHEAD).max(MIN_MTU),
            Self::HostGw | Self::None => link,
        }
    }
}

/// The device's address on the node with this range.
fn vtep(range: IpNet) -> IpAddr {
    range.network()
}

/// The device's MAC address on the node with this range.
fn mac(range: Ipv4Net) -> Mac {
    let [a, b, c, d] = range.network().octets();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

/// A node, as far as the overlay cares. Ordered by age, so that all nodes prefer the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// When its object was created; the form sorts.
    pub created: String,
    /// Name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pods' addresses, IPv4 first; empty until the controller has given some.
    pub ranges: Vec<IpNet>,
}

impl Peer {
    /// From a Node.
    pub fn of(node: &Object) -> Self {
        let value = node.value();
        let internal = value.items_at("/status/addresses").iter().filter(|a| a.str_at("/type") == Some("InternalIP"));
        let ranges = value.items_at("/spec/podCIDRs").iter().filter_map(|c| c.as_str());
        let single = value.str_at("/spec/podCIDR").filter(|_| value.items_at("/spec/podCIDRs").is_empty());
        Self {
            created: value.str_at("/metadata/creationTimestamp").unwrap_or_default().to_owned(),
            name: node.meta.name.clone(),
            addresses: internal.filter_map(|a| a.str_at("/address")?.parse().ok()).collect(),
            ranges: ranges.chain(single).filter_map(|c| c.parse::<IpNet>().ok()).map(|r| r.trunc()).collect(),
        }
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None })
    }

    /// Where its ranges of a family are, as seen from the link that leads there; or why nowhere.
    fn gateway(&self, family: Family, link: &Link) -> Result<IpAddr, String> {
        let Some(at) = self.addresses.iter().find(|a| family.has(a)) else {
            return Err("it has no IPv6 address, and host-gw needs one to route there; use vxlan".into());
        };
        if link.networks.iter().any(|n| n.contains(at)) {
            return Ok(*at);
        }
        Err(format!("its address {at} is in no subnet of {}, and host-gw cannot cross a router; use vxlan", link.name))
    }
}

/// The interface that has the node's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's number.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU.
    pub mtu: u32,
    /// What it reaches without a router.
    pub networks: Vec<IpNet>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its pods' addresses: of what families others' are routed.
    pub range: Networks,
    /// Where its address is; none while it is on no interface.
    pub link: Option<Link>,
}

/// The vxlan device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Address that packets leave from.
    pub local: Ipv4Addr,
    /// Its own hardware address.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// It is up.
    pub up: bool,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// Over the vxlan device.
    Device(IpAddr),
    /// Over another interface, by its name.
    Link(Option<IpAddr>, String),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(gateway) => write!(f, "via {gateway}"),
            Self::Link(Some(gateway), link) => write!(f, "via {gateway} dev {link}"),
            Self::Link(None, link) => write!(f, "dev {link}"),
        }
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// To these addresses.
    pub to: IpNet,
    /// This way.
    pub via: Via,
    /// orch made it.
    pub ours: bool,
}

/// What the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// The vxlan device; none when there is none of its name, or one of another kind.
    pub device: Option<Device>,
    /// Something has its name.
    pub name_taken: bool,
    /// Routes into the pods' network, whoever made them.
    pub routes: Vec<Route>,
    /// Hardware addresses that stand fast on the device.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Where the device sends what is for a hardware address.
    pub forwards: BTreeMap<Mac, Ipv4Addr>,
}

/// Something that a user has to know, told once while it is so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// This node's address does not do.
    Own(String),
    /// A node is not routed.
    Node(String, String),
    /// IPv6 does not go on this node.
    OwnV6(String),
    /// A node is not routed over IPv6.
    NodeV6(String, String),
    /// A foreign route is in the way.
    Foreign(IpNet, String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(why) => write!(f, "pods of other nodes cannot be reached: {why}"),
            Self::Node(name, why) => write!(f, "pods of node {name} cannot be reached: {why}"),
            Self::OwnV6(why) => write!(f, "pods of this node have no IPv6: {why}"),
            Self::NodeV6(name, why) => write!(f, "pods of node {name} cannot be reached over IPv6: {why}"),
            Self::Foreign(to, way) => {
                write!(
                    f,
                    "{to} is routed {way}, which orch did not do and leaves; remove that route if it is a leftover"
                )
            }
        }
    }
}

/// What the kernel should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The vxlan device.
    pub device: Option<Device>,
    /// Routes.
    pub routes: BTreeMap<IpNet, Via>,
    /// Hardware addresses behind gateways.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Nodes behind hardware addresses.
    pub forwards: BTreeMap<Mac, Ipv4Addr>,
    /// What does not go.
    pub notes: BTreeSet<Note>,
}

/// One change of the kernel's state. They are to be made in the order that [`steps`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove what has the device's name, and all that hangs on it.
    RemoveDevice,
    /// Make the device, down and without addresses.
    AddDevice(Device),
    /// Change its MTU.
    SetMtu(u32),
    /// Give it an address.
    AddAddress(IpAddr),
    /// Take one.
    DropAddress(IpAddr),
    /// Bring it up.
    SetUp,
    /// Make or change a route.
    PutRoute(IpNet, Via),
    /// Remove one.
    DropRoute(IpNet, Via),
    /// Tell which hardware address a gateway has.
    PutNeighbour(IpAddr, Mac),
    /// Forget it.
    DropNeighbour(IpAddr),
    /// Tell which node has a hardware address.
    PutForward(Mac, Ipv4Addr),
    /// Forget it.
    DropForward(Mac),
}

/// UDP port and network identifier, flannel's.
const PORT: u16 = 8472;
const VNI: u32 = 1;

/// What should be, from what nodes there are.
pub fn wanted<'a>(backend: Backend, own: &Own, nodes: impl IntoIterator<Item = &'a Peer>) -> Wanted {
    let mut out = Wanted::default();
    let has_ours = |n: &&Peer| n.ranges.iter().any(|r| own.range.of(Family::of(r.addr())).is_some());
    let mut nodes: Vec<&Peer> = nodes.into_iter().filter(|n| n.name != own.name).filter(has_ours).collect();
    nodes.arrange();
    let (address, link) = match usable(own) {
        _ if backend == Backend::None => return out,
        Ok(found) => found,
        Err(why) => {
            // Alone it is nothing to complain of.
            out.notes.extend((!nodes.is_empty()).then_some(Note::Own(why)));
            return out;
        }
    };
    if backend == Backend::Vxlan {
        out.device = Some(Device {
            vni: VNI,
            port: PORT,
            local: address,
            mac: mac(own.range.v4),
            mtu: backend.pod_mtu(link.mtu),
            addresses: own.range.iter().map(vtep).collect(),
            up: true,
        });
    }
    if own.range.v6.is_some() && backend.pod_mtu(link.mtu) < MIN_IPV6_MTU {
        let (name, mtu) = (&link.name, backend.pod_mtu(link.mtu));
        let why =
            format!("{name} leaves them packets of {mtu} bytes, and IPv6 needs {MIN_IPV6_MTU}; give it a larger MTU");
        out.notes.insert(Note::OwnV6(why));
    }
    let mut taken: Vec<(IpNet, &str)> = own.range.iter().map(|range| (range, own.name.as_str())).collect();
    for node in nodes {
        let refuse = |why: String| Note::Node(node.name.clone(), why);
        let Some(at) = node.address().filter(|a| !a.is_loopback()) else {
            out.notes.insert(refuse("it has no IPv4 address that leads to it".into()));
            continue;
        };
        if at == address {
            out.notes
                .insert(refuse(format!("it has the address of this one, {at}; delete the Node if it is a leftover")));
            continue;
        }
        // What stands for the node on our device: the MAC address of its own, by its first range that is routed.
        let mut stands = None;
        for range in own.range.families().flat_map(|f| node.ranges.iter().copied().filter(move |r| f.has(&r.addr()))) {
            let via = match way(backend, link, node, range, &taken) {
                Ok(via) => via,
                Err(why) => {
                    let of_ipv4 = range.addr().is_ipv4();
                    out.notes.insert(if of_ipv4 { refuse(why) } else { Note::NodeV6(node.name.clone(), why) });
                    continue;
                }
            };
            if let Via::Device(gateway) = via {
                let of_range = if let IpNet::V4(v4) = range { Some(mac(v4)) } else { stands };
                // Without one its range of IPv4 was refused, and that was told.
                let Some(mac) = of_range else { continue };
                stands.get_or_insert(mac);
                out.neighbours.insert(gateway, mac);
                out.forwards.insert(mac, at);
            }
            taken.push((range, &node.name));
            out.routes.insert(range, via);
        }
    }
    out
}

/// How packets get to a range of a node, or why not.
fn way(backend: Backend, link: &Link, node: &Peer, range: IpNet, taken: &[(IpNet, &str)]) -> Result<Via, String> {
    let via = if backend == Backend::HostGw {
        Via::Link(Some(node.gateway(Family::of(range.addr()), link)?), link.name.clone())
    } else {
        Via::Device(vtep(range))
    };
    match taken.iter().find(|(r, _)| r.contains(&range) || range.contains(r)) {
        Some((other, whose)) => {
            Err(format!("its range {range} overlaps {other} of node {whose}, which has it already"))
        }
        None => Ok(via),
    }
}

/// This node's IPv4 address and where it is, or why there is none to use.
fn usable(own: &Own) -> Result<(Ipv4Addr, &Link), String> {
    let IpAddr::V4(address) = own.address else {
        return Err(format!(
            "this node's address is {}, and the overlay knows only IPv4; give one with --node-ip",
            own.address
        ));
    };
    if address.is_loopback() {
        return Err("this node has no address but a loopback one; give one with --node-ip".into());
    }
    match &own.link {
        Some(link) => Ok((address, link)),
        None => Err(format!("this node's address {address} is on no interface; give one that is with --node-ip")),
    }
}

/// What leads from `have` to `want`, and what of the kernel's is in the way.
pub fn steps(want: &Wanted, have: &Kernel) -> (Vec<Step>, BTreeSet<Note>) {
    let mut steps = Vec::new();
    let fresh = device_steps(want.device.as_ref(), have, &mut steps);
    let nothing = Kernel::default();
    let on_device = if fresh { &nothing } else { have };
    let ours = |r: &&Route| r.ours && !(fresh && matches!(r.via, Via::Device(_)));
    let (mut notes, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for route in have.routes.iter().filter(ours) {
        match want.routes.get(&route.to) {
            Some(via) if *via == route.via => drop(kept.insert(route.to)),
            // A route that only changes its way is replaced: there is no moment without one. With IPv6 the old one has to go
            // first: the kernel would look for the new gateway where it leads.
            Some(_) if route.to.addr().is_ipv4() => {}
            _ => steps.push(Step::DropRoute(route.to, route.via.clone())),
        }
    }
    for (address, mac) in &want.neighbours {
        if on_device.neighbours.get(address) != Some(mac) {
            steps.push(Step::PutNeighbour(*address, *mac));
        }
    }
    for (mac, node) in &want.forwards {
        if on_device.forwards.get(mac) != Some(node) {
            steps.push(Step::PutForward(*mac, *node));
        }
    }
    // Routes last: nothing is sent before the kernel knows where to.
    for (to, via) in want.routes.iter().filter(|(to, _)| !kept.contains(*to)) {
        match have.routes.iter().find(|r| !r.ours && r.to == *to) {
            Some(foreign) => drop(notes.insert(Note::Foreign(*to, foreign.via.to_string()))),
            None => steps.push(Step::PutRoute(*to, via.clone())),
        }
    }
    let gone = on_device.neighbours.keys().filter(|a| !want.neighbours.contains_key(*a));
    steps.extend(gone.map(|a| Step::DropNeighbour(*a)));
    let gone = on_device.forwards.keys().filter(|m| !want.forwards.contains_key(*m));
    steps.extend(gone.map(|m| Step::DropForward(*m)));
    (steps, notes)
}

/// Brings the device where it should be. True when it is made anew, or removed: nothing of what hung on it is there then.
fn device_steps(want: Option<&Device>, have: &Kernel, steps: &mut Vec<Step>) -> bool {
    let Some(want) = want else {
        if have.device.is_some() {
            steps.push(Step::RemoveDevice);
        }
        return have.device.is_some();
    };
    let fixed = |d: &Device| (d.vni, d.port, d.local, d.mac);
    let same = have.device.as_ref().filter(|d| fixed(d) == fixed(want));
    let Some(have_device) = same else {
        if have.name_taken {
            steps.push(Step::RemoveDevice);
        }
        steps.push(Step::AddDevice(want.clone()));
        steps.extend(want.addresses.iter().map(|a| Step::AddAddress(*a)));
        steps.push(Step::SetUp);
        return true;
    };
    if have_device.mtu != want.mtu {
        steps.push(Step::SetMtu(want.mtu));
    }
    steps.extend(want.addresses.difference(&have_device.addresses).map(|a| Step::AddAddress(*a)));
    steps.extend(have_device.addresses.difference(&want.addresses).map(|a| Step::DropAddress(*a)));
    if !have_device.up {
        steps.push(Step::SetUp);
    }
    false
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
