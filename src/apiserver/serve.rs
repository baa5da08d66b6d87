//! The ways in: TLS connections from outside, and a `tower` service for the same process.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body as HttpBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::api::user::UserInfo;
use crate::util::tasks::Shutdown;

use super::cork::{ConnectionEnd, Corked, Driven};
use super::respond::{Answer, Body};
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
/// A connection without a request is closed after this long. Upstream: 90 s.
const IDLE: Duration = Duration::from_secs(90);
/// A peer that is silent for so long is asked whether it still lives; one that lost its power never says goodbye.
const KEEP_ALIVE_SECONDS: u32 = 60;
/// Between two such questions; after [`KEEP_ALIVE_TRIES`] without an answer the connection is dead.
const KEEP_ALIVE_INTERVAL_SECONDS: u32 = 20;
const KEEP_ALIVE_TRIES: u32 = 3;

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
    let open = TaskTracker::new();
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
        let (api, acceptor, stop) = (api.clone(), acceptor.clone(), shutdown.clone());
        // Owned by its client and by the drain below; it ends with the connection.
        open.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(api, acceptor, stream, peer, stop).await {
                tracing::debug!(%peer, "connection ended: {error}");
            }
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::debug!(connections = open.len(), "some connections did not end in time");
    }
    Ok(())
}

async fn connection(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    stop: Shutdown,
) -> anyhow::Result<()> {
    prepare(&stream)?;
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let Some(tls) = stop.or(handshake).await else { return Ok(()) };
    let tls = tls??;
    let identity = Arc::new(api.access.peer(tls.get_ref().1.peer_certificates().unwrap_or_default()));
    let (busy, end) = (Arc::new(Busy::default()), ConnectionEnd::default());
    let (stream, output) = Corked::pair(tls, end.clone());
    let service = service_fn(|mut request: Request<hyper::body::Incoming>| {
        let (api, work) = (api.clone(), Work::begin(&busy));
        request.extensions_mut().insert(identity.clone());
        request.extensions_mut().insert(PeerAddress(peer));
        request.extensions_mut().insert(end.clone());
        async move {
            let answer = api.handle(request).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Counted { body, _work: work }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let serving = async {
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            end = connection.as_mut() => return end,
            () = stop.wait() => {}
            () = busy.is_idle(IDLE) => {}
        }
        // Takes no more requests, and ends with the last one that it has.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    Driven::new(serving, output).await.map_err(|e| anyhow::anyhow!(e))
}

/// Small writes go out at once; a peer that is gone without a word is noticed.
fn prepare(stream: &TcpStream) -> anyhow::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_TRIES)?;
    Ok(())
}

/// How many requests of a connection are not yet wholly answered, and when the last one was.
struct Busy {
    requests: AtomicUsize,
    since: Mutex<Instant>,
}

impl Default for Busy {
    fn default() -> Self {
        Self { requests: AtomicUsize::new(0), since: Mutex::new(Instant::now()) }
    }
}

impl Busy {
    /// Completes when there was no request for so long.
    async fn is_idle(&self, time: Duration) {
        loop {
            let end = match self.requests.load(Ordering::Acquire) {
                0 => *self.since.lock() + time,
                _ => Instant::now() + time,
            };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A request of a connection, until it is dropped.
struct Work(Arc<Busy>);

impl Work {
    fn begin(busy: &Arc<Busy>) -> Self {
        busy.requests.fetch_add(1, Ordering::AcqRel);
        Self(busy.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        *self.0.since.lock() = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer, with the request that it ends.
struct Counted {
    body: Body,
    _work: Work,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// The server for components of the same process: the same handlers, an identity instead of credentials.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<Api>,
    user: Arc<UserInfo>,
}

impl InProcess {
    /// Requests come from `user`.
    pub fn new(api: Arc<Api>, user: UserInfo) -> Self {
        Self { api, user: user.into() }
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
        request.extensions_mut().insert(Identity((*self.user).clone()));
        let api = self.api.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_idle_only_without_requests() {
        let busy = Arc::new(Busy::default());
        let (began, idle) = (Instant::now(), Duration::from_millis(10));
        let work = Work::begin(&busy);
        let request = async {
            tokio::time::sleep(5 * idle).await;
            drop(work);
        };
        tokio::join!(busy.is_idle(idle), request);
        assert!(began.elapsed() >= 6 * idle, "{:?}", began.elapsed());
    }
}
