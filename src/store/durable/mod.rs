//! The durable store: a journal that is synced before a write is acknowledged, and sled as the state behind it.
//!
//! ```text
//! commit ─► queue ─► writer thread ─► journal (append, sync) ─► tail in memory ─► changes()
//!                        │                                  └─► acknowledged
//!                        └─► keeper thread ─► sled, snapshot files, old segments removed
//! ```
//!
//! Files in the data directory: `lock`, `format` with a number, `journal/` with segments and snapshot files, `state/` of
//! sled.
//!
//! **Invariant:** what was acknowledged is in the journal, or in two sound snapshots.
//! **Invariant:** after the journal failed once nothing is written until the next start; reads go on.
//! **Invariant:** one process at a time has a data directory open.

mod keeper;
mod lane;
mod metrics;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

pub use keeper::{COLLECT_BYTES, SNAPSHOT_BYTES};
pub use metrics::{Metrics, SYNC_BUCKETS};

use self::keeper::{Collected, Keeper, Work};
use self::writer::{Job, Queue, Writer};
use super::journal::{self, Disk, JournalError, RealDisk};
use super::sled::SledHome;
use super::state::Home;
use super::tail::{Older, Tail};
use super::{Batch, CommitError, Entry, Revision, Snapshot, Store, StoreError, Txn};
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::{files, sys};

/// Commits that may wait for the writer; more wait for a place.
const QUEUE_COMMITS: usize = 4096;
/// Changes kept in memory for followers that have not read them, bytes; older ones are read from the journal.
const TAIL_BYTES: usize = 8 << 20;
/// How long closing waits for the threads. What was acknowledged is in the journal before; a state that its disk lets
/// down must not keep the process.
const CLOSE_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long journal segments are kept by default, for history and restore to a point in time.
pub const RETAIN: Duration = Duration::from_secs(24 * 3600);

/// The form of the files that this version reads and writes.
const FORMAT: u32 = 1;

/// How to open a durable store.
#[derive(Clone)]
pub struct Options {
    /// The data directory; made where it is not there.
    pub dir: PathBuf,
    /// How long journal segments are kept.
    pub retain: Duration,
    /// Journal bytes between two snapshot files, at least.
    pub snapshot_bytes: usize,
    /// Changes are collected up to this many bytes before the materialized state gets them.
    pub collect_bytes: usize,
    /// A journal segment is full beyond this, bytes.
    pub segment_bytes: u64,
    /// Says how old a snapshot is.
    pub clock: SharedClock,
}

impl Options {
    /// The defaults, in a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            retain: RETAIN,
            snapshot_bytes: SNAPSHOT_BYTES,
            collect_bytes: COLLECT_BYTES,
            segment_bytes: journal::SEGMENT_BYTES,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a data directory does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process uses the data directory {}; stop it first", .0.display())]
    Locked(PathBuf),
    /// A newer version wrote it, and this one would take what it cannot read for damage.
    #[error(
        "the data directory {} was written by a newer version (its format is {found}, this version reads {FORMAT}); \
         use that version, or restore a backup",
        .dir.display()
    )]
    Newer {
        /// Which directory.
        dir: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// Acknowledged commits cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There was something, and nothing of it can be used.
    #[error("neither the materialized state nor a snapshot can be read, and there is no journal; restore a backup")]
    NoBase,
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The durable store.
pub struct Durable {
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    tail: Arc<Tail>,
    disk: Arc<dyn Disk>,
    /// None once it is closed.
    keeper: Mutex<Option<lane::Sender>>,
    metrics: Arc<Metrics>,
    read_only: Arc<OnceLock<String>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: Option<File>,
}

impl Durable {
    /// Opens a data directory, and repairs what a crash left. Blocks: minutes never, a second for a large one.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let dir = &options.dir;
        let disk = RealDisk::open(&dir.join("journal"))?;
        let lock = lock(dir)?;
        check_format(dir)?;
        let home = SledHome(dir.join("state"));
        Self::start(Arc::new(disk), &home, options, Some(lock))
    }

    fn start(disk: Arc<dyn Disk>, home: &dyn Home, options: &Options, lock: Option<File>) -> Result<Self, OpenError> {
        let recovered = recover::recover(&*disk, home)?;
        let revision = recovered.revision;
        let index = recovered.entries.iter().map(|(k, (r, _))| (k.clone(), *r)).collect();
        let entry = |(key, (revision, value))| Entry { key, value, revision };
        let first: Vec<Entry> = recovered.entries.into_iter().map(entry).collect();
        let (queue, tail) = (Arc::new(Queue::default()), Arc::new(Tail::new(revision, TAIL_BYTES, Older::OnDisk)));
        let (metrics, read_only) = (Arc::new(Metrics::default()), Arc::new(OnceLock::new()));
        let (sender, work) = lane::lane();
        let keeper = Keeper {
            disk: disk.clone(),
            state: recovered.state,
            revision,
            first: Some(first),
            metrics: metrics.clone(),
            retain: options.retain,
            snapshot_bytes: options.snapshot_bytes,
            collected: Collected::default(),
            grown: 0,
            clock: options.clock.clone(),
            read_only: read_only.clone(),
            collect_bytes: options.collect_bytes,
            rest_at: Some(Instant::now() + keeper::REST_AFTER),
        };
        let writer = Writer {
            queue: queue.clone(),
            journal: journal::Writer::new(disk.clone(), revision, options.segment_bytes),
            revision,
            index,
            tail: tail.clone(),
            keeper: sender.clone(),
            metrics: metrics.clone(),
            read_only: read_only.clone(),
        };
        let threads =
            vec![thread("store-writer", move || writer.run())?, thread("store-keeper", move || keeper.run(&work))?];
        Ok(Self {
            queue,
            places: Arc::new(Semaphore::new(QUEUE_COMMITS)),
            tail,
            disk,
            keeper: Mutex::new(Some(sender)),
            metrics,
            read_only,
            threads: Mutex::new(threads),
            _lock: lock,
        })
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Why nothing can be written any more; none while all is well.
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.get().map(String::as_str)
    }

    /// The newest durable revision.
    pub fn revision(&self) -> Revision {
        self.tail.revision()
    }

    async fn submit(&self, txn: Txn) -> Result<Revision, CommitError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| CommitError::Closed)?;
        let (reply, answer) = oneshot::channel();
        if !self.queue.push(Job { txn, reply, place }) {
            return Err(CommitError::Closed);
        }
        // No answer: the writer is gone, which only a bug in it can do.
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    async fn ask(&self, prefix: Bytes) -> Result<Snapshot, StoreError> {
        let closed = || StoreError::Failed("the store is closed".to_owned());
        let keeper = self.keeper.lock().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        keeper.send(Work::Read(prefix, reply)).map_err(|lane::Gone| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Changes that the tail does not have any more.
    async fn older(&self, since: Revision, oldest: Revision) -> Result<Batch, StoreError> {
        let (disk, until) = (self.disk.clone(), self.tail.revision());
        let read = tokio::task::spawn_blocking(move || journal::read_after(&*disk, since, until)).await;
        match read {
            Ok(Ok(Some(changes))) => Ok(changes.into()),
            Ok(Ok(None)) => Err(StoreError::Compacted { since, oldest }),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Compacted { since, oldest }),
            Ok(Err(error)) => Err(StoreError::Failed(format!("cannot read the journal: {error}"))),
            Err(error) => Err(StoreError::Failed(format!("reading the journal ended: {error}"))),
        }
    }

    /// Asks the threads to end; they finish what was accepted.
    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.queue.close();
        self.keeper.lock().take();
        std::mem::take(&mut *self.threads.lock())
    }
}

/// Starts a thread of the store. Where requests keep all cores busy it lets them go on and takes more of what they bring at
/// once: one sync for ten commits costs what one for two costs, and so does everything that wakes up after it.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let run = move || {
        // Where it is not allowed, groups are smaller.
        let _ = sys::gather_work();
        work();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Blocks until the threads have ended.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the store panicked; this is a bug in orch");
        }
    }
}

impl Store for Durable {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, CommitError>> {
        self.submit(txn).boxed()
    }

    fn snapshot(&self, prefix: &[u8]) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        self.ask(Bytes::copy_from_slice(prefix)).boxed()
    }

    fn changes(&self, since: Revision) -> BoxStream<'_, Result<Batch, StoreError>> {
        self.tail.follow(since, move |since, oldest| self.older(since, oldest).boxed())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let threads = self.stop();
            // Only the pool's own shutdown can fail this, and then nobody waits.
            let ended = tokio::task::spawn_blocking(move || join(threads));
            if tokio::time::timeout(CLOSE_LIMIT, ended).await.is_err() {
                tracing::error!("the store does not close; what is missing in its state is in the journal");
            }
        }
        .boxed()
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        join(self.stop());
    }
}

/// Refuses a directory of a newer version; a new one is marked as ours.
fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = format!("{FORMAT}\n");
            return Ok(files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE)?);
        }
        Err(e) => return Err(e.into()),
    };
    match found.parse::<u32>() {
        Ok(format) if format <= FORMAT => Ok(()),
        _ => Err(OpenError::Newer { dir: dir.to_owned(), found }),
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("lock");
    let mode = files::SECRET_MODE;
    let file = File::options().write(true).create(true).truncate(false).mode(mode).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
