//! `hostPath` volumes: a path of the node, checked to be what the pod expects.
//!
//! Rules: upstream `pkg/volume/hostpath`.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{Prepared, VolumeError};

/// Checks the path, and makes it for the `…OrCreate` types.
pub fn prepare(source: &HostPathVolumeSource) -> Result<Prepared, VolumeError> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(VolumeError::Missing(format!("hostPath {:?} is not absolute or has '..'", source.path)));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    if std::fs::metadata(&path).is_err() {
        create(&path, kind).map_err(|e| VolumeError::io(&path, e))?;
    }
    check(&path, kind)?;
    Ok(Prepared { path, refresh: None, read_only: false })
}

/// Makes a directory and those above it for everybody to read, whatever our own mask is.
fn make_all(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_all)?;
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)),
    }
}

fn create(path: &Path, kind: &str) -> std::io::Result<()> {
    match kind {
        // The runtime makes a missing directory for an unchecked path; so do we, before it is resolved.
        "" | "DirectoryOrCreate" => make_all(path),
        "FileOrCreate" => {
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        }
        _ => Ok(()),
    }
}

fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    let (ok, what) = match kind {
        "" => (found.is_some(), "path"),
        "Directory" | "DirectoryOrCreate" => (found.is_some_and(|t| t.is_dir()), "directory"),
        "File" | "FileOrCreate" => (found.is_some_and(|t| t.is_file()), "file"),
        "Socket" => (found.is_some_and(|t| t.is_socket()), "socket file"),
        "CharDevice" => (found.is_some_and(|t| t.is_char_device()), "character device"),
        "BlockDevice" => (found.is_some_and(|t| t.is_block_device()), "block device"),
        _ => (false, "hostPath of an unknown type"),
    };
    if ok {
        Ok(())
    } else {
        Err(VolumeError::Missing(format!("hostPath type check failed: {} is not a {what}", path.display())))
    }
}
