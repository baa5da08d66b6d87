//! `configMap` and `secret` volumes: an object's keys as files.

use k8s_openapi::api::core::v1::KeyToPath;

use super::atomic::Payload;
use super::{Cx, VolumeError, pick};
use crate::kubelet::sources::Kind;

/// Mode of files when nobody says otherwise.
pub const DEFAULT_MODE: u32 = 0o644;

/// Which object, and what of it.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Kind.
    pub kind: Kind,
    /// Name, in the pod's namespace.
    pub name: &'a str,
    /// Keys and their paths; all when absent.
    pub items: Option<&'a [KeyToPath]>,
    /// Whether it may be missing.
    pub optional: Option<bool>,
}

/// The files of the object.
pub fn collect(cx: &Cx<'_>, which: Which<'_>, mode: Option<i32>) -> Result<Payload, VolumeError> {
    let mode = mode.map_or(DEFAULT_MODE, |m| m as u32);
    let optional = which.optional == Some(true);
    let Some(data) = cx.sources.data(which.kind, &cx.pod.namespace, which.name) else {
        if optional {
            return Ok(Payload::new());
        }
        return Err(VolumeError::Missing(format!("{} \"{}\" not found", which.kind.singular(), which.name)));
    };
    pick(&data, which.items, mode, optional, |key| {
        format!("{} references non-existent {} key: {key}", which.kind.singular(), which.kind.singular())
    })
}
