//! Looks for what of orch is on the machine: processes, mounts, cgroups, network, files.
//!
//! In: a data directory. Out: [`Facts`]. Nothing is changed.
//!
//! Pods are recognized by their uids (directories of the kubelet, cgroups of processes below orch's shims), sandboxes by
//! the reservations of the CNI plugin and the bundles of containerd.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nlink::Route;
use nlink::netlink::connection::Connection;
use serde_json::Value;

use super::plan::{Facts, Family, Manifest};
use crate::cmd::config;
use crate::cni::{self, ipam::Reservation, link, overlay};
use crate::kubelet::cgroups;
use crate::kubelet::containerd::Options;
use crate::kubelet::csi::KNOWN_ROOT;
use crate::pki::hex;
use crate::util::nft;
use crate::util::procs::{self, Process};

use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Where state is when nobody says otherwise.
const DATA_DIR: &str = "/var/lib/orch";
const CONFIG_DIR: &str = "/etc/orch";
/// What the installer wrote down.
const MANIFEST: &str = "install.manifest";
/// Units that the packages bring; an installer's manifest may name others.
const UNITS: [&str; 2] = ["orch.service", "orch-agent.service"];
const CGROUPS: &str = "/sys/fs/cgroup";
const NAMESPACES: &str = "/run/netns";
/// Where the CNI library of containerd keeps results.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Where containerd's shims have their sockets.
const SHIM_SOCKETS: &str = "/run/containerd/s";
const POD_LOGS: &str = "/var/log/pods";
const CONTAINER_LOGS: &str = "/var/log/containers";

/// Which orch is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    data_dir: PathBuf,
    /// The directory of `containerd.sock`.
    runtime: PathBuf,
    /// All below it is of this orch's run.
    run_dir: PathBuf,
    /// It is the machine's own orch: units, configuration and programs are its, too.
    is_installation: bool,
}

impl Place {
    /// The orch of this data directory; the machine's when none is given.
    pub fn of(data_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let named = manifest().and_then(|(_, manifest)| manifest.data_dir);
        let own = named.or_else(config::data_dir).unwrap_or_else(|| DATA_DIR.into());
        let data_dir = match data_dir {
            Some(dir) => std::path::absolute(dir).context("cannot tell the present directory")?,
            None => own.clone(),
        };
        let runtime = Options::for_data_dir(&data_dir).run_dir;
        let run_dir = match runtime.starts_with(&data_dir) {
            true => runtime.clone(),
            false => runtime.parent().unwrap_or(&runtime).to_owned(),
        };
        Ok(Self { is_installation: data_dir == own, runtime, run_dir, data_dir })
    }

    fn agent(&self, path: &str) -> PathBuf {
        self.data_dir.join("agent").join(path)
    }

    /// True for `orch server` and `orch agent` of this data directory.
    fn is_server(&self, process: &Process) -> bool {
        let runs = process.arguments.get(1).is_some_and(|a| a == "server" || a == "agent");
        if !runs || process.program() != "orch" {
            return false;
        }
        match process.option("--data-dir").or_else(|| process.option("-d")) {
            Some(dir) => process.directory().unwrap_or_default().join(dir) == self.data_dir,
            None => self.is_installation,
        }
    }

    fn is_containerd(&self, process: &Process) -> bool {
        let config = self.agent("containerd/config.toml");
        process.program() == "containerd" && process.option("--config").is_some_and(|c| Path::new(c) == config)
    }

    fn is_shim(&self, process: &Process) -> bool {
        let socket = self.runtime.join("containerd.sock");
        let address = process.option("-address");
        process.program().starts_with("containerd-shim") && address.is_some_and(|a| Path::new(a) == socket)
    }
}

/// Looks.
pub async fn gather(place: &Place) -> anyhow::Result<Facts> {
    let mut facts = Facts::default();
    let bundles = children(&place.runtime.join("state/io.containerd.runtime.v2.task/k8s.io"));
    let reservations = reservations(&place.agent("cni/state"));
    let mut uids: BTreeSet<String> = children(&place.agent("kubelet/pods")).iter().filter_map(|p| name(p)).collect();
    processes(place, &mut facts, &mut uids).context("cannot list processes")?;
    facts.namespaces = namespaces(&facts.containers, &reservations);
    let below = [place.agent("kubelet"), place.agent("containerd"), place.run_dir.clone()];
    facts.mounts = procs::mount_points().context("cannot list mounts")?;
    facts.mounts.retain(|m| below.iter().any(|dir| m.starts_with(dir) && m != dir));
    facts.mounts.reverse();
    facts.cgroups = pod_cgroups(Path::new(CGROUPS), &uids);
    network(place, &reservations, &mut facts).await?;
    facts.remains = remains(place, &bundles, &reservations);
    // Those of another data directory are below it.
    if place.is_installation {
        facts.logs = logs(Path::new(POD_LOGS), Path::new(CONTAINER_LOGS), &uids);
        facts.shared_dirs = shared_dirs(&facts);
        installation(&mut facts);
    }
    let existing = |dir: &Path| dir.exists().then(|| dir.to_owned());
    facts.run_dir = existing(&place.run_dir);
    facts.data_dir = existing(&place.data_dir);
    Ok(facts)
}

fn processes(place: &Place, facts: &mut Facts, uids: &mut BTreeSet<String>) -> std::io::Result<()> {
    let all = procs::all()?;
    let of = |is: &dyn Fn(&Process) -> bool| -> Vec<Process> {
        all.iter().filter(|p| p.pid != std::process::id() && is(p)).cloned().collect()
    };
    facts.servers = of(&|p| place.is_server(p));
    facts.containerd = of(&|p| place.is_containerd(p));
    facts.shims = of(&|p| place.is_shim(p));
    facts.containers = procs::descendants(&all, &facts.shims);
    for process in &facts.containers {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        uids.extend(pod_of(&text).map(str::to_owned));
    }
    // A container whose shim was killed is in its pod's cgroup all the same.
    let known: HashSet<u32> = facts.containers.iter().map(|p| p.pid).collect();
    for cgroup in pod_cgroups(Path::new(CGROUPS), uids) {
        let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        let pids: BTreeSet<u32> = text.lines().filter_map(|l| l.parse().ok()).collect();
        let new = all.iter().filter(|p| pids.contains(&p.pid) && !known.contains(&p.pid));
        let new: Vec<_> = new.filter(|p| !facts.containers.contains(p)).cloned().collect();
        facts.containers.extend(new);
    }
    Ok(())
}

/// The uid in the path of a pod's cgroup, as `/proc/<pid>/cgroup` tells it.
fn pod_of(text: &str) -> Option<&str> {
    let path = text.lines().filter_map(|l| l.splitn(3, ':').nth(2)).find(|p| p.starts_with("/kubepods/"))?;
    path.split('/').find_map(|part| part.strip_prefix("pod"))
}

/// The cgroups of pods in every hierarchy and class, the deeper ones first.
fn pod_cgroups(root: &Path, uids: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for class in classes(root) {
        for uid in uids {
            descend(&class.join(format!("pod{uid}")), &mut out);
        }
    }
    out
}

/// `kubepods` and the classes in it, the deeper ones first.
fn classes(root: &Path) -> Vec<PathBuf> {
    let mut hierarchies = vec![root.to_owned()];
    if !cgroups::is_unified(root) {
        // Some are links to others.
        let all = children(root).into_iter().filter_map(|p| p.canonicalize().ok());
        hierarchies = all.collect::<BTreeSet<_>>().into_iter().collect();
    }
    let in_one = |h: PathBuf| ["kubepods/burstable", "kubepods/besteffort", "kubepods"].map(|class| h.join(class));
    hierarchies.into_iter().flat_map(in_one).filter(|p| p.is_dir()).collect()
}

fn descend(dir: &Path, out: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    for child in children(dir).iter().filter(|c| c.is_dir()) {
        descend(child, out);
    }
    out.push(dir.to_owned());
}

fn reservations(state: &Path) -> Vec<Reservation> {
    let files = children(state).into_iter().flat_map(|network| children(&network));
    files.filter_map(|f| serde_json::from_slice(&std::fs::read(f).ok()?).ok()).collect()
}

/// Files of the namespaces that containers are in or that were reserved for; only names that runtimes give.
fn namespaces(containers: &[Process], reservations: &[Reservation]) -> Vec<PathBuf> {
    let inode = |path: &Path| std::fs::metadata(path).map(|m| m.ino()).ok();
    let used: HashSet<u64> =
        containers.iter().filter_map(|p| inode(Path::new(&format!("/proc/{}/ns/net", p.pid)))).collect();
    let reserved: HashSet<Option<String>> = reservations.iter().map(|r| name(&r.netns)).collect();
    let mut all = children(Path::new(NAMESPACES));
    all.retain(|file| {
        let is_runtimes = name(file).is_some_and(|n| n.starts_with("cni-"));
        is_runtimes && (reserved.contains(&name(file)) || inode(file).is_some_and(|i| used.contains(&i)))
    });
    all
}

async fn network(place: &Place, reservations: &[Reservation], facts: &mut Facts) -> anyhow::Result<()> {
    let text = std::fs::read(place.agent("cni/net.d").join(cni::CONF_FILE)).ok();
    let conf: Option<Value> = text.and_then(|t| serde_json::from_slice(&t).ok());
    // An orch that never had a network of this name has nothing here that is its.
    if conf.is_none() && !place.is_installation {
        return Ok(());
    }
    let bridge = conf.as_ref().and_then(|c| c.get_at("/plugins/0/bridge")?.as_str()).unwrap_or("orch0");
    let conn = Connection::<Route>::new().context("cannot open a netlink socket")?;
    let links = conn.get_links().await.context("cannot list interfaces")?;
    let index = links.iter().find(|l| l.name() == Some(bridge)).map(|l| l.ifindex());
    let ours: HashSet<String> = reservations.iter().map(|r| link::host_name(&r.container, &r.interface)).collect();
    let is_ours = |l: &&nlink::netlink::messages::LinkMessage| {
        let is_port = index.is_some() && l.master() == index && l.kind() == Some("veth");
        is_port || l.name().is_some_and(|n| n == bridge || n == overlay::DEVICE || ours.contains(n))
    };
    facts.links = links.iter().filter(is_ours).filter_map(|l| l.name().map(str::to_owned)).collect();
    // The bridge's ports go before it.
    facts.links.arrange_by_key(|l| l == bridge);
    for route in conn.get_routes().await.context("cannot list routes")? {
        if route.protocol() == overlay::kernel::PROTOCOL
            && let Some(to) = route.destination()
        {
            facts.routes.extend(ipnet::IpNet::new(*to, route.dst_len()));
        }
    }
    let nft = nft::connect().context("cannot reach nftables")?;
    for family in [Family::V4, Family::V6, Family::Both] {
        // A kernel without the family has none of its tables.
        let tables = nft.list_tables_in(family.kernel()).await.unwrap_or_default();
        let names = tables.into_iter().map(|t| t.name).filter(|n| n == "orch" || n.starts_with("orch-"));
        facts.tables.extend(names.map(|name| (family, name)));
    }
    Ok(())
}

/// The socket that containerd tells the shim of a sandbox to use. Upstream: `runtime/v2/shim.SocketAddress`.
fn shim_socket(containerd: &Path, sandbox: &str) -> PathBuf {
    let of = containerd.join("k8s.io").join(sandbox);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, of.as_os_str().as_encoded_bytes());
    Path::new(SHIM_SOCKETS).join(hex(digest.as_ref()))
}

/// Sockets of shims and results of the CNI library.
fn remains(place: &Place, bundles: &[PathBuf], reservations: &[Reservation]) -> Vec<PathBuf> {
    let told = bundles.iter().filter_map(|bundle| {
        let address = std::fs::read_to_string(bundle.join("address")).ok()?;
        Some(PathBuf::from(address.trim().strip_prefix("unix://")?))
    });
    let ids: Vec<String> =
        bundles.iter().filter_map(|b| name(b)).chain(reservations.iter().map(|r| r.container.clone())).collect();
    // A shim that was killed leaves its socket, and containerd takes the bundle away that names it.
    let containerd = place.runtime.join("containerd.sock");
    let sockets: BTreeSet<PathBuf> = told.chain(ids.iter().map(|id| shim_socket(&containerd, id))).collect();
    let mut out: Vec<PathBuf> = sockets.into_iter().filter(|s| s.starts_with(SHIM_SOCKETS) && s.exists()).collect();
    out.extend(children(Path::new(CNI_RESULTS)).into_iter().filter(|file| {
        let name = name(file).unwrap_or_default();
        // They begin with the network's name, which is orch's.
        place.is_installation && name.starts_with("orch-") || ids.iter().any(|id| name.contains(id.as_str()))
    }));
    let kubelet = Path::new(KNOWN_ROOT);
    out.extend(std::fs::read_link(kubelet).is_ok_and(|to| to.starts_with(&place.data_dir)).then(|| kubelet.to_owned()));
    out
}

/// Logs of the pods, and the links to them.
fn logs(pods: &Path, containers: &Path, uids: &BTreeSet<String>) -> Vec<PathBuf> {
    let is_ours = |dir: &Path| name(dir).and_then(|n| Some(uids.contains(n.rsplit('_').next()?))).unwrap_or(false);
    let mut out = children(containers);
    out.retain(|l| {
        std::fs::read_link(l).is_ok_and(|to| to.ancestors().any(|a| a.parent() == Some(pods) && is_ours(a)))
    });
    out.extend(children(pods).into_iter().filter(|dir| is_ours(dir)));
    out
}

/// Directories that many use and that nothing is left in when orch's files are gone. The deeper ones first.
fn shared_dirs(facts: &Facts) -> Vec<PathBuf> {
    let mut going: HashSet<PathBuf> =
        [&facts.remains, &facts.logs, &facts.namespaces, &facts.cgroups].into_iter().flatten().cloned().collect();
    let mounted = procs::mount_points().unwrap_or_default();
    let mut dirs = classes(Path::new(CGROUPS));
    let files = [POD_LOGS, CONTAINER_LOGS, CNI_RESULTS, "/var/lib/cni", SHIM_SOCKETS, "/run/containerd", NAMESPACES];
    dirs.extend(files.map(PathBuf::from));
    dirs.retain(|dir| {
        let is_cgroup = dir.starts_with(CGROUPS);
        let stays = |c: &PathBuf| !going.contains(c) && (!is_cgroup || c.is_dir());
        let goes = dir.is_dir() && !mounted.contains(dir) && !children(dir).iter().any(stays);
        if goes {
            going.insert(dir.clone());
        }
        goes
    });
    dirs
}

fn manifest() -> Option<(PathBuf, Manifest)> {
    let path = Path::new(CONFIG_DIR).join(MANIFEST);
    let text = std::fs::read_to_string(&path).ok()?;
    Some((path, Manifest::parse(&text)))
}

fn installation(facts: &mut Facts) {
    let config_dir = Path::new(CONFIG_DIR);
    facts.manifest = manifest();
    facts.config_dir = config_dir.is_dir().then(|| config_dir.to_owned());
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let named = facts.manifest.iter().flat_map(|(_, m)| m.units.iter().map(String::as_str));
    let units: BTreeSet<&str> = UNITS.into_iter().chain(named).collect();
    let says = |verb: &str, unit: &str| {
        let out = Command::new("systemctl").args([verb, unit]).output();
        out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let is_active =
        |unit: &&str| matches!(&*says("is-active", unit), "active" | "activating" | "reloading" | "deactivating");
    let active: Vec<String> = units.iter().copied().filter(|u| is_active(u)).map(str::to_owned).collect();
    let enabled = units.iter().filter(|u| says("is-enabled", u) == "enabled").map(|u| (*u).to_owned()).collect();
    (facts.active_units, facts.enabled_units) = (active, enabled);
}

/// What is in a directory, sorted; nothing where there is none.
fn children(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.arrange();
    all
}

fn name(path: &Path) -> Option<String> {
    path.file_name().map(|n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn process(line: &str) -> Process {
        Process { pid: 1, parent: 0, start: 0, arguments: line.split(' ').map(str::to_owned).collect() }
    }

    fn place(dir: &str) -> Place {
        Place::of(Some(dir.into())).unwrap()
    }

    #[test_case("/var/lib/orch", "/usr/local/bin/orch server" => true; "the machine's")]
    #[test_case("/d", "/usr/local/bin/orch server" => false; "the machine's is not another's")]
    #[test_case("/d", "orch agent --data-dir /d --debug" => true; "an agent")]
    #[test_case("/d", "orch server -d /d" => true; "short")]
    #[test_case("/d", "orch server --data-dir=/e" => false; "of another directory")]
    #[test_case("/d", "orch uninstall --data-dir /d" => false; "no server")]
    #[test_case("/d", "vi server --data-dir /d" => false; "no orch")]
    fn servers(dir: &str, line: &str) -> bool {
        place(dir).is_server(&process(line))
    }

    #[test]
    fn containerd_and_shims_are_known_by_their_paths() {
        let p = place("/d");
        assert!(p.is_containerd(&process("/usr/bin/containerd --config /d/agent/containerd/config.toml")));
        assert!(!p.is_containerd(&process("/usr/bin/containerd")), "the distribution's own");
        let shim = "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id a -address";
        assert!(p.is_shim(&process(&format!("{shim} /d/agent/containerd/run/containerd.sock"))));
        assert!(!p.is_shim(&process(&format!("{shim} /run/containerd/containerd.sock"))));
        assert_eq!(place("/var/lib/orch").run_dir, Path::new("/run/orch"));
    }

    #[test_case("0::/kubepods/burstable/podabc-1/0123\n" => Some("abc-1".to_owned()); "v2")]
    #[test_case("5:cpu:/\n4:memory:/kubepods/podabc-1/0123\n" => Some("abc-1".to_owned()); "v1")]
    #[test_case("0::/system.slice/orch.service\n" => None; "none")]
    fn pods_of_cgroups(text: &str) -> Option<String> {
        pod_of(text).map(str::to_owned)
    }

    #[test]
    fn only_our_pods_cgroups_and_logs_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let uids: BTreeSet<String> = ["u1".to_owned()].into();
        std::fs::write(at("cgroup.controllers"), "").unwrap();
        for d in ["kubepods/burstable/podu1/c", "kubepods/podu2", "pods/ns_a_u1/main", "pods/ns_b_u2/main", "links"] {
            std::fs::create_dir_all(at(d)).unwrap();
        }
        assert_eq!(pod_cgroups(dir.path(), &uids), [at("kubepods/burstable/podu1/c"), at("kubepods/burstable/podu1")]);
        for (link, to) in [("a.log", "pods/ns_a_u1/main/0.log"), ("b.log", "pods/ns_b_u2/main/0.log")] {
            std::os::unix::fs::symlink(at(to), at("links").join(link)).unwrap();
        }
        assert_eq!(logs(&at("pods"), &at("links"), &uids), [at("links/a.log"), at("pods/ns_a_u1")]);
    }
}
