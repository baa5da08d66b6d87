//! Somebody looks around: `orch ctl debug` in a running pod, in a copy of it and on its node, and `orch ctl proxy` between the
//! stock kubectl and the server, all with real containers.

use std::io::{BufRead, BufReader};
use std::process::Child;

use crate::harness::Cluster;

const IMAGE: &str = "localhost/orch/web:v1";

/// A proxy that ends with its test.
struct Proxy {
    child: Child,
    url: String,
}

impl Proxy {
    fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        let mut child = cluster.ctl_child(&[&["proxy", "--port=0"], flags].concat());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("Starting to serve on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, url: format!("http://{address}") }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_debugger_joins_a_pod_its_copy_and_its_node() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: main, image: {IMAGE}, command: [sleep, '1234']}}]\n"
    ));
    cluster.eventually("the pod runs", || cluster.field("pod", "app", "/status/phase") == "Running");
    let debug = |words: &[&str], stdin: &str| {
        let image = format!("--image={IMAGE}");
        cluster.ctl_with(&[&["debug", "--profile=sysadmin", "-q", &image], words].concat(), stdin)
    };

    let script = "read word; echo got $word; tr '\\0' ' ' </proc/1/cmdline";
    let ran = debug(&["app", "-c", "look", "--target=main", "-i", "--", "sh", "-c", script], "hello\n");
    assert_eq!(ran.code, Some(0), "{ran:?}\n{}", cluster.describe());
    // In its log is all of what it said: a stream ends with the input, as the runtime has it for containers whose input may
    // be opened again.
    let said = || cluster.k(&["logs", "app", "-c", "look"]);
    cluster.eventually("it was spoken to", || said().contains("got hello"));
    cluster.eventually("it sees the processes of its target", || said().contains("sleep 1234"));
    let again = debug(&["app", "-c", "look"], "");
    assert!(
        again.code == Some(1) && again.stderr.contains("existing ephemeral containers \"look\" may not be changed"),
        "{again:?}"
    );

    let node = cluster.k(&["get", "nodes", "-o", "name"]);
    let script = "read word; echo got $word; test -d /host/proc/1 && echo sees";
    let ran = debug(&[&node, "-i", "--", "sh", "-c", script], "here\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let pods = cluster.k(&["get", "pods", "-o", "name"]);
    let debugger = pods.lines().find(|pod| pod.starts_with("pod/node-debugger-")).unwrap();
    cluster.eventually("it sees the node", || cluster.k(&["logs", debugger]).trim() == "got here\nsees");

    let ran = debug(&["app", "--copy-to=copy", "-c", "extra", "--same-node", "--", "sleep", "99"], "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ready = |n: usize| cluster.field("pod", "copy", &format!("/status/containerStatuses/{n}/ready"));
    cluster.eventually("both containers of the copy run", || ready(0) == true && ready(1) == true);
    assert_eq!(
        cluster.field("pod", "copy", "/metadata/labels"),
        serde_json::Value::Null,
        "no service leads to the copy"
    );

    // Through a proxy goes what upgrades its connection too, where it may.
    let open = Proxy::start(&cluster, &["--reject-paths=^$"]);
    let ran = cluster.kubectl(&["-s", &open.url, "exec", "app", "--", "echo", "through"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "through\n"), "{ran:?}");
    let closed = Proxy::start(&cluster, &[]);
    assert_eq!(cluster.kubectl(&["-s", &closed.url, "get", "pod", "app", "-o", "name"]).stdout, "pod/app\n");
    let ran = cluster.kubectl(&["-s", &closed.url, "exec", "app", "--", "echo", "through"]);
    assert!(ran.code == Some(1) && ran.stdout.is_empty(), "{ran:?}");
}
