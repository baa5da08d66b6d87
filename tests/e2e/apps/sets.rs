//! ReplicaSets and ReplicationControllers: the same but for the form of the selector.

use serde_json::{Value, json};

use super::{has_a_status, is_listed_and_deleted, scales};
use crate::scenario::{Api, condition, name, names, pod, ready, template, workload};

/// The resource's set of replicas, with the selector in the form that the kind has.
fn set(resource: &str, app: &str, replicas: u64, template: Value) -> Value {
    let mut set = workload(app, replicas, template);
    if resource == "replicationcontrollers" {
        set["spec"]["selector"] = json!({"app": app});
    }
    set
}

/// Every pod answers for itself.
async fn serves(api: &Api, resource: &str) {
    api.create(resource, set(resource, "web", 2, template("web", &[]))).await;
    let pods = api.until_pods("both run", "web", |pods| pods.len() == 2 && pods.iter().all(ready)).await;
    for pod in &pods {
        let answer = format!("from {} (v1)", name(pod));
        // Its container runs; its server may not listen yet.
        api.until("it says its name", &format!("pods/{}:8080/proxy/", name(pod)), |a| *a == answer).await;
    }
}

/// "[sig-apps] ReplicaSet should serve a basic image on each replica with a public image",
/// "[sig-apps] ReplicaSet Replace and Patch tests", "[sig-apps] ReplicaSet Replicaset should have a working scale subresource",
/// "[sig-apps] ReplicaSet should validate Replicaset Status endpoints",
/// "[sig-apps] ReplicaSet should list and delete a collection of ReplicaSets"
pub async fn replica_set(api: Api) {
    serves(&api, "replicasets").await;
    api.update("replicasets/web", |set| set["spec"]["replicas"] = 1.into()).await;
    api.until("one is left", "replicasets/web", |s| s["status"]["replicas"] == 1 && s["status"]["readyReplicas"] == 1)
        .await;
    let patch = json!({"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}});
    let patched = api.patch("replicasets/web", patch).await;
    assert_eq!(
        (&patched["metadata"]["labels"]["test-rs"], &patched["metadata"]["generation"]),
        (&json!("patched"), &json!(3))
    );
    scales(&api, "replicasets/web", 1).await;
    has_a_status(&api, "replicasets", "web").await;
    is_listed_and_deleted(&api, "/apis/apps/v1", "replicasets", "web").await;
    api.until_pods("its pods go", "web", <[_]>::is_empty).await;
}

/// "[sig-apps] ReplicationController should serve a basic image on each replica with a public image",
/// "[sig-apps] ReplicationController should get and update a ReplicationController scale"
pub async fn replication_controller(api: Api) {
    serves(&api, "replicationcontrollers").await;
    scales(&api, "replicationcontrollers/web", 2).await;
}

/// "[sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods",
/// "[sig-apps] ReplicationController should adopt matching pods on creation",
/// "[sig-apps] ReplicationController should release no longer matching pods"
pub async fn adopt_and_release(api: Api) {
    for (resource, app) in [("replicasets", "orphan-rs"), ("replicationcontrollers", "orphan-rc")] {
        let orphan = api.create("pods", pod(app, &["sleep", "1000"])).await;
        assert_eq!(orphan["metadata"].get("ownerReferences"), None);
        let set = api.create(resource, set(resource, app, 1, template(app, &["sleep", "1000"]))).await;
        let path = format!("pods/{app}");
        let owner = |p: &Value| p["metadata"]["ownerReferences"][0].clone();
        let adopted = api.until("it is adopted", &path, |p| owner(p)["uid"] == set["metadata"]["uid"]).await;
        assert_eq!(owner(&adopted)["controller"], true);
        api.until("it is all that is wanted", &format!("{resource}/{app}"), |s| s["status"]["replicas"] == 1).await;
        assert_eq!(api.pods(app).await.len(), 1);
        api.patch(&path, json!({"metadata": {"labels": {"app": "released"}}})).await;
        api.until("it is let go", &path, |p| p["metadata"].get("ownerReferences").is_none()).await;
        api.until_pods("another takes its place", app, |pods| pods.len() == 1 && name(&pods[0]) != app).await;
        api.delete(&path).await;
        api.delete(&format!("{resource}/{app}")).await;
    }
}

/// "[sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota"
pub async fn quota_is_a_condition(api: Api) {
    api.create("resourcequotas", json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}})).await;
    api.until("the quota is counted", "resourcequotas/two", |q| q["status"]["hard"]["pods"] == "2").await;
    for (resource, app) in [("replicationcontrollers", "much"), ("replicasets", "more")] {
        let what = format!("{resource}/{app}");
        api.create(resource, set(resource, app, 3, template(app, &["sleep", "1000"]))).await;
        let failing = api.until("it cannot make the third", &what, |s| condition(s, "ReplicaFailure") == "True").await;
        assert!(
            failing["status"]["conditions"][0]["message"].as_str().unwrap().contains("exceeded quota: two"),
            "{failing}"
        );
        api.patch(&what, json!({"spec": {"replicas": 2}})).await;
        api.until("it is content with two", &what, |s| condition(s, "ReplicaFailure").is_empty()).await;
        api.delete(&what).await;
        api.until("their places are free", "resourcequotas/two", |q| q["status"]["used"]["pods"] == "0").await;
    }
}

/// "[sig-apps] ReplicationController should test the lifecycle of a ReplicationController"
pub async fn lifecycle_of_a_controller(api: Api) {
    let resource = "replicationcontrollers";
    let since = api.get(resource).await["metadata"]["resourceVersion"].clone();
    api.create(resource, set(resource, "life", 1, template("life", &["sleep", "1000"]))).await;
    api.until("its pod is ready", "replicationcontrollers/life", |s| s["status"]["readyReplicas"] == 1).await;
    api.patch("replicationcontrollers/life", json!({"metadata": {"labels": {"life": "patched"}}})).await;
    let patched = api
        .patch("replicationcontrollers/life/status", json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}))
        .await;
    assert_eq!((&patched["metadata"]["labels"]["life"], &patched["spec"]["replicas"]), (&json!("patched"), &json!(1)));
    api.until("the controller counts again", "replicationcontrollers/life/status", |s| {
        s["status"]["readyReplicas"] == 1
    })
    .await;
    api.patch("replicationcontrollers/life/scale", json!({"spec": {"replicas": 2}})).await;
    api.until("two are ready", "replicationcontrollers/life", |s| s["status"]["readyReplicas"] == 2).await;
    api.update("replicationcontrollers/life", |s| s["metadata"]["labels"]["life"] = "updated".into()).await;
    let found = api.get("/api/v1/replicationcontrollers?labelSelector=life%3Dupdated").await;
    assert_eq!(names(&found), ["life"]);
    api.delete("replicationcontrollers?labelSelector=life%3Dupdated").await;
    let mut seen = Vec::new();
    api.follow(resource, &since, |kind, object| {
        seen.push((kind.to_owned(), object["metadata"]["labels"]["life"].clone()));
        kind == "DELETED"
    })
    .await;
    assert_eq!(seen[0], ("ADDED".to_owned(), Value::Null));
    for label in ["patched", "updated"] {
        assert!(seen.contains(&("MODIFIED".to_owned(), json!(label))), "{seen:?}");
    }
}
