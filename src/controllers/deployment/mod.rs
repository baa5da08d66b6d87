//! Deployments: one ReplicaSet per template, rolled from one to the next.
//!
//! Reads the Deployment, its ReplicaSets and their pods; plans one step; acts; reports. The changes of the ReplicaSets
//! bring the next step.
//! **Invariant:** a template has one ReplicaSet; its name is made of the template, so two creators cannot make two.

pub mod model;
pub mod plan;
pub mod scale;
pub mod status;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use self::model::{Deploy, HASH_LABEL, REVISION, Set, bare_template};
use self::plan::Action;
use self::status::Made;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, Propagation, res};
use crate::controllers::common::pods::PodView;
use crate::controllers::common::{claim, hash, status as common};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Deployments;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Deployments)
}

#[async_trait]
impl Reconciler for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::DEPLOYMENTS)
            .owned(&res::REPLICA_SETS)
            .mapped(&res::REPLICA_SETS, |rs, cx| claim::adopters(&res::DEPLOYMENTS, rs, cx))
            .mapped(&res::PODS, of_pod)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::DEPLOYMENTS, key) else { return Ok(Requeue::Never) };
        let value = object.value();
        let selector = claim::label_selector(&value)?;
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            cx.events.warning(&object, "SelectingAll", message);
            return Ok(Requeue::Never);
        }
        let owned = claim::claim(cx, &res::DEPLOYMENTS, &object, &selector, &res::REPLICA_SETS).await?;
        let d = Deploy::new(&object);
        let sets: Vec<Set> = owned.iter().map(|rs| Set::new(rs, running_pods(cx, rs))).collect();
        let mut made = if plan::is_resized(&d, &sets) { Made::Resized } else { Made::Nothing };
        let mut failed = None;
        for action in plan::plan(&d, &sets) {
            match act(cx, &object, &d, &owned, &action).await {
                Ok(Some(name)) => made = Made::Created(name),
                Ok(None) => {}
                Err(error) if matches!(action, Action::Create { .. }) && !error.is_stale() => return Err(error),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        report(cx, key, &selector, &made).await?;
        match failed {
            Some(error) => Err(error),
            None => Ok(Requeue::after_seconds(status::deadline_in(&d, cx.now()).map(|s| s + 1))),
        }
    }
}

/// The Deployment of a pod that is going or gone: `Recreate` waits for the last one.
fn of_pod(pod: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let Some(owner) = pod.meta.controller().filter(|c| c.kind == "ReplicaSet") else { return Vec::new() };
    let rs = cx.lister(&res::REPLICA_SETS).get(&pod.meta.namespace, &owner.name);
    let deployment = rs.as_ref().and_then(|rs| rs.meta.controller()).filter(|c| c.kind == "Deployment");
    let recreates = |key: &ObjectKey| {
        cx.get(&res::DEPLOYMENTS, key).is_some_and(|d| d.value().str_at("/spec/strategy/type") == Some("Recreate"))
    };
    deployment.map(|d| ObjectKey::new(&pod.meta.namespace, &d.name)).into_iter().filter(recreates).collect()
}

fn running_pods(cx: &Cx, rs: &Object) -> usize {
    let pods = cx.lister(&res::PODS).by_index("owner", &rs.meta.uid);
    pods.iter().filter(|p| !PodView::new(p).has_ended()).count()
}

/// Does one thing; gives back the name of a ReplicaSet it made.
async fn act(
    cx: &Cx,
    object: &Arc<Object>,
    d: &Deploy,
    owned: &[Arc<Object>],
    action: &Action,
) -> Result<Option<String>, Error> {
    let ns = &object.meta.namespace;
    let patch = |name: String, body: Value| async move {
        cx.client.patch(&res::REPLICA_SETS, ns, &name, None, Patch::Merge(&body)).await
    };
    match action {
        Action::Create { replicas, revision } => return create(cx, object, d, *replicas, *revision).await.map(Some),
        Action::Annotate { set, annotations } => {
            let annotations: Map<String, Value> = annotations.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            let body = json!({"metadata": {"annotations": annotations}, "spec": {"minReadySeconds": d.min_ready}});
            patch(set.clone(), body).await?;
        }
        Action::Scale { set, from, to } => {
            let annotations: Map<String, Value> =
                plan::size_annotations(d).into_iter().map(|(k, v)| (k, json!(v))).collect();
            patch(set.clone(), json!({"metadata": {"annotations": annotations}, "spec": {"replicas": to}})).await?;
            let direction = if to > from { "up" } else { "down" };
            if to != from {
                let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
                cx.events.normal(object, "ScalingReplicaSet", message);
            }
        }
        Action::Delete { set } => {
            if let Some(rs) = owned.iter().find(|rs| rs.meta.name == *set) {
                let options =
                    DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of_uid(&rs.meta.uid) };
                crate::client::optional(cx.client.delete(&res::REPLICA_SETS, ns, set, &options).await)?;
            }
        }
        Action::Revise(revision) => {
            let body = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
            cx.change(&res::DEPLOYMENTS, object, None, &body).await?;
        }
    }
    Ok(None)
}

/// Makes the ReplicaSet of the current template. Its name is taken by another template of the same hash: the collision
/// count goes up, and the next reconcile tries another name.
async fn create(cx: &Cx, object: &Arc<Object>, d: &Deploy, replicas: i64, revision: i64) -> Result<String, Error> {
    let ns = &object.meta.namespace;
    let hash = hash::template_hash(&d.template, d.reported("collisionCount"));
    let name = format!("{}-{hash}", d.name);
    match cx.client.create(&res::REPLICA_SETS, ns, &replica_set(object, d, &name, &hash, replicas, revision)).await {
        Ok(_) => {
            if replicas > 0 {
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                cx.events.normal(object, "ScalingReplicaSet", message);
            }
            let body = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
            cx.change(&res::DEPLOYMENTS, object, None, &body).await?;
            Ok(name)
        }
        Err(error) if error.reason == Reason::AlreadyExists => {
            let known = cx.client.get(&res::REPLICA_SETS, ns, &name).await?;
            let ours = known.items_at("/metadata/ownerReferences").iter().any(|o| o["uid"] == *object.meta.uid);
            if !(ours && bare_template(&known["spec"]["template"]) == bare_template(&d.template)) {
                let collisions = d.reported("collisionCount") + 1;
                let body = json!({"status": {"collisionCount": collisions}});
                cx.change(&res::DEPLOYMENTS, object, Some("status"), &body).await?;
            }
            Err(error.into())
        }
        // A namespace on its way out refuses everything; there is nothing to tell.
        Err(error) if error.has_cause("NamespaceTerminating") => Err(error.into()),
        Err(error) => {
            let message = format!("Failed to create new replica set \"{name}\": {error}");
            let fresh = cx.get(&res::DEPLOYMENTS, &ObjectKey::from(&object.meta));
            if let Some(fresh) = fresh
                && let Some(status) = status::create_failed(&Deploy::new(&fresh), &message, cx.now())
            {
                common::write(cx, &res::DEPLOYMENTS, &fresh, status).await?;
            }
            cx.events.warning(object, "ReplicaSetCreateError", message);
            Err(error.into())
        }
    }
}

fn replica_set(object: &Object, d: &Deploy, name: &str, hash: &str, replicas: i64, revision: i64) -> Value {
    let mut template = d.template.clone();
    template.set_at(&format!("/metadata/labels/{HASH_LABEL}"), hash);
    let mut selector = d.selector.clone();
    selector.set_at(&format!("/matchLabels/{HASH_LABEL}"), hash);
    let mut annotations: Map<String, Value> = d.copied_annotations().map(|(k, v)| (k.clone(), v.clone())).collect();
    annotations.insert(REVISION.into(), revision.to_string().into());
    annotations.extend(plan::size_annotations(d).map(|(k, v)| (k, v.into())));
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
    if d.min_ready > 0 {
        spec["minReadySeconds"] = d.min_ready.into();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [claim::owner_reference(&res::DEPLOYMENTS, object)],
        },
        "spec": spec,
    })
}

/// Reads everything again, after the deed, and writes the status where it changed.
async fn report(
    cx: &Cx,
    key: &ObjectKey,
    selector: &crate::api::meta::labels::Selector,
    made: &Made,
) -> Result<(), Error> {
    let Some(object) = cx.get(&res::DEPLOYMENTS, key) else { return Ok(()) };
    let owned = cx.lister(&res::REPLICA_SETS).by_index("owner", &object.meta.uid);
    let mine = owned.iter().filter(|rs| selector.matches(|k| rs.meta.label(k)));
    let sets: Vec<Set> = mine.map(|rs| Set::new(rs, 0)).collect();
    let d = Deploy::new(&object);
    let new = status::status(&d, &sets, plan::current(&d, &sets), made, cx.now());
    common::write(cx, &res::DEPLOYMENTS, &object, new).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Status;
    use crate::controllers::common::conditions;
    use crate::controllers::replicaset::Replicas;
    use crate::runtime::fake::Cluster;

    fn deployment(replicas: i64, version: i64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n", "generation": version},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"version": version}}}})
    }

    /// Every pod becomes ready.
    fn start_pods(cluster: &Cluster) {
        for mut pod in cluster.api.all(&res::PODS) {
            if pod.get("status").is_none() {
                pod["spec"]["nodeName"] = "x".into();
                pod["status"] = json!({"phase": "Running", "conditions":
                    [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                cluster.put(pod);
            }
        }
    }

    /// Reconciles everything until nothing is written any more.
    async fn settle(cluster: &Cluster) {
        let sets = Replicas::of_sets();
        for _ in 0..50 {
            cluster.api.take_log();
            cluster.reconcile(&Deployments, "n", "web").await.unwrap();
            for rs in cluster.api.all(&res::REPLICA_SETS) {
                cluster.reconcile(&*sets, "n", rs.str_at("/metadata/name").unwrap()).await.unwrap();
            }
            start_pods(cluster);
            if cluster.api.take_log().is_empty() {
                return;
            }
        }
        panic!("it never settles");
    }

    fn sizes(cluster: &Cluster) -> Vec<(String, i64)> {
        let all = cluster.api.all(&res::REPLICA_SETS);
        let mut sizes: Vec<_> = all
            .iter()
            .map(|rs| {
                let revision = rs.str_at("/metadata/annotations/deployment.kubernetes.io~1revision").unwrap();
                (revision.to_owned(), rs.int_at("/spec/replicas").unwrap())
            })
            .collect();
        sizes.sort();
        sizes
    }

    #[tokio::test]
    async fn rolls_out_rolls_on_and_rolls_back() {
        let cluster = Cluster::new();
        cluster.put(deployment(3, 1));
        settle(&cluster).await;
        assert_eq!(sizes(&cluster), [("1".into(), 3)]);
        let mut next = cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap();
        assert_eq!(next["status"]["availableReplicas"], 3);
        assert_eq!(next.str_at("/status/conditions/1/reason"), Some("NewReplicaSetAvailable"));
        next["spec"]["template"]["spec"]["version"] = 2.into();
        cluster.put(next);
        settle(&cluster).await;
        assert_eq!(sizes(&cluster), [("1".into(), 0), ("2".into(), 3)]);
        assert!(cluster.api.all(&res::PODS).iter().all(|p| p["spec"]["version"] == 2));
        let mut back = cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap();
        back["spec"]["template"]["spec"]["version"] = 1.into();
        cluster.put(back);
        settle(&cluster).await;
        assert_eq!(sizes(&cluster), [("2".into(), 0), ("3".into(), 3)], "the first one is the third revision now");
        let done = cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap();
        assert_eq!(done.str_at("/metadata/annotations/deployment.kubernetes.io~1revision"), Some("3"));
    }

    #[tokio::test]
    async fn a_refused_replica_set_is_told_of_and_nothing_else() {
        let cluster = Cluster::new();
        cluster.put(deployment(3, 1));
        settle(&cluster).await;
        let mut next = cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap();
        let before = next["status"].clone();
        next["spec"]["template"]["spec"]["version"] = 2.into();
        next["metadata"]["generation"] = 2.into();
        cluster.put(next);
        let sets = "POST /apis/apps/v1/namespaces/n/replicasets";
        cluster.api.refuse(sets, Status::forbidden("apps", "replicasets", "", "exceeded quota"));
        let (outcome, told) = cluster.reconcile_and_hear(&Deployments, "n", "web").await;
        assert!(outcome.is_err());
        assert!(told[0].starts_with("ReplicaSetCreateError: Failed to create new replica set \"web-"), "{told:?}");
        let after = cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap()["status"].clone();
        let progressing = conditions::get(after.items_at("/conditions"), "Progressing").unwrap();
        assert_eq!(
            (progressing.str_at("/status"), progressing.str_at("/reason")),
            (Some("False"), Some("ReplicaSetCreateError"))
        );
        assert!(progressing.str_at("/message").unwrap().starts_with("Failed to create new replica set \"web-"));
        let bare = |status: &Value| {
            let mut bare = status.clone();
            let all = bare.items_at("/conditions").iter().filter(|c| c["type"] != "Progressing").cloned();
            bare["conditions"] = all.collect();
            bare
        };
        assert_eq!(bare(&after), bare(&before), "nothing else is new");
    }

    #[tokio::test]
    async fn a_namespace_that_goes_is_not_told_of() {
        let cluster = Cluster::new();
        cluster.put(deployment(3, 1));
        let sets = "POST /apis/apps/v1/namespaces/n/replicasets";
        let causes = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        cluster.api.refuse(sets, Status::forbidden("apps", "replicasets", "", "no").with_details(causes));
        let (outcome, told) = cluster.reconcile_and_hear(&Deployments, "n", "web").await;
        assert_eq!((outcome.is_err(), told), (true, Vec::new()));
        assert!(cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap().get("status").is_none());
    }

    #[tokio::test]
    async fn a_replica_set_without_pods_is_no_news() {
        let cluster = Cluster::new();
        cluster.put(deployment(0, 1));
        let (outcome, told) = cluster.reconcile_and_hear(&Deployments, "n", "web").await;
        assert!(outcome.is_ok());
        assert_eq!(told, [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_name_that_is_taken_leads_to_another_one() {
        let cluster = Cluster::new();
        cluster.put(deployment(1, 1));
        let template = deployment(1, 1)["spec"]["template"].clone();
        let taken = format!("web-{}", hash::template_hash(&template, 0));
        cluster
            .put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": taken, "namespace": "n"}}));
        assert!(cluster.reconcile(&Deployments, "n", "web").await.is_err());
        cluster.reconcile(&Deployments, "n", "web").await.unwrap();
        assert_eq!(cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap()["status"]["collisionCount"], 1);
        assert_eq!(cluster.api.all(&res::REPLICA_SETS).len(), 2);
    }
}
