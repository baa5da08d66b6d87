//! ReplicaSets and ReplicationControllers: so many pods of one template. Two kinds, one row each.
//!
//! Reads the owner and its pods, plans, acts: creates in growing batches, deletes at once, reports the status.
//! **Invariant:** a pod is deleted by uid, never by name alone.

pub mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use self::plan::{Beside, Failure, Wanted};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Status;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Res, res};
use crate::controllers::common::claim::Rule;
use crate::controllers::common::pods::{self, PodView};
use crate::controllers::common::{batch, claim, status};
use crate::runtime::reconciler::MapFn;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// What differs between the two kinds.
struct Row {
    name: &'static str,
    res: &'static Res,
    selector: fn(&Value) -> Result<Selector, Error>,
    orphans: MapFn,
    /// Others with the same controller count as related, and pods that are going are reported. Upstream looks at
    /// ReplicationControllers through the eyes of ReplicaSets, which see neither.
    is_set: bool,
}

static REPLICA_SET: Row = Row {
    name: "replicaset-controller",
    res: &res::REPLICA_SETS,
    selector: claim::label_selector,
    orphans: |pod, cx| owners_of_orphan(&REPLICA_SET, pod, cx),
    is_set: true,
};

static REPLICATION_CONTROLLER: Row = Row {
    name: "replication-controller",
    res: &res::REPLICATION_CONTROLLERS,
    selector: |owner| Ok(Selector::from_map(&owner["spec"]["selector"])),
    orphans: |pod, cx| owners_of_orphan(&REPLICATION_CONTROLLER, pod, cx),
    is_set: false,
};

/// Owners that could adopt a pod that has none.
fn owners_of_orphan(row: &Row, pod: &Object, cx: &Cx) -> Vec<ObjectKey> {
    if pod.meta.controller().is_some() {
        return Vec::new();
    }
    let all = cx.lister(row.res).list(Some(&pod.meta.namespace));
    let selects = |owner: &Arc<Object>| {
        let selector = (row.selector)(&owner.only(&["spec", "selector"]));
        selector.is_ok_and(|s| !s.is_empty() && s.matches(|k| pod.meta.label(k)))
    };
    all.into_iter().filter(selects).map(|o| ObjectKey::from(&o.meta)).collect()
}

/// The controller of one of the two kinds.
pub struct Replicas(&'static Row);

impl Replicas {
    /// ReplicaSets.
    pub fn of_sets() -> Box<dyn Reconciler> {
        Box::new(Self(&REPLICA_SET))
    }

    /// ReplicationControllers.
    pub fn of_controllers() -> Box<dyn Reconciler> {
        Box::new(Self(&REPLICATION_CONTROLLER))
    }
}

#[async_trait]
impl Reconciler for Replicas {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn watches(&self) -> Watches {
        Watches::own(self.0.res).owned(&res::PODS).mapped(&res::PODS, self.0.orphans)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(owner) = cx.get(self.0.res, key) else { return Ok(Requeue::Never) };
        let value = owner.value();
        let selector = (self.0.selector)(&value)?;
        // What has ended or is going is neither adopted nor let go. Rule: upstream's `FilterActivePods` before `claimPods`.
        let rule = Rule::of(&selector).among(pods::is_active);
        let pods = claim::claim_by(cx, self.0.res, &owner, &res::PODS, rule).await?;
        let wanted = Wanted::new(&owner, &value);
        let mut views = pods::views(&pods);
        if self.0.is_set && views.len() as i64 > wanted.replicas {
            count_crowds(cx, self.0.res, &owner, &mut views);
        }
        let now = cx.now();
        let outcome = self.act(cx, &owner, &value, &plan::plan(&wanted, &views, now), &pods).await;
        self.report(cx, &owner, &value, &selector, &wanted, outcome.as_ref().err(), now).await?;
        if let Err((_, error)) = outcome {
            return Err(error);
        }
        Ok(Requeue::after_seconds(plan::next_available(&wanted, &views, now)))
    }
}

impl Replicas {
    async fn act(
        &self,
        cx: &Cx,
        owner: &Arc<Object>,
        value: &Value,
        plan: &plan::Plan,
        pods: &[Arc<Object>],
    ) -> Result<(), (Failure, Error)> {
        let reference = claim::owner_reference(self.0.res, owner);
        let template = &value["spec"]["template"];
        let (_, error) = batch::slow_start(plan.create, |_| {
            create_pod(cx, owner, pods::from_template(template, &owner.meta.name, reference.clone()))
        })
        .await;
        match error {
            // There is nothing to be done and nothing to be told: what is there goes with its namespace.
            Some(error) if error.has_cause("NamespaceTerminating") => return Ok(()),
            Some(error) => return Err((Failure::Create(error.message.clone()), error.into())),
            None => {}
        }
        let mut deletions = Vec::with_capacity(plan.delete.len());
        for pod in pods {
            if plan.delete.contains(&pod.meta.name) {
                deletions.push(delete_pod(cx, owner, pod));
            }
        }
        let (_, error) = batch::all(deletions).await;
        match error {
            Some(error) => Err((Failure::Delete(error.message.clone()), error.into())),
            None => Ok(()),
        }
    }

    /// Counts again, after the deed: the listers know of it already.
    #[allow(clippy::too_many_arguments)] // one pass's knowledge
    async fn report(
        &self,
        cx: &Cx,
        owner: &Arc<Object>,
        value: &Value,
        selector: &Selector,
        wanted: &Wanted,
        failed: Option<&(Failure, Error)>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let pods = cx.lister(&res::PODS).by_index("owner", &owner.meta.uid);
        let views = pods::views(&pods);
        let labels = Selector::from_map(&value["spec"]["template"]["metadata"]["labels"]);
        let count = |holds: fn(&PodView) -> bool, labels: &Selector| {
            pods.iter().zip(&views).filter(|(p, v)| holds(v) && labels.matches(|k| p.meta.label(k))).count()
        };
        let beside = Beside {
            labelled: count(PodView::is_active, &labels),
            terminating: self.0.is_set.then(|| count(PodView::is_terminating, selector)),
        };
        let new = plan::status(value.get("status"), wanted, &views, &beside, failed.map(|(f, _)| f), now);
        let Some(fresh) = cx.get(self.0.res, &ObjectKey::from(&owner.meta)) else { return Ok(()) };
        status::write(cx, self.0.res, &fresh, new).await.map(drop)
    }
}

/// For each pod, how many pods of owners with the same controller are on its node; nothing is counted without a controller.
/// Rule: upstream `getIndirectlyRelatedPods`.
fn count_crowds(cx: &Cx, res: &Res, owner: &Object, views: &mut [PodView]) {
    let Some(controller) = owner.meta.controller() else { return };
    let pods = cx.lister(&res::PODS);
    let related = cx.lister(res).by_index("owner", &controller.uid);
    let all: Vec<PodView> = related.iter().flat_map(|o| pods::views(&pods.by_index("owner", &o.meta.uid))).collect();
    for view in views {
        view.crowd = all.iter().filter(|p| p.is_active() && p.node == view.node).count();
    }
}

/// Creates a pod for `owner` and tells people.
pub async fn create_pod(cx: &Cx, owner: &Arc<Object>, pod: Value) -> Result<Value, Box<Status>> {
    match cx.client.create(&res::PODS, &owner.meta.namespace, &pod).await {
        Ok(made) => {
            let name = made.str_at("/metadata/name").unwrap_or_default();
            cx.events.normal(owner, "SuccessfulCreate", format!("Created pod: {name}"));
            Ok(made)
        }
        Err(error) => {
            // A namespace on its way out refuses everything; there is nothing to tell.
            if !error.has_cause("NamespaceTerminating") {
                cx.events.warning(owner, "FailedCreate", format!("Error creating: {error}"));
            }
            Err(error)
        }
    }
}

/// Deletes a pod of `owner` and tells people. One that is gone already is as good.
pub async fn delete_pod(cx: &Cx, owner: &Arc<Object>, pod: &Arc<Object>) -> Result<(), Box<Status>> {
    let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
    match crate::client::optional(cx.client.delete(&res::PODS, ns, name, &DeleteOptions::of_uid(&pod.meta.uid)).await) {
        Ok(Some(_)) => {
            cx.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => {
            cx.events.warning(owner, "FailedDelete", format!("Error deleting: {error}"));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::json;
    use test_case::test_case;

    fn set(replicas: i64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "n", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}})
    }

    #[tokio::test]
    async fn pods_appear_are_adopted_and_go() {
        let cluster = Cluster::new();
        cluster.put(set(3));
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "orphan", "namespace": "n", "labels": {"app": "web"}}}));
        let controller = Replicas::of_sets();
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        assert_eq!(cluster.api.all(&res::PODS).len(), 3, "two new ones and the orphan");
        let orphan = cluster.get(&res::PODS, "n", "orphan").unwrap();
        assert_eq!(orphan.str_at("/metadata/ownerReferences/0/uid"), Some("uid-web"));
        let stored = cluster.get(&res::REPLICA_SETS, "n", "web").unwrap();
        let want = json!({"replicas": 3, "fullyLabeledReplicas": 3, "terminatingReplicas": 0, "observedGeneration": 1});
        assert_eq!(stored["status"], want);
        // Nothing to do: nothing is written.
        cluster.api.take_log();
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
        let mut smaller = stored;
        smaller["spec"]["replicas"] = 1.into();
        cluster.put(smaller);
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        assert_eq!(cluster.api.all(&res::PODS).len(), 1);
    }

    #[tokio::test]
    async fn a_pod_that_no_longer_matches_is_let_go() {
        let cluster = Cluster::new();
        cluster.put(set(1));
        let controller = Replicas::of_sets();
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        let mut pod = cluster.api.all(&res::PODS).remove(0);
        pod["metadata"]["labels"] = json!({"app": "debug"});
        let pod = cluster.put(pod);
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        let released = cluster.get(&res::PODS, "n", pod.str_at("/metadata/name").unwrap()).unwrap();
        assert!(released.items_at("/metadata/ownerReferences").is_empty());
        assert_eq!(cluster.api.all(&res::PODS).len(), 2);
    }

    fn pod(name: &str, app: &str, owner: Option<&str>, status: Value) -> Value {
        let owners = owner.map_or(json!([]), |uid| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
            "uid": uid, "controller": true}])
        });
        json!({"apiVersion": "v1", "kind": "Pod", "status": status, "metadata": {"name": name, "namespace": "n",
            "labels": {"app": app}, "ownerReferences": owners}})
    }

    #[tokio::test]
    async fn what_has_ended_or_is_going_stays_whose_it_is() {
        let cluster = Cluster::new();
        cluster.put(set(0));
        let mut going = pod("going", "other", Some("uid-web"), json!({"phase": "Running"}));
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        cluster.put(going);
        cluster.put(pod("ended", "other", Some("uid-web"), json!({"phase": "Failed"})));
        cluster.put(pod("orphan", "web", None, json!({"phase": "Succeeded"})));
        let before = cluster.api.all(&res::PODS);
        cluster.reconcile(&*Replicas::of_sets(), "n", "web").await.unwrap();
        assert_eq!(cluster.api.all(&res::PODS), before);
    }

    #[tokio::test]
    async fn pods_on_their_way_out_are_told_of() {
        let cluster = Cluster::new();
        cluster.put(set(0));
        for (name, app, phase) in [("a", "web", "Running"), ("b", "web", "Failed"), ("c", "other", "Running")] {
            let mut pod = pod(name, app, Some("uid-web"), json!({"phase": phase}));
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            cluster.put(pod);
        }
        cluster.reconcile(&*Replicas::of_sets(), "n", "web").await.unwrap();
        let status = cluster.get(&res::REPLICA_SETS, "n", "web").unwrap()["status"].clone();
        assert_eq!(status, json!({"replicas": 0, "terminatingReplicas": 1, "observedGeneration": 1}));
    }

    /// Two share a node; they count as a crowd only where a Deployment stands above.
    #[test_case(None, 3; "alone the younger one goes")]
    #[test_case(Some("uid-d"), 2; "one of two on a node goes")]
    #[tokio::test]
    async fn crowds_are_counted_below_a_controller(controller: Option<&str>, goes: usize) {
        let cluster = Cluster::new();
        let mut owner = set(2);
        owner["metadata"]["ownerReferences"] = controller
            .map_or(json!([]), |uid| json!([{"kind": "Deployment", "name": "d", "uid": uid, "controller": true}]));
        cluster.put(owner);
        // The older two share a node.
        for (n, node, since) in
            [(1, "a", "2025-01-01T00:00:00Z"), (2, "a", "2025-12-01T00:00:00Z"), (3, "b", "2025-12-31T23:00:00Z")]
        {
            let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            let mut pod =
                pod(&format!("p{n}"), "web", Some("uid-web"), json!({"phase": "Running", "conditions": ready}));
            pod["spec"] = json!({"nodeName": node});
            cluster.put(pod);
        }
        cluster.reconcile(&*Replicas::of_sets(), "n", "web").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", &format!("p{goes}")).is_none());
    }

    #[tokio::test]
    async fn a_namespace_that_goes_is_no_failure() {
        let cluster = Cluster::new();
        cluster.put(set(5));
        let causes = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        cluster
            .api
            .refuse("POST /api/v1/namespaces/n/pods", Status::forbidden("", "pods", "", "no").with_details(causes));
        cluster.api.take_log();
        let (outcome, told) = cluster.reconcile_and_hear(&*Replicas::of_sets(), "n", "web").await;
        assert_eq!((outcome.unwrap(), told), (Requeue::Never, Vec::<String>::new()));
        let tried = cluster.api.take_log().iter().filter(|r| r.ends_with("/pods")).count();
        let status = cluster.get(&res::REPLICA_SETS, "n", "web").unwrap()["status"].clone();
        assert_eq!((tried, status.get("conditions")), (1, None));
    }

    #[tokio::test]
    async fn replication_controllers_go_the_same_way() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": "n"},
            "spec": {"replicas": 2, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}}));
        cluster
            .until(
                |cx, stop| async move { crate::runtime::reconciler::run(&*Replicas::of_controllers(), cx, stop).await },
                |c| c.api.all(&res::PODS).len() == 2,
            )
            .await;
        let status = cluster.get(&res::REPLICATION_CONTROLLERS, "n", "old").unwrap()["status"].clone();
        assert!(status.get("terminatingReplicas").is_none(), "it has no such field");
    }
}
