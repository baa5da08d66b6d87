//! Get, list and watch: answers made of the watch cache's bytes.
//!
//! **Invariant:** a plain JSON answer copies bytes and decodes nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::codec;
use crate::api::object::Object;
use crate::api::schema;
use crate::api::status::{ApiResult, Status};
use crate::api::table::{self, Include};
use crate::api::value::ValueExt;
use crate::registry::write::Stored;
use crate::registry::{Registry, Resource};
use crate::store::cache::{Cache, Cursor, Event, EventKind, FORM_FREE, Since};
use crate::util::tasks::Shutdown;

use super::negotiate::{Encoding, Form, MetaVersion, Shape};
use super::respond::{self, Answer};
use super::selection::{Match, Options, Token, too_large};

/// Bytes of a list that go out as one part.
const LIST_PART_BYTES: usize = 256 << 10;
/// How long a read waits for a revision that is still to come.
const FUTURE_REVISION_WAIT: Duration = Duration::from_secs(3);
/// Time between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Shortest time a watch lives when the client does not say; the longest is twice that.
const WATCH_SECONDS: u64 = 1800;
/// The longest time that a client can ask for: a year. A clock that is asked for more overflows.
const WATCH_SECONDS_MAX: u64 = 365 * 86_400;
/// Bytes of a watch that go out as one part, and a single event beyond that.
const WATCH_PART_BYTES: usize = 256 << 10;

/// What a read needs to know beside its options.
pub struct ReadCx<'a> {
    /// Converts where a webhook does.
    pub registry: &'a Arc<Registry>,
    /// The current state.
    pub cache: &'a Arc<Cache>,
    /// The kind.
    pub resource: &'a Arc<Resource>,
    /// Form of the answer.
    pub form: Form,
    /// What rows of Tables carry.
    pub include: Include,
    /// For ages.
    pub now: Timestamp,
}

impl ReadCx<'_> {
    /// One object.
    pub async fn get(&self, namespace: &str, name: &str) -> ApiResult<Answer> {
        let info = &self.resource.info;
        let object = self
            .cache
            .resource(&info.stored)
            .get(namespace, name)
            .ok_or_else(|| Status::not_found(&info.gvk.group, &info.plural, name))?;
        let object = self.registry.one_in_version(self.resource, object).await?;
        if self.form == Form::JSON && !self.resource.converts() {
            return Ok(respond::json_bytes(200, object.json.clone()));
        }
        Ok(self.shaped(200, &self.value(&object)))
    }

    /// An object in the request's version. Partial metadata is the stored form's: a version adds nothing to it.
    pub fn value(&self, object: &Object) -> Value {
        let mut v = object.value();
        if !matches!(self.form.shape, Shape::Partial { .. }) {
            self.resource.from_stored(&mut v);
        }
        v
    }

    /// What a write left, in the form that was asked for.
    pub fn stored(&self, code: u16, stored: Stored) -> Answer {
        match stored.json() {
            Some(json) if self.form == Form::JSON && !self.resource.converts() => {
                respond::json_bytes(code, json.clone())
            }
            _ => self.shaped(code, &stored.into_object()),
        }
    }

    /// An object's value in the form that was asked for.
    pub fn shaped(&self, code: u16, value: &Value) -> Answer {
        match self.form.shape {
            Shape::Full => respond::encoded(code, value, self.form.encoding),
            Shape::Table(v) => {
                let metadata = json!({"resourceVersion": value.get_at("/metadata/resourceVersion")});
                let row = table::row(&self.resource.info, value, self.include, v.api_version(), self.now);
                let t = table::table(&self.resource.info, metadata, vec![row], v.api_version(), true);
                respond::encoded(code, &t, self.form.encoding)
            }
            Shape::Partial { version: v, .. } => {
                respond::encoded(code, &table::partial(&self.resource.info, value, v.api_version()), self.form.encoding)
            }
        }
    }

    /// All objects that are asked for, in pages when limited.
    pub async fn list(&self, namespace: Option<&str>, options: &Options) -> ApiResult<Answer> {
        let (objects, metadata) = self.select(namespace, options).await?;
        Ok(self.list_answer(objects, metadata))
    }

    /// The objects that are asked for, and the metadata of their list.
    pub async fn select(&self, namespace: Option<&str>, options: &Options) -> ApiResult<(Vec<Arc<Object>>, Value)> {
        self.reach(options.revision).await?;
        let past = match &options.continued {
            Some(token) => token.revision,
            // Without a word about it, pages of a given revision are of exactly that one.
            None => options.revision.filter(|r| match options.matching {
                Match::Exact => true,
                Match::Unset => *r > 0 && options.limit > 0,
                Match::NotOlderThan => false,
            }),
        };
        let narrow = options.selection.narrowed(namespace, self.resource).filter(|_| past.is_none());
        let state = match narrow {
            Some(narrow) => Ok(self.cache.resource(&self.resource.info.stored).list_narrowly(namespace, &narrow)),
            None => self.state(namespace, past),
        };
        let (mut objects, revision) = state.map_err(|Compacted| match &options.continued {
            Some(token) => expired_token(token),
            None => Status::expired("The resourceVersion for the provided list is too old."),
        })?;
        let selection = &options.selection;
        if let Some(token) = &options.continued {
            let after = (token.namespace.as_str(), token.name.as_str());
            let begin = objects.partition_point(|o| (o.meta.namespace.as_str(), o.meta.name.as_str()) <= after);
            objects.drain(..begin);
        }
        if !selection.is_everything() {
            // Labels and fields are those of the version that is asked for.
            objects = self.registry.in_version(self.resource, objects).await?;
            objects.retain(|o| selection.matches(o));
        }
        let (mut next, mut remaining) = (None, None);
        // A list that may be as old as the server likes is given whole, but not where it goes on with pages.
        let any = options.revision == Some(0) && options.matching == Match::Unset && options.continued.is_none();
        let limit = if any { 0 } else { options.limit };
        if limit > 0 && objects.len() > limit {
            remaining = selection.is_everything().then_some(objects.len() - limit);
            objects.truncate(limit);
            next = objects.last().map(|o| (o.meta.namespace.clone(), o.meta.name.clone()));
        }
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), revision.to_string().into());
        if let Some((namespace, name)) = next {
            metadata.insert("continue".into(), Token { revision: Some(revision), namespace, name }.encode().into());
            if let Some(n) = remaining {
                metadata.insert("remainingItemCount".into(), n.into());
            }
        }
        let objects = self.registry.in_version(self.resource, objects).await?;
        Ok((objects, Value::Object(metadata)))
    }

    /// A list of objects that are stored nowhere.
    pub fn made_list(&self, all: &[Value], options: &Options) -> Answer {
        let objects = all.iter().map(|v| Arc::new(Object::from_value(v, &[])));
        let found = objects.filter(|o| options.selection.matches(o)).collect();
        self.list_answer(found, json!({"resourceVersion": self.cache.revision().to_string()}))
    }

    /// The objects in key order and their revision: the present, or the past as far as the ring of events reaches back.
    fn state(&self, namespace: Option<&str>, past: Option<u64>) -> Result<(Vec<Arc<Object>>, u64), Compacted> {
        let resource = self.cache.resource(&self.resource.info.stored);
        let Some(past) = past else { return Ok(resource.list(namespace)) };
        // Events first: what comes between is undone twice, which changes nothing.
        let mut cursor = resource.watch(Since::Revision(past)).map_err(|_| Compacted)?;
        let (mut objects, _) = resource.list(namespace);
        let mut events = Vec::new();
        loop {
            match cursor.try_next().map_err(|_| Compacted)? {
                more if more.is_empty() => break,
                more => events.extend(more),
            }
        }
        if events.is_empty() {
            return Ok((objects, past));
        }
        let mut by_key: BTreeMap<(String, String), Arc<Object>> =
            objects.drain(..).map(|o| ((o.meta.namespace.clone(), o.meta.name.clone()), o)).collect();
        for event in events.iter().rev().filter(|e| namespace.is_none_or(|ns| ns == e.object.meta.namespace)) {
            let key = (event.object.meta.namespace.clone(), event.object.meta.name.clone());
            match &event.previous {
                Some(previous) => by_key.insert(key, previous.clone()),
                None => by_key.remove(&key),
            };
        }
        by_key.retain(|_, o| o.revision <= past);
        Ok((by_key.into_values().collect(), past))
    }

    /// Waits for a revision that is still to come, a little.
    pub(super) async fn reach(&self, revision: Option<u64>) -> ApiResult<()> {
        let Some(asked) = revision.filter(|r| *r > self.cache.revision()) else { return Ok(()) };
        match tokio::time::timeout(FUTURE_REVISION_WAIT, self.cache.wait_for(asked)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(too_large(asked, self.cache.revision())),
        }
    }

    /// A list of these objects.
    pub fn list_answer(&self, objects: Vec<Arc<Object>>, mut metadata: Value) -> Answer {
        let info = &self.resource.info;
        if matches!(self.form.shape, Shape::Full) && self.resource.custom.is_some() {
            // A list without a type says so, too, when there is no more.
            metadata.set_if_absent("/continue", "");
        }
        match self.form.shape {
            Shape::Full if self.form.encoding == Encoding::Json && !self.resource.converts() => {
                let head = format!(
                    "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                    json!(self.resource.list_kind),
                    json!(info.gvk.api_version()),
                );
                let parts = ListParts {
                    prefix: type_prefix(self.resource),
                    head: Some(head),
                    objects: objects.into_iter(),
                    first: true,
                    done: false,
                };
                respond::answer(200, Encoding::Json.content_type(), respond::stream(parts))
            }
            Shape::Full => {
                let items: Vec<Value> = objects
                    .iter()
                    .map(|o| {
                        let mut v = self.value(o);
                        if let (Some(map), true) = (v.as_object_mut(), self.resource.def.is_some()) {
                            map.shift_remove("kind");
                            map.shift_remove("apiVersion");
                        }
                        v
                    })
                    .collect();
                let list = json!({"kind": self.resource.list_kind, "apiVersion": info.gvk.api_version(), "metadata": metadata, "items": items});
                respond::encoded(200, &list, self.form.encoding)
            }
            Shape::Table(v) => {
                let row = |o: &Arc<Object>| table::row(info, &self.value(o), self.include, v.api_version(), self.now);
                let rows = objects.iter().map(row).collect();
                respond::encoded(200, &table::table(info, metadata, rows, v.api_version(), true), self.form.encoding)
            }
            Shape::Partial { version: v, .. } => {
                let items: Vec<Value> =
                    objects.iter().map(|o| table::partial(info, &self.value(o), v.api_version())).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": v.api_version(), "metadata": metadata, "items": items});
                respond::encoded(200, &list, self.form.encoding)
            }
        }
    }

    /// Changes as they come.
    pub async fn watch(&self, namespace: Option<&str>, options: Options, shutdown: Shutdown) -> ApiResult<Answer> {
        let since = match (options.revision, options.initial_events) {
            (_, Some(true)) => Since::Initial,
            (None | Some(0), _) => Since::Now,
            (Some(revision), _) => Since::Revision(revision),
        };
        if options.initial_events == Some(true) {
            self.reach(options.revision).await?;
        }
        let resource = self.cache.resource(&self.resource.info.stored);
        let seconds = options.timeout.unwrap_or_else(|| rand::random_range(WATCH_SECONDS..=2 * WATCH_SECONDS));
        let teller = Teller {
            resource: self.resource.clone(),
            form: self.form,
            include: self.include,
            columns_sent: false,
            marks_initial: options.initial_events == Some(true) && options.bookmarks,
            bookmarks: options.bookmarks,
            namespace: namespace.map(str::to_owned),
            selection: options.selection,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds.min(WATCH_SECONDS_MAX));
        let content_type = match self.form.encoding {
            Encoding::Proto => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => Encoding::Json.content_type(),
        };
        let watched = match teller.selection.narrowed(namespace, self.resource) {
            Some(narrow) => resource.watch_narrowly(since, narrow),
            None => resource.watch(since),
        };
        let body = match watched {
            Ok(cursor) => {
                let replaced = self.resource.custom.as_ref().map(|c| c.definition.replaced.clone());
                let stop = async move {
                    match replaced {
                        Some(replaced) => drop(shutdown.or(replaced.wait()).await),
                        None => shutdown.wait().await,
                    }
                };
                let converting = self.resource.custom.is_some().then(|| self.registry.clone());
                respond::stream(watch_parts(teller, cursor, converting, deadline, Box::pin(stop)))
            }
            Err(gone) => {
                let status = Status::expired(format!("too old resource version: {} ({})", gone.since, gone.oldest));
                respond::full(teller.frame("ERROR", &status.to_value()))
            }
        };
        let mut answer = respond::answer(200, content_type, body);
        answer.extensions_mut().insert(respond::Endless);
        Ok(answer)
    }
}

/// The past that was asked for is not kept any more.
struct Compacted;

/// 410 for a list that cannot go on at its revision, with a token that goes on with the present.
fn expired_token(token: &Token) -> Box<Status> {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the rest of it as it is now: the parts will not be of one moment.",
    );
    status.go_on = Some(Token { revision: None, ..token.clone() }.encode());
    status
}

/// `{"kind":"Pod","apiVersion":"v1",` as objects of the kind begin; items of lists go without it.
fn type_prefix(resource: &Resource) -> String {
    match resource.def {
        Some(_) => format!(
            "{{\"kind\":{},\"apiVersion\":{},",
            json!(resource.info.gvk.kind),
            json!(resource.info.gvk.api_version())
        ),
        None => String::new(),
    }
}

/// A list's JSON in parts of some size: bytes of the objects, copied once.
struct ListParts {
    prefix: String,
    head: Option<String>,
    objects: std::vec::IntoIter<Arc<Object>>,
    first: bool,
    done: bool,
}

impl Stream for ListParts {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.done {
            return Poll::Ready(None);
        }
        let mut part = BytesMut::with_capacity(LIST_PART_BYTES / 16);
        if let Some(head) = self.head.take() {
            part.put_slice(head.as_bytes());
        }
        while part.len() < LIST_PART_BYTES {
            let Some(o) = self.objects.next() else {
                part.put_slice(b"]}\n");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                part.put_u8(b',');
            }
            match o.json.strip_prefix(self.prefix.as_bytes()) {
                Some(rest) if !self.prefix.is_empty() => {
                    part.put_u8(b'{');
                    part.put_slice(rest);
                }
                _ => part.put_slice(&o.json),
            }
        }
        Poll::Ready(Some(part.freeze()))
    }
}

/// Says one watcher's events in its form.
struct Teller {
    resource: Arc<Resource>,
    form: Form,
    include: Include,
    columns_sent: bool,
    /// A bookmark tells when the initial state is complete.
    marks_initial: bool,
    bookmarks: bool,
    namespace: Option<String>,
    selection: super::selection::Selection,
}

impl Teller {
    fn sees(&self, o: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|ns| *ns == o.meta.namespace) && self.selection.matches(o)
    }

    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let kind = event.seen_by(|o| self.sees(o))?;
        if self.form == Form::JSON && !self.resource.converts() {
            return Some(event.json_line(kind));
        }
        let columns = std::mem::replace(&mut self.columns_sent, true);
        let make = |columns: bool| {
            let mut value: Value = serde_json::from_slice(&event.json(kind)).unwrap_or(Value::Null);
            if !matches!(self.form.shape, Shape::Partial { .. }) {
                self.resource.from_stored(&mut value);
            }
            self.frame(kind.as_str(), &self.shape(value, columns))
        };
        let form = match (self.form.shape, self.form.encoding) {
            (Shape::Full, Encoding::Proto) if !self.resource.converts() => 0,
            (Shape::Partial { version: MetaVersion::V1, .. }, Encoding::Json) => 1,
            // Ages and the first event's columns differ from watcher to watcher.
            _ => {
                return Some(make(!columns));
            }
        };
        Some(event.encoded(FORM_FREE + form * 4 + kind as u32, || make(false)))
    }

    /// The next events in one part; none when there is none that this watcher sees.
    fn part(&mut self, events: &mut std::vec::IntoIter<Arc<Event>>) -> Option<Bytes> {
        let (mut first, mut part) = (None, BytesMut::new());
        for event in events {
            let Some(bytes) = self.event(&event) else { continue };
            match first.take() {
                // One alone is what all watchers share, and is not copied.
                None if part.is_empty() => first = Some(bytes),
                before => {
                    before.iter().for_each(|b: &Bytes| part.put_slice(b));
                    part.put_slice(&bytes);
                }
            }
            if part.len() + first.as_ref().map_or(0, Bytes::len) >= WATCH_PART_BYTES {
                break;
            }
        }
        first.or_else(|| (!part.is_empty()).then(|| part.freeze()))
    }

    fn shape(&self, value: Value, columns: bool) -> Value {
        match self.form.shape {
            Shape::Full => value,
            Shape::Partial { version: v, .. } => table::partial(&self.resource.info, &value, v.api_version()),
            Shape::Table(v) => {
                let metadata = json!({"resourceVersion": value.get_at("/metadata/resourceVersion")});
                let row = table::row(&self.resource.info, &value, self.include, v.api_version(), Timestamp::now());
                table::table(&self.resource.info, metadata, vec![row], v.api_version(), columns)
            }
        }
    }

    /// One event as bytes.
    fn frame(&self, kind: &str, object: &Value) -> Bytes {
        if self.form.encoding == Encoding::Proto
            && let Some(body) = respond::proto(object)
        {
            return codec::proto::watch_frame(kind, &body).into();
        }
        let mut line = serde_json::to_vec(&json!({"type": kind, "object": object})).expect("a JSON value serializes");
        line.push(b'\n');
        line.into()
    }

    fn bookmark(&self, revision: u64, ends_initial: bool) -> Bytes {
        let info = &self.resource.info;
        let mut object = json!({"kind": info.gvk.kind, "apiVersion": info.gvk.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}});
        if ends_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        if let Some(def) = self.resource.def {
            object = schema::canonicalize(object, def).map_or(Value::Null, |made| made.value);
        }
        let object = match self.form.shape {
            // A table bookmark carries no row, only the position.
            Shape::Table(v) => {
                let metadata = object["metadata"].clone();
                let row = json!({"cells": [], "object": table::partial(info, &json!({"metadata": metadata}), v.api_version())});
                table::table(info, json!({"resourceVersion": revision.to_string()}), vec![row], v.api_version(), false)
            }
            _ => self.shape(object, false),
        };
        self.frame("BOOKMARK", &object)
    }
}

fn watch_parts(
    teller: Teller,
    cursor: Cursor,
    converting: Option<Arc<Registry>>,
    deadline: tokio::time::Instant,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> impl Stream<Item = Bytes> + Send {
    /// A thousand of these wake for one event: what each waits for is made once, not for every event.
    struct State {
        teller: Teller,
        cursor: Cursor,
        /// For kinds whose versions a webhook converts.
        converting: Option<Arc<Registry>>,
        /// Read from the cursor, not yet told.
        events: std::vec::IntoIter<Arc<Event>>,
        deadline: tokio::time::Instant,
        /// Set to the next bookmark, or to the end.
        timer: Pin<Box<tokio::time::Sleep>>,
        stop: Pin<Box<dyn Future<Output = ()> + Send>>,
        initial_done: bool,
        ended: bool,
    }
    let next = |deadline, bookmarks| match bookmarks {
        true => tokio::time::Instant::min(tokio::time::Instant::now() + BOOKMARK_EVERY, deadline),
        false => deadline,
    };
    let state = State {
        initial_done: !teller.marks_initial,
        timer: Box::pin(tokio::time::sleep_until(next(deadline, teller.bookmarks))),
        stop,
        teller,
        cursor,
        converting,
        events: Vec::new().into_iter(),
        deadline,
        ended: false,
    };
    futures::stream::unfold(state, move |mut s| async move {
        loop {
            if s.ended {
                return None;
            }
            if let Some(part) = s.teller.part(&mut s.events) {
                return Some((part, s));
            }
            if !s.initial_done && s.cursor.synced() {
                s.initial_done = true;
                let revision = s.cursor.revision();
                return Some((s.teller.bookmark(revision, true), s));
            }
            tokio::select! {
                biased;
                () = &mut s.stop => return None,
                () = &mut s.timer => {
                    s.ended = tokio::time::Instant::now() >= s.deadline;
                    if s.teller.bookmarks {
                        s.timer.as_mut().reset(next(s.deadline, true));
                        let revision = s.cursor.revision();
                        return Some((s.teller.bookmark(revision, false), s));
                    }
                }
                batch = s.cursor.next_batch() => match batch {
                    Ok(events) => match in_version(s.converting.as_deref(), &s.teller.resource, events).await {
                        Ok(events) => s.events = events.into_iter(),
                        Err(status) => {
                            s.ended = true;
                            return Some((s.teller.frame("ERROR", &status.to_value()), s));
                        }
                    },
                    Err(gone) => {
                        s.ended = true;
                        let status = Status::expired(format!("too old resource version: {} ({})", gone.since, gone.oldest));
                        return Some((s.teller.frame("ERROR", &status.to_value()), s));
                    }
                },
            }
        }
    })
}

async fn in_version(
    converting: Option<&Registry>,
    resource: &Resource,
    events: Vec<Arc<Event>>,
) -> ApiResult<Vec<Arc<Event>>> {
    match converting {
        Some(registry) => registry.events_in_version(resource, events).await,
        None => Ok(events),
    }
}

/// Kinds of events, for forms.
const _: () = assert!(EventKind::Deleted as u32 <= 3);
