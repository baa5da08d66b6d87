//! `emptyDir` volumes: a directory that lives as long as the pod, on disk or in memory.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use super::{Cx, Prepared, VolumeError, directory, make_dir, ownership};
use crate::api::meta::quantity::Quantity;

/// Everyone may write, as upstream has it.
const MODE: u32 = 0o777;

/// Makes the directory once; what is in it stays.
pub fn prepare(cx: &Cx<'_>, name: &str, source: &EmptyDirVolumeSource) -> Result<Prepared, VolumeError> {
    let path = directory(cx.dir, "empty-dir", name);
    make_dir(&path, MODE)?;
    match source.medium.as_deref() {
        None | Some("") => {}
        Some("Memory") => {
            let limit = source.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map(|q| q.value());
            mount_memory(&path, limit).map_err(|e| VolumeError::io(&path, e))?;
        }
        Some(_) => return Err(VolumeError::Unsupported("emptyDir on huge pages")),
    }
    // The root tells whether it was done: a crash comes in between, and a reboot leaves memory empty.
    ownership::apply_once(cx.pod, &path).map_err(|e| VolumeError::io(&path, e))?;
    Ok(Prepared { path, refresh: None, read_only: false })
}

/// Mounts a tmpfs there, unless one is mounted already. `limit` is in bytes.
pub fn mount_memory(path: &Path, limit: Option<i64>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().ok_or_else(|| io::Error::other("a volume has a parent directory"))?;
    if std::fs::metadata(path)?.dev() != std::fs::metadata(parent)?.dev() {
        return Ok(());
    }
    let mode = std::fs::metadata(path)?.mode() & 0o7777;
    let mut options = format!("mode={mode:o}");
    if let Some(bytes) = limit.filter(|b| *b > 0) {
        options.push_str(&format!(",size={bytes}"));
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    Ok(())
}
