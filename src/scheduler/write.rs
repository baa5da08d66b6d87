//! Bindings and conditions on their way to the API server.
//!
//! **Invariant:** at most one condition of a pod is being written; of those that come meanwhile only the last is written
//! after it.
//! **Invariant:** a condition that says nothing new is not written.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::devices::model::Claim as DeviceClaim;
use super::plugins::devices::DevicePlan;
use super::pod::PodInfo;
use super::reserve::{self, Hands};
use super::volumes::{BIND_COMPLETED, Claim, VolumePlan};
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, ListOptions, Patch, WatchKind, res};
use crate::runtime::Recorder;
use crate::util::clock::{SharedClock, rfc3339};

/// How long claims may take to be bound.
const VOLUMES_BOUND: Duration = Duration::from_secs(600);

/// Why a pod has no node yet: the condition `PodScheduled`, status False.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The node that victims leave for it; an empty name takes an earlier one back.
    pub(super) nominated: Option<Box<str>>,
}

/// A binding has ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) pod: Arc<PodInfo>,
    pub(super) node: Box<str>,
    pub(super) volumes: VolumePlan,
    pub(super) devices: DevicePlan,
    pub(super) result: ApiResult<()>,
}

enum Ended {
    Bound(Done),
    Written(Box<str>, ApiResult<()>),
    Evicted(Arc<PodInfo>, ApiResult<()>),
    Freed(ApiResult<()>),
}

/// What was last said of a pod.
struct Said {
    last: Condition,
    writing: bool,
    next: Option<(Arc<PodInfo>, Condition)>,
}

/// See the module.
pub(super) struct Writes {
    client: Client,
    clock: SharedClock,
    events: Recorder,
    max: usize,
    tasks: JoinSet<Ended>,
    ended: VecDeque<Done>,
    said: HashMap<Box<str>, Said>,
}

impl Writes {
    pub(super) fn new(client: Client, clock: SharedClock, events: Recorder, max: usize) -> Self {
        Self { client, clock, events, max, tasks: JoinSet::new(), ended: VecDeque::new(), said: HashMap::new() }
    }

    /// True when no more should be started.
    pub(super) fn full(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// Binds a pod, after its claims.
    pub(super) fn bind(&mut self, pod: Arc<PodInfo>, node: Box<str>, volumes: VolumePlan, mut devices: DevicePlan) {
        let (client, clock, events) = (self.client.clone(), self.clock.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let hands = Hands { client: &client, clock: &*clock, events: &events, pod: &pod };
            // An end that is never told would leave the pod assumed, and untried, for ever.
            let bound = AssertUnwindSafe(bind(hands, &node, &volumes, &mut devices)).catch_unwind().await;
            let result = bound.unwrap_or_else(|_| Err(Status::internal("binding panicked; this is a bug in orch")));
            Ended::Bound(Done { pod, node, volumes, devices, result })
        });
    }

    /// Deletes a victim; it says first why.
    pub(super) fn evict(&mut self, victim: Arc<PodInfo>) {
        let (client, now) = (self.client.blind(), rfc3339(self.clock.now()));
        self.tasks.spawn(async move {
            let result = evict(&client, &victim, &now).await;
            Ended::Evicted(victim, result)
        });
    }

    /// Takes its devices from a claim that nobody uses.
    pub(super) fn free(&mut self, claim: Arc<DeviceClaim>) {
        let client = self.client.clone();
        self.tasks.spawn(async move { Ended::Freed(reserve::free(&client, &claim).await) });
    }

    /// Deletes a claim that stands for the extended resources of a pod.
    pub(super) fn discard(&mut self, claim: Arc<DeviceClaim>) {
        let client = self.client.clone();
        self.tasks.spawn(async move { Ended::Freed(reserve::discard(&client, &claim).await) });
    }

    /// Says why a pod has no node.
    pub(super) fn condition(&mut self, pod: &Arc<PodInfo>, condition: Condition) {
        match self.said.get_mut(&pod.uid) {
            Some(said) if said.writing => said.next = Some((pod.clone(), condition)),
            Some(said) if said.last == condition => {}
            _ => self.write(pod.clone(), condition),
        }
    }

    fn write(&mut self, pod: Arc<PodInfo>, condition: Condition) {
        let said = Said { last: condition.clone(), writing: true, next: None };
        self.said.insert(pod.uid.clone(), said);
        let (client, now) = (self.client.blind(), rfc3339(self.clock.now()));
        self.tasks.spawn(async move {
            let mut body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": condition.reason, "message": condition.message,
                "lastProbeTime": null, "lastTransitionTime": now, "observedGeneration": pod.generation}]}});
            if let Some(node) = &condition.nominated {
                body["status"]["nominatedNodeName"] = if node.is_empty() { json!(null) } else { json!(node) };
            }
            let patch = Patch::Strategic(&body);
            let result = client.patch(&res::PODS, &pod.namespace, &pod.name, Some("status"), patch).await.map(drop);
            Ended::Written(pod.uid.clone(), result)
        });
    }

    /// The pod has its node, or is gone: what was said of it does not matter any more.
    pub(super) fn forget(&mut self, uid: &str) {
        self.said.remove(uid);
    }

    /// Completes when something has ended; never when nothing is on its way.
    pub(super) async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(ended) => self.note(ended),
            None => std::future::pending().await,
        }
    }

    /// A binding that has ended.
    pub(super) fn take(&mut self) -> Option<Done> {
        while let Some(ended) = self.tasks.try_join_next() {
            self.note(ended);
        }
        self.ended.pop_front()
    }

    fn note(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok(Ended::Bound(done)) => self.ended.push_back(done),
            Ok(Ended::Written(uid, result)) => self.written(&uid, result),
            Ok(Ended::Evicted(_, Ok(())) | Ended::Freed(Ok(()))) => {}
            // Somebody else changed it: that wakes the pod.
            Ok(Ended::Freed(Err(error))) => tracing::debug!("cannot free the devices of a claim: {error}"),
            Ok(Ended::Evicted(pod, Err(error))) => {
                if !matches!(error.reason, Reason::NotFound | Reason::Conflict) {
                    tracing::warn!(pod = pod.key(), "cannot preempt: {error}");
                }
            }
            Err(error) => tracing::error!("a write of the scheduler did not end: {error}; this is a bug in orch"),
        }
    }

    fn written(&mut self, uid: &str, result: ApiResult<()>) {
        let Some(said) = self.said.get_mut(uid) else { return };
        said.writing = false;
        let next = said.next.take();
        if let Err(error) = result {
            if error.reason != Reason::NotFound {
                tracing::warn!(uid, "cannot write the condition of a pod: {error}");
            }
            self.said.remove(uid);
        }
        if let Some((pod, condition)) = next {
            self.condition(&pod, condition);
        }
    }
}

async fn evict(client: &Client, victim: &PodInfo, now: &str) -> ApiResult<()> {
    let body = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "lastProbeTime": null,
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
        "lastTransitionTime": now, "observedGeneration": victim.generation}]}});
    let (ns, name) = (&*victim.namespace, &*victim.name);
    client.patch(&res::PODS, ns, name, Some("status"), Patch::Strategic(&body)).await?;
    client.delete(&res::PODS, ns, name, &DeleteOptions::of_uid(&*victim.uid)).await.map(drop)
}

async fn bind(hands: Hands<'_>, node: &str, volumes: &VolumePlan, devices: &mut DevicePlan) -> ApiResult<()> {
    let Hands { client, pod, .. } = hands;
    if !volumes.is_empty() {
        bind_volumes(client, node, volumes).await?;
    }
    reserve::all(&hands, node, devices).await?;
    let body = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"kind": "Node", "name": node}});
    let bound = client.blind().create_sub(&res::PODS, &pod.namespace, &pod.name, "binding", &body).await;
    if bound.is_err() {
        reserve::undo(client, pod, devices, devices.claims.len()).await;
    }
    bound.map(drop)
}

/// Gives claims their volumes, or asks for volumes to be made, and waits until the volume controller has finished it.
async fn bind_volumes(client: &Client, node: &str, volumes: &VolumePlan) -> ApiResult<()> {
    for (volume, claim) in &volumes.bind {
        let body = json!({
            "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace,
                "name": claim.name, "uid": claim.uid}}});
        client.patch(&res::PERSISTENT_VOLUMES, "", volume, None, Patch::Merge(&body)).await?;
    }
    for claim in &volumes.provision {
        let body = json!({"metadata": {"uid": claim.uid,
            "annotations": {"volume.kubernetes.io/selected-node": node}}});
        let (ns, name) = (&*claim.namespace, &*claim.name);
        client.patch(&res::PERSISTENT_VOLUME_CLAIMS, ns, name, None, Patch::Merge(&body)).await?;
    }
    let all = volumes.bind.iter().map(|(_, claim)| claim).chain(&volumes.provision);
    let waits = futures::future::try_join_all(all.map(|claim| until_bound(client, claim)));
    match tokio::time::timeout(VOLUMES_BOUND, waits).await {
        Ok(done) => done.map(drop),
        Err(_) => Err(Status::new(Reason::Timeout, "the claims of the pod were not bound in time")),
    }
}

async fn until_bound(client: &Client, claim: &Claim) -> ApiResult<()> {
    let options = ListOptions::fields(format!("metadata.name={}", claim.name));
    let gone = || Status::not_found("", "persistentvolumeclaims", &claim.name);
    loop {
        let mut events = client.watch(&res::PERSISTENT_VOLUME_CLAIMS, Some(&claim.namespace), &options).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            match event.kind {
                WatchKind::Deleted => return Err(gone()),
                _ if event.object.str_at("/metadata/uid") != Some(&claim.uid) => {}
                _ if event.object.get_at(BIND_COMPLETED).is_some() => return Ok(()),
                _ => {}
            }
        }
    }
}
