//! Watchers of little: of one object, or of the objects that have one value in a selectable field.
//!
//! Every kubelet watches the pods of its node, its Node, and each Secret that a pod names. What is told to such watchers is
//! kept apart from the ring, so that they sleep while others' objects change, and read nothing but their own events.
//!
//! **Invariant:** what is kept for a value are the ring's events of it, no more: it costs a pointer each.
//! **Invariant:** `dropped` is the newest event of the value that left the ring; who has seen that one has missed nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use super::event::Event;
use super::ring::READ_EVENTS;
use crate::api::object::Object;
use crate::store::Revision;

/// What a watcher is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Narrow {
    /// One object; the namespace is empty for cluster-scoped kinds.
    Object {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Objects by a selectable field.
    Field {
        /// Position in `Object::fields`.
        at: usize,
        /// The field's text.
        value: Box<str>,
    },
}

/// What watchers of one value are told.
struct Told {
    events: VecDeque<Arc<Event>>,
    dropped: Revision,
    bell: watch::Sender<()>,
    watchers: usize,
}

/// All values that somebody watches.
#[derive(Default)]
pub(super) struct Narrowed {
    told: HashMap<Narrow, Told>,
    /// How many of the values are objects, and how many are of each field: of others no event needs a look.
    objects: usize,
    fields: Vec<usize>,
}

impl Narrowed {
    /// One more watcher of a value; `ring` are the events that there are.
    pub(super) fn subscribe<'a>(
        &mut self,
        narrow: &Narrow,
        ring: impl Iterator<Item = &'a Arc<Event>>,
    ) -> watch::Receiver<()> {
        if !self.told.contains_key(narrow) {
            let events = ring.filter(|e| objects_of(e).any(|o| narrow.is_of(o))).cloned().collect();
            self.told.insert(narrow.clone(), Told { events, dropped: 0, bell: watch::Sender::new(()), watchers: 0 });
            *self.count(narrow) += 1;
        }
        let told = self.told.get_mut(narrow).expect("it was there, or was made");
        told.watchers += 1;
        told.bell.subscribe()
    }

    /// One watcher less.
    pub(super) fn leave(&mut self, narrow: &Narrow) {
        let Some(told) = self.told.get_mut(narrow) else { return };
        told.watchers -= 1;
        if told.watchers == 0 {
            self.told.remove(narrow);
            *self.count(narrow) -= 1;
        }
    }

    fn count(&mut self, narrow: &Narrow) -> &mut usize {
        match narrow {
            Narrow::Object { .. } => &mut self.objects,
            Narrow::Field { at, .. } => {
                if self.fields.len() <= *at {
                    self.fields.resize(at + 1, 0);
                }
                &mut self.fields[*at]
            }
        }
    }

    /// Nobody watches values any more: all of them are told to look at everything.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes an event in; `touched` gets the bells to ring, once it can be read.
    pub(super) fn push(&mut self, event: &Arc<Event>, touched: &mut Vec<watch::Sender<()>>) {
        for narrow in self.values_of(event) {
            if let Some(told) = self.told.get_mut(&narrow) {
                told.events.push_back(event.clone());
                touched.push(told.bell.clone());
            }
        }
    }

    /// An event has left the ring.
    pub(super) fn left(&mut self, event: &Arc<Event>) {
        for narrow in self.values_of(event) {
            if let Some(told) = self.told.get_mut(&narrow) {
                told.dropped = event.revision;
                if told.events.front().is_some_and(|first| Arc::ptr_eq(first, event)) {
                    told.events.pop_front();
                }
            }
        }
    }

    /// Events of a value after `since`, whole revisions; an error when some of them are gone. None for a value that is not
    /// watched (any more).
    pub(super) fn read(&self, narrow: &Narrow, since: Revision) -> Option<Result<Vec<Arc<Event>>, ()>> {
        let told = self.told.get(narrow)?;
        if told.dropped > since {
            return Some(Err(()));
        }
        let from = told.events.partition_point(|e| e.revision <= since);
        let mut found: Vec<Arc<Event>> = Vec::new();
        for event in told.events.range(from..) {
            if found.len() >= READ_EVENTS && found.last().is_none_or(|l| l.revision != event.revision) {
                break;
            }
            found.push(event.clone());
        }
        Some(Ok(found))
    }

    /// The values that an event is of, among the kinds of values that are watched.
    fn values_of(&self, event: &Event) -> Vec<Narrow> {
        let mut out = Vec::new();
        if self.objects > 0 {
            let meta = &event.object.meta;
            out.push(Narrow::Object { namespace: meta.namespace.clone(), name: meta.name.clone() });
        }
        for (at, _) in self.fields.iter().enumerate().filter(|(_, count)| **count > 0) {
            for value in objects_of(event).filter_map(|o| o.fields.get(at)) {
                let narrow = Narrow::Field { at, value: value.clone() };
                if !out.contains(&narrow) {
                    out.push(narrow);
                }
            }
        }
        out
    }
}

impl Narrow {
    /// True for an object that it is about.
    pub(super) fn is_of(&self, object: &Object) -> bool {
        match self {
            Self::Object { namespace, name } => *namespace == object.meta.namespace && *name == object.meta.name,
            Self::Field { at, value } => object.fields.get(*at) == Some(value),
        }
    }
}

/// The object as it is, and as it was.
fn objects_of(event: &Event) -> impl Iterator<Item = &Arc<Object>> {
    std::iter::once(&event.object).chain(&event.previous)
}
