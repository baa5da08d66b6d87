//! What objects count as against a ResourceQuota, and which quotas count them.
//!
//! Rules: upstream `pkg/quota/v1/evaluator/core`.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::meta::quantity::Quantity;
use super::object::Object;
use super::usage::{self, Amounts, amounts};
use super::value::ValueExt;

/// Resources of pods that a quota may name without a prefix, meaning requests.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Devices that a claim for all of a class may get. Upstream: `AllocationResultsMaxSize`.
const ALL_DEVICES: i64 = 32;

/// Says that a claim was made for the extended resources of the pod that owns it.
const FOR_EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

/// What else there is: what a claim of devices counts as depends on its classes and on its pod.
pub trait Others {
    /// One object.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// All of a namespace.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>>;
}

/// What an object counts as at a time.
pub fn usage_of(group: &str, plural: &str, object: &Value, now: Timestamp, others: &dyn Others) -> Amounts {
    let one = Quantity::units(1);
    let mut out = Amounts::new();
    let count = match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    };
    out.insert(count, one);
    match (group, plural) {
        ("", "pods") => pod_usage(object, now, &mut out),
        ("resource.k8s.io", "resourceclaims") => device_usage(object, now, others, &mut out),
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

/// Devices of each class that a claim may get, of the alternatives of a request the most; also by the names under which pods
/// ask for them, less what the claim's pod pays.
fn device_usage(claim: &Value, now: Timestamp, others: &dyn Others, out: &mut Amounts) {
    let mut extended = Amounts::new();
    for (class, devices) in devices(claim) {
        if let Some(known) = others.get("resource.k8s.io", "deviceclasses", "", &class) {
            let mut names = vec![format!("requests.deviceclass.resource.kubernetes.io/{class}")];
            let spec = known.only(&["spec", "extendedResourceName"]);
            names.extend(spec.str_at("/spec/extendedResourceName").map(|name| format!("requests.{name}")));
            usage::add(&mut extended, &names.into_iter().map(|name| (name, devices)).collect());
        }
        out.insert(format!("{class}.deviceclass.resource.k8s.io/devices"), devices);
    }
    if extended.is_empty() {
        return;
    }
    let paid = paid_by_pod(claim, now, others).unwrap_or_default();
    for (name, devices) in extended {
        let left = paid.get(&name).map_or(devices, |paid| devices.minus(*paid));
        if left.nanos() > 0 {
            out.insert(name, left);
        }
    }
}

/// By class.
fn devices(claim: &Value) -> Amounts {
    let count = |request: &Value| match request.str_at("/allocationMode") {
        Some("All") => ALL_DEVICES,
        _ => request.int_at("/count").unwrap_or(1),
    };
    let mut all = Amounts::new();
    for request in claim.items_at("/spec/devices/requests") {
        let mut most = Amounts::new();
        let alternatives = request.items_at("/firstAvailable").iter();
        for one in request.get("exactly").into_iter().chain(alternatives) {
            let class = one.str_at("/deviceClassName").unwrap_or_default();
            let devices = Quantity::units(count(one));
            let entry = most.entry(class.to_owned()).or_insert(devices);
            *entry = (*entry).max(devices);
        }
        usage::add(&mut all, &most);
    }
    all
}

/// What the pod counts as for whose extended resources a claim was made. A pod has one such claim: the one that it names, or
/// as long as it names none its first, so that nobody gets another one for nothing.
fn paid_by_pod(claim: &Value, now: Timestamp, others: &dyn Others) -> Option<Amounts> {
    let owner = extended_owner(claim)?;
    let text = |at: &str| claim.str_at(at).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let pod = others.get("", "pods", namespace, owner.str_at("/name")?)?;
    if owner.str_at("/uid") != Some(&pod.meta.uid) {
        return None;
    }
    let value = pod.value();
    let is_its = match value.str_at("/status/extendedResourceClaimStatus/resourceClaimName") {
        Some(named) => named == name,
        None => {
            let before = |other: &Arc<Object>| {
                let earlier = (&*other.meta.created, &*other.meta.name) < (text("/metadata/creationTimestamp"), name);
                let is_same = |value: &Value| extended_owner(value).is_some_and(|o| o["uid"] == owner["uid"]);
                earlier && other.mentions(FOR_EXTENDED) && is_same(&other.value())
            };
            !others.list("resource.k8s.io", "resourceclaims", namespace).iter().any(before)
        }
    };
    is_its.then(|| usage_of("", "pods", &value, now, others))
}

/// The pod that owns a claim for extended resources.
fn extended_owner(claim: &Value) -> Option<&Value> {
    let marked = claim.get_at("/metadata/annotations").and_then(|a| a.get(FOR_EXTENDED)).is_some_and(|v| v == "true");
    let mut owners = claim.items_at("/metadata/ownerReferences").iter();
    let owner = owners.find(|o| o.bool_at("/controller") == Some(true)).filter(|_| marked)?;
    (owner["kind"] == "Pod" && owner["apiVersion"] == "v1").then_some(owner)
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
        let nothing = Fixed(Vec::new());
        assert!(usage_of("", "pods", &pod("2026-01-01T00:00:45Z"), now, &nothing).contains_key("pods"));
        let late = usage_of("", "pods", &pod("2026-01-01T00:00:15Z"), now, &nothing);
        assert!(!late.contains_key("pods") && late.contains_key("count/pods"));
    }

    #[test]
    fn claims_count_the_devices_that_they_may_get() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "firstAvailable": [{"deviceClassName": "gpu", "count": 1},
                {"deviceClassName": "gpu", "count": 4}, {"deviceClassName": "nic", "allocationMode": "All"}]}]}}});
        let nothing = Fixed(Vec::new());
        let used = usage_of("resource.k8s.io", "resourceclaims", &claim, Timestamp::UNIX_EPOCH, &nothing);
        assert_eq!(used["gpu.deviceclass.resource.k8s.io/devices"].value(), 6);
        assert_eq!(used["nic.deviceclass.resource.k8s.io/devices"].value(), ALL_DEVICES);
        assert_eq!(used["count/resourceclaims.resource.k8s.io"].value(), 1);
        assert_eq!(used.len(), 3, "nobody knows the classes");
    }

    /// Objects of one namespace, and of the cluster.
    struct Fixed(Vec<Value>);

    impl Others for Fixed {
        fn get(&self, group: &str, plural: &str, _: &str, name: &str) -> Option<Arc<Object>> {
            self.list(group, plural, "").into_iter().find(|o| o.meta.name == name)
        }

        fn list(&self, _: &str, plural: &str, _: &str) -> Vec<Arc<Object>> {
            let is_one = |o: &&Value| o["kind"].as_str().is_some_and(|k| plural.starts_with(&k.to_lowercase()));
            self.0.iter().filter(is_one).map(|o| Arc::new(Object::from_value(o, &[]))).collect()
        }
    }

    /// A claim for two devices of the class `gpu`, for the extended resources of the pod `p` of this uid.
    fn extended_claim(name: &str, uid: &str, created: &str) -> Value {
        json!({"kind": "ResourceClaim", "metadata": {"name": name, "namespace": "n", "creationTimestamp": created,
            "annotations": {FOR_EXTENDED: "true"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]},
            "spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}}]}}})
    }

    const BY_CLASS: &str = "requests.deviceclass.resource.kubernetes.io/gpu";

    #[test_case(json!({"metadata": {"annotations": null}}), json!({}), json!({}), (2, 2); "nobody pays for it")]
    #[test_case(json!({}), json!({}), json!({}), (2, 0); "its pod pays")]
    #[test_case(json!({"metadata": {"ownerReferences": null}}), json!({}), json!({}), (2, 2); "it has no pod")]
    #[test_case(json!({}), json!({"metadata": {"uid": "other"}}), json!({}), (2, 2); "another pod has the name")]
    #[test_case(json!({}), json!({"status": {"extendedResourceClaimStatus": {"resourceClaimName": "c"}}}), json!({}), (2, 0);
        "its pod names it")]
    #[test_case(json!({}), json!({"status": {"extendedResourceClaimStatus": {"resourceClaimName": "x"}}}), json!({}), (2, 2);
        "its pod names another one")]
    #[test_case(json!({}), json!({}), extended_claim("b", "u", "2026-01-01T00:00:01Z"), (2, 2); "its pod has an earlier one")]
    #[test_case(json!({}), json!({}), extended_claim("d", "u", "2026-01-01T00:00:02Z"), (2, 0); "its pod has a later one")]
    #[test_case(json!({}), json!({}), extended_claim("b", "v", "2026-01-01T00:00:01Z"), (2, 0); "another pod has an earlier one")]
    fn devices_count_as_extended_resources(claim: Value, pod: Value, other: Value, want: (i64, i64)) {
        let mut of = extended_claim("c", "u", "2026-01-01T00:00:02Z");
        json_patch::merge(&mut of, &claim);
        let mut its = json!({"kind": "Pod", "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"resources": {"requests": {"x.com/gpu": "3"}}}]}});
        json_patch::merge(&mut its, &pod);
        let class =
            json!({"kind": "DeviceClass", "metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x.com/gpu"}});
        let others = Fixed(vec![class, its, other]);
        let used = usage_of("resource.k8s.io", "resourceclaims", &of, Timestamp::UNIX_EPOCH, &others);
        let n = |key: &str| used.get(key).map_or(0, Quantity::value);
        assert_eq!((n(BY_CLASS), n("requests.x.com/gpu")), want);
        assert_eq!(n("gpu.deviceclass.resource.k8s.io/devices"), 2);
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
