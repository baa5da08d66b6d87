//! What every kind's clients do with it, as a table: a row is a kind, an object and the behaviours of upstream's that are
//! no more than that. What a controller or a node makes of such objects is shown elsewhere.

use futures::future::join_all;

use super::*;

/// A kind that can be made, read, listed, watched, changed, replaced and deleted, alone and as a collection.
struct Row {
    /// Path of the group version, plural, and whether it is in namespaces.
    at: (&'static str, &'static str, bool),
    /// All of an object but its metadata.
    object: Value,
    /// A field of the status by JSON pointer below it, and two values that it may have.
    status: Option<(&'static str, [Value; 2])>,
}

fn row(at: (&'static str, &'static str, bool), object: Value) -> Row {
    Row { at, object, status: None }
}

fn with_status(row: Row, pointer: &'static str, values: [Value; 2]) -> Row {
    Row { status: Some((pointer, values)), ..row }
}

/// Makes one, and goes through what may be done with it.
async fn operate(server: &Server, row: &Row) {
    let (group, plural, namespaced) = row.at;
    let everywhere = format!("{group}/{plural}");
    let items = if namespaced { format!("{group}/namespaces/n/{plural}") } else { everywhere.clone() };
    let one = format!("{items}/x");
    let object = |name: &str, label: &str| {
        let mut object = row.object.clone();
        object["metadata"] = json!({"name": name, "labels": {"row": label}});
        object
    };
    let made = server.post(&items, object("x", "one")).await.is(201);
    let (uid, since) = (&made["metadata"]["uid"], made["metadata"]["resourceVersion"].as_str().unwrap());
    assert_eq!(server.get(&one).await.is(200), made, "{plural}");
    for path in [&items, &everywhere] {
        assert_eq!(server.get(&format!("{path}?labelSelector=row%3Done")).await.names(), ["x"], "{path}");
    }
    let annotation = |key: &str| json!({"metadata": {"annotations": {key: "true"}}});
    for (content_type, key) in [(MERGE, "merged"), ("application/strategic-merge-patch+json", "strategic")] {
        let patched = server.patch(&one, content_type, annotation(key)).await.is(200);
        assert_eq!(patched["metadata"]["annotations"][key], "true", "{plural}");
    }
    let mut now = server.get(&one).await.is(200);
    let stale = made.clone();
    now["metadata"]["annotations"]["updated"] = "true".into();
    let updated = server.put(&one, now).await.is(200);
    assert_eq!((&updated["metadata"]["annotations"]["updated"], &updated["metadata"]["uid"]), (&json!("true"), uid));
    assert_eq!(server.put(&one, stale).await.is(409)["reason"], "Conflict", "{plural}");
    let mut changes = 3;
    if let Some((pointer, values)) = &row.status {
        has_a_status(server, &one, pointer, values).await;
        changes += 2;
    }
    server.delete(&one, json!({})).await.is(200);
    assert_eq!(server.get(&one).await.is(404)["reason"], "NotFound", "{plural}");

    for name in ["y", "z"] {
        server.post(&items, object(name, "many")).await.is(201);
    }
    server.post(&items, object("kept", "kept")).await.is(201);
    server.delete(&format!("{items}?labelSelector=row%3Dmany"), json!({})).await.is(200);
    assert_eq!(server.get(&format!("{items}?labelSelector=row")).await.names(), ["kept"], "{plural}");
    let watch = format!("{items}?watch=1&timeoutSeconds=1&resourceVersion={since}&labelSelector=row%3Done");
    let mut wanted = vec!["MODIFIED x"; changes];
    wanted.push("DELETED x");
    assert_eq!(server.get(&watch).await.events(), wanted, "{plural}");
}

/// The status is changed by its subresource, and nothing else is.
async fn has_a_status(server: &Server, one: &str, pointer: &str, values: &[Value; 2]) {
    let path = format!("{one}/status");
    let before = server.get(one).await.is(200);
    let mut patch = json!({"status": {}});
    let mut at = &mut patch["status"];
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = values[0].clone();
    let patched = server.patch(&path, MERGE, patch).await.is(200);
    assert_eq!((patched["status"].pointer(pointer), &patched["spec"]), (Some(&values[0]), &before["spec"]), "{path}");
    let mut put = server.get(&path).await.is(200);
    *put["status"].pointer_mut(pointer).unwrap() = values[1].clone();
    let put = server.put(&path, put).await.is(200);
    assert_eq!(put["status"].pointer(pointer), Some(&values[1]), "{path}");
}

async fn all(rows: Vec<Row>) {
    let server = Server::new().await;
    join_all(rows.iter().map(|row| operate(&server, row))).await;
}

/// "[sig-node] ConfigMap should run through a ConfigMap lifecycle", "[sig-node] Secrets should patch a secret", "[sig-node]
/// PodTemplates should run the lifecycle of PodTemplates", "[sig-node] PodTemplates should delete a collection of pod
/// templates", "[sig-node] PodTemplates should replace a pod template", "[sig-node] RuntimeClass should support RuntimeClasses
/// API operations", "[sig-node] Lease lease API should be available", "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1
/// DeviceClass", "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim", "[sig-node] [DRA] CRUD Tests
/// resource.k8s.io/v1 ResourceClaimTemplate", "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice"
#[tokio::test]
async fn kinds_of_nodes_and_their_pods() {
    let dra = "/apis/resource.k8s.io/v1";
    let claim = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}});
    let reserved = |uid: &str| json!([{"resource": "pods", "name": "p", "uid": uid}]);
    let allocated =
        json!({"devices": {"results": [{"request": "r", "driver": "d.example.com", "pool": "p", "device": "0"}]}});
    let statuses = [json!({"allocation": allocated}), json!({"allocation": allocated, "reservedFor": reserved("1")})];
    all(vec![
        row(("/api/v1", "configmaps", true), json!({"data": {"k": "v"}})),
        row(("/api/v1", "secrets", true), json!({"data": {"k": "dg=="}})),
        row(
            ("/api/v1", "podtemplates", true),
            json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
        ),
        row(("/apis/node.k8s.io/v1", "runtimeclasses", false), json!({"handler": "h"})),
        row(("/apis/coordination.k8s.io/v1", "leases", true), json!({"spec": {"holderIdentity": "me"}})),
        row((dra, "deviceclasses", false), json!({"spec": {}})),
        row((dra, "resourceclaimtemplates", true), json!({"spec": {"spec": claim}})),
        with_status(row((dra, "resourceclaims", true), json!({"spec": claim})), "", statuses),
        row(
            (dra, "resourceslices", false),
            json!({"spec": {"driver": "d.example.com", "allNodes": true, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ),
    ])
    .await;
}

/// "[sig-network] EndpointSlice should support creating EndpointSlice API operations", "[sig-network] Endpoints should test the
/// lifecycle of an Endpoint", "[sig-network] Ingress API should support creating Ingress API operations", "[sig-network]
/// IngressClass API should support creating IngressClass API operations", "[sig-network] Services should delete a collection of
/// services", "[sig-network] Services should find a service from listing all namespaces", "[sig-network] Services should
/// complete a service status lifecycle"
#[tokio::test]
async fn kinds_of_networks() {
    let group = "/apis/networking.k8s.io/v1";
    let ip = |ip: &str| json!([{"ip": ip, "ipMode": "VIP"}]);
    all(vec![
        row(
            ("/apis/discovery.k8s.io/v1", "endpointslices", true),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]}),
        ),
        row(
            ("/api/v1", "endpoints", true),
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
        ),
        with_status(
            row(
                (group, "ingresses", true),
                json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
            ),
            "/loadBalancer/ingress",
            [json!([{"ip": "192.0.2.1"}]), json!([{"ip": "192.0.2.2"}])],
        ),
        row((group, "ingressclasses", false), json!({"spec": {"controller": "example.com/c"}})),
        with_status(
            row(("/api/v1", "services", true), json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})),
            "/loadBalancer/ingress",
            [ip("203.0.113.1"), ip("203.0.113.2")],
        ),
    ])
    .await;
}

/// "[sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass", "[sig-storage]
/// CSIInlineVolumes should run through the lifecycle of a CSIDriver", "[sig-storage] CSINodes CSI Conformance should run
/// through the lifecycle of a csinode", "[sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations",
/// "[sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment", "[sig-storage]
/// VolumeAttachment Conformance should apply changes to a volumeattachment status"
#[tokio::test]
async fn kinds_of_storage() {
    let group = "/apis/storage.k8s.io/v1";
    all(vec![
        row((group, "storageclasses", false), json!({"provisioner": "example.com/p"})),
        row((group, "csidrivers", false), json!({"spec": {"attachRequired": false}})),
        row((group, "csinodes", false), json!({"spec": {"drivers": []}})),
        row((group, "csistoragecapacities", true), json!({"storageClassName": "c", "capacity": "1Gi"})),
        with_status(
            row(
                (group, "volumeattachments", false),
                json!({"spec": {"attacher": "a.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
            ),
            "/attached",
            [json!(true), json!(false)],
        ),
    ])
    .await;
}

/// "[sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status". They do not go at once: something
/// may still use them.
#[tokio::test]
async fn volumes_and_claims_have_a_status() {
    let server = Server::new().await;
    let volume =
        json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/x"}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let condition = |message: &str| {
        let (kind, never) = ("T", Value::Null);
        json!([{
            "type": kind, "status": "True", "lastProbeTime": never, "lastTransitionTime": never, "reason": "R", "message": message,
        }])
    };
    let rows = [
        ("/api/v1/persistentvolumes", volume, "/message", [json!("one"), json!("two")]),
        ("/api/v1/namespaces/n/persistentvolumeclaims", claim, "/conditions", [condition("one"), condition("two")]),
    ];
    for (items, spec, pointer, values) in rows {
        server.post(items, json!({"metadata": {"name": "x"}, "spec": spec})).await.is(201);
        let path = format!("{items}/x");
        has_a_status(&server, &path, pointer, &values).await;
        server.delete(&path, json!({})).await.is(200);
        let going = server.get(&path).await.is(200);
        assert!(going["metadata"].get("deletionTimestamp").is_some(), "{going}");
    }
}

/// "[sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed",
/// "[sig-instrumentation] Events API should delete a collection of events", "[sig-instrumentation] Events should manage the
/// lifecycle of an event", "[sig-instrumentation] Events should delete a collection of events"
#[tokio::test]
async fn events_of_both_groups() {
    let about = json!({"kind": "Pod", "namespace": "n", "name": "p"});
    all(vec![row(
        ("/apis/events.k8s.io/v1", "events", true),
        json!({
            "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "c", "reportingInstance": "i", "action": "Did",
            "reason": "Why", "type": "Normal", "regarding": about,
        }),
    )])
    .await;
    all(vec![row(("/api/v1", "events", true), json!({"involvedObject": about, "reason": "Why", "type": "Normal"}))])
        .await;
}

/// "[sig-node] ConfigMap should fail to create ConfigMap with empty key", "[sig-node] Secrets should fail to create secret due
/// to empty secret key", "[sig-storage] ConfigMap should be immutable if `immutable` field is set", "[sig-storage] Secrets
/// should be immutable if `immutable` field is set"
#[tokio::test]
async fn keys_are_not_empty_and_what_is_immutable_stays() {
    let server = Server::new().await;
    for (plural, value, other) in [("configmaps", "v", "w"), ("secrets", "dg==", "dw==")] {
        let items = format!("/api/v1/namespaces/n/{plural}");
        let empty = server.post(&items, json!({"metadata": {"name": "e"}, "data": {"": value}})).await.is(422);
        assert_eq!(empty["details"]["causes"][0]["field"], "data[]", "{empty}");
        let path = format!("{items}/x");
        server.post(&items, json!({"metadata": {"name": "x"}, "data": {"k": value}})).await.is(201);
        server.patch(&path, MERGE, json!({"data": {"k": other}})).await.is(200);
        server.patch(&path, MERGE, json!({"immutable": true})).await.is(200);
        for patch in [json!({"data": {"k": value}}), json!({"immutable": false}), json!({"immutable": null})] {
            server.patch(&path, MERGE, patch).await.is(422);
        }
        server.patch(&path, MERGE, json!({"metadata": {"labels": {"may": "change"}}})).await.is(200);
        server.delete(&path, json!({})).await.is(200);
    }
}

/// "[sig-node] Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and
/// cpu", "[sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass"
#[tokio::test]
async fn pods_get_their_class_of_service_and_need_their_runtime_class() {
    let server = Server::new().await;
    let pods = "/api/v1/namespaces/n/pods";
    let much = json!({"cpu": "100m", "memory": "100Mi"});
    let rows = [
        ("Guaranteed", json!({"requests": much, "limits": much})),
        ("Burstable", json!({"requests": much})),
        ("BestEffort", json!({})),
    ];
    for (class, resources) in rows {
        let pod = json!({
            "metadata": {"name": class.to_lowercase()},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]},
        });
        assert_eq!(server.post(pods, pod).await.is(201)["status"]["qosClass"], class);
    }
    let spec = json!({"runtimeClassName": "none", "containers": [{"name": "c", "image": "i"}]});
    let refused = server.post(pods, json!({"metadata": {"name": "r"}, "spec": spec})).await.is(403);
    assert!(refused["message"].as_str().unwrap().contains("RuntimeClass \"none\" not found"), "{refused}");
}
