//! Pods that nobody else would remove: of nodes that are gone, never scheduled but being deleted, or ended and too many.
//!
//! Rule: upstream `pkg/controller/podgc`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;

/// Ended pods kept in the cluster; upstream's `--terminated-pod-gc-threshold`.
const ENDED_MAX: usize = 12_500;
/// Seconds a node may be missing before its pods are.
const QUARANTINE_SECONDS: i64 = 40;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(PodGc::default())
}

/// When the node of a pod was first missed.
#[derive(Default)]
struct PodGc {
    missed: parking_lot::Mutex<std::collections::HashMap<String, i64>>,
}

#[async_trait]
impl Reconciler for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::PODS).mapped(&res::NODES, |node, cx| {
            let pods = || cx.lister(&res::PODS).by_index("spec.nodeName", &node.meta.name);
            let is_there = cx.lister(&res::NODES).get("", &node.meta.name).is_some();
            if is_there { Vec::new() } else { pods().iter().map(|p| ObjectKey::from(&p.meta)).collect() }
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(pod) = cx.get(&res::PODS, key) else { return Ok(Requeue::Never) };
        let pods = cx.lister(&res::PODS);
        let (node, phase) = (pods.field(&pod, "spec.nodeName"), pods.field(&pod, "status.phase"));
        if node.is_empty() {
            if pod.is_deleting() {
                force(cx, &pod).await?;
            }
            return Ok(Requeue::Never);
        }
        if cx.lister(&res::NODES).get("", node).is_some() {
            self.missed.lock().remove(node);
            return thin_out(cx, phase).await;
        }
        let now = cx.now().as_second();
        let since = *self.missed.lock().entry(node.to_owned()).or_insert(now);
        let left = since + QUARANTINE_SECONDS - now;
        if left > 0 {
            return Ok(Requeue::after_seconds(Some(left)));
        }
        if !matches!(phase, "Succeeded" | "Failed") {
            let mut all = pod.value().items_at("/status/conditions").to_vec();
            let why = Condition::new("DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists");
            conditions::set(&mut all, &why, &rfc3339(cx.now()));
            let body = json!({"status": {"phase": "Failed", "conditions": all}});
            optional(
                cx.client.patch(&res::PODS, &key.namespace, &key.name, Some("status"), Patch::Merge(&body)).await,
            )?;
        }
        force(cx, &pod).await?;
        Ok(Requeue::Never)
    }
}

/// Deletes without waiting for a kubelet.
async fn force(cx: &Cx, pod: &Object) -> Result<(), Error> {
    let options = DeleteOptions { grace: Some(0), ..DeleteOptions::of_uid(&pod.meta.uid) };
    optional(cx.client.delete(&res::PODS, &pod.meta.namespace, &pod.meta.name, &options).await)?;
    Ok(())
}

/// When one more pod ended and there are too many, the oldest go.
async fn thin_out(cx: &Cx, phase: &str) -> Result<Requeue, Error> {
    if !matches!(phase, "Succeeded" | "Failed") {
        return Ok(Requeue::Never);
    }
    let pods = cx.lister(&res::PODS);
    let mut ended: Vec<Arc<Object>> =
        ["Succeeded", "Failed"].iter().flat_map(|phase| pods.by_index("status.phase", phase)).collect();
    let surplus = ended.len().saturating_sub(ENDED_MAX);
    ended.sort_by(|a, b| (&a.meta.created, &a.meta.name).cmp(&(&b.meta.created, &b.meta.name)));
    for pod in &ended[..surplus] {
        force(cx, pod).await?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn pods_of_a_node_that_is_gone_follow_it() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "gone"}, "status": {"phase": "Running"}}));
        let gc = PodGc::default();
        let requeue = cluster.reconcile(&gc, "n", "p").await.unwrap();
        assert_eq!(requeue, Requeue::after_seconds(Some(QUARANTINE_SECONDS)));
        cluster.clock.advance(QUARANTINE_SECONDS);
        cluster.reconcile(&gc, "n", "p").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
        assert!(cluster.api.take_log()[0].ends_with("/pods/p/status"), "it failed before it went");
    }
}
