//! What an autoscaler may hold.
//!
//! Rules: upstream `pkg/apis/autoscaling/validation`. v1 is held to them in the form of v2.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::meta::quantity::Quantity;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;
use crate::registry::validate::labels::selector;

use super::convert;

/// Longest stabilization window, seconds.
const WINDOW_MAX: i64 = 3600;
/// Longest period of a policy, seconds.
const PERIOD_MAX: i64 = 1800;
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Create and update of v1.
pub fn v1(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    let mut value = o.value.clone();
    convert::convert(&mut value, true);
    v2(&Field { value: &value, errs: o.errs.clone() }, old, cx);
}

/// Create and update of v2.
pub fn v2(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    let (min, max) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    if min.is_some_and(|n| n < 1) {
        spec.at("minReplicas").invalid("must be greater than or equal to 1");
    }
    match max {
        0 => spec.errs.at("maxReplicas").required(""),
        n if n < 0 => spec.at("maxReplicas").invalid("must be greater than 0"),
        _ => {}
    }
    if max < min.unwrap_or(1) {
        spec.errs.at("maxReplicas").invalid(max, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.at("scaleTargetRef");
    object_reference(&target);
    api_version(&target);
    spec.items("metrics").for_each(|m| metric(&m));
    let behavior = spec.at("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.at(direction);
        if !rules.value.is_null() {
            scaling_rules(&rules);
        }
    }
}

fn object_reference(r: &Field<'_>) {
    for member in ["kind", "name"] {
        if r.needs(member) {
            r.at(member).reasons(names::path_segment(r.text(member)));
        }
    }
}

/// The core group has one kind that scales.
fn api_version(r: &Field<'_>) {
    let version = r.text("apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if group.is_empty() && r.text("kind") != "ReplicationController" {
        r.errs.at("apiVersion").invalid(version, "apiVersion must specify API group");
    }
}

fn metric(m: &Field<'_>) {
    let kind = m.text("type");
    if kind.is_empty() {
        m.errs.at("type").required("must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        m.errs.at("type").not_supported(kind, TYPES);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|f| m.has(f)).collect();
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field);
    if let Some(first) = present.first() {
        source(first, &m.at(first));
    }
    if let Some(field) = expected.filter(|f| !present.contains(f)) {
        m.errs.at(field).required("must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|f| Some(**f) != expected) {
            m.errs.at(other).forbidden("must populate the given metric source only");
        }
    }
}

fn source(field: &str, s: &Field<'_>) {
    let target = s.at("target");
    match field {
        "resource" | "containerResource" => {
            s.needs("name");
            if field == "containerResource" {
                s.needs("container");
            }
            amounts(&target);
            match (target.has("averageUtilization"), target.has("averageValue")) {
                (false, false) => target
                    .errs
                    .at("averageUtilization")
                    .required("must set either a target raw value or a target utilization"),
                (true, true) => target
                    .errs
                    .at("averageValue")
                    .forbidden("may not set both a target raw value and a target utilization"),
                _ => {}
            }
        }
        "pods" => {
            identifier(&s.at("metric"));
            amounts(&target);
            if !target.has("averageValue") {
                target.errs.at("averageValue").required("must specify a positive target averageValue");
            }
        }
        _ => {
            if field == "object" {
                object_reference(&s.at("describedObject"));
            }
            identifier(&s.at("metric"));
            amounts(&target);
            match (target.has("value"), target.has("averageValue")) {
                (false, false) => target
                    .errs
                    .at("averageValue")
                    .required("must set either a target value for metric or a per-pod target"),
                (true, true) if field == "external" => {
                    target.errs.at("value").forbidden("may not set both a target value for metric and a per-pod target")
                }
                _ => {}
            }
        }
    }
}

fn identifier(metric: &Field<'_>) {
    if metric.needs("name") {
        metric.at("name").reasons(names::path_segment(metric.text("name")));
    }
    selector(&metric.at("selector"));
}

fn amounts(target: &Field<'_>) {
    let kind = target.text("type");
    if kind.is_empty() {
        target.errs.at("type").required("must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        target.errs.at("type").invalid(kind, "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"] {
        if Quantity::parse(target.text(amount)).is_ok_and(|q| q.nanos() <= 0) {
            target.at(amount).invalid("must be positive");
        }
    }
    if target.int("averageUtilization").is_some_and(|p| p < 1) {
        target.at("averageUtilization").invalid("must be greater than 0");
    }
}

fn scaling_rules(rules: &Field<'_>) {
    let window = rules.at("stabilizationWindowSeconds");
    match window.value.as_i64() {
        Some(n) if n < 0 => window.invalid("must be greater than or equal to zero"),
        Some(n) if n > WINDOW_MAX => window.invalid(format!("must be less than or equal to {WINDOW_MAX}")),
        _ => {}
    }
    rules.optional_one_of("selectPolicy", &["Disabled", "Max", "Min"]);
    if rules.count("policies") == 0 {
        rules.errs.at("policies").required("must specify at least one Policy");
    }
    for policy in rules.items("policies") {
        policy.one_of("type", &["Percent", "Pods"]);
        for number in ["value", "periodSeconds"] {
            let n = policy.int(number).unwrap_or(0);
            if n <= 0 {
                policy.errs.at(number).invalid(n, "must be greater than zero");
            } else if number == "periodSeconds" && n > PERIOD_MAX {
                policy.errs.at(number).invalid(n, format!("must be less than or equal to {PERIOD_MAX}"));
            }
        }
    }
    if Quantity::parse(rules.text("tolerance")).is_ok_and(|q| q.is_negative()) {
        rules.at("tolerance").invalid("must be greater than or equal to 0");
    }
}
