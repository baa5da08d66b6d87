//! Volumes: one file per source. `prepare` makes a volume's directory say what its source says, again and again;
//! `teardown` takes it away.
//!
//! **Invariant:** nothing is written outside the pod's directory, but for hostPath types that create what they name.

pub mod atomic;
pub mod claim;
mod csi;
mod downward;
mod empty_dir;
pub mod fullness;
mod given;
mod host_path;
mod keyed;
mod local;
pub mod local_storage;
pub mod mounts;
mod nfs;
pub mod ownership;
mod projected;
pub mod subpath;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{KeyToPath, Volume};
use serde_json::Value;

use super::downward::Facts;
use super::pod::PodView;
use super::sources::{Kind, Sources};
use crate::api::status::{ApiResult, Status};
use crate::client::Client;
use crate::runtime::events::Recorder;
use crate::util::order::Arrange;
use atomic::{File, Payload};
pub use given::Given;

/// Why a volume is not there: the message of `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// What it is made of is missing.
    #[error("{0}")]
    Missing(String),
    /// orch does not know this source.
    #[error("orch does not serve volumes of this source: {0}")]
    Unsupported(&'static str),
    /// The file system refused.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// A driver on the node did not serve it.
    #[error(transparent)]
    Csi(#[from] super::csi::CsiError),
    /// It did not make it ready for pods of this node.
    #[error(transparent)]
    Stage(super::csi::CsiError),
    /// The API refused a token.
    #[error("cannot get a token: {0}")]
    Token(#[from] Box<Status>),
}

impl VolumeError {
    /// What failed, in upstream's words.
    pub fn operation(&self) -> &'static str {
        if matches!(self, Self::Stage(_)) { "MountVolume.MountDevice" } else { "MountVolume.SetUp" }
    }

    /// With the path it is about.
    pub fn io(path: &Path, error: io::Error) -> Self {
        Self::Io(path.display().to_string(), error)
    }
}

/// Gives service account tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Posts a TokenRequest; gives it back with its status.
    async fn request(&self, namespace: &str, account: &str, body: &Value) -> ApiResult<Value>;
}

#[async_trait]
impl Tokens for Client {
    async fn request(&self, namespace: &str, account: &str, body: &Value) -> ApiResult<Value> {
        self.create_sub(&crate::client::res::SERVICE_ACCOUNTS, namespace, account, "token", body).await
    }
}

/// Labels, as objects have them.
pub type Labels = [(Box<str>, Box<str>)];

/// What a source may use.
pub struct Cx<'a> {
    /// The pod.
    pub pod: &'a PodView,
    /// The pod's directory.
    pub dir: &'a Path,
    /// Addresses and node.
    pub facts: &'a Facts,
    /// ConfigMaps and Secrets.
    pub sources: &'a dyn Sources,
    /// Service account tokens.
    pub tokens: &'a dyn Tokens,
    /// Claims and their volumes.
    pub claims: &'a dyn claim::Claims,
    /// Drivers on the node.
    pub csi: &'a super::csi::Csi,
    /// Events for people.
    pub events: &'a Recorder,
    /// Labels of the node: persistent volumes may be bound to nodes by them.
    pub node_labels: &'a Labels,
    /// Tokens that were given, by volume; outlive one `prepare`.
    pub issued: &'a mut Issued,
    /// The clock.
    pub now: Timestamp,
}

/// Tokens of a pod by `volume/path`.
pub type Issued = BTreeMap<String, token::Token>;

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// On the host.
    pub path: PathBuf,
    /// When it has to be prepared again at the latest.
    pub refresh: Option<Timestamp>,
    /// Containers may only read it, whatever they ask for: it is the API's.
    pub read_only: bool,
}

/// Makes one volume of the pod, or brings it up to date. `known` is what it was before, since the kubelet started.
pub async fn prepare(cx: &mut Cx<'_>, volume: &Volume, known: Option<&Prepared>) -> Result<Prepared, VolumeError> {
    if claim::name_of(cx.pod, volume).is_some() {
        return claim::prepare(cx, volume, known.is_none()).await;
    }
    if let Some(source) = &volume.csi {
        return csi::inline(cx, &volume.name, source).await;
    }
    if let Some(source) = &volume.nfs {
        return nfs::prepare(cx, &volume.name, source, &[], false).await;
    }
    if let Some(source) = &volume.host_path {
        return host_path::prepare(source);
    }
    if let Some(source) = &volume.empty_dir {
        return empty_dir::prepare(cx, &volume.name, source);
    }
    let mut refresh = None;
    let (plugin, secret, payload) = if let Some(s) = &volume.config_map {
        let which =
            keyed::Which { kind: Kind::ConfigMap, name: &s.name, items: s.items.as_deref(), optional: s.optional };
        ("configmap", false, keyed::collect(cx, which, s.default_mode)?)
    } else if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        let which = keyed::Which { kind: Kind::Secret, name, items: s.items.as_deref(), optional: s.optional };
        ("secret", true, keyed::collect(cx, which, s.default_mode)?)
    } else if let Some(s) = &volume.downward_api {
        ("downward-api", false, downward::collect(cx, s.items.as_deref().unwrap_or_default(), s.default_mode)?)
    } else if let Some(s) = &volume.projected {
        let (payload, until) = projected::collect(cx, &volume.name, s).await?;
        refresh = until;
        ("projected", true, payload)
    } else {
        return Err(VolumeError::Unsupported(source_name(volume)));
    };
    let path = directory(cx.dir, plugin, &volume.name);
    make_dir(&path, 0o755)?;
    if secret {
        // Secrets stay off the disk where the machine lets us mount.
        if let Err(e) = empty_dir::mount_memory(&path, None) {
            tracing::debug!(volume = volume.name, "secrets are kept on disk: {e}");
        }
    }
    atomic::write(&path, &payload, ownership::group(cx.pod)).map_err(|e| VolumeError::io(&path, e))?;
    Ok(Prepared { path, refresh, read_only: true })
}

/// Which objects a pod's volumes and environment are made of: what has to change for them to change.
pub fn references(pod: &PodView) -> Vec<(Kind, String)> {
    let mut out = Vec::new();
    for v in pod.spec.volumes.iter().flatten() {
        out.extend(v.config_map.iter().map(|s| (Kind::ConfigMap, s.name.clone())));
        out.extend(v.secret.iter().filter_map(|s| Some((Kind::Secret, s.secret_name.clone()?))));
        for s in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.extend(s.config_map.iter().map(|s| (Kind::ConfigMap, s.name.clone())));
            out.extend(s.secret.iter().map(|s| (Kind::Secret, s.name.clone())));
        }
    }
    out.arrange();
    out.dedup();
    out
}

/// True when the pod's volumes tell of labels or annotations that changed: what of it can change while it runs.
pub fn tell_of(before: &PodView, after: &PodView) -> bool {
    let (old, new) = (&before.pod.metadata, &after.pod.metadata);
    let changed = old.labels != new.labels || old.annotations != new.annotations;
    let volumes = || after.spec.volumes.iter().flatten();
    let projected = |v: &Volume| {
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        sources.into_iter().any(|s| s.downward_api.is_some())
    };
    changed && volumes().any(|v| v.downward_api.is_some() || projected(v))
}

/// Unmounts and removes all volumes below the pod's directory, and then the directory itself.
///
/// **Invariant:** nothing is removed through a mount: what is bound there is the node's or the user's.
pub fn teardown(dir: &Path) -> io::Result<()> {
    // The kernel tells of mounts by their real places, and a data directory may be reached through a link.
    let dir = match dir.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut below = mounts::below(&std::fs::read_to_string("/proc/self/mountinfo")?, &dir);
    // Inner mounts first.
    below.arrange_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
    for path in below {
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)?;
    }
    if let Some(left) = mounts::below(&std::fs::read_to_string("/proc/self/mountinfo")?, &dir).first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn directory(pod_dir: &Path, plugin: &str, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    use std::os::unix::fs::PermissionsExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|e| VolumeError::io(path, e))
}

/// The files that `items` pick of `data`; all of them without items.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, VolumeError> {
    let file = |bytes: &Vec<u8>, mode: u32| File { bytes: bytes.clone(), mode, uid: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(k, v)| (k.clone(), file(v, mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                out.insert(item.path.clone(), file(bytes, item.mode.map_or(mode, |m| m as u32)));
            }
            None if optional => {}
            None => return Err(VolumeError::Missing(missing(&item.key))),
        }
    }
    Ok(out)
}

/// Name of the source of a volume that orch cannot make.
fn source_name(v: &Volume) -> &'static str {
    let known: [(&'static str, bool); 3] =
        [("image", v.image.is_some()), ("iscsi", v.iscsi.is_some()), ("fc", v.fc.is_some())];
    known.iter().find(|(_, there)| *there).map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests;
