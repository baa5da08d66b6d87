//! What has to happen so that the pods are what a ReplicaSet (or ReplicationController) asks for. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/replicaset` and `controller_utils.go` (`ActivePodsWithRanks`).

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::batch::BURST;
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::pods::PodView;
use crate::util::clock::rfc3339;
use crate::util::order::Arrange;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// Number of pods.
    pub replicas: i64,
    /// Seconds a pod has to be ready to count as available.
    pub min_ready: i64,
    /// The owner is being deleted: nothing is created or deleted any more.
    pub deleting: bool,
    /// Generation this was read from.
    pub generation: i64,
}

impl Wanted {
    /// From the owner's body.
    pub fn new(owner: &Object, value: &Value) -> Self {
        Self {
            replicas: value.int_at("/spec/replicas").unwrap_or(1),
            min_ready: value.int_at("/spec/minReadySeconds").unwrap_or(0),
            deleting: owner.is_deleting(),
            generation: owner.meta.generation,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// So many new pods.
    pub create: usize,
    /// These pods, by name, the first ones first.
    pub delete: Vec<String>,
}

/// Compares what is there with what is wanted; at most [`BURST`] pods change at once.
pub fn plan(wanted: &Wanted, pods: &[PodView], now: Timestamp) -> Plan {
    if wanted.deleting {
        return Plan::default();
    }
    let mut active: Vec<&PodView> = pods.iter().filter(|p| p.is_active()).collect();
    let replicas = usize::try_from(wanted.replicas).unwrap_or(0);
    if active.len() <= replicas {
        return Plan { create: (replicas - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - replicas).min(BURST);
    // Of pods that became ready at the same moment, the least uid stands for all.
    let mut peers: HashMap<Timestamp, &str> = HashMap::new();
    for pod in &active {
        let Some(since) = pod.ready_since else { continue };
        let least = peers.entry(since).or_insert(&pod.uid);
        *least = (*least).min(&pod.uid);
    }
    let peer = |p: &PodView| p.ready_since.and_then(|t| peers.get(&t).copied()).unwrap_or_default();
    active.arrange_by(|a, b| order((a, peer(a)), (b, peer(b)), now));
    Plan { create: 0, delete: active[..surplus].iter().map(|p| p.name.clone()).collect() }
}

/// Who goes first: unassigned, then pending, then not ready, then cheap, then crowded, then young, then failing ones.
pub fn deletion_order(a: &PodView, b: &PodView, now: Timestamp) -> Ordering {
    order((a, ""), (b, ""), now)
}

/// The order of pods, each with who stands for those that became ready when it did. Ages are compared by their order of
/// magnitude, so that the choice among old pods is as good as random: upstream lets the uids decide there, and has restarts
/// count only where two became ready at the same moment. By the uids of the pods themselves that order could go in circles.
fn order((a, peer_of_a): (&PodView, &str), (b, peer_of_b): (&PodView, &str), now: Timestamp) -> Ordering {
    let assigned = |p: &PodView| !p.node.is_empty();
    let both_ready = a.is_ready() && b.is_ready();
    let ready_age = match both_ready {
        true => by_age(a.ready_since, b.ready_since, now).then(peer_of_a.cmp(peer_of_b)),
        false => Ordering::Equal,
    };
    (assigned(a).cmp(&assigned(b)))
        .then(a.phase.cmp(&b.phase))
        .then(a.is_ready().cmp(&b.is_ready()))
        .then(a.cost.cmp(&b.cost))
        .then(Reverse(a.crowd).cmp(&Reverse(b.crowd)))
        .then(ready_age)
        .then(Reverse(a.restarts).cmp(&Reverse(b.restarts)))
        .then(Reverse(a.sidecar_restarts).cmp(&Reverse(b.sidecar_restarts)))
        .then(by_age(a.created, b.created, now))
        .then(a.uid.cmp(&b.uid))
}

fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |t: Option<Timestamp>| {
        let age = t.map_or(0, |t| now.as_nanosecond() - t.as_nanosecond());
        u128::try_from(age).ok().filter(|n| *n > 0).map_or(-1, |n| i64::from(n.ilog2()))
    };
    if a == b { Ordering::Equal } else { magnitude(a).cmp(&magnitude(b)) }
}

/// What went wrong while acting on the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A pod could not be created.
    Create(String),
    /// A pod could not be deleted.
    Delete(String),
}

/// Counts that need more of the pods than plans see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// Active pods with all of the template's labels.
    pub labelled: usize,
    /// Pods that match and are going; none for a kind that does not tell of them.
    pub terminating: Option<usize>,
}

/// The status to report, in place of `old`.
pub fn status(
    old: Option<&Value>,
    wanted: &Wanted,
    pods: &[PodView],
    beside: &Beside,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Value {
    let active = || pods.iter().filter(|p| p.is_active());
    let mut conditions = old.map(|s| s.items_at("/conditions").to_vec()).unwrap_or_default();
    match failure {
        // The first failure is kept; its repetitions say nothing new.
        Some(failure) if conditions::get(&conditions, "ReplicaFailure").is_none() => {
            let (reason, message) = match failure {
                Failure::Create(m) => ("FailedCreate", m),
                Failure::Delete(m) => ("FailedDelete", m),
            };
            let condition = Condition::new("ReplicaFailure", "True", reason, message);
            conditions::set(&mut conditions, &condition, &rfc3339(now));
        }
        Some(_) => {}
        None => conditions::remove(&mut conditions, "ReplicaFailure"),
    }
    let mut status = json!({"replicas": active().count()});
    for (key, count) in [
        ("fullyLabeledReplicas", beside.labelled),
        ("readyReplicas", active().filter(|p| p.is_ready()).count()),
        ("availableReplicas", active().filter(|p| p.is_available(wanted.min_ready, now)).count()),
    ] {
        if count > 0 {
            status[key] = count.into();
        }
    }
    // Zero is told: nothing said would mean that it is not known.
    if let Some(going) = beside.terminating {
        status["terminatingReplicas"] = going.into();
    }
    if wanted.generation > 0 {
        status["observedGeneration"] = wanted.generation.into();
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    status
}

/// Seconds until the next ready pod becomes available.
pub fn next_available(wanted: &Wanted, pods: &[PodView], now: Timestamp) -> Option<i64> {
    let waiting = pods.iter().filter(|p| p.is_active() && !p.is_available(wanted.min_ready, now));
    waiting.filter_map(|p| p.ready_since).map(|t| t.as_second() + wanted.min_ready - now.as_second()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::common::pods::Phase;
    use test_case::test_case;

    const T0: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// A pod that runs on a node and has been ready for a day.
    fn ready(name: &str) -> PodView {
        PodView {
            name: name.into(),
            uid: name.into(),
            phase: Phase::Running,
            ready_since: Some(at(T0 - 86_400)),
            created: Some(at(T0 - 86_400)),
            node: "n".into(),
            ..PodView::default()
        }
    }

    fn but(name: &str, change: impl FnOnce(&mut PodView)) -> PodView {
        let mut pod = ready(name);
        change(&mut pod);
        pod
    }

    fn rs(replicas: i64) -> Wanted {
        Wanted { replicas, ..Wanted::default() }
    }

    fn create(n: usize) -> Plan {
        Plan { create: n, delete: Vec::new() }
    }

    fn delete(names: &[&str]) -> Plan {
        Plan { create: 0, delete: names.iter().map(|n| (*n).to_owned()).collect() }
    }

    #[test_case(rs(3), &[], create(3); "from nothing")]
    #[test_case(rs(2000), &[], create(500); "not more than a burst")]
    #[test_case(rs(1), &[ready("a")], create(0); "as it should be")]
    #[test_case(rs(1), &[but("a", |p| p.phase = Phase::Failed)], create(1); "ended ones are replaced")]
    #[test_case(rs(1), &[but("a", |p| p.deleting = true)], create(1); "and those that are going")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.phase = Phase::Pending)], delete(&["b"]); "the pending one goes first")]
    #[test_case(rs(1), &[but("a", |p| p.node.clear()), but("b", |p| p.phase = Phase::Pending)], delete(&["a"]); "but the unassigned before it")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.ready_since = None)], delete(&["b"]); "then one that is not ready")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.cost = -1)], delete(&["b"]); "then the cheaper one")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.crowd = 2)], delete(&["b"]); "then one in a crowd")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.ready_since = Some(at(T0 - 60)))], delete(&["b"]); "then the younger one")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.restarts = 3)], delete(&["b"]); "then one that restarts")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| p.sidecar_restarts = 1)], delete(&["b"]); "or has a sidecar that does")]
    #[test_case(rs(1), &[ready("a"), but("b", |p| (p.ready_since, p.restarts) = (Some(at(T0 - 86_000)), 3))], delete(&["a"]);
        "about as old, and chance decides before restarts")]
    #[test_case(rs(2), &[but("a", |p| p.restarts = 1), but("b", |p| p.ready_since = Some(at(T0 - 86_000))), but("c", |p| p.restarts = 2)],
        delete(&["c"]); "restarts decide among those of the same moment")]
    #[test_case(Wanted { deleting: true, ..rs(2) }, &[ready("a")], create(0); "a dying owner creates nothing")]
    fn plans(wanted: Wanted, pods: &[PodView], want: Plan) {
        assert_eq!(plan(&wanted, pods, at(T0)), want);
    }

    #[test]
    fn a_status_counts_and_leaves_zeroes_out() {
        let wanted = Wanted { replicas: 3, min_ready: 60, generation: 4, ..Wanted::default() };
        let pods = [ready("a"), but("b", |p| p.ready_since = Some(at(T0 - 10))), but("c", |p| p.deleting = true)];
        let got = status(None, &wanted, &pods, &Beside { labelled: 2, terminating: Some(0) }, None, at(T0));
        let want = json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1,
            "terminatingReplicas": 0, "observedGeneration": 4});
        assert_eq!(got, want);
        assert_eq!(status(None, &rs(0), &[], &Beside::default(), None, at(T0)), json!({"replicas": 0}));
        assert_eq!(next_available(&wanted, &pods, at(T0)), Some(50));
    }

    #[test]
    fn the_first_failure_stays_until_a_success() {
        let fail = |m: &str| Failure::Create(m.into());
        let none = &Beside::default();
        let first = status(None, &rs(1), &[], none, Some(&fail("quota")), at(T0));
        let again = status(Some(&first), &rs(1), &[], none, Some(&fail("other")), at(T0 + 1));
        assert_eq!(first, again);
        assert_eq!(first.str_at("/conditions/0/message"), Some("quota"));
        assert!(status(Some(&again), &rs(1), &[], none, None, at(T0)).get("conditions").is_none());
    }
}
