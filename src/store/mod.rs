//! Ordered keys to bytes with one revision counter, and the watch cache over them.
//!
//! Writes come in as [`Txn`]s through [`Store::commit`]; what they changed comes out, in order, through
//! [`Store::changes`], and the one reader of that stream in a server is the [`cache::Cache`], which serves all reads.
//!
//! **Invariant:** when `commit` returns `Ok`, the writes survive a power cut (the memory backend's: not).
//! **Invariant:** revisions grow by one per commit and never repeat, also across restarts.
//! **Invariant:** a change is seen in `changes` and `snapshot` only once it is durable.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub mod cache;
pub mod durable;
pub mod journal;
pub mod memory;
mod packed;
pub mod sealed;
mod sled;
mod snapshot;
mod state;
#[cfg(test)]
mod suite;
mod tail;

/// Largest value, bytes. Upstream's request bodies end at 3 MiB.
pub const VALUE_MAX: usize = 3 << 20;

/// Longest key, bytes.
pub const KEY_MAX: usize = 16 << 10;
/// Largest transaction, bytes of keys and values.
pub const TXN_MAX: usize = 32 << 20;

/// A store revision; the first commit has 1.
pub type Revision = u64;

/// A key, as `/registry/apps/deployments/ns/name`.
pub type Key = Bytes;

/// What must be true of a key before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It is not there.
    Absent,
    /// Its last write had this revision.
    Revision(Revision),
    /// Nothing.
    Any,
}

/// One write: a value, or none to delete.
#[derive(Debug, Clone)]
pub struct Write {
    /// Key.
    pub key: Key,
    /// Precondition.
    pub expect: Expect,
    /// Value; `None` deletes.
    pub value: Option<Bytes>,
}

/// Writes that happen together at one revision or not at all. All preconditions are of the state before the first
/// write; of several writes to a key the last one stays. Deleting what is not there changes nothing, and a transaction
/// that changes nothing takes no revision: it gives back the present one.
#[derive(Debug, Clone, Default)]
pub struct Txn(pub Vec<Write>);

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The key was not as expected; its present revision (none: absent).
    #[error("key {} is at revision {actual:?}", String::from_utf8_lossy(.key))]
    Conflict {
        /// Which key.
        key: Key,
        /// What stands there.
        actual: Option<Revision>,
    },
    /// The store cannot write (full disk, failed fsync); reads go on.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// The value is larger than the store takes.
    #[error("value of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
        /// The bound, bytes.
        limit: usize,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Changes before this revision are gone.
    #[error("changes since revision {since} are compacted; the oldest is {oldest}")]
    Compacted {
        /// Asked for.
        since: Revision,
        /// Still there.
        oldest: Revision,
    },
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A pair of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: Key,
    /// Value.
    pub value: Bytes,
    /// Revision of its last write.
    pub revision: Revision,
}

/// All pairs below a prefix at one revision, in key order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The revision it is of.
    pub revision: Revision,
    /// The pairs.
    pub entries: Vec<Entry>,
}

/// One committed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Revision of the commit.
    pub revision: Revision,
    /// Key.
    pub key: Key,
    /// New value; `None` for a deletion.
    pub value: Option<Bytes>,
}

impl Change {
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Changes of one or more whole commits, in order.
pub type Batch = Arc<[Change]>;

/// Every backend passes `suite::contract`.
pub trait Store: Send + Sync {
    /// Applies all writes or none. Dropping the future does not take the commit back.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, CommitError>>;
    /// All pairs below `prefix` at the newest durable revision.
    fn snapshot(&self, prefix: &[u8]) -> BoxFuture<'_, Result<Snapshot, StoreError>>;
    /// Changes after `since`, in order, each once, those of one commit never apart. Ends when the store is closed;
    /// [`StoreError::Compacted`] when `since` is too old, and then nothing more.
    fn changes(&self, since: Revision) -> BoxStream<'_, Result<Batch, StoreError>>;
    /// Finishes what was accepted and ends; later commits get [`CommitError::Closed`]. Reads may go on.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Checks a transaction against the present state: sizes, then preconditions.
fn check(txn: &Txn, present: impl Fn(&[u8]) -> Option<Revision>) -> Result<(), CommitError> {
    let mut total = 0;
    for write in &txn.0 {
        let size = write.value.as_ref().map_or(0, Bytes::len);
        total += size + write.key.len();
        for (size, limit) in [(write.key.len(), KEY_MAX), (size, VALUE_MAX), (total, TXN_MAX)] {
            if size > limit {
                return Err(CommitError::TooLarge { size, limit });
            }
        }
    }
    for write in &txn.0 {
        let met = |actual: Option<Revision>| match write.expect {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(wanted) => actual == Some(wanted),
        };
        if write.expect != Expect::Any {
            let actual = present(&write.key);
            if !met(actual) {
                return Err(CommitError::Conflict { key: write.key.clone(), actual });
            }
        }
    }
    Ok(())
}

/// The changes that a transaction makes at `revision`: the last write of each key, without deletions of what is absent.
fn effective(txn: Txn, revision: Revision, present: impl Fn(&[u8]) -> bool) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::with_capacity(txn.0.len());
    for write in txn.0 {
        changes.retain(|c| c.key != write.key);
        if write.value.is_some() || present(&write.key) {
            changes.push(Change { revision, key: write.key, value: write.value });
        }
    }
    changes
}
