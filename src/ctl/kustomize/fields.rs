//! Where in an object a value stands: paths that go through every element of the lists on their way.

use serde_json::{Map, Value};

/// Calls `f` with every value at the path: `spec/containers/image` goes through all containers. `create` makes the maps that
/// are missing; elements of lists are never made.
pub fn each(value: &mut Value, path: &str, create: bool, f: &mut dyn FnMut(&mut Value)) {
    if let Value::Array(items) = value {
        return items.iter_mut().for_each(|item| each(item, path, create, f));
    }
    if path.is_empty() {
        return f(value);
    }
    let (step, rest) = path.split_once('/').unwrap_or((path, ""));
    if create && value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    if create {
        map.entry(step).or_insert(Value::Null);
    }
    if let Some(next) = map.get_mut(step) {
        each(next, rest, create, f);
    }
}

/// Where the pod template of a kind stands, if it has one: the template's path, and that of the pod's spec.
pub fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "ReplicaSet" | "ReplicationController" | "DaemonSet" | "StatefulSet" | "Job" => {
            Some("spec/template")
        }
        "CronJob" => Some("spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Where the pod's spec stands.
pub fn pod_spec(kind: &str) -> Option<String> {
    if kind == "Pod" { Some("spec".into()) } else { template(kind).map(|t| format!("{t}/spec")) }
}
