//! `orch killall` and `orch uninstall` after a real server with real pods, and the word to a service manager.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Cluster, NODE, PATIENCE, Ran, orch};

const PODS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
    containers:\n  - {name: main, image: 'localhost/orch/web:v1', ports: [{containerPort: 8080, hostPort: 8099}],\n     \
    resources: {limits: {memory: 64Mi, cpu: 200m}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: stubborn}\nspec:\n  \
    volumes: [{name: m, emptyDir: {medium: Memory}}]\n  containers:\n  - {name: main, image: 'localhost/orch/web:v1', \
    command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"], volumeMounts: [{name: m, mountPath: /m}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}\n";

/// `orch COMMAND` on the machine, for its data directory.
fn on(cluster: &Cluster, command: &str, more: &[&str]) -> Ran {
    let mut run = Command::new(orch());
    run.arg(command).arg("--data-dir").arg(cluster.data_dir()).args(more).env_remove("ORCH_CONFIG_FILE");
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    cluster.machine.run(|| run.spawn()).unwrap().wait_with_output().unwrap().into()
}

/// What other programs see of the machine: its network, and on the whole host what names its data directory.
fn state(cluster: &Cluster) -> BTreeMap<&'static str, Vec<String>> {
    let told = |program: &str, args: &[&str]| -> Vec<String> {
        let mut run = Command::new(program);
        run.args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let out = cluster.machine.run(|| run.spawn()).unwrap().wait_with_output().unwrap();
        String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
    };
    let dir = cluster.data_dir().display().to_string();
    let lines = |file: &str| -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().filter(|l| l.contains(&dir)).map(str::to_owned).collect()
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|p| {
        let line = std::fs::read(p.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&dir).then_some(line)
    });
    BTreeMap::from([
        ("links", told("ip", &["-o", "-br", "link"])),
        ("addresses", told("ip", &["-o", "-br", "address"])),
        ("routes", told("ip", &["route", "show", "table", "all"])),
        ("rules", told("nft", &["list", "ruleset"])),
        ("mounts", lines("/proc/self/mountinfo")),
        ("processes", processes.collect()),
        ("files", if cluster.data_dir().exists() { vec![dir.clone()] } else { Vec::new() }),
    ])
}

/// The same once the machine's interface is up and has all its addresses.
fn settled(cluster: &Cluster) -> BTreeMap<&'static str, Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = state(cluster);
        // An address of IPv6 is looked for on the wire first; it has this route when it is the machine's.
        let v6 =
            !Path::new("/proc/net/if_inet6").exists() || now["routes"].iter().any(|r| r.starts_with("local fe80:"));
        if v6 && now["addresses"].iter().all(|l| l.starts_with("lo") || l.contains(" UP ")) {
            return now;
        }
        assert!(Instant::now() < end, "the machine's network is not there: {now:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the pods have outside of the data directory and of the machine's network.
fn traces(cluster: &Cluster) -> Vec<PathBuf> {
    let children = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
    };
    let agent = cluster.data_dir().join("agent");
    let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
    let mut out = Vec::new();
    for bundle in children(&agent.join("containerd/run/state/io.containerd.runtime.v2.task/k8s.io")) {
        let socket = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
        out.extend(socket.trim().strip_prefix("unix://").map(PathBuf::from));
        let results = children(Path::new("/var/lib/cni/results"));
        out.extend(results.into_iter().filter(|r| name(r).contains(&name(&bundle))));
    }
    for reservation in children(&agent.join("cni/state/orch")) {
        let text = std::fs::read_to_string(reservation).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        out.extend(value["netns"].as_str().map(PathBuf::from));
    }
    let uids: Vec<String> = children(&agent.join("kubelet/pods")).iter().map(|p| format!("pod{}", name(p))).collect();
    let roots = [PathBuf::from("/sys/fs/cgroup")].into_iter().chain(children(Path::new("/sys/fs/cgroup")));
    for root in roots {
        for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            out.extend(uids.iter().map(|u| root.join(class).join(u)).filter(|p| p.exists()));
        }
    }
    out.retain(|p| p.exists());
    out
}

fn start_pods(cluster: &mut Cluster) {
    cluster.start();
    cluster.wait_for_node();
    cluster.import_web("v1");
    cluster.apply(PODS);
    cluster.k(&["wait", "--for=condition=Ready", "pod/a", "pod/stubborn", "--timeout=90s"]);
}

#[test]
fn nothing_is_left_of_a_server_and_its_pods() {
    let mut cluster = Cluster::prepare(&NODE);
    let before = settled(&cluster);
    start_pods(&mut cluster);
    let during = traces(&cluster);
    // A socket of a shim, a namespace, results and cgroups, for each of two pods.
    assert!(during.len() >= 8, "{during:?}");

    // It says what it would do, and does nothing.
    let told = on(&cluster, "uninstall", &["--dry-run"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    for part in ["end orch: ", "end containers: ", "remove interface orch0", "table ip orch-cni", "kubepods"] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert!(told.stdout.lines().all(|l| l.starts_with("would ")), "{}", told.stdout);
    assert_eq!(traces(&cluster).len(), during.len());

    // Stopped, with the state kept: the same pods come back.
    let uid = cluster.field("pod", "a", "/metadata/uid");
    let killed = on(&cluster, "killall", &[]);
    assert_eq!(killed.code, Some(0), "{killed:?}");
    assert_eq!(traces(&cluster), [] as [PathBuf; 0]);
    let mut stopped = state(&cluster);
    assert_ne!(stopped.remove("files"), Some(Vec::new()), "the state is kept");
    assert!(before.iter().filter(|(k, _)| **k != "files").all(|(k, v)| stopped[k] == *v), "{before:#?}\n{stopped:#?}");
    let again = on(&cluster, "killall", &[]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "nothing of orch is here\n"));
    cluster.end_server(Signal::SIGKILL);
    cluster.start();
    cluster.eventually("the pods run again", || {
        ["a", "stubborn"].iter().all(|pod| {
            cluster.field("pod", pod, "/status/containerStatuses/0/ready") == true
                && cluster.field("pod", pod, "/status/containerStatuses/0/restartCount").as_i64() > Some(0)
        })
    });
    assert_eq!(cluster.field("pod", "a", "/metadata/uid"), uid);

    // Removed, while everything runs and one shim has been killed.
    let shim = cluster.shim_of("stubborn");
    nix::sys::signal::kill(shim, Signal::SIGKILL).unwrap();
    let during = traces(&cluster);
    let removed = on(&cluster, "uninstall", &[]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let left: Vec<&PathBuf> = during.iter().filter(|p| p.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(state(&cluster), before);
    let again = on(&cluster, "uninstall", &[]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "nothing of orch is here\n"));
}

#[test]
fn the_service_manager_hears_of_the_start_the_life_and_the_end() {
    let mut cluster = Cluster::prepare(&["--disable-agent"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |what: &str| {
        let (mut message, end) = ([0; 512], Instant::now() + PATIENCE);
        loop {
            let n = manager.recv(&mut message).unwrap_or_else(|e| panic!("{what}: {e}"));
            let text = String::from_utf8_lossy(&message[..n]).into_owned();
            if text.lines().any(|l| l == what) {
                return text;
            }
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        }
    };
    cluster.set_env(&[("NOTIFY_SOCKET", &path.display().to_string()), ("WATCHDOG_USEC", "3000000")]);
    cluster.start();
    assert_eq!(hear("READY=1"), "READY=1\nSTATUS=serving the API");
    hear("WATCHDOG=1");
    // One that hangs feeds nobody.
    let pid = cluster.server_pid();
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    while manager.recv(&mut [0; 512]).is_ok() {}
    nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    hear("WATCHDOG=1");
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    hear("STOPPING=1");
}
