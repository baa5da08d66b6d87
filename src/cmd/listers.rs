//! The watch cache as the components of the same process see it: `runtime::Listers` without a copy.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::api::meta::GroupResource;
use crate::api::object::{Object, ObjectKey};
use crate::runtime::{Delta, Lister, Listers};
use crate::store::cache::{Cache, Cursor, EventKind, ResourceCache, Since};

/// Listers over the watch cache.
pub struct CacheListers(pub Arc<Cache>);

impl Listers for CacheListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        let gr = GroupResource { group: group.to_owned().into(), resource: resource.to_owned().into() };
        Arc::new(CacheLister(self.0.resource(&gr)))
    }
}

struct CacheLister(Arc<ResourceCache>);

impl Lister for CacheLister {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(namespace, name)
    }

    fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.0.list(namespace).0
    }

    fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>> {
        self.0.by_index(index, value)
    }

    fn deltas(&self) -> BoxStream<'static, Delta> {
        let state = Follower {
            resource: self.0.clone(),
            cursor: None,
            known: BTreeMap::new(),
            ready: VecDeque::new(),
            synced: false,
        };
        futures::stream::unfold(state, |mut s| async move {
            let delta = s.next().await;
            Some((delta, s))
        })
        .boxed()
    }

    fn synced(&self) -> bool {
        // The cache was loaded before anybody got a lister.
        true
    }
}

/// One subscriber's way along the ring. When it falls off, it compares what it knew with what is there.
struct Follower {
    resource: Arc<ResourceCache>,
    cursor: Option<Cursor>,
    known: BTreeMap<ObjectKey, Arc<Object>>,
    ready: VecDeque<Delta>,
    synced: bool,
}

impl Follower {
    async fn next(&mut self) -> Delta {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return delta;
            }
            let Some(cursor) = &mut self.cursor else {
                self.relist();
                continue;
            };
            match cursor.next_batch().await {
                Ok(events) => {
                    for event in events {
                        let key = ObjectKey::from(&event.object.meta);
                        if event.kind == EventKind::Deleted {
                            self.known.remove(&key);
                            self.ready.push_back(Delta::Delete(event.object.clone()));
                        } else {
                            let old = self.known.insert(key, event.object.clone());
                            self.ready.push_back(Delta::Upsert { old, new: event.object.clone() });
                        }
                    }
                }
                Err(_) => self.cursor = None,
            }
        }
    }

    /// Takes the present state: what is new, what changed, what is gone.
    fn relist(&mut self) {
        let (objects, revision) = self.resource.list(None);
        let Ok(cursor) = self.resource.watch(Since::Revision(revision)) else { return };
        self.cursor = Some(cursor);
        let mut before = std::mem::take(&mut self.known);
        for new in objects {
            let key = ObjectKey::from(&new.meta);
            let old = before.remove(&key);
            self.known.insert(key, new.clone());
            if old.as_ref().is_none_or(|o| o.revision != new.revision) {
                self.ready.push_back(Delta::Upsert { old, new });
            }
        }
        self.ready.extend(before.into_values().map(Delta::Delete));
        if !std::mem::replace(&mut self.synced, true) {
            self.ready.push_back(Delta::Synced);
        }
    }
}
