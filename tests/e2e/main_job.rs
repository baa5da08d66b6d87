//! "Real containers behind a Service": the demo of `scripts/demo` on a node, driven by a stock kubectl.

use std::io::Read;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Cluster, http_get};

const DEMO: [&str; 3] = [
    include_str!("../../scripts/demo/configmap.yaml"),
    include_str!("../../scripts/demo/service.yaml"),
    include_str!("../../scripts/demo/deployment.yaml"),
];

/// A cluster with the demo deployed and settled.
fn demo() -> Cluster {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.import_web("v2");
    for manifest in DEMO {
        cluster.apply(manifest);
    }
    cluster.settled("web", 3);
    cluster
}

/// `address:port` of the Service by its cluster IP, and by the node's port on loopback and on the node's address.
fn addresses(cluster: &Cluster) -> [String; 2] {
    let service = cluster.get("service", "web");
    let ip = service["spec"]["clusterIP"].as_str().unwrap();
    let node_port = &service["spec"]["ports"][0]["nodePort"];
    [format!("{ip}:80"), format!("198.51.100.1:{node_port}")]
}

/// A pod of one container that runs a script.
fn pod(name: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 5\n  containers:\n  - name: main\n    image: localhost/orch/web:v1\n    \
         command: [sh, -c, {}]\n{more}",
        serde_json::to_string(script).unwrap()
    )
}

fn container_status(cluster: &Cluster, pod: &str, pointer: &str) -> Value {
    cluster.field("pod", pod, &format!("/status/containerStatuses/0{pointer}"))
}

/// "[sig-network] Services should be able to create a functioning NodePort service", "[sig-network] DNS should
/// resolve DNS of partial qualified names for services"
#[test]
fn a_service_answers_by_address_port_and_name() {
    let cluster = demo();
    let pods = cluster.pods("app=web");
    for address in addresses(&cluster) {
        let mut seen = std::collections::BTreeSet::new();
        cluster.eventually("every pod answers in its turn", || {
            let answer = cluster.ask(&address).unwrap_or_else(|e| panic!("{address}: {e}"));
            let pod = answer.strip_prefix("Hello from ").and_then(|a| a.strip_suffix(" (v1)")).map(str::to_owned);
            seen.insert(pod.unwrap_or_else(|| panic!("{answer}")));
            seen.len() == 3
        });
        assert!(seen.iter().all(|p| pods.contains(p)), "{seen:?} {pods:?}");
    }
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        let answer = cluster.k(&["exec", &pods[0], "--", "wget", "-qO-", &format!("http://{name}/")]);
        assert!(answer.starts_with("Hello from web-"), "{name}: {answer}");
    }
    // The API is a Service too, and pods get a token for it.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let claims = cluster.k(&["exec", &pods[0], "--", "cat", token]);
    assert_eq!(claims.split('.').count(), 3, "a signed token");
    let exec = cluster.kubectl(&["exec", &pods[0], "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (Some(7), "out\n"));
    assert!(exec.stderr.contains("err\n"), "{}", exec.stderr);
    let cat = cluster.kubectl_with(&["exec", "-i", &pods[0], "--", "cat"], "over and back\n");
    assert_eq!((cat.code, cat.stdout.as_str()), (Some(0), "over and back\n"));
}

#[test]
fn logs_and_forwarded_ports_reach_the_client() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(&pod(
        "talker",
        "for i in 1 2 3; do echo line $i; done; exec web",
        "    env: [{name: POD_NAME, value: p}]\n",
    ));
    cluster.k(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]);
    cluster.eventually("three lines are logged", || cluster.k(&["logs", "talker"]) == "line 1\nline 2\nline 3");
    assert_eq!(cluster.k(&["logs", "talker", "--tail=1"]), "line 3");

    let mut forward = cluster.kubectl_child(&["port-forward", "pod/talker", ":8080"]);
    let port = forwarded_port(&mut forward);
    let answer = cluster.machine.run(|| http_get(&format!("127.0.0.1:{port}"), "/"));
    assert_eq!(answer.as_deref(), Ok("from p (v1)"), "no ConfigMap is mounted here");
    forward.kill().unwrap();
    forward.wait().unwrap();

    cluster.apply(&pod("ending", "echo first; exec sleep 1000", ""));
    cluster.k(&["wait", "--for=condition=Ready", "pod/ending", "--timeout=60s"]);
    let follow = cluster.kubectl_child(&["logs", "-f", "ending"]);
    cluster.k(&["delete", "pod", "ending"]);
    // It ends with the container.
    let followed = follow.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "first\n");
}

/// The port that kubectl chose, from `Forwarding from 127.0.0.1:PORT -> 8080`.
fn forwarded_port(forward: &mut Child) -> u16 {
    let stdout = forward.stdout.as_mut().expect("it is piped");
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') && stdout.read(&mut byte).unwrap() == 1 {
        line.push(byte[0].into());
    }
    let port = line.split("127.0.0.1:").nth(1).and_then(|l| l.split(' ').next()).and_then(|p| p.parse().ok());
    port.unwrap_or_else(|| {
        let mut stderr = String::new();
        let _ = forward.stderr.as_mut().expect("it is piped").read_to_string(&mut stderr);
        panic!("port-forward said {line:?} {stderr:?}")
    })
}

#[test]
fn no_request_fails_while_v1_becomes_v2_and_back() {
    let cluster = demo();
    cluster.k(&["scale", "deployment/web", "--replicas=5"]);
    cluster.settled("web", 5);
    let [address, _] = addresses(&cluster);
    let (stop, answered, failures) = (AtomicBool::new(false), AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                cluster.machine.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        match http_get(&address, "/") {
                            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => failures.lock().unwrap().push(error),
                        }
                    }
                });
            });
        }
        // The threads end with the scope, so the way out of a failed step must stop them too.
        let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.k(&["set", "image", "deployment/web", "web=localhost/orch/web:v2"]);
            cluster.settled("web", 5);
            assert!(cluster.ask(&address).unwrap().ends_with("(v2)"));
            cluster.k(&["rollout", "undo", "deployment/web"]);
            cluster.settled("web", 5);
            assert!(cluster.ask(&address).unwrap().ends_with("(v1)"));
        }));
        stop.store(true, Ordering::Relaxed);
        steps.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    assert!(answered.into_inner() > 100, "the Service was under constant requests");
    let revisions = cluster.k(&["get", "replicasets", "-l", "app=web", "-o", "name"]);
    assert_eq!(revisions.lines().count(), 2, "the rollback used the old ReplicaSet again: {revisions}");
}

/// "[sig-node] Probing container should be restarted with a exec"
#[test]
fn what_dies_is_started_again_and_what_keeps_dying_waits() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    let probe = "    livenessProbe: {exec: {command: [test, -e, /tmp/well]}, periodSeconds: 1, failureThreshold: 2}\n";
    cluster.apply(&pod("ill", "touch /tmp/well; exec sleep 1000", probe));
    cluster.apply(&pod("crashing", "exit 3", ""));
    cluster.apply(&pod("killed", "trap 'exit 0' TERM; sleep 1000 & wait", ""));
    cluster.k(&["wait", "--for=condition=Ready", "pod/ill", "pod/killed", "--timeout=60s"]);
    let before = container_status(&cluster, "killed", "/containerID");

    cluster.k(&["exec", "ill", "--", "rm", "/tmp/well"]);
    // The end of a container's first process kills the rest of it, the one that asked for it too if it is still there.
    let kill = cluster.kubectl(&["exec", "killed", "--", "kill", "1"]);
    assert!(matches!(kill.code, Some(0 | 137)), "{kill:?}\n{}", cluster.describe());
    cluster.eventually("the probe restarts the container", || container_status(&cluster, "ill", "/restartCount") == 1);
    cluster.eventually("a killed container is started again", || {
        container_status(&cluster, "killed", "/restartCount") == 1
            && container_status(&cluster, "killed", "/ready") == true
    });
    assert_ne!(container_status(&cluster, "killed", "/containerID"), before);
    cluster.eventually("a crash loop is held back", || {
        container_status(&cluster, "crashing", "/state/waiting/reason") == "CrashLoopBackOff"
    });
    assert_eq!(container_status(&cluster, "crashing", "/lastState/terminated/exitCode"), 3);
    assert_eq!(cluster.field("pod", "crashing", "/status/phase"), "Running");
}

#[test]
fn a_deleted_pod_gets_its_grace() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    let volume = "    volumeMounts: [{name: out, mountPath: /out}]\n  volumes: [{name: out, hostPath: {path: OUT, type: DirectoryOrCreate}}]\n";
    let out = cluster.data_dir().join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(1000), None).unwrap();
    let volume = volume.replace("OUT", &out.display().to_string());
    cluster.apply(&pod("polite", "trap 'echo bye > /out/said; exit 0' TERM; sleep 1000 & wait", &volume));
    cluster.apply(&pod("stubborn", "trap '' TERM; while :; do sleep 1; done", "").replace("Seconds: 5", "Seconds: 1"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/polite", "pod/stubborn", "--timeout=60s"]);
    cluster.k(&["delete", "pod", "polite", "stubborn", "--timeout=60s"]);
    assert_eq!(std::fs::read_to_string(out.join("said")).unwrap(), "bye\n", "it was asked and had time to answer");
    assert_eq!(cluster.k(&["get", "pods", "-o", "name"]), "", "the stubborn one was killed");
}

#[test]
fn pods_survive_the_death_of_orch() {
    let mut cluster = demo();
    let [address, _] = addresses(&cluster);
    let ids = |cluster: &Cluster| {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        cluster.k(&["get", "pods", "-l", "app=web", "-o", path])
    };
    let before = ids(&cluster);
    assert_eq!(before.lines().count(), 3);
    for (signal, replicas) in [(Signal::SIGKILL, 4), (Signal::SIGTERM, 5)] {
        let code = cluster.end_server(signal);
        assert_eq!(code, (signal == Signal::SIGTERM).then_some(0), "{}", cluster.log_text());
        assert!(cluster.ask(&address).is_ok(), "pods and rules do their work without orch");
        cluster.start();
        cluster.wait_for_node();
        // Everything works as before, new pods too.
        cluster.k(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        cluster.settled("web", replicas);
        let now = ids(&cluster);
        assert!(before.lines().all(|l| now.contains(l)), "after {signal}:\n{before}\n{now}");
    }
}

#[test]
fn orch_ctl_does_what_kubectl_does() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    for manifest in DEMO {
        let applied = cluster.ctl_with(&["apply", "-f", "-"], manifest);
        assert_eq!(applied.code, Some(0), "{applied:?}");
        assert!(applied.stdout.ends_with("/web created\n"), "{applied:?}");
    }
    let status = cluster.ctl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    assert_eq!(status.code, Some(0), "{status:?}\n{}", cluster.describe());
    let pod = cluster.pods("app=web").remove(0);
    for args in [
        &["get", "pods", "-o", "name"][..],
        &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"],
        &["get", "deployment", "web", "-o", "json"],
        &["get", "configmap", "web", "-o", "yaml"],
        &["logs", &pod],
        &["exec", &pod, "--", "sh", "-c", "echo out; exit 7"],
        &["get", "pod", "none"],
        &["get", "nothing"],
    ] {
        let (ours, theirs) = (cluster.ctl(args), cluster.kubectl(args));
        assert_eq!(
            (ours.code, &ours.stdout),
            (theirs.code, &theirs.stdout),
            "{args:?}: {} {}",
            ours.stderr,
            theirs.stderr
        );
    }
    let wrong = cluster.ctl_with(&["apply", "-f", "-"], &DEMO[2].replace("replicas", "replcas"));
    assert_eq!((wrong.code, wrong.stderr.lines().count()), (Some(1), 1), "{wrong:?}");
    assert!(wrong.stderr.contains("spec.replcas"), "{wrong:?}");
}
