//! VolumeAttachment.
//!
//! Rules: upstream `pkg/apis/storage/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::volume_sources::csi_driver;
use crate::registry::validate::{Field, persistent};

/// Create and update.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    csi_driver(&spec, "attacher");
    source(&spec.at("source"));
    let node = spec.text("nodeName");
    spec.errs.at("nodeName").all_invalid(node, names::dns1123_subdomain(node));
    if let Some(old) = old {
        o.immutable("spec", old);
    }
}

fn source(s: &Field<'_>) {
    match (s.has("inlineVolumeSpec"), s.has("persistentVolumeName")) {
        (true, true) => s.errs.forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (false, false) => s.errs.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (false, true) => {
            let volume = s.at("persistentVolumeName");
            if volume.as_text().is_empty() {
                volume.errs.required("must specify non empty persistentVolumeName");
            }
            volume.reasons(names::dns1123_subdomain(volume.as_text()));
        }
        (true, false) => persistent::inline(&s.at("inlineVolumeSpec")),
    }
}
