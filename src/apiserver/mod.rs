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
pub mod discovery;
mod metrics;
pub mod negotiate;
mod openapi;
mod public;
mod read;
pub mod request;
pub mod respond;
mod selection;
pub mod serve;
mod subresources;
mod verbs;
mod virtuals;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body::Body as HttpBody;
use parking_lot::RwLock;

use crate::api::status::ApiResult;
use crate::api::user::UserInfo;
use crate::registry::Registry;
use crate::runtime::node_api::NodeApi;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

pub use access::Access;
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
    body: Bytes,
    /// For connections that are upgraded (exec, port-forward).
    upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// The server's handlers.
pub struct Api {
    registry: Arc<Registry>,
    access: Arc<Access>,
    clock: SharedClock,
    shutdown: Shutdown,
    metrics: Metrics,
    /// How the nodes are reached for logs and streams.
    nodes: RwLock<HashMap<String, Arc<dyn NodeApi>>>,
}

impl Api {
    /// Over a registry. Watches end with `shutdown`.
    pub fn new(registry: Arc<Registry>, access: Arc<Access>, clock: SharedClock, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self { registry, access, clock, shutdown, metrics: Metrics::default(), nodes: RwLock::default() })
    }

    /// Adds to what `/metrics` shows.
    pub fn publish_metrics(&self, source: Source) {
        self.metrics.publish(source);
    }

    /// Says how a node is reached.
    pub fn attach_node(&self, name: &str, node: Arc<dyn NodeApi>) {
        self.nodes.write().insert(name.to_owned(), node);
    }

    /// Answers a request. Never fails: errors are answers.
    pub async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<tower::BoxError>,
    {
        let encoding = verbs::error_encoding(request.headers());
        let answer = match self.try_handle(request).await {
            Ok(answer) => answer,
            Err(status) => respond::error(&status, encoding),
        };
        self.metrics.answered(answer.status());
        answer
    }

    async fn try_handle<B>(&self, request: Request<B>) -> ApiResult<Answer>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<tower::BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default());
        let user = match parts.extensions.remove::<Identity>() {
            Some(Identity(user)) => user,
            None => self.access.authenticate(&parts).await?,
        };
        let user = self.access.impersonate(user, &parts.headers)?;
        self.access.allow(&user, &info.attributes)?;
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let upgrading = parts.headers.contains_key(header::UPGRADE);
        let body = if parts.method == Method::GET || upgrading { Bytes::new() } else { body::read(body).await? };
        let call = Call { user, info, method: parts.method, headers: parts.headers, body, upgrade };
        if call.info.attributes.is_resource() { self.resource(call).await } else { self.public(call).await }
    }
}
