//! Sources of volumes: one check each, for pods and (where they share it) persistent volumes.

use crate::api::meta::names;

use super::iscsi::iscsi;
use super::projections::{downward, key_items, projected};
use super::{Field, claims, local_descending_path, meta, no_backsteps, resources};

/// Longest name of a driver, bytes.
const DRIVER_MAX: usize = 63;

/// A check of one source.
pub type Check = fn(&Field<'_>);

/// One sort of volume.
pub struct Source {
    /// The member that says it.
    pub name: &'static str,
    /// What is asked of it.
    pub check: Check,
    /// The member's name in errors, which upstream does not always spell as in the API.
    pub shown: &'static str,
    /// The same where it is one sort too many.
    pub shown_twice: &'static str,
}

/// A row whose errors stand where one expects them.
pub const fn source(name: &'static str, check: Check) -> Source {
    Source { name, check, shown: name, shown_twice: name }
}

/// Judges the one source that a volume has: of several, the first is judged and the rest are refused.
pub fn one_of(volume: &Field<'_>, sources: &[Source]) {
    let mut found = 0;
    for source in sources.iter().filter(|s| volume.has(s.name)) {
        found += 1;
        if found > 1 {
            volume.errs.at(source.shown_twice).forbidden("may not specify more than one volume type");
        } else {
            let value = volume.at(source.name).value;
            (source.check)(&Field { value, errs: volume.errs.at(source.shown) });
        }
    }
    if found == 0 {
        volume.errs.required("must specify a volume type");
    }
}

/// Sources of a pod's volumes, in upstream's order.
pub const SOURCES: &[Source] = &[
    source("emptyDir", empty_dir),
    source("hostPath", host_path),
    source("gitRepo", git_repo),
    GCE_DISK,
    source("awsElasticBlockStore", aws_disk),
    source("secret", |f| key_items(f, "secretName")),
    source("nfs", nfs),
    source("iscsi", iscsi),
    source("glusterfs", |f| all_needed(f, &["endpoints", "path"])),
    source("flocker", flocker),
    source("persistentVolumeClaim", |f| all_needed(f, &["claimName"])),
    source("rbd", rbd),
    source("cinder", |f| {
        f.needs("volumeID");
        secret_name(f);
    }),
    CEPH,
    source("quobyte", quobyte),
    Source { shown_twice: "downwarAPI", ..source("downwardAPI", downward) },
    source("fc", fibre_channel),
    source("flexVolume", flex),
    source("configMap", |f| key_items(f, "name")),
    source("azureFile", |f| all_needed(f, &["secretName", "shareName"])),
    source("vsphereVolume", |f| all_needed(f, &["volumePath"])),
    source("photonPersistentDisk", |f| all_needed(f, &["pdID"])),
    source("portworxVolume", |f| all_needed(f, &["volumeID"])),
    source("azureDisk", azure_disk),
    source("storageos", |f| {
        storage_os(f);
        secret_name(f);
    }),
    source("projected", projected),
    source("scaleIO", scale_io),
    source("csi", inline_csi),
    source("ephemeral", ephemeral),
    source("image", |f| f.needs_one_of("pullPolicy", &["Always", "IfNotPresent", "Never"])),
];

/// A Google disk.
pub const GCE_DISK: Source = Source { shown: "persistentDisk", ..source("gcePersistentDisk", gce_disk) };
/// A Ceph file system.
pub const CEPH: Source = Source { shown_twice: "cephFS", ..source("cephfs", monitors) };

/// Members that must not be empty.
pub fn all_needed(field: &Field<'_>, names: &[&str]) {
    for name in names {
        field.needs(name);
    }
}

fn empty_dir(field: &Field<'_>) {
    if field.has("sizeLimit") && resources::amount(&field.value["sizeLimit"]).is_negative() {
        field.errs.at("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity");
    }
}

/// A path on the node.
pub fn host_path(field: &Field<'_>) {
    if !field.needs("path") {
        return;
    }
    no_backsteps(&field.at("path"));
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    field.optional_one_of("type", &types);
}

fn git_repo(field: &Field<'_>) {
    field.needs("repository");
    local_descending_path(&field.at("directory"));
}

fn gce_disk(field: &Field<'_>) {
    field.needs("pdName");
    field.in_range("partition", 0, 255);
}

/// An Amazon disk.
pub fn aws_disk(field: &Field<'_>) {
    field.needs("volumeID");
    field.in_range("partition", 0, 255);
}

/// An NFS export.
pub fn nfs(field: &Field<'_>) {
    field.needs("server");
    field.needs("path");
    if !field.text("path").starts_with('/') {
        field.errs.at("path").invalid(field.text("path"), "must be an absolute path");
    }
}

/// A Flocker dataset.
pub fn flocker(field: &Field<'_>) {
    let (name, id) = (field.text("datasetName"), field.text("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        field.errs.required("one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        field.errs.invalid("resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        field.at("datasetName").invalid("must not contain '/'");
    }
}

fn monitors(field: &Field<'_>) {
    if field.count("monitors") == 0 {
        field.errs.at("monitors").required("");
    }
}

/// A Ceph block device.
pub fn rbd(field: &Field<'_>) {
    monitors(field);
    field.needs("image");
}

/// A Quobyte volume: servers as `host:port`, separated by commas.
pub fn quobyte(field: &Field<'_>) {
    const WHY: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = field.text("registry");
    if registry.is_empty() {
        field.errs.at("registry").required(WHY);
    } else if field.text("tenant").len() > 64 {
        field.errs.at("tenant").required("must be a UUID and may not exceed a length of 64 characters");
    } else if !registry.split(',').all(is_host_and_port) {
        field.at("registry").invalid(WHY);
    }
    field.needs("volume");
}

/// `host:port`, where a host with colons stands in brackets.
fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        Some((host, _)) => match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').is_some_and(|h| !h.contains(['[', ']'])),
            None => !host.contains([':', '[', ']']),
        },
        None => false,
    }
}

/// A Fibre Channel target: by world wide names and LUN, or by world wide identifiers.
pub fn fibre_channel(field: &Field<'_>) {
    let (names, ids) = (field.count("targetWWNs"), field.count("wwids"));
    if names == 0 && ids == 0 {
        field.errs.at("targetWWNs").required("must specify either targetWWNs or wwids, but not both");
    }
    if names > 0 && ids > 0 {
        field.at("targetWWNs").invalid("targetWWNs and wwids can not be specified simultaneously");
    }
    if names > 0 {
        if field.has("lun") {
            field.in_range("lun", 0, 255);
        } else {
            field.errs.at("lun").required("lun is required if targetWWNs is specified");
        }
    }
}

/// An Azure disk. What its address looks like depends on its kind.
pub fn azure_disk(field: &Field<'_>) {
    all_needed(field, &["diskName", "diskURI"]);
    field.optional_one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    field.optional_one_of("kind", &["Dedicated", "Managed", "Shared"]);
    if field.has("kind") {
        let (prefix, example) = match field.text("kind") {
            "Managed" => (
                "/subscriptions/",
                "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
            ),
            _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
        };
        if !field.text("diskURI").starts_with(prefix) {
            field.errs.at("diskURI").not_supported(field.text("diskURI"), &[example]);
        }
    }
}

/// A volume by a driver on the node; names of Kubernetes' domains are not for its options.
pub fn flex(field: &Field<'_>) {
    field.needs("driver");
    for (key, option) in field.entries("options") {
        let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            option.errs.invalid(key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// A StorageOS volume, but for its secret.
pub fn storage_os(field: &Field<'_>) {
    if field.needs("volumeName") {
        field.at("volumeName").reasons(names::dns1123_label(field.text("volumeName")));
    }
    if !field.text("volumeNamespace").is_empty() {
        field.at("volumeNamespace").reasons(names::dns1123_label(field.text("volumeNamespace")));
    }
}

/// A ScaleIO volume.
pub fn scale_io(field: &Field<'_>) {
    all_needed(field, &["gateway", "system", "volumeName"]);
}

/// A secret of the same namespace, where one is referred to.
fn secret_name(field: &Field<'_>) {
    if field.has("secretRef") {
        field.at("secretRef").needs("name");
    }
}

/// A driver's name.
pub fn csi_driver(field: &Field<'_>, name: &str) {
    if !field.needs(name) {
        return;
    }
    let driver = field.text(name);
    if driver.len() > DRIVER_MAX {
        field.errs.at(name).too_long(DRIVER_MAX);
    }
    field.at(name).reasons(names::dns1123_subdomain(&driver.to_lowercase()));
}

fn inline_csi(field: &Field<'_>) {
    csi_driver(field, "driver");
    if field.has("nodePublishSecretRef") {
        let secret = field.at("nodePublishSecretRef");
        if secret.needs("name") {
            // Upstream's path leaves the reference out.
            let name = secret.text("name");
            field.errs.at("name").all_invalid(name, names::dns1123_subdomain(name));
        }
    }
}

fn ephemeral(field: &Field<'_>) {
    let template = field.at("volumeClaimTemplate");
    if template.value.is_null() {
        template.errs.required("");
        return;
    }
    meta::of_template(&template.at("metadata"));
    claims::spec(&template.at("spec"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::{Value, json};
    use test_case::test_case;

    #[test_case(json!({"gcePersistentDisk": {"partition": 256}}), &["persistentDisk.pdName", "persistentDisk.partition"]; "as upstream calls it")]
    #[test_case(json!({"emptyDir": {}, "cephfs": {}}), &["cephFS"]; "and calls it otherwise where it is one too many")]
    #[test_case(json!({"quobyte": {"registry": "a:1,b", "volume": "v"}}), &["quobyte.registry"]; "a server without port")]
    #[test_case(json!({"azureDisk": {"diskName": "d", "diskURI": "https://x", "kind": "Managed"}}), &["azureDisk.diskURI"]; "an address of another kind")]
    #[test_case(json!({"flexVolume": {"driver": "d", "options": {"x.k8s.io/a": "1", "b": "2"}}}), &["flexVolume.options[x.k8s.io/a]"]; "reserved options")]
    #[test_case(json!({"flocker": {"datasetName": "a/b"}}), &["flocker.datasetName"]; "a dataset with a slash")]
    #[test_case(json!({"csi": {"driver": "", "nodePublishSecretRef": {"name": "A"}}}), &["csi.driver", "csi.name"]; "no driver, a bad secret")]
    #[test_case(json!({"downwardAPI": {"items": [{"path": "../a", "resourceFieldRef": {"resource": "bogus", "containerName": "c", "divisor": "7m"}}]}}),
        &["downwardAPI.path", "downwardAPI.resourceFieldRef.resource"]; "files are told of at the volume")]
    #[test_case(json!({"projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 600}}, {"secret": {"name": "s"}, "configMap": {"name": "c"}}]}}),
        &["projected.path", "projected.sources[1]"]; "a token without path, two sources in one")]
    #[test_case(json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "example.com:b", "path": "p"}}, {"clusterTrustBundle": {"signerName": "x", "path": "p"}}]}}),
        &["projected.sources[1].clusterTrustBundle.signerName", "projected"]; "a path twice")]
    #[test_case(json!({}), &["<nil>"]; "nothing")]
    fn volumes(volume: Value, paths: &[&str]) {
        let errs = FieldErrors::new();
        one_of(&Field::root(&volume, &errs), SOURCES);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
