//! PodDisruptionBudgets: how many of their pods may be evicted now. The eviction subresource takes from that number.
//!
//! Reads the budget, its pods and the scales of the pods' controllers; reports. [`stale`] takes back what was said of pods that
//! were to be evicted and are not.

pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::plan::Seen;
use crate::api::object::{Object, ObjectKey, OwnerRef};
use crate::api::value::ValueExt;
use crate::client::{Res, optional, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::discovery::Kinds;
use crate::controllers::common::{claim, pods, status as common};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;

/// Kinds whose scale is `spec.replicas`, known without asking.
const SCALED: &[&Res] = &[&res::DEPLOYMENTS, &res::REPLICA_SETS, &res::STATEFUL_SETS, &res::REPLICATION_CONTROLLERS];

/// The controller.
pub struct Disruption;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Disruption)
}

/// Pods that were to be evicted, for the list of controllers.
pub fn stale() -> Box<dyn Reconciler> {
    Box::new(Stale)
}

struct Stale;

#[async_trait]
impl Reconciler for Stale {
    fn name(&self) -> &'static str {
        "disruption-target-cleaner"
    }

    fn watches(&self) -> Watches {
        // Most pods are nobody's target; the condition's name in the bytes tells without decoding them.
        Watches::own_changed(&res::PODS, |_, new, _| {
            let target = new.filter(|pod| !pod.is_deleting() && pod.mentions("DisruptionTarget"));
            target.map(|pod| ObjectKey::from(&pod.meta)).into_iter().collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(pod) = cx.get(&res::PODS, key) else { return Ok(Requeue::Never) };
        let value = pod.value();
        match plan::spared_in(&value, cx.now()) {
            None => return Ok(Requeue::Never),
            Some(wait) if wait > 0 => return Ok(Requeue::after_seconds(Some(wait))),
            Some(_) => {}
        }
        let mut all = value.items_at("/status/conditions").to_vec();
        conditions::set(&mut all, &Condition::new("DisruptionTarget", "False", "", ""), &rfc3339(cx.now()));
        cx.change(&res::PODS, &pod, Some("status"), &json!({"status": {"conditions": all}})).await?;
        Ok(Requeue::Never)
    }
}

#[async_trait]
impl Reconciler for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::POD_DISRUPTION_BUDGETS).mapped(&res::PODS, |pod, cx| {
            let all = cx.lister(&res::POD_DISRUPTION_BUDGETS).list(Some(&pod.meta.namespace));
            let selects = |b: &Arc<Object>| selects(&b.only(&["spec", "selector"]), pod);
            let those: Vec<ObjectKey> = all.into_iter().filter(selects).map(|b| ObjectKey::from(&b.meta)).collect();
            if let [first, _, ..] = &those[..] {
                let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
                let message = format!(
                    "Pod {ns:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
                    first.name
                );
                cx.events.warning(pod, "MultiplePodDisruptionBudgets", message);
            }
            those
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::POD_DISRUPTION_BUDGETS, key) else { return Ok(Requeue::Never) };
        let budget = object.value();
        let mut all = cx.lister(&res::PODS).list(Some(&key.namespace));
        all.retain(|p| selects(&budget, p));
        if all.is_empty() {
            cx.events.normal(&object, "NoPods", "No matching pods found");
        }
        let scale = match plan::is_relative(&budget) {
            true => scale(cx, &object, &budget, &all).await,
            false => Ok(0),
        };
        let (status, next, error) = match scale {
            Ok(scale) => {
                let seen = Seen { pods: pods::views(&all), scale };
                for left in plan::stale(&budget, &seen.pods, cx.now()) {
                    let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                    let pod = all.iter().find(|p| p.meta.name == left.name);
                    pod.iter().for_each(|pod| cx.events.warning(*pod, "NotDeleted", message.clone()));
                }
                let (status, next) = plan::status(&budget, &seen, cx.now());
                (status, next, None)
            }
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                cx.events.warning(&object, "CalculateExpectedPodCountFailed", message);
                (plan::failed(&budget, &error.to_string(), cx.now()), None, Some(error))
            }
        };
        if budget.get("status") != Some(&status) {
            common::write(cx, &res::POD_DISRUPTION_BUDGETS, &object, status).await?;
        }
        error.map_or(Ok(Requeue::after_seconds(next)), Err)
    }
}

/// No selector selects nothing; an empty one everything.
fn selects(budget: &Value, pod: &Object) -> bool {
    budget.get_at("/spec/selector").is_some()
        && claim::label_selector(budget).is_ok_and(|s| s.matches(|k| pod.meta.label(k)))
}

/// How many pods the controllers of these should have in all. Pods without a controller are nobody's to count, which somebody
/// should know.
async fn scale(cx: &Cx, budget: &Arc<Object>, value: &Value, all: &[Arc<Object>]) -> Result<i64, Error> {
    if all.iter().any(|p| p.meta.controller().is_none()) {
        let selector = claim::label_selector(value).map(|s| s.to_string()).unwrap_or_default();
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status \
             of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
             set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        cx.events.warning(budget, "UnmanagedPods", message);
    }
    let mut controllers: BTreeMap<&str, (&str, &OwnerRef)> = BTreeMap::new();
    for pod in all {
        if let Some(owner) = pod.meta.controller() {
            controllers.insert(&owner.uid, (&pod.meta.namespace, owner));
        }
    }
    let mut kinds = Kinds::of(&cx.client);
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    for (namespace, owner) in controllers.into_values() {
        if let Some((uid, replicas)) = scale_of(cx, &mut kinds, namespace, owner).await? {
            scales.insert(uid, replicas);
        }
    }
    Ok(scales.values().sum())
}

/// The uid and the scale of a controller; of a ReplicaSet's Deployment where it has one.
async fn scale_of(
    cx: &Cx,
    kinds: &mut Kinds<'_>,
    namespace: &str,
    owner: &OwnerRef,
) -> Result<Option<(String, i64)>, Error> {
    let known = |o: &OwnerRef| {
        let res = SCALED.iter().find(|r| r.kind == *o.kind && r.api_version() == o.api_version)?;
        Some(cx.lister(res).get(namespace, &o.name).filter(|found| found.meta.uid == o.uid))
    };
    let scale = |o: &Object| (o.meta.uid.clone(), o.value().int_at("/spec/replicas").unwrap_or(1));
    match known(owner) {
        Some(None) => Ok(None),
        Some(Some(object)) => {
            let above = object.meta.controller().and_then(known).flatten();
            Ok(Some(scale(above.as_deref().unwrap_or(&object))))
        }
        None => {
            let Some(res) = kinds.find(&owner.api_version, &owner.kind).await? else {
                return Err(no_scale(owner));
            };
            let found = optional(cx.client.get_sub(&res, namespace, &owner.name, "scale").await)?;
            let found = found.ok_or_else(|| no_scale(owner))?;
            Ok(Some((owner.uid.clone(), found.int_at("/spec/replicas").unwrap_or(0))))
        }
    }
}

fn no_scale(owner: &OwnerRef) -> Error {
    let what = format!("{} {}", owner.kind, owner.name);
    Error::Object { what, reason: "it does not implement the scale subresource".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn a_budget_follows_its_pods_and_their_scale() {
        let cluster = Cluster::new();
        let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": true}]);
        cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n", "uid": "uid-d"}, "spec": {"replicas": 4}}));
        cluster.put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "r", "namespace": "n", "uid": "uid-r", "ownerReferences": owner("Deployment", "d")}, "spec": {"replicas": 2}}));
        for i in 0..3 {
            cluster.put(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("p{i}"), "namespace": "n", "labels": {"a": "b"}, "ownerReferences": owner("ReplicaSet", "r")},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        cluster.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "n", "generation": 1},
            "spec": {"maxUnavailable": "50%", "selector": {"matchLabels": {"a": "b"}}}}));
        cluster.reconcile(&Disruption, "n", "b").await.unwrap();
        let status = cluster.get(&res::POD_DISRUPTION_BUDGETS, "n", "b").unwrap()["status"].clone();
        assert_eq!((status["expectedPods"].clone(), status["disruptionsAllowed"].clone()), (json!(4), json!(1)));
        cluster.api.take_log();
        cluster.reconcile(&Disruption, "n", "b").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }

    /// Of controllers that have no scale, as DaemonSets, a plain number may be asked for.
    #[tokio::test]
    async fn a_number_needs_no_scale() {
        let cluster = Cluster::new();
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "ownerReferences": owner},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        cluster.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "n", "generation": 1},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}));
        cluster.reconcile(&Disruption, "n", "b").await.unwrap();
        let status = cluster.get(&res::POD_DISRUPTION_BUDGETS, "n", "b").unwrap()["status"].clone();
        assert_eq!((status["expectedPods"].clone(), status["currentHealthy"].clone()), (json!(1), json!(1)));
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    }

    #[tokio::test]
    async fn who_was_not_evicted_after_all_is_no_target_any_more() {
        let cluster = Cluster::new();
        let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "status": {"phase": "Running", "conditions": [target]}}));
        let condition = |c: &Cluster| c.get(&res::PODS, "n", "p").unwrap()["status"]["conditions"][0].clone();
        assert_eq!(cluster.reconcile(&Stale, "n", "p").await.unwrap(), Requeue::after_seconds(Some(120)));
        assert_eq!(condition(&cluster)["status"], "True");
        cluster.clock.advance(120);
        assert_eq!(cluster.reconcile(&Stale, "n", "p").await.unwrap(), Requeue::Never);
        assert_eq!(condition(&cluster)["status"], "False");
        assert_eq!(condition(&cluster)["lastTransitionTime"], "2026-01-01T00:02:00Z");
        cluster.api.take_log();
        cluster.reconcile(&Stale, "n", "p").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }
}
