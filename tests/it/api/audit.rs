//! What is kept of requests: a policy, a log file and a webhook, as a client's requests fill them.

use std::time::Duration;

use http_body_util::StreamBody;
use hyper::body::Frame;
use orch::apiserver::audit::{self, Audit};

use super::services::Service;
use super::*;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- {level: None, users: [unseen]}
- {level: None, verbs: [get], nonResourceURLs: [/version]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}]}
- {level: Request, resources: [{group: "", resources: [pods]}], omitStages: [RequestReceived]}
- {level: Metadata}
"#;

/// A server whose requests are audited; the task ends once the log is written.
async fn audited(settings: audit::Settings) -> (Server, Shutdown, tokio::task::JoinHandle<()>) {
    orch::pki::install_provider();
    let audit = Audit::open(settings, Arc::new(SystemClock)).await.unwrap();
    let (stop, running) = (Shutdown::new(), audit.clone());
    let end = stop.clone();
    let task = tokio::spawn(async move { running.run(end).await });
    let server = Server::with(Setup { audit: Some(audit), ..Setup::default() }).await;
    (server, stop, task)
}

fn policy(dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("policy.yaml");
    std::fs::write(&path, POLICY).unwrap();
    path
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn the_log_says_who_did_what_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let log = Some(audit::log::Settings { path: path.clone(), ..Default::default() });
    let (server, stop, task) = audited(audit::Settings { policy: policy(dir.path()), log, webhook: None }).await;

    server.config_map("m", json!({})).await.is(201);
    let body = json!({"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}});
    server.post("/api/v1/namespaces/n/secrets", body).await.is(201);
    server.get("/api/v1/namespaces/n/secrets/none?x=y").await.is(404);
    server.get("/version").await.is(200);
    server.as_user("unseen", "GET", "/api/v1/nodes", Value::Null).await.is(403);
    server.as_user("jane", "GET", MAPS, Value::Null).await.is(403);
    server.delete(&format!("{MAPS}/m"), json!({})).await.is(200);
    server
        .patch(
            "/api/v1/namespaces/n",
            MERGE,
            json!({"metadata": {"labels": {
                "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted",
            }}}),
        )
        .await
        .is(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let spec = json!({"validations": [{"expression": "false", "message": "careful"}], "auditAnnotations": [
        {"key": "size", "valueExpression": "string(object.data.size()) + ' of ' + object.metadata.name"},
        {"key": "none", "valueExpression": "null"}, {"key": "blank", "valueExpression": "'  '"}]});
    server.policy("validating", spec, json!({"validationActions": ["Audit"]})).await;
    server.post(MAPS, json!({"metadata": {"name": "noted"}, "data": {"a": "b"}})).await.is(201);
    // What has no value is refused, whatever the binding does with what is found.
    server.post(MAPS, json!({"metadata": {"name": "bare"}})).await.is(422);
    server.outside("GET", "/api/v1/nodes", Some("nonsense"), Value::Null).await.is(401);
    server.outside("GET", "/version", Some("nonsense"), Value::Null).await.is(401);
    stop.trigger();
    task.await.unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("aHVudGVyMg"), "bodies only where they are asked for");
    let all = lines(&path);
    let of = |stage: &str, verb: &str, resource: &str| -> Vec<&Value> {
        let here = |e: &&Value| e["stage"] == stage && e["verb"] == verb && e["objectRef"]["resource"] == resource;
        all.iter().filter(here).collect()
    };
    // A ConfigMap with its bodies, without managed fields; both events are of one request.
    let made = of("ResponseComplete", "create", "configmaps")[0];
    assert_eq!(
        (&made["level"], &made["responseStatus"]),
        (&json!("RequestResponse"), &json!({"metadata": {}, "code": 201}))
    );
    assert_eq!(made["objectRef"], json!({"resource": "configmaps", "namespace": "n", "apiVersion": "v1", "name": "m"}));
    assert_eq!(made["requestObject"]["metadata"], json!({"name": "m"}));
    assert!(made["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(made["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!((&made["user"]["username"], &made["sourceIPs"]), (&json!("admin"), &json!(["127.0.0.1"])));
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let received = of("RequestReceived", "create", "configmaps")[0];
    assert_eq!((&received["auditID"], received.get("requestObject")), (&made["auditID"], None));
    // A Secret without.
    let secret = of("ResponseComplete", "create", "secrets")[0];
    assert_eq!((&secret["objectRef"]["name"], secret.get("requestObject")), (&json!("s"), None));
    let missing = of("ResponseComplete", "get", "secrets")[0];
    assert_eq!(missing["requestURI"], "/api/v1/namespaces/n/secrets/none?x=y");
    assert_eq!(
        (&missing["responseStatus"]["reason"], &missing["responseStatus"]["code"]),
        (&json!("NotFound"), &json!(404))
    );
    // Who is impersonated; the decision is about them.
    let refused = of("ResponseComplete", "list", "configmaps")[0];
    assert_eq!(
        (&refused["user"]["username"], &refused["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("jane"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    let deleted = of("ResponseComplete", "delete", "configmaps")[0];
    assert_eq!(
        (&deleted["responseStatus"]["status"], &deleted["responseObject"]["kind"]),
        (&json!("Success"), &json!("Status"))
    );
    // What admission noted.
    let pod = of("ResponseComplete", "create", "pods")[0];
    assert_eq!(pod["annotations"]["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let noted = pod["annotations"]["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(noted.starts_with("would violate PodSecurity \"restricted:latest\""), "{noted}");
    assert!(pod["requestObject"]["spec"].is_object() && pod.get("responseObject").is_none());
    assert!(of("RequestReceived", "create", "pods").is_empty());
    let map = of("ResponseComplete", "create", "configmaps")[1];
    assert_eq!(map["annotations"]["p/size"], "1 of noted");
    assert_eq!((map["annotations"].get("p/none"), map["annotations"].get("p/blank")), (None, None));
    let failure = map["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    assert_eq!(
        failure,
        json!([{"message": "careful", "policy": "p", "binding": "b", "expressionIndex": 0, "validationActions": ["Audit"]}])
    );
    // Nobody knows who it was; the policy is asked all the same.
    let unknown = of("ResponseStarted", "list", "nodes")[0];
    assert_eq!((&unknown["user"], &unknown["responseStatus"]["code"]), (&json!({}), &json!(401)));
    assert!(all.iter().all(|e| e["requestURI"] != "/version" && e["impersonatedUser"]["username"] != "unseen"
        || e["user"]["username"] == "admin"));
}

#[tokio::test]
async fn the_webhook_gets_batches_and_a_watch_is_told_of_twice() {
    let dir = tempfile::tempdir().unwrap();
    let failures = std::sync::atomic::AtomicUsize::new(1);
    // The first batch is not taken: it comes again.
    let sink = Service::start(Box::new(move |path, _| {
        assert_eq!(path, "/audit");
        let fails =
            failures.fetch_update(std::sync::atomic::Ordering::SeqCst, std::sync::atomic::Ordering::SeqCst, |n| {
                n.checked_sub(1)
            });
        (if fails.is_ok() { 503 } else { 200 }, json!({}))
    }))
    .await;
    let webhook = audit::webhook::Settings {
        file: sink.kubeconfig(dir.path(), "audit"),
        buffer: 1000,
        batch: 3,
        wait: Duration::from_millis(10),
        backoff: Duration::from_millis(1),
    };
    let settings = audit::Settings { policy: policy(dir.path()), log: None, webhook: Some(webhook) };
    let (server, stop, task) = audited(settings).await;
    server.config_map("m", json!({})).await.is(201);
    server.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await.is(200);
    let stages = |batches: &[Value]| -> Vec<String> {
        let events = batches.iter().flat_map(|b| b["items"].as_array().cloned().unwrap_or_default());
        let watches = events.filter(|e| e["verb"] == "watch");
        watches.map(|e| e["stage"].as_str().unwrap().to_owned()).collect()
    };
    let all = sink.until(|seen| stages(seen).iter().any(|s| s == "ResponseComplete")).await;
    assert!(all.iter().all(|b| b["kind"] == "EventList" && b["items"].as_array().unwrap().len() <= 3));
    assert_eq!(all[0], all[1], "sent again");
    let mut of_watch = stages(&all);
    of_watch.dedup();
    assert_eq!(of_watch, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);

    // A client that goes away in the middle of its request is told of, too.
    let of_leases = |batches: &[Value], stage: &str| -> Vec<Value> {
        let events = batches.iter().flat_map(|b| b["items"].as_array().cloned().unwrap_or_default());
        events.filter(|e| e["objectRef"]["resource"] == "leases" && e["stage"] == stage).collect()
    };
    let endless = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
    let path = "/apis/coordination.k8s.io/v1/namespaces/n/leases";
    let request = Request::builder().method("POST").uri(path).body(endless).unwrap();
    tokio::select! {
        _ = tower::Service::call(&mut server.service.clone(), request) => panic!("it never ends"),
        _ = sink.until(|seen| !of_leases(seen, "RequestReceived").is_empty()) => {}
    }
    let all = sink.until(|seen| !of_leases(seen, "ResponseComplete").is_empty()).await;
    assert_eq!(of_leases(&all, "ResponseComplete")[0]["responseStatus"]["message"], "Connection closed early");
    stop.trigger();
    task.await.unwrap();
}
