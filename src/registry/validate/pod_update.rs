//! What of a stored pod may change: by an update, by `resize`, by `ephemeralcontainers`.
//!
//! Rules: upstream `ValidatePodUpdate`, `ValidatePodResize`, `ValidatePodEphemeralContainersUpdate`.

use serde_json::{Map, Value};

use crate::api::value::ValueExt;

use super::pod_annotations::MIRROR;
use super::{Field, resources};

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
    if !deadline(spec, old) {
        return;
    }
    added_gates(spec, old);
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

/// A deadline may come, and come nearer. False where upstream looks no further.
fn deadline(spec: &Field<'_>, old: &Value) -> bool {
    let at = spec.at("activeDeadlineSeconds");
    match (spec.int("activeDeadlineSeconds"), old.int_at("/activeDeadlineSeconds")) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            at.invalid(format!("must be between 0 and {}, inclusive", i32::MAX));
            false
        }
        (Some(n), Some(o)) if n > o => {
            at.invalid("must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            at.invalid("must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

/// Gates only go.
fn added_gates(spec: &Field<'_>, old: &Value) {
    let was = old.items_at("/schedulingGates");
    for gate in spec.items("schedulingGates").filter(|g| !was.contains(g.value)) {
        let name = gate.text("name");
        gate.errs.at("name").forbidden(format!("only deletion is allowed, but found new scheduling gate '{name}'"));
    }
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
    let Some(was) = old.get_at(REQUIRED) else { return };
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
        // A term without requirements matches nothing, and would match more with some.
        let size = |term: &Value| term.items_at("/matchExpressions").len() + term.items_at("/matchFields").len();
        let wakes = size(old) == 0 && size(new) > 0;
        if wakes || !keeps("/matchExpressions") || !keeps("/matchFields") {
            terms.errs.index(i).invalid(new.clone(), ADDITIONS);
        }
    }
}

/// The specification without what may change, or with the old value of it.
fn munged(spec: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    resources::settle(&mut spec);
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

/// Ephemeral containers are added, never changed or removed; `pod` is the new one.
pub fn ephemeral(pod: &Field<'_>, old: &Value) {
    if is_static(old) {
        pod.errs.whole().forbidden("static pods do not support ephemeral containers");
        return;
    }
    let spec = pod.at("spec");
    let errs = spec.errs.at("ephemeralContainers");
    let new = spec.value.items_at("/ephemeralContainers");
    for was in old.items_at("/spec/ephemeralContainers") {
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

/// True for pods that a node runs without the server's doing.
fn is_static(pod: &Value) -> bool {
    pod.get("metadata").and_then(|m| m.get("annotations")?.get(MIRROR)).is_some()
}

/// Amounts of processor and memory, and nothing else; `pod` is the new one. `qos` are the new class and the old one.
pub fn resize(pod: &Field<'_>, old: &Value, qos: (&str, &str)) {
    if is_static(old) {
        return pod.errs.whole().forbidden("static pods cannot be resized");
    }
    if old.str_at("/spec/os/name") == Some("windows") {
        return pod.errs.whole().forbidden("windows pods cannot be resized");
    }
    let (spec, was) = (pod.at("spec"), &old["spec"]);
    if qos.0 != qos.1 {
        spec.errs.invalid(qos.0, "Pod QOS Class may not change as a result of resizing");
    }
    let running = old.items_at("/status/containerStatuses").iter().find(|c| c.get_at("/state/running").is_some());
    if running.is_some_and(|c| c.get("resources").is_none()) {
        spec.errs.forbidden("Pod running on node without support for resize");
    }
    for list in ["initContainers", "containers"] {
        for (new, old) in spec.items(list).zip(was.items_at(&format!("/{list}"))) {
            if list == "containers" || new.text("restartPolicy") == "Always" {
                resize_container(&new, old);
                if without_amounts(new.value) != without_amounts(old) {
                    spec.errs.forbidden("only cpu and memory resources are mutable");
                }
            } else if new.value != old {
                spec.errs.forbidden("resources for non-sidecar init containers are immutable");
            }
        }
    }
    if spec.errs.is_empty() && all_without_amounts(spec.value) != all_without_amounts(was) {
        spec.errs.forbidden("only cpu and memory resources are mutable");
    }
}

/// Nothing that was asked for or limited is given up.
fn resize_container(new: &Field<'_>, old: &Value) {
    let resources = new.at("resources");
    for kind in ["requests", "limits"] {
        let was = old.get_at(&format!("/resources/{kind}")).and_then(Value::as_object);
        let is = resources.value.get(kind);
        if was.into_iter().flatten().any(|(name, _)| is.and_then(|m| m.get(name)).is_none()) {
            resources.errs.at(kind).forbidden(format!("resource {kind} cannot be removed"));
        }
    }
}

fn all_without_amounts(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            *container = without_amounts(container);
        }
    }
    spec
}

/// A container without what may be resized.
fn without_amounts(container: &Value) -> Value {
    let mut container = container.clone();
    for kind in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            container.remove_at(&format!("/resources/{kind}/{name}"));
        }
        if container.get_at(&format!("/resources/{kind}")).and_then(Value::as_object).is_some_and(Map::is_empty) {
            container.remove_at(&format!("/resources/{kind}"));
        }
    }
    container
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    fn paths(errs: &FieldErrors) -> Vec<String> {
        errs.take().into_iter().map(|c| c.field).collect()
    }

    #[test_case(|s| s["containers"][0]["image"] = json!("other"), &[]; "an image")]
    #[test_case(|s| s["containers"] = json!([]), &["spec.containers"]; "a container less")]
    #[test_case(|s| s["activeDeadlineSeconds"] = json!(11), &["spec.activeDeadlineSeconds"]; "a later deadline")]
    #[test_case(|s| s["activeDeadlineSeconds"] = json!(9), &[]; "a nearer deadline")]
    #[test_case(|s| s["nodeSelector"] = json!({"a": "b", "c": "d"}), &[]; "a gated pod's selector gets narrower")]
    #[test_case(|s| s["nodeSelector"] = json!({}), &["spec.nodeSelector"]; "and not wider")]
    #[test_case(|s| s["schedulingGates"] = json!([{"name": "x"}, {"name": "y"}]),
        &["spec.schedulingGates[0].name", "spec.schedulingGates[1].name"]; "new gates")]
    #[test_case(|s| s["hostname"] = json!("h"), &["spec"]; "anything else")]
    #[test_case(|s| s["containers"][0]["resources"]["requests"]["memory"] = json!("64Mi"), &[]; "the same amount")]
    #[test_case(|s| s["containers"][0]["resources"]["requests"]["memory"] = json!("65Mi"), &["spec"]; "another amount")]
    fn updates(change: fn(&mut Value), want: &[&str]) {
        let old = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"memory": "67108864"}}}],
            "activeDeadlineSeconds": 10, "nodeSelector": {"a": "b"},
            "schedulingGates": [{"name": "g"}]});
        let mut new = json!({ "spec": old });
        change(&mut new["spec"]);
        let errs = FieldErrors::new();
        update(&Field::root(&new, &errs).at("spec"), &old);
        assert_eq!(paths(&errs), want);
    }

    #[test_case(json!({"limits": {"cpu": "2"}}), json!({}), &[]; "more of it")]
    #[test_case(json!({}), json!({}), &["spec.containers[0].resources.limits"]; "a limit less")]
    #[test_case(json!({"limits": {"cpu": "1", "example.com/x": "1"}}), json!({}), &["spec"]; "something else")]
    #[test_case(json!({"limits": {"cpu": "2"}}), json!({"annotations": {"kubernetes.io/config.mirror": "x"}}), &["[]"]; "of a static pod")]
    fn resizes(resources: Value, metadata: Value, want: &[&str]) {
        let pod = |resources: Value| json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        let (old, new) = (pod(json!({"limits": {"cpu": "1"}})), pod(resources));
        let errs = FieldErrors::new();
        resize(&Field::root(&new, &errs), &old, ("Burstable", "Burstable"));
        assert_eq!(paths(&errs), want);
    }
}
