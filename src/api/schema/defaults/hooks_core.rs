//! Defaults of core kinds that depend on other fields.

use serde_json::{Map, Value, json};

use super::{Hook, Members, set};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

pub(super) static HOOKS: &[Hook] = &[
    Hook { structs: &["core.v1.Pod"], run: pod },
    Hook { structs: &["core.v1.PodSpec"], run: pod_spec },
    Hook { structs: &["core.v1.Container", "core.v1.EphemeralContainer"], run: container },
    Hook { structs: &["core.v1.Volume"], run: volume },
    Hook { structs: &["core.v1.ImageVolumeSource"], run: |m| pull_policy(m, "reference", "pullPolicy") },
    Hook { structs: &["core.v1.ServiceSpec"], run: service_spec },
    Hook { structs: &["core.v1.ServicePort"], run: service_port },
    Hook { structs: &["core.v1.Secret"], run: secret },
    Hook { structs: &["core.v1.Namespace"], run: namespace },
    Hook { structs: &["core.v1.NodeSpec"], run: node_spec },
    Hook { structs: &["core.v1.NodeStatus"], run: node_status },
    Hook { structs: &["core.v1.LimitRangeItem"], run: limit_range_item },
    Hook { structs: &["core.v1.ReplicationController"], run: replication_controller },
    Hook { structs: &["core.v1.ResourceRequirements", "core.v1.VolumeResourceRequirements"], run: requirements },
    Hook { structs: &["core.v1.PersistentVolumeSpec"], run: |m| round_up(m, "capacity") },
    Hook { structs: &["core.v1.PersistentVolume"], run: persistent_volume },
];

fn text<'a>(members: &'a Members, field: &str) -> &'a str {
    members.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What a pod has and a template has not: requests from limits, host ports, service links.
fn pod(pod: &mut Members) {
    let Some(Value::Object(spec)) = pod.get_mut("spec") else { return };
    set(spec, "enableServiceLinks", || true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                requests_from_limits(resources, |_| true);
            }
            if host_network {
                host_ports(container);
            }
        }
    }
    if let Some(Value::Object(resources)) = spec.get_mut("resources") {
        requests_from_limits(resources, |name| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-"));
    }
}

/// What is limited and not requested is requested at its limit.
fn requests_from_limits(resources: &mut Members, takes: impl Fn(&str) -> bool) {
    let Some(Value::Object(limits)) = resources.get("limits") else { return };
    let limits = limits.clone();
    if limits.keys().any(|name| takes(name)) {
        set(resources, "requests", Map::new);
    }
    let Some(Value::Object(requests)) = resources.get_mut("requests") else { return };
    for (name, limit) in limits.into_iter().filter(|(name, _)| takes(name)) {
        set(requests, &name, || limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let (Some(number), Value::Object(port)) = (port.get("containerPort").cloned(), port) {
            set(port, "hostPort", || number);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; answers have both.
fn pod_spec(spec: &mut Members) {
    if text(spec, "serviceAccountName").is_empty() && !text(spec, "serviceAccount").is_empty() {
        let name = spec["serviceAccount"].clone();
        spec.insert("serviceAccountName".into(), name);
    }
    if !text(spec, "serviceAccountName").is_empty() {
        let name = spec["serviceAccountName"].clone();
        spec.insert("serviceAccount".into(), name);
    }
}

fn container(container: &mut Members) {
    pull_policy(container, "image", "imagePullPolicy");
}

/// The tag `latest` moves; what has another one is pulled once.
fn pull_policy(members: &mut Members, image: &str, field: &str) {
    let policy = if image_tag(text(members, image)) == "latest" { "Always" } else { "IfNotPresent" };
    set(members, field, || policy);
}

/// The tag of an image reference; `latest` where it names neither tag nor digest; empty when there is none to tell.
fn image_tag(image: &str) -> &str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    // An upper-case letter is allowed in the registry's host name only.
    let path = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => repository,
    };
    let wrong = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c));
    // Longer names are not references.
    if path.is_empty() || path.contains(wrong) || path.len() > 255 {
        return "";
    }
    tag.unwrap_or(if digest.is_some() { "" } else { "latest" })
}

/// A volume without a source is an empty directory.
fn volume(volume: &mut Members) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), json!({}));
    }
}

fn service_spec(spec: &mut Members) {
    let kind = text(spec, "type").to_owned();
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    }
    if text(spec, "sessionAffinity") == "ClientIP" {
        set(spec, "sessionAffinityConfig", || json!({"clientIP": {}}));
        let seconds = &mut spec["sessionAffinityConfig"];
        seconds.set_if_absent("/clientIP/timeoutSeconds", 10_800);
    }
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    let reachable = matches!(&*kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips);
    if reachable {
        set(spec, "externalTrafficPolicy", || "Cluster");
    }
    if matches!(&*kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", || "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", || true);
    }
}

fn service_port(port: &mut Members) {
    let unset = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(target) => target == 0 || target == "",
    };
    if let (true, Some(number)) = (unset, port.get("port").cloned()) {
        port.insert("targetPort".into(), number);
    }
}

/// `stringData` is written only: it goes to `data` in base64 and wins there.
fn secret(secret: &mut Members) {
    use base64::Engine;
    let Some(Value::Object(plain)) = secret.shift_remove("stringData") else { return };
    set(secret, "data", Map::new);
    if let Some(Value::Object(data)) = secret.get_mut("data") {
        for (key, value) in plain {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            data.insert(key, base64::engine::general_purpose::STANDARD.encode(bytes).into());
        }
        data.sort_keys();
    }
}

/// Every namespace carries its name as a label.
fn namespace(namespace: &mut Members) {
    const LABEL: &str = "kubernetes.io/metadata.name";
    let Some(Value::Object(metadata)) = namespace.get_mut("metadata") else { return };
    let name = metadata.get("name").cloned().unwrap_or_default();
    if name.as_str().is_some_and(|n| !n.is_empty()) {
        set(metadata, "labels", Map::new);
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.insert(LABEL.into(), name);
            labels.sort_keys();
        }
    }
}

/// Of volumes, not of the volume that an attachment holds inline.
fn persistent_volume(volume: &mut Members) {
    if let Some(Value::Object(spec)) = volume.get_mut("spec") {
        set(spec, "persistentVolumeReclaimPolicy", || "Retain");
        set(spec, "volumeMode", || "Filesystem");
    }
}

/// `podCIDR` is the first of `podCIDRs`.
fn node_spec(spec: &mut Members) {
    let first = spec.get("podCIDRs").and_then(|c| c.get(0)).cloned();
    match (spec.get("podCIDR").cloned(), first) {
        (Some(one), None) => drop(spec.insert("podCIDRs".into(), Value::Array(vec![one]))),
        (None, Some(one)) => drop(spec.insert("podCIDR".into(), one)),
        _ => {}
    }
}

fn node_status(status: &mut Members) {
    round_up(status, "capacity");
    round_up(status, "allocatable");
    if let Some(capacity) = status.get("capacity").cloned() {
        set(status, "allocatable", || capacity);
    }
}

/// A container's default limit is its maximum, its default request its default limit or else its minimum.
fn limit_range_item(item: &mut Members) {
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        round_up(item, list);
    }
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(Value::Object(source)) = item.get(from).cloned() else { continue };
        set(item, to, Map::new);
        if let Some(Value::Object(target)) = item.get_mut(to) {
            for (name, value) in source {
                set(target, &name, || value);
            }
            target.sort_keys();
        }
    }
}

/// The template's labels stand in for the selector and for the controller's own.
fn replication_controller(controller: &mut Members) {
    let labels = controller.get("spec").and_then(|s| s.get_at("/template/metadata/labels")).cloned();
    let Some(labels @ Value::Object(_)) = labels else { return };
    if let Some(Value::Object(spec)) = controller.get_mut("spec") {
        set(spec, "selector", || labels.clone());
    }
    if let Some(Value::Object(metadata)) = controller.get_mut("metadata") {
        set(metadata, "labels", || labels);
    }
}

fn requirements(resources: &mut Members) {
    round_up(resources, "limits");
    round_up(resources, "requests");
}

/// Amounts finer than a thousandth are rounded up to one.
fn round_up(members: &mut Members, list: &str) {
    for amount in members.get_mut(list).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let Some(quantity) = amount.as_str().filter(|t| t.ends_with(['n', 'u'])).map(Quantity::parse) else { continue };
        if let Ok(quantity) = quantity {
            *amount = Quantity::milli(quantity.milli_value()).to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::image_tag;
    use test_case::test_case;

    #[test_case("nginx", "latest")]
    #[test_case("nginx:1.2", "1.2")]
    #[test_case("localhost:5000/x", "latest")]
    #[test_case("Reg.example:5000/a/b:v", "v")]
    #[test_case("a@sha256:abc", ""; "a digest needs no tag")]
    #[test_case("a:latest@sha256:abc", "latest")]
    #[test_case("Upper/case", ""; "not an image")]
    #[test_case("", ""; "no image")]
    fn tags(image: &str, want: &str) {
        assert_eq!(image_tag(image), want);
    }
}
