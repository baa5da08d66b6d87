//! VolumeAttachment.
//!
//! Rules: upstream `pkg/apis/storage/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;

use super::csi::needs_driver;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Create and update.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    needs_driver(&spec, "attacher");
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
        (true, false) => inline(&s.at("inlineVolumeSpec")),
    }
}

/// A volume given in place: of a CSI driver.
fn inline(v: &Field<'_>) {
    if v.count("accessModes") == 0 {
        v.errs.at("accessModes").required("");
    }
    for mode in v.items("accessModes") {
        if !ACCESS_MODES.contains(&mode.as_text()) {
            v.errs.at("accessModes").not_supported(mode.as_text(), ACCESS_MODES);
        }
    }
    let csi = v.at("csi");
    if csi.value.is_null() {
        csi.errs.required("");
        v.errs.required("must specify a volume type");
        return;
    }
    needs_driver(&csi, "driver");
    csi.needs("volumeHandle");
}
