//! Followers of a resource who are of this process: they are told every change with the state before it, and are never told
//! to begin anew.
//!
//! A follower is a position in the ring, as any watcher. When the ring drops events that one has not read, the states before
//! them, as that follower knows the objects, are put aside for it; it then gets one step from there to the present state.
//!
//! **Invariant:** what a follower was told, in order, leads from nothing to the present objects; each step begins where the
//! last one of its object ended.
//! **Invariant:** a follower that keeps up holds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::event::{Event, EventKind};
use super::index::Objects;
use super::ring::Ring;
use crate::api::object::{Object, ObjectKey};
use crate::store::Revision;

/// Objects that changed behind a follower's back, as it knows them; none for one that it knows nothing of.
type Missed = BTreeMap<ObjectKey, Option<Arc<Object>>>;

/// Where a follower is.
pub(super) struct Place {
    seen: AtomicU64,
    missed: Mutex<Missed>,
}

impl Place {
    pub(super) fn new(seen: Revision) -> Arc<Self> {
        Arc::new(Self { seen: AtomicU64::new(seen), missed: Mutex::default() })
    }

    /// The next steps, and moves behind them. The caller holds the resource's state: nothing is dropped meanwhile.
    pub(super) fn read(&self, ring: &Ring, objects: &Objects, last: Revision) -> Vec<Arc<Event>> {
        let seen = self.seen.load(Relaxed);
        let mut missed = std::mem::take(&mut *self.missed.lock());
        if missed.is_empty()
            && let Some(events) = ring.read(seen)
        {
            self.seen.store(events.last().map_or(seen, |e| e.revision), Relaxed);
            return events;
        }
        ring.iter().filter(|e| e.revision > seen).for_each(|e| note(&mut missed, e));
        self.seen.store(last, Relaxed);
        missed.into_iter().filter_map(|(key, known)| step(&key, known, objects)).map(Arc::new).collect()
    }

    /// An event leaves the ring.
    pub(super) fn dropped(&self, event: &Event) {
        if self.seen.load(Relaxed) < event.revision {
            note(&mut self.missed.lock(), event);
        }
    }

    /// Everything is about to be replaced: whatever there was or will be may be another.
    pub(super) fn replaced<'o>(
        &self,
        ring: &Ring,
        before: impl Iterator<Item = &'o Arc<Object>>,
        after: impl Iterator<Item = &'o Arc<Object>>,
    ) {
        let seen = self.seen.load(Relaxed);
        let mut missed = self.missed.lock();
        ring.iter().filter(|e| e.revision > seen).for_each(|e| note(&mut missed, e));
        for object in before {
            missed.entry(ObjectKey::from(&object.meta)).or_insert_with(|| Some(object.clone()));
        }
        for object in after {
            missed.entry(ObjectKey::from(&object.meta)).or_insert(None);
        }
    }
}

/// The state before the first event is the one that the follower knows.
fn note(missed: &mut Missed, event: &Event) {
    missed.entry(ObjectKey::from(&event.object.meta)).or_insert_with(|| event.previous.clone());
}

/// From what is known of an object to what it is; none when that is the same.
fn step(key: &ObjectKey, known: Option<Arc<Object>>, objects: &Objects) -> Option<Event> {
    match (known, objects.get(&key.namespace, &key.name)) {
        (None, None) => None,
        (None, Some(now)) => Some(Event::new(EventKind::Added, now.clone(), None)),
        (Some(known), Some(now)) if known.revision == now.revision => None,
        (Some(known), Some(now)) => Some(Event::new(EventKind::Modified, now.clone(), Some(known))),
        (Some(known), None) => Some(Event::new(EventKind::Deleted, known.clone(), Some(known))),
    }
}
