//! Volumes of pods and pod templates.

use serde_json::Value;

use crate::api::meta::names;

use super::Field;
use super::iscsi;
use super::pod_spec::Options;
use super::volume_sources::{SOURCES, one_of};

/// `volumes`: tells what is wrong, and gives name and source of the valid ones. Mounts may only name those.
pub fn volumes<'a>(spec: &Field<'a>, options: Options<'_>) -> Vec<(&'a str, &'a Value)> {
    let mut valid: Vec<(&str, &Value)> = Vec::new();
    for volume in spec.items("volumes") {
        let before = volume.errs.len();
        let name = volume.text("name");
        one_of(&volume, SOURCES);
        by_name(&volume, name, options);
        if volume.needs("name") {
            volume.at("name").reasons(names::dns1123_label(name));
        }
        if valid.iter().any(|(n, _)| *n == name) {
            volume.errs.at("name").duplicate(name);
        }
        if volume.errs.len() == before {
            valid.push((name, volume.value));
        }
    }
    own_claims(spec, options);
    valid
}

/// What depends on the volume's name, and on what the volume belongs to.
fn by_name(volume: &Field<'_>, name: &str, options: Options<'_>) {
    if iscsi::name_too_long(&volume.at("iscsi"), name) {
        volume.at("name").invalid("is too long together with iscsi.targetPortal where there is an initiatorName");
    }
    if options.is_pod && volume.has("image") && volume.at("image").text("reference").is_empty() {
        volume.errs.at("image").at("reference").required("");
    }
    if volume.has("ephemeral") && !options.name.is_empty() && !name.is_empty() {
        let claim = format!("{}-{name}", options.name);
        for why in names::dns1123_subdomain(&claim) {
            volume.at("name").invalid(format!("PVC name {claim:?}: {why}"));
        }
    }
}

/// A pod cannot refer to a claim that is made for one of its ephemeral volumes.
fn own_claims(spec: &Field<'_>, options: Options<'_>) {
    if options.name.is_empty() {
        return;
    }
    let made: Vec<&str> = spec.items("volumes").filter(|v| v.has("ephemeral")).map(|v| v.text("name")).collect();
    for claim in spec.items("volumes").map(|v| v.at("persistentVolumeClaim")) {
        let own = claim.text("claimName").strip_prefix(options.name).and_then(|rest| rest.strip_prefix('-'));
        if own.is_some_and(|name| made.contains(&name)) {
            claim.at("claimName").invalid("must not reference a PVC that gets created for an ephemeral volume");
        }
    }
}
