//! Nodes: who fell silent, what that does to their pods; and which pod addresses are theirs.
//!
//! A node's Lease (or status) is its heartbeat. Its age is measured by this process' clock from when a new one was seen,
//! so that clocks of nodes may differ.

pub mod ipam;
pub mod plan;

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;

/// Where nodes renew their leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Health and eviction, for the list of controllers.
pub fn lifecycle() -> Box<dyn Reconciler> {
    Box::new(Lifecycle::default())
}

/// What is known of each node beside its object.
#[derive(Default)]
struct Lifecycle {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// The last heartbeat seen, as text.
    beat: String,
    /// When it was seen here.
    at: Timestamp,
    /// Ready, when last looked at.
    ready: bool,
}

#[async_trait]
impl Reconciler for Lifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES)
            .mapped(&res::LEASES, |lease, _| match &*lease.meta.namespace {
                LEASE_NAMESPACE => vec![ObjectKey::new("", &lease.meta.name)],
                _ => Vec::new(),
            })
            .mapped(&res::PODS, |pod, cx| {
                // Most pods that come have no node yet.
                let lister = cx.lister(&res::PODS);
                let node = Some(lister.field(pod, "spec.nodeName")).filter(|n| !n.is_empty());
                let node = node.and_then(|n| cx.lister(&res::NODES).get("", n));
                let tainted = node.filter(|n| has_no_execute(&n.value()));
                tainted.map(|n| ObjectKey::from(&n.meta)).into_iter().collect()
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(node) = cx.get(&res::NODES, key) else {
            self.known.lock().remove(&key.name);
            return Ok(Requeue::Never);
        };
        let now = cx.now();
        let mut value = node.value();
        let left = self.heard_at(cx, key, &value, now).as_second() + plan::GRACE_SECONDS - now.as_second();
        if left <= 0
            && let Some(conditions) = plan::silenced(&value, now)
        {
            value["status"]["conditions"] = conditions.into();
            value = cx.client.update(&res::NODES, "", &key.name, Some("status"), &value).await?;
            cx.events.normal(&node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        }
        let (evict, others) = self.judge(&key.name, plan::ready(&value) == "True");
        for other in others {
            if let Some(other) = cx.lister(&res::NODES).get("", &other) {
                set_taints(cx, other.value(), evict, now).await?;
            }
        }
        value = set_taints(cx, value, evict, now).await?;
        if plan::ready(&value) != "True" && left <= 0 {
            mark_pods_not_ready(cx, &key.name, now).await?;
        }
        let next = evict_pods(cx, &key.name, value.items_at("/spec/taints"), now).await?;
        let watch = if left > 0 { Requeue::after_seconds(Some(left)) } else { Requeue::Never };
        Ok(watch.sooner(Requeue::after_seconds(next)))
    }
}

impl Lifecycle {
    /// When the newest heartbeat was seen here.
    fn heard_at(&self, cx: &Cx, key: &ObjectKey, node: &Value, now: Timestamp) -> Timestamp {
        let lease = cx.lister(&res::LEASES).get(LEASE_NAMESPACE, &key.name).map(|l| l.value());
        let renewed = lease.as_ref().and_then(|l| l.str_at("/spec/renewTime")).unwrap_or_default();
        let ready = conditions::get(node.items_at("/status/conditions"), "Ready");
        let posted = ready.and_then(|c| c.str_at("/lastHeartbeatTime")).unwrap_or_default();
        let beat = format!("{renewed} {posted}");
        let mut known = self.known.lock();
        if known.is_empty() {
            // After a start the nodes' own words count until they are looked at: else the first one that is silent would
            // be the only one there is, and the time that its pods have left would begin again.
            let all = cx.lister(&res::NODES).list(None);
            let told = |v: &Value| Known { beat: String::new(), at: now, ready: plan::ready(v) == "True" };
            known.extend(all.iter().map(|n| (n.meta.name.clone(), told(&n.value()))));
        }
        let fresh = || Known { beat: beat.clone(), at: now, ready: false };
        let entry = known.entry(key.name.clone()).or_insert_with(fresh);
        if entry.beat != beat {
            (entry.beat, entry.at) = (beat, now);
        }
        entry.at
    }

    /// Notes whether a node is ready. Gives back whether pods may be evicted at all, which takes one node that is ready;
    /// and, when that has just changed, the other nodes that are not.
    fn judge(&self, name: &str, ready: bool) -> (bool, Vec<String>) {
        let mut known = self.known.lock();
        let before = known.values().any(|k| k.ready);
        if let Some(me) = known.get_mut(name) {
            me.ready = ready;
        }
        let evict = known.values().any(|k| k.ready);
        let others = known.iter().filter(|(n, k)| evict != before && !k.ready && *n != name);
        (evict, others.map(|(n, _)| n.clone()).collect())
    }
}

/// Writes the taints a node should have, where it has others; gives back the node.
async fn set_taints(cx: &Cx, node: Value, evict: bool, now: Timestamp) -> Result<Value, Error> {
    let Some(taints) = plan::taints(&node, evict, now) else { return Ok(node) };
    let name = node.str_at("/metadata/name").unwrap_or_default();
    let body =
        json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
    Ok(cx.client.patch(&res::NODES, "", name, None, Patch::Merge(&body)).await?)
}

fn has_no_execute(node: &Value) -> bool {
    node.items_at("/spec/taints").iter().any(|t| t.str_at("/effect") == Some("NoExecute"))
}

/// Pods of a silent node no longer answer for Services.
async fn mark_pods_not_ready(cx: &Cx, node: &str, now: Timestamp) -> Result<(), Error> {
    for pod in cx.lister(&res::PODS).by_index("spec.nodeName", node) {
        let mut value = pod.value();
        let mut all = value.items_at("/status/conditions").to_vec();
        match all.iter_mut().find(|c| c.str_at("/type") == Some("Ready")) {
            Some(c) if c.str_at("/status") == Some("True") => {
                c["status"] = "False".into();
                c["lastTransitionTime"] = rfc3339(now).into();
            }
            _ => continue,
        }
        value["status"]["conditions"] = all.into();
        let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
        optional(cx.client.update(&res::PODS, ns, name, Some("status"), &value).await)?;
        cx.events.warning(&pod, "NodeNotReady", "Node is not ready");
    }
    Ok(())
}

/// Deletes the pods whose time on the node is over; gives back the seconds until the next one's is.
async fn evict_pods(cx: &Cx, node: &str, taints: &[Value], now: Timestamp) -> Result<Option<i64>, Error> {
    let mut next: Option<i64> = None;
    if !taints.iter().any(|t| t.str_at("/effect") == Some("NoExecute")) {
        return Ok(None);
    }
    for pod in cx.lister(&res::PODS).by_index("spec.nodeName", node) {
        let value = pod.value();
        let Some(at) = plan::leaves_at(&value, taints, now).filter(|_| !pod.is_deleting()) else { continue };
        if at > now {
            let left = at.as_second() - now.as_second();
            next = Some(next.map_or(left, |n| n.min(left)));
            continue;
        }
        let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
        cx.events.normal(&pod, "TaintManagerEviction", format!("Marking for deletion Pod {ns}/{name}"));
        let mut all = value.items_at("/status/conditions").to_vec();
        let why = Condition::new(
            "DisruptionTarget",
            "True",
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
        );
        conditions::set(&mut all, &why, &rfc3339(now));
        let body = json!({"status": {"conditions": all}});
        optional(cx.client.patch(&res::PODS, ns, name, Some("status"), Patch::Merge(&body)).await)?;
        optional(cx.client.delete(&res::PODS, ns, name, &DeleteOptions::of_uid(&pod.meta.uid)).await)?;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    fn node(name: &str, ready: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn lease(renewed: &str) -> Value {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "a", "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": renewed}})
    }

    #[tokio::test]
    async fn a_silent_node_is_tainted_and_its_pods_leave_in_time() {
        let cluster = Cluster::new();
        cluster.put(node("a", "True"));
        cluster.put(node("b", "True"));
        cluster.put(lease("1"));
        let tolerant = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a", "tolerations": tolerant},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        let controller = Lifecycle::default();
        let requeue = cluster.reconcile(&controller, "", "a").await.unwrap();
        assert_eq!(requeue, Requeue::after_seconds(Some(plan::GRACE_SECONDS)));
        cluster.reconcile(&controller, "", "b").await.unwrap();
        cluster.clock.advance(30);
        cluster.put(lease("2"));
        cluster.reconcile(&controller, "", "a").await.unwrap();
        cluster.clock.advance(30);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert_eq!(plan::ready(&cluster.get(&res::NODES, "", "a").unwrap()), "True", "the second heartbeat counts");
        cluster.clock.advance(30);
        let requeue = cluster.reconcile(&controller, "", "a").await.unwrap();
        let silent = cluster.get(&res::NODES, "", "a").unwrap();
        assert_eq!(plan::ready(&silent), "Unknown");
        assert_eq!(requeue, Requeue::after_seconds(Some(300)));
        let pod = cluster.get(&res::PODS, "n", "p").unwrap();
        assert_eq!(pod.str_at("/status/conditions/0/status"), Some("False"));
        cluster.clock.advance(301);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
    }

    /// A start in the middle of an eviction goes on with it.
    #[tokio::test]
    async fn a_start_leaves_taints_and_their_times() {
        let cluster = Cluster::new();
        let mut silent = node("a", "Unknown");
        let taint = |effect: &str| json!({"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": "t"});
        silent["spec"]["taints"] = json!([taint("NoSchedule"), taint("NoExecute")]);
        let before = cluster.put(silent);
        cluster.put(node("b", "True"));
        cluster.reconcile(&Lifecycle::default(), "", "a").await.unwrap();
        assert_eq!(cluster.get(&res::NODES, "", "a").unwrap()["spec"]["taints"], before["spec"]["taints"]);
    }

    #[tokio::test]
    async fn the_only_node_keeps_its_pods() {
        let cluster = Cluster::new();
        cluster.put(node("a", "False"));
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a"}}));
        cluster.reconcile(&Lifecycle::default(), "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_some());
        let tainted = cluster.get(&res::NODES, "", "a").unwrap();
        assert_eq!(tainted.items_at("/spec/taints").len(), 1);
    }
}
