//! URLs.
//!
//! Rules: upstream `apiserver/pkg/cel/library/urls.go`, which reads them as Go's `url.ParseRequestURI`.

use super::funcs::{Error, Res, Row, fail, no_overload};
use super::lib_net;
use super::value::Val;

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "url", decls: &["(string) kubernetes.URL"], run: url },
    Row { name: "isURL", decls: &["(string) bool"], run: is_url },
    Row { name: "getScheme", decls: &["kubernetes.URL.() string"], run: |a| part(a, |u| u.scheme.clone()) },
    Row { name: "getHost", decls: &["kubernetes.URL.() string"], run: |a| part(a, |u| u.host.clone()) },
    Row {
        name: "getHostname",
        decls: &["kubernetes.URL.() string"],
        run: |a| part(a, |u| split_port(&u.host).0.to_owned()),
    },
    Row {
        name: "getPort",
        decls: &["kubernetes.URL.() string"],
        run: |a| part(a, |u| split_port(&u.host).1.to_owned()),
    },
    Row { name: "getEscapedPath", decls: &["kubernetes.URL.() string"], run: |a| part(a, |u| u.path.clone()) },
    Row { name: "getQuery", decls: &["kubernetes.URL.() map(string,list(string))"], run: query },
];

/// A URL in parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    /// As it was written.
    pub text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// Reads what a request could be for: an absolute URL or an absolute path.
fn parse(text: &str) -> Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.bytes().any(|c| c < b' ' || c == 0x7f) {
        return Err("net/url: invalid control character in URL");
    }
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.starts_with('/') {
        // What has a scheme and no slash is opaque, and may be.
        return match scheme.is_empty() {
            true => Err("invalid URI for request"),
            false => {
                Ok(Url { text: text.into(), scheme, host: String::new(), path: String::new(), query: query.into() })
            }
        };
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() => {
            let end = after.find('/').unwrap_or(after.len());
            (authority(&after[..end])?, &after[end..])
        }
        _ => (String::new(), rest),
    };
    escapes(path)?;
    Ok(Url { text: text.into(), scheme, host, path: escaped(path), query: query.into() })
}

/// True for a URL, or the absolute path of one.
pub fn is_valid(text: &str) -> bool {
    parse(text).is_ok()
}

fn scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((text[..i].to_ascii_lowercase(), &text[i + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn authority(text: &str) -> Result<String, &'static str> {
    let host = match text.rsplit_once('@') {
        Some((user, host)) => {
            let fine = |c: u8| c.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&c);
            if !user.bytes().all(fine) {
                return Err("net/url: invalid userinfo");
            }
            escapes(user)?;
            host
        }
        None => text,
    };
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        if !lib_net::is_v6(&host[1..end]) {
            return Err("invalid host");
        }
        &host[end + 1..]
    } else {
        host.find(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if (!port.is_empty() && !port.starts_with(':')) || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err("invalid port after host");
    }
    if host.bytes().any(|c| matches!(c, b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')) {
        return Err("invalid character in host name");
    }
    Ok(host.to_owned())
}

fn escapes(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
    match bytes.iter().enumerate().all(|(i, c)| *c != b'%' || hex(i + 1) && hex(i + 2)) {
        true => Ok(()),
        false => Err("invalid URL escape"),
    }
}

/// A path with what must not stand in one written as escapes.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.bytes() {
        if c.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&c) {
            out.push(char::from(c));
        } else {
            out.push_str(&format!("%{c:02X}"));
        }
    }
    out
}

/// A host's name and its port.
fn split_port(host: &str) -> (&str, &str) {
    if let Some(after) = host.strip_prefix('[')
        && let Some((name, rest)) = after.split_once(']')
    {
        return (name, rest.strip_prefix(':').unwrap_or(""));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn url(a: &[Val]) -> Res {
    let [Val::Str(s)] = a else { return no_overload() };
    match parse(s) {
        Ok(url) => Ok(Val::Url(url.into())),
        Err(why) => fail(format!("URL parse error during conversion from string: parse {s:?}: {why}")),
    }
}

fn is_url(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::Bool(parse(s).is_ok())),
        _ => no_overload(),
    }
}

fn part(a: &[Val], get: fn(&Url) -> String) -> Res {
    match a {
        [Val::Url(u)] => Ok(Val::from(get(u))),
        _ => no_overload(),
    }
}

fn unescape(text: &str) -> Result<String, Error> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(c) = bytes.get(i) {
        let code = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()).filter(|_| *c == b'%');
        out.push(code.unwrap_or(if *c == b'+' { b' ' } else { *c }));
        i += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).or_else(|_| fail("invalid URL escape"))
}

fn query(a: &[Val]) -> Res {
    let [Val::Url(u)] = a else { return no_overload() };
    let mut all: Vec<(String, Vec<Val>)> = Vec::new();
    for pair in u.query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (unescape(key)?, Val::from(unescape(value)?));
        match all.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) => values.push(value),
            None => all.push((key, vec![value])),
        }
    }
    Ok(Val::map(all.into_iter().map(|(k, v)| (k, Val::list(v)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("https://example.com:80/a?x=1", Some(("https", "example.com:80", "/a")))]
    #[test_case("https://[::1]:80/", Some(("https", "[::1]:80", "/")))]
    #[test_case("/path", Some(("", "", "/path")))]
    #[test_case("https://u:p@h/a b", Some(("https", "h", "/a%20b")))]
    #[test_case("not a url", None)]
    #[test_case("../rel", None)]
    #[test_case("https://h:port/", None)]
    #[test_case("https://h/%zz", None)]
    #[test_case("", None)]
    fn parts(text: &str, want: Option<(&str, &str, &str)>) {
        let got = parse(text).ok();
        assert_eq!(got.as_ref().map(|u| (&*u.scheme, &*u.host, &*u.path)), want);
    }
}
