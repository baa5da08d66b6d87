//! Objects of one resource in memory, with indexes and followers: the state behind remote informers and fakes.
//!
//! In: upserts, deletions, whole replacements. Out: [`Lister`].
//! **Invariant:** a follower's queue holds at most one entry an object, so a slow one costs no more than the state itself.
//! **Invariant:** a change is visible to `get` before any follower hears of it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::lister::{Delta, Lister};
use crate::api::object::{Object, ObjectKey};

/// Name and JSON pointer of an indexed field, as `("spec.nodeName", "/spec/nodeName")`.
pub type IndexedField = (&'static str, &'static str);

/// The objects of one resource.
#[derive(Debug)]
pub struct Objects {
    fields: &'static [IndexedField],
    state: RwLock<State>,
    told: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    map: BTreeMap<ObjectKey, Arc<Object>>,
    owners: HashMap<String, BTreeSet<ObjectKey>>,
    by_field: Vec<HashMap<Box<str>, BTreeSet<ObjectKey>>>,
    synced: bool,
    closed: bool,
    followers: Vec<Weak<Follower>>,
}

/// One reader of deltas.
#[derive(Debug, Default)]
struct Follower {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Turn>,
    pending: HashMap<ObjectKey, Pending>,
    closed: bool,
}

#[derive(Debug)]
enum Turn {
    Object(ObjectKey),
    Synced,
}

/// What happened to an object since the follower last heard of it.
#[derive(Debug, Default)]
struct Pending {
    old: Option<Arc<Object>>,
    /// The last state of an incarnation that went away.
    gone: Option<Arc<Object>>,
    now: Option<Arc<Object>>,
}

impl Objects {
    /// Empty and not synced. `fields` are indexed beside the owners.
    pub fn new(fields: &'static [IndexedField]) -> Arc<Self> {
        let state = State { by_field: vec![HashMap::new(); fields.len()], ..State::default() };
        Arc::new(Self { fields, state: RwLock::new(state), told: watch::Sender::new(false) })
    }

    /// The pointers to give to [`Object::from_value`].
    pub fn pointers(&self) -> Vec<&'static str> {
        self.fields.iter().map(|(_, pointer)| *pointer).collect()
    }

    /// Creates or replaces one object.
    pub fn upsert(&self, object: Arc<Object>) {
        self.state.write().upsert(object);
    }

    /// Removes one object.
    pub fn delete(&self, key: &ObjectKey) {
        self.state.write().delete(key, None);
    }

    /// Removes one object whose last state is known better than what stands here.
    pub fn delete_at(&self, last: Arc<Object>) {
        self.state.write().delete(&ObjectKey::from(&last.meta), Some(last));
    }

    /// Makes `all` the whole state: what is missing is deleted, what is at the same revision stays quiet. Then synced.
    pub fn replace(&self, all: Vec<Arc<Object>>) {
        let mut state = self.state.write();
        let keep: BTreeSet<ObjectKey> = all.iter().map(|o| ObjectKey::from(&o.meta)).collect();
        let gone: Vec<ObjectKey> = state.map.keys().filter(|k| !keep.contains(k)).cloned().collect();
        for key in gone {
            state.delete(&key, None);
        }
        for object in all {
            let known = state.map.get(&ObjectKey::from(&object.meta));
            if known.is_none_or(|k| k.revision != object.revision || object.revision == 0) {
                state.upsert(object);
            }
        }
        state.sync();
        drop(state);
        self.told.send_replace(true);
    }

    /// Shows objects of another source until the truth is told; one that is here in a later state stays.
    pub fn preload(&self, all: Vec<Arc<Object>>) {
        let mut state = self.state.write();
        for object in all {
            let known = state.map.get(&ObjectKey::from(&object.meta));
            if known.is_none_or(|k| k.revision < object.revision) {
                state.upsert(object);
            }
        }
    }

    /// Becomes true with the first [`Objects::replace`]: what was preloaded is not the truth.
    pub fn told(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }

    /// Says that the first full state is there.
    pub fn set_synced(&self) {
        self.state.write().sync();
    }

    /// Ends all followers.
    pub fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.each_follower(|q| q.closed = true);
    }
}

impl State {
    fn upsert(&mut self, object: Arc<Object>) {
        let key = ObjectKey::from(&object.meta);
        let old = self.map.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        for owner in &object.meta.owners {
            self.owners.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        for (index, value) in self.by_field.iter_mut().zip(&object.fields) {
            index.entry(value.clone()).or_default().insert(key.clone());
        }
        self.each_follower(|q| q.upsert(&key, old.as_ref(), &object));
    }

    fn delete(&mut self, key: &ObjectKey, last: Option<Arc<Object>>) {
        let Some(old) = self.map.remove(key) else { return };
        self.unindex(key, &old);
        let last = last.unwrap_or(old);
        self.each_follower(|q| q.delete(key, &last));
    }

    fn unindex(&mut self, key: &ObjectKey, object: &Object) {
        let owners = object.meta.owners.iter().map(|o| o.uid.clone());
        for uid in owners {
            remove_from(&mut self.owners, uid, key);
        }
        for (index, value) in self.by_field.iter_mut().zip(&object.fields) {
            remove_from(index, value.clone(), key);
        }
    }

    fn sync(&mut self) {
        if !std::mem::replace(&mut self.synced, true) {
            self.each_follower(|q| q.order.push_back(Turn::Synced));
        }
    }

    fn each_follower(&mut self, mut change: impl FnMut(&mut Queue)) {
        self.followers.retain(|weak| {
            let Some(follower) = weak.upgrade() else { return false };
            change(&mut follower.queue.lock());
            follower.wake.notify_one();
            true
        });
    }

    fn found(&self, keys: Option<&BTreeSet<ObjectKey>>) -> Vec<Arc<Object>> {
        keys.into_iter().flatten().filter_map(|k| self.map.get(k).cloned()).collect()
    }
}

fn remove_from<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<ObjectKey>>, value: K, key: &ObjectKey) {
    if let Entry::Occupied(mut entry) = index.entry(value) {
        entry.get_mut().remove(key);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

impl Queue {
    fn entry(&mut self, key: &ObjectKey) -> &mut Pending {
        if !self.pending.contains_key(key) {
            self.order.push_back(Turn::Object(key.clone()));
        }
        self.pending.entry(key.clone()).or_default()
    }

    fn upsert(&mut self, key: &ObjectKey, old: Option<&Arc<Object>>, new: &Arc<Object>) {
        let known = self.pending.contains_key(key);
        let pending = self.entry(key);
        if !known {
            pending.old = old.cloned();
        }
        pending.now = Some(new.clone());
    }

    fn delete(&mut self, key: &ObjectKey, last: &Arc<Object>) {
        let pending = self.entry(key);
        pending.now = None;
        pending.gone = Some(last.clone());
    }

    /// The next deltas to deliver; a deletion and a new incarnation come as two.
    fn pop(&mut self) -> Option<(Delta, Option<Delta>)> {
        let key = match self.order.pop_front()? {
            Turn::Synced => return Some((Delta::Synced, None)),
            Turn::Object(key) => key,
        };
        let Pending { old, gone, now } = self.pending.remove(&key)?;
        match (gone, now) {
            (Some(gone), Some(new)) => Some((Delta::Delete(gone), Some(Delta::Upsert { old: None, new }))),
            (None, Some(new)) => Some((Delta::Upsert { old, new }, None)),
            (Some(gone), None) => Some((Delta::Delete(gone), None)),
            (None, None) => self.pop(),
        }
    }
}

impl Lister for Objects {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().map.get(&ObjectKey::new(namespace, name)).cloned()
    }

    fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let state = self.state.read();
        match namespace {
            None => state.map.values().cloned().collect(),
            Some(ns) => {
                let from = ObjectKey::new(ns, "");
                state.map.range(from..).take_while(|(k, _)| k.namespace == ns).map(|(_, o)| o.clone()).collect()
            }
        }
    }

    fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>> {
        let state = self.state.read();
        if index == "owner" {
            return state.found(state.owners.get(value));
        }
        let at = self.fields.iter().position(|(name, _)| *name == index);
        state.found(at.and_then(|i| state.by_field[i].get(value)))
    }

    fn field<'o>(&self, object: &'o Object, index: &str) -> &'o str {
        let at = self.fields.iter().position(|(name, _)| *name == index);
        at.and_then(|i| object.fields.get(i)).map_or("", |text| text)
    }

    fn deltas(&self) -> BoxStream<'static, Delta> {
        let follower = Arc::new(Follower::default());
        {
            let mut state = self.state.write();
            let mut queue = follower.queue.lock();
            for (key, object) in &state.map {
                queue.upsert(key, None, object);
            }
            if state.synced {
                queue.order.push_back(Turn::Synced);
            }
            queue.closed = state.closed;
            drop(queue);
            state.followers.push(Arc::downgrade(&follower));
        }
        stream::unfold((follower, None), |(follower, second)| async move {
            if let Some(delta) = second {
                return Some((delta, (follower, None)));
            }
            loop {
                {
                    let mut queue = follower.queue.lock();
                    if let Some((delta, second)) = queue.pop() {
                        drop(queue);
                        return Some((delta, (follower, second)));
                    }
                    if queue.closed {
                        return None;
                    }
                }
                follower.wake.notified().await;
            }
        })
        .boxed()
    }

    fn synced(&self) -> bool {
        self.state.read().synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FIELDS: &[IndexedField] = &[("spec.nodeName", "/spec/nodeName")];

    fn pod(name: &str, uid: &str, node: &str, revision: u32) -> Arc<Object> {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node}, "metadata": {
            "name": name, "namespace": "n", "uid": uid, "resourceVersion": revision.to_string(),
            "ownerReferences": [{"uid": "rs", "kind": "ReplicaSet", "name": "r"}]}});
        Arc::new(Object::from_value(&value, &["/spec/nodeName"]))
    }

    async fn next(stream: &mut BoxStream<'static, Delta>) -> String {
        match stream.next().await {
            Some(Delta::Upsert { old, new }) => {
                format!("{}>{}@{}", old.map_or(0, |o| o.revision), new.meta.name, new.revision)
            }
            Some(Delta::Delete(o)) => format!("-{}@{}", o.meta.name, o.revision),
            Some(Delta::Synced) => "synced".into(),
            None => "end".into(),
        }
    }

    #[test]
    fn indexes_follow_the_objects() {
        let objects = Objects::new(FIELDS);
        objects.upsert(pod("a", "1", "", 1));
        objects.upsert(pod("a", "1", "x", 2));
        objects.upsert(pod("b", "2", "x", 3));
        assert_eq!(objects.by_index("spec.nodeName", "x").len(), 2);
        assert_eq!(objects.by_index("spec.nodeName", "").len(), 0);
        assert_eq!(objects.by_index("owner", "rs").len(), 2);
        objects.delete(&ObjectKey::new("n", "a"));
        assert_eq!(objects.by_index("owner", "rs").len(), 1);
        assert_eq!(objects.list(Some("n")).len(), 1);
        assert_eq!(objects.list(Some("m")).len(), 0);
    }

    #[tokio::test]
    async fn followers_hear_state_then_synced_then_merged_changes() {
        let objects = Objects::new(FIELDS);
        objects.upsert(pod("a", "1", "", 1));
        let mut deltas = objects.deltas();
        assert_eq!(next(&mut deltas).await, "0>a@1");
        objects.set_synced();
        assert_eq!(next(&mut deltas).await, "synced");
        objects.upsert(pod("a", "1", "", 2));
        objects.upsert(pod("a", "1", "", 3));
        assert_eq!(next(&mut deltas).await, "1>a@3", "a slow reader skips what was in between");
        objects.upsert(pod("a", "1", "", 4));
        objects.delete(&ObjectKey::new("n", "a"));
        objects.upsert(pod("a", "2", "", 6));
        assert_eq!(next(&mut deltas).await, "-a@4", "a new incarnation does not hide the end of the old one");
        assert_eq!(next(&mut deltas).await, "0>a@6");
        objects.close();
        assert_eq!(next(&mut deltas).await, "end");
    }

    #[tokio::test]
    async fn what_was_preloaded_gives_way_to_the_truth() {
        let objects = Objects::new(FIELDS);
        objects.preload(vec![pod("a", "1", "", 3), pod("b", "2", "", 2)]);
        objects.preload(vec![pod("a", "1", "", 1)]);
        objects.set_synced();
        let (mut deltas, told) = (objects.deltas(), objects.told());
        for want in ["0>a@3", "0>b@2", "synced"] {
            assert_eq!(next(&mut deltas).await, want);
        }
        assert!(!*told.borrow());
        objects.replace(vec![pod("a", "1", "", 3), pod("b", "2", "", 4)]);
        assert!(*told.borrow());
        assert_eq!(next(&mut deltas).await, "2>b@4");
    }

    #[tokio::test]
    async fn a_replacement_tells_only_differences() {
        let objects = Objects::new(FIELDS);
        objects.replace(vec![pod("a", "1", "", 1), pod("b", "2", "", 2)]);
        let mut deltas = objects.deltas();
        for want in ["0>a@1", "0>b@2", "synced"] {
            assert_eq!(next(&mut deltas).await, want);
        }
        objects.replace(vec![pod("b", "2", "", 2), pod("c", "3", "", 3)]);
        assert_eq!(next(&mut deltas).await, "-a@1");
        assert_eq!(next(&mut deltas).await, "0>c@3");
    }
}
