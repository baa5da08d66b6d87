//! Objects that come into the sight of a watch: counted as they do.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::target::{Call, Connection, Protocol, Target};
use crate::api::scan;

/// Bytes of one event.
const EVENT_BYTES: usize = 1 << 20;

/// A watch that is open.
pub(super) struct Arrivals {
    target: Target,
    path: String,
    from: Begin,
    open: Open,
    /// Uids of those that have come.
    seen: HashSet<String>,
}

/// What a watch tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// All that there is, then what comes.
    Start,
    /// What comes after the revision that its path names: what came before is no arrival.
    Revision,
}

struct Open {
    lines: BoxStream<'static, Result<String, LinesCodecError>>,
    /// Lives as long as what comes over it.
    _connection: Connection,
}

impl Arrivals {
    /// Opens it; `path` has the query.
    pub(super) async fn watch(target: &Target, path: &str, from: Begin) -> anyhow::Result<Self> {
        let open = open(target, path).await?;
        Ok(Self { target: target.clone(), path: path.to_owned(), from, open, seen: HashSet::new() })
    }

    /// How long after `start` the last of `want` objects came; no two may be further apart than `patience`.
    pub(super) async fn count(mut self, want: usize, start: Instant, patience: Duration) -> anyhow::Result<Duration> {
        while self.seen.len() < want {
            let next = tokio::time::timeout(patience, self.open.lines.next()).await;
            match next.with_context(|| format!("{} of {want} have come", self.seen.len()))? {
                Some(Ok(line)) if line.starts_with("{\"type\":\"ADDED\"") => {
                    self.seen.extend(scan::fields(line.as_bytes(), &["/object/metadata/uid"]));
                }
                Some(Ok(line)) if !line.starts_with("{\"type\":\"ERROR\"") => {}
                // A server ends watches that are old, and those of clients that fall behind. Who watches from the start is
                // told again what was there before.
                _ => {
                    ensure!(self.from == Begin::Start, "the watch ended after {} of {want}", self.seen.len());
                    eprintln!("the watch ended after {} of {want}; opening it again", self.seen.len());
                    self.open = open(&self.target, &self.path).await?;
                }
            }
        }
        Ok(start.elapsed())
    }
}

async fn open(target: &Target, path: &str) -> anyhow::Result<Open> {
    let mut connection = target.connect(Protocol::Http2).await?;
    let answer = connection.send(Call::get(path)).await?;
    ensure!(answer.status().is_success(), "cannot watch {path}: {}", answer.status());
    let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
    let reader = StreamReader::new(bytes.map_ok(Bytes::from));
    let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(EVENT_BYTES));
    Ok(Open { lines: lines.boxed(), _connection: connection })
}
