//! Decisions about volumes as tables: claims, volumes and classes, and what becomes of the pod.

use std::sync::Arc;

use serde_json::{Value, json};
use test_case::test_case;

use super::answers::Answers;
use super::cluster::{Cluster, NodeInfo};
use super::cycle::{Checks, Nominated};
use super::framework::Cycle;
use super::plugins::binding::Claims;
use super::pod::PodInfo;
use super::profile::Profile;
use super::side::Side;
use crate::api::object::Object;
use crate::client::{Res, res};
use crate::runtime::fake::FakeListers;

fn node(name: &str) -> NodeInfo {
    let value = json!({"metadata": {"name": name, "labels": {"host": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "9"}}});
    NodeInfo::new(&Object::from_value(&value, &[])).unwrap()
}

fn pod(name: &str, volumes: Value) -> Arc<PodInfo> {
    let value = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"volumes": volumes}});
    PodInfo::new(&Object::from_value(&value, &[])).unwrap()
}

fn uses(claims: &[&str]) -> Value {
    claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect()
}

/// A claim of one GiB of the class `late`, with changes.
fn claim(name: &str, changes: Value) -> Value {
    let mut claim = json!({"metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": "7"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
    json_patch::merge(&mut claim, &changes);
    claim
}

/// A volume of the class `late`, with changes.
fn volume(name: &str, size: &str, changes: Value) -> Value {
    let mut volume = json!({"metadata": {"name": name, "resourceVersion": "3"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}},
        "status": {"phase": "Available"}});
    json_patch::merge(&mut volume, &changes);
    volume
}

fn kept_for(claim: &str) -> Value {
    json!({"spec": {"claimRef": {"namespace": "n", "name": claim}}})
}

fn only_on(node: &str) -> Value {
    json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "host", "operator": "In", "values": [node]}]}]}}}})
}

fn both(mut a: Value, b: Value) -> Value {
    json_patch::merge(&mut a, &b);
    a
}

fn side(listed: &[(&Res, Value)]) -> Side {
    let listers = FakeListers::default();
    listers.upsert(
        &res::STORAGE_CLASSES,
        &json!({"metadata": {"name": "late"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    for (res, object) in listed {
        listers.upsert(res, object);
    }
    Side::new(&listers)
}

/// What becomes of a pod with the claim `c` on the nodes n1 and n2: the volume that it gets there, or why it gets none.
fn got(claims: &Value, volumes: &[Value]) -> [String; 2] {
    let volumes = volumes.iter().map(|v| (&res::PERSISTENT_VOLUMES, v.clone()));
    let listed: Vec<(&Res, Value)> =
        std::iter::once((&res::PERSISTENT_VOLUME_CLAIMS, claims.clone())).chain(volumes).collect();
    let (side, pod) = (side(&listed), pod("p", uses(&["c"])));
    let claims = Claims::new(&side, &pod).ok().unwrap();
    ["n1", "n2"].map(|name| match claims.plan(&node(name)) {
        Ok(plan) => plan.bind.iter().map(|m| format!("{}{}", m.volume, if m.kept { " kept" } else { "" })).collect(),
        Err(why) => why.into(),
    })
}

const NONE: &str = "node(s) didn't find available persistent volumes to bind";

#[test_case(json!({}), &[volume("a", "5Gi", json!({})), volume("b", "2Gi", json!({}))], "b", "b"; "the smallest")]
#[test_case(json!({}), &[volume("a", "1Gi", json!({})), volume("b", "5Gi", kept_for("c"))], "b kept", "b kept"; "one that is kept for it")]
#[test_case(json!({}), &[volume("a", "1Gi", only_on("n1")), volume("b", "1Gi", both(kept_for("c"), only_on("n2")))], NONE, "b kept"; "only where the kept one is")]
#[test_case(json!({}), &[volume("a", "1Gi", both(kept_for("c"), json!({"spec": {"accessModes": ["ReadOnlyMany"]}})))], "a kept", "a kept"; "modes of a kept one")]
#[test_case(json!({}), &[volume("a", "1Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}}))], NONE, NONE; "modes of a free one")]
#[test_case(json!({}), &[volume("a", "1Gi", kept_for("other")), volume("b", "512Mi", kept_for("c"))], NONE, NONE; "kept for another or too small")]
#[test_case(json!({}), &[volume("a", "1Gi", both(kept_for("c"), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})))], NONE, NONE; "going")]
#[test_case(json!({"spec": {"volumeAttributesClassName": "gold"}}), &[volume("a", "1Gi", json!({}))], NONE, NONE; "other attributes")]
#[test_case(json!({"spec": {"volumeAttributesClassName": "gold"}}), &[volume("a", "1Gi", json!({"spec": {"volumeAttributesClassName": "gold"}}))], "a", "a"; "the same attributes")]
#[test_case(json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "late"}}, "spec": {"storageClassName": "x"}}),
    &[volume("a", "1Gi", json!({}))], "a", "a"; "the old annotation")]
fn static_binding(changes: Value, volumes: &[Value], on_n1: &str, on_n2: &str) {
    assert_eq!(got(&claim("c", changes), volumes), [on_n1, on_n2]);
}

fn outcome(side: &Side, on: &[Arc<PodInfo>], newcomer: &PodInfo) -> String {
    let mut cluster = Cluster::default();
    for name in ["n1", "n2"] {
        cluster.set_node(node(name));
    }
    for pod in on {
        cluster.place(pod.clone(), "n1", false);
    }
    let profile = Profile::default();
    let cx = Cycle { pod: newcomer, cluster: &cluster, side, profile: &profile, default_spread: Box::default() };
    let mut checks = match Checks::new(&cx) {
        Ok(checks) => checks,
        Err((plugin, why)) => return format!("{plugin}: {why}"),
    };
    match checks.feasible(&cluster, &Nominated::default(), &mut Answers::default(), &mut 0) {
        Ok(found) => found.iter().map(|at| &*cluster.nodes()[*at].name).collect::<Vec<_>>().join(" "),
        Err(no_fit) => no_fit.message(),
    }
}

fn owned_by(uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"kind": "Pod", "name": "p", "uid": uid, "controller": true}]}})
}

fn bound_to(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}})
}

#[test_case(uses(&["c"]), &[], "VolumeRestrictions: persistentvolumeclaim \"c\" not found"; "no claim")]
#[test_case(json!([{"name": "v", "ephemeral": {}}]), &[],
    "VolumeBinding: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\""; "no claim yet")]
#[test_case(json!([{"name": "v", "ephemeral": {}}]), &[claim("p-v", both(owned_by("other"), bound_to("pv")))],
    "VolumeBinding: PVC n/p-v was not created for pod n/p (pod is not owner)"; "the claim of another")]
#[test_case(json!([{"name": "v", "ephemeral": {}}]), &[claim("p-v", both(owned_by("p"), bound_to("pv")))],
    "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."; "its own without a volume")]
#[test_case(uses(&["c"]), &[claim("c", bound_to("pv"))], "VolumeZone: persistentvolume \"pv\" not found"; "without a volume")]
#[test_case(uses(&["c", "d"]), &[claim("c", json!({"spec": {"storageClassName": "now"}}))],
    "VolumeRestrictions: persistentvolumeclaim \"d\" not found"; "one unbound and one missing")]
fn refusals(volumes: Value, claims: &[Value], want: &str) {
    let listed: Vec<(&Res, Value)> = claims.iter().map(|c| (&res::PERSISTENT_VOLUME_CLAIMS, c.clone())).collect();
    assert_eq!(outcome(&side(&listed), &[], &pod("p", volumes)), want);
}

/// n1 has a limit of one volume.
#[test_case(&[], true, "n1 n2"; "nothing is there")]
#[test_case(&["x"], true, "n2"; "another is attached, though no pod uses it")]
#[test_case(&["a"], true, "n2"; "it is attached, and no pod uses it there")]
#[test_case(&["x"], false, "n1 n2"; "no limit")]
fn attachments_count(attached: &[&str], limited: bool, want: &str) {
    let csi = |name: &str| json!({"spec": {"csi": {"driver": "d", "volumeHandle": name}}});
    let mut listed = vec![(&res::PERSISTENT_VOLUME_CLAIMS, claim("c", bound_to("a")))];
    listed.extend(["a", "x"].map(|name| (&res::PERSISTENT_VOLUMES, volume(name, "1Gi", csi(name)))));
    listed.extend(attached.iter().map(|name| {
        let spec = json!({"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": name}});
        (&res::VOLUME_ATTACHMENTS, json!({"metadata": {"name": format!("va-{name}")}, "spec": spec}))
    }));
    if limited {
        let drivers = json!([{"name": "d", "nodeID": "n1", "allocatable": {"count": 1}}]);
        listed.push((&res::CSI_NODES, json!({"metadata": {"name": "n1"}, "spec": {"drivers": drivers}})));
    }
    assert_eq!(outcome(&side(&listed), &[], &pod("p", uses(&["c"]))), want);
}

/// The same image by one monitor that both know.
#[test_case(json!(["m2", "m3"]), "n2"; "one in common")]
#[test_case(json!(["m3"]), "n1 n2"; "none in common")]
fn images_with_monitors(monitors: Value, want: &str) {
    let rbd = |monitors: Value| json!([{"name": "v", "rbd": {"image": "i", "monitors": monitors}}]);
    let there = pod("there", rbd(json!(["m1", "m2"])));
    assert_eq!(outcome(&side(&[]), &[there], &pod("p", rbd(monitors))), want);
}

/// Two pods that come one after the other and use the same claim go by the first decision, which is not written yet.
#[test]
fn a_decision_counts_before_it_is_written() {
    let listed = [
        (&res::PERSISTENT_VOLUME_CLAIMS, claim("c", json!({}))),
        (&res::PERSISTENT_VOLUME_CLAIMS, claim("d", json!({}))),
        (&res::PERSISTENT_VOLUMES, volume("a", "1Gi", only_on("n1"))),
        (&res::PERSISTENT_VOLUMES, volume("b", "1Gi", only_on("n2"))),
    ];
    let mut side = side(&listed);
    let users = [pod("p", uses(&["c"])), pod("q", uses(&["d"]))];
    let plan = Claims::new(&side, &users[0]).ok().unwrap().plan(&node("n1")).unwrap();
    assert_eq!((&*plan.bind[0].volume, plan.bind[0].revision, plan.bind[0].claim.revision), ("a", 3, 7));
    assert_eq!(users.each_ref().map(|p| outcome(&side, &[], p)), ["n1 n2", "n1 n2"]);
    side.take(&plan, "n1");
    assert_eq!(users.each_ref().map(|p| outcome(&side, &[], p)), ["n1", "n2"]);
    let again = Claims::new(&side, &users[0]).ok().unwrap().plan(&node("n1")).unwrap();
    assert!(!again.bind[0].kept, "nobody but the scheduler keeps it");
    side.release(&plan);
    side.take(&super::volumes::VolumePlan { provision: vec![plan.bind[0].claim.clone()], ..Default::default() }, "n2");
    let none = format!("0/2 nodes are available: 2 {NONE}.");
    assert_eq!(outcome(&side, &[], &users[0]), none, "its volume is asked for on n2, where nobody makes it");
}

#[test]
fn a_claim_that_a_pod_names_twice_gets_one_volume() {
    let listed = [
        (&res::PERSISTENT_VOLUME_CLAIMS, claim("c", json!({}))),
        (&res::PERSISTENT_VOLUMES, volume("a", "1Gi", json!({}))),
    ];
    let side = side(&listed);
    let plan = Claims::new(&side, &pod("p", uses(&["c", "c"]))).ok().unwrap().plan(&node("n1")).unwrap();
    assert_eq!(plan.bind.iter().map(|m| &*m.volume).collect::<Vec<_>>(), ["a"]);
}
