//! Create, update, patch and apply.

use base64::Engine as _;
use bytes::Bytes;
use http::header;
use serde_json::{Value, json};
use test_case::test_case;

use super::{APPLY, MAPS, MERGE, Server, TABLE};

#[tokio::test]
async fn duplicates_in_yaml_are_warned_of() {
    let s = Server::new().await;
    let yaml = |query: &str| {
        let path = format!("{MAPS}?dryRun=All&{query}");
        let s = &s;
        async move {
            let body = Bytes::from_static(b"metadata: {name: c}\ndata: {a: x}\ndata: {a: z}\n");
            s.send("POST", &path, &[(header::CONTENT_TYPE, "application/yaml")], body).await
        }
    };
    let told = yaml("").await;
    assert_eq!((told.is(201)["data"]["a"].as_str(), told.warnings), (Some("z"), 1));
    yaml("fieldValidation=Strict").await.is(400);
    s.config_map("c", json!({})).await.is(201);
    let patch = json!([{"op": "add", "path": "/data", "value": {"a": "b"}, "oops": 1}]);
    let c = format!("{MAPS}/c");
    s.patch(&format!("{c}?fieldValidation=Strict"), "application/json-patch+json", patch.clone()).await.is(422);
    s.patch(&c, "application/json-patch+json", patch).await.is(200);
}

#[tokio::test]
async fn a_scale_is_applied_and_shown() {
    let s = Server::new().await;
    let d = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    s.post("/apis/apps/v1/namespaces/n/deployments?fieldManager=maker", d).await.is(201);
    let scale = "/apis/apps/v1/namespaces/n/deployments/d/scale";
    let config = |n: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": n}});
    s.patch(scale, APPLY, config(2)).await.is(422);
    let conflict = s.patch(&format!("{scale}?fieldManager=hpa"), APPLY, config(2)).await.is(409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.replicas");
    assert_eq!(
        s.patch(&format!("{scale}?fieldManager=hpa&force=true"), APPLY, config(2)).await.is(200)["spec"]["replicas"],
        2
    );
    let table = s.get_as(scale, TABLE).await.is(200);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("d"), json!(2)]);
}

#[tokio::test]
async fn an_apply_keeps_the_identity_and_says_what_it_is() {
    let s = Server::new().await;
    let c = format!("{MAPS}/c?fieldManager=a");
    let config = |rest: Value| {
        let mut all = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    };
    let labelled = json!({"metadata": {"name": "c", "labels": {"l": "1"}}, "data": {"a": "1"}});
    s.patch(&c, APPLY, config(labelled)).await.is(201);
    let bare = s.patch(&c, APPLY, config(json!({}))).await.is(200);
    assert_eq!(
        (&bare["metadata"]["name"], bare["metadata"].get("labels"), bare.get("data")),
        (&json!("c"), None, None)
    );
    s.patch(&c, APPLY, json!({"kind": "ConfigMap", "metadata": {"name": "c"}})).await.is(400);
    s.patch(&c, APPLY, json!({"apiVersion": "v1", "metadata": {"name": "c"}})).await.is(400);
    let none = format!("{MAPS}/none?fieldManager=a");
    s.patch(&none, APPLY, config(json!({"metadata": {"name": "none", "uid": "u"}}))).await.is(422);
    s.patch(&none, APPLY, config(json!({"metadata": {"name": "none", "resourceVersion": "1"}}))).await.is(201);
}

#[tokio::test]
async fn a_patch_cannot_move_an_object() {
    let s = Server::new().await;
    s.config_map("c", json!({})).await.is(201);
    let c = format!("{MAPS}/c");
    let refused = s.patch(&c, MERGE, json!({"metadata": {"uid": "other"}})).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.uid");
    s.patch(&c, MERGE, json!({"metadata": {"namespace": "other"}})).await.is(400);
    s.put(&c, json!({"metadata": {"name": "c", "uid": "other"}})).await.is(409);
    assert_eq!(s.patch(&c, "text/plain", json!({})).await.is(415)["details"], json!({}));
}

#[tokio::test]
async fn nobody_owns_what_a_write_leaves_alone() {
    let s = Server::new().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}, "spec": {"unschedulable": true},
        "status": {"capacity": {"cpu": "1"}}});
    let applied = s.patch("/api/v1/nodes/x?fieldManager=a", APPLY, node).await.is(201);
    assert_eq!(applied["status"]["capacity"]["cpu"], "1", "a node registers with its status");
    assert_eq!(applied["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:unschedulable": {}}}));
}

#[tokio::test]
async fn a_missing_namespace_is_told_first() {
    let s = Server::new().await;
    s.post("/api/v1/namespaces/none/configmaps", json!({"metadata": {"name": "Not Valid"}})).await.is(404);
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    s.patch("/api/v1/namespaces/none/configmaps/c?fieldManager=a", APPLY, applied).await.is(404);
}

#[tokio::test]
async fn puts_that_need_no_revision() {
    let s = Server::new().await;
    let class = json!({"metadata": {"name": "r"}, "handler": "h"});
    s.put("/apis/node.k8s.io/v1/runtimeclasses/r", class).await.is(201);
    let schema = json!({"metadata": {"name": "f"}, "spec": {"priorityLevelConfiguration": {"name": "exempt"}}});
    s.post("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", schema.clone()).await.is(201);
    s.put("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/f", schema).await.is(200);
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"strategy": "OldestEmulationVersion", "preferredHolder": "x"}});
    let made = s.post("/apis/coordination.k8s.io/v1/namespaces/n/leases", lease).await.is(201);
    assert_eq!(made["spec"], json!({}));
}

#[tokio::test]
async fn a_signer_neither_decides_nor_forgets() {
    let s = Server::new().await;
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    let csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "c"},
        "spec": {"request": request, "signerName": "example.com/x", "usages": ["client auth"]}});
    let applied = s.patch(&format!("{all}/c?fieldManager=a"), APPLY, csr.clone()).await.is(201);
    assert_eq!(applied["metadata"].get("managedFields"), None, "what is asked for once is nobody's");
    let conditions = |kinds: &[&str]| {
        let one = |kind: &&str| json!({"type": kind, "status": "True", "reason": "R"});
        json!({"status": {"conditions": kinds.iter().map(one).collect::<Vec<_>>()}})
    };
    let at = |sub: &str| format!("{all}/c/{sub}");
    s.patch(&at("status"), MERGE, conditions(&["Approved"])).await.is(422);
    let both = s.patch(&at("approval"), MERGE, conditions(&["Approved", "Denied"])).await.is(422);
    assert_eq!(both["details"]["causes"][0]["field"], "status.conditions");
    s.patch(&at("approval"), MERGE, conditions(&["Approved"])).await.is(200);
    s.patch(&at("status"), MERGE, conditions(&[])).await.is(422);
    let junk = base64::engine::general_purpose::STANDARD.encode("no certificate");
    let refused = s.patch(&at("status"), MERGE, json!({"status": {"certificate": junk}})).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "status.certificate");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let issued = json!({"status": {"certificate": base64::engine::general_purpose::STANDARD.encode(certificate)}});
    let done = s.patch(&at("status"), MERGE, issued).await.is(200);
    assert_eq!(done["status"]["conditions"][0]["type"], "Approved");
}

#[tokio::test]
async fn limits_hold_for_new_amounts_of_a_running_pod() {
    let s = Server::new().await;
    let amounts = |cpu: &str| json!({"requests": {"cpu": "100m"}, "limits": {"cpu": cpu}});
    let pod = |cpu: &str| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": amounts(cpu)}]}});
    s.post("/api/v1/namespaces/n/pods", pod("200m")).await.is(201);
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "300m"}}]}});
    s.post("/api/v1/namespaces/n/limitranges", range).await.is(201);
    let resize = "/api/v1/namespaces/n/pods/p/resize";
    let smp = "application/strategic-merge-patch+json";
    s.patch(resize, smp, pod("400m")).await.is(403);
    s.patch(resize, smp, pod("250m")).await.is(200);
}

#[tokio::test]
async fn an_amount_in_another_unit_is_no_change() {
    let server = Server::new().await;
    let path = "/apis/apps/v1/namespaces/n/deployments";
    let template = |memory: &str| {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"limits": {"memory": memory}}}]}})
    };
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template("64Mi")}});
    server.post(path, deployment).await.is(201);
    for (memory, generation) in [("67108864", 1), ("65Mi", 2)] {
        let change = json!({"spec": {"template": template(memory)}});
        let got = server.patch(&format!("{path}/d"), MERGE, change).await.is(200);
        assert_eq!(got["metadata"]["generation"], generation, "{memory}");
    }
}

#[tokio::test]
async fn scaling_rules_without_policies_are_no_default() {
    let server = Server::new().await;
    let scaler = |rules: Value| {
        json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "behavior": {"scaleUp": rules},
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let path = "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers";
    let wrong = server.post(path, scaler(json!({"policies": []}))).await.is(422);
    assert_eq!(wrong["details"]["causes"][0]["field"], "spec.behavior.scaleUp.policies");
    let made = server.post(path, scaler(json!({}))).await.is(201);
    assert_eq!(made["spec"]["behavior"]["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_level_holds_for_containers_that_come_later() {
    let server = Server::new().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    server.patch("/api/v1/namespaces/n", MERGE, labels).await.is(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let debugger = |privileged: bool| {
        json!({"spec": {"ephemeralContainers": [
        {"name": "d", "image": "i", "securityContext": {"privileged": privileged}}]}})
    };
    let path = "/api/v1/namespaces/n/pods/p/ephemeralcontainers";
    server.patch(path, MERGE, debugger(true)).await.is(403);
    server.patch(path, MERGE, debugger(false)).await.is(200);
}

#[test_case(json!({"serviceName": "Not_A_Label"}), &[("spec.serviceName", "FieldValueInvalid")]; "a name that is none")]
#[test_case(json!({"podManagementPolicy": "X"}), &[("spec.podManagementPolicy", "FieldValueInvalid")]; "a policy that is none")]
#[test_case(json!({"minReadySeconds": -1}), &[("spec.minReadySeconds", "FieldValueInvalid")]; "a negative number")]
#[test_case(json!({"revisionHistoryLimit": -1, "serviceName": "a"}), &[]; "a number that nobody looks at")]
#[tokio::test]
async fn a_stateful_set_says(more: Value, want: &[(&str, &str)]) {
    let s = Server::new().await;
    // The names of its pods are the set's to give, whatever its template says.
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"hostname": "No_Name", "subdomain": "B_", "containers": [{"name": "c", "image": "i"}]}});
    let mut spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let got = s.post("/apis/apps/v1/namespaces/n/statefulsets", json!({"metadata": {"name": "s"}, "spec": spec})).await;
    let said = got.is(if want.is_empty() { 201 } else { 422 });
    let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
    let causes: Vec<_> = causes.iter().map(|c| (c["field"].as_str().unwrap(), c["reason"].as_str().unwrap())).collect();
    assert_eq!(causes, want);
}

/// What a suspended Job needs may change, what it is may not; and its end is one only if the whole of it is written down.
#[tokio::test]
async fn a_job_is_changed_while_it_rests_and_ends_in_order() {
    let s = Server::new().await;
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
    let spec = json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}});
    let job = "/apis/batch/v1/namespaces/n/jobs/j";
    s.post("/apis/batch/v1/namespaces/n/jobs", json!({"metadata": {"name": "j"}, "spec": spec})).await.is(201);
    let told = |change: Value| json!({"status": change});
    let status = format!("{job}/status");
    let start = "2026-01-01T00:00:00Z";
    s.patch(&status, MERGE, told(json!({"startTime": start, "active": 1}))).await.is(200);
    let cpu =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "2"}]);
    let patch = "application/json-patch+json";
    let refused = s.patch(job, patch, cpu.clone()).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.template");
    let suspended = json!([{"type": "Suspended", "status": "True"}]);
    s.patch(&status, MERGE, told(json!({"startTime": null, "active": null, "conditions": suspended}))).await.is(200);
    s.patch(job, patch, cpu).await.is(200);
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "j"}]);
    let refused = s.patch(job, patch, image).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.template.spec");
    let complete = json!({"startTime": start, "conditions": [{"type": "Complete", "status": "True"}]});
    let refused = s.patch(&status, MERGE, told(complete)).await.is(422);
    let causes = refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap());
    assert_eq!(causes.collect::<Vec<_>>(), ["status.conditions", "status.completionTime"]);
}
