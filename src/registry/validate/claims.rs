//! What a claim for storage asks for: claims themselves, templates of StatefulSets, ephemeral volumes.

use serde_json::Value;

use crate::api::meta::{names, quantity::Quantity};

use super::{Field, labels, resources};

/// How a volume may be mounted.
pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// What a volume shows.
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// `accessModes`, of claims and volumes.
pub fn access_modes(spec: &Field<'_>) {
    let field = spec.errs.at("accessModes");
    let modes: Vec<&str> = spec.items("accessModes").map(|m| m.as_text()).collect();
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(m)) {
        field.not_supported(*mode, ACCESS_MODES);
    }
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(|m| *m != "ReadWriteOncePod") {
        field.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

/// The `spec` of a claim.
pub fn spec(spec: &Field<'_>) {
    if spec.count("accessModes") == 0 {
        spec.errs.at("accessModes").required("at least 1 access mode is required");
    }
    labels::selector(&spec.at("selector"));
    access_modes(spec);
    let storage = spec.at("resources").value.get("requests").and_then(|r| r.get("storage"));
    let errs = spec.errs.at("resources").key("storage");
    match storage {
        None => errs.required(""),
        Some(value) if resources::amount(value) <= Quantity::units(0) => {
            errs.invalid(value.clone(), "must be greater than zero");
        }
        Some(_) => {}
    }
    for class in ["storageClassName", "volumeAttributesClassName"] {
        if !spec.text(class).is_empty() {
            spec.at(class).reasons(names::dns1123_subdomain(spec.text(class)));
        }
    }
    spec.optional_one_of("volumeMode", VOLUME_MODES);
    for source in ["dataSource", "dataSourceRef"] {
        if spec.has(source) {
            data_source(&spec.at(source));
        }
    }
    sources_agree(spec);
}

fn data_source(field: &Field<'_>) {
    field.needs("name");
    field.needs("kind");
    let group = field.text("apiGroup");
    if group.is_empty() && field.text("kind") != "PersistentVolumeClaim" {
        field.invalid("must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() {
        field.at("apiGroup").reasons(names::dns1123_subdomain(group));
    }
    if !field.text("namespace").is_empty() {
        field.at("namespace").reasons(names::dns1123_label(field.text("namespace")));
    }
}

/// Both sources, where both are given, are the same one; one in another namespace stands alone.
fn sources_agree(spec: &Field<'_>) {
    if !spec.has("dataSource") || !spec.has("dataSourceRef") {
        return;
    }
    let part = |source: &str, name: &str| spec.at(source).value.get(name).cloned().unwrap_or(Value::Null);
    if !spec.at("dataSourceRef").text("namespace").is_empty() {
        spec.errs.invalid("dataSource", "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|n| part("dataSource", n) != part("dataSourceRef", n)) {
        spec.errs.invalid("dataSource", "must match dataSourceRef");
    }
}

/// What a resize is doing.
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

/// The `status` of a claim as it is written.
pub fn status(claim: &Field<'_>) {
    let status = claim.at("status");
    for (_, field) in status.entries("capacity") {
        if resources::amount(field.value).is_negative() {
            field.invalid("must be a valid resource quantity");
        }
    }
    // Upstream calls it so, and tells of it without the key.
    let states = status.errs.at("allocatedResourceStatus");
    for (name, field) in status.entries("allocatedResourceStatuses") {
        resource_name(name, &states);
        if !RESIZE_STATES.contains(&field.as_text()) {
            states.not_supported(name, RESIZE_STATES);
        }
    }
    for (name, field) in status.entries("allocatedResources") {
        if resource_name(name, &status.errs.at("allocatedResources")) && resources::amount(field.value).is_negative() {
            field.invalid("must be a valid resource quantity");
        }
    }
}

/// Storage, or something of another vendor's.
fn resource_name(name: &str, errs: &super::FieldErrors) -> bool {
    let reasons = names::qualified_name(name);
    let supported = name == "storage" || !resources::is_native(name);
    if reasons.is_empty() && !supported {
        errs.not_supported(name, &["storage"]);
    }
    let valid = reasons.is_empty() && supported;
    errs.all_invalid(name, reasons);
    valid
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

    #[test_case(json!({"dataSource": {"apiGroup": "A B", "kind": "K", "name": "n"}}), &["dataSource.apiGroup"]; "no group")]
    #[test_case(json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "n"},
        "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "n", "namespace": "A"}}), &["dataSourceRef.namespace", "<nil>"]; "another namespace")]
    #[test_case(json!({"resources": {"requests": {"storage": "-1"}}}), &["resources[storage]"]; "less than nothing")]
    fn specs(mut claim: Value, want: &[&str]) {
        claim["accessModes"] = json!(["ReadWriteOnce"]);
        if claim.get("resources").is_none() {
            claim["resources"] = json!({"requests": {"storage": "1"}});
        }
        let errs = FieldErrors::new();
        spec(&Field::root(&claim, &errs));
        assert_eq!(paths(&errs), want);
    }

    #[test]
    fn statuses() {
        let claim = json!({"status": {"capacity": {"storage": "-1"}, "allocatedResourceStatuses": {"storage": "x", "cpu": "NodeResizePending"},
            "allocatedResources": {"storage": "-1"}}});
        let errs = FieldErrors::new();
        status(&Field::root(&claim, &errs));
        let at = "status.allocatedResourceStatus";
        assert_eq!(paths(&errs), ["status.capacity[storage]", at, at, "status.allocatedResources[storage]"]);
    }
}
