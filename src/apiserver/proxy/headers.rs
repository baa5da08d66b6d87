//! Which headers pass a proxy, and which it adds. Pure.

use crate::api::websocket::BEARER;
use crate::util::hops;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The client's credentials, and whom it wants to be.
const SECRET: [&str; 6] =
    ["authorization", "x-remote-user", "x-remote-uid", "x-remote-group", "impersonate-user", "impersonate-group"];
const SECRET_PREFIXES: [&str; 3] = ["x-remote-extra-", "impersonate-extra-", "impersonate-uid"];

/// The headers of a request for the other side.
pub(in crate::apiserver) fn onward(from: &HeaderMap, upgrading: bool) -> HeaderMap {
    let mut headers = from.clone();
    hops::strip(&mut headers, upgrading);
    let secret = |name: &str| SECRET.contains(&name) || SECRET_PREFIXES.iter().any(|p| name.starts_with(p));
    let gone: Vec<HeaderName> = headers.keys().filter(|name| secret(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    if let Some(protocols) = headers.remove(header::SEC_WEBSOCKET_PROTOCOL) {
        let kept: Vec<&str> = protocols
            .to_str()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty() && !p.starts_with(BEARER))
            .collect();
        if let Some(kept) = (!kept.is_empty()).then(|| HeaderValue::from_str(&kept.join(", ")).ok()).flatten() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
        }
    }
    headers
}

/// Says on whose behalf, and under which path, the request comes.
pub(in crate::apiserver) fn forwarded(headers: &mut HeaderMap, client: Option<SocketAddr>, uri: &str) {
    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    if let Some(client) = client {
        let before: Vec<&str> = headers.get_all(&FOR).iter().filter_map(|v| v.to_str().ok()).collect();
        let all = before.into_iter().map(str::to_owned).chain([client.ip().to_canonical().to_string()]);
        if let Ok(all) = HeaderValue::from_str(&all.collect::<Vec<_>>().join(", ")) {
            headers.insert(FOR, all);
        }
    }
    if let Ok(uri) = HeaderValue::from_str(uri) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    }
}

/// True for pages.
pub(in crate::apiserver) fn is_html(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim() == "text/html"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn credentials_and_what_concerns_a_connection_stay_behind() {
        let from = map(&[
            ("authorization", "Bearer x"),
            ("impersonate-user", "joe"),
            ("impersonate-extra-a", "b"),
            ("x-remote-extra-c", "d"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("cookie", "a=b"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9rZW4, chat"),
        ]);
        let plain = onward(&from, false);
        assert_eq!(plain, map(&[("cookie", "a=b"), ("sec-websocket-protocol", "chat")]));
        let upgrading = onward(&from, true);
        assert_eq!(
            (&upgrading["upgrade"], &upgrading["connection"]),
            (&"websocket".parse().unwrap(), &"Upgrade".parse().unwrap())
        );
    }

    #[test]
    fn a_chain_of_clients_is_kept() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1")]);
        forwarded(&mut headers, Some("[::ffff:10.0.0.2]:7".parse().unwrap()), "/api/x");
        assert_eq!(headers, map(&[("x-forwarded-for", "10.0.0.1, 10.0.0.2"), ("x-forwarded-uri", "/api/x")]));
    }
}
