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
    labels::selector(&spec.at("selector"), labels::Values::Checked);
    access_modes(spec);
    let storage = spec.at("resources").value.get("requests").and_then(|r| r.get("storage"));
    let errs = spec.errs.at("resources").key("storage");
    match storage {
        None => errs.required(""),
        Some(value) => {
            let amount = resources::amount(value);
            if amount.is_negative() {
                errs.invalid(value.clone(), "must be greater than or equal to 0");
            }
            if amount <= Quantity::units(0) {
                errs.invalid(value.clone(), "must be greater than zero");
            }
        }
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
        field.errs.all_invalid(group, names::dns1123_subdomain(group));
    }
}

/// Both sources, where both are given, are the same one.
fn sources_agree(spec: &Field<'_>) {
    let part =
        |source: &str, name: &str| spec.value.get(source).and_then(|s| s.get(name)).unwrap_or(&Value::Null).clone();
    let (one, other) = (spec.has("dataSource"), spec.has("dataSourceRef"));
    let namespaced = !part("dataSourceRef", "namespace").is_null();
    if one && other && !namespaced {
        let differ = ["apiGroup", "kind", "name"].iter().any(|n| part("dataSource", n) != part("dataSourceRef", n));
        if differ {
            spec.errs.invalid(spec.value["dataSource"].clone(), "must match dataSourceRef");
        }
    }
}
