//! Volumes of pods and pod templates.

use serde_json::Value;

use crate::api::meta::names;

use super::Field;
use super::volume_sources::SOURCES;

/// `volumes`: tells what is wrong, and gives name and source of the valid ones. Mounts may only name those.
pub fn volumes<'a>(spec: &Field<'a>) -> Vec<(&'a str, &'a Value)> {
    let mut valid: Vec<(&str, &Value)> = Vec::new();
    for volume in spec.items("volumes") {
        let before = volume.errs.len();
        source(&volume);
        let name = volume.text("name");
        if name.is_empty() {
            volume.errs.at("name").required("");
        } else {
            let reasons = names::dns1123_label(name);
            if reasons.is_empty() && valid.iter().any(|(n, _)| *n == name) {
                volume.errs.at("name").duplicate(name);
            }
            volume.at("name").reasons(reasons);
        }
        if volume.errs.len() == before {
            valid.push((name, volume.value));
        }
    }
    valid
}

fn source(volume: &Field<'_>) {
    let mut found = 0;
    for (name, check) in SOURCES.iter().filter(|(name, _)| volume.has(name)) {
        let field = volume.at(name);
        found += 1;
        if found > 1 {
            field.errs.forbidden("may not specify more than one volume type");
        } else {
            check(&field);
        }
    }
    if found == 0 {
        volume.errs.required("must specify a volume type");
    }
}
