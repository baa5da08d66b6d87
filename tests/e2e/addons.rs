//! Add-ons from the server's directory: applied, changed, taken back, whatever happens in between.

use std::io::Write;

use nix::sys::signal::Signal;

use crate::harness::Cluster;

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: extra}}\ndata: {{key: {value}}}\n")
}

/// The namespace stands last: what others need goes first all the same.
fn manifest(maps: &[(&str, &str)]) -> String {
    let mut all: Vec<String> = maps.iter().map(|(name, value)| config_map(name, value)).collect();
    all.push("apiVersion: v1\nkind: Namespace\nmetadata: {name: extra}\n".into());
    all.join("---\n")
}

#[test]
fn what_the_directory_says_is_what_the_cluster_has() {
    let mut cluster = Cluster::without_node();
    let dir = cluster.data_dir().join("server/manifests");
    let value = |cluster: &Cluster, name: &str| {
        let args = ["get", "configmap", name, "-n", "extra", "-o", "jsonpath={.data.key}", "--ignore-not-found"];
        cluster.kubectl(&args).stdout
    };
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/extra.yaml"), manifest(&[("a", "one"), ("b", "two")])).unwrap();
    cluster.eventually("what it says is there", || value(&cluster, "a") == "one" && value(&cluster, "b") == "two");

    // Somebody writes slowly: nothing of it counts before the end.
    let half = manifest(&[("a", "half")]);
    let mut file = std::fs::File::create(dir.join("sub/extra.yaml")).unwrap();
    file.write_all(half.as_bytes()).unwrap();
    // Another file, to know that the directory was looked at meanwhile.
    std::fs::write(
        dir.join("other.json"),
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other","namespace":"extra"},"data":{"key":"x"}}"#,
    )
    .unwrap();
    cluster.eventually("the other file counts", || value(&cluster, "other") == "x");
    assert_eq!((value(&cluster, "a"), value(&cluster, "b")), ("one".into(), "two".into()));
    file.write_all(format!("---\n{}", config_map("c", "three")).as_bytes()).unwrap();
    drop(file);
    cluster.eventually("the whole of it counts", || value(&cluster, "c") == "three" && value(&cluster, "b").is_empty());
    assert_eq!(value(&cluster, "a"), "half");

    // What cannot be read is told, with its line, and changes nothing.
    std::fs::write(dir.join("sub/extra.yaml"), "apiVersion: v1\nkind: [\n").unwrap();
    cluster.eventually("an event tells of it", || {
        let events = cluster.kubectl(&["get", "events", "-n", "kube-system"]).stdout;
        events.contains("ParseManifestFailed") && events.contains("extra.yaml")
    });
    assert_eq!(value(&cluster, "a"), "half");

    // A kind that nobody knows holds up neither the rest of its file nor other files.
    let unknown =
        format!("{}---\napiVersion: x.example/v1\nkind: Thing\nmetadata: {{name: t}}\n", manifest(&[("a", "four")]));
    std::fs::write(dir.join("sub/extra.yaml"), unknown).unwrap();
    cluster.eventually("the rest counts", || value(&cluster, "a") == "four");
    assert_eq!(value(&cluster, "c"), "three", "nothing is removed before all of it is there");

    // The server is killed, and files go while it is away.
    cluster.end_server(Signal::SIGKILL);
    std::fs::remove_file(dir.join("other.json")).unwrap();
    std::fs::write(dir.join("sub/extra.yaml"), manifest(&[("a", "five")])).unwrap();
    cluster.start();
    cluster.eventually("what is gone from the directory is gone", || {
        value(&cluster, "other").is_empty() && value(&cluster, "c").is_empty() && value(&cluster, "a") == "five"
    });

    // Off is as if it were not there; left alone is something else.
    cluster.end_server(Signal::SIGTERM);
    let mut wrong = cluster.server_command(&["--disable", "exta"]);
    let refused = cluster.machine.run(|| wrong.output()).unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("did you mean \"extra\"?"), "{why}");
    std::fs::write(dir.join("sub/extra.yaml.skip"), "").unwrap();
    cluster.restart_with(&["--disable=coredns,traefik".to_owned()]);
    std::fs::remove_file(dir.join("sub/extra.yaml.skip")).unwrap();
    cluster.eventually("what was skipped stayed", || value(&cluster, "a") == "five");
    cluster.end_server(Signal::SIGTERM);
    cluster.restart_with(&["--disable=extra".to_owned()]);
    cluster.eventually("what is off goes, its namespace too", || {
        cluster.kubectl(&["get", "namespace", "extra", "--ignore-not-found"]).stdout.is_empty()
    });
    let records =
        cluster.kubectl(&["get", "configmap", "-n", "kube-system", "-l", "orch.internal/addon", "-o", "name"]);
    assert_eq!(records.stdout, "", "and nothing is remembered of it");
}
