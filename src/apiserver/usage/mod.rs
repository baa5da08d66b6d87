//! `metrics.k8s.io`: what nodes and pods use, measured when somebody asks.
//!
//! In: which nodes or pods; the nodes' own figures, over the way that the server has to each. Out: NodeMetrics, PodMetrics.
//!
//! Only nodes whose pods are asked for are asked, and nobody is asked while nobody asks. A rate needs two looks: the one
//! before is kept for a while, and where there is none, the node is looked at twice.
//!
//! **Invariant:** of a node no more is kept than its last look and what that said, and only for [`KEPT`] after somebody asked.
//!
//! Rules: metrics-server `pkg/api/{node,pod}.go`; unlike it, nothing runs in between.

mod sample;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::api::meta::GroupResource;
use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::schema::time::format_duration;
use crate::api::status::{ApiResult, Reason, Status};
use crate::registry::Registry;
use crate::util::clock::rfc3339;

use super::nodes::Nodes;
use super::selection::Selection;
use sample::{PodUsage, Sample, Usage, Used};

/// So long an answer is good for others who ask.
const FRESH: Duration = Duration::from_secs(10);
/// A look that is older is no beginning of a rate any more: it would hide what is going on.
const STALE: Duration = Duration::from_secs(120);
/// Between two looks where there was none before.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1200);
/// What nobody has asked for so long is forgotten.
const KEPT: Duration = Duration::from_secs(300);
/// How long a node may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are asked at the same time.
const ASKED_AT_ONCE: usize = 64;

const NODES: GroupResource = GroupResource::new("", "nodes");
const PODS: GroupResource = GroupResource::new("", "pods");

/// Measures.
pub(super) struct Meter {
    nodes: Arc<Nodes>,
    asking: Semaphore,
    kept: Mutex<HashMap<String, Kept>>,
}

/// What is known of a node. Who asks holds the lock, so that others who want the same wait for that answer.
struct Kept {
    asked: Instant,
    look: Arc<tokio::sync::Mutex<Option<Look>>>,
}

struct Look {
    at: Instant,
    sample: Sample,
    usage: Arc<Usage>,
}

/// Which of the objects.
pub(super) struct Which<'a> {
    pub(super) namespace: Option<&'a str>,
    pub(super) selection: &'a Selection,
}

impl Meter {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, asking: Semaphore::new(ASKED_AT_ONCE), kept: Mutex::default() }
    }

    /// The objects of one of the kinds, by its plural name.
    pub(super) async fn objects(&self, registry: &Registry, plural: &str, which: &Which<'_>) -> Vec<Value> {
        let measured = if plural == "nodes" { NODES } else { PODS };
        let all = registry.cache().resource(&measured).list(which.namespace).0;
        let wanted: Vec<Arc<Object>> = all.into_iter().filter(|o| which.selection.matches(o)).collect();
        if measured == NODES {
            let known = self.of_nodes(wanted.iter().map(|o| o.meta.name.as_str())).await;
            let made = wanted.iter().filter_map(|o| node_metrics(o, known.get(o.meta.name.as_str())?));
            return made.collect();
        }
        let node_of: Vec<String> = wanted.iter().map(|o| o.text_at("/spec/nodeName")).collect();
        let known = self.of_nodes(node_of.iter().map(String::as_str).filter(|n| !n.is_empty())).await;
        let made = wanted.iter().zip(&node_of).filter_map(|(pod, node)| {
            let usage = known.get(node.as_str())?;
            let key = (pod.meta.namespace.to_string(), pod.meta.name.to_string());
            Some(pod_metrics(pod, usage, usage.pods.get(&key)?))
        });
        made.collect()
    }

    /// What is known of these; those that do not answer are left out.
    async fn of_nodes<'a>(&self, names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, Arc<Usage>> {
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names.dedup();
        let now = Instant::now();
        self.kept.lock().retain(|_, kept| now - kept.asked < KEPT);
        let asked = names.into_iter().map(|name| async move {
            let usage = self.of_node(name).await;
            let usage = usage.inspect_err(|why| tracing::debug!(node = name, "its figures cannot be had: {why}"));
            Some((name, usage.ok()?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn of_node(&self, name: &str) -> ApiResult<Arc<Usage>> {
        // Not kept for what is not there: names are as many as clients can think of.
        self.nodes.get(name)?;
        let look = {
            let mut all = self.kept.lock();
            let kept =
                all.entry(name.to_owned()).or_insert_with(|| Kept { asked: Instant::now(), look: Arc::default() });
            kept.asked = Instant::now();
            kept.look.clone()
        };
        let mut look = look.lock().await;
        if let Some(fresh) = look.as_ref().filter(|l| l.at.elapsed() < FRESH) {
            return Ok(fresh.usage.clone());
        }
        let mut sample = self.look(name).await?;
        let before = look.take().filter(|l| l.at.elapsed() < STALE).map(|l| l.sample);
        let span = |before: &Sample| sample.at.duration_since(before.at);
        let before = match before.filter(|b| span(b) >= sample::LEAST_WINDOW) {
            Some(before) => before,
            None => {
                tokio::time::sleep(BETWEEN_LOOKS).await;
                std::mem::replace(&mut sample, self.look(name).await?)
            }
        };
        let usage = Arc::new(Usage::between(&before, &sample));
        *look = Some(Look { at: Instant::now(), sample, usage: usage.clone() });
        Ok(usage)
    }

    async fn look(&self, name: &str) -> ApiResult<Sample> {
        let failed = |why: &str| Status::new(Reason::ServiceUnavailable, format!("node {name}: {why}"));
        let _turn = self.asking.acquire().await.map_err(|_| failed("the server stops"))?;
        let node = self.nodes.get(name)?;
        let text = tokio::time::timeout(TIMEOUT, node.resource_metrics()).await;
        let text = text.map_err(|_| failed("it takes too long to tell what it uses"))??;
        Sample::parse(&text).ok_or_else(|| failed("it does not tell what it uses"))
    }
}

fn usage(used: &Used) -> Value {
    let memory = Quantity::bytes(i64::try_from(used.memory).unwrap_or(i64::MAX));
    json!({"cpu": Quantity::of_nanos(used.cpu_nanos.into()).to_string(), "memory": memory.to_string()})
}

/// Kind and metadata, as of the object that is measured; time and window.
fn frame(kind: &str, of: &Object, usage: &Usage, window: SignedDuration) -> Value {
    let mut metadata = json!({"name": of.meta.name.as_str(), "creationTimestamp": rfc3339(usage.at)});
    if !of.meta.namespace.is_empty() {
        metadata["namespace"] = of.meta.namespace.as_str().into();
    }
    if !of.meta.labels.is_empty() {
        metadata["labels"] = of.meta.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    }
    // Windows end after minutes; milliseconds are all that anybody reads.
    let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX / 1_000_000) * 1_000_000;
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": rfc3339(usage.at), "window": format_duration(window)})
}

fn node_metrics(node: &Object, known: &Usage) -> Option<Value> {
    let (used, window) = known.node?;
    let mut made = frame("NodeMetrics", node, known, window);
    made["usage"] = usage(&used);
    Some(made)
}

fn pod_metrics(pod: &Object, known: &Usage, of_pod: &PodUsage) -> Value {
    let containers = of_pod.containers.iter().map(|(name, used)| json!({"name": name, "usage": usage(used)}));
    let mut made = frame("PodMetrics", pod, known, of_pod.window);
    made["containers"] = containers.collect();
    made
}

#[cfg(test)]
mod tests;
