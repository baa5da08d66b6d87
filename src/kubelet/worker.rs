//! One pod's state machine: syncing, terminating, terminated.
//!
//! It wakes when the pod's object changes, when the runtime or a probe has news, and when a time has come. Each time it
//! looks at everything again, plans, acts, and reports the status if that changed.
//!
//! **Invariant:** a phase never goes back. **Invariant:** nothing but this worker changes its pod in the runtime.
//! **Invariant:** no lock is held over an await.

mod ending;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::pod::{PodInventory, PodView};
use super::probes::Prober;
use super::resize::{self, Pending};
use super::runtime::{RuntimeError, State};
use super::shared::Shared;
use super::start::{self, Memory};
use super::status::{self, Failure, FailureKind, Waiting};
use super::stop::{self, How};
use super::sync::{self, Plan, Seen};
use super::{container, pull};
use crate::runtime::events::EventType;
use crate::util::backoff::Backoff;

/// Between attempts at something that failed.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
/// Reason and message of a pod that ran too long.
const DEADLINE: (&str, &str) = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");

/// What the API wants.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The pod as last seen.
    pub pod: Arc<PodView>,
    /// The API has forgotten it.
    pub gone: bool,
    /// The node does not want it, or not any more.
    pub failure: Option<Arc<Failure>>,
    /// The pod is not given what it asks for; `pod` says what it is given.
    pub pending: Option<Arc<Pending>>,
}

impl Desired {
    fn ends(&self) -> bool {
        self.gone || self.pod.deleting() || self.failure.is_some()
    }
}

/// How others reach a worker.
pub struct Handle {
    /// What the API wants.
    pub desired: watch::Sender<Desired>,
    /// Look again.
    pub wake: Arc<Notify>,
    /// Volumes are out of date.
    pub stale: Arc<AtomicBool>,
    /// What the pod takes of the node.
    pub room: Room,
}

/// Closes when nothing of a pod runs any more: what it was promised is free then.
pub type Room = watch::Receiver<()>;

/// Another pod that has to end before this one starts.
pub struct Ahead {
    /// What it takes of the node.
    pub room: Room,
    /// How long it is waited for: one that cannot be stopped keeps nobody for ever.
    pub patience: Duration,
}

/// Where a pod is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It should run.
    Syncing,
    /// It is being stopped.
    Terminating,
    /// Nothing of it runs any more.
    Terminated,
    /// Nothing of it is left; the worker can go.
    Done,
}

/// A pod's worker.
pub struct Worker {
    shared: Arc<Shared>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    stale: Arc<AtomicBool>,
    /// Those that have to end before this one starts.
    ahead: Vec<Ahead>,
    /// Held while something of it may run.
    room: Option<watch::Sender<()>>,
    phase: Phase,
    prober: Prober,
    memory: Memory,
    adopted: bool,
    failure: Option<Arc<Failure>>,
    /// The last status that the API took, with its revision.
    reported: Option<(u64, Value)>,
    refresh: Option<Timestamp>,
    failures: u32,
}

impl Worker {
    /// A worker and its handle; somebody has to run it. It starts nothing before those `ahead` have ended.
    pub fn new(shared: Arc<Shared>, desired: Desired, ahead: Vec<Ahead>) -> (Self, Handle) {
        let phase = if desired.gone { Phase::Terminating } else { Phase::Syncing };
        let (sender, receiver) = watch::channel(desired);
        let (wake, stale) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (held, room) = watch::channel(());
        let prober = Prober::new(shared.asker.clone(), shared.clock.clone(), wake.clone());
        let handle = Handle { desired: sender, wake: wake.clone(), stale: stale.clone(), room };
        let worker = Self {
            shared,
            desired: receiver,
            wake,
            stale,
            ahead,
            room: Some(held),
            phase,
            prober,
            memory: Memory::default(),
            adopted: false,
            failure: None,
            reported: None,
            refresh: None,
            failures: 0,
        };
        (worker, handle)
    }

    /// Works until nothing of the pod is left. Dropping it leaves the containers running.
    pub async fn run(mut self) {
        self.wait_for_room().await;
        while self.phase != Phase::Done {
            let desired = self.desired.borrow_and_update().clone();
            let next = self.step(&desired).await;
            if self.phase == Phase::Done {
                return;
            }
            let sleep = next.unwrap_or(Duration::MAX);
            // What a failed step left behind changes the runtime, too: that must not make it try at once again.
            let failing = self.failures > 0;
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return },
                () = self.wake.notified(), if !failing => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Waits until those that make room for this pod have ended. One that has to end itself waits for nobody.
    async fn wait_for_room(&mut self) {
        let (ahead, mut desired) = (std::mem::take(&mut self.ahead), self.desired.clone());
        let free = async {
            for Ahead { mut room, patience } in ahead {
                let closed = async { while room.changed().await.is_ok() {} };
                if tokio::time::timeout(patience, closed).await.is_err() {
                    let pod = self.desired.borrow().pod.clone();
                    tracing::warn!(pod = pod.name, namespace = pod.namespace, "starts beside a pod that does not end");
                }
            }
        };
        tokio::select! {
            () = free => {}
            _ = desired.wait_for(|d| d.ends() || d.pod.is_terminal()) => {}
        }
    }

    /// One step; gives how long nothing has to be done.
    async fn step(&mut self, desired: &Desired) -> Option<Duration> {
        let pod = self.with_reported_status(&desired.pod);
        let before = self.phase;
        self.memory.resize.pending.clone_from(&desired.pending);
        if self.failure.is_none() && self.phase == Phase::Syncing {
            self.failure.clone_from(&desired.failure);
        }
        let result = match self.phase {
            Phase::Syncing if desired.ends() || pod.is_terminal() => {
                self.phase = Phase::Terminating;
                Ok(Some(Duration::ZERO))
            }
            // On the heap: a pod waits most of the time, and there are many.
            Phase::Syncing => Box::pin(self.sync_unless_ended(&pod)).await,
            Phase::Terminating => Box::pin(self.terminate(&pod, desired.gone)).await,
            Phase::Terminated => Box::pin(self.clean_up(&pod, desired)).await,
            Phase::Done => Ok(None),
        };
        match result {
            Ok(next) => {
                self.failures = 0;
                if self.phase != before { Some(Duration::ZERO) } else { next }
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                tracing::warn!(pod = pod.name, namespace = pod.namespace, phase = ?self.phase, "will be tried again: {why}");
                Some(RETRY.delay(self.failures))
            }
        }
    }

    async fn sync_unless_ended(&mut self, pod: &PodView) -> Result<Option<Duration>, String> {
        let mut desired = self.desired.clone();
        tokio::select! {
            biased;
            // A pull or a hook may take long; a deletion does not wait for it.
            ended = desired.wait_for(Desired::ends) => {
                if let Ok(ended) = ended && self.failure.is_none() {
                    self.failure.clone_from(&ended.failure);
                }
                self.phase = Phase::Terminating;
                Ok(None)
            }
            next = self.sync(pod) => next,
        }
    }

    async fn sync(&mut self, pod: &PodView) -> Result<Option<Duration>, String> {
        let inventory = self.shared.inventory(&pod.uid).await?;
        if !self.adopted {
            self.prober.adopt(pod, &inventory);
            self.adopted = true;
        }
        let now = self.shared.clock.now();
        let deadline = deadline(pod);
        if deadline.is_some_and(|d| d <= now) {
            self.shared.event(pod, None, EventType::Normal, DEADLINE.0, DEADLINE.1);
            let (reason, message) = (DEADLINE.0.to_owned(), DEADLINE.1.to_owned());
            self.failure = Some(Arc::new(Failure { reason, message, kind: FailureKind::Stopped }));
        }
        if self.failure.is_some() || status::is_done(pod, &inventory) {
            self.phase = Phase::Terminating;
            return Ok(None);
        }
        self.tell_unhealthy(pod);
        let results = self.prober.results();
        self.memory.resize.look(pod, &inventory);
        let Memory { delays, resize, .. } = &self.memory;
        let seen = Seen { pod, inventory: &inventory, probes: &results, delays, resize, now };
        let plan = sync::plan(seen);
        self.note_waits(pod, &plan);
        self.report(pod, &inventory, false).await?;
        let behind = !self.memory.resize.behind(pod, &inventory).is_empty();
        if behind {
            resize::act::begin(&self.shared, pod, &inventory, &mut self.memory.resize);
        }
        let after = self.act(pod, inventory, &plan).await?;
        self.memory.resize.look(pod, &after);
        if behind {
            resize::act::finish(&self.shared, pod, &after, &mut self.memory.resize).await;
        }
        self.watch_health(pod, &after);
        self.report(pod, &after, false).await?;
        self.collect_garbage(pod, &after).await;
        let now = self.shared.clock.now();
        let waits = plan.wait.iter().map(|w| w.until);
        let pulls = pull::next_try(&self.memory.failures, &self.memory.delays, now);
        let times = waits.chain(pulls).chain(self.refresh).chain(deadline);
        let mut next = times.min().map(|t| t.duration_since(now).max(SignedDuration::ZERO).unsigned_abs());
        if self.memory.resize.error.is_some() {
            let again = RETRY.delay(self.memory.resize.failures);
            next = Some(next.map_or(again, |n| n.min(again)));
        }
        if self.has_config_errors() {
            next = Some(next.map_or(CONFIG_RETRY, |n| n.min(CONFIG_RETRY)));
        }
        Ok(next)
    }

    fn has_config_errors(&self) -> bool {
        self.memory.waiting.values().any(|w| !matches!(w.reason.as_str(), "CrashLoopBackOff" | "ImagePullBackOff"))
    }

    fn tell_unhealthy(&self, pod: &PodView) {
        for u in self.prober.take_unhealthy() {
            self.shared.event(pod, pod.member(&u.container), EventType::Warning, "Unhealthy", u.message);
        }
    }

    fn note_waits(&mut self, pod: &PodView, plan: &Plan) {
        // What waited for its time and now may start says nothing of back-off any more once it runs.
        for wait in &plan.wait {
            let what = format!("restarting failed container={} pod={}", wait.name, pod.full_name());
            let delay = go_duration(wait.delay);
            self.shared.event(pod, pod.member(&wait.name), EventType::Warning, "BackOff", format!("Back-off {what}"));
            let message = format!("back-off {delay} {what}");
            self.memory.waiting.insert(wait.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message });
        }
    }

    /// Does what the plan says; gives what there is then.
    async fn act(&mut self, pod: &PodView, mut inventory: PodInventory, plan: &Plan) -> Result<PodInventory, String> {
        let shared = self.shared.clone();
        let address = shared.facts_of(pod, &inventory).pod_ips.first().cloned().unwrap_or_default();
        if plan.kill_pod && inventory.is_running() {
            if plan.create_sandbox.is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                shared.event(pod, None, EventType::Normal, "SandboxChanged", message);
            }
            stop::pod(&shared, pod, &inventory, false).await.map_err(text)?;
        }
        let starts = plan.create_sandbox.is_some() || !plan.start.is_empty();
        let due = self.refresh.is_some_and(|t| t <= shared.clock.now());
        if starts || due || self.stale.swap(false, Ordering::SeqCst) {
            let prepared = start::prepare_volumes(&shared, pod, &inventory, &mut self.memory).await;
            self.refresh = prepared.inspect_err(|_| self.stale.store(true, Ordering::SeqCst))?;
        }
        let mut sandbox = plan.sandbox.clone();
        if let Some(attempt) = plan.create_sandbox {
            self.clear_dead_sandboxes(&inventory).await;
            sandbox = Some(start::sandbox(&shared, pod, attempt).await?);
            inventory = shared.inventory(&pod.uid).await?;
            self.report(pod, &inventory, false).await?;
        }
        for kill in &plan.kill {
            let Some(c) = inventory.containers.iter().find(|c| c.id == kill.id) else { continue };
            let how = How { why: Some(kill.why), skip_hook: false };
            stop::container(&shared, pod, c, how, &address, std::future::ready(())).await.map_err(text)?;
        }
        if !plan.kill.is_empty() {
            inventory = shared.inventory(&pod.uid).await?;
        }
        let Some(sandbox) = sandbox.filter(|_| !plan.start.is_empty()) else { return Ok(inventory) };
        let ips = shared.facts_of(pod, &inventory).pod_ips;
        start::write_hosts(&shared, pod, &ips).map_err(|e| format!("cannot write the pod's hosts file: {e}"))?;
        for member in plan.start.iter().filter_map(|name| pod.member(name)) {
            start::container(&shared, pod, &inventory, &sandbox, member, &mut self.memory).await;
        }
        shared.inventory(&pod.uid).await
    }

    fn watch_health(&mut self, pod: &PodView, inventory: &PodInventory) {
        for c in inventory.containers.iter().filter(|c| c.state == State::Running) {
            self.memory.waiting.remove(&c.name);
        }
        let address = self.shared.facts_of(pod, inventory).pod_ips.first().cloned().unwrap_or_default();
        self.prober.update(pod, inventory, &address);
    }

    async fn collect_garbage(&self, pod: &PodView, inventory: &PodInventory) {
        for c in sync::garbage(inventory) {
            // What it left on the disk first: once it is gone nobody knows of that.
            let forgotten = container::forget(&self.shared.config, pod, c).map_err(|e| e.to_string());
            let removed = match forgotten {
                Ok(()) => self.shared.runtime.remove_container(&c.id).await.map_err(text),
                Err(e) => Err(e),
            };
            if let Err(e) = removed {
                tracing::debug!(id = c.id, "cannot remove a dead container yet: {e}");
            }
        }
    }

    /// Sandboxes that ended, or never started, hold an address until they are stopped; those without containers (whose
    /// logs may be wanted) are of no use to anybody.
    async fn clear_dead_sandboxes(&self, inventory: &PodInventory) {
        let runtime = &self.shared.runtime;
        for s in inventory.sandboxes.iter().filter(|s| s.state != State::Running) {
            let mut cleared = runtime.stop_sandbox(&s.id).await;
            if cleared.is_ok() && !inventory.containers.iter().any(|c| c.sandbox_id == s.id) {
                cleared = runtime.remove_sandbox(&s.id).await;
            }
            if let Err(e) = cleared {
                tracing::debug!(id = s.id, "cannot clear a dead sandbox yet: {e}");
            }
        }
    }
}

/// Between looks at a container that could not be configured or made. Upstream: its next sync.
const CONFIG_RETRY: Duration = Duration::from_secs(10);

fn deadline(pod: &PodView) -> Option<Timestamp> {
    let seconds = pod.spec.active_deadline_seconds?;
    pod.start_time()?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn text(e: RuntimeError) -> String {
    e.to_string()
}

/// As Go prints a duration: `10s`, `1m20s`, `5m0s`.
fn go_duration(d: Duration) -> String {
    match (d.as_secs() / 60, d.as_secs() % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
