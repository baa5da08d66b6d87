//! What Kubernetes would refuse is refused, with its status, reason and field path; nothing is lost or half done.

use std::process::{Command, Stdio};

use serde_json::Value;
use test_case::test_case;

use crate::harness::{Cluster, Ran, orch};

const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {k: v}\n";
const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  \
    selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
    spec: {containers: [{name: c, image: i}]}\n";

/// One line of refusal on standard error, and nothing else.
#[track_caller]
fn refused(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part:?} is missing in {}", ran.stderr);
    }
}

#[test]
fn manifests_with_mistakes_are_refused_with_the_place_of_the_mistake() {
    let cluster = Cluster::without_node();
    let apply = |manifest: &str| cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], manifest);
    let create = |manifest: &str| cluster.kubectl_with(&["create", "-f", "-"], manifest);

    refused(&apply(&DEPLOYMENT.replace("replicas", "replcas")), &["replcas"]);
    refused(&create(&DEPLOYMENT.replace("replicas", "replcas")), &["unknown field \"spec.replcas\""]);
    refused(&create(&DEPLOYMENT.replace("replicas: 1", "replicas: one")), &["replicas"]);
    refused(&create(&DEPLOYMENT.replace("replicas: 1", "replicas: -1")), &["spec.replicas: Invalid value: -1"]);
    refused(
        &create(&DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}")),
        &["spec.template.metadata.labels", "`selector` does not match"],
    );
    // With validation by the client, kubectl asks for OpenAPI v2 as protobuf first.
    let unknown = DEPLOYMENT.replace("kind: Deployment", "kind: Deploiment");
    let ran = cluster.kubectl_with(&["create", "-f", "-"], &unknown);
    refused(&ran, &["no matches for kind \"Deploiment\""]);
    refused(&create(&GOOD.replace("name: good", "name: Not_Good")), &["metadata.name: Invalid value: \"Not_Good\""]);
    assert_eq!(
        cluster.k(&["get", "deployments,configmaps", "-o", "name"]),
        "configmap/kube-root-ca.crt",
        "nothing was created"
    );

    assert_eq!(create(GOOD).code, Some(0));
    refused(&create(GOOD), &["AlreadyExists", "configmaps \"good\" already exists"]);
    // Somebody else was faster.
    let mut stale = cluster.get("configmap", "good");
    cluster.k(&["label", "configmap", "good", "a=b"]);
    stale["data"]["k"] = "mine".into();
    let conflict = cluster.kubectl_with(&["replace", "-f", "-"], &stale.to_string());
    refused(&conflict, &["Conflict", "the object has been modified"]);
    assert_eq!(cluster.field("configmap", "good", "/data/k"), "v", "and what they wrote is there");
}

/// What the server itself says to a body, without a client's opinion.
#[test_case("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"1\",\"k\":\"2\"}}", 400, "BadRequest", "duplicate field \\\"data.k\\\""; "duplicate key")]
#[test_case("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"dota\":{}}", 400, "BadRequest", "unknown field \\\"dota\\\""; "unknown field")]
#[test_case("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":", 400, "BadRequest", ""; "torn JSON")]
#[test_case("{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"a\"}}", 400, "BadRequest", ""; "another kind")]
#[test_case("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":7}", 400, "BadRequest", "data"; "another type")]
fn a_bad_body_is_a_status(body: &str, code: u16, reason: &str, message: &str) {
    let cluster = Cluster::without_node();
    let (got, status) =
        cluster.post("/api/v1/namespaces/default/configmaps?fieldValidation=Strict", None, body.as_bytes());
    let parsed: Value = serde_json::from_str(&status).unwrap_or_else(|e| panic!("{e}: {status}"));
    assert_eq!(
        (got, parsed["kind"].as_str(), parsed["reason"].as_str()),
        (code, Some("Status"), Some(reason)),
        "{status}"
    );
    assert!(status.contains(message), "{status}");
}

#[test]
fn a_body_of_four_megabytes_is_too_much_and_a_wrong_token_is_nobody() {
    let cluster = Cluster::without_node();
    let path = "/api/v1/namespaces/default/configmaps";
    let body = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(4 << 20)
    );
    let reason = |(code, status): (u16, String)| {
        let status: Value = serde_json::from_str(&status).unwrap_or_else(|e| panic!("{e}: {status}"));
        assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &code.into()), "{status}");
        (code, status["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(reason(cluster.post(path, None, body.as_bytes())), (413, "RequestEntityTooLarge".to_owned()));
    let wrong = cluster.post(path, Some("not-a-token"), GOOD.as_bytes());
    assert_eq!(reason(wrong), (401, "Unauthorized".to_owned()));
    assert_eq!(cluster.k(&["get", "configmaps", "-o", "name"]), "configmap/kube-root-ca.crt");
}

#[test]
fn a_port_in_use_is_told_in_one_line() {
    let cluster = Cluster::without_node();
    let second: Ran = cluster
        .machine
        .run(|| cluster.server_command(&["--data-dir", "/nonexistent/never-made"]).output())
        .unwrap()
        .into();
    assert_eq!(second.code, Some(1));
    let error = second.stderr.lines().filter(|l| l.starts_with("error: ")).collect::<Vec<_>>();
    assert_eq!(error.len(), 1, "{}", second.stderr);
    assert!(error[0].contains("0.0.0.0:6443") && error[0].contains("--https-listen-port"), "{}", error[0]);
    assert!(!std::path::Path::new("/nonexistent").exists(), "the port is tried before anything is made");
}

#[test]
fn an_image_that_cannot_be_had_is_named_in_the_pods_status() {
    let cluster = Cluster::with_node();
    cluster.k(&["run", "nowhere", "--image=localhost:1/none:1", "--restart=Never"]);
    let waiting =
        |what: &str| cluster.field("pod", "nowhere", &format!("/status/containerStatuses/0/state/waiting/{what}"));
    let mut seen = std::collections::BTreeSet::new();
    cluster.eventually("the pull fails and is held back", || {
        if let Some(reason) = waiting("reason").as_str() {
            seen.insert(reason.to_owned());
        }
        seen.contains("ImagePullBackOff")
    });
    assert!(
        seen.iter().all(|r| ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"].contains(&r.as_str())),
        "{seen:?}"
    );
    assert!(waiting("message").as_str().unwrap().contains("localhost:1/none:1"));
    assert_eq!(cluster.field("pod", "nowhere", "/status/phase"), "Pending");
    cluster.k(&["delete", "pod", "nowhere", "--timeout=60s"]);

    cluster.k(&["run", "absent", "--image=localhost:1/none:1", "--image-pull-policy=Never"]);
    cluster.eventually("an image that must be here is not", || {
        cluster.field("pod", "absent", "/status/containerStatuses/0/state/waiting/reason") == "ErrImageNeverPull"
    });
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut cluster = Cluster::without_node_on_a_disk_of(24);
    let path = "/api/v1/namespaces/default/configmaps";
    let body = |n: usize| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"part-{n}\"}},\"data\":{{\"k\":\"{}\"}}}}",
            "x".repeat(512 << 10)
        )
    };
    let mut stored = 0;
    let refusal = loop {
        assert!(stored < 100, "fifty megabytes do not fit on that disk");
        let (code, answer) = cluster.post(path, None, body(stored).as_bytes());
        if code != 201 {
            break (code, answer);
        }
        stored += 1;
    };
    assert!(stored > 5, "the disk had room for some: {refusal:?}");
    let status: Value = serde_json::from_str(&refusal.1).unwrap_or_else(|e| panic!("{e}: {refusal:?}"));
    assert_eq!((refusal.0, &status["kind"], &status["reason"]), (500, &"Status".into(), &"InternalError".into()));
    let why = status["message"].as_str().unwrap();
    assert!(why.contains("read-only") && why.contains("No space left"), "{why}");
    assert_ne!(cluster.kubectl(&["get", "--raw", "/readyz"]).code, Some(0), "it is not ready to write");
    assert_eq!(cluster.k(&["get", "--raw", "/livez"]), "ok", "and a restart would not help");

    let names = |cluster: &Cluster| {
        let all = cluster.k(&["get", "configmaps", "-o", "name"]);
        all.lines().filter(|n| n.contains("part-")).count()
    };
    assert_eq!(names(&cluster), stored, "reads go on, and what was refused is not there");
    let again = cluster.kubectl(&["create", "configmap", "small"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(again.stderr.lines().count(), 1, "{again:?}");

    // With room again a restart is all it takes.
    cluster.resize_disk(128);
    cluster.end_server(nix::sys::signal::Signal::SIGTERM);
    cluster.start();
    assert_eq!(names(&cluster), stored, "every acknowledged write is there");
    cluster.k(&["create", "configmap", "small"]);
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let mut check = Command::new(orch());
    let mut child = check.arg("check").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    // What it found is its own affair.
    assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}
