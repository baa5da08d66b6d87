//! The bridge, the pair of interfaces of a pod, addresses and routes.
//!
//! A pod has its address as a /32 and one way out, the bridge's address. So every packet between two pods of a node goes
//! through the node's routing, never past it on the bridge: replies meet the connection tracking that rewrote the request,
//! whether the kernel has br_netfilter or not. With IPv6 it is the same with a /128; no interface of orch's looks for others
//! that have its address, which are made so that there are none, or takes a router's word.
//!
//! **Invariant:** every step can be done again.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures::StreamExt;
use nlink::Route;
use nlink::netlink::OwnedEventStream;
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::connection::{Connection, RtnetlinkGroup};
use nlink::netlink::events::NetworkEvent;
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VethLink};
use nlink::netlink::namespace::Netns;
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::types::route::RouteScope;

use super::spec::{Code, Error, NetConfig, Result};
use crate::util::families::{Family, Networks};
use crate::util::sysctl;

/// First bytes of pods' MAC addresses, locally administered; the address follows. The same address has the same MAC, so no
/// neighbour remembers a wrong one.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// Beginning of the names of host ends; [`HASH_DIGITS`] follow.
const HOST_PREFIX: &str = "veth";
/// Hexadecimal digits in a host end's name.
const HASH_DIGITS: usize = 11;

/// The MAC address that goes with an address.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

/// The host end's name: fixed by container and interface, 15 bytes at most.
pub fn host_name(container: &str, interface: &str) -> String {
    // FNV-1a: spread, not secrecy.
    let hash = container
        .bytes()
        .chain([0])
        .chain(interface.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{HOST_PREFIX}{:0HASH_DIGITS$x}", hash >> 20)
}

fn connect() -> Result<Connection<Route>> {
    Connection::<Route>::new().map_err(|e| Error::network("open a netlink socket", e))
}

/// Makes the bridge what it should be.
pub async fn ensure_bridge(config: &NetConfig) -> Result<()> {
    let conn = connect()?;
    let name = config.bridge.as_str();
    let failed = |e| Error::network(format!("set up bridge {name}"), e);
    if conn.get_link_by_name(name).await.map_err(failed)?.is_none() {
        // It has the least MTU of its ports, unless somebody sets one: the bridge drops what is too large for a pod, silently.
        let bridge = BridgeLink::new(name).address(mac(config.gateway()));
        match conn.add_link(bridge).await {
            Err(e) if e.is_already_exists() => {}
            other => other.map_err(failed)?,
        }
    }
    let address = Ipv4Address::new(name, config.gateway(), config.subnet.v4.prefix_len());
    match conn.add_address(address).await {
        Err(e) if e.is_already_exists() => {}
        other => other.map_err(failed)?,
    }
    if let (Some(gateway), Some(net)) = (config.gateway6(), config.subnet.v6) {
        prepare_ipv6(name)?;
        match conn.add_address(Ipv6Address::new(name, gateway, net.prefix_len()).nodad()).await {
            Err(e) if e.is_already_exists() => {}
            other => other.map_err(failed)?,
        }
        sysctl::forward_ipv6().map_err(|e| Error::io("let this machine forward IPv6 packets", &e))?;
    }
    conn.set_link_up(name).await.map_err(failed)?;
    set_sysctl("net/ipv4/ip_forward", "1", true)?;
    // Pods are neighbours on the bridge, but are not to speak past the node: no hints that they could.
    for conf in ["all", name] {
        set_sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0", false)?;
    }
    Ok(())
}

/// Makes the bridge ready for an IPv6 address, or says why none can be had.
fn prepare_ipv6(bridge: &str) -> Result<()> {
    if !sysctl::has_ipv6() {
        let why = "this cluster's pods have IPv6 addresses, and this machine's kernel has no IPv6: boot it without \
                   ipv6.disable=1, or leave the IPv6 ranges out of --cluster-cidr and --service-cidr";
        return Err(Error::new(Code::Network, why));
    }
    set_sysctl(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "0", true)?;
    for (setting, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
        set_sysctl(&format!("net/ipv6/conf/{bridge}/{setting}"), value, false)?;
    }
    Ok(())
}

/// Gives the node's own packets to Services routes. Their destination is rewritten before they leave, but without any
/// route (a machine without a default one) they would not even start.
pub async fn ensure_service_routes(config: &NetConfig, services: Networks) -> Result<()> {
    let failed = |e| Error::network(format!("route {services} to {}", config.bridge), e);
    let (conn, bridge) = (connect()?, config.bridge.as_str());
    let route = Ipv4Route::from_addr(services.v4.network(), services.v4.prefix_len()).dev(bridge);
    conn.replace_route(route.scope(RouteScope::Link).prefsrc(config.gateway())).await.map_err(failed)?;
    if let (Some(gateway), Some(net)) = (config.gateway6(), services.v6) {
        let route = Ipv6Route::from_addr(net.network(), net.prefix_len()).dev(bridge);
        conn.replace_route(route.prefsrc(gateway)).await.map_err(failed)?;
    }
    Ok(())
}

fn set_sysctl(name: &str, value: &str, needed: bool) -> Result<()> {
    match sysctl::ensure(name, value) {
        Err(e) if needed => Err(Error::io(format!("set {} to {value}", sysctl::path(name).display()), &e)),
        _ => Ok(()),
    }
}

/// Connects a pod; what an earlier attempt left is replaced.
pub async fn attach(config: &NetConfig, netns: &str, interface: &str, host: &str, address: Ipv4Addr) -> Result<()> {
    let conn = connect()?;
    let failed = |e| Error::network(format!("connect {interface} of {netns} with {host}"), e);
    conn.del_link_if_exists(host).await.map_err(failed)?;
    let inside = Netns::from_path(netns)
        .map_err(|e| Error::new(Code::UnknownContainer, format!("cannot open network namespace {netns}: {e}")))?;
    let mut pair = VethLink::new(host, interface).peer_address(mac(address)).peer_netns_fd(&inside);
    if config.mtu != 0 {
        pair = pair.mtu(config.mtu);
    }
    conn.add_link(pair).await.map_err(failed)?;
    plug_in(&conn, host, &config.bridge).await.map_err(failed)?;
    for conf in ["all", interface] {
        let _ = inside.sysctl().set(&format!("net.ipv4.conf.{conf}.accept_redirects"), "0");
    }
    if config.subnet.v6.is_some() {
        let settings = [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0")];
        for (setting, value) in settings {
            let _ = inside.sysctl().set(&format!("net.ipv6.conf.{interface}.{setting}"), value);
        }
    }
    configure_inside(netns, interface, address, config.gateway()).await.map_err(failed)?;
    if let (Some(address), Some(gateway)) = (config.address6(address), config.gateway6()) {
        configure_ipv6_inside(netns, interface, address, gateway).await.map_err(failed)?;
    }
    Ok(())
}

/// Makes the host end a port of the bridge.
async fn plug_in(conn: &Connection<Route>, host: &str, bridge: &str) -> nlink::Result<()> {
    conn.set_link_master(host, bridge).await?;
    // A pod may reach itself through a Service.
    conn.set_bridge_port(host, BridgePortConfig::new().hairpin(true)).await?;
    conn.set_link_up(host).await
}

/// Makes these host ends ports of the bridge again; those that are gone are left out.
pub async fn plug_in_again(config: &NetConfig, hosts: &[String]) -> Result<()> {
    let conn = connect()?;
    for host in hosts {
        let failed = |e| Error::network(format!("connect {host} with {}", config.bridge), e);
        if conn.get_link_by_name(host.as_str()).await.map_err(failed)?.is_some() {
            plug_in(&conn, host, &config.bridge).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Takes the host ends off the bridge that belong to no reservation: another data directory's pods, which nobody disconnected
/// before it was removed. They answer to addresses that are given out anew. Gives back their names; ports of anybody else
/// are left alone.
pub async fn remove_strays(config: &NetConfig, own: &HashSet<String>) -> Result<Vec<String>> {
    let conn = connect()?;
    let failed = |e| Error::network(format!("look at the ports of bridge {}", config.bridge), e);
    let Some(bridge) = conn.get_link_by_name(config.bridge.as_str()).await.map_err(failed)? else {
        return Ok(Vec::new());
    };
    let links = conn.get_links().await.map_err(failed)?;
    let ports = links.iter().filter(|l| l.master() == Some(bridge.ifindex())).filter_map(|l| l.name());
    let strays: Vec<String> = ports.filter(|n| is_host_name(n) && !own.contains(*n)).map(str::to_owned).collect();
    for stray in &strays {
        conn.del_link_if_exists(stray).await.map_err(failed)?;
    }
    Ok(strays)
}

/// True for a name that [`host_name`] gives.
fn is_host_name(name: &str) -> bool {
    let hash = name.strip_prefix(HOST_PREFIX).unwrap_or_default();
    hash.len() == HASH_DIGITS && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Word of what becomes of the bridge.
pub struct BridgeWatch {
    events: OwnedEventStream<Route>,
    bridge: String,
    gateways: Vec<IpAddr>,
}

impl BridgeWatch {
    /// Watches from now on.
    pub async fn new(config: &NetConfig) -> Result<Self> {
        let conn = connect()?;
        let failed = |e| Error::network("watch interfaces", e);
        conn.subscribe(&[RtnetlinkGroup::Link, RtnetlinkGroup::Ipv4Addr]).map_err(failed)?;
        if config.subnet.v6.is_some() {
            conn.subscribe(&[RtnetlinkGroup::Ipv6Addr]).map_err(failed)?;
        }
        let gateways = [Some(config.gateway().into()), config.gateway6().map(IpAddr::V6)];
        let gateways = gateways.into_iter().flatten().collect();
        Ok(Self { events: conn.into_events().await, bridge: config.bridge.clone(), gateways })
    }

    /// Waits until somebody removes the bridge or an address of it. An error means that events were lost.
    pub async fn lost(&mut self) -> nlink::Result<()> {
        loop {
            match self.events.next().await {
                None => return Err(std::io::Error::other("interface events ended").into()),
                Some(Err(error)) => return Err(error),
                Some(Ok(NetworkEvent::DelLink(link))) if link.name() == Some(&self.bridge) => return Ok(()),
                Some(Ok(NetworkEvent::DelAddress(a)))
                    if a.primary_address().is_some_and(|gone| self.gateways.contains(gone)) =>
                {
                    return Ok(());
                }
                Some(Ok(_)) => {}
            }
        }
    }
}

async fn configure_inside(netns: &str, interface: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> nlink::Result<()> {
    let conn = Connection::<Route>::new_in(Path::new(netns))?;
    conn.set_link_up("lo").await?;
    conn.add_address(Ipv4Address::new(interface, address, 32)).await?;
    conn.set_link_up(interface).await?;
    conn.add_route(Ipv4Route::new(gateway, 32).dev(interface).scope(RouteScope::Link)).await?;
    conn.add_route(Ipv4Route::default_route().gateway(gateway).dev(interface)).await
}

async fn configure_ipv6_inside(
    netns: &str,
    interface: &str,
    address: Ipv6Addr,
    gateway: Ipv6Addr,
) -> nlink::Result<()> {
    let conn = Connection::<Route>::new_in(Path::new(netns))?;
    conn.add_address(Ipv6Address::new(interface, address, 128).nodad()).await?;
    conn.add_route(Ipv6Route::new(gateway, 128).dev(interface)).await?;
    conn.add_route(Ipv6Route::default_route().gateway(gateway).dev(interface)).await
}

/// Brings up the loopback interface of a namespace.
pub async fn loopback_up(netns: &str) -> Result<()> {
    let failed = |e| Error::network(format!("bring up lo of {netns}"), e);
    let conn = Connection::<Route>::new_in(Path::new(netns)).map_err(failed)?;
    conn.set_link_up("lo").await.map_err(failed)
}

/// Disconnects a pod; one that is gone is fine.
pub async fn detach(host: &str) -> Result<()> {
    let gone = connect()?.del_link_if_exists(host).await;
    gone.map(drop).map_err(|e| Error::network(format!("remove {host}"), e))
}

/// True when the pod's interface has the address, and the IPv6 one that goes with it.
pub async fn is_attached(config: &NetConfig, netns: &str, interface: &str, address: Ipv4Addr) -> Result<bool> {
    let failed = |e| Error::network(format!("look into {netns}"), e);
    let conn = Connection::<Route>::new_in(Path::new(netns)).map_err(failed)?;
    if conn.get_link_by_name(interface).await.map_err(failed)?.is_none() {
        return Ok(false);
    }
    let addresses = conn.get_addresses_by_name(interface).await.map_err(failed)?;
    let has = |wanted: IpAddr| addresses.iter().any(|a| a.address().is_some_and(|found| *found == wanted));
    Ok(Family::ALL.into_iter().filter_map(|f| config.address_of(f, address)).all(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let (a, b) = (host_name("0123456789abcdef", "eth0"), host_name("0123456789abcdef", "eth1"));
        assert_eq!((a.len(), a == b, host_name("0123456789abcdef", "eth0") == a), (15, false, true));
        let ours = [a.as_str(), "veth0", "vethABCDEFABCDE", "eth0", "veth0123456789ab"].map(is_host_name);
        assert_eq!(ours, [true, false, false, false, false]);
    }
}
