//! How many pods of a budget may be taken away now. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/disruption`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::meta::labels::go_text;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::numbers::{self, Round};
use crate::controllers::common::pods::{PodView, time};
use crate::util::clock::rfc3339;

/// Seconds after which an eviction that led to no deletion counts no more.
const EVICTION_TIMEOUT: i64 = 120;

/// What is known of a budget's pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The pods.
    pub pods: Vec<PodView>,
    /// How many there should be, by the scales of their controllers.
    pub scale: i64,
}

/// Evictions that still count: those of pods that are there, not on their way out, and not too long ago.
fn disrupted(status: &Value, pods: &[PodView], now: Timestamp) -> BTreeMap<String, Timestamp> {
    let known = status.get_at("/disruptedPods").and_then(Value::as_object);
    let counts = |(name, at): (&String, &Value)| {
        let at = time(at.as_str())?;
        let there = pods.iter().any(|p| p.name == *name && !p.deleting);
        (there && at.as_second() + EVICTION_TIMEOUT > now.as_second()).then(|| (name.clone(), at))
    };
    known.into_iter().flatten().filter_map(counts).collect()
}

/// Whether the budget is a part of what there should be, so that the pods' controllers have to be asked: a plain number
/// counts what is there, also of controllers that have no scale, and of nobody's pods.
pub fn is_relative(budget: &Value) -> bool {
    let least_is_part = budget.pointer("/spec/minAvailable").is_some_and(|least| !least.is_number());
    budget.pointer("/spec/maxUnavailable").is_some() || least_is_part
}

/// What is told where a budget is a part of what there should be, and pods of it are nobody's.
pub fn unmanaged(budget: &Value) -> String {
    let selector = go_text(&budget["spec"]["selector"]);
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status \
         of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
         set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

/// Evictions that have led to no deletion in time.
pub fn stale<'a>(budget: &Value, pods: &'a [PodView], now: Timestamp) -> Vec<&'a PodView> {
    let at = |p: &PodView| {
        time(budget.pointer("/status/disruptedPods").and_then(|d| d.get(&p.name)).and_then(Value::as_str))
    };
    let is_old = |p: &&PodView| at(p).is_some_and(|t| t.as_second() + EVICTION_TIMEOUT <= now.as_second());
    pods.iter().filter(|p| !p.deleting).filter(is_old).collect()
}

/// Seconds until a pod that was to be evicted, and goes on, is one like any other; none where there is nothing to wait for. A
/// kubelet's word holds: it may take its time.
pub fn spared_in(pod: &Value, now: Timestamp) -> Option<i64> {
    let target = conditions::get(pod.items_at("/status/conditions"), "DisruptionTarget")?;
    let ended = matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"));
    let is_going = ended || pod.str_at("/metadata/deletionTimestamp").is_some();
    let holds = target.str_at("/status") == Some("True") && target.str_at("/reason") != Some("TerminationByKubelet");
    let since = time(target.str_at("/lastTransitionTime")).unwrap_or(now);
    (holds && !is_going).then(|| (since.as_second() + EVICTION_TIMEOUT - now.as_second()).max(0))
}

/// Pods there should be, and those of them that have to be healthy.
fn wanted(budget: &Value, seen: &Seen) -> (i64, i64) {
    let (least, most) = (budget.get_at("/spec/minAvailable"), budget.get_at("/spec/maxUnavailable"));
    match (most, least) {
        (Some(most), _) => {
            let missing = numbers::resolve(Some(most), seen.scale, Round::Up);
            (seen.scale, (seen.scale - missing).max(0))
        }
        (None, Some(Value::Number(n))) => (seen.pods.len() as i64, n.as_i64().unwrap_or(0)),
        (None, Some(percent)) => (seen.scale, numbers::resolve(Some(percent), seen.scale, Round::Up)),
        (None, None) => (seen.pods.len() as i64, 0),
    }
}

/// The status, and the seconds until an eviction stops counting.
pub fn status(budget: &Value, seen: &Seen, now: Timestamp) -> (Value, Option<i64>) {
    let mut status = budget.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let disrupted = disrupted(&status, &seen.pods, now);
    let healthy = |p: &&PodView| !p.deleting && p.is_ready() && !disrupted.contains_key(&p.name);
    let current = seen.pods.iter().filter(healthy).count() as i64;
    let (expected, desired) = wanted(budget, seen);
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    for (field, n) in [
        ("disruptionsAllowed", allowed),
        ("currentHealthy", current),
        ("desiredHealthy", desired),
        ("expectedPods", expected),
    ] {
        status[field] = n.into();
    }
    status["observedGeneration"] = budget.int_at("/metadata/generation").unwrap_or(0).into();
    match disrupted.is_empty() {
        true => drop(status.remove_at("/disruptedPods")),
        false => {
            let all: Map<String, Value> = disrupted.iter().map(|(n, t)| (n.clone(), rfc3339(*t).into())).collect();
            status["disruptedPods"] = all.into();
        }
    }
    let (is, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    conclude(&mut status, &Condition::new("DisruptionAllowed", is, reason, ""), now);
    let next = disrupted.values().map(|t| t.as_second() + EVICTION_TIMEOUT - now.as_second()).min();
    (status, next)
}

/// The status when the pods' controllers could not be asked: nothing may be taken away. What was observed stays what it was.
pub fn failed(budget: &Value, why: &str, now: Timestamp) -> Value {
    let mut status = budget.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    status["disruptionsAllowed"] = 0.into();
    conclude(&mut status, &Condition::new("DisruptionAllowed", "False", "SyncFailed", why), now);
    for count in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        status.set_if_absent(&format!("/{count}"), 0);
    }
    status
}

/// Sets a condition, of what the status says that was observed.
fn conclude(status: &mut Value, condition: &Condition<'_>, now: Timestamp) {
    let mut all = status.items_at("/conditions").to_vec();
    conditions::set(&mut all, condition, &rfc3339(now));
    for known in all.iter_mut().filter(|c| c.str_at("/type") == Some(condition.kind)) {
        match status.int_at("/observedGeneration") {
            Some(observed) => known["observedGeneration"] = observed.into(),
            None => drop(known.remove_at("/observedGeneration")),
        }
    }
    status["conditions"] = all.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn pods(ready: usize, not: usize) -> Vec<PodView> {
        let pod = |i: usize| PodView {
            name: format!("p{i}"),
            ready_since: (i < ready).then_some(Timestamp::UNIX_EPOCH),
            ..PodView::default()
        };
        (0..ready + not).map(pod).collect()
    }

    #[test_case(json!({"minAvailable": 2}), 3, 0, 3, (1, 2, 3); "a number")]
    #[test_case(json!({"minAvailable": 2}), 1, 2, 3, (0, 2, 3); "too few are ready")]
    #[test_case(json!({"minAvailable": "50%"}), 3, 0, 5, (0, 3, 5); "a part of what should be there")]
    #[test_case(json!({"maxUnavailable": 1}), 3, 0, 3, (1, 2, 3); "most that may be missing")]
    #[test_case(json!({"maxUnavailable": "30%"}), 4, 1, 5, (1, 3, 5); "rounded up")]
    #[test_case(json!({"maxUnavailable": 1}), 0, 0, 0, (0, 0, 0); "nothing there")]
    fn budgets(spec: Value, ready: usize, not: usize, scale: i64, want: (i64, i64, i64)) {
        let seen = Seen { pods: pods(ready, not), scale };
        let (status, _) = status(&json!({"spec": spec}), &seen, Timestamp::UNIX_EPOCH);
        let n = |f: &str| status[f].as_i64().unwrap();
        assert_eq!((n("disruptionsAllowed"), n("desiredHealthy"), n("expectedPods")), want);
        assert_eq!(status["conditions"][0]["status"], if want.0 > 0 { "True" } else { "False" });
    }

    #[test]
    fn who_was_never_counted_has_observed_nothing() {
        let status = failed(&json!({"metadata": {"generation": 1}}), "why", Timestamp::UNIX_EPOCH);
        assert_eq!((status.get("observedGeneration"), &status["expectedPods"]), (None, &json!(0)));
        assert_eq!(status["conditions"][0].get("observedGeneration"), None);
    }

    #[test]
    fn nobodys_pods_are_told_of_as_upstream_prints_their_selector() {
        let told = unmanaged(&json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}}));
        let selector =
            "&LabelSelector{MatchLabels:map[string]string{app: x,},MatchExpressions:[]LabelSelectorRequirement{},}";
        assert!(told.contains(&format!("(selector: {selector}) were found to be unmanaged.")), "{told}");
    }

    #[test_case(json!({"maxUnavailable": 1}), true)]
    #[test_case(json!({"minAvailable": "50%"}), true)]
    #[test_case(json!({"minAvailable": 2}), false; "a number counts what is there")]
    #[test_case(json!({}), false)]
    fn who_has_to_be_asked(spec: Value, want: bool) {
        assert_eq!(is_relative(&json!({"spec": spec})), want);
    }

    /// At second 100.
    #[test_case(json!({"status": "True"}), json!({}), Some(70); "not yet")]
    #[test_case(json!({"status": "True", "lastTransitionTime": "1969-12-31T23:00:00Z"}), json!({}), Some(0); "long ago")]
    #[test_case(json!({"status": "False"}), json!({}), None; "it was spared")]
    #[test_case(json!({"status": "True", "reason": "TerminationByKubelet"}), json!({}), None; "the kubelet takes its time")]
    #[test_case(json!({"status": "True"}), json!({"status": {"phase": "Failed"}}), None; "it has ended")]
    #[test_case(json!({"status": "True"}), json!({"metadata": {"deletionTimestamp": "t"}}), None; "it is going")]
    fn who_was_to_be_evicted_and_goes_on(condition: Value, pod: Value, want: Option<i64>) {
        let mut known = json!({"type": "DisruptionTarget", "lastTransitionTime": "1970-01-01T00:00:50Z"});
        json_patch::merge(&mut known, &condition);
        let mut all = json!({"status": {"phase": "Running", "conditions": [known]}});
        json_patch::merge(&mut all, &pod);
        assert_eq!(spared_in(&all, Timestamp::from_second(100).unwrap()), want);
    }

    #[test]
    fn an_eviction_counts_until_its_pod_goes_or_it_is_old() {
        let evicted = json!({"disruptedPods": {"p0": "1970-01-01T00:00:10Z", "gone": "1970-01-01T00:00:10Z"}});
        let budget = json!({"spec": {"minAvailable": 1}, "status": evicted});
        let seen = Seen { pods: pods(3, 0), scale: 3 };
        let at = |s| status(&budget, &seen, Timestamp::from_second(s).unwrap());
        let (early, next) = at(20);
        assert_eq!((early["currentHealthy"].clone(), next), (json!(2), Some(110)));
        assert_eq!(early["disruptedPods"], json!({"p0": "1970-01-01T00:00:10Z"}));
        let late = Timestamp::from_second(130).unwrap();
        assert_eq!(stale(&budget, &seen.pods, late).iter().map(|p| &*p.name).collect::<Vec<_>>(), ["p0"]);
        let (late, next) = at(130);
        assert_eq!((late["currentHealthy"].clone(), next, late.get("disruptedPods")), (json!(3), None, None));
    }
}
