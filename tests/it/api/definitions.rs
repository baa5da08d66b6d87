//! CustomResourceDefinitions as objects, and what clients see of the kinds while they watch.
//!
//! Conformance, [sig-api-machinery] CustomResourceDefinition resources Simple CustomResourceDefinition: "creating/deleting
//! custom resource definition objects works", "listing custom resource definition objects works",
//! "getting/updating/patching custom resource definition status sub-resource works".
//! Conformance, [sig-api-machinery] CustomResourceDefinition resources: "should include custom resource definition resources
//! in discovery documents", "custom resource defaulting for requests and from storage works".
//! Conformance, [sig-api-machinery] CustomResourceDefinition Watch: "watch on custom resource definition objects".

use super::*;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON_PATCH: &str = "application/json-patch+json";

/// A cluster-scoped kind of the group that takes any object.
fn definition(group: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
    json!({"metadata": {"name": format!("noxus.{group}"), "labels": {"e2e": "yes"}}, "spec": {"group": group,
        "scope": "Cluster", "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn noxu(name: &str) -> Value {
    json!({"apiVersion": "a.example.com/v1", "kind": "Noxu", "metadata": {"name": name}})
}

#[tokio::test]
async fn definitions_are_made_listed_and_deleted() {
    let s = Server::new().await;
    let groups: Vec<String> = (0..10).map(|i| format!("g{i}.example.com")).collect();
    for group in &groups {
        s.define(definition(group)).await;
    }
    let selected = format!("{CRDS}?labelSelector=e2e%3Dyes");
    let names: Vec<String> = groups.iter().map(|g| format!("noxus.{g}")).collect();
    assert_eq!(s.get(&selected).await.names(), names);
    let one = format!("{CRDS}/{}", names[0]);
    s.delete(&one, json!({})).await.is(200);
    s.until(&one, "gone", |code, _| code == 404).await;
    s.delete(&selected, json!({})).await.is(200);
    s.until(&selected, "all gone", |_, list| list["items"] == json!([])).await;
}

#[tokio::test]
async fn the_status_of_a_definition_is_a_resource_of_its_own() {
    let s = Server::new().await;
    s.define(definition("a.example.com")).await;
    let (one, status) = (format!("{CRDS}/noxus.a.example.com"), format!("{CRDS}/noxus.a.example.com/status"));
    let mut read = s.get(&status).await.is(200);
    assert_eq!(read["spec"], s.get(&one).await.is(200)["spec"]);
    let ours = json!({"type": "Ours", "status": "True", "message": "updated"});
    read["status"]["conditions"].as_array_mut().unwrap().push(ours);
    read["spec"]["scope"] = "Namespaced".into();
    let message =
        |crd: &Value| crd["status"]["conditions"].as_array().unwrap().iter().any(|c| c["message"] == "updated");
    let updated = s.put(&status, read).await.is(200);
    assert!(message(&updated) && updated["spec"]["scope"] == "Cluster");
    let patch = json!([{"op": "add", "path": "/status/conditions", "value": [{"type": "Ours", "status": "False", "message": "patched"}]}]);
    let patched = s.patch(&status, JSON_PATCH, patch).await.is(200);
    assert_eq!(patched["status"]["conditions"][0]["message"], "patched");
}

#[tokio::test]
async fn discovery_has_the_kind_of_definitions() {
    let s = Server::new().await;
    let groups = s.get("/apis").await.is(200);
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "apiextensions.k8s.io").unwrap();
    let v1 = json!({"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"});
    assert!(group["versions"].as_array().unwrap().contains(&v1));
    let one = s.get("/apis/apiextensions.k8s.io").await.is(200);
    assert_eq!((&one["name"], &one["versions"]), (&json!("apiextensions.k8s.io"), &group["versions"]));
    let list = s.get("/apis/apiextensions.k8s.io/v1").await.is(200);
    let names: Vec<&str> = list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["customresourcedefinitions", "customresourcedefinitions/status"]);
}

#[tokio::test]
async fn defaults_come_and_what_was_written_stays() {
    let s = Server::new().await;
    s.define(definition("a.example.com")).await;
    let (all, crd) = ("/apis/a.example.com/v1/noxus", format!("{CRDS}/noxus.a.example.com"));
    assert_eq!(s.post(all, noxu("one")).await.is(201).get("a"), None);
    let at = |field: &str| format!("/spec/versions/0/schema/openAPIV3Schema/properties/{field}/default");
    s.patch(&crd, JSON_PATCH, json!([{"op": "add", "path": at("a"), "value": "A"}])).await.is(200);
    s.until(&format!("{all}/one"), "defaulted from the store", |_, o| o["a"] == "A").await;
    assert_eq!(s.post(all, noxu("two")).await.is(201)["a"], "A");
    let change = json!([{"op": "remove", "path": at("a")}, {"op": "add", "path": at("b"), "value": "B"}]);
    s.patch(&crd, JSON_PATCH, change).await.is(200);
    s.until(&format!("{all}/two"), "the new default, and the old one as it was stored", |_, o| {
        o["b"] == "B" && o["a"] == "A"
    })
    .await;
    // The first one was stored before there was a default.
    let one = s.get(&format!("{all}/one")).await.is(200);
    assert_eq!((one.get("a"), &one["b"]), (None, &json!("B")));
}

#[tokio::test]
async fn watches_of_a_name_see_that_one() {
    let s = Server::new().await;
    s.define(definition("a.example.com")).await;
    let all = "/apis/a.example.com/v1/noxus";
    let since = s.get(all).await.is(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for name in ["name1", "name2"] {
        let made = s.post(all, noxu(name)).await.is(201);
        assert!(made["metadata"]["uid"].is_string());
        assert_eq!((&made["apiVersion"], &made["kind"]), (&json!("a.example.com/v1"), &json!("Noxu")));
    }
    for name in ["name1", "name2"] {
        let patch = json!([{"op": "add", "path": "/dummy", "value": "test"}]);
        s.patch(&format!("{all}/{name}"), JSON_PATCH, patch).await.is(200);
    }
    for name in ["name1", "name2"] {
        s.delete(&format!("{all}/{name}"), json!({})).await.is(200);
    }
    for name in ["name1", "name2"] {
        let watch =
            format!("{all}?watch=1&timeoutSeconds=1&resourceVersion={since}&fieldSelector=metadata.name%3D{name}");
        let want: Vec<String> = ["ADDED", "MODIFIED", "DELETED"].iter().map(|t| format!("{t} {name}")).collect();
        assert_eq!(s.get(&watch).await.events(), want);
    }
}

#[tokio::test]
async fn a_conversion_webhook_is_believed_from_a_bundle_that_holds_certificates() {
    let s = Server::new().await;
    let one = format!("{CRDS}/noxus.a.example.com");
    let bundle = |text: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let good = bundle(&rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem());
    let conversion = |bundle: &str| {
        json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/convert", "caBundle": bundle}}}}})
    };
    // It may be filled in later: until then the kind is not established.
    let mut crd = definition("a.example.com");
    crd["spec"]["conversion"] = conversion(&bundle("to be filled in"))["spec"]["conversion"].clone();
    s.post(CRDS, crd).await.is(201);
    let reason = |crd: &Value| {
        let all = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().find(|c| c["type"] == "Established").map(|c| c["reason"].as_str().unwrap().to_owned())
    };
    s.until(&one, "not established", |_, crd| reason(crd).as_deref() == Some("InvalidCABundle")).await;
    s.patch(&one, "application/merge-patch+json", conversion(&good)).await.is(200);
    s.until(&one, "established", |_, crd| reason(crd).as_deref() == Some("InitialNamesAccepted")).await;
    // One that serves is not broken.
    let refused = s.patch(&one, "application/merge-patch+json", conversion(&bundle("bar"))).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.conversion.webhookClientConfig.caBundle");
    s.patch(&one, "application/merge-patch+json", conversion("")).await.is(200);
}
