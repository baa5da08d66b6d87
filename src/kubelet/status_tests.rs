//! Given pod and inventory, what is reported.

use super::*;
use crate::kubelet::testing::{BORN, inventory, pod, simple, staged};
use State::{Created, Exited, Running};
use std::sync::{Arc, LazyLock};
use test_case::test_case;

static NOTHING: LazyLock<Progress> = LazyLock::new(Progress::default);

type There<'a> = &'a [(&'a str, State, i32)];

fn with<'a>(
    pod: &'a PodView,
    there: &'a PodInventory,
    results: &'a Results,
    waits: &'a HashMap<String, Waiting>,
) -> Input<'a> {
    Input {
        pod,
        inventory: there,
        probes: results,
        waiting: waits,
        ended: false,
        failure: None,
        resize: &NOTHING,
        host_ips: &[],
        runtime_name: "fake",
        now: Timestamp::from_second(BORN + 60).unwrap(),
    }
}

fn of(pod: &PodView, there: There<'_>, ended: bool) -> Value {
    let there = inventory(pod, there);
    status(Input { ended, ..with(pod, &there, &Results::new(), &HashMap::new()) })
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status.items_at("/conditions").iter().find(|c| c.str_at("/type") == Some(kind)).unwrap()
}

#[test_case("Always", &[], false, "Pending"; "nothing yet")]
#[test_case("Always", &[("c", Created, 0)], false, "Pending"; "made")]
#[test_case("Always", &[("c", Running, 0)], false, "Running")]
#[test_case("Always", &[("c", Exited, 1)], false, "Running"; "about to restart")]
#[test_case("Always", &[("c", Exited, 0)], true, "Succeeded"; "deleted and stopped well")]
#[test_case("Always", &[("c", Exited, 143)], true, "Failed"; "deleted and killed")]
#[test_case("OnFailure", &[("c", Exited, 0)], false, "Succeeded")]
#[test_case("OnFailure", &[("c", Exited, 1)], false, "Running"; "on failure restarts")]
#[test_case("Never", &[("c", Exited, 0)], false, "Succeeded"; "never, well")]
#[test_case("Never", &[("c", Exited, 3)], false, "Failed"; "never, ill")]
fn phases(policy: &str, there: There<'_>, ended: bool, want: &str) {
    assert_eq!(of(&simple(policy), there, ended).str_at("/phase"), Some(want));
}

#[test_case("Always", &[("i", Running, 0)], "Pending"; "init runs")]
#[test_case("Always", &[("i", Exited, 1)], "Pending"; "init failed, again")]
#[test_case("Never", &[("i", Exited, 1)], "Failed"; "init failed for good")]
#[test_case("Always", &[("i", Exited, 0), ("s", Running, 0), ("j", Exited, 0)], "Pending"; "app to come")]
#[test_case("Always", &[("i", Exited, 0), ("s", Running, 0), ("j", Exited, 0), ("c", Running, 0)], "Running"; "all run")]
#[test_case("Never", &[("i", Exited, 0), ("s", Running, 0), ("j", Exited, 0), ("c", Exited, 0)], "Running"; "the sidecar is still stopping")]
#[test_case("Never", &[("i", Exited, 0), ("s", Exited, 143), ("j", Exited, 0), ("c", Exited, 0)], "Succeeded"; "how a sidecar ends does not matter")]
fn staged_phases(policy: &str, there: There<'_>, want: &str) {
    assert_eq!(of(&staged(policy), there, false).str_at("/phase"), Some(want));
}

#[test]
fn a_running_pod_is_reported_whole() {
    let p = simple("Always");
    let s = of(&p, &[("c", Exited, 1), ("c", Running, 0)], false);
    assert_eq!(
        s["containerStatuses"][0],
        json!({"name": "c", "state": {"running": {"startedAt": "1970-01-01T00:16:41Z"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": "1970-01-01T00:16:40Z",
                "finishedAt": "1970-01-01T00:16:40Z", "containerID": "fake://c0"}},
            "ready": true, "restartCount": 1, "image": "i", "imageID": "sha256:i", "containerID": "fake://c1",
            "started": true, "resources": {}})
    );
    assert_eq!((s.str_at("/podIP"), s.str_at("/qosClass")), (Some("10.0.0.1"), Some("BestEffort")));
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&s, kind).str_at("/status"), Some("True"), "{kind}");
    }
}

#[test]
fn what_waits_says_why() {
    let p = simple("Always");
    let there = inventory(&p, &[("c", Exited, 1)]);
    let wait = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() };
    let waits = HashMap::from([("c".to_owned(), wait)]);
    let s = status(with(&p, &there, &Results::new(), &waits));
    let c = &s["containerStatuses"][0];
    assert_eq!(c["state"], json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}));
    assert_eq!(c.int_at("/lastState/terminated/exitCode"), Some(1));
    assert_eq!(s.str_at("/phase"), Some("Running"));
    assert_eq!(condition(&s, "Ready").str_at("/message"), Some("containers with unready status: [c]"));
}

#[test]
fn before_the_inits_are_done_everything_initializes() {
    let s = of(&staged("Always"), &[("i", Running, 0)], false);
    assert_eq!(s.str_at("/containerStatuses/0/state/waiting/reason"), Some("PodInitializing"));
    let c = condition(&s, "Initialized");
    assert_eq!(c.str_at("/reason"), Some("ContainersNotInitialized"));
    assert_eq!(c.str_at("/message"), Some("containers with incomplete status: [i s j]"));
    let plain = of(&simple("Always"), &[], false);
    assert_eq!(plain.str_at("/containerStatuses/0/state/waiting/reason"), Some("ContainerCreating"));
}

#[test]
fn a_completed_pod_is_not_ready() {
    let s = of(&simple("Never"), &[("c", Exited, 0)], true);
    for kind in ["Ready", "ContainersReady"] {
        let c = condition(&s, kind);
        assert_eq!((c.str_at("/status"), c.str_at("/reason")), (Some("False"), Some("PodCompleted")), "{kind}");
    }
    assert_eq!(condition(&s, "Initialized").str_at("/status"), Some("True"));
}

#[test_case(json!({"readinessProbe": {}}), &[], false, true; "not asked yet")]
#[test_case(json!({"readinessProbe": {}}), &[(ProbeKind::Readiness, Outcome::Success)], true, true; "ready")]
#[test_case(json!({"readinessProbe": {}}), &[(ProbeKind::Readiness, Outcome::Failure)], false, true; "not ready")]
#[test_case(json!({"startupProbe": {}}), &[], false, false; "not started")]
#[test_case(json!({"startupProbe": {}}), &[(ProbeKind::Startup, Outcome::Success)], true, true; "started")]
#[test_case(json!({"livenessProbe": {}}), &[(ProbeKind::Liveness, Outcome::Failure)], true, true; "liveness says nothing of readiness")]
fn readiness(mut probes: Value, known: &[(ProbeKind, Outcome)], ready: bool, started: bool) {
    probes["name"] = "c".into();
    let p = pod(json!({ "containers": [probes] }));
    let there = inventory(&p, &[("c", Running, 0)]);
    let results: Results = known.iter().map(|(k, o)| (("c0".to_owned(), *k), *o)).collect();
    let s = status(with(&p, &there, &results, &HashMap::new()));
    let c = &s["containerStatuses"][0];
    assert_eq!((c.bool_at("/ready"), c.bool_at("/started")), (Some(ready), Some(started)));
    assert_eq!(condition(&s, "Ready").str_at("/status"), Some(if ready { "True" } else { "False" }));
}

#[test]
fn readiness_gates_hold_the_pod_back() {
    let mut p = pod(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "c"}]}));
    let there = inventory(&p, &[("c", Running, 0)]);
    let s = status(with(&p, &there, &Results::new(), &HashMap::new()));
    assert_eq!(condition(&s, "Ready").str_at("/reason"), Some("ReadinessGatesNotReady"));
    assert_eq!(condition(&s, "ContainersReady").str_at("/status"), Some("True"));
    p.status = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    let s = status(with(&p, &there, &Results::new(), &HashMap::new()));
    assert_eq!(condition(&s, "Ready").str_at("/status"), Some("True"));
}

#[test]
fn a_pod_that_ran_too_long_failed() {
    let p = simple("Always");
    let there = inventory(&p, &[("c", Exited, 143)]);
    let s = status(Input {
        failure: Some(&failure("DeadlineExceeded", FailureKind::Stopped)),
        ..with(&p, &there, &Results::new(), &HashMap::new())
    });
    assert_eq!((s.str_at("/phase"), s.str_at("/reason")), (Some("Failed"), Some("DeadlineExceeded")));
}

fn failure(reason: &str, kind: FailureKind) -> Failure {
    Failure { reason: reason.into(), message: "why".into(), kind }
}

/// While a pod has not what it asks for its conditions say so; what they said is taken back.
#[test]
fn a_resize_is_told_of_while_it_lasts() {
    let asking =
        |cpu: &str| pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}));
    let (old, mut new) = (asking("1"), asking("2"));
    let there = inventory(&new, &[("c", Running, 0)]);
    let mut resize = Progress::default();
    resize.set("c0", old.members[0].spec.resources.clone());
    resize.error = Some("no".into());
    resize.pending = Some(Arc::new(resize::Pending { reason: "Deferred", message: "full".into() }));
    let (results, waits) = (Results::new(), HashMap::new());
    let s = status(Input { resize: &resize, ..with(&new, &there, &results, &waits) });
    let said = |kind: &str| {
        let c = condition(&s, kind);
        [c.str_at("/status"), c.str_at("/reason"), c.str_at("/message")].map(Option::unwrap_or_default).join(" ")
    };
    assert_eq!(said(resize::PENDING), "True Deferred full");
    assert_eq!(said(resize::IN_PROGRESS), "True Error no");
    let c = &s.items_at("/containerStatuses")[0];
    assert_eq!((c.str_at("/allocatedResources/cpu"), c.str_at("/resources/requests/cpu")), (Some("2"), Some("1")));

    new.status = s;
    let mut resize = Progress::default();
    resize.look(&asking("2"), &there);
    let s = status(Input { resize: &resize, ..with(&new, &there, &results, &waits) });
    let patched = patch(&new, &new.status, &s).unwrap();
    let gone: Vec<&str> = patched
        .items_at("/status/conditions")
        .iter()
        .filter(|c| c.get("$patch").is_some())
        .filter_map(|c| c.str_at("/type"))
        .collect();
    assert_eq!(gone, [resize::PENDING, resize::IN_PROGRESS]);
}

#[test]
fn an_evicted_pod_is_told_from_one_that_failed_by_itself() {
    let p = simple("Always");
    let (none, evicted) = (HashMap::new(), failure("Evicted", FailureKind::Disruption { grace_seconds: 0 }));
    let running = inventory(&p, &[("c", Running, 0)]);
    let s = status(Input { failure: Some(&evicted), ..with(&p, &running, &Results::new(), &none) });
    assert_eq!((s.str_at("/phase"), s.str_at("/reason")), (Some("Running"), None), "not before it has stopped");
    let there = inventory(&p, &[("c", Exited, 137)]);
    let s = status(Input { failure: Some(&evicted), ..with(&p, &there, &Results::new(), &none) });
    assert_eq!(
        (s.str_at("/phase"), s.str_at("/reason"), s.str_at("/message")),
        (Some("Failed"), Some("Evicted"), Some("why"))
    );
    let c = condition(&s, "DisruptionTarget");
    assert_eq!((c.str_at("/status"), c.str_at("/reason")), (Some("True"), Some("TerminationByKubelet")));
    let preempted = failure("Preempting", FailureKind::Preempted);
    let s = status(Input { failure: Some(&preempted), ..with(&p, &there, &Results::new(), &none) });
    assert_eq!((s.str_at("/phase"), s.str_at("/reason")), (Some("Failed"), Some("Preempting")));
    let c = condition(&s, "DisruptionTarget");
    assert_eq!(c.str_at("/message"), Some("Pod was preempted by Kubelet to accommodate a critical pod."));
}

#[test]
fn a_rejected_pod_has_no_containers() {
    let p = simple("Always");
    let (none, there) = (HashMap::new(), PodInventory::default());
    let rejected = failure("NodeAffinity", FailureKind::Rejected);
    let s = status(Input { failure: Some(&rejected), ..with(&p, &there, &Results::new(), &none) });
    assert_eq!((s.str_at("/phase"), s.str_at("/reason")), (Some("Failed"), Some("NodeAffinity")));
    assert!(s.get("containerStatuses").is_none() && s.get("podIP").is_none(), "{s}");
}

#[test]
fn times_of_conditions_move_only_with_their_status() {
    let mut p = simple("Always");
    p.status = json!({"startTime": "1970-01-01T00:00:01Z", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:02Z"},
        {"type": "PodScheduled", "status": "False", "lastTransitionTime": "1970-01-01T00:00:02Z"}]});
    let s = of(&p, &[("c", Running, 0)], false);
    assert_eq!(condition(&s, "Ready").str_at("/lastTransitionTime"), Some("1970-01-01T00:00:02Z"));
    assert_eq!(condition(&s, "PodScheduled").str_at("/lastTransitionTime"), Some("1970-01-01T00:17:40Z"));
    assert_eq!(s.str_at("/startTime"), Some("1970-01-01T00:00:01Z"));
}

#[test]
fn only_what_changed_is_sent() {
    let p = simple("Always");
    let new = of(&p, &[("c", Running, 0)], false);
    let mut old = new.clone();
    assert_eq!(patch(&p, &old, &new), None);
    old["conditions"].as_array_mut().unwrap().push(json!({"type": "x/y", "status": "True"}));
    old["containerStatuses"][0]["lastState"] = Value::Null;
    assert_eq!(patch(&p, &old, &new), None, "nulls, empty objects and conditions of others are no change");
    old["conditions"][2]["status"] = "False".into();
    old["conditions"][2]["reason"] = "ContainersNotReady".into();
    old["podIPs"] = json!([{"ip": "10.9.9.9"}]);
    old["reason"] = "Evicted".into();
    let sent = patch(&p, &old, &new).unwrap();
    assert_eq!(sent.pointer("/metadata"), Some(&json!({"uid": "u"})));
    assert_eq!(sent["status"]["podIPs"], json!([{"ip": "10.0.0.1"}, {"$patch": "replace"}]));
    assert_eq!(sent["status"]["conditions"].as_array().unwrap().len(), 1);
    assert_eq!(sent["status"]["conditions"][0]["reason"], Value::Null, "what no longer holds is taken back");
    assert_eq!(sent["status"].get("reason"), Some(&Value::Null));
    assert_eq!(sent["status"].as_object().unwrap().len(), 3);
}

#[test_case("Always", &[("c", Exited, 0)], false)]
#[test_case("OnFailure", &[("c", Exited, 0)], true)]
#[test_case("OnFailure", &[("c", Exited, 1)], false)]
#[test_case("Never", &[("c", Exited, 1)], true)]
#[test_case("Never", &[], false; "not even begun")]
fn done(policy: &str, there: There<'_>, want: bool) {
    let p = simple(policy);
    assert_eq!(is_done(&p, &inventory(&p, there)), want);
}

const GONE: &[(&str, State, i32)] = &[];
const RAN: &str = r#"{"running": {"startedAt": "1970-01-01T00:16:40Z"}}"#;
const ENDED: &str = r#"{"terminated": {"exitCode": 3, "reason": "Error"}}"#;

#[test_case("Always", "Running", RAN, "waiting", Some(137), 3, "Running"; "one that ran is started again")]
#[test_case("Always", "Running", ENDED, "waiting", Some(3), 2, "Running"; "one that had ended, too")]
#[test_case("Always", "Running", r#"{"waiting": {"reason": "CrashLoopBackOff"}}"#, "waiting", Some(1), 2, "Running"; "one that waited goes on waiting")]
#[test_case("Never", "Failed", ENDED, "terminated", Some(1), 2, "Failed"; "an end stays told")]
#[test_case("Never", "Succeeded", ENDED, "terminated", Some(1), 2, "Succeeded"; "and a phase never goes back")]
fn what_the_runtime_lost_is_remembered(
    policy: &str,
    phase: &str,
    old: &str,
    state: &str,
    last: Option<i64>,
    restarts: i64,
    want: &str,
) {
    let mut p = simple(policy);
    let old: Value = serde_json::from_str(old).unwrap();
    p.status = json!({"phase": phase, "containerStatuses": [{"name": "c", "state": old, "restartCount": 2,
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    let s = of(&p, GONE, false);
    let c = &s["containerStatuses"][0];
    assert!(c["state"].get(state).is_some(), "{c}");
    assert_eq!((c.int_at("/lastState/terminated/exitCode"), c.int_at("/restartCount")), (last, Some(restarts)));
    assert_eq!(s.str_at("/phase"), Some(want));
    assert_eq!(i64::from(past::restarts(&p, "c")), restarts);
}
