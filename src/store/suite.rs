//! The contract that every backend passes.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::{
    Change, CommitError, Entry, Expect, KEY_MAX, Key, Revision, Snapshot, Store, StoreError, TXN_MAX, Txn, VALUE_MAX,
    Write,
};

fn key(name: &str) -> Key {
    Bytes::copy_from_slice(name.as_bytes())
}

fn put(name: &str, expect: Expect, value: impl Into<Bytes>) -> Write {
    Write { key: key(name), expect, value: Some(value.into()) }
}

fn delete(name: &str, expect: Expect) -> Write {
    Write { key: key(name), expect, value: None }
}

async fn one(store: &dyn Store, write: Write) -> Result<Revision, CommitError> {
    store.commit(Txn(vec![write])).await
}

/// `n` changes after a revision.
async fn changes(store: &dyn Store, since: Revision, n: usize) -> Vec<Change> {
    let mut stream = store.changes(since);
    let mut seen = Vec::new();
    while seen.len() < n {
        let batch = stream.next().await.expect("the store is open").unwrap();
        assert!(!batch.is_empty());
        seen.extend(batch.iter().cloned());
    }
    assert_eq!(seen.len(), n, "more than was committed");
    seen
}

/// Runs every rule on a fresh store each. `make` is called with the rule's name.
pub(super) async fn contract(make: impl Fn(&str) -> Arc<dyn Store>) {
    revisions_and_preconditions(&*make("revisions")).await;
    transactions_are_whole(&*make("transactions")).await;
    snapshots_are_consistent(make("snapshots")).await;
    changes_come_once_and_in_order(make("changes")).await;
    values_up_to_the_limit(&*make("values")).await;
    closing(make("closing")).await;
}

async fn revisions_and_preconditions(store: &dyn Store) {
    assert_eq!(store.snapshot(b"").await.unwrap(), Snapshot::default());
    assert_eq!(one(store, put("/a", Expect::Absent, "1")).await, Ok(1));
    assert_eq!(one(store, put("/b", Expect::Any, "1")).await, Ok(2));
    let taken = Err(CommitError::Conflict { key: key("/a"), actual: Some(1) });
    assert_eq!(one(store, put("/a", Expect::Absent, "2")).await, taken);
    assert_eq!(one(store, put("/a", Expect::Revision(2), "2")).await, taken);
    assert_eq!(one(store, put("/a", Expect::Revision(1), "2")).await, Ok(3), "a conflict takes no revision");
    assert_eq!(one(store, delete("/a", Expect::Revision(3))).await, Ok(4));
    let gone = Err(CommitError::Conflict { key: key("/a"), actual: None });
    assert_eq!(one(store, put("/a", Expect::Revision(3), "2")).await, gone);
    assert_eq!(one(store, delete("/a", Expect::Any)).await, Ok(4), "deleting nothing changes nothing");
    assert_eq!(store.commit(Txn::default()).await, Ok(4));
    assert_eq!(one(store, put("/a", Expect::Absent, "3")).await, Ok(5), "a name is free after its deletion");
}

async fn transactions_are_whole(store: &dyn Store) {
    one(store, put("/a", Expect::Any, "1")).await.unwrap();
    let half = Txn(vec![put("/b", Expect::Absent, "2"), put("/a", Expect::Absent, "2")]);
    assert!(matches!(store.commit(half).await, Err(CommitError::Conflict { actual: Some(1), .. })));
    assert_eq!(store.snapshot(b"/b").await.unwrap().entries, [], "nothing of a failed transaction");
    let whole = Txn(vec![
        put("/b", Expect::Absent, "2"),
        delete("/a", Expect::Revision(1)),
        put("/c", Expect::Absent, "x"),
        put("/c", Expect::Absent, "last"),
        delete("/none", Expect::Absent),
    ]);
    assert_eq!(store.commit(whole).await, Ok(2));
    let got = changes(store, 1, 3).await;
    let want = [("/b", Some("2")), ("/a", None), ("/c", Some("last"))];
    let want = want.map(|(k, v)| Change { revision: 2, key: key(k), value: v.map(Bytes::from) });
    assert_eq!(got, want);
    let entry = |k: &str, v: &'static str| Entry { key: key(k), value: v.into(), revision: 2 };
    let want = Snapshot { revision: 2, entries: vec![entry("/b", "2"), entry("/c", "last")] };
    assert_eq!(store.snapshot(b"").await.unwrap(), want);
}

/// Every snapshot shows each transaction whole, and is what the changes up to its revision make.
async fn snapshots_are_consistent(store: Arc<dyn Store>) {
    one(&*store, put("/x/other", Expect::Any, "o")).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for i in 0..200u32 {
            let both = ["/p/a", "/p/b"].map(|k| put(k, Expect::Any, i.to_string()));
            writer.commit(Txn(both.into())).await.unwrap();
        }
    });
    let mut last = 0;
    while last < 201 {
        let snapshot = store.snapshot(b"/p/").await.unwrap();
        assert!(snapshot.revision >= last, "snapshots do not go back");
        last = snapshot.revision;
        if let [a, b] = &snapshot.entries[..] {
            assert_eq!((&a.value, a.revision), (&b.value, last));
            assert_eq!(a.value, (last - 2).to_string(), "the state at its revision, no other");
        } else {
            assert_eq!((snapshot.entries.len(), last), (0, 1));
        }
    }
    writing.await.unwrap();
    assert_eq!(store.snapshot(b"/p").await.unwrap().entries.len(), 2);
    assert_eq!(store.snapshot(b"/q").await.unwrap().entries.len(), 0);
}

async fn changes_come_once_and_in_order(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 50;
    let follower = store.clone();
    let following = tokio::spawn(async move { changes(&*follower, 0, WRITERS * EACH).await });
    let writers = (0..WRITERS).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for i in 0..EACH {
                revisions.push(one(&*store, put(&format!("/{w}/{i}"), Expect::Absent, "v")).await.unwrap());
            }
            revisions
        })
    });
    let mut acknowledged = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        let revisions = writer.await.unwrap();
        assert!(revisions.is_sorted());
        acknowledged.extend(revisions);
    }
    acknowledged.sort_unstable();
    let all: Vec<Revision> = (1..=(WRITERS * EACH) as Revision).collect();
    assert_eq!(acknowledged, all, "one by one, none twice");
    let live: Vec<Revision> = following.await.unwrap().iter().map(|c| c.revision).collect();
    assert_eq!(live, all);
    let late: Vec<Revision> = changes(&*store, 123, all.len() - 123).await.iter().map(|c| c.revision).collect();
    assert_eq!(late, all[123..]);
}

async fn values_up_to_the_limit(store: &dyn Store) {
    let big = |len: usize, fill: u8| Bytes::from(vec![fill; len]);
    for (i, len) in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, VALUE_MAX].into_iter().enumerate() {
        one(store, put("/v", Expect::Any, big(len, i as u8))).await.unwrap();
        let snapshot = store.snapshot(b"/v").await.unwrap();
        assert!(snapshot.entries[0].value == big(len, i as u8), "{len} bytes come back");
    }
    let over = one(store, put("/v", Expect::Any, big(VALUE_MAX + 1, 0))).await;
    assert_eq!(over, Err(CommitError::TooLarge { size: VALUE_MAX + 1, limit: VALUE_MAX }));
    let long = one(store, put(&"k".repeat(KEY_MAX + 1), Expect::Any, "")).await;
    assert_eq!(long, Err(CommitError::TooLarge { size: KEY_MAX + 1, limit: KEY_MAX }));
    let many = (0..=TXN_MAX / VALUE_MAX).map(|i| put(&format!("/m{i}"), Expect::Any, big(VALUE_MAX, 0)));
    let many = store.commit(Txn(many.collect())).await;
    assert!(matches!(many, Err(CommitError::TooLarge { limit: TXN_MAX, .. })));
    one(store, put("/v", Expect::Any, "small")).await.unwrap();
    assert_eq!(store.snapshot(b"").await.unwrap().entries[0].value, "small", "nothing of the large one stays");
}

async fn closing(store: Arc<dyn Store>) {
    one(&*store, put("/a", Expect::Any, "1")).await.unwrap();
    let follower = store.clone();
    let following = tokio::spawn(async move {
        let all: Vec<_> = follower.changes(0).collect().await;
        all.into_iter().map(Result::unwrap).map(|b| b.len()).sum::<usize>()
    });
    store.close().await;
    assert_eq!(one(&*store, put("/a", Expect::Any, "2")).await, Err(CommitError::Closed));
    assert_eq!(following.await.unwrap(), 1, "followers get what was committed, then the end");
    store.close().await;
}

/// A follower that is too late is told so. For backends whose memory is short: `limit` bytes.
pub(super) async fn compaction(store: &dyn Store, limit: usize) {
    for i in 0..4 {
        one(store, put("/a", Expect::Any, vec![i; limit])).await.unwrap();
    }
    let seen: Vec<_> = store.changes(0).take(1).collect().await;
    assert!(matches!(seen[..], [Err(StoreError::Compacted { since: 0, oldest })] if oldest > 0), "{seen:?}");
    assert_eq!(changes(store, 3, 1).await[0].revision, 4, "from what is there it goes on");
}
