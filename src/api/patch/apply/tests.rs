//! Applies and updates of built-in and custom kinds, as upstream answers them.

use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fieldset::FieldSet;
use super::*;
use crate::api::schema::table;
use crate::api::value::ValueExt;

static NO_RESET: FieldSet<'static> = FieldSet::EMPTY;
static STATUS: LazyLock<FieldSet<'static>> = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
static SPEC: LazyLock<FieldSet<'static>> = LazyLock::new(|| FieldSet::of_fields(&[&["spec"]]));

static CONFIG_MAP: Gvk = Gvk::new("", "v1", "ConfigMap");
static DEPLOYMENT: Gvk = Gvk::new("apps", "v1", "Deployment");

fn by<'a>(manager: &'a str, gvk: &'a Gvk) -> Writer<'a> {
    let view = View::of(table().kind(&gvk.group, &gvk.version, &gvk.kind).unwrap());
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    Writer { manager, subresource: "", gvk, view, reset: &NO_RESET, now }
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn applied(live: Option<&Value>, manager: &str, config: &Value) -> Value {
    on_apply(live, config, false, &by(manager, &CONFIG_MAP)).unwrap()
}

/// Manager, operation and fields of each entry.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    managed::of(object)
        .iter()
        .map(|e| (managed::text(e, "manager").into(), managed::text(e, "operation").into(), e["fieldsV1"].clone()))
        .collect()
}

fn owner(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.into(), operation.into(), fields)
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn template(containers: Value) -> Value {
    json!({"template": {"spec": {"containers": containers}}})
}

#[test]
fn a_create_owns_what_it_adds() {
    let new =
        deployment(json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "Recreate"},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 80}], "resources": {}}]}}}));
    let writer = Writer { reset: &STATUS, ..by("kubectl-create", &DEPLOYMENT) };
    let got = on_update(None, new, &writer);
    // Structs that every Deployment has were not added; maps and list elements were.
    let fields = json!({"f:spec": {
        "f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
        "f:template": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
            ".": {}, "f:image": {}, "f:name": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                ".": {}, "f:containerPort": {}}}, "f:resources": {}}}}}}});
    assert_eq!(owners(&got), [owner("kubectl-create", "Update", fields)]);
    assert_eq!(managed::of(&got)[0]["time"], "2023-11-14T22:13:20Z");
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let live = applied(None, "a", &config(json!({"a": "1", "b": "1"})));
    let mut new = live.clone();
    new.set_at("/data/a", "2");
    let got = on_update(Some(&live), new, &by("u", &CONFIG_MAP));
    assert_eq!(
        owners(&got),
        [owner("a", "Apply", json!({"f:data": {"f:b": {}}})), owner("u", "Update", json!({"f:data": {"f:a": {}}}))]
    );
    let conflicts =
        on_apply(Some(&got), &config(json!({"a": "3", "b": "1"})), false, &by("a", &CONFIG_MAP)).unwrap_err();
    assert_eq!(conflicts.to_string(), "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.a");
    let status = conflicts.to_status();
    assert_eq!(status.code, 409);
    assert_eq!(
        status.details["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"u\" using v1", "field": ".data.a"}])
    );
}

#[test]
fn an_update_without_a_change_is_none() {
    let live = on_update(None, config(json!({"a": "1"})), &by("u", &CONFIG_MAP));
    let later = Writer { now: Timestamp::from_second(1_800_000_000).unwrap(), ..by("u", &CONFIG_MAP) };
    assert_eq!(on_update(Some(&live), live.clone(), &later), live);
    let mut bare = live.clone();
    bare.remove_at("/metadata/managedFields");
    assert_eq!(on_update(Some(&live), bare, &later), live, "a client that does not send them keeps them");
}

#[test]
fn an_own_update_changes_the_time_only_with_the_set() {
    let live = on_update(None, config(json!({"a": "1", "b": "1"})), &by("u", &CONFIG_MAP));
    let later = Writer { now: Timestamp::from_second(1_800_000_000).unwrap(), ..by("u", &CONFIG_MAP) };
    let mut new = live.clone();
    new.set_at("/data/a", "2");
    let changed = on_update(Some(&live), new, &later);
    assert_eq!(owners(&changed), owners(&live));
    assert_ne!(managed::of(&changed)[0]["time"], managed::of(&live)[0]["time"]);
    let mut gone = changed.clone();
    gone.remove_at("/data/b");
    let gone = on_update(Some(&changed), gone, &later);
    assert_eq!(owners(&gone), [owner("u", "Update", json!({"f:data": {".": {}, "f:a": {}}}))]);
}

#[test]
fn entries_that_a_write_does_not_touch_are_not_rewritten() {
    // A form that parsing and printing would change: it is kept, so it was not parsed.
    let odd = json!({"f:data": {"f:z": {}, "f:y": {".": {}}}});
    let mut live = on_update(None, config(json!({"a": "1", "y": "1", "z": "1"})), &by("u", &CONFIG_MAP));
    let entry =
        json!({"manager": "odd", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": odd});
    live["metadata"]["managedFields"].as_array_mut().unwrap().push(entry);
    let mut new = live.clone();
    new.set_at("/data/a", "2");
    let got = on_update(Some(&live), new, &by("u", &CONFIG_MAP));
    let kept = managed::of(&got).iter().find(|e| e["manager"] == "odd").unwrap();
    assert_eq!(kept["fieldsV1"].to_string(), odd.to_string());
}

#[test]
fn an_empty_list_forgets_all_managers() {
    let live = applied(None, "a", &config(json!({"a": "1"})));
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new.set_at("/metadata/managedFields", reset);
        new.set_at("/data/a", "2");
        let got = on_update(Some(&live), new, &by("u", &CONFIG_MAP));
        assert!(managed::of(&got).is_empty());
        let next = on_update(Some(&got), config(json!({"a": "3"})), &by("u", &CONFIG_MAP));
        assert!(managed::of(&next).is_empty(), "an update does not begin to track");
        let again = applied(Some(&got), "a", &config(json!({"a": "2"})));
        assert_eq!(
            owners(&again),
            [
                owner("a", "Apply", json!({"f:data": {"f:a": {}}})),
                owner("before-first-apply", "Update", json!({"f:data": {".": {}, "f:a": {}}})),
            ]
        );
    }
}

#[test]
fn wrong_managed_fields_are_ignored() {
    let live = applied(None, "a", &config(json!({"a": "1"})));
    for wrong in [
        json!([{"manager": "z", "operation": "Nonsense", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}}]),
        json!([{"manager": "z", "operation": "Update", "apiVersion": "v1", "fieldsType": "Other"}]),
        json!([{"manager": "z", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"data": {}}}]),
    ] {
        let mut new = live.clone();
        new.set_at("/metadata/managedFields", wrong);
        assert_eq!(owners(&on_update(Some(&live), new, &by("u", &CONFIG_MAP))), owners(&live));
    }
}

#[test]
fn subresources_own_their_part_only() {
    let live = on_apply(None, &deployment(json!({"replicas": 1})), false, &by("a", &DEPLOYMENT)).unwrap();
    let mut new = live.clone();
    new.set_at("/spec/replicas", 7);
    new.set_at("/status/replicas", 1);
    new.set_at("/metadata/managedFields", json!([]));
    let writer = Writer { subresource: "status", reset: &SPEC, ..by("c", &DEPLOYMENT) };
    let got = on_update(Some(&live), new, &writer);
    let entry = &managed::of(&got)[1];
    assert_eq!(
        (entry["subresource"].as_str(), &entry["fieldsV1"]),
        (Some("status"), &json!({"f:status": {".": {}, "f:replicas": {}}}))
    );
    assert_eq!(owners(&got)[0], owners(&live)[0], "the list in the request does not count");
}

#[test]
fn what_nobody_owns_goes_away() {
    let live = applied(None, "a", &config(json!({"a": "1", "b": "2"})));
    let shared = applied(Some(&live), "b", &config(json!({"b": "2"})));
    let got = applied(Some(&shared), "a", &config(json!({"c": "3"})));
    assert_eq!(got["data"], json!({"b": "2", "c": "3"}));
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let got = applied(Some(&got), "a", &bare);
    assert_eq!(got["data"], json!({"b": "2"}));
    let got = applied(Some(&got), "b", &bare);
    assert_eq!((got.get("data"), owners(&got)), (None, vec![]));
}

#[test]
fn lists_are_merged_by_key() {
    let on = |live: Option<&Value>, who: &str, containers: Value| {
        on_apply(live, &deployment(template(containers)), false, &by(who, &DEPLOYMENT)).unwrap()
    };
    let live = on(None, "a", json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]));
    let got = on(
        Some(&live),
        "b",
        json!([{"name": "z", "image": "z"}, {"name": "c", "ports": [
        {"containerPort": 80, "protocol": "UDP", "name": "u"}, {"containerPort": 81}]}]),
    );
    assert_eq!(
        got["spec"]["template"]["spec"]["containers"],
        json!([{"name": "z", "image": "z"}, {"name": "c", "image": "i", "ports": [
            {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP", "name": "u"}, {"containerPort": 81}]}])
    );
    assert_eq!(
        owners(&got)[1].2["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"],
        json!({".": {}, "f:name": {}, "f:ports": {
            "k:{\"containerPort\":80,\"protocol\":\"UDP\"}": {".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}},
            "k:{\"containerPort\":81,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}})
    );
    let back = on_apply(Some(&got), &deployment(json!({})), false, &by("b", &DEPLOYMENT)).unwrap();
    assert_eq!(back["spec"], live["spec"]);
}

#[test]
fn force_takes_over() {
    let live = applied(None, "a", &config(json!({"a": "1", "b": "1"})));
    let wanted = config(json!({"a": "2"}));
    let got = on_apply(Some(&live), &wanted, true, &by("b", &CONFIG_MAP)).unwrap();
    assert_eq!(got["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(
        owners(&got),
        [owner("a", "Apply", json!({"f:data": {"f:b": {}}})), owner("b", "Apply", json!({"f:data": {"f:a": {}}}))]
    );
}

#[test]
fn kubectl_inherits_what_it_applied_client_side() {
    let mut first = config(json!({"a": "1"}));
    first["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config(json!({"a": "1"})).to_string()});
    let live = on_update(None, first, &by("kubectl-client-side-apply", &CONFIG_MAP));
    let wanted = config(json!({"a": "2"}));
    assert!(on_apply(Some(&live), &wanted, false, &by("someone", &CONFIG_MAP)).is_err());
    let got = on_apply(Some(&live), &wanted, false, &by("kubectl", &CONFIG_MAP)).unwrap();
    assert_eq!(
        got["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"c\"}}\n"
    );
    assert_eq!(owners(&got)[1].2["f:data"], json!({}), "the map itself stays with the first manager");
}

#[test_case::test_case(json!({"kind": "ConfigMap"}), "invalid object type: /, Kind=ConfigMap"; "no version")]
#[test_case::test_case(json!({"apiVersion": "v1", "kind": "Secret"}), "invalid object type: /v1, Kind=Secret"; "another kind")]
#[test_case::test_case(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}}), "metadata.managedFields must be nil"; "managed fields")]
#[test_case::test_case(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "bogus": 1}),
    "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .bogus: field not declared in schema"; "unknown field")]
#[test_case::test_case(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": [1]}),
    "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .data: expected map, got [1]"; "wrong type")]
#[test_case::test_case(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "nick": 1, "ownerReferences": [
        {"uid": "1", "age": 2}, {"uid": "1"}]}, "data": {"a": 1}, "bogus": 1}),
    "failed to create typed patch object (/c; /v1, Kind=ConfigMap): errors:\n  .metadata.nick: field not declared in schema\n  \
     .metadata.ownerReferences[uid=\"1\"].age: field not declared in schema\n  \
     .metadata.ownerReferences: duplicate entries for key [uid=\"1\"]\n  .data.a: expected string, got 1\n  \
     .bogus: field not declared in schema"; "all that is wrong")]
fn refuses(wrong: Value, message: &str) {
    let e = on_apply(None, &wrong, false, &by("a", &CONFIG_MAP)).unwrap_err();
    assert_eq!(e.to_string(), message);
    assert_eq!(e.to_status().code, 400);
}

#[test]
fn duplicates_are_refused() {
    let twice = deployment(template(json!([{"name": "c"}, {"name": "c"}])));
    let e = on_apply(None, &twice, false, &by("a", &DEPLOYMENT)).unwrap_err().to_string();
    assert!(e.ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"c\"]"), "{e}");
}

#[test]
fn custom_resources_follow_their_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
        "atom": {"type": "array", "items": {"type": "string"}},
        "obj": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "gran": {"type": "object", "additionalProperties": {"type": "string"}}}}}});
    let gvk = Gvk::new("example.com", "v1", "Foo");
    let writer = |manager| Writer { view: View::crd(&schema), gvk: &gvk, ..by(manager, &CONFIG_MAP) };
    let foo =
        |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "f"}, "spec": spec});
    let first = foo(
        json!({"set": ["a", "b"], "map": [{"k": "x", "v": "1"}], "atom": ["p"], "obj": {"o": "1"}, "gran": {"g": "1"}}),
    );
    let live = on_apply(None, &first, false, &writer("a")).unwrap();
    assert_eq!(
        owners(&live)[0].2["f:spec"],
        json!({"f:atom": {}, "f:gran": {"f:g": {}}, "f:map": {"k:{\"k\":\"x\"}": {".": {}, "f:k": {}, "f:v": {}}},
            "f:obj": {}, "f:set": {"v:\"a\"": {}, "v:\"b\"": {}}})
    );
    let second = foo(json!({"set": ["c"], "map": [{"k": "y", "v": "2"}], "gran": {"h": "2"}}));
    let live = on_apply(Some(&live), &second, false, &writer("b")).unwrap();
    let clash = foo(json!({"set": ["c"], "map": [{"k": "x", "v": "2"}], "atom": ["q"], "obj": {"z": "1"}}));
    assert_eq!(
        on_apply(Some(&live), &clash, false, &writer("b")).unwrap_err().to_string(),
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.atom\n- .spec.obj\n- .spec.map[k=\"x\"].v"
    );
    let got = on_apply(Some(&live), &foo(json!({"set": ["b"], "atom": []})), false, &writer("a")).unwrap();
    assert_eq!(got["spec"], json!({"set": ["b", "c"], "map": [{"k": "y", "v": "2"}], "atom": [], "gran": {"h": "2"}}));
    for (spec, message) in [
        (json!({"set": ["b", "b"]}), ".spec.set: duplicate entries for key [=\"b\"]"),
        (json!({"unknown": 1}), ".spec.unknown: field not declared in schema"),
    ] {
        let e = on_apply(Some(&live), &foo(spec), false, &writer("a")).unwrap_err().to_string();
        assert!(e.ends_with(message), "{e}");
    }
}

#[test]
fn a_manager_is_named_or_comes_from_the_user_agent() {
    assert_eq!(manager_of("m", "kubectl/v1"), "m");
    assert_eq!(manager_of("", "kubectl/v1.36 (linux)"), "kubectl");
    assert_eq!(manager_of("", ""), "unknown");
    assert_eq!(manager_of("", &"é".repeat(100)).len(), 128);
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-e]", "[x-y]", 0..5).prop_map(|m| json!(m))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn applying_twice_changes_nothing(a in data(), b in data()) {
        let live = applied(None, "a", &config(a));
        let once = on_apply(Some(&live), &config(b.clone()), true, &by("b", &CONFIG_MAP)).unwrap();
        let later = Writer { now: Timestamp::from_second(1_800_000_000).unwrap(), ..by("b", &CONFIG_MAP) };
        prop_assert_eq!(on_apply(Some(&once), &config(b), false, &later).unwrap(), once);
    }

    #[test]
    fn managers_of_different_fields_commute(a in data(), b in data()) {
        let of = |data: &Value, prefix: &str| {
            let renamed: serde_json::Map<_, _> =
                data.as_object().unwrap().iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone())).collect();
            config(Value::Object(renamed))
        };
        let (a, b) = (of(&a, "a"), of(&b, "b"));
        let ab = applied(Some(&applied(None, "a", &a)), "b", &b);
        let ba = applied(Some(&applied(None, "b", &b)), "a", &a);
        prop_assert_eq!(&ab["data"], &ba["data"]);
        // One that only joins what is there gets no time, and stands first.
        let sorted = |o: &Value| { let mut all = owners(o); all.sort_by(|a, b| a.0.cmp(&b.0)); all };
        prop_assert_eq!(sorted(&ab), sorted(&ba));
    }

    #[test]
    fn only_what_is_owned_stays(a in data(), b in data()) {
        let live = applied(None, "m", &config(a));
        let got = applied(Some(&live), "m", &config(b.clone()));
        prop_assert_eq!(&got["data"], &b);
    }
}
