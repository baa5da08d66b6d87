//! What happens when the node runs short of memory, disk or inodes: images that nobody uses go first, then pods, one at a
//! time, until there is enough again.
//!
//! In: the machine, the file systems, the runtime's figures, the node's pods. Out: node conditions (the taints follow in the
//! node lifecycle controller), events, failed pods. Rules: upstream `pkg/kubelet/eviction`. [`plan`] decides.
//!
//! **Invariant:** a critical pod is never evicted. **Invariant:** the next pod goes only when the last one is gone, or after
//! [`CLEANUP`].

pub mod local;
pub mod plan;
pub mod soft;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

pub use plan::{Pressure, Thresholds};
pub use soft::Soft;

use self::plan::{Candidate, LastSeen, Met, Observations, Observed, Signal, Use};
use self::soft::Since;
use super::cgroups::{SYSTEM_CRITICAL, request};
use super::disk::{Filesystem, Tree};
use super::images::Cleaner;
use super::machine;
use super::pod::PodView;
use super::pods::Pods;
use super::runtime::ContainerUsage;
use super::shared::Shared;
use super::status::{Failure, FailureKind};
use crate::runtime::events::EventType;
use crate::util::tasks::Shutdown;

/// Between looks. Upstream: `evictionMonitoringPeriod`.
const PERIOD: Duration = Duration::from_secs(10);
/// How long one evicted pod may hold up the next. Upstream: `podCleanupTimeout`.
const CLEANUP: SignedDuration = SignedDuration::from_secs(30);
/// The grace of a pod that the node wants to be rid of at once. Upstream: of hard eviction thresholds.
const NO_GRACE: i64 = 0;
/// The reason of an evicted pod.
const REASON: &str = "Evicted";

/// Watches the node's resources.
pub struct Eviction {
    shared: Arc<Shared>,
    cleaner: Arc<Cleaner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: LastSeen,
    /// Since when soft thresholds are crossed.
    since: Since,
    /// The pod that was evicted last, and when.
    going: Option<(String, Timestamp)>,
}

impl Eviction {
    /// Nothing looked at yet.
    pub fn new(shared: Arc<Shared>, cleaner: Arc<Cleaner>) -> Self {
        Self { shared, cleaner, state: Mutex::default() }
    }

    /// Looks until the shutdown.
    pub async fn run(&self, pods: &Pods, shutdown: &Shutdown) {
        let work = async {
            loop {
                self.end_overruns(pods).await;
                self.look(pods).await;
                tokio::time::sleep(PERIOD).await;
            }
        };
        shutdown.or(work).await;
    }

    /// Ends the pods that took more of the disk than they may.
    async fn end_overruns(&self, pods: &Pods) {
        let limited: Vec<Arc<PodView>> =
            pods.active().into_iter().filter(|p| !is_critical(p) && local::is_limited(p)).collect();
        if limited.is_empty() {
            return;
        }
        let Some(usage) = self.usage().await else { return };
        // Volumes are counted file by file, which may take a while.
        let shared = self.shared.clone();
        let count = move || {
            let over = |pod: Arc<PodView>| local::overrun(&pod, &taken(&shared, &pod, &usage)).map(|why| (pod, why));
            limited.into_iter().filter_map(over).collect::<Vec<_>>()
        };
        for (pod, message) in tokio::task::spawn_blocking(count).await.unwrap_or_default() {
            self.end(pods, &pod, message, FailureKind::Overrun);
        }
    }

    async fn usage(&self) -> Option<HashMap<String, ContainerUsage>> {
        match self.shared.runtime.usage().await {
            Ok(usage) => Some(usage.into_iter().map(|u| (u.id.clone(), u)).collect()),
            Err(e) => {
                tracing::warn!("cannot tell what containers use: {e}");
                None
            }
        }
    }

    fn end(&self, pods: &Pods, pod: &PodView, message: String, kind: FailureKind) {
        tracing::warn!(pod = pod.name, namespace = pod.namespace, "evicted: {message}");
        self.shared.event(pod, None, EventType::Warning, REASON, message.clone());
        pods.fail(&pod.uid, Failure { reason: REASON.into(), message, kind });
    }

    async fn look(&self, pods: &Pods) {
        let (hard, soft) = self.met();
        let now = self.shared.clock.now();
        let (pressures, due) = {
            let mut state = self.state.lock();
            let all = [hard.as_slice(), &soft].concat();
            (
                plan::pressures(&all, &mut state.last, now),
                self.shared.config.eviction_soft.due(&soft, &mut state.since, now),
            )
        };
        self.shared.pressure.send_if_modified(|old| {
            let changed = *old != pressures;
            *old = pressures;
            changed
        });
        let Some(first) = hard.first().or(due.first()).copied() else { return };
        let grace_seconds = if hard.is_empty() { self.shared.config.eviction_soft.max_pod_grace } else { NO_GRACE };
        let resource = first.signal.resource();
        tracing::warn!(resource, available = first.available, threshold = first.threshold, "the node runs short");
        self.shared.node_event("EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if first.signal.pressure() == Pressure::Disk {
            self.cleaner.free().await;
            let (hard, soft) = self.met();
            if !hard.iter().chain(&soft).any(|m| m.signal == first.signal) {
                return;
            }
        }
        if !self.is_going(pods, now) {
            self.evict(first, grace_seconds, pods).await;
        }
    }

    /// The hard and the soft thresholds that are crossed.
    fn met(&self) -> (Vec<Met>, Vec<Met>) {
        let config = &self.shared.config;
        let observed = observe(&config.root(), &self.cleaner.root);
        (config.eviction.met(&observed), config.eviction_soft.thresholds.met(&observed))
    }

    /// True while the last evicted pod is still being ended.
    fn is_going(&self, pods: &Pods, now: Timestamp) -> bool {
        let going = self.state.lock().going.clone();
        going.is_some_and(|(uid, at)| now.duration_since(at) < CLEANUP && pods.is_active(&uid))
    }

    async fn evict(&self, met: Met, grace_seconds: i64, pods: &Pods) {
        let Some(usage) = self.usage().await else { return };
        let active: Vec<Arc<PodView>> = pods.active().into_iter().filter(|p| !is_critical(p)).collect();
        // Volumes are counted file by file, which may take a while.
        let (shared, all) = (self.shared.clone(), active.clone());
        let count = move || all.iter().map(|p| candidate(&shared, p, met.signal, &usage)).collect::<Vec<_>>();
        let Ok(mut candidates) = tokio::task::spawn_blocking(count).await else { return };
        plan::rank(&mut candidates);
        let Some((chosen, pod)) = candidates.first().and_then(|c| Some((c, active.iter().find(|p| p.uid == c.uid)?)))
        else {
            return tracing::warn!(resource = met.signal.resource(), "no pod can be evicted");
        };
        self.state.lock().going = Some((pod.uid.clone(), self.shared.clock.now()));
        self.end(pods, pod, plan::message(met, chosen), FailureKind::Disruption { grace_seconds });
    }
}

/// True for pods that the node cannot do without. Upstream: `IsCriticalPod`.
pub fn is_critical(pod: &PodView) -> bool {
    pod.spec.priority.unwrap_or(0) >= SYSTEM_CRITICAL
}

/// What there is now.
fn observe(pods: &Path, images: &Path) -> Observations {
    let memory = machine::memory();
    let mut out = Observations::from([(
        Signal::MemoryAvailable,
        Observed { available: memory.available, capacity: memory.total },
    )]);
    let disks = [
        (pods, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    for (path, space, inodes) in disks {
        let Some(f) = Filesystem::of(path) else { continue };
        out.insert(space, Observed { available: f.bytes_available, capacity: f.bytes });
        out.insert(inodes, Observed { available: f.inodes_available, capacity: f.inodes });
    }
    if let Some((available, capacity)) = machine::pids() {
        out.insert(Signal::PidAvailable, Observed { available, capacity });
    }
    out
}

fn candidate(shared: &Shared, pod: &PodView, signal: Signal, usage: &HashMap<String, ContainerUsage>) -> Candidate {
    let inventory = shared.pleg.latest().pod(&pod.uid);
    let resource = signal.resource();
    let asked = |r| u64::try_from(request(r, resource)).unwrap_or(0);
    let mut containers = Vec::new();
    let mut whole = Use::default();
    for member in &pod.members {
        let newest = inventory.newest(member.name());
        let figures = newest.and_then(|c| usage.get(&c.id));
        let log = newest.map(|c| Tree::of(Path::new(&c.log_path))).unwrap_or_default();
        let used = match signal {
            Signal::MemoryAvailable => figures.map_or(0, |u| u.memory_working_set),
            Signal::NodefsAvailable | Signal::ImagefsAvailable => figures.map_or(0, |u| u.disk_bytes) + log.bytes,
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => log.inodes,
            Signal::PidAvailable => 0,
        };
        // Nothing is asked for in inodes or processes.
        let u = Use { used, request: asked(member.spec.resources.as_ref()) };
        whole = Use { used: whole.used + u.used, request: whole.request + u.request };
        containers.push((member.name().to_owned(), u));
    }
    if signal.pressure() == Pressure::Disk {
        let volumes = local_volumes(&shared.pod_dir(&pod.uid));
        whole.used += if resource == "inodes" { volumes.inodes } else { volumes.bytes };
    }
    match asked(pod.spec.resources.as_ref()) {
        0 => {}
        own => whole.request = own,
    }
    Candidate { uid: pod.uid.clone(), priority: pod.spec.priority.unwrap_or(0), whole, containers }
}

/// What a pod has taken of the disk.
fn taken(shared: &Shared, pod: &PodView, usage: &HashMap<String, ContainerUsage>) -> local::Taken {
    let inventory = shared.pleg.latest().pod(&pod.uid);
    let dir = empty_dirs(&shared.pod_dir(&pod.uid));
    let volumes = local::volumes(pod).map(|name| (name.to_owned(), Tree::of(&dir.join(name)).bytes)).collect();
    let container = |name: &str| {
        let newest = inventory.newest(name)?;
        let written = usage.get(&newest.id).map_or(0, |u| u.disk_bytes);
        Some((name.to_owned(), written + Tree::of(Path::new(&newest.log_path)).bytes))
    };
    let containers = pod.members.iter().filter_map(|m| container(m.name())).collect();
    local::Taken { volumes, containers }
}

/// What a pod's `emptyDir` volumes hold; those in memory are no matter of the disk.
fn local_volumes(pod_dir: &Path) -> Tree {
    Tree::of(&empty_dirs(pod_dir))
}

fn empty_dirs(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes").join("kubernetes.io~empty-dir")
}
