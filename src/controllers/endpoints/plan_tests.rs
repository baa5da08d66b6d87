//! Tables of how slices are filled.

use super::*;
use test_case::test_case;

pub fn service() -> Value {
    json!({"metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}}, "spec": {"clusterIP": "10.43.0.1",
        "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}})
}

pub fn pod(i: usize) -> Value {
    json!({"metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i:04}")},
        "spec": {"nodeName": "x", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", i / 250, i % 250 + 1),
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

pub fn all(pods: std::ops::Range<usize>) -> Vec<Address> {
    pods.flat_map(|i| addresses(&service(), &pod(i), "z")).collect()
}

/// What the server makes of new slices.
fn stored(plan: SlicePlan) -> Vec<Value> {
    let mut all = plan.create;
    for (i, slice) in all.iter_mut().enumerate() {
        slice["metadata"]["name"] = format!("web-{i}").into();
        slice["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Service", "uid": "s"}]);
    }
    all
}

#[test]
fn an_endpoint_says_all_there_is() {
    let want = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "n", "name": "p0", "uid": "u0000"}, "nodeName": "x", "zone": "z"});
    let plan = slices(&service(), &all(0..1), &[]);
    assert_eq!(plan.create[0]["endpoints"][0], want);
    assert_eq!(plan.create[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(plan.create[0]["metadata"]["labels"][SERVICE_NAME_LABEL], "web");
    assert_eq!(plan.create[0]["metadata"]["labels"]["team"], "a");
}

#[test_case(json!({"status": {"phase": "Failed"}}), None; "an ended pod is none")]
#[test_case(json!({"status": {"podIP": null}}), None; "nor is one without an address")]
#[test_case(json!({"status": {"conditions": []}}), Some((false, false, false)); "not ready")]
#[test_case(json!({"metadata": {"deletionTimestamp": "t"}}), Some((false, true, true)); "going, but still answering")]
fn conditions(change: Value, want: Option<(bool, bool, bool)>) {
    let mut pod = pod(0);
    json_patch::merge(&mut pod, &change);
    let got = addresses(&service(), &pod, "");
    assert_eq!(got.first().map(|a| (a.ready, a.serving, a.terminating)), want);
}

#[test_case("PreferSameZone", json!({"forZones": [{"name": "z"}]}))]
#[test_case("PreferClose", json!({"forZones": [{"name": "z"}]}))]
#[test_case("PreferSameNode", json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "x"}]}))]
#[test_case("", Value::Null)]
fn endpoints_say_whose_they_would_be(distribution: &str, want: Value) {
    let mut service = service();
    service["spec"]["trafficDistribution"] = distribution.into();
    let mut pods = all(0..2);
    pods[1].ready = false;
    let plan = slices(&service, &pods, &[]);
    assert_eq!(plan.create[0]["endpoints"][0]["hints"], want);
    assert_eq!(plan.create[0]["endpoints"][1]["hints"], Value::Null, "nobody comes to one that is not ready");
    // Of what was preferred before nothing is left.
    let other = json!({"metadata": service["metadata"], "spec": {"ipFamilies": ["IPv4"]}});
    let again = slices(&other, &pods, &stored(plan));
    assert_eq!(again.update.len(), usize::from(!want.is_null()));
}

/// All pods of a zone, and none of the other's: each zone gets half of them, and keeps it.
#[test]
fn a_service_that_asks_for_it_is_spread_over_zones() {
    let mut service = service();
    service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"});
    service["spec"]["trafficDistribution"] = "PreferSameNode".into();
    let parts = topology::parts([("y".to_owned(), 1), ("z".to_owned(), 1)].into_iter());
    let zones = |plan: &SlicePlan| -> Vec<String> {
        let ends = plan.create[0].items_at("/endpoints").iter();
        ends.map(|e| e["hints"]["forZones"][0]["name"].as_str().unwrap_or("none").to_owned()).collect()
    };
    let mut pods = all(0..4);
    assert_eq!(spread(&service, &mut pods, &[], parts.as_ref()), [Ok("IPv4")]);
    let plan = slices(&service, &pods, &[]);
    assert_eq!(zones(&plan), ["y", "y", "z", "z"]);
    assert_eq!(plan.create[0]["endpoints"][0]["hints"].get("forNodes"), None);
    let known = stored(plan);
    let mut again = all(0..4);
    assert_eq!(spread(&service, &mut again, &known, parts.as_ref()), [] as [Result<&str, String>; 0]);
    assert_eq!(slices(&service, &again, &known), SlicePlan::default(), "nothing moves");
    // A node that says nothing of its zone ends it, and somebody is told.
    let mut none = all(0..4);
    assert!(spread(&service, &mut none, &known, None)[0].as_ref().is_err_and(|e| e.ends_with("addressType: IPv4")));
    assert_eq!(slices(&service, &none, &known).update.len(), 1);
}

#[test]
fn full_slices_are_followed_by_more_and_changes_touch_one() {
    let slices_of_250 = stored(slices(&service(), &all(0..250), &[]));
    assert_eq!(slices_of_250.iter().map(|s| s.items_at("/endpoints").len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(slices(&service(), &all(0..250), &slices_of_250), SlicePlan::default());
    let mut pods = all(0..250);
    pods.remove(120);
    let plan = slices(&service(), &pods, &slices_of_250);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0), "the others stay where they are");
}

/// How many endpoints each slice has, the number of a pod that goes, and how many come; what each slice has then.
#[test_case(&[60, 60], None, 70, &[60, 60, 70]; "no slice takes all of them")]
#[test_case(&[60, 40, 65], None, 30, &[60, 40, 95]; "the fullest that takes them")]
#[test_case(&[60, 40], Some(70), 30, &[60, 69]; "what changes anyway is filled first")]
#[test_case(&[100, 90], Some(0), 20, &[100, 90, 19]; "and only that, as far as it goes")]
#[test_case(&[100, 50], None, 120, &[100, 70, 100]; "the rest of a full new one")]
#[test_case(&[1, 50], Some(0), 1, &[51]; "an empty one goes")]
fn packing(sizes: &[usize], goes: Option<usize>, come: usize, want: &[usize]) {
    let (mut existing, mut all_pods) = (Vec::new(), 0);
    for (i, size) in sizes.iter().enumerate() {
        let mut slice = stored(slices(&service(), &all(all_pods..all_pods + size), &[])).remove(0);
        slice["metadata"]["name"] = format!("web-{i}").into();
        existing.push(slice);
        all_pods += size;
    }
    let mut pods = all(0..all_pods + come);
    if let Some(i) = goes {
        pods.remove(i);
    }
    let plan = slices(&service(), &pods, &existing);
    existing.retain(|s| !plan.delete.contains(&name(s)));
    for changed in &plan.update {
        *existing.iter_mut().find(|s| name(s) == name(changed)).unwrap() = changed.clone();
    }
    let sizes = existing.iter().chain(&plan.create).map(|s| s.items_at("/endpoints").len());
    assert_eq!(sizes.collect::<Vec<_>>(), want);
    existing.extend(stored(plan));
    assert_eq!(slices(&service(), &pods, &existing), SlicePlan::default(), "and stays so");
}

#[test]
fn the_last_pod_leaves_an_empty_slice() {
    let none = slices(&service(), &[], &[]);
    assert_eq!(none.create.len(), 1);
    assert_eq!(slices(&service(), &[], &stored(none)), SlicePlan::default());
    let one = stored(slices(&service(), &all(0..1), &[]));
    let plan = slices(&service(), &[], &one);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0), "the slice stays");
    assert_eq!(plan.update[0]["ports"], json!([]));
    assert_eq!(plan.update[0]["endpoints"], json!([]));
    // And takes the next pod.
    let again = slices(&service(), &all(0..1), &plan.update);
    assert_eq!((again.create.len(), name(&again.update[0]).as_str()), (0, "web-0"));
}

#[test]
fn slices_stay_when_ports_change() {
    let known = stored(slices(&service(), &all(0..150), &[]));
    let other_ports = |mut a: Address| {
        a.ports[0]["port"] = 9090.into();
        a
    };
    let pods: Vec<Address> = all(0..150).into_iter().map(other_ports).collect();
    let plan = slices(&service(), &pods, &known);
    let mut names: Vec<String> = plan.update.iter().map(name).collect();
    names.sort();
    assert_eq!((names, plan.create, plan.delete), (vec!["web-0".into(), "web-1".into()], vec![], vec![]));
    // The order in which ports stand is nothing.
    let mut service = service();
    service["spec"]["ports"].as_array_mut().unwrap().push(json!({"name": "b", "port": 81}));
    let pods = addresses(&service, &pod(0), "z");
    let mut known = stored(slices(&service, &pods, &[]));
    known[0]["ports"].as_array_mut().unwrap().reverse();
    assert_eq!(slices(&service, &pods, &known), SlicePlan::default());
}

#[test_case(&all(0..1); "with pods")]
#[test_case(&[]; "without")]
fn slices_of_an_earlier_service_are_not_filled(pods: &[Address]) {
    let mut known = stored(slices(&service(), pods, &[]));
    known[0]["metadata"]["ownerReferences"][0]["uid"] = "earlier".into();
    let plan = slices(&service(), pods, &known);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete), (1, 0, vec!["web-0".to_owned()]));
}
