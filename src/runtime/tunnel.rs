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
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
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
/// Bytes on their way that nobody has read yet, of a stream and of all together. So many streams that nobody reads hold up
/// the others: the second by the first.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// A connection on which nothing comes is asked whether it lives after so long, and given up after [`PATIENCE`] more.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream may take to open. The node is there, or it is not.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// The header in which an agent says why it does not open a stream.
const REASON: &str = "x-orch-reason";

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
        builder.initial_stream_window_size(STREAM_WINDOW_BYTES);
        builder.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
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
            let why = answer.headers().get(REASON).and_then(|v| v.to_str().ok()).map(str::to_owned);
            Ok::<_, hyper::Error>((answer.status(), why, hyper::upgrade::on(answer).await))
        };
        let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
        let (status, why, stream) = opened.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
        match (status, why) {
            (StatusCode::OK, _) => stream.map_err(io::Error::other),
            (_, Some(why)) => Err(io::Error::other(why)),
            (other, None) => Err(io::Error::other(format!("the node refuses a stream to {authority}: {other}"))),
        }
    }
}

/// What takes a stream.
pub type Taker = Box<dyn FnOnce(Upgraded) -> BoxFuture<'static, ()> + Send>;

/// What decides where a stream to an authority leads: to what takes it, or to why there is nothing. It may take less than
/// [`OPEN_LIMIT`].
pub type Opener = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Taker>> + Send + Sync>;

/// The agent's end: takes streams until the connection ends, or the shutdown.
pub async fn serve<T>(io: T, open: Opener, shutdown: &Shutdown) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let open = open.clone();
        async move { Ok::<_, Infallible>(connect(&open, request).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    builder.initial_stream_window_size(STREAM_WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(PATIENCE);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    match shutdown.or(connection).await {
        Some(ended) => ended.map_err(io::Error::other),
        None => Ok(()),
    }
}

/// Opens a stream, or says why not.
async fn connect(open: &Opener, mut request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let mut answer = Response::new(Empty::new());
    let authority = request.uri().authority().filter(|_| request.method() == Method::CONNECT);
    let Some(authority) = authority.map(ToString::to_string) else {
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    };
    match open(authority).await {
        Ok(take) => {
            let upgrade = hyper::upgrade::on(&mut request);
            // Belongs to the stream, and ends with it.
            tokio::spawn(async move {
                if let Ok(stream) = upgrade.await {
                    take(stream).await;
                }
            });
        }
        Err(why) => {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            if let Ok(why) = http::HeaderValue::from_str(&why.to_string().replace(['\n', '\r'], " ")) {
                answer.headers_mut().insert(REASON, why);
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn repeat(stream: Upgraded) {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }

    fn echo() -> Opener {
        Arc::new(|authority| {
            let known = authority == KUBELET;
            async move {
                if !known {
                    return Err(io::Error::other(format!("{authority} is no port of this node's")));
                }
                Ok(Box::new(|stream| repeat(stream).boxed()) as Taker)
            }
            .boxed()
        })
    }

    async fn pair(open: Opener) -> (Tunnel, Shutdown) {
        let (server, agent) = tokio::io::duplex(64 << 10);
        let stop = Shutdown::new();
        let ends = stop.clone();
        tokio::spawn(async move { serve(agent, open, &ends).await });
        let (tunnel, driven) = Tunnel::over(server).await.unwrap();
        tokio::spawn(driven);
        (tunnel, stop)
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_side_by_side() {
        let (tunnel, _stop) = pair(echo()).await;
        // Some that nobody reads hold up nobody. What is on its way is bounded by the window and one write.
        let chunk = vec![7; 64 << 10];
        let mut stuck = Vec::new();
        for _ in 0..4 {
            let mut one = TokioIo::new(tunnel.open(KUBELET).await.unwrap());
            let writing = async {
                for _ in 0..64 {
                    one.write_all(&chunk).await?;
                }
                Ok::<_, io::Error>(())
            };
            let written = tokio::time::timeout(Duration::from_millis(100), writing).await;
            assert!(written.is_err(), "flow control holds back what nobody reads");
            stuck.push(one);
        }
        let mut stream = TokioIo::new(tunnel.open(KUBELET).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn the_agent_says_why_it_does_not_open() {
        let (tunnel, _stop) = pair(echo()).await;
        let why = tunnel.open("10.0.0.1:22").await.unwrap_err().to_string();
        assert_eq!(why, "10.0.0.1:22 is no port of this node's");
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
