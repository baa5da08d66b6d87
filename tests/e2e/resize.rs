//! What containers are given changes while they run.

use crate::harness::Cluster;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: grows}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/orch/web:v1
    command: [sh, -c, 'sleep 100000']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy:
    - {resourceName: cpu, restartPolicy: NotRequired}
    - {resourceName: memory, restartPolicy: RestartContainer}
"#;

/// A number of the container's cgroup, of either version.
fn number(cluster: &Cluster, v2: &str, v1: &str) -> String {
    let command = format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}");
    let said = cluster.kubectl(&["exec", "grows", "--", "sh", "-c", &command]).stdout;
    said.split_whitespace().next().unwrap_or_default().to_owned()
}

fn quota(cluster: &Cluster) -> String {
    number(cluster, "cpu.max", "cpu/cpu.cfs_quota_us")
}

fn resize(cluster: &Cluster, resources: &str) {
    let patch = format!("{{\"spec\":{{\"containers\":[{{\"name\":\"main\",\"resources\":{resources}}}]}}}}");
    cluster.k(&["patch", "pod", "grows", "--subresource=resize", "-p", &patch]);
}

fn condition(cluster: &Cluster, kind: &str) -> String {
    let path = format!("jsonpath={{.status.conditions[?(@.type=={kind:?})].reason}}");
    cluster.kubectl(&["get", "pod", "grows", "-o", &path]).stdout
}

#[test]
fn a_container_gets_other_resources_in_place_or_by_a_restart() {
    let mut cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(POD);
    cluster.k(&["wait", "--for=condition=Ready", "pod/grows", "--timeout=80s"]);
    assert_eq!(quota(&cluster), "20000");
    let has = |cluster: &Cluster, what: &str| {
        let field = cluster.field("pod", "grows", &format!("/status/containerStatuses/0/{what}"));
        field.as_str().map_or_else(|| field.to_string(), str::to_owned)
    };

    resize(&cluster, r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"300m"}}"#);
    cluster.eventually("it has more of the processor", || quota(&cluster) == "30000");
    cluster.eventually("and the API knows", || has(&cluster, "resources/limits/cpu") == "300m");
    assert_eq!(has(&cluster, "allocatedResources/cpu"), "150m");
    assert_eq!(has(&cluster, "restartCount"), "0");

    // What it was given is not forgotten by an orch that is started anew, and nothing is done twice.
    cluster.end_server(nix::sys::signal::Signal::SIGKILL);
    cluster.start();
    resize(&cluster, r#"{"requests":{"cpu":"50m"},"limits":{"cpu":"100m"}}"#);
    cluster.eventually("it has less", || quota(&cluster) == "10000");
    cluster.eventually("and the API knows that too", || has(&cluster, "resources/limits/cpu") == "100m");
    assert_eq!(has(&cluster, "restartCount"), "0");

    resize(&cluster, r#"{"limits":{"memory":"128Mi"}}"#);
    cluster.eventually("it is started with more memory", || has(&cluster, "restartCount") == "1");
    cluster.eventually("it has more memory", || {
        number(&cluster, "memory.max", "memory/memory.limit_in_bytes") == (128 << 20).to_string()
    });
    assert_eq!(quota(&cluster), "10000");

    resize(&cluster, r#"{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}"#);
    cluster.eventually("the node is too small for it", || condition(&cluster, "PodResizePending") == "Infeasible");
    assert_eq!((quota(&cluster).as_str(), has(&cluster, "resources/limits/cpu").as_str()), ("10000", "100m"));
    resize(&cluster, r#"{"requests":{"cpu":"50m"},"limits":{"cpu":"100m"}}"#);
    cluster.eventually("nothing is waited for any more", || condition(&cluster, "PodResizePending").is_empty());
    cluster.eventually("people are told", || {
        let events = cluster.k(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        ["ResizeStarted", "ResizeCompleted", "ResizeInfeasible"].iter().all(|reason| events.contains(reason))
    });
    assert_eq!(has(&cluster, "restartCount"), "1");
}
