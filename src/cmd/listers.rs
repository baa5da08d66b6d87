//! The watch cache as the components of the same process see it: `runtime::Listers` without a copy.

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::api::object::Object;
use crate::runtime::{Delta, Lister, Listers};
use crate::store::cache::{Cache, Cursor, EventKind, ResourceCache, Since};

/// Places for deltas that an idle subscriber keeps.
const READY_KEPT: usize = 16;

/// Listers over the watch cache.
pub struct CacheListers(pub Arc<Cache>);

impl Listers for CacheListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        Arc::new(CacheLister(self.0.resource_of(group, resource)))
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

    fn field<'o>(&self, object: &'o Object, index: &str) -> &'o str {
        self.0.field(object, index)
    }

    fn deltas(&self) -> BoxStream<'static, Delta> {
        let state = Follower {
            resource: self.0.clone(),
            cursor: None,
            known: Known::default(),
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

/// An object as whichever state of it is known, by its name.
struct Named(Arc<Object>);

impl Named {
    fn key(&self) -> (&str, &str) {
        (&self.0.meta.namespace, &self.0.meta.name)
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Named {}

/// The objects that a subscriber was told of and that are there, as far as it knows. In no order: each event of each
/// subscriber looks one up.
#[derive(Default)]
struct Known(HashSet<Named>);

impl Known {
    /// Gives back what was known of it.
    fn put(&mut self, object: &Arc<Object>) -> Option<Arc<Object>> {
        self.0.replace(Named(object.clone())).map(|old| old.0)
    }

    fn take(&mut self, object: &Arc<Object>) -> Option<Arc<Object>> {
        self.0.take(&Named(object.clone())).map(|old| old.0)
    }
}

/// One subscriber's way along the ring. When it falls off, it compares what it knew with what is there.
struct Follower {
    resource: Arc<ResourceCache>,
    cursor: Option<Cursor>,
    /// The objects as the subscriber knows them: to tell of deletions that it missed.
    known: Known,
    ready: VecDeque<Delta>,
    synced: bool,
}

impl Follower {
    async fn next(&mut self) -> Delta {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    // The first state is large, and so is what it stood in.
                    self.ready.shrink_to(READY_KEPT);
                }
                return delta;
            }
            let Some(cursor) = &mut self.cursor else {
                self.relist();
                continue;
            };
            match cursor.next_batch().await {
                Ok(events) => {
                    for event in events {
                        let object = event.object.clone();
                        self.ready.push_back(if event.kind == EventKind::Deleted {
                            self.known.take(&object);
                            Delta::Delete(object)
                        } else {
                            Delta::Upsert { old: self.known.put(&object), new: object }
                        });
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
            let old = before.take(&new);
            self.known.put(&new);
            if old.as_ref().is_none_or(|o| o.revision != new.revision) {
                self.ready.push_back(Delta::Upsert { old, new });
            }
        }
        self.ready.extend(before.0.into_iter().map(|gone| Delta::Delete(gone.0)));
        if !std::mem::replace(&mut self.synced, true) {
            self.ready.push_back(Delta::Synced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::meta::GroupResource;
    use crate::store::cache::{Generic, RING_BYTES, object_key};
    use crate::store::memory::Memory;
    use crate::store::{Expect, Store, Txn, Write};
    use crate::util::tasks::Shutdown;
    use serde_json::json;

    const PODS: GroupResource = GroupResource::new("", "pods");

    fn write(name: &str, payload: Option<usize>) -> Write {
        let body = |n: usize| json!({"metadata": {"name": name, "namespace": "n"}, "payload": "x".repeat(n)});
        let value = payload.map(|n| serde_json::to_vec(&body(n)).unwrap().into());
        Write { key: object_key(&PODS, "n", name), expect: Expect::Any, value }
    }

    fn told(delta: Option<Delta>) -> String {
        match delta {
            Some(Delta::Upsert { old, new }) => {
                format!("{}>{}@{}", old.map_or(0, |o| o.revision), new.meta.name, new.revision)
            }
            Some(Delta::Delete(last)) => format!("-{}", last.meta.name),
            Some(Delta::Synced) => "synced".into(),
            None => "end".into(),
        }
    }

    /// A cache that follows its store, with two pods.
    async fn two_pods() -> (Arc<Memory>, Arc<Cache>) {
        let store = Arc::new(Memory::new());
        store.commit(Txn(vec![write("a", Some(1)), write("b", Some(1))])).await.unwrap();
        let cache = Cache::open(store.clone(), Arc::new(Generic::default())).await.unwrap();
        let running = cache.clone();
        tokio::spawn(async move { running.run(Shutdown::new()).await });
        (store, cache)
    }

    #[tokio::test]
    async fn a_subscriber_that_fell_off_the_ring_hears_what_it_missed() {
        let (store, cache) = two_pods().await;
        let mut deltas = CacheListers(cache.clone()).lister("", "pods").deltas();
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(told(deltas.next().await));
        }
        assert_eq!(heard, ["0>a@1", "0>b@1", "synced"]);
        let commit = async |w| cache.wait_for(store.commit(Txn(vec![w])).await.unwrap()).await.unwrap();
        commit(write("b", Some(2))).await;
        assert_eq!(told(deltas.next().await), "1>b@2");
        // More than the ring holds: neither the deletion nor the steps in between can be told any more.
        commit(write("b", None)).await;
        let large = 1 << 20;
        for _ in 0..=RING_BYTES / large + 1 {
            commit(write("a", Some(large))).await;
        }
        let last = cache.revision();
        assert_eq!(told(deltas.next().await), format!("1>a@{last}"));
        assert_eq!(told(deltas.next().await), "-b");
        assert!(futures::FutureExt::now_or_never(deltas.next()).is_none());
    }

    #[tokio::test]
    async fn what_was_decoded_anew_is_still_known_once() {
        let (store, cache) = two_pods().await;
        let resource = cache.resource(&PODS);
        let mut follower =
            Follower { resource, cursor: None, known: Known::default(), ready: VecDeque::new(), synced: false };
        for _ in 0..3 {
            follower.next().await;
        }
        cache.reload(&PODS).await.unwrap();
        for (change, told_as, left) in [(write("a", Some(2)), "1>a@2", 2), (write("b", None), "-b", 1)] {
            cache.wait_for(store.commit(Txn(vec![change])).await.unwrap()).await.unwrap();
            assert_eq!((told(Some(follower.next().await)), follower.known.0.len()), (told_as.to_owned(), left));
        }
    }
}
