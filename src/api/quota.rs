//! What objects count as against a ResourceQuota, and which quotas count them.
//!
//! Rules: upstream `pkg/quota/v1/evaluator/core`.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::meta::quantity::Quantity;
use super::usage::{self, Amounts, amounts};
use super::value::ValueExt;

/// Resources of pods that a quota may name without a prefix, meaning requests.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Devices that a claim for all of a class may get. Upstream: `AllocationResultsMaxSize`.
const ALL_DEVICES: i64 = 32;

/// What an object counts as at a time.
pub fn usage_of(group: &str, plural: &str, object: &Value, now: Timestamp) -> Amounts {
    let one = Quantity::units(1);
    let mut out = Amounts::new();
    let count = match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    };
    out.insert(count, one);
    match (group, plural) {
        ("", "pods") => pod_usage(object, now, &mut out),
        ("resource.k8s.io", "resourceclaims") => device_usage(object, &mut out),
        ("", "services") => service_usage(object, &mut out),
        ("", "persistentvolumeclaims") => claim_usage(object, &mut out),
        ("", plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas")) => {
            out.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    out
}

fn pod_usage(pod: &Value, now: Timestamp, out: &mut Amounts) {
    if matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed")) || is_overdue(pod, now) {
        return;
    }
    out.insert("pods".into(), Quantity::units(1));
    for (name, amount) in usage::of_pod(pod, "requests") {
        if PLAIN.contains(&name.as_str()) || name.starts_with("hugepages-") {
            out.insert(name.clone(), amount);
        }
        out.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in usage::of_pod(pod, "limits") {
        if PLAIN.contains(&name.as_str()) {
            out.insert(format!("limits.{name}"), amount);
        }
    }
}

/// True for a pod that should have been gone for as long as it was given: on a lost node, say. Others may take its place.
fn is_overdue(pod: &Value, now: Timestamp) -> bool {
    let at = pod.str_at("/metadata/deletionTimestamp").and_then(|t| t.parse::<Timestamp>().ok());
    let grace = pod.int_at("/metadata/deletionGracePeriodSeconds").map(SignedDuration::from_secs);
    let (Some(at), Some(grace)) = (at, grace) else { return false };
    at.checked_add(grace).is_ok_and(|until| now > until)
}

/// Devices of each class that a claim may get: of the alternatives of a request the most.
fn device_usage(claim: &Value, out: &mut Amounts) {
    let count = |request: &Value| match request.str_at("/allocationMode") {
        Some("All") => ALL_DEVICES,
        _ => request.int_at("/count").unwrap_or(1),
    };
    for request in claim.items_at("/spec/devices/requests") {
        let mut most = Amounts::new();
        let alternatives = request.items_at("/firstAvailable").iter();
        for one in request.get("exactly").into_iter().chain(alternatives) {
            let class = one.str_at("/deviceClassName").unwrap_or_default();
            let devices = Quantity::units(count(one));
            let entry = most.entry(format!("{class}.deviceclass.resource.k8s.io/devices")).or_insert(devices);
            *entry = (*entry).max(devices);
        }
        usage::add(out, &most);
    }
}

fn service_usage(service: &Value, out: &mut Amounts) {
    let ports = service.items_at("/spec/ports").len() as i64;
    out.insert("services".into(), Quantity::units(1));
    let kind = service.str_at("/spec/type").unwrap_or_default();
    if kind == "LoadBalancer" {
        out.insert("services.loadbalancers".into(), Quantity::units(1));
    }
    let without = kind == "LoadBalancer" && service.bool_at("/spec/allocateLoadBalancerNodePorts") == Some(false);
    if matches!(kind, "NodePort" | "LoadBalancer") && !without {
        out.insert("services.nodeports".into(), Quantity::units(ports));
    }
}

fn claim_usage(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".into(), Quantity::units(1));
    let storage = amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    let class = claim.str_at("/spec/storageClassName").unwrap_or_default();
    let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        out.insert(of_class("persistentvolumeclaims"), Quantity::units(1));
    }
    if let Some(storage) = storage {
        out.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            out.insert(of_class("requests.storage"), storage);
        }
    }
}

/// True when a quota counts the object of a resource.
pub fn in_scope(group: &str, plural: &str, object: &Value, quota: &Value) -> bool {
    let plain = quota.items_at("/spec/scopes").iter().filter_map(Value::as_str).map(|s| (s, "Exists", &[] as &[Value]));
    let selected = quota.items_at("/spec/scopeSelector/matchExpressions").iter().map(|e| {
        let text = |p| e.str_at(p).unwrap_or_default();
        (text("/scopeName"), text("/operator"), e.items_at("/values"))
    });
    plain.chain(selected).all(|(scope, operator, values)| match (group, plural) {
        ("", "pods") => matches_scope(object, scope, operator, values),
        ("", "persistentvolumeclaims") => scope == "VolumeAttributesClass" && has_class(object, operator, values),
        _ => false,
    })
}

/// By the classes that a claim has, wants or is about to get.
fn has_class(claim: &Value, operator: &str, values: &[Value]) -> bool {
    const AT: [&str; 3] = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let named: Vec<&str> = AT.iter().filter_map(|at| claim.str_at(at)).filter(|name| !name.is_empty()).collect();
    let any = || values.iter().filter_map(Value::as_str).any(|v| named.contains(&v));
    match operator {
        "In" => any(),
        "NotIn" => !any(),
        "DoesNotExist" => named.is_empty(),
        _ => !named.is_empty(),
    }
}

fn matches_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let terminating = pod.int_at("/spec/activeDeadlineSeconds").is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod.str_at("/spec/priorityClassName").unwrap_or_default();
            match operator {
                "In" => values.iter().any(|v| v == class),
                "NotIn" => !values.iter().any(|v| v == class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => {
            let kinds = ["podAffinity", "podAntiAffinity"];
            let terms = kinds.iter().flat_map(|kind| {
                let affinity = &pod["spec"]["affinity"][kind];
                let required = affinity.items_at("/requiredDuringSchedulingIgnoredDuringExecution").iter();
                let preferred = affinity.items_at("/preferredDuringSchedulingIgnoredDuringExecution").iter();
                required.chain(preferred.map(|p| &p["podAffinityTerm"]))
            });
            terms.into_iter().any(|t| !t.items_at("/namespaces").is_empty() || t.get("namespaceSelector").is_some())
        }
        _ => false,
    }
}

/// By the class that the pod has, or will have: of what it asks for, processor and memory count.
fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod.str_at("/status/qosClass").filter(|c| !c.is_empty()) {
        return class == "BestEffort";
    }
    let asks = |c: &Value| {
        let some = |which: &str| {
            let amounts = amounts(&c["resources"][which]);
            ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|a| a.nanos() > 0))
        };
        some("requests") || some("limits")
    };
    let whole = &pod["spec"];
    if whole["resources"].is_object() {
        return !asks(whole);
    }
    !["/spec/containers", "/spec/initContainers"].iter().flat_map(|p| pod.items_at(p)).any(asks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("Terminating", json!({"activeDeadlineSeconds": 5}), true)]
    #[test_case("NotTerminating", json!({"activeDeadlineSeconds": 5}), false)]
    #[test_case("BestEffort", json!({"containers": [{"name": "c"}]}), true)]
    #[test_case("NotBestEffort", json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}), true)]
    #[test_case("PriorityClass", json!({"priorityClassName": "a"}), true)]
    #[test_case("CrossNamespacePodAffinity", json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}}), true; "affinity")]
    #[test_case("VolumeAttributesClass", json!({}), false)]
    fn scopes(scope: &str, spec: Value, want: bool) {
        assert_eq!(matches_scope(&json!({"spec": spec}), scope, "Exists", &[]), want);
    }

    #[test_case(json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{}]}), false; "asked for at the pod")]
    #[test_case(json!({"containers": [{"resources": {"requests": {"ephemeral-storage": "1Gi"}}}]}), true; "what does not count")]
    #[test_case(json!({"containers": [{"resources": {"limits": {"cpu": "0"}}}]}), true; "nothing")]
    #[test_case(json!({"initContainers": [{"resources": {"limits": {"memory": "1Mi"}}}]}), false; "before the rest")]
    fn best_effort(spec: Value, want: bool) {
        assert_eq!(is_best_effort(&json!({"spec": spec})), want);
    }

    #[test_case("In", true)]
    #[test_case("NotIn", false)]
    #[test_case("Exists", true)]
    #[test_case("DoesNotExist", false)]
    fn claims_by_class(operator: &str, want: bool) {
        let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": operator, "values": ["gold"]}]}}});
        let claim = json!({"status": {"currentVolumeAttributesClassName": "gold"}});
        assert_eq!(in_scope("", "persistentvolumeclaims", &claim, &quota), want);
        assert!(!in_scope("", "services", &claim, &quota));
    }

    #[test]
    fn overdue_pods_are_not_counted() {
        let pod = |at: &str| json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 30}});
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert!(usage_of("", "pods", &pod("2026-01-01T00:00:45Z"), now).contains_key("pods"));
        let late = usage_of("", "pods", &pod("2026-01-01T00:00:15Z"), now);
        assert!(!late.contains_key("pods") && late.contains_key("count/pods"));
    }

    #[test]
    fn claims_count_the_devices_that_they_may_get() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "firstAvailable": [{"deviceClassName": "gpu", "count": 1},
                {"deviceClassName": "gpu", "count": 4}, {"deviceClassName": "nic", "allocationMode": "All"}]}]}}});
        let used = usage_of("resource.k8s.io", "resourceclaims", &claim, Timestamp::UNIX_EPOCH);
        assert_eq!(used["gpu.deviceclass.resource.k8s.io/devices"].value(), 6);
        assert_eq!(used["nic.deviceclass.resource.k8s.io/devices"].value(), ALL_DEVICES);
        assert_eq!(used["count/resourceclaims.resource.k8s.io"].value(), 1);
    }

    #[test]
    fn services_count_their_node_ports() {
        let mut out = Amounts::new();
        service_usage(&json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}}), &mut out);
        assert_eq!(out["services.nodeports"].value(), 2);
        let mut without = Amounts::new();
        let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{}]});
        service_usage(&json!({"spec": spec}), &mut without);
        assert!(!without.contains_key("services.nodeports"));
    }
}
