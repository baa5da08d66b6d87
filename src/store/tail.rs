//! The newest changes in memory, for those who follow them.
//!
//! **Invariant:** a follower sees each change after its start once and in order, or is told that it is too late.
//! **Invariant:** at most `limit` bytes of keys and values are kept, but always the newest batch.
//! **Invariant:** what every follower has read is kept only where nobody could read it again elsewhere.

use std::collections::{BTreeMap, VecDeque};
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
    older: Older,
}

/// Where followers find what is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Older {
    /// Nowhere: all that the bound allows is kept.
    Nowhere,
    /// On the disk: what all followers have read is dropped, because nobody is likely to ask for it.
    OnDisk,
}

struct Kept {
    /// All changes after this revision are here.
    floor: Revision,
    batches: VecDeque<Batch>,
    bytes: usize,
    /// What each follower has read, by a number of its own.
    read: BTreeMap<u64, Revision>,
    next_follower: u64,
    closed: bool,
}

impl Kept {
    fn drop_oldest(&mut self) {
        let Some(old) = self.batches.pop_front() else { return };
        self.bytes -= size(&old);
        self.floor = old.last().map_or(self.floor, |c| c.revision);
        if self.batches.is_empty() {
            self.batches.shrink_to(READ_BATCHES);
        }
    }
}

/// A follower's place among those that the tail keeps its batches for.
struct Place<'a> {
    tail: &'a Tail,
    number: u64,
}

impl<'a> Place<'a> {
    fn new(tail: &'a Tail, since: Revision) -> Self {
        let mut kept = tail.kept.lock();
        let number = kept.next_follower;
        kept.next_follower += 1;
        kept.read.insert(number, since);
        drop(kept);
        Self { tail, number }
    }

    /// Everything up to a revision was read.
    fn has_read(&self, revision: Revision) {
        let mut kept = self.tail.kept.lock();
        kept.read.insert(self.number, revision);
        if self.tail.older == Older::Nowhere {
            return;
        }
        let all = kept.read.values().min().copied().unwrap_or(revision);
        while kept.batches.front().is_some_and(|b| b.last().is_some_and(|c| c.revision <= all)) {
            kept.drop_oldest();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.tail.kept.lock().read.remove(&self.number);
    }
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
    pub(super) fn new(revision: Revision, limit: usize, older: Older) -> Self {
        let kept = Kept {
            floor: revision,
            batches: VecDeque::new(),
            bytes: 0,
            read: BTreeMap::new(),
            next_follower: 0,
            closed: false,
        };
        Self { kept: Mutex::new(kept), news: watch::Sender::new(revision), limit, older }
    }

    /// Adds durable changes, newer than all before. Empty batches are ignored.
    pub(super) fn push(&self, batch: Batch) {
        let Some(last) = batch.last().map(|c| c.revision) else { return };
        {
            let mut kept = self.kept.lock();
            kept.bytes += size(&batch);
            kept.batches.push_back(batch);
            while kept.bytes > self.limit && kept.batches.len() > 1 {
                kept.drop_oldest();
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
        struct Follower<'a> {
            bell: watch::Receiver<Revision>,
            place: Place<'a>,
            at: Revision,
            ready: std::vec::IntoIter<Batch>,
            failed: bool,
        }
        let place = Place::new(self, since);
        let start = Follower { bell: self.bell(), place, at: since, ready: Vec::new().into_iter(), failed: false };
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
                    f.place.has_read(f.at);
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
        let tail = Tail::new(4, 1 << 20, Older::Nowhere);
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
        let tail = Tail::new(0, 1, Older::Nowhere);
        tail.push(batch(1..=2));
        tail.push(batch(3..=3));
        let seen: Vec<_> = tail.follow(1, nothing_older).collect().await;
        assert_eq!(seen, [Err(StoreError::Compacted { since: 1, oldest: 2 })]);
        assert!(matches!(tail.read(2), Read::Batches(b) if b.len() == 1));
        assert!(matches!(tail.read(3), Read::UpToDate));
    }

    #[tokio::test]
    async fn what_all_have_read_is_dropped_where_it_is_elsewhere() {
        for (older, left) in [(Older::Nowhere, 2), (Older::OnDisk, 1)] {
            let tail = Tail::new(0, 1 << 20, older);
            let (mut fast, slow) = (tail.follow(0, nothing_older), Place::new(&tail, 0));
            let batches = || tail.kept.lock().batches.len();
            tail.push(batch(1..=2));
            fast.next().await.unwrap().unwrap();
            // The next reading is what says that the first batch was taken.
            assert!(fast.next().now_or_never().is_none());
            assert_eq!(batches(), 1, "the slow one needs it");
            tail.push(batch(3..=3));
            slow.has_read(2);
            assert_eq!(batches(), left);
            drop(slow);
            assert!(fast.next().await.is_some_and(|b| b.unwrap().len() == 1));
            assert!(fast.next().now_or_never().is_none());
            assert_eq!((batches() == 0, tail.kept.lock().bytes == 0), (older == Older::OnDisk, older == Older::OnDisk));
            tail.push(batch(4..=4));
            assert!(fast.next().await.is_some());
        }
    }
}
