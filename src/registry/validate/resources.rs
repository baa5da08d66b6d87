//! Amounts of resources: names, values, requests against limits.
//!
//! Rules: upstream `ValidateContainerResourceRequirements`, `pkg/apis/core/helper`.

use serde_json::Value;

use crate::api::meta::{names, quantity::Quantity};

use super::{Field, FieldErrors};

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

/// Writes equal amounts of a pod's specification alike, for comparisons.
pub fn settle(pod_spec: &mut Value) {
    fn settle_amounts(amounts: Option<&mut Value>) {
        for value in amounts.and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut()) {
            *value = amount(value).nanos().to_string().into();
        }
    }
    fn settle_resources(owner: &mut Value) {
        for list in ["limits", "requests"] {
            settle_amounts(owner.get_mut("resources").and_then(|r| r.get_mut(list)));
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        pod_spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(settle_resources);
    }
    settle_resources(pod_spec);
    settle_amounts(pod_spec.get_mut("overhead"));
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

/// What pods are, use, ask for and are limited in, as quotas name it.
pub const OF_PODS: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// What else quotas name without a prefix.
const COUNTED_BY_QUOTAS: [&str; 9] = [
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// True for a name without a prefix that a quota may have.
pub fn is_of_quotas(name: &str) -> bool {
    OF_PODS.contains(&name) || COUNTED_BY_QUOTAS.contains(&name) || is_quota_huge_page(name)
}

/// True for `hugepages-2Mi` and `requests.hugepages-2Mi`.
pub fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
}

/// A resource's name: qualified, or one of Kubernetes' own. False (and an error) when it is not.
pub fn any_name(name: &str, errs: &FieldErrors) -> bool {
    let reasons = names::qualified_name(name);
    let known = name.contains('/') || name == "storage" || is_of_quotas(name);
    if reasons.is_empty() && !known {
        errs.invalid(name, "must be a standard resource type or fully qualified");
    }
    let valid = reasons.is_empty() && known;
    errs.all_invalid(name, reasons);
    valid
}

/// A resource name of containers.
pub fn container_name(name: &str, errs: &FieldErrors) {
    any_name(name, errs);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errs.invalid(name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errs.invalid(name, "doesn't follow extended resource name standard");
    }
}

/// A resource name of whole pods.
fn pod_name(name: &str, errs: &FieldErrors) {
    if any_name(name, errs) && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errs.not_supported(name, &["cpu", "hugepages-", "memory"]);
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
    claim_names(field, claims);
}

/// Claims that a container uses: of the pod's, and each once. Naming all of a claim and one of its requests is twice.
fn claim_names(field: &Field<'_>, claims: &[&str]) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for claim in field.items("claims") {
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            claim.errs.required("");
            continue;
        }
        if !seen.contains(&(name, "")) && !request.is_empty() {
            claim.at("request").reasons(names::dns1123_label(request));
        }
        if seen.iter().any(|(n, r)| *n == name && (r.is_empty() || request.is_empty() || *r == request)) {
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            claim.errs.duplicate(key);
        }
        seen.push((name, request));
        if !claims.contains(&name) {
            claim.errs.not_found(name);
        }
    }
}

/// Limits and requests, with the rule for names given.
pub fn amounts(field: &Field<'_>, name_rule: fn(&str, &FieldErrors)) {
    let (mut huge, mut plain) = (false, false);
    let mut note = |name: &str| {
        huge |= is_huge_page(name);
        plain |= matches!(name, "cpu" | "memory");
    };
    for (name, limit) in field.entries("limits") {
        name_rule(name, &limit.errs);
        value(name, &limit);
        huge_page_size(name, &limit);
        note(name);
    }
    let limits = field.at("limits");
    let requests = field.at("requests");
    for (name, request) in field.entries("requests") {
        name_rule(name, &request.errs);
        value(name, &request);
        huge_page_size(name, &request);
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
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let page = Quantity::parse(size).ok().filter(|p| p.nanos() > 0 && p.milli_value() % 1000 == 0);
    if page.is_none_or(|page| amount(field.value).value() % page.value() != 0) {
        field.invalid(format!("is not a positive integer multiple of {size}"));
    }
}

/// `resources` of a whole pod: only what can be shared, and not less than its containers ask for.
pub fn of_pod(spec: &Field<'_>, claims: &[&str]) {
    let field = spec.at("resources");
    if field.value.is_null() {
        return;
    }
    if field.count("claims") > 0 {
        field.errs.at("claims").forbidden("claims cannot be set for Resources at pod-level");
    }
    amounts(&field, pod_name);
    claim_names(&field, claims);
    for (name, request) in field.entries("requests") {
        let sum = containers_ask(spec, name);
        if sum > amount(request.value) {
            request.invalid(format!("must be greater than or equal to aggregate container requests of {sum}"));
        }
    }
    // Upstream tells of a container's limit below the pod's resources.
    let at = field.errs.at("containers");
    for (i, container) in spec.items("containers").enumerate() {
        for (name, limit) in container.at("resources").entries("limits") {
            let most = field.at("limits").value.get(name).map(amount);
            if let Some(most) = most.filter(|most| amount(limit.value) > *most) {
                let why = format!("must be less than or equal to pod limits of {most}");
                at.index(i).key(name).at("limits").invalid(limit.value.clone(), why);
            }
        }
    }
}

/// What a pod's containers need at once: all that run together, or the hungriest of those that run before.
fn containers_ask(spec: &Field<'_>, name: &str) -> Quantity {
    let asks = |c: &Field<'_>| c.at("resources").at("requests").value.get(name).map_or(Quantity::units(0), amount);
    let (mut sidecars, mut before) = (Quantity::units(0), Quantity::units(0));
    for c in spec.items("initContainers") {
        if c.text("restartPolicy") == "Always" {
            sidecars = sidecars.plus(asks(&c));
            before = before.max(sidecars);
        } else {
            before = before.max(sidecars.plus(asks(&c)));
        }
    }
    spec.items("containers").fold(sidecars, |sum, c| sum.plus(asks(&c))).max(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), &["requests"]; "more than the limit")]
    #[test_case(json!({"requests": {"example.com/x": "1"}}), &["limits"]; "vendors' resources need a limit")]
    #[test_case(json!({"limits": {"example.com/x": "500m"}}), &["limits[example.com/x]"]; "and are whole")]
    #[test_case(json!({"limits": {"bogus": "1"}}), &["limits[bogus]", "limits[bogus]"]; "unknown name")]
    #[test_case(json!({"limits": {"hugepages-2Mi": "4Mi"}}), &["<nil>"]; "huge pages alone")]
    #[test_case(json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "3Mi"}}),
        &["requests[hugepages-2Mi]", "requests"]; "half a page")]
    #[test_case(json!({"limits": {"cpu": "1", "hugepages-x": "1"}}), &["limits[hugepages-x]"]; "pages of no size")]
    #[test_case(json!({"claims": [{"name": "a", "request": "A b"}]}), &["claims[0].request"]; "a request that is no label")]
    #[test_case(json!({"limits": {"memory": "-1"}}), &["limits[memory]"]; "negative")]
    #[test_case(json!({"claims": [{"name": "a"}, {"name": "a", "request": "r"}]}), &["claims[1]"]; "a claim twice")]
    #[test_case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), &[]; "valid")]
    fn requirements(resources: Value, paths: &[&str]) {
        let errs = FieldErrors::new();
        of_container(&Field::root(&resources, &errs), &["a"]);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }

    #[test_case(json!({"requests": {"cpu": "1"}}), &["resources.requests[cpu]"]; "less than its containers")]
    #[test_case(json!({"limits": {"cpu": "1"}}), &["resources.containers[1][cpu].limits"]; "a container with more than all")]
    #[test_case(json!({"limits": {"ephemeral-storage": "1", "bogus": "1"}}),
        &["resources.limits[ephemeral-storage]", "resources.limits[bogus]"]; "what cannot be shared, what is nothing")]
    #[test_case(json!({"requests": {"cpu": "4"}}), &[]; "as much as they need together")]
    fn whole_pods(resources: Value, paths: &[&str]) {
        let with = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
        let spec = json!({"resources": resources, "containers": [with("1"), with("2")],
            "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}, with("3")]});
        let errs = FieldErrors::new();
        of_pod(&Field::root(&spec, &errs), &[]);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
