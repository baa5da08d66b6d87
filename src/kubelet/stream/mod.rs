//! exec, attach and port-forward: carries a client's upgraded connection to the runtime's streaming server.
//!
//! Clients come with SPDY/3.1 (older kubectl), with WebSockets (`v5.channel.k8s.io` and its elders), or with SPDY inside a
//! WebSocket (kubectl's port-forward). Runtimes speak SPDY. SPDY is passed on byte for byte; SPDY in a WebSocket is
//! unwrapped; channels are put into SPDY streams, because no older WebSocket protocol can tell the end of stdin.
//!
//! **Invariant:** only servers on a loopback address are dialled, whatever URL the runtime names.
//! **Invariant:** nothing is buffered but what is on its way: a slow reader slows the writer.

mod channels;
mod forward;
mod spdy;
mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::api::websocket;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::kubelet::runtime::StreamOptions;

/// Time for the runtime's streaming server, on this machine, to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Header with the protocols of the streams inside SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// What is spoken to the runtime for exec and attach.
const REMOTE_COMMAND: &str = "v4.channel.k8s.io";
/// SPDY's name in an `Upgrade` header.
const SPDY: &str = "SPDY/3.1";
/// What a WebSocket carries that is a tunnel for port-forward's SPDY.
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken to the runtime for port-forward.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// Why a stream could not be set up. The answer's status tells the client whether it may try another protocol.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The request asks for no upgrade that is known here.
    #[error("unable to upgrade: {0}")]
    NotAnUpgrade(String),
    /// The runtime's server cannot be used.
    #[error("cannot reach the streaming server of the container runtime: {0}")]
    Runtime(String),
}

impl StreamError {
    /// The HTTP status for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAnUpgrade(_) => StatusCode::BAD_REQUEST,
            Self::Runtime(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// exec or attach, with the streams that the URL was asked for with.
    Command(StreamOptions),
    /// Ports of the pod; clients of SPDY name them themselves.
    Ports(Vec<u16>),
}

/// What the client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Speech {
    Spdy,
    Channels(&'static channels::Protocol),
    Tunnel,
}

/// Answers an upgrade request for a stream that `runtime_url` (from `exec_url` and its like) leads to. The response is to
/// be sent as it is; after that the connection is carried by a task of its own until either side ends it.
pub async fn proxy_upgrade<B>(
    mut request: Request<B>,
    runtime_url: &str,
    purpose: Purpose,
) -> Result<Response<Empty<Bytes>>, StreamError> {
    let speech = speech(request.headers())?;
    if let (Speech::Channels(_), Purpose::Ports(ports)) = (&speech, &purpose)
        && !(1..=forward::MAX_PORTS).contains(&ports.len())
    {
        let most = forward::MAX_PORTS;
        return Err(StreamError::NotAnUpgrade(format!("query parameter \"ports\" has to name 1 to {most} ports")));
    }
    let target = Target::parse(runtime_url)?;
    let offered = match &speech {
        Speech::Spdy => request.headers().get_all(STREAM_PROTOCOL).iter().cloned().collect(),
        Speech::Channels(_) if matches!(purpose, Purpose::Command(_)) => vec![HeaderValue::from_static(REMOTE_COMMAND)],
        Speech::Channels(_) => vec![HeaderValue::from_static(PORT_FORWARD)],
        Speech::Tunnel => vec![HeaderValue::from_static(PORT_FORWARD)],
    };
    let (runtime, agreed) = target.dial(offered).await?;
    let response = match &speech {
        Speech::Spdy => {
            let mut response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(UPGRADE, SPDY);
            if let Some(agreed) = agreed {
                response = response.header(STREAM_PROTOCOL, agreed);
            }
            response.header(CONNECTION, "Upgrade")
        }
        Speech::Channels(protocol) => websocket_answer(request.headers(), protocol.name)?,
        Speech::Tunnel => websocket_answer(request.headers(), TUNNELED)?,
    };
    let client = hyper::upgrade::on(&mut request);
    // Belongs to the request: it ends with the client's connection or the runtime's.
    tokio::spawn(async move {
        let client = match client.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => return tracing::debug!("the client went away before its stream began: {error}"),
        };
        let mut runtime = TokioIo::new(runtime);
        let end = match speech {
            Speech::Spdy => {
                let mut client = client;
                tokio::io::copy_bidirectional(&mut client, &mut runtime).await.map(drop)
            }
            Speech::Channels(protocol) => match purpose {
                Purpose::Command(options) => channels::carry(client, runtime, protocol, options).await,
                Purpose::Ports(ports) => forward::carry(client, runtime, protocol, &ports).await,
            },
            Speech::Tunnel => tunnel::carry(client, runtime).await,
        };
        if let Err(error) = end {
            tracing::debug!("a stream ended: {error}");
        }
    });
    response.body(Empty::new()).map_err(|e| StreamError::NotAnUpgrade(e.to_string()))
}

/// Is there a protocol in the request that is known here?
fn speech(headers: &HeaderMap) -> Result<Speech, StreamError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let upgrade = text(UPGRADE);
    if upgrade.eq_ignore_ascii_case(SPDY) {
        return Ok(Speech::Spdy);
    }
    if !websocket::is_asked(headers) {
        return Err(StreamError::NotAnUpgrade(format!("missing upgrade headers in request: {upgrade:?}")));
    }
    let offered = websocket::offered(headers);
    if offered.contains(&TUNNELED) {
        return Ok(Speech::Tunnel);
    }
    let known = channels::negotiate(&offered);
    known
        .map(Speech::Channels)
        .ok_or_else(|| StreamError::NotAnUpgrade(format!("none of the websocket protocols {offered:?} is supported")))
}

fn websocket_answer(headers: &HeaderMap, protocol: &str) -> Result<http::response::Builder, StreamError> {
    websocket::accepted(headers, protocol).ok_or_else(|| StreamError::NotAnUpgrade("no Sec-WebSocket-Key".into()))
}

/// A runtime's streaming URL.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, StreamError> {
        let bad = |why: &str| StreamError::Runtime(format!("{why} in the URL it gave"));
        let uri: http::Uri = url.parse().map_err(|_| bad("no valid address"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let ip: IpAddr =
            if host == "localhost" { [127, 0, 0, 1].into() } else { host.parse().map_err(|_| bad("no IP address"))? };
        if !ip.is_loopback() || uri.scheme_str() != Some("http") {
            return Err(bad("no plain loopback address"));
        }
        let port = uri.port_u16().ok_or_else(|| bad("no port"))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { address: (ip, port).into(), path })
    }

    /// Upgrades a connection to SPDY; gives it with the stream protocol that was agreed on.
    async fn dial(&self, protocols: Vec<HeaderValue>) -> Result<(Upgraded, Option<HeaderValue>), StreamError> {
        match tokio::time::timeout(DIAL_TIMEOUT, self.try_dial(protocols)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(StreamError::Runtime("it does not answer".into())),
        }
    }

    async fn try_dial(&self, protocols: Vec<HeaderValue>) -> Result<(Upgraded, Option<HeaderValue>), StreamError> {
        let failed = |e: &dyn std::error::Error| StreamError::Runtime(e.to_string());
        let tcp = TcpStream::connect(self.address).await.map_err(|e| failed(&e))?;
        tcp.set_nodelay(true).map_err(|e| failed(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(|e| failed(&e))?;
        // Ends when the connection is handed over, or with it.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::post(&self.path)
            .header(http::header::HOST, self.address.to_string())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, SPDY)
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(&e))?;
        for protocol in protocols {
            request.headers_mut().append(STREAM_PROTOCOL, protocol);
        }
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(StreamError::Runtime(format!("it answered {}", response.status())));
        }
        let agreed = response.headers().get(STREAM_PROTOCOL).cloned();
        Ok((hyper::upgrade::on(response).await.map_err(|e| failed(&e))?, agreed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::SEC_WEBSOCKET_PROTOCOL;
    use test_case::test_case;

    #[test_case("http://127.0.0.1:4000/exec/abc" => Some(("127.0.0.1:4000".into(), "/exec/abc".into())))]
    #[test_case("http://[::1]:4000/a?b=c" => Some(("[::1]:4000".into(), "/a?b=c".into())))]
    #[test_case("http://10.0.0.1:4000/exec" => None; "not on this machine")]
    #[test_case("https://127.0.0.1:4000/exec" => None; "TLS")]
    #[test_case("http://example.org:80/exec" => None; "a name")]
    fn targets(url: &str) -> Option<(String, String)> {
        Target::parse(url).ok().map(|t| (t.address.to_string(), t.path))
    }

    #[test_case("SPDY/3.1", "" => Some("spdy"))]
    #[test_case("websocket", "channel.k8s.io" => Some("channel.k8s.io"); "the first one")]
    #[test_case("websocket", "v5.channel.k8s.io" => Some("v5.channel.k8s.io"))]
    #[test_case("websocket", "v4.channel.k8s.io, v5.channel.k8s.io" => Some("v5.channel.k8s.io"); "the newest")]
    #[test_case("websocket", "SPDY/3.1+portforward.k8s.io" => Some("tunnel"))]
    #[test_case("websocket", "chat" => None)]
    #[test_case("h2c", "" => None)]
    fn speeches(upgrade: &str, protocols: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, upgrade.parse().unwrap());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        match speech(&headers).ok()? {
            Speech::Spdy => Some("spdy"),
            Speech::Tunnel => Some("tunnel"),
            Speech::Channels(protocol) => Some(protocol.name),
        }
    }
}
