//! The devices of a ResourceSlice.
//!
//! Rules: upstream `pkg/apis/resource/validation` (`validateDevice`).

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::validate::resources::amount;
use crate::registry::validate::{Field, affinity};

use super::claim::qualified;

/// Devices of one slice.
const DEVICES_MAX: usize = 128;
/// The same where devices have taints, or share counters.
const ADVANCED_DEVICES_MAX: usize = 64;
/// Attributes and capacities of one device.
const ATTRIBUTES_MAX: usize = 32;
/// Longest text or version of an attribute, bytes.
const ATTRIBUTE_MAX: usize = 64;
/// Taints of one device.
const TAINTS_MAX: usize = 16;
/// Sets of counters that one device uses.
const CONSUMED_MAX: usize = 2;
/// Counters of one set.
const COUNTERS_MAX: usize = 32;
/// Conditions for binding, and for giving it up.
const CONDITIONS_MAX: usize = 4;
/// Amounts that may be asked for.
const VALID_VALUES_MAX: usize = 10;

/// `devices`. What of a device was there before is not looked at again.
pub fn devices(spec: &Field<'_>, old: Option<&Value>) {
    let advanced = |d: &Field<'_>| d.count("taints") > 0 || d.count("consumesCounters") > 0;
    let max = if spec.items("devices").any(|d| advanced(&d)) { ADVANCED_DEVICES_MAX } else { DEVICES_MAX };
    if spec.count("devices") > max {
        spec.errs.at("devices").too_many(spec.count("devices"), max);
        return;
    }
    let before = old.map_or(&[][..], |o| o.items_at("/spec/devices"));
    let mut seen = Vec::new();
    for d in spec.items("devices") {
        let name = d.text("name");
        let was = before.iter().find(|d| d.str_at("/name") == Some(name));
        device(&d, was, spec.flag("perDeviceNodeSelection"));
        if seen.contains(&name) {
            d.errs.duplicate(name);
        }
        seen.push(name);
    }
}

fn device(d: &Field<'_>, was: Option<&Value>, per_device: bool) {
    d.errs.at("name").all_invalid(d.text("name"), names::dns1123_label(d.text("name")));
    let size = |name: &str| d.at(name).value.as_object().map_or(0, serde_json::Map::len);
    if size("attributes") + size("capacity") > ATTRIBUTES_MAX {
        d.errs.invalid(
            size("attributes") + size("capacity"),
            format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}"),
        );
    }
    for (key, value) in d.entries("attributes") {
        qualified(key, &d.errs.at("attributes"));
        attribute(&value);
    }
    let changed = |name: &str| was.is_none_or(|was| was.get(name) != d.value.get(name));
    if changed("capacity") {
        for (key, value) in d.entries("capacity") {
            qualified(key, &d.errs.at("capacity"));
            capacity(&value, d.flag("allowMultipleAllocations"));
        }
    }
    if changed("taints") {
        taints(d);
    }
    consumed(d);
    placement(d, per_device);
    binding_conditions(d);
}

fn attribute(a: &Field<'_>) {
    let kinds = ["bool", "int", "string", "version"];
    if kinds.iter().filter(|k| a.has(k)).count() != 1 {
        a.invalid("exactly one value must be specified");
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
    let is_digits = |t: &str| t.bytes().all(|c| c.is_ascii_digit());
    let numeric = |t: &str| !t.is_empty() && is_digits(t) && (t == "0" || !t.starts_with('0'));
    let word = |w: &str| !w.is_empty() && w.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts.into_iter().all(numeric)
        && pre.is_none_or(|pre| pre.split('.').all(|w| word(w) && (!is_digits(w) || numeric(w))))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// How much there is, and how much of it may be asked for at a time.
fn capacity(c: &Field<'_>, shared: bool) {
    let policy = c.at("requestPolicy");
    if policy.value.is_null() {
        return;
    }
    if !shared {
        policy.errs.forbidden("allowMultipleAllocations must be true");
        return;
    }
    let (values, range) = (policy.count("validValues") > 0, policy.at("validRange"));
    if values && !range.value.is_null() {
        policy.errs.forbidden("cannot specify \"validValues\" and \"validRange\" at the same time");
    } else if (values || !range.value.is_null()) && !policy.has("default") {
        policy.errs.at("default").required("required when validValues or validRange is defined");
    } else if values {
        valid_values(&policy, c.at("value").value);
    } else if !range.value.is_null() {
        valid_range(&range, policy.at("default").value, c.at("value").value);
    }
}

fn valid_values(policy: &Field<'_>, all: &Value) {
    let list = policy.at("validValues");
    let values: Vec<Field<'_>> = policy.items("validValues").collect();
    for pair in values.windows(2).filter(|pair| amount(pair[0].value) > amount(pair[1].value)) {
        pair[1].invalid("values must be sorted in ascending order");
    }
    if values.len() > VALID_VALUES_MAX {
        list.errs.too_many(values.len(), VALID_VALUES_MAX);
        return;
    }
    for (i, value) in values.iter().enumerate() {
        if amount(value.value) > amount(all) {
            value.invalid("option is larger than capacity value");
        }
        if values[..i].iter().any(|v| amount(v.value).value() == amount(value.value).value()) {
            value.errs.duplicate(value.value.clone());
        }
    }
    let default = amount(policy.at("default").value);
    if !values.iter().any(|v| amount(v.value) == default) {
        list.invalid("default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &Field<'_>, default: &Value, all: &Value) {
    if !range.has("min") {
        range.errs.at("min").required("required when validRange is defined");
        return;
    }
    let get = |name: &str| range.has(name).then(|| amount(range.at(name).value));
    let (default, all) = (amount(default), amount(all));
    let min = amount(range.at("min").value);
    let tell = |field: &str, why: String| range.errs.at(field).invalid(range.at(field).value.clone(), why);
    if min > all {
        tell("min", format!("min is larger than capacity value: {all}"));
    }
    if default < min {
        tell("default", format!("default is less than min: {min}"));
    }
    let max = get("max");
    if let Some(max) = max {
        if min > max {
            tell("max", format!("min is larger than max: {max}"));
        }
        if max > all {
            tell("max", format!("max is larger than capacity value: {all}"));
        }
        if default > max {
            tell("default", format!("default is more than max: {max}"));
        }
    }
    let Some(step) = get("step") else { return };
    if step.nanos() <= 0 {
        tell("step", "must be greater than zero".to_owned());
        return;
    }
    if min.plus(step) > all {
        tell("step", format!("one step is larger than capacity value: {all}"));
    }
    for value in std::iter::once(default).chain(max) {
        if step.value() > 0 && (value.value() - min.value()) % step.value() != 0 {
            tell("step", format!("{value} is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

fn taints(d: &Field<'_>) {
    if d.count("taints") > TAINTS_MAX {
        d.errs.at("taints").too_many(d.count("taints"), TAINTS_MAX);
        return;
    }
    for taint in d.items("taints") {
        taint.errs.at("key").all_invalid(taint.text("key"), names::qualified_name(taint.text("key")));
        taint.errs.at("value").all_invalid(taint.text("value"), names::label_value(taint.text("value")));
        taint.needs_one_of("effect", &["NoExecute", "NoSchedule", "None"]);
    }
}

fn consumed(d: &Field<'_>) {
    if d.count("consumesCounters") > CONSUMED_MAX {
        d.errs.at("consumesCounters").too_many(d.count("consumesCounters"), CONSUMED_MAX);
        return;
    }
    let mut seen = Vec::new();
    for set in d.items("consumesCounters") {
        counters(&set, "counterSet");
        let name = set.text("counterSet");
        if seen.contains(&name) {
            set.errs.duplicate(name);
        }
        seen.push(name);
    }
}

/// A set of counters that the member `name` names.
pub fn counters(set: &Field<'_>, name: &str) {
    if set.needs(name) {
        set.at(name).reasons(names::dns1123_label(set.text(name)));
    }
    let at = set.errs.at("counters");
    match set.entries("counters").count() {
        0 => at.required(""),
        n if n > COUNTERS_MAX => at.too_many(n, COUNTERS_MAX),
        _ => set.entries("counters").for_each(|(key, _)| at.all_invalid(key, names::dns1123_label(key))),
    }
}

/// Where a device is, in slices whose devices say so themselves.
fn placement(d: &Field<'_>, per_device: bool) {
    const FIELDS: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];
    if !per_device {
        if FIELDS.iter().any(|f| d.has(f)) {
            d.errs.invalid(
                Value::Null,
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            );
        }
        return;
    }
    let mut given = 0;
    if d.has("nodeName") {
        let node = d.at("nodeName");
        if node.as_text().is_empty() {
            node.invalid("must not be empty");
        } else {
            given += 1;
            node.reasons(names::dns1123_subdomain(node.as_text()));
        }
    }
    if d.has("nodeSelector") {
        given += 1;
        affinity::node_selector(&d.at("nodeSelector"), true);
    }
    match d.at("allNodes").value {
        Value::Bool(true) => given += 1,
        Value::Bool(false) => d.at("allNodes").invalid("must be either unset or set to true"),
        _ => {}
    }
    let which = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given {
        0 => d.errs.required(which),
        1 => {}
        _ => d.invalid(which),
    }
}

/// Conditions that a claim waits for, and those that end the waiting.
fn binding_conditions(d: &Field<'_>) {
    let wanted: Vec<&str> = d.items("bindingConditions").map(|c| c.as_text()).collect();
    for list in ["bindingConditions", "bindingFailureConditions"] {
        let fits = d.count(list) <= CONDITIONS_MAX;
        if !fits {
            d.errs.at(list).too_many(d.count(list), CONDITIONS_MAX);
        }
        let mut seen = Vec::new();
        for condition in d.items(list) {
            let text = condition.as_text();
            if fits {
                condition.reasons(names::qualified_name(text));
            }
            if seen.contains(&text) {
                condition.errs.duplicate(text);
            }
            seen.push(text);
            if list == "bindingFailureConditions" && wanted.contains(&text) {
                condition.invalid("bindingFailureConditions must not overlap with bindingConditions");
            }
        }
    }
    if d.count("bindingConditions") == 0 && d.count("bindingFailureConditions") > 0 {
        let why = "bindingConditions are required to use bindingFailureConditions";
        d.errs.at("bindingConditions").invalid(Value::Array(Vec::new()), why);
    }
    if d.count("bindingConditions") > 0 && d.count("bindingFailureConditions") == 0 {
        let why = "bindingFailureConditions are required to use bindingConditions";
        d.errs.at("bindingFailureConditions").invalid(Value::Array(Vec::new()), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("1.2.3", true)]
    #[test_case("1.2.3-rc.1+x", true)]
    #[test_case("1.2.3-01", false; "a number with a zero in front")]
    #[test_case("1.2", false)]
    #[test_case("01.2.3", false)]
    #[test_case("", false)]
    fn versions(text: &str, want: bool) {
        assert_eq!(is_semantic(text), want);
    }

    #[test_case(json!({"attributes": {"a-b": {"int": 1}}}), &["attributes"]; "a name that is no identifier")]
    #[test_case(json!({"attributes": {"x.com/a": {"int": 1, "bool": true}}}), &["attributes[x.com/a]"]; "two values")]
    #[test_case(json!({"capacity": {"m": {"value": "1", "requestPolicy": {}}}}), &["capacity[m].requestPolicy"]; "a policy of what is not shared")]
    #[test_case(json!({"allowMultipleAllocations": true, "capacity": {"m": {"value": "4", "requestPolicy": {"default": "3", "validValues": ["1", "8"]}}}}),
        &["capacity[m].requestPolicy.validValues[1]", "capacity[m].requestPolicy.validValues"]; "more than there is, and no default")]
    #[test_case(json!({"allowMultipleAllocations": true, "capacity": {"m": {"value": "8", "requestPolicy": {"default": "3", "validRange": {"min": "2", "step": "2"}}}}}),
        &["capacity[m].requestPolicy.validRange.step"]; "between two steps")]
    #[test_case(json!({"taints": [{"key": "a b", "effect": "x"}]}), &["taints[0].key", "taints[0].effect"]; "no taint")]
    #[test_case(json!({"consumesCounters": [{"counterSet": "a"}]}), &["consumesCounters[0].counters"]; "no counters")]
    #[test_case(json!({"nodeName": "n"}), &["<nil>"]; "a place of its own")]
    #[test_case(json!({"bindingConditions": ["a"], "bindingFailureConditions": ["a"]}), &["bindingFailureConditions[0]"]; "both at once")]
    fn one(mut given: Value, want: &[&str]) {
        given["name"] = "d".into();
        let errs = FieldErrors::new();
        device(&Field::root(&given, &errs), None, false);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), want);
    }
}
