//! Volumes of drivers that run on the node: `csi` in a pod, or behind a claim. The work is done by [`crate::kubelet::csi`].

use k8s_openapi::api::core::v1::CSIVolumeSource;
use serde_json::Value;

use super::{Cx, Prepared, VolumeError};
use crate::kubelet::csi::Volume;

/// The pod's own.
pub async fn inline(cx: &mut Cx<'_>, name: &str, source: &CSIVolumeSource) -> Result<Prepared, VolumeError> {
    let volume = Volume::inline(cx.pod, name, source);
    let csi = cx.csi;
    csi.set_up(cx, &volume, None).await
}

/// Behind a claim.
pub async fn persistent(cx: &mut Cx<'_>, found: &Value, claim: &str, read_only: bool) -> Result<Prepared, VolumeError> {
    let volume = Volume::persistent(found, read_only);
    let volume = volume.ok_or_else(|| VolumeError::Missing("the volume is no driver's".into()))?;
    let csi = cx.csi;
    csi.set_up(cx, &volume, Some(claim)).await
}
