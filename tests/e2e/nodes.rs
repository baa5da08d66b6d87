//! A cluster of several machines: joining, leaving, being refused; and reaching a node that nobody can dial.
//!
//! Conformance, [sig-architecture] Conformance Tests: "should have at least two untainted nodes".

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orch::runtime::kept::Part;
use serde_json::Value;

use crate::agent::Agent;
use crate::harness::{Cluster, PATIENCE, http_get, import, lasts};

const SERVER: &str = "https://198.51.100.1:6443";

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  volumes: [{{name: v, configMap: {{name: page}}}}]\n  containers:\n  - \
         {{name: main, image: localhost/orch/web:v1, env: [{{name: POD_NAME, value: {name}}}, {{name: PAGE, valueFrom: \
         {{configMapKeyRef: {{name: page, key: page}}}}}}], volumeMounts: [{{name: v, mountPath: /page}}]}}\n"
    )
}

/// A server and two agents whose own ports nobody reaches, a pod on each.
fn lab() -> (Cluster, Agent, Agent) {
    let cluster = Cluster::with_node();
    let (mut a, mut b) = (Agent::beside(&cluster, "a", 11), Agent::beside(&cluster, "b", 12));
    let token = cluster.token();
    for agent in [&mut a, &mut b] {
        agent.close_ports();
        agent.join(SERVER, &token);
    }
    for agent in [&a, &b] {
        agent.wait_until_ready(&cluster);
    }
    let open = |node: &str| {
        cluster.field("node", node, "/spec") != Value::Null
            && cluster.field("node", node, "/spec/taints") == Value::Null
    };
    cluster.eventually("pods may go to each of them", || ["box", "a", "b"].iter().all(|node| open(node)));
    let web = cluster.web_archive("v1");
    for data_dir in [cluster.data_dir(), a.data_dir(), b.data_dir()] {
        import(&data_dir, &web);
    }
    cluster.k(&["create", "configmap", "page", "--from-literal=page=first"]);
    for node in ["box", "a", "b"] {
        cluster.apply(&pod(&format!("on-{node}"), node));
    }
    cluster.k(&["wait", "--for=condition=Ready", "pod/on-box", "pod/on-a", "pod/on-b", "--timeout=80s"]);
    (cluster, a, b)
}

#[test]
fn machines_join_are_reached_and_come_back() {
    let (mut cluster, mut a, b) = lab();
    a_running_node_passes_the_check(&cluster);
    roles_are_shown(&cluster);
    reach_into_pods(&cluster);
    a_claim_lives_on_its_pods_machine(&cluster, &b);
    the_nodes_port_lets_in_whom_the_api_allows(&cluster);
    names_and_tokens_are_guarded(&cluster, &mut a);
    an_agent_comes_back(&cluster, &mut a);
    a_server_comes_back(&mut cluster, &a);
    a_node_without_a_server(&mut cluster, &mut a);
    drop(b);
}

/// Which node is the server's is seen at a glance; a label that a kubelet may not give itself.
fn roles_are_shown(cluster: &Cluster) {
    let role = |node: &str| {
        let line = cluster.k(&["get", "node", node, "--no-headers"]);
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    cluster.eventually("the server's node has its role", || role("box") == "control-plane");
    assert_eq!([role("a"), role("b")], ["<none>", "<none>"]);
}

/// As the installer does it before it looks whether anything has to be changed.
fn a_running_node_passes_the_check(cluster: &Cluster) {
    let mut check = std::process::Command::new(crate::harness::orch());
    check.arg("check").arg("--data-dir").arg(cluster.data_dir());
    let said = String::from_utf8(cluster.machine.run(|| check.output()).unwrap().stdout).unwrap();
    let ports = said.lines().find(|l| l.split_whitespace().nth(1) == Some("ports")).unwrap_or_else(|| panic!("{said}"));
    assert!(ports.starts_with("ok") && ports.contains("used by the orch that runs"), "{ports}");
}

fn reach_into_pods(cluster: &Cluster) {
    // Both ways of kubectl: WebSockets, and SPDY as older ones have it.
    for on in ["true", "false"] {
        let setting = [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on)];
        let ran = cluster.kubectl_in(&setting, &["exec", "-i", "on-a", "--", "cat"], "through\n");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "through\n"), "{on}: {}", ran.stderr);
    }
    assert_eq!(cluster.k(&["exec", "on-b", "--", "cat", "/page/page"]), "first");
    assert_eq!(cluster.k(&["exec", "on-b", "--", "sh", "-c", "echo $PAGE"]), "first");
    let failed = cluster.kubectl(&["exec", "on-b", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.code, Some(7), "{failed:?}");
    // Somebody asks the pod through a forwarded port, and its log tells of it while it is followed.
    let mut logs = cluster.kubectl_child(&["logs", "-f", "on-a"]);
    let mut forward = cluster.kubectl_child(&["port-forward", "on-a", ":8080"]);
    let mut line = String::new();
    BufReader::new(forward.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let port = line.split("127.0.0.1:").nth(1).and_then(|p| p.split(' ').next()).unwrap_or_else(|| panic!("{line:?}"));
    let said = cluster.machine.run(|| http_get(&format!("127.0.0.1:{port}"), "/"));
    assert_eq!(said.as_deref(), Ok("from on-a (v1)"));
    forward.kill().unwrap();
    forward.wait().unwrap();
    cluster.kubectl(&["exec", "on-a", "--", "sh", "-c", "echo heard > /proc/1/fd/1"]);
    let mut heard = String::new();
    let mut reader = BufReader::new(logs.stdout.as_mut().unwrap());
    while !heard.contains("heard") {
        assert_ne!(reader.read_line(&mut heard).unwrap(), 0, "the log ended: {heard}");
    }
    logs.kill().unwrap();
    logs.wait().unwrap();
    proxied(cluster);
    // What a pod names is followed.
    cluster.k(&["patch", "configmap", "page", "-p", r#"{"data":{"page":"second"}}"#]);
    cluster.eventually("the volume has what the ConfigMap says now", || {
        cluster.kubectl(&["exec", "on-a", "--", "cat", "/page/page"]).stdout.trim() == "second"
    });
}

/// Pods, Services and nodes through the API, though the server reaches no port of those machines.
fn proxied(cluster: &Cluster) {
    let raw = |path: &str| cluster.kubectl(&["get", "--raw", path]);
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["on-box", "on-a", "on-b"] {
        assert_eq!(raw(&format!("{pods}/{name}:8080/proxy/")).stdout.trim(), format!("from {name} (v1)"));
    }
    cluster.k(&["expose", "pod", "on-b", "--port=80", "--target-port=8080"]);
    let service = "/api/v1/namespaces/default/services/on-b:80/proxy/";
    cluster.eventually("the Service is proxied to", || raw(service).stdout.trim() == "from on-b (v1)");
    assert_eq!(raw("/api/v1/nodes/a/proxy/healthz").stdout.trim(), "ok");
    assert_eq!(raw("/api/v1/nodes/box/proxy/healthz").stdout.trim(), "ok");
    let refused = raw(&format!("{pods}/on-a:1/proxy/")).stderr;
    assert!(refused.contains("error trying to reach service") && refused.contains("refused"), "{refused}");
    let metrics = raw("/api/v1/nodes/a/proxy/metrics/resource").stdout;
    assert!(
        metrics.contains("container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"on-a\"}"),
        "{metrics}"
    );
    cluster.k(&["delete", "service", "on-b"]);
}

/// The agent makes and removes the directory, and reads claim and volume with no more rights than a node has.
fn a_claim_lives_on_its_pods_machine(cluster: &Cluster, b: &Agent) {
    cluster.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: there}\nspec: {storageClassName: local-path, \
         accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: \
         {name: keeper}\nspec:\n  nodeSelector: {kubernetes.io/hostname: b}\n  terminationGracePeriodSeconds: 0\n  volumes: \
         [{name: v, persistentVolumeClaim: {claimName: there}}]\n  containers:\n  - {name: main, image: \
         localhost/orch/web:v1, volumeMounts: [{name: v, mountPath: /v}]}\n",
    );
    cluster.k(&["wait", "--for=condition=Ready", "pod/keeper", "--timeout=80s"]);
    cluster.k(&["exec", "keeper", "--", "sh", "-c", "echo kept > /v/file"]);
    let volume = cluster.field("pvc", "there", "/spec/volumeName");
    let path = cluster.field("pv", volume.as_str().unwrap(), "/spec/local/path");
    let path = std::path::PathBuf::from(path.as_str().unwrap());
    assert!(path.starts_with(b.data_dir().join("storage")), "{}", path.display());
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "kept\n");
    cluster.k(&["delete", "pod/keeper", "pvc/there", "--timeout=60s"]);
    cluster.eventually("the directory goes from the machine where it is", || !path.exists());
}

fn the_nodes_port_lets_in_whom_the_api_allows(cluster: &Cluster) {
    let address = "198.51.100.1:10250";
    let dir = cluster.data_dir().join("server/tls");
    let (ca, cert, key) = (dir.join("server-ca.crt"), dir.join("client-admin.crt"), dir.join("client-admin.key"));
    let curl = |path: &str, more: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(&ca);
        command.arg(format!("https://{address}{path}")).args(more);
        String::from_utf8(cluster.machine.run(|| command.output()).unwrap().stdout).unwrap()
    };
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    assert_eq!(curl("/healthz", &[]), "401");
    assert_eq!(curl("/healthz", &["--cert", &cert, "--key", &key]), "200");
    assert_eq!(curl("/pods", &["-H", "Authorization: Bearer nobody"]), "401");
    cluster.k(&["create", "serviceaccount", "scraper"]);
    let token = cluster.k(&["create", "token", "scraper"]);
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(curl("/metrics", &["-H", &bearer]), "403");
    cluster.k(&["create", "clusterrole", "scrape", "--verb=get", "--resource=nodes/stats"]);
    cluster.k(&["create", "clusterrolebinding", "scrape", "--clusterrole=scrape", "--serviceaccount=default:scraper"]);
    assert_eq!(curl("/stats/summary", &["-H", &bearer]), "200");
    assert_eq!(curl("/exec/default/on-box/main?command=id&output=1", &["-H", &bearer]), "403");
}

fn names_and_tokens_are_guarded(cluster: &Cluster, a: &mut Agent) {
    let mut stranger = Agent::beside(cluster, "c", 13);
    let token = cluster.token();
    for name in ["a", "box"] {
        stranger.name = name.into();
        stranger.join(SERVER, &token);
        let told = stranger.refusal(cluster);
        assert!(told.contains(&format!("node {name} exists")) && told.contains("--node-name"), "{told}");
    }
    stranger.name = "c".into();
    let (_, rest) = token.split_once("::").unwrap();
    let wrong_ca = format!("K10{}::{rest}", "0".repeat(64));
    stranger.join(SERVER, "garbled");
    assert!(stranger.refusal(cluster).contains("is not of the form K10"));
    // It was told of this cluster before.
    stranger.join(SERVER, &wrong_ca);
    let told = stranger.refusal(cluster);
    assert!(told.contains("belongs to a node of another cluster") && told.contains("--data-dir"), "{told}");
    // A machine that knows nothing compares what it is shown with the token.
    std::fs::remove_dir_all(stranger.data_dir()).unwrap();
    stranger.join(SERVER, &wrong_ca);
    assert!(stranger.refusal(cluster).contains("not the cluster the token is for"));
    assert!(!stranger.data_dir().join("agent/server-ca.crt").exists());

    let short = cluster.ctl(&["token", "create", "--ttl", "1s"]).stdout.trim().to_owned();
    let made = cluster.ctl(&["token", "create", "--description", "for c"]).stdout.trim().to_owned();
    let data = cluster.data_dir().display().to_string();
    let rotated = cluster.ctl(&["token", "rotate", "--data-dir", &data]).stdout.trim().to_owned();
    assert!(rotated != token && rotated == cluster.token(), "the token file has the new secret");
    assert_eq!(cluster.ctl(&["token", "delete", "server"]).code, Some(0));
    let id = short.rsplit(':').nth(1).unwrap().to_owned();
    cluster.eventually("an expired token is removed", || {
        cluster.kubectl(&["get", "secret", "-n", "kube-system", &format!("bootstrap-token-{id}")]).code == Some(1)
    });
    for revoked in [&token, &rotated, &short] {
        stranger.join(SERVER, revoked);
        let told = stranger.refusal(cluster);
        assert!(told.contains("does not know the join token") && told.contains("orch token create"), "{told}");
    }
    stranger.join(SERVER, &made);
    stranger.wait_until_ready(cluster);
    // Nodes that joined with the token stay.
    a.wait_until_ready(cluster);
    stranger.end(Signal::SIGTERM);
    // A name is free again when its node is deleted, for another machine and with a token that was used before.
    let mut other = Agent::beside(cluster, "c", 15);
    other.join(SERVER, &made);
    assert!(other.refusal(cluster).contains("node c exists"));
    cluster.k(&["delete", "node", "c"]);
    other.join(SERVER, &made);
    other.wait_until_ready(cluster);
    // The first machine's certificate is worth nothing now.
    stranger.start(&[]);
    assert!(stranger.refusal(cluster).contains("another machine has its name"));
    cluster.k(&["delete", "node", "c"]);
}

fn an_agent_comes_back(cluster: &Cluster, a: &mut Agent) {
    let id = || cluster.k(&["get", "pod", "on-a", "-o", "jsonpath={.status.containerStatuses[0].containerID}"]);
    let before = id();
    // A stream ends with the agent that it leads to.
    let mut stream = cluster.kubectl_child(&["exec", "on-a", "--", "sleep", "1000"]);
    let mut logs = cluster.kubectl_child(&["logs", "-f", "on-a"]);
    cluster.eventually("the command runs", || {
        cluster.kubectl(&["exec", "on-a", "--", "busybox", "ps"]).stdout.contains("sleep 1000")
    });
    a.end(Signal::SIGKILL);
    let end = Instant::now() + PATIENCE;
    for child in [&mut stream, &mut logs] {
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "a stream outlives its agent\n{}", cluster.describe());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let refused = cluster.kubectl(&["exec", "on-a", "--", "id"]);
    assert!(refused.stderr.contains("node a cannot be reached"), "{refused:?}");
    // It needs neither token nor server's name any more.
    a.start(&[]);
    cluster.eventually("the agent is reached again", || cluster.kubectl(&["exec", "on-a", "--", "id"]).code == Some(0));
    assert_eq!(id(), before, "its pod has not noticed");
    assert_eq!(cluster.field("pod", "on-a", "/status/containerStatuses/0/restartCount"), 0);
}

/// The power is gone while no server answers, and comes back before the server does.
fn a_node_without_a_server(cluster: &mut Cluster, a: &mut Agent) {
    cluster.k(&["create", "secret", "generic", "word", "--from-literal=word=kept"]);
    cluster.k(&["expose", "pod", "on-b", "--name=far", "--port=80", "--target-port=8080"]);
    // It is ill as soon as somebody says so, and well again when it is started. And it asks a pod of another node, by the
    // name of its Service.
    let host = a.data_dir().join("host");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o777)).unwrap();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: fragile}}\nspec:\n  nodeName: a\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, secret: {{secretName: word}}}}, {{name: h, hostPath: {{path: {}}}}}]\n  containers:\n  - {{name: \
         main, image: localhost/orch/web:v1, command: [sh, -c, 'rm -f /host/ill; until wget -qO /host/heard http://far/; do sleep 1; done; sleep 100000'], env: [{{name: POD_NAME, \
         value: fragile}}], volumeMounts: [{{name: v, mountPath: /word}}, {{name: h, mountPath: /host}}], livenessProbe: \
         {{exec: {{command: [sh, -c, '! cat /host/ill']}}, periodSeconds: 1, failureThreshold: 1}}}}\n",
        host.display()
    ));
    cluster.k(&["wait", "--for=condition=Ready", "pod/fragile", "--timeout=80s"]);
    cluster.eventually("it hears the other pod", || host.join("heard").exists());
    let kept = |part: Part| std::fs::read_to_string(a.data_dir().join("agent").join(part.file())).unwrap_or_default();
    let uid = |pod: &str| cluster.k(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
    let tokens = ["on-a", "fragile"].map(|pod| format!("\"pod\":\"{}\"", uid(pod)));
    cluster.eventually_or(
        "what its pods need is kept on the node's disk",
        || a.log_text(),
        || {
            let (pods, network) = (kept(Part::Pods), kept(Part::Network));
            let mut wanted = tokens.iter().map(String::as_str).chain(["\"fragile\"", "a2VwdA=="]);
            wanted.all(|what| pods.contains(what)) && network.contains("\"far\"") && network.contains("\"far-")
        },
    );
    let uids = |cluster: &Cluster| cluster.k(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = uids(cluster);
    cluster.end_server(Signal::SIGKILL);
    a.lose_power();
    a.forget_network();
    std::fs::remove_file(host.join("heard")).unwrap();
    a.start(&[]);
    // Each start of a container has a log of its own.
    let starts = |name: &str| {
        let of = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with(&format!("default_{name}_"));
        let dirs = std::fs::read_dir(a.data_dir().join("agent/pod-logs")).into_iter().flatten().flatten().filter(of);
        let logs = dirs.flat_map(|d| std::fs::read_dir(d.path().join("main")).into_iter().flatten().flatten());
        logs.filter_map(|l| l.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok()).max()
    };
    let runs = |name: &str, start: u32| starts(name) >= Some(start) && a.networks_of(name) == 1;
    cluster.eventually_or("its pods run again", || a.log_text(), || runs("on-a", 1) && runs("fragile", 1));
    let heard = || std::fs::read_to_string(host.join("heard")).unwrap_or_default();
    cluster.eventually_or(
        "it hears the pod of the other node, by name",
        || format!("{}\n{}", a.log_text(), a.network()),
        || heard().trim() == "from on-b (v1)",
    );
    std::fs::write(host.join("ill"), "").unwrap();
    cluster.eventually_or("the probe restarts one", || a.log_text(), || runs("fragile", 2));
    cluster.start();
    cluster.eventually_or(
        "the server hears of it",
        || a.log_text(),
        || cluster.kubectl(&["exec", "fragile", "--", "cat", "/word/word"]).stdout.trim() == "kept",
    );
    cluster.k(&["wait", "--for=condition=Ready", "pod/on-a", "pod/fragile", "--timeout=80s"]);
    assert_eq!(uids(cluster), before, "nobody was replaced");
    for name in ["on-a", "fragile"] {
        assert_eq!(a.networks_of(name), 1, "{name} runs once");
        // The server may still show what it knew before.
        cluster.eventually_or(
            "the server counts the restart",
            || a.log_text(),
            || cluster.field("pod", name, "/status/containerStatuses/0/restartCount") != 0,
        );
    }
}

const SERVERS_LEASES: &str = "apiserver.kubernetes.io/identity=kube-apiserver";
const LEASE_OF_A_DEAD_SERVER: &str = "apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: apiserver-gone
  namespace: kube-system
  labels: {apiserver.kubernetes.io/identity: kube-apiserver}
spec: {holderIdentity: gone, leaseDurationSeconds: 3600, renewTime: '2020-01-01T00:00:00.000000Z'}
";

fn a_server_comes_back(cluster: &mut Cluster, a: &Agent) {
    let token = cluster.ctl(&["token", "create"]).stdout.trim().to_owned();
    let address = cluster.k(&["get", "pod", "on-a", "-o", "jsonpath={.status.podIP}"]);
    cluster.apply(LEASE_OF_A_DEAD_SERVER);
    cluster.end_server(Signal::SIGKILL);
    let began = Instant::now();
    let asked = a.machine.run(|| http_get(&format!("{address}:8080"), "/"));
    assert_eq!(asked.as_deref(), Ok("from on-a (v1)"), "pods run on without a server");
    // One that would join waits until there is a server.
    let mut late = Agent::beside(cluster, "late", 14);
    late.join(SERVER, &token);
    cluster.eventually("it says that it waits", || late.log_text().contains("cannot join yet, trying again"));
    lasts("ORCH_E2E_SERVER_DOWN_SECONDS", began);
    cluster.start();
    cluster.eventually("the agent has connected by itself", || {
        cluster.kubectl(&["exec", "on-a", "--", "cat", "/page/page"]).code == Some(0)
    });
    for agent in [a, &late] {
        agent.wait_until_ready(cluster);
    }
    cluster.apply(&pod("later", "a"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/later", "--timeout=80s"]);
    assert_eq!(cluster.field("pod", "on-a", "/status/containerStatuses/0/restartCount"), 0);
    cluster.eventually("the lease of a server that is no more goes, its own stays", || {
        let leases =
            cluster.kubectl(&["get", "leases", "-n", "kube-system", "-o", "name", "-l", SERVERS_LEASES]).stdout;
        leases.lines().count() == 1 && !leases.contains("apiserver-gone")
    });
    // A token that was revoked stays so.
    assert!(!cluster.ctl(&["token", "list"]).stdout.lines().any(|l| l.starts_with("server ")));
}
