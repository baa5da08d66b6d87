//! Joins a client that upgraded its connection with the runtime's streaming server: bytes are passed on as they are,
//! whatever protocol the two speak.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::status::{ApiResult, Reason, Status};

/// Bytes read of an answer that is no upgrade.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

fn unreachable(e: impl std::fmt::Display) -> Box<Status> {
    Status::internal(format!("error dialing backend: {e}"))
}

/// Headers of the client that the other side has to see to agree on a protocol.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let wanted = |name: &str| {
        matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-")
    };
    headers.iter().filter(|(n, _)| wanted(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Sends the client's upgrade to `url` and gives the answer for the client. After a 101 the bytes flow until one side
/// ends. An answer that is no upgrade is an error.
pub async fn proxy(url: &str, mut request: Request<()>) -> ApiResult<Response<()>> {
    let uri: Uri = url.parse().map_err(unreachable)?;
    let authority = uri.authority().ok_or_else(|| unreachable("the runtime gave no address"))?.clone();
    let client = hyper::upgrade::on(&mut request);
    let tcp = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(unreachable)?;
    // Ends with the connection, which is this request's.
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut outgoing = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    *outgoing.headers_mut() = passed_on(request.headers());
    let host = authority.as_str().parse().map_err(unreachable)?;
    outgoing.headers_mut().insert(header::HOST, host);
    let mut answer = sender.send_request(outgoing).await.map_err(unreachable)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_REFUSAL_BYTES).collect().await.map(|b| b.to_bytes());
        let text = String::from_utf8_lossy(&body.unwrap_or_default()).trim().to_owned();
        let mut status = Status::new(Reason::InternalError, format!("the container runtime answered {code}: {text}"));
        status.code = if code < 400 { 500 } else { code };
        return Err(status);
    }
    let upstream = hyper::upgrade::on(&mut answer);
    // Ends with either side, which are this request's.
    tokio::spawn(async move {
        if let (Ok(a), Ok(b)) = tokio::join!(client, upstream) {
            let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
            if let Err(e) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                tracing::debug!("a stream broke: {e}");
            }
        }
    });
    let mut out = Response::new(());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = passed_on(answer.headers());
    Ok(out)
}
