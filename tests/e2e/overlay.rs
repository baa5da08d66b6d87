//! Pods of three machines: they reach each other, and what happens to them when a machine dies, moves, or is cut off.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// One pod with a name of its own.
const ONE_OF_A_KIND: &str = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: one}\nspec:\n  serviceName: one\n  \
    selector: {matchLabels: {app: one}}\n  template:\n    metadata: {labels: {app: one}}\n    spec:\n      \
    terminationGracePeriodSeconds: 1\n      tolerations:\n      - {key: node.kubernetes.io/unreachable, operator: Exists, \
    effect: NoExecute, tolerationSeconds: 1}\n      containers:\n      - {name: main, image: localhost/orch/web:v1, env: \
    [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}\n";

/// Counts all the time how many of a pod run on machines, whatever the API says.
struct Count {
    stop: Arc<AtomicBool>,
    most: Option<JoinHandle<usize>>,
}

impl Count {
    fn of(pod: &'static str, data_dirs: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let most = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::SeqCst) {
                let now = harness::networks_of(&data_dirs, pod);
                if now > most.max(1) {
                    println!("{now} of {pod}: {:#?}", harness::processes_of(&data_dirs, pod));
                }
                most = most.max(now);
                std::thread::sleep(Duration::from_millis(150));
            }
            most
        });
        Self { stop, most: Some(most) }
    }

    /// How many there were at most.
    fn most(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.most.take().expect("it counts").join().unwrap()
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
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
    let (cluster, mut a, mut b) = lab();
    cluster.apply(&deployment("far", 1, "a", 300));
    cluster.apply(&deployment("near", 1, "b", 300));
    cluster.settled("far", 1);
    cluster.settled("near", 1);
    let (far, near) = (only_pod(&cluster, "far"), only_pod(&cluster, "near"));
    reach_each_other(&cluster, &far, &near);
    an_address_changes(&cluster, &b, &near);
    packets_get_lost(&cluster, &b, &near);
    let count = Count::of("one-0", vec![cluster.data_dir(), a.data_dir(), b.data_dir()]);
    a_node_dies_and_comes_back(&cluster, &mut a, &b);
    the_power_of_a_node_fails(&cluster, &mut b);
    assert_eq!(count.most(), 1, "there was never a second one-0");
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
    let (lossy, began) = (Faults::new(&b.machine, "numgen random mod 100 < 10"), Instant::now());
    let lasts = harness::seconds("ORCH_E2E_LOSS_SECONDS").unwrap_or_default();
    let (mut answers, mut asked) = (0, 0);
    while answers < 5 || began.elapsed() < lasts {
        cluster.eventually("an answer over a bad wire", || {
            asked += 1;
            fetch(cluster, near, "http://far/").is_some()
        });
        answers += 1;
    }
    println!("{answers} answers to {asked} questions over a wire that loses one packet of ten");
    drop(lossy);
    assert_eq!(cluster.field("pod", near, "/status/containerStatuses/0/restartCount"), 0);
}

fn a_node_dies_and_comes_back(cluster: &Cluster, a: &mut Agent, b: &Agent) {
    // A pod that may go anywhere, and is on a now.
    cluster.k(&["cordon", "box"]);
    cluster.k(&["cordon", "b"]);
    cluster.apply(&deployment("moves", 1, "", 1));
    cluster.apply(ONE_OF_A_KIND);
    cluster.settled("moves", 1);
    cluster.k(&["rollout", "status", "statefulset/one", "--timeout=80s"]);
    assert_eq!(cluster.field("pod", "one-0", "/spec/nodeName"), "a");
    let uid = cluster.field("pod", "one-0", "/metadata/uid");
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
    cluster.eventually("what has a name of its own is to go, too", || {
        cluster.field("pod", "one-0", "/metadata/deletionTimestamp").is_string()
    });
    harness::lasts("ORCH_E2E_PARTITION_SECONDS", began);
    assert_eq!(
        cluster.field("pod", "one-0", "/metadata/uid"),
        uid,
        "nobody knows whether it runs: its name is not free"
    );
    assert_eq!(ready_endpoints(cluster, "moves"), std::slice::from_ref(&after), "for as long as it lasts");
    // Its agent dies meanwhile, and the machine comes back: what was deleted is ended, not started.
    a.end(Signal::SIGKILL);
    cluster.k(&["cordon", "a"]);
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
    cluster.eventually("it has ended there and runs on the other node", || one_runs_anew_on(cluster, "b", &uid));
}

/// Whether the set's pod runs on a node, and is not the one with this uid.
fn one_runs_anew_on(cluster: &Cluster, node: &str, uid: &Value) -> bool {
    let text = cluster.kubectl(&["get", "pod", "one-0", "-o", "json"]).stdout;
    let pod: Value = serde_json::from_str(&text).unwrap_or_default();
    pod["metadata"]["uid"] != *uid && pod["spec"]["nodeName"] == node && pod["status"]["phase"] == "Running"
}

/// A node's power fails, somebody says so, and what ran there runs elsewhere. Then the power is back.
fn the_power_of_a_node_fails(cluster: &Cluster, b: &mut Agent) {
    let uid = cluster.field("pod", "one-0", "/metadata/uid");
    cluster.k(&["uncordon", "a"]);
    b.lose_power();
    b.forget_network();
    cluster.eventually("the node is silent", || cluster.readiness("b") == "Unknown");
    assert_eq!(cluster.field("pod", "one-0", "/metadata/uid"), uid, "and may only be cut off");
    let out_of_service = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    cluster.k(&["taint", "node", "b", out_of_service]);
    cluster.eventually("it runs elsewhere", || one_runs_anew_on(cluster, "a", &uid));
    let uid = cluster.field("pod", "one-0", "/metadata/uid");
    b.start(&[]);
    b.wait_until_ready(cluster);
    cluster.k(&["taint", "node", "b", &format!("{out_of_service}-")]);
    // What b starts from now on it starts with all that it knows.
    cluster.apply(&deployment("last", 1, "b", 300));
    cluster.settled("last", 1);
    assert_eq!(b.networks_of("one-0"), 0, "it does not go on where it was");
    assert_eq!(cluster.field("pod", "one-0", "/metadata/uid"), uid);
}
