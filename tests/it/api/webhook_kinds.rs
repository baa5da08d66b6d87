//! Admission webhooks for custom kinds and their definitions, and webhooks whose rules and conditions change.
//!
//! Conformance, [sig-api-machinery] AdmissionWebhook: "listing validating webhooks should work", "patching/updating a
//! validating webhook should work", "should be able to create and update mutating webhook configurations with match
//! conditions", "should be able to create and update validating webhook configurations with match conditions", "should be
//! able to deny custom resource creation, update and deletion", "should deny crd creation", "should mutate custom resource",
//! "should mutate custom resource with different stored version", "should mutate custom resource with pruning", "should mutate
//! everything except 'skip-me' configmaps", "should reject mutating webhook configurations with invalid match conditions".

use base64::Engine;
use test_case::test_case;

use super::hooks::{Hooks, answers};
use super::*;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TOOLS: &str = "/apis/stable.example.com/v1/namespaces/n/tools";
const JSON_PATCH: &str = "application/json-patch+json";

fn path_of(kind: &str) -> String {
    format!("{GROUP}/{kind}webhookconfigurations")
}

/// Sets `data.<key>` when the one before it is there.
fn stage(before: &'static str, key: &'static str) -> super::hooks::Answer {
    answers(move |request| {
        if request["object"]["data"][before] != "yes" {
            return json!({});
        }
        let patch = json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}]);
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        json!({"patchType": "JSONPatch", "patch": patch})
    })
}

/// Refuses data that says so, and the end of what says that it is not to end.
fn guard() -> super::hooks::Answer {
    answers(|request| {
        let says = |object: &Value| object["data"]["webhook-e2e-test"].as_str().map(str::to_owned);
        let bad = match request["operation"].as_str() {
            Some("DELETE") => says(&request["oldObject"]).as_deref() == Some("webhook-nondeletable"),
            _ => says(&request["object"]).as_deref() == Some("webhook-disallow"),
        };
        match bad {
            true => {
                json!({"allowed": false, "status": {"reason": "the custom resource contains unwanted data", "message": "the custom resource contains unwanted data"}})
            }
            false => json!({}),
        }
    })
}

fn any() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Both versions served with the schema, v1 stored.
fn definition(schema: &Value) -> Value {
    let version = |name: &str, stored: bool| json!({"name": name, "served": true, "storage": stored, "schema": {"openAPIV3Schema": schema}});
    json!({"metadata": {"name": "tools.stable.example.com"}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "tools", "kind": "Tool"}, "versions": [version("v1", true), version("v2", false)]}})
}

fn tool(name: &str, data: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Tool", "metadata": {"name": name}, "data": data})
}

fn rules(group: &str, version: &str, resource: &str) -> Value {
    json!({"rules": [{"operations": ["*"], "apiGroups": [group], "apiVersions": [version], "resources": [resource]}]})
}

#[tokio::test]
async fn a_custom_object_is_guarded() {
    let s = Server::new().await;
    s.define(definition(&any())).await;
    let hooks = Hooks::start(vec![("guard", guard())]).await;
    let hook = hooks.hook("guard", rules("stable.example.com", "*", "tools"));
    s.post(&path_of("validating"), json!({"metadata": {"name": "v"}, "webhooks": [hook]})).await.is(201);
    let refused = s.post(TOOLS, tool("a", json!({"webhook-e2e-test": "webhook-disallow"}))).await;
    assert!(refused.text.contains("the custom resource contains unwanted data"), "{}", refused.text);
    refused.is(400);
    s.post(TOOLS, tool("b", json!({"webhook-e2e-test": "webhook-nondeletable"}))).await.is(201);
    let b = format!("{TOOLS}/b");
    let bad = json!({"data": {"webhook-e2e-test": "webhook-disallow"}});
    assert!(s.patch(&b, MERGE, bad).await.text.contains("the custom resource contains unwanted data"));
    s.delete(&b, json!({})).await.is(400);
    s.patch(&b, MERGE, json!({"data": {"webhook-e2e-test": "webhook-allow"}})).await.is(200);
    s.delete(&b, json!({})).await.is(200);
    s.get(&b).await.is(404);
}

#[tokio::test]
async fn a_definition_is_refused_as_any_object() {
    let s = Server::new().await;
    let deny =
        answers(|request| match request["object"]["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow" {
            true => json!({"allowed": false, "status": {"message": "the crd contains unwanted label"}}),
            false => json!({}),
        });
    let hooks = Hooks::start(vec![("crd", deny)]).await;
    let hook = hooks.hook("crd", rules("apiextensions.k8s.io", "*", "customresourcedefinitions"));
    s.post(&path_of("validating"), json!({"metadata": {"name": "v"}, "webhooks": [hook]})).await.is(201);
    let mut bad = definition(&any());
    bad["metadata"]["labels"] = json!({"webhook-e2e-test": "webhook-disallow"});
    let refused = s.post(CRDS, bad).await;
    assert!(refused.text.contains("the crd contains unwanted label"), "{}", refused.text);
    s.define(definition(&any())).await;
}

#[test_case(any(), json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"}); "whole")]
#[test_case(json!({"type": "object", "properties": {"data": {"type": "object", "properties": {
    "mutation-start": {"type": "string"}, "mutation-stage-1": {"type": "string"}}}}}),
    json!({"mutation-start": "yes", "mutation-stage-1": "yes"}); "pruned")]
#[tokio::test]
async fn a_custom_object_is_changed(schema: Value, want: Value) {
    let s = Server::new().await;
    s.define(definition(&schema)).await;
    let stages = vec![
        ("one", stage("mutation-start", "mutation-stage-1")),
        ("two", stage("mutation-stage-1", "mutation-stage-2")),
    ];
    let hooks = Hooks::start(stages).await;
    let hook = |name: &str| hooks.hook(name, rules("stable.example.com", "v1", "tools"));
    let body = json!({"metadata": {"name": "m"}, "webhooks": [hook("one"), hook("two")]});
    s.post(&path_of("mutating"), body).await.is(201);
    let made = s.post(TOOLS, tool("a", json!({"mutation-start": "yes"}))).await.is(201);
    assert_eq!(made["data"], want);
    if schema != any() {
        return;
    }
    // An object of one stored version is changed through the other, for rules that name the first.
    s.delete(&format!("{}/m", path_of("mutating")), json!({})).await.is(200);
    s.post(TOOLS, tool("b", json!({"mutation-start": "yes"}))).await.is(201);
    let hook = hooks.hook("one", rules("stable.example.com", "v1", "tools"));
    s.post(&path_of("mutating"), json!({"metadata": {"name": "m"}, "webhooks": [hook]})).await.is(201);
    let stored =
        |i: usize, on: bool| json!({"op": "replace", "path": format!("/spec/versions/{i}/storage"), "value": on});
    let crd = format!("{CRDS}/tools.stable.example.com");
    s.patch(&crd, JSON_PATCH, json!([stored(0, false), stored(1, true)])).await.is(200);
    s.until(&crd, "v2 is stored", |_, crd| crd["status"]["storedVersions"] == json!(["v1", "v2"])).await;
    let patch = json!([{"op": "add", "path": "/dummy", "value": "test"}]);
    let newer = format!("{}/b", TOOLS.replace("/v1/", "/v2/"));
    let changed = s.patch(&newer, JSON_PATCH, patch).await.is(200);
    assert_eq!((&changed["apiVersion"], &changed["dummy"]), (&json!("stable.example.com/v2"), &json!("test")));
    assert_eq!(changed["data"], json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
    let asked = hooks.seen("one").pop().unwrap();
    assert_eq!(asked["kind"]["version"], "v1", "as the rule says");
    assert_eq!(asked["requestKind"]["version"], "v2", "as the client asked");
}

#[tokio::test]
async fn the_rules_of_a_validating_webhook_change() {
    let s = Server::new().await;
    let hooks = Hooks::start(vec![("guard", guard())]).await;
    let all = path_of("validating");
    for i in 0..10 {
        let hook = hooks.hook("guard", json!({}));
        let metadata = json!({"name": format!("v{i}"), "labels": {"e2e": "yes"}});
        s.post(&all, json!({"metadata": metadata, "webhooks": [hook]})).await.is(201);
    }
    let selected = format!("{all}?labelSelector=e2e%3Dyes");
    assert_eq!(s.get(&selected).await.names().len(), 10);
    let bad = json!({"metadata": {"generateName": "m-"}, "data": {"webhook-e2e-test": "webhook-disallow"}});
    s.post(MAPS, bad.clone()).await.is(400);
    s.delete(&selected, json!({})).await.is(200);
    s.post(MAPS, bad.clone()).await.is(201);

    let hook = hooks.hook("guard", json!({}));
    s.post(&all, json!({"metadata": {"name": "v"}, "webhooks": [hook]})).await.is(201);
    s.post(MAPS, bad.clone()).await.is(400);
    let one = format!("{all}/v");
    let mut read = s.get(&one).await.is(200);
    read["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    s.put(&one, read).await.is(200);
    s.post(MAPS, bad.clone()).await.is(201);
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    s.patch(&one, JSON_PATCH, patch).await.is(200);
    s.post(MAPS, bad).await.is(400);
}

#[test_case("validating")]
#[test_case("mutating")]
#[tokio::test]
async fn conditions_are_kept_changed_and_compiled(kind: &str) {
    let s = Server::new().await;
    let hooks = Hooks::start(vec![]).await;
    let condition = |expression: &str| json!([{"name": "c", "expression": expression}]);
    let all = path_of(kind);
    let first = condition("object.metadata.name == 'marked'");
    let hook = hooks.hook("none", json!({"matchConditions": first}));
    let made = s.post(&all, json!({"metadata": {"name": "w"}, "webhooks": [hook]})).await.is(201);
    assert_eq!(made["webhooks"][0]["matchConditions"], first);
    let one = format!("{all}/w");
    let mut read = s.get(&one).await.is(200);
    let second =
        json!([{"name": "c", "expression": "true"}, {"name": "d", "expression": "object.metadata.name != 'x'"}]);
    read["webhooks"][0]["matchConditions"] = second.clone();
    assert_eq!(s.put(&one, read).await.is(200)["webhooks"][0]["matchConditions"], second);
    assert_eq!(s.get(&one).await.is(200)["webhooks"][0]["matchConditions"], second);
    let hook = hooks.hook("none", json!({"matchConditions": condition("... [] bad expression")}));
    let refused = s.post(&all, json!({"metadata": {"name": "bad"}, "webhooks": [hook]})).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "webhooks[0].matchConditions[0].expression");
    assert!(refused["message"].as_str().unwrap().contains("compilation failed"), "{refused}");
}

#[tokio::test]
async fn everything_is_changed_but_what_the_condition_leaves_out() {
    let s = Server::new().await;
    let hooks = Hooks::start(vec![("one", stage("mutation-start", "mutation-stage-1"))]).await;
    let but = json!({"matchConditions": [{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]});
    let body = json!({"metadata": {"name": "m"}, "webhooks": [hooks.hook("one", but)]});
    s.post(&path_of("mutating"), body).await.is(201);
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"mutation-start": "yes"}});
    let made = s.post(MAPS, map("any")).await.is(201);
    assert_eq!(made["data"], json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
    assert_eq!(s.post(MAPS, map("skip-me")).await.is(201)["data"], json!({"mutation-start": "yes"}));
    assert_eq!(hooks.seen("one").len(), 1);
}

#[tokio::test]
async fn a_scale_is_asked_about_as_one() {
    let s = Server::new().await;
    let double = answers(|request| {
        let replicas = request["object"]["spec"]["replicas"].as_i64().unwrap();
        let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": replicas * 2}]);
        json!({"patchType": "JSONPatch", "patch": base64::engine::general_purpose::STANDARD.encode(patch.to_string())})
    });
    let few = answers(|request| json!({"allowed": request["object"]["spec"]["replicas"].as_i64() < Some(10)}));
    let hooks = Hooks::start(vec![("double", double), ("few", few)]).await;
    for (kind, name) in [("mutating", "double"), ("validating", "few")] {
        let hook = hooks.hook(name, rules("apps", "v1", "deployments/scale"));
        s.post(&path_of(kind), json!({"metadata": {"name": "w"}, "webhooks": [hook]})).await.is(201);
    }
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let all = "/apis/apps/v1/namespaces/n/deployments";
    s.post(all, json!({"metadata": {"name": "d"}, "spec": spec})).await.is(201);
    let scale = format!("{all}/d/scale");
    let scaled = s.patch(&scale, MERGE, json!({"spec": {"replicas": 3}})).await.is(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(6)));
    assert_eq!(s.get(&format!("{all}/d")).await.is(200)["spec"]["replicas"], 6);
    s.patch(&scale, MERGE, json!({"spec": {"replicas": 5}})).await.is(400);
    let asked = &hooks.seen("few")[0];
    assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(asked["resource"], json!({"group": "apps", "version": "v1", "resource": "deployments"}));
    assert_eq!((&asked["subResource"], &asked["operation"]), (&json!("scale"), &json!("UPDATE")));
    let objects = (&asked["oldObject"]["spec"]["replicas"], &asked["object"]["spec"]["replicas"]);
    assert_eq!(objects, (&json!(1), &json!(6)));
    assert_eq!(asked["object"]["status"]["selector"], "a=b");
}
