//! Stopping containers: hooks, grace, and the order that sidecars ask for.
//!
//! Rules: upstream `kuberuntime_container.killContainer` and `kuberuntime_termination_order.go`: hooks run at once in all
//! containers; a sidecar is stopped when everything that leans on it has stopped, or when the grace is over.

use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hooks;
use super::pod::{PodInventory, PodView};
use super::runtime::{ContainerStatus, RuntimeError, State};
use super::shared::Shared;
use super::sync::{self, MIN_GRACE_SECONDS, Why};
use crate::runtime::events::EventType;

/// How a container is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Why it alone is stopped; none when the whole pod is.
    pub why: Option<Why>,
    /// Its preStop hook has run, or there is no time for it.
    pub skip_hook: bool,
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

/// Stops one container. `turn` completes when it may go; its grace runs meanwhile.
pub async fn container(
    shared: &Shared,
    pod: &PodView,
    c: &ContainerStatus,
    how: How,
    address: &str,
    turn: impl Future<Output = ()>,
) -> Result<(), RuntimeError> {
    let member = pod.member(&c.name);
    let grace = sync::grace_seconds(pod, &c.name, how.why);
    // Finer than the clock's ticks: whole seconds that have passed are taken off, not those that have begun.
    let began = Instant::now();
    let left = || grace.saturating_sub_unsigned(began.elapsed().as_secs());
    let message = match how.why {
        None => format!("Stopping container {}", c.name),
        Some(Why::Liveness) => format!("Container {} failed liveness probe, will be restarted", c.name),
        Some(Why::Startup) => format!("Container {} failed startup probe, will be restarted", c.name),
        Some(Why::Changed) => format!("Container {} definition changed, will be restarted", c.name),
        Some(Why::Resized) => format!("Container {} resize requires restart", c.name),
        Some(Why::Unknown) => format!("Container {} is in unknown state, try killing it before restart", c.name),
    };
    shared.event(pod, member, EventType::Normal, "Killing", message);
    if let Some((member, hook)) = member.and_then(|m| Some((m, m.spec.lifecycle.as_ref()?.pre_stop.as_ref()?)))
        && c.state == State::Running
        && !how.skip_hook
        && grace > 0
        && let Err(why) = hooks::run(&*shared.runtime, &c.id, member, hook, address, seconds(grace)).await
    {
        shared.event(pod, Some(member), EventType::Warning, "FailedPreStopHook", format!("PreStopHook failed: {why}"));
    }
    if tokio::time::timeout(seconds(left()), turn).await.is_err() {
        tracing::debug!(container = c.name, "its grace is over before its turn came");
    }
    match shared.runtime.stop_container(&c.id, seconds(left().max(MIN_GRACE_SECONDS))).await {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// Stops all containers of a pod in order, then its sandboxes. Doing it again goes on where it was left.
pub async fn pod(
    shared: &Shared,
    pod: &PodView,
    inventory: &PodInventory,
    skip_hooks: bool,
) -> Result<(), RuntimeError> {
    let address = shared.facts_of(pod, inventory).pod_ips.first().cloned().unwrap_or_default();
    let waves = sync::stop_order(pod, inventory);
    let left = Mutex::new(waves.iter().map(Vec::len).collect::<Vec<_>>());
    // The wave whose turn it is.
    let (turn, _) = watch::channel(0usize);
    let stops =
        waves.iter().enumerate().flat_map(|(wave, list)| list.iter().map(move |c| (wave, *c))).map(|(wave, c)| {
            let (left, turn, address) = (&left, &turn, &address);
            async move {
                let mut seen = turn.subscribe();
                let my_turn = async {
                    // The sender is borrowed for as long as this waits.
                    let _ = seen.wait_for(|now| *now >= wave).await;
                };
                let how = How { why: None, skip_hook: skip_hooks };
                let done = container(shared, pod, c, how, address, my_turn).await;
                let next = {
                    let mut left = left.lock();
                    left[wave] -= 1;
                    left.iter().position(|n| *n > 0).unwrap_or(left.len())
                };
                turn.send_replace(next);
                done
            }
        });
    for result in join_all(stops).await {
        result?;
    }
    for sandbox in inventory.sandboxes.iter().filter(|s| s.state != State::Exited) {
        match shared.runtime.stop_sandbox(&sandbox.id).await {
            Err(RuntimeError::NotFound(_)) => {}
            other => other?,
        }
    }
    Ok(())
}
