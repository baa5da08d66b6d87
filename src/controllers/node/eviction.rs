//! Pods that a node's `NoExecute` taints send away: at once, after the time that they tolerate, or never.
//!
//! Rule: upstream `pkg/controller/tainteviction`. Upstream begins to count anew when its process starts; here the taint's own
//! time counts where it has one, so that a restart delays nothing.
//!
//! **Invariant:** a pod that waits for its end goes when it was said it would; a taint that comes or goes meanwhile neither
//! hastens nor delays it, unless the pod does not tolerate it at all, or no taint is left that ends it.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::plan;
use crate::api::object::ObjectKey;
use crate::client::res;
use crate::controllers::common::taints::{Farewell, evict};
use crate::runtime::events::Regarding;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(TaintEviction::default())
}

/// The pods of tainted nodes that are on notice: by node, then by uid.
#[derive(Default)]
struct TaintEviction {
    notices: Mutex<HashMap<String, HashMap<String, Notice>>>,
}

/// A pod that has to go.
#[derive(Debug, Clone)]
struct Notice {
    /// The tick at which it does.
    at: i64,
    pod: Regarding,
}

impl Notice {
    /// Says that it stays after all, or is gone before its time.
    fn cancel(&self, cx: &Cx) {
        if self.at > cx.clock.ticks() {
            tell(cx, &self.pod, "Cancelling deletion of");
        }
    }
}

fn tell(cx: &Cx, pod: &Regarding, what: &str) {
    cx.events.normal(pod.clone(), "TaintManagerEviction", format!("{what} Pod {}/{}", pod.namespace, pod.name));
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
        let mut noticed = self.notices.lock().remove(&key.name).unwrap_or_default();
        if taints.is_empty() && noticed.is_empty() {
            return Ok(Requeue::Never);
        }
        let now = cx.now();
        let (mut notices, mut next) = (HashMap::new(), None);
        let mut leaving = Vec::new();
        for pod in cx.lister(&res::PODS).by_index("spec.nodeName", &key.name) {
            let notice = noticed.remove(&pod.meta.uid);
            if pod.is_deleting() && notice.is_none() {
                continue;
            }
            let value = pod.value();
            let waiting = notice.as_ref().and_then(|n| time_of(n.at, cx));
            let leave = plan::leave(&value, &taints, waiting, now);
            if let plan::Leave::At(at) = leave {
                let new = Notice { at: tick_of(at, cx), pod: Regarding::from(&pod) };
                notices.insert(pod.meta.uid.clone(), new);
            }
            match leave {
                plan::Leave::At(at) if at > now => {
                    let left = at.as_second() - now.as_second();
                    next = Some(next.map_or(left, |n: i64| n.min(left)));
                }
                plan::Leave::At(_) if pod.is_deleting() => {}
                other => {
                    notice.iter().for_each(|n| n.cancel(cx));
                    if other != plan::Leave::Never {
                        leaving.push((pod, value));
                    }
                }
            }
        }
        noticed.values().for_each(|gone| gone.cancel(cx));
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
    use crate::api::value::ValueExt;
    use crate::client::{DeleteOptions, Patch};
    use crate::runtime::fake::Cluster;
    use serde_json::json;
    use test_case::test_case;

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

    fn taints(keys: &[&str]) -> Value {
        keys.iter().map(|k| json!({"key": k, "effect": "NoExecute"})).collect()
    }

    /// Seconds and the taints from then on; when the pod goes. It tolerates a for 300 seconds, b for 10, c never, d for ever.
    #[test_case(&[(0, &["a"]), (5, &["a", "b"])], 300; "a shorter time that comes later changes nothing")]
    #[test_case(&[(0, &["a", "b"]), (5, &["a"])], 10; "nor does it when it goes")]
    #[test_case(&[(0, &["b"]), (5, &["a"])], 10; "or is replaced")]
    #[test_case(&[(0, &["a"]), (5, &["a", "c"])], 5; "one that is not tolerated does")]
    #[test_case(&[(0, &["b"]), (5, &["d"]), (7, &["a"])], 307; "and one that is for ever")]
    #[test_case(&[(0, &["b"]), (5, &[]), (7, &["b"])], 17; "and none")]
    #[tokio::test]
    async fn the_first_time_that_was_said_stands(changes: &[(i64, &[&str])], want: i64) {
        let cluster = Cluster::new();
        let tolerates =
            |key: &str, seconds: i64| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let mut pod = pod(0);
        pod["spec"]["tolerations"] =
            json!([tolerates("a", 300), tolerates("b", 10), {"key": "d", "operator": "Exists"}]);
        cluster.put(pod);
        let controller = TaintEviction::default();
        let mut second = 0;
        for (at, keys) in changes {
            cluster.clock.advance(at - second);
            second = *at;
            cluster.put(tainted(taints(keys)));
            cluster.reconcile(&controller, "", "a").await.unwrap();
        }
        while cluster.get(&res::PODS, "n", "p").is_some() && second <= 400 {
            cluster.clock.advance(1);
            second += 1;
            cluster.reconcile(&controller, "", "a").await.unwrap();
        }
        assert_eq!(second, want);
    }

    /// People are told when a pod that waits is not deleted after all, or not at the time that was said.
    #[test_case(&["b", "c"], false; "a taint that it does not tolerate")]
    #[test_case(&["b"], true; "it goes by itself")]
    #[test_case(&[], false; "the taint goes")]
    #[tokio::test]
    async fn a_deletion_is_cancelled(keys: &[&str], gone: bool) {
        let cluster = Cluster::new();
        let mut pod = pod(10);
        pod["spec"]["tolerations"][0]["key"] = "b".into();
        pod["metadata"]["generation"] = 4.into();
        pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
        cluster.put(pod);
        cluster.put(tainted(taints(&["b"])));
        let controller = TaintEviction::default();
        let (cx, writer) = cluster.cx_and_events();
        let key = ObjectKey::new("", "a");
        controller.reconcile(&key, &cx).await.unwrap();
        cluster.clock.advance(1);
        cluster.put(tainted(taints(keys)));
        if gone {
            cluster.client().delete(&res::PODS, "n", "p", &DeleteOptions::default()).await.unwrap();
            controller.reconcile(&key, &cx).await.unwrap();
            let free = json!({"metadata": {"finalizers": null}});
            cluster.client().patch(&res::PODS, "n", "p", None, Patch::Merge(&free)).await.unwrap();
        }
        controller.reconcile(&key, &cx).await.unwrap();
        if keys.len() > 1 {
            let condition = cluster.get(&res::PODS, "n", "p").unwrap()["status"]["conditions"][0].clone();
            assert_eq!(condition.int_at("/observedGeneration"), Some(4));
        }
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let events = cluster.api.all(&res::EVENTS);
        assert_eq!(events[0].str_at("/message"), Some("Cancelling deletion of Pod n/p"));
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
