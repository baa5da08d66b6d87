//! ResourceQuota: what a namespace may use in all.
//!
//! In: the new object and the namespace's quotas. Out: a refusal, or usage written into `status.used` of every quota
//! that counts the object. What is then not stored is given back by the quota controller, as upstream.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/resourcequota` and `pkg/quota/v1/evaluator/core`.
//!
//! **Invariant:** usage is checked and written in one compare-and-swap: two writers cannot both take the last of it.

use serde_json::{Map, Value};

use crate::api::meta::quantity::Quantity;
use crate::api::status::{ApiResult, Status};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::validate::resources::OF_PODS;
use crate::registry::{Admission, Op, Registry, RequestCx, Target, View};

use super::usage::{self, Amounts, amounts};
use super::{is_resize, name_of, refuse};

/// Resources of pods that a quota may name without a prefix, meaning requests.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Charges the new object to the quotas of its namespace, or refuses it. Without a registry nothing is written.
pub async fn charge(
    a: &Admission<'_>,
    new: &Value,
    old: Option<&Value>,
    view: &dyn View,
    registry: Option<&Registry>,
) -> ApiResult<()> {
    let namespace = &a.target.namespace;
    let counts = a.subresource.is_empty() || is_resize(a);
    if namespace.is_empty() || !counts || !matches!(a.operation, "CREATE" | "UPDATE") {
        return Ok(());
    }
    let quotas = view.list("", "resourcequotas", Some(namespace));
    if quotas.is_empty() {
        return Ok(());
    }
    let wanted = usage_of(a, new);
    let mut due = Vec::new();
    for quota in quotas {
        let body = quota.value();
        if !in_scope(a, new, &body) {
            continue;
        }
        let hard = amounts(&body["status"]["hard"]);
        if old.is_none() || is_resize(a) {
            demand(a, new, &quota.meta.name, &hard)?;
        }
        let mut delta: Amounts =
            wanted.iter().filter(|(k, _)| hard.contains_key(*k)).map(|(k, v)| (k.clone(), *v)).collect();
        if let Some(old) = old.filter(|o| in_scope(a, o, &body)) {
            for (name, was) in usage_of(a, old) {
                if let Some(now) = delta.get_mut(&name) {
                    *now = now.minus(was);
                }
            }
        }
        delta.retain(|_, amount| amount.nanos() > 0);
        if !delta.is_empty() {
            charged(a, new, &body, &delta)?;
            due.push((quota.meta.name.clone(), delta));
        }
    }
    let Some(registry) = registry.filter(|_| !a.cx.dry_run) else { return Ok(()) };
    for (name, delta) in due {
        write(a, new, &name, &delta, registry).await?;
    }
    Ok(())
}

async fn write(a: &Admission<'_>, new: &Value, name: &str, delta: &Amounts, registry: &Registry) -> ApiResult<()> {
    let quotas = registry.resources().get("", "v1", "resourcequotas").ok_or_else(|| Status::internal("no quotas"))?;
    let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
    let cx = RequestCx::new(user, "kube-apiserver", a.cx.now);
    let at = Target { namespace: a.target.namespace.clone(), name: name.to_owned() };
    let change = |quota: &Value| {
        let mut changed = quota.clone();
        changed["status"]["used"] = charged(a, new, quota, delta)?;
        if let Some(metadata) = changed["metadata"].as_object_mut() {
            // The one that is written is the one that was read: a lost race is tried again.
            metadata.shift_remove("resourceVersion");
        }
        Ok(changed)
    };
    match registry.update(&quotas, &cx, &at, &Op::Subresource("status".into()), &change, None).await {
        Err(e) if e.code == 404 => Ok(()),
        done => done.map(|_| ()),
    }
}

/// `status.used` with the usage added; 403 when it would be too much.
fn charged(a: &Admission<'_>, new: &Value, quota: &Value, delta: &Amounts) -> ApiResult<Value> {
    let name = quota.str_at("/metadata/name").unwrap_or_default();
    let (hard, used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let unknown: Vec<&str> = delta.keys().filter(|k| !used.contains_key(*k)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let why = format!("status unknown for quota: {name}, resources: {}", unknown.join(","));
        return Err(refuse(a, name_of(new), why));
    }
    let mut all = used.clone();
    usage::add(&mut all, delta);
    let exceeded: Vec<&String> = delta.keys().filter(|k| hard.get(*k).is_some_and(|h| all[*k] > *h)).collect();
    if !exceeded.is_empty() {
        let show = |of: &Amounts| -> String {
            let one = |k: &&String| of.get(*k).map(|v| format!("{k}={v}"));
            exceeded.iter().filter_map(one).collect::<Vec<_>>().join(",")
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            show(delta),
            show(&used),
            show(&hard)
        );
        return Err(refuse(a, name_of(new), why));
    }
    let map: Map<String, Value> = all.into_iter().map(|(k, v)| (k, v.to_string().into())).collect();
    Ok(Value::Object(map))
}

/// What an object counts as.
fn usage_of(a: &Admission<'_>, object: &Value) -> Amounts {
    let info = &a.resource.info;
    let one = Quantity::units(1);
    let mut out = Amounts::new();
    let count = match &*info.gvk.group {
        "" => format!("count/{}", info.plural),
        group => format!("count/{}.{group}", info.plural),
    };
    out.insert(count, one);
    match (&*info.gvk.group, &*info.plural) {
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

/// Refuses a pod with a container that leaves out what the quota limits.
fn demand(a: &Admission<'_>, pod: &Value, quota: &str, hard: &Amounts) -> ApiResult<()> {
    if !a.is("", "pods") {
        return Ok(());
    }
    let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
    for name in OF_PODS.iter().filter(|n| **n != "pods" && hard.contains_key(**n)) {
        let (which, resource) = name.split_once('.').unwrap_or(("requests", name));
        let at_pod = pod["spec"]["resources"][which].get(resource).is_some();
        let lacks = |c: &&Value| c["resources"][which].get(resource).is_none();
        let all = ["/spec/containers", "/spec/initContainers"].iter().flat_map(|p| pod.items_at(p));
        let lacking: Vec<&str> = all.filter(lacks).filter_map(|c| c.str_at("/name")).collect();
        if !at_pod && !lacking.is_empty() {
            missing.push(((*name).to_owned(), lacking));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort();
    let told: Vec<String> = missing.iter().map(|(name, of)| format!("{name} for: {}", of.join(","))).collect();
    Err(refuse(a, name_of(pod), format!("failed quota: {quota}: must specify {}", told.join("; "))))
}

/// True when a quota counts the object.
fn in_scope(a: &Admission<'_>, object: &Value, quota: &Value) -> bool {
    let plain = quota.items_at("/spec/scopes").iter().filter_map(Value::as_str).map(|s| (s, "Exists", &[] as &[Value]));
    let selected = quota.items_at("/spec/scopeSelector/matchExpressions").iter().map(|e| {
        let text = |p| e.str_at(p).unwrap_or_default();
        (text("/scopeName"), text("/operator"), e.items_at("/values"))
    });
    let pods = a.is("", "pods");
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
