//! Machines whose clock is wrong, or is set while orch runs: they say so, nothing that runs is disturbed, and all is well once
//! it is right. Beside it, a node that is silent again and again.
//!
//! The kernel has one clock for all namespaces, so a library that is loaded first tells one process another time: by as many
//! seconds as a variable says from its start on, or as a file says by now.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::harness::{Cluster, NODE, import};

const SERVER: &str = "https://198.51.100.1:6443";
/// Two hours and a little: certificates are valid an hour before they are made.
const BEHIND: i64 = -7_230;
const AHEAD: i64 = 7_230;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *set_by;

__attribute__((constructor)) static void find_what_it_is_set_by(void) {
    const char *path = getenv("CLOCK_IS_SET_BY");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof *set_by, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) set_by = at;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, clock, t);
    const char *seconds = getenv("CLOCK_IS_OFF_BY");
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    if (seconds) t->tv_sec += atol(seconds);
    if (set_by) t->tv_sec += *set_by;
    return failed;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"#;

/// Makes the library.
fn library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(made.expect("a C compiler links what cargo builds").success());
    library
}

/// Environment of a process whose clock is so many seconds ahead.
fn off_by(library: &Path, seconds: i64) -> Vec<(String, String)> {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    vec![pair("LD_PRELOAD", library.display().to_string()), pair("CLOCK_IS_OFF_BY", seconds.to_string())]
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: a\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: main, image: localhost/orch/web:v1, env: [{{name: POD_NAME, value: {name}}}]}}\n"
    )
}

#[test]
fn a_clock_that_is_hours_off_is_told_of_and_disturbs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let mut cluster = Cluster::without_node();
    let mut a = Agent::beside(&cluster, "a", 11);
    let token = cluster.token();

    // A machine that has yet to join.
    a.env = off_by(&library, BEHIND);
    a.join(SERVER, &token);
    a.says(&cluster, "this machine's clock is 2h0m behind that of https://198.51.100.1:6443");
    assert_eq!(cluster.kubectl(&["get", "node", "a"]).code, Some(1), "it is no node yet");
    a.end(Signal::SIGKILL);
    a.env.clear();
    a.join(SERVER, &token);
    a.wait_until_ready(&cluster);
    import(&a.data_dir(), &cluster.web_archive("v1"));
    cluster.apply(&pod("first"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/first", "--timeout=80s"]);
    let undisturbed = |cluster: &Cluster, a: &Agent| {
        a.wait_until_ready(cluster);
        cluster.eventually("the node is reached", || cluster.kubectl(&["exec", "first", "--", "id"]).code == Some(0));
        assert_eq!(cluster.field("pod", "first", "/status/containerStatuses/0/restartCount"), 0);
    };

    // A node whose clock goes ahead works on, and starts pods.
    a.end(Signal::SIGKILL);
    a.env = off_by(&library, AHEAD);
    a.start(&[]);
    cluster.apply(&pod("second"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/second", "--timeout=80s"]);
    undisturbed(&cluster, &a);

    // One whose clock stays behind its own certificate says so; its pods run.
    a.end(Signal::SIGKILL);
    a.env = off_by(&library, BEHIND);
    a.start(&[]);
    a.says(&cluster, "this machine's clock is 2h0m behind that of https://198.51.100.1:6443");
    assert_eq!(a.networks_of("first"), 1);
    a.end(Signal::SIGKILL);
    a.env.clear();
    a.start(&[]);
    undisturbed(&cluster, &a);

    // The same without anybody to ask, after a reboot: a clock without a battery keeps no pod waiting.
    cluster.end_server(Signal::SIGKILL);
    a.lose_power();
    a.env = off_by(&library, BEHIND);
    a.start(&[]);
    cluster.eventually_or("its pods run again", || a.log_text(), || a.networks_of("first") == 1);
    a.end(Signal::SIGKILL);
    a.env.clear();

    // A server whose clock goes ahead, and is set right again: its nodes stay and work.
    cluster.set_env(&off_by(&library, AHEAD).iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>());
    cluster.start();
    a.start(&[]);
    a.wait_until_ready(&cluster);
    cluster.apply(&pod("third"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/third", "--timeout=80s"]);
    let restarts = |cluster: &Cluster| cluster.field("pod", "third", "/status/containerStatuses/0/restartCount");
    cluster.end_server(Signal::SIGKILL);
    cluster.set_env(&[]);
    cluster.start();
    a.wait_until_ready(&cluster);
    cluster.eventually("the node is reached", || cluster.kubectl(&["exec", "third", "--", "id"]).code == Some(0));
    assert_eq!(restarts(&cluster), 0);
}

/// A clock that is set while processes go by it.
struct Settable(PathBuf);

impl Settable {
    fn new(dir: &Path) -> Self {
        let clock = Self(dir.join("set-by"));
        std::fs::write(&clock.0, 0i64.to_ne_bytes()).unwrap();
        clock
    }

    /// Seconds that it is ahead from now on. In place: whoever goes by it has the file mapped.
    fn set_by(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(&self.0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).unwrap();
    }

    fn env(&self, library: &Path) -> [(String, String); 2] {
        let pair = |key: &str, path: &Path| (key.to_owned(), path.display().to_string());
        [pair("LD_PRELOAD", library), pair("CLOCK_IS_SET_BY", &self.0)]
    }
}

/// Two of a Deployment, one with a name of its own and one of a DaemonSet on the agent's node, and a Job at one minute of each hour.
fn workloads(minute: u64) -> String {
    let template = "template:\n    metadata: {labels: {app: APP}}\n    spec: {SELECTOR, terminationGracePeriodSeconds: 0, containers: [{name: \
                    main, image: 'localhost/orch/web:v1', env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}\n";
    let on_a = "nodeSelector: {kubernetes.io/hostname: a}";
    let rows = [
        ("Deployment", "web", "replicas: 2", on_a),
        ("StatefulSet", "one", "serviceName: one", on_a),
        ("DaemonSet", "each", "minReadySeconds: 0", "hostNetwork: false"),
    ];
    let mut all = format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: hourly}}\nspec:\n  schedule: '{minute} * * * *'\n  jobTemplate: \
         {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: main, image: 'localhost/orch/web:v1', command: \
         [sh, -c, 'exit 0']}}]}}}}}}}}\n"
    );
    for (kind, app, more, selector) in rows {
        let template = template.replace("APP", app).replace("SELECTOR", selector);
        all += &format!(
            "---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {app}}}\nspec:\n  {more}\n  selector: {{matchLabels: \
             {{app: {app}}}}}\n  {template}"
        );
    }
    all
}

/// Name, uid and restarts of all pods but the CronJob's.
fn pods(cluster: &Cluster) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let all = cluster.k(&["get", "pods", "-l", "app in (web, one, each)", "-o", path]);
    all.lines().map(str::to_owned).collect()
}

#[test]
fn a_node_flaps_and_a_clock_is_set_and_no_pod_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let (library, clock) = (library(dir.path()), Settable::new(dir.path()));
    let grace = ["--kube-controller-manager-arg", "node-monitor-grace-period=12s"];
    let mut cluster = Cluster::prepare(&[&NODE[..], &grace].concat());
    let env = clock.env(&library);
    cluster.set_env(&env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>());
    cluster.start();
    cluster.wait_for_node();
    let mut a = Agent::beside(&cluster, "a", 11);
    a.join(SERVER, &cluster.token());
    let web = cluster.web_archive("v1");
    import(&cluster.data_dir(), &web);
    a.wait_until_ready(&cluster);
    import(&a.data_dir(), &web);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    cluster.apply(&workloads((now / 60 + 30) % 60));
    for what in ["deployment/web", "statefulset/one", "daemonset/each"] {
        cluster.k(&["rollout", "status", what, "--timeout=90s"]);
    }
    let before = pods(&cluster);
    assert_eq!(before.len(), 5, "{before:?}");
    let ready = |cluster: &Cluster| cluster.k(&["rollout", "status", "deployment/web", "--timeout=90s"]);

    the_node_flaps(&cluster, &mut a);
    ready(&cluster);
    assert_eq!(pods(&cluster), before);
    for pod in before.iter().filter_map(|line| line.split(' ').next()).filter(|name| !name.starts_with("each")) {
        assert_eq!(a.networks_of(pod), 1, "{pod}");
    }
    for (turn, seconds) in [3_600, 0, 3_600, 0].into_iter().enumerate() {
        the_clock_is_set(&cluster, &clock, seconds, turn);
        ready(&cluster);
        assert_eq!(pods(&cluster), before, "{seconds}");
    }
    assert_eq!(a.networks_of("one-0"), 1);
}

/// Silent for too long and back, then gone for moments only.
fn the_node_flaps(cluster: &Cluster, a: &mut Agent) {
    let is = |status: &str| cluster.readiness("a") == status;
    a.end(Signal::SIGKILL);
    cluster.eventually("it is found silent", || is("Unknown"));
    assert_ne!(cluster.field("node", "a", "/spec/taints"), serde_json::Value::Null);
    cluster
        .eventually("its pods serve no more", || cluster.field("deployment", "web", "/status/readyReplicas").is_null());
    a.start(&[]);
    cluster.eventually("it is well again", || is("True") && cluster.field("node", "a", "/spec/taints").is_null());
    for _ in 0..2 {
        a.end(Signal::SIGKILL);
        a.start(&[]);
        cluster.eventually("it is reached", || cluster.kubectl(&["exec", "one-0", "--", "id"]).code == Some(0));
    }
}

/// Nobody notices but who goes by the hour, and that once for each: `turn` counts the times that the clock was set.
fn the_clock_is_set(cluster: &Cluster, clock: &Settable, seconds: i64, turn: usize) {
    let path =
        r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].lastTransitionTime} {.spec.taints}{end}"#;
    let nodes = || cluster.k(&["get", "nodes", "-o", path]);
    let before = nodes();
    clock.set_by(seconds);
    // The controllers look at everything that changes: here, at the nodes and the CronJob.
    for what in ["nodes", "cronjob/hourly"] {
        let all = if what == "nodes" { &["--all"][..] } else { &[] };
        cluster.k(&[&["annotate", what, "--overwrite", &format!("turn={turn}")], all].concat());
    }
    for node in ["box", "a"] {
        let name = format!("{node}-{turn}");
        cluster.apply(&pod(&name).replace("nodeName: a", &format!("nodeName: {node}")));
        cluster.k(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=80s"]);
    }
    cluster.eventually("the hour that came has its Job", || {
        cluster.k(&["get", "jobs", "-o", "jsonpath={.items[*].status.succeeded}"]) == "1"
    });
    assert_eq!(nodes(), before, "no node was taken for silent");
}
