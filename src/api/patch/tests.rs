//! Strategic merge and three-way patches over the built-in types.

use proptest::prelude::*;
use serde_json::{Value, json};
use test_case::test_case;

use super::{strategic, three_way, three_way_merge};
use crate::api::schema::{View, table};
use crate::api::value::ValueExt;

fn view(group: &str, kind: &str) -> View<'static> {
    View::of(table().kind(group, "v1", kind).unwrap())
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

fn patched(spec: Value, patch: Value) -> Value {
    strategic::apply(pod(spec), pod(patch), view("", "Pod")).unwrap()["spec"].take()
}

fn containers() -> Value {
    json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}])
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test_case(json!({"containers": [{"name": "b", "image": "2"}]}), &["a", "b"]; "what is only changed stays where it is")]
#[test_case(json!({"containers": [{"name": "c"}]}), &["c", "a", "b"]; "what is new comes first")]
#[test_case(json!({"containers": [{"name": "a", "$patch": "delete"}]}), &["b"]; "delete")]
#[test_case(json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}), &["c"]; "replace")]
#[test_case(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), &["b", "a"]; "order alone")]
#[test_case(json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "m"}, {"name": "b"}], "containers": [{"name": "m"}]}),
    &["a", "m", "b"]; "order of what is new")]
#[test_case(json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}], "containers": [{"name": "c"}]}),
    &["c", "a", "b"]; "the server's own keeps its place")]
#[test_case(json!({"$patch": "replace", "containers": [{"name": "z"}]}), &["z"]; "a map replaced")]
fn merges_lists(patch: Value, want: &[&str]) {
    let got = patched(json!({"containers": containers()}), patch);
    assert_eq!(names(&got["containers"]), want);
    assert!(!got.to_string().contains('$'));
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    let got = patched(
        json!({"containers": containers(), "tolerations": [{"key": "a"}]}),
        json!({"containers": [{"name": "a", "args": ["z"]}], "tolerations": [{"key": "b"}]}),
    );
    assert_eq!(got["containers"][0], json!({"name": "a", "image": "1", "args": ["z"]}));
    assert_eq!(got["tolerations"], json!([{"key": "b"}]));
}

#[test]
fn retained_keys_drop_the_others() {
    let got = patched(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
    );
    assert_eq!(got["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
}

#[test_case(json!({"finalizers": ["c"]}), json!(["c", "a", "b"]); "added")]
#[test_case(json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"]); "deleted")]
#[test_case(json!({"$setElementOrder/finalizers": ["b", "a"]}), json!(["b", "a"]); "ordered")]
#[test_case(json!({"finalizers": ["b"]}), json!(["a", "b"]); "there already")]
#[test_case(json!({"finalizers": null}), json!(null); "all gone")]
fn merges_scalars(patch: Value, want: Value) {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let got = strategic::apply(object, json!({"metadata": patch}), view("", "Pod")).unwrap();
    assert_eq!(got["metadata"]["finalizers"], want);
}

#[test_case(json!({"spec": {"containers": [{"image": "z"}]}}), "map: map[image:z] does not contain declared merge key: name")]
#[test_case(json!({"metadata": {"labels": {"$patch": "explode"}}}), "unknown patch type: explode in map: map[$patch:explode]")]
#[test_case(json!({"spec": {"containers": [{"$patch": "explode", "name": "a"}]}}),
    "unknown patch type: explode in map: map[$patch:explode name:a]")]
#[test_case(json!({"spec": {"securityContext": {"$retainKeys": ["a"], "runAsUser": 1}}}), "invalid patch format of retainKeys")]
#[test_case(json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b", "image": "9"}]}}),
    "The order in patch list:\n[map[image:9 name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n")]
fn refuses(patch: Value, message: &str) {
    let object = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers(), "securityContext": {"fsGroup": 1}}});
    let status = strategic::apply(object, patch, view("", "Pod")).unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (400, message));
}

#[test]
fn a_three_way_patch_says_what_kubectl_would() {
    let original =
        pod(json!({"containers": [{"name": "a", "image": "1"}, {"name": "old", "image": "1"}], "hostname": "h"}));
    let modified = pod(json!({"containers": [{"name": "a", "image": "2"}]}));
    let current =
        pod(json!({"containers": [{"name": "a", "image": "1"}, {"name": "old", "image": "1"}, {"name": "side"}],
        "hostname": "h", "nodeName": "n"}));
    let patch = three_way(&original, &modified, &current, view("", "Pod"));
    assert_eq!(
        patch,
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"image": "2", "name": "a"}, {"$patch": "delete", "name": "old"}], "hostname": null}})
    );
    let got = strategic::apply(current, patch, view("", "Pod")).unwrap();
    assert_eq!(names(&got["spec"]["containers"]), ["a", "side"]);
    assert_eq!(got.str_at("/spec/nodeName"), Some("n"));
}

#[test]
fn a_union_names_what_may_stay() {
    let deployment = |strategy: Value| json!({"spec": {"strategy": strategy}});
    let rolling = deployment(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}));
    let patch = three_way(&json!({}), &deployment(json!({"type": "Recreate"})), &rolling, view("apps", "Deployment"));
    assert_eq!(patch, deployment(json!({"$retainKeys": ["type"], "type": "Recreate"})));
}

#[test]
fn nothing_to_do_is_an_empty_patch() {
    let modified = pod(json!({"containers": [{"name": "b", "image": "1"}]}));
    let current = pod(json!({"containers": containers()}));
    assert_eq!(three_way(&modified, &modified, &current, view("", "Pod")), json!({}));
    assert_eq!(three_way_merge(&json!({}), &json!({"a": 1}), &json!({"a": 1, "b": 2})), json!({}));
}

/// Pods with few fields and many collisions.
fn some_pod() -> impl Strategy<Value = Value> {
    let container = ("[a-d]", 0..3u8, prop::collection::vec("[x-z]", 0..3))
        .prop_map(|(name, image, args)| json!({"name": name, "image": format!("i{image}"), "args": args}));
    let labels = prop::collection::btree_map("[a-c]", "[a-c]", 0..3);
    let finalizers = prop::collection::btree_set("[a-d]", 0..3);
    (prop::collection::vec(container, 0..4), labels, finalizers, prop::option::of("[a-b]")).prop_map(
        |(mut containers, labels, finalizers, hostname)| {
            let mut seen = std::collections::BTreeSet::new();
            containers.retain(|c| seen.insert(c["name"].to_string()));
            let mut o =
                json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}});
            if let Some(name) = hostname {
                o.set_at("/spec/hostname", name);
            }
            o
        },
    )
}

/// True when `object` has everything that `part` says; lists of elements by name, others exactly.
fn has(object: &Value, part: &Value) -> bool {
    match (object, part) {
        (Value::Object(o), Value::Object(p)) => p.iter().all(|(k, v)| o.get(k).is_some_and(|w| has(w, v))),
        (Value::Array(o), Value::Array(p)) => p.iter().all(|v| match v.get("name") {
            Some(name) => o.iter().any(|w| w.get("name") == Some(name) && has(w, v)),
            None => o.contains(v),
        }),
        _ => object == part,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_three_way_patch_brings_what_was_asked(original in some_pod(), modified in some_pod(), current in some_pod()) {
        let view = view("", "Pod");
        let patch = three_way(&original, &modified, &current, view);
        let got = strategic::apply(current, patch.clone(), view).unwrap();
        prop_assert!(has(&got, &modified), "{got} lacks some of {modified} by {patch}");
        // What was applied before and is no longer wanted is gone.
        for name in original["metadata"]["labels"].as_object().unwrap().keys() {
            let wanted = modified["metadata"]["labels"].get(name).is_some();
            prop_assert!(wanted || got["metadata"]["labels"].get(name).is_none());
        }
        prop_assert_eq!(three_way(&modified, &modified, &got, view), json!({}), "applied a second time");
    }

    #[test]
    fn a_merge_patch_brings_what_was_asked(original in some_pod(), modified in some_pod(), current in some_pod()) {
        let patch = three_way_merge(&original, &modified, &current);
        let got = super::merge::apply(current, patch).unwrap();
        prop_assert!(has(&got, &modified));
    }
}
