//! Links of the other side, so that they lead back through the proxy. Pure.
//!
//! Rules: upstream `apimachinery/pkg/util/proxy/transport.go` (`rewriteURL`).

/// How links are rewritten for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Links {
    /// The path under which the other side's root is found here, without a slash at its end.
    pub prefix: String,
    /// Host and port of the other side.
    pub target: String,
    /// The host that the client asked for.
    pub asked: String,
}

impl Links {
    /// The path that the client used, for the other side to know.
    pub(super) fn forwarded_uri(&self, rest: &str) -> String {
        format!("{}{}", self.prefix, if rest.is_empty() { "/" } else { rest })
    }

    /// A link as the client has to follow it. One to another host, or one that is relative, stays as it is.
    pub(super) fn rewrite(&self, link: &str) -> String {
        let (scheme, after) = match link.split_once("://") {
            Some((scheme, after)) if is_scheme(scheme) => (scheme, Some(after)),
            _ => ("", link.strip_prefix("//")),
        };
        let (host, path) = match after {
            Some(after) => after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len())),
            None => ("", link),
        };
        if !host.is_empty() && host != self.target && host != self.asked || !path.starts_with('/') {
            return link.to_owned();
        }
        let keeps_host = host == self.asked && !host.is_empty();
        let base = match (keeps_host, scheme) {
            (false, _) => String::new(),
            (true, "") => format!("//{host}"),
            (true, scheme) => format!("{scheme}://{host}"),
        };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        format!("{base}{prefix}{path}")
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const P: &str = "/api/v1/namespaces/n/pods/p/proxy";

    #[test_case("/a/b/?q=1#f" => format!("{P}/a/b/?q=1#f"); "a path")]
    #[test_case("/" => format!("{P}/"); "the root")]
    #[test_case("a/b" => "a/b"; "relative")]
    #[test_case("?q=1" => "?q=1"; "a query")]
    #[test_case("http://10.0.0.1:80/x" => format!("{P}/x"); "the other side's own address")]
    #[test_case("//10.0.0.1:80/x" => format!("{P}/x"); "its address without a scheme")]
    #[test_case("https://api:6443/x" => format!("https://api:6443{P}/x"); "the host that was asked for")]
    #[test_case("http://elsewhere/x" => "http://elsewhere/x"; "another host")]
    #[test_case("mailto:a@b" => "mailto:a@b"; "no path at all")]
    #[test_case("/api/v1/namespaces/n/pods/p/proxy/x" => format!("{P}/x"); "rewritten already")]
    #[test_case("/go?to=http://elsewhere/" => format!("{P}/go?to=http://elsewhere/"); "a link in a query")]
    fn links(link: &str) -> String {
        Links { prefix: P.into(), target: "10.0.0.1:80".into(), asked: "api:6443".into() }.rewrite(link)
    }
}
