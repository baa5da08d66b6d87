//! A runtime in memory: sandboxes and containers that start, end when a test says so, and remember what was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::pod::keys;
use super::runtime::{
    Auth, ContainerConfig, ContainerStatus, ContainerUsage, ExecOutput, Image, Inventory, LinuxResources, Result,
    Runtime, RuntimeError, SandboxConfig, SandboxStatus, State, StreamOptions, Unclear,
};
use crate::util::clock::{ManualClock, SharedClock};

#[derive(Default)]
struct Inner {
    inventory: Inventory,
    images: BTreeMap<String, Image>,
    pullable: BTreeMap<String, Image>,
    calls: Vec<String>,
    next: u64,
    exec: BTreeMap<String, ExecOutput>,
    stalled: bool,
    unclear: Vec<Unclear>,
    stubborn: Vec<String>,
}

/// A runtime that runs nothing.
pub struct FakeRuntime {
    clock: SharedClock,
    inner: Mutex<Inner>,
    exited: tokio::sync::Notify,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new(std::sync::Arc::new(ManualClock::at(1_000)))
    }
}

impl FakeRuntime {
    /// An empty one that takes its times from `clock`.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, inner: Mutex::default(), exited: tokio::sync::Notify::new() }
    }

    /// Has an image.
    pub fn with_image(self, reference: &str) -> Self {
        self.inner.lock().images.insert(reference.into(), image(reference));
        self
    }

    /// Can pull an image.
    pub fn with_registry(self, reference: &str) -> Self {
        self.inner.lock().pullable.insert(reference.into(), image(reference));
        self
    }

    /// Has a registry that never answers.
    pub fn with_stalled_registry(self) -> Self {
        self.inner.lock().stalled = true;
        self
    }

    /// Has a container that ends by itself only, whoever asks it to.
    pub fn with_stubborn(self, name: &str) -> Self {
        self.inner.lock().stubborn.push(name.into());
        self
    }

    /// Tells nothing, or again everything, of what a pod has.
    pub fn confuse(&self, pod_uid: &str, confused: bool) {
        let why = "cannot find its image".to_owned();
        let unclear = confused.then(|| Unclear { pod_uid: pod_uid.into(), why });
        self.inner.lock().unclear = unclear.into_iter().collect();
    }

    /// Answers a command.
    pub fn answer(&self, command: &str, exit_code: i32) {
        self.inner.lock().exec.insert(command.into(), ExecOutput { exit_code, ..ExecOutput::default() });
    }

    /// Ends the newest container of a name.
    pub fn exit(&self, name: &str, exit_code: i32) {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let newest = inner.inventory.containers.iter_mut().filter(|c| c.name == name).max_by_key(|c| c.attempt);
        end(newest.expect("a test names a container that exists"), exit_code, now);
        self.exited.notify_waiters();
    }

    /// What was asked, in order, as `verb subject`.
    pub fn calls(&self) -> Vec<String> {
        self.inner.lock().calls.clone()
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<ContainerStatus> {
        self.inner.lock().inventory.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt).cloned()
    }

    /// Everything there is.
    pub fn state(&self) -> Inventory {
        self.inner.lock().inventory.clone()
    }

    fn nanos(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}

fn image(reference: &str) -> Image {
    Image { id: format!("sha256:{reference}"), tags: vec![reference.into()], uid: Some(0), ..Image::default() }
}

fn end(c: &mut ContainerStatus, exit_code: i32, now: i64) {
    if c.state != State::Exited {
        c.state = State::Exited;
        c.exit_code = exit_code;
        c.finished_at = now;
        c.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String> {
        Ok("fake://1.0".into())
    }

    async fn not_ready(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = format!("s{}", inner.next);
        inner.calls.push(format!("run {}", config.name));
        let number = inner.next;
        inner.inventory.sandboxes.push(SandboxStatus {
            id: id.clone(),
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            state: State::Running,
            created_at: now,
            ips: if config.host.network { vec![] } else { vec![format!("10.42.0.{number}")] },
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        });
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        inner.calls.push(format!("stop-sandbox {id}"));
        for s in inner.inventory.sandboxes.iter_mut().filter(|s| s.id == id) {
            s.state = State::Exited;
        }
        for c in inner.inventory.containers.iter_mut().filter(|c| c.sandbox_id == id) {
            end(c, 137, now);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.calls.push(format!("remove-sandbox {id}"));
        inner.inventory.sandboxes.retain(|s| s.id != id);
        inner.inventory.containers.retain(|c| c.sandbox_id != id);
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, _: &SandboxConfig) -> Result<String> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = format!("c{}", inner.next);
        inner.calls.push(format!("create {}", config.name));
        inner.inventory.containers.push(ContainerStatus::created(id.clone(), sandbox, config, now));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let c = inner.inventory.containers.iter_mut().find(|c| c.id == id);
        let c = c.ok_or_else(|| RuntimeError::NotFound(id.into()))?;
        c.state = State::Running;
        c.started_at = now;
        let call = format!("start {}", c.name);
        inner.calls.push(call);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let stays = |inner: &Inner| {
            let c = inner.inventory.containers.iter().find(|c| c.id == id);
            c.is_some_and(|c| c.state == State::Running && inner.stubborn.contains(&c.name))
        };
        loop {
            let exited = self.exited.notified();
            tokio::pin!(exited);
            exited.as_mut().enable();
            if !stays(&self.inner.lock()) {
                break;
            }
            exited.await;
        }
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let Some(c) = inner.inventory.containers.iter_mut().find(|c| c.id == id) else { return Ok(()) };
        end(c, 143, now);
        let call = format!("stop {} {}", c.name, grace.as_secs());
        inner.calls.push(call);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.inventory.containers.retain(|c| c.id != id);
        inner.calls.push(format!("remove {id}"));
        Ok(())
    }

    async fn update_resources(&self, id: &str, _: &LinuxResources) -> Result<()> {
        self.inner.lock().calls.push(format!("update {id}"));
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        self.inner.lock().calls.push(format!("reopen {id}"));
        Ok(())
    }

    async fn inventory(&self) -> Result<Inventory> {
        let inner = self.inner.lock();
        let mut inventory = inner.inventory.clone();
        let hidden = |uid: &str| inner.unclear.iter().any(|u| u.pod_uid == uid);
        inventory.containers.retain(|c| !hidden(c.labels.get(keys::POD_UID).map_or("", String::as_str)));
        inventory.unclear = inner.unclear.clone();
        Ok(inventory)
    }

    async fn usage(&self) -> Result<Vec<ContainerUsage>> {
        let inner = self.inner.lock();
        let usage = |c: &ContainerStatus| ContainerUsage { id: c.id.clone(), ..ContainerUsage::default() };
        Ok(inner.inventory.containers.iter().filter(|c| c.state == State::Running).map(usage).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.inner.lock().images.get(reference).cloned())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(self.inner.lock().images.values().cloned().collect())
    }

    async fn pull_image(&self, reference: &str, _: Option<&Auth>) -> Result<String> {
        let stalled = {
            let mut inner = self.inner.lock();
            inner.calls.push(format!("pull {reference}"));
            inner.stalled
        };
        if stalled {
            std::future::pending::<()>().await;
        }
        let mut inner = self.inner.lock();
        let image = inner.pullable.get(reference).cloned();
        let image = image.ok_or_else(|| RuntimeError::Failed(format!("{reference}: not found")))?;
        let id = image.id.clone();
        inner.images.insert(reference.into(), image);
        Ok(id)
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        self.inner.lock().images.retain(|name, image| name != reference && image.id != reference);
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], _: Duration) -> Result<ExecOutput> {
        let mut inner = self.inner.lock();
        let line = command.join(" ");
        let name = inner.inventory.containers.iter().find(|c| c.id == id).map(|c| c.name.clone());
        let name = name.ok_or_else(|| RuntimeError::NotFound(id.into()))?;
        inner.calls.push(format!("exec {name} {line}"));
        Ok(inner.exec.get(&line).cloned().unwrap_or_default())
    }

    async fn exec_url(&self, id: &str, _: &[String], _: StreamOptions) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/exec/{id}"))
    }

    async fn attach_url(&self, id: &str, _: StreamOptions) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/attach/{id}"))
    }

    async fn port_forward_url(&self, sandbox: &str, _: &[u16]) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/portforward/{sandbox}"))
    }
}
