//! Pods go whose device got a taint of the effect `NoExecute` while they use it: at once, after the time that their claim
//! tolerates, or never.
//!
//! In: ResourceSlices, the ResourceClaims that have devices of them, the pods that these are reserved for. Out: pods that are
//! deleted, and say why. Keys are claims, and slices, which have no namespace: a slice with such a taint is noted, and the
//! claims on its pool are looked at.
//!
//! **Invariant:** a claim is looked at only while its pool is noted: without such taints it costs a look at an empty map.
//!
//! Rule: upstream `pkg/controller/devicetainteviction`, without DeviceTaintRules, which are off there too.

mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::pods::device_claims;
use crate::controllers::common::taints::{Farewell, NO_EXECUTE, evict};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use plan::Pool;

/// Reason of all events.
const EVENT: &str = "DeviceTaintManagerEviction";
/// What only a claim with devices has.
const ALLOCATED: &str = "allocation";

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(DeviceTaints::default())
}

#[derive(Default)]
struct DeviceTaints {
    /// Slices with such taints, by name, and their pools.
    tainted: Mutex<HashMap<String, Pool>>,
    /// By claim: the pods, by uid, that are to go later.
    noticed: Mutex<HashMap<ObjectKey, Vec<String>>>,
}

#[async_trait]
impl Reconciler for DeviceTaints {
    fn name(&self) -> &'static str {
        "device-taint-eviction-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own_that(&res::RESOURCE_CLAIMS, |claim| claim.mentions(ALLOCATED))
            .mapped(&res::RESOURCE_SLICES, |slice, _| match slice.mentions(NO_EXECUTE) {
                true => vec![ObjectKey::new("", &slice.meta.name)],
                false => Vec::new(),
            })
            .changed(&res::PODS, placed)
    }

    /// One: a claim is looked at for itself and for each slice of its pools.
    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        match key.namespace.is_empty() {
            true => self.slice(key, cx).await,
            false => self.claim(key, cx).await,
        }
    }
}

/// The claims of a pod that has just got its node: before that nobody uses the devices.
fn placed(old: Option<&Object>, new: Option<&Object>, cx: &Cx) -> Vec<ObjectKey> {
    let lister = cx.lister(&res::PODS);
    let has_node = |pod: &Object| !lister.field(pod, "spec.nodeName").is_empty();
    match new.filter(|new| has_node(new) && !old.is_some_and(has_node)) {
        Some(pod) => device_claims(pod),
        None => Vec::new(),
    }
}

impl DeviceTaints {
    /// Notes a slice, or forgets it, and looks at the claims on its pool.
    async fn slice(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let now = cx.get(&res::RESOURCE_SLICES, key).and_then(|slice| plan::tainted(&slice.value()));
        let before = {
            let mut tainted = self.tainted.lock();
            match now.clone() {
                Some(pool) => tainted.insert(key.name.clone(), pool),
                None => tainted.remove(&key.name),
            }
        };
        let pools: BTreeSet<Pool> = before.into_iter().chain(now).collect();
        let on = |claim: &&Arc<Object>| {
            claim.mentions(ALLOCATED)
                && pools.iter().any(|(driver, pool)| claim.mentions(driver) && claim.mentions(pool))
        };
        let claims = cx.lister(&res::RESOURCE_CLAIMS).list(None);
        let keys: Vec<ObjectKey> = claims.iter().filter(on).map(|claim| ObjectKey::from(&claim.meta)).collect();
        let mut next = Requeue::Never;
        for key in keys {
            next = next.sooner(self.claim(&key, cx).await?);
        }
        Ok(next)
    }

    async fn claim(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let noticed = self.noticed.lock().remove(key).unwrap_or_default();
        if noticed.is_empty() && self.tainted.lock().is_empty() {
            return Ok(Requeue::Never);
        }
        let Some(claim) = cx.get(&res::RESOURCE_CLAIMS, key).map(|c| c.value()) else { return Ok(Requeue::Never) };
        let (pods, now) = (users(&claim, key, cx), cx.now());
        match plan::when(&claim, &self.slices(&claim, cx)) {
            None => {
                for pod in pods.iter().filter(|p| noticed.contains(&p.meta.uid)) {
                    cx.events.normal(pod, EVENT, "Cancelling deletion");
                }
            }
            Some(at) if at > now => {
                if !pods.is_empty() {
                    self.noticed.lock().insert(key.clone(), pods.iter().map(|p| p.meta.uid.clone()).collect());
                }
                return Ok(Requeue::after_seconds(Some(at.as_second() - now.as_second())));
            }
            Some(_) => {
                let why = Farewell {
                    event: EVENT,
                    told: "Marking for deletion".into(),
                    reason: "DeletionByDeviceTaintManager",
                    message: "Device Taint manager: deleting due to NoExecute taint",
                };
                for pod in pods {
                    evict(cx, &pod, &pod.value(), &why).await?;
                }
            }
        }
        Ok(Requeue::Never)
    }

    /// The slices of those pools of a claim that are noted.
    fn slices(&self, claim: &Value, cx: &Cx) -> Vec<Value> {
        let pools: Vec<Pool> = {
            let tainted = self.tainted.lock();
            plan::pools(claim).filter(|pool| tainted.values().any(|t| t == pool)).collect()
        };
        if pools.is_empty() {
            return Vec::new();
        }
        let all = cx.lister(&res::RESOURCE_SLICES).list(None);
        let named = all.iter().filter(|s| pools.iter().any(|(driver, pool)| s.mentions(driver) && s.mentions(pool)));
        named.map(|s| s.value()).filter(|s| plan::pool_of(s).is_some_and(|p| pools.contains(&p))).collect()
    }
}

/// The pods that have a claim's devices: it is reserved for them, and they have a node.
fn users(claim: &Value, key: &ObjectKey, cx: &Cx) -> Vec<Arc<Object>> {
    let lister = cx.lister(&res::PODS);
    let found = claim.items_at("/status/reservedFor").iter().filter_map(|user| {
        let is_pod =
            user.str_at("/resource") == Some("pods") && user.str_at("/apiGroup").unwrap_or_default().is_empty();
        let pod = user.str_at("/name").filter(|_| is_pod).and_then(|name| lister.get(&key.namespace, name))?;
        (user.str_at("/uid") == Some(&pod.meta.uid)).then_some(pod)
    });
    let uses = |pod: &Arc<Object>| {
        let ended = matches!(pod.value().str_at("/status/phase"), Some("Succeeded" | "Failed"));
        !lister.field(pod, "spec.nodeName").is_empty()
            && !pod.is_deleting()
            && !ended
            && device_claims(pod).contains(key)
    };
    found.filter(uses).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use crate::util::clock::rfc3339;
    use serde_json::json;

    /// A pod with a claim on the device `a`, which it tolerates the loss of for so many seconds.
    fn cluster(seconds: Option<i64>, node: &str) -> Cluster {
        let cluster = Cluster::new();
        let mut tolerations = json!([]);
        if let Some(seconds) = seconds {
            tolerations = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        }
        cluster.put(pod(node));
        cluster.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c", "namespace": "n"},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
                "allocation": {"devices": {"results": [
                    {"driver": "d", "pool": "x", "device": "a", "tolerations": tolerations}]}}}}));
        cluster
    }

    fn pod(node: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"nodeName": node, "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}})
    }

    fn slice(cluster: &Cluster, tainted: bool) {
        let taint = json!({"key": "sick", "effect": "NoExecute", "timeAdded": rfc3339(cluster.cx().now())});
        let taints = if tainted { json!([taint]) } else { json!([]) };
        cluster.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"},
            "spec": {"driver": "d", "pool": {"name": "x", "generation": 1},
                "devices": [{"name": "a", "taints": taints}]}}));
    }

    fn there(cluster: &Cluster) -> bool {
        cluster.get(&res::PODS, "n", "p").is_some()
    }

    #[tokio::test]
    async fn a_pod_goes_when_its_claim_tolerates_no_more() {
        let (cluster, controller) = (cluster(Some(30), "a"), DeviceTaints::default());
        assert_eq!(cluster.reconcile(&controller, "n", "c").await.unwrap(), Requeue::Never);
        slice(&cluster, true);
        assert_eq!(cluster.reconcile(&controller, "", "s").await.unwrap(), Requeue::after_seconds(Some(30)));
        cluster.clock.advance(20);
        assert_eq!(cluster.reconcile(&controller, "n", "c").await.unwrap(), Requeue::after_seconds(Some(10)));
        cluster.clock.advance(10);
        cluster.api.take_log();
        cluster.reconcile(&controller, "", "s").await.unwrap();
        assert!(!there(&cluster));
        assert!(cluster.api.take_log()[0].ends_with("/pods/p/status"), "why it went was told before");
    }

    #[tokio::test]
    async fn a_taint_that_goes_lets_the_pod_stay() {
        let (cluster, controller) = (cluster(Some(30), "a"), DeviceTaints::default());
        slice(&cluster, true);
        cluster.reconcile(&controller, "", "s").await.unwrap();
        slice(&cluster, false);
        let (cx, writer) = cluster.cx_and_events();
        controller.reconcile(&ObjectKey::new("", "s"), &cx).await.unwrap();
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        assert_eq!(cluster.api.all(&res::EVENTS)[0]["message"], "Cancelling deletion");
        cluster.clock.advance(60);
        assert_eq!(cluster.reconcile(&controller, "n", "c").await.unwrap(), Requeue::Never);
        assert!(there(&cluster));
    }

    #[tokio::test]
    async fn a_pod_without_a_node_has_no_device_yet() {
        let (cluster, controller) = (cluster(None, ""), DeviceTaints::default());
        slice(&cluster, true);
        cluster.reconcile(&controller, "", "s").await.unwrap();
        assert!(there(&cluster));
        let pointers = cluster.listers.objects("", "pods").pointers();
        let object = |node: &str| Object::from_value(&pod(node), &pointers);
        let (before, after) = (object(""), object("a"));
        assert_eq!(placed(Some(&before), Some(&after), &cluster.cx()), [ObjectKey::new("n", "c")]);
        assert!(placed(Some(&after), Some(&after), &cluster.cx()).is_empty());
        cluster.put(pod("a"));
        cluster.reconcile(&controller, "n", "c").await.unwrap();
        assert!(!there(&cluster));
    }
}
