//! HTTP only: who asks, may they, what for; then the registry or the watch cache; then an answer.
//!
//! In: requests of sockets (TLS) and of the same process (a `tower` service). Out: answers, streams.
//!
//! **Invariant:** every request is authenticated and authorized, those of the same process too: they carry an
//! [`Identity`], never a way around.
//! **Invariant:** every error leaves as a `Status`, made in one place.

mod body;
mod connect;
pub mod discovery;
pub mod negotiate;
mod public;
mod read;
pub mod request;
pub mod respond;
mod selection;
pub mod serve;
mod verbs;
mod virtuals;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body::Body as HttpBody;

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::registry::Registry;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

use request::RequestInfo;
use respond::Answer;

/// The user of a request that comes from the same process; an extension of the request.
#[derive(Debug, Clone)]
pub struct Identity(pub UserInfo);

/// Authentication and authorization as the server sees them.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Who asks; anonymous when there are no credentials, an error when they are wrong.
    async fn authenticate(&self, parts: &http::request::Parts) -> ApiResult<UserInfo>;
    /// May they.
    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}

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
    guard: Arc<dyn Guard>,
    clock: SharedClock,
    shutdown: Shutdown,
}

impl Api {
    /// Over a registry. Watches end with `shutdown`.
    pub fn new(registry: Arc<Registry>, guard: Arc<dyn Guard>, clock: SharedClock, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self { registry, guard, clock, shutdown })
    }

    /// Answers a request. Never fails: errors are answers.
    pub async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<tower::BoxError>,
    {
        let encoding = verbs::error_encoding(request.headers());
        match self.try_handle(request).await {
            Ok(answer) => answer,
            Err(status) => respond::error(&status, encoding),
        }
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
            None => self.guard.authenticate(&parts).await?,
        };
        self.allow(&user, &info.attributes)?;
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let upgrading = parts.headers.contains_key(header::UPGRADE);
        let body = if parts.method == Method::GET || upgrading { Bytes::new() } else { body::read(body).await? };
        let call = Call { user, info, method: parts.method, headers: parts.headers, body, upgrade };
        if call.info.attributes.is_resource() { self.resource(call).await } else { self.public(call).await }
    }

    fn allow(&self, user: &UserInfo, a: &Attributes) -> ApiResult<()> {
        match self.guard.authorize(user, a) {
            Decision::Allow => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(user, a, &why)),
        }
    }
}

/// 403 in upstream's words.
pub fn forbidden(user: &UserInfo, a: &Attributes, why: &str) -> Box<Status> {
    let tail = if why.is_empty() { String::new() } else { format!(": {why}") };
    if !a.is_resource() {
        let message = format!("forbidden: User {:?} cannot {} path {:?}{tail}", user.name, a.verb, a.path);
        return Status::new(Reason::Forbidden, message).with_details(serde_json::json!({}));
    }
    let mut resource = a.resource.clone();
    if !a.subresource.is_empty() {
        resource = format!("{resource}/{}", a.subresource);
    }
    let scope = match &*a.namespace {
        "" => " at the cluster scope".to_owned(),
        ns => format!(" in the namespace {ns:?}"),
    };
    let why =
        format!("User {:?} cannot {} resource {resource:?} in API group {:?}{scope}{tail}", user.name, a.verb, a.group);
    Status::forbidden(&a.group, &a.resource, &a.name, &why)
}
