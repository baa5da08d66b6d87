//! `fsGroup`: volumes belong to a group of the pod's.
//!
//! Rules: upstream `pkg/volume/volume_linux.go`.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::kubelet::pod::PodView;

/// The group that volumes belong to.
pub fn group(pod: &PodView) -> Option<u32> {
    u32::try_from(pod.spec.security_context.as_ref()?.fs_group?).ok()
}

/// Gives everything below `path` to the pod's group, writable, and inherited by what is made later, unless the root says
/// that this was done. Symlinks are not followed.
pub fn apply_once(pod: &PodView, path: &Path) -> io::Result<()> {
    let Some(gid) = group(pod) else { return Ok(()) };
    let meta = std::fs::symlink_metadata(path)?;
    if meta.gid() == gid && meta.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    visit(path, gid)
}

/// The same by the pod's `fsGroupChangePolicy`: every time a pod gets the volume, or only where its root is not so yet.
pub fn apply(pod: &PodView, path: &Path) -> io::Result<()> {
    let policy = pod.spec.security_context.as_ref().and_then(|s| s.fs_group_change_policy.as_deref());
    match (policy, group(pod)) {
        (Some("OnRootMismatch"), _) => apply_once(pod, path),
        (_, Some(gid)) => visit(path, gid),
        (_, None) => Ok(()),
    }
}

fn visit(path: &Path, gid: u32) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(gid))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let add = if meta.is_dir() { 0o2770 } else { 0o660 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode((meta.mode() & 0o7777) | add))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            visit(&entry?.path(), gid)?;
        }
    }
    Ok(())
}
