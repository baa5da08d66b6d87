//! The newest changes in memory, for those who follow them.
//!
//! **Invariant:** a follower sees each change after its start once and in order, or is told that it is too late.
//! **Invariant:** at most `bytes` of keys and values are kept, but always the newest batch.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Batch, Change, Revision, StoreError};

/// Batches that one reading takes at most.
const READ_BATCHES: usize = 64;

/// A bounded tail of batches and a bell for its followers.
pub(super) struct Tail {
    kept: Mutex<Kept>,
    /// The newest revision; rings also when the tail is closed.
    news: watch::Sender<Revision>,
    limit: usize,
}

struct Kept {
    /// All changes after this revision are here.
    floor: Revision,
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

/// What a follower finds.
pub(super) enum Read {
    /// Batches that hold changes after the revision asked for (the first may also hold earlier ones).
    Batches(Vec<Batch>),
    /// Nothing newer yet.
    UpToDate,
    /// Nothing newer, and there never will be.
    Closed,
    /// Changes in between are not kept any more; the oldest revision that can be asked for.
    TooLate(Revision),
}

impl Tail {
    /// An empty tail of a store that stands at `revision`; it keeps about `limit` bytes.
    pub(super) fn new(revision: Revision, limit: usize) -> Self {
        let kept = Kept { floor: revision, batches: VecDeque::new(), bytes: 0, closed: false };
        Self { kept: Mutex::new(kept), news: watch::Sender::new(revision), limit }
    }

    /// Adds durable changes, newer than all before. Empty batches are ignored.
    pub(super) fn push(&self, batch: Batch) {
        let Some(last) = batch.last().map(|c| c.revision) else { return };
        {
            let mut kept = self.kept.lock();
            kept.bytes += size(&batch);
            kept.batches.push_back(batch);
            while kept.bytes > self.limit && kept.batches.len() > 1 {
                let old = kept.batches.pop_front().expect("there is more than one");
                kept.bytes -= size(&old);
                kept.floor = old.last().map_or(kept.floor, |c| c.revision);
            }
        }
        self.news.send_replace(last);
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> Revision {
        *self.news.borrow()
    }

    /// Followers end after what is there.
    pub(super) fn close(&self) {
        self.kept.lock().closed = true;
        self.news.send_modify(|_| ());
    }

    /// What is there after `since`.
    pub(super) fn read(&self, since: Revision) -> Read {
        let kept = self.kept.lock();
        if since < kept.floor {
            return Read::TooLate(kept.floor);
        }
        let from = kept.batches.partition_point(|b| b.last().is_none_or(|c| c.revision <= since));
        let found: Vec<Batch> = kept.batches.iter().skip(from).take(READ_BATCHES).cloned().collect();
        match (found.is_empty(), kept.closed) {
            (false, _) => Read::Batches(found),
            (true, false) => Read::UpToDate,
            (true, true) => Read::Closed,
        }
    }

    /// A bell that rings after each push; get it before reading.
    pub(super) fn bell(&self) -> watch::Receiver<Revision> {
        self.news.subscribe()
    }

    /// Follows the changes after `since`. `older` gives changes that are not kept here any more: the next ones after a
    /// revision.
    pub(super) fn follow<'a>(
        &'a self,
        since: Revision,
        older: impl Fn(Revision, Revision) -> BoxFuture<'a, Result<Batch, StoreError>> + Send + Sync + 'a,
    ) -> BoxStream<'a, Result<Batch, StoreError>> {
        let older = Arc::new(older);
        struct Follower {
            bell: watch::Receiver<Revision>,
            at: Revision,
            ready: std::vec::IntoIter<Batch>,
            failed: bool,
        }
        let start = Follower { bell: self.bell(), at: since, ready: Vec::new().into_iter(), failed: false };
        stream::unfold(start, move |mut f| {
            let older = older.clone();
            async move {
                loop {
                    if f.failed {
                        return None;
                    }
                    if let Some(batch) = f.ready.next() {
                        let batch = after(batch, f.at);
                        f.at = batch.last().map_or(f.at, |c| c.revision);
                        return Some((Ok(batch), f));
                    }
                    f.bell.mark_unchanged();
                    match self.read(f.at) {
                        Read::Batches(batches) => f.ready = batches.into_iter(),
                        Read::UpToDate => f.bell.changed().await.ok()?,
                        Read::Closed => return None,
                        Read::TooLate(oldest) => match older(f.at, oldest).await {
                            Ok(batch) => f.ready = vec![batch].into_iter(),
                            Err(error) => {
                                f.failed = true;
                                return Some((Err(error), f));
                            }
                        },
                    }
                }
            }
        })
        .boxed()
    }
}

/// For stores that keep nothing older.
pub(super) fn nothing_older<'a>(since: Revision, oldest: Revision) -> BoxFuture<'a, Result<Batch, StoreError>> {
    async move { Err(StoreError::Compacted { since, oldest }) }.boxed()
}

/// The part of a batch that is newer than `since`.
pub(super) fn after(batch: Batch, since: Revision) -> Batch {
    match batch.partition_point(|c| c.revision <= since) {
        0 => batch,
        n => batch[n..].to_vec().into(),
    }
}

fn size(batch: &[Change]) -> usize {
    batch.iter().map(|c| c.key.len() + c.value.as_ref().map_or(0, |v| v.len()) + size_of::<Change>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn batch(revisions: std::ops::RangeInclusive<Revision>) -> Batch {
        revisions.map(|revision| Change { revision, key: Bytes::from_static(b"/k"), value: None }).collect()
    }

    #[tokio::test]
    async fn follows_from_the_middle_of_a_batch_to_the_end() {
        let tail = Tail::new(4, 1 << 20);
        tail.push(batch(5..=7));
        tail.push(batch(8..=8));
        tail.close();
        let seen: Vec<Batch> = tail.follow(5, nothing_older).map(Result::unwrap).collect().await;
        let seen: Vec<Revision> = seen.iter().flat_map(|b| b.iter().map(|c| c.revision)).collect();
        assert_eq!(seen, [6, 7, 8]);
        assert_eq!(tail.revision(), 8);
    }

    #[tokio::test]
    async fn too_late_is_said_once() {
        let tail = Tail::new(0, 1);
        tail.push(batch(1..=2));
        tail.push(batch(3..=3));
        let seen: Vec<_> = tail.follow(1, nothing_older).collect().await;
        assert_eq!(seen, [Err(StoreError::Compacted { since: 1, oldest: 2 })]);
        assert!(matches!(tail.read(2), Read::Batches(b) if b.len() == 1));
        assert!(matches!(tail.read(3), Read::UpToDate));
    }
}
