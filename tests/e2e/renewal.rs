//! Certificates that end soon: everybody has the next one in time, nobody restarts, and no pod notices.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::harness::{self, Cluster, Ran, import};

const SERVER: &str = "https://198.51.100.1:6443";
/// How long certificates live here, where `ORCH_E2E_CERTIFICATE_SECONDS` does not say more.
const LIFE: Duration = Duration::from_secs(30);

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: a\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: main, image: localhost/orch/web:v1, env: [{{name: POD_NAME, value: {name}}}]}}\n"
    )
}

/// Status of an HTTPS request to an address, whose certificate has to be right.
fn asked(cluster: &Cluster, url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
    curl.arg(cluster.data_dir().join("server/tls/server-ca.crt")).arg(url);
    let ran = Ran::from(cluster.machine.run(|| curl.output()).unwrap());
    ran.stdout + &ran.stderr
}

#[test]
fn certificates_are_renewed_while_everything_runs() {
    let life = harness::seconds("ORCH_E2E_CERTIFICATE_SECONDS").unwrap_or(LIFE);
    let setting = format!("--kube-controller-manager-arg=cluster-signing-duration={}s", life.as_secs());
    let cluster = Cluster::with_node_and(&[&setting]);
    let mut a = Agent::beside(&cluster, "a", 11);
    a.join(SERVER, &cluster.token());
    a.wait_until_ready(&cluster);
    import(&a.data_dir(), &cluster.web_archive("v1"));
    cluster.apply(&pod("first"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/first", "--timeout=80s"]);
    let mut stream = cluster.kubectl_child(&["exec", "-i", "first", "--", "cat"]);
    let (mut to, mut from) = (stream.stdin.take().unwrap(), BufReader::new(stream.stdout.take().unwrap()));
    let mut echo = |said: &str| {
        writeln!(to, "{said}").unwrap();
        let mut heard = String::new();
        from.read_line(&mut heard).unwrap();
        assert_eq!(heard.trim(), said);
    };
    echo("a stream is open");

    let (server, agent) = (cluster.data_dir().join("server/tls"), a.data_dir().join("agent"));
    let files = [
        server.join("serving-kube-apiserver.crt"),
        server.join("serving-kubelet.crt"),
        server.join("client-admin.crt"),
        agent.join("client-kubelet.crt"),
        agent.join("serving-kubelet.crt"),
    ];
    let texts = || files.each_ref().map(|f| std::fs::read_to_string(f).unwrap_or_default());
    let began = Instant::now();
    let (first, processes) = (texts(), (cluster.server_pid(), a.pid()));
    let old = kept_kubeconfig(&cluster);
    let since = r#"jsonpath={.status.conditions[?(@.type=="Ready")].lastTransitionTime}"#;
    let ready_since = || ["box", "a"].map(|node| cluster.k(&["get", "node", node, "-o", since]));
    let ready_before = ready_since();

    cluster.eventually_or(
        "all have another certificate",
        || a.log_text(),
        || texts().iter().zip(&first).all(|(now, then)| !now.is_empty() && now != then),
    );
    let until = began + life;
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    cluster.eventually_or(
        "the first certificate is worth nothing any more",
        || a.log_text(),
        || {
            let ran = cluster.kubectl(&["--kubeconfig", &old.display().to_string(), "get", "pods"]);
            ran.code == Some(1) && ran.stderr.contains("expired certificate")
        },
    );
    let (api, box_node, other) =
        ("198.51.100.1:6443/readyz", "198.51.100.1:10250/healthz", "198.51.100.11:10250/healthz");
    let shown = [api, box_node, other].map(|at| asked(&cluster, &format!("https://{at}")));
    assert_eq!(shown, ["200", "401", "401"], "what servers show holds");
    echo("it is open still");
    cluster.apply(&pod("second"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/second", "--timeout=80s"]);
    assert_eq!(cluster.k(&["exec", "second", "--", "echo", "reached"]), "reached");
    assert_eq!(ready_since(), ready_before, "no node was missed for a moment");
    assert_eq!((cluster.server_pid(), a.pid()), processes, "nobody was restarted");
    assert_eq!(cluster.field("pod", "first", "/status/containerStatuses/0/restartCount"), 0);
    drop(to);
    assert!(stream.wait().unwrap().success());
}

/// A copy of the administrator's kubeconfig as it is.
fn kept_kubeconfig(cluster: &Cluster) -> PathBuf {
    let copy = cluster.data_dir().join("old.kubeconfig");
    std::fs::copy(cluster.kubeconfig(), &copy).unwrap();
    copy
}
