//! Bindings and conditions on their way to the API server.
//!
//! **Invariant:** at most one condition of a pod is being written; of those that come meanwhile only the last is written
//! after it.
//! **Invariant:** a condition that says nothing new is not written.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use serde_json::json;
use tokio::task::JoinSet;

use super::devices::model::Claim as DeviceClaim;
use super::plugins::devices::{DevicePlan, NAME as DEVICES};
use super::pod::PodInfo;
use super::provide::Provider;
use super::reserve::{self, Hands};
use super::volumes::VolumePlan;
use crate::api::status::{ApiResult, Reason};
use crate::client::{Client, DeleteOptions, Patch, res};
use crate::runtime::Recorder;
use crate::util::clock::{SharedClock, rfc3339};

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
    pub(super) result: Result<(), Failed>,
}

/// Why a pod was not bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// There is no such pod any more. Nothing else that is missing counts as that.
    Gone,
    /// Something went wrong, in upstream's words.
    Because(String),
}

enum Ended {
    Bound(Done),
    Written(Box<str>, ApiResult<()>),
    Nominated(Arc<PodInfo>, ApiResult<()>),
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
    provider: Arc<Provider>,
    events: Recorder,
    max: usize,
    tasks: JoinSet<Ended>,
    ended: VecDeque<Done>,
    said: HashMap<Box<str>, Said>,
}

impl Writes {
    pub(super) fn new(
        client: Client,
        clock: SharedClock,
        provider: Arc<Provider>,
        events: Recorder,
        max: usize,
    ) -> Self {
        let (tasks, ended, said) = (JoinSet::new(), VecDeque::new(), HashMap::new());
        Self { client, clock, provider, events, max, tasks, ended, said }
    }

    /// True when no more should be started.
    pub(super) fn full(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// Binds a pod, after its claims.
    pub(super) fn bind(&mut self, pod: Arc<PodInfo>, node: Box<str>, volumes: VolumePlan, mut devices: DevicePlan) {
        let (client, clock, events) = (self.client.clone(), self.clock.clone(), self.events.named(&pod.scheduler));
        let provider = self.provider.clone();
        // Who is bound at once need not be told where it goes; the others are waited for meanwhile, by autoscalers say.
        let claims = || pod.device_claims.iter().any(|c| c.claim.is_some());
        let takes_long = !volumes.is_empty() || devices.new.is_some() || claims();
        if takes_long {
            self.note_nominated(&pod.uid, &node);
        }
        self.tasks.spawn(async move {
            if takes_long
                && pod.nominated != node
                && let Err(error) = nominate(&client, &pod, &node).await
            {
                tracing::debug!(pod = pod.key(), "cannot say where the pod goes: {error}");
            }
            let hands = Hands { client: &client, clock: &*clock, events: &events, pod: &pod };
            // An end that is never told would leave the pod assumed, and untried, for ever.
            let bound = AssertUnwindSafe(bind(hands, &provider, &node, &volumes, &mut devices)).catch_unwind().await;
            let result =
                bound.unwrap_or_else(|_| Err(Failed::Because("binding panicked; this is a bug in orch".into())));
            Ended::Bound(Done { pod, node, volumes, devices, result })
        });
    }

    /// Deletes a victim; it says first why, and afterwards that it did.
    pub(super) fn evict(
        &mut self,
        victim: Arc<PodInfo>,
        room: &Arc<PodInfo>,
        node: &str,
        by: &Arc<str>,
        events: &Recorder,
    ) {
        let (client, now) = (self.client.blind(), rfc3339(self.clock.now()));
        let (room, by, events) = (room.clone(), by.clone(), events.clone());
        let message = format!("Preempted by pod {} on node {node}", room.uid);
        self.tasks.spawn(async move {
            let result = evict(&client, &victim, &by, &now).await;
            if result.is_ok() {
                events.related(victim.regarding(), room.regarding(), "Preempted", message);
            }
            Ended::Evicted(victim, result)
        });
    }

    /// Takes back that a node was promised to a pod.
    pub(super) fn withdraw(&mut self, pod: &Arc<PodInfo>) {
        self.note_nominated(&pod.uid, "");
        let (client, pod) = (self.client.clone(), pod.clone());
        self.tasks.spawn(async move {
            let result = nominate(&client, &pod, "").await;
            Ended::Nominated(pod, result)
        });
    }

    /// What was last said of a pod does not hold as far as its node goes.
    fn note_nominated(&mut self, uid: &str, node: &str) {
        if let Some(said) = self.said.get_mut(uid) {
            said.last.nominated = Some(node.into());
        }
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
            Ok(Ended::Evicted(_, Ok(())) | Ended::Nominated(_, Ok(())) | Ended::Freed(Ok(()))) => {}
            Ok(Ended::Nominated(pod, Err(error))) => {
                if error.reason != Reason::NotFound {
                    tracing::warn!(pod = pod.key(), "cannot take back the node of a pod: {error}");
                }
            }
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

/// Says in the pod's status which node it is about to go to; an empty name takes that back.
async fn nominate(client: &Client, pod: &PodInfo, node: &str) -> ApiResult<()> {
    let node = (!node.is_empty()).then_some(node);
    let body = json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": node}});
    let patch = Patch::Strategic(&body);
    client.blind().patch(&res::PODS, &pod.namespace, &pod.name, Some("status"), patch).await.map(drop)
}

/// `by`: the scheduler of the pod that is to come.
async fn evict(client: &Client, victim: &PodInfo, by: &str, now: &str) -> ApiResult<()> {
    let body = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "lastProbeTime": null,
        "message": format!("{by}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": now, "observedGeneration": victim.generation}]}});
    let (ns, name) = (&*victim.namespace, &*victim.name);
    client.patch(&res::PODS, ns, name, Some("status"), Patch::Strategic(&body)).await?;
    client.delete(&res::PODS, ns, name, &DeleteOptions::of_uid(&*victim.uid)).await.map(drop)
}

async fn bind(
    hands: Hands<'_>,
    provider: &Provider,
    node: &str,
    volumes: &VolumePlan,
    devices: &mut DevicePlan,
) -> Result<(), Failed> {
    let Hands { client, pod, .. } = hands;
    let before = |plugin: &str, why: String| Failed::Because(format!("running PreBind plugin {plugin:?}: {why}"));
    if !volumes.is_empty() {
        provider.provide(client, pod, node, volumes).await.map_err(|why| before("VolumeBinding", why))?;
    }
    reserve::all(&hands, node, devices).await.map_err(|error| match error.reason {
        Reason::NotFound => Failed::Gone,
        _ => before(DEVICES, error.message),
    })?;
    let body = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"kind": "Node", "name": node}});
    let bound = client.blind().create_sub(&res::PODS, &pod.namespace, &pod.name, "binding", &body).await;
    if bound.is_err() {
        reserve::undo(client, pod, devices, devices.claims.len()).await;
    }
    bound.map(drop).map_err(|error| match error.reason {
        Reason::NotFound => Failed::Gone,
        _ => Failed::Because(format!("running Bind plugin \"DefaultBinder\": {}", error.message)),
    })
}
