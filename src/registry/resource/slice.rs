//! ResourceSlice: the devices that a driver offers.
//!
//! Rules: upstream `pkg/apis/resource/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::volume_sources::csi_driver;
use crate::registry::validate::{Field, affinity};

use super::device;

/// Longest name of a pool, bytes.
const POOL_MAX: usize = 253;
/// Sets of counters of one slice.
const COUNTER_SETS_MAX: usize = 8;

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
