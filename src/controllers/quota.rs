//! ResourceQuotas: what a namespace uses. Admission adds what is made; this counts everything again, so that what is gone
//! is given back, and a new quota knows what is there.
//!
//! **Invariant:** nothing is counted again because something was made: admission charges before the object is there, and a
//! count in between would take the charge back, and let too many in.
//!
//! Rule: upstream `pkg/controller/resourcequota`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::meta::quantity::Quantity;
use crate::api::object::{Object, ObjectKey};
use crate::api::quota::{Others, in_scope, usage_of};
use crate::api::usage::{Amounts, add};
use crate::api::value::ValueExt;
use crate::client::{Res, res};
use crate::controllers::common::status as common;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Between two counts of everything, for what nothing tells of; upstream's `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
/// Kinds that count under names of their own, and whose changes are followed.
const FOLLOWED: &[&Res] = &[
    &res::PODS,
    &res::SERVICES,
    &res::PERSISTENT_VOLUME_CLAIMS,
    &res::CONFIG_MAPS,
    &res::SECRETS,
    &res::REPLICATION_CONTROLLERS,
    &res::DEPLOYMENTS,
    &res::REPLICA_SETS,
    &res::STATEFUL_SETS,
    &res::JOBS,
    &res::CRON_JOBS,
    &res::RESOURCE_CLAIMS,
];

/// What there is, as the listers have it.
struct Listed<'a>(&'a Cx);

impl Others for Listed<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.listers.lister(group, plural).get(namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.0.listers.lister(group, plural).list(Some(namespace))
    }
}

/// The controller.
pub struct Quotas;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Quotas)
}

/// The kinds that the keys of a quota are about.
pub fn kinds(hard: &Map<String, Value>) -> BTreeSet<(String, String)> {
    let kind = |group: &str, plural: &str| (group.to_owned(), plural.to_owned());
    let claims = || kind("resource.k8s.io", "resourceclaims");
    let of = |key: &String| match key.strip_prefix("count/") {
        Some(counted) => {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            vec![kind(group, plural)]
        }
        // Extended resources: pods ask for them by name, claims by the class of devices that stands for them.
        None if key.starts_with("requests.") && key.contains('/') => vec![kind("", "pods"), claims()],
        None if key.contains(".deviceclass.") => vec![claims()],
        None => {
            let plural = match key.as_str() {
                "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => key.as_str(),
                k if k.starts_with("services") => "services",
                k if k == "requests.storage"
                    || k.contains("persistentvolumeclaims")
                    || k.contains(".storageclass.") =>
                {
                    "persistentvolumeclaims"
                }
                _ => "pods",
            };
            vec![kind("", plural)]
        }
    };
    hard.keys().flat_map(of).collect()
}

/// What of `hard` is used.
pub fn used(
    quota: &Value,
    hard: &Map<String, Value>,
    objects: &BTreeMap<(String, String), Vec<Arc<Object>>>,
    now: Timestamp,
    others: &dyn Others,
) -> Value {
    let mut all = Amounts::new();
    for ((group, plural), objects) in objects {
        for object in objects {
            let value = object.value();
            if in_scope(group, plural, &value, quota) {
                add(&mut all, &usage_of(group, plural, &value, now, others));
            }
        }
    }
    let of = |key: &String| all.get(key).copied().unwrap_or(Quantity::units(0)).to_string();
    hard.keys().map(|key| (key.clone(), Value::from(of(key)))).collect::<Map<_, _>>().into()
}

/// A quota that is new, or whose bounds were changed.
fn uncounted(old: Option<&Object>, new: Option<&Object>, _: &Cx) -> Vec<ObjectKey> {
    let Some(new) = new else { return Vec::new() };
    let bounds = |quota: &Object| quota.value()["spec"].take();
    let same = old.is_some_and(|old| old.meta.uid == new.meta.uid && bounds(old) == bounds(new));
    if same { Vec::new() } else { vec![ObjectKey::from(&new.meta)] }
}

/// The quotas of the namespace of an object that uses less than before, or nothing any more.
fn given_back(old: Option<&Object>, new: Option<&Object>, cx: &Cx) -> Vec<ObjectKey> {
    let Some(old) = old else { return Vec::new() };
    let quotas = cx.lister(&res::RESOURCE_QUOTAS).list(Some(&old.meta.namespace));
    if quotas.is_empty() {
        return Vec::new();
    }
    let less = match (new, FOLLOWED.iter().find(|r| r.kind == *old.gvk.kind)) {
        (Some(new), Some(res)) => {
            let usage = |object: &Object| usage_of(&res.group, &res.plural, &object.value(), cx.now(), &Listed(cx));
            let (before, after) = (usage(old), usage(new));
            before.iter().any(|(key, amount)| after.get(key).is_none_or(|a| a < amount))
        }
        _ => true,
    };
    if less { quotas.iter().map(|q| ObjectKey::from(&q.meta)).collect() } else { Vec::new() }
}

#[async_trait]
impl Reconciler for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self) -> Watches {
        let own = Watches::own_changed(&res::RESOURCE_QUOTAS, uncounted);
        FOLLOWED.iter().fold(own, |all, res| all.changed(res, given_back))
    }

    fn resync(&self) -> Option<Duration> {
        Some(RESYNC)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::RESOURCE_QUOTAS, key) else { return Ok(Requeue::Never) };
        let quota = object.value();
        let Some(hard) = quota.get_at("/spec/hard").and_then(Value::as_object) else { return Ok(Requeue::Never) };
        let objects = kinds(hard)
            .into_iter()
            .map(|(group, plural)| {
                let all = cx.listers.lister(&group, &plural).list(Some(&key.namespace));
                ((group, plural), all)
            })
            .collect();
        let status = json!({"hard": hard, "used": used(&quota, hard, &objects, cx.clock.now(), &Listed(cx))});
        common::write(cx, &res::RESOURCE_QUOTAS, &object, status).await?;
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    #[tokio::test]
    async fn usage_is_counted_and_given_back() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"},
            "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/jobs.batch": "3", "services.nodeports": "1"}}}));
        for (name, phase) in [("a", "Running"), ("b", "Pending"), ("c", "Succeeded")] {
            cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "500m"}}}]}, "status": {"phase": phase}}));
        }
        cluster.put(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n"}}));
        let used = |c: &Cluster| c.get(&res::RESOURCE_QUOTAS, "n", "q").unwrap()["status"]["used"].clone();
        cluster.reconcile(&Quotas, "n", "q").await.unwrap();
        let want = json!({"pods": "2", "requests.cpu": "1", "count/jobs.batch": "1", "services.nodeports": "0"});
        assert_eq!(used(&cluster), want);
        cluster.client().delete(&res::PODS, "n", "a", &Default::default()).await.unwrap();
        cluster.reconcile(&Quotas, "n", "q").await.unwrap();
        assert_eq!(used(&cluster)["requests.cpu"], "500m");
    }

    #[test_case("pods", &["pods"])]
    #[test_case("requests.memory", &["pods"])]
    #[test_case("requests.storage", &["persistentvolumeclaims"])]
    #[test_case("gold.storageclass.storage.k8s.io/requests.storage", &["persistentvolumeclaims"])]
    #[test_case("gpu.deviceclass.resource.k8s.io/devices", &["resourceclaims"])]
    #[test_case("requests.deviceclass.resource.kubernetes.io/gpu", &["pods", "resourceclaims"]; "of a class")]
    #[test_case("requests.example.com/gpu", &["pods", "resourceclaims"]; "by a name")]
    #[test_case("count/jobs.batch", &["jobs"])]
    fn what_counts(key: &str, want: &[&str]) {
        let hard = json!({key: "1"});
        let got: Vec<String> = kinds(hard.as_object().unwrap()).into_iter().map(|(_, plural)| plural).collect();
        assert_eq!(got, want);
    }

    /// What admission has charged for a pod that is still to come stays charged.
    #[tokio::test]
    async fn only_what_gives_back_is_counted_again() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"}}));
        let pod = |namespace: &str, phase: &str| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace, "uid": "u"},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": phase}});
            Object::from_value(&pod, &[])
        };
        let (pending, running, ended) = (pod("n", "Pending"), pod("n", "Running"), pod("n", "Succeeded"));
        let counts = |old: Option<&Object>, new: Option<&Object>| !given_back(old, new, &cluster.cx()).is_empty();
        assert!(!counts(None, Some(&pending)), "it was made");
        assert!(!counts(Some(&pending), Some(&running)), "it uses what it did");
        assert!(counts(Some(&running), Some(&ended)));
        assert!(counts(Some(&running), None));
        assert!(!counts(Some(&pod("other", "Running")), None), "no quota there");
        let quota = |pods: &str, used: &str| {
            let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n", "uid": "u"},
                "spec": {"hard": {"pods": pods}}, "status": {"used": {"pods": used}}});
            Object::from_value(&quota, &[])
        };
        let looks = |old: Option<&Object>, new: &Object| !uncounted(old, Some(new), &cluster.cx()).is_empty();
        assert!(looks(None, &quota("2", "0")));
        assert!(!looks(Some(&quota("2", "0")), &quota("2", "1")), "a charge");
        assert!(looks(Some(&quota("2", "1")), &quota("3", "1")));
    }
}
