//! Starting what a plan says: volumes, sandbox, containers.
//!
//! **Invariant:** every step may be cut off and done again: what was half made is found in the next list and used or
//! removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::container::{self, Making};
use super::network::{self, Dns};
use super::past;
use super::pod::{Member, PodInventory, PodView};
use super::pull;
use super::resize::Progress;
use super::runtime::{RuntimeError, SandboxConfig, State};
use super::shared::{Shared, Tell, Volumes};
use super::status::Waiting;
use super::sync::{Delays, delay_key};
use super::volumes::{self, Issued};
use super::{cgroups, hooks};
use crate::runtime::events::EventType;

/// Longest that a postStart hook may take; upstream sets no bound of its own.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

/// Before a volume that cannot be brought up to date is tried again.
const REMOUNT: Duration = Duration::from_secs(60);

/// What a pod's worker remembers between its steps.
#[derive(Default)]
pub struct Memory {
    /// Restart and pull delays.
    pub delays: Delays,
    /// Pulls that failed.
    pub failures: pull::Failures,
    /// Why containers do not run.
    pub waiting: HashMap<String, Waiting>,
    /// Service account tokens.
    pub issued: Issued,
    /// Volumes that are there.
    pub volumes: Volumes,
    /// What containers have of what they were given.
    pub resize: Progress,
}

/// Makes all volumes, or brings them up to date; gives the time of the next refresh.
pub async fn prepare_volumes(
    shared: &Shared,
    pod: &PodView,
    inventory: &PodInventory,
    memory: &mut Memory,
) -> Result<Option<Timestamp>, String> {
    let (dir, facts) = (shared.pod_dir(&pod.uid), shared.facts_of(pod, inventory));
    let mut refresh: Option<Timestamp> = None;
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let node = shared.listers.lister("", "nodes").get("", &shared.config.node_name);
    let node_labels = node.as_ref().map_or(&[] as &volumes::Labels, |n| &n.meta.labels);
    for volume in pod.spec.volumes.iter().flatten() {
        let mut cx = volumes::Cx {
            pod,
            dir: &dir,
            facts: &facts,
            sources: &*shared.sources,
            tokens: &*shared.tokens,
            claims: &shared.client,
            csi: &shared.csi,
            events: &shared.events,
            node_labels,
            issued: &mut memory.issued,
            now: shared.clock.now(),
        };
        match volumes::prepare(&mut cx, volume, memory.volumes.get(&volume.name)).await {
            Ok(prepared) => {
                refresh = [refresh, prepared.refresh].into_iter().flatten().min();
                memory.volumes.insert(volume.name.clone(), prepared);
            }
            Err(e) => {
                let message = format!("{} failed for volume \"{}\" : {e}", e.operation(), volume.name);
                shared.event(pod, None, EventType::Warning, "FailedMount", message.clone());
                if !memory.volumes.contains_key(&volume.name) {
                    return Err(message);
                }
                // What it said before stays, and its containers go on with that.
                let again = shared.clock.now().checked_add(REMOUNT).ok();
                refresh = [refresh, again].into_iter().flatten().min();
            }
        }
    }
    Ok(refresh)
}

fn host_dns(shared: &Shared) -> Dns {
    let texts = shared.config.resolv_conf.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    Dns::of_host(texts)
}

/// The sandbox's configuration; its cgroup is made on the way.
pub fn sandbox_config(shared: &Shared, pod: &PodView, attempt: u32) -> Result<SandboxConfig, String> {
    let mut parent = String::new();
    if let Some(tree) = &shared.cgroups {
        match tree.create_pod(pod) {
            Ok(()) => parent = cgroups::pod_path(pod),
            Err(e) => tracing::warn!(pod = pod.name, "runs without a cgroup of its own: {e}"),
        }
    }
    let handler = shared.runtime_handler(pod)?;
    container::sandbox(&shared.config, pod, attempt, &host_dns(shared), parent, handler)
}

/// Starts a sandbox.
pub async fn sandbox(shared: &Shared, pod: &PodView, attempt: u32) -> Result<String, String> {
    let prepared = sandbox_config(shared, pod, attempt).and_then(|config| {
        std::fs::create_dir_all(&config.log_directory).map_err(|e| e.to_string())?;
        Ok(config)
    });
    let run = match prepared {
        Ok(config) => shared.runtime.run_sandbox(&config).await,
        Err(e) => Err(RuntimeError::Failed(e)),
    };
    run.map_err(|e| {
        let message = format!("Failed to create pod sandbox: {e}");
        shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", message.clone());
        message
    })
}

/// Writes the pod's `/etc/hosts`, which all its containers mount. In place: they hold the file.
pub fn write_hosts(shared: &Shared, pod: &PodView, ips: &[String]) -> std::io::Result<()> {
    let node =
        if pod.host_network() { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let text = network::hosts_file(pod, ips, &shared.config.cluster_domain, &node);
    let path = shared.pod_dir(&pod.uid).join("etc-hosts");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::create_dir_all(shared.pod_dir(&pod.uid))?;
    std::fs::write(&path, text)?;
    // For every user of the containers, whatever our own mask is.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

/// Starts a container; what it then waits with is in the memory. `sandbox` is the one it lives in.
pub async fn container(
    shared: &Arc<Shared>,
    pod: &PodView,
    inventory: &PodInventory,
    sandbox: &str,
    member: &Member,
    memory: &mut Memory,
) {
    match try_container(shared, pod, inventory, sandbox, member, memory).await {
        Ok(()) => {
            memory.waiting.remove(member.name());
        }
        Err(waiting) => {
            tracing::info!(pod = pod.name, container = member.name(), reason = waiting.reason, "{}", waiting.message);
            memory.waiting.insert(member.name().to_owned(), waiting);
        }
    }
}

fn failed(shared: &Shared, pod: &PodView, member: &Member, reason: &str, message: String) -> Waiting {
    shared.event(pod, Some(member), EventType::Warning, "Failed", format!("Error: {message}"));
    Waiting { reason: reason.to_owned(), message }
}

async fn try_container(
    shared: &Arc<Shared>,
    pod: &PodView,
    inventory: &PodInventory,
    sandbox: &str,
    member: &Member,
    memory: &mut Memory,
) -> Result<(), Waiting> {
    let image = {
        let tell = Tell { shared, pod };
        let mut cx = pull::Cx {
            runtime: &*shared.runtime,
            sources: &*shared.sources,
            delays: &mut memory.delays,
            failures: &mut memory.failures,
            listener: &tell,
            clock: &*shared.clock,
            pulls: &shared.pulls,
            pins: &shared.pins,
        };
        pull::ensure(&mut cx, pod, member).await?
    };
    let previous = inventory.newest(member.name());
    if let Some(ended) = inventory.ended(member.name()) {
        let event = super::pod::time_of(ended.finished_at).unwrap_or_else(|| shared.clock.now());
        memory.delays.next(&delay_key(member), event, shared.clock.now());
    }
    // One that was made and never started is in the way of its name.
    if let Some(half) = previous.filter(|c| c.state == State::Created) {
        let removed = shared.runtime.remove_container(&half.id).await;
        removed.map_err(|e| failed(shared, pod, member, "CreateContainerError", e.to_string()))?;
    }
    let attempt = match previous {
        Some(c) if c.state == State::Created => c.attempt,
        Some(c) => c.attempt + 1,
        None => past::restarts(pod, member.name()),
    };
    let facts = shared.facts_of(pod, inventory);
    let making = Making {
        config: &shared.config,
        pod,
        member,
        attempt,
        facts: &facts,
        sources: &*shared.sources,
        volumes: &memory.volumes,
        image: &image,
        pid_target: target(inventory, member)
            .map_err(|e| failed(shared, pod, member, "CreateContainerConfigError", e))?,
    };
    let config = container::container(&making)
        .map_err(|e| failed(shared, pod, member, "CreateContainerConfigError", e.to_string()))?;
    let sandbox_config = sandbox_config(shared, pod, inventory.sandboxes.first().map_or(0, |s| s.attempt))
        .map_err(|e| failed(shared, pod, member, "CreateContainerConfigError", e))?;
    let id = shared
        .runtime
        .create_container(sandbox, &config, &sandbox_config)
        .await
        .map_err(|e| failed(shared, pod, member, "CreateContainerError", e.to_string()))?;
    shared.event(pod, Some(member), EventType::Normal, "Created", format!("Created container: {}", member.name()));
    shared
        .runtime
        .start_container(&id)
        .await
        .map_err(|e| failed(shared, pod, member, "RunContainerError", e.to_string()))?;
    if let Err(e) = container::link_log(&shared.config, pod, member.name(), &id, attempt) {
        tracing::warn!(pod = pod.name, container = member.name(), "cannot make the link to its log: {e}");
    }
    shared.event(pod, Some(member), EventType::Normal, "Started", format!("Started container {}", member.name()));
    post_start(shared, pod, member, &id, facts.pod_ips.first().map_or("", String::as_str)).await
}

/// The running container that an ephemeral one is to look into; empty when it named none.
fn target(inventory: &PodInventory, member: &Member) -> Result<String, String> {
    let Some(name) = member.target.as_deref().filter(|t| !t.is_empty()) else { return Ok(String::new()) };
    let found = inventory.newest(name).filter(|c| c.state == State::Running);
    found.map(|c| c.id.clone()).ok_or_else(|| format!("unable to find target container {name}"))
}

/// A container whose postStart hook failed is stopped and started again, by its restart policy.
async fn post_start(shared: &Shared, pod: &PodView, member: &Member, id: &str, address: &str) -> Result<(), Waiting> {
    let Some(hook) = member.spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let Err(why) = hooks::run(&*shared.runtime, id, member, hook, address, POST_START_LIMIT).await else {
        return Ok(());
    };
    let message = format!("PostStartHook failed: {why}");
    shared.event(pod, Some(member), EventType::Warning, "FailedPostStartHook", message.clone());
    let grace = Duration::from_secs(u64::try_from(super::sync::grace_seconds(pod, member.name(), None)).unwrap_or(0));
    if let Err(e) = shared.runtime.stop_container(id, grace).await {
        tracing::warn!(pod = pod.name, container = member.name(), "cannot stop it after a failed hook: {e}");
    }
    Err(Waiting { reason: "PostStartHookError".into(), message })
}
