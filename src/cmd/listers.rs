//! The watch cache as the components of the same process see it: `runtime::Listers` without a copy.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::api::object::Object;
use crate::runtime::{Delta, Lister, Listers};
use crate::store::cache::{Cache, Event, EventKind, ResourceCache};

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
        let resource = self.0.clone();
        // Begins when it is first polled, not before.
        stream::once(async move {
            let (objects, follower) = resource.follow();
            let present = stream::iter(objects).map(|new| Delta::Upsert { old: None, new });
            let changes = stream::unfold(follower, |mut follower| async move {
                let events = follower.next_batch().await;
                Some((stream::iter(events).map(|event| delta(&event)), follower))
            });
            present.chain(stream::once(async { Delta::Synced })).chain(changes.flatten())
        })
        .flatten()
        .boxed()
    }

    fn synced(&self) -> bool {
        // The cache was loaded before anybody got a lister.
        true
    }
}

fn delta(event: &Event) -> Delta {
    let object = event.object.clone();
    match event.kind {
        EventKind::Deleted => Delta::Delete(object),
        EventKind::Added | EventKind::Modified => Delta::Upsert { old: event.previous.clone(), new: object },
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
}
