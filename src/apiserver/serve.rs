//! The ways in: TLS connections from outside, and a `tower` service for the same process.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body as HttpBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::api::user::UserInfo;
use crate::util::tasks::Shutdown;

use super::cork::{Corked, Driven};
use super::respond::Answer;
use super::{Api, Identity};

/// Connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the header of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Requests at one time on one HTTP/2 connection. Upstream: 250.
const MAX_STREAMS: u32 = 250;
/// How long open requests may go on once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Where a request came from; an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub SocketAddr);

/// Accepts connections until the shutdown, then lets open requests end.
pub async fn serve(
    api: Arc<Api>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let Some(slot) = shutdown.or(slots.clone().acquire_owned()).await else { break };
        let slot = slot.expect("the semaphore is never closed");
        let (stream, peer) = match shutdown.or(listener.accept()).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                // Out of descriptors, mostly: give others the time to close some.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let watcher = graceful.watcher();
        let (api, acceptor) = (api.clone(), acceptor.clone());
        // Owned by its client and by the drain below; it ends with the connection.
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(api, acceptor, stream, peer, watcher).await {
                tracing::debug!(%peer, "connection ended: {error}");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
    Ok(())
}

async fn connection(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    watcher: hyper_util::server::graceful::Watcher,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let identity = Arc::new(api.access.peer(tls.get_ref().1.peer_certificates().unwrap_or_default()));
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let api = api.clone();
        request.extensions_mut().insert(identity.clone());
        request.extensions_mut().insert(PeerAddress(peer));
        async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let (stream, output) = Corked::pair(tls);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    Driven::new(watcher.watch(connection.into_owned()), output).await.map_err(|e| anyhow::anyhow!(e))
}

/// The server for components of the same process: the same handlers, an identity instead of credentials.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<Api>,
    user: Identity,
}

impl InProcess {
    /// Requests come from `user`.
    pub fn new(api: Arc<Api>, user: UserInfo) -> Self {
        Self { api, user: Identity(user) }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        let api = self.api.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}
