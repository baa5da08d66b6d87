//! Many watchers of one object: how fast its changes reach all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::Api;
use super::api::config_map;
use super::load::{Taken, round};
use super::target::{Call, Protocol, Target};

/// HTTP/2 connections that the watches share.
const CONNECTIONS: usize = 8;
/// Longest wait for the last event after the last change.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of one event.
const EVENT_BYTES: usize = 1 << 20;
/// What stands before a change's number.
const MARK: &str = "\"change\":\"";

type Lines = BoxStream<'static, anyhow::Result<String>>;

/// Opens the watches, changes the object, counts what arrives.
pub(super) async fn run(target: &Target, args: &Api, core: &str, run: &str) -> anyhow::Result<Value> {
    let name = format!("watched-{run}");
    let mut writer = target.connect(Protocol::Http1).await?;
    writer.exchange(Call::create(format!("{core}/configmaps"), &config_map(&name))).await?;
    let path = format!("{core}/configmaps?watch=1&fieldSelector=metadata.name%3D{name}");
    let watches = open(target, args.watchers as usize, &path).await?;

    let want = args.watchers as usize * args.updates as usize;
    let (seen, all_seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    // When each change was sent, as the distance from here.
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for mut lines in watches {
        let (seen, all_seen) = (seen.clone(), all_seen.clone());
        let updates = args.updates as usize;
        readers.spawn(async move {
            let mut each = Vec::with_capacity(updates);
            while each.len() < updates {
                let Some(line) = lines.next().await.transpose()? else { break };
                let Some(sent) = sent_at(&line) else { continue };
                each.push(start.elapsed().saturating_sub(sent));
                if seen.fetch_add(1, Ordering::Relaxed) + 1 == want {
                    all_seen.notify_one();
                }
            }
            anyhow::Ok((lines, each))
        });
    }
    for _ in 0..args.updates {
        let mark = start.elapsed().as_nanos().to_string();
        let patch = json!({"metadata": {"annotations": {"change": mark}}});
        writer.exchange(Call::patch(format!("{core}/configmaps/{name}"), &patch)).await?;
    }
    let changed = start.elapsed();
    // Lost events show as the difference between what was wanted and what came.
    let in_time = tokio::time::timeout(PATIENCE, all_seen.notified()).await.is_ok();
    let all = start.elapsed();
    let mut each = Vec::new();
    if !in_time {
        readers.abort_all();
    }
    while let Some(reader) = readers.join_next().await {
        match reader {
            Ok(read) => each.extend(read?.1),
            Err(e) if e.is_cancelled() => {}
            Err(e) => return Err(e.into()),
        }
    }
    let delivered = seen.load(Ordering::Relaxed);
    let taken = Taken::new(each, all);
    Ok(json!({
        "workload": "watch", "watchers": args.watchers, "updates": args.updates, "delivered": delivered,
        "lost": want - delivered, "seconds": round(all.as_secs_f64()),
        "per_s": (delivered as f64 / all.as_secs_f64()).round(),
        "updates_per_s": (f64::from(args.updates) / changed.as_secs_f64()).round(),
        "p50_ms": taken.quantile_ms(0.5), "p99_ms": taken.quantile_ms(0.99),
    }))
}

/// Watches that have shown their first event.
async fn open(target: &Target, count: usize, path: &str) -> anyhow::Result<Vec<Lines>> {
    let mut connections = target.connect_many(CONNECTIONS.min(count), Protocol::Http2).await?;
    let mut watches = Vec::with_capacity(count);
    let width = connections.len();
    for i in 0..count {
        let answer = connections[i % width].send(Call::get(path)).await.with_context(|| format!("watch {i}"))?;
        anyhow::ensure!(answer.status().is_success(), "watch {i}: {}", answer.status());
        let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
        let lines =
            FramedRead::new(StreamReader::new(bytes.map_ok(Bytes::from)), LinesCodec::new_with_max_length(EVENT_BYTES));
        let mut lines = lines.map_err(anyhow::Error::from).boxed();
        lines.next().await.with_context(|| format!("watch {i} ended"))??;
        watches.push(lines);
    }
    Ok(watches)
}

/// When the change that an event tells of was sent; none for an event of something else.
fn sent_at(line: &str) -> Option<Duration> {
    let digits = &line[line.find(MARK)? + MARK.len()..];
    digits[..digits.find('"')?].parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_out_of_an_event() {
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"annotations":{"change":"1500"}}}}"#;
        assert_eq!(sent_at(line), Some(Duration::from_nanos(1500)));
        assert_eq!(sent_at(r#"{"type":"ADDED","object":{}}"#), None);
    }
}
