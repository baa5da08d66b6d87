//! One resource in the watch cache: its current objects, its recent events, its watchers.
//!
//! **Invariant:** a list's revision is exact: it holds all changes up to it and none after it.
//! **Invariant:** a watcher is a position (a revision), never a queue; a thousand of them cost a thousand positions.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::event::{Event, EventKind};
use super::index::Objects;
use super::ring::Ring;
use super::{Progress, splice_revision};
use crate::api::meta::GroupResource;
use crate::api::object::Object;
use crate::store::Revision;

/// Objects that a cursor delivers at once from the initial state.
const INITIAL_BATCH: usize = 256;

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Changes from now on.
    Now,
    /// Changes after a revision. One that is still to come is waited for.
    Revision(Revision),
    /// The current objects as additions, then changes.
    Initial,
}

/// The changes asked for are not kept any more: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes since revision {since} are gone; the oldest to start from is {oldest}")]
pub struct Gone {
    /// Asked for.
    pub since: Revision,
    /// The oldest revision to start from.
    pub oldest: Revision,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects, in key order.
    pub objects: Vec<Arc<Object>>,
    /// The revision the page is of.
    pub revision: Revision,
    /// How many follow.
    pub remaining: usize,
}

/// What a resource holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Current objects.
    pub objects: usize,
    /// Their JSON, bytes.
    pub object_bytes: usize,
    /// What recent events keep beyond the current objects, bytes.
    pub event_bytes: usize,
}

/// The objects of one resource.
pub struct ResourceCache {
    resource: GroupResource,
    /// Names of the selectable fields, in the order of `Object::fields`.
    fields: RwLock<Vec<String>>,
    state: RwLock<State>,
    /// Rings after each change of this resource.
    bell: watch::Sender<()>,
    progress: Arc<Progress>,
}

struct State {
    objects: Objects,
    ring: Ring,
    /// Revision of the newest change applied here.
    last: Revision,
}

/// A change with its object decoded outside of the lock.
pub(super) struct Decoded {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) revision: Revision,
    /// None for a deletion.
    pub(super) object: Option<Arc<Object>>,
}

impl ResourceCache {
    pub(super) fn new(resource: GroupResource, fields: Vec<String>, floor: Revision, progress: Arc<Progress>) -> Self {
        let state = State { objects: Objects::default(), ring: Ring::new(floor), last: floor };
        Self {
            resource,
            fields: RwLock::new(fields),
            state: RwLock::new(state),
            bell: watch::Sender::new(()),
            progress,
        }
    }

    /// Group and plural name.
    pub fn group_resource(&self) -> &GroupResource {
        &self.resource
    }

    /// One object; `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(namespace, name).cloned()
    }

    /// All objects (of a namespace) in key order, and the revision they are of.
    pub fn list(&self, namespace: Option<&str>) -> (Vec<Arc<Object>>, Revision) {
        let (state, revision) = self.read();
        (state.objects.range(namespace, None).cloned().collect(), revision)
    }

    /// At most `limit` objects (of a namespace) that come after a key (namespace, name).
    pub fn page(&self, namespace: Option<&str>, after: Option<(&str, &str)>, limit: usize) -> Page {
        let (state, revision) = self.read();
        let mut rest = state.objects.range(namespace, after);
        let objects: Vec<_> = rest.by_ref().take(limit).cloned().collect();
        Page { objects, revision, remaining: rest.count() }
    }

    /// Those that an index has under a value, in key order. Indexes: each selectable field by its name, and
    /// [`super::OWNER_INDEX`].
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>> {
        let fields = self.fields.read();
        if let Ok(found) = self.state.read().objects.find(&fields, index, value) {
            return found;
        }
        let mut state = self.state.write();
        state.objects.make_index(&fields, index);
        state.objects.find(&fields, index, value).unwrap_or_default()
    }

    /// What an object of this resource has in a selectable field; "" where it has none, or there is no such field.
    pub fn field<'o>(&self, object: &'o Object, field: &str) -> &'o str {
        let at = self.fields.read().iter().position(|name| name == field);
        at.and_then(|i| object.fields.get(i)).map_or("", |text| text)
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.state.read().objects.len()
    }

    /// What is held in memory.
    pub fn figures(&self) -> Figures {
        let state = self.state.read();
        Figures { objects: state.objects.len(), object_bytes: state.objects.bytes(), event_bytes: state.ring.bytes() }
    }

    /// Follows the changes.
    pub fn watch(self: &Arc<Self>, since: Since) -> Result<Cursor, Gone> {
        let bell = self.bell.subscribe();
        let (state, revision) = self.read();
        let (seen, initial) = match since {
            Since::Now => (revision, Vec::new()),
            Since::Initial => (revision, state.objects.range(None, None).cloned().collect()),
            Since::Revision(since) if since < state.ring.floor() => {
                return Err(Gone { since, oldest: state.ring.floor() });
            }
            Since::Revision(since) => (since, Vec::new()),
        };
        drop(state);
        Ok(Cursor { resource: self.clone(), seen, initial: initial.into_iter(), bell })
    }

    /// The state and the revision it is of. The order matters: what was applied everywhere when the progress was read
    /// is in the state that is locked after it.
    fn read(&self) -> (parking_lot::RwLockReadGuard<'_, State>, Revision) {
        let everywhere = self.progress.revision();
        let state = self.state.read();
        let revision = everywhere.max(state.last);
        (state, revision)
    }

    /// Applies changes, in order, and tells the watchers.
    pub(super) fn apply(&self, changes: Vec<Decoded>, now: Instant) {
        {
            let mut state = self.state.write();
            for change in changes {
                state.apply(change, now);
            }
            state.ring.trim(now);
        }
        self.bell.send_replace(());
    }

    /// Sets the initial state: no events.
    pub(super) fn load(&self, objects: impl IntoIterator<Item = Arc<Object>>) {
        let mut state = self.state.write();
        for object in objects {
            state.objects.put(object);
        }
    }

    /// Forgets everything: cursors from before `floor` are gone.
    pub(super) fn reset(&self, floor: Revision) {
        *self.state.write() = State { objects: Objects::default(), ring: Ring::new(floor), last: floor };
        self.bell.send_replace(());
    }

    /// Decodes all objects again, because the kind's selectable fields are others now.
    pub(super) fn redecode(&self, fields: Vec<String>, mut decode: impl FnMut(&Object) -> Option<Arc<Object>>) {
        let mut names = self.fields.write();
        let mut state = self.state.write();
        let mut objects = Objects::default();
        for old in state.objects.range(None, None) {
            objects.put(decode(old).unwrap_or_else(|| old.clone()));
        }
        state.objects = objects;
        *names = fields;
    }

    pub(super) fn trim(&self, now: Instant) {
        self.state.write().ring.trim(now);
    }
}

impl State {
    fn apply(&mut self, change: Decoded, now: Instant) {
        self.last = change.revision;
        let event = match change.object {
            Some(object) => match self.objects.put(object.clone()) {
                None => Event::new(EventKind::Added, object, None),
                Some(old) => Event::new(EventKind::Modified, object, Some(old)),
            },
            None => {
                let Some(old) = self.objects.remove(&change.namespace, &change.name) else { return };
                let json = splice_revision(&old.json, change.revision).unwrap_or_else(|| old.json.clone());
                let last = Object { json, revision: change.revision, ..(*old).clone() };
                Event::new(EventKind::Deleted, Arc::new(last), Some(old))
            }
        };
        self.ring.push(Arc::new(event), now);
    }
}

/// A watcher's position.
pub struct Cursor {
    resource: Arc<ResourceCache>,
    seen: Revision,
    /// What is left of the initial state.
    initial: std::vec::IntoIter<Arc<Object>>,
    bell: watch::Receiver<()>,
}

impl Cursor {
    /// The next events, at least one, whole revisions; waits for them. Additions from the initial state come first.
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Result<Vec<Arc<Event>>, Gone> {
        loop {
            self.bell.mark_unchanged();
            let events = self.try_next()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives as long as the resource, which this cursor holds.
            let _ = self.bell.changed().await;
        }
    }

    /// The next events, if there are any now.
    pub fn try_next(&mut self) -> Result<Vec<Arc<Event>>, Gone> {
        if !self.synced() {
            let batch = self.initial.by_ref().take(INITIAL_BATCH);
            return Ok(batch.map(|o| Arc::new(Event::new(EventKind::Added, o, None))).collect());
        }
        let state = self.resource.state.read();
        let gone = Gone { since: self.seen, oldest: state.ring.floor() };
        let events = state.ring.read(self.seen).ok_or(gone)?;
        self.seen = events.last().map_or(self.seen, |e| e.revision);
        Ok(events)
    }

    /// True when the initial state has been delivered.
    pub fn synced(&self) -> bool {
        self.initial.len() == 0
    }

    /// Everything up to this revision has been delivered (of the initial state: once `synced`). It advances also when
    /// other resources change, for bookmarks.
    pub fn revision(&mut self) -> Revision {
        let (state, now) = self.resource.read();
        if !state.ring.has_after(self.seen) {
            self.seen = self.seen.max(now);
        }
        self.seen
    }
}
