//! ResourceSlice: the devices that a driver offers.
//!
//! Rules: upstream `pkg/apis/resource/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;

use super::claim::driver;

/// Longest name of a pool, bytes.
const POOL_MAX: usize = 253;
/// Devices of one slice.
const DEVICES_MAX: usize = 128;
/// Longest text or version of an attribute, bytes.
const ATTRIBUTE_MAX: usize = 64;

/// Create and update.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    driver(&spec);
    pool(&spec.at("pool"));
    placement(&spec);
    if spec.count("devices") > DEVICES_MAX {
        spec.errs.at("devices").too_many(spec.count("devices"), DEVICES_MAX);
    }
    let mut seen = Vec::new();
    for device in spec.items("devices") {
        let name = device.text("name");
        device.errs.at("name").all_invalid(name, names::dns1123_label(name));
        if seen.contains(&name) {
            device.errs.at("name").duplicate(name);
        }
        seen.push(name);
        device.entries("attributes").for_each(|(_, a)| attribute(&a));
    }
    if let Some(old) = old {
        spec.immutable("driver", &old["spec"]);
        spec.at("pool").immutable("name", &old["spec"]["pool"]);
        spec.immutable("nodeName", &old["spec"]);
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
    given += usize::from(spec.has("nodeSelector"));
    for switch in ["allNodes", "perDeviceNodeSelection"] {
        match spec.value.get(switch) {
            Some(Value::Bool(true)) => given += 1,
            Some(Value::Bool(false)) => spec.at(switch).invalid("must be either unset or set to true"),
            _ => {}
        }
    }
    let which = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given {
        0 if spec.count("sharedCounters") == 0 => spec.errs.required(which),
        0 | 1 => {}
        _ => spec.invalid(which),
    }
}

fn attribute(a: &Field<'_>) {
    let kinds = ["bool", "int", "string", "version"];
    match kinds.iter().filter(|k| a.has(k)).count() {
        1 => {}
        _ => a.invalid("exactly one value must be specified"),
    }
    if a.text("string").len() > ATTRIBUTE_MAX {
        a.errs.at("string").too_long(ATTRIBUTE_MAX);
    }
    if a.has("version") {
        let version = a.text("version");
        if !is_semantic(version) {
            a.at("version").invalid("must be a string compatible with semver.org spec 2.0.0");
        }
        if version.len() > ATTRIBUTE_MAX {
            a.errs.at("version").too_long(ATTRIBUTE_MAX);
        }
    }
}

/// `1.2.3-pre.1+build`.
fn is_semantic(version: &str) -> bool {
    let (rest, build) = version.split_once('+').map_or((version, None), |(a, b)| (a, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let numeric = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit()) && (t == "0" || !t.starts_with('0'));
    let words =
        |t: &str| t.split('.').all(|w| !w.is_empty() && w.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'));
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3 && parts.into_iter().all(numeric) && pre.is_none_or(words) && build.is_none_or(words)
}

#[cfg(test)]
mod tests {
    use super::is_semantic;
    use test_case::test_case;

    #[test_case("1.2.3", true)]
    #[test_case("1.2.3-rc.1+x", true)]
    #[test_case("1.2", false)]
    #[test_case("01.2.3", false)]
    #[test_case("", false)]
    fn versions(text: &str, want: bool) {
        assert_eq!(is_semantic(text), want);
    }
}
