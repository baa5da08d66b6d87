//! What containerd 1.5 to 2.x read of registries: a `hosts.toml` for each, and credentials in its configuration. Pure.
//!
//! A mirror with a rewrite is not in here: containerd cannot rewrite, so its endpoints are asked by name ([`super::Rewrites`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{ANY, Access, Endpoint, Registries};
use crate::kubelet::containerd::quoted;

/// The host behind the name `docker.io`.
pub(super) const DOCKER_HOST: &str = "registry-1.docker.io";
const DOCKER: &str = "docker.io";
/// The directory for registries that have none of their own.
const DEFAULT_DIR: &str = "_default";

/// A `hosts.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsFile {
    /// Directory below containerd's `config_path`.
    pub directory: String,
    /// The file's text.
    pub text: String,
}

/// All of them, in order.
pub fn hosts_files(registries: &Registries) -> Vec<HostsFile> {
    // Registries that something is known of: mirrored ones, configured ones, and mirrors that are asked by their own name.
    let mut known: BTreeMap<&str, &'static str> = BTreeMap::new();
    let with_tls = registries.configs.iter().filter(|(_, a)| a.tls.is_some()).map(|(host, _)| host);
    for name in registries.mirrors.keys().chain(with_tls).filter(|n| *n != ANY) {
        known.entry(name).or_insert("");
    }
    for mirror in registries.mirrors.values().filter(|m| !m.rewrites.is_empty()) {
        for endpoint in &mirror.endpoints {
            let scheme = known.entry(&endpoint.host).or_insert("");
            if scheme.is_empty() {
                *scheme = endpoint.scheme;
            }
        }
    }
    let mut out = Vec::new();
    for (name, scheme) in known {
        let host = if name == DOCKER { DOCKER_HOST } else { name };
        let scheme = match scheme {
            // Without TLS settings a port of this machine is asked as containerd sees fit.
            "" if registries.access(name).is_none_or(|a| a.tls.is_none()) && is_local(name) => "http",
            "" => "https",
            known => known,
        };
        let own = Endpoint { scheme, host: host.to_owned(), path: "/v2".to_owned() };
        out.push(HostsFile { directory: directory(name), text: render(registries, name, Some(&own)) });
    }
    if registries.endpoints(ANY).next().is_some() {
        out.push(HostsFile { directory: DEFAULT_DIR.to_owned(), text: render(registries, ANY, None) });
    }
    out
}

/// containerd's spelling of a host with a port.
fn directory(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => format!("{name}_{port}_"),
        _ => host.to_owned(),
    }
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    host != name && matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

impl Registries {
    /// How to talk to a host; `docker.io` may be configured under both its names.
    fn access(&self, host: &str) -> Option<&Access> {
        let other = match host {
            DOCKER => DOCKER_HOST,
            DOCKER_HOST => DOCKER,
            _ => host,
        };
        self.configs.get(host).or_else(|| self.configs.get(other))
    }

    /// Endpoints that containerd can try by itself.
    fn endpoints(&self, name: &str) -> impl Iterator<Item = &Endpoint> {
        self.mirrors.get(name).filter(|m| m.rewrites.is_empty()).into_iter().flat_map(|m| &m.endpoints)
    }
}

fn render(registries: &Registries, name: &str, own: Option<&Endpoint>) -> String {
    let mut out = "# Written by orch at every start; changes are lost.\n".to_owned();
    if let Some(own) = own {
        let _ = writeln!(out, "server = {}", quoted(&url(own)));
        tls(&mut out, registries.access(name));
    }
    // The registry itself is the last one anyhow.
    let mut endpoints: Vec<&Endpoint> = registries.endpoints(name).collect();
    if endpoints.last().copied() == own {
        endpoints.pop();
    }
    // containerd 1.6 takes no file without a host in it.
    if endpoints.is_empty() {
        endpoints.extend(own);
    }
    for endpoint in endpoints {
        let _ = writeln!(out, "\n[host.{}]", quoted(&url(endpoint)));
        out += "  capabilities = [\"pull\", \"resolve\"]\n";
        if endpoint.path != "/v2" {
            out += "  override_path = true\n";
        }
        tls(&mut out, registries.access(&endpoint.host));
    }
    out
}

fn url(e: &Endpoint) -> String {
    format!("{}://{}{}", e.scheme, e.host, e.path)
}

fn tls(out: &mut String, access: Option<&Access>) {
    let Some(tls) = access.and_then(|a| a.tls.as_ref()) else { return };
    let path = |p: &std::path::Path| quoted(&p.display().to_string());
    if let Some(ca) = &tls.ca_file {
        let _ = writeln!(out, "ca = [{}]", path(ca));
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => drop(writeln!(out, "client = [[{}, {}]]", path(cert), path(key))),
        (Some(both), None) => drop(writeln!(out, "client = [{}]", path(both))),
        _ => {}
    }
    if tls.insecure_skip_verify {
        out.push_str("skip_verify = true\n");
    }
}

/// The credentials' part of containerd's configuration: the only place where it looks for those of a mirror.
pub fn credentials(registries: &Registries) -> String {
    let mut out = String::new();
    for (host, access) in &registries.configs {
        let Some(auth) = &access.auth else { continue };
        let names: &[&str] = if host == DOCKER { &[DOCKER, DOCKER_HOST] } else { &[host] };
        for name in names {
            let table = format!(r#"plugins."io.containerd.grpc.v1.cri".registry.configs.{}.auth"#, quoted(name));
            let _ = writeln!(out, "\n    [{table}]");
            let fields = [
                ("username", &auth.username),
                ("password", &auth.password),
                ("auth", &auth.auth),
                ("identitytoken", &auth.identity_token),
            ];
            for (key, value) in fields.into_iter().filter(|(_, v)| !v.is_empty()) {
                let _ = writeln!(out, "      {key} = {}", quoted(value));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::read::registries;
    use super::*;

    fn files(text: &str) -> Vec<(String, Vec<String>)> {
        let lines =
            |text: &str| text.lines().skip(1).map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
        let all = hosts_files(&registries(text).unwrap());
        all.into_iter().map(|f| (f.directory, lines(&f.text))).collect()
    }

    #[test]
    fn a_mirror_is_tried_before_its_registry_with_its_own_tls() {
        let text = r#"
mirrors: {docker.io: {endpoint: ["https://m.example:5000", "https://p.example/v2/proxy"]}}
configs: {"m.example:5000": {tls: {ca_file: /ca.crt, cert_file: /c.crt, key_file: /c.key}}}"#;
        let want = [
            "server = \"https://registry-1.docker.io/v2\"",
            "[host.\"https://m.example:5000/v2\"]",
            "capabilities = [\"pull\", \"resolve\"]",
            "ca = [\"/ca.crt\"]",
            "client = [[\"/c.crt\", \"/c.key\"]]",
            "[host.\"https://p.example/v2/proxy\"]",
            "capabilities = [\"pull\", \"resolve\"]",
            "override_path = true",
        ];
        let got = files(text);
        assert_eq!(got[0], ("docker.io".to_owned(), want.map(str::to_owned).to_vec()));
        assert_eq!(got[1].0, "m.example_5000_", "the mirror may be named in an image, too");
    }

    #[test]
    fn a_registry_without_mirrors_has_itself_as_host() {
        let text = "configs: {r.example: {tls: {insecure_skip_verify: true}}}";
        let want = [
            "server = \"https://r.example/v2\"",
            "skip_verify = true",
            "[host.\"https://r.example/v2\"]",
            "capabilities = [\"pull\", \"resolve\"]",
            "skip_verify = true",
        ];
        assert_eq!(files(text), [("r.example".to_owned(), want.map(str::to_owned).to_vec())]);
    }

    #[test]
    fn any_registry_has_the_default_directory_and_rewriting_mirrors_only_their_own() {
        let got = files("mirrors: {\"*\": {endpoint: [\"http://m.example\"]}}");
        assert_eq!(got[0].0, "_default");
        assert!(got[0].1.contains(&"[host.\"http://m.example/v2\"]".to_owned()) && got.len() == 1, "{got:?}");
        let got = files("mirrors: {\"*\": {endpoint: [\"http://m.example:1\"], rewrite: {a: b}}}");
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].0.as_str(), got[0].1[0].as_str()), ("m.example_1_", "server = \"http://m.example:1/v2\""));
    }

    #[test]
    fn credentials_are_quoted_and_docker_has_two_names() {
        let text = "configs: {docker.io: {auth: {username: me, password: 'a\"b'}}, t.example: {auth: {token: t}}}";
        let got = credentials(&registries(text).unwrap());
        assert!(
            got.contains(r#".configs."docker.io".auth]"#) && got.contains(r#".configs."registry-1.docker.io".auth]"#)
        );
        assert!(got.contains(r#"password = "a\"b""#) && got.contains("identitytoken = \"t\""), "{got}");
    }
}
