//! Who is given what, and what a container has.

use super::*;
use crate::kubelet::testing::{inventory, pod};
use test_case::test_case;

fn asking(cpu: &str, memory: &str, policy: &str) -> PodView {
    pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": policy}]}]}))
}

fn site(cpu: &str, memory: &str) -> Site {
    Site {
        node: Some(json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"}}})),
        pressures: Vec::new(),
    }
}

#[test_case("500m", "64Mi", None; "there is room")]
#[test_case("1500m", "64Mi", Some(("Deferred", "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000")); "others have it")]
#[test_case("3", "64Mi", Some(("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000")); "the node is too small")]
#[test_case("3", "2Gi", Some(("Infeasible", "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824")); "memory is told of first")]
fn room(cpu: &str, memory: &str, want: Option<(&str, &str)>) {
    let (pod, other) = (asking(cpu, memory, "NotRequired"), asking("1", "64Mi", "NotRequired"));
    let verdict = fits(&pod, &site("2", "1Gi"), &[&other]).err();
    assert_eq!(verdict.as_ref().map(|p| (p.reason, p.message.as_str())), want);
    assert_eq!(fits(&pod, &Site::default(), &[&other]), Ok(()), "nothing is held against a node that is not known");
}

#[test_case("100m", "64Mi", "", false; "nothing")]
#[test_case("0.1", "65536Ki", "", false; "the same in other words")]
#[test_case("200m", "64Mi", "c", false; "cpu in place")]
#[test_case("100m", "128Mi", "c", true; "memory by a restart")]
fn what_is_behind(cpu: &str, memory: &str, behind: &str, restarts: bool) {
    let old = asking("100m", "64Mi", "RestartContainer");
    let mut there = inventory(&old, &[("c", State::Running, 0)]);
    there.containers[0].annotations.insert(keys::RESOURCES.into(), mark(&old.members[0]));
    let new = asking(cpu, memory, "RestartContainer");
    let mut progress = Progress::default();
    progress.look(&new, &there);
    let names: Vec<&str> = progress.behind(&new, &there).iter().map(|(c, _)| c.name.as_str()).collect();
    assert_eq!((names.join(" ").as_str(), progress.restarts(&new.members[0], "c0")), (behind, restarts));
    assert_eq!(progress.as_it_is(&new, &there).members[0].spec.resources, old.members[0].spec.resources);
    progress.set("c0", new.members[0].spec.resources.clone());
    assert!(progress.behind(&new, &there).is_empty());
}

/// An orch that was started anew believes the status of the very container, and what a newer one was made with.
#[test]
fn what_a_container_has_is_known_after_a_restart() {
    let made = asking("100m", "64Mi", "NotRequired");
    let mut now = asking("300m", "64Mi", "NotRequired");
    let mut there = inventory(&made, &[("c", State::Running, 0)]);
    there.containers[0].annotations.insert(keys::RESOURCES.into(), mark(&made.members[0]));
    now.status = json!({"containerStatuses": [{"name": "c", "containerID": "fake://c0",
        "resources": {"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}}]});
    let has = |pod: &PodView| {
        let mut progress = Progress::default();
        progress.look(pod, &there);
        amount(progress.of("c0").unwrap(), false, "cpu").unwrap().milli_value()
    };
    assert_eq!(has(&now), 200, "it was changed since it was made");
    assert_eq!(cgroups::requested(&with(&now, &remembered(&now)), "cpu"), 200);
    now.status["containerStatuses"][0]["containerID"] = "fake://another".into();
    assert_eq!(has(&now), 100, "the status is of one before it");
    assert_eq!(has(&made), 100);
}

#[test]
fn a_pod_keeps_what_it_was_given() {
    let (old, new) = (asking("100m", "64Mi", "NotRequired"), asking("2", "1Gi", "NotRequired"));
    assert!(asks_for_more_or_less(&new, &given(&old)) && !asks_for_more_or_less(&old, &given(&old)));
    assert_eq!(with(&new, &given(&old)).members[0].spec.resources, old.members[0].spec.resources);
    assert!(!asks_for_more_or_less(&new, &remembered(&new)), "nothing is known of it");
}

#[test]
fn events_say_it_as_upstream_does() {
    let pod = asking("100m", "64Mi", "NotRequired");
    assert_eq!(
        message("Pod resize completed", &pod, None),
        "Pod resize completed: {\"containers\":[{\"name\":\"c\",\"resources\":{\"limits\":{\"memory\":\"64Mi\"},\
         \"requests\":{\"cpu\":\"100m\",\"memory\":\"64Mi\"}}}],\"generation\":1}"
    );
    assert!(message("Pod resize Deferred", &pod, Some("why")).ends_with("\"generation\":1,\"error\":\"why\"}"));
}
