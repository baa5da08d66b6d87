//! What is mounted, as the kernel tells it.

use std::io;
use std::path::{Path, PathBuf};

/// Mount points inside `dir`, from the text of a mountinfo file.
pub fn below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    points(mountinfo).filter(|p| p.starts_with(dir) && p != dir).collect()
}

fn points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    let unescape =
        |s: &str| s.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    mountinfo.lines().filter_map(|l| l.split(' ').nth(4)).map(move |p| PathBuf::from(unescape(p)))
}

/// True when something is mounted right there.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    // The kernel tells of mounts by their real places.
    let real = path.canonicalize()?;
    Ok(points(&std::fs::read_to_string("/proc/self/mountinfo")?).any(|p| p == real))
}
