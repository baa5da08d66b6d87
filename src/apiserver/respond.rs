//! Answers: status codes, headers, bodies.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::api::codec;
use crate::api::schema;
use crate::api::status::Status;
use crate::api::value::ValueExt;

use super::negotiate::Encoding;
use super::request::Query;

/// Body of every answer. An error ends the connection in the middle of it, so that nobody takes a part for the whole.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer.
pub type Answer = Response<Body>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes in parts.
pub fn stream(parts: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(parts.map(|b| Ok(Frame::data(b)))).boxed_unsync()
}

/// An answer with a content type.
pub fn answer(code: u16, content_type: &'static str, body: Body) -> Answer {
    let mut r = Response::new(body);
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = r.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// JSON bytes.
pub fn json_bytes(code: u16, bytes: Bytes) -> Answer {
    answer(code, Encoding::Json.content_type(), full(bytes))
}

/// A JSON value.
pub fn json(code: u16, value: &Value) -> Answer {
    json_bytes(code, serde_json::to_vec(value).expect("a JSON value serializes").into())
}

/// 204.
pub fn nothing() -> Answer {
    let mut r = Response::new(full(Bytes::new()));
    *r.status_mut() = StatusCode::NO_CONTENT;
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// Plain text.
pub fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    answer(code, "text/plain; charset=utf-8", full(text))
}

/// Marks an answer whose body has no end of its own (a watch), or that is not the API's (what is passed on).
#[derive(Debug, Clone, Copy)]
pub struct Endless;

/// The Status in an answer, so that nobody has to read it out of the bytes again.
#[derive(Debug, Clone)]
pub struct Refused(pub Arc<Value>);

/// Marks the answer of a request that panicked.
#[derive(Debug, Clone, Copy)]
pub struct Panicked;

/// True for requests of people: `pretty` in the query, or else the user agent of a browser, curl or wget.
///
/// Upstream: `isPrettyPrint`.
pub fn is_for_people(query: &str, headers: &HeaderMap) -> bool {
    let query = Query::parse(query);
    match query.text("pretty") {
        Some(wish) => matches!(wish, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => {
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
        }
    }
}

/// The same answer with its JSON laid out in lines.
pub async fn laid_out(answer: Answer) -> Answer {
    let json = Encoding::Json.content_type();
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes() == json.as_bytes());
    if !is_json || answer.extensions().get::<Endless>().is_some() {
        return answer;
    }
    let (parts, body) = answer.into_parts();
    match body.collect().await {
        Ok(whole) => Response::from_parts(parts, full(codec::json::indent(&whole.to_bytes()))),
        Err(error) => self::error(&Status::internal(error), Encoding::Json),
    }
}

/// A value in an encoding. What has no protobuf form goes out as JSON.
pub fn encoded(code: u16, value: &Value, encoding: Encoding) -> Answer {
    match encoding {
        Encoding::Json => json(code, value),
        Encoding::Yaml => answer(code, encoding.content_type(), full(codec::yaml::to_string(value))),
        Encoding::Proto => match proto(value) {
            Some(bytes) => answer(code, encoding.content_type(), full(bytes)),
            None => json(code, value),
        },
    }
}

/// The protobuf form; none for kinds that have no shape in the wire table.
pub fn proto(value: &Value) -> Option<Vec<u8>> {
    let (group, version) = crate::api::meta::gvk::split(value.str_at("/apiVersion")?);
    let def = schema::table().kind(group, version, value.str_at("/kind")?)?;
    Some(codec::proto::encode(value, def))
}

/// An error. Retry-After is set where the status says so.
pub fn error(status: &Status, encoding: Encoding) -> Answer {
    let value = status.to_value();
    let mut r = encoded(status.code, &value, encoding);
    r.extensions_mut().insert(Refused(Arc::new(value)));
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code == 401 {
        r.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    r
}

/// Adds `Warning` headers, quoted as RFC 7234 wants them.
pub fn warn(answer: &mut Answer, warnings: &[String]) {
    for w in warnings {
        let quoted = w.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("", "curl/8.5.0", true)]
    #[test_case("", "kubectl/v1.36.0", false)]
    #[test_case("pretty=true", "kubectl/v1.36.0", true)]
    #[test_case("pretty=maybe", "curl/8.5.0", false)]
    fn people_get_lines(query: &str, agent: &str, want: bool) {
        let headers = HeaderMap::from_iter([(header::USER_AGENT, agent.parse().unwrap())]);
        assert_eq!(is_for_people(query, &headers), want);
    }
}
