//! Gathers what [`super::judge`] judges. Changes nothing that stays.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::net::if_::if_nametoindex;

use super::judge::{Cgroups, Facts, Port, Role};
use super::probe;
use crate::cni::overlay::DEVICE;
use crate::kubelet::cgroups::is_unified;
use crate::kubelet::containerd::{Machine, Programs};
use crate::kubelet::machine;
use crate::util::address;

const CGROUPS: &str = "/sys/fs/cgroup";
/// Port of the kubelet, and of the overlay on Linux.
const KUBELET_PORT: u16 = 10250;
const VXLAN_PORT: u16 = 8472;
/// What that one is for.
const OVERLAY: &str = "overlay";
/// Daemons that set the clock, by the name of their process.
const TIME_KEEPERS: [&str; 6] = ["systemd-timesyncd", "systemd-timesyn", "chronyd", "ntpd", "openntpd", "ntpsec"];

/// What the machine is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Server or agent.
    pub role: Role,
    /// With pods.
    pub node: bool,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Port of the API.
    pub port: u16,
    /// Name of the node, if not the host's.
    pub node_name: Option<String>,
}

/// Looks and tries.
pub fn gather(wanted: &Wanted) -> Facts {
    let is_root = nix::unistd::geteuid().is_root();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let place = existing(&wanted.data_dir);
    let m = machine::Machine::read(place);
    Facts {
        role: wanted.role,
        node: wanted.node,
        is_root,
        kernel: m.kernel.clone(),
        features: if is_root && wanted.node { probe::features() } else { BTreeMap::new() },
        cgroups: cgroups(Path::new(CGROUPS)),
        ports: ports(wanted),
        now: jiff::Timestamp::now().as_second(),
        clock_is_kept: clock_is_kept(),
        disk: nix::sys::statvfs::statvfs(place).ok().map(|d| {
            let percent = if d.files() == 0 { 100 } else { d.files_available() * 100 / d.files() };
            (d.blocks_available() * d.fragment_size(), percent)
        }),
        data_dir: wanted.data_dir.display().to_string(),
        overlay: is_root.then(|| Machine::look(place).overlay),
        memory: m.memory,
        swap: swap(&read("/proc/meminfo")),
        node_name: wanted.node_name.clone().unwrap_or_else(host_name),
        forwarding: match read("/proc/sys/net/ipv4/ip_forward").trim() {
            "" => None,
            value => Some(value == "1"),
        },
        runtime: runtime(),
        default_route: address::of_default_route().is_some(),
        hosts_file: Path::new("/etc/hosts").exists(),
    }
}

/// The nearest directory above that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"))
}

fn host_name() -> String {
    nix::unistd::gethostname().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn swap(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("SwapTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cgroups(root: &Path) -> Cgroups {
    if is_unified(root) {
        let text = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        return Cgroups::V2(text.split_whitespace().map(str::to_owned).collect());
    }
    let dirs = std::fs::read_dir(root).into_iter().flatten().flatten();
    // Hierarchies of several controllers carry all their names.
    let names = dirs.filter(|d| d.path().join("cgroup.procs").exists()).map(|d| d.file_name());
    let controllers: Vec<String> =
        names.flat_map(|n| n.to_string_lossy().split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    if controllers.is_empty() { Cgroups::None } else { Cgroups::V1(controllers) }
}

fn runtime() -> Result<String, String> {
    let programs = Programs::find(&std::env::var("PATH").unwrap_or_default())?;
    let version = |program: &Path| {
        let out = Command::new(program).arg("--version").output().ok()?;
        String::from_utf8_lossy(&out.stdout).lines().next().map(str::to_owned)
    };
    let both = [&programs.containerd, &programs.runc].map(|p| version(p).unwrap_or_else(|| p.display().to_string()));
    Ok(both.join(", "))
}

fn ports(wanted: &Wanted) -> Vec<Port> {
    let rows = [
        (wanted.role == Role::Server, wanted.port, "tcp", "Kubernetes API"),
        (wanted.node, KUBELET_PORT, "tcp", "kubelet"),
        (wanted.node, VXLAN_PORT, "udp", OVERLAY),
    ];
    let port = |(_, port, protocol, purpose): (bool, u16, &'static str, &'static str)| {
        let taken = bind(port, protocol).err().map(|e| match e.kind() {
            io::ErrorKind::AddrInUse => "in use".to_owned(),
            _ => e.to_string(),
        });
        // A socket of the kernel's own has no process: it is orch's when its device is.
        let overlay = || (purpose == OVERLAY && if_nametoindex(DEVICE).is_ok()).then(|| "orch".to_owned());
        let holder = taken.as_ref().and_then(|_| holder(port, protocol).or_else(overlay));
        Port { port, protocol, purpose, taken, holder }
    };
    rows.into_iter().filter(|r| r.0).map(port).collect()
}

fn bind(port: u16, protocol: &str) -> io::Result<()> {
    let address = (Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        "tcp" => TcpListener::bind(address).map(drop),
        _ => UdpSocket::bind(address).map(drop),
    }
}

/// The name of the process that has a port; the kernel's own sockets have none.
fn holder(port: u16, protocol: &str) -> Option<String> {
    let tables = ["", "6"].map(|family| std::fs::read_to_string(format!("/proc/net/{protocol}{family}")));
    let inodes: Vec<String> = tables.into_iter().flatten().flat_map(|t| sockets_of(&t, port)).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let fds = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if links.any(|l| inodes.iter().any(|i| l.to_string_lossy() == format!("socket:[{i}]"))) {
            return std::fs::read_to_string(process.path().join("comm")).ok().map(|c| c.trim().to_owned());
        }
    }
    None
}

/// Inodes of the sockets that a table (`/proc/net/tcp`) has bound to a port and connected with nobody.
fn sockets_of(table: &str, port: u16) -> Vec<String> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let (_, remote) = fields.get(2)?.rsplit_once(':')?;
        (u16::from_str_radix(local, 16) == Ok(port) && remote == "0000")
            .then(|| fields.get(9).map(|i| (*i).to_owned()))?
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Whether a daemon that sets the clock runs. A machine whose host does it (a container) shows none.
fn clock_is_kept() -> Option<bool> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut names = processes.filter_map(|p| std::fs::read_to_string(p.path().join("comm")).ok());
    Some(names.any(|n| TIME_KEEPERS.contains(&n.trim())))
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
        1: 0100007F:192B 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";

    #[test_case(6443 => vec!["4711".to_owned()]; "the listener, not its connections")]
    #[test_case(80 => Vec::<String>::new(); "nobody")]
    fn sockets(port: u16) -> Vec<String> {
        sockets_of(TABLE, port)
    }

    #[test]
    fn a_taken_port_is_found_with_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(bind(port, "tcp").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(holder(port, "tcp").is_some(), "it is this process");
    }

    #[test]
    fn hierarchies_name_their_controllers() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::None);
        for name in ["cpu,cpuacct", "memory"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        let Cgroups::V1(mut found) = cgroups(dir.path()) else { panic!("v1") };
        found.sort();
        assert_eq!(found, ["cpu", "cpuacct", "memory"]);
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::V2(vec!["cpu".into(), "pids".into()]));
    }

    #[test]
    fn swap_is_read_in_bytes() {
        assert_eq!(swap("MemTotal: 1 kB\nSwapTotal:       2048 kB\n"), 2 << 20);
    }
}
