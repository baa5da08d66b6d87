//! What a request is for: path and query taken apart, as upstream's `RequestInfo`.

use std::collections::BTreeMap;

use http::Method;

use crate::api::meta::fields::FieldSelector;
use crate::api::meta::labels::Selector;
use crate::api::meta::names;
use crate::api::user::Attributes;
use crate::util::percent::decode;

/// A decoded query string; a key may stand several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Decodes `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let mut all = BTreeMap::<String, Vec<String>>::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(key, true)).or_default().push(decode(value, true));
        }
        Self(all)
    }

    /// The first value of a key; "" counts as a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// A key that is there and not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    /// True when the key is there with anything but `0` and `false`, as upstream's conversion has it.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
}

/// A request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// What authorizers look at.
    pub attributes: Attributes,
    /// The query.
    pub query: Query,
    /// What stands behind a `proxy` subresource.
    pub rest: String,
}

impl RequestInfo {
    /// From method, path and query.
    pub fn parse(method: &Method, path: &str, query: &str) -> Self {
        let query = Query::parse(query);
        let mut info = Self { query, ..Self::default() };
        info.attributes.path = path.to_owned();
        info.attributes.verb = method.as_str().to_ascii_lowercase();
        let decoded = decode(path, false);
        let parts: Vec<&str> = decoded.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => info.resource("", version, rest, method),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => info.resource(group, version, rest, method),
            _ => {}
        }
        info
    }

    /// True for what may go on for as long as its client likes: watches, logs that are followed, streams.
    /// Rule: upstream `BasicLongRunningRequestCheck`, with kube-apiserver's verbs and subresources.
    pub fn is_long_running(&self) -> bool {
        let a = &self.attributes;
        matches!(&*a.verb, "watch" | "proxy")
            || matches!(&*a.subresource, "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    fn resource(&mut self, group: &str, version: &str, parts: &[&str], method: &Method) {
        let a = &mut self.attributes;
        a.group = group.to_owned();
        a.version = version.to_owned();
        // The deprecated prefix of watches.
        let (parts, old_watch) = match parts {
            ["watch", rest @ ..] if !rest.is_empty() => (rest, true),
            ["proxy", ..] => return,
            _ => (parts, false),
        };
        let parts = match parts {
            // Namespaces themselves are in their own namespace, as far as authorizers care.
            ["namespaces", ns] => {
                a.namespace = (*ns).to_owned();
                parts
            }
            ["namespaces", ns, "status" | "finalize", ..] => {
                a.namespace = (*ns).to_owned();
                parts
            }
            ["namespaces", ns, rest @ ..] if !rest.is_empty() => {
                a.namespace = (*ns).to_owned();
                rest
            }
            _ => parts,
        };
        let mut parts = parts.iter();
        a.resource = parts.next().copied().unwrap_or_default().to_owned();
        a.name = parts.next().copied().unwrap_or_default().to_owned();
        a.subresource = parts.next().copied().unwrap_or_default().to_owned();
        self.rest = parts.copied().collect::<Vec<_>>().join("/");
        let named = !a.name.is_empty();
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD if named => "get",
            Method::GET | Method::HEAD => "list",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            Method::DELETE => "deletecollection",
            _ => "",
        };
        a.verb = if old_watch || (matches!(verb, "list" | "get") && !named && self.query.flag("watch")) {
            "watch".into()
        } else {
            verb.into()
        };
        // What a collection is narrowed to, authorizers see; one narrowed to one name is that name's.
        if matches!(a.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(text) = self.query.text("labelSelector")
            && Selector::parse(text).is_ok()
        {
            a.label_selector = text.to_owned();
        }
        if matches!(a.verb.as_str(), "list" | "watch" | "deletecollection")
            && !named
            && let Some(text) = self.query.text("fieldSelector")
            && let Ok(selector) = FieldSelector::parse(text)
        {
            a.field_selector = text.to_owned();
            if let Some(name) = selector.exact("metadata.name").filter(|n| names::path_segment(n).is_empty()) {
                a.name = name.to_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("GET", "/api/v1/namespaces/d/pods/p/log", "", "get", "", "pods", "d", "p", "log")]
    #[test_case("GET", "/api/v1/pods", "watch=1", "watch", "", "pods", "", "", "")]
    #[test_case("GET", "/api/v1/watch/namespaces/d/pods", "", "watch", "", "pods", "d", "", "")]
    #[test_case("GET", "/apis/apps/v1/deployments", "", "list", "apps", "deployments", "", "", "")]
    #[test_case(
        "DELETE",
        "/apis/apps/v1/namespaces/d/deployments",
        "",
        "deletecollection",
        "apps",
        "deployments",
        "d",
        "",
        ""
    )]
    #[test_case("PUT", "/api/v1/namespaces/d/finalize", "", "update", "", "namespaces", "d", "d", "finalize")]
    #[test_case("GET", "/api/v1/namespaces/d", "", "get", "", "namespaces", "d", "d", "")]
    #[test_case("GET", "/api/v1/pods", "fieldSelector=metadata.name%3Dx", "list", "", "pods", "", "x", "")]
    #[test_case("GET", "/version", "", "get", "", "", "", "", "")]
    #[allow(clippy::too_many_arguments)]
    fn parses(
        method: &str,
        path: &str,
        query: &str,
        verb: &str,
        group: &str,
        resource: &str,
        ns: &str,
        name: &str,
        sub: &str,
    ) {
        let info = RequestInfo::parse(&method.parse().unwrap(), path, query);
        let a = &info.attributes;
        assert_eq!(
            (
                a.verb.as_str(),
                a.group.as_str(),
                a.resource.as_str(),
                a.namespace.as_str(),
                a.name.as_str(),
                a.subresource.as_str()
            ),
            (verb, group, resource, ns, name, sub)
        );
    }

    #[test_case("GET", "/api/v1/pods", "watch=1", true)]
    #[test_case("GET", "/api/v1/pods", "", false)]
    #[test_case("POST", "/api/v1/namespaces/d/pods/p/exec", "", true)]
    #[test_case("POST", "/api/v1/namespaces/d/pods/p/binding", "", false)]
    #[test_case("GET", "/metrics", "", false)]
    fn long_running(method: &str, path: &str, query: &str, want: bool) {
        assert_eq!(RequestInfo::parse(&method.parse().unwrap(), path, query).is_long_running(), want);
    }

    #[test]
    fn what_follows_proxy_is_kept() {
        let info = RequestInfo::parse(&Method::GET, "/api/v1/nodes/n/proxy/a/b", "");
        assert_eq!(info.rest, "a/b");
    }

    /// A node may list pods, but only its own: the authorizer has to see the selector.
    #[test]
    fn authorizers_see_what_a_collection_is_narrowed_to() {
        let narrowed = |method, path, query| RequestInfo::parse(method, path, query).attributes.field_selector;
        assert_eq!(narrowed(&Method::GET, "/api/v1/pods", "fieldSelector=spec.nodeName%3Dn"), "spec.nodeName=n");
        assert_eq!(
            narrowed(&Method::GET, "/api/v1/pods", "watch=1&fieldSelector=spec.nodeName%3Dn"),
            "spec.nodeName=n"
        );
        assert_eq!(narrowed(&Method::GET, "/api/v1/namespaces/d/pods/p", "fieldSelector=spec.nodeName%3Dn"), "");
        assert_eq!(narrowed(&Method::GET, "/api/v1/pods", "fieldSelector=%3D%3D%3D"), "");
    }
}
