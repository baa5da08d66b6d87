//! What objects count as against a ResourceQuota, and which quotas count them.
//!
//! Rules: upstream `pkg/quota/v1/evaluator/core`.

use serde_json::Value;

use super::meta::quantity::Quantity;
use super::usage::{self, Amounts, amounts};
use super::value::ValueExt;

/// Resources of pods that a quota may name without a prefix, meaning requests.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What an object counts as.
pub fn usage_of(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = Quantity::units(1);
    let mut out = Amounts::new();
    let count = match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    };
    out.insert(count, one);
    match (group, plural) {
        ("", "pods") => pod_usage(object, &mut out),
        ("", "services") => service_usage(object, &mut out),
        ("", "persistentvolumeclaims") => claim_usage(object, &mut out),
        ("", plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas")) => {
            out.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    out
}

fn pod_usage(pod: &Value, out: &mut Amounts) {
    if matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed")) {
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

/// True when a quota counts the object, which is one of the `pods` or not.
pub fn in_scope(pods: bool, object: &Value, quota: &Value) -> bool {
    let plain = quota.items_at("/spec/scopes").iter().filter_map(Value::as_str).map(|s| (s, "Exists", &[] as &[Value]));
    let selected = quota.items_at("/spec/scopeSelector/matchExpressions").iter().map(|e| {
        let text = |p| e.str_at(p).unwrap_or_default();
        (text("/scopeName"), text("/operator"), e.items_at("/values"))
    });
    plain.chain(selected).all(|(scope, operator, values)| pods && matches_scope(object, scope, operator, values))
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

fn is_best_effort(pod: &Value) -> bool {
    let asks = |c: &Value| {
        let some = |which: &str| c["resources"][which].as_object().is_some_and(|m| !m.is_empty());
        some("requests") || some("limits")
    };
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
