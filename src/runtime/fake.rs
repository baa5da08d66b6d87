//! A cluster in memory for tests: a fake API server whose every change is in the listers before the request is answered,
//! as it is in orch's own process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::events::{self, EventWriter};
use super::fields;
use super::lister::{Lister, Listers};
use super::objects::Objects;
use super::reconciler::{Cx, Error, Reconciler, Requeue};
use crate::api::object::{Object, ObjectKey};
use crate::client::fake::FakeApi;
use crate::client::{Client, Res};
use crate::util::clock::ManualClock;
use crate::util::tasks::Shutdown;

/// Listers that tests fill by hand.
#[derive(Default)]
pub struct FakeListers(Mutex<HashMap<(String, String), Arc<Objects>>>);

impl FakeListers {
    /// The objects of a resource; synced from the start.
    pub fn objects(&self, group: &str, resource: &str) -> Arc<Objects> {
        let mut all = self.0.lock();
        let objects = all.entry((group.to_owned(), resource.to_owned())).or_insert_with(|| {
            let objects = Objects::new(fields::indexed(group, resource));
            objects.set_synced();
            objects
        });
        objects.clone()
    }

    /// Creates or replaces an object of a resource.
    pub fn upsert(&self, res: &Res, object: &Value) {
        let objects = self.objects(&res.group, &res.plural);
        objects.upsert(Arc::new(Object::from_value(object, &objects.pointers())));
    }
}

impl Listers for FakeListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        self.objects(group, resource)
    }
}

/// API and listers.
pub struct Cluster {
    /// The API.
    pub api: Arc<FakeApi>,
    /// What it holds, for reading.
    pub listers: Arc<FakeListers>,
    /// Moved by hand; starts at 2026-01-01T00:00:00Z.
    pub clock: Arc<ManualClock>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// An empty one.
    pub fn new() -> Self {
        let listers = Arc::new(FakeListers::default());
        let sink = listers.clone();
        let api = FakeApi::new(move |res, object, gone| match gone {
            false => sink.upsert(res, object),
            true => {
                let o = Object::from_value(object, &[]);
                sink.objects(&res.group, &res.plural).delete(&ObjectKey::from(&o.meta));
            }
        });
        Self { api, listers, clock: Arc::new(ManualClock::at(1_767_225_600)) }
    }

    /// Stores an object as it is.
    pub fn put(&self, object: Value) -> Value {
        self.api.put(object)
    }

    /// One object, as stored.
    pub fn get(&self, res: &Res, ns: &str, name: &str) -> Option<Value> {
        self.api.at(&res.object(ns, name, None))
    }

    /// A client.
    pub fn client(&self) -> Client {
        self.api.client()
    }

    /// Everything a reconciler needs; its events are dropped.
    pub fn cx(&self) -> Cx {
        self.cx_and_events().0
    }

    /// The same, with the writer of its events.
    pub fn cx_and_events(&self) -> (Cx, EventWriter) {
        let (recorder, writer) = events::recorder(self.client(), "test", "", self.clock.clone());
        let cx = Cx {
            client: self.client(),
            listers: self.listers.clone(),
            clock: self.clock.clone(),
            events: recorder,
            metrics: Default::default(),
        };
        (cx, writer)
    }

    /// Reconciles one key once.
    pub async fn reconcile(&self, reconciler: &dyn Reconciler, ns: &str, name: &str) -> Result<Requeue, Error> {
        reconciler.reconcile(&ObjectKey::new(ns, name), &self.cx()).await
    }

    /// The same, with the events that it made, as `Reason: message`.
    pub async fn reconcile_and_hear(
        &self,
        reconciler: &dyn Reconciler,
        ns: &str,
        name: &str,
    ) -> (Result<Requeue, Error>, Vec<String>) {
        let (cx, mut writer) = self.cx_and_events();
        let outcome = reconciler.reconcile(&ObjectKey::new(ns, name), &cx).await;
        (outcome, writer.unwritten())
    }

    /// Runs what `run` makes of a context and a shutdown until `done` says so; a test that hangs fails.
    pub async fn until<F, Fut>(&self, run: F, done: impl Fn(&Self) -> bool)
    where
        F: FnOnce(Cx, Shutdown) -> Fut,
        Fut: Future,
    {
        let shutdown = Shutdown::new();
        let wait = async {
            for _ in 0..10_000 {
                if done(self) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            shutdown.trigger();
        };
        tokio::join!(run(self.cx(), shutdown.clone()), wait);
        assert!(done(self), "it never came to that");
    }
}
