//! Tables for the plan, and a rollout played to its end.

use super::super::status::{Made, deadline_in, status};
use super::*;
use crate::api::value::ValueExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use test_case::test_case;

fn deploy(replicas: i64) -> Deploy {
    Deploy {
        name: "web".into(),
        generation: 1,
        replicas,
        max_surge: 1,
        max_unavailable: 0,
        deadline: Some(600),
        history: Some(10),
        template: json!({"v": 2}),
        status: json!({}),
        annotations: Map::from_iter([(REVISION.to_owned(), json!("2"))]),
        ..Deploy::default()
    }
}

/// A ReplicaSet of a template version that has all its pods available.
fn set(version: i64, size: i64) -> Set {
    let annotations = [(REVISION, version), (DESIRED, 3), (MAX, 4)];
    Set {
        name: format!("v{version}"),
        created: format!("2026-01-0{version}T00:00:00Z"),
        desired: size,
        replicas: size,
        ready: size,
        available: size,
        template: json!({"v": version}),
        annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), json!(v.to_string()))).collect(),
        ..Set::default()
    }
}

fn sick(version: i64, size: i64, available: i64) -> Set {
    Set { available, ready: available, ..set(version, size) }
}

fn scaled(set: &str, from: i64, to: i64) -> Action {
    Action::Scale { set: set.into(), from, to }
}

#[test_case(&[], &[Action::Create { replicas: 3, revision: 1 }]; "the first one")]
#[test_case(&[set(1, 3)], &[Action::Create { replicas: 1, revision: 2 }]; "the new one starts within the surge")]
#[test_case(&[set(1, 3), sick(2, 1, 0)], &[]; "nothing goes before the new one is available")]
#[test_case(&[set(1, 3), set(2, 1)], &[scaled("v1", 3, 2)]; "then an old one goes")]
#[test_case(&[set(1, 2), set(2, 1)], &[scaled("v2", 1, 2)]; "and another new one comes")]
#[test_case(&[sick(1, 3, 1), set(2, 1)], &[scaled("v1", 3, 2)]; "an old one that is no use makes place")]
#[test_case(&[sick(1, 3, 1), sick(2, 1, 0)], &[]; "but not below the minimum")]
#[test_case(&[set(1, 0), set(2, 3)], &[]; "done")]
fn rolls(sets: &[Set], want: &[Action]) {
    assert_eq!(plan(&deploy(3), sets), want);
}

#[test]
fn unhealthy_old_pods_go_first() {
    let d = Deploy { max_unavailable: 1, ..deploy(3) };
    // Two old sets; the younger one is broken and holds the place that new pods need.
    let older = Set { name: "v0".into(), created: "2026-01-00".into(), ..set(1, 2) };
    let sets = [older, sick(1, 1, 0), set(2, 1)];
    assert_eq!(plan(&d, &sets), [scaled("v0", 2, 1), scaled("v1", 1, 0)]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let d = Deploy { recreate: true, max_surge: 0, ..deploy(3) };
    assert_eq!(plan(&d, &[set(1, 3)]), [scaled("v1", 3, 0)]);
    let dying = Set { running_pods: 1, ..set(1, 0) };
    assert_eq!(plan(&d, &[dying]), []);
    assert_eq!(plan(&d, &[set(1, 0)]), [Action::Create { replicas: 3, revision: 2 }]);
}

#[test]
fn a_paused_one_scales_but_does_not_roll() {
    let d = Deploy { paused: true, ..deploy(5) };
    assert_eq!(plan(&d, &[set(1, 3)]), [scaled("v1", 3, 5)]);
    assert_eq!(plan(&Deploy { paused: true, ..deploy(3) }, &[set(1, 3)]), []);
}

#[test]
fn a_resize_in_mid_rollout_is_spread() {
    // 10 wanted, 13 with surge: 8 old and 5 new. Now 20 wanted, 23 with surge.
    let with = |mut s: Set| {
        s.annotations.insert(DESIRED.into(), json!("10"));
        s.annotations.insert(MAX.into(), json!("13"));
        s
    };
    let d = Deploy { max_surge: 3, ..deploy(20) };
    let sets = [with(set(1, 8)), with(set(2, 5))];
    assert_eq!(plan(&d, &sets), [scaled("v1", 8, 14), scaled("v2", 5, 9)]);
}

#[test]
fn a_rollback_raises_the_revision_and_keeps_its_history() {
    let d = Deploy { template: json!({"v": 1}), ..deploy(3) };
    let actions = plan(&d, &[set(1, 0), set(2, 3)]);
    let annotations = vec![(REVISION.to_owned(), "3".to_owned()), (REVISION_HISTORY.to_owned(), "1".to_owned())];
    assert_eq!(actions[0], Action::Annotate { set: "v1".into(), annotations });
    assert_eq!(actions[1], Action::Revise(3));
    assert_eq!(actions[2], scaled("v1", 0, 1));
}

#[test]
fn history_beyond_the_limit_goes_oldest_first() {
    let d = Deploy { history: Some(1), template: json!({"v": 4}), annotations: Map::new(), ..deploy(3) };
    let actions = plan(&d, &[set(1, 0), set(2, 0), set(3, 0), set(4, 3)]);
    assert_eq!(actions[1..], [Action::Delete { set: "v1".into() }, Action::Delete { set: "v2".into() }]);
}

#[test]
fn a_dying_one_does_nothing() {
    assert_eq!(plan(&Deploy { deleting: true, ..deploy(3) }, &[]), []);
}

/// Applies plans to a world where pods become available one step later, and checks the bounds after each.
#[test_case(3, 1, 0)]
#[test_case(10, 3, 2)]
#[test_case(4, 0, 1)]
#[test_case(1, 1, 0)]
fn a_rollout_ends_and_keeps_its_promise(replicas: i64, max_surge: i64, max_unavailable: i64) {
    let d = Deploy { max_surge, max_unavailable, ..deploy(replicas) };
    let mut sets = vec![set(1, replicas)];
    for s in &mut sets {
        s.annotations.insert(DESIRED.into(), json!(replicas.to_string()));
    }
    for _ in 0..100 {
        for action in plan(&d, &sets) {
            match action {
                Action::Create { replicas: n, revision } => {
                    let mut made = Set { replicas: 0, ready: 0, available: 0, ..set(2, n) };
                    made.annotations.insert(DESIRED.into(), json!(replicas.to_string()));
                    assert_eq!(revision, 2);
                    sets.push(made);
                }
                Action::Scale { set, to, .. } => {
                    let s = sets.iter_mut().find(|s| s.name == set).unwrap();
                    s.desired = to;
                    s.replicas = s.replicas.min(to);
                    s.available = s.available.min(to);
                }
                Action::Annotate { .. } | Action::Delete { .. } | Action::Revise(_) => {}
            }
        }
        let total: i64 = sets.iter().map(|s| s.desired).sum();
        let available: i64 = sets.iter().map(|s| s.available).sum();
        assert!(total <= d.max_pods(), "{sets:?}");
        assert!(available >= d.min_available(), "{sets:?}");
        for s in &mut sets {
            s.replicas = s.desired;
            s.available = s.desired;
        }
    }
    assert!(is_complete(&d, &sets, current(&d, &sets)), "{sets:?}");
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn progressing(status: &Value) -> (&str, &str) {
    let c = status.items_at("/conditions").iter().find(|c| c["type"] == "Progressing").unwrap();
    (c.str_at("/status").unwrap(), c.str_at("/reason").unwrap())
}

#[test]
fn progress_is_told_from_start_to_deadline() {
    let mut d = deploy(3);
    d.status = status(&d, &[], None, &Made::Created("v2".into()), at(0));
    assert_eq!(progressing(&d.status), ("True", "NewReplicaSetCreated"));
    let sets = [sick(2, 3, 1)];
    d.status = status(&d, &sets, Some(0), &Made::Nothing, at(10));
    assert_eq!(progressing(&d.status), ("True", "ReplicaSetUpdated"));
    assert_eq!(d.status["unavailableReplicas"], 2);
    assert_eq!(deadline_in(&d, at(11)), Some(599));
    assert_eq!(status(&d, &sets, Some(0), &Made::Nothing, at(11)), d.status, "nothing new, nothing to write");
    d.status = status(&d, &sets, Some(0), &Made::Nothing, at(700));
    assert_eq!(progressing(&d.status), ("False", "ProgressDeadlineExceeded"));
    d.status = status(&d, &[set(2, 3)], Some(0), &Made::Nothing, at(800));
    assert_eq!(progressing(&d.status), ("True", "NewReplicaSetAvailable"));
    assert_eq!(deadline_in(&d, at(900)), None);
}

#[test]
fn pausing_and_resuming_is_told() {
    let mut d = Deploy { paused: true, ..deploy(3) };
    d.status = status(&d, &[set(1, 3)], None, &Made::Nothing, at(0));
    assert_eq!(progressing(&d.status), ("Unknown", "DeploymentPaused"));
    d.paused = false;
    let resumed = status(&d, &[set(1, 3)], None, &Made::Nothing, at(1));
    assert_eq!(progressing(&resumed), ("Unknown", "DeploymentResumed"));
}

/// Generation seen and pods on their way out, of each ReplicaSet.
#[test_case(&[(1, Some(2)), (1, Some(0))], Some(2); "the sum")]
#[test_case(&[(1, Some(0))], Some(0); "zero is told")]
#[test_case(&[], Some(0); "without any")]
#[test_case(&[(1, Some(2)), (0, None)], Some(2); "one that was never looked at")]
#[test_case(&[(1, Some(2)), (1, None)], None; "one that does not tell")]
fn pods_on_their_way_out(told: &[(i64, Option<i64>)], want: Option<i64>) {
    let told = told.iter().map(|(observed, going)| Set { observed: *observed, terminating: *going, ..set(1, 1) });
    let status = status(&deploy(1), &told.collect::<Vec<_>>(), None, &Made::Nothing, at(0));
    assert_eq!(status.int_at("/terminatingReplicas"), want);
}

#[test]
fn a_failure_of_pods_stands_since_its_replica_set_told_of_it() {
    let failure = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota",
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let sets = [Set { failure: Some(failure), ..sick(2, 3, 0) }];
    let got = status(&deploy(3), &sets, Some(0), &Made::Nothing, at(0));
    let told = got.items_at("/conditions").iter().find(|c| c["type"] == "ReplicaFailure").unwrap();
    assert_eq!(told["lastTransitionTime"], "2026-01-02T03:04:05Z");
    assert_eq!(told["lastUpdateTime"], "2026-01-02T03:04:05Z");
}

#[test]
fn only_a_rollout_is_judged() {
    let mut d = deploy(3);
    d.status = status(&d, &[sick(2, 3, 1)], Some(0), &Made::Nothing, at(0));
    let before = d.status["conditions"].clone();
    let failing = [Set { failure: Some(json!({"reason": "FailedCreate"})), ..sick(2, 3, 2) }];
    for (d, made) in [(d.clone(), Made::Resized), (Deploy { deleting: true, ..d.clone() }, Made::Nothing)] {
        let got = status(&d, &failing, Some(0), &made, at(5000));
        assert_eq!((&got["conditions"], &got["readyReplicas"]), (&before, &json!(2)));
    }
    assert_ne!(status(&d, &failing, Some(0), &Made::Nothing, at(5000))["conditions"], before);
}
