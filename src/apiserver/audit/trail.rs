//! One request on its way: what its events say, and when they are sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Audit;
use super::event::{self, Event};
use super::policy::{Level, Stage, Verdict};
use crate::api::audit::Notes;
use crate::api::meta::Gvk;
use crate::api::status::Status;
use crate::api::user::{Attributes, UserInfo};
use crate::api::value::ValueExt;
use crate::apiserver::cork::ConnectionEnd;
use crate::apiserver::negotiate::Encoding;
use crate::apiserver::respond::{self, Answer, Body, Endless, Panicked, Refused};
use crate::apiserver::serve::PeerAddress;
use crate::apiserver::{Identity, body};

/// The header that names the request to its client.
const AUDIT_ID: &str = "audit-id";
/// Longest name that a client gives its own request; upstream's.
const ID_MAX: usize = 64;

/// A request, followed.
pub struct Trail {
    audit: Arc<Audit>,
    notes: Arc<Notes>,
    origin: Origin,
    /// Of the connection that the request came over; none within the process.
    connection: Option<ConnectionEnd>,
    /// What is kept; none before it is known who asks, and when nothing is kept.
    kept: Mutex<Option<Kept>>,
}

/// What the head of the request says.
struct Origin {
    id: String,
    uri: String,
    source_ips: Vec<String>,
    user_agent: String,
    received: Timestamp,
}

#[derive(Clone)]
struct Kept {
    event: Event,
    verdict: Verdict,
    long: bool,
    /// Its credentials were wrong.
    unknown: bool,
}

impl Trail {
    /// Begins with the head.
    pub fn begin<B>(audit: Arc<Audit>, request: &Request<B>) -> Self {
        let headers = request.headers();
        let given =
            headers.get(AUDIT_ID).and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty() && id.len() <= ID_MAX);
        // A request of the same process comes from this machine.
        let own = request.extensions().get::<Identity>().map(|_| std::net::Ipv4Addr::LOCALHOST.into());
        let peer = request.extensions().get::<PeerAddress>().map(|p| p.0.ip()).or(own);
        let origin = Origin {
            id: given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
            uri: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            source_ips: event::source_ips(headers, peer),
            user_agent: event::user_agent(headers),
            received: audit.clock.now(),
        };
        let connection = request.extensions().get::<ConnectionEnd>().cloned();
        Self { audit, notes: Arc::default(), origin, connection, kept: Mutex::default() }
    }

    /// What is noted on the way.
    pub fn notes(&self) -> Arc<Notes> {
        self.notes.clone()
    }

    /// It is known who asks: the policy says what is kept, and the first event goes out.
    pub async fn identified(&self, user: &UserInfo, a: &Attributes, long: bool) {
        let Some(kept) = self.keep(user, a, long, false) else { return };
        self.send(&kept, Stage::RequestReceived).await;
    }

    /// The credentials were wrong.
    pub fn unknown(&self, a: &Attributes) {
        self.keep(&UserInfo::default(), a, false, true);
    }

    fn keep(&self, user: &UserInfo, a: &Attributes, long: bool, unknown: bool) -> Option<Kept> {
        let verdict = self.audit.policy.judge(user, a);
        if verdict.level == Level::None {
            return None;
        }
        let Origin { id, uri, source_ips, user_agent, received } = &self.origin;
        let event = Event {
            level: verdict.level,
            id: id.clone(),
            uri: uri.clone(),
            verb: a.verb.clone(),
            user: user.clone(),
            impersonated: None,
            constraint: String::new(),
            source_ips: source_ips.clone(),
            user_agent: user_agent.clone(),
            object: event::object_ref(a),
            status: Value::Null,
            request: Value::Null,
            response: Value::Null,
            received: *received,
            annotations: Default::default(),
        };
        let kept = Kept { event, verdict, long, unknown };
        *self.kept.lock() = Some(kept.clone());
        Some(kept)
    }

    /// True when something is kept: decisions are then worth their reasons.
    pub fn is_kept(&self) -> bool {
        self.kept.lock().is_some()
    }

    /// Who the request runs as, and the constraint under which it may.
    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        if let Some(kept) = &mut *self.kept.lock() {
            kept.event.impersonated = Some(user.clone());
            kept.event.constraint = constraint.to_owned();
        }
    }

    /// The body of the request. Of a patch nothing but the body is noted: it says what is to change, not of what.
    pub fn body(&self, a: &Attributes, headers: &HeaderMap, bytes: &Bytes) {
        let mut kept = self.kept.lock();
        let Some(kept) = kept.as_mut().filter(|_| a.is_resource() && !bytes.is_empty()) else { return };
        let whole = matches!(a.verb.as_str(), "create" | "update");
        if !whole && kept.verdict.level < Level::Request {
            return;
        }
        let Some(mut value) = decoded(headers, bytes) else { return };
        if whole {
            kept.event.note_object(&value);
        }
        if kept.verdict.level >= Level::Request {
            if kept.verdict.omit_managed_fields {
                event::without_managed_fields(&mut value);
            }
            kept.event.request = value;
        }
    }

    /// The answer, on its way out.
    pub async fn finish(&self, mut answer: Answer) -> Answer {
        let Some(mut kept) = self.kept.lock().take() else { return answer };
        if let Ok(id) = HeaderValue::from_str(&kept.event.id) {
            answer.headers_mut().insert(AUDIT_ID, id);
        }
        let code = answer.status().as_u16();
        let refused = answer.extensions().get::<Refused>().map(|r| r.0.clone());
        kept.event.status = event::response_status(code, refused.as_deref());
        kept.event.annotations = self.notes.all();
        if kept.unknown {
            kept.event.status["message"] = "Authentication failed".into();
            Last::new(&self.audit, kept, Stage::ResponseStarted).send().await;
            return answer;
        }
        if answer.extensions().get::<Panicked>().is_some() {
            Last::new(&self.audit, kept, Stage::Panic).send().await;
            return answer;
        }
        if kept.long || answer.extensions().get::<Endless>().is_some() {
            let last = Last::new(&self.audit, kept.clone(), Stage::ResponseComplete);
            self.send(&kept, Stage::ResponseStarted).await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS
                && let Some(connection) = &self.connection
            {
                connection.keep(last);
                return answer;
            }
            let (parts, body) = answer.into_parts();
            return Answer::from_parts(parts, Followed { body, _last: last }.boxed_unsync());
        }
        let mut last = Last::new(&self.audit, kept, Stage::ResponseComplete);
        let kept = &mut last.kept;
        let wants_body = kept.verdict.level >= Level::RequestResponse || kept.event.verb.starts_with("delete");
        if wants_body {
            answer = read(answer, kept).await;
        }
        last.send().await;
        answer
    }

    async fn send(&self, kept: &Kept, stage: Stage) {
        send(&self.audit, kept, stage).await;
    }
}

impl Drop for Trail {
    /// The client went away before there was an answer.
    fn drop(&mut self) {
        let Some(mut kept) = self.kept.get_mut().take() else { return };
        kept.event.annotations = self.notes.all();
        // Upstream's words.
        kept.event.status =
            event::response_status(200, Some(&json!({"status": "Success", "message": "Connection closed early"})));
        drop(Last::new(&self.audit, kept, Stage::ResponseComplete));
    }
}

/// Reads the answer's body, and gives the answer back with it.
async fn read(answer: Answer, kept: &mut Kept) -> Answer {
    let (parts, body) = answer.into_parts();
    let bytes = match body.collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(error) => return respond::error(&Status::internal(error), Encoding::Json),
    };
    if let Some(mut value) = decoded(&parts.headers, &bytes) {
        if value.str_at("/kind") == Some("Status") {
            kept.event.status = event::response_status(parts.status.as_u16(), Some(&value));
        }
        if kept.verdict.level >= Level::RequestResponse {
            if kept.verdict.omit_managed_fields {
                event::without_managed_fields(&mut value);
            }
            kept.event.response = value;
        }
    }
    Answer::from_parts(parts, respond::full(bytes))
}

async fn send(audit: &Audit, kept: &Kept, stage: Stage) {
    if kept.verdict.keeps(stage) {
        audit.emit(&kept.event.at(stage, audit.clock.now())).await;
    }
}

/// What a protobuf body that names no kind is: nothing that can be read.
const NO_KIND: Gvk = Gvk::new("", "", "");

/// A body as JSON, whatever form it has; none for what is no object.
fn decoded(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/vnd.kubernetes.protobuf" => body::proto_value(bytes, &NO_KIND).ok(),
        media if media.ends_with("yaml") => body::yaml_raw(bytes).ok().map(|raw| raw.value),
        media if media.is_empty() || media.ends_with("json") => body::json_raw(bytes).ok().map(|raw| raw.value),
        _ => None,
    }
}

/// A body whose end is an event: the client has all of the answer, or went away.
struct Followed {
    body: Body,
    _last: Last,
}

/// The last event of a request. It goes out once, also when who sends it is dropped.
struct Last {
    audit: Arc<Audit>,
    kept: Kept,
    stage: Stage,
    sent: bool,
}

impl Last {
    fn new(audit: &Arc<Audit>, kept: Kept, stage: Stage) -> Self {
        Self { audit: audit.clone(), kept, stage, sent: false }
    }

    async fn send(mut self) {
        send(&self.audit, &self.kept, self.stage).await;
        self.sent = true;
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        if self.sent {
            return;
        }
        // Without a runtime the process ends, and so does its log.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (audit, kept, stage) = (self.audit.clone(), self.kept.clone(), self.stage);
        // Ends once the log has room for one event.
        runtime.spawn(async move { send(&audit, &kept, stage).await });
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
