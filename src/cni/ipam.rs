//! Addresses of this node's pods: one file per reservation. A pod's IPv6 address follows from its IPv4 one
//! ([`NetConfig::address6`]), so only those are reserved.
//!
//! A reservation is the file `<data dir>/<network>/<address>` with the container's id, interface and host ports in it.
//! Changes are made under a lock on the file `lock`, which the kernel drops when its holder dies.
//!
//! **Invariant:** a file appears whole or not at all; a crash leaves at most a reservation whose pod never came, which
//! DEL or [`Pool::retain`] removes. **Invariant:** an address that was just given back is given out last.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::spec::{Code, Error, NetConfig, PortMapping, Result};
use crate::util::families::Networks;
use crate::util::files;

/// Mode of reservation files: they hold no secret, and nobody else needs them.
const MODE: u32 = 0o600;
/// Holds the address given out last.
const LAST: &str = "last";

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// Container.
    pub container: String,
    /// Interface inside.
    pub interface: String,
    /// Host ports that lead to it.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Path of its network namespace.
    #[serde(default)]
    pub netns: PathBuf,
}

/// The reservations of a network, locked.
pub struct Pool {
    dir: PathBuf,
    subnet: Networks,
    gateway: Ipv4Addr,
    reserved: BTreeMap<Ipv4Addr, Reservation>,
    _lock: Flock<std::fs::File>,
}

impl Pool {
    /// Locks and reads them; waits for others, of this process too, without holding up the thread: the one that has the lock
    /// may need it to go on.
    pub async fn lock(config: &NetConfig) -> Result<Self> {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open(&config)).await;
        opened.unwrap_or_else(|e| Err(Error::io("lock the reservations", &std::io::Error::other(e))))
    }

    /// Locks and reads them; holds up the thread while others have them.
    fn open(config: &NetConfig) -> Result<Self> {
        let dir = config.data_dir.join(&config.name);
        let failed = |e: &std::io::Error| Error::io(format!("open the reservations in {}", dir.display()), e);
        std::fs::create_dir_all(&dir).map_err(|e| failed(&e))?;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(|e| failed(&e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(&e.into()))?;
        let reserved = read(&dir).map_err(|e| failed(&e))?;
        Ok(Self { subnet: config.subnet, gateway: config.gateway(), reserved, _lock: lock, dir })
    }

    /// All reservations.
    pub fn reserved(&self) -> &BTreeMap<Ipv4Addr, Reservation> {
        &self.reserved
    }

    /// The address of a container's interface.
    pub fn find(&self, container: &str, interface: &str) -> Option<Ipv4Addr> {
        self.reserved.iter().find(|(_, r)| r.container == container && r.interface == interface).map(|(a, _)| *a)
    }

    /// Reserves an address; a container that has one keeps it.
    pub fn reserve(&mut self, reservation: Reservation) -> Result<Ipv4Addr> {
        let own = self.find(&reservation.container, &reservation.interface);
        if let Some(taken) = conflict(&self.reserved, &reservation, &self.subnet) {
            return Err(Error::new(Code::PortTaken, taken));
        }
        let address = match own {
            Some(address) => address,
            None => {
                let last = std::fs::read_to_string(self.dir.join(LAST)).ok().and_then(|t| t.trim().parse().ok());
                next_free(self.subnet.v4, self.gateway, last, |a| self.reserved.contains_key(&a)).ok_or_else(|| {
                    let message = format!("all addresses of {} are in use", self.subnet.v4);
                    Error::new(Code::NoAddress, message)
                })?
            }
        };
        let bytes = serde_json::to_vec(&reservation).expect("a reservation serializes");
        self.write(&address.to_string(), &bytes)?;
        self.write(LAST, address.to_string().as_bytes())?;
        self.reserved.insert(address, reservation);
        Ok(address)
    }

    /// Gives back what a container's interface has; none when it had nothing.
    pub fn release(&mut self, container: &str, interface: &str) -> Result<Option<(Ipv4Addr, Reservation)>> {
        let Some(address) = self.find(container, interface) else { return Ok(None) };
        self.remove(address)?;
        Ok(self.reserved.remove(&address).map(|r| (address, r)))
    }

    /// Gives back what containers have that are not `live`, if it was reserved longer ago than `age`: a sandbox that is
    /// being made has an address before anybody lists it.
    pub fn retain(&mut self, age: Duration, live: impl Fn(&str) -> bool) -> Result<Vec<(Ipv4Addr, Reservation)>> {
        let dead = self.reserved.iter().filter(|(_, r)| !live(&r.container)).map(|(a, _)| *a);
        let leaked: Vec<Ipv4Addr> = dead.filter(|a| self.age(*a).is_none_or(|old| old >= age)).collect();
        let mut freed = Vec::new();
        for address in leaked {
            self.remove(address)?;
            freed.extend(self.reserved.remove(&address).map(|r| (address, r)));
        }
        Ok(freed)
    }

    /// How long ago the address was reserved; none when the clock went back.
    fn age(&self, address: Ipv4Addr) -> Option<Duration> {
        let written = std::fs::metadata(self.dir.join(address.to_string())).and_then(|m| m.modified()).ok()?;
        written.elapsed().ok()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        files::write_atomic(&path, bytes, MODE).map_err(|e| Error::io(format!("write {}", path.display()), &e))
    }

    fn remove(&self, address: Ipv4Addr) -> Result<()> {
        let path = self.dir.join(address.to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), &e))
            }
            _ => Ok(()),
        }
    }
}

fn read(dir: &Path) -> std::io::Result<BTreeMap<Ipv4Addr, Reservation>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Some(address) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        match serde_json::from_slice(&std::fs::read(entry.path())?) {
            Ok(reservation) => {
                all.insert(address, reservation);
            }
            // Not written by us: keep the address out of use rather than give it out twice.
            Err(_) => {
                all.insert(address, Reservation::default());
            }
        }
    }
    Ok(all)
}

/// The first free address after `last`, round the subnet; never network, gateway or broadcast.
fn next_free(
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    last: Option<Ipv4Addr>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let (first, end) = (u32::from(subnet.network()) + 1, u32::from(subnet.broadcast()));
    let count = end - first;
    let start = last.map(u32::from).filter(|l| (first..end).contains(l)).map_or(0, |l| l - first + 1);
    (0..count).map(|i| Ipv4Addr::from(first + (start + i) % count)).find(|a| *a != gateway && !taken(*a))
}

/// Why a host port cannot be had: another container has it.
fn conflict(reserved: &BTreeMap<Ipv4Addr, Reservation>, new: &Reservation, subnet: &Networks) -> Option<String> {
    let meet = |a: &PortMapping, b: &PortMapping| {
        let mut families = subnet.families();
        families.any(|f| a.on(f, subnet.v6.is_some()).is_some_and(|at| b.on(f, subnet.v6.is_some()) == Some(at)))
    };
    let others = reserved.values().filter(|r| r.container != new.container);
    for theirs in others.flat_map(|r| r.port_mappings.iter().map(move |m| (m, &r.container))) {
        for ours in new.port_mappings.iter().filter(|m| m.host_port != 0) {
            let same_port = theirs.0.host_port == ours.host_port && theirs.0.protocol() == ours.protocol();
            if same_port && meet(theirs.0, ours) {
                return Some(format!("host port {} is in use by container {}", ours.host_port, theirs.1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn config(dir: &Path, subnet: &str) -> NetConfig {
        let config = json!({"cniVersion": "1.0.0", "name": "orch", "type": "orch-cni", "bridge": "orch0", "subnet": subnet,
            "clusterCIDR": "10.42.0.0/16", "table": "orch-cni", "dataDir": dir});
        NetConfig::parse(config.to_string().as_bytes()).unwrap()
    }

    fn of(container: &str, host_port: u16) -> Reservation {
        let mapping = PortMapping { host_port, container_port: 80, protocol: "TCP".into(), host_ip: String::new() };
        Reservation {
            container: container.into(),
            interface: "eth0".into(),
            port_mappings: vec![mapping],
            netns: PathBuf::new(),
        }
    }

    #[test_case(None, &[], Some("10.42.0.2"); "the first one after the gateway")]
    #[test_case(Some("10.42.0.2"), &[], Some("10.42.0.3"); "the next one")]
    #[test_case(Some("10.42.0.6"), &["10.42.0.2"], Some("10.42.0.3"); "round the end")]
    #[test_case(Some("10.99.0.1"), &[], Some("10.42.0.2"); "the subnet was another one")]
    #[test_case(None, &["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"], None; "full")]
    fn gives_addresses_in_turn(last: Option<&str>, taken: &[&str], want: Option<&str>) {
        let taken: Vec<Ipv4Addr> = taken.iter().map(|a| a.parse().unwrap()).collect();
        let got = next_free(
            "10.42.0.0/29".parse().unwrap(),
            "10.42.0.1".parse().unwrap(),
            last.map(|l| l.parse().unwrap()),
            |a| taken.contains(&a),
        );
        assert_eq!(got, want.map(|w| w.parse().unwrap()));
    }

    #[tokio::test]
    async fn who_waits_for_the_lock_does_not_hold_up_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "10.42.0.0/24");
        let release = tokio::sync::Notify::new();
        let first = async {
            let pool = Pool::lock(&config).await.unwrap();
            release.notified().await;
            drop(pool);
        };
        let second = async {
            release.notify_one();
            Pool::lock(&config).await.unwrap();
        };
        // Both in one task on one thread: a lock that blocks it would never be let go.
        tokio::time::timeout(std::time::Duration::from_secs(60), async { tokio::join!(first, second) }).await.unwrap();
    }

    #[test]
    fn reservations_survive_and_are_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "10.42.0.0/29");
        let first = Pool::open(&config).unwrap().reserve(of("a", 0)).unwrap();
        let mut pool = Pool::open(&config).unwrap();
        assert_eq!(pool.reserve(of("a", 0)).unwrap(), first, "the same container, the same address");
        assert_ne!(pool.reserve(of("b", 0)).unwrap(), first);
        assert_eq!(pool.release("a", "eth0").unwrap().unwrap().0, first);
        assert_eq!(pool.release("a", "eth0").unwrap(), None, "gone twice is gone");
        assert_ne!(pool.reserve(of("c", 0)).unwrap(), first, "not the one just given back");
    }

    #[test]
    fn leaks_are_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "10.42.0.0/29");
        let mut pool = Pool::open(&config).unwrap();
        pool.reserve(of("a", 0)).unwrap();
        let leaked = pool.reserve(of("b", 0)).unwrap();
        assert_eq!(pool.retain(Duration::from_secs(60), |c| c == "a").unwrap(), [], "it may just be on its way");
        assert_eq!(pool.retain(Duration::ZERO, |c| c == "a").unwrap(), [(leaked, of("b", 0))]);
        drop(pool);
        assert_eq!(Pool::open(&config).unwrap().reserved().len(), 1);
    }

    #[test]
    fn a_host_port_has_one_pod() {
        let dir = tempfile::tempdir().unwrap();
        let mut pool = Pool::open(&config(dir.path(), "10.42.0.0/29")).unwrap();
        pool.reserve(of("a", 8080)).unwrap();
        assert_eq!(pool.reserve(of("b", 8080)).unwrap_err().code, Code::PortTaken);
        pool.reserve(of("a", 8080)).unwrap();
        pool.reserve(of("b", 8081)).unwrap();
    }

    #[test]
    fn a_file_nobody_understands_keeps_its_address_out_of_use() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "10.42.0.0/29");
        std::fs::create_dir_all(dir.path().join("orch")).unwrap();
        std::fs::write(dir.path().join("orch/10.42.0.2"), b"").unwrap();
        assert_eq!(Pool::open(&config).unwrap().reserve(of("a", 0)).unwrap().to_string(), "10.42.0.3");
    }
}
