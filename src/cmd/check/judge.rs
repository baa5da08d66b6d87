//! What the facts mean. Pure.
//!
//! **Invariant:** an error is what orch cannot work with; a warning is what works worse, or may surprise somebody.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::meta::names;

/// Bytes of memory that a control plane with a node, and a node alone, need beside their pods.
const MEMORY: [(Role, u64); 2] = [(Role::Server, 512 << 20), (Role::Agent, 256 << 20)];
/// Less than this, nothing works.
const MEMORY_LEAST: u64 = 128 << 20;
/// Bytes of disk for images, logs and the store.
const DISK: u64 = 4 << 30;
/// Less than this the store itself may become read-only before long.
const DISK_LEAST: u64 = 256 << 20;
/// Percent of inodes that should be free: images have many small files.
const INODES_PERCENT: u64 = 5;
/// The oldest kernel whose nftables has what the Service rules use (concatenations in maps, `fib`, masquerading).
const KERNEL: (u32, u32) = (5, 4);
/// A clock before this is wrong: seconds of the year in which this was written.
const CLOCK_LEAST: i64 = 1_767_225_600;
/// Certificates end a year from now and CAs in ten; a clock beyond this makes ones that nobody else believes.
const CLOCK_MOST: i64 = 4_102_444_800;

/// What a machine is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// A control plane, and a node unless it is told otherwise.
    Server,
    /// A node.
    Agent,
}

/// What of the cgroup file system is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Nothing is mounted.
    None,
    /// v1, with these controllers.
    V1(Vec<String>),
    /// v2, with these controllers.
    V2(Vec<String>),
}

/// A port that has to be free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Why it cannot be had.
    pub taken: Option<String>,
    /// The program that has it.
    pub holder: Option<String>,
}

/// What was found. `None` is what could not be found out.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the machine is to be.
    pub role: Role,
    /// It is to run pods.
    pub node: bool,
    /// The process is root.
    pub is_root: bool,
    /// `uname -r`.
    pub kernel: String,
    /// Features by name; why they did not work when tried. Empty when they could not be tried.
    pub features: BTreeMap<&'static str, Result<(), String>>,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Ports.
    pub ports: Vec<Port>,
    /// Seconds since 1970.
    pub now: i64,
    /// Whether something keeps the clock.
    pub clock_is_kept: Option<bool>,
    /// Bytes that are free where the data is to be, and percent of inodes.
    pub disk: Option<(u64, u64)>,
    /// The data directory.
    pub data_dir: String,
    /// Overlay mounts work there.
    pub overlay: Option<bool>,
    /// Bytes of memory, and of swap.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Name of the node.
    pub node_name: String,
    /// `net.ipv4.ip_forward`, and whether it can be changed.
    pub forwarding: Option<bool>,
    /// What is missing of containerd and runc; their version line when they are there.
    pub runtime: Result<String, String>,
    /// There is a way to other machines.
    pub default_route: bool,
    /// `/etc/hosts` is there.
    pub hosts_file: bool,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but.
    Warning,
    /// It will not work.
    Error,
}

impl Level {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub says: String,
    /// What to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

fn ok(name: &'static str, says: impl Into<String>) -> Finding {
    Finding { name, level: Level::Ok, says: says.into(), advice: None }
}

fn bad(name: &'static str, level: Level, says: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { name, level, says: says.into(), advice: Some(advice.into()) }
}

/// All findings, in the order in which a person would mend things.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut out = vec![root(facts), kernel(facts)];
    if facts.node {
        out.extend(features(facts));
        out.extend([cgroups(&facts.cgroups), runtime(facts), hosts_file(facts)]);
        out.extend([overlay(facts), forwarding(facts)].into_iter().flatten());
    }
    out.extend([ports(facts), clock(facts), disk(facts), memory(facts), swap(facts)]);
    out.extend([node_name(facts), route(facts)]);
    out
}

fn root(facts: &Facts) -> Finding {
    match (facts.is_root, facts.node) {
        (true, _) => ok("user", "root"),
        (false, true) => {
            bad("user", Level::Error, "not root: a node needs it, and not all could be tried", "run as root")
        }
        (false, false) => ok("user", "not root, which a control plane alone does not need"),
    }
}

fn kernel(facts: &Facts) -> Finding {
    let mut numbers = facts.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL => bad(
            "kernel",
            Level::Error,
            format!("Linux {}", facts.kernel),
            format!("orch's Service rules need Linux {}.{} or later", KERNEL.0, KERNEL.1),
        ),
        _ => ok("kernel", format!("Linux {}", facts.kernel)),
    }
}

/// What each feature is for, its module, and how bad its absence is.
const FEATURES: &[(&str, &str, Level)] = &[
    ("bridge", "connects the pods of the node", Level::Error),
    ("veth", "connects a pod", Level::Error),
    ("nf_tables", "Services and the way out of pods", Level::Error),
    ("vxlan", "pods of other nodes", Level::Warning),
];

fn features(facts: &Facts) -> Vec<Finding> {
    let judge = |&(name, purpose, level): &(&'static str, &str, Level)| match facts.features.get(name)? {
        Ok(()) => Some(ok(name, format!("works ({purpose})"))),
        Err(why) => {
            let advice = format!("load it (modprobe {name}), or use a kernel that has it: Debian's cloud kernel does");
            Some(bad(name, level, format!("does not work ({purpose}): {why}"), advice))
        }
    };
    FEATURES.iter().filter_map(judge).collect()
}

fn cgroups(cgroups: &Cgroups) -> Finding {
    const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
    let (version, controllers) = match cgroups {
        Cgroups::None => {
            let advice = "mount them below /sys/fs/cgroup; systemd and OpenRC's cgroups service do";
            return bad("cgroups", Level::Error, "none are mounted", advice);
        }
        Cgroups::V1(controllers) => ("v1", controllers),
        Cgroups::V2(controllers) => ("v2", controllers),
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|n| !controllers.iter().any(|c| c == n)).collect();
    if missing.is_empty() {
        return ok("cgroups", format!("{version} with {}", NEEDED.join(", ")));
    }
    let advice =
        "limits of these are not kept; on a Raspberry Pi add cgroup_enable=memory to /boot/cmdline.txt and reboot";
    bad("cgroups", Level::Warning, format!("{version} without {}", missing.join(", ")), advice)
}

fn runtime(facts: &Facts) -> Finding {
    match &facts.runtime {
        Ok(version) => ok("containerd", version.clone()),
        Err(why) => {
            let (says, advice) = why.split_once("; ").unwrap_or((why, "install containerd and runc"));
            bad("containerd", Level::Error, says, advice)
        }
    }
}

fn hosts_file(facts: &Facts) -> Finding {
    match facts.hosts_file {
        true => ok("hosts file", "/etc/hosts is there"),
        false => bad(
            "hosts file",
            Level::Error,
            "there is no /etc/hosts, and containerd starts no pod without it",
            "make it: echo 127.0.0.1 localhost > /etc/hosts",
        ),
    }
}

fn overlay(facts: &Facts) -> Option<Finding> {
    Some(match facts.overlay? {
        true => ok("overlayfs", "works where the images will be"),
        false => bad(
            "overlayfs",
            Level::Warning,
            format!("no overlay mounts on the file system of {}", facts.data_dir),
            "images are copied for each container; put --data-dir on ext4, xfs or btrfs, or load the module overlay",
        ),
    })
}

fn forwarding(facts: &Facts) -> Option<Finding> {
    Some(match facts.forwarding? {
        true => ok("ip_forward", "on"),
        false if facts.is_root => ok("ip_forward", "off; orch switches it on"),
        false => bad("ip_forward", Level::Warning, "off", "orch switches it on when it runs as root"),
    })
}

fn ports(facts: &Facts) -> Finding {
    let taken: Vec<&Port> =
        facts.ports.iter().filter(|p| p.taken.is_some() && p.holder.as_deref() != Some("orch")).collect();
    let Some(first) = taken.first() else {
        let names: Vec<String> = facts.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
        let by_orch = facts.ports.iter().any(|p| p.taken.is_some());
        let who = if by_orch { "free, or used by the orch that runs" } else { "free" };
        return ok("ports", format!("{} {who}", names.join(", ")));
    };
    let says: Vec<String> = taken
        .iter()
        .map(|p| {
            let holder = p.holder.as_ref().map_or(String::new(), |h| format!(", used by {h}"));
            format!("{}/{} ({}): {}{holder}", p.port, p.protocol, p.purpose, p.taken.as_deref().unwrap_or_default())
        })
        .collect();
    let advice = match first.purpose {
        "Kubernetes API" => "stop that program, or choose another port with --https-listen-port",
        _ => "stop that program: another Kubernetes on this machine has the same ports",
    };
    bad("ports", Level::Error, says.join("; "), advice)
}

fn clock(facts: &Facts) -> Finding {
    let time = jiff::Timestamp::from_second(facts.now).map(|t| t.to_string()).unwrap_or_default();
    if !(CLOCK_LEAST..CLOCK_MOST).contains(&facts.now) {
        return bad("clock", Level::Error, format!("it says {time}"), "set it: certificates would not be good now");
    }
    match facts.clock_is_kept {
        Some(false) => bad(
            "clock",
            Level::Warning,
            format!("{time}; nothing sets it by the network"),
            "run systemd-timesyncd, chrony or ntpd: nodes must agree on the time",
        ),
        _ => ok("clock", time),
    }
}

fn disk(facts: &Facts) -> Finding {
    let Some((free, inodes)) = facts.disk else {
        return bad(
            "disk",
            Level::Warning,
            format!("cannot tell what is free at {}", facts.data_dir),
            "choose another place with --data-dir",
        );
    };
    let says = format!("{} free for {}", bytes(free), facts.data_dir);
    match free {
        n if n < DISK_LEAST => bad("disk", Level::Error, says, "free some, or choose another place with --data-dir"),
        n if n < DISK => bad("disk", Level::Warning, says, format!("{} are enough for a few images", bytes(DISK))),
        _ if inodes < INODES_PERCENT => {
            bad("disk", Level::Warning, format!("{says}, but {inodes} % of inodes"), "images have many small files")
        }
        _ => ok("disk", says),
    }
}

fn memory(facts: &Facts) -> Finding {
    let wanted = MEMORY.iter().find(|(role, _)| *role == facts.role).map_or(MEMORY_LEAST, |(_, bytes)| *bytes);
    // Firmware and kernel keep a part of what is printed on the box.
    let (says, enough) = (bytes(facts.memory), wanted - wanted / 8);
    match facts.memory {
        n if n < MEMORY_LEAST => bad("memory", Level::Error, says, format!("at least {}", bytes(MEMORY_LEAST))),
        n if n < enough => bad("memory", Level::Warning, says, format!("{} leave room for pods", bytes(wanted))),
        _ => ok("memory", says),
    }
}

fn swap(facts: &Facts) -> Finding {
    match facts.swap {
        0 => ok("swap", "none"),
        n => bad(
            "swap",
            Level::Warning,
            bytes(n),
            "containers with a memory limit do not use it, the rest of the machine may become slow; swapoff -a turns it off",
        ),
    }
}

fn node_name(facts: &Facts) -> Finding {
    let name = &facts.node_name;
    match names::dns1123_subdomain(name).into_iter().next() {
        Some(why) => bad("node name", Level::Error, format!("{name:?}: {why}"), "choose another with --node-name"),
        None if name == "localhost" || name.starts_with("localhost.") => bad(
            "node name",
            Level::Warning,
            format!("{name:?} is every machine's name"),
            "name the machine (hostnamectl hostname NAME), or use --node-name: two nodes of one name do not get along",
        ),
        None => ok("node name", name.clone()),
    }
}

fn route(facts: &Facts) -> Finding {
    match facts.default_route {
        true => ok("route", "there is a default route"),
        false => bad(
            "route",
            Level::Warning,
            "no default route: the node's address cannot be told from it",
            "name the address with --node-ip",
        ),
    }
}

/// `4.0 GiB`.
fn bytes(n: u64) -> String {
    match n {
        n if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        n => format!("{} MiB", n >> 20),
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn port(taken: Option<&str>, holder: Option<&str>) -> Port {
        Port {
            port: 6443,
            protocol: "tcp",
            purpose: "Kubernetes API",
            taken: taken.map(str::to_owned),
            holder: holder.map(str::to_owned),
        }
    }

    fn good() -> Facts {
        Facts {
            role: Role::Server,
            node: true,
            is_root: true,
            kernel: "6.1.0-50-cloud-amd64".into(),
            features: ["bridge", "veth", "nf_tables", "vxlan"].map(|f| (f, Ok(()))).into(),
            cgroups: Cgroups::V2(["cpu", "memory", "pids", "io"].map(str::to_owned).into()),
            ports: vec![port(None, None)],
            now: 1_800_000_000,
            clock_is_kept: Some(true),
            disk: Some((10 << 30, 90)),
            data_dir: "/var/lib/orch".into(),
            overlay: Some(true),
            memory: 1 << 30,
            swap: 0,
            node_name: "box".into(),
            forwarding: Some(false),
            runtime: Ok("containerd 1.6".into()),
            default_route: true,
            hosts_file: true,
        }
    }

    #[test]
    fn a_good_machine_is_good_all_over() {
        let findings = judge(&good());
        assert!(findings.iter().all(|f| f.level == Level::Ok && f.advice.is_none()), "{findings:#?}");
        assert_eq!(findings.len(), 18);
    }

    fn changed(change: impl FnOnce(&mut Facts)) -> (Level, String, String) {
        let mut facts = good();
        change(&mut facts);
        let mut found: Vec<Finding> = judge(&facts).into_iter().filter(|f| f.level != Level::Ok).collect();
        assert_eq!(found.len(), 1, "one thing was changed: {found:#?}");
        let f = found.remove(0);
        (f.level, f.name.to_owned(), format!("{} | {}", f.says, f.advice.expect("it says what to change")))
    }

    #[test_case(|f| { f.is_root = false; f.forwarding = Some(true) }, Level::Error, "user", "run as root")]
    #[test_case(|f| f.kernel = "4.19.0".into(), Level::Error, "kernel", "5.4")]
    #[test_case(|f| drop(f.features.insert("nf_tables", Err("no such thing".into()))), Level::Error, "nf_tables", "modprobe nf_tables")]
    #[test_case(|f| drop(f.features.insert("vxlan", Err("no such thing".into()))), Level::Warning, "vxlan", "pods of other nodes")]
    #[test_case(|f| f.cgroups = Cgroups::None, Level::Error, "cgroups", "/sys/fs/cgroup")]
    #[test_case(|f| f.cgroups = Cgroups::V1(vec!["cpu".into(), "pids".into()]), Level::Warning, "cgroups", "v1 without memory | limits")]
    #[test_case(|f| f.runtime = Err("runc not found; install it (Debian: apt-get install runc)".into()), Level::Error, "containerd", "apt-get install runc")]
    #[test_case(|f| f.overlay = Some(false), Level::Warning, "overlayfs", "copied")]
    #[test_case(|f| f.ports = vec![port(Some("in use"), Some("nginx"))], Level::Error, "ports", "6443/tcp (Kubernetes API): in use, used by nginx | stop that program, or")]
    #[test_case(|f| f.now = 0, Level::Error, "clock", "1970"; "clock of 1970")]
    #[test_case(|f| f.clock_is_kept = Some(false), Level::Warning, "clock", "chrony")]
    #[test_case(|f| f.disk = Some((100 << 20, 90)), Level::Error, "disk", "100 MiB free"; "disk full")]
    #[test_case(|f| f.disk = Some((1 << 30, 90)), Level::Warning, "disk", "1.0 GiB free"; "disk small")]
    #[test_case(|f| f.disk = Some((10 << 30, 2)), Level::Warning, "disk", "2 % of inodes"; "disk without inodes")]
    #[test_case(|f| f.disk = None, Level::Warning, "disk", "--data-dir"; "disk unknown")]
    #[test_case(|f| f.memory = 100 << 20, Level::Error, "memory", "128 MiB"; "memory too little")]
    #[test_case(|f| f.memory = 400 << 20, Level::Warning, "memory", "512 MiB"; "memory little")]
    #[test_case(|f| f.swap = 1 << 30, Level::Warning, "swap", "swapoff")]
    #[test_case(|f| f.node_name = "My_Box".into(), Level::Error, "node name", "--node-name"; "name invalid")]
    #[test_case(|f| f.node_name = "localhost".into(), Level::Warning, "node name", "hostnamectl"; "name of everybody")]
    #[test_case(|f| f.hosts_file = false, Level::Error, "hosts file", "containerd starts no pod")]
    #[test_case(|f| f.default_route = false, Level::Warning, "route", "--node-ip")]
    fn what_is_wrong_is_told_with_the_way_out(change: fn(&mut Facts), level: Level, name: &str, part: &str) {
        let found = changed(change);
        assert_eq!((found.0, &*found.1), (level, name));
        assert!(found.2.contains(part), "{}", found.2);
    }

    #[test]
    fn the_running_orch_may_have_its_ports() {
        let facts = Facts { ports: vec![port(Some("in use"), Some("orch"))], ..good() };
        let found = judge(&facts).into_iter().find(|f| f.name == "ports").unwrap();
        assert_eq!((found.level, &*found.says), (Level::Ok, "6443/tcp free, or used by the orch that runs"));
    }

    #[test]
    fn a_control_plane_alone_needs_no_node() {
        let facts = Facts {
            node: false,
            is_root: false,
            cgroups: Cgroups::None,
            runtime: Err("none".into()),
            overlay: Some(false),
            features: BTreeMap::new(),
            ..good()
        };
        assert!(judge(&facts).iter().all(|f| f.level == Level::Ok), "{:#?}", judge(&facts));
    }
}
