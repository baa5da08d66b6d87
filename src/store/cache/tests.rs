use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use test_case::test_case;

use super::*;
use crate::store::memory::Memory;
use crate::store::{Expect, Txn, Write};

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");

/// Knows pods and their node, and decodes the rest generically.
#[derive(Default)]
struct Rows(Generic);

impl Decode for Rows {
    fn decode(&self, resource: &GroupResource, json: Bytes, revision: Revision) -> Result<Object, String> {
        match *resource == PODS {
            true => {
                let node = crate::api::scheme::Selectable::new("spec.nodeName", "/spec/nodeName");
                Object::from_json(Arc::new(Gvk::new("", "v1", "Pod")), json, revision, &[node])
            }
            false => self.0.decode(resource, json, revision),
        }
    }

    fn fields(&self, resource: &GroupResource) -> Vec<String> {
        if *resource == PODS { vec!["spec.nodeName".to_owned()] } else { Vec::new() }
    }
}

fn pod(name: &str, node: &str) -> Write {
    let body = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"nodeName": node}});
    put(&PODS, "n", name, &body)
}

fn put(resource: &GroupResource, namespace: &str, name: &str, body: &Value) -> Write {
    let value = Some(serde_json::to_vec(body).unwrap().into());
    Write { key: object_key(resource, namespace, name), expect: Expect::Any, value }
}

fn delete(name: &str) -> Write {
    Write { key: object_key(&PODS, "n", name), expect: Expect::Any, value: None }
}

/// A running cache over a memory store.
struct Bed {
    store: Arc<Memory>,
    cache: Arc<Cache>,
    pods: Arc<ResourceCache>,
    _stop: tokio_util::sync::DropGuard,
}

async fn bed_over(store: Arc<Memory>) -> Bed {
    let cache = Cache::open(store.clone(), Arc::new(Rows::default())).await.unwrap();
    let end = tokio_util::sync::CancellationToken::new();
    let (running, stopped) = (cache.clone(), end.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            end = running.run(Shutdown::new()) => end.unwrap(),
        }
    });
    let pods = cache.resource(&PODS);
    Bed { store, cache, pods, _stop: end.drop_guard() }
}

async fn bed() -> Bed {
    bed_over(Arc::new(Memory::new())).await
}

impl Bed {
    async fn commit(&self, writes: Vec<Write>) -> Revision {
        let revision = self.store.commit(Txn(writes)).await.unwrap();
        self.cache.wait_for(revision).await.unwrap();
        revision
    }
}

fn told(events: &[Arc<Event>]) -> Vec<(EventKind, String, Revision)> {
    events.iter().map(|e| (e.kind, e.object.meta.name.clone(), e.revision)).collect()
}

#[tokio::test]
async fn reads_its_own_writes_with_the_revision_in_the_text() {
    let bed = bed().await;
    let revision = bed.commit(vec![pod("a", "n1")]).await;
    let object = bed.pods.get("n", "a").unwrap();
    assert_eq!(object.value()["metadata"]["resourceVersion"], json!(revision.to_string()));
    assert_eq!((object.revision, bed.pods.list(Some("n")).1), (revision, revision));
    bed.commit(vec![pod("b", "n1")]).await;
    assert_eq!(bed.pods.by_index("spec.nodeName", "n1").len(), 2);
    bed.commit(vec![delete("a")]).await;
    assert_eq!(bed.pods.by_index("spec.nodeName", "n1").len(), 1);
    assert!(bed.pods.get("n", "a").is_none());
    assert_eq!(bed.pods.count(), 1);
}

#[tokio::test]
async fn loads_what_is_there_and_keeps_unknown_kinds_until_their_row_comes() {
    let store = Arc::new(Memory::new());
    let things = GroupResource::new("x.io", "things");
    let thing = json!({"kind": "Thing", "apiVersion": "x.io/v1", "metadata": {"name": "t"}});
    store.commit(Txn(vec![pod("a", ""), put(&things, "", "t", &thing)])).await.unwrap();
    let junk = Write { key: object_key(&PODS, "n", "junk"), expect: Expect::Any, value: Some("{]".into()) };
    store.commit(Txn(vec![junk])).await.unwrap();
    let bed = bed_over(store).await;
    assert_eq!(bed.cache.revision(), 2);
    assert_eq!(bed.pods.count(), 1, "what cannot be decoded is logged and left out");
    let object = bed.cache.resource(&things).get("", "t").unwrap();
    assert_eq!((object.gvk.to_string().as_str(), object.revision), ("x.io/v1, Kind=Thing", 1));
    bed.cache.reload(&things).await.unwrap();
    assert_eq!(bed.cache.resource(&things).count(), 1);
}

#[tokio::test]
async fn a_watch_sees_every_change_once_and_progress_elsewhere() {
    let bed = bed().await;
    let mut cursor = bed.pods.watch(Since::Now).unwrap();
    bed.commit(vec![pod("a", ""), pod("b", "")]).await;
    bed.commit(vec![pod("a", "n1")]).await;
    let deleted = bed.commit(vec![delete("b")]).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(cursor.next_batch().await.unwrap());
    }
    use EventKind::{Added, Deleted, Modified};
    let want = [(Added, "a", 1), (Added, "b", 1), (Modified, "a", 2), (Deleted, "b", deleted)];
    assert_eq!(told(&seen), want.map(|(k, n, r)| (k, n.to_owned(), r)));
    assert_eq!(seen[3].object.value()["metadata"]["resourceVersion"], json!("3"));
    assert_eq!(seen[2].previous.as_ref().unwrap().revision, 1);
    assert_eq!(cursor.revision(), 3);
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "x"}});
    bed.commit(vec![put(&NODES, "", "x", &node)]).await;
    assert!(cursor.try_next().unwrap().is_empty());
    assert_eq!(cursor.revision(), 4, "progress without events");
}

#[tokio::test]
async fn resuming_needs_no_more_than_a_revision() {
    let bed = bed().await;
    for i in 0..5 {
        bed.commit(vec![pod("a", &i.to_string())]).await;
    }
    let mut cursor = bed.pods.watch(Since::Revision(3)).unwrap();
    let seen = cursor.next_batch().await.unwrap();
    assert_eq!(seen.iter().map(|e| e.revision).collect::<Vec<_>>(), [4, 5]);
    let mut cursor = bed.pods.watch(Since::Revision(6)).unwrap();
    bed.commit(vec![pod("a", "x")]).await;
    bed.commit(vec![pod("a", "y")]).await;
    assert_eq!(cursor.next_batch().await.unwrap()[0].revision, 7, "a revision to come is waited for");
}

#[tokio::test]
async fn the_initial_state_comes_in_batches_then_changes() {
    let bed = bed().await;
    let all: Vec<Write> = (0..600).map(|i| pod(&format!("p{i:03}"), "")).collect();
    bed.commit(all).await;
    let mut cursor = bed.pods.watch(Since::Initial).unwrap();
    bed.commit(vec![pod("later", "")]).await;
    let mut seen = Vec::new();
    while !cursor.synced() {
        seen.extend(cursor.next_batch().await.unwrap());
    }
    assert_eq!(seen.len(), 600);
    assert!(seen.iter().all(|e| e.kind == EventKind::Added && e.revision == 1));
    assert_eq!(told(&cursor.next_batch().await.unwrap()), [(EventKind::Added, "later".to_owned(), 2)]);
}

#[tokio::test]
async fn pages_join_to_the_whole_list() {
    let bed = bed().await;
    bed.commit((0..7).map(|i| pod(&format!("p{i}"), "")).collect()).await;
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = bed.pods.page(Some("n"), after.as_deref().map(|a| ("n", a)), 3);
        names.extend(page.objects.iter().map(|o| o.meta.name.clone()));
        assert_eq!(page.remaining, 7 - names.len());
        after = names.last().cloned();
        if page.remaining == 0 {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|i| format!("p{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_that_falls_off_the_ring_is_told_so() {
    let bed = bed().await;
    let mut slow = bed.pods.watch(Since::Now).unwrap();
    let big = "x".repeat(1 << 20);
    for i in 0..(RING_BYTES >> 20) + 3 {
        bed.commit(vec![pod("a", &format!("{i}{big}"))]).await;
    }
    let gone = slow.next_batch().await.unwrap_err();
    assert!(gone.since == 0 && gone.oldest > 0, "{gone}");
    assert!(bed.pods.watch(Since::Revision(1)).is_err());
    assert!(bed.pods.watch(Since::Revision(bed.cache.revision())).is_ok());
    let held = bed.pods.figures();
    assert!(held.objects == 1 && held.object_bytes > 1 << 20, "{held:?}");
    assert!(held.event_bytes <= RING_BYTES, "{held:?}");
}

#[tokio::test]
async fn a_cache_that_fell_behind_loads_again() {
    let store = Arc::new(Memory::with_tail(1));
    store.commit(Txn(vec![pod("a", ""), pod("b", "")])).await.unwrap();
    let cache = Cache::open(store.clone(), Arc::new(Rows::default())).await.unwrap();
    let mut cursor = cache.resource(&PODS).watch(Since::Now).unwrap();
    store.commit(Txn(vec![delete("a")])).await.unwrap();
    let last = store.commit(Txn(vec![pod("c", "")])).await.unwrap();
    let shutdown = Shutdown::new();
    let (running, stop) = (cache.clone(), shutdown.clone());
    let task = tokio::spawn(async move { running.run(stop).await });
    cache.wait_for(last).await.unwrap();
    let (objects, revision) = cache.resource(&PODS).list(None);
    assert_eq!(objects.iter().map(|o| &*o.meta.name).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(revision, last);
    assert!(cursor.next_batch().await.is_err());
    shutdown.trigger();
    task.await.unwrap().unwrap();
    assert!(cache.wait_for(last + 1).await.is_err(), "nobody waits for a cache that stopped");
}

#[tokio::test]
async fn an_event_is_encoded_once_and_seen_through_selectors() {
    let bed = bed().await;
    let mut cursor = bed.pods.watch(Since::Now).unwrap();
    bed.commit(vec![pod("a", "n1")]).await;
    bed.commit(vec![pod("a", "n2")]).await;
    bed.commit(vec![delete("a")]).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(cursor.next_batch().await.unwrap());
    }
    let on = |node: &'static str| move |o: &Object| &*o.fields[0] == node;
    use EventKind::{Added, Deleted, Modified};
    assert_eq!(seen.iter().map(|e| e.seen_by(on("n1"))).collect::<Vec<_>>(), [Some(Added), Some(Deleted), None]);
    assert_eq!(seen.iter().map(|e| e.seen_by(on("n2"))).collect::<Vec<_>>(), [None, Some(Added), Some(Deleted)]);
    assert_eq!(
        seen.iter().map(|e| e.seen_by(|_| true)).collect::<Vec<_>>(),
        [Some(Added), Some(Modified), Some(Deleted)]
    );
    let left: Value = serde_json::from_slice(&seen[1].json_line(Deleted)).unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["spec"]["nodeName"], "n1", "the state it was last seen in");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], "2", "with the revision of the change");
    assert_eq!(seen[0].json_line(Added).as_ptr(), seen[0].json_line(Added).as_ptr(), "made once");
}

#[test_case(r#"{"kind":"P","metadata":{"name":"a","uid":"u","labels":{}}}"#,
    r#"{"kind":"P","metadata":{"name":"a","uid":"u","resourceVersion":"12","labels":{}}}"#; "after the uid")]
#[test_case(r#"{"spec":{"metadata":{"uid":"no"}},"metadata":{"name":"a"}}"#,
    r#"{"spec":{"metadata":{"uid":"no"}},"metadata":{"resourceVersion":"12","name":"a"}}"#; "only on top")]
#[test_case(r#"{"metadata":{"resourceVersion":"3","uid":"u"}}"#, r#"{"metadata":{"resourceVersion":"12","uid":"u"}}"#; "in place")]
#[test_case(r#"{"a":"\"metadata\":{","metadata":{}}"#, r#"{"a":"\"metadata\":{","metadata":{"resourceVersion":"12"}}"#; "empty")]
#[test_case(r#"{"metadata":{"uid":"u","resourceVersion":"3","labels":{}}}"#,
    r#"{"metadata":{"uid":"u","resourceVersion":"12","labels":{}}}"#; "in place after the uid")]
#[test_case(r#"{"metadata":{"uid":"u","generation":1,"labels":{"#,
    r#"{"metadata":{"uid":"u","resourceVersion":"12","generation":1,"labels":{"#; "what follows is not looked at")]
fn the_revision_is_spliced_in(json: &str, want: &str) {
    assert_eq!(splice_revision(json.as_bytes(), 12).unwrap(), want);
}

#[test_case("{}"; "none")]
#[test_case(r#"{"metadata":null}"#; "null")]
#[test_case("[]"; "list")]
#[test_case("nonsense"; "no json")]
fn nothing_to_splice_into(json: &str) {
    assert_eq!(splice_revision(json.as_bytes(), 1), None);
}

fn on(node: &str) -> Narrow {
    Narrow::Field { at: 0, value: node.into() }
}

fn names(events: &[Arc<Event>]) -> Vec<String> {
    events.iter().map(|e| format!("{} {}", e.kind.as_str(), e.object.meta.name)).collect()
}

#[tokio::test]
async fn who_watches_a_value_sleeps_while_others_change() {
    let bed = bed().await;
    bed.commit(vec![pod("before", "a"), pod("other", "b")]).await;
    let mut cursor = bed.pods.watch_narrowly(Since::Initial, on("a")).unwrap();
    assert_eq!(names(&cursor.next_batch().await.unwrap()), ["ADDED before"]);
    let mut next = Box::pin(cursor.next_batch());
    bed.commit(vec![pod("other", "b"), delete("other")]).await;
    assert!(futures::poll!(&mut next).is_pending(), "nothing of it");
    bed.commit(vec![pod("comes", "a")]).await;
    // Leaves its sight.
    bed.commit(vec![pod("before", "b")]).await;
    assert_eq!(names(&next.await.unwrap()), ["ADDED comes", "MODIFIED before"]);
    bed.commit(vec![delete("comes"), pod("other", "b")]).await;
    assert_eq!(names(&cursor.next_batch().await.unwrap()), ["DELETED comes"]);
    let last = bed.commit(vec![pod("other", "b")]).await;
    assert_eq!(cursor.revision(), last, "bookmarks go on with what others did");
}

#[tokio::test]
async fn who_watches_a_value_misses_nothing_when_the_ring_moves_on() {
    let bed = bed().await;
    let first = bed.commit(vec![pod("mine", "a")]).await;
    let mut idle = bed.pods.watch_narrowly(Since::Revision(first), on("a")).unwrap();
    let mut asleep = bed.pods.watch_narrowly(Since::Revision(first), on("a")).unwrap();
    let mut wide = bed.pods.watch(Since::Revision(first)).unwrap();
    bed.commit(vec![pod("other", "b")]).await;
    let late = || Instant::now() + RING_AGE * 2;
    bed.pods.trim(late());
    assert!(wide.try_next().is_err(), "the ring has forgotten others' events");
    assert_eq!(names(&idle.try_next().unwrap()), Vec::<String>::new());
    bed.commit(vec![pod("mine", "a")]).await;
    assert_eq!(names(&idle.try_next().unwrap()), ["MODIFIED mine"]);
    bed.pods.trim(late());
    assert!(asleep.try_next().is_err(), "its own event is gone");
    bed.commit(vec![pod("mine", "a")]).await;
    assert_eq!(names(&idle.try_next().unwrap()), ["MODIFIED mine"]);
}

#[tokio::test]
async fn who_watches_an_object_is_told_of_it_alone() {
    let bed = bed().await;
    let narrow = Narrow::Object { namespace: "n".into(), name: "x".into() };
    let mut cursor = bed.pods.watch_narrowly(Since::Now, narrow.clone()).unwrap();
    bed.commit(vec![pod("x", ""), pod("y", "")]).await;
    assert_eq!(names(&cursor.next_batch().await.unwrap()), ["ADDED x"]);
    assert_eq!(bed.pods.list_narrowly(None, &narrow).0.len(), 1);
    assert_eq!(bed.pods.list_narrowly(None, &on("")).0.len(), 2);
    assert!(bed.pods.list_narrowly(Some("elsewhere"), &on("")).0.is_empty());
    // Where nobody can be told by a value any more, everything is looked at.
    bed.pods.redecode(vec!["spec.nodeName".into()], |_| None);
    bed.commit(vec![pod("y", "a")]).await;
    let events = cursor.next_batch().await.unwrap();
    assert_eq!(names(&events), ["MODIFIED y"]);
}

/// A follower goes on where it was, also when the state is replaced under it.
#[tokio::test]
async fn a_follower_hears_what_a_new_state_changed() {
    let store = Arc::new(Memory::new());
    store.commit(Txn(vec![pod("kept", "1"), pod("changed", "1"), pod("gone", "1")])).await.unwrap();
    // Nobody applies the changes: the state is only read anew.
    let cache = Cache::open(store.clone(), Arc::new(Rows::default())).await.unwrap();
    let (objects, mut follower) = cache.resource(&PODS).follow();
    assert_eq!(objects.len(), 3);
    store.commit(Txn(vec![pod("changed", "2"), delete("gone"), pod("new", "2")])).await.unwrap();
    cache.load().await.unwrap();
    let told: Vec<_> = follower
        .next_batch()
        .await
        .iter()
        .map(|e| (e.kind, e.object.meta.name.to_string(), e.previous.as_ref().map(|o| o.revision)))
        .collect();
    let want = [
        (EventKind::Modified, "changed".to_owned(), Some(1)),
        (EventKind::Deleted, "gone".to_owned(), Some(1)),
        (EventKind::Added, "new".to_owned(), None),
    ];
    assert_eq!(told, want);
    assert!(futures::FutureExt::now_or_never(follower.next_batch()).is_none());
}
