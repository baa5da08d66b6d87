//! ResourceQuotas and LimitRanges: how much a namespace may use.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::meta::quantity::Quantity;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Op, Strategy};
use crate::registry::validate::resources::{self, amount};
use crate::registry::validate::{Field, texts};

const QUOTA_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Request", |q, _| usage(q, |name| !name.starts_with("limits."))),
    Column::new("Limit", |q, _| usage(q, |name| name.starts_with("limits."))),
    Column::AGE,
];

/// ResourceQuotas.
pub fn resource_quota() -> Resource {
    let info = KindInfo::namespaced("", "v1", "ResourceQuota", "resourcequotas", "resourcequota").short(&["quota"]);
    Resource::new(info.subresources(STATUS_ONLY).columns(QUOTA_COLUMNS), Box::new(Quotas))
}

/// LimitRanges.
pub fn limit_range() -> Resource {
    let info = KindInfo::namespaced("", "v1", "LimitRange", "limitranges", "limitrange").short(&["limits"]);
    Resource::new(info, Box::new(LimitRanges))
}

/// `pods: 1/10, requests.cpu: 0/4`.
fn usage(quota: &Value, shown: fn(&str) -> bool) -> Value {
    let hard = quota.get_at("/status/hard").and_then(Value::as_object);
    let mut all: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| shown(name))
        .map(|(name, hard)| {
            let used = quota.get_at("/status/used").and_then(|u| u.get(name)).map_or(Quantity::units(0), amount);
            format!("{name}: {used}/{}", amount(hard))
        })
        .collect();
    all.sort();
    all.join(", ").into()
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
struct Quotas;

impl Strategy for Quotas {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let quota = Field::root(new, errs);
        if matches!(cx.op, Op::Subresource(_)) {
            for list in ["hard", "used"] {
                amounts(&quota.at("status"), list);
            }
            return;
        }
        let spec = quota.at("spec");
        amounts(&spec, "hard");
        scopes(&spec);
        if let Some(old) = old {
            let mut sets = [texts(new, "/spec/scopes"), texts(old, "/spec/scopes")];
            sets.iter_mut().for_each(|s| {
                s.sort_unstable();
                s.dedup();
            });
            if sets[0] != sets[1] {
                spec.at("scopes").invalid("field is immutable");
            }
        }
    }
}

fn amounts(parent: &Field<'_>, list: &str) {
    for (name, field) in parent.entries(list) {
        resources::any_name(name, &field.errs);
        if !name.contains('/') && !resources::is_of_quotas(name) {
            field.errs.invalid(name, "must be a standard resource for quota");
        }
        resources::value(name, &field);
    }
}

fn scopes(spec: &Field<'_>) {
    let at = spec.at("scopes");
    let listed = texts(spec.value, "/scopes");
    let hard: Vec<&str> = spec.at("hard").value.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    for scope in &listed {
        if !SCOPES.contains(scope) {
            at.invalid("unsupported scope");
        }
        if hard.iter().any(|name| resources::is_of_quotas(name) && !counts(scope, name)) {
            at.invalid("unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|s| listed.contains(s)) {
            at.invalid("conflicting scopes");
        }
    }
    // Upstream's paths leave the element out.
    let errs = spec.errs.at("scopeSelector").at("matchExpressions");
    for r in spec.at("scopeSelector").items("matchExpressions") {
        let (scope, operator) = (r.text("scopeName"), r.text("operator"));
        if !SCOPES.contains(&scope) {
            errs.at("scopeName").invalid(scope, "unsupported scope");
        }
        if hard.iter().any(|name| resources::is_of_quotas(name) && !counts(scope, name)) {
            errs.invalid(r.value.clone(), "unsupported scope applied to resource");
        }
        let exists_only = SCOPES.contains(&scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if exists_only && operator != "Exists" {
            errs.at("operator")
                .invalid(operator, "must be 'Exist' when scope is any of the resource-independent scopes");
        }
        match operator {
            "In" | "NotIn" if r.count("values") == 0 => errs
                .at("values")
                .required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"),
            "Exists" | "DoesNotExist" if r.count("values") > 0 => errs.at("values").invalid(
                r.at("values").value.clone(),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.at("operator").invalid(other, "not a valid selector operator"),
        }
    }
}

/// True where a scope can be counted in a resource; unknown scopes are told elsewhere.
fn counts(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resources::OF_PODS.contains(&resource) || resources::is_quota_huge_page(resource)
        }
        "VolumeAttributesClass" => {
            resource.ends_with("persistentvolumeclaims") || resource.ends_with("requests.storage")
        }
        _ => true,
    }
}

struct LimitRanges;

impl Strategy for LimitRanges {
    fn create_on_update(&self) -> bool {
        true
    }

    /// One without a name gets one.
    fn default(&self, new: &mut Value, cx: &HookCx<'_>) {
        let named = new.get_at("/metadata/name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        if cx.op == Op::Create && !named {
            let meta = crate::registry::meta::metadata(new);
            meta.insert("name".into(), uuid::Uuid::new_v4().to_string().into());
            crate::registry::meta::order(meta);
        }
    }

    fn validate(&self, new: &Value, _: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        let mut seen = Vec::new();
        for limit in Field::root(new, errs).at("spec").items("limits") {
            let kind = limit.text("type");
            let at = limit.errs.at("type");
            let reasons = names::qualified_name(kind);
            let standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
            if reasons.is_empty() && !kind.contains('/') && !standard {
                at.invalid(kind, "must be a standard limit type or fully qualified");
            }
            at.all_invalid(kind, reasons);
            if seen.contains(&kind) {
                at.duplicate(kind);
            }
            seen.push(kind);
            limit_item(&limit, kind);
        }
    }
}

fn limit_item(limit: &Field<'_>, kind: &str) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    for list in lists {
        if kind == "Pod" && list.starts_with("default") {
            if limit.at(list).value.as_object().is_some_and(|m| !m.is_empty()) {
                limit.errs.at(list).forbidden("may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, field) in limit.entries(list) {
            match kind {
                "Pod" | "Container" => resources::container_name(name, &field.errs),
                _ => {
                    resources::any_name(name, &field.errs);
                }
            }
        }
    }
    if kind == "PersistentVolumeClaim" {
        let has = |list: &str| limit.at(list).value.get("storage").is_some();
        if !has("min") && !has("max") {
            limit
                .errs
                .at("limits")
                .required("either minimum or maximum storage value is required, but neither was provided");
        }
    }
    // Defaults of pods are refused above, and not looked at again.
    let looked_at = lists.iter().filter(|list| kind != "Pod" || !list.starts_with("default"));
    let mut all: Vec<&str> = looked_at.flat_map(|list| limit.entries(list)).map(|(name, _)| name).collect();
    all.sort_unstable();
    all.dedup();
    for name in all {
        bounds(limit, kind, name);
    }
}

/// The five amounts of one resource among each other.
fn bounds(limit: &Field<'_>, kind: &str, name: &str) {
    let get = |list: &str| limit.at(list).value.get(name).map(amount);
    let default_of = |list: &str| get(list).filter(|_| kind != "Pod");
    let (max, min, ratio) = (get("max"), get("min"), get("maxLimitRequestRatio"));
    let (default, request) = (default_of("default"), default_of("defaultRequest"));
    let tell = |list: &str, why: String| {
        let shown = get(list).map_or_else(String::new, |q| q.to_string());
        limit.errs.at(list).key(name).invalid(shown, why);
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        tell("min", format!("min value {min} is greater than max value {max}"));
    }
    for (list, value, what) in [("defaultRequest", request, "default request"), ("default", default, "default")] {
        let Some(value) = value else { continue };
        if let Some(min) = min.filter(|m| *m > value) {
            tell(list, format!("min value {min} is greater than {what} value {value}"));
        }
        if let Some(max) = max.filter(|m| *m < value) {
            tell(list, format!("{what} value {value} is greater than max value {max}"));
        }
    }
    if let (Some(request), Some(default)) = (request, default) {
        if request > default {
            let why = format!("default request value {request} is greater than default limit value {default}");
            tell("defaultRequest", why);
        }
        if request != default && !resources::may_overcommit(name) {
            tell(
                "defaultRequest",
                format!("default value {default} must equal to defaultRequest value {request} in {name}"),
            );
        }
    }
    let Some(ratio) = ratio else { return };
    if ratio < Quantity::units(1) {
        tell("maxLimitRequestRatio", format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max)
        && exceeds(ratio, max, min)
    {
        tell("maxLimitRequestRatio", format!("ratio {ratio} is greater than max/min = {max}/{min}"));
    }
}

/// True when a ratio is above that of the two amounts, of which upstream looks at thousandths. Nothing divided by nothing
/// is no number, and above no other.
fn exceeds(ratio: Quantity, max: Quantity, min: Quantity) -> bool {
    let milli = |q: Quantity| i128::from(q.milli_value());
    match (milli(max), milli(min)) {
        (_, 0) => false,
        (max, min) if min > 0 => milli(ratio) * min > max * 1000,
        (max, min) => milli(ratio) * min < max * 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn paths(errs: &FieldErrors) -> Vec<String> {
        errs.take().into_iter().map(|c| c.field).collect()
    }

    #[test_case(json!({"hard": {"requests.hugepages-2Mi": "1", "count/x.y": "1", "example.com/gpu": "1"}}), &[]; "known and foreign")]
    #[test_case(json!({"hard": {"storage": "1"}}), &["hard[storage]"]; "a resource that has no quota")]
    #[test_case(json!({"hard": {"example.com/gpu": "1"}, "scopes": ["BestEffort"]}), &[]; "foreign ones go with every scope")]
    #[test_case(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}), &["scopes"]; "processors have no best effort")]
    fn quotas(spec: Value, want: &[&str]) {
        let errs = FieldErrors::new();
        let spec = Field::root(&spec, &errs);
        amounts(&spec, "hard");
        scopes(&spec);
        assert_eq!(paths(&errs), want);
    }

    #[test_case(json!({"max": {"cpu": "1", "bogus": "1"}}), "Container", &["max[bogus]", "max[bogus]"]; "no resource of containers")]
    #[test_case(json!({"max": {"pods": "1"}}), "example.com/x", &[]; "any resource for another type")]
    #[test_case(json!({"default": {"cpu": "2"}, "max": {"cpu": "1"}}), "Pod", &["default"]; "pods have no defaults")]
    #[test_case(json!({"default": {"hugepages-2Mi": "4Mi"}, "defaultRequest": {"hugepages-2Mi": "2Mi"}}), "Container",
        &["defaultRequest[hugepages-2Mi]"]; "what cannot be overcommitted")]
    #[test_case(json!({"max": {"cpu": "1"}, "min": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "3"}}), "Container",
        &["maxLimitRequestRatio[cpu]"]; "more than the limits allow")]
    fn limits(limit: Value, kind: &str, want: &[&str]) {
        let errs = FieldErrors::new();
        limit_item(&Field::root(&limit, &errs), kind);
        assert_eq!(paths(&errs), want);
    }
}
