//! What a Deployment reports. No IO, no clock.
//!
//! Rules: upstream `deployment/sync.go` (`calculateStatus`) and `progress.go`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::model::{Deploy, Set};
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;
use crate::controllers::common::pods::time;
use crate::util::clock::rfc3339;

/// Reason of a rollout that is done.
const AVAILABLE: &str = "NewReplicaSetAvailable";
/// Reason of one that took too long.
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// What happened in this reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// Nothing new.
    Nothing,
    /// The current ReplicaSet was created, with this name.
    Created(String),
    /// The ReplicaSets followed another size of the Deployment.
    Resized,
}

/// The status of a Deployment whose ReplicaSet could not be made: nothing but the condition is new. None where it says so
/// already, or where no progress is asked for. Rule: upstream `getNewReplicaSet`.
pub fn create_failed(d: &Deploy, message: &str, now: Timestamp) -> Option<Value> {
    d.deadline?;
    let mut all = d.status.items_at("/conditions").to_vec();
    set(&mut all, &("Progressing", "ReplicaSetCreateError", "False", message.to_owned()), &rfc3339(now));
    let mut status = d.status.clone();
    status["conditions"] = all.into();
    (status != d.status).then_some(status)
}

/// The status to report.
pub fn status(d: &Deploy, sets: &[Set], new: Option<usize>, made: &Made, now: Timestamp) -> Value {
    let sum = |f: fn(&Set) -> i64| sets.iter().map(f).sum::<i64>();
    let available = sum(|s| s.available);
    let mut status = json!({"observedGeneration": d.generation});
    for (key, count) in [
        ("replicas", sum(|s| s.replicas)),
        ("updatedReplicas", new.map_or(0, |i| sets[i].replicas)),
        ("readyReplicas", sum(|s| s.ready)),
        ("availableReplicas", available),
        ("unavailableReplicas", (sum(|s| s.desired) - available).max(0)),
    ] {
        if count > 0 {
            status[key] = count.into();
        }
    }
    // Those that were never looked at have no pods; one that does not tell leaves the sum unknown.
    let told = sets.iter().filter(|s| s.observed != 0 || s.terminating.is_some());
    if let Some(going) = told.map(|s| s.terminating).sum::<Option<i64>>() {
        status["terminatingReplicas"] = going.into();
    }
    if let Some(n) = d.status.get("collisionCount") {
        status["collisionCount"] = n.clone();
    }
    let mut all = d.status.items_at("/conditions").to_vec();
    let stamp = rfc3339(now);
    set(&mut all, &availability(d, available), &stamp);
    // Rule: upstream judges the progress of a rollout (`syncRolloutStatus`), not of what is paused, resized or deleted.
    let rolling = !(d.deleting || d.paused || *made == Made::Resized);
    if d.deadline.is_none() {
        if rolling {
            conditions::remove(&mut all, "Progressing");
        }
    } else if let Some(c) = progress(d, sets, new, &status, made, now) {
        // Each sign of progress moves the clock of the deadline, also where nothing else changes.
        if c.1 == "ReplicaSetUpdated" {
            let since = conditions::get(&all, "Progressing").filter(|p| p.str_at("/status") == Some("True"));
            let since = since.and_then(|p| p.str_at("/lastTransitionTime")).unwrap_or(&stamp).to_owned();
            conditions::remove(&mut all, "Progressing");
            set(&mut all, &("Progressing", c.1, c.0, c.2), &stamp);
            if let Some(last) = all.last_mut() {
                last["lastTransitionTime"] = since.into();
            }
        } else {
            set(&mut all, &("Progressing", c.1, c.0, c.2), &stamp);
        }
    }
    match failure(sets, new) {
        _ if !rolling => {}
        Some(told) => {
            let text = |p: &str| told.str_at(p).unwrap_or_default();
            let since = told.str_at("/lastTransitionTime").unwrap_or(&stamp);
            set(&mut all, &("ReplicaFailure", text("/reason"), "True", text("/message").to_owned()), since);
        }
        None => conditions::remove(&mut all, "ReplicaFailure"),
    }
    if !all.is_empty() {
        status["conditions"] = all.into();
    }
    status
}

/// Type, reason, status, message.
type Condition<'a> = (&'a str, &'a str, &'a str, String);

/// Like upstream's `SetDeploymentCondition`: the same status and reason change nothing, not even the message.
fn set(all: &mut Vec<Value>, (kind, reason, status, message): &Condition<'_>, now: &str) {
    let known = conditions::get(all, kind);
    if known.is_some_and(|k| k.str_at("/status") == Some(status) && k.str_at("/reason") == Some(reason)) {
        return;
    }
    let since = known.filter(|k| k.str_at("/status") == Some(status)).and_then(|k| k.str_at("/lastTransitionTime"));
    let condition = json!({"type": kind, "status": status, "lastUpdateTime": now,
        "lastTransitionTime": since.unwrap_or(now), "reason": reason, "message": message});
    conditions::remove(all, kind);
    all.push(condition);
}

fn availability(d: &Deploy, available: i64) -> Condition<'static> {
    match available >= d.min_available() {
        true => {
            let message = "Deployment has minimum availability.".to_owned();
            ("Available", "MinimumReplicasAvailable", "True", message)
        }
        false => {
            let message = "Deployment does not have minimum availability.".to_owned();
            ("Available", "MinimumReplicasUnavailable", "False", message)
        }
    }
}

/// The Progressing condition to set (status, reason, message); none leaves it as it is.
fn progress(
    d: &Deploy,
    sets: &[Set],
    new: Option<usize>,
    status: &Value,
    made: &Made,
    now: Timestamp,
) -> Option<(&'static str, &'static str, String)> {
    let reason = d.progressing().and_then(|c| c.str_at("/reason"));
    match made {
        Made::Created(name) => {
            return Some(("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\"")));
        }
        Made::Nothing | Made::Resized => {}
    }
    if d.deleting {
        return None;
    }
    if d.paused {
        let known = matches!(reason, Some(TIMED_OUT | PAUSED));
        return (!known).then(|| ("Unknown", PAUSED, "Deployment is paused".to_owned()));
    }
    if reason == Some(PAUSED) {
        return Some(("Unknown", RESUMED, "Deployment is resumed".to_owned()));
    }
    if *made == Made::Resized {
        return None;
    }
    let count = |key: &str| status.get(key).and_then(Value::as_i64).unwrap_or(0);
    let (total, updated) = (count("replicas"), count("updatedReplicas"));
    if reason == Some(AVAILABLE) && total == updated {
        return None;
    }
    let what = match new {
        Some(i) => format!("ReplicaSet \"{}\"", sets[i].name),
        None => format!("Deployment \"{}\"", d.name),
    };
    let complete = updated == d.replicas && total == d.replicas && count("availableReplicas") == d.replicas;
    let old_left = |t: i64, u: i64| t - u;
    let moved = updated > d.reported("updatedReplicas")
        || old_left(total, updated) < old_left(d.reported("replicas"), d.reported("updatedReplicas"))
        || count("readyReplicas") > d.reported("readyReplicas")
        || count("availableReplicas") > d.reported("availableReplicas");
    if complete && new.is_some() {
        Some(("True", AVAILABLE, format!("{what} has successfully progressed.")))
    } else if moved {
        Some(("True", "ReplicaSetUpdated", format!("{what} is progressing.")))
    } else if reason == Some(TIMED_OUT) || deadline_in(d, now).is_some_and(|s| s < 0) {
        Some(("False", TIMED_OUT, format!("{what} has timed out progressing.")))
    } else if reason.is_none() && new.is_some() {
        // A ReplicaSet that was there before the condition was.
        Some(("True", "FoundNewReplicaSet", format!("Found new replica set {}", &what["ReplicaSet ".len()..])))
    } else {
        None
    }
}

/// Seconds until the progress deadline, negative when it has passed; none when nothing is waited for.
pub fn deadline_in(d: &Deploy, now: Timestamp) -> Option<i64> {
    let condition = d.progressing()?;
    if d.paused || matches!(condition.str_at("/reason"), Some(AVAILABLE | TIMED_OUT | PAUSED)) {
        return None;
    }
    let since = time(condition.str_at("/lastUpdateTime"))?;
    Some(since.as_second() + d.deadline? - now.as_second())
}

/// What keeps pods from being created, as the new ReplicaSet (or else an old one) reports it.
fn failure(sets: &[Set], new: Option<usize>) -> Option<&Value> {
    let newest = new.and_then(|i| sets[i].failure.as_ref());
    newest.or_else(|| sets.iter().find_map(|s| s.failure.as_ref()))
}
