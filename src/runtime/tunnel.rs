//! The one connection between an agent and a server: the agent dials, upgrades, and from then on the server asks.
//!
//! On the upgraded connection HTTP/2 is spoken with its roles turned round: the server opens `CONNECT` streams, each of
//! which carries bytes both ways, with HTTP/2's flow control. What a stream leads to is its authority; [`KUBELET`] is the
//! node's HTTPS-port API, without the TLS that the connection has already.
//!
//! **Invariant:** when the connection breaks, all its streams end with an error: nobody waits for a node that is gone.
//! **Invariant:** a slow reader of one stream holds up that stream alone.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::util::tasks::Shutdown;

/// Where the server takes the connections of agents.
pub const PATH: &str = "/v1-orch/connect";
/// What the connection is upgraded to.
pub const PROTOCOL: &str = "orch-tunnel/1";
/// The stream that leads to the node's own API.
pub const KUBELET: &str = "kubelet:10250";
/// Streams at one time on one connection.
const MAX_STREAMS: u32 = 1000;
/// A connection on which nothing comes is asked whether it lives after so long, and given up after [`PATIENCE`] more.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream may take to open. The node is there, or it is not.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The server's end.
#[derive(Debug, Clone)]
pub struct Tunnel(SendRequest<Empty<Bytes>>);

impl Tunnel {
    /// Over an upgraded connection. The future has to be driven; it ends with the connection.
    pub async fn over<T>(io: T) -> io::Result<(Self, impl Future<Output = hyper::Result<()>> + Send)>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(PATIENCE).keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        Ok((Self(sender), connection))
    }

    /// Opens a stream to `authority`.
    pub async fn open(&self, authority: &str) -> io::Result<Upgraded> {
        let request = Request::builder().method(Method::CONNECT).uri(authority).body(Empty::new());
        let request = request.map_err(io::Error::other)?;
        let opening = async {
            let mut sender = self.0.clone();
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            Ok::<_, hyper::Error>((answer.status(), hyper::upgrade::on(answer).await))
        };
        let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
        let (status, stream) = opened.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
        match status {
            StatusCode::OK => stream.map_err(io::Error::other),
            other => Err(io::Error::other(format!("the node refuses a stream to {authority}: {other}"))),
        }
    }
}

/// What takes a stream.
pub type Taker = Arc<dyn Fn(Upgraded) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The agent's end: takes streams to [`KUBELET`] until the connection ends, or the shutdown.
pub async fn serve<T>(io: T, take: Taker, shutdown: &Shutdown) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        let known = request.method() == Method::CONNECT
            && request.uri().authority().is_some_and(|authority| authority.as_str() == KUBELET);
        if known {
            let (upgrade, take) = (hyper::upgrade::on(&mut request), take.clone());
            // Belongs to the stream, and ends with it.
            tokio::spawn(async move {
                if let Ok(stream) = upgrade.await {
                    take(stream).await;
                }
            });
        }
        let status = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let mut answer = Response::new(Empty::<Bytes>::new());
        *answer.status_mut() = status;
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(PATIENCE);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    match shutdown.or(connection).await {
        Some(ended) => ended.map_err(io::Error::other),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn echo() -> Taker {
        Arc::new(|stream| {
            Box::pin(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            })
        })
    }

    async fn pair(take: Taker) -> (Tunnel, Shutdown) {
        let (server, agent) = tokio::io::duplex(64 << 10);
        let stop = Shutdown::new();
        let ends = stop.clone();
        tokio::spawn(async move { serve(agent, take, &ends).await });
        let (tunnel, driven) = Tunnel::over(server).await.unwrap();
        tokio::spawn(driven);
        (tunnel, stop)
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_side_by_side() {
        let (tunnel, _stop) = pair(echo()).await;
        // One that nobody reads holds up nobody.
        let mut stuck = TokioIo::new(tunnel.open(KUBELET).await.unwrap());
        let big = vec![7; 1 << 20];
        let writing = tokio::time::timeout(Duration::from_millis(200), stuck.write_all(&big)).await;
        assert!(writing.is_err(), "flow control holds back what nobody reads");
        let mut stream = TokioIo::new(tunnel.open(KUBELET).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn only_the_kubelet_is_there() {
        let (tunnel, _stop) = pair(echo()).await;
        assert!(tunnel.open("10.0.0.1:22").await.unwrap_err().to_string().contains("404"));
    }

    #[tokio::test]
    async fn streams_end_with_the_connection() {
        let (tunnel, stop) = pair(echo()).await;
        let mut stream = TokioIo::new(tunnel.open(KUBELET).await.unwrap());
        stop.trigger();
        let mut buffer = [0; 1];
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect("it ends");
        assert!(end.map_or(true, |n| n == 0));
        assert!(tunnel.open(KUBELET).await.is_err());
    }
}
