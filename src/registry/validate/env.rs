//! Environment variables and where their values come from.

use crate::api::meta::{names, quantity::Quantity};

use super::{Field, config_key, env_name, object_name};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of pods that a volume's file may show.
pub const VOLUME_FIELDS: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// Every path that `fieldRef` knows at all, for variables and volumes.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// How old clients name the field of the node's name.
const NODE_NAME_OF_OLD: &str = "spec.host";

/// `env` and `envFrom` of a container. `file_volumes` are the names of the volumes that file keys may come from.
pub fn of_container(container: &Field<'_>, empty_dirs: &[&str]) {
    for var in container.items("env") {
        if var.needs("name") {
            var.at("name").reasons(env_name(var.text("name")));
        }
        value_from(&var, empty_dirs);
    }
    let list = container.errs.at("envFrom");
    for source in container.items("envFrom") {
        if !source.text("prefix").is_empty() {
            source.at("prefix").reasons(env_name(source.text("prefix")));
        }
        let kinds = ["configMapRef", "secretRef"].iter().filter(|k| source.has(k));
        let count = kinds.map(|kind| object_name(&source.at(kind), "name")).count();
        // Upstream tells of the list.
        match count {
            0 => list.invalid("", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => list.invalid("", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(var: &Field<'_>, empty_dirs: &[&str]) {
    if !var.has("valueFrom") {
        return;
    }
    let from = var.at("valueFrom");
    let mut count = 0;
    if from.has("fieldRef") {
        count += 1;
        field_ref(&from.at("fieldRef"), FIELDS);
    }
    if from.has("resourceFieldRef") {
        count += 1;
        resource_ref(&from.at("resourceFieldRef"), false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(kind) {
            count += 1;
            let key_ref = from.at(kind);
            key_ref.at("name").errs.all_invalid(key_ref.text("name"), names::dns1123_subdomain(key_ref.text("name")));
            if key_ref.needs("key") {
                key_ref.at("key").reasons(config_key(key_ref.text("key")));
            }
        }
    }
    if from.has("fileKeyRef") {
        count += 1;
        let file = from.at("fileKeyRef");
        if file.needs("key") {
            file.at("key").reasons(env_name(file.text("key")));
        }
        if file.needs("volumeName") && !empty_dirs.contains(&file.text("volumeName")) {
            file.errs.at("volumeName").not_found(file.text("volumeName"));
        }
        if file.needs("path") {
            super::local_descending_path(&file.at("path"));
        }
    }
    if count == 0 {
        from.errs.invalid(
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !var.text("value").is_empty() {
        from.errs.invalid("", "may not be specified when `value` is not empty");
    } else if count > 1 {
        from.errs.invalid("", "may not have more than one field specified at a time");
    }
}

/// A reference to a field of the pod, out of `allowed`.
pub fn field_ref(field: &Field<'_>, allowed: &[&str]) {
    if field.text("apiVersion").is_empty() {
        field.errs.at("apiVersion").required("");
        return;
    }
    if !field.needs("fieldPath") {
        return;
    }
    let (version, path) = (field.text("apiVersion"), field.text("fieldPath"));
    let at = field.at("fieldPath");
    if version != "v1" {
        at.invalid(format!("error converting fieldPath: unsupported pod version: {version}"));
        return;
    }
    let subscript = path.strip_suffix("']").and_then(|p| p.split_once("['")).filter(|(map, _)| !map.is_empty());
    match subscript {
        // Upstream tells of keys at the reference.
        Some(("metadata.annotations", key)) => {
            field.errs.all_invalid(&key.to_lowercase(), names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => field.errs.all_invalid(key, names::qualified_name(key)),
        Some((map, _)) => {
            at.invalid(format!("error converting fieldPath: field label does not support subscript: {map}"))
        }
        None => {
            let known = if path == NODE_NAME_OF_OLD { "spec.nodeName" } else { path };
            if !KNOWN.contains(&known) {
                at.invalid(format!("error converting fieldPath: field label not supported: {path}"));
            } else if !allowed.contains(&known) {
                at.errs.not_supported(path, allowed);
            }
        }
    }
}

/// A reference to a container's resource. In volumes the container must be named.
pub fn resource_ref(field: &Field<'_>, in_volume: bool) {
    let resource = field.text("resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if (!in_volume || field.needs("containerName"))
        && field.needs("resource")
        && !RESOURCES.contains(&resource)
        && !huge
    {
        field.errs.at("resource").not_supported(resource, RESOURCES);
    }
    let divisor = field.value.get("divisor").map_or(Quantity::units(0), super::resources::amount);
    let allowed: &[&str] = match resource {
        _ if divisor == Quantity::units(0) => return,
        "limits.cpu" | "requests.cpu" => &["1m", "1"],
        _ if huge || RESOURCES.contains(&resource) => {
            &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
        }
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        field.at("divisor").invalid(format!("only divisor's values {} are supported", allowed.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::{Value, json};
    use test_case::test_case;

    #[test_case(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.host"}}}]}), &[]; "an old name of a field")]
    #[test_case(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v2", "fieldPath": "spec.nodeName"}}}]}),
        &["env[0].valueFrom.fieldRef.fieldPath"]; "a version that is none")]
    #[test_case(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a b']"}}}]}),
        &["env[0].valueFrom.fieldRef"]; "a label that is none")]
    #[test_case(json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "bogus", "divisor": "3"}}}]}),
        &["env[0].valueFrom.resourceFieldRef.resource"]; "what is no resource has no divisor")]
    #[test_case(json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}}}]}),
        &["env[0].valueFrom.resourceFieldRef.divisor"]; "processors in thousands")]
    #[test_case(json!({"envFrom": [{"prefix": "P"}]}), &["envFrom"]; "from nowhere")]
    fn variables(container: Value, paths: &[&str]) {
        let errs = FieldErrors::new();
        of_container(&Field::root(&container, &errs), &[]);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
