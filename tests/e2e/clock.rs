//! Machines whose clock is wrong: they say so, nothing that runs is disturbed, and all is well once it is right.
//!
//! The kernel has one clock for all namespaces, so a library that is loaded first tells one process another time.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::harness::{Cluster, import};

const SERVER: &str = "https://198.51.100.1:6443";
/// Two hours and a little: certificates are valid an hour before they are made.
const BEHIND: i64 = -7_230;
const AHEAD: i64 = 7_230;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, clock, t);
    const char *seconds = getenv("CLOCK_IS_OFF_BY");
    if (!failed && seconds && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += atol(seconds);
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
