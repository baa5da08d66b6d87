//! The scheduler's state and its hands: takes deltas, decides for the next pod, acts.
//!
//! **Invariant:** nothing here waits but [`Worker::wait`]; writes run as tasks whose ends come back through it.

use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use super::answers::Answers;
use super::cluster::{Cluster, NodeInfo};
use super::cycle::{self, Checks, NoFit, Nominated};
use super::framework::{Cycle, Event, Freed};
use super::metrics::{Metrics, Outcome};
use super::plugins::PLUGINS;
use super::plugins::binding::Claims;
use super::plugins::devices::{DevicePlan, NAME as DEVICES, PodDevices};
use super::pod::PodInfo;
use super::preempt;
use super::profile::Profiles;
use super::provide::Provider;
use super::queue::Queue;
use super::scores::Kept;
use super::side::Side;
use super::write::{Condition, Done, Failed, Writes};
use super::{Scheduler, Topic};
use crate::api::object::Object;
use crate::api::scan;
use crate::runtime::{Delta, Recorder};
use crate::util::clock::SharedClock;

/// What there is to do, or to say, where no node fits.
type Preemption = Result<Arc<preempt::Plan>, preempt::NoPlan>;
/// Why no node fits, and what preemption says to that where it was asked.
type Refusal = (NoFit, Option<Preemption>);

/// Between the reasons of the nodes and those of preemption, as upstream's DynamicResources and DefaultPreemption say it.
const PREEMPTION: &str = ", preemption: ";
const NO_CLAIMS: &str = "no new claims to deallocate";
const CLAIMS_KEPT: &str = "still not schedulable";
const CLAIM_FREED: &str = "deallocation of ResourceClaim completed";
const CLAIM_DELETED: &str = "deletion of ResourceClaim completed";

/// See the module.
pub(super) struct Worker {
    cluster: Cluster,
    side: Side,
    queue: Queue,
    nominated: Nominated,
    writes: Writes,
    provider: Arc<Provider>,
    clock: SharedClock,
    events: Recorder,
    profiles: Profiles,
    metrics: Arc<Metrics>,
    /// Where the next search for nodes begins.
    start: usize,
    /// What nodes were given for the last pod.
    kept: Kept,
    /// What they said to it.
    answers: Answers,
}

impl Worker {
    pub(super) fn new(scheduler: &Scheduler, events: Recorder) -> Self {
        let (client, clock) = (scheduler.client.clone(), scheduler.clock.clone());
        let provider = Arc::new(Provider::new(&*scheduler.listers));
        Self {
            cluster: Cluster::default(),
            side: Side::new(&*scheduler.listers),
            queue: Queue::new(scheduler.config.profiles.backoff),
            nominated: Nominated::default(),
            writes: Writes::new(
                client,
                clock.clone(),
                provider.clone(),
                events.clone(),
                scheduler.config.writes_in_flight,
            ),
            provider,
            clock,
            events,
            profiles: scheduler.config.profiles.clone(),
            metrics: scheduler.config.metrics.clone(),
            start: 0,
            kept: Kept::default(),
            answers: Answers::default(),
        }
    }

    /// Completes when a write has ended or a backoff has.
    pub(super) async fn wait(&mut self) {
        // Who is due cannot be tried while too many writes are on their way: their ends are what is waited for.
        let deadline = self.queue.deadline(Instant::now()).filter(|_| !self.writes.full());
        tokio::select! {
            biased;
            () = self.writes.ended() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
    }

    /// Takes the ends of writes and the passing of time.
    pub(super) fn settle(&mut self) {
        while let Some(done) = self.writes.take() {
            self.done(done);
        }
        self.queue.wake_stuck(Instant::now());
        self.metrics.wait(self.queue.pending());
    }
}

/// What happened.
impl Worker {
    /// Takes one change.
    pub(super) fn take(&mut self, topic: Topic, delta: Delta) {
        match (topic, delta) {
            (_, Delta::Synced) => {}
            (Topic::Pods, Delta::Upsert { old, new }) => self.pod(old.as_deref(), &new),
            (Topic::Pods, Delta::Delete(last)) => self.pod_gone(&last.meta.uid),
            (Topic::Nodes, Delta::Upsert { new, .. }) => self.node(&new),
            (Topic::Nodes, Delta::Delete(last)) => {
                if let Some(gone) = self.cluster.remove_node(&last.meta.name) {
                    self.wake(&Event::NodeGone(Box::new(gone)));
                }
            }
            (Topic::Namespaces, Delta::Upsert { new, .. }) => {
                if self.cluster.set_namespace(&new.meta.name, new.meta.labels.clone()) {
                    self.wake(&Event::Namespace);
                }
            }
            (Topic::Namespaces, Delta::Delete(last)) => self.cluster.remove_namespace(&last.meta.name),
            (Topic::Services, Delta::Upsert { new, .. }) => self.side.set_service(&new),
            (Topic::Services, Delta::Delete(last)) => self.side.remove_service(&last),
            (Topic::Storage, _) => {
                self.provider.look_again();
                self.wake(&Event::Storage);
            }
            (Topic::Attachments, Delta::Upsert { .. }) => {}
            (Topic::Attachments, Delta::Delete(_)) => self.wake(&Event::Detached),
            (Topic::Slices, Delta::Upsert { new, .. }) => {
                self.side.devices.set_slice(&new);
                self.wake(&Event::Devices);
            }
            (Topic::Slices, Delta::Delete(last)) => {
                self.side.devices.remove_slice(&last);
                // Of a pool that has one slice less there may be a whole generation now.
                self.wake(&Event::Devices);
            }
            (Topic::DeviceClasses, Delta::Upsert { new, .. }) => {
                self.side.devices.set_class(&new);
                if let Some(class) = self.side.devices.class(&new.meta.name).cloned() {
                    self.wake(&Event::DeviceClass(class));
                }
            }
            (Topic::DeviceClasses, Delta::Delete(last)) => self.side.devices.remove_class(&last),
            (Topic::Claims, Delta::Upsert { new, .. }) => self.claim(&new, false),
            (Topic::Claims, Delta::Delete(last)) => self.claim(&last, true),
        }
    }

    fn claim(&mut self, object: &Object, gone: bool) {
        let (namespace, name) = (object.meta.namespace.as_str(), object.meta.name.as_str());
        let allocated = |side: &Side| side.devices.claim(namespace, name).is_some_and(|c| c.allocated);
        let had = allocated(&self.side);
        let stood = self.side.devices.claim(namespace, name).is_some_and(|c| c.extended);
        match gone {
            true => self.side.devices.remove_claim(object),
            false => self.side.devices.set_claim(object),
        }
        // One that stood for extended resources kept its pod waiting, whether it had devices or not.
        let freed = had && !allocated(&self.side) || gone && stood;
        let devices = &self.side.devices;
        self.queue.admit(|pod| devices.admits(pod));
        self.wake(&Event::Claim { namespace: namespace.into(), name: name.into(), freed });
    }

    fn wake(&mut self, event: &Event) {
        self.wake_up_to(i32::MAX, event);
    }

    /// The same for pods up to a priority.
    fn wake_up_to(&mut self, most: i32, event: &Event) {
        let helps = |plugin: &str, pod: &PodInfo| {
            pod.priority <= most && PLUGINS.iter().any(|(p, _)| p.name() == plugin && p.wakes(event, pod))
        };
        self.queue.wake(Instant::now(), helps);
    }

    fn node(&mut self, object: &Object) {
        let node = match NodeInfo::new(object) {
            Ok(node) => node,
            Err(error) => return tracing::warn!(node = object.meta.name, "cannot read the node: {error}"),
        };
        let copy = node.clone();
        let old = self.cluster.set_node(node).map(|old| NodeInfo { pods: Vec::new(), ..old });
        let same = |old: &NodeInfo| {
            (&old.labels, &old.taints, old.unschedulable, &old.allocatable, &old.features)
                == (&copy.labels, &copy.taints, copy.unschedulable, &copy.allocatable, &copy.features)
        };
        if old.as_ref().is_none_or(|old| !same(old)) {
            // What devices stand for may be there, whatever the node has itself.
            let devices = &self.side.devices;
            let [old, now] = [old, Some(copy)].map(|node| {
                node.map(|mut node| {
                    devices.lend(&mut node.allocatable);
                    Box::new(node)
                })
            });
            if let Some(now) = now {
                self.wake(&Event::Node(old, now));
            }
        }
    }

    fn pod(&mut self, old: Option<&Object>, new: &Object) {
        let uid = &*new.meta.uid;
        if self.confirmed(new) || old.is_some_and(|old| nothing_new(old, new)) && self.queue.get(uid).is_some() {
            return;
        }
        let pod = match PodInfo::new(new) {
            Ok(pod) => pod,
            Err(error) => return tracing::warn!(pod = new.meta.name, "cannot read the pod: {error}"),
        };
        if pod.finished {
            self.pod_gone(uid);
        } else if !pod.node.is_empty() {
            self.unqueue(uid);
            if self.cluster.renew(&pod) {
                return;
            }
            let old = self.cluster.displace(uid);
            let node = pod.node.clone();
            self.cluster.place(pod.clone(), &node, false);
            self.wake(&Event::PodPlaced(old, pod));
        } else if pod.deleting || self.profiles.of(&pod.scheduler).is_none() {
            self.unqueue(uid);
            // It will not be bound any more.
            self.forget(&pod);
            self.provider.look_again();
        } else if !self.cluster.is_placed(uid) {
            self.waiting(pod);
        }
    }

    /// True where the change is only that our binding came true.
    fn confirmed(&mut self, new: &Object) -> bool {
        let uid = &*new.meta.uid;
        if !self.cluster.is_assumed(uid) || new.is_deleting() {
            return false;
        }
        let fields = scan::fields(&new.json, &["/spec/nodeName", "/status/phase"]);
        if matches!(&*fields[1], "Succeeded" | "Failed") || !self.cluster.confirm(uid, &fields[0], &new.meta.labels) {
            return false;
        }
        if self.unqueue(uid).is_some()
            && let Some(pod) = self.cluster.pod(uid).cloned()
        {
            self.wake(&Event::PodPlaced(None, pod));
        }
        true
    }

    fn waiting(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        self.nominated.set(&pod, &pod.nominated);
        let before = self.queue.get(&uid).cloned();
        self.queue.set(pod.clone(), self.side.devices.admits(&pod));
        let Some(old) = before else { return };
        if !old.wants_the_same(&pod) {
            self.queue.activate(&uid, Instant::now());
        }
        // For others it is as if it had left the node that it was promised.
        if !old.nominated.is_empty() && old.nominated != pod.nominated {
            self.gone(old.clone(), &old.nominated, old.priority);
        }
    }

    /// It is bound, finished, going or gone, and waits no more.
    fn unqueue(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.nominated.remove(uid);
        self.writes.forget(uid);
        self.queue.remove(uid)
    }

    fn pod_gone(&mut self, uid: &str) {
        let promised = self.nominated.node_of(uid).map(str::to_owned);
        let waiting = self.unqueue(uid).filter(|_| promised.is_some());
        if self.cluster.is_assumed(uid) {
            self.provider.look_again();
        }
        let node = self.cluster.node_of(uid).map(str::to_owned);
        if let Some(pod) = self.cluster.displace(uid) {
            self.gone(pod, &node.unwrap_or_default(), i32::MAX);
        } else if let Some((pod, node)) = waiting.zip(promised) {
            let most = pod.priority;
            self.gone(pod, &node, most);
        }
    }

    /// A pod left a node, or will not come to it. What was only promised to it counted for pods up to its priority.
    fn gone(&mut self, pod: Arc<PodInfo>, node: &str, most: i32) {
        if self.queue.has_refused() {
            let promised = self.nominated.on(node).to_vec();
            let freed = self.cluster.node(node).map(|now| Box::new(Freed { node: now.clone(), promised }));
            self.wake_up_to(most, &Event::PodGone(pod, freed));
        }
    }
}

/// True where neither what the pod wants nor what was promised to it changed.
fn nothing_new(old: &Object, new: &Object) -> bool {
    let claims = |o: &Object| {
        let status = scan::find(&o.json, 0, "status")?;
        scan::member(&o.json, status, "resourceClaimStatuses").map(|at| o.json[at].to_vec())
    };
    let spec = |o: &Object| scan::member(&o.json, 0, "spec");
    let (Some(a), Some(b)) = (spec(old), spec(new)) else { return false };
    old.json[a] == new.json[b]
        && old.meta.labels == new.meta.labels
        && old.is_deleting() == new.is_deleting()
        && claims(old) == claims(new)
        && ["/status/nominatedNodeName", "/status/phase"]
            .iter()
            .all(|at| scan::fields(&old.json, &[at]) == scan::fields(&new.json, &[at]))
}

/// What to do about it.
impl Worker {
    /// Decides for one pod; false where none is due, or too many writes are on their way.
    pub(super) fn decide_next(&mut self) -> bool {
        if self.writes.full() {
            return false;
        }
        let start = Instant::now();
        let Some(pod) = self.queue.pop(start) else { return false };
        let decision = self.decide(&pod);
        let outcome = match &decision {
            Ok(_) => Outcome::Scheduled,
            Err(refusal) if refusal.0.error.is_some() => Outcome::Error,
            Err(_) => Outcome::Unschedulable,
        };
        self.metrics.attempted(&pod.scheduler, outcome, start.elapsed());
        match decision {
            Ok(at) => self.bind(pod, at),
            Err(refusal) => self.refuse(&pod, *refusal),
        }
        true
    }

    fn decide(&mut self, pod: &Arc<PodInfo>) -> Result<usize, Box<Refusal>> {
        for node in self.nominated.take_moved() {
            self.cluster.promises_changed(&node);
        }
        if pod.wants_devices() {
            self.side.devices.now = self.clock.now();
        }
        let profile = self.profiles.get(&pod.scheduler);
        let default_spread = self.side.default_spread(pod, &profile.args.default_spread);
        let cx = Cycle { pod, cluster: &self.cluster, side: &self.side, profile, default_spread };
        let nodes = self.cluster.nodes();
        let mut checks = Checks::new(&cx).map_err(|(plugin, why)| {
            let preempts = !nodes.is_empty() && cx.profile.preempts;
            let preemption = preempts.then(|| Err(preempt::no_help(pod, nodes.len())));
            let no_fit = NoFit { total: nodes.len(), rejected: Some(why), by: vec![plugin], ..NoFit::default() };
            Box::new((no_fit, preemption))
        })?;
        let promised = self.nominated.node_of(&pod.uid).and_then(|name| self.cluster.index(name));
        if let Some(at) = promised
            && checks.check_promised(&nodes[at], &self.nominated).is_ok()
        {
            return Ok(at);
        }
        let answers = &mut self.answers;
        answers.begin(&cx, &self.nominated, checks.look_at_node_alone());
        let feasible = checks.feasible(&self.cluster, &self.nominated, answers, &mut self.start).map_err(|no_fit| {
            let preemption = (no_fit.total > 0 && cx.profile.preempts)
                .then(|| preempt::plan(&cx, &mut checks, &self.nominated, answers, &no_fit));
            Box::new((no_fit, preemption))
        })?;
        Ok(cycle::best(&cx, &feasible, &mut self.kept, |n| rand::rng().random_range(0..n)))
    }

    fn bind(&mut self, pod: Arc<PodInfo>, at: usize) {
        let node = &self.cluster.nodes()[at];
        let claims = if pod.volumes.claims.is_empty() { None } else { Claims::new(&self.side, &pod).ok() };
        let volumes = claims.and_then(|c| c.plan(node).ok()).unwrap_or_default();
        let devices = match pod.wants_devices() {
            false => DevicePlan::default(),
            true => PodDevices::new(&self.side.devices, &pod).map(|d| d.plan(node)).unwrap_or_default(),
        };
        let node: Box<str> = (*node.name).into();
        for (uid, allocation) in devices.gifts() {
            self.side.devices.promise(uid, allocation);
        }
        self.side.take(&volumes, &node);
        let there = pod.on(&self.cluster.nodes()[at].labels);
        self.cluster.place(there.unwrap_or_else(|| pod.clone()), &node, true);
        self.nominated.remove(&pod.uid);
        self.writes.bind(pod, node, volumes, devices);
    }

    fn refuse(&mut self, pod: &Arc<PodInfo>, (no_fit, preemption): Refusal) {
        if let Some(error) = no_fit.error {
            return self.fail(pod, error);
        }
        let mut message = no_fit.message();
        let claims = if preemption.is_some() { self.free_claim(pod, &no_fit) } else { NO_CLAIMS };
        // Upstream's DynamicResources remembers nothing of a pod that another plugin refused before it, and says so.
        let forgotten = no_fit.rejected.is_some() && no_fit.by != [DEVICES];
        let nominated = match preemption {
            None => (no_fit.total == 0).then(|| self.withdraw(pod)),
            Some(Ok(plan)) => {
                let node: Box<str> = (*self.cluster.nodes()[plan.node].name).into();
                self.preempt(pod, &node, &plan.victims);
                Some(node)
            }
            Some(Err(none)) => {
                message = match forgotten {
                    true => format!("{message} not found"),
                    false => format!("{message} {claims}{PREEMPTION}{}", none.message),
                };
                let had = self.nominated.node_of(&pod.uid).is_some();
                (none.withdraw && had && !forgotten).then(|| self.withdraw(pod))
            }
        };
        self.queue.refused(&pod.uid, no_fit.by, Instant::now());
        self.events_of(pod).warning(pod.regarding(), "FailedScheduling", message.clone());
        self.writes.condition(pod, Condition { reason: "Unschedulable", message, nominated });
    }

    /// Something went wrong on the way: it is said, and tried again later.
    fn fail(&mut self, pod: &Arc<PodInfo>, message: String) {
        let nominated = Some(self.withdraw(pod));
        self.queue.failed(&pod.uid, Instant::now());
        self.events_of(pod).warning(pod.regarding(), "FailedScheduling", message.clone());
        self.writes.condition(pod, Condition { reason: "SchedulerError", message, nominated });
    }

    /// A pod is promised no node any more; gives what to write of that.
    fn withdraw(&mut self, pod: &PodInfo) -> Box<str> {
        self.nominated.remove(&pod.uid);
        self.queue.promised(&pod.uid, "");
        "".into()
    }

    /// Takes events about a pod, under the name of its scheduler.
    fn events_of(&self, pod: &PodInfo) -> Recorder {
        self.events.named(&self.profiles.get(&pod.scheduler).name)
    }

    /// Takes its devices from a claim that keeps the pod from nodes that would do else and that nobody uses, or deletes one
    /// that is left of an earlier attempt. Gives what is said of it.
    fn free_claim(&mut self, pod: &Arc<PodInfo>, no_fit: &NoFit) -> &'static str {
        if no_fit.rejected.is_some() || !pod.wants_devices() {
            return NO_CLAIMS;
        }
        let Ok(devices) = PodDevices::new(&self.side.devices, pod) else { return CLAIMS_KEPT };
        let nodes = self.cluster.nodes();
        if devices.is_empty() {
            NO_CLAIMS
        } else if let Some(claim) = devices.in_the_way(no_fit.elsewhere.iter().map(|at| &nodes[*at])) {
            self.writes.free(claim.clone());
            CLAIM_FREED
        } else if let Some(claim) = devices.stale() {
            self.writes.discard(claim.clone());
            CLAIM_DELETED
        } else {
            CLAIMS_KEPT
        }
    }

    /// Sends victims away and promises the node to the pod.
    fn preempt(&mut self, pod: &Arc<PodInfo>, node: &str, victims: &[Arc<PodInfo>]) {
        self.metrics.preempted(victims.len());
        // Less important pods that were promised the node may find another now.
        let lesser = self.nominated.on(node).iter().filter(|p| p.priority < pod.priority && p.uid != pod.uid);
        for other in lesser.cloned().collect::<Vec<_>>() {
            self.withdraw(&other);
            self.writes.withdraw(&other);
            self.queue.activate(&other.uid, Instant::now());
        }
        let (by, events) = (self.profiles.get(&pod.scheduler).name.as_ref().into(), self.events_of(pod));
        for victim in victims.iter().filter(|v| !v.deleting) {
            self.writes.evict(victim.clone(), pod, node, &by, &events);
        }
        self.nominated.set(pod, node);
        self.queue.promised(&pod.uid, node);
    }

    fn done(&mut self, done: Done) {
        let Done { pod, node, volumes, devices, result } = done;
        self.side.release(&volumes);
        for (claim, _) in &devices.claims {
            self.side.settle_devices(claim);
        }
        if let Some(new) = &devices.new {
            self.side.settle_new_claim(new);
        }
        match result {
            Ok(()) => {
                self.queue.remove(&pod.uid);
                let message = format!("Successfully assigned {} to {node}", pod.key());
                self.events_of(&pod).normal(pod.regarding(), "Scheduled", message);
            }
            Err(Failed::Gone) => self.forget(&pod),
            Err(Failed::Because(why)) => {
                tracing::warn!(pod = pod.key(), node = &*node, "cannot bind: {why}");
                self.forget(&pod);
                self.try_later(&pod, why);
            }
        }
    }

    /// A pod that could not be bound is tried again as it is now: what came about it meanwhile was not looked at. Where it
    /// is gone, or somebody else bound it, the listers say so.
    fn try_later(&mut self, pod: &PodInfo, why: String) {
        let now = self.provider.pod(pod).and_then(|now| PodInfo::new(&now).ok());
        let Some(now) = now.filter(|now| now.node.is_empty() && !now.finished) else { return };
        self.queue.set(now.clone(), self.side.devices.admits(&now));
        self.fail(&now, why);
    }

    /// An assumption was wrong: what the pod held is free again.
    fn forget(&mut self, pod: &Arc<PodInfo>) {
        if self.cluster.is_assumed(&pod.uid) {
            let node = self.cluster.node_of(&pod.uid).map(str::to_owned).unwrap_or_default();
            self.cluster.displace(&pod.uid);
            self.gone(pod.clone(), &node, i32::MAX);
        }
    }
}
