//! What the store counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the sync latency buckets, microseconds; one more bucket is for what is slower.
pub const SYNC_BUCKETS: [u64; 10] = [250, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Counters of a durable store since its start. Reading them is cheap.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Commits acknowledged.
    pub commits: AtomicU64,
    /// Groups synced; commits over groups is how many shared a sync.
    pub groups: AtomicU64,
    /// Bytes appended to the journal.
    pub journal_bytes: AtomicU64,
    /// Bytes of keys and values handed to the materialized state (after later writes to a key replaced earlier ones).
    pub state_bytes: AtomicU64,
    /// Bytes written to snapshot files.
    pub snapshot_bytes: AtomicU64,
    /// Time spent appending and syncing, microseconds.
    pub sync_micros: AtomicU64,
    /// Syncs by latency, as [`SYNC_BUCKETS`]; not cumulative.
    pub sync_buckets: [AtomicU64; SYNC_BUCKETS.len() + 1],
}

impl Metrics {
    pub(super) fn synced(&self, commits: usize, bytes: usize, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = SYNC_BUCKETS.partition_point(|bound| *bound < micros);
        for (counter, by) in [
            (&self.commits, commits as u64),
            (&self.groups, 1),
            (&self.journal_bytes, bytes as u64),
            (&self.sync_micros, micros),
            (&self.sync_buckets[bucket], 1),
        ] {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Everything written to the disk, bytes: what wears an SD card out.
    pub fn bytes_written(&self) -> u64 {
        let all = [&self.journal_bytes, &self.state_bytes, &self.snapshot_bytes];
        all.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}
