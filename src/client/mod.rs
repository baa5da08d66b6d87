//! The API client of everything in orch: `kube`'s client over TLS, or the handlers of the same process.
//!
//! In: a [`Res`], names, JSON. Out: JSON, or the server's [`Status`] as the error. Components of the server's process use
//! [`Client::in_process`] (no socket, no TLS, the same handlers); agents and `ctl` use [`Client::tls`] or a kubeconfig.
//!
//! **Invariant:** nothing is retried here; who calls knows whether a repetition is safe.
//! **Invariant:** an answer is read to its end or its connection is dropped; its size is bounded by [`MAX_ANSWER_BYTES`].

#[cfg(test)]
pub mod fake;
mod options;
mod peer;
mod pools;
pub mod res;
pub mod servers;
mod tls;
mod watch;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::Value;
use tower::ServiceExt;

pub use options::{DeleteOptions, ListOptions, Patch, Propagation, WriteOptions};
pub use peer::{Coming, Dial, Passage, Peer, Trust};
pub use res::Res;
pub use servers::Servers;
pub(crate) use tls::resolve;
pub use tls::{ConnectError, Credentials};
pub use watch::{MAX_EVENT_BYTES, WatchEvent, WatchKind};

use crate::api::status::{ApiResult, Reason, Status};

/// Bytes of one answer that is read whole. A list of 10,000 pods of 7 KiB has 72 MB.
pub const MAX_ANSWER_BYTES: usize = 1 << 30;

const JSON: &str = "application/json";

/// An answer that did not come, or not to its end.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Broken(tower::BoxError);

/// The body of an answer that is still to be read.
pub type Incoming = UnsyncBoxBody<Bytes, Broken>;

/// Answers a request in the task of who asks.
type Handler = dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Response<Incoming>, Broken>> + Send + Sync;

/// The way of requests.
#[derive(Clone)]
enum Way {
    Kube(kube::Client),
    InProcess(Arc<Handler>),
}

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    way: Way,
    agent: HeaderValue,
    write: Arc<WriteOptions>,
    /// Answers of success are decoded.
    reads: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("agent", &self.agent).field("write", &self.write).finish_non_exhaustive()
    }
}

/// Making one.
impl Client {
    /// Over a `kube` client. Needs a tokio runtime.
    pub fn new(kube: kube::Client) -> Self {
        Self::over(Way::Kube(kube))
    }

    fn over(way: Way) -> Self {
        Self { way, agent: HeaderValue::from_static("orch"), write: Arc::default(), reads: true }
    }

    /// Over a service in the same process. Requests have a path and no authority; the service says who asks.
    pub fn in_process<S, B>(service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<tower::BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        Self::over(Way::InProcess(Arc::new(move |request| {
            let answer = service.clone().oneshot(request);
            async move { answer.await.map(|a| a.map(incoming)).map_err(|e| Broken(e.into())) }.boxed()
        })))
    }

    /// As the current context of a kubeconfig file says.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, ConnectError> {
        Self::from_config(tls::read_kubeconfig(path, &Default::default()).await?)
    }

    /// As a kubeconfig file says for a context, cluster and user chosen by `options`.
    pub async fn from_kubeconfig_with(
        path: &Path,
        options: &kube::config::KubeConfigOptions,
    ) -> Result<Self, ConnectError> {
        Self::from_config(tls::read_kubeconfig(path, options).await?)
    }

    /// To the server of a kubeconfig file's current context, and the path (with its query) of the server's URL: for
    /// webhooks, which are one URL.
    pub async fn to_url_of(path: &Path) -> Result<(Self, String), ConnectError> {
        let mut config = tls::read_kubeconfig(path, &Default::default()).await?;
        let place = config.cluster_url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let mut parts = config.cluster_url.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(parts)
            .map_err(|e| ConnectError::Kubeconfig { path: path.into(), reason: e.to_string() })?;
        Ok((Self::from_config(config)?, place))
    }

    /// As `kube`'s configuration says; TLS is orch's own.
    pub fn from_config(config: kube::Config) -> Result<Self, ConnectError> {
        tls::client(config, None, tls::Road::Direct).map(Self::new)
    }

    /// To `server` (`https://host:port`), which must show a certificate of `ca_pem`.
    pub fn tls(server: &str, ca_pem: &[u8], credentials: Credentials) -> Result<Self, ConnectError> {
        tls::direct(server, ca_pem, credentials).map(Self::new)
    }

    /// To whichever of `servers` answers; each must show a certificate of `ca_pem`.
    pub fn tls_any(servers: Arc<Servers>, ca_pem: &[u8], credentials: Credentials) -> Result<Self, ConnectError> {
        tls::any_of(servers, ca_pem, credentials).map(Self::new)
    }

    /// To a server that is no API server of this cluster's.
    pub fn peer(peer: Peer) -> Result<Self, ConnectError> {
        peer.connect().map(Self::new)
    }

    /// To `server`, whatever certificate it shows: only for what is public, and checked by other means.
    pub fn unverified(server: &str) -> Result<Self, ConnectError> {
        tls::unverified(server).map(Self::new)
    }

    /// The same connection under a component's name: its user agent, and the field manager of its writes.
    pub fn named(&self, component: &str) -> Self {
        let agent = format!("{component}/v{} (linux/{}) orch", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let agent = HeaderValue::from_str(&agent).unwrap_or_else(|_| HeaderValue::from_static("orch"));
        let write = WriteOptions { field_manager: component.into(), ..(*self.write).clone() };
        Self { way: self.way.clone(), agent, write: write.into(), reads: self.reads }
    }

    /// The same connection with other options for its writes.
    pub fn with_writes(&self, write: WriteOptions) -> Self {
        Self { write: write.into(), ..self.clone() }
    }

    /// The same connection for who writes and does not read what became of it: answers of success are null.
    pub fn blind(&self) -> Self {
        Self { reads: false, ..self.clone() }
    }

    /// The namespace that the kubeconfig's context names, or `default`.
    pub fn default_namespace(&self) -> &str {
        self.kube().map_or("default", kube::Client::default_namespace)
    }

    /// The `kube` client below, for its web sockets (`connect`); none in process.
    pub fn kube(&self) -> Option<&kube::Client> {
        match &self.way {
            Way::Kube(kube) => Some(kube),
            Way::InProcess(_) => None,
        }
    }
}

/// Reading.
impl Client {
    /// One object. `ns` is ignored for cluster-scoped kinds.
    pub async fn get(&self, res: &Res, ns: &str, name: &str) -> ApiResult<Value> {
        self.read(res.object(ns, name, None)).await
    }

    /// A subresource of an object, as `scale`.
    pub async fn get_sub(&self, res: &Res, ns: &str, name: &str, sub: &str) -> ApiResult<Value> {
        self.read(res.object(ns, name, Some(sub))).await
    }

    /// The list object of a collection; `ns` of `None` means all namespaces.
    pub async fn list(&self, res: &Res, ns: Option<&str>, options: &ListOptions) -> ApiResult<Value> {
        self.read(options.query(false).after(res.collection(ns.unwrap_or_default()))).await
    }

    /// Changes of a collection, until the server ends the watch. An error event is the last item.
    pub async fn watch(
        &self,
        res: &Res,
        ns: Option<&str>,
        options: &ListOptions,
    ) -> ApiResult<BoxStream<'static, ApiResult<WatchEvent>>> {
        let path = options.query(true).after(res.collection(ns.unwrap_or_default()));
        Ok(watch::events(self.stream(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?))
    }

    /// The JSON at any path.
    pub async fn read(&self, path_and_query: String) -> ApiResult<Value> {
        self.json(Method::GET, path_and_query, JSON, None).await
    }
}

/// Writing.
impl Client {
    /// Creates; gives back what was stored.
    pub async fn create(&self, res: &Res, ns: &str, object: &Value) -> ApiResult<Value> {
        let path = self.write.query().after(res.collection(ns));
        self.json(Method::POST, path, JSON, Some(object)).await
    }

    /// Posts to a subresource, as `binding`, `eviction` or `token`.
    pub async fn create_sub(&self, res: &Res, ns: &str, name: &str, sub: &str, body: &Value) -> ApiResult<Value> {
        let path = self.write.query().after(res.object(ns, name, Some(sub)));
        self.json(Method::POST, path, JSON, Some(body)).await
    }

    /// Replaces an object, or its `subresource`.
    pub async fn update(&self, res: &Res, ns: &str, name: &str, sub: Option<&str>, object: &Value) -> ApiResult<Value> {
        let path = self.write.query().after(res.object(ns, name, sub));
        self.json(Method::PUT, path, JSON, Some(object)).await
    }

    /// Patches an object, or its `subresource`.
    pub async fn patch(
        &self,
        res: &Res,
        ns: &str,
        name: &str,
        sub: Option<&str>,
        patch: Patch<'_>,
    ) -> ApiResult<Value> {
        let query = match patch {
            Patch::Apply { manager, force, .. } => {
                let mut q = WriteOptions { field_manager: manager.to_owned(), ..(*self.write).clone() }.query();
                q.flag("force", force);
                q
            }
            _ => self.write.query(),
        };
        let path = query.after(res.object(ns, name, sub));
        self.json(Method::PATCH, path, patch.media_type(), Some(patch.body())).await
    }

    /// Deletes; gives back the object while it is still going, or a Status of success.
    pub async fn delete(&self, res: &Res, ns: &str, name: &str, options: &DeleteOptions) -> ApiResult<Value> {
        self.json(Method::DELETE, res.object(ns, name, None), JSON, Some(&options.to_value())).await
    }

    /// Deletes all that `which` selects.
    pub async fn delete_collection(
        &self,
        res: &Res,
        ns: &str,
        which: &ListOptions,
        options: &DeleteOptions,
    ) -> ApiResult<Value> {
        let path = which.query(false).after(res.collection(ns));
        self.json(Method::DELETE, path, JSON, Some(&options.to_value())).await
    }
}

/// Anything else.
impl Client {
    /// Sends any request and reads the answer whole, whatever its status code.
    pub async fn raw(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> ApiResult<Response<Bytes>> {
        let (parts, body) = self.send(method, path_and_query, headers, body).await?.into_parts();
        Ok(Response::from_parts(parts, whole(body).await?))
    }

    /// Sends any request and gives the answer's bytes as they come (logs that follow, watches). An answer that is no
    /// success is an error.
    pub async fn stream(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> ApiResult<BoxStream<'static, ApiResult<Bytes>>> {
        let answer = self.send(method, path_and_query, headers, body).await?;
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            return Err(failure(parts.status.as_u16(), &whole(body).await?));
        }
        Ok(body.into_data_stream().map_err(|e| unreachable_server(&e)).boxed())
    }

    /// Sends any request; the body of the answer is still to be read, or the connection to be upgraded.
    pub async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> ApiResult<Response<Incoming>> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            path_and_query.parse().map_err(|e| Status::bad_request(format!("bad path {path_and_query:?}: {e}")))?;
        *request.headers_mut() = headers;
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.agent.clone());
        match &self.way {
            Way::Kube(kube) => kube.send(request).await.map(|a| a.map(incoming)).map_err(|e| unreachable_server(&e)),
            Way::InProcess(handle) => handle(request).await.map_err(|e| unreachable_server(&e)),
        }
    }

    async fn json(&self, method: Method, path: String, media: &'static str, body: Option<&Value>) -> ApiResult<Value> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        let bytes = match body {
            None => Bytes::new(),
            Some(value) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
                serde_json::to_vec(value).map_err(Status::internal)?.into()
            }
        };
        let answer = self.raw(method, &path, headers, bytes).await?;
        if !answer.status().is_success() {
            return Err(failure(answer.status().as_u16(), answer.body()));
        }
        if !self.reads {
            return Ok(Value::Null);
        }
        serde_json::from_slice(answer.body())
            .map_err(|e| Status::new(Reason::Unknown, format!("the answer to {path} is no JSON: {e}")))
    }
}

/// True for an error that came from no server: it could not be reached, or went away in the middle of an answer.
pub fn is_unreachable(status: &Status) -> bool {
    status.code == 0
}

/// An error that came from no server has code 0.
fn unreachable_server(error: &dyn std::error::Error) -> Box<Status> {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = inner.source();
    }
    let mut status = Status::new(Reason::Unknown, format!("cannot talk to the API server: {message}"));
    status.code = 0;
    status
}

fn incoming<B>(body: B) -> Incoming
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    body.map_err(|e| Broken(e.into())).boxed_unsync()
}

async fn whole(body: Incoming) -> ApiResult<Bytes> {
    let limited = Limited::new(body, MAX_ANSWER_BYTES);
    limited.collect().await.map(|c| c.to_bytes()).map_err(|e| unreachable_server(&*e))
}

/// The Status in an answer that is no success; other bodies become its message.
fn failure(code: u16, body: &[u8]) -> Box<Status> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value["kind"] == "Status" => Status::from_value(&value, code),
        _ => {
            let text = String::from_utf8_lossy(body);
            let reason = match code {
                401 => Reason::Unauthorized,
                403 => Reason::Forbidden,
                404 => Reason::NotFound,
                429 => Reason::TooManyRequests,
                503 => Reason::ServiceUnavailable,
                _ => Reason::Unknown,
            };
            let mut status = Status::new(reason, format!("the server answered {code}: {}", text.trim()));
            status.code = code;
            status
        }
    }
}

/// `Ok(None)` where the object is not there.
pub fn optional<T>(result: ApiResult<T>) -> ApiResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.reason == Reason::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::convert::Infallible;

    /// Answers with what it was asked.
    fn echo() -> Client {
        Client::in_process(tower::service_fn(|request: Request<Body>| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap_or_default();
            let text =
                |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let answer = json!({
                "method": parts.method.as_str(), "path": parts.uri.to_string(), "type": text("content-type"),
                "agent": text("user-agent"), "body": serde_json::from_slice::<Value>(&body).unwrap_or_default(),
            });
            let bytes = Bytes::from(answer.to_string());
            Ok::<_, Infallible>(Response::new(http_body_util::Full::new(bytes)))
        }))
    }

    #[tokio::test]
    async fn patches_carry_type_manager_and_name() {
        let client = echo().named("kube-controller-manager");
        let body = json!({"a": 1});
        let out = client.patch(&res::PODS, "n", "p", Some("status"), Patch::Merge(&body)).await.unwrap();
        assert_eq!(out["path"], "/api/v1/namespaces/n/pods/p/status?fieldManager=kube-controller-manager");
        assert_eq!(out["type"], "application/merge-patch+json");
        assert!(out["agent"].as_str().unwrap().starts_with("kube-controller-manager/"));
        assert_eq!(out["body"], body);
        let apply = Patch::Apply { body: &body, manager: "me", force: true };
        let out = client.patch(&res::NODES, "", "x", None, apply).await.unwrap();
        assert_eq!(out["path"], "/api/v1/nodes/x?fieldManager=me&force=true");
    }

    #[tokio::test]
    async fn errors_are_the_servers_status() {
        let client = Client::in_process(tower::service_fn(|_: Request<Body>| async {
            let status = Status::conflict("", "pods", "p", "stale");
            let body = http_body_util::Full::new(Bytes::from(status.to_value().to_string()));
            Ok::<_, Infallible>(Response::builder().status(409).body(body).expect("a valid answer"))
        }));
        let error = client.get(&res::PODS, "n", "p").await.unwrap_err();
        assert_eq!(error, Status::conflict("", "pods", "p", "stale"));
        assert!(!is_unreachable(&error));
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_told_apart() {
        let client = Client::in_process(tower::service_fn(|_: Request<Body>| async {
            Err::<Response<http_body_util::Full<Bytes>>, _>(std::io::Error::other("refused"))
        }));
        let error = client.get(&res::PODS, "n", "p").await.unwrap_err();
        assert!(is_unreachable(&error), "{error}");
        assert!(error.message.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn who_does_not_read_is_told_of_errors_alone() {
        let blind = echo().blind();
        assert_eq!(blind.create(&res::PODS, "n", &json!({"a": 1})).await.unwrap(), Value::Null);
        let refusing = Client::in_process(tower::service_fn(|_: Request<Body>| async {
            let body =
                http_body_util::Full::new(Bytes::from(Status::not_found("", "pods", "p").to_value().to_string()));
            Ok::<_, Infallible>(Response::builder().status(404).body(body).expect("a valid answer"))
        }));
        let error = refusing.blind().create(&res::PODS, "n", &json!({})).await.unwrap_err();
        assert_eq!(error, Status::not_found("", "pods", "p"));
    }

    #[test]
    fn dry_runs_are_asked_for() {
        let write = WriteOptions { dry_run: true, field_validation: "Strict".into(), ..WriteOptions::default() };
        assert_eq!(write.query().after("/x".to_owned()), "/x?fieldValidation=Strict&dryRun=All");
    }
}
