//! A node elsewhere, asked over its tunnel: the node's HTTPS-port API, in upstream's paths.
//!
//! **Invariant:** what a client upgrades is passed on byte for byte; the node speaks SPDY and WebSockets itself.

use std::fmt::Write;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::node_api::{Door, LogOptions, LogStream, NodeApi, NodeStream, Streams, Target};
use super::tunnel::{KUBELET, Tunnel};
use crate::api::status::{ApiResult, Reason, Status};
use crate::client::res::encode;

/// Bytes of an answer that is read whole.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A node behind a tunnel.
#[derive(Debug, Clone)]
pub struct RemoteNode {
    name: String,
    tunnel: Tunnel,
}

impl RemoteNode {
    /// The node `name` behind `tunnel`.
    pub fn new(name: &str, tunnel: Tunnel) -> Self {
        Self { name: name.to_owned(), tunnel }
    }

    fn gone(&self, why: impl std::fmt::Display) -> Box<Status> {
        Status::new(Reason::ServiceUnavailable, format!("node {} cannot be reached: {why}", self.name))
    }

    /// Sends a request over a stream of its own.
    async fn send(&self, method: Method, path: &str, headers: HeaderMap) -> ApiResult<Response<Incoming>> {
        let stream = self.tunnel.open(KUBELET).await.map_err(|e| self.gone(e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| self.gone(e))?;
        // Ends when the connection is handed over, or with its answer.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(Status::internal)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, http::HeaderValue::from_static(KUBELET));
        sender.send_request(request).await.map_err(|e| self.gone(e))
    }

    async fn get(&self, path: &str) -> ApiResult<Bytes> {
        self.ask(Method::GET, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> ApiResult<Bytes> {
        let answer = self.send(method, path, HeaderMap::new()).await?;
        let status = answer.status();
        let body = self.whole(answer).await?;
        if status.is_success() { Ok(body) } else { Err(failure(status, &body)) }
    }

    async fn json(&self, path: &str) -> ApiResult<Value> {
        serde_json::from_slice(&self.get(path).await?).map_err(Status::internal)
    }

    async fn whole(&self, answer: Response<Incoming>) -> ApiResult<Bytes> {
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        body.map(|b| b.to_bytes()).map_err(|e| self.gone(e))
    }

    /// Passes an upgrade on to the node, and then bytes both ways until either side ends.
    async fn upgrade(&self, path: &str, mut request: Request<()>) -> ApiResult<Response<()>> {
        let headers = std::mem::take(request.headers_mut());
        let mut passed = HeaderMap::new();
        for (name, value) in &headers {
            let known = name == CONNECTION || name == UPGRADE || name.as_str().starts_with("sec-websocket-");
            // A browser puts its token among the protocols: the node has no use for it.
            let secret = value.to_str().is_ok_and(|v| v.contains("base64url.bearer."));
            if (known || name.as_str() == "x-stream-protocol-version") && !secret {
                passed.append(name.clone(), value.clone());
            }
        }
        let answer = self.send(request.method().clone(), path, passed).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = answer.status();
            return Err(failure(status, &self.whole(answer).await?));
        }
        let mut told = Response::new(());
        *told.status_mut() = answer.status();
        *told.headers_mut() = answer.headers().clone();
        let (client, name) = (hyper::upgrade::on(&mut request), self.name.clone());
        // Belongs to the request: it ends with the client's connection or the node's.
        tokio::spawn(async move {
            let (Ok(client), Ok(node)) = tokio::join!(client, hyper::upgrade::on(answer)) else {
                return tracing::debug!(node = name, "one end of a stream went away before it began");
            };
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
                tracing::debug!(node = name, "a stream ended: {error}");
            }
        });
        Ok(told)
    }
}

/// The node's Status, or one made of what it said.
fn failure(code: StatusCode, body: &[u8]) -> Box<Status> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value["kind"] == "Status" => Status::from_value(&value, code.as_u16()),
        _ => {
            let text = String::from_utf8_lossy(body).trim().to_owned();
            let mut status = Status::new(Reason::InternalError, text);
            status.code = code.as_u16();
            status
        }
    }
}

/// `/verb/namespace/pod[/container]`.
fn path(verb: &str, target: &Target, with_container: bool) -> String {
    let mut out = format!("/{verb}/");
    encode(&mut out, &target.namespace);
    out.push('/');
    encode(&mut out, &target.pod);
    if with_container {
        out.push('/');
        encode(&mut out, &target.container);
    }
    out
}

/// Puts a query behind a path.
fn with_query(mut path: String, pairs: &[(&str, String)]) -> String {
    for (i, (key, value)) in pairs.iter().enumerate() {
        let _ = write!(path, "{}{key}=", if i == 0 { '?' } else { '&' });
        encode(&mut path, value);
    }
    path
}

fn flags(streams: Streams) -> Vec<(&'static str, String)> {
    let all = [("input", streams.stdin), ("output", streams.stdout), ("error", streams.stderr), ("tty", streams.tty)];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "1".to_owned())).collect()
}

fn log_query(o: &LogOptions) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    for (name, on) in [("follow", o.follow), ("previous", o.previous), ("timestamps", o.timestamps)] {
        if on {
            out.push((name, "true".to_owned()));
        }
    }
    out.extend(o.tail_lines.map(|n| ("tailLines", n.to_string())));
    out.extend(o.limit_bytes.map(|n| ("limitBytes", n.to_string())));
    out.extend(o.since.map(|t| ("sinceTime", t.to_string())));
    out.extend(o.stream.clone().map(|s| ("stream", s)));
    out
}

#[async_trait]
impl NodeApi for RemoteNode {
    async fn logs(&self, target: &Target, options: &LogOptions) -> ApiResult<LogStream> {
        let path = with_query(path("containerLogs", target, true), &log_query(options));
        let answer = self.send(Method::GET, &path, HeaderMap::new()).await?;
        if !answer.status().is_success() {
            let status = answer.status();
            return Err(failure(status, &self.whole(answer).await?));
        }
        Ok(answer.into_body().into_data_stream().map_err(io::Error::other).boxed())
    }

    async fn exec(
        &self,
        target: &Target,
        command: &[String],
        streams: Streams,
        request: Request<()>,
    ) -> ApiResult<Response<()>> {
        let mut query: Vec<_> = command.iter().map(|word| ("command", word.clone())).collect();
        query.extend(flags(streams));
        self.upgrade(&with_query(path("exec", target, true), &query), request).await
    }

    async fn attach(&self, target: &Target, streams: Streams, request: Request<()>) -> ApiResult<Response<()>> {
        self.upgrade(&with_query(path("attach", target, true), &flags(streams)), request).await
    }

    async fn port_forward(&self, target: &Target, ports: &[u16], request: Request<()>) -> ApiResult<Response<()>> {
        let ports: Vec<_> = ports.iter().map(|p| ("port", p.to_string())).collect();
        self.upgrade(&with_query(path("portForward", target, false), &ports), request).await
    }

    async fn open(&self, door: Door) -> io::Result<NodeStream> {
        let stream = match door {
            Door::Kubelet => self.tunnel.open(KUBELET).await?,
            Door::Port(address) => self.tunnel.open(&address.to_string()).await?,
        };
        Ok(Box::new(TokioIo::new(stream)))
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        self.json("/stats/summary").await
    }

    async fn resource_metrics(&self) -> ApiResult<String> {
        Ok(String::from_utf8_lossy(&self.get("/metrics/resource").await?).into_owned())
    }

    async fn healthz(&self) -> Result<(), String> {
        self.get("/healthz").await.map(drop).map_err(|e| e.message.clone())
    }

    async fn pods(&self) -> ApiResult<Value> {
        self.json("/pods").await
    }

    async fn make_local_volume(&self, name: &str) -> ApiResult<String> {
        let mut path = "/localVolumes/".to_owned();
        encode(&mut path, name);
        Ok(String::from_utf8_lossy(&self.ask(Method::PUT, &path).await?).into_owned())
    }

    async fn remove_local_volume(&self, path: &str) -> ApiResult<()> {
        let query = with_query("/localVolumes".to_owned(), &[("path", path.to_owned())]);
        self.ask(Method::DELETE, &query).await.map(drop)
    }

    async fn metrics(&self) -> ApiResult<String> {
        Ok(String::from_utf8_lossy(&self.get("/metrics").await?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_upstreams() {
        let target = Target { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
        let mut query = vec![("command", "sh".to_owned()), ("command", "a b&c".to_owned())];
        query.extend(flags(streams));
        let exec = with_query(path("exec", &target, true), &query);
        assert_eq!(exec, "/exec/n/p/c?command=sh&command=a%20b%26c&input=1&output=1");
        assert_eq!(path("portForward", &target, false), "/portForward/n/p");
        let since = "2026-01-01T00:00:00Z".parse().ok();
        let options = LogOptions { follow: true, tail_lines: Some(5), since, ..LogOptions::default() };
        let logs = with_query(path("containerLogs", &target, true), &log_query(&options));
        assert_eq!(logs, "/containerLogs/n/p/c?follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z");
    }

    #[test]
    fn what_a_node_says_is_passed_on() {
        let status = Status::bad_request("container \"c\" is waiting to start");
        let body = status.to_value().to_string();
        let told = failure(StatusCode::BAD_REQUEST, body.as_bytes());
        assert_eq!((told.code, &told.message), (400, &status.message));
        assert_eq!(failure(StatusCode::NOT_FOUND, b"404 page not found\n").message, "404 page not found");
    }
}
