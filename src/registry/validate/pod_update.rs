//! What of a stored pod may change: by an update, by `resize`, by `ephemeralcontainers`, by `status`.
//!
//! Rules: upstream `ValidatePodUpdate`, `ValidatePodResize`, `ValidatePodEphemeralContainersUpdate`, `ValidatePodStatusUpdate`.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::api::meta::names;
use crate::api::value::ValueExt;

use super::Field;

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ADDITIONS: &str = "only additions are allowed (no mutations or deletions)";
const REQUIRED: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";

/// An update of the pod itself; `spec` is the new one.
pub fn update(spec: &Field<'_>, old: &Value) {
    for list in ["containers", "initContainers"] {
        if spec.count(list) != old.items_at(&format!("/{list}")).len() {
            spec.errs.at(list).forbidden("pod updates may not add or remove containers");
            return;
        }
    }
    deadline(spec, old);
    if let Some(gate) = added_gate(spec, old) {
        let errs = spec.errs.at("schedulingGates").index(gate).at("name");
        errs.forbidden(format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            spec.value.items_at("/schedulingGates")[gate].str_at("/name").unwrap_or_default()
        ));
    }
    let added = tolerations(spec, old);
    if !added {
        spec.errs.at("tolerations").forbidden("existing toleration can not be modified except its tolerationSeconds");
    }
    let gated = !old.items_at("/schedulingGates").is_empty();
    if gated {
        node_selector(spec, old);
        node_affinity(spec, old);
    }
    if munged(spec.value, old, gated) != munged(old, old, gated) {
        spec.errs.forbidden(MAY_CHANGE);
    }
}

fn deadline(spec: &Field<'_>, old: &Value) {
    let (new, was) = (spec.int("activeDeadlineSeconds"), old.int_at("/activeDeadlineSeconds"));
    match (new, was) {
        (Some(n), Some(o)) if n > o => {
            spec.at("activeDeadlineSeconds").invalid("must be less than or equal to previous value")
        }
        (None, Some(_)) => {
            spec.at("activeDeadlineSeconds").invalid("must not update from a positive integer to nil value")
        }
        _ => {}
    }
}

fn added_gate(spec: &Field<'_>, old: &Value) -> Option<usize> {
    let was = old.items_at("/schedulingGates");
    spec.value.items_at("/schedulingGates").iter().position(|gate| !was.contains(gate))
}

/// True when every old toleration is still there, but for its seconds.
fn tolerations(spec: &Field<'_>, old: &Value) -> bool {
    let plain = |t: &Value| {
        let mut t = t.clone();
        t.remove_at("/tolerationSeconds");
        t
    };
    let new: Vec<Value> = spec.value.items_at("/tolerations").iter().map(plain).collect();
    old.items_at("/tolerations").iter().all(|t| new.contains(&plain(t)))
}

/// A gated pod's node selector may only get narrower.
fn node_selector(spec: &Field<'_>, old: &Value) {
    let new = &spec.at("nodeSelector");
    let kept = |(key, value): (&String, &Value)| new.value.get(key) == Some(value);
    if !old.get("nodeSelector").and_then(Value::as_object).into_iter().flatten().all(kept) {
        new.invalid(ADDITIONS);
    }
}

/// So may its required node affinity: each term may gain requirements.
fn node_affinity(spec: &Field<'_>, old: &Value) {
    let Some(was) = old.pointer(REQUIRED) else { return };
    let terms = spec
        .at("affinity")
        .at("nodeAffinity")
        .at("requiredDuringSchedulingIgnoredDuringExecution")
        .at("nodeSelectorTerms");
    let (new, was) = (terms.value.as_array().cloned().unwrap_or_default(), was.items_at("/nodeSelectorTerms"));
    if !was.is_empty() && new.len() != was.len() {
        terms.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed");
        return;
    }
    for (i, (new, old)) in new.iter().zip(was).enumerate() {
        let keeps = |list: &str| {
            let (new, old) = (new.items_at(list), old.items_at(list));
            new.len() >= old.len() && new[..old.len()] == *old
        };
        if !keeps("/matchExpressions") || !keeps("/matchFields") {
            terms.errs.index(i).invalid(new.clone(), ADDITIONS);
        }
    }
}

/// The specification without what may change, or with the old value of it.
fn munged(spec: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container.remove_at("/image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove_at(&format!("/{field}"));
    }
    let grace = "/terminationGracePeriodSeconds";
    if old.int_at(grace).is_some_and(|g| g < 0) && spec.int_at(grace) == Some(1) {
        spec.set_at(grace, old.int_at(grace).unwrap_or(1));
    }
    if gated {
        spec.remove_at("/nodeSelector");
        spec.remove_at("/affinity/nodeAffinity");
        if spec.get("affinity").and_then(Value::as_object).is_some_and(Map::is_empty) {
            spec.remove_at("/affinity");
        }
    }
    spec
}

/// Ephemeral containers are added, never changed or removed.
pub fn ephemeral(spec: &Field<'_>, old: &Value) {
    let errs = spec.errs.at("ephemeralContainers");
    let new = spec.value.items_at("/ephemeralContainers");
    for was in old.items_at("/ephemeralContainers") {
        let name = was.str_at("/name").unwrap_or_default();
        match new.iter().find(|c| c.str_at("/name") == Some(name)) {
            None => errs.forbidden(format!("existing ephemeral containers {name:?} may not be removed")),
            Some(is) if is != was => {
                errs.forbidden(format!("existing ephemeral containers {name:?} may not be changed"))
            }
            Some(_) => {}
        }
    }
}

/// Amounts of processor and memory, and nothing else.
pub fn resize(spec: &Field<'_>, old: &Value, qos: (&str, &str)) {
    if qos.0 != qos.1 {
        spec.errs.invalid(qos.0, "Pod QOS Class may not change as a result of resizing");
    }
    for list in ["containers", "initContainers"] {
        for (new, old) in spec.items(list).zip(old.items_at(&format!("/{list}"))) {
            let resources = new.at("resources");
            for kind in ["requests", "limits"] {
                let was = old.pointer(&format!("/resources/{kind}")).and_then(Value::as_object);
                let is = resources.value.get(kind);
                let gone =
                    |name: &str| was.is_some_and(|m| m.contains_key(name)) && is.and_then(|m| m.get(name)).is_none();
                if gone("cpu") || gone("memory") {
                    resources.errs.at(kind).forbidden(format!("resource {kind} cannot be removed"));
                }
            }
        }
    }
    if spec.errs.is_empty() && without_amounts(spec.value) != without_amounts(old) {
        spec.errs.forbidden("only cpu and memory resources are mutable");
    }
}

fn without_amounts(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for kind in ["requests", "limits"] {
                for name in ["cpu", "memory"] {
                    container.remove_at(&format!("/resources/{kind}/{name}"));
                }
                if container
                    .pointer(&format!("/resources/{kind}"))
                    .and_then(Value::as_object)
                    .is_some_and(Map::is_empty)
                {
                    container.remove_at(&format!("/resources/{kind}"));
                }
            }
        }
    }
    spec
}

/// `status` as it is written: conditions, addresses, states.
pub fn status(pod: &Field<'_>, old: &Value) {
    let status = pod.at("status");
    for condition in status.items("conditions") {
        let kind = condition.text("type");
        // Kinds of Kubernetes' own are not qualified names of a domain, and need not be.
        if kind.contains('/') {
            condition.errs.at("type").all_invalid(kind, names::qualified_name(kind));
        }
    }
    if let Some(was) = old.pointer("/status/qosClass").and_then(Value::as_str)
        && status.text("qosClass") != was
    {
        status.errs.at("qosClass").invalid(status.text("qosClass"), "field is immutable");
    }
    let now = status.text("nominatedNodeName");
    if let Some(was) = old.str_at("/status/nominatedNodeName")
        && !now.is_empty()
        && now != was
    {
        status.errs.at("nominatedNodeName").all_invalid(now, names::dns1123_subdomain(now));
    }
    addresses(&status, "podIPs");
    addresses(&status, "hostIPs");
    terminated_stay(&status, old, pod.at("spec").text("restartPolicy"));
}

/// One address of a family, and valid ones.
fn addresses(status: &Field<'_>, list: &str) {
    let mut families: Vec<IpAddr> = Vec::new();
    for entry in status.items(list) {
        let at = Field { value: entry.value.get("ip").unwrap_or(&Value::Null), errs: entry.errs.clone() };
        if let Some(ip) = super::ip(&at) {
            families.push(ip);
        }
    }
    let v4 = families.iter().filter(|ip| ip.is_ipv4()).count();
    if v4 > 1 || families.len() - v4 > 1 || families.len() > 2 {
        status.at(list).invalid("may specify no more than one IP for each IP family");
    }
}

/// What has terminated does not run again, where the restart policy says so.
fn terminated_stay(status: &Field<'_>, old: &Value, policy: &str) {
    if policy == "Always" {
        return;
    }
    for was in old.items_at("/status/containerStatuses") {
        let Some(code) = was.int_at("/state/terminated/exitCode") else { continue };
        if policy == "OnFailure" && code != 0 {
            continue;
        }
        let name = was.str_at("/name").unwrap_or_default();
        let again =
            status.items("containerStatuses").find(|c| c.text("name") == name && !c.at("state").has("terminated"));
        if let Some(again) = again {
            again.errs.at("state").forbidden("may not be transitioned to non-terminated state");
        }
    }
}
