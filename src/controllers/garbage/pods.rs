//! Pods that nobody else would remove: of nodes that are gone or that an administrator gave up, never scheduled but being
//! deleted, or ended and too many.
//!
//! Rule: upstream `pkg/controller/podgc`.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;
use crate::util::order::Arrange;

/// Ended pods kept in the cluster; upstream's `--terminated-pod-gc-threshold`.
const ENDED_MAX: usize = 12_500;
/// Seconds a node may be missing before its pods are.
const QUARANTINE_SECONDS: i64 = 40;

/// Taint of a node that an administrator knows to be switched off: its pods may be taken for dead.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

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
        Watches::own_changed(&res::PODS, changed_for_us).mapped(&res::NODES, |node, cx| {
            let pods = || cx.lister(&res::PODS).by_index("spec.nodeName", &node.meta.name);
            let now = cx.lister(&res::NODES).get("", &node.meta.name);
            let kept = now.is_some_and(|n| !is_given_up(&n.value()));
            if kept { Vec::new() } else { pods().iter().map(|p| ObjectKey::from(&p.meta)).collect() }
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(pod) = cx.get(&res::PODS, key) else { return Ok(Requeue::Never) };
        let pods = cx.lister(&res::PODS);
        let (node, phase) = (pods.field(&pod, "spec.nodeName"), pods.field(&pod, "status.phase"));
        if node.is_empty() {
            if pod.is_deleting() {
                // A finalizer may keep it: whoever waits for its end sees one.
                fail(cx, &pod, None).await?;
                force(cx, &pod).await?;
            }
            return Ok(Requeue::Never);
        }
        if let Some(there) = cx.lister(&res::NODES).get("", node) {
            self.missed.lock().remove(node);
            if pod.is_deleting() && is_given_up(&there.value()) {
                fail(cx, &pod, None).await?;
                force(cx, &pod).await?;
                return Ok(Requeue::Never);
            }
            return thin_out(cx, phase).await;
        }
        let now = cx.now().as_second();
        let since = {
            let mut missed = self.missed.lock();
            // Those that nobody asked after again have come back, or their pods have gone.
            missed.retain(|_, since| now - *since <= 2 * QUARANTINE_SECONDS);
            *missed.entry(node.to_owned()).or_insert(now)
        };
        let left = since + QUARANTINE_SECONDS - now;
        if left > 0 {
            return Ok(Requeue::after_seconds(Some(left)));
        }
        let why = Condition::new("DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists");
        fail(cx, &pod, Some(&why)).await?;
        force(cx, &pod).await?;
        Ok(Requeue::Never)
    }
}

/// A pod that comes, goes to a node, ends or is deleted; not one whose status is told.
fn changed_for_us(old: Option<&Object>, new: Option<&Object>, cx: &Cx) -> Vec<ObjectKey> {
    let pods = cx.lister(&res::PODS);
    let told = |pod: &Object| ["spec.nodeName", "status.phase"].map(|f| pods.field(pod, f).to_owned());
    match (old, new) {
        (Some(old), Some(new)) if !new.is_deleting() && told(old) == told(new) => Vec::new(),
        (_, Some(new)) => vec![ObjectKey::from(&new.meta)],
        (_, None) => Vec::new(),
    }
}

/// True for a node that does not answer and that somebody marked as out of service.
fn is_given_up(node: &Value) -> bool {
    let marked = node.items_at("/spec/taints").iter().any(|t| t.str_at("/key") == Some(OUT_OF_SERVICE));
    marked && !conditions::is_true(node.items_at("/status/conditions"), "Ready")
}

/// Says that a pod failed, unless it has ended: no kubelet is left to say so.
async fn fail(cx: &Cx, pod: &Object, why: Option<&Condition<'_>>) -> Result<(), Error> {
    let value = pod.value();
    if matches!(value.str_at("/status/phase"), Some("Succeeded" | "Failed")) {
        return Ok(());
    }
    let mut body = json!({"status": {"phase": "Failed"}});
    if pod.meta.generation > 0 {
        body["status"]["observedGeneration"] = pod.meta.generation.into();
    }
    if let Some(why) = why {
        let mut all = value.items_at("/status/conditions").to_vec();
        conditions::set_of_pod(&mut all, why, pod.meta.generation, &rfc3339(cx.now()));
        body["status"]["conditions"] = all.into();
    }
    let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
    optional(cx.client.patch(&res::PODS, ns, name, Some("status"), Patch::Merge(&body)).await)?;
    Ok(())
}

/// Deletes without waiting for a kubelet.
async fn force(cx: &Cx, pod: &Object) -> Result<(), Error> {
    let options = DeleteOptions { grace: Some(0), ..DeleteOptions::of_uid(&pod.meta.uid) };
    optional(cx.client.delete(&res::PODS, &pod.meta.namespace, &pod.meta.name, &options).await)?;
    Ok(())
}

/// Whether a pod was evicted, and the pod.
type Ended = (bool, Arc<Object>);

fn ended(pod: Arc<Object>) -> Ended {
    (pod.only(&["status", "reason"])["status"]["reason"] == "Evicted", pod)
}

/// The order in which ended pods go: evicted ones first, so that those that controllers count stay longer; then by age.
/// Rule: upstream `byEvictionAndCreationTimestamp`.
fn who_goes_first((evicted, a): &Ended, (other, b): &Ended) -> Ordering {
    (other, &a.meta.created, &a.meta.name).cmp(&(evicted, &b.meta.created, &b.meta.name))
}

/// When one more pod ended and there are too many, the evicted and the oldest go.
async fn thin_out(cx: &Cx, phase: &str) -> Result<Requeue, Error> {
    if !matches!(phase, "Succeeded" | "Failed") {
        return Ok(Requeue::Never);
    }
    let pods = cx.lister(&res::PODS);
    let all: Vec<Arc<Object>> =
        ["Succeeded", "Failed"].iter().flat_map(|phase| pods.by_index("status.phase", phase)).collect();
    let surplus = all.len().saturating_sub(ENDED_MAX);
    if surplus == 0 {
        return Ok(Requeue::Never);
    }
    let mut all: Vec<Ended> = all.into_iter().map(ended).collect();
    all.arrange_by(who_goes_first);
    for (_, pod) in &all[..surplus] {
        force(cx, pod).await?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    /// With one pod, of a node that is not there.
    fn lost() -> Cluster {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "gone"}, "status": {"phase": "Running"}}));
        cluster
    }

    #[tokio::test]
    async fn pods_of_a_node_that_is_gone_follow_it() {
        let cluster = lost();
        let gc = PodGc::default();
        let requeue = cluster.reconcile(&gc, "n", "p").await.unwrap();
        assert_eq!(requeue, Requeue::after_seconds(Some(QUARANTINE_SECONDS)));
        cluster.clock.advance(QUARANTINE_SECONDS);
        cluster.reconcile(&gc, "n", "p").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
        assert!(cluster.api.take_log()[0].ends_with("/pods/p/status"), "it failed before it went");
    }

    #[test]
    fn evicted_pods_go_before_elder_ones() {
        let pod = |name: &str, created: &str, reason: &str| {
            let value = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"reason": reason}});
            ended(Arc::new(Object::from_value(&value, &[])))
        };
        let mut pods = [pod("c", "2", "Evicted"), pod("b", "1", ""), pod("a", "2", "Error"), pod("d", "1", "Evicted")];
        pods.arrange_by(who_goes_first);
        assert_eq!(pods.iter().map(|(_, pod)| &*pod.meta.name).collect::<String>(), "dcba");
    }

    #[tokio::test]
    async fn a_failed_pod_says_of_which_generation() {
        let cluster = lost();
        let mut pod = cluster.get(&res::PODS, "n", "p").unwrap();
        pod["metadata"]["generation"] = 3.into();
        pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
        cluster.put(pod);
        let gc = PodGc::default();
        cluster.reconcile(&gc, "n", "p").await.unwrap();
        cluster.clock.advance(QUARANTINE_SECONDS);
        cluster.reconcile(&gc, "n", "p").await.unwrap();
        let status = cluster.get(&res::PODS, "n", "p").unwrap()["status"].clone();
        assert_eq!(
            (status.int_at("/observedGeneration"), status.int_at("/conditions/0/observedGeneration")),
            (Some(3), Some(3))
        );
    }

    #[tokio::test]
    async fn a_node_that_is_missed_again_gets_its_time_again() {
        let cluster = lost();
        let gc = PodGc::default();
        for _ in 0..2 {
            let requeue = cluster.reconcile(&gc, "n", "p").await.unwrap();
            assert_eq!(requeue, Requeue::after_seconds(Some(QUARANTINE_SECONDS)));
            // It was back in between, of which no pod told.
            cluster.clock.advance(10 * QUARANTINE_SECONDS);
        }
    }

    #[tokio::test]
    async fn what_a_status_says_wakes_nobody() {
        let cluster = Cluster::new();
        let (cx, pointers) = (cluster.cx(), cluster.listers.objects("", "pods").pointers());
        let pod = |node: &str, phase: &str| {
            let value = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}, "status": {"phase": phase}});
            Object::from_value(&value, &pointers)
        };
        let (old, same) = (pod("a", "Running"), pod("a", "Running"));
        assert_eq!(changed_for_us(Some(&old), Some(&same), &cx), []);
        for new in [pod("b", "Running"), pod("a", "Failed")] {
            assert_eq!(changed_for_us(Some(&old), Some(&new), &cx).len(), 1);
        }
        assert_eq!((changed_for_us(None, Some(&old), &cx).len(), changed_for_us(Some(&old), None, &cx).len()), (1, 0));
    }

    /// Only what is being deleted, and only on a node that is silent and marked.
    #[test_case::test_case(true, "Unknown", true, true; "given up")]
    #[test_case::test_case(true, "True", true, false; "the node is alive after all")]
    #[test_case::test_case(false, "Unknown", true, false; "silent, but it may come back")]
    #[test_case::test_case(true, "Unknown", false, false; "nobody deletes the pod")]
    #[tokio::test]
    async fn pods_of_a_node_out_of_service_are_taken_for_dead(marked: bool, ready: &str, deleting: bool, gone: bool) {
        let cluster = Cluster::new();
        let taints = if marked { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}));
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running"}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        cluster.put(pod);
        cluster.reconcile(&PodGc::default(), "n", "p").await.unwrap();
        assert_eq!(cluster.get(&res::PODS, "n", "p").is_none(), gone);
    }
}
