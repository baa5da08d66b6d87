//! A private containerd with real containers: the whole of `Runtime`, crashes, adoption, streams.
//!
//! Every test has a data directory of its own and leaves nothing behind, running or mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use orch::kubelet::containerd::{Containerd, Options};
use orch::kubelet::cri::CriRuntime;
use orch::kubelet::images::{self, Archive, Entry};
use orch::kubelet::logs;
use orch::kubelet::runtime::*;
use orch::kubelet::stream;
use orch::util::tasks::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::harness::DataDir;

const IMAGE: &str = "orch-e2e/busybox:1";
const BUSYBOX: &str = "/bin/busybox";
/// Upper bound of every wait; none of them is expected to take a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A containerd and its directory; both go away with it, whatever happens.
pub struct Node {
    pub dir: DataDir,
    pub containerd: Arc<Containerd>,
    pub runtime: CriRuntime,
}

impl Node {
    pub async fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root");
        let dir = DataDir::new();
        let containerd = Arc::new(Containerd::prepare(&options(dir.path())).unwrap());
        containerd.start().await.unwrap();
        let runtime = CriRuntime::new(containerd.socket());
        Self { dir, containerd, runtime }
    }

    /// A busybox image, made here.
    pub async fn import_busybox(&self) {
        let mut entries = vec![Entry::file("bin/busybox", 0o755, std::fs::read(BUSYBOX).unwrap())];
        entries.extend(
            ["sh", "sleep", "cat", "echo", "kill", "httpd", "stty"].map(|a| Entry::link(format!("bin/{a}"), "busybox")),
        );
        entries.push(Entry::directory("tmp", 0o1777));
        let archive = Archive { name: IMAGE.into(), env: vec!["PATH=/bin".into()], ..Archive::default() };
        let path = self.dir.path().join("busybox.tar");
        std::fs::write(&path, archive.build(&entries).unwrap()).unwrap();
        let mut seen = Vec::new();
        let imported = images::import(self.containerd.socket(), &path, None, |p| seen.push(p)).await.unwrap();
        assert_eq!(imported[0].names, ["docker.io/orch-e2e/busybox:1"]);
        assert!(seen.windows(2).all(|w| w[0].done <= w[1].done), "progress never goes back");
        let last = seen.last().unwrap();
        assert_eq!(last.done, last.total);
    }

    pub fn sandbox(&self, name: &str) -> SandboxConfig {
        let log_directory = self.dir.path().join("logs").join(name);
        std::fs::create_dir_all(&log_directory).unwrap();
        SandboxConfig {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            log_directory: log_directory.display().to_string(),
            // No network plugin is needed for the node's own network.
            host: HostNamespaces { network: true, ..HostNamespaces::default() },
            labels: [("io.kubernetes.pod.name".to_owned(), name.to_owned())].into(),
            ..SandboxConfig::default()
        }
    }

    /// A running container; gives sandbox and container.
    pub async fn run(&self, sandbox: &SandboxConfig, script: &str, stdin: bool) -> (String, String) {
        let id = self.runtime.run_sandbox(sandbox).await.unwrap();
        let config = ContainerConfig {
            name: "main".into(),
            image: IMAGE.into(),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: "main/0.log".into(),
            stdin,
            ..ContainerConfig::default()
        };
        std::fs::create_dir_all(Path::new(&sandbox.log_directory).join("main")).unwrap();
        let container = self.runtime.create_container(&id, &config, sandbox).await.unwrap();
        self.runtime.start_container(&container).await.unwrap();
        (id, container)
    }

    pub async fn status(&self, container: &str) -> ContainerStatus {
        let inventory = self.runtime.inventory().await.unwrap();
        inventory.containers.into_iter().find(|c| c.id == container).expect("it is listed")
    }

    pub async fn stop(self) {
        self.containerd.stop().await.unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts are left\n{mounts}");
    }
}

fn options(dir: &Path) -> Options {
    Options::for_data_dir(&PathBuf::from(dir))
}

/// Asks until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !ask().await {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn log_of(path: &str) -> String {
    let mut out = Vec::new();
    logs::copy(Path::new(path), &logs::Options::default(), &Shutdown::new(), &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_live_from_creation_to_removal() {
    let node = Node::start().await;
    assert!(node.runtime.version().await.unwrap().starts_with("containerd://"));
    assert!(node.runtime.not_ready().await.unwrap().unwrap().contains("NetworkReady=false"), "there is no plugin yet");
    assert!(node.runtime.image(IMAGE).await.unwrap().is_none());
    node.import_busybox().await;
    // Again: everything is there already.
    node.import_busybox().await;
    let image = node.runtime.image(IMAGE).await.unwrap().unwrap();
    assert_eq!(image.tags, ["docker.io/orch-e2e/busybox:1"]);

    let sandbox = node.sandbox("life");
    let (sandbox_id, id) =
        node.run(&sandbox, "echo out; echo err >&2; trap 'exit 7' TERM; sleep 1000 & wait", false).await;
    let status = node.status(&id).await;
    assert_eq!(
        (status.state, status.sandbox_id.as_str(), status.name.as_str()),
        (State::Running, sandbox_id.as_str(), "main")
    );
    assert_eq!(status.image_ref, image.id);

    let command = |c: &[&str]| c.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let run =
        node.runtime.exec_sync(&id, &command(&["sh", "-c", "echo hi; echo no >&2; exit 3"]), PATIENCE).await.unwrap();
    assert_eq!(
        (run.stdout.as_slice(), run.stderr.as_slice(), run.exit_code),
        (b"hi\n".as_slice(), b"no\n".as_slice(), 3)
    );
    let slow = node.runtime.exec_sync(&id, &command(&["sleep", "1000"]), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(slow, RuntimeError::Timeout(_)), "{slow:?}");

    eventually("both lines are logged", || async { log_of(&status.log_path).await.lines().count() == 2 }).await;
    let lines = log_of(&status.log_path).await;
    assert!(lines.contains("out\n") && lines.contains("err\n"), "{lines}");

    let limits = LinuxResources { memory_limit: 64 << 20, cpu_shares: 512, ..LinuxResources::default() };
    node.runtime.update_resources(&id, &limits).await.unwrap();
    eventually("usage is reported", || async { node.runtime.usage().await.unwrap().iter().any(|u| u.id == id) }).await;

    node.runtime.stop_container(&id, PATIENCE).await.unwrap();
    let status = node.status(&id).await;
    assert_eq!((status.state, status.exit_code), (State::Exited, 7));
    assert!(status.finished_at >= status.started_at);
    // Twice is as good as once, here and below.
    for _ in 0..2 {
        node.runtime.stop_container(&id, PATIENCE).await.unwrap();
        node.runtime.remove_container(&id).await.unwrap();
        node.runtime.stop_sandbox(&sandbox_id).await.unwrap();
        node.runtime.remove_sandbox(&sandbox_id).await.unwrap();
    }
    assert_eq!(node.runtime.inventory().await.unwrap(), Inventory::default());
    node.runtime.remove_image(IMAGE).await.unwrap();
    assert!(node.runtime.image(IMAGE).await.unwrap().is_none());
    let error = node.runtime.start_container("none").await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound(_)), "{error:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_survive_a_crash_of_containerd_and_an_exchange_of_orch() {
    let node = Node::start().await;
    node.import_busybox().await;
    let (_, id) = node.run(&node.sandbox("survivor"), "sleep 1000", false).await;
    let before = node.status(&id).await;

    let stop = Shutdown::new();
    let supervisor = tokio::spawn({
        let (containerd, stop) = (node.containerd.clone(), stop.clone());
        async move { containerd.supervise(&stop).await }
    });
    let old = node.containerd.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("another containerd serves", || async {
        node.containerd.pid().is_some_and(|p| p != old) && node.runtime.version().await.is_ok()
    })
    .await;
    assert_eq!(node.status(&id).await.started_at, before.started_at, "the container never stopped");

    // orch goes; containerd stays and the next orch takes it over.
    stop.trigger();
    supervisor.await.unwrap().unwrap();
    let pid = node.containerd.pid();
    let next = Containerd::prepare(&options(node.dir.path())).unwrap();
    next.start().await.unwrap();
    assert_eq!(next.pid(), pid, "adopted, not started again");
    assert_eq!(node.status(&id).await.state, State::Running);

    // Another configuration wants another process; the container still stays.
    let other = Options { cni_bin_dir: node.dir.path().join("cni"), ..options(node.dir.path()) };
    let other = Containerd::prepare(&other).unwrap();
    other.start().await.unwrap();
    assert_ne!(other.pid(), pid);
    assert_eq!(node.status(&id).await.started_at, before.started_at);
    other.stop().await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_is_told_apart() {
    let node = Node::start().await;
    let error = node.runtime.pull_image("localhost:1/none:1", None).await.unwrap_err();
    assert!(matches!(images::PullFailure::of(&error), images::PullFailure::Unreachable(_)), "{error}");
    let error = node.runtime.pull_image("Not A Name", None).await.unwrap_err();
    assert!(matches!(images::PullFailure::of(&error), images::PullFailure::InvalidName(_)), "{error}");
    assert_eq!(images::progress(node.containerd.socket()).await.unwrap(), (0, 0));
    assert!(node.runtime.events().await.unwrap().is_none() || !node.runtime.version().await.unwrap().contains("1.6"));
    node.stop().await;
}

/// A node's HTTP server as kubectl would reach it: each request gets a URL of the runtime from `ask`.
async fn serve<F>(ask: impl Fn() -> F + Clone + Send + Sync + 'static) -> std::net::SocketAddr
where
    F: Future<Output = (String, stream::Purpose)> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let ask = ask.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let asked = ask();
                async move {
                    let (url, purpose) = asked.await;
                    stream::proxy_upgrade(request, &url, purpose).await
                }
            });
            let io = hyper_util::rt::TokioIo::new(tcp);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades());
        }
    });
    address
}

/// A WebSocket to such a server.
async fn connect(address: std::net::SocketAddr, protocol: &str) -> WebSocketStream<tokio::net::TcpStream> {
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, tcp).await.unwrap().0
}

/// All that comes over the channels until the server closes.
async fn until_closed(socket: &mut WebSocketStream<tokio::net::TcpStream>) -> [Vec<u8>; 5] {
    let mut channels: [Vec<u8>; 5] = Default::default();
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                channels[usize::from(bytes[0])].extend(&bytes[1..]);
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the server closes at the end");
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_a_websocket_carries_all_streams_and_the_end_of_stdin() {
    let node = Arc::new(Node::start().await);
    node.import_busybox().await;
    let (_, container) = node.run(&node.sandbox("exec"), "sleep 1000", false).await;
    let exec = node.clone();
    let ask = move || {
        let (node, container) = (exec.clone(), container.clone());
        async move {
            let options = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
            let command = ["sh", "-c", "cat; echo problem >&2; exit 5"].map(String::from);
            let url = node.runtime.exec_url(&container, &command, options).await;
            (url.unwrap(), stream::Purpose::Command(options))
        }
    };
    let mut socket = connect(serve(ask).await, "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let channels = until_closed(&mut socket).await;
    assert_eq!(channels[1], b"hello");
    assert_eq!(channels[2], b"problem\n");
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "5");
    node.containerd.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_over_the_channels_of_a_websocket() {
    let node = Arc::new(Node::start().await);
    node.import_busybox().await;
    let (sandbox, _) = node.run(&node.sandbox("ports"), "sleep 1000", false).await;
    // The pod has the network of this machine: a port that answers, and one that nobody listens at.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = [0; 4];
        stream.read_exact(&mut question).await.unwrap();
        stream.write_all(&[b"heard ", &question[..]].concat()).await.unwrap();
    });
    let forward = node.clone();
    let ask = move || {
        let (node, sandbox) = (forward.clone(), sandbox.clone());
        async move {
            let ports = vec![open, closed];
            (node.runtime.port_forward_url(&sandbox, &ports).await.unwrap(), stream::Purpose::Ports(ports))
        }
    };
    let mut socket = connect(serve(ask).await, "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00ping".to_vec())).await.unwrap();
    let channels = until_closed(&mut socket).await;
    assert_eq!(channels[0], [&open.to_le_bytes()[..], b"heard ping"].concat());
    assert_eq!(channels[1], open.to_le_bytes());
    assert_eq!(channels[2], closed.to_le_bytes());
    let error = String::from_utf8_lossy(&channels[3][2..]).into_owned();
    assert!(error.contains("connection refused"), "{error}");
    node.containerd.stop().await.unwrap();
}
