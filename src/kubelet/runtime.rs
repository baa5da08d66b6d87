//! What the kubelet needs of a container runtime: CRI v1 in plain words.
//!
//! `cri` implements it over a unix socket; `fake` stands beside it for tests of the pod workers.
//! Shapes follow upstream's `runtime.v1` API; ids are the runtime's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

/// Why the runtime refused. `NotFound` is told apart because most callers treat it as done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{0} not found")]
    NotFound(String),
    /// The call took too long.
    #[error("{0} timed out")]
    Timeout(String),
    /// The runtime cannot be reached.
    #[error("container runtime is not reachable: {0}")]
    Unavailable(String),
    /// Any other error, in the runtime's words.
    #[error("{0}")]
    Failed(String),
}

/// Result of a runtime call.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortMapping {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// In the pod.
    pub container_port: u16,
    /// On the host; 0 for none.
    pub host_port: u16,
    /// Address of the host to bind; empty for all.
    pub host_ip: String,
}

/// Which namespaces a sandbox or container shares with the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostNamespaces {
    /// `hostNetwork`.
    pub network: bool,
    /// `hostPID`.
    pub pid: bool,
    /// `hostIPC`.
    pub ipc: bool,
    /// `shareProcessNamespace`.
    pub shared_pid: bool,
}

/// A security context, as far as the runtime enforces it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Uid.
    pub run_as_user: Option<i64>,
    /// User name, where the uid is not known.
    pub run_as_username: String,
    /// Gid.
    pub run_as_group: Option<i64>,
    /// Additional groups, `fsGroup` among them.
    pub supplemental_groups: Vec<i64>,
    /// All devices and capabilities.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Added capabilities, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Dropped capabilities; `ALL` drops all.
    pub drop_capabilities: Vec<String>,
    /// `RuntimeDefault`, `Unconfined`, `Localhost/<profile>`; empty for the runtime's default.
    pub seccomp: String,
    /// AppArmor, in the same words; empty for the runtime's default.
    pub apparmor: String,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

/// What to run a pod's sandbox with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// Counts the sandboxes of the pod, from 0.
    pub attempt: u32,
    /// Host name inside.
    pub hostname: String,
    /// Directory for container logs.
    pub log_directory: String,
    /// `nameserver`, `search` and `options` of resolv.conf; all empty means the runtime copies the host's.
    pub dns_servers: Vec<String>,
    /// Search domains.
    pub dns_searches: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// Labels; the kubelet's own (`io.kubernetes.pod.name`, …) are already in.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// cgroup below which the pod's containers live.
    pub cgroup_parent: String,
    /// Shared namespaces.
    pub host: HostNamespaces,
    /// Pod-level security.
    pub security: Security,
    /// `net.*` and other sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Runtime handler of the RuntimeClass; empty for the default.
    pub runtime_handler: String,
}

/// How mounts inside propagate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// `None`.
    #[default]
    Private,
    /// `HostToContainer`.
    HostToContainer,
    /// `Bidirectional`.
    Bidirectional,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// Read-only.
    pub read_only: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// cgroup limits; 0 or empty means not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinuxResources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds.
    pub cpu_quota: i64,
    /// CPU weight in cgroup v1 shares.
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
    /// `oom_score_adj`.
    pub oom_score_adj: i64,
    /// `cpuset.cpus`.
    pub cpuset_cpus: String,
    /// Raw cgroup v2 keys.
    pub unified: BTreeMap<String, String>,
}

/// What to make a container of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerConfig {
    /// Container name.
    pub name: String,
    /// Counts the restarts, from 0.
    pub attempt: u32,
    /// Image reference or id the runtime knows.
    pub image: String,
    /// Entrypoint; empty for the image's.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Environment in order.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the node, beside those that every container has.
    pub devices: Vec<Device>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the sandbox's log directory.
    pub log_path: String,
    /// Keeps stdin open.
    pub stdin: bool,
    /// Closes stdin after the first attach ends.
    pub stdin_once: bool,
    /// Allocates a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: LinuxResources,
    /// Security.
    pub security: Security,
    /// Shared namespaces.
    pub host: HostNamespaces,
    /// The container whose processes it sees; empty for its own alone.
    pub pid_target: String,
}

/// A device of the node in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the node.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// It may only be read.
    pub read_only: bool,
}

/// State of a sandbox or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running; for sandboxes, ready.
    Running,
    /// Ended; for sandboxes, not ready.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

/// A sandbox as listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxStatus {
    /// Id.
    pub id: String,
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// Attempt.
    pub attempt: u32,
    /// State.
    pub state: State,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Pod addresses, the first one is the main one.
    pub ips: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A container as listed, with its status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerStatus {
    /// Id.
    pub id: String,
    /// Sandbox.
    pub sandbox_id: String,
    /// Name.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// Image as the pod named it.
    pub image: String,
    /// Image with digest, or its id.
    pub image_ref: String,
    /// State.
    pub state: State,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when not started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 when not finished.
    pub finished_at: i64,
    /// Exit code.
    pub exit_code: i32,
    /// `OOMKilled`, `Completed`, `Error`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file on the host.
    pub log_path: String,
}

impl ContainerStatus {
    /// One that was just made, as a runtime lists it.
    pub fn created(id: String, sandbox: &str, config: &ContainerConfig, now: i64) -> Self {
        Self {
            id,
            sandbox_id: sandbox.into(),
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.clone(),
            image_ref: format!("sha256:{}", config.image),
            state: State::Created,
            created_at: now,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone(),
            ..Self::default()
        }
    }
}

/// Everything the runtime runs, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Sandboxes.
    pub sandboxes: Vec<SandboxStatus>,
    /// Containers.
    pub containers: Vec<ContainerStatus>,
    /// What was listed but would not tell its status: what is known of its pod is not the whole truth.
    pub unclear: Vec<Unclear>,
}

/// A sandbox or container that is there and does not tell how it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unclear {
    /// Uid of its pod.
    pub pod_uid: String,
    /// Why, in the runtime's words.
    pub why: String,
}

/// An image the runtime has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Id.
    pub id: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Digests.
    pub digests: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Uid the image runs as, where it says so in numbers.
    pub uid: Option<i64>,
    /// User name the image runs as, where it says so in letters.
    pub username: String,
    /// The runtime itself wants it kept.
    pub pinned: bool,
}

/// Credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// How to run a command interactively.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    /// Connect stdin.
    pub stdin: bool,
    /// Connect stdout.
    pub stdout: bool,
    /// Connect stderr.
    pub stderr: bool,
    /// Allocate a terminal.
    pub tty: bool,
}

/// CPU and memory of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerUsage {
    /// Container id.
    pub id: String,
    /// CPU time used, nanoseconds.
    pub cpu_nanos: u64,
    /// Working set, bytes.
    pub memory_working_set: u64,
    /// What it wrote into its root file system, bytes.
    pub disk_bytes: u64,
}

/// What became ready or ended; where the runtime has events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// Uid of the pod.
    pub pod_uid: String,
}

/// Events as they come; its end means: relist, and ask for events again.
pub type EventStream = BoxStream<'static, RuntimeEvent>;

/// A container runtime. Calls are idempotent where CRI's are: stopping what is stopped, removing what is gone.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version, as `containerd://1.6.20`.
    async fn version(&self) -> Result<String>;
    /// Why the network or the runtime is not ready; none means ready.
    async fn not_ready(&self) -> Result<Option<String>>;
    /// Starts a sandbox, network included, and gives its id.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;
    /// Stops a sandbox and all in it.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a stopped sandbox.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// Makes a container in a sandbox and gives its id.
    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, pod: &SandboxConfig) -> Result<String>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends its stop signal and kills it after `grace`.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes it.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Changes limits of a running container.
    async fn update_resources(&self, id: &str, resources: &LinuxResources) -> Result<()>;
    /// Opens its log file anew after a rotation.
    async fn reopen_log(&self, id: &str) -> Result<()>;
    /// Everything that runs or has run, with status.
    async fn inventory(&self) -> Result<Inventory>;
    /// Usage of all containers.
    async fn usage(&self) -> Result<Vec<ContainerUsage>>;
    /// The image by any reference; none when it is not there.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    /// All images.
    async fn images(&self) -> Result<Vec<Image>>;
    /// Pulls an image and gives its id.
    async fn pull_image(&self, reference: &str, auth: Option<&Auth>) -> Result<String>;
    /// Removes an image.
    async fn remove_image(&self, reference: &str) -> Result<()>;
    /// Runs a command to its end, or to `timeout`.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;
    /// URL of the runtime's streaming server for a command.
    async fn exec_url(&self, id: &str, command: &[String], options: StreamOptions) -> Result<String>;
    /// The same for attaching.
    async fn attach_url(&self, id: &str, options: StreamOptions) -> Result<String>;
    /// The same for ports of a sandbox.
    async fn port_forward_url(&self, sandbox: &str, ports: &[u16]) -> Result<String>;
    /// Events of the runtime; none when it has no events (containerd before 1.7) and the caller has to relist.
    async fn events(&self) -> Result<Option<EventStream>> {
        Ok(None)
    }
}
