//! Files out of ConfigMaps, Secrets, the downward API, tokens and bundles: alone or projected into one volume.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::meta::names;

use super::env::{VOLUME_FIELDS, field_ref, resource_ref};
use super::{Field, labels, local_descending_path};

/// Shortest and longest life of a projected token, seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;
/// Key types of projected certificates.
const KEY_TYPES: &[&str] = &["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
/// Shortest and longest life of a projected certificate, seconds.
const CERTIFICATE_SECONDS: std::ops::RangeInclusive<i64> = 3600..=91 * 86400;

/// Files out of a ConfigMap or Secret, whose name stands in the member `name`.
pub fn key_items(field: &Field<'_>, name: &str) {
    field.needs(name);
    mode(field, "defaultMode");
    keys(field);
}

fn keys(field: &Field<'_>) {
    for item in field.items("items") {
        item.needs("key");
        item.needs("path");
        descending_file(&item.at("path"));
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

/// The downward API.
pub fn downward(field: &Field<'_>) {
    mode(field, "defaultMode");
    for item in field.items("items") {
        downward_file(&item, field);
    }
}

/// One file. Upstream tells of it at the volume, without the item.
fn downward_file(item: &Field<'_>, volume: &Field<'_>) {
    let file = &Field { value: item.value, errs: volume.errs.clone() };
    file.needs("path");
    descending_file(&file.at("path"));
    match (file.has("fieldRef"), file.has("resourceFieldRef")) {
        (true, both) => {
            field_ref(&file.at("fieldRef"), VOLUME_FIELDS);
            if both {
                file.errs.invalid("resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => resource_ref(&file.at("resourceFieldRef"), true),
        (false, false) => file.errs.required("one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode");
}

/// Several sources in one volume; each says one thing, and no path is there twice.
pub fn projected(field: &Field<'_>) {
    mode(field, "defaultMode");
    let mut paths: HashSet<&str> = HashSet::new();
    for source in field.items("sources") {
        let mut found = 0;
        for (kind, check) in PROJECTIONS.iter().filter(|(kind, _)| source.has(kind)) {
            found += 1;
            let one = source.at(kind);
            check(&one, field);
            for path in paths_of(kind, one.value) {
                if !paths.insert(path) {
                    field.errs.invalid(path, "conflicting duplicate paths");
                }
            }
        }
        if found > 1 {
            source.errs.forbidden("may not specify more than 1 volume type per source");
        }
    }
}

/// A check of one projected source; the volume is there for paths that upstream shortens.
type Projection = fn(&Field<'_>, &Field<'_>);

const PROJECTIONS: &[(&str, Projection)] = &[
    ("secret", |one, _| named_keys(one)),
    ("configMap", |one, _| named_keys(one)),
    ("downwardAPI", |one, _| one.items("items").for_each(|item| downward_file(&item, one))),
    ("serviceAccountToken", token),
    ("clusterTrustBundle", |one, _| trust_bundle(one)),
    ("podCertificate", |one, _| certificate(one)),
];

/// The paths that a source takes. Tokens' are not counted.
fn paths_of<'a>(kind: &str, source: &'a Value) -> Vec<&'a str> {
    let text = |of: &'a Value, name: &str| of.get(name).and_then(Value::as_str).filter(|p| !p.is_empty());
    let own: &[&str] = match kind {
        "clusterTrustBundle" => &["path"],
        "podCertificate" => &["credentialBundlePath", "keyPath", "certificateChainPath"],
        _ => &[],
    };
    let items = source.get("items").and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|i| text(i, "path")).chain(own.iter().filter_map(|name| text(source, name))).collect()
}

fn named_keys(field: &Field<'_>) {
    field.needs("name");
    keys(field);
}

/// A token. Upstream tells of its path at the volume.
fn token(field: &Field<'_>, volume: &Field<'_>) {
    let seconds = field.int("expirationSeconds").unwrap_or(0);
    if seconds < *TOKEN_SECONDS.start() {
        field.at("expirationSeconds").invalid("may not specify a duration less than 10 minutes");
    }
    if seconds > *TOKEN_SECONDS.end() {
        field.at("expirationSeconds").invalid("may not specify a duration larger than 2^32 seconds");
    }
    let here = Field { value: field.value, errs: volume.errs.clone() };
    if here.needs("path") {
        descending_file(&here.at("path"));
    }
}

fn trust_bundle(field: &Field<'_>) {
    let (name, signer) = (field.at("name"), field.at("signerName"));
    match (field.has("name"), field.has("signerName")) {
        (true, true) => field.invalid("only one of name and signerName may be used"),
        (true, false) => {
            if name.as_text().is_empty() {
                name.errs.required("must be a valid object name");
            }
            // `signer:with:colons` in front of the name proper.
            let own = name.as_text().rsplit_once(':').map_or(name.as_text(), |(_, own)| own);
            name.reasons(names::dns1123_subdomain(own));
            if field.has("labelSelector") {
                field.at("labelSelector").invalid("labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.as_text().is_empty() {
                signer.errs.required("must be a valid signer name");
            }
            super::signer::name(&signer);
            labels::selector(&field.at("labelSelector"));
        }
        (false, false) => field.errs.required("either name or signerName must be specified"),
    }
    field.needs("path");
    descending_file(&field.at("path"));
}

fn certificate(field: &Field<'_>) {
    super::signer::name(&field.at("signerName"));
    field.one_of("keyType", KEY_TYPES);
    if field.int("maxExpirationSeconds").is_some_and(|n| !CERTIFICATE_SECONDS.contains(&n)) {
        field.at("maxExpirationSeconds").invalid("must be between one hour and 91 days");
    }
    let given = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|path| {
        let at = field.at(path);
        let there = !at.as_text().is_empty();
        if there {
            descending_file(&at);
        }
        there
    });
    if !given.contains(&true) {
        field.errs.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}
