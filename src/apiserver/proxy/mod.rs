//! `proxy` of nodes, pods and Services: a request is passed on to what they name, and its answer passed back.
//!
//! In: a request that is authorized. Out: what the other side says, with its links made to lead back through here.
//! Connections go through the node of the pod (`nodes`): the server itself need not reach pods.
//!
//! Rules: upstream `apimachinery/pkg/util/proxy` and `pkg/registry/core/{node,pod,service}` (`ResourceLocation`).
//!
//! **Invariant:** bodies pass both ways as they come; nothing of them is collected here.
//! **Invariant:** credentials of the client never leave the API server.

pub(super) mod headers;
mod html;
mod place;
#[cfg(test)]
mod tests;
mod urls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::user::Attributes;
use crate::client::Coming;
use crate::registry::{Admission, Resource, View};
use crate::runtime::node_api::{Door, NodeStream};
use crate::util::anytls;
use crate::util::hops;

use super::respond::{self, Answer};
use super::serve::PeerAddress;
use super::{Api, Call, verbs};
use place::{Place, Way};
use urls::Links;

/// Methods that are passed on. Upstream: `proxyMethods`.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];

/// What of a request is passed on untouched.
pub(super) struct Passed {
    uri: Uri,
    /// Taken out once; the lock only lets the request be looked at from several threads.
    body: Mutex<Coming>,
    client: Option<SocketAddr>,
}

impl Passed {
    /// Takes it out of the request; one that is upgraded has no body.
    pub(super) fn of<B>(parts: &mut Parts, body: B, upgrading: bool) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let body = match upgrading {
            true => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            false => body.map_err(Into::into).boxed_unsync(),
        };
        let client = parts.extensions.get::<PeerAddress>().map(|p| p.0);
        Self { uri: parts.uri.clone(), body: Mutex::new(body), client }
    }

    /// Path and query as they came, the body, the client's address.
    pub(super) fn into_parts(self) -> (Uri, Coming, Option<SocketAddr>) {
        (self.uri, self.body.into_inner(), self.client)
    }
}

impl Api {
    /// A request for `proxy`, or below it.
    pub(super) async fn proxy(&self, res: &Arc<Resource>, mut call: Call) -> ApiResult<Answer> {
        let a = &call.info.attributes;
        let Some(passed) = call.passed.take().filter(|_| METHODS.contains(&call.method)) else {
            return Err(verbs::method_not_allowed());
        };
        if a.name.is_empty() || res.info.is_namespaced() == a.namespace.is_empty() {
            return Err(verbs::method_not_allowed());
        }
        let (cx, at) = (self.cx(res, &call, ""), call.target(res));
        let mut options = connect_options(res, place::behind_proxy(passed.uri.path(), res.info.is_namespaced()));
        self.registry.admit(&Admission::connection(res, &cx, &at, &a.subresource), &mut options).await?;
        let place = place::find(
            &res.info.plural,
            a,
            &|resource, namespace, name| View::get(&*self.registry, "", resource, namespace, name).map(|o| o.value()),
            &|service| self.slices_of(&a.namespace, service),
        )?;
        let upgrade = call.upgrade.take().filter(|_| call.headers.contains_key(header::UPGRADE));
        if upgrade.is_some() && place.way == Way::Kubelet {
            // Reaches into containers, whatever the method: upstream lets it pass for reading.
            self.access.allow(&call.user, &Attributes { verb: "create".into(), ..a.clone() }).await?;
        }
        let path = passed.uri.path();
        let rest = place::behind_proxy(path, res.info.is_namespaced());
        if rest.is_empty() && upgrade.is_none() && matches!(call.method, Method::GET | Method::HEAD) {
            return Ok(to_directory(&passed.uri));
        }
        let prefix = path.strip_suffix(rest).unwrap_or(path).to_owned();
        let host = call.host().to_owned();
        let links = Links { prefix, target: place.host.clone(), asked: host.clone() };
        let target = match (rest.is_empty(), passed.uri.query()) {
            (empty, Some(query)) => format!("{}?{query}", if empty { "/" } else { rest }),
            (true, None) => "/".to_owned(),
            (false, None) => rest.to_owned(),
        };
        let mut request = Request::new(passed.body.into_inner());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = target.parse().map_err(|_| Status::bad_request("the path behind proxy is no path"))?;
        *request.headers_mut() = headers::onward(&call.headers, upgrade.is_some());
        headers::forwarded(request.headers_mut(), passed.client, &links.forwarded_uri(rest));
        if let Ok(host) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(header::HOST, host);
        }
        let answer = self.send_to(&place, request).await?;
        match upgrade {
            Some(client) => upgraded(client, answer),
            None => Ok(passed_back(&call.method, answer, links)),
        }
    }

    fn slices_of(&self, namespace: &str, service: &str) -> Vec<Value> {
        let slices = View::list(&*self.registry, "discovery.k8s.io", "endpointslices", Some(namespace));
        let of = |o: &Arc<crate::api::object::Object>| {
            o.meta.label(crate::api::services::SERVICE_NAME_LABEL) == Some(service)
        };
        slices.iter().filter(|o| of(o)).map(|o| o.value()).collect()
    }

    async fn send_to(&self, place: &Place, request: Request<Coming>) -> ApiResult<hyper::Response<Incoming>> {
        let node = self.nodes.get(&place.node)?;
        let sending = async {
            let stream = match place.way {
                Way::Kubelet => node.open(Door::Kubelet).await?,
                Way::Port { address, tls: false } => node.open(Door::Port(address)).await?,
                Way::Port { address, tls: true } => {
                    let name = ServerName::IpAddress(address.ip().into());
                    let stream = node.open(Door::Port(address)).await?;
                    Box::new(anytls::connector().connect(name, stream).await?) as NodeStream
                }
            };
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            // Ends with its one answer, or when the client goes away, or when the connection is handed over.
            tokio::spawn(connection.with_upgrades());
            sender.send_request(request).await.map_err(|e| io::Error::other(innermost(&e)))
        };
        let sent: io::Result<_> = sending.await;
        sent.map_err(|e| Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {e}")))
    }
}

/// What an error is about, without the layers that only say where it came up.
fn innermost(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What admission sees of it: `PodProxyOptions` and its siblings, with the path as upstream takes it apart.
fn connect_options(res: &Resource, rest: &str) -> Value {
    let mut options = json!({"kind": format!("{}ProxyOptions", res.info.gvk.kind), "apiVersion": "v1"});
    let path = rest.trim_matches('/');
    if !path.is_empty() {
        options["path"] = path.into();
    }
    options
}

/// Links of a page are relative to its directory, so that the root of a site has to end with a slash.
fn to_directory(uri: &Uri) -> Answer {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut answer = respond::nothing();
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

/// The answer for the client: links that lead to the other side lead back through here.
fn passed_back(method: &Method, answer: hyper::Response<Incoming>, links: Links) -> Answer {
    let (mut parts, body) = answer.into_parts();
    hops::strip(&mut parts.headers, false);
    parts.extensions.insert(respond::Endless);
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()) {
        if let Ok(location) = HeaderValue::from_str(&links.rewrite(location)) {
            parts.headers.insert(header::LOCATION, location);
        }
    } else if headers::is_html(&parts.headers)
        && let Some(coding) = html::Coding::of(&parts.headers)
    {
        parts.headers.remove(header::CONTENT_LENGTH);
        if method != Method::HEAD {
            return Answer::from_parts(parts, html::rewritten(body, coding, links));
        }
    }
    Answer::from_parts(parts, body.map_err(io::Error::other).boxed_unsync())
}

/// The answer to an upgrade, and the bytes after it. A refusal is passed on as it is.
pub(super) fn upgraded(client: hyper::upgrade::OnUpgrade, answer: hyper::Response<Incoming>) -> ApiResult<Answer> {
    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS && status.as_u16() < 400 {
        return Err(Status::internal(format!("invalid upgrade response: status code {}", status.as_u16())));
    }
    let mut told = respond::nothing();
    *told.status_mut() = status;
    *told.headers_mut() = answer.headers().clone();
    hops::strip(told.headers_mut(), status == StatusCode::SWITCHING_PROTOCOLS);
    told.extensions_mut().insert(respond::Endless);
    if status != StatusCode::SWITCHING_PROTOCOLS {
        *told.body_mut() = answer.into_body().map_err(io::Error::other).boxed_unsync();
        return Ok(told);
    }
    // Belongs to the request: it ends with the client's connection or the other side's.
    tokio::spawn(async move {
        let (Ok(client), Ok(other)) = tokio::join!(client, hyper::upgrade::on(answer)) else {
            return tracing::debug!("one end of a proxied stream went away before it began");
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut other).await {
            tracing::debug!("a proxied stream ended: {error}");
        }
    });
    Ok(told)
}
