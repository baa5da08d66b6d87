//! A whole cluster for a test: `orch server` as a process, on a machine of its own.
//!
//! The machine is a network namespace with a way to another one, and a data directory: bridge, rules, ports and names
//! are the cluster's alone, so that clusters run side by side and beside an orch of the real machine.
//!
//! **Invariant:** when a [`Cluster`] is dropped its processes, containers, mounts and namespaces are gone.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orch::kubelet::images::{self, Archive, Entry};
use serde_json::Value;

use crate::net::lab::{Ns, ip};

/// Upper bound of a wait for something that takes a second or two on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// An HTTP request that takes longer has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at something that does not tell of its changes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Address of the machine, and of the one beside it that is its default route.
const ADDRESS: &str = "198.51.100.1";
const BESIDE: &str = "198.51.100.2";
/// Port of the API; each machine has its own 6443.
const PORT: u16 = 6443;

/// Gives a machine its address and its way out.
fn address(machine: &str, address: &str) {
    ip(&["-n", machine, "addr", "add", &format!("{address}/24"), "dev", "up0"]);
    ip(&["-n", machine, "link", "set", "up0", "up"]);
    ip(&["-n", machine, "route", "add", "default", "via", BESIDE]);
}

/// The binary under test: `ORCH_BIN`, or the one that cargo has just built with these tests.
pub fn orch() -> PathBuf {
    std::env::var_os("ORCH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_orch").into(), PathBuf::from)
}

/// A kubectl that nobody here wrote; `scripts/deps.sh kubectl` finds one.
fn stock_kubectl() -> PathBuf {
    std::env::var_os("ORCH_KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from)
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(out: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: out.status.code(), stdout: text(&out.stdout), stderr: text(&out.stderr) }
    }
}

/// Flags of every node: the disk of the machine that runs the tests may be as full as it likes.
pub const ANY_DISK: [&str; 2] = ["--kubelet-arg=eviction-hard=", "--kubelet-arg=image-gc-high-threshold=100"];
/// Flags of a cluster's own node.
pub const NODE: [&str; 4] = ["--node-name", "box", ANY_DISK[0], ANY_DISK[1]];

/// An `orch server` and the machine it runs on.
pub struct Cluster {
    pub machine: Ns,
    beside: Ns,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    server: Option<Child>,
}

impl Cluster {
    /// A control plane and a node, both ready.
    pub fn with_node() -> Self {
        Self::with_node_and(&[])
    }

    /// The same with more flags.
    pub fn with_node_and(more: &[&str]) -> Self {
        let mut cluster = Self::prepare(&[&NODE[..], more].concat());
        cluster.start();
        cluster.wait_for_node();
        cluster
    }

    /// A control plane alone.
    pub fn without_node() -> Self {
        let mut cluster = Self::prepare(&["--disable-agent"]);
        cluster.start();
        cluster
    }

    /// A control plane alone whose data directory is a file system of its own, of so many megabytes.
    pub fn without_node_on_a_disk_of(megabytes: usize) -> Self {
        let mut cluster = Self::prepare(&["--disable-agent"]);
        std::fs::create_dir_all(cluster.data_dir()).unwrap();
        let size = format!("size={megabytes}m");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &cluster.data_dir(), Some("tmpfs"), flags, Some(size.as_str())).unwrap();
        cluster.start();
        cluster
    }

    /// Gives that file system another size.
    pub fn resize_disk(&self, megabytes: usize) {
        let size = format!("size={megabytes}m");
        let flags = nix::mount::MsFlags::MS_REMOUNT;
        nix::mount::mount(None::<&str>, &self.data_dir(), None::<&str>, flags, Some(size.as_str())).unwrap();
    }

    /// The machine and its flags; nothing is started.
    pub fn prepare(flags: &[&str]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root");
        let (machine, beside) = (Ns::new("box"), Ns::new("way"));
        let (m, b) = (machine.name.as_str(), beside.name.as_str());
        ip(&["-n", m, "link", "add", "name", "up0", "type", "veth", "peer", "name", "down0", "netns", b]);
        ip(&["-n", b, "link", "add", "name", "br0", "type", "bridge"]);
        ip(&["-n", b, "link", "set", "down0", "master", "br0"]);
        ip(&["-n", b, "addr", "add", &format!("{BESIDE}/24"), "dev", "br0"]);
        ip(&["-n", b, "link", "set", "br0", "up"]);
        ip(&["-n", b, "link", "set", "down0", "up"]);
        address(m, ADDRESS);
        let dir = tempfile::Builder::new().prefix("orch-e2e-").tempdir().unwrap();
        let flags = flags.iter().map(|&f| f.to_owned()).collect();
        Self { machine, beside, dir, flags, env: Vec::new(), server: None }
    }

    /// One more machine on the same wire, with an address that ends with `number`.
    pub fn machine_beside(&self, what: &str, number: u8) -> (Ns, String) {
        let machine = Ns::new(what);
        let (m, b, down) = (machine.name.as_str(), self.beside.name.as_str(), format!("down{number}"));
        let ip_address = format!("198.51.100.{number}");
        ip(&["-n", m, "link", "add", "name", "up0", "type", "veth", "peer", "name", &down, "netns", b]);
        ip(&["-n", b, "link", "set", &down, "master", "br0"]);
        ip(&["-n", b, "link", "set", &down, "up"]);
        address(m, &ip_address);
        (machine, ip_address)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("server/admin.kubeconfig")
    }

    /// `orch server` with this cluster's flags and more; not started.
    pub fn server_command(&self, more: &[&str]) -> Command {
        let mut command = orch_command();
        command.arg("server").arg("--data-dir").arg(self.data_dir());
        // Its address is found and followed.
        command.args(["--https-listen-port", &PORT.to_string()]);
        command.args(&self.flags).args(more).env_remove("ORCH_CONFIG_FILE");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Environment for the servers that are started from now on.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        self.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// The server's process.
    pub fn server_pid(&self) -> Pid {
        Pid::from_raw(self.server.as_ref().expect("the server runs").id() as i32)
    }

    /// Starts the server and waits until it says that it is ready.
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.server_command(&[]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(self.machine.run(|| command.spawn()).unwrap());
        self.eventually("the API server is ready", || {
            if let Some(status) = self.server_has_ended() {
                panic!("orch server has ended: {status}\n{}", self.log_text());
            }
            self.kubeconfig().exists() && self.kubectl(&["get", "--raw", "/readyz"]).code == Some(0)
        });
    }

    /// Starts the server that has ended with more flags than before; they replace those of the last time.
    pub fn restart_with(&mut self, more: &[String]) {
        let before = self.flags.len();
        self.flags.extend_from_slice(more);
        self.start();
        self.flags.truncate(before);
    }

    /// Asks the process table: the child is borrowed, and `try_wait` would need it alone.
    fn server_has_ended(&self) -> Option<String> {
        let pid = self.server.as_ref()?.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        matches!(state, None | Some('Z')).then(|| format!("state {state:?}"))
    }

    pub fn wait_for_node(&self) {
        self.eventually("the node is Ready", || self.readiness("box") == "True");
    }

    /// Ends the server with a signal and waits for its end; containers stay as they are.
    pub fn end_server(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.server.take().expect("the server runs");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap().code()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("orch.log")
    }

    /// What the server has logged last.
    pub fn log_text(&self) -> String {
        tail(&self.log())
    }

    // --- clients

    /// The stock kubectl on the machine, as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Ran {
        self.kubectl_with(args, "")
    }

    /// The same with something on its standard input.
    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Ran {
        run_with(self.kubectl_child(args), stdin)
    }

    /// The same with variables of the environment.
    pub fn kubectl_in(&self, env: &[(&str, &str)], args: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(stock_kubectl());
        command.envs(env.iter().copied());
        run_with(self.client_child(command, args), stdin)
    }

    /// `orch ctl` on the machine, as the administrator.
    pub fn ctl(&self, args: &[&str]) -> Ran {
        self.ctl_with(args, "")
    }

    /// The same with something on its standard input.
    pub fn ctl_with(&self, args: &[&str], stdin: &str) -> Ran {
        run_with(self.ctl_child(args), stdin)
    }

    /// An `orch ctl` that goes on running.
    pub fn ctl_child(&self, args: &[&str]) -> Child {
        let mut command = Command::new(orch());
        command.arg("ctl");
        self.client_child(command, args)
    }

    /// A kubectl that goes on running.
    pub fn kubectl_child(&self, args: &[&str]) -> Child {
        self.client_child(Command::new(stock_kubectl()), args)
    }

    /// Somebody else's client on the machine, as the administrator.
    pub fn client(&self, mut command: Command) -> Ran {
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.machine.run(|| command.spawn()).unwrap_or_else(|e| panic!("{command:?}: {e}"));
        run_with(child, "")
    }

    /// Runs a future on the machine.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce() -> F + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.machine.run(|| runtime().block_on(f()))
    }

    fn client_child(&self, mut command: Command, args: &[&str]) -> Child {
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        // Its cache of discovery would outlive the cluster.
        command.env("HOME", self.dir.path()).env_remove("KUBECONFIG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.machine.run(|| command.spawn()).unwrap_or_else(|e| panic!("{command:?}: {e}; run scripts/deps.sh kubectl"))
    }

    /// kubectl that must succeed; gives its output without surrounding white space.
    #[track_caller]
    pub fn k(&self, args: &[&str]) -> String {
        let ran = self.kubectl(args);
        assert_eq!(ran.code, Some(0), "kubectl {}: {}\n{}", args.join(" "), ran.stderr, self.describe());
        ran.stdout.trim().to_owned()
    }

    /// Creates or changes objects.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        let ran = self.kubectl_with(&["apply", "-f", "-"], manifest);
        assert_eq!(ran.code, Some(0), "kubectl apply: {}", ran.stderr);
        ran.stdout
    }

    /// An object, whole.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.k(&["get", kind, name, "-o", "json"])).unwrap()
    }

    /// A field of an object by JSON pointer; null where there is none, or no object.
    pub fn field(&self, kind: &str, name: &str, pointer: &str) -> Value {
        let ran = self.kubectl(&["get", kind, name, "-o", "json"]);
        let object: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        object.pointer(pointer).cloned().unwrap_or_default()
    }

    /// The status of a node's condition `Ready`; empty where there is none, or no node.
    pub fn readiness(&self, node: &str) -> String {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        self.kubectl(&["get", "node", node, "-o", path]).stdout
    }

    /// Names of the pods with a label that are not on their way out.
    pub fn pods(&self, label: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.k(&["get", "pods", "-l", label, "-o", "json"])).unwrap();
        let items = list["items"].as_array().unwrap();
        let alive = items.iter().filter(|p| p.pointer("/metadata/deletionTimestamp").is_none());
        alive.map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// GET of `/` at an address, from the machine; the body when the status is 200.
    pub fn ask(&self, address: &str) -> Result<String, String> {
        self.machine.run(|| http_get(address, "/"))
    }

    /// POST by curl, as the administrator or with a token; status code and body.
    pub fn post(&self, path: &str, token: Option<&str>, body: &[u8]) -> (u16, String) {
        let identity: Value = yaml(&self.kubeconfig());
        let write = |name: &str, pointer: &str| {
            let text = identity.pointer(pointer).and_then(Value::as_str).expect("the kubeconfig embeds everything");
            let path = self.dir.path().join(name);
            std::fs::write(&path, base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap();
            path.display().to_string()
        };
        let ca = write("ca.pem", "/clusters/0/cluster/certificate-authority-data");
        let mut command = Command::new("curl");
        // HTTP/1.1, where an early answer is read although the body was not taken.
        command.args([
            "-sS",
            "--http1.1",
            "--cacert",
            &ca,
            "-w",
            "\n%{http_code}",
            "-X",
            "POST",
            "--data-binary",
            "@-",
        ]);
        match token {
            Some(token) => {
                command.args(["-H", &format!("Authorization: Bearer {token}")]);
            }
            None => {
                let cert = write("cert.pem", "/users/0/user/client-certificate-data");
                let key = write("key.pem", "/users/0/user/client-key-data");
                command.args(["--cert", &cert, "--key", &key]);
            }
        }
        command.args(["-H", "Content-Type: application/json", "-H", "Expect:"]);
        command.arg(format!("https://127.0.0.1:{PORT}{path}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.machine.run(|| command.spawn()).unwrap();
        // The server may answer before it has read everything.
        let _ = child.stdin.take().expect("it is piped").write_all(body);
        let ran = Ran::from(child.wait_with_output().unwrap());
        let (body, code) = ran.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("curl: {ran:?}"));
        (code.parse().unwrap(), body.to_owned())
    }

    // --- waiting

    /// Asks until the answer is yes.
    #[track_caller]
    pub fn eventually(&self, what: &str, ask: impl FnMut() -> bool) {
        self.eventually_or(what, String::new, ask);
    }

    /// The same; when the answer stays no, `more` is told beside what is known of the cluster.
    #[track_caller]
    pub fn eventually_or(&self, what: &str, more: impl Fn() -> String, mut ask: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !ask() {
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}\n{}\n{}", self.describe(), more());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until a Deployment is what its spec says, and nothing of what it was before is left.
    #[track_caller]
    pub fn settled(&self, deployment: &str, replicas: usize) {
        self.k(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=90s"]);
        let label = format!("app={deployment}");
        self.eventually("the pods are as many as wanted", || {
            self.k(&["get", "pods", "-l", &label, "-o", "name"]).lines().count() == replicas
        });
    }

    /// What is known of the cluster, for a test that fails.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for args in [&["get", "pods", "-A", "-o", "wide"][..], &["get", "events", "-A"][..]] {
            let ran = self.kubectl(args);
            let _ = writeln!(text, "--- kubectl {}\n{}{}", args.join(" "), ran.stdout, ran.stderr);
        }
        let _ = writeln!(text, "--- end of orch's log\n{}", self.log_text());
        text
    }

    // --- images and containers

    /// The containerd of this cluster.
    pub fn containerd(&self) -> Option<Pid> {
        let config = format!("{}/agent/containerd/config.toml", self.data_dir().display());
        self.process(|arguments| arguments.contains(&config))
    }

    /// The shim that holds a pod.
    pub fn shim_of(&self, pod: &str) -> Pid {
        let state = self.data_dir().join("agent/containerd/run/state/io.containerd.runtime.v2.task/k8s.io");
        let mut ids = state.read_dir().unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let is_sandbox = |id: &String| {
            let config = std::fs::read_to_string(state.join(id).join("config.json")).unwrap_or_default();
            let config: Value = serde_json::from_str(&config).unwrap_or_default();
            let note = |key: &str| config["annotations"][key].as_str().unwrap_or_default().to_owned();
            note("io.kubernetes.cri.container-type") == "sandbox" && note("io.kubernetes.cri.sandbox-name") == pod
        };
        let id = ids.find(is_sandbox).expect("the pod has a sandbox");
        self.process(|arguments| arguments.windows(2).any(|w| w[0] == "-id" && w[1] == id)).expect("it has a shim")
    }

    /// A process of this cluster by its arguments.
    fn process(&self, is_it: impl Fn(&[String]) -> bool) -> Option<Pid> {
        self.processes().into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<String> =
                line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
            is_it(&arguments)
        })
    }

    /// Puts the demo's image where the kubelet finds it, as `localhost/orch/web:VERSION`.
    pub fn import_web(&self, version: &str) {
        import(&self.data_dir(), &self.web_archive(version));
    }

    /// The demo's image, made of this machine's busybox.
    pub fn web_archive(&self, version: &str) -> Vec<u8> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|p| p.exists());
        let busybox = busybox.expect("busybox is installed (scripts/deps.sh test)");
        let mut entries = vec![
            Entry::file("bin/busybox", 0o755, std::fs::read(busybox).unwrap()),
            Entry::file("bin/web", 0o755, include_bytes!("../../scripts/demo/web").to_vec()),
            Entry::file("www/cgi-bin/index.cgi", 0o755, include_bytes!("../../scripts/demo/index.cgi").to_vec()),
            Entry::file("etc/passwd", 0o644, b"web:x:1000:1000:web:/:/bin/sh\n".to_vec()),
            Entry::directory("etc/web", 0o755),
            Entry::directory("tmp", 0o1777),
        ];
        let programs = [
            "sh", "sleep", "cat", "echo", "kill", "httpd", "wget", "nslookup", "hostname", "printf", "date", "touch",
            "rm", "test", "env", "id", "ls", "stat",
        ];
        entries.extend(programs.map(|p| Entry::link(format!("bin/{p}"), "busybox")));
        let archive = Archive {
            name: format!("localhost/orch/web:{version}"),
            command: vec!["web".into()],
            env: vec!["PATH=/bin".into(), format!("VERSION={version}")],
            user: "1000".into(),
            ..Archive::default()
        };
        archive.build(&entries).unwrap()
    }

    fn processes(&self) -> Vec<Pid> {
        processes(&self.data_dir())
    }

    /// The token that agents join with.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data_dir().join("server/token")).unwrap().trim().to_owned()
    }
}

/// Puts an image where the kubelet of a data directory finds it.
pub fn import(data_dir: &Path, archive: &[u8]) {
    let path = data_dir.join("image.tar");
    std::fs::write(&path, archive).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(images::import(&runtime_socket(data_dir), &path, None, |_| ())).unwrap();
    std::fs::remove_file(&path).unwrap();
}

fn runtime_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/containerd/run/containerd.sock")
}

/// Processes of the private containerd of a data directory, of its shims and of everything below them.
pub fn processes(data_dir: &Path) -> Vec<Pid> {
    let marker = format!("{}/", data_dir.display());
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let all: Vec<(i32, i32, bool)> = numbers
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, parent, String::from_utf8_lossy(&command).contains(&marker)))
        })
        .collect();
    let mut ours: Vec<i32> = all.iter().filter(|p| p.2).map(|p| p.0).collect();
    let mut next = 0;
    while next < ours.len() {
        let parent = ours[next];
        ours.extend(all.iter().filter(|p| p.1 == parent && !ours.contains(&p.0)).map(|p| p.0).collect::<Vec<_>>());
        next += 1;
    }
    ours.into_iter().map(Pid::from_raw).collect()
}

/// Ends everything that a machine left behind: `dir` is above its data directory.
pub fn sweep(dir: &Path, data_dir: &Path) {
    let processes = processes(data_dir);
    let inode = |path: &Path| std::fs::metadata(path).map(|m| m.ino()).ok();
    let namespaces: Vec<u64> =
        processes.iter().filter_map(|p| inode(Path::new(&format!("/proc/{p}/ns/net")))).collect();
    for &pid in &processes {
        let _ = kill(pid, Signal::SIGKILL);
    }
    let detach = |path: &Path| {
        let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    };
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        // containerd's names for the namespaces of pods; the machine's own is the test's to remove.
        let is_pods = entry.file_name().to_string_lossy().starts_with("cni-");
        if is_pods && inode(&entry.path()).is_some_and(|i| namespaces.contains(&i)) {
            detach(&entry.path());
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let prefix = dir.display().to_string();
    for point in mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.starts_with(&prefix)) {
        detach(Path::new(point));
    }
}

/// A data directory of a runtime without a cluster; what runs from it ends with it, also when the test fails.
pub struct DataDir(tempfile::TempDir);

impl DataDir {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("orch-e2e-").tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        sweep(self.path(), self.path());
    }
}

/// Starts a program on a machine, as systemd/orch.service does: with its mask of files, and with a log.
pub fn spawn(machine: &Ns, args: &[String], env: &[(String, String)], log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = orch_command();
    command.args(args).envs(env.iter().map(|(k, v)| (k, v))).env_remove("ORCH_CONFIG_FILE");
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    machine.run(|| command.spawn()).unwrap()
}

/// orch with the mask of systemd/orch.service: what containers read must not depend on it.
fn orch_command() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 027; exec \"$@\"", "sh"]).arg(orch());
    command
}

/// Lets a fault go on until it has lasted as many seconds as the environment says; it does not wait where that says nothing.
/// What the suite does in seconds is done for real with, say, `ORCH_E2E_PARTITION_SECONDS=120`.
pub fn lasts(variable: &str, began: Instant) {
    std::thread::sleep(seconds(variable).unwrap_or_default().saturating_sub(began.elapsed()));
}

/// Seconds that the environment says.
pub fn seconds(variable: &str) -> Option<Duration> {
    std::env::var(variable).ok()?.parse().ok().map(Duration::from_secs)
}

/// In how many pods' networks processes run, below the runtimes of these data directories, that have this name in their
/// environment: how many of a pod there are.
pub fn networks_of(data_dirs: &[PathBuf], pod: &str) -> usize {
    let networks = directories_of(data_dirs, pod).filter_map(|p| std::fs::read_link(p.join("ns/net")).ok());
    networks.collect::<std::collections::BTreeSet<_>>().len()
}

/// `/proc/<pid>` of each such process. Network plugins are told `K8S_POD_NAME`, also when they clean up after a pod.
fn directories_of(data_dirs: &[PathBuf], pod: &str) -> impl Iterator<Item = PathBuf> {
    let named = format!("POD_NAME={pod}");
    let all = data_dirs.iter().flat_map(|dir| processes(dir)).map(|pid| PathBuf::from(format!("/proc/{pid}")));
    all.filter(move |p| {
        let environment = std::fs::read(p.join("environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|variable| variable == named.as_bytes())
    })
}

/// The same processes, for a test that fails: network, command, state and parent.
pub fn processes_of(data_dirs: &[PathBuf], pod: &str) -> Vec<String> {
    let read = |file: PathBuf| String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).replace('\0', " ");
    let shown = directories_of(data_dirs, pod).map(|p| {
        let network = std::fs::read_link(p.join("ns/net")).unwrap_or_default();
        format!("{} {:?} {}", network.display(), read(p.join("cmdline")), read(p.join("stat")))
    });
    shown.collect()
}

/// The end of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Gives a program its input and waits for its end.
fn run_with(mut child: Child, stdin: &str) -> Ran {
    // One that ends before it has read everything has its reasons, which its output tells.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin.as_bytes());
    child.wait_with_output().unwrap().into()
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        sweep(self.dir.path(), &self.data_dir());
    }
}

/// GET with one connection per request, as a client that keeps nothing; the body when the status is 200.
pub fn http_get(address: &str, path: &str) -> Result<String, String> {
    let to: SocketAddr = address.parse().map_err(|e| format!("{address}: {e}"))?;
    let run = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, REQUEST_LIMIT)?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = run().map_err(|e| e.to_string())?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.trim().to_owned()),
        _ => Err(format!("unexpected answer {text:?}")),
    }
}
