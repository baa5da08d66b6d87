//! Secrets, and the files and values that they and config maps are made of.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Generate, object};
use crate::api::value::ValueExt;
use crate::ctl::cx::Done;
use crate::ctl::fail::{Failure, fail, os};
use crate::ctl::print::{escape_html, sorted};
use crate::util::order::Arrange;

/// Bytes of one file in a secret or a config map; the server takes about a mebibyte in all.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Where keys and their contents come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sources {
    /// FILE, KEY=FILE or a directory
    #[arg(long)]
    from_file: Vec<String>,
    /// KEY=VALUE
    #[arg(long)]
    from_literal: Vec<String>,
    /// A file of KEY=VALUE lines
    #[arg(long)]
    from_env_file: Vec<String>,
}

const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                   'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// True for what a key of a config map or a secret may be.
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The flag of objects whose name can tell their content.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct HashFlag {
    /// Append a hash of the content to the name
    #[arg(long)]
    append_hash: bool,
}

impl HashFlag {
    /// The object under the name that was asked for. `extra` are fields that count beside the name and the data.
    pub fn named(&self, mut object: Value, extra: &[&str]) -> Value {
        if self.append_hash {
            let name = format!("{}-{}", object.str_at("/metadata/name").unwrap_or_default(), hash(&object, extra));
            object.set_at("/metadata/name", name);
        }
        object
    }
}

/// The name with the hash of a config map's or a secret's content behind it, as kustomize makes it: there the name itself
/// does not count.
pub fn hashed_name(object: &Value) -> String {
    let extra = if object["kind"] == "Secret" { OF_SECRETS } else { &[] };
    let mut counted = object.clone();
    counted.set_at("/metadata/name", "");
    counted.set_if_absent("/data", "");
    format!("{}-{}", object.str_at("/metadata/name").unwrap_or_default(), hash(&counted, extra))
}

/// Ten signs that stand for the content. Upstream: `kubectl/pkg/util/hash`.
fn hash(object: &Value, extra: &[&str]) -> String {
    let data = object.get("data").filter(|d| !d.is_null()).cloned().unwrap_or_else(|| json!({}));
    let mut counted = json!({"kind": object["kind"], "name": object["metadata"]["name"], "data": data});
    for field in extra {
        counted[*field] = match &object[*field] {
            Value::Null => "".into(),
            value => value.clone(),
        };
    }
    if object["binaryData"].is_object() {
        counted["binaryData"] = object["binaryData"].clone();
    }
    let text = escape_html(&sorted(&counted).to_string());
    // Signs that could make a bad word are others.
    let sign = |c: char| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    let hex: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    hex.chars().take(10).map(sign).collect()
}

/// Bytes as JSON carries them.
pub fn data_of(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn file(path: &Path) -> Done<Vec<u8>> {
    let bad = |e: std::io::Error| Failure::Plain(format!("error reading {}: {}", path.display(), os(&e)));
    if std::fs::metadata(path).map_err(bad)?.len() > MAX_FILE_BYTES {
        fail!("{}: more than {MAX_FILE_BYTES} bytes", path.display());
    }
    std::fs::read(path).map_err(bad)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Sources {
    /// Keys and contents, each key once.
    pub fn read(&self, of: &str) -> Done<Vec<(String, Vec<u8>)>> {
        let others = !self.from_file.is_empty() || !self.from_literal.is_empty();
        if !self.from_env_file.is_empty() && others {
            fail!("from-env-file cannot be combined with from-file or from-literal");
        }
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        for source in &self.from_file {
            match source.split_once('=') {
                Some((_, path)) if path.contains('=') => fail!("key names or file paths cannot contain '='"),
                Some(("", path)) => fail!("key name for file path {path} missing"),
                Some((key, "")) => fail!("file path for key name {key} missing"),
                Some((key, path)) => all.push((key.to_owned(), file(Path::new(path))?)),
                None if Path::new(source).is_dir() => {
                    let mut entries: Vec<_> =
                        std::fs::read_dir(source)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
                    entries.arrange();
                    for entry in entries.iter().filter(|e| e.is_file()) {
                        all.push((file_name(entry), file(entry)?));
                    }
                }
                None => all.push((file_name(Path::new(source)), file(Path::new(source))?)),
            }
        }
        for literal in &self.from_literal {
            let Some((key, value)) = literal.split_once('=').filter(|(k, _)| !k.is_empty()) else {
                fail!("invalid literal source {literal}, expected key=value")
            };
            all.push((key.to_owned(), value.as_bytes().to_vec()));
        }
        for path in &self.from_env_file {
            let text =
                String::from_utf8(file(Path::new(path))?).map_err(|_| Failure::Plain(format!("{path} is no text")))?;
            all.extend(env_lines(&text)?);
        }
        if let Some((bad, _)) = all.iter().find(|(key, _)| !is_key(key)) {
            let kind = of.split(' ').next().unwrap_or_default();
            fail!("{bad:?} is not a valid key name for a {kind}: {KEY}");
        }
        for (i, (key, _)) in all.iter().enumerate() {
            if all[..i].iter().any(|(k, _)| k == key) {
                fail!("cannot add key {key:?}, another key by that name already exists in Data for {of}");
            }
        }
        Ok(all)
    }
}

/// `KEY=VALUE` lines; a key alone takes its value from the environment.
pub fn env_lines(text: &str) -> Done<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for line in text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once('=') {
            Some((key, value)) => all.push((key.to_owned(), value.as_bytes().to_vec())),
            None => {
                if let Ok(value) = std::env::var(line) {
                    all.push((line.to_owned(), value.into_bytes()));
                }
            }
        }
    }
    Ok(all)
}

fn secret(name: &str, kind: &str, data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Value {
    let data: Map<String, Value> = data.into_iter().map(|(k, v)| (k, data_of(&v).into())).collect();
    let mut secret = object("v1", "Secret", name);
    if !data.is_empty() {
        secret["data"] = data.into();
    }
    if !kind.is_empty() {
        secret["type"] = kind.into();
    }
    secret
}

/// A secret of files, directories and values
#[derive(Debug, Clone, clap::Args)]
pub struct Generic {
    name: String,
    #[command(flatten)]
    sources: Sources,
    /// The type of the secret
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    kind: String,
    #[command(flatten)]
    hash: HashFlag,
}

impl Generate for Generic {
    fn generate(&self) -> Done<Value> {
        let data = self.sources.read(&format!("Secret {:?}", self.name))?;
        Ok(self.hash.named(secret(&self.name, &self.kind, data), OF_SECRETS))
    }
}

/// What counts of a secret beside its data.
const OF_SECRETS: &[&str] = &["type"];

/// A secret with a certificate and its key
#[derive(Debug, Clone, clap::Args)]
pub struct Tls {
    name: String,
    /// Certificate, PEM
    #[arg(long, default_value = "", hide_default_value = true)]
    cert: String,
    /// Key, PEM
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    #[command(flatten)]
    hash: HashFlag,
}

impl Generate for Tls {
    fn generate(&self) -> Done<Value> {
        if self.cert.is_empty() || self.key.is_empty() {
            fail!("key and cert must be specified");
        }
        let part = |key: &str, path: &str, mark: &str, what: &str| -> Done<(String, Vec<u8>)> {
            let bytes = file(Path::new(path)).map_err(|_| {
                let why = std::fs::metadata(path).map_or_else(|e| os(&e), |_| "cannot be read".into());
                Failure::Plain(format!("Cannot read file {path}, open {path}: {why}"))
            })?;
            if !String::from_utf8_lossy(&bytes).contains(mark) {
                fail!("tls: failed to find any PEM data in {what} input");
            }
            Ok((key.to_owned(), bytes))
        };
        let data = [
            part("tls.crt", &self.cert, "CERTIFICATE", "certificate")?,
            part("tls.key", &self.key, "PRIVATE KEY", "key")?,
        ];
        Ok(self.hash.named(secret(&self.name, "kubernetes.io/tls", data), OF_SECRETS))
    }
}

/// A secret for pulling images from a registry
#[derive(Debug, Clone, clap::Args)]
pub struct DockerRegistry {
    name: String,
    /// Address of the registry
    #[arg(long, default_value = "https://index.docker.io/v1/")]
    docker_server: String,
    /// User
    #[arg(long)]
    docker_username: Option<String>,
    /// Password
    #[arg(long)]
    docker_password: Option<String>,
    /// Mail address
    #[arg(long, default_value = "", hide_default_value = true)]
    docker_email: String,
    /// A Docker configuration file instead
    #[arg(long)]
    from_file: Option<String>,
    #[command(flatten)]
    hash: HashFlag,
}

impl Generate for DockerRegistry {
    fn generate(&self) -> Done<Value> {
        let config = match (&self.from_file, &self.docker_username, &self.docker_password) {
            (Some(path), ..) => file(Path::new(path.strip_prefix(".dockerconfigjson=").unwrap_or(path)))?,
            (None, Some(user), Some(password)) => {
                let mut entry = json!({"username": user, "password": password});
                if !self.docker_email.is_empty() {
                    entry.set_at("/email", self.docker_email.clone());
                }
                entry.set_at("/auth", STANDARD.encode(format!("{user}:{password}")));
                json!({"auths": {self.docker_server.clone(): entry}}).to_string().into_bytes()
            }
            _ => fail!(
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
            ),
        };
        let data = [(".dockerconfigjson".to_owned(), config)];
        Ok(self.hash.named(secret(&self.name, "kubernetes.io/dockerconfigjson", data), OF_SECRETS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_in_order_and_each_key_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "A").unwrap();
        std::fs::write(dir.path().join("env"), "# no\nX=1\n\n  Y=a=b\n").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let sources = Sources {
            from_file: vec![path("a.txt"), format!("k={}", path("a.txt"))],
            from_literal: vec!["l='v'".into()],
            from_env_file: vec![],
        };
        let env = Sources { from_env_file: vec![path("env")], ..Sources::default() };
        let text: Vec<String> = [sources.read("x").unwrap(), env.read("x").unwrap()]
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", String::from_utf8(v).unwrap()))
            .collect();
        assert_eq!(text, ["a.txt=A", "k=A", "l='v'", "X=1", "Y=a=b"]);
        let twice = Sources { from_literal: vec!["a=1".into(), "a=2".into()], ..Sources::default() };
        assert_eq!(
            twice.read("ConfigMap \"m\"").unwrap_err().to_string(),
            "error: cannot add key \"a\", another key by that name already exists in Data for ConfigMap \"m\""
        );
        let both = Sources { from_literal: vec!["a=1".into()], ..env };
        assert!(both.read("x").is_err());
    }

    #[test]
    fn names_tell_the_content() {
        // What kubectl 1.32 makes of these.
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "c1"}, "data": {"a": "b"}});
        assert_eq!(hash(&map, &[]), "522f9g5kh5");
        let secret = secret("s1", "", [("a".to_owned(), b"b".to_vec())]);
        assert_eq!(hash(&secret, OF_SECRETS), "6c2f4hf6dh");
    }

    #[test]
    fn registries_have_their_docker_form() {
        let made = DockerRegistry {
            name: "r".into(),
            docker_server: "reg:5000".into(),
            docker_username: Some("u".into()),
            docker_password: Some("p".into()),
            docker_email: String::new(),
            from_file: None,
            hash: HashFlag::default(),
        };
        let secret = made.generate().unwrap();
        let data = STANDARD.decode(secret["data"][".dockerconfigjson"].as_str().unwrap()).unwrap();
        let config: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(config["auths"]["reg:5000"], json!({"username": "u", "password": "p", "auth": "dTpw"}));
    }
}
