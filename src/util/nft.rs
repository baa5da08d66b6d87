//! nftables over netlink: what the Service proxy and the CNI plugin share.
//!
//! [`connect`] makes a connection that takes a whole ruleset in one transaction; the small functions below are the
//! expressions both use; [`Watch`] tells when somebody else changed a table.
//!
//! **Invariant:** a table is of the `ip` or the `ip6` family; both families are two tables of one name, with the same chains
//! and sets, so that whoever watches a name hears of both.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use futures::StreamExt;
use nix::sys::socket::{setsockopt, sockopt};
use nlink::netlink::connection::Connection;
use nlink::netlink::nftables::{
    CmpOp, Expr, Family as TableFamily, FibFlags, FibResult, LookupExpr, MetaKey, NftablesEvent, NftablesGroup,
    PayloadBase, RawExpr, RawMessage, Register, SetElement, SetKeyType, Transaction,
};
use nlink::netlink::{Nftables, OwnedEventStream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::families::Family;
use super::sys;

/// Bytes of one transaction at most: 10,000 Services take about a tenth of it.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 20;
/// Elements of one netlink message at most; an attribute's length has 16 bits.
pub const ELEMENTS_PER_MESSAGE: usize = 500;
/// Bytes of events that wait to be read. More are lost, which [`Watch`] tells.
const EVENT_BUFFER_BYTES: usize = 4 << 20;

/// `NFT_MSG_NEWTABLE`.
const NEW_TABLE: u8 = 0;
/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;
/// `RTN_LOCAL`: an address of this machine.
const ADDRESS_LOCAL: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const NAT_FULLY_RANDOM: u32 = 1 << 4;
/// `NFT_NAT_DNAT`.
const NAT_DNAT: u32 = 1;
/// `NFPROTO_IPV4`.
const FAMILY_IPV4: u32 = 2;
/// `NFPROTO_IPV6`.
const FAMILY_IPV6: u32 = 10;

/// Why nftables did not do what it was asked.
pub type Error = nlink::Error;
/// Result of an nftables call.
pub type Result<T> = std::result::Result<T, Error>;

/// A connection whose transactions may be [`MAX_TRANSACTION_BYTES`] long.
pub fn connect() -> Result<Connection<Nftables>> {
    let conn = Connection::<Nftables>::new()?;
    // Forcing needs CAP_NET_ADMIN over the machine, not over the namespace only; less is enough for fewer Services.
    if setsockopt(conn.socket(), sockopt::SndBufForce, &MAX_TRANSACTION_BYTES).is_err() {
        let _ = setsockopt(conn.socket(), sockopt::SndBuf, &MAX_TRANSACTION_BYTES);
    }
    Ok(conn)
}

/// The kernel's family of a table.
pub fn table_family(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

/// The type of an address in the key of a set.
pub fn address_type(family: Family) -> SetKeyType {
    match family {
        Family::V4 => SetKeyType::Ipv4Addr,
        Family::V6 => SetKeyType::Ipv6Addr,
    }
}

/// Words of four bytes that an address takes in registers.
pub fn words(family: Family) -> usize {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}

/// The register that begins at this word, of 16.
pub fn word(number: usize) -> Register {
    use Register::*;
    const WORDS: [Register; 16] = [
        Reg32_00, Reg32_01, Reg32_02, Reg32_03, Reg32_04, Reg32_05, Reg32_06, Reg32_07, Reg32_08, Reg32_09, Reg32_10,
        Reg32_11, Reg32_12, Reg32_13, Reg32_14, Reg32_15,
    ];
    WORDS[number]
}

/// Starts with an empty table of that name, whatever stood there.
pub fn fresh_table(transaction: Transaction, name: &str, family: Family) -> Transaction {
    let kernels = table_family(family);
    // Creating it first makes the deletion succeed; older kernels have no "delete if there".
    ensure_table(transaction, name, family).del_table(name, kernels).add_table(name, kernels)
}

/// Makes the table unless it is there.
pub fn ensure_table(transaction: Transaction, name: &str, family: Family) -> Transaction {
    let mut attribute = Attributes::default();
    attribute.text(1, name);
    transaction.raw(RawMessage::new(NEW_TABLE, table_family(family)).flags(CREATE).attrs(attribute.0))
}

/// Chains and sets in the table; none when there is no such table.
pub async fn table_use(conn: &Connection<Nftables>, name: &str, family: Family) -> Result<Option<u32>> {
    let all = conn.list_tables_in(table_family(family)).await?;
    Ok(all.into_iter().find(|t| t.name == name).map(|t| t.use_count))
}

/// Netlink attributes of expressions that nlink has no builder for.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("values here are names and numbers");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.raw(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn number(mut self, kind: u16, value: u32) -> Self {
        self.raw(kind, &value.to_be_bytes());
        self
    }
}

/// `dnat to` the address and port in two registers.
pub fn dnat(family: Family, address: Register, port: Register) -> Expr {
    let number = match family {
        Family::V4 => FAMILY_IPV4,
        Family::V6 => FAMILY_IPV6,
    };
    let attributes =
        Attributes::default().number(1, NAT_DNAT).number(2, number).number(3, address as u32).number(5, port as u32);
    RawExpr::new("nat", attributes.0).into()
}

/// `masquerade fully-random`: two clients that use the same port do not meet.
pub fn masquerade() -> Expr {
    RawExpr::new("masq", Attributes::default().number(1, NAT_FULLY_RANDOM).0).into()
}

/// Loads the source address.
pub fn source(family: Family, dreg: Register) -> Expr {
    let (offset, len) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    Expr::Payload { dreg, base: PayloadBase::Network, offset, len }
}

/// Loads the destination address.
pub fn destination(family: Family, dreg: Register) -> Expr {
    let (offset, len) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    Expr::Payload { dreg, base: PayloadBase::Network, offset, len }
}

/// Loads protocol and destination port.
pub fn protocol_and_port(protocol: Register, port: Register) -> [Expr; 2] {
    [
        Expr::Meta { dreg: protocol, key: MetaKey::L4Proto },
        Expr::Payload { dreg: port, base: PayloadBase::Transport, offset: 2, len: 2 },
    ]
}

/// Goes on when the register holds these bytes.
pub fn equals(sreg: Register, data: &[u8]) -> Expr {
    Expr::Cmp { sreg, op: CmpOp::Eq, data: data.to_vec() }
}

/// Goes on when the register holds other bytes.
pub fn differs(sreg: Register, data: &[u8]) -> Expr {
    Expr::Cmp { sreg, op: CmpOp::Neq, data: data.to_vec() }
}

/// `register = (register & mask) ^ xor`.
pub fn bits(register: Register, mask: &[u8], xor: &[u8]) -> Expr {
    let len = u32::try_from(mask.len()).expect("a register is 16 bytes at most");
    Expr::Bitwise { sreg: register, dreg: register, len, mask: mask.to_vec(), xor: xor.to_vec() }
}

/// Goes on when the packet's source is in (`inside`) or out of the network.
pub fn from_network(net: ipnet::IpNet, inside: bool) -> [Expr; 3] {
    network(source(Family::of(net.addr()), Register::R0), net, inside)
}

/// Goes on when the packet's destination is in (`inside`) or out of the network.
pub fn to_network(net: ipnet::IpNet, inside: bool) -> [Expr; 3] {
    network(destination(Family::of(net.addr()), Register::R0), net, inside)
}

fn network(load: Expr, net: ipnet::IpNet, inside: bool) -> [Expr; 3] {
    let compare = if inside { equals } else { differs };
    let (mask, network) = (octets(net.netmask()), octets(net.network()));
    [load, bits(Register::R0, &mask, &vec![0; mask.len()]), compare(Register::R0, &network)]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Goes on when the packet's source is an address of this machine.
pub fn from_this_node() -> [Expr; 2] {
    let fib = Expr::Fib { dreg: Register::R0, result: FibResult::AddrType, flags: FibFlags::SADDR };
    [fib, equals(Register::R0, &ADDRESS_LOCAL.to_ne_bytes())]
}

/// Goes on when the packet's destination is an address of this machine, other than 127.0.0.0/8 and ::1.
pub fn to_this_node(family: Family) -> [Expr; 4] {
    let fib = Expr::Fib { dreg: Register::R0, result: FibResult::AddrType, flags: FibFlags::DADDR };
    let (load, loopback) = match family {
        Family::V4 => (Expr::Payload { dreg: Register::R0, base: PayloadBase::Network, offset: 16, len: 1 }, vec![127]),
        Family::V6 => (destination(family, Register::R0), Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    [fib, equals(Register::R0, &ADDRESS_LOCAL.to_ne_bytes()), load, differs(Register::R0, &loopback)]
}

/// Looks a verdict up.
pub fn verdict_map(set: &str, key: Register) -> Expr {
    LookupExpr::new(set, key).dreg(Register::Verdict).into()
}

/// Looks a value up into `to`.
pub fn value_map(set: &str, key: Register, to: Register) -> Expr {
    LookupExpr::new(set, key).dreg(to).into()
}

/// The element `address`.
pub fn address(address: IpAddr) -> SetElement {
    match address {
        IpAddr::V4(a) => SetElement::ipv4(a),
        IpAddr::V6(a) => SetElement::ipv6(a),
    }
}

/// The element `address . protocol . port`.
pub fn address_key(to: IpAddr, protocol: u8, port: u16) -> SetElement {
    SetElement::concat([address(to), SetElement::inet_proto(protocol), SetElement::port(port)])
}

/// The element `protocol . port`.
pub fn port_key(protocol: u8, port: u16) -> SetElement {
    SetElement::concat([SetElement::inet_proto(protocol), SetElement::port(port)])
}

/// The value `address . port`.
pub fn endpoint_value(endpoint: SocketAddr) -> SetElement {
    SetElement::concat([address(endpoint.ip()), SetElement::port(endpoint.port())])
}

/// The group of the kernel's messages about nftables: `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;

/// The sockets of this process that listen to the kernel's messages.
static EARS: Mutex<Vec<Weak<Ear>>> = Mutex::new(Vec::new());

/// One of them.
struct Ear {
    socket: OwnedFd,
    /// It has been deaf.
    missed: Notify,
}

/// While it lives no [`Watch`] of this process hears anything, and when it is dropped each tells of
/// [`Disturbance::Unknown`].
///
/// The kernel makes a message of some kilobytes for every rule and every element of a transaction if anybody at all
/// listens: of a large one that is more than half of its time.
pub struct Deaf(Vec<Arc<Ear>>);

/// Stops listening, for a large transaction.
pub fn deafen() -> Deaf {
    let mut ears = EARS.lock();
    ears.retain(|ear| ear.strong_count() > 0);
    let ears: Vec<Arc<Ear>> = ears.iter().filter_map(Weak::upgrade).collect();
    // One that goes on listening costs time, no more.
    ears.iter().for_each(|ear| drop(sys::netlink_membership(&ear.socket, GROUP, false)));
    Deaf(ears)
}

impl Drop for Deaf {
    fn drop(&mut self) {
        for ear in &self.0 {
            if let Err(error) = sys::netlink_membership(&ear.socket, GROUP, true) {
                tracing::error!("cannot listen to nftables any more: {error}");
            }
            ear.missed.notify_one();
        }
    }
}

/// Word of changes to one table that no thread of this process made.
pub struct Watch {
    events: OwnedEventStream<Nftables>,
    ear: Arc<Ear>,
    table: String,
    /// The table lost something in the transaction whose end has not been read yet.
    touched: bool,
}

/// What happened to a watched table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Somebody else removed something of it.
    Changed,
    /// Events were lost or not listened to, or it may have been this process; look at the table.
    Unknown,
}

impl Watch {
    /// Watches a table from now on.
    pub async fn new(table: &str) -> Result<Self> {
        let conn = Connection::<Nftables>::new()?;
        let _ = conn.socket().set_rcvbuf(EVENT_BUFFER_BYTES);
        conn.subscribe(&[NftablesGroup::All])?;
        let ear = Ear { socket: conn.socket().as_fd().try_clone_to_owned()?, missed: Notify::new() };
        let ear = Arc::new(ear);
        EARS.lock().push(Arc::downgrade(&ear));
        Ok(Self { events: conn.into_events().await, ear, table: table.to_owned(), touched: false })
    }

    /// Waits for the next disturbance. Can be dropped and called again; an error means a new watch is needed.
    pub async fn next(&mut self) -> Result<Disturbance> {
        loop {
            let event = tokio::select! {
                () = self.ear.missed.notified() => {
                    self.touched = false;
                    return Ok(Disturbance::Unknown);
                }
                event = self.events.next() => event,
            };
            match event {
                None => return Err(Error::from(std::io::Error::other("nftables events ended"))),
                Some(Err(error)) if error.is_no_buffer_space() => return Ok(Disturbance::Unknown),
                Some(Err(error)) => return Err(error),
                Some(Ok(NftablesEvent::NewGen(generation))) => {
                    if !std::mem::take(&mut self.touched) || generation.pid.is_some_and(is_own_thread) {
                        continue;
                    }
                    // In a PID namespace the kernel's number of a thread is not ours; its name is.
                    let own = generation.proc_name.is_some_and(|name| own_thread_names().contains(&name));
                    return Ok(if own { Disturbance::Unknown } else { Disturbance::Changed });
                }
                Some(Ok(event)) => self.touched |= removed_from(&event).is_some_and(|table| table == self.table),
            }
        }
    }
}

/// The table that an event takes something from, elements aside: those expire by themselves.
fn removed_from(event: &NftablesEvent) -> Option<&str> {
    match event {
        NftablesEvent::DelTable(t) => Some(&t.name),
        NftablesEvent::DelChain(c) => Some(c.table.as_ref()),
        NftablesEvent::DelRule(r) => Some(r.table.as_ref()),
        NftablesEvent::DelSet(s) => Some(s.table.as_ref()),
        _ => None,
    }
}

fn own_thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok()).map(|n| n.trim_end().to_owned()).collect()
}

/// The kernel numbers the thread that committed.
fn is_own_thread(id: u32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{id}")).exists()
}
