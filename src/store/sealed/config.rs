//! `apiserver.config.k8s.io/v1 EncryptionConfiguration`: which resources are sealed, with which keys. Pure.
//!
//! Rules: upstream `apiserver/pkg/server/options/encryptionconfig` and `apis/apiserver/validation`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cipher::{Key, Provider, SEALED};
use crate::api::value::ValueExt;

/// The group of configuration files.
const GROUP: &str = "apiserver.config.k8s.io";

/// What is done with the values of some resources, in the order of the file.
#[derive(Debug)]
struct Entry {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`.
    resources: Vec<String>,
    /// The first one writes; all read.
    providers: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// As it is.
    Identity,
    /// Sealed with the first key, opened with any.
    Keys(Vec<Arc<Key>>),
}

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Config(Vec<Entry>);

/// Why a text is no configuration, or a value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn wrong<T>(at: &str, why: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{at}: {why}")))
}

impl Config {
    /// Reads a file's text, YAML or JSON. Secrets never stand in an error.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_yaml::from_str(text).map_err(|e| ConfigError(format!("is no YAML: {e}")))?;
        let known = [format!("{GROUP}/v1"), "v1".to_owned()];
        let version = value.str_at("/apiVersion").unwrap_or_default();
        if value.str_at("/kind") != Some("EncryptionConfiguration") || !known.iter().any(|k| k == version) {
            return wrong("kind", format!("must be EncryptionConfiguration of {}", known[0]));
        }
        only(&value, "", &["apiVersion", "kind", "resources"])?;
        let entries = value.items_at("/resources");
        if entries.is_empty() {
            return wrong("resources", "at least one is needed");
        }
        let all = entries.iter().enumerate().map(|(i, e)| Entry::parse(&format!("resources[{i}]"), e));
        let all = Self(all.collect::<Result<_, _>>()?);
        for (i, entry) in all.0.iter().enumerate() {
            for name in &entry.resources {
                let twice = |e: &Entry| e.resources.iter().filter(|n| *n == name).count();
                if all.0[..i].iter().any(|e| twice(e) > 0) || twice(entry) > 1 {
                    return wrong(&format!("resources[{i}].resources"), format!("{name:?} stands twice"));
                }
            }
        }
        Ok(all)
    }

    /// The entry that a stored key falls under: the first that names its resource.
    fn entry(&self, place: &[u8]) -> Option<&Entry> {
        let (group, resource) = resource_of(place)?;
        self.0.iter().find(|e| e.resources.iter().any(|pattern| matches(pattern, group, resource)))
    }

    fn writer(&self, place: &[u8]) -> Option<&Key> {
        match self.entry(place)?.providers.first()? {
            Step::Keys(keys) => keys.first().map(|k| &**k),
            Step::Identity => None,
        }
    }

    /// The key's name that new values of a place are sealed with; none when they are not.
    pub fn writes_with(&self, place: &[u8]) -> Option<(&'static str, &str)> {
        self.writer(place).map(|k| (k.provider.name(), &*k.name))
    }

    /// True when nothing is sealed, whatever its resource.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|e| matches!(e.providers.first(), None | Some(Step::Identity)))
    }

    /// The stored form of a value; none when it is stored as it is.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Option<bytes::Bytes>, ConfigError> {
        let Some(key) = self.writer(place) else { return Ok(None) };
        let sealed = key.seal(place, plain).map_err(|e| unreadable(place, &format!("cannot be encrypted: {e}")))?;
        Ok(Some(sealed))
    }

    /// The value of a stored form; none when that is the value.
    pub fn open(&self, place: &[u8], stored: &[u8]) -> Result<Option<bytes::Bytes>, ConfigError> {
        let entry = self.entry(place);
        if !stored.starts_with(SEALED) {
            let plain_is_read = entry.is_none_or(|e| e.providers.iter().any(|s| matches!(s, Step::Identity)));
            return match plain_is_read {
                true => Ok(None),
                false => Err(unreadable(place, "is not encrypted, and its resource has no identity provider")),
            };
        }
        let named = self.candidates(entry).filter(|k| k.is_of(stored)).collect::<Vec<_>>();
        match named.iter().find_map(|k| k.open(place, stored).ok()) {
            Some(plain) => Ok(Some(plain)),
            None => {
                let (provider, key) = named_key(stored);
                let why = match named.is_empty() {
                    true => format!(
                        "is encrypted with the key {key:?} of {provider}, which the configuration does not have"
                    ),
                    false => format!("is encrypted with another key of the name {key:?} of {provider}, or damaged"),
                };
                Err(unreadable(place, &why))
            }
        }
    }

    /// The keys of the value's own resource, then all others: a resource that moved to another entry stays readable.
    fn candidates<'a>(&'a self, first: Option<&'a Entry>) -> impl Iterator<Item = &'a Key> {
        first.into_iter().chain(&self.0).flat_map(|e| &e.providers).flat_map(|s| match s {
            Step::Keys(keys) => keys.iter().map(|k| &**k).collect::<Vec<_>>(),
            Step::Identity => Vec::new(),
        })
    }

    /// True for a stored form that would be written otherwise now.
    pub fn is_stale(&self, place: &[u8], stored: &[u8]) -> bool {
        match self.writer(place) {
            Some(key) => !key.is_of(stored),
            None => stored.starts_with(SEALED),
        }
    }
}

fn unreadable(place: &[u8], why: &str) -> ConfigError {
    let path = String::from_utf8_lossy(place);
    ConfigError(format!("{} {why}", path.strip_prefix("/registry/").unwrap_or(&path)))
}

/// Provider and key name that a sealed value says of itself.
fn named_key(stored: &[u8]) -> (String, String) {
    let head = String::from_utf8_lossy(&stored[..stored.len().min(256)]).into_owned();
    let mut parts = head.split(':').skip(2);
    let provider = parts.next().unwrap_or_default().to_owned();
    (provider, parts.nth(1).unwrap_or_default().to_owned())
}

/// Group (empty for core) and resource of a stored key.
fn resource_of(place: &[u8]) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(place).ok()?.strip_prefix(crate::store::cache::OBJECTS)?;
    let mut parts = path.split('/');
    let (group, resource) = (parts.next()?, parts.next()?);
    Some((if group == "core" { "" } else { group }, resource))
}

fn matches(pattern: &str, group: &str, resource: &str) -> bool {
    match pattern.split_once('.') {
        Some(("*", "*")) => true,
        Some(("*", of)) => of == group,
        Some((name, of)) => name == resource && of == group,
        None => pattern == resource && group.is_empty(),
    }
}

impl Entry {
    fn parse(at: &str, value: &Value) -> Result<Self, ConfigError> {
        only(value, at, &["resources", "providers"])?;
        let resources: Vec<String> =
            value.items_at("/resources").iter().filter_map(|r| r.as_str().map(str::to_owned)).collect();
        if resources.is_empty() {
            return wrong(&format!("{at}.resources"), "at least one is needed");
        }
        for name in &resources {
            if name == "*"
                || name.contains('/')
                || name.ends_with(".*") && name != "*.*"
                || name.chars().any(char::is_uppercase)
            {
                return wrong(
                    &format!("{at}.resources"),
                    format!("{name:?} is no resource as secrets, *., *.apps or *.*"),
                );
            }
        }
        let providers = value.items_at("/providers").iter().enumerate();
        let providers = providers.map(|(i, p)| Step::parse(&format!("{at}.providers[{i}]"), p));
        let providers = providers.collect::<Result<Vec<_>, _>>()?;
        if providers.is_empty() {
            return wrong(&format!("{at}.providers"), "at least one is needed");
        }
        Ok(Self { resources, providers })
    }
}

impl Step {
    fn parse(at: &str, value: &Value) -> Result<Self, ConfigError> {
        let Some(map) = value.as_object().filter(|m| m.len() == 1) else {
            return wrong(at, "must have exactly one of aesgcm, aescbc, secretbox, identity");
        };
        let (name, body) = map.iter().next().expect("one");
        if name == "identity" {
            return Ok(Self::Identity);
        }
        let Some(provider) = Provider::ALL.into_iter().find(|p| p.name() == name) else {
            return wrong(at, format!("{name:?} is none of aesgcm, aescbc, secretbox, identity"));
        };
        let at = format!("{at}.{name}");
        only(body, &at, &["keys"])?;
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for (i, key) in body.items_at("/keys").iter().enumerate() {
            let at = format!("{at}.keys[{i}]");
            only(key, &at, &["name", "secret"])?;
            let name = key.str_at("/name").unwrap_or_default();
            if name.is_empty() || name.contains(':') || keys.iter().any(|k| k.name == name) {
                return wrong(&format!("{at}.name"), "must not be empty, have a colon, or stand twice");
            }
            let secret = STANDARD.decode(key.str_at("/secret").unwrap_or_default().trim());
            let Some(made) = secret.ok().and_then(|s| Key::new(provider, name, &s)) else {
                let sizes = provider.key_sizes();
                return wrong(&format!("{at}.secret"), format!("must be the base64 of a key of {sizes:?} bytes"));
            };
            keys.push(Arc::new(made));
        }
        match keys.is_empty() {
            true => wrong(&format!("{at}.keys"), "at least one is needed"),
            false => Ok(Self::Keys(keys)),
        }
    }
}

/// Refuses members that are not known: a misspelt one would leave data open.
fn only(value: &Value, at: &str, known: &[&str]) -> Result<(), ConfigError> {
    let Some(map) = value.as_object() else { return wrong(if at.is_empty() { "file" } else { at }, "must be a map") };
    match map.keys().find(|k| !known.contains(&k.as_str())) {
        Some(other) => wrong(if at.is_empty() { "file" } else { at }, format!("unknown field {other:?}")),
        None => Ok(()),
    }
}

/// The configuration that `--secrets-encryption` keeps: Secrets under keys of its own, newest first. `on` is false for
/// one that only reads.
pub fn managed(keys: &[(String, Vec<u8>)], on: bool) -> Value {
    let one = |(name, secret): &(String, Vec<u8>)| json!({"name": name, "secret": STANDARD.encode(secret)});
    let sealed = json!({"aesgcm": {"keys": keys.iter().map(one).collect::<Vec<_>>()}});
    let plain = json!({"identity": {}});
    let providers = if on { [sealed, plain] } else { [plain, sealed] };
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    })
}

/// Names and bytes of keys.
pub type Keys = Vec<(String, Vec<u8>)>;

/// The keys of a managed configuration, newest first, and whether it writes with them.
pub fn managed_keys(text: &str) -> Option<(Keys, bool)> {
    let value: Value = serde_yaml::from_str(text).ok()?;
    let providers = value.items_at("/resources/0/providers");
    let sealed = providers.iter().find(|p| p.get("aesgcm").is_some())?;
    let keys = sealed
        .items_at("/aesgcm/keys")
        .iter()
        .map(|k| Some((k.str_at("/name")?.to_owned(), STANDARD.decode(k.str_at("/secret")?).ok()?)));
    Some((keys.collect::<Option<_>>()?, providers.first()?.get("aesgcm").is_some()))
}

#[cfg(test)]
pub(super) mod tests {
    use test_case::test_case;

    use super::*;

    /// A configuration of entries, each `resources = providers`; a provider is `identity` or `aesgcm:name:byte`.
    pub(in crate::store) fn config(entries: &[(&str, &str)]) -> Config {
        let entry = |(resources, providers): &(&str, &str)| {
            let provider = |text: &str| match text.split(':').collect::<Vec<_>>()[..] {
                [provider, name, byte] => {
                    let secret = STANDARD.encode([byte.parse::<u8>().unwrap(); 32]);
                    json!({provider: {"keys": [{"name": name, "secret": secret}]}})
                }
                _ => json!({"identity": {}}),
            };
            json!({
                "resources": resources.split(' ').collect::<Vec<_>>(),
                "providers": providers.split(' ').map(provider).collect::<Vec<_>>(),
            })
        };
        let all = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": entries.iter().map(entry).collect::<Vec<_>>(),
        });
        Config::parse(&all.to_string()).unwrap()
    }

    #[test_case("/registry/core/secrets/n/a", Some("one"))]
    #[test_case("/registry/core/configmaps/n/a", Some("core"))]
    #[test_case("/registry/apps/deployments/n/a", Some("exact"))]
    #[test_case("/registry/apps/daemonsets/n/a", Some("apps"))]
    #[test_case("/registry/x.io/things/a", None; "under no entry")]
    #[test_case("/registry/x.io/secrets/a", None; "a name of the core group alone")]
    #[test_case("/registry/core/nodes/a", None; "identity writes as it is")]
    fn the_first_entry_that_names_a_resource_counts(place: &str, want: Option<&str>) {
        let config = config(&[
            ("secrets", "aesgcm:one:1 identity"),
            ("nodes", "identity aesgcm:one:1"),
            ("*.", "aescbc:core:2"),
            ("deployments.apps", "secretbox:exact:3"),
            ("*.apps", "aesgcm:apps:4"),
        ]);
        assert_eq!(config.writes_with(place.as_bytes()).map(|(_, k)| k), want);
    }

    #[test]
    fn old_keys_read_and_unknown_ones_are_named() {
        let place = b"/registry/core/secrets/n/a";
        let (old, both) = (config(&[("secrets", "aesgcm:a:1")]), config(&[("secrets", "aesgcm:b:2 aesgcm:a:1")]));
        let sealed = old.seal(place, b"text").unwrap().unwrap();
        assert_eq!(both.open(place, &sealed).unwrap().unwrap(), &b"text"[..]);
        assert!(both.is_stale(place, &sealed) && !old.is_stale(place, &sealed));
        let told = |c: &Config, value: &[u8]| c.open(place, value).unwrap_err().0;
        let gone = config(&[("secrets", "aesgcm:b:2")]);
        let want = "core/secrets/n/a is encrypted with the key \"a\" of aesgcm, which the configuration does not have";
        assert_eq!(told(&gone, &sealed), want);
        assert_eq!(told(&Config::default(), &sealed), want);
        let other = config(&[("secrets", "aesgcm:a:9")]);
        assert_eq!(
            told(&other, &sealed),
            "core/secrets/n/a is encrypted with another key of the name \"a\" of aesgcm, or damaged"
        );
        assert_eq!(told(&gone, b"{}"), "core/secrets/n/a is not encrypted, and its resource has no identity provider");
        assert_eq!(config(&[("secrets", "aesgcm:b:2 identity")]).open(place, b"{}"), Ok(None));
        // The resource is under another entry now.
        let moved = config(&[("secrets", "identity"), ("*.*", "aesgcm:a:1")]);
        assert_eq!(moved.open(place, &sealed).unwrap().unwrap(), &b"text"[..]);
        assert!(moved.is_stale(place, &sealed));
    }

    #[test_case("kind: X\n", "kind: must be EncryptionConfiguration")]
    #[test_case("[1", "is no YAML")]
    #[test_case("resources: []", "resources: at least one is needed")]
    #[test_case("resources: [{resources: [secrets], provider: []}]", "resources[0]: unknown field \"provider\"")]
    #[test_case("resources: [{resources: ['*'], providers: [{identity: {}}]}]", "\"*\" is no resource")]
    #[test_case("resources: [{resources: [a, a], providers: [{identity: {}}]}]", "\"a\" stands twice")]
    #[test_case("resources: [{resources: [secrets], providers: [{kms: {}}]}]", "\"kms\" is none of")]
    #[test_case("resources: [{resources: [secrets], providers: [{aesgcm: {keys: []}}]}]", "keys: at least one")]
    #[test_case(
        "resources: [{resources: [secrets], providers: [{aesgcm: {keys: [{name: 'a:b', secret: YQ==}]}}]}]",
        "keys[0].name: must not be empty, have a colon"
    )]
    #[test_case(
        "resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: YQ==}]}}]}]",
        "must be the base64 of a key of [32] bytes"
    )]
    fn what_is_no_configuration_is_told_without_its_secrets(text: &str, why: &str) {
        let text = match text.starts_with("resources") {
            true => format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n{text}"),
            false => text.to_owned(),
        };
        let told = Config::parse(&text).unwrap_err().0;
        assert!(told.contains(why) && !told.contains("YQ=="), "{told}");
    }

    #[test]
    fn managed_configurations_are_read_back() {
        let keys = vec![("b".to_owned(), vec![2; 32]), ("a".to_owned(), vec![1; 32])];
        for on in [true, false] {
            let text = managed(&keys, on).to_string();
            assert_eq!(managed_keys(&text).unwrap(), (keys.clone(), on));
            assert_eq!(Config::parse(&text).unwrap().is_plain(), !on);
        }
        assert!(managed_keys("resources: []").is_none());
    }
}
