//! The file's text as [`Registries`], with errors that name the place. Pure.

use std::path::PathBuf;

use serde_yaml::Value;

use super::{ANY, Access, Auth, Endpoint, Mirror, Registries, Rewrite, Tls};
use crate::util::words::nearest;

type Result<T> = std::result::Result<T, String>;

/// A value and where it stands.
struct At<'a> {
    place: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T> {
        let place = if self.place.is_empty() { "the file" } else { &self.place };
        Err(format!("{place}: {why}"))
    }

    /// Keys and values of a map; nothing is an empty one.
    fn entries(&self) -> Result<Vec<(&'a str, At<'a>)>> {
        let map = match self.value {
            Value::Null => return Ok(Vec::new()),
            Value::Mapping(map) => map,
            _ => return self.refuse("must be a map"),
        };
        let mut out = Vec::new();
        for (key, value) in map {
            let Value::String(key) = key else { return self.refuse("its keys must be texts") };
            let place = if self.place.is_empty() { key.clone() } else { format!("{}.{key}", self.place) };
            out.push((key.as_str(), At { place, value }));
        }
        Ok(out)
    }

    fn unknown<T>(&self, key: &str, known: &[&'static str]) -> Result<T> {
        self.refuse(format!("unknown key {key:?}; did you mean {:?}?", nearest(known.iter().copied(), key)))
    }

    fn text(&self) -> Result<String> {
        match self.value {
            Value::String(s) => Ok(s.clone()),
            Value::Number(n) => Ok(n.to_string()),
            _ => self.refuse("must be a text"),
        }
    }

    fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Bool(b) => Ok(*b),
            _ => self.refuse("must be true or false"),
        }
    }

    /// A list of texts; one text is a list of one.
    fn texts(&self) -> Result<Vec<String>> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Sequence(list) => list
                .iter()
                .enumerate()
                .map(|(i, value)| At { place: format!("{}[{i}]", self.place), value }.text())
                .collect(),
            _ => self.text().map(|one| vec![one]),
        }
    }
}

pub(super) fn registries(text: &str) -> Result<Registries> {
    let root: Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let root = At { place: String::new(), value: &root };
    let mut out = Registries::default();
    for (key, at) in root.entries()? {
        match key {
            "mirrors" => {
                for (name, at) in at.entries()? {
                    out.mirrors.insert(name.to_owned(), mirror(name, &at)?);
                }
            }
            "configs" => {
                for (host, at) in at.entries()? {
                    if host == ANY {
                        return at.refuse("names no registry; write one entry for each host");
                    }
                    out.configs.insert(host.to_owned(), access(&at)?);
                }
            }
            other => return root.unknown(other, &["mirrors", "configs"]),
        }
    }
    Ok(out)
}

fn mirror(name: &str, at: &At<'_>) -> Result<Mirror> {
    let mut out = Mirror::default();
    for (key, at2) in at.entries()? {
        match key {
            "endpoint" | "endpoints" => {
                for text in at2.texts()? {
                    match endpoint(&text) {
                        Some(e) if !out.endpoints.contains(&e) => out.endpoints.push(e),
                        Some(_) => {}
                        None => {
                            return at2.refuse(format!("{text:?} is no endpoint; write https://HOST[:PORT][/PATH]"));
                        }
                    }
                }
            }
            "rewrite" => {
                for (pattern, at) in at2.entries()? {
                    let pattern = match regex::Regex::new(pattern) {
                        Ok(pattern) => pattern,
                        Err(_) => return at.refuse("is no regular expression"),
                    };
                    out.rewrites.push(Rewrite { pattern, replacement: at.text()? });
                }
            }
            other => return at.unknown(other, &["endpoint", "rewrite"]),
        }
    }
    if name.contains('/') {
        return at.refuse("a mirror is of a registry's host, without a path");
    }
    if !out.rewrites.is_empty()
        && let Some(e) = out.endpoints.iter().find(|e| e.path != "/v2" && !e.path.starts_with("/v2/"))
    {
        return at.refuse(format!("with a rewrite the path of an endpoint begins with /v2, not {}", e.path));
    }
    Ok(out)
}

/// An endpoint; without a scheme it is `https`, but `http` for a port of this machine, as containerd has it.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port.parse::<u16>().ok()?)),
        _ => (host, None),
    };
    let local = matches!(name, "localhost" | "127.0.0.1" | "[::1]") && port.is_some_and(|p| p != 443);
    let scheme = match scheme {
        Some("http") => "http",
        Some("https") => "https",
        Some(_) => return None,
        None if local => "http",
        None => "https",
    };
    if name.is_empty() || host.contains(['@', '?', '#', ' ']) || path.contains(['?', '#', ' ']) {
        return None;
    }
    let path = path.trim_matches('/');
    let path = if path.is_empty() { "/v2".to_owned() } else { format!("/{path}") };
    let host = if host == "docker.io" { super::hosts::DOCKER_HOST } else { host };
    Some(Endpoint { scheme, host: host.to_owned(), path })
}

fn access(at: &At<'_>) -> Result<Access> {
    let mut out = Access::default();
    for (key, at2) in at.entries()? {
        match key {
            "auth" => out.auth = Some(auth(&at2)?),
            "tls" => out.tls = Some(tls(&at2)?),
            other => return at.unknown(other, &["auth", "tls"]),
        }
    }
    Ok(out)
}

fn auth(at: &At<'_>) -> Result<Auth> {
    let mut out = Auth::default();
    for (key, at2) in at.entries()? {
        match key {
            "username" => out.username = at2.text()?,
            "password" => out.password = at2.text()?,
            "auth" => out.auth = at2.text()?,
            "token" | "identity_token" => out.identity_token = at2.text()?,
            other => return at.unknown(other, &["username", "password", "auth", "token"]),
        }
    }
    if out.username.is_empty() != out.password.is_empty() {
        return at.refuse("username and password go together");
    }
    Ok(out)
}

fn tls(at: &At<'_>) -> Result<Tls> {
    let mut out = Tls::default();
    for (key, at2) in at.entries()? {
        let file = || {
            let path = PathBuf::from(at2.text()?);
            if path.is_absolute() { Ok(Some(path)) } else { at2.refuse("must be an absolute path") }
        };
        match key {
            "ca_file" => out.ca_file = file()?,
            "cert_file" => out.cert_file = file()?,
            "key_file" => out.key_file = file()?,
            "insecure_skip_verify" => out.insecure_skip_verify = at2.flag()?,
            other => return at.unknown(other, &["ca_file", "cert_file", "key_file", "insecure_skip_verify"]),
        }
    }
    if out.cert_file.is_none() && out.key_file.is_some() {
        return at.refuse("key_file needs a cert_file");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("" => Ok(()); "an empty file")]
    #[test_case("mirrors:\n" => Ok(()); "an empty section")]
    #[test_case("mirror: {}" => Err("the file: unknown key \"mirror\"; did you mean \"mirrors\"?".into()); "section")]
    #[test_case("mirrors: {r: {endpont: []}}" => Err("mirrors.r: unknown key \"endpont\"; did you mean \"endpoint\"?".into()); "mirror")]
    #[test_case("configs: {r: {tls: {cafile: /x}}}" => Err("configs.r.tls: unknown key \"cafile\"; did you mean \"ca_file\"?".into()); "tls")]
    #[test_case("configs: {r: {auth: {user: x}}}" => Err("configs.r.auth: unknown key \"user\"; did you mean \"username\"?".into()); "auth")]
    #[test_case("configs: {r: {auth: {username: x}}}" => Err("configs.r.auth: username and password go together".into()); "half a pair")]
    #[test_case("configs: {r: {tls: {ca_file: ca.crt}}}" => Err("configs.r.tls.ca_file: must be an absolute path".into()); "relative")]
    #[test_case("configs: {r: {tls: {insecure_skip_verify: 1}}}" => Err("configs.r.tls.insecure_skip_verify: must be true or false".into()); "no flag")]
    #[test_case("configs: {\"*\": {}}" => Err("configs.*: names no registry; write one entry for each host".into()); "any")]
    #[test_case("mirrors: {r: {endpoint: [\"ftp://x\"]}}" => Err("mirrors.r.endpoint: \"ftp://x\" is no endpoint; write https://HOST[:PORT][/PATH]".into()); "scheme")]
    #[test_case("mirrors: {r: {rewrite: {\"(\": x}}}" => Err("mirrors.r.rewrite.(: is no regular expression".into()); "pattern")]
    #[test_case("mirrors: {r: {endpoint: [\"https://m/a/v2\"], rewrite: {a: b}}}" => Err("mirrors.r: with a rewrite the path of an endpoint begins with /v2, not /a/v2".into()); "path and rewrite")]
    #[test_case("mirrors: [a]" => Err("mirrors: must be a map".into()); "no map")]
    fn refusals(text: &str) -> Result<()> {
        registries(text).map(drop)
    }

    #[test_case("https://m.example" => Some(("https", "m.example", "/v2")))]
    #[test_case("http://m.example:5000/" => Some(("http", "m.example:5000", "/v2")))]
    #[test_case("m.example/v2/proxy" => Some(("https", "m.example", "/v2/proxy")); "a path, no scheme")]
    #[test_case("localhost:5000" => Some(("http", "localhost:5000", "/v2")); "a port of this machine")]
    #[test_case("localhost:443" => Some(("https", "localhost:443", "/v2")); "the port of TLS")]
    #[test_case("docker.io" => Some(("https", "registry-1.docker.io", "/v2")))]
    #[test_case("https://" => None; "no host")]
    #[test_case("https://u@h" => None; "credentials do not go here")]
    #[test_case("h:x" => None; "no port")]
    fn endpoints(text: &str) -> Option<(&'static str, &'static str, &'static str)> {
        let leak = |s: String| &*s.leak();
        endpoint(text).map(|e| (e.scheme, leak(e.host), leak(e.path)))
    }

    #[test]
    fn the_example_of_k3s_is_read() {
        let text = r#"
mirrors:
  docker.io:
    endpoint:
      - "https://m.example:5000"
    rewrite:
      "^library/(.*)": "mirrored/$1"
  "*":
    endpoint: ["https://any.example"]
configs:
  "m.example:5000":
    auth: {username: me, password: "0123"}
    tls: {insecure_skip_verify: true}
"#;
        let r = registries(text).unwrap();
        assert_eq!(r.mirrors["docker.io"].rewrites[0].replacement, "mirrored/$1");
        assert_eq!(r.mirrors[ANY].endpoints[0].host, "any.example");
        let config = &r.configs["m.example:5000"];
        assert_eq!(config.auth.as_ref().map(|a| a.password.as_str()), Some("0123"));
        assert!(config.tls.as_ref().is_some_and(|t| t.insecure_skip_verify));
    }
}
