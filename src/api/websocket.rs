//! The handshake of a WebSocket, as servers answer it (RFC 6455).
//!
//! In: the headers of a request. Out: what it asks for, and the head of the answer that takes the connection over.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Response, StatusCode, response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Clients that cannot set headers, as browsers, offer their token as a protocol: it is none.
pub const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Does the request want a WebSocket?
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The sub-protocols that the client offers, in its order.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let names = values.flat_map(|v| v.split(',')).map(str::trim);
    names.filter(|p| !p.is_empty() && !p.starts_with(BEARER)).collect()
}

/// The head of the answer, speaking `protocol` ("" for none); none when the request has no key.
pub fn accepted(headers: &HeaderMap, protocol: &str) -> Option<response::Builder> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if !protocol.is_empty() {
        response = response.header(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_no_protocol() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, format!("{BEARER}dG9rZW4, a.k8s.io,b").parse().unwrap());
        assert_eq!(offered(&headers), ["a.k8s.io", "b"]);
        assert!(!is_asked(&headers));
        assert!(accepted(&headers, "b").is_none());
    }
}
