//! Which pods make room for a critical one that was bound to this node. Pure.
//!
//! Rules: upstream `pkg/kubelet/preemption/preemption.go`: as few pods as possible, of the least promising classes.

use std::cmp::Ordering;
use std::time::Duration;

use super::admit::Lack;
use super::cgroups::{self, Qos};
use super::eviction::is_critical;
use super::pod::PodView;

/// Reason and message of a pod that made room.
pub const PREEMPTED: (&str, &str) = ("Preempting", "Preempted in order to admit critical pod");
/// What its condition says.
pub const MADE_ROOM: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// How much of which resource is missing.
type Missing = Vec<(String, i64)>;

/// How long a critical pod waits at least for one that makes room. Upstream: `pod_workers.go`, `killPodNow`.
const MIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a critical pod waits for a victim: its own time to stop and half of that again.
pub fn patience(victim: &PodView) -> Duration {
    let grace = victim.deletion_grace().or(victim.spec.termination_grace_period_seconds).unwrap_or(0);
    let grace = Duration::from_secs(grace.max(0).unsigned_abs());
    grace.saturating_add(grace / 2).max(MIN_PATIENCE)
}

/// Those of `others` that have to go so that `pod` finds what it lacks; none when that would not help either.
pub fn victims<'a>(pod: &PodView, others: &[&'a PodView], lacks: &[Lack]) -> Option<Vec<&'a PodView>> {
    let missing: Missing = lacks.iter().map(|l| (l.resource.clone(), l.missing())).collect();
    let of = |class: Qos| -> Vec<&'a PodView> {
        let goes = |o: &&&PodView| cgroups::qos(o) == class && gives_way(pod, o);
        others.iter().filter(goes).copied().collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let both = [&best_effort[..], &burstable[..]].concat();
    let guaranteed = fewest(guaranteed, without(&missing, &both))?;
    let both = [&best_effort[..], &guaranteed[..]].concat();
    let burstable = fewest(burstable, without(&missing, &both))?;
    let both = [&burstable[..], &guaranteed[..]].concat();
    let best_effort = fewest(best_effort, without(&missing, &both))?;
    Some([best_effort, burstable, guaranteed].concat())
}

/// Whether `other` may be ended for `pod`'s sake.
fn gives_way(pod: &PodView, other: &PodView) -> bool {
    let lower = pod.spec.priority.zip(other.spec.priority).is_some_and(|(ours, theirs)| ours > theirs);
    is_critical(pod) && !is_critical(other) || lower
}

fn request(pod: &PodView, resource: &str) -> i64 {
    if resource == "pods" { 1 } else { cgroups::requested(pod, resource) }
}

/// What is still missing when these pods are gone.
fn without(missing: &Missing, pods: &[&PodView]) -> Missing {
    let left = missing.iter().map(|(resource, amount)| {
        let given: i64 = pods.iter().map(|p| request(p, resource)).fold(0, i64::saturating_add);
        (resource.clone(), amount.saturating_sub(given))
    });
    left.filter(|(_, amount)| *amount > 0).collect()
}

/// Takes pods one by one, each time the one that leaves least missing, of equals the one that asks for less; none when all
/// of them are not enough.
fn fewest(mut pods: Vec<&PodView>, mut missing: Missing) -> Option<Vec<&PodView>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let best = (0..pods.len()).min_by(|&a, &b| {
            let (a, b) = (pods[a], pods[b]);
            distance(a, &missing).total_cmp(&distance(b, &missing)).then_with(|| smaller(a, b))
        })?;
        let pod = pods.swap_remove(best);
        missing = without(&missing, &[pod]);
        chosen.push(pod);
    }
    Some(chosen)
}

/// How far a pod alone is from being enough, each resource by the part of it that would still be missing.
fn distance(pod: &PodView, missing: &Missing) -> f64 {
    let part = |(resource, amount): &(String, i64)| {
        let left = amount.saturating_sub(request(pod, resource)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}

fn smaller(a: &PodView, b: &PodView) -> Ordering {
    let by = |resource: &str| request(a, resource).cmp(&request(b, resource));
    by("memory").then_with(|| by("cpu"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::pod;
    use serde_json::{Value, json};
    use test_case::test_case;

    const CRITICAL: i32 = 2_000_000_000;

    fn of(name: &str, priority: i32, resources: Value) -> PodView {
        let mut pod = pod(json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]}));
        pod.name = name.into();
        pod
    }

    fn burstable(name: &str, cpu: &str) -> PodView {
        of(name, 0, json!({"requests": {"cpu": cpu}}))
    }

    fn guaranteed(name: &str, cpu: &str) -> PodView {
        let all = json!({"cpu": cpu, "memory": "1Mi"});
        of(name, 0, json!({"requests": all, "limits": all}))
    }

    /// Who goes when so much of a resource is missing.
    fn goes(others: &[PodView], resource: &str, missing: i64) -> Option<String> {
        let lack = Lack { resource: resource.into(), requested: missing, used: 0, capacity: 0 };
        let others: Vec<&PodView> = others.iter().collect();
        let mut names: Vec<String> =
            victims(&of("new", CRITICAL, json!({})), &others, &[lack])?.into_iter().map(|p| p.name.clone()).collect();
        names.sort_unstable();
        Some(names.join(" "))
    }

    #[test_case(100 => Some("small".into()); "the one that is enough")]
    #[test_case(300 => Some("large".into()); "one rather than two")]
    #[test_case(500 => Some("large small".into()); "two where one is not enough")]
    #[test_case(600 => Some("large small".into()); "promises are kept as long as possible")]
    #[test_case(700 => Some("large promised".into()); "and no more is taken than need be")]
    #[test_case(1100 => None; "nobody goes for nothing")]
    fn for_want_of_cpu(missing: i64) -> Option<String> {
        goes(&[burstable("small", "200m"), burstable("large", "400m"), guaranteed("promised", "400m")], "cpu", missing)
    }

    #[test]
    fn a_place_is_given_up_by_who_was_promised_nothing() {
        let others = [burstable("asks", "1m"), of("nothing", 0, json!({})), guaranteed("promised", "1")];
        assert_eq!(goes(&others, "pods", 1).as_deref(), Some("nothing"));
    }

    #[test_case(json!({}) => 10; "none of its own")]
    #[test_case(json!({"terminationGracePeriodSeconds": 2}) => 10; "short")]
    #[test_case(json!({"terminationGracePeriodSeconds": 60}) => 90; "long")]
    fn waits_for_a_victim(spec: Value) -> u64 {
        patience(&pod(spec)).as_secs()
    }

    #[test]
    fn the_critical_stay_but_for_the_more_critical() {
        let equal = of("equal", CRITICAL, json!({"requests": {"cpu": "1"}}));
        assert_eq!(goes(std::slice::from_ref(&equal), "cpu", 100), None);
        let more = of("more", CRITICAL + 1000, json!({}));
        assert!(gives_way(&more, &equal) && !gives_way(&equal, &more));
        assert!(gives_way(&of("a", 7, json!({})), &of("b", 6, json!({}))));
        let mut unknown = equal.clone();
        unknown.spec.priority = None;
        assert!(!gives_way(&unknown, &equal));
    }
}
