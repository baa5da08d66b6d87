//! Headers that are about one connection, which a proxy does not pass on (RFC 9110, 7.6.1).

use http::header::{CONNECTION, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue};

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Takes away what concerns one connection, and what such a header names; an upgrade goes on to the other side.
pub fn strip(headers: &mut HeaderMap, upgrading: bool) {
    let upgrade = headers.get(UPGRADE).filter(|_| upgrading).cloned();
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_is_about_one_connection_stays_there() {
        let mut all =
            headers(&[("connection", "close, x-mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "a/b")]);
        strip(&mut all, true);
        assert_eq!(all, headers(&[("accept", "a/b")]));
        let mut upgrade =
            headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("keep-alive", "5")]);
        strip(&mut upgrade, true);
        assert_eq!(upgrade, headers(&[("upgrade", "websocket"), ("connection", "Upgrade")]));
    }
}
