//! Decisions about pods with claims of devices, as tables.

use std::sync::Arc;

use serde_json::{Value, json};
use test_case::test_case;

use super::answers::Answers;
use super::cluster::{Cluster, NodeInfo};
use super::cycle::{Checks, Nominated};
use super::framework::{Cycle, Event, Plugin};
use super::plugins::PLUGINS;
use super::plugins::devices::PodDevices;
use super::pod::PodInfo;
use super::profile::Profile;
use super::side::Side;
use crate::api::object::Object;
use crate::runtime::fake::FakeListers;

fn object(value: &Value) -> Object {
    Object::from_value(value, &[])
}

fn pod(spec: Value) -> Arc<PodInfo> {
    PodInfo::new(&object(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"}, "spec": spec}))).unwrap()
}

fn node(name: &str, cordoned: bool, allocatable: Value) -> NodeInfo {
    let mut has = json!({"cpu": "1", "memory": "1Gi", "pods": "9"});
    has.as_object_mut().unwrap().extend(allocatable.as_object().unwrap().clone());
    let value =
        json!({"metadata": {"name": name}, "spec": {"unschedulable": cordoned}, "status": {"allocatable": has}});
    NodeInfo::new(&object(&value)).unwrap()
}

/// Names of the nodes that fit, or why there are none; and the nodes that would do but for claims.
fn outcome(nodes: Vec<NodeInfo>, side: &Side, pod: &PodInfo) -> (String, Vec<NodeInfo>) {
    let mut cluster = Cluster::default();
    nodes.into_iter().for_each(|n| drop(cluster.set_node(n)));
    let profile = Profile::default();
    let cx = Cycle { pod, cluster: &cluster, side, profile: &profile, default_spread: Box::default() };
    let mut checks = match Checks::new(&cx) {
        Ok(checks) => checks,
        Err((_, why)) => return (why, Vec::new()),
    };
    let all = cluster.nodes();
    match checks.feasible(&cluster, &Nominated::default(), &mut Answers::default(), &mut 0) {
        Ok(found) => (found.iter().map(|at| &*all[*at].name).collect::<Vec<_>>().join(" "), Vec::new()),
        Err(no_fit) => (no_fit.message(), no_fit.elsewhere.iter().map(|at| all[*at].clone()).collect()),
    }
}

/// A claim `c` that has a device of `n1`, as its drivers see it.
fn allocated(devices: Value, reserved: Value) -> Object {
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "bindingConditions": ["Ready"],
        "bindingFailureConditions": ["Broken"]});
    object(&json!({"metadata": {"name": "c", "namespace": "n", "uid": "c", "resourceVersion": "1"},
        "spec": {}, "status": {"reservedFor": reserved, "devices": devices, "allocation": {"nodeSelector": selector,
            "allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": [result]}}}}))
}

fn says(kind: &str) -> Value {
    json!([{"driver": "d", "pool": "p", "device": "x", "conditions": [{"type": kind, "status": "True"}]}])
}

/// `n1` has too little of everything else; `n2` is free, or cordoned.
#[test_case(false, json!([]), true; "where only the claim is in the way")]
#[test_case(true, json!([]), false; "not where something else is, too")]
#[test_case(false, json!([{"resource": "pods", "name": "q", "uid": "q"}]), false; "not where others use it")]
#[test_case(false, json!([{"resource": "pods", "name": "p", "uid": "p"}]), true; "where only the pod does")]
fn a_claim_gives_its_devices_back(cordoned: bool, reserved: Value, want: bool) {
    let mut side = Side::new(&FakeListers::default());
    side.devices.set_claim(&allocated(says("Ready"), reserved));
    let pod = pod(json!({"resourceClaims": [{"name": "c", "resourceClaimName": "c"}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
    let nodes = vec![node("n1", false, json!({"cpu": "0"})), node("n2", cordoned, json!({}))];
    let (_, elsewhere) = outcome(nodes, &side, &pod);
    let devices = PodDevices::new(&side.devices, &pod).unwrap();
    assert_eq!(devices.in_the_way(elsewhere.iter()).is_some(), want);
}

const LATE: &str = "2026-01-01T00:10:01Z";
const ELSEWHERE: &str = "0/1 nodes are available: 1 resourceclaim not available on the node.";

#[test_case(says("Ready"), LATE, "n1"; "agreed")]
#[test_case(json!([]), "2026-01-01T00:10:00Z", "n1"; "not yet")]
#[test_case(json!([]), LATE, ELSEWHERE; "too late")]
#[test_case(says("Broken"), "2026-01-01T00:00:00Z", ELSEWHERE; "refused")]
fn drivers_have_to_agree(devices: Value, now: &str, want: &str) {
    let mut side = Side::new(&FakeListers::default());
    side.devices.set_claim(&allocated(devices, json!([])));
    side.devices.now = now.parse().unwrap();
    let pod = pod(json!({"resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}));
    assert_eq!(outcome(vec![node("n1", false, json!({}))], &side, &pod).0, want);
}

/// The class `gpu` stands for `x/gpu`; `n1` has one device of it.
fn with_class() -> Side {
    let mut side = Side::new(&FakeListers::default());
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x/gpu"}});
    side.devices.set_class(&object(&class));
    side.devices.set_slice(&object(&json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "nodeName": "n1",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d0"}]}})));
    side
}

fn wants(resources: Value) -> Arc<PodInfo> {
    pod(json!({"containers": [{"name": "c", "resources": {"requests": resources}}]}))
}

#[test_case(json!({"x/gpu": "1"}), json!({}), "n1"; "by its name")]
#[test_case(json!({"deviceclass.resource.kubernetes.io/gpu": "1"}), json!({}), "n1"; "by the class")]
#[test_case(json!({"x/gpu": "2"}), json!({}), "0/1 nodes are available: 1 cannot allocate all claims."; "too many")]
#[test_case(json!({"x/gpu": "2"}), json!({"x/gpu": "2"}), "n1"; "the node has them itself")]
#[test_case(json!({"x/gpu": "3"}), json!({"x/gpu": "2"}),
    "0/1 nodes are available: 1 Insufficient x/gpu."; "or too few of them")]
#[test_case(json!({"x/gpu": "1"}), json!({"x/gpu": "0"}), "n1"; "or has none any more")]
#[test_case(json!({"x/other": "1"}), json!({}),
    "0/1 nodes are available: 1 Insufficient x/other."; "nobody stands for it")]
fn devices_stand_for_extended_resources(resources: Value, allocatable: Value, want: &str) {
    let (side, pod) = (with_class(), wants(resources));
    assert_eq!(outcome(vec![node("n1", false, allocatable)], &side, &pod).0, want);
}

#[test]
fn a_claim_of_an_earlier_attempt_goes_first() {
    let (mut side, pod) = (with_class(), wants(json!({"x/gpu": "1"})));
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true});
    let claim = object(&json!({"metadata": {"name": "old", "namespace": "n", "uid": "old", "ownerReferences": [owner],
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}}, "spec": {}}));
    side.devices.set_claim(&claim);
    let got = outcome(vec![node("n1", false, json!({}))], &side, &pod).0;
    assert_eq!(got, "0/1 nodes are available: 1 cannot schedule extended resource claim.");
    assert_eq!(&*PodDevices::new(&side.devices, &pod).unwrap().stale().unwrap().name, "old");
    side.devices.remove_claim(&claim);
    assert!(PodDevices::new(&side.devices, &pod).unwrap().stale().is_none());
}

#[test]
fn the_newer_class_stands_for_a_resource() {
    let mut side = with_class();
    let class = |name: &str, created: &str| {
        object(
            &json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"extendedResourceName": "r/s"}}),
        )
    };
    for (name, created) in [("b", "2026-01-02T00:00:00Z"), ("c", "2026-01-02T00:00:00Z"), ("a", "2026-01-01T00:00:00Z")]
    {
        side.devices.set_class(&class(name, created));
    }
    assert_eq!(&*side.devices.class_for("r/s").unwrap().name, "b", "the first by name of the newest");
    side.devices.remove_class(&class("b", ""));
    assert_eq!(&*side.devices.class_for("r/s").unwrap().name, "c");
}

#[test]
fn a_node_and_a_class_wake_whom_they_may_help() {
    let (side, fit) = (with_class(), PLUGINS.iter().find(|(p, _)| p.name() == "NodeResourcesFit").unwrap().0);
    let wakes = |fit: &dyn Plugin, event: &Event, of: &str| fit.wakes(event, &wants(json!({of: "1"})));
    let class = Event::DeviceClass(side.devices.class("gpu").unwrap().clone());
    assert!(wakes(fit, &class, "x/gpu") && !wakes(fit, &class, "x/other"));
    let mut new = node("n1", false, json!({}));
    side.devices.lend(&mut new.allocatable);
    let came = Event::Node(None, Box::new(new));
    assert!(wakes(fit, &came, "x/gpu") && !wakes(fit, &came, "x/other"));
}
