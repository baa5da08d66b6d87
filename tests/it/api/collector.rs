//! Deletions that reach others, with the controllers: dependents go, wait or are let go, and namespaces go with what they hold.
//!
//! Conformance, [sig-api-machinery] Garbage collector: "should delete pods created by rc when not orphaning", "should orphan
//! pods created by rc if delete options say so", "should delete RS created by deployment when not orphaning", "should orphan
//! RS created by deployment when deleteOptions.PropagationPolicy is Orphan", "should keep the rc around until all its pods
//! are deleted if the deleteOptions says so", "should not delete dependents that have both valid owner and owner that's
//! waiting for dependents to be deleted".
//! Conformance, [sig-api-machinery] Namespaces: "should ensure that all pods are removed when a namespace is deleted",
//! "should ensure that all services are removed when a namespace is deleted", "should apply a finalizer to a Namespace".

use super::*;

const PODS: &str = "/api/v1/namespaces/n/pods";
const CONTROLLERS: &str = "/api/v1/namespaces/n/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/n/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/n/replicasets";

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A controller of `replicas` pods, once they are there; its uid.
async fn controller(s: &Server, name: &str, replicas: usize) -> String {
    let template = json!({"metadata": {"labels": {"of": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": replicas, "selector": {"of": name}, "template": template});
    let made = s.post(CONTROLLERS, json!({"metadata": {"name": name}, "spec": spec})).await.is(201);
    let one = format!("{CONTROLLERS}/{name}");
    s.until(&one, "has its pods", |_, rc| rc["status"]["replicas"] == replicas).await;
    s.until(&format!("{PODS}?labelSelector=of%3D{name}"), "there", |_, pods| items(pods).len() == replicas).await;
    made["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// A deployment of two pods, once they are there.
async fn deployment(s: &Server) {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    s.post(DEPLOYMENTS, json!({"metadata": {"name": "d"}, "spec": spec})).await.is(201);
    s.until(SETS, "made", |_, sets| items(sets).len() == 1).await;
    s.until(&format!("{PODS}?labelSelector=a%3Db"), "made", |_, pods| items(pods).len() == 2).await;
}

#[tokio::test]
async fn what_is_owned_goes_after_its_owner() {
    let s = Server::controlled().await;
    controller(&s, "rc", 3).await;
    deployment(&s).await;
    let options = json!({"propagationPolicy": "Background"});
    s.delete(&format!("{CONTROLLERS}/rc"), options.clone()).await.is(200);
    s.until(&format!("{PODS}?labelSelector=of%3Drc"), "gone", |_, pods| items(pods).is_empty()).await;
    s.delete(&format!("{DEPLOYMENTS}/d"), options).await.is(200);
    s.until(SETS, "gone", |_, sets| items(sets).is_empty()).await;
    s.until(PODS, "gone", |_, pods| items(pods).is_empty()).await;
}

#[tokio::test]
async fn what_is_let_go_stays() {
    let s = Server::controlled().await;
    controller(&s, "rc", 3).await;
    deployment(&s).await;
    for (path, of) in [(format!("{CONTROLLERS}/rc"), PODS), (format!("{DEPLOYMENTS}/d"), SETS)] {
        let before = s.get(of).await.names();
        s.delete(&path, json!({"propagationPolicy": "Orphan"})).await.is(200);
        s.until(&path, "gone", |code, _| code == 404).await;
        assert_eq!(s.get(of).await.names(), before);
    }
    // Let go before the owner went; and pods of the set have their owner still.
    let owned = |list: &Value| items(list).iter().filter(|o| o["metadata"]["ownerReferences"].is_array()).count();
    let pods = s.get(&format!("{PODS}?labelSelector=of%3Drc")).await.is(200);
    assert_eq!((items(&pods).len(), owned(&pods)), (3, 0));
    assert_eq!(owned(&s.get(SETS).await.is(200)), 0);
}

#[tokio::test]
async fn an_owner_waits_for_what_it_owns() {
    let s = Server::controlled().await;
    let uid = controller(&s, "rc", 3).await;
    let held = s.get(PODS).await.names()[0].clone();
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    s.patch(&format!("{PODS}/{held}"), MERGE, hold).await.is(200);
    let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": uid}});
    let rc = format!("{CONTROLLERS}/rc");
    s.delete(&rc, options).await.is(200);
    s.until(PODS, "all but one gone", |_, pods| items(pods).len() == 1).await;
    let waiting = s.get(&rc).await.is(200);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    s.patch(&format!("{PODS}/{held}"), MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
    s.until(&rc, "gone", |code, _| code == 404).await;
    assert_eq!(s.get(PODS).await.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_second_owner_keeps_what_the_first_waits_for() {
    let s = Server::controlled().await;
    let (going, staying) = (controller(&s, "going", 4).await, controller(&s, "staying", 0).await);
    let kept = s.get(PODS).await.names()[..2].to_vec();
    let owner = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "staying", "uid": staying});
    for pod in &kept {
        let patch = json!({"metadata": {"ownerReferences": [owner]}});
        let both = s.patch(&format!("{PODS}/{pod}"), "application/strategic-merge-patch+json", patch).await.is(200);
        assert_eq!(both["metadata"]["ownerReferences"].as_array().unwrap().len(), 2);
    }
    let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": going}});
    let rc = format!("{CONTROLLERS}/going");
    s.delete(&rc, options).await.is(200);
    s.until(&rc, "gone", |code, _| code == 404).await;
    let left = s.get(PODS).await;
    assert_eq!(left.names(), kept);
    for pod in items(&left.is(200)) {
        assert_eq!(pod["metadata"].get("deletionTimestamp"), None);
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], staying.as_str());
        assert_eq!(pod["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_namespace_goes_with_what_it_holds() {
    let s = Server::controlled().await;
    deployment(&s).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    s.post("/api/v1/namespaces/n/services", service).await.is(201);
    let namespace = "/api/v1/namespaces/n";
    let marked = s.delete(namespace, json!({})).await.is(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    s.until(namespace, "gone", |code, _| code == 404).await;
    s.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.is(201);
    for path in [PODS, SETS, DEPLOYMENTS, "/api/v1/namespaces/n/services"] {
        assert_eq!(s.get(path).await.names(), Vec::<String>::new(), "{path}");
    }
}

#[tokio::test]
async fn a_namespace_stays_while_its_finalizers_do() {
    let s = Server::controlled().await;
    let path = "/api/v1/namespaces/n";
    let mut namespace = s.get(path).await.is(200);
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    namespace["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fake"]);
    let finalize = format!("{path}/finalize");
    let held = s.put(&finalize, namespace).await.is(200);
    assert_eq!(held["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fake"]));
    s.delete(path, json!({})).await.is(200);
    let ours = json!(["e2e.example.com/fake"]);
    s.until(path, "emptied, and held", |_, namespace| namespace["spec"]["finalizers"] == ours).await;
    let mut namespace = s.get(path).await.is(200);
    namespace["spec"]["finalizers"] = json!([]);
    assert_eq!(s.put(&finalize, namespace).await.is(200)["spec"].get("finalizers"), None);
    s.until(path, "gone", |code, _| code == 404).await;
}
