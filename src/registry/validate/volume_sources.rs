//! Sources of volumes: one check each, for pods and (where they share it) persistent volumes.

use crate::api::meta::names;
use crate::api::value::ValueExt;

use super::env::{VOLUME_FIELDS, field_ref, resource_ref};
use super::{Field, claims, config_key, local_descending_path, no_backsteps, resources};

/// A check of one source.
pub type Check = fn(&Field<'_>);

/// Sources of a pod's volumes, in upstream's order: of several, the first is judged and the rest are refused.
pub const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", gce_disk),
    ("awsElasticBlockStore", aws_disk),
    ("secret", |f| key_items(f, "secretName")),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |f| all_needed(f, &["endpoints", "path"])),
    ("flocker", flocker),
    ("persistentVolumeClaim", |f| all_needed(f, &["claimName"])),
    ("rbd", rbd),
    ("flexVolume", |f| all_needed(f, &["driver"])),
    ("cinder", |f| all_needed(f, &["volumeID"])),
    ("cephfs", ceph),
    ("quobyte", quobyte),
    ("downwardAPI", |f| downward(f)),
    ("fc", fibre_channel),
    ("configMap", |f| key_items(f, "name")),
    ("azureFile", |f| all_needed(f, &["secretName", "shareName"])),
    ("vsphereVolume", |f| all_needed(f, &["volumePath"])),
    ("photonPersistentDisk", |f| all_needed(f, &["pdID"])),
    ("portworxVolume", |f| all_needed(f, &["volumeID"])),
    ("azureDisk", azure_disk),
    ("storageos", |_| {}),
    ("projected", projected),
    ("scaleIO", |f| all_needed(f, &["gateway", "system", "volumeName"])),
    ("csi", inline_csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

fn all_needed(field: &Field<'_>, names: &[&str]) {
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
    if field.needs("path") {
        no_backsteps(&field.at("path"));
    }
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    field.optional_one_of("type", &types);
}

fn git_repo(field: &Field<'_>) {
    field.needs("repository");
    local_descending_path(&field.at("directory"));
}

/// A Google disk.
pub fn gce_disk(field: &Field<'_>) {
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

/// An iSCSI target.
pub fn iscsi(field: &Field<'_>) {
    field.needs("targetPortal");
    let iqn = field.text("iqn");
    if field.needs("iqn") {
        if !["iqn", "eui", "naa"].iter().any(|p| iqn.starts_with(p)) {
            field.at("iqn").invalid("must be valid format starting with iqn, eui, or naa");
        } else if !is_iqn(iqn) {
            field.at("iqn").invalid("must be valid format");
        }
    }
    field.in_range("lun", 0, 255);
    if (field.flag("chapAuthDiscovery") || field.flag("chapAuthSession")) && !field.has("secretRef") {
        field.errs.at("secretRef").required("");
    }
    if field.has("initiatorName") {
        let name = field.text("initiatorName");
        if !["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p)) || !is_iqn(name) {
            field.at("initiatorName").invalid("must be valid format");
        }
    }
}

/// `iqn.yyyy-mm.reversed.domain[:name]`, `eui.` and 16 hex digits, or `naa.` and 16 or 32.
fn is_iqn(name: &str) -> bool {
    let hex =
        |rest: &str, lengths: &[usize]| lengths.contains(&rest.len()) && rest.bytes().all(|c| c.is_ascii_hexdigit());
    if let Some(rest) = name.strip_prefix("eui.") {
        return hex(rest, &[16]);
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return hex(rest, &[16, 32]);
    }
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let b = rest.as_bytes();
    let digits = |range: std::ops::Range<usize>| b.get(range).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
    digits(0..4)
        && b.get(4) == Some(&b'-')
        && digits(5..7)
        && b.get(7) == Some(&b'.')
        && rest
            .split_once(':')
            .map_or(&rest[8..], |(head, _)| &head[8.min(head.len())..])
            .starts_with(char::is_alphabetic)
        && !rest.contains(char::is_whitespace)
}

fn flocker(field: &Field<'_>) {
    let (name, id) = (field.text("datasetName"), field.text("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        field.errs.required("one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        field.errs.invalid("resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
}

/// A Ceph block device.
pub fn rbd(field: &Field<'_>) {
    if field.count("monitors") == 0 {
        field.errs.at("monitors").required("");
    }
    field.needs("image");
}

/// A Ceph file system.
pub fn ceph(field: &Field<'_>) {
    if field.count("monitors") == 0 {
        field.errs.at("monitors").required("");
    }
}

fn quobyte(field: &Field<'_>) {
    all_needed(field, &["registry", "volume"]);
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

fn azure_disk(field: &Field<'_>) {
    all_needed(field, &["diskName", "diskURI"]);
    field.optional_one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    field.optional_one_of("kind", &["Dedicated", "Managed", "Shared"]);
}

/// Files out of a ConfigMap or Secret.
fn key_items(field: &Field<'_>, name: &str) {
    field.needs(name);
    mode(field, "defaultMode");
    keys(field);
}

fn keys(field: &Field<'_>) {
    for item in field.items("items") {
        if item.needs("key") {
            item.at("key").reasons(config_key(item.text("key")));
        }
        if item.needs("path") {
            descending_file(&item.at("path"));
        }
        mode(&item, "mode");
    }
}

/// A file's path inside a volume: below it, and not one of the names that updates use.
fn descending_file(field: &Field<'_>) {
    local_descending_path(field);
    if field.as_text().starts_with("..") && !field.as_text().starts_with("../") {
        field.invalid("must not start with '..'");
    }
}

fn mode(field: &Field<'_>, name: &str) {
    if field.int(name).is_some_and(|m| !(0..=0o777).contains(&m)) {
        field.at(name).invalid("must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn downward(field: &Field<'_>) {
    mode(field, "defaultMode");
    for item in field.items("items") {
        downward_file(&item, field);
    }
}

/// One file. Upstream tells of its references at the volume, without the item.
fn downward_file(item: &Field<'_>, volume: &Field<'_>) {
    if item.text("path").is_empty() {
        volume.errs.at("path").required("");
    } else {
        descending_file(&Field { value: &item.value["path"], errs: volume.errs.at("path") });
    }
    let at = |name: &str| Field {
        value: item.value.get(name).unwrap_or(&serde_json::Value::Null),
        errs: volume.errs.at(name),
    };
    match (item.has("fieldRef"), item.has("resourceFieldRef")) {
        (true, both) => {
            field_ref(&at("fieldRef"), VOLUME_FIELDS);
            if both {
                volume.errs.invalid("resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => resource_ref(&at("resourceFieldRef"), true),
        (false, false) => volume.errs.required("one of fieldRef and resourceFieldRef is required"),
    }
    mode(item, "mode");
}

fn projected(field: &Field<'_>) {
    mode(field, "defaultMode");
    let mut paths: Vec<String> = Vec::new();
    for source in field.items("sources") {
        let mut found = 0;
        for kind in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
        {
            if !source.has(kind) {
                continue;
            }
            found += 1;
            let one = source.at(kind);
            if found > 1 {
                one.errs.forbidden("may not specify more than 1 volume type per source");
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    one.needs("name");
                    keys(&one);
                }
                "downwardAPI" => {
                    for item in one.items("items") {
                        downward_file(&item, &one);
                    }
                }
                "serviceAccountToken" => token(&one),
                "clusterTrustBundle" => trust_bundle(&one),
                _ => {
                    one.needs("signerName");
                    one.needs("keyType");
                }
            }
            let listed = one.items("items").map(|i| i.text("path").to_owned());
            let own =
                (kind == "serviceAccountToken" || kind == "clusterTrustBundle").then(|| one.text("path").to_owned());
            for path in listed.chain(own).filter(|p| !p.is_empty()) {
                if paths.contains(&path) {
                    field.errs.invalid(path, "conflicting duplicate paths");
                } else {
                    paths.push(path);
                }
            }
        }
    }
}

fn token(field: &Field<'_>) {
    let seconds = field.int("expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        field.at("expirationSeconds").invalid("may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        field.at("expirationSeconds").invalid("may not specify a duration larger than 2^32 seconds");
    }
    if field.needs("path") {
        descending_file(&field.at("path"));
    }
}

fn trust_bundle(field: &Field<'_>) {
    let (name, signer) = (field.text("name"), field.text("signerName"));
    match (name.is_empty(), signer.is_empty()) {
        (true, true) => field.errs.required("either name or signerName must be specified"),
        (false, false) => field.errs.invalid("", "only one of name and signerName may be specified"),
        _ => {}
    }
    if field.needs("path") {
        descending_file(&field.at("path"));
    }
}

/// A driver's name.
pub fn csi_driver(field: &Field<'_>) {
    let driver = field.text("driver");
    if driver.is_empty() {
        field.errs.at("driver").required("");
        return;
    }
    if driver.len() > 63 {
        field.errs.at("driver").too_long(63);
    }
    field.at("driver").reasons(names::dns1123_subdomain(&driver.to_lowercase()));
}

fn inline_csi(field: &Field<'_>) {
    csi_driver(field);
    if field.has("nodePublishSecretRef") && field.at("nodePublishSecretRef").text("name").is_empty() {
        field.errs.at("nodePublishSecretRef").at("name").required("");
    }
}

fn ephemeral(field: &Field<'_>) {
    let template = field.at("volumeClaimTemplate");
    if template.value.is_null() {
        template.errs.required("");
        return;
    }
    for key in template.value.items_at("/metadata/finalizers") {
        template.errs.at("metadata").at("finalizers").invalid(key.clone(), "must not be set");
    }
    super::labels::labels(&template.at("metadata").at("labels"));
    claims::spec(&template.at("spec"));
}

fn image(field: &Field<'_>) {
    if field.text("reference").is_empty() {
        field.errs.at("reference").required("");
    }
    field.one_of("pullPolicy", &["Always", "IfNotPresent", "Never"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("iqn.2001-04.com.example:storage", true)]
    #[test_case("iqn.2001-4.com.example", false; "a short month")]
    #[test_case("eui.0123456789abcdef", true)]
    #[test_case("naa.01", false; "a short number")]
    #[test_case("iqn.", false; "nothing behind")]
    fn qualified_names(name: &str, ok: bool) {
        assert_eq!(is_iqn(name), ok);
    }
}
