//! CustomResourceDefinitions of operators that everybody knows, as the operators bring them, with their own examples.
//!
//! `tests/clients/operators.txt` names the Go modules that have them; `scripts/deps.sh clients` fetches them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::Cluster;

const CERTIFICATE: &str = "
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: selfsigned}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: web}
spec: {secretName: web-tls, dnsNames: [web.example.com], privateKey: {algorithm: ECDSA}, issuerRef: {name: selfsigned}}
";
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad}
spec:
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}]
    backendRefs: [{name: b, port: 80}]
";

/// The module's directory and that of its definitions within; none when it was not fetched.
fn modules() -> Option<Vec<(PathBuf, PathBuf)>> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/operators.txt");
    let list = std::fs::read_to_string(list).unwrap();
    let one = |line: &str| {
        let (module, within) = line.split_once(' ').unwrap();
        // What is not on the machine is not fetched by a test.
        let mut go = Command::new("go");
        go.args(["mod", "download", "-json", module]).current_dir("/").env("GOPROXY", "off");
        let told: Value = serde_json::from_slice(&go.output().ok()?.stdout).ok()?;
        let dir = PathBuf::from(told["Dir"].as_str()?);
        Some((dir.clone(), dir.join(within)))
    };
    list.lines().filter(|l| !l.starts_with('#')).map(one).collect()
}

#[test]
fn known_operators_find_their_kinds() {
    let Some(modules) = modules() else {
        return eprintln!(
            "skipped: the modules of tests/clients/operators.txt are not here; run scripts/deps.sh clients"
        );
    };
    let cluster = Cluster::without_node();
    let mut definitions = 0;
    for (_, of) in &modules {
        let mut files: Vec<PathBuf> = std::fs::read_dir(of).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
        let names: Vec<String> = files.iter().map(|f| format!("--filename={}", f.display())).collect();
        let args: Vec<&str> = ["apply", "--server-side"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let said = cluster.k(&args);
        definitions += said.lines().filter(|l| l.starts_with("customresourcedefinition")).count();
    }
    assert!(definitions > 20, "{definitions}");
    cluster.k(&["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"]);
    let all: Value = serde_json::from_str(&cluster.k(&["get", "crd", "-o", "json"])).unwrap();
    let named = |crd: &Value, kind: &str| {
        crd["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == kind && c["status"] == "True")
    };
    let items = all["items"].as_array().unwrap();
    assert_eq!(items.len(), definitions);
    assert!(items.iter().all(|crd| named(crd, "NamesAccepted") && !named(crd, "NonStructuralSchema")));

    // Their own examples, and what they refuse.
    let gateway = modules[0].0.join("examples/standard");
    cluster.k(&["apply", "--server-side", "-f", &gateway.display().to_string()]);
    let prometheus = modules[2].0.join("example/user-guides/getting-started");
    cluster.k(&["apply", "--server-side", "-f", &prometheus.display().to_string()]);
    cluster.apply(CERTIFICATE);
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], ROUTE);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("spec.rules[0]"), "{}", refused.stderr);
    let bad = CERTIFICATE.replace("ECDSA", "ROT13");
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &bad);
    assert!(refused.stderr.contains("Unsupported value: \"ROT13\""), "{}", refused.stderr);
    assert_eq!(cluster.field("certificate", "web", "/spec/issuerRef/name"), "selfsigned");
    let route = cluster.get("httproute", "http-app-1");
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 1, "defaulted");
    assert!(cluster.k(&["explain", "certificate.spec.issuerRef.name"]).contains("Name of the"));
    assert!(cluster.k(&["get", "servicemonitors,prometheuses", "-A", "-o", "name"]).contains("servicemonitor"));
    assert!(cluster.k(&["get", "cert"]).contains("READY"));

    // And all of it goes again.
    cluster.k(&["delete", "crd", "--all", "--timeout=60s"]);
    assert_ne!(cluster.kubectl(&["get", "certificates"]).code, Some(0));
}
