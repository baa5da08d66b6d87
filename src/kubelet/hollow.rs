//! A container runtime that runs nothing: what is started runs until it is stopped, at no cost.
//!
//! With it a kubelet does all that it does towards the API, and a process can hold thousands of them: upstream's kubemark.
//! Every image is there, commands end at once, and nothing ever ends by itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;

use super::runtime::{
    Auth, ContainerConfig, ContainerStatus, ContainerUsage, EventStream, ExecOutput, Image, Inventory, LinuxResources,
    Result, Runtime, RuntimeError, SandboxConfig, SandboxStatus, State, StreamOptions,
};
use crate::util::clock::SharedClock;

/// Addresses of one node's pods: more than a node has pods at a time.
const ADDRESSES: u32 = 256;
/// Where the addresses of pods begin.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// What every container is said to have in memory, bytes.
const MEMORY_BYTES: u64 = 1 << 20;

/// See the module.
pub struct HollowRuntime {
    clock: SharedClock,
    /// The first address of its pods.
    first: u32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    inventory: Inventory,
    next: u32,
}

impl HollowRuntime {
    /// Of the node with this number: no other's pods have its pods' addresses.
    pub fn new(number: u32, clock: SharedClock) -> Self {
        let first = u32::from(FIRST_ADDRESS).saturating_add(number.saturating_mul(ADDRESSES));
        Self { clock, first, inner: Mutex::default() }
    }

    fn nanos(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}

impl Inner {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn end(&mut self, now: i64, which: impl Fn(&ContainerStatus) -> bool) {
        for c in self.inventory.containers.iter_mut().filter(|c| c.state != State::Exited && which(c)) {
            (c.state, c.finished_at) = (State::Exited, now);
            c.reason = "Completed".into();
        }
    }
}

fn image(reference: &str) -> Image {
    Image { id: format!("sha256:{reference}"), tags: vec![reference.into()], uid: Some(0), ..Image::default() }
}

fn nothing_there(what: &str) -> RuntimeError {
    RuntimeError::Failed(format!("nothing runs on a hollow node: {what} leads nowhere"))
}

#[async_trait]
impl Runtime for HollowRuntime {
    async fn version(&self) -> Result<String> {
        Ok("hollow://1.0".into())
    }

    async fn not_ready(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let number = inner.number();
        let address = Ipv4Addr::from(self.first.saturating_add(number % ADDRESSES));
        let id = format!("s{number}");
        inner.inventory.sandboxes.push(SandboxStatus {
            id: id.clone(),
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            state: State::Running,
            created_at: now,
            ips: if config.host.network { Vec::new() } else { vec![address.to_string()] },
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        });
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        inner.inventory.sandboxes.iter_mut().filter(|s| s.id == id).for_each(|s| s.state = State::Exited);
        inner.end(now, |c| c.sandbox_id == id);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.inventory.sandboxes.retain(|s| s.id != id);
        inner.inventory.containers.retain(|c| c.sandbox_id != id);
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, _: &SandboxConfig) -> Result<String> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let id = format!("c{}", inner.number());
        inner.inventory.containers.push(ContainerStatus::created(id.clone(), sandbox, config, now));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let now = self.nanos();
        let mut inner = self.inner.lock();
        let found = inner.inventory.containers.iter_mut().find(|c| c.id == id);
        let container = found.ok_or_else(|| RuntimeError::NotFound(id.into()))?;
        (container.state, container.started_at) = (State::Running, now);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: Duration) -> Result<()> {
        let now = self.nanos();
        self.inner.lock().end(now, |c| c.id == id);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.inner.lock().inventory.containers.retain(|c| c.id != id);
        Ok(())
    }

    async fn update_resources(&self, _: &str, _: &LinuxResources) -> Result<()> {
        Ok(())
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn inventory(&self) -> Result<Inventory> {
        Ok(self.inner.lock().inventory.clone())
    }

    async fn usage(&self) -> Result<Vec<ContainerUsage>> {
        let inner = self.inner.lock();
        let running = inner.inventory.containers.iter().filter(|c| c.state == State::Running);
        let usage = |c: &ContainerStatus| ContainerUsage {
            id: c.id.clone(),
            memory_working_set: MEMORY_BYTES,
            ..ContainerUsage::default()
        };
        Ok(running.map(usage).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        Ok(Some(image(reference)))
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn pull_image(&self, reference: &str, _: Option<&Auth>) -> Result<String> {
        Ok(image(reference).id)
    }

    async fn remove_image(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Result<ExecOutput> {
        Ok(ExecOutput::default())
    }

    async fn exec_url(&self, _: &str, _: &[String], _: StreamOptions) -> Result<String> {
        Err(nothing_there("exec"))
    }

    async fn attach_url(&self, _: &str, _: StreamOptions) -> Result<String> {
        Err(nothing_there("attach"))
    }

    async fn port_forward_url(&self, _: &str, _: &[u16]) -> Result<String> {
        Err(nothing_there("a port"))
    }

    /// Nothing happens but what the kubelet does: there is nothing to look for.
    async fn events(&self) -> Result<Option<EventStream>> {
        Ok(Some(futures::stream::pending().boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::ManualClock;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_started_runs_until_it_is_stopped() {
        let clock = Arc::new(ManualClock::at(1000));
        let (one, two) = (HollowRuntime::new(0, clock.clone()), HollowRuntime::new(1, clock.clone()));
        let pod = SandboxConfig { uid: "u".into(), ..SandboxConfig::default() };
        let sandbox = one.run_sandbox(&pod).await.unwrap();
        two.run_sandbox(&pod).await.unwrap();
        let ips = async |r: &HollowRuntime| r.inventory().await.unwrap().sandboxes[0].ips.clone();
        assert_eq!((ips(&one).await, ips(&two).await), (vec!["100.64.0.1".into()], vec!["100.64.1.1".into()]));
        let config = ContainerConfig { name: "c".into(), ..ContainerConfig::default() };
        let id = one.create_container(&sandbox, &config, &pod).await.unwrap();
        assert!(one.usage().await.unwrap().is_empty());
        one.start_container(&id).await.unwrap();
        assert_eq!(one.usage().await.unwrap().len(), 1);
        clock.advance(5);
        one.stop_sandbox(&sandbox).await.unwrap();
        let ended = &one.inventory().await.unwrap().containers[0];
        assert_eq!((ended.state, ended.finished_at), (State::Exited, 1_005_000_000_000));
        one.remove_sandbox(&sandbox).await.unwrap();
        assert_eq!(one.inventory().await.unwrap(), Inventory::default());
    }
}
