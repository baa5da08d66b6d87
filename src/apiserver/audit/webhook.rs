//! Audit events sent to a webhook in batches.
//!
//! In: events, from requests that never wait for it. Out: POSTs of `audit.k8s.io/v1 EventList` to the server of a
//! kubeconfig, tried again with growing pauses.
//!
//! **Invariant:** a webhook that is slow or gone costs [`Settings::buffer`] events of memory, and no request any time;
//! what does not fit is dropped, and counted in the log.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use crate::apiserver::auth::remote::Remote;
use crate::util::backoff::Backoff;
use crate::util::tasks::Shutdown;

/// How long one POST may take. Upstream's.
const POST_TIME: Duration = Duration::from_secs(30);
/// How often a batch is sent at most. Upstream's.
const TRIES: u32 = 5;
/// Bytes of a batch, beyond which it is sent whatever else would still fit.
const BATCH_MAX_BYTES: usize = 10 << 20;
/// How long a stop waits for what is still to be sent.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Where the events go, and how many at a time. The defaults are upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A kubeconfig that says where and as whom.
    pub file: PathBuf,
    /// Events that wait.
    pub buffer: usize,
    /// Events of one batch.
    pub batch: usize,
    /// How long the first event of a batch waits for others.
    pub wait: Duration,
    /// The first pause after a failure.
    pub backoff: Duration,
}

/// The way to the webhook.
pub struct Webhook {
    /// None once it is closed.
    queue: Mutex<Option<Sender<Bytes>>>,
    dropped: AtomicU64,
    worker: Mutex<Option<Worker>>,
}

struct Worker {
    events: Receiver<Bytes>,
    remote: Remote,
    settings: Settings,
}

impl Webhook {
    /// Nothing is sent before [`Webhook::run`].
    pub fn new(remote: Remote, settings: Settings) -> Self {
        let (queue, events) = channel(settings.buffer.max(1));
        let worker = Mutex::new(Some(Worker { events, remote, settings }));
        Self { queue: Mutex::new(Some(queue)), dropped: AtomicU64::new(0), worker }
    }

    /// Hands over an event; one that does not fit is dropped.
    pub fn take(&self, event: &Bytes) {
        let queue = self.queue.lock().clone();
        if queue.is_none_or(|q| q.try_send(event.clone()).is_err()) && self.dropped.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!("the audit webhook is too slow: events are dropped");
        }
    }

    /// Events that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends until the shutdown, and then what is left, within [`CLOSE_TIME`].
    pub async fn run(self: Arc<Self>, stop: Shutdown) {
        let Some(worker) = self.worker.lock().take() else { return };
        let mut sending = std::pin::pin!(worker.run(&self.dropped));
        if stop.or(sending.as_mut()).await.is_some() {
            return;
        }
        self.queue.lock().take();
        if tokio::time::timeout(CLOSE_TIME, sending).await.is_err() {
            tracing::error!("the audit webhook did not take its last events in time");
        }
    }
}

impl Worker {
    async fn run(mut self, dropped: &AtomicU64) {
        while let Some(batch) = self.next().await {
            let count = batch.len();
            let body = list(&batch);
            let backoff = Backoff { base: self.settings.backoff, cap: self.settings.backoff * 8 };
            for tried in 1..=TRIES {
                match self.remote.post(body.clone(), POST_TIME).await {
                    Ok(_) => break,
                    Err(why) if tried == TRIES => {
                        dropped.fetch_add(count as u64, Ordering::Relaxed);
                        tracing::error!(count, "the audit webhook does not take events, they are dropped: {why}");
                    }
                    Err(why) => {
                        tracing::warn!(count, "the audit webhook does not take events, trying again: {why}");
                        tokio::time::sleep(backoff.delay(tried)).await;
                    }
                }
            }
        }
    }

    /// The next events; none when no more will come.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        let first = self.events.recv().await?;
        let end = Instant::now() + self.settings.wait;
        let mut size = first.len();
        let mut batch = vec![first];
        while batch.len() < self.settings.batch && size < BATCH_MAX_BYTES {
            match tokio::time::timeout_at(end, self.events.recv()).await {
                Ok(Some(event)) => {
                    size += event.len();
                    batch.push(event);
                }
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }
}

fn list(events: &[Bytes]) -> Bytes {
    const HEAD: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;
    let mut out = Vec::with_capacity(HEAD.len() + events.iter().map(|e| e.len() + 1).sum::<usize>() + 2);
    out.extend_from_slice(HEAD);
    for (i, event) in events.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(event);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_events_is_json() {
        let events = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{}")];
        let value: serde_json::Value = serde_json::from_slice(&list(&events)).unwrap();
        assert_eq!((value["kind"].as_str(), value["items"][0]["a"].as_i64()), (Some("EventList"), Some(1)));
        assert_eq!(value["items"].as_array().unwrap().len(), 2);
    }
}
