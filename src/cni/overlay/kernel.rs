//! The overlay's effects: what the kernel has, one change of it, and word of what others change.
//!
//! **Invariant:** every change can be made again; what should go and is gone is fine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures::StreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nlink::Route as Rtnetlink;
use nlink::netlink::OwnedEventStream;
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::connection::{Connection, RtnetlinkGroup};
use nlink::netlink::events::NetworkEvent;
use nlink::netlink::fdb::FdbEntryBuilder;
use nlink::netlink::link::VxlanLink;
use nlink::netlink::messages::{LinkMessage, RouteMessage};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::types::route::{RouteProtocol, RouteType};

use super::plan::{Device, Kernel, Link, Mac, Route, Step, Via};
use crate::util::families::{Family, Networks};
use crate::util::sysctl;

/// The number that orch's routes carry, as daemons that make routes have each their own; free in iproute2's list.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6f);
/// The main routing table.
const MAIN_TABLE: u32 = 254;
/// The priority of an IPv6 route that was given none.
const IPV6_PRIORITY: u32 = 1024;
/// Attributes of a vxlan device: `IFLA_VXLAN_*`.
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_PORT: u16 = 15;

/// What a change could not be made for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no vxlan.
    #[error(
        "this kernel has no vxlan, so pods of other nodes cannot be reached; load the module (modprobe vxlan), or use \
         --flannel-backend=host-gw where all nodes are in one subnet"
    )]
    NoVxlan,
    /// Another device listens where ours would.
    #[error(
        "another vxlan device has the identifier or the port that orch's needs; remove it (flannel's is flannel.1)"
    )]
    PortTaken,
    /// A change failed.
    #[error("cannot do {what}: {why}")]
    Step {
        /// Which.
        what: String,
        /// Why.
        why: nlink::Error,
    },
    /// Asking or watching failed.
    #[error("cannot look at interfaces and routes: {0}")]
    Look(#[from] nlink::Error),
}

/// Finds the interface that has an address.
pub async fn find_link(conn: &Connection<Rtnetlink>, address: IpAddr) -> Result<Option<Link>, Error> {
    let IpAddr::V4(_) = address else { return Ok(None) };
    let all = conn.get_addresses().await?;
    let Some(index) = all.iter().find(|a| a.primary_address() == Some(&address)).map(|a| a.ifindex()) else {
        return Ok(None);
    };
    let on_it = all.iter().filter(|a| a.ifindex() == index);
    let networks = on_it.filter_map(|a| IpNet::new(*a.primary_address()?, a.prefix_len()).ok()).map(|net| net.trunc());
    let networks = networks.collect();
    let link = conn.get_link_by_index(index).await?;
    Ok(link.and_then(|l| Some(Link { index, name: l.name()?.to_owned(), mtu: l.mtu()?, networks })))
}

/// Reads what there is of the device `name` and of routes into `cluster`.
pub async fn read(conn: &Connection<Rtnetlink>, name: &str, cluster: Networks) -> Result<Kernel, Error> {
    let of_ours = |address: &IpAddr| cluster.of(Family::of(*address)).is_some();
    let names = conn.get_interface_names().await?;
    let found = conn.get_link_by_name(name).await?;
    let index = found.as_ref().map(LinkMessage::ifindex);
    let mut out = Kernel { name_taken: found.is_some(), ..Kernel::default() };
    for route in conn.get_routes_for_table(MAIN_TABLE).await? {
        out.routes.extend(read_route(&route, index, &names).filter(|r| cluster.iter().any(|net| net.contains(&r.to))));
    }
    let (Some(link), Some(index)) = (found, index) else { return Ok(out) };
    let Some(mut device) = read_device(&link) else { return Ok(out) };
    for address in conn.get_addresses_by_index(index).await? {
        // The kernel gives a link its own address in IPv6.
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(six) if six.is_unicast_link_local());
        device.addresses.extend(address.primary_address().filter(|a| of_ours(a) && !link_local(a)));
    }
    out.device = Some(device);
    for neighbour in conn.get_neighbors_by_index(index).await? {
        if let (Some(to), Some(mac), true) = (
            neighbour.destination().filter(|a| of_ours(a)),
            neighbour.lladdr().and_then(as_mac),
            neighbour.is_permanent(),
        ) {
            out.neighbours.insert(*to, mac);
        }
    }
    for entry in conn.get_fdb_by_index(index).await? {
        if let Some(IpAddr::V4(node)) = entry.dst() {
            out.forwards.insert(entry.mac(), node);
        }
    }
    Ok(out)
}

fn as_mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok()
}

/// A unicast route with the normal priority; others never conflict with ours.
fn read_route(
    route: &RouteMessage,
    device: Option<u32>,
    names: &std::collections::HashMap<u32, String>,
) -> Option<Route> {
    let to = *route.destination()?;
    let normal = if to.is_ipv4() { 0 } else { IPV6_PRIORITY };
    if route.route_type() != RouteType::Unicast || route.priority().unwrap_or(0) != normal {
        return None;
    }
    let gateway = route.gateway().copied().filter(|g| g.is_ipv4() == to.is_ipv4());
    let via = match (route.oif(), gateway) {
        (oif, Some(gateway)) if oif.is_some() && oif == device => Via::Device(gateway),
        (oif, gateway) => Via::Link(gateway, oif.and_then(|i| names.get(&i)).cloned().unwrap_or_default()),
    };
    Some(Route { to: IpNet::new(to, route.dst_len()).ok()?, via, ours: route.protocol() == PROTOCOL })
}

/// What a vxlan device says of itself; none for a device of another kind.
fn read_device(link: &LinkMessage) -> Option<Device> {
    let data = link.link_info().filter(|i| i.kind() == Some("vxlan"))?.data()?;
    let fields = attributes(data);
    let array = |kind: u16| fields.get(&kind).and_then(|v| <[u8; 4]>::try_from(*v).ok());
    let port = fields.get(&VXLAN_PORT).and_then(|v| <[u8; 2]>::try_from(*v).ok())?;
    Some(Device {
        vni: u32::from_ne_bytes(array(VXLAN_ID)?),
        port: u16::from_be_bytes(port),
        local: array(VXLAN_LOCAL).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from),
        mac: link.address().and_then(as_mac)?,
        mtu: link.mtu()?,
        addresses: BTreeSet::new(),
        up: link.is_up(),
    })
}

/// Netlink attributes: length and kind of two bytes each, the value, padding to four.
fn attributes(mut data: &[u8]) -> BTreeMap<u16, &[u8]> {
    let mut out = BTreeMap::new();
    while let [l0, l1, k0, k1, ..] = *data {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = data.get(4..length) else { break };
        // The two highest bits are flags.
        out.insert(u16::from_ne_bytes([k0, k1]) & 0x3fff, value);
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

/// Makes one change.
pub async fn apply(conn: &Connection<Rtnetlink>, name: &str, step: &Step) -> Result<(), Error> {
    match perform(conn, name, step).await {
        Err(why) => Err(explain(step, why)),
        Ok(()) => Ok(()),
    }
}

fn explain(step: &Step, why: nlink::Error) -> Error {
    match step {
        Step::AddDevice(_) if why.is_not_supported() => Error::NoVxlan,
        Step::AddDevice(_) if why.is_already_exists() || why.is_address_in_use() => Error::PortTaken,
        _ => Error::Step { what: format!("{step:?}"), why },
    }
}

async fn perform(conn: &Connection<Rtnetlink>, name: &str, step: &Step) -> nlink::Result<()> {
    let entry = |mac: Mac, node: Option<Ipv4Addr>| {
        let entry = FdbEntryBuilder::new(mac).dev(name).self_();
        node.map_or(entry.clone(), |n| entry.dst(n.into()))
    };
    match step {
        Step::RemoveDevice => conn.del_link_if_exists(name).await.map(drop),
        Step::AddDevice(device) => {
            // Without a checksum around a packet that has its own, as RFC 7348 has it: inner offloads stay. The outer packet
            // comes from the node's address, which no rule of orch translates: kernels before 5.7 spoil what they translate.
            let link = VxlanLink::new(name, device.vni).local(device.local).port(device.port).mtu(device.mtu);
            conn.add_link(link.address(device.mac).learning(false).udp_csum(false)).await?;
            // No router's word is taken from an overlay.
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
            Ok(())
        }
        Step::SetMtu(mtu) => conn.set_link_mtu(name, *mtu).await,
        Step::AddAddress(address) => {
            let added = match *address {
                IpAddr::V4(v4) => conn.add_address(Ipv4Address::new(name, v4, 32)).await,
                IpAddr::V6(v6) => {
                    let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
                    conn.add_address(Ipv6Address::new(name, v6, 128).nodad()).await
                }
            };
            added.or_else(|e| if e.is_already_exists() { Ok(()) } else { Err(e) })
        }
        Step::DropAddress(address) => {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            conn.del_address_if_exists(name, *address, bits).await.map(drop)
        }
        Step::SetUp => conn.set_link_up(name).await,
        Step::PutRoute(to, via) => match (to, gateway_of(name, via)) {
            (IpNet::V4(to), (gateway, link)) => conn.replace_route(route(*to, gateway, link, name)).await,
            (IpNet::V6(to), (gateway, link)) => conn.replace_route(route6(*to, gateway, link, name)).await,
        },
        Step::DropRoute(to, via) => match (to, gateway_of(name, via)) {
            (IpNet::V4(to), (gateway, link)) => conn.del_route_if_exists(route(*to, gateway, link, name)).await,
            (IpNet::V6(to), (gateway, link)) => conn.del_route_if_exists(route6(*to, gateway, link, name)).await,
        }
        .map(drop),
        Step::PutNeighbour(to, mac) => conn.replace_neighbor(Neighbor::new(name, *to).lladdr(*mac).permanent()).await,
        Step::DropNeighbour(to) => conn.del_neighbor_if_exists(Neighbor::new(name, *to)).await.map(drop),
        Step::PutForward(mac, node) => conn.replace_fdb(entry(*mac, Some(*node))).await,
        Step::DropForward(mac) => match conn.del_fdb_entry(entry(*mac, None)).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        },
    }
}

/// The gateway of a way, and the interface that it is behind.
fn gateway_of<'a>(device: &'a str, via: &'a Via) -> (Option<IpAddr>, &'a str) {
    match via {
        Via::Device(gateway) => (Some(*gateway), device),
        Via::Link(gateway, link) => (*gateway, link),
    }
}

fn route(to: Ipv4Net, gateway: Option<IpAddr>, link: &str, device: &str) -> Ipv4Route {
    let route = Ipv4Route::new(to.network(), to.prefix_len()).protocol(PROTOCOL).dev(link);
    match gateway {
        // No address of the device covers the gateway, which need not be asked for either.
        Some(IpAddr::V4(gateway)) if link == device => route.gateway(gateway).onlink(),
        Some(IpAddr::V4(gateway)) => route.gateway(gateway),
        _ => route,
    }
}

fn route6(to: Ipv6Net, gateway: Option<IpAddr>, link: &str, device: &str) -> Ipv6Route {
    let route = Ipv6Route::new(to.network(), to.prefix_len()).protocol(PROTOCOL).dev(link);
    match gateway {
        Some(IpAddr::V6(gateway)) if link == device => route.gateway(gateway).onlink(),
        Some(IpAddr::V6(gateway)) => route.gateway(gateway),
        _ => route,
    }
}

/// Word of changes that the overlay may have to mend.
pub struct Events {
    events: OwnedEventStream<Rtnetlink>,
    device: String,
    cluster: Networks,
}

impl Events {
    /// Watches from now on.
    pub async fn new(device: &str, cluster: Networks) -> Result<Self, Error> {
        let conn = Connection::<Rtnetlink>::new()?;
        conn.subscribe(&[RtnetlinkGroup::Link, RtnetlinkGroup::Ipv4Addr, RtnetlinkGroup::Ipv4Route])?;
        if cluster.v6.is_some() {
            conn.subscribe(&[RtnetlinkGroup::Ipv6Addr, RtnetlinkGroup::Ipv6Route])?;
        }
        Ok(Self { events: conn.into_events().await, device: device.to_owned(), cluster })
    }

    /// Waits for a change of the device, of the interface `link`, or for a route into the pods' network to go. An error
    /// means that events were lost.
    pub async fn next(&mut self, link: Option<u32>) -> Result<(), Error> {
        let in_cluster = |address: Option<&IpAddr>| address.is_some_and(|a| self.cluster.iter().any(|n| n.contains(a)));
        let concerns = |l: &LinkMessage| l.name() == Some(&*self.device) || Some(l.ifindex()) == link;
        loop {
            match self.events.next().await {
                None => return Err(nlink::Error::from(std::io::Error::other("interface events ended")).into()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(NetworkEvent::NewLink(l) | NetworkEvent::DelLink(l))) if concerns(&l) => return Ok(()),
                Some(Ok(NetworkEvent::NewAddress(a))) if Some(a.ifindex()) == link || link.is_none() => return Ok(()),
                Some(Ok(NetworkEvent::DelAddress(a)))
                    if Some(a.ifindex()) == link
                        || a.label() == Some(&*self.device)
                        // Those of IPv6 have no label.
                        || a.is_ipv6() && in_cluster(a.primary_address()) =>
                {
                    return Ok(());
                }
                Some(Ok(NetworkEvent::DelRoute(r))) if in_cluster(r.destination()) => return Ok(()),
                Some(Ok(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_what_is_cut_is_left() {
        let bytes = [8, 0, 1, 0, 1, 0, 0, 0, 6, 0, 15, 0, 0x21, 0x18, 0, 0, 9, 0, 4, 0];
        let read = attributes(&bytes);
        assert_eq!(read.get(&VXLAN_PORT).map(|v| v.to_vec()), Some(vec![0x21, 0x18]));
        assert_eq!(read.keys().copied().collect::<Vec<_>>(), [VXLAN_ID, VXLAN_PORT]);
    }

    #[test]
    fn what_the_kernel_lacks_is_told_with_the_way_out() {
        let device = Device {
            vni: 1,
            port: 8472,
            local: Ipv4Addr::LOCALHOST,
            mac: [0; 6],
            mtu: 1450,
            addresses: BTreeSet::new(),
            up: true,
        };
        let no = nlink::Error::from_errno;
        let told = explain(&Step::AddDevice(device), no(-95)).to_string();
        assert!(told.contains("modprobe vxlan") && told.contains("host-gw"), "{told}");
        assert!(matches!(explain(&Step::SetUp, no(-95)), Error::Step { .. }));
    }
}
