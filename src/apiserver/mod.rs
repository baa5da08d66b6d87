//! HTTP only: who asks, may they, what for; then the registry or the watch cache; then an answer.
//!
//! In: requests of sockets (TLS) and of the same process (a `tower` service). Out: answers, streams.
//!
//! **Invariant:** every request is authenticated and authorized, those of the same process too: they carry an
//! [`Identity`], never a way around.
//! **Invariant:** every error leaves as a `Status`, made in one place.

mod access;
pub mod auth;
mod body;
mod connect;
mod cork;
pub mod crd;
mod deletion;
pub mod discovery;
mod encryption;
pub mod health;
pub mod limits;
mod metrics;
pub mod negotiate;
mod nodes;
mod openapi;
mod proxy;
mod public;
mod read;
pub mod request;
pub mod respond;
mod selection;
pub mod serve;
mod subresources;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verbs;
mod virtuals;
mod websocket;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, Method, Request, header};
use http_body::Body as HttpBody;

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::user::UserInfo;
use crate::registry::Registry;
use crate::runtime::node_api::NodeApi;
use crate::store::sealed::Encryption;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

pub use access::Access;
use health::Health;
use limits::Limits;
use metrics::{Metrics, Source};
use request::RequestInfo;
use respond::Answer;

/// The user of a request that comes from the same process; an extension of the request.
#[derive(Debug, Clone)]
pub struct Identity(pub UserInfo);

/// A request that may be done.
pub(crate) struct Call {
    user: UserInfo,
    info: RequestInfo,
    method: Method,
    headers: HeaderMap,
    /// The host of an HTTP/2 request.
    authority: Option<http::uri::Authority>,
    body: Bytes,
    /// What is passed on, which nobody here reads: path and query as they came, the body, the client.
    passed: Option<proxy::Passed>,
    /// For connections that are upgraded (exec, port-forward).
    upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// The server's handlers.
pub struct Api {
    registry: Arc<Registry>,
    access: Arc<Access>,
    clock: SharedClock,
    shutdown: Shutdown,
    health: Health,
    limits: Limits,
    metrics: Metrics,
    /// How the nodes are reached for logs and streams.
    nodes: Arc<nodes::Nodes>,
    /// What seals the store, for its administrators.
    encryption: OnceLock<Arc<Encryption>>,
}

impl Api {
    /// Over a registry. Watches end with `shutdown`.
    pub fn new(
        registry: Arc<Registry>,
        access: Arc<Access>,
        clock: SharedClock,
        shutdown: Shutdown,
        health: Health,
    ) -> Arc<Self> {
        let (limits, metrics, nodes) = (Limits::default(), Metrics::default(), Arc::default());
        let encryption = OnceLock::new();
        Arc::new(Self { registry, access, clock, shutdown, health, limits, metrics, nodes, encryption })
    }

    /// Adds to what `/metrics` shows.
    pub fn publish_metrics(&self, source: Source) {
        self.metrics.publish(source);
    }

    /// What follows the CustomResourceDefinitions, to be run beside the API.
    pub fn definitions(&self) -> crd::Definitions {
        crd::Definitions::new(self.registry.clone(), self.clock.clone())
    }

    /// Says how a node is reached.
    pub fn attach_node(&self, name: &str, node: Arc<dyn NodeApi>) {
        self.nodes.attach(name, node);
    }

    /// The way to a node; an error while there is none.
    pub fn node(&self, name: &str) -> ApiResult<Arc<dyn NodeApi>> {
        self.nodes.get(name)
    }

    /// Answers a request. Never fails: errors are answers.
    pub async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let encoding = verbs::error_encoding(request.headers());
        let for_people = respond::is_for_people(request.uri().query().unwrap_or_default(), request.headers());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = match AssertUnwindSafe(self.try_handle(request)).catch_unwind().await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => respond::error(&status, encoding),
            Err(_) => {
                tracing::error!(%method, path, "a request panicked; this is a bug in orch");
                let why = "This request caused apiserver to panic. Look in the logs for details.";
                respond::error(&Status::new(Reason::InternalError, why), encoding)
            }
        };
        self.metrics.answered(answer.status());
        if for_people { respond::laid_out(answer).await } else { answer }
    }

    async fn try_handle<B>(&self, request: Request<B>) -> ApiResult<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default());
        if let Some(Identity(user)) = parts.extensions.remove() {
            return self.handle_for(user, info, parts, body).await;
        }
        let long = info.is_long_running();
        let work = async {
            let user = self.access.authenticate(&parts).await?;
            self.handle_for(user, info, parts, body).await
        };
        if long { work.await } else { self.limits.within(work).await }
    }

    async fn handle_for<B>(&self, user: UserInfo, info: RequestInfo, mut parts: Parts, body: B) -> ApiResult<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let user = self.access.impersonate(user, &parts.headers)?;
        self.access.allow(&user, &info.attributes)?;
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let authority = parts.uri.authority().cloned();
        let upgrading = parts.headers.contains_key(header::UPGRADE);
        let (mut room, mut bytes, mut passed) = (None, Bytes::new(), None);
        if info.attributes.is_resource() && info.attributes.subresource == "proxy" {
            passed = Some(proxy::Passed::of(&mut parts, body, upgrading));
        } else if parts.method != Method::GET && !upgrading {
            room = self.limits.body(body.size_hint().exact()).await;
            bytes = body::read(body).await?;
        }
        let call =
            Call { user, info, method: parts.method, headers: parts.headers, authority, body: bytes, passed, upgrade };
        let answer =
            if call.info.attributes.is_resource() { self.resource(call).await } else { self.public(call).await };
        drop(room);
        answer
    }
}
