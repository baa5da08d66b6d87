//! A pod's status as upstream reports it: a pure function of pod, inventory and probe results.
//!
//! Rules: upstream `kubelet_pods.generateAPIPodStatus`, `getPhase`, `convertToAPIContainerStatuses` and `status/generate.go`.
//!
//! **Invariant:** conditions that others own are never touched; what did not change is not sent.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::cgroups;
use super::past;
use super::pod::{Member, PodInventory, PodView, ProbeKind, Role, time_of};
use super::preemption::MADE_ROOM;
use super::resize::{self, Progress};
use super::runtime::{ContainerStatus, State};
use super::sync::{Outcome, Results};
use crate::api::value::ValueExt;
use crate::util::clock::rfc3339;

/// Why a container does not run: what `waiting` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Why the kubelet itself ended a pod, or never began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `DeadlineExceeded`, `Evicted`, `NodeAffinity`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// What else the status says.
    pub kind: FailureKind,
}

/// What a failure means for the pod's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It was stopped for its own sake.
    Stopped,
    /// It was stopped for the node's sake: controllers do not count that against it.
    Disruption {
        /// Seconds that it gets at most to stop.
        grace_seconds: i64,
    },
    /// It made room for a critical pod, and gets its own time to stop.
    Preempted,
    /// It took more than it may: it is stopped at once, for its own sake.
    Overrun,
    /// It was not admitted: nothing of it ever ran.
    Rejected,
}

impl FailureKind {
    /// Seconds that the pod gets at most to stop; none where it gets its own.
    pub fn grace_seconds(self) -> Option<i64> {
        match self {
            Self::Disruption { grace_seconds } => Some(grace_seconds),
            Self::Overrun => Some(0),
            Self::Stopped | Self::Preempted | Self::Rejected => None,
        }
    }
}

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The pod; its last status is where times come from.
    pub pod: &'a PodView,
    /// What the runtime has.
    pub inventory: &'a PodInventory,
    /// What the probes say.
    pub probes: &'a Results,
    /// Containers that could not be started, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// Everything has stopped for good.
    pub ended: bool,
    /// Why the kubelet ended the pod.
    pub failure: Option<&'a Failure>,
    /// What containers have of what they were given.
    pub resize: &'a Progress,
    /// Node addresses, the main one first.
    pub host_ips: &'a [String],
    /// `containerd`.
    pub runtime_name: &'a str,
    /// The clock.
    pub now: Timestamp,
}

/// The status fields the kubelet owns. Absent ones are to be removed.
pub fn status(input: Input<'_>) -> Value {
    if let Some(failure) = input.failure.filter(|f| f.kind == FailureKind::Rejected) {
        return rejected(input, failure);
    }
    let containers = statuses(input, Role::App);
    let inits = init_statuses(input);
    let ephemeral = statuses(input, Role::Ephemeral);
    let phase = match input.failure {
        Some(_) if input.ended || !input.inventory.containers.iter().any(|c| c.state == State::Running) => "Failed",
        _ => phase(input, &inits, &containers),
    };
    // An end is for good, whatever became of the containers.
    let phase = match input.pod.status.str_at("/phase") {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        _ => phase,
    };
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_str() == Some("");
        if !empty {
            out.insert(key.to_owned(), value);
        }
    };
    put("observedGeneration", if input.pod.generation() > 0 { input.pod.generation().into() } else { Value::Null });
    put("phase", phase.into());
    put("conditions", conditions(input, phase, &inits, &containers).into());
    // Not before it has stopped, as the phase. Upstream: `mergePodStatus`.
    if let Some(failure) = input.failure.filter(|_| phase == "Failed") {
        put("reason", failure.reason.as_str().into());
        put("message", failure.message.as_str().into());
    }
    put("hostIP", input.host_ips.first().cloned().into());
    put("hostIPs", input.host_ips.iter().map(|ip| json!({"ip": ip})).collect());
    let ips = pod_ips(input);
    put("podIP", ips.first().cloned().into());
    put("podIPs", ips.iter().map(|ip| json!({"ip": ip})).collect());
    put("startTime", rfc3339(input.pod.start_time().unwrap_or(input.now)).into());
    put("initContainerStatuses", inits.into());
    put("containerStatuses", containers.into());
    put("ephemeralContainerStatuses", ephemeral.into());
    put("qosClass", cgroups::qos(input.pod).as_str().into());
    Value::Object(out)
}

/// Of a pod that was not admitted: it has no addresses and no containers.
fn rejected(input: Input<'_>, failure: &Failure) -> Value {
    let mut out = json!({"phase": "Failed", "reason": failure.reason, "message": failure.message,
        "startTime": rfc3339(input.pod.start_time().unwrap_or(input.now)), "qosClass": cgroups::qos(input.pod).as_str()});
    if input.pod.generation() > 0 {
        out["observedGeneration"] = input.pod.generation().into();
    }
    out["conditions"] = input.pod.status.items_at("/conditions").into();
    out
}

/// Addresses of the newest sandbox; the last known ones when it is gone, and the node's with host network.
fn pod_ips(input: Input<'_>) -> Vec<String> {
    let sandbox = input.inventory.sandboxes.first();
    if input.pod.host_network() {
        return if sandbox.is_some() { input.host_ips.to_vec() } else { Vec::new() };
    }
    match sandbox {
        Some(s) if !s.ips.is_empty() => s.ips.clone(),
        _ => {
            let old = input.pod.status.items_at("/podIPs");
            old.iter().filter_map(|ip| ip.str_at("/ip").map(str::to_owned)).collect()
        }
    }
}

fn init_statuses(input: Input<'_>) -> Vec<Value> {
    input.pod.members.iter().filter(|m| m.is_init()).map(|m| container(input, m)).collect()
}

fn statuses(input: Input<'_>, role: Role) -> Vec<Value> {
    input.pod.of(role).map(|m| container(input, m)).collect()
}

fn terminated(c: &ContainerStatus, runtime_name: &str) -> Value {
    let reason = match c.reason.as_str() {
        "" if c.exit_code == 0 => "Completed",
        "" => "Error",
        r => r,
    };
    let mut t = json!({"exitCode": c.exit_code, "reason": reason});
    if !c.message.is_empty() {
        t["message"] = c.message.as_str().into();
    }
    t["startedAt"] = time_of(c.started_at).map(rfc3339).into();
    t["finishedAt"] = time_of(c.finished_at).map(rfc3339).into();
    t["containerID"] = format!("{runtime_name}://{}", c.id).into();
    json!({ "terminated": t })
}

fn container(input: Input<'_>, member: &Member) -> Value {
    let newest = input.inventory.newest(member.name());
    let previous = input.inventory.of(member.name()).skip(1).find(|c| c.state == State::Exited);
    let mut state = match newest {
        None => waiting(default_reason(input, member), ""),
        Some(c) => match c.state {
            State::Running => json!({"running": {"startedAt": time_of(c.started_at).map(rfc3339)}}),
            State::Exited => terminated(c, input.runtime_name),
            State::Created | State::Unknown => json!({"waiting": {}}),
        },
    };
    let mut last = previous.map_or_else(|| json!({}), |c| terminated(c, input.runtime_name));
    let stopped = newest.is_none_or(|c| c.state != State::Running);
    if let Some(w) = input.waiting.get(member.name()).filter(|_| stopped && !input.ended) {
        if state.get("terminated").is_some() {
            last = state;
        }
        state = waiting(&w.reason, &w.message);
    }
    let started = newest.is_some_and(|c| c.state == State::Running && is_started(input, member, c));
    let ready = match member.role {
        Role::Init => state.get_at("/terminated/exitCode") == Some(&json!(0)),
        Role::Ephemeral => false,
        Role::App | Role::Sidecar => started && newest.is_some_and(|c| is_ready(input, member, c)),
    };
    let mut out = json!({
        "name": member.name(), "state": state, "lastState": last, "ready": ready,
        "restartCount": newest.map_or(0, |c| c.attempt),
        "image": newest.map_or(member.spec.image.as_deref().unwrap_or_default(), |c| c.image.as_str()),
        "imageID": newest.map_or("", |c| c.image_ref.as_str()),
    });
    if let Some(c) = newest {
        out["containerID"] = format!("{}://{}", input.runtime_name, c.id).into();
    }
    if member.role != Role::Ephemeral {
        out["started"] = started.into();
        add_resources(&mut out, input.resize, member, newest);
    }
    add_mounts(&mut out, member);
    if newest.is_none() {
        past::remember(input.pod, member, &mut out);
    }
    out
}

/// What a running container was given, and what it has.
fn add_resources(out: &mut Value, resize: &Progress, member: &Member, newest: Option<&ContainerStatus>) {
    let Some(c) = newest.filter(|c| c.state == State::Running) else { return };
    let given = member.spec.resources.as_ref();
    if let Some(requests) = given.and_then(|r| r.requests.as_ref()) {
        out["allocatedResources"] = json!(requests);
    }
    let has = resize.of(&c.id).unwrap_or(given);
    out["resources"] = has.map_or_else(|| json!({}), |r| json!(r));
}

fn add_mounts(out: &mut Value, member: &Member) {
    let mount = |m: &k8s_openapi::api::core::v1::VolumeMount| {
        let mut v = json!({"name": m.name, "mountPath": m.mount_path});
        if m.read_only == Some(true) {
            v["readOnly"] = true.into();
            v["recursiveReadOnly"] = "Disabled".into();
        }
        v
    };
    let mounts: Vec<Value> = member.spec.volume_mounts.iter().flatten().map(mount).collect();
    if !mounts.is_empty() {
        out["volumeMounts"] = mounts.into();
    }
}

fn waiting(reason: &str, message: &str) -> Value {
    let mut w = json!({ "reason": reason });
    if !message.is_empty() {
        w["message"] = message.into();
    }
    json!({ "waiting": w })
}

fn default_reason(input: Input<'_>, member: &Member) -> &'static str {
    let has_inits = input.pod.members.iter().any(Member::is_init);
    if has_inits && member.role != Role::Ephemeral { "PodInitializing" } else { "ContainerCreating" }
}

fn is_started(input: Input<'_>, member: &Member, c: &ContainerStatus) -> bool {
    member.spec.startup_probe.is_none()
        || input.probes.get(&(c.id.clone(), ProbeKind::Startup)) == Some(&Outcome::Success)
}

fn is_ready(input: Input<'_>, member: &Member, c: &ContainerStatus) -> bool {
    member.spec.readiness_probe.is_none()
        || input.probes.get(&(c.id.clone(), ProbeKind::Readiness)) == Some(&Outcome::Success)
}

enum Is {
    Running,
    Stopped { code: i64 },
    NotYet,
}

/// A container's state as the phase counts it: a waiting one that ran before counts as stopped.
fn counted(status: &Value) -> Is {
    let code = |path: &str| status.int_at(path);
    if status.get_at("/state/running").is_some() {
        Is::Running
    } else if let Some(code) = code("/state/terminated/exitCode").or_else(|| code("/lastState/terminated/exitCode")) {
        Is::Stopped { code }
    } else {
        Is::NotYet
    }
}

fn phase(input: Input<'_>, inits: &[Value], containers: &[Value]) -> &'static str {
    let policy = input.pod.restart_policy();
    let named = |s: &Value| input.pod.member(s.str_at("/name").unwrap_or_default());
    let initialized =
        input.pod.of(Role::App).any(|m| input.inventory.newest(m.name()).is_some_and(|c| c.state != State::Unknown));
    for (status, member) in inits.iter().filter_map(|s| Some((s, named(s)?))) {
        match (member.role, counted(status)) {
            (Role::Init, Is::Stopped { code }) if code != 0 && !member.restarts(policy, code as i32) => return "Failed",
            (Role::Init, Is::Stopped { code: 0 }) => {}
            _ if initialized => {}
            (Role::Sidecar, Is::Stopped { .. }) => {}
            (Role::Sidecar, Is::Running) if status.bool_at("/started") == Some(true) => {}
            _ => return "Pending",
        }
    }
    let mut running = 0;
    let mut stopped: Vec<(i64, bool)> = Vec::new();
    for status in containers {
        match counted(status) {
            Is::NotYet => return if input.ended { "Failed" } else { "Pending" },
            Is::Running => running += 1,
            Is::Stopped { code } => {
                stopped.push((code, named(status).is_some_and(|m| m.restarts(policy, code as i32))));
            }
        }
    }
    let sidecar_runs = inits.iter().any(|s| s.get_at("/state/running").is_some());
    let again = stopped.iter().any(|(_, again)| *again);
    if running > 0 || stopped.is_empty() || (!input.ended && (again || sidecar_runs)) {
        return if stopped.is_empty() && running == 0 { "Pending" } else { "Running" };
    }
    if stopped.iter().all(|(code, _)| *code == 0) { "Succeeded" } else { "Failed" }
}

/// True when the app containers are done for good, so that sidecars and sandbox can go.
pub fn is_done(pod: &PodView, inventory: &PodInventory) -> bool {
    let policy = pod.restart_policy();
    let over = |m: &Member| {
        inventory.newest(m.name()).is_some_and(|c| c.state == State::Exited && !m.restarts(policy, c.exit_code))
    };
    let failed_init =
        pod.of(Role::Init).any(|m| over(m) && inventory.newest(m.name()).is_some_and(|c| c.exit_code != 0));
    let mut apps = pod.of(Role::App).peekable();
    failed_init || (apps.peek().is_some() && apps.all(over))
}

fn conditions(input: Input<'_>, phase: &str, inits: &[Value], containers: &[Value]) -> Vec<Value> {
    let sandbox_ready = input
        .inventory
        .sandboxes
        .first()
        .is_some_and(|s| s.state == State::Running && (input.pod.host_network() || !s.ips.is_empty()));
    let over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let unready: Vec<&str> = inits
        .iter()
        .filter(|s| input.pod.member(s.str_at("/name").unwrap_or_default()).is_some_and(|m| m.role == Role::Sidecar))
        .chain(containers)
        .filter(|s| s.bool_at("/ready") != Some(true))
        .filter_map(|s| s.str_at("/name"))
        .collect();
    let containers_ready = match over {
        Some(reason) => Verdict::no(reason, String::new()),
        None if unready.is_empty() => Verdict::YES,
        None => Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    };
    let ready = match &containers_ready {
        v if !v.0 => v.clone(),
        v => gates(input).map_or_else(|| v.clone(), |why| Verdict::no("ReadinessGatesNotReady", why)),
    };
    [
        ("PodReadyToStartContainers", Verdict(sandbox_ready, "", String::new())),
        ("Initialized", initialized(input, phase, inits, containers)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::YES),
    ]
    .into_iter()
    .chain(disruption(input))
    .chain(resizing(input))
    .map(|(kind, verdict)| condition(input, kind, verdict))
    .collect()
}

/// Told of pods that were ended for the node's sake.
fn disruption(input: Input<'_>) -> Option<(&'static str, Verdict)> {
    let failure = input.failure?;
    let message = match failure.kind {
        FailureKind::Disruption { .. } => failure.message.clone(),
        FailureKind::Preempted => MADE_ROOM.to_owned(),
        FailureKind::Stopped | FailureKind::Overrun | FailureKind::Rejected => return None,
    };
    Some(("DisruptionTarget", Verdict(true, "TerminationByKubelet", message)))
}

/// Told while a pod has not what it asks for: it is not given it, or is on the way to it.
fn resizing(input: Input<'_>) -> Vec<(&'static str, Verdict)> {
    let mut out = Vec::new();
    if let Some(pending) = &input.resize.pending {
        out.push((resize::PENDING, Verdict(true, pending.reason, pending.message.clone())));
    }
    if !input.resize.behind(input.pod, input.inventory).is_empty() {
        let (reason, message) = input.resize.error.as_ref().map_or(("", ""), |why| ("Error", why.as_str()));
        out.push((resize::IN_PROGRESS, Verdict(true, reason, message.to_owned())));
    }
    out
}

#[derive(Clone)]
struct Verdict(bool, &'static str, String);

impl Verdict {
    const YES: Verdict = Verdict(true, "", String::new());

    fn no(reason: &'static str, message: String) -> Self {
        Self(false, reason, message)
    }
}

fn initialized(input: Input<'_>, phase: &str, inits: &[Value], containers: &[Value]) -> Verdict {
    if phase == "Succeeded" {
        return Verdict(true, "PodCompleted", String::new());
    }
    // Once an app container ran, the init containers had done their work, whatever became of them.
    if containers.iter().any(|s| !matches!(counted(s), Is::NotYet)) {
        return Verdict::YES;
    }
    let incomplete: Vec<&str> = inits
        .iter()
        .filter(|s| {
            let name = s.str_at("/name").unwrap_or_default();
            let field =
                if input.pod.member(name).is_some_and(|m| m.role == Role::Sidecar) { "/started" } else { "/ready" };
            s.bool_at(field) != Some(true)
        })
        .filter_map(|s| s.str_at("/name"))
        .collect();
    if incomplete.is_empty() {
        return Verdict::YES;
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::no("ContainersNotInitialized", message)
}

/// What the readiness gates miss; none when they are all satisfied.
fn gates(input: Input<'_>) -> Option<String> {
    let conditions = input.pod.status.items_at("/conditions");
    let missing: Vec<String> = input
        .pod
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|c| c.str_at("/type") == Some(kind)).and_then(|c| c.str_at("/status")) {
                Some("True") => None,
                Some(other) => {
                    Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {other}"))
                }
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            }
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn condition(input: Input<'_>, kind: &str, Verdict(yes, reason, message): Verdict) -> Value {
    let word = if yes { "True" } else { "False" };
    let old = input.pod.status.items_at("/conditions").iter().find(|c| c.str_at("/type") == Some(kind));
    let since = old
        .filter(|c| c.str_at("/status") == Some(word))
        .and_then(|c| c.str_at("/lastTransitionTime").map(str::to_owned))
        .unwrap_or_else(|| rfc3339(input.now));
    let mut out = json!({"type": kind});
    if input.pod.generation() > 0 {
        out["observedGeneration"] = input.pod.generation().into();
    }
    out["status"] = word.into();
    out["lastProbeTime"] = Value::Null;
    out["lastTransitionTime"] = since.into();
    if !reason.is_empty() {
        out["reason"] = reason.into();
    }
    if !message.is_empty() {
        out["message"] = message.into();
    }
    out
}

/// Fields that a status patch may remove when they are no longer there.
const OWNED: [&str; 14] = [
    "observedGeneration",
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "qosClass",
    "conditions",
];

/// The strategic merge patch that makes `old` say `new`; none when it says so already. Conditions are merged by type,
/// so those of others stay.
pub fn patch(pod: &PodView, old: &Value, new: &Value) -> Option<Value> {
    let mut status = Map::new();
    for key in OWNED {
        let (before, after) = (old.get(key), new.get(key));
        if same(before, after) {
            continue;
        }
        let value = match (key, after) {
            (_, None) => Value::Null,
            ("conditions", Some(list)) => {
                let known = old.items_at("/conditions");
                let changed = |c: &&Value| {
                    let same_type = |o: &&Value| o.get("type") == c.get("type");
                    !same(known.iter().find(same_type), Some(*c))
                };
                let mut list: Vec<Value> = list.as_array().into_iter().flatten().filter(changed).cloned().collect();
                // These are told of while they last.
                let is_in = |all: &[Value], kind: &str| all.iter().any(|c| c.str_at("/type") == Some(kind));
                let now = after.map_or(&[][..], |a| a.items_at(""));
                let over = |kind: &&str| is_in(known, kind) && !is_in(now, kind);
                let over = [resize::PENDING, resize::IN_PROGRESS].into_iter().filter(over);
                list.extend(over.map(|kind| json!({"type": kind, "$patch": "delete"})));
                if list.is_empty() {
                    continue;
                }
                // What a condition no longer says has to be taken back by name: the merge keeps what is not named.
                for c in &mut list {
                    let before = known.iter().find(|o| o.get("type") == c.get("type"));
                    for field in ["reason", "message"] {
                        if before.is_some_and(|b| b.get(field).is_some()) && c.get(field).is_none() {
                            c[field] = Value::Null;
                        }
                    }
                }
                list.into()
            }
            // Merged by address otherwise, which would keep old ones.
            ("podIPs" | "hostIPs", Some(list)) => {
                let mut all = list.as_array().cloned().unwrap_or_default();
                all.push(json!({"$patch": "replace"}));
                all.into()
            }
            (_, Some(value)) => value.clone(),
        };
        status.insert(key.to_owned(), value);
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": pod.uid}, "status": status}))
}

/// Equal but for nulls and empty objects, which the API may leave out or write.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn bare(v: Option<&Value>) -> Option<Value> {
        match v? {
            Value::Null => None,
            Value::Object(map) => {
                let kept: Map<String, Value> =
                    map.iter().filter_map(|(k, v)| Some((k.clone(), bare(Some(v))?))).collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(list) => Some(list.iter().map(|v| bare(Some(v)).unwrap_or(Value::Null)).collect()),
            Value::String(s) if s.is_empty() => None,
            other => Some(other.clone()),
        }
    }
    bare(a) == bare(b)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
