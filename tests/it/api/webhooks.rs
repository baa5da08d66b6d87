//! Admission webhooks over real TLS: what they are asked, what their answers do, and what becomes of those that do not answer.
//!
//! Conformance, [sig-api-machinery] AdmissionWebhook: "should mutate configmap", "should mutate pod and apply defaults after
//! mutation", "should be able to deny pod and configmap creation", "should unconditionally reject operations on fail closed
//! webhook", "should honor timeout", "should be able to deny attaching pod", "should not be able to mutate or prevent deletion
//! of webhook configuration objects", "patching/updating a mutating webhook should work", "listing mutating webhooks should
//! work".

use base64::Engine;

use super::hooks::{Hooks, answers};
use super::*;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn patch(operations: Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"patchType": "JSONPatch", "patch": patch})
}

async fn register(server: &Server, path: &str, name: &str, hooks: Vec<Value>) {
    server.post(path, json!({"metadata": {"name": name}, "webhooks": hooks})).await.is(201);
}

#[tokio::test]
async fn objects_are_changed_in_order_and_defaulted() {
    let server = Server::new().await;
    let hooks = Hooks::start(vec![
        ("one", answers(|_| patch(json!([{"op": "add", "path": "/data", "value": {"one": "1"}}])))),
        ("two", answers(|r| {
            let seen = r["object"]["data"]["one"].as_str().unwrap_or("nothing").to_owned();
            patch(json!([{"op": "add", "path": "/data/two", "value": seen}]))
        })),
        ("pod", answers(|_| patch(json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "i", "image": "i", "bogus": 1}]}])))),
    ])
    .await;
    register(&server, MUTATING, "b", vec![hooks.hook("two", json!({}))]).await;
    register(&server, MUTATING, "a", vec![hooks.hook("one", json!({}))]).await;
    let pods = json!([{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["pods"]}]);
    register(&server, MUTATING, "pods", vec![hooks.hook("pod", json!({"rules": pods}))]).await;

    let made = server.config_map("m", json!({"labels": {"a": "b"}})).await.is(201);
    assert_eq!(made["data"], json!({"one": "1", "two": "1"}));
    let asked = &hooks.seen("one")[0];
    assert_eq!(asked["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(asked["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&asked["operation"], &asked["name"], &asked["namespace"]),
        (&json!("CREATE"), &json!("m"), &json!("n"))
    );
    assert_eq!((&asked["oldObject"], &asked["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!((&asked["userInfo"]["username"], &asked["options"]["kind"]), (&json!("admin"), &json!("CreateOptions")));
    assert_eq!(asked["object"]["kind"], "ConfigMap");

    let spec = json!({"containers": [{"name": "c", "image": "c"}]});
    let pod = server.post("/api/v1/namespaces/n/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await.is(201);
    let added = &pod["spec"]["initContainers"][0];
    assert_eq!((&added["terminationMessagePolicy"], added.get("bogus")), (&json!("File"), None));

    // Listed, changed, taken away: the next request sees it.
    assert_eq!(server.get(MUTATING).await.names(), ["a", "b", "pods"]);
    server.patch(&format!("{MUTATING}/a"), MERGE, json!({"webhooks": []})).await.is(200);
    server.delete(&format!("{MUTATING}/b"), json!({})).await.is(200);
    assert_eq!(server.config_map("m2", json!({})).await.is(201).get("data"), None);
}

#[tokio::test]
async fn earlier_webhooks_are_asked_again_when_later_ones_changed_something() {
    let server = Server::new().await;
    let hooks = Hooks::start(vec![
        (
            "count",
            answers(|r| {
                let times = r["object"]["data"]["times"].as_str().map_or(0, |t| t.parse::<u32>().unwrap()) + 1;
                let mut data = r["object"]["data"].as_object().cloned().unwrap_or_default();
                data.insert("times".into(), times.to_string().into());
                patch(json!([{"op": "add", "path": "/data", "value": data}]))
            }),
        ),
        ("later", answers(|_| patch(json!([{"op": "add", "path": "/data/later", "value": "x"}])))),
        ("same", answers(|_| json!({}))),
    ])
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    register(&server, MUTATING, "a", vec![hooks.hook("count", again.clone()), hooks.hook("later", json!({}))]).await;
    let made = server.config_map("m", json!({})).await.is(201);
    assert_eq!(made["data"], json!({"later": "x", "times": "2"}));
    assert_eq!(hooks.seen("later").len(), 1);

    server.delete(&format!("{MUTATING}/a"), json!({})).await.is(200);
    register(&server, MUTATING, "c", vec![hooks.hook("count", again), hooks.hook("same", json!({}))]).await;
    assert_eq!(server.config_map("m2", json!({})).await.is(201)["data"], json!({"times": "1"}));
}

#[tokio::test]
async fn refusals_reach_the_client_as_the_webhook_says() {
    let server = Server::new().await;
    let hooks = Hooks::start(vec![
        (
            "deny",
            answers(|r| match r["operation"].as_str() {
                Some("CREATE") if r["object"]["metadata"]["name"] == "bad" => {
                    json!({"allowed": false, "status": {"message": "not so", "code": 418}})
                }
                Some("UPDATE") if r["object"]["data"]["x"] != r["oldObject"]["data"]["x"] => json!({"allowed": false}),
                Some("DELETE") if r["oldObject"]["metadata"]["labels"]["keep"] == "yes" => {
                    json!({"allowed": false, "status": {"reason": "Forbidden", "code": 403}})
                }
                _ => json!({"warnings": ["beware"]}),
            }),
        ),
        (
            "attach",
            answers(|r| {
                assert_eq!((&r["operation"], &r["subResource"]), (&json!("CONNECT"), &json!("attach")));
                assert_eq!((&r["object"]["kind"], &r["object"]["stdin"]), (&json!("PodAttachOptions"), &json!(true)));
                json!({"allowed": false, "status": {"message": "attaching is not allowed"}})
            }),
        ),
    ])
    .await;
    let connect =
        json!([{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/attach"]}]);
    let all = vec![hooks.hook("deny", json!({})), hooks.hook("attach", json!({"rules": connect}))];
    register(&server, VALIDATING, "v", all).await;

    let refused = server.config_map("bad", json!({})).await.is(418);
    assert_eq!(refused["message"], "admission webhook \"deny.example.com\" denied the request: not so");
    let made = server.config_map("good", json!({"labels": {"keep": "yes"}})).await;
    assert_eq!((made.code, made.warnings), (201, 1));
    let path = format!("{MAPS}/good");
    let refused = server.patch(&path, MERGE, json!({"data": {"x": "1"}})).await.is(400);
    assert_eq!(refused["message"], "admission webhook \"deny.example.com\" denied the request without explanation");
    server.patch(&path, MERGE, json!({"metadata": {"annotations": {"a": "b"}}})).await.is(200);
    server.delete(&path, json!({})).await.is(403);
    server.delete(MAPS, json!({})).await.is(403);
    server.get(&path).await.is(200);
    let refused = server.post("/api/v1/namespaces/n/pods/p/attach?stdin=true&container=c", json!({})).await;
    assert!(refused.text.contains("attaching is not allowed"), "{}", refused.text);
}

#[tokio::test]
async fn what_does_not_answer_is_contained() {
    let server = Server::new().await;
    let hooks = Hooks::start(vec![
        ("liar", answers(|_| json!({"uid": "another"}))),
        ("torn", answers(|_| patch(json!([{"op": "remove", "path": "/data/none"}])))),
        ("odd", answers(|_| patch(json!([{"op": "add", "path": "/data", "value": 7}])))),
        ("dry", answers(|_| json!({}))),
    ])
    .await;
    let one = |name: &'static str, more: Value| (name, hooks.hook(name, more));
    let closed = [
        (one("hang", json!({"timeoutSeconds": 1})), "context deadline exceeded"),
        (one("liar", json!({})), "expected response.uid="),
        (one("torn", json!({})), ""),
        (one("odd", json!({})), ""),
    ];
    for ((name, hook), why) in closed {
        register(&server, MUTATING, name, vec![hook]).await;
        let refused = server.config_map("m", json!({})).await.is(500);
        let message = refused["message"].as_str().unwrap();
        assert!(message.starts_with("Internal error occurred: ") && message.contains(why), "{message}");
        if !why.is_empty() {
            assert!(message.contains(&format!("failed calling webhook \"{name}.example.com\": ")), "{message}");
        }
        server.delete(&format!("{MUTATING}/{name}"), json!({})).await.is(200);
    }
    // Nobody listens there, and the certificate of the other is of somebody else.
    let nowhere =
        json!({"clientConfig": {"url": "https://127.0.0.1:1/x", "caBundle": hooks.ca}, "failurePolicy": "Ignore"});
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let other = base64::engine::general_purpose::STANDARD.encode(other);
    let url = format!("https://{}/dry", hooks.address);
    let stranger = json!({"clientConfig": {"url": url, "caBundle": other}});
    register(&server, VALIDATING, "open", vec![hooks.hook("gone", nowhere)]).await;
    server.config_map("m", json!({})).await.is(201);
    register(&server, VALIDATING, "stranger", vec![hooks.hook("stranger", stranger)]).await;
    server.config_map("m2", json!({})).await.is(500);
    assert!(hooks.seen("dry").is_empty());

    // No configuration keeps another, or itself, from being taken away.
    let everything = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    register(&server, MUTATING, "lock", vec![hooks.hook("hang", json!({"rules": everything}))]).await;
    server.delete(&format!("{VALIDATING}/stranger"), json!({})).await.is(200);
    server.delete(&format!("{MUTATING}/lock"), json!({})).await.is(200);

    // A request that stores nothing may be looked at by those who say that they store nothing.
    let dry = [("dry", json!({"sideEffects": "NoneOnDryRun"}))];
    register(&server, VALIDATING, "dry", dry.into_iter().map(|(n, more)| hooks.hook(n, more)).collect()).await;
    server.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "m3"}})).await.is(201);
    assert_eq!(hooks.seen("dry")[0]["dryRun"], true);
}
