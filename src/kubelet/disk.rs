//! Space and inodes: of a file system, and of what lies below a directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filesystem {
    /// Bytes.
    pub bytes: u64,
    /// Bytes that may still be written by ordinary users.
    pub bytes_available: u64,
    /// Inodes; none where the file system makes them as it needs them.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_available: u64,
}

impl Filesystem {
    /// The one that holds `path`, or will.
    pub fn of(path: &Path) -> Option<Self> {
        let there = path.ancestors().find(|p| p.exists())?;
        let s = nix::sys::statvfs::statvfs(there).ok()?;
        Some(Self {
            bytes: s.blocks() * s.fragment_size(),
            bytes_available: s.blocks_available() * s.fragment_size(),
            inodes: s.files(),
            inodes_available: s.files_available(),
        })
    }
}

/// What lies below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tree {
    /// Bytes of the disk.
    pub bytes: u64,
    /// Files, directories and the like.
    pub inodes: u64,
}

impl Tree {
    /// Everything below `path` on its own file system; what cannot be read is left out. Takes as long as `du`.
    pub fn of(path: &Path) -> Self {
        let Ok(top) = path.symlink_metadata() else { return Self::default() };
        let mut out = Self::default();
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            out.bytes += meta.blocks() * 512;
            out.inodes += 1;
            if meta.is_dir() {
                pending.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
            }
        }
        out
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_and_a_path_that_will_be_has_a_file_system() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let tree = Tree::of(dir.path());
        assert_eq!(tree.inodes, 4);
        assert!(tree.bytes >= 64 << 10 && tree.bytes < 1 << 20, "{tree:?}");
        assert_eq!(Tree::of(&dir.path().join("none")), Tree::default());
        let there = Filesystem::of(dir.path()).unwrap();
        assert_eq!(Filesystem::of(&dir.path().join("not/yet")).map(|f| f.bytes), Some(there.bytes));
        assert!(there.bytes_available <= there.bytes);
    }
}
