//! DELETE of objects and of collections.

use bytes::Bytes;
use http::header;
use serde_json::json;

use super::{MAPS, Server, TABLE};

#[tokio::test]
async fn a_collection_is_deleted_as_it_is_listed() {
    let s = Server::new().await;
    for name in ["a", "b", "c"] {
        s.config_map(name, json!({"labels": {"t": "x"}})).await.is(201);
    }
    s.config_map("held", json!({"labels": {"t": "x"}, "finalizers": ["example.com/hold"]})).await.is(201);
    let page = s.delete(&format!("{MAPS}?labelSelector=t&limit=2"), json!({})).await;
    assert_eq!(page.names(), ["a", "b"]);
    assert!(page.is(200)["metadata"]["continue"].is_string());
    let rest = s.delete(&format!("{MAPS}?labelSelector=t"), json!({})).await;
    assert_eq!(rest.names(), ["c", "held"]);
    let items = &rest.is(200)["items"];
    assert_eq!((items[1].get("kind"), items[1]["metadata"].get("deletionTimestamp")), (None, None), "as they were");
    assert!(s.get(&format!("{MAPS}/held")).await.is(200)["metadata"]["deletionTimestamp"].is_string());
    s.delete(&format!("{MAPS}?sendInitialEvents=true"), json!({})).await.is(422);
    s.delete(&format!("{MAPS}?labelSelector=none"), json!({"propagationPolicy": "Sideways"})).await.is(422);
    let table = s.send("DELETE", MAPS, &[(header::ACCEPT, TABLE)], Bytes::new()).await;
    assert_eq!(table.is(200)["kind"], "Table");
}

#[tokio::test]
async fn options_of_a_deletion() {
    let s = Server::new().await;
    s.config_map("a", json!({})).await.is(201);
    let a = format!("{MAPS}/a");
    s.delete(&a, json!({"dryRun": ["Some"]})).await.is(422);
    s.delete(&a, json!({"propagationPolicy": ""})).await.is(422);
    s.delete(&a, json!({"gracePeriodSeconds": "soon"})).await.is(400);
    s.delete(&format!("{a}?propagationPolicy="), json!({"kind": "Pod", "apiVersion": "v1"})).await.is(400);
    s.delete(&a, json!({"dryRun": ["All"], "gracePeriodSeconds": -7})).await.is(200);
    s.get(&a).await.is(200);
    // Beside a body the query says nothing.
    s.delete(&format!("{a}?dryRun=All"), json!({})).await.is(200);
    s.get(&a).await.is(404);
    s.put(&a, json!({"metadata": {"name": "a", "uid": "u"}})).await.is(409);
    s.put(&a, json!({"metadata": {"name": "a"}})).await.is(404);
}

#[tokio::test]
async fn a_running_grace_is_only_shortened() {
    let s = Server::new().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "none", "containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let p = "/api/v1/namespaces/n/pods/p";
    s.delete(p, json!({"gracePeriodSeconds": 20})).await.is(200);
    let again = s.delete(p, json!({"gracePeriodSeconds": 25, "propagationPolicy": "Foreground"})).await.is(200);
    assert_eq!(
        (&again["metadata"]["deletionGracePeriodSeconds"], again["metadata"].get("finalizers")),
        (&json!(20), None)
    );
    assert_eq!(
        s.delete(p, json!({"gracePeriodSeconds": 5})).await.is(200)["metadata"]["deletionGracePeriodSeconds"],
        5
    );
    s.delete(p, json!({"gracePeriodSeconds": 0})).await.is(200);
    s.get(p).await.is(404);
}

#[tokio::test]
async fn events_own_nothing() {
    let s = Server::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "n", "kind": "Pod", "name": "p"}});
    s.post("/api/v1/namespaces/n/events", event).await.is(201);
    s.delete("/api/v1/namespaces/n/events/e", json!({"propagationPolicy": "Foreground"})).await.is(200);
    s.get("/api/v1/namespaces/n/events/e").await.is(404);
}

/// Two budgets are an error of a plain kind; one that nobody looked at yet may be asked for again.
#[tokio::test]
async fn budgets_refuse_evictions_in_upstreams_words() {
    let s = Server::new().await;
    let labels = json!({"a": "b"});
    let pod = json!({"metadata": {"name": "p", "labels": labels},
        "spec": {"nodeName": "none", "containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let p = "/api/v1/namespaces/n/pods/p";
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    s.patch(&format!("{p}/status"), "application/merge-patch+json", running).await.is(200);
    let budgets = "/apis/policy/v1/namespaces/n/poddisruptionbudgets";
    for name in ["x", "y"] {
        let budget =
            json!({"metadata": {"name": name}, "spec": {"minAvailable": 0, "selector": {"matchLabels": labels}}});
        s.post(budgets, budget).await.is(201);
    }
    let evict = async || {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
        s.post(&format!("{p}/eviction"), eviction).await
    };
    let want = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500,
        "message": "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."});
    assert_eq!(evict().await.is(500), want);
    s.delete(&format!("{budgets}/y"), json!({})).await.is(200);
    assert_eq!(evict().await.is(429)["details"]["retryAfterSeconds"], 10);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 1,
        "desiredHealthy": 0, "expectedPods": 1}});
    s.patch(&format!("{budgets}/x/status"), "application/merge-patch+json", status).await.is(200);
    evict().await.is(201);
    let left = s.get(&format!("{budgets}/x")).await.is(200)["status"].clone();
    assert_eq!(
        (&left["disruptionsAllowed"], &left["conditions"][0]["reason"]),
        (&json!(0), &json!("InsufficientPods"))
    );
}
