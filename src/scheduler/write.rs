//! Bindings and conditions on their way to the API server.
//!
//! **Invariant:** at most one condition of a pod is being written; of those that come meanwhile only the last is written
//! after it.
//! **Invariant:** a condition that says nothing new is not written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use super::pod::PodInfo;
use crate::api::status::{ApiResult, Reason};
use crate::client::{Client, Patch, res};
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
    pub(super) result: ApiResult<()>,
}

enum Ended {
    Bound(Done),
    Written(Box<str>, ApiResult<()>),
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
    max: usize,
    tasks: JoinSet<Ended>,
    ended: VecDeque<Done>,
    said: HashMap<Box<str>, Said>,
}

impl Writes {
    pub(super) fn new(client: Client, clock: SharedClock, max: usize) -> Self {
        Self { client, clock, max, tasks: JoinSet::new(), ended: VecDeque::new(), said: HashMap::new() }
    }

    /// True when no more should be started.
    pub(super) fn full(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// Binds a pod.
    pub(super) fn bind(&mut self, pod: Arc<PodInfo>, node: Box<str>) {
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let body = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "target": {"kind": "Node", "name": node}});
            let result = client.create_sub(&res::PODS, &pod.namespace, &pod.name, "binding", &body).await.map(drop);
            Ended::Bound(Done { pod, node, result })
        });
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
        let (client, now) = (self.client.clone(), rfc3339(self.clock.now()));
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
