//! Cells of autoscalers, of either version.
//!
//! Rules: upstream `pkg/printers/internalversion`.

use serde_json::Value;

use crate::api::value::ValueExt;

use super::convert;

/// How many metrics a cell shows.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

/// `Kind/name`.
pub fn reference(o: &Value) -> String {
    let text = |p| o.str_at(p).unwrap_or_default();
    format!("{}/{}", text("/spec/scaleTargetRef/kind"), text("/spec/scaleTargetRef/name"))
}

/// The lower bound, a text.
pub fn min_pods(o: &Value) -> String {
    o.int_at("/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string())
}

/// What is measured over what is wanted.
pub fn targets(o: &Value) -> String {
    let mut v2 = o.clone();
    if o.str_at("/apiVersion").is_some_and(|v| v.ends_with("/v1")) {
        convert::convert(&mut v2, true);
    }
    let (specs, current) = (v2.items_at("/spec/metrics"), v2.items_at("/status/currentMetrics"));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let all: Vec<String> = specs.iter().enumerate().map(|(i, m)| one(m, current.get(i))).collect();
    match all.len() {
        n if n <= SHOWN => all.join(", "),
        n => format!("{} + {} more...", all[..SHOWN].join(", "), n - SHOWN),
    }
}

fn one(metric: &Value, current: Option<&Value>) -> String {
    let (field, named) = match metric.str_at("/type").unwrap_or_default() {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let target = &metric[field]["target"];
    let now = current.map_or(&Value::Null, |c| &c[field]["current"]);
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
    let measured = |key: &str| text(now, key).unwrap_or_else(|| UNKNOWN.to_owned());
    let shown = if let Some(average) = text(target, "averageValue") {
        let mark = if named || field == "pods" { "" } else { " (avg)" };
        format!("{}/{average}{mark}", measured("averageValue"))
    } else if named {
        let wanted = target.int_at("/averageUtilization").map_or_else(|| "<auto>".to_owned(), |p| format!("{p}%"));
        let is = now.int_at("/averageUtilization").map_or_else(|| UNKNOWN.to_owned(), |p| format!("{p}%"));
        format!("{is}/{wanted}")
    } else {
        format!("{}/{}", measured("value"), text(target, "value").unwrap_or_default())
    };
    match metric[field].str_at("/name").filter(|_| named) {
        Some(name) => format!("{name}: {shown}"),
        None => shown,
    }
}
