//! Families and addresses of Services, on clusters of one and of both families.

use super::*;
use crate::api::object::Object;
use std::sync::Arc;
use test_case::test_case;

const SINGLE: &[Family] = &[Family::V4];
const DUAL: &[Family] = &Family::ALL;

/// What becomes of a Service's `policy families` (and its addresses, where they change), or what is told of which field.
fn outcome(on: &[Family], spec: &Value, old: Option<&Value>) -> String {
    let of = |spec: &Value| {
        let mut all = json!({"type": "ClusterIP"});
        json_patch::merge(&mut all, spec);
        json!({ "spec": all })
    };
    let (mut new, errs) = (of(spec), FieldErrors::new());
    families(|f| on.contains(&f), &mut new, old.map(of).as_ref(), &errs);
    let why = |message: &str| message.rsplit_once(": ").map_or(String::new(), |(_, why)| why.to_owned());
    let told: Vec<String> = errs.take().iter().map(|c| format!("{}: {}", c.field, why(&c.message))).collect();
    if !told.is_empty() {
        return told.join("; ");
    }
    let list = |at: &str| new.items_at(at).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let ips = if new.items_at(IPS) == spec.items_at("/clusterIPs") { String::new() } else { format!(" {}", list(IPS)) };
    format!("{} {}{ips}", new.str_at(POLICY).unwrap_or_default(), list(FAMILIES))
}

#[test_case(json!({}), "SingleStack IPv4", "SingleStack IPv4"; "nothing is asked for")]
#[test_case(json!({"ipFamilyPolicy": "SingleStack"}), "SingleStack IPv4", "SingleStack IPv4"; "one")]
#[test_case(json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4", "PreferDualStack IPv4,IPv6"; "both if possible")]
#[test_case(json!({"ipFamilyPolicy": "RequireDualStack"}), "spec.ipFamilyPolicy: this cluster is not configured for dual-stack",
    "RequireDualStack IPv4,IPv6"; "both")]
#[test_case(json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: not configured on this cluster", "SingleStack IPv6"; "the other one")]
#[test_case(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}), "spec.ipFamilies[0]: not configured",
    "PreferDualStack IPv6,IPv4"; "the other one first, if possible")]
#[test_case(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}),
    "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services; spec.ipFamilies[0]: not configured",
    "RequireDualStack IPv6,IPv4"; "the other one first")]
#[test_case(json!({"ipFamilies": ["IPv4", "IPv6"]}), "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack'",
    "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families"; "both without a policy")]
#[test_case(json!({"clusterIPs": ["10.0.0.1"]}), "SingleStack IPv4", "SingleStack IPv4"; "an address")]
#[test_case(json!({"clusterIPs": ["fd00::1"]}), "spec.clusterIPs[0]: IPv6 is not configured on this cluster", "SingleStack IPv6";
    "an address of the other one")]
#[test_case(json!({"clusterIPs": ["fd00::1"], "ipFamilyPolicy": "PreferDualStack"}), "spec.clusterIPs[0]: IPv6 is not configured",
    "PreferDualStack IPv6,IPv4"; "an address of the other one, and both")]
#[test_case(json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}),
    "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified; spec.clusterIPs[1]: IPv6 is",
    "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs"; "two addresses without a policy")]
#[test_case(json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"}), "spec.clusterIPs[1]: IPv6 is not configured",
    "PreferDualStack IPv4,IPv6"; "two addresses")]
fn new_services(spec: Value, single: &str, dual: &str) {
    for (on, want) in [(SINGLE, single), (DUAL, dual)] {
        let got = outcome(on, &spec, None);
        assert!(if want.contains(':') { got.starts_with(want) } else { got == want }, "{got}");
    }
}

#[test_case(json!({}), "RequireDualStack IPv4,IPv6", "RequireDualStack IPv4,IPv6"; "its endpoints may be of both")]
#[test_case(json!({"ipFamilyPolicy": "SingleStack"}), "SingleStack IPv4", "SingleStack IPv4"; "one")]
#[test_case(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), "PreferDualStack IPv6,IPv4", "PreferDualStack IPv6,IPv4";
    "both in another order")]
#[test_case(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}), "SingleStack IPv6", "SingleStack IPv6"; "the other one")]
#[test_case(json!({"selector": {"a": "b"}}), "SingleStack IPv4", "SingleStack IPv4"; "with pods")]
#[test_case(json!({"selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4", "PreferDualStack IPv4,IPv6";
    "with pods of both")]
#[test_case(json!({"selector": {"a": "b"}, "ipFamilyPolicy": "RequireDualStack"}), "spec.ipFamilyPolicy: this cluster is not",
    "RequireDualStack IPv4,IPv6"; "with pods that have to be of both")]
fn headless_services(more: Value, single: &str, dual: &str) {
    let mut spec = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    json_patch::merge(&mut spec, &more);
    new_services(spec, single, dual);
}

/// A Service that had one address, or two, and what an update makes of it on a cluster of both families.
#[test_case("SingleStack", 1, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4,IPv6"; "up")]
#[test_case("SingleStack", 1, json!({"ipFamilyPolicy": "RequireDualStack"}), "RequireDualStack IPv4,IPv6"; "up in any case")]
#[test_case("SingleStack", 1, json!({"ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.0.0.1", "fd00::7"]}),
    "PreferDualStack IPv4,IPv6"; "up to a certain address")]
#[test_case("SingleStack", 1, json!({"ipFamilies": ["IPv4", "IPv6"]}), "spec.ipFamilyPolicy: must be 'RequireDualStack' or"; "up without a policy")]
#[test_case("SingleStack", 1, json!({"ipFamilyPolicy": null, "ipFamilies": null}), "SingleStack IPv4"; "a write that says nothing of it")]
#[test_case("PreferDualStack", 1, json!({}), "PreferDualStack IPv4"; "it does not follow the cluster")]
#[test_case("PreferDualStack", 1, json!({"type": "NodePort"}), "PreferDualStack IPv4,IPv6"; "but with another type")]
#[test_case("PreferDualStack", 2, json!({"ipFamilyPolicy": "SingleStack"}), "SingleStack IPv4 10.0.0.1"; "down")]
#[test_case("RequireDualStack", 2, json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]}),
    "SingleStack IPv4"; "down in all fields")]
#[test_case("RequireDualStack", 2, json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": null, "clusterIPs": ["10.0.0.1"]}),
    "SingleStack IPv4"; "down in addresses")]
#[test_case("RequireDualStack", 2, json!({"clusterIPs": ["10.0.0.1"]}),
    "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary cluster IP"; "down without a policy")]
#[test_case("RequireDualStack", 2, json!({"ipFamilyPolicy": null, "ipFamilies": ["IPv4"]}),
    "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary IP family"; "down in families without a policy")]
#[test_case("RequireDualStack", 2, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4,IPv6"; "from must to may")]
#[test_case("RequireDualStack", 2, json!({"ipFamilyPolicy": null, "ipFamilies": null}), "RequireDualStack IPv4,IPv6"; "it stays")]
fn updates(policy: &str, had: usize, change: Value, want: &str) {
    let (ips, families) = (&["10.0.0.1", "fd00::1"][..had], &["IPv4", "IPv6"][..had]);
    let old = json!({"ipFamilyPolicy": policy, "clusterIP": "10.0.0.1", "clusterIPs": ips, "ipFamilies": families});
    let mut new = old.clone();
    json_patch::merge(&mut new, &change);
    let got = outcome(DUAL, &new, Some(&old));
    assert!(if want.contains(": ") { got.starts_with(want) } else { got == want }, "{got}");
}

#[test]
fn a_cluster_that_had_both_families_leaves_a_service_alone_that_prefers_both() {
    let old = json!({"ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]});
    assert_eq!(outcome(SINGLE, &old, Some(&old)), "PreferDualStack IPv4,IPv6");
    let mut must = old.clone();
    must["ipFamilyPolicy"] = "RequireDualStack".into();
    assert!(outcome(SINGLE, &must, Some(&must)).starts_with("spec.ipFamilyPolicy: this cluster is not"));
    let mut one = must.clone();
    one["ipFamilyPolicy"] = "SingleStack".into();
    assert_eq!(outcome(SINGLE, &one, Some(&must)), "SingleStack IPv4 10.0.0.1");
}

struct Nothing;

impl View for Nothing {
    fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }
    fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Arc<Object>> {
        Vec::new()
    }
}

#[test]
fn both_addresses_are_taken_or_none() {
    let allocators = Allocators::new("10.9.0.0/30,fd09::/112".parse().unwrap(), 30000..=30100);
    let none = HashSet::new();
    let take = |spec: Value, old: Option<&Value>| {
        let (mut new, errs) = (json!({ "spec": spec }), FieldErrors::new());
        let lacks = wanted(&new, old);
        let holds = addresses(&allocators, &Nothing, &mut new, &lacks, &none, &errs);
        let told: Vec<String> = errs.take().into_iter().map(|c| c.message).collect();
        (new["spec"].clone(), holds, told.join(" "))
    };
    let both = json!({"ipFamilies": ["IPv4", "IPv6"]});
    let (first, held, _) = take(both.clone(), None);
    assert_eq!((first["clusterIP"] == first["clusterIPs"][0], held.len()), (true, 2));
    assert!(first["clusterIPs"][1].as_str().unwrap().starts_with("fd09::"));
    let mut asked = both.clone();
    json_patch::merge(&mut asked, &json!({"clusterIP": "10.9.0.1", "clusterIPs": ["10.9.0.1", "FD09::0005"]}));
    if first["clusterIP"] == "10.9.0.1" {
        asked["clusterIP"] = "10.9.0.2".into();
        asked["clusterIPs"][0] = "10.9.0.2".into();
    }
    let (second, held_too, _) = take(asked.clone(), None);
    assert_eq!((&second["clusterIPs"], held_too.len()), (&asked["clusterIPs"], 2), "as they were written");
    // IPv4 has none left: the certain one of IPv6 is free again at once.
    drop(held_too);
    let fourth =
        json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd09::5", "clusterIPs": ["fd09::5", first["clusterIP"]]});
    let (as_it_was, no_holds, told) = take(fourth.clone(), None);
    assert_eq!((as_it_was, no_holds.len()), (fourth, 0));
    assert!(told.ends_with("provided IP is already allocated"), "{told}");
    assert!(allocators.take_address(&Nothing, "fd09::5".parse().unwrap(), &none).is_ok());
    // What a Service has is not taken again.
    let old = json!({"spec": {"clusterIP": "10.9.0.77", "clusterIPs": ["10.9.0.77"], "ipFamilies": ["IPv4"]}});
    let (up, more, _) = take(
        json!({"clusterIP": "10.9.0.77", "clusterIPs": ["10.9.0.77"], "ipFamilies": ["IPv4", "IPv6"]}),
        Some(&old),
    );
    assert_eq!((up["clusterIPs"].as_array().map(Vec::len), more.len()), (Some(2), 1));
    assert!(wanted(&json!({ "spec": up.clone() }), Some(&json!({ "spec": up }))).is_empty());
}
