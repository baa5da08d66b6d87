//! Masquerading of what leaves the pod network, and host ports: one nftables table made from the reservations.
//!
//! **Invariant:** the table is always written as a whole, under the lock of the reservations.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use nlink::netlink::Netfilter;
use nlink::netlink::connection::Connection;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::nftables::{
    BaseChain, Chain, Expr, Family, LookupExpr, NatHook, Priority, Register, Rule, Set, SetDataType, SetElement,
    SetKeyType, Transaction,
};

use super::ipam::Reservation;
use super::spec::{Error, NetConfig, Result};
use crate::util::nft;

const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_AT: &str = "host-ports-at";
const HAIRPINS: &str = "hairpins";
/// Chains and sets of the table.
const PARTS: u32 = 6;
/// Multicast: never masqueraded.
const MULTICAST: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 0);
/// Prefix length of [`MULTICAST`].
const MULTICAST_BITS: u8 = 4;

/// Elements of the table's maps.
#[derive(Debug, Default)]
struct Ports {
    anywhere: Vec<SetElement>,
    at: Vec<SetElement>,
    hairpins: Vec<SetElement>,
}

impl Ports {
    fn of(reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Self {
        let mut all = Self::default();
        for (pod, reservation) in reserved {
            let mapped = reservation.port_mappings.iter().filter(|m| m.host_port != 0);
            let mut any = false;
            for (mapping, protocol) in mapped.filter_map(|m| Some((m, m.protocol()?.number()))) {
                let to = nft::endpoint_value(SocketAddrV4::new(*pod, mapping.container_port));
                match mapping.address() {
                    None => all.anywhere.push(nft::port_key(protocol, mapping.host_port).value(to)),
                    Some(at) => all.at.push(nft::address_key(at, protocol, mapping.host_port).value(to)),
                }
                any = true;
            }
            if any {
                all.hairpins.push(SetElement::concat([SetElement::ipv4(*pod), SetElement::ipv4(*pod)]));
            }
        }
        all
    }
}

/// Writes the table anew.
pub async fn install(config: &NetConfig, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Result<()> {
    write(config, reserved).await.map_err(|e| Error::network(format!("write nftables table {}", config.table), e))
}

/// Writes the table when it is not there.
pub async fn ensure(config: &NetConfig, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> Result<()> {
    let there = async { nft::table_use(&nft::connect()?, &config.table).await }.await;
    match there {
        Ok(Some(PARTS)) => Ok(()),
        _ => install(config, reserved).await,
    }
}

/// Forgets UDP flows of host ports that led to a pod which is gone: the next ones go elsewhere.
pub async fn forget(pod: Ipv4Addr) {
    if let Ok(conn) = Connection::<Netfilter>::new() {
        let _ = conn.flush_conntrack_matching(&ConntrackFilter::new().proto(IpProtocol::Udp).reply_src(pod)).await;
    }
}

async fn write(config: &NetConfig, reserved: &BTreeMap<Ipv4Addr, Reservation>) -> nft::Result<()> {
    use SetKeyType::{InetProto, InetService, Ipv4Addr as Address};
    let conn = nft::connect()?;
    let table = config.table.as_str();
    let set = |name: &str, key: &[SetKeyType]| {
        Set::new(table, name).family(Family::Ip).key_type(SetKeyType::Concat(key.to_vec()))
    };
    let endpoint = || SetDataType::Value(SetKeyType::Concat(vec![Address, InetService]));
    let anywhere = set(HOST_PORTS, &[InetProto, InetService]).map(endpoint());
    let at = set(HOST_PORTS_AT, &[Address, InetProto, InetService]).map(endpoint());
    let hairpins = set(HAIRPINS, &[Address, Address]);
    let rule =
        |chain: &str, exprs: Vec<Expr>| exprs.into_iter().fold(Rule::new(table, chain).family(Family::Ip), Rule::expr);
    let mut t = nft::fresh_table(conn.transaction(), table);
    for set in [&anywhere, &at, &hairpins] {
        t = t.add_set(set.clone());
    }
    for (name, hook) in [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)] {
        let chain = Chain::new(table, name)?.family(Family::Ip).base(BaseChain::nat(hook, Priority::DstNat));
        t = t.add_chain(chain).add_rule(rule(name, to_port_at())).add_rule(rule(name, to_port()));
    }
    let name = "postrouting";
    let chain =
        Chain::new(table, name)?.family(Family::Ip).base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    t = t.add_chain(chain);
    for exprs in [hairpin(), leaves(config), comes_from_elsewhere(config)] {
        t = t.add_rule(rule(name, exprs));
    }
    let ports = Ports::of(reserved);
    for (set, elements) in [(&anywhere, ports.anywhere), (&at, ports.at), (&hairpins, ports.hairpins)] {
        t = elements.chunks(nft::ELEMENTS_PER_MESSAGE).fold(t, |t: Transaction, some| t.add_set_elements(set, some));
    }
    t.commit(&conn).await
}

fn to_port_at() -> Vec<Expr> {
    let mut exprs = vec![nft::destination(Register::Reg32_00)];
    exprs.extend(nft::protocol_and_port(Register::Reg32_01, Register::Reg32_02));
    exprs.push(nft::value_map(HOST_PORTS_AT, Register::Reg32_00, Register::Reg32_09));
    exprs.push(nft::dnat(Register::Reg32_09, Register::Reg32_10));
    exprs
}

fn to_port() -> Vec<Expr> {
    let mut exprs = nft::to_this_node().to_vec();
    exprs.extend(nft::protocol_and_port(Register::Reg32_00, Register::Reg32_01));
    exprs.push(nft::value_map(HOST_PORTS, Register::Reg32_00, Register::Reg32_09));
    exprs.push(nft::dnat(Register::Reg32_09, Register::Reg32_10));
    exprs
}

fn hairpin() -> Vec<Expr> {
    vec![
        nft::source(Register::Reg32_00),
        nft::destination(Register::Reg32_01),
        LookupExpr::new(HAIRPINS, Register::Reg32_00).into(),
        nft::masquerade(),
    ]
}

/// What is not of a pod but goes to a pod of another node gets this node's address in the overlay, or the answer would go
/// past it: the other node knows a shorter way to whoever asked. What arrives for this node's own pods keeps its source.
fn comes_from_elsewhere(config: &NetConfig) -> Vec<Expr> {
    nft::from_network(config.cluster_cidr, false)
        .into_iter()
        .chain(nft::to_network(config.cluster_cidr, true))
        .chain(nft::to_network(config.subnet, false))
        .chain([nft::masquerade()])
        .collect()
}

fn leaves(config: &NetConfig) -> Vec<Expr> {
    let multicast = ipnet::Ipv4Net::new(MULTICAST, MULTICAST_BITS).expect("a prefix of 4 bits is one");
    nft::from_network(config.subnet, true)
        .into_iter()
        .chain(nft::to_network(config.cluster_cidr, false))
        .chain(nft::to_network(multicast, false))
        .chain([nft::masquerade()])
        .collect()
}
