//! Given what there is, what has to happen.

use super::*;
use crate::kubelet::testing::{BORN, inventory, pod, simple, staged};
use State::{Created, Exited, Running, Unknown};
use serde_json::json;
use test_case::test_case;

type There<'a> = &'a [(&'a str, State, i32)];

/// The plan in few words: `new0` a sandbox of attempt 0, `kill-pod`, `-c` a kill, `+c` a start, `~c` a wait.
fn words(plan: &Plan) -> String {
    let mut out = Vec::new();
    if plan.kill_pod {
        out.push("kill-pod".to_owned());
    }
    out.extend(plan.create_sandbox.map(|n| format!("new{n}")));
    out.extend(plan.kill.iter().map(|k| format!("-{}", k.name)));
    out.extend(plan.start.iter().map(|s| format!("+{s}")));
    out.extend(plan.wait.iter().map(|w| format!("~{}", w.name)));
    out.join(" ")
}

fn plan_at(pod: &PodView, inventory: &PodInventory, probes: &Results, delays: &Delays, second: i64) -> Plan {
    let now = Timestamp::from_second(second).unwrap();
    plan(Seen { pod, inventory, probes, delays, resize: &Progress::default(), now })
}

fn planned(pod: &PodView, there: There<'_>) -> String {
    words(&plan_at(pod, &inventory(pod, there), &Results::new(), &Delays::default(), BORN + 100))
}

#[test_case("Always", &[], "+c"; "nothing yet")]
#[test_case("Always", &[("c", Running, 0)], ""; "all is well")]
#[test_case("Always", &[("c", Exited, 0)], "+c"; "always, succeeded")]
#[test_case("Always", &[("c", Exited, 1)], "+c"; "always, failed")]
#[test_case("OnFailure", &[("c", Exited, 1)], "+c"; "on failure, failed")]
#[test_case("OnFailure", &[("c", Exited, 0)], "kill-pod"; "on failure, succeeded")]
#[test_case("Never", &[("c", Exited, 1)], "kill-pod"; "never, failed")]
#[test_case("Never", &[], "+c"; "never, but not once yet")]
#[test_case("Always", &[("c", Created, 0)], "+c"; "made and not started")]
#[test_case("Always", &[("c", Unknown, 0)], "-c +c"; "lost")]
fn app(policy: &str, there: There<'_>, want: &str) {
    assert_eq!(planned(&simple(policy), there), want);
}

/// Another amount of memory ends the container only where its policy says so; a status of one that is gone says nothing.
#[test_case("RestartContainer", "-c +c")]
#[test_case("NotRequired", "")]
fn resized(policy: &str, want: &str) {
    let asking = |memory: &str| {
        pod(
            json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": memory}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}]}]}),
        )
    };
    let (old, new) = (asking("64Mi"), asking("32Mi"));
    let there = inventory(&old, &[("c", Running, 0)]);
    let mut resize = Progress::default();
    resize.set("c0", old.members[0].spec.resources.clone());
    let now = Timestamp::from_second(BORN + 100).unwrap();
    let (probes, delays) = (Results::new(), Delays::default());
    let plan = plan(Seen { pod: &new, inventory: &there, probes: &probes, delays: &delays, resize: &resize, now });
    assert_eq!((words(&plan).as_str(), plan.kill.iter().all(|k| k.why == Why::Resized)), (want, true));
}

#[test_case("Always", &[], "+i"; "first init")]
#[test_case("Always", &[("i", Running, 0)], ""; "init runs")]
#[test_case("Always", &[("i", Exited, 0)], "+s"; "then the sidecar")]
#[test_case("Always", &[("i", Exited, 1)], "+i"; "a failed init is repeated")]
#[test_case("Never", &[("i", Exited, 1)], "kill-pod"; "unless never")]
#[test_case("Always", &[("i", Exited, 0), ("s", Running, 0)], "+j"; "a started sidecar lets the next one go")]
#[test_case("Always", &[("i", Exited, 0), ("s", Running, 0), ("j", Running, 0)], ""; "last init runs")]
#[test_case("Always", &[("i", Exited, 0), ("s", Exited, 1), ("j", Running, 0)], "+s"; "a sidecar is kept running meanwhile")]
#[test_case("Always", &[("i", Exited, 0), ("s", Running, 0), ("j", Exited, 0)], "+c"; "at last the app")]
#[test_case("Always", &[("s", Running, 0), ("c", Running, 0)], ""; "removed inits do not run again")]
#[test_case("Never", &[("s", Exited, 1), ("c", Running, 0)], "+s"; "a sidecar always restarts")]
#[test_case("Never", &[("i", Exited, 0), ("s", Running, 0), ("j", Exited, 0), ("c", Exited, 0)], "kill-pod"; "a sidecar does not keep a pod alive")]
fn stages(policy: &str, there: There<'_>, want: &str) {
    assert_eq!(planned(&staged(policy), there), want);
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_the_next_until_it_started() {
    let p = pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "c"}]}));
    let there = inventory(&p, &[("s", Running, 0)]);
    let at = |probes: &Results| words(&plan_at(&p, &there, probes, &Delays::default(), BORN));
    assert_eq!(at(&Results::new()), "");
    assert_eq!(at(&Results::from([(("s0".into(), ProbeKind::Startup), Outcome::Success)])), "+c");
    assert_eq!(at(&Results::from([(("s0".into(), ProbeKind::Startup), Outcome::Failure)])), "-s +s");
}

#[test_case("Always", ProbeKind::Liveness, "-c +c"; "liveness")]
#[test_case("Always", ProbeKind::Startup, "-c +c"; "startup")]
#[test_case("Never", ProbeKind::Liveness, "-c"; "never restarts")]
#[test_case("Always", ProbeKind::Readiness, ""; "readiness kills nothing")]
fn failed_probes(policy: &str, kind: ProbeKind, want: &str) {
    let p = pod(json!({"restartPolicy": policy, "containers": [
        {"name": "c", "livenessProbe": {}, "startupProbe": {}, "readinessProbe": {}}, {"name": "d"}]}));
    let there = inventory(&p, &[("c", Running, 0), ("d", Running, 0)]);
    let probes = Results::from([(("c0".into(), kind), Outcome::Failure)]);
    assert_eq!(words(&plan_at(&p, &there, &probes, &Delays::default(), BORN)), want);
}

#[test]
fn a_changed_image_restarts_whatever_the_policy() {
    let old = simple("Never");
    let there = inventory(&old, &[("c", Running, 0)]);
    let new = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "other"}]}));
    let plan = plan_at(&new, &there, &Results::new(), &Delays::default(), BORN);
    assert_eq!((words(&plan).as_str(), plan.kill[0].why), ("-c +c", Why::Changed));
}

#[test]
fn ephemeral_containers_start_once() {
    let p =
        pod(json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}]}));
    assert_eq!(planned(&p, &[("c", Running, 0)]), "+e");
    assert_eq!(planned(&p, &[("c", Running, 0), ("e", Exited, 1)]), "");
}

#[test]
fn a_rule_of_the_container_wins() {
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    assert_eq!(planned(&p, &[("c", Exited, 42)]), "+c");
    assert_eq!(planned(&p, &[("c", Exited, 1)]), "kill-pod");
}

/// A sandbox that is missing, dead, or without an address.
#[test_case("Always", "none", &[], "kill-pod new0 +c"; "no sandbox")]
#[test_case("Always", "dead", &[("c", Exited, 137)], "kill-pod new1 +c"; "dead sandbox")]
#[test_case("Always", "mute", &[("c", Running, 0)], "kill-pod new1 +c"; "no address")]
#[test_case("Never", "dead", &[("c", Exited, 137)], "kill-pod"; "never gets no second one")]
#[test_case("OnFailure", "dead", &[("c", Exited, 0)], "kill-pod"; "nothing left to run")]
fn sandboxes(policy: &str, sandbox: &str, there: There<'_>, want: &str) {
    let p = simple(policy);
    let mut inventory = inventory(&p, there);
    match sandbox {
        "none" => inventory.sandboxes.clear(),
        "dead" => inventory.sandboxes[0].state = Exited,
        _ => inventory.sandboxes[0].ips.clear(),
    }
    let plan = plan_at(&p, &inventory, &Results::new(), &Delays::default(), BORN);
    assert_eq!(words(&plan), want);
}

#[test]
fn a_new_sandbox_starts_over_with_the_first_init() {
    let p = staged("Always");
    let mut there = inventory(&p, &[("i", Exited, 0), ("s", Exited, 1), ("j", Exited, 0), ("c", Exited, 1)]);
    there.sandboxes[0].state = Exited;
    assert_eq!(words(&plan_at(&p, &there, &Results::new(), &Delays::default(), BORN)), "kill-pod new1 +i");
    // Inside the new one the old containers do not count.
    let mut newer = there.sandboxes[0].clone();
    (newer.id, newer.state, newer.attempt, newer.created_at) = ("s1".into(), Running, 1, i64::MAX);
    there.sandboxes.insert(0, newer);
    assert_eq!(words(&plan_at(&p, &there, &Results::new(), &Delays::default(), BORN)), "+i");
}

#[test]
fn host_network_needs_no_address() {
    let p = pod(json!({"hostNetwork": true, "containers": [{"name": "c"}]}));
    let mut there = inventory(&p, &[("c", Running, 0)]);
    there.sandboxes[0].ips.clear();
    assert_eq!(words(&plan_at(&p, &there, &Results::new(), &Delays::default(), BORN)), "");
}

#[test]
fn restarts_wait_twice_as_long_each_time_up_to_five_minutes() {
    let p = simple("Always");
    let there = inventory(&p, &[("c", Exited, 1)]);
    let ended = Timestamp::from_second(BORN).unwrap();
    let mut delays = Delays::default();
    let mut seen = Vec::new();
    for _ in 0..8 {
        let wait = plan_at(&p, &there, &Results::new(), &delays, BORN).wait;
        seen.push(wait.first().map_or(0, |w| w.delay.as_secs()));
        delays.next(&delay_key(&p.members[0]), ended, ended);
    }
    assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(words(&plan_at(&p, &there, &Results::new(), &delays, BORN + 299)), "~c");
    assert_eq!(words(&plan_at(&p, &there, &Results::new(), &delays, BORN + 300)), "+c");
}

#[test]
fn a_container_that_its_probe_kills_again_and_again_waits_too() {
    let p = pod(json!({"containers": [{"name": "c", "livenessProbe": {}}]}));
    let there = inventory(&p, &[("c", Exited, 0), ("c", Running, 0)]);
    let sick = Results::from([(("c1".to_owned(), ProbeKind::Liveness), Outcome::Failure)]);
    let ended = Timestamp::from_second(BORN).unwrap();
    let mut delays = Delays::default();
    assert_eq!(words(&plan_at(&p, &there, &sick, &delays, BORN)), "-c +c");
    delays.next(&delay_key(&p.members[0]), ended, ended);
    assert_eq!(words(&plan_at(&p, &there, &sick, &delays, BORN + 9)), "-c ~c");
    assert_eq!(words(&plan_at(&p, &there, &sick, &delays, BORN + 10)), "-c +c");
}

#[test]
fn ten_minutes_of_running_forgive() {
    let at = |s: i64| Timestamp::from_second(s).unwrap();
    let mut delays = Delays::default();
    (0..5).for_each(|_| delays.next("c", at(0), at(0)));
    assert!(delays.until("c", at(600), at(601)).is_some());
    assert!(delays.until("c", at(601), at(601)).is_none());
    delays.next("c", at(601), at(601));
    assert_eq!(delays.until("c", at(602), at(602)).unwrap().1.as_secs(), 10);
}

#[test_case(None, None, 30; "the pod's own")]
#[test_case(None, Some(Why::Liveness), 5; "the probe's")]
#[test_case(None, Some(Why::Startup), 30; "a probe without one")]
#[test_case(Some(7), Some(Why::Liveness), 7; "a deletion wins")]
fn grace(deletion: Option<i64>, why: Option<Why>, want: i64) {
    let mut p = pod(json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "c",
        "livenessProbe": {"terminationGracePeriodSeconds": 5}, "startupProbe": {}}]}));
    p.pod.metadata.deletion_grace_period_seconds = deletion;
    assert_eq!(grace_seconds(&p, "c", why), want);
}

#[test]
fn sidecars_stop_after_the_apps_last_first() {
    let p = pod(
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
        "containers": [{"name": "c"}, {"name": "d"}]}),
    );
    let there = inventory(&p, &[("s", Running, 0), ("t", Running, 0), ("c", Running, 0), ("d", Exited, 0)]);
    let order: Vec<Vec<&str>> =
        stop_order(&p, &there).iter().map(|w| w.iter().map(|c| c.name.as_str()).collect()).collect();
    assert_eq!(order, [vec!["c"], vec!["t"], vec!["s"]]);
}

#[test]
fn one_dead_container_of_each_name_is_kept() {
    let p = simple("Always");
    let there = inventory(&p, &[("c", Exited, 1), ("c", Exited, 1), ("c", Exited, 1), ("c", Running, 0)]);
    let ids: Vec<&str> = garbage(&there).iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["c1", "c0"]);
}
