//! From a pod's spec to what the runtime is asked to make.
//!
//! Rules: upstream `kuberuntime_sandbox.go`, `kuberuntime_container.go`, `kubelet_pods.makeMounts`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::VolumeDevice;

use super::config::Config;
use super::downward::Facts;
use super::env::{self, ConfigError};
use super::expand::expand;
use super::network::{self, Dns};
use super::pod::{Member, PodView, Role, keys};
use super::runtime::{ContainerConfig, ContainerStatus, Device, Image, Mount, PortMapping, Propagation, SandboxConfig};
use super::sources::Sources;
use super::volumes::{Prepared, subpath};
use super::{cgroups, logs, resize, security};

/// Where a container's last words are, in the container.
const MESSAGE_PATH: &str = "/dev/termination-log";
/// Bytes of a termination message.
const MESSAGE_BYTES: usize = 4096;
/// Bytes of a termination message taken from the log.
const LOG_BYTES: usize = 2048;
/// Lines of a termination message taken from the log.
const LOG_LINES: usize = 80;

/// The directory of a pod on this node.
pub fn pod_dir(config: &Config, uid: &str) -> PathBuf {
    config.root().join("pods").join(uid)
}

/// The directory of a pod's logs.
pub fn log_dir(config: &Config, pod: &PodView) -> PathBuf {
    config.pod_logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// The link to a container's log. Upstream: `legacyLogSymlink`.
fn log_link(config: &Config, pod: &PodView, name: &str, id: &str) -> PathBuf {
    config.container_logs.join(format!("{}_{}_{name}-{id}.log", pod.name, pod.namespace))
}

/// Makes the link to the log of a container that has just been started.
pub fn link_log(config: &Config, pod: &PodView, name: &str, id: &str, attempt: u32) -> std::io::Result<()> {
    let link = log_link(config, pod, name, id);
    std::fs::create_dir_all(&config.container_logs)?;
    match std::os::unix::fs::symlink(log_dir(config, pod).join(name).join(logs::file_name(attempt)), link) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes what a container left on the disk that was removed from the runtime: its log and its last words.
pub fn forget(config: &Config, pod: &PodView, c: &ContainerStatus) -> std::io::Result<()> {
    let absent = |r: std::io::Result<()>| match r {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    absent(std::fs::remove_file(log_link(config, pod, &c.name, &c.id)))?;
    absent(std::fs::remove_file(message_file(config, &pod.uid, &c.name, c.attempt)))?;
    if c.log_path.is_empty() { Ok(()) } else { logs::remove(Path::new(&c.log_path)) }
}

fn labels(pod: &PodView) -> BTreeMap<String, String> {
    BTreeMap::from([
        (keys::POD_NAME.to_owned(), pod.name.clone()),
        (keys::POD_NAMESPACE.to_owned(), pod.namespace.clone()),
        (keys::POD_UID.to_owned(), pod.uid.clone()),
    ])
}

/// The sandbox of a pod. `parent` is its cgroup, empty where there is none.
pub fn sandbox(
    config: &Config,
    pod: &PodView,
    attempt: u32,
    host: &Dns,
    parent: String,
    runtime_handler: String,
) -> Result<SandboxConfig, String> {
    let dns = network::dns(pod, host, &config.cluster_dns, &config.cluster_domain);
    let mut all = pod.labels();
    all.extend(labels(pod));
    let mut annotations = pod.annotations();
    annotations.entry(keys::CONFIG_SOURCE.to_owned()).or_insert_with(|| "api".into());
    if let Some(grace) = pod.spec.termination_grace_period_seconds {
        annotations.insert(keys::GRACE.to_owned(), grace.to_string());
    }
    let sysctls = pod.spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    Ok(SandboxConfig {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        uid: pod.uid.clone(),
        attempt,
        hostname: network::hostname(pod, &config.cluster_domain)?,
        log_directory: log_dir(config, pod).to_string_lossy().into_owned(),
        dns_servers: dns.servers,
        dns_searches: dns.searches,
        dns_options: dns.options,
        ports: if pod.host_network() { Vec::new() } else { ports(pod) },
        labels: all,
        annotations,
        cgroup_parent: parent,
        host: security::host_namespaces(pod),
        security: security::of_pod(pod),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        runtime_handler,
    })
}

fn ports(pod: &PodView) -> Vec<PortMapping> {
    let lasting = pod.members.iter().filter(|m| matches!(m.role, Role::App | Role::Sidecar));
    let all = lasting.flat_map(|m| m.spec.ports.iter().flatten());
    let number = |n: i32| u16::try_from(n).unwrap_or(0);
    all.map(|p| PortMapping {
        protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        container_port: number(p.container_port),
        host_port: number(p.host_port.unwrap_or(0)),
        host_ip: p.host_ip.clone().unwrap_or_default(),
    })
    .collect()
}

/// What a container is made from.
pub struct Making<'a> {
    /// Configuration of the node.
    pub config: &'a Config,
    /// The pod.
    pub pod: &'a PodView,
    /// The container.
    pub member: &'a Member,
    /// Restart count.
    pub attempt: u32,
    /// Addresses and node.
    pub facts: &'a Facts,
    /// ConfigMaps, Secrets, Services.
    pub sources: &'a dyn Sources,
    /// Volumes that are there, by name.
    pub volumes: &'a HashMap<String, Prepared>,
    /// The image.
    pub image: &'a Image,
    /// The running container whose processes it sees; empty for none.
    pub pid_target: String,
}

/// The container. Makes what it mounts: its message file and bindings of sub-paths.
pub fn container(making: &Making<'_>) -> Result<ContainerConfig, ConfigError> {
    let Making { pod, member, image, .. } = *making;
    security::check_non_root(pod, member, image).map_err(ConfigError)?;
    let envs = env::environment(pod, member, making.facts, making.sources)?;
    let known: HashMap<&str, &str> = envs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let lookup = |name: &str| known.get(name).map(|v| (*v).to_owned());
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|a| expand(a, lookup)).collect();
    let (command, args) = (expanded(&member.spec.command), expanded(&member.spec.args));
    let mounts = mounts(making, lookup)?;
    let mut all = labels(pod);
    all.insert(keys::CONTAINER_NAME.to_owned(), member.name().to_owned());
    Ok(ContainerConfig {
        name: member.name().to_owned(),
        attempt: making.attempt,
        image: if image.id.is_empty() { member.spec.image.clone().unwrap_or_default() } else { image.id.clone() },
        command,
        args,
        working_dir: member.spec.working_dir.clone().unwrap_or_default(),
        envs,
        mounts,
        devices: devices(making)?,
        labels: all,
        annotations: annotations(making),
        log_path: format!("{}/{}.log", member.name(), making.attempt),
        stdin: member.spec.stdin.unwrap_or(false),
        stdin_once: member.spec.stdin_once.unwrap_or(false),
        tty: member.spec.tty.unwrap_or(false),
        resources: {
            let unified = cgroups::is_unified(&making.config.cgroup_root);
            cgroups::container(pod, member, making.facts.memory, unified)
        },
        security: security::of_container(pod, member, image),
        host: security::host_namespaces(pod),
        pid_target: making.pid_target.clone(),
    })
}

fn annotations(making: &Making<'_>) -> BTreeMap<String, String> {
    let spec = &making.member.spec;
    let policy = spec.termination_message_policy.as_deref().unwrap_or("File");
    let mut out = BTreeMap::from([
        (keys::HASH.to_owned(), making.member.hash.clone()),
        (keys::RESOURCES.to_owned(), resize::mark(making.member)),
        (keys::RESTART_COUNT.to_owned(), making.attempt.to_string()),
        (keys::MESSAGE_PATH.to_owned(), spec.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH).to_owned()),
        (keys::MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    if let Some(grace) = making.pod.spec.termination_grace_period_seconds {
        out.insert(keys::GRACE.to_owned(), grace.to_string());
    }
    out
}

fn message_file(config: &Config, uid: &str, name: &str, attempt: u32) -> PathBuf {
    pod_dir(config, uid).join("containers").join(name).join(format!("{attempt}.message"))
}

fn mounts(making: &Making<'_>, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<Mount>, ConfigError> {
    let mut out = Vec::new();
    for (index, m) in making.member.spec.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = making.volumes.get(&m.name) else {
            return Err(ConfigError(format!(
                "volume \"{}\" of container {} is not there",
                m.name,
                making.member.name()
            )));
        };
        let sub = match (&m.sub_path, &m.sub_path_expr) {
            (_, Some(text)) if !text.is_empty() => expand_all(text, &lookup)?,
            (Some(path), _) => path.clone(),
            _ => String::new(),
        };
        let host = if sub.is_empty() { volume.path.clone() } else { bind(making, volume, &m.name, index, &sub)? };
        out.push(Mount {
            host_path: host.to_string_lossy().into_owned(),
            container_path: absolute(&m.mount_path),
            read_only: volume.read_only || m.read_only.unwrap_or(false),
            propagation: match m.mount_propagation.as_deref() {
                Some("Bidirectional") => Propagation::Bidirectional,
                Some("HostToContainer") => Propagation::HostToContainer,
                _ => Propagation::Private,
            },
        });
    }
    own_mounts(making, &mut out)?;
    Ok(out)
}

/// The container's volumes that are devices.
fn devices(making: &Making<'_>) -> Result<Vec<Device>, ConfigError> {
    let wanted = making.member.spec.volume_devices.iter().flatten();
    let device = |d: &VolumeDevice| -> Result<Device, ConfigError> {
        let name = making.member.name();
        let volume = making.volumes.get(&d.name);
        let volume =
            volume.ok_or_else(|| ConfigError(format!("volume \"{}\" of container {name} is not there", d.name)))?;
        Ok(Device {
            host_path: volume.path.to_string_lossy().into_owned(),
            container_path: absolute(&d.device_path),
            read_only: volume.read_only,
        })
    };
    wanted.map(device).collect()
}

/// A path with all its variables; one that nobody set must not become part of a directory's name.
fn expand_all(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let missing = std::cell::RefCell::new(Vec::new());
    let path = expand(text, |name| {
        let value = lookup(name);
        if value.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        value
    });
    match missing.into_inner().as_slice() {
        [] => Ok(path),
        names => {
            Err(ConfigError(format!("cannot expand subPathExpr \"{text}\": missing value for {}", names.join(", "))))
        }
    }
}

/// `/etc/hosts` and the message file, where the pod does not mount something there itself.
fn own_mounts(making: &Making<'_>, out: &mut Vec<Mount>) -> Result<(), ConfigError> {
    let dir = pod_dir(making.config, &making.pod.uid);
    let failed =
        |e: std::io::Error| ConfigError(format!("cannot make files of container {}: {e}", making.member.name()));
    if !out.iter().any(|m| m.container_path == "/etc/hosts") {
        let host_path = dir.join("etc-hosts").to_string_lossy().into_owned();
        out.push(Mount { host_path, container_path: "/etc/hosts".into(), ..Mount::default() });
    }
    let container_path = making.member.spec.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH).to_owned();
    if !container_path.is_empty() {
        let file = message_file(making.config, &making.pod.uid, making.member.name(), making.attempt);
        std::fs::create_dir_all(file.parent().unwrap_or(&dir)).map_err(failed)?;
        std::fs::write(&file, b"").map_err(failed)?;
        // Any user of the container may write it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&file, open).map_err(failed)?;
        out.push(Mount { host_path: file.to_string_lossy().into_owned(), container_path, ..Mount::default() });
    }
    Ok(())
}

fn bind(making: &Making<'_>, volume: &Prepared, name: &str, index: usize, sub: &str) -> Result<PathBuf, ConfigError> {
    let dir = pod_dir(making.config, &making.pod.uid);
    let target = dir.join("volume-subpaths").join(name).join(making.member.name()).join(index.to_string());
    subpath::bind(&volume.path, Path::new(sub), &target).map_err(|e| {
        ConfigError(format!(
            "failed to prepare subPath for volumeMount \"{name}\" of container \"{}\": {e}",
            making.member.name()
        ))
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The last words of a container that ended: its message file, else the end of its log when it failed and asked for that.
pub fn last_words(config: &Config, uid: &str, c: &ContainerStatus) -> String {
    let read = |path: &Path, most: usize| -> Option<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most as u64))).ok()?;
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let said = read(&message_file(config, uid, &c.name, c.attempt), MESSAGE_BYTES).unwrap_or_default();
    let fall_back = c.annotations.get(keys::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if !said.is_empty() || !fall_back || c.exit_code == 0 {
        return String::from_utf8_lossy(&said).into_owned();
    }
    // A log line carries a time and a stream before what was said.
    let raw = read(Path::new(&c.log_path), LOG_BYTES * 2).unwrap_or_default();
    let text = String::from_utf8_lossy(&raw);
    let lines: Vec<&str> = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    let from = (0..=tail.len().saturating_sub(LOG_BYTES)).rev().find(|i| tail.is_char_boundary(*i)).unwrap_or(0);
    tail[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::sources::fake::FakeSources;
    use serde_json::json;

    fn pod() -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "terminationGracePeriodSeconds": 7, "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "web:v1", "command": ["run", "$(X)"], "args": ["$(POD_IP)"],
                "env": [{"name": "X", "value": "1"}, {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "ports": [{"containerPort": 80, "hostPort": 8080}],
                "volumeMounts": [{"name": "v", "mountPath": "data", "readOnly": true}]}]}}))
        .unwrap()
    }

    #[test]
    fn a_container_is_made_of_its_spec() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_tests(dir.path());
        let pod = pod();
        let facts = Facts { pod_ips: vec!["10.0.0.1".into()], ..Facts::default() };
        let volumes =
            HashMap::from([("v".to_owned(), Prepared { path: "/v".into(), refresh: None, read_only: false })]);
        let image = Image { id: "sha256:x".into(), ..Image::default() };
        let sources = FakeSources::default();
        let making = Making {
            config: &config,
            pod: &pod,
            member: &pod.members[0],
            attempt: 2,
            facts: &facts,
            sources: &sources,
            volumes: &volumes,
            image: &image,
            pid_target: String::new(),
        };
        let c = container(&making).unwrap();
        assert_eq!((c.command, c.args), (vec!["run".to_owned(), "1".to_owned()], vec!["10.0.0.1".to_owned()]));
        assert_eq!((c.mounts[0].container_path.as_str(), c.mounts[0].read_only), ("/data", true));
        assert_eq!(c.annotations[keys::RESTART_COUNT], "2");
        assert_eq!((c.log_path.as_str(), c.labels[keys::POD_UID].as_str()), ("c/2.log", "u"));
        let message = c.mounts.iter().find(|m| m.container_path == MESSAGE_PATH).unwrap();
        std::fs::write(&message.host_path, "bye").unwrap();
        let ended = ContainerStatus { name: "c".into(), attempt: 2, ..ContainerStatus::default() };
        assert_eq!(last_words(&config, "u", &ended), "bye");
    }

    #[test_case::test_case("$(A)/x", Ok("1/x"); "known")]
    #[test_case::test_case("$(B)/x", Err("cannot expand subPathExpr \"$(B)/x\": missing value for B"); "unknown")]
    fn sub_paths_need_all_their_variables(text: &str, want: Result<&str, &str>) {
        let got = expand_all(text, |n| (n == "A").then(|| "1".to_owned()));
        assert_eq!(got.as_deref().map_err(|e| e.0.as_str()), want);
    }

    #[test]
    fn a_failed_container_may_speak_through_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F one\n2026-01-01T00:00:00Z stderr F two words\n").unwrap();
        let policy = BTreeMap::from([(keys::MESSAGE_POLICY.to_owned(), "FallbackToLogsOnError".to_owned())]);
        let mut c =
            ContainerStatus { name: "c".into(), exit_code: 1, annotations: policy, ..ContainerStatus::default() };
        c.log_path = log.to_string_lossy().into_owned();
        let config = Config::for_tests(dir.path());
        assert_eq!(last_words(&config, "u", &c), "one\ntwo words");
        c.exit_code = 0;
        assert_eq!(last_words(&config, "u", &c), "");
    }

    #[test]
    fn a_sandbox_carries_who_it_is() {
        let config = Config::for_tests(Path::new("/x"));
        let s = sandbox(&config, &pod(), 1, &Dns::default(), "/kubepods/podu".into(), "kata".into()).unwrap();
        assert_eq!((s.hostname.as_str(), s.attempt, s.ports[0].host_port), ("p", 1, 8080));
        assert_eq!((s.annotations[keys::GRACE].as_str(), s.labels[keys::POD_NAME].as_str()), ("7", "p"));
        assert_eq!(s.dns_servers, ["10.43.0.10"]);
    }
}
