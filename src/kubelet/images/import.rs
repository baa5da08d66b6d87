//! Puts an image archive into containerd: blobs into its content store, then a name, which CRI then sees.
//!
//! containerd checks every blob's digest; a lease keeps its garbage collector away until the name holds them. CRI unpacks
//! the layers when the first container of the image is made.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::layout::{Blob, Found, Layout, Source};
use super::names::{self, wait_until_visible};
use crate::kubelet::cri::proto::content::{self, WriteAction, WriteContentRequest, content_client::ContentClient};
use crate::kubelet::cri::proto::images::Descriptor as Target;
use crate::kubelet::cri::proto::leases::{self, leases_client::LeasesClient};
use crate::kubelet::cri::{call, channel, error};
use crate::kubelet::runtime::RuntimeError;

/// The namespace of containerd in which CRI keeps everything.
const NAMESPACE: &str = "k8s.io";
/// Bytes of a blob per message.
const CHUNK_BYTES: u64 = 1 << 20;
/// Deadline of a call that moves no blob.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence of containerd while a blob is written; the last step is its fsync.
const WRITE_STALL: Duration = Duration::from_secs(120);
/// After this long containerd drops the lease of an import that died.
const LEASE_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Why an import failed. What was stored without a name is collected by containerd.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("cannot read the archive: {0}")]
    Read(#[from] io::Error),
    /// It is no image archive, or a damaged one.
    #[error("{0}")]
    Format(String),
    /// It has no image for this machine; holds what it has.
    #[error("the image is for {0}, this machine is {machine}", machine = super::architecture())]
    Platform(String),
    /// containerd refused.
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
}

/// How far an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes stored, or found stored already.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// An imported image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Full names.
    pub names: Vec<String>,
    /// Id in CRI: the configuration's digest.
    pub id: String,
}

/// A request in CRI's namespace, and under a lease.
pub(super) fn namespaced<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|l| l.parse().ok()) {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}

/// Imports all images of the archive at `path` that are for this machine into the containerd behind `socket`, and returns
/// when CRI sees them. `name` names the image of an archive with one image, whatever it says itself.
pub async fn import(
    socket: &Path,
    path: &Path,
    name: Option<&str>,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Vec<Imported>, ImportError> {
    let (path, name) = (path.to_owned(), name.map(str::to_owned));
    let read = move || {
        let layout = Layout::open(&path)?;
        let found = layout.images(name.as_deref())?;
        Ok::<_, ImportError>((layout, found))
    };
    let (layout, found) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;

    let store = Store::open(channel(socket)).await?;
    let imported = store.put_all(&layout, &found, &mut progress).await;
    // Also after a failure: what has no name may be collected at once.
    let closed = store.close().await;
    let imported = imported?;
    closed?;
    for image in &imported {
        for name in &image.names {
            wait_until_visible(socket, name, &image.id).await?;
        }
    }
    Ok(imported)
}

/// containerd's stores, under one lease.
struct Store {
    channel: Channel,
    lease: String,
}

impl Store {
    async fn open(channel: Channel) -> Result<Self, RuntimeError> {
        let lease = format!("orch-import-{}", uuid::Uuid::new_v4().simple());
        let expires = crate::util::clock::rfc3339(jiff::Timestamp::now() + LEASE_LIFE);
        let labels = BTreeMap::from([("containerd.io/gc.expire".to_owned(), expires)]);
        let asked = namespaced(leases::CreateRequest { id: lease.clone(), labels }, None);
        call("create lease", CALL_TIMEOUT, LeasesClient::new(channel.clone()).create(asked)).await?;
        Ok(Self { channel, lease })
    }

    async fn close(self) -> Result<(), RuntimeError> {
        let asked = namespaced(leases::DeleteRequest { id: self.lease }, None);
        call("delete lease", CALL_TIMEOUT, LeasesClient::new(self.channel).delete(asked)).await.map(drop)
    }

    async fn put_all(
        &self,
        layout: &Layout,
        found: &[Found],
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Vec<Imported>, ImportError> {
        let blobs = |f: &Found| f.config.size + f.manifest.size + f.layers.iter().map(|l| l.size).sum::<u64>();
        let total = found.iter().map(blobs).sum();
        let mut done = 0;
        let mut imported = Vec::new();
        for image in found {
            for blob in image.layers.iter().chain([&image.config]) {
                self.put(layout, blob, BTreeMap::new(), |n| progress(Progress { done: done + n, total })).await?;
                done += blob.size;
            }
            // These labels are how the garbage collector finds its way from a manifest to the rest.
            let label =
                |what: String, blob: &Blob| (format!("containerd.io/gc.ref.content.{what}"), blob.digest.clone());
            let mut labels = BTreeMap::from([label("config".into(), &image.config)]);
            labels.extend(image.layers.iter().enumerate().map(|(i, l)| label(format!("l.{i}"), l)));
            self.put(layout, &image.manifest, labels, |n| progress(Progress { done: done + n, total })).await?;
            done += image.manifest.size;
            for name in &image.names {
                let target = Target {
                    media_type: image.manifest.media_type.clone(),
                    digest: image.manifest.digest.clone(),
                    size: signed(image.manifest.size),
                };
                names::put(self.channel.clone(), name, target, Some(&self.lease)).await?;
            }
            imported.push(Imported { names: image.names.clone(), id: image.config.digest.clone() });
        }
        Ok(imported)
    }

    /// Stores a blob unless it is there; `report` gets the bytes stored so far.
    async fn put(
        &self,
        layout: &Layout,
        blob: &Blob,
        labels: BTreeMap<String, String>,
        mut report: impl FnMut(u64),
    ) -> Result<(), ImportError> {
        let what = format!("store {}", blob.digest);
        let requests = requests(layout, blob, labels);
        let mut client = ContentClient::new(self.channel.clone());
        let mut answers = match client.write(namespaced(requests, Some(&self.lease))).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::AlreadyExists => {
                report(blob.size);
                return Ok(());
            }
            Err(status) => return Err(error(&what, &status).into()),
        };
        loop {
            match tokio::time::timeout(WRITE_STALL, answers.next()).await {
                Ok(Some(Ok(answer))) if answer.action() == WriteAction::Commit => {
                    report(blob.size);
                    return Ok(());
                }
                Ok(Some(Ok(answer))) => report(u64::try_from(answer.offset).unwrap_or(0)),
                Ok(Some(Err(status))) if status.code() == Code::AlreadyExists => {
                    report(blob.size);
                    return Ok(());
                }
                Ok(Some(Err(status))) => return Err(error(&what, &status).into()),
                Ok(None) => return Err(ImportError::Format(format!("{} could not be read to its end", blob.digest))),
                Err(_) => return Err(RuntimeError::Timeout(what).into()),
            }
        }
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The messages that write a blob: its pieces in order, then the commit. Ends early when the archive cannot be read.
fn requests(
    layout: &Layout,
    blob: &Blob,
    labels: BTreeMap<String, String>,
) -> impl Stream<Item = WriteContentRequest> + Send + 'static {
    let (file, source, size) = (layout.file(), blob.source.clone(), blob.size);
    let template = WriteContentRequest {
        // A name of its own for each attempt: nothing to resume, nobody to wait for.
        r#ref: format!("orch-import-{}", uuid::Uuid::new_v4().simple()),
        total: signed(size),
        expected: blob.digest.clone(),
        ..content::WriteContentRequest::default()
    };
    stream::unfold(Some(0_u64), move |at| {
        let (file, source, template, labels) = (file.clone(), source.clone(), template.clone(), labels.clone());
        async move {
            let offset = at?;
            if offset == size {
                let commit = WriteContentRequest {
                    action: WriteAction::Commit.into(),
                    offset: signed(offset),
                    labels,
                    ..template
                };
                return Some((commit, None));
            }
            let n = CHUNK_BYTES.min(size - offset);
            let read = move || read_chunk(&file, &source, offset, n);
            let data = match tokio::task::spawn_blocking(read).await.map_err(io::Error::other) {
                Ok(Ok(data)) => data,
                Ok(Err(error)) | Err(error) => {
                    tracing::warn!("cannot read the archive: {error}");
                    return None;
                }
            };
            let write =
                WriteContentRequest { action: WriteAction::Write.into(), offset: signed(offset), data, ..template };
            Some((write, Some(offset + n)))
        }
    })
}

fn read_chunk(file: &std::fs::File, source: &Source, offset: u64, n: u64) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let length = usize::try_from(n).map_err(io::Error::other)?;
    match source {
        Source::Archive(start) => {
            let mut data = vec![0; length];
            file.read_exact_at(&mut data, start + offset)?;
            Ok(data.into())
        }
        Source::Memory(bytes) => {
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let part = bytes.get(from..from + length).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Bytes::copy_from_slice(part))
        }
    }
}
