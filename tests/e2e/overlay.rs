//! Pods of three machines: they reach each other, and what happens to them when a machine dies, moves, or is cut off.

use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use nlink::netlink::namespace::Netns;
use orch::cni::overlay::DEVICE;
use serde_json::Value;

use crate::agent::Agent;
use crate::harness::{self, Cluster, http_get, import};
use crate::net::lab::{Ns, ip};

const SERVER: &str = "https://198.51.100.1:6443";

fn deployment(name: &str, replicas: usize, node: &str, tolerated: u32) -> String {
    let placed = if node.is_empty() { String::new() } else { format!("      nodeName: {node}\n") };
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: \
         {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n{placed}      \
         terminationGracePeriodSeconds: 1\n      tolerations:\n      - {{key: node.kubernetes.io/unreachable, operator: \
         Exists, effect: NoExecute, tolerationSeconds: {tolerated}}}\n      containers:\n      - {{name: main, image: \
         localhost/orch/web:v1, env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: \
         [{{port: 80, targetPort: 8080}}]}}\n"
    )
}

/// A server and two agents; a node that is silent is given up soon.
fn lab() -> (Cluster, Agent, Agent) {
    let flags = ["--kube-controller-manager-arg", "node-monitor-grace-period=12s"];
    let cluster = Cluster::with_node_and(&flags);
    let (mut a, mut b) = (Agent::beside(&cluster, "a", 21), Agent::beside(&cluster, "b", 22));
    let token = cluster.token();
    for agent in [&mut a, &mut b] {
        agent.join(SERVER, &token);
    }
    let web = cluster.web_archive("v1");
    import(&cluster.data_dir(), &web);
    for agent in [&a, &b] {
        agent.wait_until_ready(&cluster);
        import(&agent.data_dir(), &web);
    }
    (cluster, a, b)
}

/// What a pod gets from an address.
fn fetch(cluster: &Cluster, from: &str, url: &str) -> Option<String> {
    let ran = cluster.kubectl(&["exec", from, "--", "busybox", "timeout", "3", "wget", "-qO-", url]);
    (ran.code == Some(0)).then(|| ran.stdout.trim().to_owned())
}

fn only_pod(cluster: &Cluster, app: &str) -> String {
    let mut pods = cluster.pods(&format!("app={app}"));
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.remove(0)
}

fn ready_endpoints(cluster: &Cluster, service: &str) -> Vec<String> {
    let label = format!("kubernetes.io/service-name={service}");
    let list: Value = serde_json::from_str(&cluster.k(&["get", "endpointslices", "-l", &label, "-o", "json"])).unwrap();
    let slices = list["items"].as_array().unwrap().iter();
    let all = slices.flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = all.filter(|e| e.pointer("/conditions/ready") == Some(&Value::Bool(true)));
    ready.map(|e| e["targetRef"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Rules in a machine's namespace that drop what comes and goes over its wire; lifted when dropped.
struct Faults(Netns);

impl Faults {
    fn new(machine: &Ns, matches: &str) -> Self {
        let rules = format!(
            "table inet faults {{\n chain in {{\n type filter hook prerouting priority -300;\n iifname up0 {matches} drop\n \
             }}\n chain out {{\n type filter hook postrouting priority 300;\n oifname up0 {matches} drop\n }}\n}}\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        let status = machine.run(|| Command::new("nft").arg("-f").arg(file.path()).status()).unwrap();
        assert!(status.success());
        Self(machine.ns.try_clone().unwrap())
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = self.0.run(|| Command::new("nft").args(["delete", "table", "inet", "faults"]).status());
    }
}

#[test]
fn pods_of_three_nodes_are_one_network_and_outlive_a_node() {
    let (cluster, mut a, b) = lab();
    cluster.apply(&deployment("far", 1, "a", 300));
    cluster.apply(&deployment("near", 1, "b", 300));
    cluster.settled("far", 1);
    cluster.settled("near", 1);
    let (far, near) = (only_pod(&cluster, "far"), only_pod(&cluster, "near"));
    reach_each_other(&cluster, &far, &near);
    an_address_changes(&cluster, &b, &near);
    packets_get_lost(&cluster, &b, &near);
    a_node_dies_and_comes_back(&cluster, &mut a, &b);
}

fn reach_each_other(cluster: &Cluster, far: &str, near: &str) {
    let says = format!("from {far} (v1)");
    let address = cluster.k(&["get", "pod", far, "-o", "jsonpath={.status.podIP}"]);
    let to_pod = format!("http://{address}:8080/");
    cluster.eventually("a pod of another node answers", || fetch(cluster, near, &to_pod).as_ref() == Some(&says));
    let by_name = "http://far.default.svc.cluster.local/";
    cluster.eventually("and by its Service's name", || fetch(cluster, near, by_name).as_ref() == Some(&says));
    assert_eq!(cluster.ask(&format!("{address}:8080")), Ok(says.clone()), "the server's machine reaches it");
    let service = cluster.k(&["get", "service", "far", "-o", "jsonpath={.spec.clusterIP}"]);
    assert_eq!(cluster.ask(&format!("{service}:80")), Ok(says), "and its Service");
}

/// A machine gets another address, as from DHCP; nobody restarts anything.
fn readdress(machine: &Ns, from: &str, to: &str) {
    let m = machine.name.as_str();
    ip(&["-n", m, "addr", "del", &format!("{from}/24"), "dev", "up0"]);
    ip(&["-n", m, "addr", "add", &format!("{to}/24"), "dev", "up0"]);
    ip(&["-n", m, "route", "replace", "default", "via", "198.51.100.2"]);
}

#[test]
fn a_server_that_moves_is_reached_at_its_new_address() {
    let cluster = Cluster::without_node();
    let told = || cluster.k(&["get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[0].addresses[0]}"]);
    assert_eq!(told(), "198.51.100.1");
    readdress(&cluster.machine, "198.51.100.1", "198.51.100.78");
    cluster.eventually("the Service kubernetes leads to the new address", || told() == "198.51.100.78");
    let mut curl = Command::new("curl");
    curl.args(["-s", "--cacert"]).arg(cluster.data_dir().join("server/tls/server-ca.crt"));
    curl.arg("https://198.51.100.78:6443/readyz");
    cluster.eventually("the certificate has it", || {
        cluster.machine.run(|| curl.output()).is_ok_and(|out| out.status.success() && out.stdout == b"ok")
    });
}

fn an_address_changes(cluster: &Cluster, b: &Agent, near: &str) {
    readdress(&b.machine, &b.address, "198.51.100.77");
    let told = || cluster.field("node", "b", "/status/addresses/0/address");
    cluster.eventually_or("the Node has the new address", || b.log_text(), || told() == "198.51.100.77");
    let address = cluster.k(&["get", "pod", near, "-o", "jsonpath={.status.podIP}"]);
    cluster.eventually("its pod is reached there", || {
        cluster.machine.run(|| http_get(&format!("{address}:8080"), "/")).is_ok()
    });
    cluster
        .eventually("and reaches others", || fetch(cluster, near, "http://far.default.svc.cluster.local/").is_some());
}

/// One packet of ten is lost: everything is slower, and nothing is given up.
fn packets_get_lost(cluster: &Cluster, b: &Agent, near: &str) {
    let lossy = Faults::new(&b.machine, "numgen random mod 100 < 10");
    for _ in 0..5 {
        cluster.eventually("an answer over a bad wire", || fetch(cluster, near, "http://far/").is_some());
    }
    drop(lossy);
    assert_eq!(cluster.field("pod", near, "/status/containerStatuses/0/restartCount"), 0);
}

fn a_node_dies_and_comes_back(cluster: &Cluster, a: &mut Agent, b: &Agent) {
    // A pod that may go anywhere, and is on a now.
    cluster.k(&["cordon", "box"]);
    cluster.k(&["cordon", "b"]);
    cluster.apply(&deployment("moves", 1, "", 1));
    cluster.settled("moves", 1);
    let before = only_pod(cluster, "moves");
    cluster.k(&["uncordon", "b"]);
    // The machine is cut off; its containers run on, and nobody hears of them.
    let (cut, began) = (Faults::new(&a.machine, ""), Instant::now());
    cluster.eventually("the pod is replaced elsewhere and answers alone", || {
        let ready = ready_endpoints(cluster, "moves");
        ready.len() == 1 && ready[0] != before
    });
    assert_eq!(cluster.field("pod", &before, "/metadata/deletionTimestamp").as_str().map(str::is_empty), Some(false));
    let after = ready_endpoints(cluster, "moves").remove(0);
    assert_eq!(cluster.field("pod", &after, "/spec/nodeName"), "b");
    harness::lasts("ORCH_E2E_PARTITION_SECONDS", began);
    assert_eq!(ready_endpoints(cluster, "moves"), std::slice::from_ref(&after), "for as long as it lasts");
    // Its agent dies meanwhile, and the machine comes back: what was deleted is ended, not started.
    a.end(Signal::SIGKILL);
    drop(cut);
    a.start(&[]);
    a.wait_until_ready(cluster);
    cluster.eventually("what was replaced is gone", || cluster.kubectl(&["get", "pod", &before]).code == Some(1));
    assert_eq!(cluster.pods("app=moves"), std::slice::from_ref(&after), "there is one, and it is the same");
    assert_eq!(ready_endpoints(cluster, "moves"), [after]);
    // Routes to it are there again, or still.
    let routes = Command::new("ip").args(["-n", &b.machine.name, "route"]).output().unwrap();
    assert!(String::from_utf8_lossy(&routes.stdout).matches(DEVICE).count() >= 2, "{routes:?}");
    cluster.settled("far", 1);
}
