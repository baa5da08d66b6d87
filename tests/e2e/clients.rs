//! Clients that nobody here wrote, against a server with no node: the official Python client, the Go client with protobuf,
//! the `kube` crate, Helm. Kubectl is everywhere else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::harness::{Cluster, Ran};

fn suite(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(part)
}

/// True when a command succeeds; its output is nobody's.
fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[track_caller]
fn all_topics(ran: &Ran, topics: usize) {
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout.lines().filter(|l| l.starts_with("ok ")).count(), topics, "{}", ran.stdout);
}

/// A suite in Python that needs modules, with five topics.
fn python(modules: &str, path: &str) {
    let python = std::env::var("ORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    if !succeeds(Command::new(&python).args(["-c", &format!("import {modules}")])) {
        return eprintln!("skipped: {python} has not the modules {modules}; run scripts/deps.sh clients");
    }
    let mut command = Command::new(python);
    command.arg(suite(path));
    all_topics(&Cluster::without_node().client(command), 5);
}

#[test]
fn the_python_client() {
    python("kubernetes", "python/suite.py");
}

/// Helm as a library: a chart with hooks lives its life.
#[test]
fn helm_with_hooks() {
    python("helm_python, kubernetes", "helm/suite.py");
}

#[test]
fn the_go_client_with_protobuf() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("clients");
    // What is not on the machine is not fetched by a test.
    let mut build = Command::new("go");
    build
        .current_dir(suite("go"))
        .env("GOPROXY", "off")
        .env("GOFLAGS", "-mod=readonly")
        .arg("build")
        .arg("-o")
        .arg(&program);
    if !succeeds(&mut build) {
        return eprintln!("skipped: there is no go, or it has not the client's modules; run scripts/deps.sh clients");
    }
    all_topics(&Cluster::without_node().client(Command::new(program)), 9);
}

#[test]
fn the_kube_crate() {
    let cluster = Cluster::without_node();
    let kubeconfig = cluster.kubeconfig();
    cluster.block_on(|| async move {
        orch::pki::install_provider();
        let client = orch::client::Client::from_kubeconfig(&kubeconfig).await.unwrap().kube().unwrap().clone();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let named = |v: serde_json::Value| serde_json::from_value(v).unwrap();
        namespaces.create(&PostParams::default(), &named(json!({"metadata": {"name": "kube-rs"}}))).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, "kube-rs");
        let since = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();

        let map = serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).unwrap();
        let made = maps.create(&PostParams::default(), &map).await.unwrap();
        let taken = maps.create(&PostParams::default(), &map).await.unwrap_err();
        assert!(matches!(taken, kube::Error::Api(e) if e.code == 409 && e.reason == "AlreadyExists"));
        let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"l": "2"}});
        let applied = maps.patch("a", &PatchParams::apply("suite"), &Patch::Apply(&applied)).await.unwrap();
        assert_eq!(applied.data.unwrap().len(), 2);
        let stale = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
        assert!(matches!(stale, kube::Error::Api(e) if e.code == 409 && e.reason == "Conflict"));
        maps.delete("a", &DeleteParams::default()).await.unwrap();
        assert!(maps.get_opt("a").await.unwrap().is_none());

        let only = WatchParams::default().fields("metadata.name=a");
        let mut events = Box::pin(maps.watch(&only, &since).await.unwrap());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let event = futures::StreamExt::next(&mut events).await.unwrap().unwrap();
            seen.push(match event {
                WatchEvent::Added(_) => "added",
                WatchEvent::Modified(_) => "modified",
                WatchEvent::Deleted(_) => "deleted",
                _ => "else",
            });
        }
        assert_eq!(seen, ["added", "modified", "deleted"]);
    });
}
