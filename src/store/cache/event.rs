//! What happened to an object, and its encodings, made once for all watchers.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::splice_revision;
use crate::api::object::Object;
use crate::store::Revision;

/// What a watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl EventKind {
    /// As in `metav1.WatchEvent.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// Names a form of an event: the plain JSON lines have the first ones, a layer above gives numbers to its own (a Table
/// of one shape, protobuf, another version).
pub type Form = u32;

/// The first form that the layers above may use as they like.
pub const FORM_FREE: Form = 16;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object as it now is; for a deletion its last state, with the revision of the deletion.
    pub object: Arc<Object>,
    /// What stood there before; none for an addition.
    pub previous: Option<Arc<Object>>,
    /// The revision of the change.
    pub revision: Revision,
    encoded: Mutex<Vec<(Form, Bytes)>>,
}

impl Event {
    /// An event with nothing encoded yet.
    pub fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        let revision = object.revision;
        Self { kind, object, previous, revision, encoded: Mutex::new(Vec::new()) }
    }

    /// What a watcher that sees only what `matches` is told: an object that comes into its sight is added, one that
    /// leaves it is deleted. None when it is told nothing.
    pub fn seen_by(&self, matches: impl Fn(&Object) -> bool) -> Option<EventKind> {
        let before = self.previous.as_deref().is_some_and(&matches);
        let now = self.kind != EventKind::Deleted && matches(&self.object);
        match (before, now) {
            (false, true) => Some(EventKind::Added),
            (true, true) => Some(EventKind::Modified),
            (true, false) => Some(EventKind::Deleted),
            (false, false) => None,
        }
    }

    /// The object's JSON as a watcher is told it: for a deletion that only this watcher sees (the object left its
    /// sight) the state before, with the revision of this change.
    pub fn json(&self, kind: EventKind) -> Bytes {
        match (kind, &self.previous) {
            (EventKind::Deleted, Some(previous)) if self.kind != EventKind::Deleted => {
                splice_revision(&previous.json, self.revision).unwrap_or_else(|| previous.json.clone())
            }
            _ => self.object.json.clone(),
        }
    }

    /// The line of a JSON watch, with its end of line.
    pub fn json_line(&self, kind: EventKind) -> Bytes {
        self.encoded(kind as Form, || json_line(kind, &self.json(kind)))
    }

    /// Another form, made by the first who asks for it. `form` also stands for the kind it is told as.
    pub fn encoded(&self, form: Form, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut encoded = self.encoded.lock();
        if let Some((_, bytes)) = encoded.iter().find(|(f, _)| *f == form) {
            return bytes.clone();
        }
        let bytes = make();
        encoded.push((form, bytes.clone()));
        bytes
    }

    /// Drops the encodings; the next who asks makes them again.
    pub(super) fn forget_encodings(&self) {
        *self.encoded.lock() = Vec::new();
    }
}

/// `{"type":"ADDED","object":…}` and an end of line.
pub fn json_line(kind: EventKind, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_str().as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}
