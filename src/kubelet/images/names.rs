//! Names of images in containerd: given, changed, taken away. CRI itself can only pull by a name.
//!
//! **Invariant:** a name is there with its content before another one of it goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use super::import::namespaced;
use crate::kubelet::cri::proto::images::{self as pb, Descriptor, images_client::ImagesClient};
use crate::kubelet::cri::{CriRuntime, call, channel, error};
use crate::kubelet::runtime::{Runtime, RuntimeError};
use crate::util::backoff::Backoff;

/// Deadline of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long CRI may take to learn of a new name.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between questions whether it has; CRI offers no notification.
const VISIBLE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(500) };

/// Makes `name` mean this content, whatever it meant before.
pub(super) async fn put(
    channel: Channel,
    name: &str,
    target: Descriptor,
    lease: Option<&str>,
) -> Result<(), RuntimeError> {
    let image = pb::Image {
        name: name.to_owned(),
        labels: BTreeMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]),
        target: Some(target),
    };
    let mut client = ImagesClient::new(channel);
    let create = namespaced(pb::CreateImageRequest { image: Some(image.clone()) }, lease);
    match client.create(create).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let update = namespaced(pb::UpdateImageRequest { image: Some(image) }, lease);
            call("update image", CALL_TIMEOUT, client.update(update)).await.map(drop)
        }
        Err(status) => Err(error("create image", &status)),
        Ok(_) => Ok(()),
    }
}

/// What a name means; none when there is no such name.
async fn target(client: &mut ImagesClient<Channel>, name: &str) -> Result<Option<Descriptor>, RuntimeError> {
    let asked = namespaced(pb::GetImageRequest { name: name.to_owned() }, None);
    match call("get image", CALL_TIMEOUT, client.get(asked)).await {
        Ok(answer) => Ok(answer.image.and_then(|i| i.target)),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Renames an image that was pulled as `from`, its name by digest too, and returns when CRI sees it; `id` is the image's.
pub(crate) async fn rename(socket: &Path, from: &str, to: &str, id: &str) -> Result<(), RuntimeError> {
    let channel = channel(socket);
    let mut client = ImagesClient::new(channel.clone());
    let Some(content) = target(&mut client, from).await? else {
        // Two pods wanted it at the same time, and the other one was faster.
        return match target(&mut client, to).await? {
            Some(_) => Ok(()),
            None => Err(RuntimeError::NotFound(format!("image {from}, which was just pulled,"))),
        };
    };
    let (theirs, ours) = (by_digest(from, &content.digest), by_digest(to, &content.digest));
    put(channel.clone(), to, content.clone(), None).await?;
    put(channel.clone(), &ours, content, None).await?;
    wait_until_visible(socket, to, id).await?;
    for name in [from, &theirs] {
        let asked = namespaced(pb::DeleteImageRequest { name: name.to_owned() }, None);
        match call("delete image", CALL_TIMEOUT, client.delete(asked)).await {
            Ok(_) | Err(RuntimeError::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// `host/repository@digest` of a whole name.
fn by_digest(name: &str, digest: &str) -> String {
    let (path, version) = name.rsplit_once('/').unwrap_or(("", name));
    let last = version.split(['@', ':']).next().unwrap_or_default();
    format!("{path}/{last}@{digest}")
}

/// containerd tells its CRI plugin of new names in the background.
pub(super) async fn wait_until_visible(socket: &Path, name: &str, id: &str) -> Result<(), RuntimeError> {
    let runtime = CriRuntime::new(socket);
    let end = Instant::now() + VISIBLE_TIMEOUT;
    let mut asked = 0;
    while runtime.image(name).await?.is_none_or(|seen| seen.id != id) {
        if Instant::now() >= end {
            return Err(RuntimeError::Timeout(format!("waiting for CRI to see {name}")));
        }
        asked += 1;
        tokio::time::sleep(VISIBLE_BACKOFF.delay(asked)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("m.example:5000/a/web:v1" => "m.example:5000/a/web@sha256:00")]
    #[test_case("docker.io/library/web@sha256:11" => "docker.io/library/web@sha256:00")]
    fn names_by_digest(name: &str) -> String {
        by_digest(name, "sha256:00")
    }
}
