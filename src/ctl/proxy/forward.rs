//! A connection to the proxy: its requests passed on, an upgrade joined.
//!
//! **Invariant:** answers stream; a request's body is read whole, up to a bound. **Invariant:** headers that are about one connection do
//! not travel to the next one, except an upgrade's own.

use std::cell::RefCell;
use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::BoxError;

use super::route::{Route, encoded};
use super::{Server, www};
use crate::util::hops;
use crate::util::percent;

/// Bytes of a request's body; `kube`'s client takes none that stream.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The body of an answer.
pub type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Serves one connection until it ends, and the upgrade that it may end in.
pub async fn connection<S>(server: &Server<'_>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Both ends of an upgrade: they are there once the connection has stopped to speak HTTP.
    let upgrade: RefCell<Option<(OnUpgrade, OnUpgrade)>> = RefCell::new(None);
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(server, request, &upgrade).await));
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // Whoever broke it knows.
    let _ = connection.with_upgrades().await;
    if let Some((near, far)) = upgrade.take()
        && let (Ok(near), Ok(far)) = tokio::join!(near, far)
    {
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
    }
}

type Upgrades = RefCell<Option<(OnUpgrade, OnUpgrade)>>;

async fn answer(server: &Server<'_>, request: Request<Incoming>, upgrades: &Upgrades) -> Answer {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => request.headers().get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned(),
    };
    // The filter reads a path as the server will.
    let path = percent::decode(request.uri().path(), false);
    match server.routes.find(request.method().as_str(), &path, &host) {
        Route::Api(path) => pass(server, request, &path, upgrades).await,
        Route::File(path) => www::answer(server.www.as_deref(), request.method(), &path).await,
        Route::Moved(path) => moved(&path, request.uri().query()),
        Route::Refused => plain(StatusCode::FORBIDDEN, "Forbidden"),
        Route::Unknown => plain(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// Sends a request on, and gives back what the server answers.
async fn pass(server: &Server<'_>, mut request: Request<Incoming>, path: &str, upgrades: &Upgrades) -> Answer {
    let near = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    let path = server.routes.server_path(parts.uri.path(), path);
    let query = parts.uri.query().map_or(String::new(), |q| format!("?{q}"));
    parts.headers.remove(HOST);
    hops::strip(&mut parts.headers, true);
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(e) => return plain(StatusCode::PAYLOAD_TOO_LARGE, &e.to_string()),
    };
    let sent = server.cx.client.send(parts.method, &format!("{path}{query}"), parts.headers, body).await;
    let mut answer = match sent {
        Ok(answer) => answer,
        Err(e) => {
            eprintln!("error while proxying a request: {e}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string());
        }
    };
    let far = (answer.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut answer));
    hops::strip(answer.headers_mut(), true);
    *answer.version_mut() = http::Version::HTTP_11;
    if let Some(far) = far {
        *upgrades.borrow_mut() = Some((near, far));
        return answer.map(|_| whole(Bytes::new()));
    }
    answer.map(|body| body.map_err(BoxError::from).boxed_unsync())
}

/// A body of these bytes.
pub fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A line of text.
pub fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(whole(format!("{text}\n").into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    answer
}

fn moved(path: &str, query: Option<&str>) -> Answer {
    let mut location = encoded(path);
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    redirect(&location)
}

/// Says where the answer is.
pub fn redirect(location: &str) -> Answer {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = location.parse() {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}
