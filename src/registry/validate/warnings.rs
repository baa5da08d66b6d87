//! What a pod's specification says that is allowed and yet not what its author wants.
//!
//! Rules: upstream `pkg/api/pod/warnings.go`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;

/// Volume sources without a driver any more: name, deprecated since, and gone since.
const GONE: &[(&str, &str, &str)] = &[
    ("rbd", "v1.28", "v1.31"),
    ("cephfs", "v1.28", "v1.31"),
    ("glusterfs", "v1.25", "v1.26"),
    ("scaleIO", "v1.16", "v1.22"),
    ("storageos", "v1.22", "v1.25"),
    ("quobyte", "v1.22", "v1.25"),
    ("flocker", "v1.22", "v1.25"),
    ("photonPersistentDisk", "v1.11", "v1.16"),
];
/// Deprecated sources that still do something.
const DEPRECATED: &[(&str, &str)] = &[("gitRepo", "v1.11")];

/// Of a pod's specification at `path`, as `spec.template.spec`.
pub fn pod_spec(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    volumes(spec, path, &mut out);
    for (i, secret) in spec.items_at("/imagePullSecrets").iter().enumerate() {
        if secret.str_at("/name").unwrap_or_default().is_empty() {
            out.push(format!("{path}.imagePullSecrets[{i}].name: invalid empty name \"\""));
        }
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.items_at(&format!("/{list}")).iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            variables(container, &at, &mut out);
            ports(container, &at, &mut out);
        }
    }
    out
}

fn volumes(spec: &Value, path: &str, out: &mut Vec<String>) {
    for (i, volume) in spec.items_at("/volumes").iter().enumerate() {
        for (source, since, gone) in GONE.iter().filter(|(s, ..)| volume.get(s).is_some()) {
            out.push(format!("{path}.volumes[{i}].{source}: deprecated in {since}, non-functional in {gone}+"));
        }
        for (source, since) in DEPRECATED.iter().filter(|(s, _)| volume.get(s).is_some()) {
            out.push(format!("{path}.volumes[{i}].{source}: deprecated in {since}"));
        }
        let empty = |s: &Value| s.as_object().is_none_or(serde_json::Map::is_empty);
        if volume.items_at("/projected/sources").iter().any(empty) {
            let name = volume.str_at("/name").unwrap_or_default();
            out.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
    }
}

fn variables(container: &Value, at: &str, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, var) in container.items_at("/env").iter().enumerate() {
        let name = var.str_at("/name").unwrap_or_default();
        if seen.contains(&name) {
            out.push(format!(
                "{at}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
        seen.push(name);
    }
}

fn ports(container: &Value, at: &str, out: &mut Vec<String>) {
    let all = container.items_at("/ports");
    let key =
        |p: &Value| (p["containerPort"].clone(), p["protocol"].clone(), p["hostPort"].clone(), p["hostIP"].clone());
    for (i, port) in all.iter().enumerate() {
        if let Some(first) = all[..i].iter().position(|p| key(p) == key(port)) {
            out.push(format!("{at}.ports[{i}]: duplicate port definition with {at}.ports[{first}]"));
        }
    }
}

/// Of a workload with a template, whose name its pods bear.
pub fn workload(object: &Value, created: bool) -> Vec<String> {
    let mut out = pod_spec(&object["spec"]["template"]["spec"], "spec.template.spec");
    if created {
        out.extend(host_name(object, "Pod names and hostnames"));
    }
    out
}

/// A name that becomes part of host names should be one label.
pub fn host_name(object: &Value, used_in: &str) -> Option<String> {
    let name = object.str_at("/metadata/name").unwrap_or_default();
    (!names::dns1123_label(name).is_empty()).then(|| {
        format!("metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_of_what_does_nothing() {
        let spec = json!({"volumes": [{"name": "v", "rbd": {}}, {"name": "p", "projected": {"sources": [{}]}}],
            "containers": [{"env": [{"name": "A"}, {"name": "A"}], "ports": [{"containerPort": 1}, {"containerPort": 1}]}]});
        let found = pod_spec(&spec, "spec");
        assert_eq!(found.len(), 4);
        assert!(found[0].starts_with("spec.volumes[0].rbd:") && found[3].starts_with("spec.containers[0].ports[1]:"));
    }
}
