//! Defaults that depend on other fields, of all groups but core.

use serde_json::{Map, Value, json};

use super::{Hook, Members, set};

use crate::api::value::ValueExt;

pub(super) static HOOKS: &[Hook] = &[
    Hook { structs: &["apps.v1.DeploymentStrategy"], run: rolling_update },
    Hook { structs: &["apps.v1.DaemonSetUpdateStrategy"], run: rolling_update },
    Hook { structs: &["apps.v1.StatefulSetUpdateStrategy"], run: rolling_update },
    Hook { structs: &["apps.v1.StatefulSetSpec"], run: claim_templates },
    Hook { structs: &["batch.v1.Job"], run: job },
    Hook { structs: &["autoscaling.v2.HorizontalPodAutoscalerSpec"], run: autoscaler_metrics },
    Hook { structs: &["autoscaling.v2.HorizontalPodAutoscalerBehavior"], run: autoscaler_behavior },
    Hook { structs: &["networking.v1.NetworkPolicySpec"], run: policy_types },
    Hook { structs: &["rbac.v1.RoleRef"], run: role_ref },
    Hook { structs: &["rbac.v1.Subject"], run: subject },
    Hook { structs: &["apiextensions.v1.CustomResourceDefinitionSpec"], run: crd_names },
    Hook { structs: &["resource.v1.ExactDeviceRequest", "resource.v1.DeviceSubRequest"], run: device_count },
    Hook { structs: &["autoscaling.v1.HorizontalPodAutoscaler"], run: old_autoscaler },
    Hook { structs: &["flowcontrol.v1.FlowSchemaSpec"], run: flow_schema },
    Hook { structs: &["flowcontrol.v1.LimitResponse"], run: limit_response },
    Hook { structs: &["flowcontrol.v1.QueuingConfiguration"], run: queuing },
    Hook { structs: &["flowcontrol.v1.PriorityLevelConfigurationSpec"], run: priority_level },
];

fn text<'a>(members: &'a Members, field: &str) -> &'a str {
    members.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(members: &Members, field: &str) -> bool {
    members.get(field).is_some_and(|v| !v.is_null())
}

fn rolling_update(strategy: &mut Members) {
    if text(strategy, "type") == "RollingUpdate" {
        set(strategy, "rollingUpdate", Map::new);
    }
}

/// Claim templates say what they are.
fn claim_templates(spec: &mut Members) {
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(claim) = claim {
            claim.insert("apiVersion".into(), "v1".into());
            claim.insert("kind".into(), "PersistentVolumeClaim".into());
        }
    }
}

/// Of jobs, not of a cron job's template.
fn job(job: &mut Members) {
    let labels = job.get("spec").and_then(|s| s.get_at("/template/metadata/labels")).cloned();
    if let (Some(labels @ Value::Object(_)), Some(Value::Object(metadata))) = (labels, job.get_mut("metadata")) {
        set(metadata, "labels", || labels);
    }
    let Some(Value::Object(spec)) = job.get_mut("spec") else { return };
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        set(spec, "completions", || 1);
    }
    set(spec, "parallelism", || 1);
    let per_index = is_set(spec, "backoffLimitPerIndex");
    set(spec, "backoffLimit", || if per_index { i32::MAX } else { 6 });
    set(spec, "completionMode", || "NonIndexed");
    set(spec, "suspend", || false);
    set(spec, "manualSelector", || false);
    let replace = if is_set(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(spec, "podReplacementPolicy", || replace);
}

/// Without metrics: 80 % of the requested CPU.
fn autoscaler_metrics(spec: &mut Members) {
    set(
        spec,
        "metrics",
        || json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
    );
}

/// The same for v1, whose other metrics stand in an annotation.
fn old_autoscaler(autoscaler: &mut Members) {
    let annotation = "/annotations/autoscaling.alpha.kubernetes.io~1metrics";
    if autoscaler.get("metadata").is_some_and(|m| m.get_at(annotation).is_some()) {
        return;
    }
    if let Some(Value::Object(spec)) = autoscaler.get_mut("spec") {
        set(spec, "targetCPUUtilizationPercentage", || 80);
    }
}

fn autoscaler_behavior(behavior: &mut Members) {
    let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]});
    let down = json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]});
    for (field, defaults) in [("scaleUp", up), ("scaleDown", down)] {
        set(behavior, field, Map::new);
        if let (Some(Value::Object(rules)), Value::Object(defaults)) = (behavior.get_mut(field), defaults) {
            for (name, value) in defaults {
                set(rules, &name, || value);
            }
        }
    }
}

fn policy_types(spec: &mut Members) {
    let egress = is_set(spec, "egress");
    set(spec, "policyTypes", || if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn role_ref(role: &mut Members) {
    if text(role, "apiGroup").is_empty() {
        role.insert("apiGroup".into(), RBAC.into());
    }
}

fn subject(subject: &mut Members) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        set(subject, "apiGroup", || RBAC);
    }
}

fn crd_names(spec: &mut Members) {
    let Some(Value::Object(names)) = spec.get_mut("names") else { return };
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        set(names, "singular", || kind.to_lowercase());
        set(names, "listKind", || format!("{kind}List"));
    }
}

fn device_count(request: &mut Members) {
    if text(request, "allocationMode") == "ExactCount" {
        set(request, "count", || 1);
    }
}

/// 0 is unset.
fn flow_schema(spec: &mut Members) {
    if spec.get("matchingPrecedence").is_none_or(|p| p.is_null() || *p == 0) {
        spec.insert("matchingPrecedence".into(), 1000.into());
    }
}

/// 0 is unset.
fn queuing(configuration: &mut Members) {
    for (field, default) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
        if configuration.get(field).is_none_or(|n| n.is_null() || *n == 0) {
            configuration.insert(field.into(), default.into());
        }
    }
}

fn limit_response(response: &mut Members) {
    if text(response, "type") == "Queue" {
        set(response, "queuing", Map::new);
    }
}

fn priority_level(spec: &mut Members) {
    if text(spec, "type") == "Exempt" {
        set(spec, "exempt", Map::new);
    }
}
