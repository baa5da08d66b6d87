//! Between the plain types of [`crate::kubelet::runtime`] and CRI messages. Pure.

use super::proto::runtime as pb;
use crate::kubelet::runtime::*;

/// Paths of `/proc` and `/sys` hidden from containers, unless `procMount: Unmasked`; upstream's and Docker's list.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths of `/proc` that containers may only read; upstream's list.
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn strings(of: &[&str]) -> Vec<String> {
    of.iter().map(|&s| s.to_owned()).collect()
}

fn number(value: Option<i64>) -> Option<pb::Int64Value> {
    value.map(|value| pb::Int64Value { value })
}

/// `target` is the container whose processes are to be seen, where they are not already.
fn namespaces(host: HostNamespaces, target: &str) -> pb::NamespaceOption {
    let mode = |shared: bool| if shared { pb::NamespaceMode::Node } else { pb::NamespaceMode::Pod };
    let (pid, target_id) = match (host.pid, host.shared_pid) {
        (true, _) => (pb::NamespaceMode::Node, ""),
        (false, true) => (pb::NamespaceMode::Pod, ""),
        (false, false) if target.is_empty() => (pb::NamespaceMode::Container, ""),
        (false, false) => (pb::NamespaceMode::Target, target),
    };
    pb::NamespaceOption {
        network: mode(host.network).into(),
        pid: pid.into(),
        ipc: mode(host.ipc).into(),
        target_id: target_id.to_owned(),
    }
}

/// Of seccomp or AppArmor.
fn profile(profile: &str) -> Option<pb::SecurityProfile> {
    use pb::security_profile::ProfileType;
    let (kind, reference) = match profile {
        "" => return None,
        "RuntimeDefault" => (ProfileType::RuntimeDefault, ""),
        "Unconfined" => (ProfileType::Unconfined, ""),
        other => (ProfileType::Localhost, other.strip_prefix("Localhost/").unwrap_or(other)),
    };
    Some(pb::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() })
}

fn protocol(name: &str) -> pb::Protocol {
    match name {
        "UDP" => pb::Protocol::Udp,
        "SCTP" => pb::Protocol::Sctp,
        _ => pb::Protocol::Tcp,
    }
}

pub(super) fn sandbox_config(c: &SandboxConfig) -> pb::PodSandboxConfig {
    let no_dns = c.dns_servers.is_empty() && c.dns_searches.is_empty() && c.dns_options.is_empty();
    let s = &c.security;
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: c.name.clone(),
            uid: c.uid.clone(),
            namespace: c.namespace.clone(),
            attempt: c.attempt,
        }),
        hostname: c.hostname.clone(),
        log_directory: c.log_directory.clone(),
        dns_config: (!no_dns).then(|| pb::DnsConfig {
            servers: c.dns_servers.clone(),
            searches: c.dns_searches.clone(),
            options: c.dns_options.clone(),
        }),
        port_mappings: c
            .ports
            .iter()
            .map(|p| pb::PortMapping {
                protocol: protocol(&p.protocol).into(),
                container_port: p.container_port.into(),
                host_port: p.host_port.into(),
                host_ip: p.host_ip.clone(),
            })
            .collect(),
        labels: c.labels.clone(),
        annotations: c.annotations.clone(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: c.cgroup_parent.clone(),
            security_context: Some(pb::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(c.host, "")),
                run_as_user: number(s.run_as_user),
                readonly_rootfs: s.read_only_root,
                supplemental_groups: s.supplemental_groups.clone(),
                privileged: s.privileged,
                // CRI refuses a group without a user.
                run_as_group: number(s.run_as_group.filter(|_| s.run_as_user.is_some())),
                seccomp: profile(&s.seccomp),
            }),
            sysctls: c.sysctls.clone(),
        }),
    }
}

pub(super) fn resources(r: &LinuxResources) -> pb::LinuxContainerResources {
    pb::LinuxContainerResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_limit,
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus.clone(),
        unified: r.unified.clone(),
    }
}

pub(super) fn container_config(c: &ContainerConfig) -> pb::ContainerConfig {
    let s = &c.security;
    let masked = !s.unmasked_proc && !s.privileged;
    let security = pb::LinuxContainerSecurityContext {
        capabilities: Some(pb::Capability {
            add_capabilities: s.add_capabilities.clone(),
            drop_capabilities: s.drop_capabilities.clone(),
        }),
        privileged: s.privileged,
        namespace_options: Some(namespaces(c.host, &c.pid_target)),
        run_as_user: number(s.run_as_user),
        run_as_username: s.run_as_username.clone(),
        readonly_rootfs: s.read_only_root,
        supplemental_groups: s.supplemental_groups.clone(),
        no_new_privs: s.no_new_privileges,
        run_as_group: number(s.run_as_group),
        masked_paths: if masked { strings(MASKED_PATHS) } else { Vec::new() },
        readonly_paths: if masked { strings(READONLY_PATHS) } else { Vec::new() },
        seccomp: profile(&s.seccomp),
        apparmor: profile(&s.apparmor),
    };
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: c.name.clone(), attempt: c.attempt }),
        image: Some(pb::ImageSpec { image: c.image.clone() }),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: c.envs.iter().map(|(k, v)| pb::KeyValue { key: k.clone(), value: v.clone() }).collect(),
        mounts: c.mounts.iter().map(mount).collect(),
        devices: c.devices.iter().map(device).collect(),
        labels: c.labels.clone(),
        annotations: c.annotations.clone(),
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(pb::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(security),
        }),
    }
}

fn device(d: &Device) -> pb::Device {
    let permissions = if d.read_only { "r" } else { "mrw" };
    pb::Device {
        container_path: d.container_path.clone(),
        host_path: d.host_path.clone(),
        permissions: permissions.into(),
    }
}

fn mount(m: &Mount) -> pb::Mount {
    let propagation = match m.propagation {
        Propagation::Private => pb::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
    };
    pb::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.read_only,
        propagation: propagation.into(),
    }
}

pub(super) fn state(state: pb::ContainerState) -> State {
    match state {
        pb::ContainerState::ContainerCreated => State::Created,
        pb::ContainerState::ContainerRunning => State::Running,
        pb::ContainerState::ContainerExited => State::Exited,
        pb::ContainerState::ContainerUnknown => State::Unknown,
    }
}

/// A listed sandbox, without addresses.
pub(super) fn sandbox(s: pb::PodSandbox) -> SandboxStatus {
    let ready = s.state() == pb::PodSandboxState::SandboxReady;
    let meta = s.metadata.unwrap_or_default();
    SandboxStatus {
        id: s.id,
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        attempt: meta.attempt,
        state: if ready { State::Running } else { State::Exited },
        created_at: s.created_at,
        ips: Vec::new(),
        labels: s.labels,
        annotations: s.annotations,
    }
}

/// All addresses, the main one first.
pub(super) fn ips(network: pb::PodSandboxNetworkStatus) -> Vec<String> {
    std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|p| p.ip))
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// A status; the sandbox is known to the listing only.
pub(super) fn container_status(s: pb::ContainerStatus, listed: &pb::Container) -> ContainerStatus {
    let state = state(s.state());
    let meta = s.metadata.unwrap_or_default();
    ContainerStatus {
        id: s.id,
        sandbox_id: listed.pod_sandbox_id.clone(),
        name: meta.name,
        attempt: meta.attempt,
        image: s.image.unwrap_or_default().image,
        image_ref: s.image_ref,
        state,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        labels: s.labels,
        annotations: s.annotations,
        log_path: s.log_path,
    }
}

pub(super) fn image(i: pb::Image) -> Image {
    Image {
        id: i.id,
        tags: i.repo_tags,
        digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
        pinned: i.pinned,
    }
}

/// Usage of a container that has any; one that exited has none.
pub(super) fn usage(s: pb::ContainerStats) -> Option<ContainerUsage> {
    let value = |v: Option<pb::UInt64Value>| v.map(|v| v.value);
    Some(ContainerUsage {
        id: s.attributes?.id,
        cpu_nanos: value(s.cpu?.usage_core_nano_seconds)?,
        memory_working_set: value(s.memory?.working_set_bytes)?,
        disk_bytes: s.writable_layer.and_then(|l| value(l.used_bytes)).unwrap_or(0),
    })
}

/// Whose pod an event is about.
pub(super) fn event(e: pb::ContainerEventResponse) -> Option<RuntimeEvent> {
    let pod_uid = e.pod_sandbox_status?.metadata?.uid;
    Some(RuntimeEvent { pod_uid })
}

/// The first condition that does not hold, worded as upstream words it in the node's Ready condition.
pub(super) fn not_ready(conditions: &[pb::RuntimeCondition]) -> Option<String> {
    let unmet = |(kind, what): &(&str, &str)| match conditions.iter().find(|c| c.r#type == *kind) {
        Some(c) if c.status => None,
        Some(c) => {
            Some(format!("container runtime {what}not ready: {kind}=false reason:{} message:{}", c.reason, c.message))
        }
        None => Some(format!("container runtime {what}not ready: it does not report {kind}")),
    };
    [("RuntimeReady", ""), ("NetworkReady", "network ")].iter().find_map(unmet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn condition(kind: &str, status: bool) -> pb::RuntimeCondition {
        pb::RuntimeCondition { r#type: kind.into(), status, reason: "R".into(), message: "m".into() }
    }

    #[test]
    fn readiness_names_the_first_unmet_condition() {
        let ready = [condition("RuntimeReady", true), condition("NetworkReady", true)];
        assert_eq!(not_ready(&ready), None);
        let no_network = [condition("RuntimeReady", true), condition("NetworkReady", false)];
        assert_eq!(
            not_ready(&no_network).unwrap(),
            "container runtime network not ready: NetworkReady=false reason:R message:m"
        );
        assert!(not_ready(&[]).unwrap().contains("RuntimeReady"));
    }

    #[test_case(HostNamespaces::default(), "" => (0, 1, 0, String::new()); "own namespaces")]
    #[test_case(HostNamespaces { shared_pid: true, ..Default::default() }, "" => (0, 0, 0, String::new()); "one pid namespace a pod")]
    #[test_case(HostNamespaces { network: true, pid: true, ipc: true, shared_pid: false }, "" => (2, 2, 2, String::new()); "the node's")]
    #[test_case(HostNamespaces::default(), "t" => (0, 3, 0, "t".into()); "another container's")]
    #[test_case(HostNamespaces { pid: true, ..Default::default() }, "t" => (0, 2, 0, String::new()); "which are the node's already")]
    fn namespace_modes(host: HostNamespaces, target: &str) -> (i32, i32, i32, String) {
        let n = namespaces(host, target);
        (n.network, n.pid, n.ipc, n.target_id)
    }

    #[test_case("" => None)]
    #[test_case("RuntimeDefault" => Some((0, String::new())))]
    #[test_case("Unconfined" => Some((1, String::new())))]
    #[test_case("Localhost/a/b.json" => Some((2, "a/b.json".into())))]
    fn profiles(text: &str) -> Option<(i32, String)> {
        profile(text).map(|p| (p.profile_type, p.localhost_ref))
    }

    #[test]
    fn privileged_and_unmasked_containers_see_all_of_proc() {
        let masked = |security| {
            let config = container_config(&ContainerConfig { security, ..Default::default() });
            config.linux.unwrap().security_context.unwrap().masked_paths.len()
        };
        assert_eq!(masked(Security::default()), MASKED_PATHS.len());
        assert_eq!(masked(Security { privileged: true, ..Default::default() }), 0);
        assert_eq!(masked(Security { unmasked_proc: true, ..Default::default() }), 0);
    }

    #[test]
    fn addresses_come_main_first_without_empty_ones() {
        let of = |ip: &str, more: &[&str]| {
            ips(pb::PodSandboxNetworkStatus {
                ip: ip.into(),
                additional_ips: more.iter().map(|ip| pb::PodIp { ip: (*ip).into() }).collect(),
            })
        };
        assert_eq!(of("10.0.0.1", &["fd00::1"]), ["10.0.0.1", "fd00::1"]);
        assert!(of("", &[]).is_empty());
    }
}
