//! What a node does for its pods beyond running them, what becomes of them when the worst happens, and that nothing is
//! left of them.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::{Cluster, NODE};
use crate::registry;

/// What charts ask for: a user of its own, a group for its volumes, parts of volumes, limits, facts about itself.
const CHART: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: chart, labels: {role: first}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1001, runAsGroup: 2002, fsGroup: 3003, runAsNonRoot: true}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: fast, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  containers:
  - name: main
    image: localhost/orch/web:v1
    command: [sleep, "1000"]
    envFrom: [{prefix: CM_, configMapRef: {name: words}}]
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: ALL, value: "$(NAME) $(LIMIT) $(CM_greeting)"}
    resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}
    securityContext: {appArmorProfile: {type: Unconfined}, readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: data, mountPath: /part, subPath: a/b}
    - {name: data, mountPath: /own, subPathExpr: $(NAME)}
    - {name: fast, mountPath: /fast}
    - {name: info, mountPath: /info}
"#;

/// A number that the kernel keeps for a cgroup, of v1 or v2; -1 for no limit.
fn cgroup(path: &str, v1: (&str, &str), v2: &str) -> i64 {
    let root = PathBuf::from("/sys/fs/cgroup");
    let unified = root.join("cgroup.controllers").exists();
    let file = if unified { root.join(path).join(v2) } else { root.join(v1.0).join(path).join(v1.1) };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(-1)
}

#[test]
fn a_pod_gets_what_charts_ask_for() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(CHART);
    cluster.k(&["wait", "--for=condition=Ready", "pod/chart", "--timeout=60s"]);
    let sh = |script: &str| cluster.k(&["exec", "chart", "--", "sh", "-c", script]);
    // Whatever the mask of files is that orch was started with.
    sh("touch /part/x /own/x /fast/x && test -r /etc/hosts && test -r /etc/resolv.conf");
    assert_eq!(sh("busybox id -u; busybox id -g; busybox id -G"), "1001\n2002\n2002 3003");
    assert_eq!(sh("echo $ALL"), "chart 64 hello");
    let size = sh("busybox df -k /fast");
    assert!(size.lines().last().is_some_and(|l| l.split_whitespace().nth(1) == Some("1024")), "{size}");
    cluster.k(&["label", "pod", "chart", "role=second", "--overwrite"]);
    cluster.eventually("the volume tells of the new label", || sh("cat /info/labels").contains("role=\"second\""));

    // The limits are the kernel's, and the class has the weight of its pods.
    let pod = cluster.get("pod", "chart");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let of_pod = format!("kubepods/burstable/pod{uid}");
    assert_eq!(cgroup(&of_pod, ("memory", "memory.limit_in_bytes"), "memory.max"), 64 << 20);
    assert_eq!(cgroup(&of_pod, ("cpu", "cpu.cfs_quota_us"), "cpu.max"), 50_000);
    let id = pod.pointer("/status/containerStatuses/0/containerID").and_then(Value::as_str).unwrap();
    let of_container = format!("{of_pod}/{}", id.split_once("://").unwrap().1);
    assert_eq!(cgroup(&of_container, ("memory", "memory.limit_in_bytes"), "memory.max"), 64 << 20);
    let quarter = if cgroup_v2() { 10 } else { 256 };
    assert_eq!(cgroup(&of_container, ("cpu", "cpu.shares"), "cpu.weight"), quarter);

    // Somebody looks into it, as `kubectl debug` does.
    let debug = ["debug", "chart", "--image=localhost/orch/web:v1", "--target=main", "-c", "look", "--attach=false"];
    cluster.k(&[&debug[..], &["--profile=general", "--", "sh", "-c", "busybox ps"]].concat());
    cluster.eventually("the debugger sees the processes of its target", || {
        cluster.kubectl(&["logs", "chart", "-c", "look"]).stdout.contains("sleep 1000")
    });
    // Collectors of logs find them by name.
    let links = cluster.data_dir().join("agent/container-logs");
    let names: Vec<String> = links.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|n| n.starts_with("chart_default_main-")), "{names:?}");
    cluster.eventually("the node tells its images", || {
        cluster.field("node", "box", "/status/images").to_string().contains("localhost/orch/web:v1")
    });
}

fn cgroup_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn a_crashing_container_tells_why_it_crashed() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: main, image: localhost/orch/web:v1, {more}}}\n"
        )
    };
    cluster.apply(&pod("crashing", "command: [sh, -c, echo no database; exit 3]"));
    let reason = || cluster.field("pod", "crashing", "/status/containerStatuses/0/state/waiting/reason");
    cluster.eventually("it is held back", || reason() == "CrashLoopBackOff");
    for args in [&["logs", "crashing"][..], &["logs", "-p", "crashing"]] {
        assert_eq!(cluster.k(args), "no database", "{args:?}");
    }
    cluster.apply(
        &pod("absent", "imagePullPolicy: Never, image: localhost/orch/none:v1")
            .replace("image: localhost/orch/web:v1, ", ""),
    );
    let absent = || cluster.field("pod", "absent", "/status/containerStatuses/0/state/waiting/reason");
    cluster.eventually("an image that may not be pulled is told", || absent() == "ErrImageNeverPull");
    let logs = cluster.kubectl(&["logs", "absent"]);
    assert!(logs.stderr.contains("is waiting to start: ErrImageNeverPull"), "{logs:?}");
    // A probe that cannot be asked is told, too.
    let probe = "command: [sleep, \"1000\"], readinessProbe: {httpGet: {port: nothing}, periodSeconds: 1}";
    cluster.apply(&pod("unasked", probe));
    cluster.eventually("an event says so", || {
        cluster.k(&["get", "events"]).contains("Readiness probe errored and resulted in unknown state")
    });
}

/// What a node keeps for its pods outside of the API.
fn kept(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data_dir();
    let mut all = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pods = data.join("agent/kubelet/pods");
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
    all.extend(points.filter(|p| p.starts_with(pods.to_str().unwrap())).map(|p| format!("mount {p}")));
    let names = |dir: PathBuf| -> Vec<String> {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    all.extend(names(pods).into_iter().map(|n| format!("directory {n}")));
    all.extend(names(data.join("agent/pod-logs")).into_iter().map(|n| format!("logs {n}")));
    all.extend(names(data.join("agent/container-logs")).into_iter().map(|n| format!("link {n}")));
    let addresses = names(data.join("agent/cni/state/orch")).into_iter().filter(|n| n.starts_with("10."));
    all.extend(addresses.map(|n| format!("address {n}")));
    let links = std::process::Command::new("ip").args(["-n", &cluster.machine.name, "-br", "link"]).output().unwrap();
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    all.extend(links.lines().filter(|l| l.starts_with("veth")).map(|l| format!("interface {l}")));
    all
}

/// The cgroups of these pods that there still are.
fn cgroups_of(uids: &[String]) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = root.read_dir().unwrap().flatten().map(|e| e.path()).chain([root.clone()]);
    let classes = hierarchies.flat_map(|h| ["", "burstable", "besteffort"].map(|c| h.join("kubepods").join(c)));
    classes.flat_map(|c| uids.iter().map(move |uid| c.join(format!("pod{uid}")))).filter(|p| p.exists()).collect()
}

const MANY: usize = 12;

fn many() -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: many}}\nspec:\n  replicas: {MANY}\n  \
         selector: {{matchLabels: {{app: many}}}}\n  template:\n    metadata: {{labels: {{app: many}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]\n      containers:\n      \
         - {{name: c, image: localhost/orch/web:v1, command: [sleep, \"1000\"], volumeMounts: [{{name: v, mountPath: /v, subPath: s}}]}}\n"
    )
}

#[test]
fn whatever_is_killed_in_the_middle_comes_back_and_leaves_nothing() {
    let mut cluster = Cluster::with_node();
    cluster.import_web("v1");
    assert_eq!(kept(&cluster), Vec::<String>::new());
    cluster.apply(&many());
    // orch, while it starts pods.
    cluster.eventually("some are being started", || {
        !cluster.k(&["get", "pods", "-l", "app=many", "-o", "name"]).is_empty()
    });
    cluster.end_server(Signal::SIGKILL);
    cluster.start();
    cluster.settled("many", MANY);
    let uids = cluster.k(&["get", "pods", "-l", "app=many", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let uids: Vec<String> = uids.split(' ').map(str::to_owned).collect();
    cluster.eventually("as many addresses are in use as there are pods", || {
        kept(&cluster).iter().filter(|k| k.starts_with("address")).count() == MANY
    });

    // The shim of a pod: what it held dies, and the pod is started again.
    let victim = cluster.pods("app=many").remove(0);
    kill(cluster.shim_of(&victim), Signal::SIGKILL).unwrap();
    cluster.eventually("the pod of a killed shim runs again", || {
        let restarts = cluster.field("pod", &victim, "/status/containerStatuses/0/restartCount");
        restarts.as_i64().is_some_and(|n| n > 0)
            && cluster.field("pod", &victim, "/status/containerStatuses/0/ready") == true
    });

    // containerd: nobody notices.
    let restarts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    let before = cluster.k(&["get", "pods", "-l", "app=many", "-o", restarts]);
    let old = cluster.containerd().expect("containerd runs");
    kill(old, Signal::SIGKILL).unwrap();
    cluster.eventually("another containerd serves", || cluster.containerd().is_some_and(|pid| pid != old));
    cluster.k(&["scale", "deployment/many", &format!("--replicas={}", MANY + 1)]);
    cluster.settled("many", MANY + 1);
    let after = cluster.k(&["get", "pods", "-l", "app=many", "-o", restarts]);
    let sum = |text: &str| text.split(' ').filter_map(|n| n.parse::<i64>().ok()).sum::<i64>();
    assert_eq!(sum(&after), sum(&before), "containers outlive containerd");

    cluster.k(&["delete", "deployment", "many", "--wait=true"]);
    cluster.eventually("all pods are gone", || cluster.k(&["get", "pods", "-o", "name"]).is_empty());
    cluster.eventually("nothing is left of them", || kept(&cluster).is_empty());
    assert_eq!(cgroups_of(&uids), Vec::<PathBuf>::new());
}

#[test]
fn images_come_from_registries_that_let_us_in_and_others_hold_up_nobody() {
    let cluster = Cluster::with_node();
    registry::serve(&cluster.machine, |name| cluster.web_archive(name));
    cluster.import_web("v1");
    let pod = |name: &str, image: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - \
             {{name: main, image: \"{image}\", command: [sleep, \"1000\"]}}\n{more}"
        )
    };
    let at = |repository: &str| format!("{}/{repository}/web:v1", registry::ADDRESS);
    let reason = |pod: &str| cluster.field("pod", pod, "/status/containerStatuses/0/state/waiting/reason");
    let (user, password) = registry::USER;
    let server = format!("--docker-server={}", registry::ADDRESS);
    let user_flag = format!("--docker-username={user}");
    for (name, password) in [("good", password), ("bad", "wrong")] {
        let password = format!("--docker-password={password}");
        cluster.k(&["create", "secret", "docker-registry", name, &server, &user_flag, &password]);
    }
    // Registries that never give a layer, more of them than pulls at once.
    for n in 0..5 {
        cluster.apply(&pod(&format!("slow-{n}"), &at("slow"), ""));
    }
    cluster.apply(&pod("open", &at("open"), ""));
    cluster.apply(&pod("known", &at("locked"), "  imagePullSecrets: [{name: good}]\n"));
    // It asks the registry, even when the image is here already.
    let unknown = pod("unknown", &at("locked"), "  imagePullSecrets: [{name: bad}]\n");
    cluster.apply(&unknown.replace("command:", "imagePullPolicy: Always, command:"));
    cluster.apply(&pod("broken", &at("broken"), ""));
    cluster.apply(&pod("missing", &at("nobody").replace("v1", "v2"), ""));
    cluster.apply(&pod("invalid", "Not/A/Name", ""));
    // What is here already does not wait for a registry.
    cluster.apply(&pod("here", "localhost/orch/web:v1", ""));
    cluster.k(&["wait", "--for=condition=Ready", "pod/here", "--timeout=60s"]);
    assert_eq!(cluster.k(&["get", "pod", "slow-0", "-o", "jsonpath={.status.phase}"]), "Pending");
    cluster.k(&["delete", "pod", "slow-0", "slow-1", "slow-2", "slow-3", "slow-4", "--timeout=60s"]);
    cluster.k(&["wait", "--for=condition=Ready", "pod/open", "pod/known", "--timeout=80s"]);
    for (name, what) in [("unknown", "ErrImagePull"), ("broken", "ErrImagePull"), ("missing", "ErrImagePull")] {
        cluster.eventually(&format!("{name} waits for its image"), || {
            reason(name) == what || reason(name) == "ImagePullBackOff"
        });
    }
    cluster.eventually("a name that is none is told", || reason("invalid") == "InvalidImageName");
    let events = cluster.k(&["get", "events"]);
    for part in ["Successfully pulled image", "Failed to pull image", "pod/invalid"] {
        assert!(events.contains(part), "{part:?} is missing in\n{events}");
    }

    let data = cluster.data_dir().display().to_string();
    let pull = |args: &[&str]| cluster.ctl(&[&["image", "pull", "--data-dir", &data][..], args].concat());
    let pulled = pull(&[&at("locked"), "--creds", &format!("{user}:{password}")]);
    assert_eq!((pulled.code, pulled.stdout), (Some(0), format!("Pulled: {}\n", at("locked"))), "{}", pulled.stderr);
    let refused = pull(&[&at("locked")]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the registry wants other credentials"), "{refused:?}");
}

#[test]
fn ports_and_the_network_of_the_host_are_a_pods_for_the_asking() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: box\n  terminationGracePeriodSeconds: 1\n{more}  \
             containers:\n  - {{name: main, image: localhost/orch/web:v1, env: [{{name: POD_NAME, value: {name}}}]"
        )
    };
    let with_port = |name: &str| format!("{}, ports: [{{containerPort: 8080, hostPort: 8081}}]}}\n", pod(name, ""));
    let answers = |port: u16, name: &str| {
        cluster.ask(&format!("198.51.100.1:{port}")).is_ok_and(|said| said == format!("from {name} (v1)"))
    };
    cluster.apply(&with_port("first"));
    cluster.eventually("the port leads to the pod", || answers(8081, "first"));
    cluster.apply(&with_port("second"));
    cluster.eventually("a port has one pod, and the other is told why", || {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        cluster.field("pod", "second", "/status/reason") == "NodePorts" && cluster.k(&["get", "events"]).contains(why)
    });
    cluster.k(&["delete", "pod", "first", "second", "--timeout=60s"]);
    cluster.apply(&with_port("second"));
    cluster.eventually("the next one gets it", || answers(8081, "second"));

    let host = pod("host", "  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n");
    cluster.apply(&format!("{host}}}\n"));
    cluster.eventually("it answers at the node's address", || answers(8080, "host"));
    assert_eq!(cluster.field("pod", "host", "/status/podIP"), "198.51.100.1");
    cluster.k(&["delete", "pod", "second", "host", "--timeout=60s"]);
    cluster.eventually("nothing is left of them", || kept(&cluster).is_empty());
}

#[test]
fn a_runtime_class_leads_to_the_runtime_that_it_names() {
    let mut cluster = Cluster::prepare(&NODE);
    // A runtime that is called as runc is, under the name of another one.
    let bin = cluster.data_dir().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    let runc = path.split(':').chain(["/usr/sbin"]).map(|p| PathBuf::from(p).join("runc")).find(|p| p.exists());
    std::os::unix::fs::symlink(runc.expect("runc is installed"), bin.join("crun")).unwrap();
    cluster.set_env(&[("PATH", &format!("{}:{path}", bin.display()))]);
    cluster.start();
    cluster.wait_for_node();
    cluster.import_web("v1");
    for (class, handler) in [("other", "crun"), ("strange", "nobody-has-this")] {
        cluster.apply(&format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {class}}}\nhandler: {handler}\n"
        ));
    }
    for (name, class) in
        [("plain", ""), ("other", "  runtimeClassName: other\n"), ("strange", "  runtimeClassName: strange\n")]
    {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{class}  containers:\n  - \
             {{name: main, image: localhost/orch/web:v1}}\n"
        ));
    }
    cluster.k(&["wait", "--for=condition=Ready", "pod/plain", "pod/other", "--timeout=80s"]);
    // Each runtime keeps what it knows of a container in a directory of its own.
    let known = |runtime: &str, pod: &str| {
        let id = cluster.field("pod", pod, "/status/containerStatuses/0/containerID");
        let id = id.as_str().and_then(|id| id.split("//").nth(1)).unwrap().to_owned();
        cluster.data_dir().join("agent/containerd/run").join(runtime).join("k8s.io").join(id).exists()
    };
    for (runtime, pod, is) in
        [("runc", "plain", true), ("crun", "plain", false), ("runc", "other", false), ("crun", "other", true)]
    {
        assert_eq!(known(runtime, pod), is, "{pod} is {runtime}'s");
    }
    assert_eq!(cluster.k(&["exec", "other", "--", "echo", "reached"]), "reached");
    cluster.eventually("a runtime that is not there is told of", || {
        let events = cluster.k(&["get", "events", "--field-selector", "involvedObject.name=strange"]);
        events.contains("FailedCreatePodSandBox") && events.contains("nobody-has-this")
    });
    cluster.k(&["delete", "pod", "plain", "other", "strange", "--timeout=60s"]);
    cluster.eventually("nothing is left of them", || kept(&cluster).is_empty());
}
