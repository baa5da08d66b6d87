//! What lies beside each mount: which driver's it is, and which volume. Names of files and keys are upstream's.
//!
//! ```text
//! plugins/kubernetes.io/csi/<driver>/<hash of the volume's id>/{globalmount,vol_data.json}    staged
//! pods/<uid>/volumes/kubernetes.io~csi/<name>/{mount,vol_data.json}                            published
//! ```
//!
//! **Invariant:** the file is there before the driver is called, and goes after the driver has taken its mount away: what
//! stands on the disk is at least what a driver may have done, also after a crash.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::util::files;

/// Name of the file.
const FILE: &str = "vol_data.json";

/// A volume of a driver, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Data {
    /// Name of the PersistentVolume, or of the pod's volume.
    #[serde(rename = "specVolID")]
    pub name: String,
    /// The driver's id of the volume.
    pub volume_handle: String,
    /// The driver.
    pub driver_name: String,
    /// This node.
    pub node_name: String,
    /// The VolumeAttachment; empty for a volume that is attached to no node.
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    /// `Persistent` or `Ephemeral`.
    pub volume_lifecycle_mode: String,
}

impl Data {
    /// True for a volume that is the pod's own.
    pub fn is_ephemeral(&self) -> bool {
        self.volume_lifecycle_mode == "Ephemeral"
    }

    /// The volume's name in the status of nodes.
    pub fn unique_name(&self) -> String {
        unique_name(&self.driver_name, &self.volume_handle)
    }

    /// The same volume of the same driver.
    pub fn is_same_volume(&self, other: &Self) -> bool {
        self.driver_name == other.driver_name && self.volume_handle == other.volume_handle
    }

    /// Remembers it in `dir`, which is made.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        files::write_atomic(&dir.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    /// What is remembered in `dir`. A file that cannot be read is none: it was never whole.
    pub fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
    }
}

/// Forgets what is remembered in `dir`, and removes it with `inner`, where the mount was. What is not empty, or is still
/// mounted, stays and is an error.
pub fn forget(dir: &Path, inner: Option<&str>) -> io::Result<()> {
    let absent = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if let Some(path) = inner.map(|name| dir.join(name)) {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => absent(std::fs::remove_dir(&path))?,
            Ok(_) => absent(std::fs::remove_file(&path))?,
            Err(_) => {}
        }
    }
    absent(std::fs::remove_file(dir.join(FILE)))?;
    absent(std::fs::remove_dir(dir))
}

/// The volume's name in the status of nodes.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Directories below `dir` that remember a volume, with what they remember.
pub fn within(dir: &Path) -> Vec<(PathBuf, Data)> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found.filter_map(|e| Some((e.path(), Data::load(&e.path())?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_upstream_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"attachmentID":"csi-1","driverName":"d","nodeName":"n","specVolID":"pvc-1","volumeHandle":"h","volumeLifecycleMode":"Persistent"}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let data = Data::load(dir.path()).unwrap();
        assert_eq!((data.name.as_str(), data.unique_name().as_str()), ("pvc-1", "kubernetes.io/csi/d^h"));
        data.save(dir.path()).unwrap();
        assert_eq!(Data::load(dir.path()), Some(data));
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn what_somebody_left_data_in_stays() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        Data::default().save(&one).unwrap();
        std::fs::create_dir(one.join("mount")).unwrap();
        std::fs::write(one.join("mount/file"), "x").unwrap();
        assert!(forget(&one, Some("mount")).is_err());
        assert_eq!(within(dir.path()).len(), 1, "and is remembered");
        std::fs::remove_file(one.join("mount/file")).unwrap();
        forget(&one, Some("mount")).unwrap();
        assert!(!one.exists());
        forget(&one, Some("mount")).unwrap();
    }
}
