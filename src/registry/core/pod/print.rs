//! Cells of pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::scheme::age;
use crate::api::value::ValueExt;
use crate::registry::cells;

/// What a pod's line says.
pub struct Summary {
    /// The status.
    pub reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<String>,
}

/// One container's numbers.
fn note_restart(status: &Value, restarts: &mut i64, last: &mut Option<String>) {
    *restarts += status.int_at("/restartCount").unwrap_or(0);
    let ended = status.str_at("/lastState/terminated/finishedAt").map(str::to_owned);
    // Times of one form sort as texts.
    if ended > *last {
        *last = ended;
    }
}

fn ended_reason(state: &Value, prefix: &str) -> String {
    let t = &state["terminated"];
    match (t.str_at("/reason").unwrap_or_default(), t.int_at("/signal").unwrap_or(0)) {
        ("", 0) => format!("{prefix}ExitCode:{}", t.int_at("/exitCode").unwrap_or(0)),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// Reads a pod's status as upstream's printer does.
pub fn summary(pod: &Value) -> Summary {
    let status = &pod["status"];
    let mut s = Summary {
        reason: status.str_at("/phase").unwrap_or_default().to_owned(),
        ready: 0,
        total: pod.items_at("/spec/containers").len(),
        restarts: 0,
        last_restart: None,
    };
    if let Some(reason) = status.str_at("/reason").filter(|r| !r.is_empty()) {
        reason.clone_into(&mut s.reason);
    }
    let gated =
        |c: &&Value| c.str_at("/type") == Some("PodScheduled") && c.str_at("/reason") == Some("SchedulingGated");
    if status.items_at("/conditions").iter().any(|c| gated(&c)) {
        "SchedulingGated".clone_into(&mut s.reason);
    }
    let specs = pod.items_at("/spec/initContainers");
    let sidecar = |name: Option<&str>| {
        specs.iter().any(|c| c.str_at("/name") == name && c.str_at("/restartPolicy") == Some("Always"))
    };
    s.total += specs.iter().filter(|c| c.str_at("/restartPolicy") == Some("Always")).count();
    let initializing = initializing(status, specs.len(), &sidecar, &mut s);
    let initialized = status
        .items_at("/conditions")
        .iter()
        .any(|c| c.str_at("/type") == Some("Initialized") && c.str_at("/status") == Some("True"));
    if !initializing || initialized {
        running(status, &sidecar, &mut s);
    }
    if pod.str_at("/metadata/deletionTimestamp").is_some() {
        s.reason = match status.str_at("/reason") {
            Some("NodeLost") => "Unknown".to_owned(),
            _ if matches!(status.str_at("/phase"), Some("Failed" | "Succeeded")) => s.reason,
            _ => "Terminating".to_owned(),
        };
    }
    s
}

/// Goes through the init containers; true when one of them is not done.
fn initializing(status: &Value, count: usize, sidecar: &dyn Fn(Option<&str>) -> bool, s: &mut Summary) -> bool {
    for (i, c) in status.items_at("/initContainerStatuses").iter().enumerate() {
        note_restart(c, &mut s.restarts, &mut s.last_restart);
        let state = &c["state"];
        let side = sidecar(c.str_at("/name"));
        if state.int_at("/terminated/exitCode") == Some(0) {
            continue;
        }
        if side && c.bool_at("/started") == Some(true) {
            s.ready += usize::from(c.bool_at("/ready") == Some(true));
            continue;
        }
        let waiting = state.str_at("/waiting/reason").unwrap_or_default();
        s.reason = if state.get("terminated").is_some() {
            ended_reason(state, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{count}")
        };
        return true;
    }
    false
}

/// Goes through the containers, the last first, as upstream does.
fn running(status: &Value, sidecar: &dyn Fn(Option<&str>) -> bool, s: &mut Summary) {
    // Restarts of init containers no longer matter, but for sidecars'.
    (s.restarts, s.last_restart) = (0, None);
    for c in status.items_at("/initContainerStatuses").iter().filter(|c| sidecar(c.str_at("/name"))) {
        note_restart(c, &mut s.restarts, &mut s.last_restart);
    }
    let mut has_running = false;
    for c in status.items_at("/containerStatuses").iter().rev() {
        note_restart(c, &mut s.restarts, &mut s.last_restart);
        let state = &c["state"];
        let waiting = state.str_at("/waiting/reason").unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(&mut s.reason);
        } else if state.get("terminated").is_some() {
            s.reason = ended_reason(state, "");
        } else if c.bool_at("/ready") == Some(true) && state.get("running").is_some() {
            has_running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" && has_running {
        let ready = status
            .items_at("/conditions")
            .iter()
            .any(|c| c.str_at("/type") == Some("Ready") && c.str_at("/status") == Some("True"));
        if ready { "Running" } else { "NotReady" }.clone_into(&mut s.reason);
    }
}

/// `1/2`.
pub fn ready(pod: &Value, _: Timestamp) -> Value {
    let s = summary(pod);
    format!("{}/{}", s.ready, s.total).into()
}

/// `3 (5m ago)`.
pub fn restarts(pod: &Value, now: Timestamp) -> Value {
    let s = summary(pod);
    match s.last_restart {
        Some(t) if s.restarts != 0 => format!("{} ({} ago)", s.restarts, age(Some(&t), now)).into(),
        _ => s.restarts.to_string().into(),
    }
}

/// `1/2` of the readiness gates; `<none>` without any.
pub fn readiness_gates(pod: &Value, _: Timestamp) -> Value {
    let gates = pod.items_at("/spec/readinessGates");
    if gates.is_empty() {
        return cells::NONE.into();
    }
    let open = |gate: &&Value| {
        pod.items_at("/status/conditions")
            .iter()
            .any(|c| c["type"] == gate["conditionType"] && c.str_at("/status") == Some("True"))
    };
    format!("{}/{}", gates.iter().filter(open).count(), gates.len()).into()
}

/// Rows of ended pods say so.
pub fn row_conditions(pod: &Value) -> Value {
    let (reason, message) = match pod.str_at("/status/phase") {
        Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
        Some("Failed") => ("Failed", "The pod failed."),
        _ => return Value::Null,
    };
    json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}])
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(json!({"phase": "Pending"}), "Pending", "0/1"; "new")]
    #[test_case(json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}), "Running", "1/1"; "runs")]
    #[test_case(json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}), "ErrImagePull", "0/1"; "waits")]
    #[test_case(json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 2}}}]}), "ExitCode:2", "0/1"; "failed")]
    #[test_case(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}), "Init:0/0", "0/1"; "initializes")]
    #[test_case(json!({"phase": "Failed", "reason": "Evicted"}), "Evicted", "0/1"; "evicted")]
    fn lines(status: Value, reason: &str, counts: &str) {
        let pod = json!({"spec": {"containers": [{"name": "c"}]}, "status": status});
        assert_eq!((summary(&pod).reason.as_str(), ready(&pod, Timestamp::UNIX_EPOCH)), (reason, counts.into()));
    }
}
