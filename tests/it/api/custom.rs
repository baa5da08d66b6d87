//! Kinds of CustomResourceDefinitions: served, read by their schemas, changed and removed while the server runs.

use std::time::Duration;

use serde_json::{Value, json};

use super::{APPLY, MERGE, Server, TABLE};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/n/crontabs";
/// Until a definition has done what it is to do, on the busiest machine.
pub(super) const LONG: Duration = Duration::from_secs(60);

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.copies",
                    "statusReplicasPath": ".status.copies", "labelSelectorPath": ".status.selector"}},
                 "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cron"},
                    {"name": "Copies", "type": "integer", "jsonPath": ".spec.copies"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
                 "selectableFields": [{"jsonPath": ".spec.cron"}],
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cron"], "properties": {
                        "cron": {"type": "string", "pattern": "^[0-9* ]+$"},
                        "copies": {"type": "integer", "default": 1, "maximum": 10},
                        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                            "items": {"type": "object", "required": ["port"], "properties": {
                                "port": {"type": "integer"}, "name": {"type": "string"}}}}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                 "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

impl Server {
    /// Waits until the answer to a GET is as wanted.
    pub(super) async fn until(&self, path: &str, what: &str, wanted: impl Fn(u16, &Value) -> bool) {
        let try_all = async {
            loop {
                let got = self.get(path).await;
                let body: Value = serde_json::from_str(&got.text).unwrap_or(Value::Null);
                if wanted(got.code, &body) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, try_all).await.unwrap_or_else(|_| panic!("{path}: {what}"));
    }

    /// Waits until a definition says that it is established.
    pub(super) async fn define(&self, definition: Value) {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        self.post(CRDS, definition).await.is(201);
        self.until(&format!("{CRDS}/{name}"), "established", |_, crd| is(crd, "Established", "True")).await;
    }
}

fn is(crd: &Value, kind: &str, status: &str) -> bool {
    let all = crd["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().any(|c| c["type"] == kind && c["status"] == status)
}

#[tokio::test]
async fn who_reads_established_may_ask_for_the_kind() {
    let s = Server::new().await;
    s.define(definition()).await;
    let list = s.get(TABS).await;
    assert_eq!(list.names(), Vec::<String>::new());
    assert_eq!(list.is(200)["kind"], "CronTabList");
    let group = s.get("/apis/stable.example.com").await.is(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let found = s.get("/apis/stable.example.com/v1").await.is(200);
    let names: Vec<&str> = found["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    let groups =
        s.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await.is(200);
    assert!(groups["items"].as_array().unwrap().iter().any(|g| g["metadata"]["name"] == "stable.example.com"));
    let paths = s.get("/openapi/v3").await.is(200);
    let url = paths["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let schemas = s.get(&url).await.is(200);
    assert!(schemas["components"]["schemas"]["com.example.stable.v1.CronTab"].is_object());
    let crd = s.get(&format!("{CRDS}/crontabs.stable.example.com")).await.is(200);
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
}

#[tokio::test]
async fn the_schema_prunes_defaults_and_validates() {
    let s = Server::new().await;
    s.define(definition()).await;
    let made = s.post(TABS, tab("a", json!({"cron": "* *", "nope": 1}))).await;
    assert_eq!((made.warnings, &made.is(201)["spec"]), (1, &json!({"cron": "* *", "copies": 1})));
    assert_eq!(made.is(201)["metadata"]["generation"], 1);
    s.post(&format!("{TABS}?fieldValidation=Strict"), tab("b", json!({"cron": "*", "nope": 1}))).await.is(400);
    let wrong = s.post(TABS, tab("b", json!({"cron": "x", "copies": 11}))).await.is(422);
    let fields: Vec<&str> =
        wrong["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!((fields.contains(&"spec.cron"), fields.contains(&"spec.copies"), fields.len()), (true, true, 2));
    s.post(TABS, json!({"kind": "CronTab", "metadata": {"name": "b"}})).await.is(400);
    s.post(TABS, json!({"apiVersion": "stable.example.com/v1", "kind": "Tab", "metadata": {"name": "b"}}))
        .await
        .is(422);
    let beta = s.get(&TABS.replace("/v1/", "/v1beta1/")).await;
    assert_eq!((beta.warnings, beta.names()), (1, vec!["a".to_owned()]));
    assert_eq!(beta.is(200)["items"][0]["apiVersion"], "stable.example.com/v1beta1");
}

#[tokio::test]
async fn status_and_scale_have_their_own_ways() {
    let s = Server::new().await;
    s.define(definition()).await;
    s.post(TABS, tab("a", json!({"cron": "*"}))).await.is(201);
    let a = format!("{TABS}/a");
    let main = s.patch(&a, MERGE, json!({"spec": {"copies": 2}, "status": {"copies": 9}})).await.is(200);
    assert_eq!((&main["metadata"]["generation"], main.get("status")), (&json!(2), None));
    let status = json!({"spec": {"copies": 5}, "status": {"copies": 2, "selector": "a=b",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let after = s.patch(&format!("{a}/status"), MERGE, status).await.is(200);
    assert_eq!((&after["spec"]["copies"], &after["metadata"]["generation"]), (&json!(2), &json!(2)));
    let scale = s.patch(&format!("{a}/scale"), MERGE, json!({"spec": {"replicas": 4}})).await.is(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(4), &json!("a=b")));
    s.patch(&format!("{a}/scale"), MERGE, json!({"spec": {"replicas": -1}})).await.is(422);
    let table = s.get_as(TABS, TABLE).await.is(200);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "*", 4, "True"]));
    s.post(TABS, tab("b", json!({"cron": "1"}))).await.is(201);
    assert_eq!(s.get(&format!("{TABS}?fieldSelector=spec.cron%3D1")).await.names(), ["b"]);
    s.get(&format!("{TABS}?fieldSelector=spec.copies%3D1")).await.is(400);
}

#[tokio::test]
async fn apply_merges_by_the_schemas_list_types() {
    let s = Server::new().await;
    s.define(definition()).await;
    let a = format!("{TABS}/a");
    let apply =
        async |manager: &str, spec: Value| s.patch(&format!("{a}?fieldManager={manager}"), APPLY, tab("a", spec)).await;
    apply("one", json!({"cron": "*", "ports": [{"port": 1, "name": "x"}]})).await.is(201);
    let both = apply("two", json!({"ports": [{"port": 2, "name": "y"}]})).await.is(200);
    assert_eq!(both["spec"]["ports"], json!([{"port": 1, "name": "x"}, {"port": 2, "name": "y"}]));
    apply("two", json!({"ports": [{"port": 1, "name": "z"}]})).await.is(409);
    let left = apply("one", json!({"cron": "*"})).await.is(200);
    assert_eq!(left["spec"]["ports"], json!([{"port": 2, "name": "y"}]));
}

#[tokio::test]
async fn a_new_default_shows_in_what_is_stored_already() {
    let s = Server::new().await;
    s.define(definition()).await;
    s.post(TABS, tab("a", json!({"cron": "*"}))).await.is(201);
    let spec = json!({"type": "object", "properties": {
        "cron": {"type": "string"}, "zone": {"type": "string", "default": "UTC"}}});
    let change = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec", "value": spec},
        {"op": "remove", "path": "/spec/versions/0/subresources/scale"},
        {"op": "replace", "path": "/spec/names/shortNames", "value": ["tab"]}]);
    s.patch(&format!("{CRDS}/crontabs.stable.example.com"), "application/json-patch+json", change).await.is(200);
    let wanted = json!({"cron": "*", "zone": "UTC"});
    s.until(&format!("{TABS}/a"), "pruned and defaulted as the new schema says", |_, o| o["spec"] == wanted).await;
    s.until("/apis/stable.example.com/v1", "the new short name", |_, l| {
        l["resources"][0]["shortNames"] == json!(["tab"])
    })
    .await;
    s.get(&format!("{TABS}/a/scale")).await.is(404);
}

#[tokio::test]
async fn a_definition_goes_after_its_last_object() {
    let s = Server::new().await;
    s.define(definition()).await;
    s.post(TABS, tab("a", json!({"cron": "*"}))).await.is(201);
    let mut held = tab("held", json!({"cron": "*"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    s.post(TABS, held).await.is(201);
    let crd = format!("{CRDS}/crontabs.stable.example.com");
    assert!(s.delete(&crd, json!({})).await.is(200)["metadata"]["deletionTimestamp"].is_string());
    s.until(&format!("{TABS}/a"), "deleted", |code, _| code == 404).await;
    let crd_now = s.get(&crd).await.is(200);
    assert!(is(&crd_now, "Terminating", "True"));
    s.until(&format!("{TABS}/held"), "marked", |_, o| o["metadata"]["deletionTimestamp"].is_string()).await;
    s.post(TABS, tab("late", json!({"cron": "*"}))).await.is(405);
    s.patch(&format!("{TABS}/held"), MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
    s.until(&crd, "gone", |code, _| code == 404).await;
    s.until(TABS, "not served", |code, _| code == 404).await;
    s.define(definition()).await;
    assert_eq!(s.get(TABS).await.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_deletion_that_is_a_phase_begins_without_a_grace() {
    let server = Server::new().await;
    server.define(definition()).await;
    server.post(TABS, tab("a", json!({"cron": "* *"}))).await.is(201);
    let list = server.get(TABS).await.is(200);
    assert_eq!(list["metadata"]["continue"], "", "a list without a type says that there is no more");
    let of = |kind: &str| {
        let (path, plural) = match kind {
            "Namespace" => ("/api/v1/namespaces/n".to_owned(), "namespaces"),
            _ => (format!("{CRDS}/crontabs.stable.example.com"), "customresourcedefinitions"),
        };
        (path, plural)
    };
    for kind in ["CustomResourceDefinition", "Namespace"] {
        let (path, plural) = of(kind);
        let before = server.get(&path).await.is(200)["metadata"]["generation"].clone();
        let wrong = server.delete(&path, json!({"preconditions": {"uid": "u"}})).await.is(409);
        assert_eq!(wrong["details"]["kind"], plural);
        let marked = server.delete(&format!("{path}?dryRun=All"), json!({"dryRun": ["All"]})).await.is(200);
        let metadata = &marked["metadata"];
        assert!(metadata["deletionTimestamp"].is_string(), "{marked}");
        assert_eq!((metadata.get("deletionGracePeriodSeconds"), &metadata["generation"]), (None, &before));
    }
}

#[tokio::test]
async fn a_taken_kind_is_not_served_twice() {
    let s = Server::new().await;
    s.define(definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = "others.stable.example.com".into();
    other["spec"]["names"] =
        json!({"plural": "others", "singular": "other", "kind": "CronTab", "listKind": "OtherList"});
    s.post(CRDS, other).await.is(201);
    let crd = format!("{CRDS}/others.stable.example.com");
    s.until(&crd, "refused", |_, c| is(c, "NamesAccepted", "False")).await;
    s.get("/apis/stable.example.com/v1/namespaces/n/others").await.is(404);
    s.delete(&format!("{CRDS}/crontabs.stable.example.com"), json!({})).await.is(200);
    s.until(&crd, "free, so accepted", |_, c| is(c, "Established", "True")).await;
    s.get("/apis/stable.example.com/v1/namespaces/n/others").await.is(200);
}

/// "[sig-api-machinery] AdmissionWebhook should mutate custom resource with different stored version", as far as it is the
/// definition's: whoever asks while the stored version changes gets the version that was asked for.
#[tokio::test]
async fn the_stored_version_changes_under_those_who_ask() {
    const OBJECTS: usize = 100;
    let s = Server::new().await;
    s.define(definition()).await;
    for n in 0..OBJECTS {
        s.post(TABS, tab(&format!("t{n:03}"), json!({"cron": "* *"}))).await.is(201);
    }
    let crd = format!("{CRDS}/crontabs.stable.example.com");
    let is = |object: &Value, version: &str| {
        assert_eq!(
            (&object["apiVersion"], &object["kind"]),
            (&json!(format!("stable.example.com/{version}")), &json!("CronTab"))
        );
    };
    let done = std::cell::Cell::new(false);
    let change = async {
        for round in 0..10 {
            let stored = |at: usize| json!({"op": "replace", "path": format!("/spec/versions/{at}/storage"), "value": at == round % 2});
            s.patch(&crd, "application/json-patch+json", json!([stored(0), stored(1)])).await.is(200);
            // Long enough for the others to meet both states and what lies between.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.set(true);
    };
    let ask = |version: &'static str| {
        let (s, done) = (&s, &done);
        async move {
            let tabs = TABS.replace("/v1/", &format!("/{version}/"));
            let mut n = 0;
            while !done.get() {
                n += 1;
                let one = format!("{tabs}/t{:03}", n % OBJECTS);
                is(&s.get(&one).await.is(200), version);
                let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": {"n": n.to_string()}}]);
                is(&s.patch(&one, "application/json-patch+json", patch).await.is(200), version);
                for object in s.get(&tabs).await.is(200)["items"].as_array().unwrap() {
                    is(object, version);
                }
                tokio::task::yield_now().await;
            }
        }
    };
    futures::join!(change, ask("v1"), ask("v1beta1"));
}
