//! Objects that come into the sight of a watch: counted as they do.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::target::{Call, Connection, Protocol, Target};

/// Bytes of one event.
const EVENT_BYTES: usize = 1 << 20;

/// A watch that is open.
pub(super) struct Arrivals {
    lines: BoxStream<'static, Result<String, LinesCodecError>>,
    /// Lives as long as what comes over it.
    _connection: Connection,
}

impl Arrivals {
    /// Opens it; `path` has the query.
    pub(super) async fn watch(target: &Target, path: &str) -> anyhow::Result<Self> {
        let mut connection = target.connect(Protocol::Http2).await?;
        let answer = connection.send(Call::get(path)).await?;
        ensure!(answer.status().is_success(), "cannot watch {path}: {}", answer.status());
        let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
        let reader = StreamReader::new(bytes.map_ok(Bytes::from));
        let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(EVENT_BYTES));
        Ok(Self { lines: lines.boxed(), _connection: connection })
    }

    /// How long after `start` the last of `want` objects came; no two may be further apart than `patience`.
    pub(super) async fn count(mut self, want: usize, start: Instant, patience: Duration) -> anyhow::Result<Duration> {
        let mut seen = 0;
        while seen < want {
            let next = tokio::time::timeout(patience, self.lines.next()).await;
            let line = next.with_context(|| format!("{seen} of {want} have come"))?.context("the watch ended")??;
            seen += usize::from(line.starts_with("{\"type\":\"ADDED\""));
        }
        Ok(start.elapsed())
    }
}
