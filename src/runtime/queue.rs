//! A work queue as a value: keys that want work, each once, with backoff for those that failed. No tasks, no locks.
//!
//! Rules: upstream `client-go/util/workqueue`: a key that is added while being worked on comes again afterwards.
//! **Invariant:** a key is handed out to one worker at a time.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::util::backoff::Backoff;

/// A queue of keys.
#[derive(Debug)]
pub struct Queue<K> {
    backoff: Backoff,
    ready: VecDeque<K>,
    /// Wanting work: in `ready`, or to be put there once done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty queue whose failed keys wait as `backoff` says.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    /// Wants work on `key` now.
    pub fn add(&mut self, key: K) {
        self.cancel_later(&key);
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Wants work on `key` at `at`, or earlier where that was asked for before.
    pub fn add_at(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(_) => self.cancel_later(&key),
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    /// The next key to work on; it is being worked on until `done`.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while let Some((at, key)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// When `next` is worth asking again, if nothing is added before.
    pub fn deadline(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Work on `key` ended well; its failures are forgotten.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.release(key);
    }

    /// Work on `key` failed; it comes again after its backoff, which is returned.
    pub fn failed(&mut self, key: &K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let delay = self.backoff.delay(*failures);
        self.release(key);
        if !self.dirty.contains(key) {
            self.add_at(key.clone(), now + delay);
        }
        delay
    }

    fn release(&mut self, key: &K) {
        self.working.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    fn cancel_later(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.later.remove(&(at, key.clone()));
        }
    }

    /// Keys ready for work.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// True when no key is ready.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Queue<&'static str>, Instant) {
        (Queue::new(Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(20) }), Instant::now())
    }

    #[test]
    fn a_key_stands_once_and_is_worked_on_once_at_a_time() {
        let (mut q, t) = queue();
        q.add("a");
        q.add("a");
        q.add("b");
        assert_eq!((q.next(t), q.next(t), q.next(t)), (Some("a"), Some("b"), None));
        q.add("a");
        assert_eq!(q.next(t), None, "still being worked on");
        q.done(&"a");
        assert_eq!(q.next(t), Some("a"));
    }

    #[test]
    fn failures_wait_longer_each_time_until_one_success() {
        let (mut q, t) = queue();
        q.add("a");
        for want in [5, 10, 20, 20] {
            let at = q.deadline().unwrap_or(t);
            assert_eq!(q.next(at), Some("a"));
            assert_eq!(q.failed(&"a", at), Duration::from_millis(want));
            assert_eq!(q.next(at), None);
        }
        assert_eq!(q.next(q.deadline().unwrap()), Some("a"));
        q.done(&"a");
        q.add("a");
        assert_eq!(q.next(t), Some("a"));
        assert_eq!(q.failed(&"a", t), Duration::from_millis(5));
    }

    #[test]
    fn the_earliest_wish_wins() {
        let (mut q, t) = queue();
        let after = |ms| t + Duration::from_millis(ms);
        q.add_at("a", after(50));
        q.add_at("a", after(10));
        q.add_at("a", after(90));
        assert_eq!(q.deadline(), Some(after(10)));
        q.add("a");
        assert_eq!(q.next(t), Some("a"));
        assert_eq!(q.deadline(), None, "working now covers the later wish");
        assert_eq!(q.len(), 0);
    }
}
