//! How full the volumes behind claims are, for people who are told before one is full.
//!
//! In: what the pods of the node were given ([`super::claim::given`]). Out: bytes and inodes by claim, from the kernel, or
//! from the driver where the volume is one's.
//!
//! **Invariant:** nobody waits longer than [`PATIENCE`] for a volume; while one does not answer (a server of files that is
//! away) it is not asked again.
//!
//! Rules: upstream `pkg/volume/metrics_statfs.go`, `pkg/volume/csi/csi_metrics.go` and the kubelet's
//! `volume_stats` collector.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::Value;

use super::{claim, directory, local};
use crate::api::value::ValueExt;
use crate::kubelet::csi::Csi;

/// How long one volume may take to tell.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of bytes, or of inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// All.
    pub total: u64,
    /// What may still be taken.
    pub available: u64,
    /// What is taken.
    pub used: u64,
}

/// What a volume tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fullness {
    /// Bytes.
    pub bytes: Option<Amounts>,
    /// Inodes.
    pub inodes: Option<Amounts>,
    /// Its driver says that something is wrong with it, or that nothing is.
    pub abnormal: Option<bool>,
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfClaim {
    /// The pod.
    pub uid: String,
    /// The pod's name for the volume.
    pub volume: String,
    /// The claim's namespace.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// How full it is.
    pub fullness: Fullness,
}

/// Asks volumes.
#[derive(Debug, Default, Clone)]
pub struct Gauge {
    /// File systems that have not answered yet.
    asked: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Gauge {
    /// All volumes behind claims of the pods below `pods_dir`, that answer.
    pub async fn read(&self, pods_dir: &Path, csi: &Csi) -> Vec<OfClaim> {
        let all = claim::given(pods_dir).into_iter().map(async |given| {
            let fullness = self.of(&pods_dir.join(&given.uid), csi, &given.persistent).await?;
            let text = |at: &str| given.persistent.str_at(at).map(str::to_owned);
            let (namespace, claim) = (text("/spec/claimRef/namespace")?, text("/spec/claimRef/name")?);
            Some(OfClaim { uid: given.uid, volume: given.volume, namespace, claim, fullness })
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    /// A path of the host has no end of its own: upstream says nothing of it either.
    async fn of(&self, pod_dir: &Path, csi: &Csi, persistent: &Value) -> Option<Fullness> {
        let (spec, name) = (&persistent["spec"], persistent.str_at("/metadata/name").unwrap_or_default());
        if spec.get("csi").is_some() {
            return tokio::time::timeout(PATIENCE, csi.fullness(pod_dir, persistent)).await.ok().flatten();
        }
        if let Some(source) = spec.get("local") {
            return self.of_file_system(local::place(source)?).await;
        }
        if spec.get("nfs").is_some() {
            return self.of_file_system(directory(pod_dir, "nfs", name)).await;
        }
        None
    }

    async fn of_file_system(&self, path: PathBuf) -> Option<Fullness> {
        if !self.asked.lock().insert(path.clone()) {
            return None;
        }
        let asked = self.asked.clone();
        let ask = tokio::task::spawn_blocking(move || {
            let told = nix::sys::statvfs::statvfs(&path);
            asked.lock().remove(&path);
            told.ok().map(|s| of_statvfs(&s))
        });
        tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()?
    }
}

/// As `df` counts: what only root may take is neither available nor used.
fn of_statvfs(s: &nix::sys::statvfs::Statvfs) -> Fullness {
    let size = s.fragment_size();
    let bytes = Amounts {
        total: s.blocks() * size,
        available: s.blocks_available() * size,
        used: s.blocks().saturating_sub(s.blocks_free()) * size,
    };
    let inodes =
        Amounts { total: s.files(), available: s.files_free(), used: s.files().saturating_sub(s.files_free()) };
    Fullness { bytes: Some(bytes), inodes: Some(inodes), abnormal: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_local_volume_is_as_full_as_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("u/claims");
        std::fs::create_dir_all(&claims).unwrap();
        let persistent = |source: Value| {
            let mut spec = json!({"claimRef": {"namespace": "n", "name": "c"}});
            spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            json!({"metadata": {"name": "pv"}, "spec": spec}).to_string()
        };
        std::fs::write(claims.join("data.json"), persistent(json!({"local": {"path": dir.path()}}))).unwrap();
        std::fs::write(claims.join("host.json"), persistent(json!({"hostPath": {"path": "/"}}))).unwrap();
        std::fs::write(claims.join("gone.json"), persistent(json!({"local": {"path": "/does/not/exist"}}))).unwrap();
        let client = crate::runtime::fake::Cluster::new().client();
        let csi = Csi::new(dir.path().into(), dir.path().into(), "node", client);
        let gauge = Gauge::default();
        let [data] = &gauge.read(dir.path(), &csi).await[..] else { panic!("one that has figures") };
        assert_eq!((&*data.uid, &*data.volume, &*data.namespace, &*data.claim), ("u", "data", "n", "c"));
        let bytes = data.fullness.bytes.unwrap();
        assert!(bytes.total > 0 && bytes.available + bytes.used <= bytes.total, "{bytes:?}");
        assert!(gauge.asked.lock().is_empty());
        // One that does not answer is asked once.
        gauge.asked.lock().insert(dir.path().into());
        assert_eq!(gauge.read(dir.path(), &csi).await, []);
    }
}
