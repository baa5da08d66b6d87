//! One pod's state machine: syncing, terminating, terminated.
//!
//! It wakes when the pod's object changes, when the runtime or a probe has news, and when a time has come. Each time it
//! looks at everything again, plans, acts, and reports the status if that changed.
//!
//! **Invariant:** a phase never goes back. **Invariant:** nothing but this worker changes its pod in the runtime.
//! **Invariant:** no lock is held over an await.

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
use super::{container, pull, volumes};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, res};
use crate::runtime::events::EventType;
use crate::util::backoff::Backoff;

/// Between attempts at something that failed.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
/// Attempts to remove a cgroup whose last process the kernel has not quite ended, before the pod goes on without.
const CGROUP_PATIENCE: u32 = 5;
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
    /// A worker and its handle; somebody has to run it.
    pub fn new(shared: Arc<Shared>, desired: Desired) -> (Self, Handle) {
        let phase = if desired.gone { Phase::Terminating } else { Phase::Syncing };
        let (sender, receiver) = watch::channel(desired);
        let (wake, stale) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let prober = Prober::new(shared.asker.clone(), shared.clock.clone(), wake.clone());
        let handle = Handle { desired: sender, wake: wake.clone(), stale: stale.clone() };
        let worker = Self {
            shared,
            desired: receiver,
            wake,
            stale,
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
            Phase::Syncing => self.sync_unless_ended(&pod).await,
            Phase::Terminating => self.terminate(&pod, desired.gone).await,
            Phase::Terminated => self.clean_up(&pod, desired).await,
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

    /// The pod with the newest status that is known, ours or the API's.
    fn with_reported_status(&self, pod: &Arc<PodView>) -> Arc<PodView> {
        let revision = pod.pod.metadata.resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0);
        match &self.reported {
            Some((ours, status)) if *ours > revision => {
                let mut newer = (**pod).clone();
                newer.status = status.clone();
                Arc::new(newer)
            }
            _ => pod.clone(),
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

    async fn terminate(&mut self, pod: &PodView, gone: bool) -> Result<Option<Duration>, String> {
        let shared = self.shared.clone();
        let inventory = shared.inventory(&pod.uid).await?;
        if !gone {
            self.report(pod, &inventory, false).await?;
        }
        let mut hurried = pod.clone();
        if let Some(most) = self.failure.as_ref().and_then(|f| f.kind.grace_seconds()) {
            let own = pod.deletion_grace().or(pod.spec.termination_grace_period_seconds).unwrap_or(most);
            hurried.pod.metadata.deletion_grace_period_seconds = Some(most.min(own));
        }
        let pod = &hurried;
        let grace = pod.deletion_grace();
        let mut desired = self.desired.clone();
        let shorter = async {
            let less = |d: &Desired| match (d.pod.deletion_grace(), grace) {
                (Some(new), Some(old)) => new < old,
                (Some(_), None) => true,
                (None, _) => false,
            };
            // Nothing changes any more once the sender is gone.
            if desired.wait_for(less).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stopping = stop::pod(&shared, pod, &inventory, self.failures > 0);
        tokio::pin!(shorter, stopping);
        // What is on its way out is not started again, but clients may still be served: upstream goes on asking for that.
        self.prober.only_readiness();
        loop {
            tokio::select! {
                biased;
                // A second deletion may leave less time: begin anew, hooks have had their chance.
                () = &mut shorter => {
                    self.failures = 0;
                    return Ok(Some(Duration::ZERO));
                }
                stopped = &mut stopping => {
                    stopped.map_err(text)?;
                    break;
                }
                // Each container's end is told as it comes, not with the last one's.
                () = self.wake.notified(), if !gone => {
                    self.tell_unhealthy(pod);
                    if let Ok(now) = shared.last_inventory(&pod.uid) {
                        self.report(pod, &now, false).await?;
                    }
                }
            }
        }
        self.phase = Phase::Terminated;
        Ok(None)
    }

    async fn clean_up(&mut self, pod: &PodView, desired: &Desired) -> Result<Option<Duration>, String> {
        let shared = self.shared.clone();
        self.prober.stop();
        let inventory = shared.inventory(&pod.uid).await?;
        if inventory.is_running() {
            // Something came up late: a sandbox whose making was cut off.
            self.phase = Phase::Terminating;
            stop::pod(&shared, pod, &inventory, true).await.map_err(text)?;
            self.phase = Phase::Terminated;
        }
        if !desired.gone {
            self.report(pod, &inventory, true).await?;
        }
        let dir = shared.pod_dir(&pod.uid);
        volumes::teardown(&dir.join("volume-subpaths")).map_err(|e| format!("cannot remove volume-subpaths: {e}"))?;
        shared.csi.tear_down(&dir).await?;
        for part in ["volumes", "volumeDevices"] {
            volumes::teardown(&dir.join(part)).map_err(|e| format!("cannot remove {part}: {e}"))?;
        }
        if let Some(tree) = &shared.cgroups
            && let Err(e) = tree.remove_pod(&pod.uid)
        {
            let why = format!("cannot remove its cgroup: {e}");
            if self.failures < CGROUP_PATIENCE {
                return Err(why);
            }
            tracing::warn!(pod = pod.name, namespace = pod.namespace, "{why}; it stays");
        }
        if !(desired.gone || pod.deleting()) {
            // Finished, and kept for its logs until somebody deletes it.
            return Ok(None);
        }
        for c in &inventory.containers {
            container::forget(&shared.config, pod, c)
                .map_err(|e| format!("cannot remove the log of {}: {e}", c.name))?;
        }
        remove_all(&shared, &inventory).await.map_err(text)?;
        volumes::teardown(&dir).map_err(|e| format!("cannot remove the pod's directory: {e}"))?;
        volumes::teardown(&container::log_dir(&shared.config, pod))
            .map_err(|e| format!("cannot remove its logs: {e}"))?;
        if desired.gone {
            self.phase = Phase::Done;
            return Ok(None);
        }
        let options = DeleteOptions { grace: Some(0), ..DeleteOptions::of_uid(&pod.uid) };
        match shared.client.delete(&res::PODS, &pod.namespace, &pod.name, &options).await {
            Ok(_) => {}
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(e) => return Err(format!("cannot delete it from the API: {e}")),
        }
        // The deletion comes back as a change; finalizers may keep the object until then.
        Ok(None)
    }

    /// Tells the API the status, if it is news.
    async fn report(&mut self, pod: &PodView, inventory: &PodInventory, ended: bool) -> Result<(), String> {
        let pod = self.with_reported_status(&Arc::new(pod.clone()));
        // An orch before this one rejected it; there is nothing to add.
        if pod.is_terminal() && inventory.is_empty() && pod.status.get("containerStatuses").is_none() {
            return Ok(());
        }
        let (results, facts) = (self.prober.results(), self.shared.facts.load());
        let runtime_name = self.shared.runtime_name.load();
        let input = status::Input {
            pod: &pod,
            inventory,
            probes: &results,
            waiting: &self.memory.waiting,
            ended,
            failure: self.failure.as_deref(),
            resize: &self.memory.resize,
            host_ips: &facts.host_ips,
            runtime_name: &runtime_name,
            now: self.shared.clock.now(),
        };
        let mut new = status::status(input);
        keep_failure(&pod, &mut new);
        let Some(patch) = status::patch(&pod, &pod.status, &new) else { return Ok(()) };
        let patch = Patch::Strategic(&patch);
        match self.shared.client.patch(&res::PODS, &pod.namespace, &pod.name, Some("status"), patch).await {
            Ok(answer) => {
                let revision = answer.str_at("/metadata/resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0);
                self.reported = Some((revision, answer.pointer("/status").cloned().unwrap_or(Value::Null)));
                Ok(())
            }
            // It is gone, or another one of its name is there: the change is on its way to us.
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(e) => {
                // Running the pod matters more than telling of it.
                tracing::warn!(pod = pod.name, namespace = pod.namespace, "cannot report its status: {e}");
                let wake = self.wake.clone();
                wake.notify_one();
                tokio::time::sleep(RETRY.base).await;
                Ok(())
            }
        }
    }
}

/// Between looks at a container that could not be configured or made. Upstream: its next sync.
const CONFIG_RETRY: Duration = Duration::from_secs(10);

/// What ended a pod stays its reason after a restart of orch: the API remembers it.
fn keep_failure(pod: &PodView, new: &mut Value) {
    if pod.status.str_at("/phase") != Some("Failed") || new.get("reason").is_some() {
        return;
    }
    if let Some(reason) = pod.status.get("reason").cloned() {
        new["phase"] = "Failed".into();
        new["reason"] = reason;
        new["message"] = pod.status.get("message").cloned().unwrap_or(Value::Null);
    }
}

async fn remove_all(shared: &Shared, inventory: &PodInventory) -> Result<(), RuntimeError> {
    let absent = |r: Result<(), RuntimeError>| match r {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    };
    for c in &inventory.containers {
        absent(shared.runtime.remove_container(&c.id).await)?;
    }
    for s in &inventory.sandboxes {
        absent(shared.runtime.stop_sandbox(&s.id).await)?;
        absent(shared.runtime.remove_sandbox(&s.id).await)?;
    }
    Ok(())
}

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
