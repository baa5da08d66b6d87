//! The keeper: a thread that brings the materialized state up to date behind the journal, answers snapshots, writes
//! snapshot files and removes journal segments that nobody needs.
//!
//! Changes are collected for a while, because later writes to a key make earlier ones superfluous: most writes of a
//! quiet cluster are the same few leases again and again.
//!
//! **Invariant:** a segment goes only when two sound snapshots do without it, and not before its time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lane;
use super::metrics::Metrics;
use crate::store::journal::{self, Disk};
use crate::store::state::State;
use crate::store::{Batch, Change, Entry, Key, Revision, Snapshot, StoreError, snapshot};
use crate::util::clock::SharedClock;

/// Changes are collected up to this many bytes…
pub const COLLECT_BYTES: usize = 4 << 20;
/// …or for this long. Each step rewrites half a megabyte however little it holds; a start reads what the state does not
/// have from the journal, at most [`COLLECT_BYTES`] of it.
const COLLECT_TIME: Duration = Duration::from_secs(3600);
/// After the last step the state may rest.
pub(super) const REST_AFTER: Duration = Duration::from_secs(2);
/// A snapshot file is written once the journal has grown by this since the last one, bytes, or by the size of the state
/// if that is more.
pub const SNAPSHOT_BYTES: usize = 64 << 20;
/// Bytes of the last snapshot file for each that may wait while the next one is written: 8 MiB of the smallest, of a large
/// one what a busy server writes meanwhile.
const SNAPSHOT_SHARE: usize = 8;
/// Snapshot files that are kept at most: the two newest, and older ones to go back to.
const SNAPSHOTS_MAX: usize = 6;
/// Segments that are kept at most for going back, whatever their age; of 16 MiB each.
const SEGMENTS_MAX: usize = 64;

/// What the keeper is asked to do.
pub(super) enum Work {
    /// Durable changes.
    Apply(Batch),
    /// A snapshot of what is below a prefix.
    Read(Key, oneshot::Sender<Result<Snapshot, StoreError>>),
}

/// The keeper's state.
pub(super) struct Keeper {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) state: Option<Box<dyn State>>,
    pub(super) revision: Revision,
    /// The state as recovery read it, for the first who asks; gone with the first change.
    pub(super) first: Option<Vec<Entry>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) retain: Duration,
    pub(super) snapshot_bytes: usize,
    pub(super) collected: Collected,
    /// Journal bytes since the last snapshot file.
    pub(super) grown: usize,
    pub(super) clock: SharedClock,
    /// Set when the journal failed.
    pub(super) read_only: Arc<OnceLock<String>>,
    pub(super) collect_bytes: usize,
    /// When the state may give memory back: some time after it was last used.
    pub(super) rest_at: Option<Instant>,
}

/// Changes that the state does not have yet: the last one of each key.
#[derive(Default)]
pub(super) struct Collected {
    changes: BTreeMap<Key, Change>,
    bytes: usize,
    since: Option<Instant>,
}

impl Keeper {
    /// Runs until the writer and all readers are gone.
    pub(super) fn run(mut self, work: &lane::Receiver) {
        loop {
            let due = self.collected.since.map(|since| since + COLLECT_TIME);
            let next = match due.into_iter().chain(self.rest_at).min() {
                None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => work.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match next {
                Ok(Work::Apply(batch)) => self.collect(&batch),
                Ok(Work::Read(prefix, reply)) => drop(reply.send(self.read(&prefix))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if self.collected.bytes >= self.collect_bytes || due.is_some_and(|at| at <= now) {
                self.apply();
                work.allow(self.snapshot_bytes / SNAPSHOT_SHARE);
            }
            if self.rest_at.is_some_and(|at| at <= now) {
                self.rest();
            }
        }
        self.apply();
    }

    fn rest(&mut self) {
        self.rest_at = None;
        if let Some(state) = &mut self.state
            && let Err(why) = state.rest()
        {
            self.gave_up(&why);
        }
    }

    fn collect(&mut self, batch: &[Change]) {
        self.first = None;
        for change in batch {
            self.collected.bytes += change.bytes();
            self.grown += change.bytes();
            self.revision = change.revision;
            self.collected.changes.insert(change.key.clone(), change.clone());
        }
        self.collected.since.get_or_insert_with(Instant::now);
    }

    /// Hands the collected changes to the state.
    fn apply(&mut self) {
        if self.collected.changes.is_empty() {
            return;
        }
        self.rest_at = Some(Instant::now() + REST_AFTER);
        let changes: Vec<Change> = std::mem::take(&mut self.collected).changes.into_values().collect();
        let bytes: usize = changes.iter().map(Change::bytes).sum();
        self.metrics.state_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(state) = &mut self.state
            && let Err(why) = state.apply(self.revision, &changes).and_then(|()| state.flush())
        {
            tracing::error!("the materialized state failed; it is made again at the next start: {why}");
            self.state = None;
        }
        // A disk that failed is not trusted to hold the only copy of anything.
        if self.grown >= self.snapshot_bytes && self.read_only.get().is_none() {
            self.snapshot_file();
        }
    }

    /// The whole state at `self.revision`.
    fn entries(&mut self) -> Result<Vec<Entry>, StoreError> {
        self.apply();
        self.rest_at = Some(Instant::now() + REST_AFTER);
        if let Some(state) = &mut self.state {
            match state.entries().collect::<Result<_, _>>() {
                Ok(entries) => return Ok(entries),
                Err(why) => self.gave_up(&why),
            }
        }
        super::recover::from_files(&*self.disk, self.revision)
            .map_err(|e| StoreError::Failed(format!("cannot read the state from snapshot and journal: {e}")))
    }

    fn read(&mut self, prefix: &[u8]) -> Result<Snapshot, StoreError> {
        let mut entries = match self.first.take() {
            Some(entries) => entries,
            None => self.entries()?,
        };
        if !prefix.is_empty() {
            entries.retain(|e| e.key.starts_with(prefix));
        }
        Ok(Snapshot { revision: self.revision, entries })
    }

    fn snapshot_file(&mut self) {
        let done = self.write_snapshot().and_then(|size| {
            self.metrics.snapshot_bytes.fetch_add(size, Ordering::Relaxed);
            self.snapshot_bytes = self.snapshot_bytes.max(size as usize);
            self.clean()
        });
        // Also after a failure: the next try comes when as much was written again, not at once.
        self.grown = 0;
        match done {
            Ok(()) => tracing::debug!(revision = self.revision, "wrote a snapshot"),
            Err(error) => tracing::error!("writing a snapshot failed; the journal keeps growing: {error}"),
        }
    }

    /// Writes the state as it is read, so that no second copy of it stands in memory; from the files only where it
    /// cannot be read. Gives back the size, bytes.
    fn write_snapshot(&mut self) -> io::Result<u64> {
        let id = snapshot::Id { revision: self.revision, written: self.clock.now().as_second() };
        if let Some(state) = &mut self.state {
            let (count, mut broken) = (state.count(), None);
            let mut readable =
                |entry: Result<Entry, String>| entry.map_err(|why| io::Error::other(broken.get_or_insert(why).clone()));
            let written = snapshot::write(&*self.disk, id, count, state.entries().map(&mut readable));
            let Some(why) = broken else { return written };
            self.gave_up(&why);
        }
        let entries = self.entries().map_err(|e| io::Error::other(e.to_string()))?;
        snapshot::write(&*self.disk, id, entries.len(), entries.into_iter().map(Ok))
    }

    /// The state is not used any more in this process.
    fn gave_up(&mut self, why: &str) {
        tracing::error!("the materialized state cannot be read; it is made again at the next start: {why}");
        self.state = None;
    }

    /// Removes what is too old to go back to: from the newest snapshot that is older than the time of keeping on, all
    /// is kept.
    fn clean(&mut self) -> io::Result<()> {
        let mut snapshots = snapshot::list(&*self.disk)?;
        let Some(second) = snapshots.get(1).copied() else { return Ok(()) };
        let too_many = journal::segments(&*self.disk)?.len() > SEGMENTS_MAX;
        let over = self.clock.now().as_second() - self.retain.as_secs() as i64;
        let base = snapshots[1..].iter().copied().find(|s| s.written <= over).or(too_many.then_some(second));
        if let Some(base) = base {
            for old in snapshots.iter().filter(|s| s.revision < base.revision) {
                snapshot::remove(&*self.disk, *old)?;
            }
            snapshots.retain(|s| s.revision >= base.revision);
            journal::prune(&*self.disk, base.revision)?;
        }
        while snapshots.len() > SNAPSHOTS_MAX {
            // Not the oldest: it is the base for the longest way back.
            snapshot::remove(&*self.disk, snapshots.remove(2))?;
        }
        self.disk.sync_names()
    }
}
