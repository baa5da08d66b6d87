//! Amounts of resources: names, values, requests against limits.
//!
//! Rules: upstream `ValidateContainerResourceRequirements`, `pkg/apis/core/helper`.

use serde_json::Value;

use crate::api::meta::{names, quantity::Quantity};

use super::Field;

/// What is limited by count, in whole numbers.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// A quantity of a canonical object; what cannot be parsed counts as nothing.
pub fn amount(value: &Value) -> Quantity {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Quantity::parse(&text).unwrap_or(Quantity::units(0))
}

/// True for `hugepages-2Mi` and its like.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// True for names without a prefix or in a Kubernetes domain.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// True for resources of other vendors, which cannot be overcommitted.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// True when requests may be below limits.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// True for resources counted in whole units.
pub fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// A resource name of containers.
fn container_name(name: &str, field: &Field<'_>) {
    field.errs.all_invalid(name, names::qualified_name(name));
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            field.errs.invalid(name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        field.errs.invalid(name, "doesn't follow extended resource name standard");
    }
}

/// A value: not negative, and whole where it must be.
pub fn value(name: &str, field: &Field<'_>) {
    let amount = amount(field.value);
    if amount.is_negative() {
        field.invalid("must be greater than or equal to 0");
    }
    if is_whole(name) && amount.milli_value() % 1000 != 0 {
        field.invalid("must be an integer");
    }
}

/// `resources` of a container (or of an overhead as its limits). `claims` are the names of the pod's resource claims.
pub fn of_container(field: &Field<'_>, claims: &[&str]) {
    amounts(field, container_name);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for claim in field.items("claims") {
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            claim.errs.required("");
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if seen.contains(&(name, request)) {
            claim.errs.duplicate(key);
            continue;
        }
        // Naming the whole claim and one of its requests is a double too.
        if seen.iter().any(|(n, r)| *n == name && (r.is_empty() || request.is_empty())) {
            claim.errs.duplicate(key);
        }
        seen.push((name, request));
        if !claims.contains(&name) {
            claim.errs.not_found(name);
        }
    }
}

/// Limits and requests, with the rule for names given.
pub fn amounts(field: &Field<'_>, name_rule: fn(&str, &Field<'_>)) {
    let (mut huge, mut plain) = (false, false);
    let mut note = |name: &str| {
        huge |= is_huge_page(name);
        plain |= matches!(name, "cpu" | "memory");
    };
    for (name, limit) in field.entries("limits") {
        name_rule(name, &limit);
        value(name, &limit);
        if is_huge_page(name) {
            huge_page_size(name, &limit);
        }
        note(name);
    }
    let limits = field.at("limits");
    let requests = field.at("requests");
    for (name, request) in field.entries("requests") {
        name_rule(name, &request);
        value(name, &request);
        match limits.value.get(name) {
            Some(limit) => {
                let (asked, most) = (amount(request.value), amount(limit));
                if asked != most && !may_overcommit(name) {
                    requests.errs.invalid(request.value.clone(), format!("must be equal to {name} limit of {most}"));
                } else if asked > most {
                    let why = format!("must be less than or equal to {name} limit of {most}");
                    requests.errs.invalid(request.value.clone(), why);
                }
            }
            None if !may_overcommit(name) => {
                limits.errs.required("limit must be set for non overcommitable resources");
            }
            None => {}
        }
        note(name);
    }
    if huge && !plain {
        field.errs.forbidden("hugepages require cpu or memory");
    }
}

/// An amount of huge pages is a multiple of the page.
fn huge_page_size(name: &str, field: &Field<'_>) {
    let Ok(page) = Quantity::parse(name.trim_start_matches("hugepages-")) else { return };
    if page.value() > 0 && amount(field.value).value() % page.value() != 0 {
        field.invalid(format!("must be a positive integer multiple of {page}"));
    }
}

/// `resources` of a whole pod: only what can be shared, and not less than its containers ask for.
pub fn of_pod(field: &Field<'_>, containers: &[Value]) {
    if field.value.is_null() {
        return;
    }
    amounts(field, |name, field| {
        if !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
            field.errs.not_supported(name, &["cpu", "hugepages-", "memory"]);
        }
    });
    if field.has("claims") && field.count("claims") > 0 {
        field.errs.at("claims").forbidden("claims cannot be set for Resources at pod-level");
    }
    for (name, request) in field.entries("requests") {
        let parts = containers.iter().filter_map(|c| c.get("resources")?.get("requests")?.get(name));
        let sum = parts.fold(Quantity::units(0), |sum, part| sum.plus(amount(part)));
        if sum > amount(request.value) {
            request.invalid(format!("must be greater than or equal to aggregate container requests of {sum}"));
        }
    }
    for (name, limit) in field.entries("limits") {
        for part in containers.iter().filter_map(|c| c.get("resources")?.get("limits")?.get(name)) {
            if amount(part) > amount(limit.value) {
                limit.invalid(format!("must be greater than or equal to every container's limit; one has {part}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), &["requests"]; "more than the limit")]
    #[test_case(json!({"requests": {"example.com/x": "1"}}), &["limits"]; "vendors' resources need a limit")]
    #[test_case(json!({"limits": {"example.com/x": "500m"}}), &["limits[example.com/x]"]; "and are whole")]
    #[test_case(json!({"limits": {"bogus": "1"}}), &["limits[bogus]"]; "unknown name")]
    #[test_case(json!({"limits": {"hugepages-2Mi": "4Mi"}}), &["<nil>"]; "huge pages alone")]
    #[test_case(json!({"limits": {"memory": "-1"}}), &["limits[memory]"]; "negative")]
    #[test_case(json!({"claims": [{"name": "a"}, {"name": "a", "request": "r"}]}), &["claims[1]"]; "a claim twice")]
    #[test_case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), &[]; "valid")]
    fn requirements(resources: Value, paths: &[&str]) {
        let errs = FieldErrors::new();
        of_container(&Field::root(&resources, &errs), &["a"]);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
