//! The node's images for `orch ctl image`: joins what `ctl` asks for with what the kubelet's modules can do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use crate::ctl::image::{ImageRow, Images, Origin, Place, Progress};
use crate::kubelet::containerd::Options;
use crate::kubelet::cri::{CriRuntime, socket_path};
use crate::kubelet::images::{PullFailure, import, normalize, progress as downloads};
use crate::kubelet::registries::{Registries, Rewrites};
use crate::kubelet::runtime::{Auth, Runtime};

/// Between two looks at how far a pull has come.
const LOOK: Duration = Duration::from_millis(200);

/// The container runtime of this machine.
pub(super) struct Local;

fn socket(place: &Place) -> anyhow::Result<PathBuf> {
    let socket = match &place.container_runtime_endpoint {
        Some(endpoint) => socket_path(endpoint)?,
        None => Options::for_data_dir(&std::path::absolute(&place.data_dir)?).socket(),
    };
    anyhow::ensure!(
        socket.exists(),
        "no container runtime answers at {}: start `orch server` on this machine, or name its --data-dir",
        socket.display()
    );
    Ok(socket)
}

#[async_trait]
impl Images for Local {
    async fn import(&self, place: &Place, archive: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<String>> {
        let imported = import(&socket(place)?, archive, None, |p| progress(p.done, p.total)).await?;
        Ok(imported.into_iter().flat_map(|i| i.names).collect())
    }

    async fn pull(&self, place: &Place, image: &str, from: &Origin, progress: Progress<'_>) -> anyhow::Result<String> {
        let socket = socket(place)?;
        let name = normalize(image).map_err(anyhow::Error::msg)?;
        // Credentials and CAs are in containerd's configuration since the server's start; names at mirrors are not.
        let rewrites = match place.container_runtime_endpoint {
            Some(_) => Rewrites::default(),
            None => Rewrites::of(&Registries::load(from.private_registry.as_deref())?),
        };
        let runtime = CriRuntime::new(&socket).with_rewrites(rewrites);
        let auth = from.credentials.as_ref();
        let auth = auth.map(|(username, password)| Auth { username: username.clone(), password: password.clone() });
        let pull = runtime.pull_image(&name, auth.as_ref());
        tokio::pin!(pull);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                pulled = &mut pull => {
                    return pulled.map(|_| name.clone()).map_err(|e| anyhow::Error::msg(PullFailure::of(&e).told()));
                }
                _ = look.tick() => {
                    if let Ok((done, all)) = downloads(&socket).await {
                        progress(done, all);
                    }
                }
            }
        }
    }

    async fn list(&self, place: &Place) -> anyhow::Result<Vec<ImageRow>> {
        let images = CriRuntime::new(&socket(place)?).images().await?;
        Ok(images.into_iter().map(|i| ImageRow { id: i.id, names: i.tags, size: i.size }).collect())
    }

    async fn remove(&self, place: &Place, image: &str) -> anyhow::Result<()> {
        let runtime = CriRuntime::new(&socket(place)?);
        // An id stays as it is; a name is made whole.
        let all = runtime.images().await?;
        let is_id = |id: &str| id == image || id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(image));
        let found = match all.iter().find(|i| is_id(&i.id)) {
            Some(found) => found.id.clone(),
            None => normalize(image).map_err(anyhow::Error::msg)?,
        };
        anyhow::ensure!(
            all.iter().any(|i| i.id == found || i.tags.contains(&found)),
            "no image {image:?} on this machine"
        );
        Ok(runtime.remove_image(&found).await?)
    }
}
