//! What is done to leave a machine as it was. Pure: facts and a scope in, steps in their order out.
//!
//! **Invariant:** a step names what it touches; what is not in the facts is never touched. No facts, no steps.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::util::order::Arrange;
use crate::util::procs::Process;

/// Time for orch to drain and stop: longer than its own deadline.
const SERVER_GRACE: Duration = Duration::from_secs(25);
/// Time for containers to end after they were asked, and for what has no reason to take any.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);

/// How much goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What runs: orch, pods, their network. The next start goes on with the same cluster.
    Running,
    /// And what was installed; state and configuration stay.
    Software,
    /// Everything.
    All,
}

/// What an installation put on the machine, as its manifest tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The data directory, where a flag of the service names it.
    pub data_dir: Option<PathBuf>,
    /// Names of units.
    pub units: Vec<String>,
    /// Files.
    pub files: Vec<PathBuf>,
    /// Links, and what they lead to: one that somebody changed is somebody's.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories that were made; they go when nothing else came into them.
    pub dirs: Vec<PathBuf>,
}

impl Manifest {
    /// Reads one: a kind, and a path that may hold anything but a line's end, a line each. Unknown kinds are of a later
    /// installer and left alone.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("data", path)) => out.data_dir = Some(path.into()),
                Some(("unit", name)) => out.units.push(name.to_owned()),
                Some(("file", path)) => out.files.push(path.into()),
                Some(("dir", path)) => out.dirs.push(path.into()),
                Some(("link", both)) => {
                    let pair = both.split_once(" -> ");
                    out.links.extend(pair.map(|(path, to)| (path.into(), to.into())));
                }
                _ => {}
            }
        }
        // Deeper ones first.
        out.dirs.arrange_by_key(|d| std::cmp::Reverse(d.components().count()));
        out
    }
}

/// A family of nftables tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
    /// `inet`
    Both,
}

/// What of orch is on the machine. Every list is empty where there is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Units that run, or are enabled.
    pub active_units: Vec<String>,
    /// Units that systemd starts at boot.
    pub enabled_units: Vec<String>,
    /// `orch server` and `orch agent`.
    pub servers: Vec<Process>,
    /// containerd of orch.
    pub containerd: Vec<Process>,
    /// Its shims.
    pub shims: Vec<Process>,
    /// Processes in containers.
    pub containers: Vec<Process>,
    /// Network namespaces of pods, by their files.
    pub namespaces: Vec<PathBuf>,
    /// Mounts of containers and volumes, the last made first.
    pub mounts: Vec<PathBuf>,
    /// cgroups of pods, and those above them that hold nothing else; deeper ones first.
    pub cgroups: Vec<PathBuf>,
    /// Interfaces.
    pub links: Vec<String>,
    /// Routes, as `10.42.1.0/24`.
    pub routes: Vec<ipnet::IpNet>,
    /// nftables tables.
    pub tables: Vec<(Family, String)>,
    /// Files that other programs left for orch's pods: sockets of shims, results of CNI.
    pub remains: Vec<PathBuf>,
    /// Logs of pods, and the links to them.
    pub logs: Vec<PathBuf>,
    /// Directories of many (`/var/log/pods`) in which there is nothing but the above.
    pub shared_dirs: Vec<PathBuf>,
    /// Sockets and state below `/run`.
    pub run_dir: Option<PathBuf>,
    /// Configuration.
    pub config_dir: Option<PathBuf>,
    /// State.
    pub data_dir: Option<PathBuf>,
    /// What an installer wrote down.
    pub manifest: Option<(PathBuf, Manifest)>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Stops a unit of systemd's.
    StopUnit(String),
    /// Keeps systemd from starting a unit at boot.
    DisableUnit(String),
    /// Ends processes: asked first, killed after the grace.
    End(&'static str, Vec<Process>, Duration),
    /// Takes a mount away.
    Unmount(PathBuf),
    /// Removes a namespace's file and the mount upon it.
    RemoveNamespace(PathBuf),
    /// Removes a cgroup.
    RemoveCgroup(PathBuf),
    /// Removes an interface.
    RemoveLink(String),
    /// Removes a route.
    RemoveRoute(ipnet::IpNet),
    /// Removes an nftables table.
    RemoveTable(Family, String),
    /// Removes a file or a link.
    RemoveFile(PathBuf),
    /// Removes a link that still leads where the installer let it.
    RemoveLinkTo(PathBuf, PathBuf),
    /// Removes a directory with all that is in it.
    RemoveTree(PathBuf),
    /// Removes a directory that has become empty.
    RemoveEmptyDir(PathBuf),
    /// Makes systemd forget units that are gone.
    ReloadUnits,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopUnit(name) => write!(f, "stop unit {name}"),
            Self::DisableUnit(name) => write!(f, "disable unit {name}"),
            Self::End(what, processes, _) => {
                let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
                write!(f, "end {what}: {}", pids.join(" "))
            }
            Self::Unmount(path) => write!(f, "unmount {}", path.display()),
            Self::RemoveNamespace(path) => write!(f, "remove network namespace {}", path.display()),
            Self::RemoveCgroup(path) => write!(f, "remove cgroup {}", path.display()),
            Self::RemoveLink(name) => write!(f, "remove interface {name}"),
            Self::RemoveRoute(to) => write!(f, "remove route to {to}"),
            Self::RemoveTable(family, name) => {
                let family = match family {
                    Family::V4 => "ip",
                    Family::V6 => "ip6",
                    Family::Both => "inet",
                };
                write!(f, "remove nftables table {family} {name}")
            }
            Self::RemoveFile(path) | Self::RemoveLinkTo(path, _) => write!(f, "remove {}", path.display()),
            Self::RemoveTree(path) => write!(f, "remove {} and all in it", path.display()),
            Self::RemoveEmptyDir(path) => write!(f, "remove {} if it is empty", path.display()),
            Self::ReloadUnits => f.write_str("reload systemd's units"),
        }
    }
}

/// The steps, in an order in which each finds nothing in its way: what starts others ends before them.
pub fn plan(facts: &Facts, scope: Scope) -> Vec<Step> {
    let mut steps: Vec<Step> = facts.active_units.iter().cloned().map(Step::StopUnit).collect();
    let groups = [
        ("orch", &facts.servers, SERVER_GRACE),
        ("containerd", &facts.containerd, GRACE),
        ("containers", &facts.containers, CONTAINER_GRACE),
        ("shims", &facts.shims, GRACE),
    ];
    steps.extend(groups.into_iter().filter(|g| !g.1.is_empty()).map(|(what, ps, t)| Step::End(what, ps.clone(), t)));
    steps.extend(facts.namespaces.iter().cloned().map(Step::RemoveNamespace));
    steps.extend(facts.mounts.iter().cloned().map(Step::Unmount));
    steps.extend(facts.cgroups.iter().cloned().map(Step::RemoveCgroup));
    steps.extend(facts.tables.iter().cloned().map(|(family, name)| Step::RemoveTable(family, name)));
    steps.extend(facts.routes.iter().copied().map(Step::RemoveRoute));
    steps.extend(facts.links.iter().cloned().map(Step::RemoveLink));
    steps.extend(facts.remains.iter().cloned().map(Step::RemoveFile));
    if scope >= Scope::All {
        steps.extend(facts.logs.iter().cloned().map(Step::RemoveTree));
    }
    // A package is purged when its program is gone already: nobody would remove them then.
    let stays = |dir: &&PathBuf| scope < Scope::All && facts.logs.iter().any(|log| log.starts_with(dir));
    steps.extend(facts.shared_dirs.iter().filter(|dir| !stays(dir)).cloned().map(Step::RemoveEmptyDir));
    steps.extend(facts.run_dir.iter().cloned().map(Step::RemoveTree));
    if scope >= Scope::All {
        steps.extend(facts.data_dir.iter().cloned().map(Step::RemoveTree));
    }
    if scope >= Scope::Software {
        steps.extend(installed(facts, scope));
    }
    steps
}

fn installed(facts: &Facts, scope: Scope) -> Vec<Step> {
    let Some((path, manifest)) = &facts.manifest else {
        let config = facts.config_dir.clone().filter(|_| scope == Scope::All);
        return config.into_iter().map(Step::RemoveTree).collect();
    };
    let mut steps: Vec<Step> = facts.enabled_units.iter().cloned().map(Step::DisableUnit).collect();
    let binary_last = |p: &&PathBuf| p.file_name().is_some_and(|n| n == "orch") && p.extension().is_none();
    let (binaries, files): (Vec<&PathBuf>, Vec<&PathBuf>) = manifest.files.iter().partition(binary_last);
    steps.extend(files.into_iter().cloned().map(Step::RemoveFile));
    steps.extend(manifest.links.iter().cloned().map(|(path, to)| Step::RemoveLinkTo(path, to)));
    if !manifest.units.is_empty() {
        steps.push(Step::ReloadUnits);
    }
    // Nothing is left that would need it to be removed: what fails before this can be done again.
    steps.extend(binaries.into_iter().cloned().map(Step::RemoveFile));
    steps.push(Step::RemoveFile(path.clone()));
    steps.extend(facts.config_dir.clone().filter(|_| scope == Scope::All).map(Step::RemoveTree));
    let is_above = |dir: &Path| facts.config_dir.as_deref() == Some(dir) && scope == Scope::All;
    steps.extend(manifest.dirs.iter().filter(|d| !is_above(d)).cloned().map(Step::RemoveEmptyDir));
    steps
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, parent: 1, start: 1, arguments: vec!["x".into()] }
    }

    fn everything() -> Facts {
        let manifest = Manifest::parse(
            "data /srv/orch\nunit orch.service\nfile /usr/local/bin/orch\nfile /etc/systemd/system/orch.service\n\
             link /usr/local/bin/kubectl -> orch\ndir /usr/local/share/man/man1\ndir /etc/orch\nfuture /x\n",
        );
        Facts {
            active_units: vec!["orch.service".into()],
            enabled_units: vec!["orch.service".into()],
            servers: vec![process(10)],
            containerd: vec![process(11)],
            shims: vec![process(12)],
            containers: vec![process(13), process(14)],
            namespaces: vec!["/run/netns/cni-a".into()],
            mounts: vec!["/run/orch/containerd/state/rootfs".into()],
            cgroups: vec!["/sys/fs/cgroup/kubepods/podu".into(), "/sys/fs/cgroup/kubepods".into()],
            links: vec!["orch0".into()],
            routes: vec!["10.42.1.0/24".parse().unwrap()],
            tables: vec![(Family::V4, "orch".into())],
            remains: vec!["/run/containerd/s/a".into()],
            logs: vec!["/var/log/pods/ns_a_u".into()],
            shared_dirs: vec!["/var/log/pods".into(), "/run/netns".into()],
            run_dir: Some("/run/orch".into()),
            config_dir: Some("/etc/orch".into()),
            data_dir: Some("/var/lib/orch".into()),
            manifest: Some(("/etc/orch/install.manifest".into(), manifest)),
        }
    }

    fn lines(scope: Scope) -> Vec<String> {
        plan(&everything(), scope).iter().map(ToString::to_string).collect()
    }

    const RUNNING: &[&str] = &[
        "stop unit orch.service",
        "end orch: 10",
        "end containerd: 11",
        "end containers: 13 14",
        "end shims: 12",
        "remove network namespace /run/netns/cni-a",
        "unmount /run/orch/containerd/state/rootfs",
        "remove cgroup /sys/fs/cgroup/kubepods/podu",
        "remove cgroup /sys/fs/cgroup/kubepods",
        "remove nftables table ip orch",
        "remove route to 10.42.1.0/24",
        "remove interface orch0",
        "remove /run/containerd/s/a",
    ];
    const LOGS: &[&str] = &["remove /var/log/pods/ns_a_u and all in it", "remove /var/log/pods if it is empty"];
    const SHARED: &[&str] = &["remove /run/netns if it is empty"];
    const RUN: &[&str] = &["remove /run/orch and all in it"];
    const DATA: &[&str] = &["remove /var/lib/orch and all in it"];
    const SOFTWARE: &[&str] = &[
        "disable unit orch.service",
        "remove /etc/systemd/system/orch.service",
        "remove /usr/local/bin/kubectl",
        "reload systemd's units",
        "remove /usr/local/bin/orch",
        "remove /etc/orch/install.manifest",
    ];
    const CONFIG: &[&str] = &["remove /etc/orch and all in it"];
    const MAN: &[&str] = &["remove /usr/local/share/man/man1 if it is empty"];
    const CONFIG_IF_EMPTY: &[&str] = &["remove /etc/orch if it is empty"];

    #[test_case(Scope::Running, &[RUNNING, SHARED, RUN]; "what runs")]
    #[test_case(Scope::Software, &[RUNNING, SHARED, RUN, SOFTWARE, MAN, CONFIG_IF_EMPTY]; "the software")]
    #[test_case(Scope::All, &[RUNNING, LOGS, SHARED, RUN, DATA, SOFTWARE, CONFIG, MAN]; "everything")]
    fn scopes(scope: Scope, want: &[&[&str]]) {
        assert_eq!(lines(scope), want.concat());
    }

    #[test]
    fn a_manifest_names_another_data_directory() {
        assert_eq!(everything().manifest.unwrap().1.data_dir, Some("/srv/orch".into()));
        assert_eq!(Manifest::parse("# nothing\n"), Manifest::default());
    }

    #[test]
    fn nothing_found_is_nothing_done() {
        assert_eq!(plan(&Facts::default(), Scope::All), []);
    }

    #[test]
    fn without_a_manifest_no_program_is_removed() {
        let facts = Facts { manifest: None, ..everything() };
        let steps = plan(&facts, Scope::All);
        assert!(!steps.iter().any(|s| s.to_string().contains("/usr/local")), "{steps:?}");
        assert_eq!(steps.last(), Some(&Step::RemoveTree("/etc/orch".into())));
    }
}
