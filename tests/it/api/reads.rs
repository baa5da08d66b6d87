//! Get, list and watch, and the forms of their answers.

use bytes::Bytes;
use http::header;
use serde_json::json;

use super::{JSON, MAPS, MERGE, Server, TABLE};

#[tokio::test]
async fn a_watch_from_nowhere_marks_the_end_of_what_there_was() {
    let s = Server::new().await;
    s.config_map("a", json!({"labels": {"t": "x"}})).await.is(201);
    let watch = |query: &str| format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=t&{query}");
    let legacy = s.get(&watch("allowWatchBookmarks=true&resourceVersion=0")).await;
    assert_eq!(legacy.events()[..2], ["ADDED a", "BOOKMARK initial"]);
    let quiet = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(s.get(&watch(quiet)).await.events(), ["ADDED a"], "bookmarks were not asked for");
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    assert_eq!(s.get(&watch(none)).await.events(), [""; 0]);
}

#[tokio::test]
async fn pages_of_a_revision_are_of_that_one() {
    let s = Server::new().await;
    let first = s.config_map("a", json!({"labels": {"t": "x"}})).await.is(201);
    let then = first["metadata"]["resourceVersion"].as_str().unwrap();
    // More changes than one reading of the ring gives.
    for i in 0..300 {
        s.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"i": i.to_string()}})).await.is(200);
    }
    s.config_map("b", json!({"labels": {"t": "x"}})).await.is(201);
    let exact = s.get(&format!("{MAPS}?labelSelector=t&limit=5&resourceVersion={then}")).await;
    assert_eq!(exact.names(), ["a"]);
    assert_eq!(
        (&exact.is(200)["metadata"]["resourceVersion"], exact.is(200)["items"][0].get("data")),
        (&json!(then), None)
    );
    let newer = format!("{MAPS}?labelSelector=t&limit=5&resourceVersionMatch=NotOlderThan&resourceVersion={then}");
    assert_eq!(s.get(&newer).await.names(), ["a", "b"]);
}

#[tokio::test]
async fn one_and_many_are_told_apart() {
    let s = Server::new().await;
    s.config_map("a", json!({})).await.is(201);
    let a = format!("{MAPS}/a");
    let partial = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1,application/json");
    s.get_as(MAPS, &partial("PartialObjectMetadata")).await.is(406);
    s.get_as(&a, &partial("PartialObjectMetadataList")).await.is(406);
    assert_eq!(
        s.get_as(MAPS, &partial("PartialObjectMetadataList")).await.is(200)["kind"],
        "PartialObjectMetadataList"
    );
    s.get(&format!("{MAPS}?includeObject=Bogus")).await.is(200);
    s.get_as(&format!("{MAPS}?includeObject=Bogus"), TABLE).await.is(400);
}

#[tokio::test]
async fn people_get_lines() {
    let s = Server::new().await;
    let curl = [(header::USER_AGENT, "curl/8.5.0")];
    let list = s.send("GET", MAPS, &curl, Bytes::new()).await;
    assert!(list.text.starts_with("{\n  \"kind\": \"ConfigMapList\",\n"), "{}", list.text);
    assert_eq!(list.content_type, JSON);
    let plain = s.send("GET", &format!("{MAPS}?pretty=false"), &curl, Bytes::new()).await;
    assert!(plain.text.starts_with("{\"kind\""));
}

#[tokio::test]
async fn partial_metadata_is_not_derived() {
    let s = Server::new().await;
    let ds = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    s.post("/apis/apps/v1/namespaces/n/daemonsets", ds).await.is(201);
    let d = "/apis/apps/v1/namespaces/n/daemonsets/d";
    assert!(s.get(d).await.is(200)["metadata"]["annotations"].is_object());
    let partial = s.get_as(d, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.is(200);
    assert_eq!(partial["metadata"].get("annotations"), None);
    // What an older version says in annotations is nothing of the object's.
    let hpas = "namespaces/n/horizontalpodautoscalers";
    let target = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 2, "metrics": [target],
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    s.post(&format!("/apis/autoscaling/v2/{hpas}"), hpa).await.is(201);
    let old = format!("/apis/autoscaling/v1/{hpas}/h");
    assert!(s.get(&old).await.is(200)["metadata"]["annotations"].is_object());
    let partial = s.get_as(&old, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.is(200);
    assert_eq!(partial["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn what_is_not_served_is_told_in_its_form() {
    let s = Server::new().await;
    assert_eq!(s.get_as(MAPS, "text/html").await.is(406)["details"], json!({}));
    assert_eq!(s.get_as(MAPS, "application/json;as=Nonsense;g=meta.k8s.io;v=v1").await.is(406).get("details"), None);
    s.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList").await.is(406);
    s.get_as("/openid/v1/jwks", JSON).await.is(406);
    let unwatched = s.get("/api/v1/componentstatuses?watch=1").await;
    assert_eq!((unwatched.code, unwatched.warnings), (405, 1), "deprecated, whatever the answer");
    s.get_as("/openid/v1/jwks", "*/*").await.is(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let log = s.get("/api/v1/namespaces/n/pods/p/log").await;
    assert_eq!((log.code, log.text.as_str()), (204, ""));
}

#[tokio::test]
async fn each_form_of_an_event_is_whole() {
    let s = Server::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "n", "kind": "Pod", "name": "p"}});
    s.post("/api/v1/namespaces/n/events", event).await.is(201);
    let other = "/apis/events.k8s.io/v1/namespaces/n/events";
    let shown = s.get(&format!("{other}/e")).await.is(200);
    assert_eq!((&shown["regarding"]["name"], shown.get("reportingController")), (&json!("p"), None));
    assert_eq!(s.get("/api/v1/namespaces/n/events/e").await.is(200)["reportingComponent"], "");
    let untimed = json!({"metadata": {"name": "f"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}});
    let refused = s.post(other, untimed).await.is(422);
    let fields = refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap());
    assert_eq!(fields.collect::<Vec<_>>(), ["eventTime", "type"]);
}
