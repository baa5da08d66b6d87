//! What clients of the machinery rely on, whatever the kind.
//!
//! Conformance, [sig-api-machinery] Watchers: "should observe add, update, and delete watch notifications on
//! configmaps", "should be able to start watching from a specific resource version", "should be able to restart
//! watching from the last resource version observed by the previous watch", "should observe an object deletion if it
//! stops meeting the requirements of the selector", "should receive events on concurrent watches in same order".
//! Conformance, [sig-api-machinery] Servers with support for API chunking: "should return chunks of results for list
//! calls", "should support continue listing from the last key if the original version has been compacted away, though the
//! list is inconsistent".
//! Conformance, [sig-api-machinery] Servers with support for Table transformation: "should return a 406 for a backend
//! which does not implement metadata".
//! Conformance, [sig-api-machinery] API priority and fairness: "should support FlowSchema API operations", "should
//! support PriorityLevelConfiguration API operations".
//! Conformance, [sig-api-machinery] Namespaces: "should patch a Namespace", "should apply an update to a Namespace",
//! "should apply changes to a namespace status".
//! Conformance, [sig-api-machinery] ResourceQuota: "should be able to update and delete ResourceQuota.", "should manage
//! the lifecycle of a ResourceQuota", "should apply changes to a resourcequota status".
//! Conformance, [sig-api-machinery] ValidatingAdmissionPolicy: "should support ValidatingAdmissionPolicy API
//! operations", "should support ValidatingAdmissionPolicyBinding API operations".
//! Conformance, [sig-api-machinery] MutatingAdmissionPolicy: "should support MutatingAdmissionPolicyBinding API
//! operations".
//! Conformance, [sig-api-machinery] AggregatedDiscovery: "should support aggregated discovery interface for CRDs",
//! "should support raw aggregated discovery request for CRDs".
//! Conformance, [sig-api-machinery] Discovery: "should locate the groupVersion and a resource within each APIGroup".
//! Conformance, [sig-api-machinery] server version: "should find the server version".

use super::*;

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

async fn watched(s: &Server, query: &str) -> Vec<String> {
    s.get(&format!("{MAPS}?watch=1&timeoutSeconds=1&{query}")).await.events()
}

#[tokio::test]
async fn watches_begin_where_they_are_told() {
    let s = Server::new().await;
    let list = s.get(MAPS).await.is(200);
    let path = format!("{MAPS}/w");
    let made = s.config_map("w", json!({"labels": {"watch": "a"}})).await.is(201);
    let changed = s.patch(&path, MERGE, json!({"data": {"mutation": "1"}})).await.is(200);
    s.patch(&path, MERGE, json!({"metadata": {"labels": {"watch": "b"}}})).await.is(200);
    s.delete(&path, json!({})).await.is(200);
    let from = |object: &Value| format!("resourceVersion={}", revision(object));
    assert_eq!(watched(&s, &from(&list)).await, ["ADDED w", "MODIFIED w", "MODIFIED w", "DELETED w"]);
    assert_eq!(watched(&s, &from(&made)).await, ["MODIFIED w", "MODIFIED w", "DELETED w"]);
    assert_eq!(watched(&s, &from(&changed)).await, ["MODIFIED w", "DELETED w"]);
    // One that only sees a label is told of a deletion when the label goes.
    let selected = format!("{}&labelSelector=watch%3Da", from(&list));
    assert_eq!(watched(&s, &selected).await, ["ADDED w", "MODIFIED w", "DELETED w"]);
}

#[tokio::test]
async fn watchers_see_one_order() {
    let s = Server::new().await;
    let since = revision(&s.get(MAPS).await.is(200));
    for i in 0..10 {
        s.config_map(&format!("m{i}"), json!({})).await.is(201);
        s.patch(&format!("{MAPS}/m{}", i / 2), MERGE, json!({"data": {"i": i.to_string()}})).await.is(200);
    }
    let query = format!("resourceVersion={since}");
    let all = futures::future::join_all((0..5).map(|_| watched(&s, &query))).await;
    assert_eq!(all[0].len(), 20);
    assert!(all.iter().all(|events| *events == all[0]));
}

#[tokio::test]
async fn lists_come_in_chunks_of_one_moment() {
    let s = Server::new().await;
    for i in 0..5 {
        s.config_map(&format!("c{i}"), json!({"labels": {"chunk": "yes"}})).await.is(201);
    }
    let first = s.get(&format!("{MAPS}?limit=2")).await.is(200);
    let (token, moment) = (first["metadata"]["continue"].as_str().unwrap().to_owned(), revision(&first));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    s.config_map("c9", json!({})).await.is(201);
    let second = s.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((second.names(), revision(&second.is(200))), (vec!["c2".to_owned(), "c3".into()], moment.clone()));
    let token = second.is(200)["metadata"]["continue"].as_str().unwrap().to_owned();
    let third = s.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((third.names(), revision(&third.is(200))), (vec!["c4".to_owned()], moment));
}

#[tokio::test]
async fn a_list_goes_on_after_its_moment_is_forgotten() {
    let s = Server::new().await;
    for i in 0..6 {
        s.config_map(&format!("c{i}"), json!({})).await.is(201);
    }
    let first = s.get(&format!("{MAPS}?limit=2")).await.is(200);
    let next = |list: &Value| format!("{MAPS}?limit=2&continue={}", list["metadata"]["continue"].as_str().unwrap());
    assert_eq!(s.get(&next(&first)).await.names(), ["c2", "c3"]);
    // More than what is remembered of changes.
    for i in 0..12 {
        let data = json!({"data": {"i": i.to_string(), "much": "x".repeat(1_000_000)}});
        s.patch(&format!("{MAPS}/c5"), MERGE, data).await.is(200);
    }
    s.delete(&format!("{MAPS}/c3"), json!({})).await.is(200);
    let expired = s.get(&next(&first)).await.is(410);
    assert_eq!(expired["reason"], "Expired");
    let second = s.get(&next(&expired)).await;
    assert_eq!(second.names(), ["c2", "c4"], "as it is now");
    assert_ne!(revision(&second.is(200)), revision(&first));
    let third = s.get(&next(&second.is(200))).await;
    assert_eq!((third.names(), third.is(200)["metadata"].get("continue")), (vec!["c5".to_owned()], None));
}

/// Create, read, change, replace, change of the status, delete one, delete all: of a cluster-scoped kind or within `n`.
async fn lifecycle(s: &Server, path: &str, mut object: Value, status: Option<Value>) {
    object["metadata"] = json!({"name": "life", "labels": {"life": "cycle"}});
    let made = s.post(path, object.clone()).await.is(201);
    assert!(made["metadata"]["uid"].is_string(), "{path}");
    let one = format!("{path}/life");
    let patched = s.patch(&one, MERGE, json!({"metadata": {"annotations": {"patched": "true"}}})).await.is(200);
    let mut replaced = patched.clone();
    replaced["metadata"]["annotations"]["updated"] = "true".into();
    let replaced = s.put(&one, replaced).await.is(200);
    assert_eq!(replaced["metadata"]["annotations"], json!({"patched": "true", "updated": "true"}), "{path}");
    s.put(&one, patched).await.is(409);
    if let Some(status) = status {
        let part = format!("{one}/status");
        s.patch(&part, MERGE, json!({"status": status})).await.is(200);
        // What follows the object may say more of it meanwhile.
        let now = s.get(&part).await.is(200);
        assert!(status.as_object().unwrap().iter().all(|(name, value)| now["status"][name] == *value), "{now}");
    }
    let selected = format!("{path}?labelSelector=life%3Dcycle");
    assert_eq!(s.get(&selected).await.names(), ["life"]);
    let watch = s.get(&format!("{selected}&watch=1&timeoutSeconds=1&resourceVersion=0")).await;
    assert_eq!(watch.events(), ["ADDED life"]);
    s.delete(&one, json!({})).await.is(200);
    s.get(&one).await.is(404);
    object["metadata"]["name"] = "life-2".into();
    s.post(path, object).await.is(201);
    s.delete(&selected, json!({})).await.is(200);
    assert!(s.get(&selected).await.names().is_empty(), "{path}");
}

#[tokio::test]
async fn kinds_support_what_they_say() {
    let s = Server::new().await;
    let condition = json!({"type": "T", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let conditions = Some(json!({"conditions": [condition]}));
    let used = json!({"hard": {"pods": "2"}, "used": {"pods": "1"}});
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    lifecycle(&s, &format!("{flow}/prioritylevelconfigurations"), level, conditions.clone()).await;
    let schema = json!({"spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "joe"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}]}]}});
    lifecycle(&s, &format!("{flow}/flowschemas"), schema, conditions.clone()).await;
    lifecycle(&s, "/api/v1/namespaces/n/resourcequotas", json!({"spec": {"hard": {"pods": "2"}}}), Some(used)).await;
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]});
    let policy =
        json!({"spec": {"matchConstraints": rules, "validations": [{"expression": "object.spec.replicas < 100"}]}});
    lifecycle(&s, &format!("{admission}/validatingadmissionpolicies"), policy, conditions).await;
    let binding = json!({"spec": {"policyName": "life", "validationActions": ["Deny"]}});
    lifecycle(&s, &format!("{admission}/validatingadmissionpolicybindings"), binding, None).await;
    lifecycle(
        &s,
        &format!("{admission}/mutatingadmissionpolicybindings"),
        json!({"spec": {"policyName": "life"}}),
        None,
    )
    .await;
}

#[tokio::test]
async fn namespaces_change_in_their_parts() {
    let s = Server::new().await;
    let path = "/api/v1/namespaces/n";
    let patched = s.patch(path, MERGE, json!({"metadata": {"labels": {"testLabel": "testValue"}}})).await.is(200);
    assert_eq!(patched["metadata"]["labels"]["testLabel"], "testValue");
    let mut namespace = s.get(path).await.is(200);
    namespace["metadata"]["labels"]["updated"] = "yes".into();
    assert_eq!(s.put(path, namespace).await.is(200)["metadata"]["labels"]["updated"], "yes");
    let condition = json!({"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched",
        "lastTransitionTime": null});
    let status = json!({"status": {"conditions": [condition]}});
    let patched = s.patch(&format!("{path}/status"), MERGE, status).await.is(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatch");
    assert_eq!(patched["status"]["phase"], "Active");
}

#[tokio::test]
async fn discovery_tells_of_every_group_in_each_form() {
    let s = Server::new().await;
    s.define(json!({"metadata": {"name": "ws.x.io"}, "spec": {"group": "x.io", "scope": "Cluster",
        "names": {"plural": "ws", "kind": "W"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}}))
        .await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = s.get_as("/apis", accept).await;
    assert_eq!(all.content_type, accept);
    let found =
        all.is(200)["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "x.io").cloned().unwrap();
    assert_eq!(
        found["versions"][0]["resources"][0]["responseKind"],
        json!({"group": "x.io", "version": "v1", "kind": "W"})
    );
    for group in s.get("/apis").await.is(200)["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        let one = s.get(&format!("/apis/{name}")).await.is(200);
        assert_eq!(one["preferredVersion"], group["preferredVersion"]);
        let version = one["preferredVersion"]["groupVersion"].as_str().unwrap();
        let list = s.get(&format!("/apis/{version}")).await.is(200);
        assert_eq!(
            (&list["groupVersion"], &list["kind"]),
            (&one["preferredVersion"]["groupVersion"], &json!("APIResourceList"))
        );
        assert!(!list["resources"].as_array().unwrap().is_empty(), "{name}");
    }
    let version = s.get("/version").await.is(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
}

#[tokio::test]
async fn a_review_has_no_table() {
    let s = Server::new().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let headers = [(header::CONTENT_TYPE, JSON), (header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    s.send("POST", path, &headers, review.to_string().into()).await.is(406);
}
