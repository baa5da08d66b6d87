//! Listers fed by a remote server: list, then watch, resume where the watch ended, list again where that is too old.
//!
//! **Invariant:** while the server cannot be reached the last known state stays readable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::Value;
use tokio::sync::mpsc;

use super::fields;
use super::lister::{Lister, Listers};
use super::objects::Objects;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, ListOptions, Res, WatchKind, res};
use crate::util::backoff::Backoff;
use crate::util::tasks::Shutdown;

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// Between attempts to reach the server.
const RETRY: Backoff = Backoff { base: Duration::from_millis(800), cap: Duration::from_secs(30) };

/// What of a resource an informer follows.
#[derive(Debug, Clone)]
pub struct Source {
    /// Which resource.
    pub res: Res,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only what these select (label and field selector; the rest is the informer's).
    pub select: ListOptions,
}

impl Source {
    /// All objects of a resource.
    pub fn all(res: &Res) -> Self {
        Self { res: res.clone(), namespace: None, select: ListOptions::default() }
    }

    /// Those that a field selector matches.
    pub fn fields(res: &Res, selector: impl Into<String>) -> Self {
        Self { select: ListOptions::fields(selector), ..Self::all(res) }
    }
}

/// Where an informer puts what it hears.
pub trait Sink: Sync {
    /// The fields that are to be extracted from objects.
    fn pointers(&self) -> Vec<&'static str>;
    /// All there is, after a list.
    fn replace(&self, all: Vec<Arc<Object>>);
    /// One that is there.
    fn upsert(&self, object: Arc<Object>);
    /// One that is gone, in its last state.
    fn delete(&self, last: Arc<Object>);
    /// The server refuses to tell.
    fn refused(&self) {}
}

impl Sink for Objects {
    fn pointers(&self) -> Vec<&'static str> {
        self.pointers()
    }

    fn replace(&self, all: Vec<Arc<Object>>) {
        self.replace(all);
    }

    fn upsert(&self, object: Arc<Object>) {
        self.upsert(object);
    }

    fn delete(&self, last: Arc<Object>) {
        self.delete_at(last);
    }
}

/// Keeps `sink` equal to what `source` selects, until the shutdown.
pub async fn follow(client: &Client, source: &Source, sink: &dyn Sink, shutdown: &Shutdown) {
    let mut failures = 0;
    let mut revision = String::new();
    while !shutdown.is_triggered() {
        let Some(step) = shutdown.or(step(client, source, sink, &mut revision)).await else { break };
        match step {
            Ok(()) => failures = 0,
            Err(e) if e.reason == Reason::Expired || e.reason == Reason::Gone => {
                tracing::debug!(resource = %source.res.plural, "the watch fell behind; listing again");
                revision.clear();
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(resource = %source.res.plural, failures, "cannot follow: {error}");
                if error.reason == Reason::Forbidden {
                    sink.refused();
                }
                let delay = RETRY.delay(failures).mul_f64(rand::rng().random_range(1.0..1.5));
                shutdown.or(tokio::time::sleep(delay)).await;
            }
        }
    }
}

/// One list where no revision is known, else one watch to its end.
async fn step(client: &Client, source: &Source, sink: &dyn Sink, revision: &mut String) -> ApiResult<()> {
    if revision.is_empty() {
        *revision = list(client, source, sink).await?;
    }
    let options = ListOptions { resource_version: revision.clone(), allow_bookmarks: true, ..source.select.clone() };
    let mut events = client.watch(&source.res, source.namespace.as_deref(), &options).await?;
    let pointers = sink.pointers();
    while let Some(event) = events.next().await {
        let event = event?;
        if let Some(at) = event.object.str_at("/metadata/resourceVersion") {
            at.clone_into(revision);
        }
        match event.kind {
            WatchKind::Added | WatchKind::Modified => {
                sink.upsert(Arc::new(Object::from_value(&event.object, &pointers)));
            }
            WatchKind::Deleted => sink.delete(Arc::new(Object::from_value(&event.object, &pointers))),
            WatchKind::Bookmark => {}
        }
    }
    Ok(())
}

/// Lists page by page and replaces the state; gives back the list's revision.
async fn list(client: &Client, source: &Source, sink: &dyn Sink) -> ApiResult<String> {
    let mut options = ListOptions { limit: PAGE, ..source.select.clone() };
    let pointers = sink.pointers();
    let mut all = Vec::new();
    loop {
        let mut page = client.list(&source.res, source.namespace.as_deref(), &options).await?;
        for mut item in page.remove_at("/items").and_then(into_items).unwrap_or_default() {
            // Items of a list do not say what they are.
            item.set_if_absent("/apiVersion", source.res.api_version());
            item.set_if_absent("/kind", &*source.res.kind);
            all.push(Arc::new(Object::from_value(&item, &pointers)));
        }
        match page.str_at("/metadata/continue") {
            Some(token) if !token.is_empty() => token.clone_into(&mut options.continue_token),
            _ => {
                let revision = page.str_at("/metadata/resourceVersion").filter(|r| !r.is_empty());
                let revision = revision.ok_or_else(|| Status::internal("a list without a resourceVersion"))?.to_owned();
                sink.replace(all);
                return Ok(revision);
            }
        }
    }
}

fn into_items(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// Listers over a remote server; each informer starts when its lister is first asked for.
pub struct RemoteListers {
    sources: Vec<Source>,
    made: Mutex<HashMap<(String, String), Arc<Objects>>>,
    start: mpsc::UnboundedSender<(Source, Arc<Objects>)>,
}

/// Runs the informers of a [`RemoteListers`].
pub struct Informers {
    client: Client,
    starts: mpsc::UnboundedReceiver<(Source, Arc<Objects>)>,
}

impl RemoteListers {
    /// `sources` narrow what is followed of some resources; others are followed whole.
    pub fn new(client: Client, sources: Vec<Source>) -> (Arc<Self>, Informers) {
        // Bounded by the number of resources: a lister is made once for each.
        let (start, starts) = mpsc::unbounded_channel();
        (Arc::new(Self { sources, made: Mutex::default(), start }), Informers { client, starts })
    }

    fn source(&self, group: &str, resource: &str) -> Option<Source> {
        let named = |r: &Res| r.group == group && r.plural == resource;
        let narrowed = self.sources.iter().find(|s| named(&s.res)).cloned();
        narrowed.or_else(|| res::ALL.iter().find(|r| named(r)).map(|r| Source::all(r)))
    }
}

impl RemoteListers {
    /// The state behind a lister.
    pub(super) fn objects(&self, group: &str, resource: &str) -> Arc<Objects> {
        let mut made = self.made.lock();
        let objects = made.entry((group.to_owned(), resource.to_owned())).or_insert_with(|| {
            let objects = Objects::new(fields::indexed(group, resource));
            match self.source(group, resource) {
                // The receiver is gone only when the process stops.
                Some(source) => drop(self.start.send((source, objects.clone()))),
                None => tracing::error!(group, resource, "no such resource; its lister stays empty"),
            }
            objects
        });
        objects.clone()
    }
}

impl Listers for RemoteListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        self.objects(group, resource)
    }
}

impl Informers {
    /// Follows everything that is asked for, until the shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => break,
                Some((source, objects)) = self.starts.recv() => {
                    let (client, shutdown) = (self.client.clone(), shutdown.clone());
                    running.push(async move {
                        follow(&client, &source, &*objects, &shutdown).await;
                        objects.close();
                    });
                }
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
        while running.next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::json;
    use std::collections::VecDeque;
    use std::convert::Infallible;

    fn pod(name: &str, revision: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": revision}})
    }

    /// Answers requests one after another, then asks to stop; keeps what it was asked.
    fn scripted(answers: Vec<Value>, stop: Shutdown) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers) = (asked.clone(), Arc::new(Mutex::new(VecDeque::from(answers))));
        let client = Client::in_process(tower::service_fn(move |request: Request<Body>| {
            log.lock().push(request.uri().to_string());
            let answer = answers.lock().pop_front();
            if answer.is_none() {
                stop.trigger();
            }
            let lines = match answer {
                Some(Value::Array(events)) => events.iter().map(|e| format!("{e}\n")).collect(),
                other => other.unwrap_or_default().to_string(),
            };
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(lines)))) }
        }));
        (client, asked)
    }

    #[tokio::test]
    async fn watches_resume_and_fall_back_to_a_list() {
        let list =
            |revision: &str, items: Vec<Value>| json!({"metadata": {"resourceVersion": revision}, "items": items});
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let shutdown = Shutdown::new();
        let answers = vec![
            list("5", vec![pod("a", "4"), pod("b", "5")]),
            json!([event("MODIFIED", pod("a", "6")), event("BOOKMARK", json!({"metadata": {"resourceVersion": "9"}}))]),
            json!([event("ERROR", Status::expired("too old").to_value())]),
            list("20", vec![pod("c", "12")]),
        ];
        let (client, asked) = scripted(answers, shutdown.clone());
        let objects = Objects::new(&[]);
        follow(&client, &Source::all(&res::PODS), &*objects, &shutdown).await;
        let watched: Vec<String> = asked
            .lock()
            .iter()
            .map(|u| match u.split_once("resourceVersion=") {
                Some((_, rest)) => rest.split('&').next().unwrap_or_default().to_owned(),
                None => "list".into(),
            })
            .collect();
        assert_eq!(watched, ["list", "5", "9", "list", "20"]);
        let names: Vec<String> = objects.list(None).iter().map(|o| o.meta.name.clone()).collect();
        assert_eq!(names, ["c"]);
        assert_eq!(objects.list(None)[0].gvk.to_string(), "v1, Kind=Pod");
        assert!(objects.synced());
    }
}
