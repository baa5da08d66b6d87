//! What is mounted, as the kernel tells it.

use std::io;
use std::path::{Path, PathBuf};

use crate::util::procs::{mount_points, points_of};

/// Mount points inside `dir`, from the text of a mountinfo file.
pub fn below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    points_of(mountinfo).filter(|p| p.starts_with(dir) && p != dir).collect()
}

/// True when something is mounted right there.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    // The kernel tells of mounts by their real places.
    let real = path.canonicalize()?;
    Ok(mount_points()?.contains(&real))
}
