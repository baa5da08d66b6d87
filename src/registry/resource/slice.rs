//! ResourceSlice: the devices that a driver offers.
//!
//! Rules: upstream `pkg/apis/resource/validation`.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::volume_sources::csi_driver;
use crate::registry::validate::{Field, affinity};
use crate::util::clock::rfc3339;

use super::device;

/// Longest name of a pool, bytes.
const POOL_MAX: usize = 253;
/// Sets of counters of one slice.
const COUNTER_SETS_MAX: usize = 8;

/// A taint without a time is from now. Upstream: `SetDefaults_DeviceTaint`.
pub fn prepare(slice: &mut Value, _old: Option<&Value>, cx: &HookCx<'_>) {
    time_taints(slice, cx.now);
}

fn time_taints(slice: &mut Value, now: Timestamp) {
    let devices = slice.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
            if taint.get("timeAdded").is_none_or(Value::is_null) {
                taint.insert("timeAdded".into(), rfc3339(now).into());
            }
        }
    }
}

/// Create and update.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    csi_driver(&spec, "driver");
    pool(&spec.at("pool"));
    placement(&spec);
    if spec.count("sharedCounters") > 0 && spec.count("devices") > 0 {
        spec.errs.invalid("", "only one of `sharedCounters` or `devices` is allowed");
    }
    device::devices(&spec, old);
    counter_sets(&spec);
    if let Some(old) = old {
        spec.immutable("driver", &old["spec"]);
        spec.at("pool").immutable("name", &old["spec"]["pool"]);
        spec.immutable("nodeName", &old["spec"]);
    }
}

/// `sharedCounters`: what devices of the pool share.
fn counter_sets(spec: &Field<'_>) {
    let count = spec.count("sharedCounters");
    if count > COUNTER_SETS_MAX {
        spec.errs.at("sharedCounters").too_many(count, COUNTER_SETS_MAX);
        return;
    }
    let mut seen = Vec::new();
    for set in spec.items("sharedCounters") {
        device::counters(&set, "name");
        let name = set.text("name");
        if seen.contains(&name) {
            set.errs.duplicate(name);
        }
        seen.push(name);
    }
}

fn pool(pool: &Field<'_>) {
    if pool.needs("name") {
        let name = pool.text("name");
        if name.len() > POOL_MAX {
            pool.errs.at("name").too_long(POOL_MAX);
        }
        for part in name.split('/') {
            pool.at("name").reasons(names::dns1123_subdomain(part));
        }
    }
    if pool.int("resourceSliceCount").unwrap_or(0) <= 0 {
        pool.errs
            .at("resourceSliceCount")
            .invalid(pool.int("resourceSliceCount").unwrap_or(0), "must be greater than zero");
    }
    pool.not_negative("generation");
}

/// On a node, on some nodes, on all, or told per device: exactly one.
fn placement(spec: &Field<'_>) {
    let mut given = 0;
    if spec.has("nodeName") {
        let node = spec.at("nodeName");
        if node.as_text().is_empty() {
            node.invalid("must be either unset or set to a non-empty string");
        } else {
            given += 1;
            node.reasons(names::dns1123_subdomain(node.as_text()));
        }
    }
    let selector = spec.at("nodeSelector");
    if !selector.value.is_null() {
        given += 1;
        affinity::node_selector(&selector, true);
        if selector.count("nodeSelectorTerms") != 1 {
            selector.at("nodeSelectorTerms").invalid("must have exactly one node selector term");
        }
    }
    for switch in ["allNodes", "perDeviceNodeSelection"] {
        match spec.value.get(switch) {
            Some(Value::Bool(true)) => given += 1,
            Some(Value::Bool(false)) => spec.at(switch).invalid("must be either unset or set to true"),
            _ => {}
        }
    }
    let which = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given {
        0 => spec.errs.required(which),
        1 => {}
        _ => spec.invalid(which),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_taint_is_from_now_unless_it_says_when() {
        let taints = json!([{"key": "a"}, {"key": "b", "timeAdded": "2020-01-01T00:00:00Z"}]);
        let mut slice = json!({"spec": {"devices": [{"name": "x"}, {"name": "y", "taints": taints}]}});
        time_taints(&mut slice, "2026-01-01T00:00:00.5Z".parse().unwrap());
        let times = ["0", "1"].map(|i| slice.pointer(&format!("/spec/devices/1/taints/{i}/timeAdded")).cloned());
        assert_eq!(times, [Some("2026-01-01T00:00:00Z".into()), Some("2020-01-01T00:00:00Z".into())]);
    }
}
