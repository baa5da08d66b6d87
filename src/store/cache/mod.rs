//! The watch cache: the one copy of the state.
//!
//! Changes flow in from the store, in order; gets, lists and watches of the API server, and listers of the same process
//! read from it. Objects in it are immutable and shared, and carry the JSON that clients get.
//!
//! **Invariant:** an object is visible here only after its write is durable.
//! **Invariant:** `revision()` is a whole commit's, and everything up to it has been applied to every resource.
//! **Invariant:** what the store holds under [`OBJECTS`] is here, also when no row knows its kind.

mod event;
mod follow;
mod index;
mod key;
mod narrow;
mod resource;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use event::{Event, EventKind, FORM_FREE, Form, json_line};
pub use index::OWNER_INDEX;
pub use key::{OBJECTS, object_key};
pub use narrow::Narrow;
pub use resource::{Cursor, Figures, Follower, Gone, Page, ResourceCache, Since};
pub use ring::{RING_AGE, RING_BYTES};

use self::key::ObjectPath;
use self::resource::Decoded;
use super::{Change, Entry, Revision, Store, StoreError};
use crate::api::meta::{GroupResource, Gvk, gvk};
use crate::api::object::Object;
use crate::api::scan;
use crate::util::tasks::Shutdown;

/// How often old events are looked for on a quiet resource.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// Makes objects of the store's bytes; the registry gives it, because it knows the kinds.
pub trait Decode: Send + Sync {
    /// An object from its JSON, which already has its resourceVersion. The error says what is wrong with the text.
    fn decode(&self, resource: &GroupResource, json: Bytes, revision: Revision) -> Result<Object, String>;
    /// Names of the resource's selectable fields, in the order of `Object::fields`; none for an unknown one.
    fn fields(&self, resource: &GroupResource) -> Vec<String>;
}

/// Decodes any object by what it says of itself: metadata and nothing else.
#[derive(Default)]
pub struct Generic {
    kinds: Mutex<Vec<Arc<Gvk>>>,
}

/// Kinds of unknown resources that share their names in memory; more of them are decoded all the same.
const GENERIC_KINDS: usize = 1024;

impl Generic {
    fn gvk(&self, json: &[u8]) -> Arc<Gvk> {
        let text = scan::fields(json, &["/apiVersion", "/kind"]);
        let (group, version) = gvk::split(&text[0]);
        let mut kinds = self.kinds.lock();
        let known = kinds.iter().find(|k| k.kind == text[1] && k.group == group && k.version == version);
        if let Some(known) = known {
            return known.clone();
        }
        let owned = |t: &str| t.to_owned().into();
        let made = Arc::new(Gvk { group: owned(group), version: owned(version), kind: owned(&text[1]) });
        if kinds.len() < GENERIC_KINDS {
            kinds.push(made.clone());
        }
        made
    }
}

impl Decode for Generic {
    fn decode(&self, _: &GroupResource, json: Bytes, revision: Revision) -> Result<Object, String> {
        Object::from_json(self.gvk(&json), json, revision, &[])
    }

    fn fields(&self, _: &GroupResource) -> Vec<String> {
        Vec::new()
    }
}

/// The objects of one resource.
type Loaded = (GroupResource, Vec<Arc<Object>>);

/// How far the cache is.
struct Progress(watch::Sender<State>);

#[derive(Clone, Copy)]
struct State {
    revision: Revision,
    stopped: bool,
}

impl Progress {
    fn revision(&self) -> Revision {
        self.0.borrow().revision
    }
}

/// The watch cache over a store.
pub struct Cache {
    store: Arc<dyn Store>,
    decode: Arc<dyn Decode>,
    /// By `group/resource` as in keys.
    resources: RwLock<HashMap<Box<[u8]>, Arc<ResourceCache>>>,
    /// Events before this revision were never here.
    origin: RwLock<Revision>,
    progress: Arc<Progress>,
}

impl Cache {
    /// Loads the present state. The caller then runs [`Cache::run`].
    pub async fn open(store: Arc<dyn Store>, decode: Arc<dyn Decode>) -> Result<Arc<Self>, StoreError> {
        let progress = Arc::new(Progress(watch::Sender::new(State { revision: 0, stopped: false })));
        let cache = Self { store, decode, resources: RwLock::default(), origin: RwLock::new(0), progress };
        cache.load().await?;
        Ok(Arc::new(cache))
    }

    /// The store below, for writes.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Everything up to this revision has been applied.
    pub fn revision(&self) -> Revision {
        self.progress.revision()
    }

    /// Waits until a revision has been applied: who waits for the revision of a commit reads its own write. Fails when
    /// the cache stopped before.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), StoreError> {
        let mut progress = self.progress.0.subscribe();
        match progress.wait_for(|p| p.stopped || p.revision >= revision).await.map(|p| p.revision) {
            Ok(reached) if reached >= revision => Ok(()),
            _ => Err(StoreError::Failed(format!("the watch cache stopped before revision {revision}"))),
        }
    }

    /// The cache of a resource; one without objects is empty.
    pub fn resource(&self, resource: &GroupResource) -> Arc<ResourceCache> {
        self.by_path(&key::resource_path(&resource.group, &resource.resource), || resource.clone())
    }

    /// The same by the names of group and resource.
    pub fn resource_of(&self, group: &str, resource: &str) -> Arc<ResourceCache> {
        let named = || GroupResource { group: group.to_owned().into(), resource: resource.to_owned().into() };
        self.by_path(&key::resource_path(group, resource), named)
    }

    /// All resources that were asked for or have objects.
    pub fn resources(&self) -> Vec<Arc<ResourceCache>> {
        self.resources.read().values().cloned().collect()
    }

    /// Decodes the objects of a resource again, from what is stored: its row appeared or changed (a
    /// CustomResourceDefinition). What is written meanwhile is decoded by the new row anyway.
    pub async fn reload(&self, resource: &GroupResource) -> Result<(), StoreError> {
        let fields = self.decode.fields(resource);
        let cache = self.resource(resource);
        let mut stored = HashMap::new();
        if cache.count() > 0 {
            let prefix = key::prefix(resource);
            let snapshot = self.store.snapshot(&prefix).await?;
            for Entry { key, value, revision } in snapshot.entries {
                if let Some(object) = ObjectPath::parse(&key).and_then(|p| self.decode(resource, &p, &value, revision))
                {
                    stored.insert((object.meta.namespace.to_string(), object.meta.name.to_string()), object);
                }
            }
        }
        cache.redecode(fields, |old| {
            let key = (old.meta.namespace.to_string(), old.meta.name.to_string());
            match stored.remove(&key).filter(|o| o.revision == old.revision) {
                Some(object) => Some(object),
                None => self.decode.decode(resource, old.json.clone(), old.revision).ok().map(Arc::new),
            }
        });
        Ok(())
    }

    /// Applies the store's changes until the shutdown, or until the store is closed. One task runs this.
    pub async fn run(&self, shutdown: Shutdown) -> Result<(), StoreError> {
        let end = shutdown.or(self.follow()).await.unwrap_or(Ok(()));
        self.progress.0.send_modify(|p| p.stopped = true);
        end
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let mut trim = tokio::time::interval(TRIM_EVERY);
        loop {
            let mut changes = self.store.changes(self.revision());
            loop {
                tokio::select! {
                    next = changes.next() => match next {
                        None => return Ok(()),
                        Some(Ok(batch)) => self.apply(&batch),
                        Some(Err(StoreError::Compacted { since, oldest })) => {
                            tracing::warn!(since, oldest, "the watch cache fell behind the store; loading it again");
                            break;
                        }
                        Some(Err(error)) => return Err(error),
                    },
                    _ = trim.tick() => {
                        let now = Instant::now();
                        self.resources().iter().for_each(|r| r.trim(now));
                    }
                }
            }
            drop(changes);
            self.load().await?;
        }
    }

    /// Takes the store's state as it is. Cursors from before it are gone.
    async fn load(&self) -> Result<(), StoreError> {
        let snapshot = self.store.snapshot(OBJECTS.as_bytes()).await?;
        let mut loaded: HashMap<Box<[u8]>, Loaded> = HashMap::new();
        for Entry { key, value, revision } in snapshot.entries {
            let Some(path) = ObjectPath::parse(&key) else {
                tracing::warn!(key = %String::from_utf8_lossy(&key), "not an object's key; left alone");
                continue;
            };
            let place = path.resource_path(&key);
            if !loaded.contains_key(place) {
                loaded.insert(place.into(), (path.group_resource(), Vec::new()));
            }
            let (resource, objects) = loaded.get_mut(place).expect("inserted above");
            objects.extend(self.decode(resource, &path, &value, revision));
        }
        *self.origin.write() = snapshot.revision;
        for cache in self.resources() {
            let resource = cache.group_resource();
            let place = key::resource_path(&resource.group, &resource.resource);
            cache.replace(snapshot.revision, loaded.remove(&place[..]).map_or_else(Vec::new, |(_, objects)| objects));
        }
        for (place, (resource, objects)) in loaded {
            self.by_path(&place, || resource).replace(snapshot.revision, objects);
        }
        self.progress.0.send_modify(|p| p.revision = snapshot.revision);
        Ok(())
    }

    /// Applies whole commits.
    fn apply(&self, batch: &[Change]) {
        let Some(revision) = batch.last().map(|c| c.revision) else { return };
        let mut parts: Vec<(Arc<ResourceCache>, Vec<Decoded>)> = Vec::new();
        for change in batch {
            let Some(path) = ObjectPath::parse(&change.key) else { continue };
            let cache = self.by_path(path.resource_path(&change.key), || path.group_resource());
            let object = match &change.value {
                None => None,
                Some(value) => match self.decode(cache.group_resource(), &path, value, change.revision) {
                    None => continue,
                    some => some,
                },
            };
            let (namespace, name) = (path.namespace.to_owned(), path.name.to_owned());
            let decoded = Decoded { namespace, name, revision: change.revision, object };
            match parts.iter_mut().find(|(c, _)| Arc::ptr_eq(c, &cache)) {
                Some((_, part)) => part.push(decoded),
                None => parts.push((cache, vec![decoded])),
            }
        }
        let now = Instant::now();
        for (cache, part) in parts {
            cache.apply(part, now);
        }
        self.progress.0.send_modify(|p| p.revision = revision);
    }

    fn by_path(&self, place: &[u8], resource: impl FnOnce() -> GroupResource) -> Arc<ResourceCache> {
        if let Some(cache) = self.resources.read().get(place) {
            return cache.clone();
        }
        let mut resources = self.resources.write();
        let origin = *self.origin.read();
        let make = || {
            let resource = resource();
            let fields = self.decode.fields(&resource);
            Arc::new(ResourceCache::new(resource, fields, origin, self.progress.clone()))
        };
        resources.entry(place.into()).or_insert_with(make).clone()
    }

    /// None, and a line in the log, for what is no object.
    fn decode(
        &self,
        resource: &GroupResource,
        path: &ObjectPath<'_>,
        value: &Bytes,
        revision: Revision,
    ) -> Option<Arc<Object>> {
        let json = splice_revision(value, revision).ok_or_else(|| "it has no metadata".to_owned());
        let object = json.and_then(|json| self.decode.decode(resource, json, revision)).and_then(|o| {
            match o.meta.namespace == path.namespace && o.meta.name == path.name {
                true => Ok(o),
                false => Err(format!("it says it is {}/{}", o.meta.namespace, o.meta.name)),
            }
        });
        match object {
            Ok(object) => Some(Arc::new(object)),
            Err(why) => {
                let (namespace, name) = (path.namespace, path.name);
                tracing::error!(%resource, namespace, name, revision, "cannot decode a stored object: {why}");
                None
            }
        }
    }
}

/// The object's JSON with `metadata.resourceVersion` set to `revision`: in the place of a present one, else after the
/// uid, where upstream writes it, else first. None when there is no `metadata` object. One copy, one short scan: nothing
/// behind the member that follows the uid is looked at, because all that is stored has its resourceVersion there, or
/// none.
pub fn splice_revision(json: &[u8], revision: Revision) -> Option<Bytes> {
    let metadata = scan::find(json, 0, "metadata").filter(|at| json.get(*at) == Some(&b'{'))?;
    let (mut after_uid, mut present, mut empty) = (None, None, true);
    for m in scan::members(json, metadata) {
        empty = false;
        match &json[m.name] {
            b"uid" => after_uid = Some(m.value.end),
            b"resourceVersion" => {
                present = Some(m.value);
                break;
            }
            _ if after_uid.is_some() => break,
            _ => {}
        }
    }
    let quoted = format!("\"{revision}\"");
    let (from, to, text) = match (present, after_uid) {
        (Some(old), _) => (old.start, old.end, quoted),
        (None, Some(at)) => (at, at, format!(",\"resourceVersion\":{quoted}")),
        (None, None) => {
            let comma = if empty { "" } else { "," };
            (metadata + 1, metadata + 1, format!("\"resourceVersion\":{quoted}{comma}"))
        }
    };
    let mut out = Vec::with_capacity(json.len() - (to - from) + text.len());
    out.extend_from_slice(&json[..from]);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&json[to..]);
    Some(out.into())
}
