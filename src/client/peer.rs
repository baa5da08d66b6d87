//! Others' servers: webhooks and extension API servers.
//!
//! In: where one is, whose certificate is believed, who asks. Out: a client of one pool.
//!
//! **Invariant:** each has its own trust: what one server's CA signed says nothing to another.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use rustls::client::ResolvesClientCert;
use tower::{BoxError, Service};

use super::pools::Transport;
use super::tls::{self, ConnectError, Credentials, Road};
use crate::util::duplex;

/// Makes connections to one server that cannot be dialled by its address: TLS comes on top.
pub trait Dial: Send + Sync {
    /// A new connection.
    fn dial(&self) -> BoxFuture<'static, io::Result<duplex::Stream>>;
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// One of the machine's CAs.
    Machine,
    /// These, PEM.
    Ca(Vec<u8>),
    /// Anybody's, because the administrator says so.
    Anybody,
}

impl Trust {
    /// Of a `caBundle`: without one the machine's CAs are believed.
    pub fn of_bundle(pem: Vec<u8>) -> Self {
        if pem.is_empty() { Self::Machine } else { Self::Ca(pem) }
    }
}

/// A server.
pub struct Peer {
    /// `https://host:port`; the certificate must be for the host.
    pub base: String,
    /// Whose certificate it must show.
    pub trust: Trust,
    /// What it is shown.
    pub credentials: Credentials,
    /// What makes connections; none dials the host.
    pub dial: Option<Arc<dyn Dial>>,
}

/// A body that is still to come.
pub type Coming = UnsyncBoxBody<Bytes, BoxError>;

/// Passes requests on to one server: bodies go both ways as they come, upgrades too.
#[derive(Clone)]
pub struct Passage {
    base: String,
    transport: Transport<Coming>,
}

impl Passage {
    /// To a server.
    pub fn to(peer: Peer) -> Result<Self, ConnectError> {
        let base = peer.base.clone();
        let (config, resolver, road) = peer.configured()?;
        Ok(Self { base, transport: Transport::new(&config, resolver, road)? })
    }

    /// Sends a request whose URI is a path with a query. The error is what went wrong in the end, for people.
    pub async fn send(&self, mut request: Request<Coming>) -> Result<Response<Incoming>, String> {
        let uri = format!("{}{}", self.base, request.uri());
        *request.uri_mut() = uri.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
        self.transport.clone().call(request).await.map_err(|e| innermost(&*e))
    }
}

/// What an error is about, without the layers that only say where it came up.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// How to connect: the settings, the certificate that is shown, the way.
type Configured = (kube::Config, Option<Arc<dyn ResolvesClientCert>>, Road);

impl Peer {
    pub(super) fn connect(self) -> Result<kube::Client, ConnectError> {
        let (config, resolver, road) = self.configured()?;
        tls::client(config, resolver, road)
    }

    fn configured(self) -> Result<Configured, ConnectError> {
        let pem: &[u8] = if let Trust::Ca(pem) = &self.trust { pem } else { &[] };
        let (mut config, resolver) = tls::configured(&self.base, pem, self.credentials)?;
        if !matches!(self.trust, Trust::Ca(_)) {
            config.root_cert = None;
        }
        config.accept_invalid_certs = self.trust == Trust::Anybody;
        Ok((config, resolver, self.dial.map_or(Road::Direct, Road::Dialed)))
    }
}
