//! The server under load, and bare connections to it: no pool, no middle layer, so that the figures are the server's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::value::ValueExt;

/// Requests that are in flight at once on one HTTP/2 connection, where there are several.
const STREAMS: usize = 8;
/// Bytes in flight on an HTTP/2 connection and on each of its streams.
const WINDOW_BYTES: u32 = 16 << 20;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where requests go and who sends them.
#[derive(Clone)]
pub(super) struct Target {
    authority: String,
    name: ServerName<'static>,
    tls: rustls::ClientConfig,
}

impl Target {
    /// From the current context of a kubeconfig with embedded certificates.
    pub(super) fn of_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<Self> {
            let config: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
            Self::of_config(&config)
        };
        read().with_context(|| format!("cannot use kubeconfig {}", path.display()))
    }

    fn of_config(config: &Value) -> anyhow::Result<Self> {
        let cluster = config.get_at("/clusters/0/cluster").context("it has no cluster")?;
        let user = config.get_at("/users/0/user").context("it has no user")?;
        let pem = |at: &Value, key: &str| -> anyhow::Result<Vec<u8>> {
            let text = at.str_at(&format!("/{key}")).with_context(|| format!("{key} is not in it"))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let server = cluster.str_at("/server").context("it names no server")?;
        let authority = server.strip_prefix("https://").context("the server is not https")?.trim_end_matches('/');
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(&pem(cluster, "certificate-authority-data")?) {
            roots.add(ca?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem(user, "client-certificate-data")?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(user, "client-key-data")?)?;
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Self { authority: authority.to_owned(), name: ServerName::try_from(host.to_owned())?, tls })
    }

    /// A new connection.
    pub(super) async fn connect(&self, protocol: Protocol) -> anyhow::Result<Connection> {
        let stream =
            TcpStream::connect(&self.authority).await.with_context(|| format!("cannot reach {}", self.authority))?;
        stream.set_nodelay(true)?;
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        let stream = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(self.name.clone(), stream).await?);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                // Ends with its sender.
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
                let (sender, connection) = builder.handshake(stream).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Connection { authority: self.authority.clone(), sender })
    }

    /// As many as asked for.
    pub(super) async fn connect_many(&self, count: usize, protocol: Protocol) -> anyhow::Result<Vec<Connection>> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.connect(protocol).await?);
        }
        Ok(all)
    }

    /// As many as asked for, of HTTP/2, some of which share a connection as the requests of a client program do.
    pub(super) async fn connect_as_clients(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        let mut all: Vec<Connection> = Vec::with_capacity(count);
        for i in 0..count {
            let shared = all.last().filter(|_| i % STREAMS != 0).and_then(Connection::another);
            all.push(match shared {
                Some(shared) => shared,
                None => self.connect(Protocol::Http2).await?,
            });
        }
        Ok(all)
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A request without the parts that every request has.
#[derive(Debug)]
pub(super) struct Call {
    /// Verb.
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    /// Type of the body; empty for none.
    pub(super) content_type: &'static str,
    /// Body.
    pub(super) body: Bytes,
}

impl Call {
    /// A GET.
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), content_type: "", body: Bytes::new() }
    }

    /// A POST of JSON.
    pub(super) fn create(path: impl Into<String>, object: &Value) -> Self {
        Self::post(path, crate::api::codec::json::to_vec(object).into())
    }

    /// A POST of JSON that is text already.
    pub(super) fn post(path: impl Into<String>, body: Bytes) -> Self {
        Self { method: Method::POST, path: path.into(), content_type: "application/json", body }
    }

    /// A merge patch.
    pub(super) fn patch(path: impl Into<String>, patch: &Value) -> Self {
        let body = patch.to_string().into();
        Self { method: Method::PATCH, path: path.into(), content_type: "application/merge-patch+json", body }
    }
}

/// An open connection.
pub(super) struct Connection {
    authority: String,
    sender: Sender,
}

impl Connection {
    /// The same one for another request at the same time; none of HTTP/1.
    fn another(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { authority: self.authority.clone(), sender: Sender::Http2(sender.clone()) })
            }
        }
    }

    /// Sends a request; gives the head of the answer, and its body to be read.
    pub(super) async fn send(&mut self, call: Call) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder().method(call.method).header(ACCEPT, "application/json");
        if !call.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, call.content_type);
        }
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                let request = request.uri(call.path).header(HOST, &self.authority).body(Full::new(call.body))?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let uri = format!("https://{}{}", self.authority, call.path);
                let request = request.uri(uri).body(Full::new(call.body))?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// Sends a request and reads the answer to its end; gives its size. An error status is an error.
    pub(super) async fn exchange(&mut self, call: Call) -> anyhow::Result<usize> {
        let answer = self.send(call).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut size = 0;
        if !status.is_success() {
            let text = body.collect().await?.to_bytes();
            bail!("{status}: {}", String::from_utf8_lossy(&text[..text.len().min(500)]));
        }
        while let Some(frame) = body.frame().await {
            size += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(size)
    }

    /// The same, with the body as JSON.
    pub(super) async fn json(&mut self, call: Call) -> anyhow::Result<Value> {
        let answer = self.send(call).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Creates an object that may be there already.
    pub(super) async fn ensure(&mut self, path: &str, object: &Value) -> anyhow::Result<()> {
        let answer = self.send(Call::create(path, object)).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let fine = status.is_success() || status == StatusCode::CONFLICT;
        ensure!(fine, "POST {path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
        Ok(())
    }
}
