//! v1 to v2 and back. What v1 has no field for stands in annotations.
//!
//! Rules: upstream `pkg/apis/autoscaling/v1/conversion.go`.
//!
//! **Invariant:** to v1 and back to v2 changes nothing.

use serde_json::{Map, Value, json};

use crate::api::value::ValueExt;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// In place; to v2 when `to_stored`.
pub fn convert(value: &mut Value, to_stored: bool) {
    if to_stored { to_v2(value) } else { to_v1(value) }
}

fn is_cpu(metric: &Value) -> bool {
    metric.str_at("/type") == Some("Resource") && metric.str_at("/resource/name") == Some("cpu")
}

fn to_v1(value: &mut Value) {
    let metrics = value.remove_at("/spec/metrics").map(into_list).unwrap_or_default();
    let utilization = |m: &Value| is_cpu(m) && m.get_at("/resource/target/averageUtilization").is_some();
    let cpu = metrics.iter().position(utilization);
    if let Some(i) = cpu {
        let target = metrics[i]["resource"]["target"]["averageUtilization"].clone();
        value.set_at("/spec/targetCPUUtilizationPercentage", target);
    }
    let others: Vec<Value> = metrics
        .iter()
        .enumerate()
        .filter(|(i, _)| Some(*i) != cpu)
        .map(|(_, m)| old_metric(m, "target", "Target"))
        .collect();
    annotate(value, METRICS, others);
    if let Some(behavior) = value.remove_at("/spec/behavior") {
        let text = renamed(&behavior, capitalized).to_string();
        annotation(value, BEHAVIOR, text);
    }
    let current = value.remove_at("/status/currentMetrics").map(into_list).unwrap_or_default();
    let now = |m: &Value| is_cpu(m) && m.get_at("/resource/current/averageUtilization").is_some();
    let cpu = current.iter().position(now);
    if let Some(i) = cpu {
        let percent = current[i]["resource"]["current"]["averageUtilization"].clone();
        value.set_at("/status/currentCPUUtilizationPercentage", percent);
    }
    annotate(value, CURRENT_METRICS, current.iter().map(|m| old_metric(m, "current", "Current")).collect());
    let conditions = value.remove_at("/status/conditions").map(into_list).unwrap_or_default();
    annotate(value, CONDITIONS, conditions);
}

fn to_v2(value: &mut Value) {
    let mut metrics: Vec<Value> = taken(value, METRICS).iter().map(|m| new_metric(m, "target", "target")).collect();
    if let Some(percent) = value.remove_at("/spec/targetCPUUtilizationPercentage") {
        metrics.push(json!({"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}));
    }
    if !metrics.is_empty() {
        value.set_at("/spec/metrics", metrics);
    }
    if let Some(behavior) = taken_text(value, BEHAVIOR).and_then(|t| serde_json::from_str::<Value>(&t).ok()) {
        value.set_at("/spec/behavior", renamed(&behavior, uncapitalized));
    }
    let mut current: Vec<Value> =
        taken(value, CURRENT_METRICS).iter().map(|m| new_metric(m, "current", "current")).collect();
    let percent = value.remove_at("/status/currentCPUUtilizationPercentage");
    if let Some(percent) = percent.filter(|_| !current.iter().any(is_cpu)) {
        current.push(json!({"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
    }
    let conditions = taken(value, CONDITIONS);
    if !current.is_empty() {
        value.set_at("/status/currentMetrics", current);
    }
    if !conditions.is_empty() {
        value.set_at("/status/conditions", conditions);
    }
}

fn into_list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn annotation(value: &mut Value, name: &str, text: String) {
    value.set_at(&format!("/metadata/annotations/{}", name.replace('/', "~1")), text);
}

fn annotate(value: &mut Value, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        annotation(value, name, Value::Array(list).to_string());
    }
}

fn taken_text(value: &mut Value, name: &str) -> Option<String> {
    let text = value.remove_at(&format!("/metadata/annotations/{}", name.replace('/', "~1")))?;
    if value.get_at("/metadata/annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
        value.remove_at("/metadata/annotations");
    }
    text.as_str().map(str::to_owned)
}

/// The list in an annotation; one that cannot be read is dropped, as upstream does.
fn taken(value: &mut Value, name: &str) -> Vec<Value> {
    taken_text(value, name).and_then(|t| serde_json::from_str(&t).ok()).map(into_list).unwrap_or_default()
}

/// Kinds of metrics and the field that holds each.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

fn source(metric: &Value) -> Option<&'static str> {
    let kind = metric.str_at("/type")?;
    SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field)
}

/// A v2 metric (its `half` is `target` or `current`) in the form of v1's annotations.
fn old_metric(metric: &Value, half: &str, prefix: &str) -> Value {
    let Some(field) = source(metric) else { return metric.clone() };
    let from = &metric[field];
    let amount = &from[half];
    let mut out = Map::new();
    let mut put = |key: String, value: &Value| {
        if !value.is_null() {
            out.insert(key, value.clone());
        }
    };
    let low = prefix.to_lowercase();
    match field {
        "resource" | "containerResource" => {
            put("name".into(), &from["name"]);
            put("container".into(), &from["container"]);
            put(format!("{low}AverageUtilization"), &amount["averageUtilization"]);
            put(format!("{low}AverageValue"), &amount["averageValue"]);
        }
        "pods" => {
            put("metricName".into(), &from["metric"]["name"]);
            put("selector".into(), &from["metric"]["selector"]);
            put(format!("{low}AverageValue"), &amount["averageValue"]);
        }
        "object" => {
            put("target".into(), &from["describedObject"]);
            put("metricName".into(), &from["metric"]["name"]);
            put("selector".into(), &from["metric"]["selector"]);
            put(format!("{low}Value"), &amount["value"]);
            put("averageValue".into(), &amount["averageValue"]);
        }
        _ => {
            put("metricName".into(), &from["metric"]["name"]);
            put("metricSelector".into(), &from["metric"]["selector"]);
            put(format!("{low}Value"), &amount["value"]);
            put(format!("{low}AverageValue"), &amount["averageValue"]);
        }
    }
    json!({"type": metric["type"], field: out})
}

/// The way back.
fn new_metric(metric: &Value, half: &str, low: &str) -> Value {
    let Some(field) = source(metric) else { return metric.clone() };
    let from = &metric[field];
    let mut out = json!({});
    let mut amount = Map::new();
    let take = |amount: &mut Map<String, Value>, key: &str, old: String| {
        if let Some(v) = from.get(&old).filter(|v| !v.is_null()) {
            amount.insert(key.into(), v.clone());
        }
    };
    for key in ["name", "container"] {
        if let Some(v) = from.get(key) {
            out[key] = v.clone();
        }
    }
    if let Some(name) = from.get("metricName") {
        out["metric"] = json!({"name": name});
        if let Some(selector) = from.get("selector").or(from.get("metricSelector")) {
            out["metric"]["selector"] = selector.clone();
        }
    }
    if field == "object" {
        out["describedObject"] = from["target"].clone();
        take(&mut amount, "averageValue", "averageValue".into());
    }
    take(&mut amount, "averageUtilization", format!("{low}AverageUtilization"));
    take(&mut amount, "averageValue", format!("{low}AverageValue"));
    take(&mut amount, "value", format!("{low}Value"));
    if half == "target" {
        let kind = match () {
            () if amount.contains_key("averageUtilization") => "Utilization",
            () if amount.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        amount.insert("type".into(), kind.into());
    }
    out[half] = Value::Object(amount);
    json!({"type": metric["type"], field: out})
}

/// The same value with every key renamed.
fn renamed(value: &Value, by: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (by(k), renamed(v, by))).collect(),
        Value::Array(list) => list.iter().map(|v| renamed(v, by)).collect(),
        other => other.clone(),
    }
}

/// Upstream writes the behaviour with the names of Go's fields.
fn capitalized(key: &str) -> String {
    key[..1].to_uppercase() + &key[1..]
}

fn uncapitalized(key: &str) -> String {
    key[..1].to_lowercase() + &key[1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let v2 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"averageValue": "5", "type": "AverageValue"}}},
            {"type": "Object", "object": {"metric": {"name": "q", "selector": {}}, "describedObject": {"kind": "Svc", "name": "x"}, "target": {"value": "7", "type": "Value"}}},
            {"type": "External", "external": {"metric": {"name": "e"}, "target": {"averageValue": "9", "type": "AverageValue"}}},
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"averageUtilization": 10, "type": "Utilization"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4}]}}},
            "status": {"conditions": [{"type": "AbleToScale"}], "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 1}}}]}});
        let mut v = v2.clone();
        convert(&mut v, false);
        assert_eq!(v["spec"]["targetCPUUtilizationPercentage"], 60);
        assert!(v["metadata"]["annotations"][BEHAVIOR].as_str().unwrap().starts_with("{\"ScaleUp\""));
        convert(&mut v, true);
        assert_eq!(v, v2);
    }
}
