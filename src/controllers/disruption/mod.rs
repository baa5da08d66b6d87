//! PodDisruptionBudgets: how many of their pods may be evicted now. The eviction subresource takes from that number.
//!
//! Reads the budget, its pods and the scales of the pods' controllers; reports. [`stale`] takes back what was said of pods that
//! were to be evicted and are not.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::plan::Seen;
use crate::api::object::{Object, ObjectKey, OwnerRef};
use crate::api::status::Status;
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
        let spared = Condition::new("DisruptionTarget", "False", "", "");
        conditions::set_of_pod(&mut all, &spared, pod.meta.generation, &rfc3339(cx.now()));
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
            true => scale(cx, &all).await,
            false => Ok(0),
        };
        let (status, next, error) = match scale {
            Ok(scale) => {
                if plan::is_relative(&budget) && all.iter().any(|p| p.meta.controller().is_none()) {
                    cx.events.warning(&object, "UnmanagedPods", plan::unmanaged(&budget));
                }
                let seen = Seen { pods: pods::views(&all), scale };
                for left in plan::stale(&budget, &seen.pods, cx.now()) {
                    let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                    let pod = all.iter().find(|p| p.meta.name == left.name);
                    pod.iter().for_each(|pod| cx.events.warning(*pod, "NotDeleted", message.clone()));
                }
                let (status, next) = plan::status(&budget, &seen, cx.now());
                (status, next, None)
            }
            Err(unknown) => {
                let (why, error) = match unknown {
                    Unknown::Told(why) => (why, None),
                    Unknown::Failed(error) => (error.to_string(), Some(error)),
                };
                let message = format!("Failed to calculate the number of expected pods: {why}");
                cx.events.warning(&object, "CalculateExpectedPodCountFailed", message);
                (plan::failed(&budget, &why, cx.now()), None, error)
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

/// Why it is not known how many pods there should be.
enum Unknown {
    /// The pods' controllers do not say; to ask them again helps nobody.
    Told(String),
    /// They could not be asked this time.
    Failed(Error),
}

impl From<Box<Status>> for Unknown {
    fn from(status: Box<Status>) -> Self {
        Self::Failed(status.into())
    }
}

/// How many pods the controllers of these should have in all. Pods without a controller are nobody's to count.
async fn scale(cx: &Cx, all: &[Arc<Object>]) -> Result<i64, Unknown> {
    let mut kinds = Kinds::of(&cx.client);
    let (mut asked, mut scales) = (BTreeSet::new(), BTreeMap::new());
    for pod in all {
        let Some(owner) = pod.meta.controller().filter(|owner| asked.insert(owner.uid.as_str())) else { continue };
        let found = scale_of(cx, &mut kinds, &pod.meta.namespace, owner).await?;
        let none = || Unknown::Told(format!("found no controllers for pod {:?}", pod.meta.name));
        let (uid, replicas) = found.ok_or_else(none)?;
        scales.insert(uid, replicas);
    }
    Ok(scales.values().sum())
}

/// The uid and the scale of a controller; of a ReplicaSet's Deployment where it has one. None when it is not there, or another
/// one of its name is.
async fn scale_of(
    cx: &Cx,
    kinds: &mut Kinds<'_>,
    namespace: &str,
    owner: &OwnerRef,
) -> Result<Option<(String, i64)>, Unknown> {
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
            let (version, kind) = (&owner.api_version, &owner.kind);
            let Some(res) = kinds.find(version, kind).await? else {
                return Err(Unknown::Told(format!("no matches for kind {kind:?} in version {version:?}")));
            };
            let found = optional(cx.client.get_sub(&res, namespace, &owner.name, "scale").await)?;
            if found.is_none() && !kinds.has_scale(&res) {
                let qualified = if res.group.is_empty() { String::new() } else { format!(".{}", res.group) };
                return Err(Unknown::Told(format!(
                    "{}{qualified} does not implement the scale subresource",
                    res.plural
                )));
            }
            let same = found.filter(|found| found.str_at("/metadata/uid") == Some(&owner.uid));
            Ok(same.map(|found| (owner.uid.clone(), found.int_at("/spec/replicas").unwrap_or(0))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

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

    /// Nothing may be evicted, and nobody is asked again for what will not change by itself.
    #[test_case("DaemonSet", "daemonsets.apps does not implement the scale subresource"; "it has no scale")]
    #[test_case("ReplicaSet", "found no controllers for pod \"p\""; "it is not there")]
    #[test_case("Deployment", "found no controllers for pod \"p\""; "another one of its name is")]
    #[test_case("Thing", "no matches for kind \"Thing\" in version \"apps/v1\""; "nobody knows its kind")]
    #[tokio::test]
    async fn what_cannot_be_counted_may_not_be_evicted(kind: &str, want: &str) {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "n", "uid": "other"}, "spec": {"replicas": 4}}));
        let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true}]);
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "ownerReferences": owner}}));
        cluster.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "n", "generation": 3},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}, "status": {"observedGeneration": 2, "disruptionsAllowed": 1}}));
        assert_eq!(cluster.reconcile(&Disruption, "n", "b").await.unwrap(), Requeue::Never);
        let status = cluster.get(&res::POD_DISRUPTION_BUDGETS, "n", "b").unwrap()["status"].clone();
        assert_eq!((&status["disruptionsAllowed"], &status["observedGeneration"]), (&json!(0), &json!(2)));
        let condition = &status["conditions"][0];
        assert_eq!((&condition["reason"], &condition["message"]), (&json!("SyncFailed"), &json!(want)));
        assert_eq!(condition["observedGeneration"], 2);
    }

    #[tokio::test]
    async fn who_was_not_evicted_after_all_is_no_target_any_more() {
        let cluster = Cluster::new();
        let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        cluster.put(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "generation": 2},
            "status": {"phase": "Running", "conditions": [target]}}),
        );
        let condition = |c: &Cluster| c.get(&res::PODS, "n", "p").unwrap()["status"]["conditions"][0].clone();
        assert_eq!(cluster.reconcile(&Stale, "n", "p").await.unwrap(), Requeue::after_seconds(Some(120)));
        assert_eq!(condition(&cluster)["status"], "True");
        cluster.clock.advance(120);
        assert_eq!(cluster.reconcile(&Stale, "n", "p").await.unwrap(), Requeue::Never);
        assert_eq!(condition(&cluster)["status"], "False");
        assert_eq!(condition(&cluster)["lastTransitionTime"], "2026-01-01T00:02:00Z");
        assert_eq!(condition(&cluster)["observedGeneration"], 2);
        cluster.api.take_log();
        cluster.reconcile(&Stale, "n", "p").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }
}
