//! The store in memory: for tests, and for servers that may forget.
//!
//! **Invariant:** nothing survives the process; all else is the contract of every backend.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;

use super::tail::{Older, Tail, nothing_older};
use super::{Batch, CommitError, Entry, Key, Revision, Snapshot, Store, StoreError, Txn, check, effective};

/// Changes kept for followers, bytes.
const TAIL_BYTES: usize = 64 << 20;

/// A store that lives in memory.
pub struct Memory {
    state: Mutex<State>,
    tail: Tail,
}

#[derive(Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<Key, (Revision, Bytes)>,
    closed: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_tail(TAIL_BYTES)
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that keeps about `bytes` of changes for its followers.
    pub fn with_tail(bytes: usize) -> Self {
        Self { state: Mutex::default(), tail: Tail::new(0, bytes, Older::Nowhere) }
    }

    fn apply(&self, txn: Txn) -> Result<Revision, CommitError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(CommitError::Closed);
        }
        check(&txn, |key| state.entries.get(key).map(|(revision, _)| *revision))?;
        let revision = state.revision + 1;
        let changes: Batch = effective(txn, revision, |key| state.entries.contains_key(key)).into();
        if changes.is_empty() {
            return Ok(state.revision);
        }
        for change in changes.iter() {
            match &change.value {
                Some(value) => drop(state.entries.insert(change.key.clone(), (revision, value.clone()))),
                None => drop(state.entries.remove(&change.key)),
            }
        }
        state.revision = revision;
        // Still under the lock: the tail wants its batches in order.
        self.tail.push(changes);
        Ok(revision)
    }
}

impl Store for Memory {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, CommitError>> {
        async move { self.apply(txn) }.boxed()
    }

    fn snapshot(&self, prefix: &[u8]) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        let prefix = Bytes::copy_from_slice(prefix);
        async move {
            let state = self.state.lock();
            let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
            let below = state.entries.range::<Key, _>(from).take_while(|(k, _)| k.starts_with(&prefix));
            let entry = |(key, (revision, value)): (&Key, &(Revision, Bytes))| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: *revision,
            };
            Ok(Snapshot { revision: state.revision, entries: below.map(entry).collect() })
        }
        .boxed()
    }

    fn changes(&self, since: Revision) -> BoxStream<'_, Result<Batch, StoreError>> {
        self.tail.follow(since, nothing_older)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.state.lock().closed = true;
            self.tail.close();
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread")]
    async fn passes_the_contract() {
        suite::contract(|_| Arc::new(Memory::new())).await;
        suite::compaction(&Memory::with_tail(1024), 1024).await;
    }
}
