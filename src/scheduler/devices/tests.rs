//! Devices, claims and a node, as tables: what is found, and what is written down.

use std::sync::Arc;

use serde_json::{Value, json};
use test_case::test_case;

use super::Inventory;
use super::model::Claim;
use super::result;
use super::search::{Trouble, allocate};
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::scheduler::cluster::NodeInfo;

const DRIVER: &str = "d.test";

fn object(value: &Value) -> Object {
    Object::from_value(value, &[])
}

fn node(name: &str) -> NodeInfo {
    let value = json!({"metadata": {"name": name, "labels": {"zone": "a"}}, "spec": {}, "status": {}});
    NodeInfo::new(&object(&value)).unwrap()
}

/// A slice of the pool of `n1`, unless `spec` says something else.
fn slice(name: &str, spec: Value) -> Object {
    let mut whole = json!({"metadata": {"name": name}, "spec": {"driver": DRIVER, "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1}}});
    for (key, value) in spec.as_object().unwrap() {
        match value {
            Value::Null => drop(whole.remove_at(&format!("/spec/{key}"))),
            value => whole["spec"][key] = value.clone(),
        }
    }
    object(&whole)
}

fn claim(name: &str, devices: Value) -> Object {
    object(&json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"devices": devices}}))
}

/// Requests `r0`, `r1`, …, each with this of its `exactly`.
fn requests(exactly: &[Value]) -> Value {
    let one = |(i, of): (usize, &Value)| {
        let mut exactly = of.clone();
        exactly.set_if_absent("/deviceClassName", "gpu");
        json!({"name": format!("r{i}"), "exactly": exactly})
    };
    json!({"requests": exactly.iter().enumerate().map(one).collect::<Vec<_>>()})
}

fn inventory(slices: Vec<Object>) -> Inventory {
    let mut out = Inventory::default();
    out.set_class(&object(&json!({"metadata": {"name": "gpu"}, "spec": {
        "selectors": [{"cel": {"expression": "device.driver == 'd.test'"}}],
        "config": [{"opaque": {"driver": DRIVER, "parameters": {"of": "class"}}}]}})));
    slices.iter().for_each(|s| out.set_slice(s));
    out
}

fn attributes(model: &str, slot: i64) -> Value {
    json!({"model": {"string": model}, "slot": {"int": slot}})
}

/// Four devices: two of one model, one of another, one with a taint.
fn four() -> Value {
    json!({"devices": [
        {"name": "d0", "attributes": attributes("a", 0)},
        {"name": "d1", "attributes": attributes("b", 1)},
        {"name": "d2", "attributes": attributes("a", 2)},
        {"name": "d3", "attributes": attributes("b", 2), "taints": [{"key": "sick", "effect": "NoSchedule"}]}]})
}

/// The allocations that claims get on a node.
fn allocations(inventory: &Inventory, claims: &[Object], on: &str) -> Result<Option<Vec<Value>>, Trouble> {
    let claims: Vec<Arc<Claim>> = claims.iter().map(|c| Arc::new(Claim::new(c))).collect();
    let found = allocate(inventory, &claims, &node(on))?;
    let config = |class: &str| inventory.class(class).map(|c| c.config.clone()).unwrap_or_default();
    Ok(found.map(|s| claims.iter().enumerate().map(|(i, c)| result::allocation(&s, i, c, on, &config)).collect()))
}

/// `request:device …` of one claim on `n1`; `-` where there are none.
fn found(inventory: &Inventory, devices: Value) -> String {
    match allocations(inventory, &[claim("c", devices)], "n1") {
        Ok(None) => "-".to_owned(),
        Ok(Some(all)) => {
            let of = |r: &Value| format!("{}:{}", r["request"].as_str().unwrap(), r["device"].as_str().unwrap());
            all[0].items_at("/devices/results").iter().map(of).collect::<Vec<_>>().join(" ")
        }
        Err(Trouble::Wrong(why) | Trouble::Here(why)) => why,
        Err(Trouble::TooMany) => "too many".to_owned(),
    }
}

fn cel(text: &str) -> Value {
    json!([{"cel": {"expression": text}}])
}

#[test_case(requests(&[json!({})]), "r0:d0"; "the first")]
#[test_case(requests(&[json!({"count": 3})]), "r0:d0 r0:d1 r0:d2"; "so many")]
#[test_case(requests(&[json!({"count": 4})]), "-"; "the tainted one does not count")]
#[test_case(requests(&[json!({"count": 4, "tolerations": [{"key": "sick", "operator": "Exists"}]})]),
    "r0:d0 r0:d1 r0:d2 r0:d3"; "unless it is tolerated")]
#[test_case(requests(&[json!({"allocationMode": "All", "selectors": cel("device.attributes['d.test'].model == 'a'")})]),
    "r0:d0 r0:d2"; "all that match")]
#[test_case(requests(&[json!({"allocationMode": "All"})]), "-"; "all, of which one is tainted")]
#[test_case(requests(&[json!({"selectors": cel("device.attributes['d.test'].slot > 0")})]), "r0:d1"; "selected")]
#[test_case(requests(&[json!({"selectors": cel("device.attributes['d.test'].nothing > 0")})]),
    "claim n/c: selector #0 on device d.test/n1/d0: CEL runtime error: no such key: nothing"; "what is not there is an error")]
#[test_case(requests(&[json!({}), json!({"selectors": cel("device.attributes['d.test'].slot == 0")})]),
    "r0:d1 r1:d0"; "an earlier request gives way")]
#[test_case(requests(&[json!({"deviceClassName": "none"})]),
    "claim n/c, request r0: could not retrieve device class none: not found"; "no such class")]
#[test_case(requests(&[json!({"count": 33})]),
    "claim n/c: number of requested devices 33 exceeds the claim limit of 32"; "more than a claim may have")]
fn requests_find_devices(devices: Value, want: &str) {
    assert_eq!(found(&inventory(vec![slice("s", four())]), devices), want);
}

#[test_case(json!({"matchAttribute": "d.test/model"}), 2, "r0:d0 r1:d2"; "the same")]
#[test_case(json!({"matchAttribute": "d.test/model"}), 3, "-"; "not three of one model")]
#[test_case(json!({"distinctAttribute": "d.test/model"}), 2, "r0:d0 r1:d1"; "different")]
#[test_case(json!({"distinctAttribute": "d.test/slot", "requests": ["r1", "r2"]}), 3, "r0:d0 r1:d1 r2:d2"; "of some")]
#[test_case(json!({"matchAttribute": "other.test/model"}), 1, "-"; "an attribute that none has")]
fn constraints_hold_over_all_devices(constraint: Value, count: usize, want: &str) {
    let mut devices = requests(&vec![json!({}); count]);
    devices["constraints"] = json!([constraint]);
    assert_eq!(found(&inventory(vec![slice("s", four())]), devices), want);
}

#[test]
fn the_first_choice_that_is_there_is_taken() {
    let choice = |name: &str, count: i64, model: &str| {
        json!({"name": name, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count,
            "selectors": cel(&format!("device.attributes['d.test'].model == '{model}'"))})
    };
    let of = |choices: &[Value]| json!({"requests": [{"name": "r", "firstAvailable": choices}]});
    let inventory = inventory(vec![slice("s", four())]);
    assert_eq!(found(&inventory, of(&[choice("big", 3, "a"), choice("small", 2, "a")])), "r/small:d0 r/small:d2");
    assert_eq!(found(&inventory, of(&[choice("big", 40, "a"), choice("small", 1, "b")])), "r/small:d1");
    assert_eq!(found(&inventory, of(&[choice("big", 3, "a")])), "-");
    let mut devices = of(&[choice("big", 3, "a"), choice("small", 1, "a")]);
    devices["config"] = json!([
        {"requests": ["r/big"], "opaque": {"driver": DRIVER, "parameters": {"of": "big"}}},
        {"requests": ["r/small"], "opaque": {"driver": DRIVER, "parameters": {"of": "small"}}}]);
    let got = allocations(&inventory, &[claim("c", devices)], "n1").unwrap().unwrap();
    let of = |c: &Value| (c["source"].clone(), c.pointer("/opaque/parameters/of").cloned().unwrap());
    let configs: Vec<_> = got[0].items_at("/devices/config").iter().map(of).collect();
    assert_eq!(configs, [(json!("FromClass"), json!("class")), (json!("FromClaim"), json!("small"))]);
}

#[test]
fn what_is_taken_is_not_given_again_but_to_administrators() {
    let mut inventory = inventory(vec![slice("s", json!({"devices": [{"name": "d0"}]}))]);
    let one = requests(&[json!({})]);
    let got = allocations(&inventory, &[claim("c", one.clone())], "n1").unwrap().unwrap();
    inventory.promise("c", &got[0]);
    assert_eq!((found(&inventory, one.clone()), inventory.is_pending("c")), ("-".into(), true));
    assert_eq!(found(&inventory, requests(&[json!({"adminAccess": true})])), "r0:d0");
    // Seen with its allocation, it is not on its way any more; without it the device is free.
    let mut seen = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c", "resourceVersion": "2"},
        "spec": {"devices": one}, "status": {"allocation": got[0]}});
    let at = |value: &Value, revision| Object { revision, ..object(value) };
    inventory.set_claim(&at(&seen, 2));
    assert_eq!((found(&inventory, requests(&[json!({})])), inventory.is_pending("c")), ("-".into(), false));
    seen.remove_at("/status");
    inventory.set_claim(&at(&seen, 1));
    assert_eq!(found(&inventory, requests(&[json!({})])), "-", "older news does not count");
    inventory.set_claim(&at(&seen, 3));
    assert_eq!(found(&inventory, requests(&[json!({})])), "r0:d0");
    let both = [claim("a", requests(&[json!({})])), claim("b", requests(&[json!({})]))];
    assert_eq!(allocations(&inventory, &both, "n1"), Ok(None), "one device is not for two claims");
}

#[test]
fn parts_of_a_device_share_its_counters() {
    let counters = |n: &str| json!([{"counterSet": "memory", "counters": {"bytes": {"value": n}}}]);
    let slices = || {
        let pool = json!({"name": "n1", "generation": 1, "resourceSliceCount": 2});
        vec![
            slice(
                "counters",
                json!({"pool": pool,
                "sharedCounters": [{"name": "memory", "counters": {"bytes": {"value": "8Gi"}}}]}),
            ),
            slice(
                "devices",
                json!({"pool": pool, "devices": [
                {"name": "whole", "consumesCounters": counters("8Gi")},
                {"name": "half0", "consumesCounters": counters("4Gi")},
                {"name": "half1", "consumesCounters": counters("4Gi")}]}),
            ),
        ]
    };
    let mut inventory = inventory(slices());
    assert_eq!(found(&inventory, requests(&[json!({})])), "r0:whole");
    assert_eq!(found(&inventory, requests(&[json!({}), json!({})])), "r0:half0 r1:half1");
    assert_eq!(found(&inventory, requests(&[json!({"count": 3})])), "-");
    inventory.promise("x", &json!({"devices": {"results": [{"driver": DRIVER, "pool": "n1", "device": "half1"}]}}));
    assert_eq!(found(&inventory, requests(&[json!({})])), "r0:half0", "the whole is not there any more");
}

#[test]
fn a_device_for_several_gives_parts_of_its_capacity() {
    let device = json!({"name": "nic", "allowMultipleAllocations": true, "capacity": {"bandwidth": {"value": "10",
        "requestPolicy": {"default": "1", "validRange": {"min": "1", "step": "2"}}}}});
    let mut inventory = inventory(vec![slice("s", json!({"devices": [device]}))]);
    let wants = |n: &str| requests(&[json!({"capacity": {"requests": {"bandwidth": n}}})]);
    let got = allocations(&inventory, &[claim("c", wants("6"))], "n1").unwrap().unwrap();
    let result = &got[0]["devices"]["results"][0];
    assert_eq!((&result["consumedCapacity"], result["shareID"].is_string()), (&json!({"bandwidth": "7"}), true));
    inventory.promise("c", &got[0]);
    assert_eq!(found(&inventory, wants("4")), "-");
    assert_eq!(found(&inventory, wants("3")), "r0:nic");
    assert_eq!(found(&inventory, requests(&[json!({})])), "r0:nic", "the default");
    assert_eq!(found(&inventory, requests(&[json!({"capacity": {"requests": {"other": "1"}}})])), "-");
    inventory.forget("c");
    assert_eq!(found(&inventory, wants("4")), "r0:nic");
}

#[test]
fn pools_are_of_one_generation_and_whole() {
    let of = |name: &str, generation: i64, count: i64, device: &str| {
        slice(
            name,
            json!({"pool": {"name": "n1", "generation": generation, "resourceSliceCount": count},
            "devices": [{"name": device}]}),
        )
    };
    let one = || requests(&[json!({})]);
    assert_eq!(found(&inventory(vec![of("a", 1, 1, "old"), of("b", 2, 1, "new")]), one()), "r0:new");
    assert_eq!(found(&inventory(vec![of("a", 1, 2, "d")]), one()), "-", "a slice is missing");
    let twice = inventory(vec![of("a", 1, 2, "d"), of("b", 1, 2, "d")]);
    assert_eq!(found(&twice, one()), "invalid resource pools were encountered");
    assert_eq!(
        found(&inventory(vec![of("a", 1, 2, "d")]), requests(&[json!({"allocationMode": "All"})])),
        "claim n/c, request r0: asks for all devices, but resource pool d.test/n1 is currently being updated"
    );
    let mut gone = inventory(vec![of("a", 1, 1, "d")]);
    gone.remove_slice(&of("a", 1, 1, "d"));
    assert_eq!(found(&gone, one()), "-");
}

/// A slice of counters `set`, and one of a device that takes from them.
fn counted(sets: &[&str], set: &str, counter: &str) -> Inventory {
    let pool = json!({"name": "n1", "generation": 1, "resourceSliceCount": 2});
    let sets: Vec<Value> = sets.iter().map(|s| json!({"name": s, "counters": {"bytes": {"value": "8"}}})).collect();
    let device = json!({"name": "d", "consumesCounters": [{"counterSet": set, "counters": {counter: {"value": "1"}}}]});
    inventory(vec![
        slice("counters", json!({"pool": pool, "sharedCounters": sets})),
        slice("devices", json!({"pool": pool, "devices": [device]})),
    ])
}

#[test_case(&["a"], "a", "bytes", "r0:d"; "as it should be")]
#[test_case(&["a"], "b", "bytes", "invalid resource pools were encountered"; "no such set")]
#[test_case(&["a"], "a", "cores", "invalid resource pools were encountered"; "no such counter")]
#[test_case(&["a", "a"], "a", "bytes", "invalid resource pools were encountered"; "a set twice")]
fn counters_must_be_there(sets: &[&str], set: &str, counter: &str, want: &str) {
    assert_eq!(found(&counted(sets, set, counter), requests(&[json!({})])), want);
    if want != "r0:d" {
        let why = "claim n/c, request r0: asks for all devices, but resource pool d.test/n1 is currently invalid";
        assert_eq!(found(&counted(sets, set, counter), requests(&[json!({"allocationMode": "All"})])), why);
    }
}

#[test]
fn a_choice_is_told_by_its_own_name() {
    let devices = json!({"requests": [{"name": "r", "firstAvailable": [{"name": "sub", "deviceClassName": "none"}]}]});
    let want = "claim n/c, request sub: could not retrieve device class none: not found";
    assert_eq!(found(&inventory(vec![slice("s", four())]), devices), want);
}

#[test]
fn the_allocation_says_which_nodes_reach_the_devices() {
    let zone =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
    let named = json!({"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    let of = |spec: Value| {
        let inventory = inventory(vec![slice("s", spec)]);
        let got = allocations(&inventory, &[claim("c", requests(&[json!({})]))], "n1").unwrap();
        got.map(|all| all[0].get("nodeSelector").cloned())
    };
    let one = json!([{"name": "d0"}]);
    assert_eq!(of(json!({"devices": one})), Some(Some(named.clone())));
    assert_eq!(of(json!({"nodeName": "n2", "devices": one})), None);
    assert_eq!(of(json!({"nodeName": null, "allNodes": true, "devices": one})), Some(None));
    assert_eq!(of(json!({"nodeName": null, "nodeSelector": zone, "devices": one})), Some(Some(zone)));
    let each = json!([{"name": "d0", "nodeName": "n2"}, {"name": "d1", "nodeName": "n1"}]);
    assert_eq!(of(json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": each})), Some(Some(named)));
}

#[test]
fn a_search_without_an_end_is_ended() {
    let devices: Vec<Value> =
        (0..32).map(|n| json!({"name": format!("d{n}"), "attributes": attributes("a", n)})).collect();
    let mut devices_wanted = requests(&vec![json!({}); 32]);
    devices_wanted["constraints"] = json!([{"matchAttribute": "d.test/slot", "requests": ["r31", "r0"]}]);
    let inventory = inventory(vec![slice("s", json!({"devices": devices}))]);
    assert_eq!(found(&inventory, devices_wanted), "timed out trying to allocate devices");
}
