//! Answers that are good for a while.
//!
//! **Invariant:** at most as many as the bound says are kept; an old one is never given.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Values by keys, each until its time is over.
pub struct TtlCache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
    bound: usize,
}

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    /// One that keeps at most `bound` values.
    pub fn new(bound: usize) -> Self {
        Self { entries: Mutex::default(), bound }
    }

    /// The value of a key, while it is good at `now`.
    pub fn get(&self, key: &K, now: Instant) -> Option<V> {
        let mut entries = self.entries.lock();
        let (end, value) = entries.get(key)?;
        if *end > now {
            return Some(value.clone());
        }
        entries.remove(key);
        None
    }

    /// Keeps a value for `ttl` from `now` on.
    pub fn put(&self, key: K, value: V, ttl: Duration, now: Instant) {
        if ttl.is_zero() {
            return;
        }
        let mut entries = self.entries.lock();
        if entries.len() >= self.bound {
            entries.retain(|_, (end, _)| *end > now);
        }
        // Still full: those that are asked for come again.
        if entries.len() >= self.bound {
            entries.clear();
        }
        entries.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_and_are_bounded() {
        let (cache, start) = (TtlCache::new(2), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        cache.put("a", 1, Duration::from_secs(5), start);
        cache.put("b", 2, Duration::from_secs(9), start);
        cache.put("never", 3, Duration::ZERO, start);
        assert_eq!((cache.get(&"a", at(4)), cache.get(&"a", at(5)), cache.get(&"never", start)), (Some(1), None, None));
        cache.put("c", 3, Duration::from_secs(9), at(5));
        assert_eq!((cache.get(&"b", at(5)), cache.get(&"c", at(5))), (Some(2), Some(3)));
        cache.put("d", 4, Duration::from_secs(9), at(6));
        assert_eq!((cache.get(&"b", at(6)), cache.get(&"d", at(6))), (None, Some(4)));
    }
}
