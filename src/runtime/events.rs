//! Events for people: what a component did to an object, or could not do.
//!
//! In: [`Recorder::event`], from anywhere, never waiting. Out: core v1 Events through the client. The same event again
//! raises a count; many that differ only in their message become one; an object that talks too much is cut short.
//! Rules: upstream `client-go/tools/record` (correlator, aggregator, spam filter) with its defaults.
//!
//! **Invariant:** an event that cannot be written is dropped; nothing waits for events.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::object::Object;
use crate::api::status::Reason;
use crate::client::{Client, Patch, res};
use crate::util::clock::{SharedClock, rfc3339};
use crate::util::tasks::Shutdown;

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1000;
/// Kinds of events remembered for counting; the oldest is forgotten first.
const REMEMBERED: usize = 4096;
/// Events of one object that may come at once.
const BURST: f64 = 25.0;
/// Seconds after which an object may send one more.
const REFILL_SECONDS: f64 = 300.0;
/// So many events that differ only in their message, within [`SIMILAR_WINDOW`], become one.
const SIMILAR: usize = 10;
/// See [`SIMILAR`].
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Bytes of a message; upstream refuses longer ones.
const MESSAGE_MAX: usize = 1024;

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Something is wrong.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about, as `v1.ObjectReference`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // the names are upstream's
pub struct Regarding {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// As `spec.containers{web}`; empty for the whole object.
    pub field_path: String,
}

impl Regarding {
    /// A part of the object.
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field_path = path.into();
        self
    }

    fn to_value(&self) -> Value {
        let mut v = json!({"kind": self.kind, "name": self.name, "uid": self.uid, "apiVersion": self.api_version});
        for (key, value) in [
            ("namespace", &self.namespace),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ] {
            if !value.is_empty() {
                v[key] = value.as_str().into();
            }
        }
        v
    }
}

impl From<&Object> for Regarding {
    fn from(o: &Object) -> Self {
        Self {
            api_version: o.gvk.api_version(),
            kind: o.gvk.kind.to_string(),
            namespace: o.meta.namespace.clone(),
            name: o.meta.name.clone(),
            uid: o.meta.uid.clone(),
            resource_version: o.revision.to_string(),
            field_path: String::new(),
        }
    }
}

impl From<&Arc<Object>> for Regarding {
    fn from(o: &Arc<Object>) -> Self {
        Self::from(&**o)
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    regarding: Regarding,
    kind: EventType,
    reason: String,
    message: String,
    component: String,
    host: String,
    /// What else it is about.
    related: Option<Regarding>,
}

/// Takes events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    component: Arc<str>,
    host: Arc<str>,
    queue: mpsc::Sender<Event>,
}

/// Writes what recorders of the same origin took.
pub struct EventWriter {
    client: Client,
    clock: SharedClock,
    queue: mpsc::Receiver<Event>,
    correlator: Correlator,
}

/// A recorder for `component` (on `host`, empty for none), and the writer that somebody has to run.
pub fn recorder(client: Client, component: &str, host: &str, clock: SharedClock) -> (Recorder, EventWriter) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let recorder = Recorder { component: component.into(), host: host.into(), queue: sender };
    (recorder, EventWriter { client, clock, queue, correlator: Correlator::default() })
}

impl Recorder {
    /// The same queue under another component's name.
    pub fn named(&self, component: &str) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Records an event. Never waits; what does not fit in the queue is dropped.
    pub fn event(&self, about: impl Into<Regarding>, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record(about.into(), None, kind, reason, message.into());
    }

    /// A Normal event about one object that another one made happen.
    pub fn related(
        &self,
        about: impl Into<Regarding>,
        other: impl Into<Regarding>,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(about.into(), Some(other.into()), EventType::Normal, reason, message.into());
    }

    fn record(&self, about: Regarding, other: Option<Regarding>, kind: EventType, reason: &str, mut message: String) {
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX - 3).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        let event = Event {
            regarding: about,
            kind,
            reason: reason.into(),
            message,
            component: (*self.component).into(),
            host: (*self.host).into(),
            related: other,
        };
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "too many events; one is dropped");
        }
    }

    /// A Normal event.
    pub fn normal(&self, about: impl Into<Regarding>, reason: &str, message: impl Into<String>) {
        self.event(about, EventType::Normal, reason, message);
    }

    /// A Warning event.
    pub fn warning(&self, about: impl Into<Regarding>, reason: &str, message: impl Into<String>) {
        self.event(about, EventType::Warning, reason, message);
    }
}

impl EventWriter {
    /// What recorders said and nobody has written, as `Reason: message`.
    #[cfg(test)]
    pub fn unwritten(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).map(|e| format!("{}: {}", e.reason, e.message)).collect()
    }

    /// Writes events until the shutdown, or until the last recorder is gone.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.client = self.client.blind();
        while let Some(Some(event)) = shutdown.or(self.queue.recv()).await {
            let Some(plan) = self.correlator.plan(event, self.clock.now()) else { continue };
            let namespace = plan.namespace.clone();
            if let Err(error) = self.write(plan).await {
                tracing::debug!(namespace, "cannot write an event: {error}");
            }
        }
    }

    async fn write(&self, plan: Write) -> crate::api::status::ApiResult<()> {
        if plan.count > 1 {
            let body = json!({"count": plan.count, "message": plan.body["message"],
                "lastTimestamp": plan.body["lastTimestamp"]});
            match self.client.patch(&res::EVENTS, &plan.namespace, &plan.name, None, Patch::Merge(&body)).await {
                // It has expired meanwhile: write it anew.
                Err(e) if e.reason == Reason::NotFound => {}
                other => return other.map(drop),
            }
        }
        self.client.create(&res::EVENTS, &plan.namespace, &plan.body).await.map(drop)
    }
}

/// What to write: a new event where `count` is 1, else a new count of a known one.
#[derive(Debug, PartialEq)]
struct Write {
    namespace: String,
    name: String,
    count: u32,
    body: Value,
}

/// What was seen before, and what follows from it. Pure but for its memory, which is bounded.
#[derive(Debug, Default)]
struct Correlator {
    seen: Memory<Identity, Seen>,
    similar: Memory<Group, Similar>,
    talk: Memory<(String, Regarding), Bucket>,
}

type Group = (String, Regarding, EventType, String);
type Identity = (Group, String);

#[derive(Debug, Clone)]
struct Seen {
    name: String,
    count: u32,
    first: String,
}

#[derive(Debug, Clone)]
struct Similar {
    messages: Vec<String>,
    last: Timestamp,
}

#[derive(Debug, Clone)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Correlator {
    /// Decides what becomes of an event; `None` drops it.
    fn plan(&mut self, mut event: Event, now: Timestamp) -> Option<Write> {
        // The revision says nothing about whether two events are the same.
        let about = Regarding { resource_version: String::new(), ..event.regarding.clone() };
        let group: Group = (event.component.clone(), about.clone(), event.kind, event.reason.clone());
        let combined = self.is_one_of_many(&group, &event.message, now);
        let identity = (group, if combined { String::new() } else { event.message.clone() });
        if combined {
            event.message = format!("(combined from similar events): {}", event.message);
        }
        if !self.may_talk((event.component.clone(), about), now) {
            return None;
        }
        let stamp = rfc3339(now);
        let fresh = || Seen {
            name: format!("{}.{:x}", event.regarding.name, now.as_nanosecond()),
            count: 0,
            first: stamp.clone(),
        };
        let seen = self.seen.entry(identity, fresh);
        seen.count += 1;
        let namespace = match &*event.regarding.namespace {
            "" => "default",
            ns => ns,
        };
        let mut source = json!({"component": event.component});
        if !event.host.is_empty() {
            source["host"] = event.host.as_str().into();
        }
        let mut body = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": seen.name, "namespace": namespace},
            "involvedObject": event.regarding.to_value(),
            "reason": event.reason, "message": event.message, "source": source,
            "firstTimestamp": seen.first, "lastTimestamp": stamp, "count": seen.count,
            "type": event.kind.as_str(), "eventTime": null,
            "reportingComponent": event.component, "reportingInstance": event.host,
        });
        if let Some(related) = &event.related {
            body["related"] = related.to_value();
        }
        Some(Write { namespace: namespace.to_owned(), name: seen.name.clone(), count: seen.count, body })
    }

    fn is_one_of_many(&mut self, group: &Group, message: &str, now: Timestamp) -> bool {
        let similar = self.similar.entry(group.clone(), || Similar { messages: Vec::new(), last: now });
        if now.duration_since(similar.last).unsigned_abs() > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        if !similar.messages.iter().any(|m| m == message) && similar.messages.len() < SIMILAR {
            similar.messages.push(message.to_owned());
        }
        similar.messages.len() >= SIMILAR
    }

    fn may_talk(&mut self, who: (String, Regarding), now: Timestamp) -> bool {
        let bucket = self.talk.entry(who, || Bucket { tokens: BURST, at: now });
        let waited = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + waited / REFILL_SECONDS).min(BURST);
        bucket.at = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        may
    }
}

/// A map of at most [`REMEMBERED`] entries that forgets the oldest.
#[derive(Debug)]
struct Memory<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Memory<K, V> {
    fn entry(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() == REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> Event {
        Event {
            regarding: Regarding { name: "web".into(), namespace: "n".into(), uid: "u".into(), ..Regarding::default() },
            kind: EventType::Normal,
            reason: "Scaled".into(),
            message: message.into(),
            component: "c".into(),
            host: String::new(),
            related: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut c = Correlator::default();
        let first = c.plan(event("a"), at(0)).unwrap();
        let second = c.plan(event("a"), at(60)).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name, second.name);
        assert_eq!(second.body["firstTimestamp"], first.body["firstTimestamp"]);
        assert_ne!(c.plan(event("b"), at(61)).unwrap().name, first.name);
    }

    #[test]
    fn many_similar_ones_become_one() {
        let mut c = Correlator::default();
        let plans: Vec<_> = (0..14).map(|i| c.plan(event(&i.to_string()), at(i)).unwrap()).collect();
        assert!(plans[..9].iter().all(|p| p.count == 1), "each of the first has an event of its own");
        assert_eq!(plans[13].body["message"], "(combined from similar events): 13");
        assert_eq!((plans[9].name == plans[13].name, plans[13].count), (true, 5));
    }

    #[test]
    fn one_object_cannot_flood() {
        let mut c = Correlator::default();
        let written = (0..100).filter(|_| c.plan(event("a"), at(0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(c.plan(event("a"), at(299)).is_none());
        assert!(c.plan(event("a"), at(301)).is_some(), "one more every five minutes");
    }

    #[test]
    fn events_of_cluster_scoped_objects_go_to_default() {
        let mut e = event("a");
        e.regarding.namespace.clear();
        assert_eq!(Correlator::default().plan(e, at(0)).unwrap().namespace, "default");
    }

    #[test]
    fn memory_is_bounded() {
        let mut m = Memory::default();
        for i in 0..REMEMBERED + 10 {
            *m.entry(i, || 0) += 1;
        }
        assert_eq!((m.map.len(), m.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!m.map.contains_key(&0));
    }
}
