//! Directories that are volumes of the class `local-path`: made and removed when the server asks.
//!
//! **Invariant:** only directories directly below the node's own storage directory are touched, and only those whose name
//! says that they are volumes.
//! **Invariant:** nothing is removed that a pod of this node still has, or that something is mounted in.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{claim, mounts};
use crate::api::value::ValueExt;
use crate::util::files;

/// Begins the name of every volume's directory.
const PREFIX: &str = "pvc-";

/// Why a directory cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It is none of the node's volumes.
    #[error("{0} is no volume in this node's storage directory {1}")]
    Foreign(String, PathBuf),
    /// Somebody has it.
    #[error("{0} is in use by {1}")]
    InUse(PathBuf, String),
    /// The file system refused.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

fn is_name(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.contains('/') && name.len() <= 255
}

/// Makes a volume's directory, which any user of a container may write; gives its path. The storage directory itself is
/// root's: containers get at their volumes through mounts.
pub fn make(storage: &Path, name: &str) -> Result<PathBuf, StorageError> {
    if !is_name(name) {
        return Err(StorageError::Foreign(name.to_owned(), storage.to_owned()));
    }
    let path = storage.join(name);
    let io = |e| StorageError::Io(path.clone(), e);
    if !storage.is_dir() {
        files::create_dir_durable(storage).map_err(io)?;
        std::fs::set_permissions(storage, Permissions::from_mode(0o700)).map_err(io)?;
    }
    if !path.is_dir() {
        files::create_dir_durable(&path).map_err(io)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(io)?;
    }
    Ok(path)
}

/// Removes a volume's directory with all that is in it. One that is gone is no error. `pods_dir` is where the directories
/// of the node's pods are.
pub fn remove(storage: &Path, path: &Path, pods_dir: &Path) -> Result<(), StorageError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if path.parent() != Some(storage) || !is_name(name) {
        return Err(StorageError::Foreign(path.display().to_string(), storage.to_owned()));
    }
    let has = |volume: &serde_json::Value| {
        let source = volume.str_at("/spec/local/path").or(volume.str_at("/spec/hostPath/path"));
        source.is_some_and(|p| Path::new(p) == path)
    };
    if let Some(claim::Given { uid, .. }) = claim::given(pods_dir).into_iter().find(|g| has(&g.persistent)) {
        return Err(StorageError::InUse(path.to_owned(), format!("the pod with uid {uid}")));
    }
    let io = |e| StorageError::Io(path.to_owned(), e);
    let real = match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io)?,
    };
    let known = std::fs::read_to_string("/proc/self/mountinfo").map_err(io)?;
    if let Some(mount) = mounts::below(&known, &real).first() {
        return Err(StorageError::InUse(path.to_owned(), format!("a mount at {}", mount.display())));
    }
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_volumes_are_made_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, pods) = (dir.path().join("storage"), dir.path().join("pods"));
        let path = make(&storage, "pvc-1_n_c").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        assert_eq!(std::fs::metadata(&storage).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("data"), "x").unwrap();
        assert_eq!(make(&storage, "pvc-1_n_c").unwrap(), path, "again");
        assert!(path.join("data").exists(), "what is there stays");
        for bad in ["x", "pvc-/../../etc", "..", ""] {
            assert!(make(&storage, bad).is_err(), "{bad}");
            assert!(remove(&storage, &storage.join(bad), &pods).is_err(), "{bad}");
        }
        assert!(remove(&storage, &dir.path().join("pvc-1"), &pods).is_err(), "of another directory");
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, storage.join("pvc-link")).unwrap();
        assert!(remove(&storage, &storage.join("pvc-link"), &pods).is_err() || other.exists(), "never through a link");
        remove(&storage, &path, &pods).unwrap();
        assert!(!path.exists());
        remove(&storage, &path, &pods).unwrap();
    }

    #[test]
    fn what_a_pod_has_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, pods) = (dir.path().join("storage"), dir.path().join("pods"));
        let path = make(&storage, "pvc-1_n_c").unwrap();
        let claims = pods.join("uid/claims");
        std::fs::create_dir_all(&claims).unwrap();
        let volume = serde_json::json!({"spec": {"local": {"path": path}}});
        std::fs::write(claims.join("data.json"), volume.to_string()).unwrap();
        let error = remove(&storage, &path, &pods).unwrap_err();
        assert!(error.to_string().contains("in use by the pod with uid uid"), "{error}");
        std::fs::remove_dir_all(pods.join("uid")).unwrap();
        remove(&storage, &path, &pods).unwrap();
        assert!(!path.exists());
    }
}
