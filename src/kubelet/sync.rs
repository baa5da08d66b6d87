//! What has to happen so that the runtime runs what a pod asks for: a pure function from what is seen to a plan.
//!
//! Rules: upstream `kuberuntime_manager.computePodActions` and its init-container half; back-off from `client-go`'s
//! `flowcontrol.Backoff`.
//!
//! **Invariant:** no IO, no clock: `now` is an input, and planning twice from the same state gives the same plan.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::pod::{Member, PodInventory, PodView, ProbeKind, Role, keys, time_of};
use super::resize::Progress;
use super::runtime::{ContainerStatus, State};
use crate::util::backoff::Backoff;

/// The least time a container gets to stop, seconds. Upstream: `minimumGracePeriodInSeconds`.
pub const MIN_GRACE_SECONDS: i64 = 2;
/// A container that ran this long starts its back-off anew. Upstream: twice the largest back-off.
pub const BACKOFF_RESET: SignedDuration = SignedDuration::from_secs(600);

/// What a probe last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Works.
    Success,
    /// Does not.
    Failure,
}

/// Last probe results by container id and kind; absent means not known yet.
pub type Results = HashMap<(String, ProbeKind), Outcome>;

/// Restart delays by container or image, as upstream keeps them in memory.
#[derive(Debug, Clone, Default)]
pub struct Delays(HashMap<String, (u32, Timestamp)>);

impl Delays {
    /// Until when `key` has to wait after what happened at `event`; none when it may go on now.
    pub fn until(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let (failures, updated) = self.0.get(key)?;
        if event.duration_since(*updated) > BACKOFF_RESET {
            return None;
        }
        let delay = Backoff::CONTAINER.delay(*failures);
        let until = event.checked_add(delay).ok()?;
        (now < until).then_some((until, delay))
    }

    /// Notes another try of `key`: the next one waits twice as long.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let entry = self.0.entry(key.to_owned()).or_insert((0, now));
        if event.duration_since(entry.1) > BACKOFF_RESET {
            entry.0 = 0;
        }
        *entry = (entry.0.saturating_add(1), now);
    }

    /// Forgets `key`: it worked.
    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// Why a single container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its name or image changed.
    Changed,
    /// It gets other resources, and its policy wants it to start with them.
    Resized,
    /// The runtime lost track of it.
    Unknown,
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Runtime id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Why.
    pub why: Why,
    /// Whether it is started again.
    pub restarts: bool,
}

/// A container that has to wait before it is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Name.
    pub name: String,
    /// Until then.
    pub until: Timestamp,
    /// The whole delay.
    pub delay: Duration,
}

/// What to do next. Parts are done in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Stop all containers and sandboxes first.
    pub kill_pod: bool,
    /// Then make a sandbox, with this attempt number.
    pub create_sandbox: Option<u32>,
    /// The sandbox to use when none is made.
    pub sandbox: Option<String>,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Containers to start, by name, in order.
    pub start: Vec<String>,
    /// Containers whose time has not come.
    pub wait: Vec<Wait>,
}

/// What is seen of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What it should be.
    pub pod: &'a PodView,
    /// What there is.
    pub inventory: &'a PodInventory,
    /// What the probes say.
    pub probes: &'a Results,
    /// Restart delays.
    pub delays: &'a Delays,
    /// What containers have of what they were given.
    pub resize: &'a Progress,
    /// The clock.
    pub now: Timestamp,
}

/// The next steps for a pod that should run.
pub fn plan(seen: Seen<'_>) -> Plan {
    let mut plan = match sandbox_change(seen) {
        Some(attempt) => plan_new_sandbox(seen, attempt),
        None => plan_in_sandbox(seen),
    };
    hold_back(seen, &mut plan);
    plan
}

/// The attempt number of the sandbox that has to be made; none when the newest one will do.
/// Upstream: `PodSandboxChanged`.
fn sandbox_change(seen: Seen<'_>) -> Option<u32> {
    let Some(newest) = seen.inventory.sandboxes.first() else { return Some(0) };
    let ready = seen.inventory.sandboxes.iter().filter(|s| s.state == State::Running).count();
    let no_address = !seen.pod.host_network() && newest.ips.is_empty();
    (ready != 1 || newest.state != State::Running || no_address).then_some(newest.attempt + 1)
}

fn plan_new_sandbox(seen: Seen<'_>, attempt: u32) -> Plan {
    let pod = seen.pod;
    let mut plan = Plan { kill_pod: true, ..Plan::default() };
    let apps: Vec<&Member> = pod.of(Role::App).collect();
    // A pod that may not be restarted and has run does not get a second sandbox.
    let again = apps.iter().any(|m| m.restarts(pod.restart_policy(), 1));
    if !again && attempt != 0 && !seen.inventory.containers.is_empty() {
        return plan;
    }
    let start: Vec<String> = apps.iter().filter(|m| !has_finished(seen, m)).map(|m| m.name().to_owned()).collect();
    if start.is_empty() {
        return plan;
    }
    plan.create_sandbox = Some(attempt);
    plan.start = match pod.inits().first() {
        Some(first) => vec![first.name().to_owned()],
        None => start,
    };
    plan
}

/// True when an app container ended and its policy leaves it so.
fn has_finished(seen: Seen<'_>, member: &Member) -> bool {
    seen.inventory
        .newest(member.name())
        .is_some_and(|c| c.state == State::Exited && !member.restarts(seen.pod.restart_policy(), c.exit_code))
}

fn plan_in_sandbox(seen: Seen<'_>) -> Plan {
    let sandbox = seen.inventory.sandboxes.first().map(|s| s.id.clone());
    let mut plan = Plan { sandbox, ..Plan::default() };
    for member in seen.pod.of(Role::Ephemeral) {
        if seen.inventory.newest(member.name()).is_none() {
            plan.start.push(member.name().to_owned());
        }
    }
    let initialized = plan_inits(seen, &mut plan);
    if plan.kill_pod || !initialized {
        return plan;
    }
    let mut kept = 0;
    let mut started = 0;
    for member in seen.pod.of(Role::App) {
        match plan_app(seen, member, &mut plan) {
            Step::Keep => kept += 1,
            Step::Start => started += 1,
            Step::Leave => {}
        }
    }
    if kept == 0 && started == 0 {
        return Plan { kill_pod: true, sandbox: plan.sandbox, ..Plan::default() };
    }
    plan
}

enum Step {
    Keep,
    Start,
    Leave,
}

fn plan_app(seen: Seen<'_>, member: &Member, plan: &mut Plan) -> Step {
    let policy = seen.pod.restart_policy();
    let name = member.name().to_owned();
    let Some(status) = seen.inventory.newest(&name) else {
        plan.start.push(name);
        return Step::Start;
    };
    match status.state {
        State::Running => {
            let Some(why) = reason_to_kill(seen, member, status) else { return Step::Keep };
            let restarts = matches!(why, Why::Changed | Why::Resized) || member.restarts(policy, 1);
            plan.kill.push(Kill { id: status.id.clone(), name: name.clone(), why, restarts });
            if !restarts {
                return Step::Leave;
            }
            plan.start.push(name);
            Step::Start
        }
        State::Exited if !member.restarts(policy, status.exit_code) => Step::Leave,
        State::Exited | State::Created => {
            plan.start.push(name);
            Step::Start
        }
        State::Unknown => {
            plan.kill.push(Kill { id: status.id.clone(), name: name.clone(), why: Why::Unknown, restarts: true });
            plan.start.push(name);
            Step::Start
        }
    }
}

/// Why a running container may not go on.
fn reason_to_kill(seen: Seen<'_>, member: &Member, status: &ContainerStatus) -> Option<Why> {
    let failed = |kind| seen.probes.get(&(status.id.clone(), kind)) == Some(&Outcome::Failure);
    if status.annotations.get(keys::HASH).is_some_and(|h| *h != member.hash) {
        Some(Why::Changed)
    } else if member.spec.liveness_probe.is_some() && failed(ProbeKind::Liveness) {
        Some(Why::Liveness)
    } else if member.spec.startup_probe.is_some() && failed(ProbeKind::Startup) {
        Some(Why::Startup)
    } else {
        seen.resize.restarts(member, &status.id).then_some(Why::Resized)
    }
}

/// Whether a running sidecar lets the next container start.
fn has_started(seen: Seen<'_>, member: &Member, status: &ContainerStatus) -> bool {
    member.spec.startup_probe.is_none()
        || seen.probes.get(&(status.id.clone(), ProbeKind::Startup)) == Some(&Outcome::Success)
}

/// True when an app container was made in the newest sandbox: from then on only sidecars are looked after.
fn was_initialized(seen: Seen<'_>) -> bool {
    let Some(sandbox) = seen.inventory.sandboxes.first() else { return false };
    seen.pod.of(Role::App).any(|m| seen.inventory.newest_in(&sandbox.id, m.name()).is_some())
}

/// Plans init containers and sidecars; true when the app containers may run.
fn plan_inits(seen: Seen<'_>, plan: &mut Plan) -> bool {
    let before = was_initialized(seen);
    let sandbox = plan.sandbox.clone().unwrap_or_default();
    let mut starts = Vec::new();
    let mut done = true;
    for member in seen.pod.inits() {
        let status = seen.inventory.newest_in(&sandbox, member.name());
        let passed = match (member.role, status) {
            (Role::Sidecar, status) => plan_sidecar(seen, member, status, plan, &mut starts),
            _ if before => true,
            (_, None) => {
                starts.push(member.name().to_owned());
                false
            }
            (_, Some(status)) => match plan_init(seen, member, status, plan, &mut starts) {
                Some(passed) => passed,
                None => {
                    *plan = Plan { kill_pod: true, sandbox: plan.sandbox.take(), ..Plan::default() };
                    return false;
                }
            },
        };
        if !passed && !before {
            done = false;
            break;
        }
    }
    starts.append(&mut plan.start);
    plan.start = starts;
    before || done
}

/// One init container that was made; none when its failure ends the pod.
fn plan_init(
    seen: Seen<'_>,
    member: &Member,
    status: &ContainerStatus,
    plan: &mut Plan,
    starts: &mut Vec<String>,
) -> Option<bool> {
    match status.state {
        State::Running => Some(false),
        State::Created => {
            starts.push(member.name().to_owned());
            Some(false)
        }
        State::Exited if status.exit_code == 0 => Some(true),
        State::Exited | State::Unknown => {
            let code = if status.state == State::Unknown { 1 } else { status.exit_code };
            if !member.restarts(seen.pod.restart_policy(), code) {
                return None;
            }
            if status.state == State::Unknown {
                let (id, name) = (status.id.clone(), member.name().to_owned());
                plan.kill.push(Kill { id, name, why: Why::Unknown, restarts: true });
            }
            starts.push(member.name().to_owned());
            Some(false)
        }
    }
}

/// One sidecar: started when it does not run; true when it has started, so that what follows it may start.
fn plan_sidecar(
    seen: Seen<'_>,
    member: &Member,
    status: Option<&ContainerStatus>,
    plan: &mut Plan,
    starts: &mut Vec<String>,
) -> bool {
    let name = member.name().to_owned();
    let Some(status) = status else {
        starts.push(name);
        return false;
    };
    match status.state {
        State::Running => {
            if let Some(why) = reason_to_kill(seen, member, status) {
                plan.kill.push(Kill { id: status.id.clone(), name: name.clone(), why, restarts: true });
                starts.push(name);
            }
            has_started(seen, member, status)
        }
        State::Exited | State::Created => {
            starts.push(name);
            // It had its turn: what follows does not wait for it a second time.
            status.state == State::Exited && member.spec.startup_probe.is_none()
        }
        State::Unknown => {
            plan.kill.push(Kill { id: status.id.clone(), name: name.clone(), why: Why::Unknown, restarts: true });
            starts.push(name);
            false
        }
    }
}

/// Moves starts whose back-off has not passed to `wait`.
fn hold_back(seen: Seen<'_>, plan: &mut Plan) {
    let waits: Vec<Wait> = plan
        .start
        .iter()
        .filter_map(|name| {
            let member = seen.pod.member(name)?;
            let ended = seen.inventory.ended(name)?;
            let event = time_of(ended.finished_at)?;
            let (until, delay) = seen.delays.until(&delay_key(member), event, seen.now)?;
            Some(Wait { name: name.clone(), until, delay })
        })
        .collect();
    plan.start.retain(|name| !waits.iter().any(|w| w.name == *name));
    plan.wait = waits;
}

/// Under which key a container's restarts are counted: a changed container starts anew.
pub fn delay_key(member: &Member) -> String {
    format!("{}/{}", member.name(), member.hash)
}

/// Seconds a container gets to stop, its preStop hook included. Upstream: `setTerminationGracePeriod`.
pub fn grace_seconds(pod: &PodView, name: &str, why: Option<Why>) -> i64 {
    if let Some(grace) = pod.deletion_grace() {
        return grace;
    }
    let Some(own) = pod.spec.termination_grace_period_seconds else { return MIN_GRACE_SECONDS };
    let probe = match why {
        Some(Why::Liveness) => pod.member(name).and_then(|m| m.probe(ProbeKind::Liveness)),
        Some(Why::Startup) => pod.member(name).and_then(|m| m.probe(ProbeKind::Startup)),
        _ => None,
    };
    probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or(own)
}

/// Running containers in the order they are stopped: all but sidecars together, then sidecars one by one, last first.
pub fn stop_order<'a>(pod: &PodView, inventory: &'a PodInventory) -> Vec<Vec<&'a ContainerStatus>> {
    let alive = |c: &&ContainerStatus| matches!(c.state, State::Running | State::Unknown);
    let is_sidecar = |name: &str| pod.member(name).is_some_and(|m| m.role == Role::Sidecar);
    let mut order: Vec<Vec<&ContainerStatus>> =
        vec![inventory.containers.iter().filter(alive).filter(|c| !is_sidecar(&c.name)).collect()];
    for member in pod.of(Role::Sidecar).rev() {
        order.push(inventory.containers.iter().filter(alive).filter(|c| c.name == member.name()).collect());
    }
    order.retain(|wave| !wave.is_empty());
    order
}

/// Dead containers that nobody needs: all but the newest dead one of each name.
/// Upstream: `--maximum-dead-containers-per-container=1`.
pub fn garbage(inventory: &PodInventory) -> Vec<&ContainerStatus> {
    let mut seen = std::collections::HashSet::new();
    let dead = inventory.containers.iter().filter(|c| c.state == State::Exited);
    dead.filter(|c| !seen.insert(c.name.as_str())).collect()
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
