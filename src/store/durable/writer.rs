//! The one writer: a thread that gives revisions, checks preconditions and commits in groups.
//!
//! While one group is being synced the next one fills in the queue. Every answer, also that of a commit that conflicts
//! with one of its own group, waits for the sync: nobody learns of a commit that a power cut could take back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::keeper::Work;
use super::lane;
use super::metrics::Metrics;
use crate::store::journal;
use crate::store::tail::Tail;
use crate::store::{Batch, Change, CommitError, Key, Revision, Txn, check, effective};

/// A group is full beyond this, bytes: the first of it must not wait for ever.
const GROUP_BYTES: usize = 4 << 20;

/// A commit on its way.
pub(super) struct Job {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<Revision, CommitError>>,
    /// Its place in the queue, free again when it is answered.
    pub(super) place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Commits that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Queue {
    /// False when the queue is closed.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return false;
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.bell.notify_one();
        true
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.bell.notify_one();
    }

    /// All that wait; none when the queue is closed and empty.
    fn take(&self) -> Option<VecDeque<Job>> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            self.bell.wait(&mut waiting);
        }
        Some(std::mem::take(&mut waiting.jobs))
    }
}

/// The writer's state.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    pub(super) journal: journal::Writer,
    pub(super) revision: Revision,
    pub(super) index: HashMap<Key, Revision>,
    pub(super) tail: Arc<Tail>,
    pub(super) keeper: lane::Sender,
    pub(super) metrics: Arc<Metrics>,
    /// Why nothing can be written any more.
    pub(super) read_only: Arc<OnceLock<String>>,
}

/// The writer's end: who waits is told, who follows ends.
struct End(Arc<Queue>, Arc<Tail>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
        // Dropped without an answer, which says that the store is closed.
        drop(self.0.take());
        self.1.close();
    }
}

/// Whom to answer, its place in the queue, and what.
type Answer = ((oneshot::Sender<Result<Revision, CommitError>>, OwnedSemaphorePermit), Result<Revision, CommitError>);

impl Writer {
    /// Runs until the queue is closed.
    pub(super) fn run(mut self) {
        // Also after a panic: nobody waits for an answer that does not come.
        let _end = End(self.queue.clone(), self.tail.clone());
        let mut jobs = VecDeque::new();
        loop {
            if jobs.is_empty() {
                match self.queue.take() {
                    Some(more) => jobs = more,
                    None => break,
                }
            }
            self.group(&mut jobs);
        }
    }

    /// Commits what fits into one group.
    fn group(&mut self, jobs: &mut VecDeque<Job>) {
        let mut answers: Vec<Answer> = Vec::with_capacity(jobs.len());
        let mut changes: Vec<Change> = Vec::new();
        while self.journal.staged() < GROUP_BYTES {
            let Some(Job { txn, reply, place }) = jobs.pop_front() else { break };
            let answer = self.stage(txn, &mut changes);
            answers.push(((reply, place), answer));
        }
        if !changes.is_empty() {
            let (bytes, began) = (self.journal.staged(), Instant::now());
            match self.journal.append(self.revision) {
                Ok(()) => {
                    let commits = answers.iter().filter(|(_, a)| a.is_ok()).count();
                    self.metrics.synced(commits, bytes, began.elapsed());
                    self.publish(changes.into());
                }
                Err(error) => self.fail(&error, &mut answers),
            }
        }
        for ((reply, place), answer) in answers {
            drop(place);
            // Who does not wait any more does not mind.
            let _ = reply.send(answer);
        }
    }

    /// Checks a commit and stages it.
    fn stage(&mut self, txn: Txn, group: &mut Vec<Change>) -> Result<Revision, CommitError> {
        if let Some(why) = self.read_only.get() {
            return Err(CommitError::ReadOnly(why.clone()));
        }
        check(&txn, |key| self.index.get(key).copied())?;
        let revision = self.revision + 1;
        let changes = effective(txn, revision, |key| self.index.contains_key(key));
        if changes.is_empty() {
            return Ok(self.revision);
        }
        self.revision = revision;
        for change in &changes {
            match change.value {
                Some(_) => self.index.insert(change.key.clone(), revision),
                None => self.index.remove(&change.key),
            };
        }
        self.journal.stage(revision, &changes);
        group.extend(changes);
        Ok(revision)
    }

    fn publish(&self, batch: Batch) {
        // The keeper first: who has seen a change finds it in a snapshot. It ends only after the writer.
        let _ = self.keeper.send(Work::Apply(batch.clone()));
        self.tail.push(batch);
    }

    /// Nothing of the group may be acknowledged, not even what only looked at it.
    fn fail(&self, error: &std::io::Error, answers: &mut [Answer]) {
        let why = format!("writing the journal failed: {error}; free the disk or replace it, then start again");
        tracing::error!("{why}");
        let why = self.read_only.get_or_init(|| why);
        for (_, answer) in answers {
            *answer = Err(CommitError::ReadOnly(why.clone()));
        }
    }
}
