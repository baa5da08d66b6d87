//! What parts of the server note about the request they work on, for its audit event.
//!
//! In: [`annotate`], from anywhere below the handling of a request. Out: what [`Notes`] collected, for who keeps the log.
//!
//! **Invariant:** where nobody collects (there is no audit policy, or it leaves the request out) a note costs a look at a
//! thread's own variable, and nothing is made for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

/// Notes of one request; more are dropped.
const NOTES_MAX: usize = 64;
/// Bytes of one note. Upstream's limit of an audit annotation of a policy.
const NOTE_MAX_BYTES: usize = 10 * 1024;

/// What was noted: annotations of an audit event.
#[derive(Debug, Default)]
pub struct Notes(Mutex<BTreeMap<String, String>>);

impl Notes {
    /// Adds a note; the first of a key stays, as upstream has it.
    pub fn add(&self, key: String, mut value: String) {
        if value.len() > NOTE_MAX_BYTES {
            let end = (0..=NOTE_MAX_BYTES).rev().find(|at| value.is_char_boundary(*at)).unwrap_or_default();
            value.truncate(end);
        }
        let mut all = self.0.lock().expect("no panic while held");
        if all.len() < NOTES_MAX {
            all.entry(key).or_insert(value);
        }
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.0.lock().expect("no panic while held").clone()
    }
}

tokio::task_local! {
    static NOTES: Arc<Notes>;
}

/// Does work whose notes are collected.
pub async fn collecting<T>(notes: Arc<Notes>, work: impl Future<Output = T>) -> T {
    NOTES.scope(notes, work).await
}

/// True when somebody collects: notes that cost something to make are worth it.
pub fn is_collecting() -> bool {
    NOTES.try_with(|_| ()).is_ok()
}

/// Notes something about the request that is worked on.
pub fn annotate(make: impl FnOnce() -> (String, String)) {
    // Nobody collects: nothing to do.
    let _ = NOTES.try_with(|notes| {
        let (key, value) = make();
        notes.add(key, value);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_go_to_who_collects_and_cost_nothing_elsewhere() {
        annotate(|| unreachable!("nobody collects"));
        assert!(!is_collecting());
        let notes = Arc::new(Notes::default());
        collecting(notes.clone(), async {
            assert!(is_collecting());
            annotate(|| ("a".into(), "1".into()));
            annotate(|| ("a".into(), "2".into()));
            annotate(|| ("b".into(), "é".repeat(NOTE_MAX_BYTES)));
            (0..2 * NOTES_MAX).for_each(|i| annotate(|| (format!("k{i}"), String::new())));
        })
        .await;
        let all = notes.all();
        assert_eq!((all["a"].as_str(), all["b"].len(), all.len()), ("1", NOTE_MAX_BYTES, NOTES_MAX));
    }
}
