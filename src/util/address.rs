//! The address that this machine is reached at, and its changes.
//!
//! In: a fixed address, or the kernel's word of its addresses and routes; where there is none, the last one, from a file.
//! Out: a watch over one address, and the IPv6 address beside it ([`ipv6_beside`]). Nothing is sent and nothing is polled.
//!
//! **Invariant:** an address is kept while the machine has it: a VPN that comes and goes moves no node.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use nlink::Route;
use nlink::netlink::connection::{Connection, RtnetlinkGroup};
use nlink::netlink::events::NetworkEvent;
use tokio::sync::watch;

use super::files;
use super::tasks::Shutdown;

/// Time for a machine to finish what it has begun, as an address that is removed before the next one is added.
const SETTLE: Duration = Duration::from_millis(500);

/// Stands for the world: an address of a range for documentation, which only the default route leads to.
const WORLD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The same with IPv6.
const WORLD_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The kernel's list of IPv6 addresses.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Flags in it of addresses that are not to be told of: `IFA_F_TEMPORARY`, which change for privacy, `IFA_F_DADFAILED`,
/// `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE`.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;

/// An address, fixed or followed.
#[derive(Debug)]
pub struct Address {
    now: watch::Sender<IpAddr>,
    fixed: bool,
    /// Whom the machine is to be seen by; the world when nobody is named.
    peer: IpAddr,
    /// Networks that are the cluster's own: an address of them is not how others reach this machine.
    inner: Vec<IpNet>,
    /// Where the last one is kept: a machine that starts while its cable is out is the node that it was.
    memory: PathBuf,
}

impl Address {
    /// The given one, or the one that `peer` (or the world) sees, or the last one, which stands in the file `memory`; loopback
    /// where there never was one. Addresses in `inner` do not count.
    pub fn new(given: Option<IpAddr>, peer: Option<IpAddr>, inner: Vec<IpNet>, memory: PathBuf) -> Self {
        let peer = peer.unwrap_or(WORLD);
        let seen = given.or_else(|| towards(peer));
        match seen {
            Some(address) if given.is_none() => remember(&memory, address),
            _ => {}
        }
        let first = seen.or_else(|| remembered(&memory)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self { now: watch::Sender::new(first), fixed: given.is_some(), peer, inner, memory }
    }

    /// The address now.
    pub fn now(&self) -> IpAddr {
        *self.now.borrow()
    }

    /// Tells of changes.
    pub fn watch(&self) -> watch::Receiver<IpAddr> {
        self.now.subscribe()
    }

    /// Follows the machine's addresses until told to stop; a fixed one needs nothing of it.
    pub async fn follow(&self, stop: Shutdown) -> nlink::Result<()> {
        if self.fixed {
            stop.wait().await;
            return Ok(());
        }
        loop {
            let conn = Connection::<Route>::new()?;
            conn.subscribe(&[RtnetlinkGroup::Ipv4Addr, RtnetlinkGroup::Ipv4Route])?;
            let mut events = conn.into_events().await;
            loop {
                self.look().await?;
                match stop.or(next_change(&mut events)).await {
                    None => return Ok(()),
                    Some(true) => {}
                    // Events were lost; what they told is looked up.
                    Some(false) => break,
                }
            }
        }
    }

    async fn look(&self) -> nlink::Result<()> {
        let conn = Connection::<Route>::new()?;
        let all = conn.get_addresses().await?;
        let present: Vec<IpAddr> = all.iter().filter_map(|a| a.primary_address().copied()).collect();
        let next = choose(self.now(), towards(self.peer), &present, &self.inner);
        let moved = |now: &mut IpAddr| std::mem::replace(now, next) != next;
        if self.now.send_if_modified(moved) {
            tracing::info!(address = %next, "this machine has another address");
            let memory = self.memory.clone();
            let _ = tokio::task::spawn_blocking(move || remember(&memory, next)).await;
        }
        Ok(())
    }
}

/// The address in the file, if it is one.
fn remembered(file: &Path) -> Option<IpAddr> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Keeps the address in the file. One that cannot be kept is only missed at the next start.
fn remember(file: &Path, address: IpAddr) {
    if remembered(file) == Some(address) {
        return;
    }
    let dir = file.parent().map_or(Ok(()), files::create_dir_durable);
    if let Err(e) = dir.and_then(|()| files::write_atomic(file, format!("{address}\n").as_bytes(), 0o644)) {
        tracing::warn!(file = %file.display(), "cannot keep this machine's address: {e}");
    }
}

/// Waits for a change of addresses or of the default route, and a moment more. False when events were lost.
async fn next_change(events: &mut nlink::netlink::OwnedEventStream<Route>) -> bool {
    loop {
        match events.next().await {
            Some(Ok(NetworkEvent::NewAddress(_) | NetworkEvent::DelAddress(_))) => break,
            Some(Ok(NetworkEvent::NewRoute(r) | NetworkEvent::DelRoute(r))) if r.is_default() => break,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return false,
        }
    }
    let settled = tokio::time::Instant::now() + SETTLE;
    loop {
        match tokio::time::timeout_at(settled, events.next()).await {
            Err(_) => return true,
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) => return false,
        }
    }
}

/// The address to go on with.
fn choose(now: IpAddr, seen: Option<IpAddr>, present: &[IpAddr], inner: &[IpNet]) -> IpAddr {
    let outer = |a: &IpAddr| {
        let local = matches!(a, IpAddr::V4(v4) if v4.is_link_local()) || a.is_loopback() || a.is_ipv6();
        !local && !inner.iter().any(|net| net.contains(a))
    };
    if present.contains(&now) && !now.is_loopback() {
        return now;
    }
    seen.filter(outer).or_else(|| present.iter().copied().find(outer)).unwrap_or(now)
}

/// The IPv6 address of the machine whose address is `first`: `now` while the machine has it, else one of the same interface,
/// else that of the default route. One of any other interface may be a bridge's, which nobody else reaches. Addresses in
/// `inner` do not count, and none that pass.
pub fn ipv6_beside(first: IpAddr, now: Option<Ipv6Addr>, inner: &[IpNet]) -> Option<Ipv6Addr> {
    let listed = std::fs::read_to_string(IPV6_ADDRESSES).unwrap_or_default();
    let mut interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let holds = |i: &nix::ifaddrs::InterfaceAddress| {
        i.address.and_then(|a| a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()))) == Some(first)
    };
    let beside = interfaces.find(holds).map(|i| i.interface_name).unwrap_or_default();
    let seen = towards(WORLD_IPV6);
    choose_ipv6(now, &listed, &beside, seen, inner)
}

fn choose_ipv6(
    now: Option<Ipv6Addr>,
    listed: &str,
    beside: &str,
    seen: Option<IpAddr>,
    inner: &[IpNet],
) -> Option<Ipv6Addr> {
    // Address, number of the interface, bits, scope, flags, name of the interface.
    let lasting = listed.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "00", flags, interface] = words[..] else { return None };
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let passes = u8::from_str_radix(flags, 16).ok()? & PASSING != 0;
        let outer = !inner.iter().any(|net| net.contains(&IpAddr::V6(address)));
        (outer && !passes).then_some((address, interface))
    });
    let ranked = lasting.filter_map(|(address, interface)| {
        let (is_beside, is_seen) = (interface == beside, Some(IpAddr::V6(address)) == seen);
        let rank = (Some(address) == now, is_beside, is_seen, !address.is_unique_local(), Reverse(address));
        (rank.0 || is_beside || is_seen).then_some(rank)
    });
    ranked.max().map(|(.., Reverse(address))| address)
}

/// Word of changes of this machine's IPv6 addresses.
pub struct Ipv6Changes(nlink::netlink::OwnedEventStream<Route>);

impl Ipv6Changes {
    /// From now on.
    pub async fn new() -> nlink::Result<Self> {
        let conn = Connection::<Route>::new()?;
        conn.subscribe(&[RtnetlinkGroup::Ipv6Addr, RtnetlinkGroup::Ipv6Route])?;
        Ok(Self(conn.into_events().await))
    }

    /// Waits for one, and a moment more. False when some were lost: this is of no use any more then.
    pub async fn next(&mut self) -> bool {
        next_change(&mut self.0).await
    }
}

/// The address that the default route leaves from; none without one.
pub fn of_default_route() -> Option<IpAddr> {
    towards(WORLD)
}

/// The address that packets to `peer` leave from. Nothing is sent.
fn towards(peer: IpAddr) -> Option<IpAddr> {
    let any = if peer.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const NONE: &str = "127.0.0.1";

    #[test_case("192.0.2.1", Some("198.51.100.1"), &["192.0.2.1", "198.51.100.1"], "192.0.2.1"; "one that is still there is kept")]
    #[test_case("192.0.2.1", Some("198.51.100.1"), &["198.51.100.1"], "198.51.100.1"; "the default route's is next")]
    #[test_case("192.0.2.1", None, &[NONE, "10.42.0.1", "198.51.100.1"], "198.51.100.1"; "then any that is not the cluster's")]
    #[test_case("192.0.2.1", None, &[NONE, "10.42.0.1", "169.254.1.1", "2001:db8::1"], "192.0.2.1"; "none is better, so the old one is told")]
    #[test_case(NONE, Some("192.0.2.1"), &[NONE, "192.0.2.1"], "192.0.2.1"; "a network that comes after the start")]
    #[test_case(NONE, None, &[NONE], NONE; "no network")]
    fn choices(now: &str, seen: Option<&str>, present: &[&str], want: &str) {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let present: Vec<IpAddr> = present.iter().map(|p| ip(p)).collect();
        let inner = ["10.42.0.0/16".parse().unwrap()];
        assert_eq!(choose(ip(now), seen.map(ip), &present, &inner), ip(want));
    }

    const LISTED: &str = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
        20010db8000000000000000000000007 05 40 00 80     eth1\n\
        20010db8000000000000000000000009 04 40 00 21     eth0\n\
        fd000000000000000000000000000008 04 40 00 80     eth0\n\
        20010db8000000000000000000000008 04 40 00 80     eth0\n\
        fd420000000000000000000000000001 06 40 00 82     orch0\n\
        00000000000000000000000000000001 01 80 10 80       lo\n";

    #[test_case(None, "eth0", None, Some("2001:db8::8"); "the same interface's, not the one that passes")]
    #[test_case(None, "eth0", Some("fd00::8"), Some("fd00::8"); "of several there the default route's")]
    #[test_case(None, "eth0", Some("2001:db8::7"), Some("2001:db8::8"); "before another interface's")]
    #[test_case(None, "eth2", Some("2001:db8::7"), Some("2001:db8::7"); "then the default route's")]
    #[test_case(None, "eth2", None, None; "none of an interface that nobody may reach")]
    #[test_case(Some("2001:db8::7"), "eth0", None, Some("2001:db8::7"); "one that is still there is kept")]
    #[test_case(Some("2001:db8::1"), "orch0", Some("fd42::1"), None; "never one of the cluster's own")]
    fn ipv6_choices(now: Option<&str>, beside: &str, seen: Option<&str>, want: Option<&str>) {
        let six = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let inner = ["fd42::/56".parse().unwrap()];
        let seen = seen.map(|s| IpAddr::V6(six(s)));
        assert_eq!(choose_ipv6(now.map(six), LISTED, beside, seen, &inner), want.map(six));
        assert_eq!(choose_ipv6(now.map(six), "", beside, seen, &inner), None);
    }

    #[tokio::test]
    async fn a_given_address_stays() {
        let given: IpAddr = "192.0.2.1".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let address = Address::new(Some(given), None, Vec::new(), dir.path().join("address"));
        let stop = Shutdown::new();
        stop.trigger();
        address.follow(stop).await.unwrap();
        assert_eq!((address.now(), *address.watch().borrow()), (given, given));
    }

    #[test]
    fn the_last_address_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("below/address");
        assert_eq!(remembered(&file), None);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        remember(&file, address);
        assert_eq!(remembered(&file), Some(address));
        std::fs::write(&file, "half an addr").unwrap();
        assert_eq!(remembered(&file), None);
        // An address of a family that the machine has no way out for.
        let nobody: IpAddr = "2001:db8::1".parse().unwrap();
        remember(&file, address);
        let unseen = towards(nobody).is_none();
        assert!(!unseen || Address::new(None, Some(nobody), Vec::new(), file).now() == address);
    }
}
