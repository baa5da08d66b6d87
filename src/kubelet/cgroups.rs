//! Resources to cgroups: QoS class, weights and limits (pure), and the pod cgroups that orch makes itself.
//!
//! Rules: upstream `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos`, `pkg/apis/core/v1/helper/qos`.
//!
//! **Invariant:** without a writable cgroup tree pods run all the same, in whatever cgroup the runtime chooses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceRequirements;
use parking_lot::Mutex;

use super::pod::{Member, PodView, Role};
use super::runtime::LinuxResources;
use crate::api::meta::quantity::Quantity;

/// CFS period, microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The kernel refuses quotas below a millisecond.
const MIN_QUOTA: i64 = 1000;
/// Pods at or above this priority are protected from the OOM killer as the node's own daemons are.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// How much a pod's resources are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What is requested or limited of a resource; none for nothing.
pub fn amount(r: Option<&ResourceRequirements>, limits: bool, what: &str) -> Option<Quantity> {
    let r = r?;
    let map = if limits { r.limits.as_ref() } else { r.requests.as_ref() };
    Quantity::parse(&map?.get(what)?.0).ok().filter(|q| q.nanos() > 0)
}

/// What is requested of a resource, in bytes or whole units; 0 for nothing.
pub fn request(r: Option<&ResourceRequirements>, what: &str) -> i64 {
    amount(r, false, what).map_or(0, |q| q.value())
}

/// What a pod asks of its node: its own request if it has one, else that of what runs together, and never less than one init
/// container; its overhead on top. Thousandths of CPUs, whole units of the rest. Upstream: `PodRequests`.
pub fn requested(pod: &PodView, what: &str) -> i64 {
    let number = |q: Quantity| if what == "cpu" { q.milli_value() } else { q.value() };
    let of = |r: Option<&ResourceRequirements>| amount(r, false, what).map_or(0, number);
    let members = |init: bool| {
        let lasting = pod.members.iter().filter(|m| m.role != Role::Ephemeral);
        lasting.filter(move |m| (m.role == Role::Init) == init).map(|m| of(m.spec.resources.as_ref()))
    };
    let containers = members(false).sum::<i64>().max(members(true).max().unwrap_or(0));
    let own = of(pod.spec.resources.as_ref());
    let overhead = pod.spec.overhead.as_ref().and_then(|o| Quantity::parse(&o.get(what)?.0).ok()).map_or(0, number);
    overhead + if own > 0 { own } else { containers }
}

/// The pod's QoS class. Upstream: `ComputePodQOS`.
pub fn qos(pod: &PodView) -> Qos {
    let own: Vec<&ResourceRequirements> = match &pod.spec.resources {
        Some(r) if r.limits.is_some() || r.requests.is_some() => vec![r],
        _ => {
            pod.members.iter().filter(|m| m.role != Role::Ephemeral).filter_map(|m| m.spec.resources.as_ref()).collect()
        }
    };
    let count = if pod.spec.resources.as_ref().is_some_and(|r| r.limits.is_some() || r.requests.is_some()) {
        1
    } else {
        pod.members.iter().filter(|m| m.role != Role::Ephemeral).count()
    };
    let any = own
        .iter()
        .any(|r| ["cpu", "memory"].iter().any(|w| amount(Some(r), true, w).or(amount(Some(r), false, w)).is_some()));
    let equal = |r: &&ResourceRequirements| {
        ["cpu", "memory"].iter().all(|w| {
            let limit = amount(Some(r), true, w);
            limit.is_some() && amount(Some(r), false, w).is_none_or(|q| Some(q) == limit)
        })
    };
    if !any {
        Qos::BestEffort
    } else if own.len() == count && own.iter().all(equal) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// cgroup v1 shares of thousandths of a CPU.
pub fn shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// CFS quota of thousandths of a CPU; 0 means no limit.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * CPU_PERIOD / 1000).max(MIN_QUOTA) }
}

/// cgroup v2 weight of v1 shares.
pub fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

/// How readily the kernel kills the container when memory runs out. `node_memory` is the node's capacity in bytes.
pub fn oom_score_adj(pod: &PodView, member: &Member, node_memory: i64) -> i64 {
    if pod.spec.priority.unwrap_or(0) >= SYSTEM_CRITICAL {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = amount(member.spec.resources.as_ref(), false, "memory").map_or(0, |q| q.value());
            (1000 - 1000i64.saturating_mul(request) / node_memory.max(1)).clamp(3, 999)
        }
    }
}

/// What the runtime limits a container to. With cgroup v2 (`unified`) a container that has no memory left ends as a whole,
/// not one process of it. Upstream: `kuberuntime_container_linux.go`.
pub fn container(pod: &PodView, member: &Member, node_memory: i64, unified: bool) -> LinuxResources {
    let r = member.spec.resources.as_ref();
    let milli = |limits| amount(r, limits, "cpu").map_or(0, |q| q.milli_value());
    let limit = milli(true);
    let request = match milli(false) {
        0 => limit,
        n => n,
    };
    let cpu_quota = quota(limit);
    LinuxResources {
        cpu_period: if cpu_quota == 0 { 0 } else { CPU_PERIOD },
        cpu_quota,
        cpu_shares: shares(request),
        memory_limit: amount(r, true, "memory").map_or(0, |q| q.value()),
        oom_score_adj: oom_score_adj(pod, member, node_memory),
        unified: unified.then(|| ("memory.oom.group".to_owned(), "1".to_owned())).into_iter().collect(),
        ..LinuxResources::default()
    }
}

/// What the pod as a whole is limited to: limits only where every container has one. Init containers run one at a time.
pub fn of_pod(pod: &PodView) -> LinuxResources {
    let members =
        |init: bool| pod.members.iter().filter(move |m| m.role != Role::Ephemeral && (m.role == Role::Init) == init);
    let sum = |limits: bool, what: &str| {
        let each = |m: &Member| amount(m.spec.resources.as_ref(), limits, what);
        let number = |q: Quantity| if what == "cpu" { q.milli_value() } else { q.value() };
        let complete = members(false).chain(members(true)).all(|m| each(m).is_some());
        let running: i64 = members(false).filter_map(each).map(number).sum();
        let init = members(true).filter_map(each).map(number).max().unwrap_or(0);
        (running.max(init), complete)
    };
    let (request, _) = sum(false, "cpu");
    let (cpu_limit, cpu_all) = sum(true, "cpu");
    let (memory_limit, memory_all) = sum(true, "memory");
    LinuxResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: if cpu_all { quota(cpu_limit) } else { 0 },
        cpu_shares: shares(if request == 0 && cpu_all { cpu_limit } else { request }),
        memory_limit: if memory_all { memory_limit } else { 0 },
        ..LinuxResources::default()
    }
}

/// Limits that allow what either of the two allows; 0 is no limit.
pub fn wider(a: &LinuxResources, b: &LinuxResources) -> LinuxResources {
    let most = |a: i64, b: i64| if a == 0 || b == 0 { 0 } else { a.max(b) };
    LinuxResources {
        cpu_quota: most(a.cpu_quota, b.cpu_quota),
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        memory_limit: most(a.memory_limit, b.memory_limit),
        ..b.clone()
    }
}

/// The cgroup of a pod below the root, as the runtime is told: `/kubepods/burstable/pod<uid>`.
pub fn pod_path(pod: &PodView) -> String {
    match qos(pod) {
        Qos::Guaranteed => format!("/kubepods/pod{}", pod.uid),
        Qos::Burstable => format!("/kubepods/burstable/pod{}", pod.uid),
        Qos::BestEffort => format!("/kubepods/besteffort/pod{}", pod.uid),
    }
}

/// Whether the tree at `root` is of cgroup v2.
pub fn is_unified(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

/// The mounted cgroup file system.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
    unified: bool,
    /// One sums up at a time: the last one sees all.
    summing: Arc<Mutex<()>>,
}

/// What a cgroup used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// CPU time, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that is in use: without the file cache that the kernel would give up first. Bytes.
    pub memory: u64,
}

/// v1 controllers that orch sets limits of; the runtime makes its own directories in the others.
const V1: [&str; 3] = ["cpu", "memory", "pids"];

impl Tree {
    /// The tree at `root` (`/sys/fs/cgroup`); unified (v2) when it has `cgroup.controllers`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let unified = is_unified(&root);
        Self { root, unified, summing: Arc::default() }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.root.clone()];
        }
        V1.iter().map(|c| self.root.join(c)).filter(|p| p.is_dir()).collect()
    }

    /// What a pod's cgroup used; none where it has none.
    pub fn used_by_pod(&self, uid: &str) -> Option<Used> {
        let paths = ["", "burstable/", "besteffort/"].map(|class| format!("kubepods/{class}pod{uid}"));
        paths.iter().find_map(|path| {
            let (cpu_nanos, memory) = (self.cpu(path)?, self.memory(path)?);
            Some(Used { cpu_nanos, memory })
        })
    }

    /// CPU time of the whole machine, nanoseconds; none where the root of the tree does not tell.
    pub fn cpu_of_all(&self) -> Option<u64> {
        self.cpu("")
    }

    fn cpu(&self, path: &str) -> Option<u64> {
        if self.unified {
            let stat = std::fs::read_to_string(self.root.join(path).join("cpu.stat")).ok()?;
            return Some(field(&stat, "usage_usec")? * 1000);
        }
        read_number(&self.root.join("cpuacct").join(path).join("cpuacct.usage"))
    }

    fn memory(&self, path: &str) -> Option<u64> {
        let (at, all, inactive) = match self.unified {
            true => (self.root.join(path), "memory.current", "inactive_file"),
            false => (self.root.join("memory").join(path), "memory.usage_in_bytes", "total_inactive_file"),
        };
        let stat = std::fs::read_to_string(at.join("memory.stat")).ok()?;
        Some(read_number(&at.join(all))?.saturating_sub(field(&stat, inactive)?))
    }

    /// Makes the pod's cgroup and those above it, and sets its limits.
    pub fn create_pod(&self, pod: &PodView) -> io::Result<()> {
        let path = pod_path(pod);
        let limits = of_pod(pod);
        for hierarchy in self.hierarchies() {
            let mut at = hierarchy.clone();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                if self.unified {
                    self.delegate(&at)?;
                }
                at.push(part);
                if let Err(e) = std::fs::create_dir(&at)
                    && e.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(e);
                }
            }
            self.limit(&at, &limits)?;
        }
        self.weigh_classes()
    }

    /// Sets other limits of a pod's cgroup; one that is not there limits nothing.
    pub fn limit_pod(&self, pod: &PodView, limits: &LinuxResources) -> io::Result<()> {
        let path = pod_path(pod);
        let there = self.hierarchies().into_iter().map(|h| h.join(path.trim_start_matches('/'))).filter(|p| p.is_dir());
        for at in there {
            self.limit(&at, limits)?;
        }
        self.weigh_classes()
    }

    /// Gives the classes their share of the CPU: BestEffort the least there is, Burstable what its pods ask for together.
    /// Guaranteed pods stand beside the two. Upstream: `qosContainerManagerImpl.setCPUCgroupConfig`.
    fn weigh_classes(&self) -> io::Result<()> {
        let _alone = self.summing.lock();
        let (root, file, least, most) = if self.unified {
            (self.root.clone(), "cpu.weight", weight(MIN_SHARES), weight(MAX_SHARES))
        } else {
            (self.root.join("cpu"), "cpu.shares", MIN_SHARES, MAX_SHARES)
        };
        let read = |pod: std::fs::DirEntry| -> Option<i64> {
            std::fs::read_to_string(pod.path().join(file)).ok()?.trim().parse().ok()
        };
        for class in ["besteffort", "burstable"] {
            let at = root.join("kubepods").join(class);
            if !at.join(file).exists() {
                continue;
            }
            let asked: i64 = match class {
                "besteffort" => least,
                _ => std::fs::read_dir(&at)?.flatten().filter_map(read).sum(),
            };
            std::fs::write(at.join(file), asked.clamp(least, most).to_string())?;
        }
        Ok(())
    }

    /// Hands the controllers that exist down to the children of `at`.
    fn delegate(&self, at: &Path) -> io::Result<()> {
        let available = std::fs::read_to_string(at.join("cgroup.controllers"))?;
        let wanted: Vec<String> = available
            .split_whitespace()
            .filter(|c| ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"].contains(c))
            .map(|c| format!("+{c}"))
            .collect();
        std::fs::write(at.join("cgroup.subtree_control"), wanted.join(" "))
    }

    fn limit(&self, at: &Path, limits: &LinuxResources) -> io::Result<()> {
        let set = |file: &str, value: String| match std::fs::OpenOptions::new().write(true).open(at.join(file)) {
            Ok(mut f) => io::Write::write_all(&mut f, value.as_bytes()),
            // A controller that is not there limits nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        if self.unified {
            set("cpu.weight", weight(limits.cpu_shares).to_string())?;
            if limits.cpu_quota > 0 {
                set("cpu.max", format!("{} {CPU_PERIOD}", limits.cpu_quota))?;
            }
            if limits.memory_limit > 0 {
                set("memory.max", limits.memory_limit.to_string())?;
            }
            return Ok(());
        }
        set("cpu.shares", limits.cpu_shares.to_string())?;
        if limits.cpu_quota > 0 {
            set("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
            set("cpu.cfs_quota_us", limits.cpu_quota.to_string())?;
        }
        if limits.memory_limit > 0 {
            set("memory.limit_in_bytes", limits.memory_limit.to_string())?;
        }
        Ok(())
    }

    /// Removes the cgroups of a pod in every hierarchy and class (an orphan's class is not known). What still has
    /// processes stays; the error names it.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        let roots: Vec<PathBuf> = if self.unified {
            vec![self.root.clone()]
        } else {
            std::fs::read_dir(&self.root)?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
        };
        for root in roots {
            for class in ["", "burstable", "besteffort"] {
                let path = root.join("kubepods").join(class).join(format!("pod{uid}"));
                if path.is_dir() {
                    remove_tree(&path)?;
                }
            }
        }
        self.weigh_classes()
    }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A figure of a file with a name and a figure on each line.
fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// cgroup directories are removed from the leaves up; their files cannot be unlinked.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    fn pod(containers: Value) -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers}})).unwrap()
    }

    fn both(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test_case(json!([{"name": "c"}]), Qos::BestEffort)]
    #[test_case(json!([both("1", "1Gi")]), Qos::Guaranteed)]
    #[test_case(json!([both("1", "1Gi"), {"name": "d"}]), Qos::Burstable; "one without")]
    #[test_case(json!([{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), Qos::Guaranteed; "limits alone")]
    #[test_case(json!([{"name": "c", "resources": {"limits": {"cpu": "1"}}}]), Qos::Burstable; "cpu alone")]
    #[test_case(json!([{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}}}]), Qos::Burstable; "less requested")]
    fn classes(containers: Value, want: Qos) {
        assert_eq!(qos(&pod(containers)), want);
    }

    #[test_case(0, 2, 0)]
    #[test_case(1, 2, 1000; "kernel minimum")]
    #[test_case(100, 102, 10_000)]
    #[test_case(1000, 1024, 100_000)]
    #[test_case(500_000, 262_144, 50_000_000)]
    fn cpu(milli: i64, want_shares: i64, want_quota: i64) {
        assert_eq!((shares(milli), quota(milli)), (want_shares, want_quota));
    }

    #[test]
    fn containers_get_what_they_ask_for() {
        let p = pod(
            json!([{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"memory": "32Mi"}}}]),
        );
        let r = container(&p, &p.members[0], 1 << 30, false);
        assert!(r.unified.is_empty());
        let r2 = container(&p, &p.members[0], 1 << 30, true);
        assert_eq!(r2.unified["memory.oom.group"], "1");
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit), (512, 50_000, 64 << 20));
        assert_eq!(r.oom_score_adj, 1000 - 1000 * 32 / 1024);
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test_case(true, &[("cgroup.controllers", ""), ("cpu.stat", "usage_usec 9\nuser_usec 5\n"), ("kubepods/podu/cpu.stat", "usage_usec 3\n"),
        ("kubepods/podu/memory.current", "100\n"), ("kubepods/podu/memory.stat", "anon 1\ninactive_file 30\n")], (3000, 70, 9000); "v2")]
    #[test_case(false, &[("cpuacct/cpuacct.usage", "9000\n"), ("cpuacct/kubepods/burstable/podu/cpuacct.usage", "3000\n"),
        ("memory/kubepods/burstable/podu/memory.usage_in_bytes", "100\n"),
        ("memory/kubepods/burstable/podu/memory.stat", "inactive_file 1\ntotal_inactive_file 30\n")], (3000, 70, 9000); "v1")]
    fn pods_and_the_machine_tell_what_they_used(unified: bool, files: &[(&str, &str)], want: (u64, u64, u64)) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::at(dir.path());
        assert_eq!(tree.unified, unified);
        let used = tree.used_by_pod("u").unwrap();
        assert_eq!((used.cpu_nanos, used.memory, tree.cpu_of_all().unwrap()), want);
        assert_eq!(tree.used_by_pod("other"), None);
    }

    #[test]
    fn pod_cgroups_come_and_go_in_v2() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        std::fs::create_dir_all(dir.path().join("kubepods/besteffort")).unwrap();
        std::fs::write(dir.path().join("kubepods/cgroup.controllers"), "").unwrap();
        std::fs::write(dir.path().join("kubepods/besteffort/cgroup.controllers"), "").unwrap();
        let tree = Tree::at(dir.path());
        let p = pod(json!([{"name": "c"}]));
        tree.create_pod(&p).unwrap();
        tree.create_pod(&p).unwrap();
        let at = dir.path().join("kubepods/besteffort/podu");
        std::fs::create_dir(at.join("child")).unwrap();
        tree.remove_pod("u").unwrap();
        assert!(!at.exists());
    }

    #[test_case(false, "cpu/kubepods", "cpu.shares", ("2", "614"))]
    #[test_case(true, "kubepods", "cpu.weight", ("1", "24"))]
    fn classes_weigh_what_their_pods_ask_for(unified: bool, at: &str, file: &str, want: (&str, &str)) {
        let dir = tempfile::tempdir().unwrap();
        let class = |name: &str| dir.path().join(at).join(name);
        let asks = |uid: &str, cpu: &str| {
            let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
            let mut p = pod(containers);
            p.uid = uid.into();
            // The kernel makes these files with the directory.
            std::fs::create_dir_all(class("burstable").join(format!("pod{uid}"))).unwrap();
            std::fs::write(class("burstable").join(format!("pod{uid}")).join(file), "1").unwrap();
            p
        };
        let pods = [asks("a", "500m"), asks("b", "100m")];
        std::fs::create_dir_all(class("besteffort")).unwrap();
        for class in [class("besteffort"), class("burstable")] {
            std::fs::write(class.join(file), "1024").unwrap();
        }
        if unified {
            for part in ["", "kubepods", "kubepods/burstable"] {
                std::fs::write(dir.path().join(part).join("cgroup.controllers"), "").unwrap();
            }
        }
        let tree = Tree::at(dir.path());
        let read = |name: &str| std::fs::read_to_string(class(name).join(file)).unwrap();
        pods.iter().for_each(|p| tree.create_pod(p).unwrap());
        assert_eq!((read("besteffort").as_str(), read("burstable").as_str()), want);
        // Its files go with a cgroup; here they have to be taken away.
        for uid in ["a", "b"] {
            std::fs::remove_file(class("burstable").join(format!("pod{uid}")).join(file)).unwrap();
            let _ = std::fs::remove_dir_all(class("burstable").join(format!("pod{uid}")).join("x"));
            tree.remove_pod(uid).unwrap();
        }
        assert_eq!(read("burstable"), want.0, "nobody asks for anything");
    }

    #[test]
    fn limits_are_written_in_v1() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cpu/kubepods/podu");
        std::fs::create_dir_all(&at).unwrap();
        for file in ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"] {
            std::fs::write(at.join(file), "").unwrap();
        }
        Tree::at(dir.path()).create_pod(&pod(json!([both("2", "1Gi")]))).unwrap();
        let read = |f: &str| std::fs::read_to_string(at.join(f)).unwrap();
        assert_eq!((read("cpu.shares"), read("cpu.cfs_quota_us")), ("2048".into(), "200000".into()));
    }
}
