//! Versions of a CustomResourceDefinition that a webhook converts, over real TLS.
//!
//! Conformance, [sig-api-machinery] CustomResourceConversionWebhook: "should be able to convert a non homogeneous list of
//! CRs", "should be able to convert from CR v1 to CR v2".
//! Conformance, [sig-api-machinery] CustomResourceFieldSelectors: "MUST list and watch custom resources matching the field
//! selector".

use super::hooks::{Hooks, answers};
use super::*;

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/n/tools";
const V2: &str = "/apis/stable.example.com/v2/namespaces/n/tools";

/// v1 has `hostPort: h:p`, v2 has `host` and `port`. A name that begins with `lie` is converted wrongly.
fn converted(object: &Value, desired: &str) -> Value {
    let mut made = object.clone();
    made["apiVersion"] = desired.into();
    let fields = made.as_object_mut().unwrap();
    if desired.ends_with("/v2") {
        let text = fields.remove("hostPort").unwrap_or_default();
        let (host, port) = text.as_str().unwrap_or("?:0").split_once(':').unwrap();
        fields.insert("host".into(), host.into());
        fields.insert("port".into(), port.into());
    } else {
        let part = |v: Option<Value>| v.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let (host, port) = (part(fields.remove("host")), part(fields.remove("port")));
        fields.insert("hostPort".into(), format!("{host}:{port}").into());
    }
    let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.starts_with("lie-uid") {
        made["metadata"]["uid"] = "another".into();
    }
    if name.starts_with("lie-finalizer") {
        made["metadata"]["finalizers"] = json!(["example.com/mine"]);
    }
    made["metadata"]["annotations"] = json!({"converted": desired});
    made
}

fn definition(hooks: &Hooks, stored: &str) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, fields: &[&str]| {
        let mut properties = serde_json::Map::new();
        for field in fields {
            properties.insert((*field).into(), text.clone());
        }
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": name == stored, "selectableFields": selectable,
            "additionalPrinterColumns": [{"name": "First", "type": "string", "jsonPath": format!(".{}", fields[0])}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tools.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "tools", "singular": "tool", "kind": "Tool"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"url": format!("https://{}/convert", hooks.address), "caBundle": hooks.ca}}},
            "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])]}})
}

fn tool(version: &str, name: &str, fields: Value) -> Value {
    let mut tool =
        json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "Tool", "metadata": {"name": name}});
    tool.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    tool
}

async fn served(stored: &str) -> (Server, Hooks) {
    let server = Server::new().await;
    let convert = answers(|request| {
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        let objects = request["objects"].as_array().unwrap();
        if objects.iter().any(|o| o["metadata"]["name"] == "lie-refuse") {
            return json!({"result": {"status": "Failure", "message": "I will not"}});
        }
        json!({"convertedObjects": objects.iter().map(|o| converted(o, desired)).collect::<Vec<_>>()})
    });
    let hooks = Hooks::start(vec![("convert", convert)]).await;
    server.define(definition(&hooks, stored)).await;
    (server, hooks)
}

#[tokio::test]
async fn an_object_reads_in_each_version() {
    let (s, hooks) = served("v1").await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    assert!(hooks.seen("convert").is_empty(), "the stored version needs no conversion");
    let got = s.get(&format!("{V2}/a")).await.is(200);
    assert_eq!((&got["host"], &got["port"], &got["hostPort"]), (&json!("h"), &json!("1"), &Value::Null));
    assert_eq!((&got["apiVersion"], &got["kind"]), (&json!("stable.example.com/v2"), &json!("Tool")));
    assert_eq!(got["metadata"]["annotations"], json!({"converted": "stable.example.com/v2"}));
    let asked = hooks.seen("convert");
    assert_eq!((asked.len(), &asked[0]["desiredAPIVersion"]), (1, &json!("stable.example.com/v2")));
    assert_eq!(asked[0]["objects"][0]["hostPort"], "h:1");
    // Another reader of the same revision asks nobody.
    let table = s.get_as(&format!("{V2}/a"), TABLE).await.is(200);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "h"]));
    assert_eq!(hooks.seen("convert").len(), 0);

    let made = s.post(V2, tool("v2", "b", json!({"host": "x", "port": "2"}))).await.is(201);
    assert_eq!((&made["host"], &made["apiVersion"]), (&json!("x"), &json!("stable.example.com/v2")));
    assert_eq!(s.get(&format!("{V1}/b")).await.is(200)["hostPort"], "x:2", "stored as v1");
    s.delete(&format!("{V2}/b"), json!({})).await.is(200);
    s.get(&format!("{V1}/b")).await.is(404);
}

#[tokio::test]
async fn writes_go_through_the_version_of_the_request() {
    let (s, _hooks) = served("v1").await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    let path = format!("{V2}/a");
    let patched = s.patch(&path, MERGE, json!({"port": "7"})).await.is(200);
    assert_eq!((&patched["host"], &patched["port"]), (&json!("h"), &json!("7")));
    let mut read = s.get(&path).await.is(200);
    read["host"] = "k".into();
    assert_eq!(s.put(&path, read).await.is(200)["host"], "k");
    assert_eq!(s.get(&format!("{V1}/a")).await.is(200)["hostPort"], "k:7");
    let applied = tool("v2", "a", json!({"port": "9"}));
    let got = s.patch(&format!("{path}?fieldManager=me&force=true"), APPLY, applied).await.is(200);
    assert_eq!((&got["host"], &got["port"]), (&json!("k"), &json!("9")));
    let created = tool("v2", "new", json!({"host": "n", "port": "1"}));
    let got = s.patch(&format!("{V2}/new?fieldManager=me"), APPLY, created).await.is(201);
    assert_eq!((&got["host"], &got["apiVersion"]), (&json!("n"), &json!("stable.example.com/v2")));
    assert_eq!(s.get(&format!("{V1}/new")).await.is(200)["hostPort"], "n:1");
    // What changes nothing writes nothing.
    let before = s.get(&path).await.is(200);
    let after = s.patch(&path, MERGE, json!({"port": "9"})).await.is(200);
    assert_eq!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_list_of_objects_that_were_stored_in_several_versions() {
    let (s, hooks) = served("v1").await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    let crd = format!("{CRD}/tools.stable.example.com");
    s.patch(
        &crd,
        "application/json-patch+json",
        json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]),
    )
    .await
    .is(200);
    // The new stored version is in force once an object that is written needs no conversion.
    let mut n = 0;
    loop {
        n += 1;
        hooks.seen("convert");
        s.post(V2, tool("v2", &format!("b{n}"), json!({"host": "x", "port": "2"}))).await.is(201);
        if hooks.seen("convert").is_empty() {
            break;
        }
        assert!(n < 1000, "the stored version stays as it was");
        tokio::task::yield_now().await;
    }
    let newest = format!("b{n}");
    for (path, version) in [(V1, "v1"), (V2, "v2")] {
        let list = s.get(path).await.is(200);
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), n + 1);
        assert!(items.iter().all(|i| i["apiVersion"] == format!("stable.example.com/{version}")), "{list}");
    }
    let one = s.get(&format!("{V1}?fieldSelector=hostPort%3Dx:2&limit=1")).await;
    assert_eq!(one.names().len(), 1);
    assert_eq!(s.get(&format!("{V2}?fieldSelector=host%3Dh")).await.names(), ["a"]);
    // An update that changes nothing brings an object into the stored version, once.
    let (a, merge) = (format!("{V2}/a"), json!({}));
    let before = s.get(&a).await.is(200)["metadata"]["resourceVersion"].clone();
    let moved = s.patch(&a, MERGE, merge.clone()).await.is(200)["metadata"]["resourceVersion"].clone();
    assert_ne!(before, moved);
    assert_eq!(s.patch(&a, MERGE, merge).await.is(200)["metadata"]["resourceVersion"], moved);
    assert_eq!(s.get(&format!("{V1}/{newest}")).await.is(200)["hostPort"], "x:2");
}

#[tokio::test]
async fn a_watch_speaks_its_version() {
    let (s, _hooks) = served("v1").await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    s.post(V1, tool("v1", "b", json!({"hostPort": "x:1"}))).await.is(201);
    s.patch(&format!("{V1}/a"), MERGE, json!({"hostPort": "x:1"})).await.is(200);
    s.delete(&format!("{V1}/b"), json!({})).await.is(200);
    let watch = s.get(&format!("{V2}?watch=1&resourceVersion=1&timeoutSeconds=1&fieldSelector=host%3Dx")).await;
    assert_eq!(watch.events(), ["ADDED b", "ADDED a", "DELETED b"]);
    for line in watch.text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["object"]["apiVersion"], &event["object"]["host"]),
            (&json!("stable.example.com/v2"), &json!("x"))
        );
    }
}

#[tokio::test]
async fn fields_select_in_each_version() {
    let (s, _hooks) = served("v1").await;
    let since = s.get(V2).await.is(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let made = [("a", "host1", "80"), ("b", "host1", "8080"), ("c", "host2", "80")];
    for (name, host, port) in made {
        s.post(V2, tool("v2", name, json!({"host": host, "port": port}))).await.is(201);
    }
    let (host, both) = ("host%3Dhost1", "host%3Dhost1,port%3D80");
    let selections: [(&str, &str, &[&str]); 4] = [
        (V2, host, &["a", "b"]),
        (V2, both, &["a"]),
        (V1, "hostPort%3Dhost1:80", &["a"]),
        (V1, "hostPort%3Dhost1:8080", &["b"]),
    ];
    for (path, selector, want) in selections {
        assert_eq!(s.get(&format!("{path}?fieldSelector={selector}")).await.names(), want, "{selector}");
    }
    // One is deleted by its fields, the other leaves the selection.
    s.delete(&format!("{V2}?fieldSelector={both}"), json!({"gracePeriodSeconds": 0})).await.is(200);
    s.patch(&format!("{V2}/b"), MERGE, json!({"host": "host2"})).await.is(200);
    for (path, selector, was) in selections {
        assert_eq!(s.get(&format!("{path}?fieldSelector={selector}")).await.names(), [""; 0], "{selector}");
        let watch = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={since}&fieldSelector={selector}");
        let told = |event: &str| was.iter().map(|name| format!("{event} {name}")).collect::<Vec<_>>();
        assert_eq!(s.get(&watch).await.events(), [told("ADDED"), told("DELETED")].concat(), "{selector}");
    }
}

/// A rule for tools of version 2, which requests of version 1 meet as well.
fn of_v2(operation: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": ["stable.example.com"], "apiVersions": ["v2"], "operations": [operation],
        "resources": ["tools"]}]})
}

#[tokio::test]
async fn a_policy_sees_the_version_that_it_names_and_so_do_its_parameters() {
    let (s, _hooks) = served("v1").await;
    s.post(V1, tool("v1", "limits", json!({"hostPort": "most:5"}))).await.is(201);
    let spec = json!({"matchConstraints": of_v2("CREATE"),
        "paramKind": {"apiVersion": "stable.example.com/v2", "kind": "Tool"},
        "validations": [{"expression": "int(object.port) <= int(params.port)", "messageExpression": "object.host + ' of ' + params.host"}]});
    let param = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    s.policy("validating", spec, json!({"validationActions": ["Deny"], "paramRef": param})).await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:4"}))).await.is(201);
    let told = s.post(V1, tool("v1", "b", json!({"hostPort": "h:6"}))).await.is(422);
    assert!(told["message"].as_str().unwrap().ends_with("denied request: h of most"), "{told}");
    s.post(V2, tool("v2", "b", json!({"host": "x", "port": "6"}))).await.is(422);
    // What cannot be converted cannot be judged.
    let told = s.post(V1, tool("v1", "lie-refuse", json!({"hostPort": "h:1"}))).await.is(422);
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("failed to convert object version") && message.ends_with("I will not"), "{message}");
}

#[tokio::test]
async fn a_mutation_of_the_version_that_a_policy_names_comes_back_in_the_requests() {
    let (s, _hooks) = served("v1").await;
    let set = |field: &str, value: &str| {
        let expression = format!("[JSONPatch{{op: 'replace', path: '/{field}', value: object.{field} + '{value}'}}]");
        json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
    };
    let spec = json!({"matchConstraints": of_v2("CREATE"), "mutations": [set("host", "x"), set("port", "0")],
        "failurePolicy": "Ignore"});
    s.policy("mutating", spec, json!({})).await;
    let made = s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    assert_eq!(json!([made["apiVersion"], made["hostPort"]]), json!(["stable.example.com/v1", "hx:10"]));
    assert_eq!(s.get(&format!("{V1}/a")).await.is(200)["hostPort"], "hx:10");
    // Without a conversion it does nothing, and is not needed.
    let made = s.post(V1, tool("v1", "lie-refuse", json!({"hostPort": "h:1"}))).await.is(201);
    assert_eq!(made["hostPort"], "h:1");
}

#[tokio::test]
async fn a_webhook_that_lies_converts_nothing() {
    let (s, _hooks) = served("v1").await;
    for name in ["lie-uid", "lie-refuse", "lie-finalizer"] {
        s.post(V1, tool("v1", name, json!({"hostPort": "h:1"}))).await.is(201);
    }
    let says = |got: Value| got["message"].as_str().unwrap().to_owned();
    let why = says(s.get(&format!("{V2}/lie-uid")).await.is(500));
    assert!(
        why.starts_with(
            "conversion webhook for stable.example.com/v1, Kind=Tool returned invalid object: must have the same UID"
        ),
        "{why}"
    );
    let why = says(s.get(&format!("{V2}/lie-refuse")).await.is(500));
    assert_eq!(why, "conversion webhook for stable.example.com/v1, Kind=Tool failed: I will not");
    assert_eq!(s.get(&format!("{V2}/lie-finalizer")).await.is(200)["metadata"]["finalizers"], Value::Null);
    s.get(V2).await.is(500);
    s.get(V1).await.is(200);
}

#[tokio::test]
async fn a_webhook_that_is_away_fails_only_what_needs_it() {
    let (s, hooks) = served("v1").await;
    s.post(V1, tool("v1", "a", json!({"hostPort": "h:1"}))).await.is(201);
    let service = json!({"url": null, "caBundle": hooks.ca, "service": {"namespace": "n", "name": "none"}});
    let crd = format!("{CRD}/tools.stable.example.com");
    s.patch(&crd, MERGE, json!({"spec": {"conversion": {"webhook": {"clientConfig": service}}}})).await.is(200);
    s.until(&format!("{V2}/a"), "the Service is asked", |code, body| {
        code == 500 && body["message"].as_str().unwrap().contains("service \"none\" not found")
    })
    .await;
    s.get(&format!("{V1}/a")).await.is(200);
    s.post(V2, tool("v2", "b", json!({"host": "h"}))).await.is(500);
    s.get(&format!("{V1}/b")).await.is(404);
}
