//! HTTP only: who asks, may they, what for; then the registry or the watch cache; then an answer.
//!
//! In: requests of sockets (TLS) and of the same process (a `tower` service). Out: answers, streams.
//!
//! **Invariant:** every request is authenticated and authorized, those of the same process too: they carry an
//! [`Identity`], never a way around.
//! **Invariant:** every error leaves as a `Status`, made in one place.

pub mod access;
pub mod aggregation;
pub mod audit;
pub mod auth;
mod body;
mod connect;
mod cork;
pub mod crd;
mod deletion;
pub mod discovery;
mod encryption;
mod flow;
pub mod health;
pub mod limits;
mod metrics;
pub mod negotiate;
mod nodes;
mod openapi;
mod policies;
mod proxy;
mod public;
mod read;
pub mod request;
pub mod respond;
mod roads;
mod selection;
pub mod serve;
mod subresources;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod usage;
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
use audit::{Audit, Trail};
use health::Health;
use limits::Limits;
use metrics::{Metrics, Source};
use request::RequestInfo;
use respond::Answer;
pub use roads::Roads;

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
    /// What nodes and pods use.
    meter: usage::Meter,
    roads: Roads,
    /// What others serve.
    extensions: Arc<aggregation::Extensions>,
    /// Whose requests are worked on when there are too many.
    flow: Arc<flow::Flow>,
    /// What seals the store, for its administrators.
    encryption: OnceLock<Arc<Encryption>>,
    /// What is kept of requests; none when nothing is.
    audit: OnceLock<Arc<Audit>>,
}

impl Api {
    /// Over a registry; nodes and Services are reached by `roads`. Watches end with `shutdown`.
    pub fn new(
        registry: Arc<Registry>,
        access: Arc<Access>,
        clock: SharedClock,
        shutdown: Shutdown,
        health: Health,
        roads: &Roads,
    ) -> Arc<Self> {
        let (limits, metrics, nodes) = (Limits::default(), Metrics::default(), roads.nodes.clone());
        let meter = usage::Meter::new(nodes.clone());
        let (roads, extensions, flow) = (roads.clone(), Arc::default(), Arc::<flow::Flow>::default());
        let figures = flow.clone();
        metrics.publish(Box::new(move || figures.render()));
        let (encryption, audit) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self {
            registry,
            access,
            clock,
            shutdown,
            health,
            limits,
            metrics,
            nodes,
            meter,
            roads,
            extensions,
            flow,
            encryption,
            audit,
        })
    }

    /// Adds to what `/metrics` shows.
    pub fn publish_metrics(&self, source: Source) {
        self.metrics.publish(source);
    }

    /// What follows the CustomResourceDefinitions, to be run beside the API.
    pub fn definitions(&self) -> crd::Definitions {
        crd::Definitions::new(self.registry.clone(), self.clock.clone())
    }

    /// What judges the expressions of policies, to be run beside the API.
    pub fn policies(&self) -> policies::Policies {
        policies::Policies::new(self.registry.clone(), self.clock.clone())
    }

    /// What follows the priority levels, to be run beside the API.
    pub fn fairness(&self) -> flow::Follower {
        flow::Follower::new(self.flow.clone(), self.registry.clone(), self.clock.clone())
    }

    /// Says how a node is reached.
    pub fn attach_node(&self, name: &str, node: Arc<dyn NodeApi>) {
        self.nodes.attach(name, node);
    }

    /// Keeps what a policy says of the requests from now on; once.
    pub fn attach_audit(&self, audit: Arc<Audit>) {
        // There is one policy.
        let _ = self.audit.set(audit);
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
        match self.audit.get() {
            None => self.answer(request).await,
            // On the heap, as all that few requests do: a request's task has room for all that it might, and is moved about.
            Some(audit) => Box::pin(audit.follow(request, |request| self.answer(request))).await,
        }
    }

    async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let encoding = verbs::error_encoding(request.headers());
        let for_people = respond::is_for_people(request.uri().query().unwrap_or_default(), request.headers());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = match AssertUnwindSafe(self.try_handle(request, encoding)).catch_unwind().await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => respond::error(&status, encoding),
            Err(_) => {
                tracing::error!(%method, path, "a request panicked; this is a bug in orch");
                let why = "This request caused apiserver to panic. Look in the logs for details.";
                let mut answer = respond::error(&Status::new(Reason::InternalError, why), encoding);
                answer.extensions_mut().insert(respond::Panicked);
                answer
            }
        };
        self.metrics.answered(answer.status());
        if for_people { respond::laid_out(answer).await } else { answer }
    }

    async fn try_handle<B>(&self, request: Request<B>, encoding: negotiate::Encoding) -> ApiResult<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default());
        if let Some(Identity(user)) = parts.extensions.remove() {
            let user = self.identify(user, &info, &parts).await?;
            return self.handle_for(user, info, parts, body).await;
        }
        let long = info.is_long_running();
        let work = Box::pin(async {
            let user = match self.access.authenticate(&parts).await {
                Ok(user) => user,
                Err(status) => {
                    if let Some(trail) = parts.extensions.get::<Arc<Trail>>() {
                        trail.unknown(&info.attributes);
                    }
                    return Err(status);
                }
            };
            let user = self.identify(user, &info, &parts).await?;
            let fair = !long || info.attributes.verb == "watch";
            let seats = if info.attributes.verb == "list" { self.seats_of_list(&info) } else { 1 };
            let admitted = match fair {
                true => match self.flow.admit(&user, &info.attributes, seats).await {
                    Ok(admitted) => admitted,
                    Err(refused) => return Ok(refused),
                },
                false => None,
            };
            let done = self.handle_for(user, info, parts, body).await;
            let Some(admitted) = admitted else { return done };
            let mut answer = done.unwrap_or_else(|status| respond::error(&status, encoding));
            admitted.mark(&mut answer);
            Ok(answer)
        });
        if long { work.await } else { self.limits.within(work).await }
    }

    /// Who the request wants to be, which is told to its trail.
    async fn identify(&self, user: UserInfo, info: &RequestInfo, parts: &Parts) -> ApiResult<UserInfo> {
        let trail = parts.extensions.get::<Arc<Trail>>();
        if let Some(trail) = trail {
            Box::pin(trail.identified(&user, &info.attributes, info.is_long_running())).await;
        }
        Ok(match self.access.impersonate(&user, &parts.headers, &info.attributes).await? {
            None => user,
            Some((target, constraint)) => {
                trail.iter().for_each(|t| t.impersonated(&target, &constraint));
                target
            }
        })
    }

    fn seats_of_list(&self, info: &RequestInfo) -> usize {
        let a = &info.attributes;
        let Some(res) = self.registry.resources().get(&a.group, &a.version, &a.resource) else { return 1 };
        let limit = info.query.text("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0).unwrap_or(usize::MAX);
        flow::seats_of_list(self.registry.cache().resource(&res.info.stored).count().min(limit))
    }

    /// For a user, who is who the request wants to be.
    async fn handle_for<B>(&self, user: UserInfo, info: RequestInfo, mut parts: Parts, body: B) -> ApiResult<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let trail = parts.extensions.remove::<Arc<Trail>>();
        self.access.allow(&user, &info.attributes).await?;
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let authority = parts.uri.authority().cloned();
        let upgrading = parts.headers.contains_key(header::UPGRADE);
        let (mut room, mut bytes, mut passed) = (None, Bytes::new(), None);
        let extension = self.extensions.of_path(&info.attributes.path);
        if extension.is_some() || info.attributes.is_resource() && info.attributes.subresource == "proxy" {
            passed = Some(proxy::Passed::of(&mut parts, body, upgrading));
        } else if parts.method != Method::GET && !upgrading {
            room = self.limits.body(body.size_hint().exact()).await;
            bytes = body::read(body).await?;
            trail.iter().for_each(|t| t.body(&info.attributes, &parts.headers, &bytes));
        }
        let call =
            Call { user, info, method: parts.method, headers: parts.headers, authority, body: bytes, passed, upgrade };
        // On the heap: together they are more than a thread's stack, and an idle connection needs none of them.
        let answer = match extension {
            Some(extension) => Box::pin(self.pass_on(&extension, call)).await,
            None if call.info.attributes.is_resource() => Box::pin(self.resource(call)).await,
            None => Box::pin(self.public(call)).await,
        };
        drop(room);
        answer
    }
}
