//! A cluster of both address families: two machines, real containers, pods and Services over IPv4 and over IPv6.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness::{self, Cluster, http_get, import};
use crate::net::lab::{Ns, ip};

const SERVER: &str = "https://198.51.100.1:6443";
const FLAGS: [&str; 4] = ["--cluster-cidr", "10.42.0.0/16,fd42::/56", "--service-cidr", "10.43.0.0/16,fd43::/112"];

/// A pod on each machine, and Services of both families and of one.
const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {labelSelector: {matchLabels: {app: web}}, topologyKey: kubernetes.io/hostname}
      containers:
      - name: main
        image: localhost/orch/web:v1
        readinessProbe: {httpGet: {path: /, port: 8080}}
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
        - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: single}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 8080}]}
";

/// Gives a machine an IPv6 address beside its other one.
fn six(machine: &Ns, number: u8) {
    ip(&["-n", &machine.name, "addr", "add", &format!("2001:db8::{number}/64"), "dev", "up0", "nodad"]);
}

fn lab() -> (Cluster, Agent) {
    let mut cluster = Cluster::prepare(&[&harness::NODE[..], &FLAGS].concat());
    six(&cluster.machine, 1);
    cluster.start();
    cluster.wait_for_node();
    let mut agent = Agent::beside(&cluster, "a", 21);
    six(&agent.machine, 21);
    agent.join(SERVER, &cluster.token());
    agent.wait_until_ready(&cluster);
    let web = cluster.web_archive("v1");
    import(&cluster.data_dir(), &web);
    import(&agent.data_dir(), &web);
    (cluster, agent)
}

/// The texts in a list of objects, each under `key`.
fn texts(list: &Value, key: &str) -> Vec<String> {
    let all = list.as_array().cloned().unwrap_or_default();
    all.iter().map(|one| one[key].as_str().unwrap_or_default().to_owned()).collect()
}

/// Asks from a pod until all of these answer, and nobody else.
#[track_caller]
fn answer(cluster: &Cluster, from: &str, url: &str, all: &BTreeSet<String>, what: &str) {
    let script =
        format!("for i in $(busybox seq 20); do busybox timeout 3 wget -qO- '{url}' || echo no answer; echo; done");
    cluster.eventually(&format!("{what}: {url} from {from}"), || {
        let said = cluster.kubectl(&["exec", from, "--", "sh", "-c", &script]).stdout;
        let names = said.lines().filter_map(|l| l.split_whitespace().nth(1)).map(str::to_owned);
        names.collect::<BTreeSet<String>>() == *all
    });
}

#[test]
fn pods_and_services_of_two_nodes_have_both_families() {
    let (mut cluster, agent) = lab();
    for (node, number, address) in [("box", 1, "198.51.100.1"), ("a", 21, "198.51.100.21")] {
        let told = cluster.get("node", node);
        let ranges = told["spec"]["podCIDRs"].as_array().cloned().unwrap_or_default();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        let addresses = texts(&told["status"]["addresses"], "address");
        assert_eq!(addresses[..2], [address.to_owned(), format!("2001:db8::{number}")]);
    }
    cluster.apply(WEB);
    cluster.settled("web", 2);
    let pods = cluster.pods("app=web");
    let all: BTreeSet<String> = pods.iter().cloned().collect();
    let (here, there) = (&pods[0], &pods[1]);
    what_is_told_of_pods(&cluster, &pods);
    what_is_told_of_services(&cluster);

    let of_there = texts(&cluster.get("pod", there)["status"]["podIPs"], "ip");
    let only = BTreeSet::from([there.clone()]);
    answer(&cluster, here, &format!("http://[{}]:8080/", of_there[1]), &only, "pod to pod");
    answer(&cluster, here, &format!("http://{}:8080/", of_there[0]), &only, "as ever");
    let addresses = cluster.field("service", "web", "/spec/clusterIPs");
    let (four, six) = (addresses[0].as_str().unwrap(), addresses[1].as_str().unwrap());
    for from in [here, there] {
        answer(&cluster, from, &format!("http://{four}/"), &all, "by the Service's IPv4 address");
        answer(&cluster, from, &format!("http://[{six}]/"), &all, "by its IPv6 address");
        answer(&cluster, from, "http://web.default.svc.cluster.local/", &all, "by its name");
    }
    names_have_both(&cluster, here, six, &of_there[1]);

    let by_node_port = |machine: &Ns, node: u8| -> BTreeSet<String> {
        let to = format!("[2001:db8::{node}]:30080");
        (0..20)
            .map(|_| machine.run(|| http_get(&to, "/")))
            .filter_map(|said| Some(said.ok()?.split_whitespace().nth(1)?.to_owned()))
            .collect()
    };
    assert_eq!(by_node_port(&agent.machine, 1), all, "by node port over IPv6");
    assert_eq!(by_node_port(&cluster.machine, 21), all, "of the other node");

    // The server comes back to what it left.
    cluster.end_server(Signal::SIGKILL);
    cluster.start();
    cluster.wait_for_node();
    answer(&cluster, here, &format!("http://[{six}]/"), &all, "after a restart");
}

fn what_is_told_of_pods(cluster: &Cluster, pods: &[String]) {
    for pod in pods {
        let status = &cluster.get("pod", pod)["status"];
        let (ips, hosts) = (texts(&status["podIPs"], "ip"), texts(&status["hostIPs"], "ip"));
        assert_eq!((ips.len(), &status["podIP"]), (2, &json!(ips[0])), "{status}");
        assert!(ips[0].starts_with("10.42.") && ips[1].starts_with("fd42:"), "{ips:?}");
        assert!(hosts.len() == 2 && hosts[1].starts_with("2001:db8::"), "{hosts:?}");
        let told = cluster.k(&["exec", pod, "--", "sh", "-c", "echo $POD_IPS $HOST_IPS"]);
        assert_eq!(told.trim(), format!("{} {}", ips.join(","), hosts.join(",")), "the downward API");
        let file = cluster.k(&["exec", pod, "--", "cat", "/etc/hosts"]);
        assert!(ips.iter().all(|ip| file.contains(&format!("{ip}\t{pod}"))), "{file}");
    }
}

fn what_is_told_of_services(cluster: &Cluster) {
    let slices = |service: &str| -> BTreeSet<(String, usize)> {
        let label = format!("kubernetes.io/service-name={service}");
        let list: Value =
            serde_json::from_str(&cluster.k(&["get", "endpointslices", "-l", &label, "-o", "json"])).unwrap();
        let ready = |s: &Value| {
            let all = s["endpoints"].as_array().cloned().unwrap_or_default();
            all.iter().filter(|e| e["conditions"]["ready"] == true).count()
        };
        let all = list["items"].as_array().unwrap().iter();
        all.map(|s| (s["addressType"].as_str().unwrap().to_owned(), ready(s))).collect()
    };
    let both = BTreeSet::from([("IPv4".to_owned(), 2), ("IPv6".to_owned(), 2)]);
    cluster.eventually("each family has its endpoints", || slices("web") == both && slices("pods") == both);
    assert_eq!(slices("single"), BTreeSet::from([("IPv4".to_owned(), 2)]), "one family unless more were asked for");
    assert_eq!(cluster.field("service", "web", "/spec/ipFamilies"), json!(["IPv4", "IPv6"]));
    assert_eq!(cluster.field("service", "single", "/spec/ipFamilies"), json!(["IPv4"]));
}

/// Names of Services and of pods have AAAA records, beside their A records.
fn names_have_both(cluster: &Cluster, from: &str, service: &str, pod: &str) {
    let look = |name: &str| {
        let name = format!("{name}.default.svc.cluster.local");
        cluster.kubectl(&["exec", from, "--", "busybox", "nslookup", "-type=aaaa", &name]).stdout
    };
    assert!(look("web").contains(service), "{}", look("web"));
    assert!(look("pods").contains(pod), "{}", look("pods"));
    let single = look("single");
    assert!(
        !single.contains("fd4") && !single.contains("NXDOMAIN"),
        "a name without an address of the family: {single}"
    );
}
