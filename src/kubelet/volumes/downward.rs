//! `downwardAPI` volumes: fields and resources of the pod as files.

use k8s_openapi::api::core::v1::DownwardAPIVolumeFile;

use super::atomic::{File, Payload};
use super::keyed::DEFAULT_MODE;
use super::{Cx, VolumeError};
use crate::kubelet::downward;

/// The files of the items.
pub fn collect(cx: &Cx<'_>, items: &[DownwardAPIVolumeFile], mode: Option<i32>) -> Result<Payload, VolumeError> {
    let default = mode.map_or(DEFAULT_MODE, |m| m as u32);
    let mut out = Payload::new();
    for item in items {
        let text = if let Some(r) = &item.field_ref {
            downward::field(cx.pod, &r.field_path, cx.facts)
                .ok_or_else(|| VolumeError::Missing(format!("unsupported fieldPath: {}", r.field_path)))?
        } else if let Some(r) = &item.resource_field_ref {
            downward::resource(cx.pod, "", r, cx.facts).map_err(VolumeError::Missing)?
        } else {
            continue;
        };
        let mode = item.mode.map_or(default, |m| m as u32);
        out.insert(item.path.clone(), File { bytes: text.into_bytes(), mode, uid: None });
    }
    Ok(out)
}
