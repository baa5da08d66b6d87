//! One resource in the watch cache: its current objects, its recent events, its watchers.
//!
//! **Invariant:** a list's revision is exact: it holds all changes up to it and none after it.
//! **Invariant:** a watcher is a position (a revision), never a queue; a thousand of them cost a thousand positions.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::event::{Event, EventKind};
use super::follow::Place;
use super::index::Objects;
use super::narrow::{Narrow, Narrowed};
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
    /// What watchers of little are told.
    narrowed: Narrowed,
    /// Those who have to hear of everything.
    followers: Vec<Arc<Place>>,
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
        let state = State::empty(floor);
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

    /// Those of [`Self::list`] that a value is of, without a look at the others.
    pub fn list_narrowly(&self, namespace: Option<&str>, narrow: &Narrow) -> (Vec<Arc<Object>>, Revision) {
        let index = match narrow {
            Narrow::Object { namespace, name } => {
                let (state, revision) = self.read();
                return (state.objects.get(namespace, name).cloned().into_iter().collect(), revision);
            }
            Narrow::Field { at, value } => self.fields.read().get(*at).cloned().map(|field| (field, value)),
        };
        // A field that there is not selects nothing.
        let Some((field, value)) = index else { return (Vec::new(), self.read().1) };
        let fields = self.fields.read();
        if self.state.read().objects.find(&fields, &field, value).is_err() {
            self.state.write().objects.make_index(&fields, &field);
        }
        let (state, revision) = self.read();
        let mut found = state.objects.find(&fields, &field, value).unwrap_or_default();
        found.retain(|o| namespace.is_none_or(|ns| ns == o.meta.namespace));
        (found, revision)
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
        self.watch_from(since, bell, None)
    }

    /// Follows the changes of what is narrowed to, and mostly nothing else: who follows still has to look at each.
    pub fn watch_narrowly(self: &Arc<Self>, since: Since, narrow: Narrow) -> Result<Cursor, Gone> {
        let bell = {
            let mut state = self.state.write();
            let State { ring, narrowed, .. } = &mut *state;
            narrowed.subscribe(&narrow, ring.iter())
        };
        // From here on there is a cursor, or the watcher is told to have left.
        self.watch_from(since, bell, Some(narrow.clone())).inspect_err(|_| self.state.write().narrowed.leave(&narrow))
    }

    /// All objects, in key order, and everything that happens after.
    pub fn follow(self: &Arc<Self>) -> (Vec<Arc<Object>>, Follower) {
        let bell = self.bell.subscribe();
        let mut state = self.state.write();
        let place = Place::new(state.last);
        state.followers.push(place.clone());
        let objects = state.objects.range(None, None).cloned().collect();
        (objects, Follower { resource: self.clone(), place, bell })
    }

    fn watch_from(
        self: &Arc<Self>,
        since: Since,
        bell: watch::Receiver<()>,
        narrow: Option<Narrow>,
    ) -> Result<Cursor, Gone> {
        let (state, revision) = self.read();
        let (seen, initial) = match since {
            Since::Now => (revision, Vec::new()),
            Since::Initial => {
                let all = state.objects.range(None, None);
                (revision, all.filter(|o| narrow.as_ref().is_none_or(|n| n.is_of(o))).cloned().collect::<Vec<_>>())
            }
            Since::Revision(since) if since < state.ring.floor() => {
                return Err(Gone { since, oldest: state.ring.floor() });
            }
            Since::Revision(since) => (since, Vec::new()),
        };
        drop(state);
        Ok(Cursor { resource: self.clone(), seen, initial: initial.into_iter(), bell, narrow })
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
        let mut touched = Vec::new();
        {
            let mut state = self.state.write();
            for change in changes {
                state.apply(change, now, &mut touched);
            }
            state.trim(now);
        }
        self.bell.send_replace(());
        for bell in touched {
            bell.send_replace(());
        }
    }

    /// Sets the state that there is at `floor`: cursors from before it are gone, and followers hear what is different.
    pub(super) fn replace(&self, floor: Revision, objects: Vec<Arc<Object>>) {
        let mut state = self.state.write();
        for place in &state.followers {
            place.replaced(&state.ring, state.objects.range(None, None), objects.iter());
        }
        let followers = std::mem::take(&mut state.followers);
        *state = State { followers, ..State::empty(floor) };
        for object in objects {
            state.objects.put(object);
        }
        drop(state);
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
        // The fields may be others: nobody can be told by their positions.
        state.narrowed.forget();
        *names = fields;
    }

    pub(super) fn trim(&self, now: Instant) {
        self.state.write().trim(now);
    }
}

impl State {
    fn empty(floor: Revision) -> Self {
        let (objects, ring, narrowed) = (Objects::default(), Ring::new(floor), Narrowed::default());
        Self { objects, ring, narrowed, followers: Vec::new(), last: floor }
    }

    fn trim(&mut self, now: Instant) {
        let Self { ring, narrowed, followers, .. } = self;
        ring.trim(now, |event| {
            narrowed.left(event);
            followers.iter().for_each(|place| place.dropped(event));
        });
    }

    fn apply(&mut self, change: Decoded, now: Instant, touched: &mut Vec<watch::Sender<()>>) {
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
        let event = Arc::new(event);
        self.narrowed.push(&event, touched);
        self.ring.push(event, now);
    }
}

/// A watcher's position.
pub struct Cursor {
    resource: Arc<ResourceCache>,
    seen: Revision,
    /// What is left of the initial state.
    initial: std::vec::IntoIter<Arc<Object>>,
    bell: watch::Receiver<()>,
    narrow: Option<Narrow>,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let Some(narrow) = &self.narrow {
            self.resource.state.write().narrowed.leave(narrow);
        }
    }
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
            // The sender of all changes lives as long as the resource, which this cursor holds; that of a value does not.
            if self.bell.changed().await.is_err() {
                self.widen();
            }
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
        let own = self.narrow.as_ref().and_then(|n| state.narrowed.read(n, self.seen));
        let events = match own {
            Some(own) => own.map_err(|()| gone)?,
            None => state.ring.read(self.seen).ok_or(gone)?,
        };
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
        let more = match self.narrow.as_ref().and_then(|n| state.narrowed.read(n, self.seen)) {
            Some(own) => own.map_or(true, |events| !events.is_empty()),
            None => state.ring.has_after(self.seen),
        };
        if !more {
            self.seen = self.seen.max(now);
        }
        self.seen
    }

    /// Looks at all changes from now on.
    fn widen(&mut self) {
        self.bell = self.resource.bell.subscribe();
        self.narrow = None;
    }
}

/// Hears of everything that happens to the objects of a resource; see [`super::follow`].
pub struct Follower {
    resource: Arc<ResourceCache>,
    place: Arc<Place>,
    bell: watch::Receiver<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.resource.state.write().followers.retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl Follower {
    /// What happened, at least one event; waits for it. Of a follower that is far behind, one event for each object.
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Vec<Arc<Event>> {
        loop {
            self.bell.mark_unchanged();
            let events = self.try_next();
            if !events.is_empty() {
                return events;
            }
            // Its sender lives as long as the resource, which this holds.
            let _ = self.bell.changed().await;
        }
    }

    fn try_next(&self) -> Vec<Arc<Event>> {
        let state = self.resource.state.read();
        self.place.read(&state.ring, &state.objects, state.last)
    }
}
