//! Directories whose files change all at once: a symlink `..data` leads to the present version.
//!
//! Layout: upstream `pkg/volume/util/atomic_writer.go`; programs watch for the rename of `..data`.
//!
//! **Invariant:** a reader that opens files below one `..data` sees one version; a crash leaves the old one or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Contents and mode of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, where it is not root.
    pub uid: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` say `payload`; true when something changed. `gid` owns the files, as `fsGroup` asks.
pub fn write(dir: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|p| !is_safe(p)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{bad:?} is no path inside the volume")));
    }
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && read_back(&dir.join(old)).is_ok_and(|present| says(&present, payload, gid.is_some()))
    {
        return Ok(false);
    }
    let version = format!("..{}", uuid::Uuid::new_v4().simple());
    let made = make_version(&dir.join(&version), payload, gid);
    let swapped = made.and_then(|()| {
        let _ = std::fs::remove_file(dir.join(DATA_NEW));
        symlink(&version, dir.join(DATA_NEW))?;
        std::fs::rename(dir.join(DATA_NEW), dir.join(DATA))
    });
    if let Err(e) = swapped {
        let _ = std::fs::remove_dir_all(dir.join(&version));
        return Err(e);
    }
    link_names(dir, payload)?;
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") && name != DATA && name != version {
            std::fs::remove_dir_all(entry.path()).or_else(|_| std::fs::remove_file(entry.path()))?;
        }
    }
    Ok(true)
}

/// Relative, without `..`, and not beginning with what the writer uses itself.
fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn make_version(at: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<()> {
    let make_dir = |path: &Path| -> io::Result<()> {
        if !path.is_dir() {
            std::fs::create_dir(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    };
    make_dir(at)?;
    for (path, file) in payload {
        let target = at.join(path);
        let mut dir = at.to_path_buf();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            dir.push(part);
            make_dir(&dir)?;
        }
        let mut handle = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        io::Write::write_all(&mut handle, &file.bytes)?;
        if gid.is_some() || file.uid.is_some() {
            std::os::unix::fs::fchown(&handle, file.uid, gid)?;
        }
        // After the write, since a mode may forbid it; a umask does not apply.
        handle.set_permissions(std::fs::Permissions::from_mode(mode(file, gid.is_some())))?;
    }
    Ok(())
}

/// With a group of its own a file is readable by it.
fn mode(file: &File, grouped: bool) -> u32 {
    if grouped { file.mode | 0o440 } else { file.mode }
}

fn read_back(at: &Path) -> io::Result<Payload> {
    fn visit(root: &Path, at: &Path, out: &mut Payload) -> io::Result<()> {
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                visit(root, &entry.path(), out)?;
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(root).map_err(io::Error::other)?.to_string_lossy().into_owned();
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            out.insert(name, File { bytes: std::fs::read(&path)?, mode, uid: None });
        }
        Ok(())
    }
    let mut out = Payload::new();
    visit(at, at, &mut out)?;
    Ok(out)
}

fn says(present: &Payload, wanted: &Payload, grouped: bool) -> bool {
    present.len() == wanted.len()
        && wanted.iter().all(|(path, file)| {
            present.get(path).is_some_and(|p| p.bytes == file.bytes && p.mode == mode(file, grouped))
        })
}

/// Makes `name -> ..data/name` for what is new and removes what is gone.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |p: &String| p.split('/').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = payload.keys().map(first).collect();
    for name in &names {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(&name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { bytes: text.as_bytes().to_vec(), mode: 0o644, uid: None };
        files.iter().map(|(p, t)| ((*p).to_owned(), file(t))).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut out: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        out.retain(|n| !n.starts_with(".."));
        out.sort();
        out
    }

    #[test]
    fn versions_replace_each_other_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert!(
            !write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap(),
            "the same again is no change"
        );
        let first = std::fs::read_link(dir.path().join("..data")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(names(dir.path()), ["a", "c"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join(first).exists(), "the old version is removed");
    }

    #[test]
    fn modes_are_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = payload(&[("a", "1")]);
        p.get_mut("a").unwrap().mode = 0o400;
        write(dir.path(), &p, None).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
        p.get_mut("a").unwrap().mode = 0o600;
        assert!(write(dir.path(), &p, None).unwrap(), "a mode alone is a change");
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "a/../../x", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "1")]), None).is_err(), "{bad}");
        }
    }
}
