//! Pods that a node's `NoExecute` taints send away: at once, after the time that they tolerate, or never.
//!
//! Rule: upstream `pkg/controller/tainteviction`. Upstream begins to count anew when its process starts; here the taint's own
//! time counts where it has one, so that a restart delays nothing.
//!
//! **Invariant:** a pod's time runs from when the node was first tainted while the pod was on it; another taint that comes
//! meanwhile does not begin it again, and it is forgotten when the last taint goes.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::plan;
use crate::api::object::ObjectKey;
use crate::client::res;
use crate::controllers::common::taints::{Farewell, evict};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(TaintEviction::default())
}

/// Since when the pods of tainted nodes are on notice: by node, then by uid.
#[derive(Default)]
struct TaintEviction {
    notices: Mutex<HashMap<String, HashMap<String, i64>>>,
}

/// The tick of a time, by what both show now.
fn tick_of(time: Timestamp, cx: &Cx) -> i64 {
    cx.clock.ticks() - (cx.now().as_second() - time.as_second())
}

/// The time of a tick. A clock that was set meanwhile moves it, so that what has passed since is what did pass.
fn time_of(tick: i64, cx: &Cx) -> Option<Timestamp> {
    Timestamp::from_second(cx.now().as_second() - (cx.clock.ticks() - tick)).ok()
}

#[async_trait]
impl Reconciler for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES).mapped(&res::PODS, |pod, cx| {
            // Most pods that come have no node yet.
            let lister = cx.lister(&res::PODS);
            let node = Some(lister.field(pod, "spec.nodeName")).filter(|n| !n.is_empty());
            let node = node.and_then(|n| cx.lister(&res::NODES).get("", n));
            // Nor do most nodes have such a taint, and pods come and change by the thousand.
            let tainted = node.filter(|n| n.mentions("NoExecute") && plan::has_no_execute(&n.value()));
            tainted.map(|n| ObjectKey::from(&n.meta)).into_iter().collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let node = cx.get(&res::NODES, key).map(|n| n.value()).unwrap_or_default();
        let taints: Vec<Value> = plan::no_execute(&node).cloned().collect();
        let noticed = self.notices.lock().remove(&key.name).unwrap_or_default();
        if taints.is_empty() && noticed.is_empty() {
            return Ok(Requeue::Never);
        }
        let now = cx.now();
        let (mut notices, mut next) = (HashMap::new(), None);
        let mut leaving = Vec::new();
        for pod in cx.lister(&res::PODS).by_index("spec.nodeName", &key.name) {
            if pod.is_deleting() {
                continue;
            }
            let value = pod.value();
            let since = noticed.get(&pod.meta.uid).and_then(|tick| time_of(*tick, cx));
            match plan::leave(&value, &taints, since, now) {
                plan::Leave::Never => {
                    if since.is_some() {
                        let what = format!("Cancelling deletion of Pod {}/{}", pod.meta.namespace, pod.meta.name);
                        cx.events.normal(&pod, "TaintManagerEviction", what);
                    }
                }
                plan::Leave::At { since, at } if at > now => {
                    notices.insert(pod.meta.uid.clone(), tick_of(since, cx));
                    let left = at.as_second() - now.as_second();
                    next = Some(next.map_or(left, |n: i64| n.min(left)));
                }
                plan::Leave::At { since, .. } => {
                    notices.insert(pod.meta.uid.clone(), tick_of(since, cx));
                    leaving.push((pod, value));
                }
            }
        }
        // Noted before anything can fail: the next try goes on from here.
        if !notices.is_empty() {
            self.notices.lock().insert(key.name.clone(), notices);
        }
        for (pod, value) in leaving {
            let why = Farewell {
                event: "TaintManagerEviction",
                told: format!("Marking for deletion Pod {}/{}", pod.meta.namespace, pod.meta.name),
                reason: "DeletionByTaintManager",
                message: "Taint manager: deleting due to NoExecute taint",
            };
            evict(cx, &pod, &value, &why).await?;
        }
        Ok(Requeue::after_seconds(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::json;

    fn tainted(taints: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"taints": taints}})
    }

    fn pod(seconds: i64) -> Value {
        let tolerations = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a", "tolerations": tolerations}})
    }

    /// `kubectl taint` gives no time, so it has to be remembered.
    #[tokio::test]
    async fn a_taint_without_a_time_runs_from_when_it_was_seen() {
        let cluster = Cluster::new();
        cluster.put(tainted(json!([{"key": "k", "effect": "NoExecute"}])));
        cluster.put(pod(30));
        let controller = TaintEviction::default();
        assert_eq!(cluster.reconcile(&controller, "", "a").await.unwrap(), Requeue::after_seconds(Some(30)));
        cluster.clock.advance(20);
        assert_eq!(cluster.reconcile(&controller, "", "a").await.unwrap(), Requeue::after_seconds(Some(10)));
        cluster.clock.advance(10);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
    }

    #[tokio::test]
    async fn a_clock_that_is_set_gives_a_pod_no_more_time_and_no_less() {
        let cluster = Cluster::new();
        cluster.put(tainted(json!([{"key": "k", "effect": "NoExecute"}])));
        cluster.put(pod(30));
        let controller = TaintEviction::default();
        cluster.reconcile(&controller, "", "a").await.unwrap();
        for (jump, left) in [(3600, 25), (-7200, 20), (3600, 15)] {
            cluster.clock.advance(5);
            cluster.clock.set_by(jump);
            let requeue = cluster.reconcile(&controller, "", "a").await.unwrap();
            assert_eq!(requeue, Requeue::after_seconds(Some(left)));
        }
        cluster.clock.advance(15);
        cluster.reconcile(&controller, "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
    }

    #[tokio::test]
    async fn a_taint_that_goes_lets_the_pod_stay_and_its_time_begin_again() {
        let cluster = Cluster::new();
        let taint = json!([{"key": "k", "effect": "NoExecute"}]);
        cluster.put(tainted(taint.clone()));
        cluster.put(pod(30));
        let controller = TaintEviction::default();
        cluster.reconcile(&controller, "", "a").await.unwrap();
        cluster.clock.advance(20);
        cluster.put(tainted(json!([])));
        assert_eq!(cluster.reconcile(&controller, "", "a").await.unwrap(), Requeue::Never);
        cluster.clock.advance(20);
        cluster.put(tainted(taint));
        assert_eq!(cluster.reconcile(&controller, "", "a").await.unwrap(), Requeue::after_seconds(Some(30)));
        assert!(cluster.get(&res::PODS, "n", "p").is_some());
    }

    #[tokio::test]
    async fn who_does_not_tolerate_goes_at_once() {
        let cluster = Cluster::new();
        cluster.put(tainted(json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])));
        cluster.put(pod(30));
        cluster.reconcile(&TaintEviction::default(), "", "a").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "p").is_none());
        assert!(cluster.api.take_log()[0].ends_with("/pods/p/status"), "why it went was told before");
    }
}
