//! What a Service is told, by one odd field.

use super::*;
use serde_json::json;
use test_case::test_case;

fn paths(errs: &FieldErrors) -> Vec<String> {
    errs.take().into_iter().map(|c| c.field).collect()
}

#[test_case(json!({"clusterIP": "10.0.0.1"}), &["spec.clusterIPs"]; "one that is not listed")]
#[test_case(json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.1"]}), &["spec.clusterIPs"]; "none and one")]
#[test_case(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "None"]}), &["spec.clusterIPs[1]"]; "one and none")]
#[test_case(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}), &["spec.clusterIPs[0]"]; "of another family")]
fn cluster_ips(spec: Value, want: &[&str]) {
    let (object, errs) = (json!({ "spec": spec }), FieldErrors::new());
    addresses(&object, &[], &Field::root(&object, &errs).at("spec"));
    assert_eq!(paths(&errs), want);
}

#[test_case(json!({"clusterIP": "None", "clusterIPs": ["None", "None"]}), &["spec.clusterIPs"]; "an address that was there")]
#[test_case(json!({"clusterIP": "x", "clusterIPs": ["x"]}), &["spec.clusterIPs[0]"]; "no ports, as before")]
fn kept(mut spec: Value, want: &[&str]) {
    let old = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    for (field, value) in [("type", "ClusterIP"), ("sessionAffinity", "None"), ("internalTrafficPolicy", "Cluster")] {
        spec[field] = value.into();
    }
    let (object, errs) = (json!({ "spec": spec }), FieldErrors::new());
    service(&object, Some(&old), &errs);
    assert_eq!(paths(&errs), want);
}

#[test_case(json!(["10.0.0.2", "fd00::1"]), &["spec.clusterIPs[0]"]; "another first one")]
#[test_case(json!(["10.0.0.1", "fd00::2"]), &["spec.clusterIPs[1]"]; "another second one")]
#[test_case(json!(["10.0.0.1"]), &[]; "the second goes")]
#[test_case(json!([]), &["spec.clusterIPs[0]"]; "all go")]
fn released(ips: Value, want: &[&str]) {
    let old = json!({"spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}});
    let new = json!({"spec": {"clusterIPs": ips}});
    let errs = FieldErrors::new();
    cluster_ips_update(&Field::root(&new, &errs).at("spec"), &new, &old);
    assert_eq!(paths(&errs), want);
}

#[test_case("LoadBalancer", json!({"ip": "10.0.0.1"}), &["status.loadBalancer.ingress[0].ipMode"]; "an address without mode")]
#[test_case("LoadBalancer", json!({"hostname": "10.0.0.1"}), &["status.loadBalancer.ingress[0].hostname"]; "an address for a name")]
#[test_case("ClusterIP", json!({"hostname": "A"}), &["status.loadBalancer.ingress"]; "no balancer")]
fn statuses(kind: &str, ingress: Value, want: &[&str]) {
    let object = json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [ingress]}}});
    let errs = FieldErrors::new();
    status(&object, &errs);
    assert_eq!(paths(&errs), want);
}

#[test]
fn annotations_agree() {
    let annotations =
        json!({"service.kubernetes.io/topology-aware-hints": "Auto", "service.kubernetes.io/topology-mode": "x"});
    let errs = FieldErrors::new();
    topology_annotations(&Field::root(&annotations, &errs));
    assert_eq!(paths(&errs), ["[service.kubernetes.io/topology-mode]"]);
}

#[test]
fn addresses_are_best_written_in_one_way() {
    let of = |ip: &str| warnings(&json!({"spec": {"clusterIP": ip, "clusterIPs": ["10.0.0.1", ip]}}));
    assert_eq!(of("fd00::1"), [] as [&str; 0]);
    let want = "spec.clusterIPs[1]: IPv6 address \"FD00:0::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
    assert_eq!(of("FD00:0::1"), [want]);
}
