//! Encryption at rest, at the border of the store: values go in sealed and come out plain.
//!
//! ```text
//! registry ─► Sealed::commit ─► journal, sled, snapshots (sealed)
//! watch cache ◄─ Sealed::changes, snapshot ◄─┘
//! ```
//!
//! The watch cache above holds what it always holds, so reads cost nothing more; what lies on the disk, the journal and
//! backups included, is sealed for the resources that the configuration names.
//!
//! **Invariant:** a value that is to be sealed never reaches the store below as it is.
//! **Invariant:** a configuration that cannot read everything that is stored is not taken: neither at start nor later.
//! **Invariant:** what cannot be read is an error that names the object, never an object that is not there.

mod cipher;
pub mod config;
mod kms;
mod manager;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::RwLock;

pub use config::{Config, ConfigError};
pub use manager::{Encryption, EncryptionError, Settings, Status};

use super::cache::OBJECTS;
use super::{Batch, Change, CommitError, Entry, Expect, Revision, Snapshot, Store, StoreError, Txn, Write};

/// Earlier configurations that followers who are behind may still need.
const EARLIER_MAX: usize = 8;
/// Values that are written again at one time.
const REWRITES: usize = 32;

/// The configuration that counts, and earlier ones of this process: newest first.
#[derive(Default)]
struct Readers(Vec<Arc<Config>>);

impl Readers {
    async fn open(&self, key: &[u8], value: &Bytes) -> Result<Bytes, ConfigError> {
        let mut first = None;
        for config in &self.0 {
            match config.open(key, value).await {
                Ok(plain) => return Ok(plain.unwrap_or_else(|| value.clone())),
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.unwrap_or_else(|| ConfigError::Wrong("there is no configuration".into())))
    }

    async fn batch(&self, batch: Batch) -> Result<Batch, StoreError> {
        let sealed = |c: &Change| c.value.clone().filter(|v| v.starts_with(cipher::SEALED));
        if !batch.iter().any(|c| sealed(c).is_some()) {
            return Ok(batch);
        }
        let mut all = batch.to_vec();
        for change in &mut all {
            if let Some(value) = sealed(change) {
                let plain = self.open(&change.key, &value).await.map_err(|why| unreadable(&why, 0))?;
                change.value = Some(plain);
            }
        }
        Ok(all.into())
    }

    /// Opens all values, or says which cannot be.
    async fn entries(&self, entries: &mut [Entry]) -> Result<(), StoreError> {
        let mut wrong = None;
        for entry in entries {
            match self.open(&entry.key, &entry.value).await {
                Ok(plain) => entry.value = plain,
                // A plugin that does not answer is not asked once for each value.
                Err(why @ ConfigError::Failed(_)) => return Err(unreadable(&why, 0)),
                Err(why) => {
                    let (_, others) = wrong.get_or_insert((why, -1));
                    *others += 1;
                }
            }
        }
        wrong.map_or(Ok(()), |(why, others)| Err(unreadable(&why, others)))
    }
}

/// The error for a value that cannot be read, and for `others` like it.
fn unreadable(first: &ConfigError, others: i32) -> StoreError {
    let more = match others {
        0 => String::new(),
        n => format!(", and so are {n} more"),
    };
    let cure = match first {
        ConfigError::Wrong(_) => {
            "put the missing key, or the identity provider, into the file of --encryption-provider-config"
        }
        ConfigError::Failed(_) => "see what the log says of the plugin, or restore a backup of what is damaged",
    };
    StoreError::Failed(format!("{first}{more}; {cure}"))
}

/// A store whose values are sealed as a configuration says.
pub struct Sealed {
    inner: Arc<dyn Store>,
    /// What writes. Held while a commit is under way, so that a new configuration sees all that an old one wrote.
    writer: RwLock<Arc<Config>>,
    readers: ArcSwap<Readers>,
}

/// What is stored, in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Values that are sealed.
    pub sealed: usize,
    /// Values that would be stored otherwise now: to be written again.
    pub stale: usize,
}

impl Sealed {
    /// Over a store that is open. What `config` cannot read shows when it is read, which is the first thing that a server
    /// does; reading it here once more would cost its start and its memory.
    pub fn new(inner: Arc<dyn Store>, config: Config) -> Arc<Self> {
        let config = Arc::new(config);
        let readers = ArcSwap::from_pointee(Readers(vec![config.clone()]));
        Arc::new(Self { inner, writer: RwLock::new(config), readers })
    }

    /// Uses another configuration from now on; what is stored stays as it is.
    ///
    /// # Errors
    /// It cannot read what is stored, and is not used.
    pub async fn reload(&self, config: Config) -> Result<(), StoreError> {
        let mut writer = self.writer.write().await;
        // Commits whose callers went away may still be on their way: what comes after them in the queue is.
        self.inner.commit(Txn::default()).await.map_err(|e| StoreError::Failed(e.to_string()))?;
        let config = Arc::new(config);
        let mut stored = self.inner.snapshot(OBJECTS.as_bytes()).await?;
        Readers(vec![config.clone()]).entries(&mut stored.entries).await?;
        drop(stored);
        let mut all = vec![config.clone()];
        all.extend(self.readers.load().0.iter().take(EARLIER_MAX).cloned());
        self.readers.store(Arc::new(Readers(all)));
        *writer = config;
        Ok(())
    }

    fn readers(&self) -> Arc<Readers> {
        self.readers.load_full()
    }

    /// The configuration that counts.
    pub async fn config(&self) -> Arc<Config> {
        self.writer.read().await.clone()
    }

    /// Looks at all that is stored.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let config = self.config().await;
        let all = self.inner.snapshot(OBJECTS.as_bytes()).await?;
        let mut counts = Counts::default();
        for Entry { key, value, .. } in &all.entries {
            counts.sealed += usize::from(value.starts_with(cipher::SEALED));
            counts.stale += usize::from(config.is_stale(key, value));
        }
        Ok(counts)
    }

    /// Writes again what is not stored as the configuration wants it. An object that somebody writes meanwhile is
    /// written by them. Gives back how many there were.
    pub async fn rewrite(&self) -> Result<usize, StoreError> {
        let config = self.config().await;
        let all = self.inner.snapshot(OBJECTS.as_bytes()).await?;
        let stale: Vec<Entry> = all.entries.into_iter().filter(|e| config.is_stale(&e.key, &e.value)).collect();
        let count = stale.len();
        let one = |Entry { key, value, revision }| async move {
            let plain = self.readers().open(&key, &value).await.map_err(|why| unreadable(&why, 0))?;
            let write = Write { key, expect: Expect::Revision(revision), value: Some(plain) };
            match self.commit(Txn(vec![write])).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
                Err(error) => Err(StoreError::Failed(error.to_string())),
            }
        };
        let mut work = futures::stream::iter(stale).map(one).buffer_unordered(REWRITES);
        while let Some(done) = work.next().await {
            done?;
        }
        Ok(count)
    }
}

impl Store for Sealed {
    fn commit(&self, mut txn: Txn) -> BoxFuture<'_, Result<Revision, CommitError>> {
        async move {
            let config = self.writer.read().await;
            for write in &mut txn.0 {
                let Some(value) = &write.value else { continue };
                match config.seal(&write.key, value) {
                    Ok(None) => {}
                    Ok(Some(sealed)) => write.value = Some(sealed),
                    Err(why) => return Err(CommitError::ReadOnly(why.to_string())),
                }
            }
            self.inner.commit(txn).await
        }
        .boxed()
    }

    fn snapshot(&self, prefix: &[u8]) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        let prefix = Bytes::copy_from_slice(prefix);
        async move {
            let mut all = self.inner.snapshot(&prefix).await?;
            self.readers().entries(&mut all.entries).await?;
            Ok(all)
        }
        .boxed()
    }

    fn changes(&self, since: Revision) -> BoxStream<'_, Result<Batch, StoreError>> {
        let open = move |batch: Result<Batch, StoreError>| async move { self.readers().batch(batch?).await };
        self.inner.changes(since).then(open).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
