//! Masquerading of what leaves the pod network, and host ports: one nftables table for each address family, made from the
//! reservations.
//!
//! **Invariant:** a table is always written as a whole, under the lock of the reservations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use nlink::netlink::Netfilter;
use nlink::netlink::connection::Connection;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::nftables::{
    BaseChain, Chain, Expr, LookupExpr, NatHook, Priority, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction,
};

use super::ipam::Reservation;
use super::spec::{Error, HostAddress, NetConfig, Result};
use crate::util::families::Family;
use crate::util::nft::{self, word, words};

const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_AT: &str = "host-ports-at";
const HAIRPINS: &str = "hairpins";
/// Where the pod's address and port stand in registers, once they were looked up.
const TARGET: usize = 9;
/// Chains and sets of a table.
const PARTS: u32 = 6;

/// The networks of a family that rules name.
#[derive(Debug, Clone, Copy)]
struct Side {
    family: Family,
    /// This node's pods.
    subnet: IpNet,
    /// All pods.
    cluster: IpNet,
}

impl Side {
    /// Of each family of the network.
    fn all(config: &NetConfig) -> impl Iterator<Item = Self> {
        let families = config.subnet.families();
        families.filter_map(|family| {
            Some(Self { family, subnet: config.subnet.of(family)?, cluster: config.cluster_cidr.of(family)? })
        })
    }

    /// Multicast: never masqueraded.
    fn multicast(self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::new_assert(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            Family::V6 => IpNet::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        }
    }
}

/// Elements of a table's maps.
#[derive(Debug, Default)]
struct Ports {
    anywhere: Vec<SetElement>,
    at: Vec<SetElement>,
    hairpins: Vec<SetElement>,
}

impl Ports {
    fn of(config: &NetConfig, family: Family, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Self {
        let mut all = Self::default();
        for (address, reservation) in reserved {
            let Some(pod) = config.address_of(family, *address) else { continue };
            let mapped = reservation.port_mappings.iter().filter(|m| m.host_port != 0);
            let mut any = false;
            for (mapping, protocol) in mapped.filter_map(|m| Some((m, m.protocol()?.number()))) {
                let to = nft::endpoint_value(SocketAddr::new(pod, mapping.container_port));
                match mapping.on(family, config.subnet.v6.is_some()) {
                    None => continue,
                    Some(HostAddress::Any) => all.anywhere.push(nft::port_key(protocol, mapping.host_port).value(to)),
                    Some(HostAddress::One(at)) => {
                        all.at.push(nft::address_key(at, protocol, mapping.host_port).value(to));
                    }
                }
                any = true;
            }
            if any {
                all.hairpins.push(SetElement::concat([nft::address(pod), nft::address(pod)]));
            }
        }
        all
    }
}

/// Writes the tables anew.
pub async fn install(config: &NetConfig, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Result<()> {
    for side in Side::all(config) {
        let written = write(config, side, reserved).await;
        written.map_err(|e| Error::network(format!("write nftables table {}", config.table), e))?;
    }
    Ok(())
}

/// Writes the tables when one is not there.
pub async fn ensure(config: &NetConfig, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Result<()> {
    for side in Side::all(config) {
        let there = async { nft::table_use(&nft::connect()?, &config.table, side.family).await }.await;
        if !matches!(there, Ok(Some(PARTS))) {
            return install(config, reserved).await;
        }
    }
    Ok(())
}

/// Forgets UDP flows of host ports that led to a pod which is gone: the next ones go elsewhere.
pub async fn forget(config: &NetConfig, pod: Ipv4Addr) {
    if let Ok(conn) = Connection::<Netfilter>::new() {
        for address in [Some(IpAddr::V4(pod)), config.address6(pod).map(IpAddr::V6)].into_iter().flatten() {
            let flows = ConntrackFilter::new().proto(IpProtocol::Udp).reply_src(address);
            let _ = conn.flush_conntrack_matching(&flows).await;
        }
    }
}

async fn write(config: &NetConfig, side: Side, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> nft::Result<()> {
    use SetKeyType::{InetProto, InetService};
    let conn = nft::connect()?;
    let (table, family) = (config.table.as_str(), nft::table_family(side.family));
    let concat = |parts: &[&SetKeyType]| SetKeyType::Concat(parts.iter().map(|p| (*p).clone()).collect());
    let set = |name: &str, key: &[&SetKeyType]| Set::new(table, name).family(family).key_type(concat(key));
    let address = &nft::address_type(side.family);
    let endpoint = || SetDataType::Value(concat(&[address, &InetService]));
    let anywhere = set(HOST_PORTS, &[&InetProto, &InetService]).map(endpoint());
    let at = set(HOST_PORTS_AT, &[address, &InetProto, &InetService]).map(endpoint());
    let hairpins = set(HAIRPINS, &[address, address]);
    let rule =
        |chain: &str, exprs: Vec<Expr>| exprs.into_iter().fold(Rule::new(table, chain).family(family), Rule::expr);
    let mut t = nft::fresh_table(conn.transaction(), table, side.family);
    for set in [&anywhere, &at, &hairpins] {
        t = t.add_set(set.clone());
    }
    for (name, hook) in [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)] {
        let chain = Chain::new(table, name)?.family(family).base(BaseChain::nat(hook, Priority::DstNat));
        t = t.add_chain(chain).add_rule(rule(name, to_port_at(side.family))).add_rule(rule(name, to_port(side.family)));
    }
    let name = "postrouting";
    let chain = Chain::new(table, name)?.family(family).base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    t = t.add_chain(chain);
    for exprs in [hairpin(side.family), leaves(side), comes_from_elsewhere(side)] {
        t = t.add_rule(rule(name, exprs));
    }
    let ports = Ports::of(config, side.family, reserved);
    for (set, elements) in [(&anywhere, ports.anywhere), (&at, ports.at), (&hairpins, ports.hairpins)] {
        t = elements.chunks(nft::ELEMENTS_PER_MESSAGE).fold(t, |t: Transaction, some| t.add_set_elements(set, some));
    }
    t.commit(&conn).await
}

fn to_port_at(family: Family) -> Vec<Expr> {
    let after = words(family);
    let mut exprs = vec![nft::destination(family, word(0))];
    exprs.extend(nft::protocol_and_port(word(after), word(after + 1)));
    exprs.push(nft::value_map(HOST_PORTS_AT, word(0), word(TARGET)));
    exprs.push(to_target(family));
    exprs
}

fn to_port(family: Family) -> Vec<Expr> {
    let mut exprs = nft::to_this_node(family).to_vec();
    exprs.extend(nft::protocol_and_port(word(0), word(1)));
    exprs.push(nft::value_map(HOST_PORTS, word(0), word(TARGET)));
    exprs.push(to_target(family));
    exprs
}

fn to_target(family: Family) -> Expr {
    nft::dnat(family, word(TARGET), word(TARGET + words(family)))
}

fn hairpin(family: Family) -> Vec<Expr> {
    vec![
        nft::source(family, word(0)),
        nft::destination(family, word(words(family))),
        LookupExpr::new(HAIRPINS, word(0)).into(),
        nft::masquerade(),
    ]
}

/// What is not of a pod but goes to a pod of another node gets this node's address in the overlay, or the answer would go
/// past it: the other node knows a shorter way to whoever asked. What arrives for this node's own pods keeps its source.
fn comes_from_elsewhere(side: Side) -> Vec<Expr> {
    nft::from_network(side.cluster, false)
        .into_iter()
        .chain(nft::to_network(side.cluster, true))
        .chain(nft::to_network(side.subnet, false))
        .chain([nft::masquerade()])
        .collect()
}

fn leaves(side: Side) -> Vec<Expr> {
    nft::from_network(side.subnet, true)
        .into_iter()
        .chain(nft::to_network(side.cluster, false))
        .chain(nft::to_network(side.multicast(), false))
        .chain([nft::masquerade()])
        .collect()
}
