//! Passing a request on to an extension API server, and its answer back.
//!
//! Rules: upstream `kube-aggregator/pkg/apiserver/handler_proxy.go` and `client-go/transport` (`SetAuthProxyHeaders`).

use std::fmt::Write;
use std::io;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;

use crate::api::status::{ApiResult, Status};
use crate::api::user::UserInfo;
use crate::apiserver::proxy::headers;
use crate::apiserver::respond::{self, Answer};
use crate::util::hops;

use super::{Api, Call, Extension, proxy};

impl Api {
    /// Passes a request on.
    pub(in crate::apiserver) async fn pass_on(&self, e: &Extension, mut call: Call) -> ApiResult<Answer> {
        let Some(passage) = e.passage.as_ref().filter(|_| e.remote.available) else {
            return Ok(unavailable("service unavailable"));
        };
        let Some(passed) = call.passed.take() else { return Err(Status::internal("the request's body is gone")) };
        let upgrade = call.upgrade.take().filter(|_| call.headers.contains_key(header::UPGRADE));
        let (uri, body, client) = passed.into_parts();
        let target = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let mut request = Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = target.parse().map_err(|_| Status::bad_request("the path is no path"))?;
        *request.headers_mut() = headers::onward(&call.headers, upgrade.is_some());
        request.headers_mut().remove(header::HOST);
        headers::forwarded(request.headers_mut(), client, uri.path());
        identify(request.headers_mut(), &call.user);
        let answer = match passage.send(request).await {
            Ok(answer) => answer,
            Err(why) => {
                tracing::debug!(apiservice = e.remote.name, "a request could not be passed on: {why}");
                return Ok(unavailable(&format!("error trying to reach service: {why}")));
            }
        };
        if let Some(client) = upgrade {
            return proxy::upgraded(client, answer);
        }
        let (mut parts, body) = answer.into_parts();
        hops::strip(&mut parts.headers, false);
        parts.extensions.insert(respond::Endless);
        Ok(Answer::from_parts(parts, body.map_err(io::Error::other).boxed_unsync()))
    }
}

fn unavailable(why: &str) -> Answer {
    respond::text(503, format!("{why}\n"))
}

/// Says on whose behalf a request comes; what the client said of that has been taken away before.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let mut add = |name: HeaderName, value: &str| {
        // What no header can carry is told to nobody: less identity never means more rights.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(HeaderName::from_static("x-remote-user"), &user.name);
    if !user.uid.is_empty() {
        add(HeaderName::from_static("x-remote-uid"), &user.uid);
    }
    for group in &user.groups {
        add(HeaderName::from_static("x-remote-group"), group);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::try_from(format!("x-remote-extra-{}", escaped(key))) else { continue };
        values.iter().for_each(|v| add(name.clone(), v));
    }
}

/// A key as a part of a header's name: what such a name cannot hold is percent-encoded. Upstream: `headerKeyEscape`.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                out.push(char::from(byte));
            }
            // Names of headers have no case: an upper one has to be kept by its code.
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("scopes.example.com" => "scopes.example.com")]
    #[test_case("a/b c%" => "a%2Fb%20c%25")]
    #[test_case("Key" => "%4Bey")]
    fn keys(key: &str) -> String {
        escaped(key)
    }

    #[test]
    fn the_user_is_told() {
        let mut headers = HeaderMap::new();
        let extra = [("acme.io/team".to_owned(), vec!["x".to_owned(), "y".to_owned()])].into();
        let user = UserInfo { name: "joe".into(), uid: "7".into(), groups: vec!["a".into(), "b".into()], extra };
        identify(&mut headers, &user);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-remote-user"), all("x-remote-uid")), (vec!["joe"], vec!["7"]));
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-acme.io%2Fteam"), ["x", "y"]);
    }
}
