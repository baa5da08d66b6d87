//! The node's own API, in upstream's paths: on the HTTPS port, and over the tunnel to a server.
//!
//! In: requests. Out: what [`NodeApi`] says. On the port every request is authenticated by client certificate or token, and
//! authorized by the API (`auth`); over the tunnel it comes from the API server, which has done both.
//!
//! **Invariant:** nothing is answered on the port to somebody unknown.

mod auth;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

pub use auth::Guard;

use crate::api::status::Status;
use crate::runtime::node_api::{Door, NodeApi, NodeStream};
use crate::runtime::tunnel::{self, Opener, Taker};
use crate::util::tasks::Shutdown;
use auth::Peer;
use routes::Route;

/// Connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long a TLS handshake and the header of a request may take each.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes on their way between the API server and the node's API in one process.
const IN_PROCESS_BYTES: usize = 64 << 10;
/// How long open requests may go on once the node agent stops.
const DRAIN: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Accepts connections on the HTTPS port until the shutdown.
pub async fn listen(
    node: Arc<dyn NodeApi>,
    guard: Arc<Guard>,
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
        let stream = match shutdown.or(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                tracing::warn!("cannot accept a connection: {error}");
                // Out of descriptors, mostly: give others the time to close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, guard, acceptor, stop) = (node.clone(), guard.clone(), acceptor.clone(), shutdown.clone());
        // Owned by its client and by the drain below; it ends with the connection.
        open.spawn(async move {
            let _slot = slot;
            if let Err(error) = secure(node, guard, acceptor, stream, stop).await {
                tracing::debug!("a connection to the node's port ended: {error}");
            }
        });
    }
    open.close();
    let _ = tokio::time::timeout(DRAIN, open.wait()).await;
    Ok(())
}

async fn secure(
    node: Arc<dyn NodeApi>,
    guard: Arc<Guard>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    stop: Shutdown,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let tls = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await??;
    // The handshake has verified it.
    let peer = Arc::new(Peer::of(tls.get_ref().1.peer_certificates().unwrap_or_default()));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (node, guard, peer) = (node.clone(), guard.clone(), peer.clone());
        async move {
            let answer = match guard.admit(&peer, &request).await {
                Ok(()) => answer(&*node, request).await,
                Err(refused) => refused,
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        end = connection.as_mut() => end,
        () = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|e| anyhow::anyhow!(e))
}

/// Opens the streams of a tunnel: to the node's API, or to a port that the node gives out.
pub fn opener(node: Arc<dyn NodeApi>) -> Opener {
    Arc::new(move |authority| {
        let node = node.clone();
        async move {
            if authority == tunnel::KUBELET {
                return Ok(Box::new(move |stream| requests(node, stream).boxed()) as Taker);
            }
            let address = authority.parse().map_err(|_| io::Error::other(format!("{authority} is no address")))?;
            let mut port = node.open(Door::Port(address)).await?;
            Ok(Box::new(move |stream| {
                async move {
                    if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(stream), &mut port).await {
                        tracing::debug!(%address, "a connection of the API server's ended: {error}");
                    }
                }
                .boxed()
            }) as Taker)
        }
        .boxed()
    })
}

/// A connection of the API server's to the node's API in the same process.
pub fn in_process(node: Arc<dyn NodeApi>) -> NodeStream {
    let (near, far) = tokio::io::duplex(IN_PROCESS_BYTES);
    // Belongs to the other end, and ends with it.
    tokio::spawn(requests(node, TokioIo::new(far)));
    Box::new(near)
}

/// Answers requests that were authorized before they came here, until the connection ends.
async fn requests<I>(node: Arc<dyn NodeApi>, stream: I)
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(answer(&*node, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(stream, service).with_upgrades().await {
        tracing::debug!("a stream of the API server's ended: {error}");
    }
}

/// Answers a request that is allowed.
async fn answer<B>(node: &dyn NodeApi, mut request: Request<B>) -> Response<Body> {
    let uri = request.uri();
    let route = match routes::parse(request.method(), uri.path(), uri.query().unwrap_or_default()) {
        Ok(route) => route,
        Err(code) => return text(code, format!("{} {}\n", code.as_u16(), code.canonical_reason().unwrap_or_default())),
    };
    let mut bare = Request::new(());
    *bare.method_mut() = request.method().clone();
    *bare.headers_mut() = std::mem::take(request.headers_mut());
    if let Some(upgrade) = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>() {
        bare.extensions_mut().insert(upgrade);
    }
    let done = match route {
        Route::Logs(target, options) => node.logs(&target, &options).await.map(|parts| {
            let body = StreamBody::new(parts.map_ok(Frame::data)).boxed_unsync();
            let mut answer = Response::new(body);
            answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
            answer
        }),
        Route::Exec(target, command, streams) => node.exec(&target, &command, streams, bare).await.map(upgraded),
        Route::Attach(target, streams) => node.attach(&target, streams, bare).await.map(upgraded),
        Route::PortForward(target, ports) => node.port_forward(&target, &ports, bare).await.map(upgraded),
        Route::Summary => node.stats_summary().await.map(|v| json(&v)),
        Route::Pods => node.pods().await.map(|v| json(&v)),
        Route::ResourceMetrics => node.resource_metrics().await.map(|m| text(StatusCode::OK, m)),
        Route::Metrics => node.metrics().await.map(|m| text(StatusCode::OK, m)),
        Route::MakeVolume(name) => node.make_local_volume(&name).await.map(|path| text(StatusCode::OK, path)),
        Route::RemoveVolume(path) => node.remove_local_volume(&path).await.map(|()| text(StatusCode::OK, "")),
        Route::Ping => Ok(text(StatusCode::OK, "ok")),
        Route::Healthz => Ok(match node.healthz().await {
            Ok(()) => text(StatusCode::OK, "ok"),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
        }),
    };
    done.unwrap_or_else(|status| failed(&status))
}

fn upgraded(answer: Response<()>) -> Response<Body> {
    answer.map(|()| full(""))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = code;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut answer = Response::new(full(value.to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// A Status as the API server understands it.
fn failed(status: &Status) -> Response<Body> {
    let mut answer = json(&status.to_value());
    *answer.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}
