//! What holds of applies whatever is applied: on Deployments, whose lists are told apart by keys, and on custom kinds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fieldset::FieldSet;
use super::*;
use crate::api::schema::table;

static NO_RESET: FieldSet<'static> = FieldSet::EMPTY;
static DEPLOYMENT: Gvk = Gvk::new("apps", "v1", "Deployment");

fn by(manager: &str, at: i64) -> Writer<'_> {
    let def = table().kind("apps", "v1", "Deployment").expect("the table has Deployments");
    let now = Timestamp::from_second(at).expect("a time");
    Writer { manager, subresource: "", gvk: &DEPLOYMENT, view: View::of(def), reset: &NO_RESET, now }
}

fn apply(live: Option<&Value>, manager: &str, config: &Value) -> Value {
    on_apply(live, config, true, &by(manager, 1_700_000_000)).expect("forced applies of valid configurations succeed")
}

/// Environment, ports and arguments of a container, of which the last are one value.
fn container() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[x-y]", 0..3);
    let ports = prop::collection::btree_map(
        prop_oneof![Just((80, "TCP")), Just((80, "UDP")), Just((443, "TCP"))],
        "[p-q]",
        0..3,
    );
    let args = prop::option::of(prop::collection::vec("[a-b]", 1..3));
    (prop::option::of("[i-j]"), env, ports, args).prop_map(|(image, env, ports, args)| {
        let mut out = json!({});
        if let Some(image) = image {
            out["image"] = image.into();
        }
        if !env.is_empty() {
            out["env"] = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
        if !ports.is_empty() {
            let one = |((port, protocol), name): ((i32, &str), String)| json!({"containerPort": port, "protocol": protocol, "name": name});
            out["ports"] = ports.into_iter().map(one).collect();
        }
        if let Some(args) = args {
            out["args"] = json!(args);
        }
        out
    })
}

/// Containers and labels by name.
type Parts = (BTreeMap<String, Value>, BTreeMap<String, String>, Option<i32>);

fn parts() -> impl Strategy<Value = Parts> {
    let containers = prop::collection::btree_map("[a-c]", container(), 0..3);
    (containers, prop::collection::btree_map("[k-m]", "[x-y]", 0..3), prop::option::of(1..4i32))
}

/// A configuration; the prefix keeps its names apart from others'.
fn config((containers, labels, replicas): &Parts, prefix: &str) -> Value {
    let mut out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    for (name, value) in labels {
        out["metadata"]["labels"][format!("{prefix}{name}")] = value.as_str().into();
    }
    if let Some(replicas) = replicas.filter(|_| prefix.is_empty()) {
        out["spec"]["replicas"] = replicas.into();
    }
    let named = containers.iter().map(|(name, container)| {
        let mut container = container.clone();
        container["name"] = format!("{prefix}{name}").into();
        container
    });
    let all: Vec<Value> = named.collect();
    if !all.is_empty() {
        out["spec"]["template"]["spec"]["containers"] = all.into();
    }
    out
}

/// What an object says, with lists of named things in the order of their names: that is not for managers to settle.
fn sorted(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(metadata) = out["metadata"].as_object_mut() {
        metadata.shift_remove("managedFields");
    }
    if let Some(all) = out.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut) {
        all.sort_by_key(|c| c["name"].to_string());
        for container in all {
            for list in ["env", "ports"] {
                if let Some(items) = container.get_mut(list).and_then(Value::as_array_mut) {
                    items.sort_by_key(|i| (i["name"].to_string(), i.to_string()));
                }
            }
        }
    }
    out
}

/// Who owns what, whenever they did it.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let of = |e: &Value| (managed::text(e, "manager").to_owned(), e["fieldsV1"].clone());
    let mut all: Vec<_> = managed::of(object).iter().map(of).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn applying_again_changes_nothing(a in parts(), b in parts()) {
        let once = apply(Some(&apply(None, "a", &config(&a, ""))), "b", &config(&b, ""));
        let again = on_apply(Some(&once), &config(&b, ""), false, &by("b", 1_800_000_000));
        prop_assert_eq!(again.expect("who owns all of it has no conflict"), once);
    }

    #[test]
    fn managers_of_different_things_commute(a in parts(), b in parts()) {
        let (a, b) = (config(&a, "a"), config(&b, "b"));
        let ab = apply(Some(&apply(None, "a", &a)), "b", &b);
        let ba = apply(Some(&apply(None, "b", &b)), "a", &a);
        prop_assert_eq!(sorted(&ab), sorted(&ba));
        prop_assert_eq!(owners(&ab), owners(&ba));
    }

    #[test]
    fn what_nobody_owns_any_more_goes_away(a in parts(), b in parts(), other in parts()) {
        let other = config(&other, "o");
        let live = apply(Some(&apply(None, "m", &config(&a, ""))), "o", &other);
        let got = apply(Some(&live), "m", &config(&b, ""));
        let fresh = apply(Some(&apply(None, "o", &other)), "m", &config(&b, ""));
        prop_assert_eq!(owners(&got), owners(&fresh));
        // What held only fields of the one who let go stays, empty, as upstream leaves it.
        prop_assert_eq!(without_empty(&sorted(&got)), without_empty(&sorted(&fresh)));
    }

    #[test]
    fn what_others_own_stays(a in parts(), b in parts()) {
        // Both own what both say alike; one lets go of all.
        let both = apply(Some(&apply(None, "a", &config(&a, ""))), "b", &config(&b, ""));
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        let left = apply(Some(&both), "a", &nothing);
        let alone = apply(None, "b", &config(&b, ""));
        prop_assert_eq!(without_empty(&sorted(&left)), without_empty(&sorted(&alone)));
        let others_own = owners(&left).iter().any(|(manager, fields)| manager != "b" && fields != &json!({}));
        prop_assert!(!others_own);
    }

    #[test]
    fn conflicts_name_those_who_own_and_only_those(a in parts(), b in parts()) {
        let live = apply(None, "a", &config(&a, ""));
        match on_apply(Some(&live), &config(&b, ""), false, &by("b", 1_700_000_000)) {
            Ok(merged) => prop_assert_eq!(merged, apply(Some(&live), "b", &config(&b, ""))),
            Err(ApplyError::Conflicts(conflicts)) => {
                prop_assert!(!conflicts.is_empty());
                let forced = apply(Some(&live), "b", &config(&b, ""));
                prop_assert!(sorted(&forced) != sorted(&live), "what conflicts would change something");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// Without maps, lists and structs that hold nothing.
fn without_empty(value: &Value) -> Value {
    let empty = |v: &Value| match v {
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(members) => {
            members.iter().map(|(k, v)| (k.clone(), without_empty(v))).filter(|(_, v)| !empty(v)).collect()
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}
