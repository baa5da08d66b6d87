//! Ordered keys to bytes with one revision counter, and the watch cache over them.
//!
//! **Invariant:** when `commit` returns `Ok`, the writes survive a power cut.
//! **Invariant:** revisions grow by one per commit and never repeat, also across restarts.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

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

/// Writes that happen together at one revision or not at all.
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

/// Every backend passes `suite::contract`.
pub trait Store: Send + Sync {
    /// Applies all writes or none.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, CommitError>>;
    /// All pairs below `prefix`.
    fn snapshot(&self, prefix: &[u8]) -> BoxFuture<'_, Result<Snapshot, StoreError>>;
    /// Changes after `since`, in order, each once.
    fn changes(&self, since: Revision) -> BoxStream<'_, Result<Change, StoreError>>;
}
