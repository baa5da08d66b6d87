//! The way from the writer to the keeper, bounded by bytes.
//!
//! The keeper stops reading while it writes a snapshot file, for half a second on a slow disk, and for many seconds where
//! the state is large. Commits need not wait for that: what they change is durable, and waits here; the more may wait the
//! larger the state is.
//!
//! **Invariant:** no more than [`BEHIND_BYTES`] wait, or what the keeper allows, or one batch that is larger.
//! **Invariant:** nobody waits for a keeper that is gone.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvError, RecvTimeoutError};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::keeper::Work;
use crate::store::Change;

/// What the keeper may be behind at least, bytes; then the writer waits for it.
pub(super) const BEHIND_BYTES: usize = 8 << 20;

/// The keeper is gone.
#[derive(Debug)]
pub(super) struct Gone;

struct Behind {
    bytes: usize,
    allowed: usize,
    gone: bool,
}

impl Default for Behind {
    fn default() -> Self {
        Self { bytes: 0, allowed: BEHIND_BYTES, gone: false }
    }
}

#[derive(Default)]
struct Shared {
    behind: Mutex<Behind>,
    less: Condvar,
}

/// The writer's end, and that of those who read.
#[derive(Clone)]
pub(super) struct Sender {
    work: mpsc::Sender<(Work, usize)>,
    shared: Arc<Shared>,
}

/// The keeper's end.
pub(super) struct Receiver {
    work: mpsc::Receiver<(Work, usize)>,
    shared: Arc<Shared>,
}

/// A new lane.
pub(super) fn lane() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    (Sender { work: sender, shared: shared.clone() }, Receiver { work: receiver, shared })
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Work::Apply(batch) => batch.iter().map(Change::bytes).sum(),
            Work::Read(..) => 0,
        }
    }
}

impl Sender {
    /// Blocks while the keeper is too far behind; a question never does.
    ///
    /// # Errors
    /// The keeper is gone.
    pub(super) fn send(&self, work: Work) -> Result<(), Gone> {
        let bytes = work.bytes();
        let mut behind = self.shared.behind.lock();
        while bytes > 0 && behind.bytes > 0 && behind.bytes + bytes > behind.allowed && !behind.gone {
            self.shared.less.wait(&mut behind);
        }
        behind.bytes += bytes;
        drop(behind);
        self.work.send((work, bytes)).map_err(|_| Gone)
    }
}

impl Receiver {
    /// Waits for work.
    ///
    /// # Errors
    /// All senders are gone.
    pub(super) fn recv(&self) -> Result<Work, RecvError> {
        self.work.recv().map(|taken| self.took(taken))
    }

    /// Waits for work no longer than this.
    ///
    /// # Errors
    /// All senders are gone, or there is none yet.
    pub(super) fn recv_timeout(&self, longest: Duration) -> Result<Work, RecvTimeoutError> {
        self.work.recv_timeout(longest).map(|taken| self.took(taken))
    }

    /// From now on so much may wait.
    pub(super) fn allow(&self, bytes: usize) {
        self.shared.behind.lock().allowed = bytes.max(BEHIND_BYTES);
        self.shared.less.notify_all();
    }

    fn took(&self, (work, bytes): (Work, usize)) -> Work {
        self.shared.behind.lock().bytes -= bytes;
        self.shared.less.notify_all();
        work
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.behind.lock().gone = true;
        self.shared.less.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Key;
    use bytes::Bytes;

    fn batch(bytes: usize) -> Work {
        let value = Some(Bytes::from(vec![0; bytes]));
        Work::Apply([Change { key: Key::from_static(b"/k"), value, revision: 1 }].into())
    }

    #[test]
    fn who_is_too_far_ahead_waits_until_work_is_taken() {
        let (sender, receiver) = lane();
        sender.send(batch(2 * BEHIND_BYTES)).unwrap();
        let ahead = std::thread::spawn({
            let sender = sender.clone();
            move || sender.send(batch(1)).is_ok()
        });
        let (reply, _answer) = tokio::sync::oneshot::channel();
        sender.send(Work::Read(Key::default(), reply)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!ahead.is_finished());
        assert!(matches!(receiver.recv(), Ok(Work::Apply(_))));
        assert!(ahead.join().unwrap());
        assert!(matches!(receiver.recv(), Ok(Work::Read(..))));
        assert!(matches!(receiver.recv_timeout(Duration::from_secs(60)), Ok(Work::Apply(_))));
        assert_eq!(receiver.shared.behind.lock().bytes, 0);
    }

    #[test]
    fn more_may_wait_where_the_keeper_allows_it() {
        let (sender, receiver) = lane();
        receiver.allow(3 * BEHIND_BYTES);
        for _ in 0..3 {
            sender.send(batch(BEHIND_BYTES - 2)).unwrap();
        }
        let ahead = std::thread::spawn(move || sender.send(batch(BEHIND_BYTES)).is_ok());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!ahead.is_finished());
        receiver.allow(5 * BEHIND_BYTES);
        assert!(ahead.join().unwrap());
        receiver.allow(0);
        assert_eq!(receiver.shared.behind.lock().allowed, BEHIND_BYTES);
    }

    #[test]
    fn nobody_waits_for_a_keeper_that_is_gone() {
        let (sender, receiver) = lane();
        sender.send(batch(BEHIND_BYTES)).unwrap();
        let waiting = std::thread::spawn(move || sender.send(batch(BEHIND_BYTES)).is_ok());
        drop(receiver);
        // It was told, or found it out by sending.
        let _ = waiting.join().unwrap();
    }
}
