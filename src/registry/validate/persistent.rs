//! Persistent volumes: their own, and those given in place by attachments.
//!
//! Rules: upstream `ValidatePersistentVolumeSpec`, `ValidatePersistentVolumeUpdate`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

use super::claims::{self, VOLUME_MODES};
use super::resources::amount;
use super::volume_sources::{self as sources, CEPH, GCE_DISK, Source, all_needed, one_of, source};
use super::{Field, affinity, iscsi, no_backsteps};

/// Sources of volumes, in upstream's order.
const SOURCES: &[Source] = &[
    source("hostPath", sources::host_path),
    GCE_DISK,
    source("awsElasticBlockStore", sources::aws_disk),
    source("glusterfs", gluster),
    source("flocker", sources::flocker),
    source("nfs", sources::nfs),
    source("rbd", sources::rbd),
    source("quobyte", sources::quobyte),
    CEPH,
    source("iscsi", iscsi::iscsi),
    source("cinder", |f| {
        f.needs("volumeID");
        secret(f);
    }),
    source("fc", sources::fibre_channel),
    source("flexVolume", sources::flex),
    source("azureFile", azure_file),
    source("vsphereVolume", |f| all_needed(f, &["volumePath"])),
    source("photonPersistentDisk", |f| all_needed(f, &["pdID"])),
    source("portworxVolume", |f| all_needed(f, &["volumeID"])),
    source("azureDisk", sources::azure_disk),
    source("scaleIO", sources::scale_io),
    source("local", |f| {
        if f.needs("path") {
            no_backsteps(&f.at("path"));
        }
    }),
    source("storageos", |f| {
        sources::storage_os(f);
        secret(f);
    }),
    source("csi", csi),
];
/// Secrets of a driver whose references must be whole.
const CSI_SECRETS: [&str; 4] =
    ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
/// Labels of nodes by their old and their new name.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

fn gluster(field: &Field<'_>) {
    all_needed(field, &["endpoints", "path"]);
    if field.has("endpointsNamespace") {
        field.at("endpointsNamespace").reasons(names::dns1123_label(field.text("endpointsNamespace")));
    }
}

fn azure_file(field: &Field<'_>) {
    all_needed(field, &["secretName", "shareName"]);
    if field.has("secretNamespace") {
        field.needs("secretNamespace");
    }
}

/// A secret of any namespace, where one is referred to.
fn secret(field: &Field<'_>) {
    if field.has("secretRef") {
        all_needed(&field.at("secretRef"), &["name", "namespace"]);
    }
}

fn csi(field: &Field<'_>) {
    sources::csi_driver(field, "driver");
    field.needs("volumeHandle");
    for secret in CSI_SECRETS.iter().filter(|name| field.has(name)).map(|name| field.at(name)) {
        if secret.needs("name") {
            secret.at("name").reasons(names::dns1123_subdomain(secret.text("name")));
        }
        if secret.needs("namespace") {
            secret.at("namespace").reasons(names::dns1123_label(secret.text("namespace")));
        }
    }
}

/// The `spec` of a volume of that name.
pub fn spec(spec: &Field<'_>, name: &str) {
    access_modes(spec);
    let capacity = spec.at("capacity");
    let kinds: Vec<&str> = spec.entries("capacity").map(|(kind, _)| kind).collect();
    if kinds.is_empty() {
        capacity.errs.required("");
    }
    if kinds != ["storage"] {
        capacity.errs.not_supported(capacity.value.clone(), &["storage"]);
    }
    for (_, field) in spec.entries("capacity") {
        if amount(field.value) <= Quantity::units(0) {
            field.invalid("must be greater than zero");
        }
    }
    if !spec.text("persistentVolumeReclaimPolicy").is_empty() {
        spec.one_of("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"]);
    }
    node_affinity(spec);
    one_of(spec, SOURCES);
    if iscsi::name_too_long(&spec.at("iscsi"), name) {
        // Upstream spells this path without the capital letter.
        let why = "is too long together with the volume's name where there is an initiatorName";
        spec.errs.at("iscsi").at("targetportal").invalid(spec.at("iscsi").text("targetPortal"), why);
    }
    let recycled = spec.text("persistentVolumeReclaimPolicy") == "Recycle";
    if recycled && is_root(spec.at("hostPath").text("path")) {
        spec.errs.at("persistentVolumeReclaimPolicy").forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
    if !spec.text("storageClassName").is_empty() {
        spec.at("storageClassName").reasons(names::dns1123_subdomain(spec.text("storageClassName")));
    }
    spec.optional_one_of("volumeMode", VOLUME_MODES);
    if spec.has("volumeAttributesClassName") {
        if spec.needs("volumeAttributesClassName") {
            let class = spec.at("volumeAttributesClassName");
            class.reasons(names::dns1123_subdomain(class.as_text()));
        }
        if !spec.has("csi") {
            spec.errs.at("csi").required("has to be specified when using volumeAttributesClassName");
        }
    }
}

/// The `spec` of a volume that an attachment gives in place: a driver's, and nothing that binds it.
pub fn inline(spec: &Field<'_>) {
    const WHERE: &str = "in the context of inline volumes";
    for field in ["claimRef", "capacity", "nodeAffinity"].iter().filter(|f| spec.has(f)) {
        spec.errs.at(field).forbidden(format!("may not be specified {WHERE}"));
    }
    if !spec.has("csi") {
        spec.errs.at("csi").required(format!("has to be specified {WHERE}"));
    }
    access_modes(spec);
    for (field, only) in
        [("persistentVolumeReclaimPolicy", "Retain"), ("storageClassName", ""), ("volumeMode", "Filesystem")]
    {
        let text = spec.text(field);
        if !text.is_empty() && text != only {
            spec.errs.at(field).forbidden(format!("may not be {text:?} {WHERE}"));
        }
    }
    one_of(spec, SOURCES);
}

fn access_modes(spec: &Field<'_>) {
    if spec.count("accessModes") == 0 {
        spec.errs.at("accessModes").required("");
    }
    claims::access_modes(spec);
}

fn node_affinity(spec: &Field<'_>) {
    let node = spec.at("nodeAffinity");
    if node.value.is_null() {
        if spec.has("local") {
            node.errs.required("Local volume requires node affinity");
        }
    } else if node.has("required") {
        affinity::node_selector(&node.at("required"), true);
    } else {
        node.errs.at("required").required("must specify required node constraints");
    }
}

/// True for `/` in any spelling.
fn is_root(path: &str) -> bool {
    let mut depth = 0;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = std::cmp::max(depth - 1, 0),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

/// True when the sources of two specifications differ in more than a secret that is new.
pub fn source_differs(new: &Value, old: &Value) -> bool {
    const LATE: [&str; 2] = ["controllerExpandSecretRef", "nodeExpandSecretRef"];
    SOURCES.iter().any(|source| match (new.get(source.name), old.get(source.name)) {
        (Some(new), Some(old)) if source.name == "csi" => {
            let mut new = new.clone();
            for secret in LATE.iter().filter(|s| old.get(s).is_none()) {
                new.remove_at(&format!("/{secret}"));
            }
            new != *old
        }
        (new, old) => new != old,
    })
}

/// True when a node affinity is the old one, but for labels that go by their new names.
pub fn same_nodes(new: &Value, old: &Value) -> bool {
    const TERMS: &str = "/required/nodeSelectorTerms";
    let (mut renamed, terms) = (old.clone(), new.items_at(TERMS));
    let old_terms = renamed.pointer_mut(TERMS).and_then(Value::as_array_mut);
    for (term, new) in old_terms.into_iter().flatten().zip(terms) {
        let list = term.get_mut("matchExpressions").and_then(Value::as_array_mut);
        for (requirement, new) in list.into_iter().flatten().zip(new.items_at("/matchExpressions")) {
            let key = |r: &Value| r.str_at("/key").unwrap_or_default().to_owned();
            let (was, is) = (key(requirement), key(new));
            if RENAMED.contains(&(was.as_str(), is.as_str())) {
                requirement["key"] = is.into();
            }
        }
    }
    renamed == *new
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

    #[test_case(json!({"nfs": {"server": "s", "path": "/"}}), &[]; "plain")]
    #[test_case(json!({"nfs": {"server": "s", "path": "/"}, "volumeAttributesClassName": ""}),
        &["volumeAttributesClassName", "csi"]; "attributes without a driver")]
    #[test_case(json!({"hostPath": {"path": "/a/.."}, "persistentVolumeReclaimPolicy": "Recycle"}),
        &["hostPath.path", "persistentVolumeReclaimPolicy"]; "all of the node to be wiped")]
    #[test_case(json!({"cinder": {"volumeID": "v", "secretRef": {"name": "s"}}}), &["cinder.secretRef.namespace"]; "a secret of nowhere")]
    #[test_case(json!({"csi": {"driver": "d.example.com", "volumeHandle": "h", "nodePublishSecretRef": {"name": "A", "namespace": "n"}}}),
        &["csi.nodePublishSecretRef.name"]; "no secret's name")]
    #[test_case(json!({"iscsi": {"targetPortal": "p", "iqn": "eui.0123456789abcdef", "initiatorName": "x"}}),
        &["iscsi.initiatorname"]; "no initiator")]
    #[test_case(json!({"local": {"path": "/x"}}), &["nodeAffinity"]; "a disk of no node")]
    fn specs(mut volume: Value, want: &[&str]) {
        volume["accessModes"] = json!(["ReadWriteOnce"]);
        volume["capacity"] = json!({"storage": "1Gi"});
        let errs = FieldErrors::new();
        spec(&Field::root(&volume, &errs), "v");
        assert_eq!(paths(&errs), want);
    }

    #[test]
    fn volumes_in_place_are_a_drivers() {
        let volume = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1"}, "nfs": {"server": "s", "path": "/"},
            "volumeMode": "Block", "persistentVolumeReclaimPolicy": "Retain"});
        let errs = FieldErrors::new();
        inline(&Field::root(&volume, &errs));
        assert_eq!(paths(&errs), ["capacity", "csi", "volumeMode"]);
    }

    #[test]
    fn labels_may_get_their_new_names() {
        let by = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "Exists"}]}]}});
        let (old, new) = (by("beta.kubernetes.io/os"), by("kubernetes.io/os"));
        assert!(same_nodes(&new, &old) && same_nodes(&old, &old) && !same_nodes(&old, &new));
        assert!(!same_nodes(&by("kubernetes.io/arch"), &old));
    }

    #[test]
    fn secrets_may_come_later() {
        let (old, new) =
            (json!({"csi": {"driver": "d"}}), json!({"csi": {"driver": "d", "nodeExpandSecretRef": {"name": "s"}}}));
        assert!(!source_differs(&new, &old) && source_differs(&old, &new));
    }
}
