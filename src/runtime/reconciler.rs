//! The shape of a controller, and the loop around it.
//!
//! A [`Reconciler`] says what it watches and how to bring one object where it should be; [`run`] owns the queue, backoff,
//! concurrency, panics and counters. A reconciler gets a key only, reads everything again, is idempotent, and never retries
//! inside. Reads come from listers, which a write through the in-process client has reached before it returns.
//!
//! **Invariant:** no key is reconciled before every watched resource is synced.
//! **Invariant:** a key is reconciled by one worker at a time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::events::Recorder;
use super::lister::{Delta, Lister, Listers};
use super::metrics::{Registry, Stats};
use super::queue::Queue;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::{ApiResult, Reason, Status};
use crate::client::{Client, Res};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

/// Deltas handled before workers get a turn.
const DELTAS_AT_ONCE: usize = 256;

/// Why a reconcile failed. The key comes again after its backoff, whatever the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused.
    #[error("{0}")]
    Api(#[from] Box<Status>),
    /// An object does not read as its kind should.
    #[error("cannot read {what}: {reason}")]
    Object {
        /// Which object, for people.
        what: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// True for an error that the next try, with newer state, usually does not have.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Api(s) if matches!(s.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists))
    }
}

/// Whether the key comes again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Only when something changes.
    Never,
    /// Also after this time.
    After(Duration),
}

impl Requeue {
    /// After so many seconds, at least one; never for none.
    pub fn after_seconds(seconds: Option<i64>) -> Self {
        seconds.map_or(Self::Never, |s| Self::After(Duration::from_secs(s.max(1).unsigned_abs())))
    }

    /// The earlier of two.
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::Never, x) | (x, Self::Never) => x,
        }
    }
}

/// What a reconciler works with.
#[derive(Clone)]
pub struct Cx {
    /// Writes, and the rare read that must be fresh.
    pub client: Client,
    /// Reads.
    pub listers: Arc<dyn Listers>,
    /// Now.
    pub clock: SharedClock,
    /// Tells people.
    pub events: Recorder,
    /// Counters.
    pub metrics: Registry,
}

impl Cx {
    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The lister of a resource.
    pub fn lister(&self, res: &Res) -> Arc<dyn Lister> {
        self.listers.lister(&res.group, &res.plural)
    }

    /// Merges `patch` into an object (or its subresource) and updates it, as it is in the lister: a conflict when somebody
    /// else was faster. Upstream's controllers update, and their roles allow nothing else.
    pub async fn change(&self, res: &Res, object: &Object, sub: Option<&str>, patch: &Value) -> ApiResult<Value> {
        let new = crate::api::patch::merge::apply(object.value(), patch.clone())?;
        self.client.update(res, &object.meta.namespace, &object.meta.name, sub, &new).await
    }

    /// One object.
    pub fn get(&self, res: &Res, key: &ObjectKey) -> Option<Arc<Object>> {
        self.lister(res).get(&key.namespace, &key.name)
    }
}

/// Keys that a changed object concerns.
pub type MapFn = fn(&Object, &Cx) -> Vec<ObjectKey>;

/// Keys that a change concerns, by the object before (none: it is new) and after (none: it is gone).
pub type ChangeFn = fn(Option<&Object>, Option<&Object>, &Cx) -> Vec<ObjectKey>;

#[derive(Debug, Clone, Copy)]
enum Map {
    Own,
    OwnThat(fn(&Object) -> bool),
    Owned,
    Mapped(MapFn),
    Changed(ChangeFn),
}

/// What a reconciler watches.
#[derive(Debug, Clone)]
pub struct Watches {
    own: &'static Res,
    all: Vec<(&'static Res, Map)>,
}

impl Watches {
    /// Objects of `res`, which are also what keys name.
    pub fn own(res: &'static Res) -> Self {
        Self { own: res, all: vec![(res, Map::Own)] }
    }

    /// The same, of which most objects never concern the reconciler.
    pub fn own_that(res: &'static Res, concerns: fn(&Object) -> bool) -> Self {
        Self { own: res, all: vec![(res, Map::OwnThat(concerns))] }
    }

    /// The same, of which only some changes concern the reconciler.
    pub fn own_changed(res: &'static Res, map: ChangeFn) -> Self {
        Self { own: res, all: vec![(res, Map::Changed(map))] }
    }

    /// Objects of `res`, through a function that sees what has changed.
    pub fn changed(mut self, res: &'static Res, map: ChangeFn) -> Self {
        self.all.push((res, Map::Changed(map)));
        self
    }

    /// Objects of `res` whose controller is one of ours.
    pub fn owned(mut self, res: &'static Res) -> Self {
        self.all.push((res, Map::Owned));
        self
    }

    /// Objects of `res`, through a function; it sees the object before and after.
    pub fn mapped(mut self, res: &'static Res, map: MapFn) -> Self {
        self.all.push((res, Map::Mapped(map)));
        self
    }

    fn keys(&self, watch: usize, old: Option<&Object>, new: Option<&Object>, cx: &Cx) -> Vec<ObjectKey> {
        if let Map::Changed(map) = self.all[watch].1 {
            return map(old, new, cx);
        }
        old.into_iter().chain(new).flat_map(|object| self.keys_of(watch, object, cx)).collect()
    }

    fn keys_of(&self, watch: usize, object: &Object, cx: &Cx) -> Vec<ObjectKey> {
        match self.all[watch].1 {
            Map::Changed(_) => Vec::new(),
            Map::OwnThat(concerns) if !concerns(object) => Vec::new(),
            Map::Own | Map::OwnThat(_) => vec![ObjectKey::from(&object.meta)],
            Map::Mapped(map) => map(object, cx),
            Map::Owned => match object.meta.controller() {
                Some(owner)
                    if owner.kind == self.own.kind
                        && crate::api::meta::gvk::split(&owner.api_version).0 == self.own.group =>
                {
                    let namespace = if self.own.namespaced { &object.meta.namespace } else { "" };
                    vec![ObjectKey::new(namespace, &owner.name)]
                }
                _ => Vec::new(),
            },
        }
    }
}

/// A controller.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Its name: of its service account upstream, its queue.
    fn name(&self) -> &'static str;
    /// Whom its events are from: upstream's components sign some with another name than the controller's.
    fn speaks_as(&self) -> &'static str {
        self.name()
    }
    /// What makes it work.
    fn watches(&self) -> Watches;
    /// Keys worked on at once.
    fn workers(&self) -> usize {
        5
    }
    /// All keys come again after this time, for repair; none by default.
    fn resync(&self) -> Option<Duration> {
        None
    }
    /// Brings one object where it should be. An object that is gone is no error.
    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error>;
}

/// Why a controller's loop ended before its shutdown.
#[derive(Debug, thiserror::Error)]
#[error("{name}: the watch of {resource} ended")]
pub struct SourceEnded {
    name: &'static str,
    resource: &'static str,
}

/// Runs a reconciler until the shutdown. It ends early, to be started again, when a watch ends.
pub async fn run(reconciler: &dyn Reconciler, cx: Cx, shutdown: Shutdown) -> Result<(), SourceEnded> {
    let watches = reconciler.watches();
    let stats = cx.metrics.stats(reconciler.name());
    let mut sources = SelectAll::new();
    for (i, (res, _)) in watches.all.iter().enumerate() {
        let deltas = cx.lister(res).deltas().map(Some).chain(stream::once(async { None }));
        sources.push(deltas.map(move |d| (i, d)).boxed());
    }
    let mut sources = sources.ready_chunks(DELTAS_AT_ONCE);
    let mut unsynced = watches.all.len();
    let mut queue: Queue<ObjectKey> = Queue::new(Backoff::QUEUE);
    let mut working = FuturesUnordered::new();
    let mut resync = reconciler.resync().map(|every| (Instant::now() + every, every));
    loop {
        while unsynced == 0 && working.len() < reconciler.workers() {
            let Some(key) = queue.next(Instant::now()) else { break };
            working.push(guarded(reconciler, key, &cx, &stats));
        }
        stats.depth.store(queue.len() as u64, Relaxed);
        let wake = [queue.deadline(), resync.map(|(at, _)| at)].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            Some(deltas) = sources.next() => for (i, delta) in deltas {
                let mut add = |old: Option<&Object>, new: Option<&Object>| {
                    watches.keys(i, old, new, &cx).into_iter().for_each(|k| queue.add(k));
                };
                match delta {
                    Some(Delta::Upsert { old, new }) => add(old.as_deref(), Some(&new)),
                    Some(Delta::Delete(last)) => add(Some(&last), None),
                    Some(Delta::Synced) => unsynced = unsynced.saturating_sub(1),
                    None if shutdown.is_triggered() => return Ok(()),
                    None => return Err(SourceEnded { name: reconciler.name(), resource: &watches.all[i].0.plural }),
                }
            },
            Some((key, outcome)) = working.next(), if !working.is_empty() => {
                finish(reconciler.name(), &mut queue, &key, outcome, &stats);
            }
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
        if let Some((at, every)) = resync.filter(|(at, _)| *at <= Instant::now()) {
            cx.lister(watches.own).list(None).iter().for_each(|o| queue.add(ObjectKey::from(&o.meta)));
            resync = Some((at + every, every));
        }
    }
}

enum Outcome {
    Done(Requeue),
    Failed(Error),
    Panicked,
}

async fn guarded(reconciler: &dyn Reconciler, key: ObjectKey, cx: &Cx, stats: &Stats) -> (ObjectKey, Outcome) {
    let began = Instant::now();
    let outcome = match AssertUnwindSafe(reconciler.reconcile(&key, cx)).catch_unwind().await {
        Ok(Ok(requeue)) => Outcome::Done(requeue),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => Outcome::Panicked,
    };
    stats.took(began.elapsed());
    (key, outcome)
}

fn finish(name: &'static str, queue: &mut Queue<ObjectKey>, key: &ObjectKey, outcome: Outcome, stats: &Stats) {
    let now = Instant::now();
    match outcome {
        Outcome::Done(requeue) => {
            stats.ok.fetch_add(1, Relaxed);
            queue.done(key);
            if let Requeue::After(delay) = requeue {
                queue.add_at(key.clone(), now + delay);
            }
        }
        Outcome::Failed(error) => {
            stats.failed.fetch_add(1, Relaxed);
            let delay = queue.failed(key, now);
            if error.is_stale() {
                tracing::debug!(controller = name, %key, ?delay, "trying again: {error}");
            } else {
                tracing::warn!(controller = name, %key, ?delay, "trying again: {error}");
            }
        }
        Outcome::Panicked => {
            stats.panicked.fetch_add(1, Relaxed);
            let delay = queue.failed(key, now);
            tracing::error!(controller = name, %key, ?delay, "panicked, trying again; this is a bug in orch");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::res;
    use crate::runtime::fake::Cluster;
    use parking_lot::Mutex;
    use serde_json::json;

    /// Fails the first times, panics once, then succeeds; tells what it was asked.
    struct Clumsy(Mutex<Vec<String>>);

    #[async_trait]
    impl Reconciler for Clumsy {
        fn name(&self) -> &'static str {
            "clumsy"
        }
        fn watches(&self) -> Watches {
            Watches::own(&res::REPLICA_SETS).owned(&res::PODS)
        }
        async fn reconcile(&self, key: &ObjectKey, _: &Cx) -> Result<Requeue, Error> {
            let times = {
                let mut calls = self.0.lock();
                calls.push(key.to_string());
                calls.len()
            };
            match times {
                1 => Err(Status::internal("first").into()),
                2 => panic!("second"),
                _ => Ok(Requeue::Never),
            }
        }
    }

    #[tokio::test]
    async fn failures_and_panics_come_again() {
        let cluster = Cluster::new();
        let cx = cluster.cx();
        cluster
            .put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "n"}}));
        let shutdown = Shutdown::new();
        let clumsy = Clumsy(Mutex::default());
        let stop = async {
            while cx.metrics.stats("clumsy").ok.load(Relaxed) < 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // A pod of ours counts as a change of its owner; another's does not.
            let owner = |kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "r", "uid": "u", "controller": true}]);
            for (name, kind) in [("a", "ReplicaSet"), ("b", "StatefulSet")] {
                cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata":
                    {"name": name, "namespace": "n", "ownerReferences": owner(kind)}}));
            }
            while cx.metrics.stats("clumsy").ok.load(Relaxed) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            shutdown.trigger();
        };
        let (ran, ()) = tokio::join!(run(&clumsy, cx.clone(), shutdown.clone()), stop);
        ran.unwrap();
        assert_eq!(*clumsy.0.lock(), ["n/r"; 4]);
        assert_eq!(cx.metrics.stats("clumsy").panicked.load(Relaxed), 1);
    }
}
