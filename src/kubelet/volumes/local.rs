//! `local` persistent volumes: a directory or a mounted disk of this node; a bare disk, for who wants one.
//!
//! Rules: upstream `pkg/volume/local`; a bare disk that is to be a directory, which upstream would format, is refused.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use serde_json::Value;

use super::{Cx, Prepared, VolumeError, ownership};
use crate::api::value::ValueExt;

/// Where it is, as its volume says; none where that is no place.
pub fn place(source: &Value) -> Option<PathBuf> {
    let path = PathBuf::from(source.str_at("/path").unwrap_or_default());
    let fits = path.is_absolute() && path.components().all(|c| c != std::path::Component::ParentDir);
    fits.then_some(path)
}

/// What stands there, and where.
fn found(source: &Value) -> Result<(PathBuf, std::fs::FileType), VolumeError> {
    let Some(path) = place(source) else {
        let path = source.str_at("/path").unwrap_or_default();
        return Err(VolumeError::Missing(format!("local volume path {path} is not absolute or has '..'")));
    };
    match std::fs::metadata(&path) {
        Ok(meta) => Ok((path, meta.file_type())),
        Err(_) => Err(VolumeError::Missing(format!("path \"{}\" does not exist", path.display()))),
    }
}

/// Checks the disk.
pub fn device(source: &Value) -> Result<Prepared, VolumeError> {
    let (path, kind) = found(source)?;
    if !kind.is_block_device() {
        return Err(VolumeError::Missing(format!("path \"{}\" is not a block device", path.display())));
    }
    Ok(Prepared { path, refresh: None, read_only: false })
}

/// Checks the directory. `own` gives it to the pod's group.
pub fn prepare(cx: &Cx<'_>, source: &Value, own: bool) -> Result<Prepared, VolumeError> {
    let (path, kind) = found(source)?;
    if !kind.is_dir() {
        let why =
            format!("{} is no directory; format it and mount it, and name the place of the mount", path.display());
        return Err(VolumeError::Missing(why));
    }
    if own {
        ownership::apply(cx.pod, &path).map_err(|e| VolumeError::io(&path, e))?;
    }
    Ok(Prepared { path, refresh: None, read_only: false })
}
