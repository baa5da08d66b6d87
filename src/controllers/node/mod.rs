//! Nodes: who fell silent, what that does to their pods; and which pod addresses are theirs.
//!
//! A node's Lease (or status) is its heartbeat. Its age is measured by this process' ticks from when a new one was seen,
//! so that clocks of nodes may differ, and this machine's may be set. The taint that takes a silent node's pods away comes in turn, zone by zone
//! ([`zones`]); what it does to them is [`eviction`]'s.

pub mod eviction;
pub mod ipam;
pub mod plan;
pub mod ttl;
pub mod zones;

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{Patch, optional, res};
use crate::controllers::common::conditions;
use crate::controllers::common::pods::time;
use crate::runtime::events::Regarding;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;
use zones::{Turn, Zones};

/// Where nodes renew their leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Health and taints, for the list of controllers; a node is silent after so many seconds, or upstream's number of them.
pub fn lifecycle(grace_seconds: Option<i64>) -> Box<dyn Reconciler> {
    Box::new(Lifecycle { grace_seconds: grace_seconds.unwrap_or(plan::GRACE_SECONDS), ..Lifecycle::default() })
}

/// What is known of each node beside its object.
struct Lifecycle {
    grace_seconds: i64,
    known: Mutex<HashMap<String, Known>>,
    zones: Mutex<Zones>,
    /// Pods of silent nodes that were marked as not ready, by node: once in a silence. A kubelet that still speaks for its
    /// pods but not for its node has the last word.
    marked: Mutex<HashMap<String, HashSet<String>>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            grace_seconds: plan::GRACE_SECONDS,
            known: Mutex::default(),
            zones: Mutex::default(),
            marked: Mutex::default(),
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    /// The last heartbeat seen, as text.
    beat: String,
    /// The tick it was seen at here.
    at: i64,
    /// The Node's uid.
    uid: String,
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
                let troubled = node.filter(|n| !plan::is_ready(n));
                troubled.map(|n| ObjectKey::from(&n.meta)).into_iter().collect()
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(node) = cx.get(&res::NODES, key) else {
            let known = self.known.lock().remove(&key.name);
            if let Some(known) = known {
                let gone = Regarding {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: key.name.clone(),
                    uid: known.uid,
                    ..Regarding::default()
                };
                tell(cx, gone, "RemovingNode", &format!("Removing Node {} from Controller", key.name), &key.name);
            }
            self.marked.lock().remove(&key.name);
            self.note(cx, &key.name, None, false).await?;
            return Ok(Requeue::Never);
        };
        let now = cx.now();
        let mut value = node.value();
        let ticks = cx.clock.ticks();
        let is_known = self.known.lock().contains_key(&key.name);
        let age = now.as_second() - time(Some(&node.meta.created)).unwrap_or(now).as_second();
        // Not each time that this process starts.
        if !is_known && age < self.grace_seconds {
            tell(cx, &node, "RegisteredNode", &format!("Registered Node {} in Controller", key.name), &key.name);
        }
        let grace = match conditions::get(value.items_at("/status/conditions"), "Ready") {
            Some(_) => self.grace_seconds,
            None => plan::STARTUP_GRACE_SECONDS,
        };
        let left = self.heard_at(cx, key, &value, age) + grace - ticks;
        if left <= 0
            && let Some(conditions) = plan::silenced(&value, now)
        {
            let was_ready = plan::ready(&value) == "True";
            value["status"]["conditions"] = conditions.into();
            value = cx.client.update(&res::NODES, "", &key.name, Some("status"), &value).await?;
            if was_ready {
                cx.events.normal(&node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
            }
        }
        let ready = plan::ready(&value) == "True";
        self.note(cx, &key.name, zones::zone_of(&value), ready).await?;
        let turn = self.taint(cx, &value, now).await?;
        if ready {
            self.marked.lock().remove(&key.name);
        } else if left <= 0 {
            self.mark_pods_not_ready(cx, &key.name, now).await?;
        }
        let watch = if left > 0 { Requeue::after_seconds(Some(left)) } else { Requeue::Never };
        Ok(watch.sooner(match turn {
            Turn::Now => Requeue::Never,
            Turn::In(seconds) => Requeue::after_seconds(Some(seconds)),
            // Others have to come back first. They are many; this one looks for itself.
            Turn::No => Requeue::after_seconds(Some(zones::TURN_SECONDS)),
        }))
    }
}

impl Lifecycle {
    /// The tick that the newest heartbeat was seen at here; that of its creation, `age` seconds ago, for a node of which none
    /// has come.
    fn heard_at(&self, cx: &Cx, key: &ObjectKey, node: &Value, age: i64) -> i64 {
        let now = cx.clock.ticks();
        let uid = node.str_at("/metadata/uid").unwrap_or_default();
        let lease = cx.lister(&res::LEASES).get(LEASE_NAMESPACE, &key.name).map(|l| l.value());
        let renewed = lease.as_ref().and_then(|l| l.str_at("/spec/renewTime")).unwrap_or_default();
        let ready = conditions::get(node.items_at("/status/conditions"), "Ready");
        let posted = ready.and_then(|c| c.str_at("/lastHeartbeatTime")).unwrap_or_default();
        let beat = format!("{renewed} {posted}");
        let mut known = self.known.lock();
        if known.is_empty() {
            // After a start the nodes' own words count until they are looked at: else the first one that is silent would
            // be the only one there is, and the time that its pods have left would begin again.
            let mut zones = self.zones.lock();
            for other in cx.lister(&res::NODES).list(None) {
                let value = other.value();
                zones.note(&other.meta.name, zones::zone_of(&value), plan::ready(&value) == "True");
                let uid = other.meta.uid.clone();
                known.insert(other.meta.name.clone(), Known { beat: String::new(), at: now, uid });
            }
        }
        let entry = known.entry(key.name.clone()).or_insert_with(|| Known {
            beat: String::new(),
            at: now,
            uid: uid.to_owned(),
        });
        if entry.beat != beat {
            let unheard = entry.beat.is_empty() && ready.is_none() && renewed.is_empty();
            (entry.beat, entry.at) = (beat, if unheard { now - age.max(0) } else { now });
        }
        entry.at
    }

    /// Notes where a node is and how it does. When that was the last one that was ready, the others' pods stay; when it is
    /// the first one again, the others get time to be heard.
    async fn note(&self, cx: &Cx, name: &str, zone: Option<String>, ready: bool) -> Result<(), Error> {
        let (was_dark, is_dark) = {
            let mut zones = self.zones.lock();
            let before = zones.is_dark();
            zones.note(name, zone, ready);
            (before, zones.is_dark())
        };
        let now = cx.now();
        if was_dark && !is_dark {
            let ticks = cx.clock.ticks();
            self.known.lock().values_mut().for_each(|k| k.at = ticks);
        }
        if is_dark && !was_dark {
            for other in cx.lister(&res::NODES).list(None).iter().filter(|o| o.meta.name != name) {
                set_taints(cx, other.value(), false, now).await?;
            }
        }
        Ok(())
    }

    /// Writes the taints of a node; the one that takes its pods away in turn.
    async fn taint(&self, cx: &Cx, node: &Value, now: Timestamp) -> Result<Turn, Error> {
        let zone = zones::zone_of(node).unwrap_or_default();
        let (turn, dark) = {
            let mut zones = self.zones.lock();
            let waits = plan::waits_for_eviction(node);
            (if waits { zones.turn(&zone, cx.clock.ticks()) } else { Turn::Now }, zones.is_dark())
        };
        let evict = turn == Turn::Now && !dark;
        match set_taints(cx, node.clone(), evict, now).await {
            Err(e) if evict => {
                self.zones.lock().give_back(&zone);
                Err(e)
            }
            other => other.map(|_| turn),
        }
    }

    /// Pods of a silent node no longer answer for Services.
    async fn mark_pods_not_ready(&self, cx: &Cx, node: &str, now: Timestamp) -> Result<(), Error> {
        for pod in cx.lister(&res::PODS).by_index("spec.nodeName", node) {
            if self.marked.lock().get(node).is_some_and(|m| m.contains(&pod.meta.uid)) {
                continue;
            }
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
            self.marked.lock().entry(node.to_owned()).or_default().insert(pod.meta.uid.clone());
            cx.events.warning(&pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

fn tell(cx: &Cx, node: impl Into<Regarding>, reason: &str, what: &str, name: &str) {
    cx.events.normal(node, reason, format!("Node {name} event: {what}"));
}

/// Writes the taints a node should have, where it has others; gives back the node.
async fn set_taints(cx: &Cx, node: Value, evict: bool, now: Timestamp) -> Result<Value, Error> {
    let Some(taints) = plan::taints(&node, evict, now) else { return Ok(node) };
    let name = node.str_at("/metadata/name").unwrap_or_default();
    let body =
        json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
    Ok(cx.client.patch(&res::NODES, "", name, None, Patch::Merge(&body)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

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
        assert_eq!(requeue, Requeue::Never);
        let pod = cluster.get(&res::PODS, "n", "p").unwrap();
        assert_eq!(pod.str_at("/status/conditions/0/status"), Some("False"));
        // A kubelet that still speaks for its pod is not contradicted again and again.
        let mut alive = pod.clone();
        alive["status"]["conditions"][0]["status"] = "True".into();
        cluster.put(alive);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        let pod = cluster.get(&res::PODS, "n", "p").unwrap();
        assert_eq!(pod.str_at("/status/conditions/0/status"), Some("True"));
        let eviction = eviction::controller();
        assert_eq!(cluster.reconcile(&*eviction, "", "a").await.unwrap(), Requeue::after_seconds(Some(300)));
        cluster.clock.advance(301);
        cluster.reconcile(&*eviction, "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
    }

    #[tokio::test]
    async fn people_are_told_who_comes_and_goes() {
        let cluster = Cluster::new();
        let (cx, writer) = cluster.cx_and_events();
        let controller = Lifecycle::default();
        let mut old = node("old", "True");
        old["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
        let mut new = node("new", "True");
        new["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        cluster.put(old);
        cluster.put(new);
        for name in ["new", "old", "new"] {
            controller.reconcile(&ObjectKey::new("", name), &cx).await.unwrap();
        }
        // A writer ends with the last who has something to say; events are named after their time.
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        cluster.clock.advance(1);
        let (cx, writer) = cluster.cx_and_events();
        cluster.client().delete(&res::NODES, "", "new", &Default::default()).await.unwrap();
        controller.reconcile(&ObjectKey::new("", "new"), &cx).await.unwrap();
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let mut told: Vec<String> = cluster.api.all(&res::EVENTS).iter().map(|e| e["message"].to_string()).collect();
        told.sort();
        let want = ["Registered Node new in Controller", "Removing Node new from Controller"];
        assert_eq!(told, want.map(|w| format!("\"Node new event: {w}\"")));
    }

    /// A Node that somebody made without a kubelet: its time runs from its creation.
    #[tokio::test]
    async fn a_node_that_never_spoke_takes_pods_for_a_minute() {
        let cluster = Cluster::new();
        let taints = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a",
            "creationTimestamp": rfc3339(cluster.cx().now())},
            "spec": {"taints": taints}}));
        let controller = Lifecycle::default();
        let (cx, writer) = cluster.cx_and_events();
        cluster.clock.advance(20);
        for (passes, left) in [(0, Some(40)), (35, Some(5)), (5, None)] {
            cluster.clock.advance(passes);
            let requeue = controller.reconcile(&ObjectKey::new("", "a"), &cx).await.unwrap();
            let node = cluster.get(&res::NODES, "", "a").unwrap();
            if left.is_some() {
                assert_eq!(requeue, Requeue::after_seconds(left));
                assert_eq!((node.items_at("/spec/taints").len(), node.items_at("/status/conditions").len()), (0, 0));
            } else {
                assert_eq!(node.str_at("/status/conditions/0/reason"), Some("NodeStatusNeverUpdated"));
                assert_eq!(node.str_at("/spec/taints/0/key"), Some("node.kubernetes.io/unreachable"));
            }
        }
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let events = cluster.api.all(&res::EVENTS);
        let told: Vec<_> = events.iter().filter_map(|e| e.str_at("/reason")).collect();
        assert_eq!(told, ["RegisteredNode"], "it was never ready");
    }

    #[test_case("True", 1; "it was ready")]
    #[test_case("False", 0; "it said itself that it is not")]
    #[tokio::test]
    async fn people_are_told_of_silence(ready: &str, events: usize) {
        let cluster = Cluster::new();
        let mut old = node("a", ready);
        old["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
        cluster.put(old);
        let controller = Lifecycle::default();
        let (cx, writer) = cluster.cx_and_events();
        for _ in 0..2 {
            controller.reconcile(&ObjectKey::new("", "a"), &cx).await.unwrap();
            cluster.clock.advance(plan::GRACE_SECONDS);
        }
        assert_eq!(plan::ready(&cluster.get(&res::NODES, "", "a").unwrap()), "Unknown");
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        assert_eq!(cluster.api.all(&res::EVENTS).len(), events);
    }

    /// An hour forward makes nobody silent, and an hour back keeps nobody from being found silent in time.
    #[test_case(3600; "forward")]
    #[test_case(-3600; "back")]
    #[tokio::test]
    async fn a_clock_that_is_set_changes_nobodys_silence(jump: i64) {
        let cluster = Cluster::new();
        cluster.put(node("a", "True"));
        cluster.put(node("b", "True"));
        cluster.put(lease("1"));
        let controller = Lifecycle::default();
        cluster.reconcile(&controller, "", "a").await.unwrap();
        cluster.clock.advance(plan::GRACE_SECONDS - 1);
        cluster.clock.set_by(jump);
        assert_eq!(cluster.reconcile(&controller, "", "a").await.unwrap(), Requeue::after_seconds(Some(1)));
        assert_eq!(plan::ready(&cluster.get(&res::NODES, "", "a").unwrap()), "True");
        cluster.clock.advance(1);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert_eq!(plan::ready(&cluster.get(&res::NODES, "", "a").unwrap()), "Unknown");
        // The turn of the next node comes when it is due by the ticks.
        cluster.put(node("b", "False"));
        cluster.put(node("c", "True"));
        cluster.clock.set_by(-jump);
        cluster.reconcile(&controller, "", "c").await.unwrap();
        let requeue = cluster.reconcile(&controller, "", "b").await.unwrap();
        assert_eq!(requeue, Requeue::after_seconds(Some(zones::TURN_SECONDS)));
    }

    /// Two nodes fall silent at once; the second one's pods have to wait for their turn, its taint against new ones does not.
    #[tokio::test]
    async fn nodes_lose_their_pods_one_after_another() {
        let cluster = Cluster::new();
        for (name, ready) in [("a", "False"), ("b", "False"), ("c", "True"), ("d", "True")] {
            cluster.put(node(name, ready));
        }
        let controller = Lifecycle::default();
        let effects = |name: &str| {
            let node = cluster.get(&res::NODES, "", name).unwrap();
            node.items_at("/spec/taints").iter().map(|t| t.str_at("/effect").unwrap().to_owned()).collect::<Vec<_>>()
        };
        cluster.reconcile(&controller, "", "a").await.unwrap();
        let requeue = cluster.reconcile(&controller, "", "b").await.unwrap();
        assert_eq!((effects("a").len(), effects("b")), (2, vec!["NoSchedule".to_owned()]));
        assert_eq!(requeue, Requeue::after_seconds(Some(zones::TURN_SECONDS)));
        cluster.clock.advance(zones::TURN_SECONDS);
        cluster.reconcile(&controller, "", "b").await.unwrap();
        assert_eq!(effects("b").len(), 2);
    }

    /// The last node falls silent: rather this side lost its network. What was begun is taken back.
    #[tokio::test]
    async fn when_all_are_silent_nobody_is_evicted() {
        let cluster = Cluster::new();
        cluster.put(node("a", "False"));
        cluster.put(node("b", "True"));
        let controller = Lifecycle::default();
        cluster.reconcile(&controller, "", "a").await.unwrap();
        let taints = |c: &Cluster| c.get(&res::NODES, "", "a").unwrap().items_at("/spec/taints").len();
        assert_eq!(taints(&cluster), 2);
        cluster.put(node("b", "False"));
        cluster.reconcile(&controller, "", "b").await.unwrap();
        assert_eq!(taints(&cluster), 1);
        cluster.put(node("b", "True"));
        cluster.reconcile(&controller, "", "b").await.unwrap();
        cluster.clock.advance(zones::TURN_SECONDS);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert_eq!(taints(&cluster), 2, "and begins again when one is back");
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
