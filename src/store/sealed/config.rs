//! `apiserver.config.k8s.io/v1 EncryptionConfiguration`: which resources are sealed, with which keys. Pure.
//!
//! Rules: upstream `apiserver/pkg/server/options/encryptionconfig` and `apis/apiserver/validation`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::cipher::{Key, Provider, SEALED};
use super::kms::Kms;
use crate::api::value::ValueExt;

/// The provider that asks a plugin.
const KMS: &str = "kms";
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
    /// Sealed with what a plugin sealed.
    Kms(Arc<Kms>),
}

/// Who seals.
enum Writer<'a> {
    Key(&'a Key),
    Kms(&'a Kms),
}

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Config(Vec<Entry>);

/// Why a text is no configuration, or a value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The configuration is wrong, or lacks what a value needs.
    #[error("{0}")]
    Wrong(String),
    /// A plugin is wanting, or a value is damaged: another configuration would not help.
    #[error("{0}")]
    Failed(String),
}

pub(super) fn wrong<T>(at: &str, why: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError::Wrong(format!("{at}: {why}")))
}

impl Config {
    /// Reads a file's text, YAML or JSON. Secrets never stand in an error.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_yaml::from_str(text).map_err(|e| ConfigError::Wrong(format!("is no YAML: {e}")))?;
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
        let mut plugins: Vec<&str> = all.plugins().map(|kms| &*kms.name).collect();
        plugins.sort_unstable();
        if let Some(twice) = plugins.windows(2).find(|w| w[0] == w[1]) {
            return wrong("resources", format!("the name {:?} of a KMS provider stands twice", twice[0]));
        }
        for (i, entry) in all.0.iter().enumerate() {
            let earlier = all.0[..i].iter().flat_map(|e| &e.resources);
            for (j, name) in entry.resources.iter().enumerate() {
                if let Some(masking) = earlier.clone().find(|e| e.contains('*') && (covers(e, name) || *e == name)) {
                    return wrong(
                        &format!("resources[{i}].resources"),
                        format!("{name:?} is masked by the earlier {masking:?}"),
                    );
                }
                let others = entry.resources.iter().enumerate().filter(|(k, _)| *k != j).map(|(_, o)| o);
                if let Some(other) = others.clone().find(|o| covers(o, name) || *o == name) {
                    return wrong(&format!("resources[{i}].resources"), format!("{name:?} overlaps with {other:?}"));
                }
            }
        }
        Ok(all)
    }

    /// The entries that a stored key falls under: the first of them writes.
    fn entries<'a>(&'a self, place: &[u8]) -> impl Iterator<Item = &'a Entry> {
        let of = resource_of(place);
        let names = move |e: &&Entry| {
            of.is_some_and(|(group, resource)| e.resources.iter().any(|pattern| matches(pattern, group, resource)))
        };
        self.0.iter().filter(names)
    }

    fn writer<'a>(&'a self, place: &[u8]) -> Option<Writer<'a>> {
        match self.entries(place).next()?.providers.first()? {
            Step::Keys(keys) => keys.first().map(|k| Writer::Key(k)),
            Step::Kms(kms) => Some(Writer::Kms(kms)),
            Step::Identity => None,
        }
    }

    /// The key's or plugin's name that new values of a place are sealed with; none when they are not.
    pub fn writes_with(&self, place: &[u8]) -> Option<(&'static str, &str)> {
        self.writer(place).map(|writer| match writer {
            Writer::Key(key) => (key.provider.name(), &*key.name),
            Writer::Kms(kms) => (KMS, &*kms.name),
        })
    }

    /// The plugins that it names.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.0.iter().flat_map(|e| &e.providers).filter_map(|s| match s {
            Step::Kms(kms) => Some(kms),
            _ => None,
        })
    }

    /// True when nothing is sealed, whatever its resource.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|e| matches!(e.providers.first(), None | Some(Step::Identity)))
    }

    /// The stored form of a value; none when it is stored as it is.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Option<Bytes>, ConfigError> {
        let sealed = match self.writer(place) {
            None => return Ok(None),
            Some(Writer::Key(key)) => key.seal(place, plain).map_err(|e| e.to_string()),
            Some(Writer::Kms(kms)) => kms.seal(place, plain),
        };
        sealed.map(Some).map_err(|why| failed(place, &format!("cannot be encrypted: {why}")))
    }

    /// The value of a stored form; none when that is the value.
    pub async fn open(&self, place: &[u8], stored: &[u8]) -> Result<Option<Bytes>, ConfigError> {
        if !stored.starts_with(SEALED) {
            let mut steps = self.entries(place).flat_map(|e| &e.providers).peekable();
            let plain_is_read = steps.peek().is_none() || steps.any(|s| matches!(s, Step::Identity));
            return match plain_is_read {
                true => Ok(None),
                false => Err(unreadable(place, "is not encrypted, and its resource has no identity provider")),
            };
        }
        if let Some(kms) = self.plugins().find(|kms| kms.is_of(stored)) {
            return kms.open(place, stored).await.map(Some).map_err(|why| failed(place, &why));
        }
        let named = self.candidates(place).filter(|k| k.is_of(stored)).collect::<Vec<_>>();
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
    fn candidates<'a>(&'a self, place: &[u8]) -> impl Iterator<Item = &'a Key> {
        self.entries(place).chain(&self.0).flat_map(|e| &e.providers).flat_map(|s| match s {
            Step::Keys(keys) => keys.iter().map(|k| &**k).collect::<Vec<_>>(),
            Step::Kms(_) | Step::Identity => Vec::new(),
        })
    }

    /// True for a stored form that would be written otherwise now.
    pub fn is_stale(&self, place: &[u8], stored: &[u8]) -> bool {
        match self.writer(place) {
            Some(Writer::Key(key)) => !key.is_of(stored),
            Some(Writer::Kms(kms)) => !kms.is_of(stored) || kms.is_stale(stored),
            None => stored.starts_with(SEALED),
        }
    }
}

fn unreadable(place: &[u8], why: &str) -> ConfigError {
    ConfigError::Wrong(told(place, why))
}

fn failed(place: &[u8], why: &str) -> ConfigError {
    ConfigError::Failed(told(place, why))
}

fn told(place: &[u8], why: &str) -> String {
    let path = String::from_utf8_lossy(place);
    format!("{} {why}", path.strip_prefix("/registry/").unwrap_or(&path))
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

/// True for a pattern of a whole group, or of all, that names what the other names.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.split_once('.') {
        _ if pattern == name => false,
        Some(("*", "*")) => true,
        Some(("*", of)) => name.split_once('.').map_or("", |(_, group)| group) == of,
        _ => false,
    }
}

/// Why a name is no resource that can be encrypted; none when it is one.
fn unnamed(name: &str) -> Option<&'static str> {
    let group = name.split_once('.').map_or("", |(_, group)| group);
    match name {
        _ if name.chars().any(char::is_uppercase) => Some("must not have capital letters"),
        "*" => Some("write \"*.\" for the core group, or \"*.*\" for all"),
        "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations" => Some("is no resource of the API"),
        _ if name.contains('/') => Some("is no resource: what is below one is encrypted with it"),
        _ if group == "events.k8s.io" => Some("is stored as the events of the core group: write \"events\""),
        _ if group == "extensions" => Some("is of a group that is gone"),
        _ if group == "*" && name != "*.*" => Some("cannot be of all groups"),
        _ => None,
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
        for (i, name) in resources.iter().enumerate() {
            if let Some(why) = unnamed(name) {
                return wrong(&format!("{at}.resources[{i}]"), format!("{name:?} {why}"));
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
            return wrong(at, "must have exactly one of kms, aesgcm, aescbc, secretbox, identity");
        };
        let (name, body) = map.iter().next().expect("one");
        if name == "identity" {
            return Ok(Self::Identity);
        }
        if name == KMS {
            return Kms::parse(&format!("{at}.{KMS}"), body).map(|kms| Self::Kms(Arc::new(kms)));
        }
        let Some(provider) = Provider::ALL.into_iter().find(|p| p.name() == name) else {
            return wrong(at, format!("{name:?} is none of kms, aesgcm, aescbc, secretbox, identity"));
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
pub(super) fn only(value: &Value, at: &str, known: &[&str]) -> Result<(), ConfigError> {
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

    #[tokio::test]
    async fn old_keys_read_and_unknown_ones_are_named() {
        let place = b"/registry/core/secrets/n/a";
        let (old, both) = (config(&[("secrets", "aesgcm:a:1")]), config(&[("secrets", "aesgcm:b:2 aesgcm:a:1")]));
        let sealed = old.seal(place, b"text").unwrap().unwrap();
        assert_eq!(both.open(place, &sealed).await.unwrap().unwrap(), &b"text"[..]);
        assert!(both.is_stale(place, &sealed) && !old.is_stale(place, &sealed));
        let told = async |c: &Config, value: &[u8]| c.open(place, value).await.unwrap_err().to_string();
        let gone = config(&[("secrets", "aesgcm:b:2")]);
        let want = "core/secrets/n/a is encrypted with the key \"a\" of aesgcm, which the configuration does not have";
        assert_eq!(told(&gone, &sealed).await, want);
        assert_eq!(told(&Config::default(), &sealed).await, want);
        let other = config(&[("secrets", "aesgcm:a:9")]);
        assert_eq!(
            told(&other, &sealed).await,
            "core/secrets/n/a is encrypted with another key of the name \"a\" of aesgcm, or damaged"
        );
        let plain = "core/secrets/n/a is not encrypted, and its resource has no identity provider";
        assert_eq!(told(&gone, b"{}").await, plain);
        assert_eq!(config(&[("secrets", "aesgcm:b:2 identity")]).open(place, b"{}").await, Ok(None));
        // Two entries for one resource are read as one after the other.
        let split = config(&[("secrets", "aesgcm:b:2"), ("secrets", "identity")]);
        assert_eq!(split.open(place, b"{}").await, Ok(None));
        assert_eq!(split.writes_with(place).map(|(_, key)| key), Some("b"));
        // The resource is under another entry now.
        let moved = config(&[("secrets", "identity"), ("*.*", "aesgcm:a:1")]);
        assert_eq!(moved.open(place, &sealed).await.unwrap().unwrap(), &b"text"[..]);
        assert!(moved.is_stale(place, &sealed));
    }

    #[test_case("kind: X\n", "kind: must be EncryptionConfiguration")]
    #[test_case("[1", "is no YAML")]
    #[test_case("resources: []", "resources: at least one is needed")]
    #[test_case("resources: [{resources: [secrets], provider: []}]", "resources[0]: unknown field \"provider\"")]
    #[test_case("resources: [{resources: ['*'], providers: [{identity: {}}]}]", "[0]: \"*\" write")]
    #[test_case("resources: [{resources: [events.events.k8s.io], providers: [{identity: {}}]}]", "write \"events\"")]
    #[test_case("resources: [{resources: [secrets.*], providers: [{identity: {}}]}]", "cannot be of all groups")]
    #[test_case("resources: [{resources: [a, a], providers: [{identity: {}}]}]", "\"a\" overlaps with \"a\"")]
    #[test_case("resources: [{resources: [a, '*.'], providers: [{identity: {}}]}]", "\"a\" overlaps with \"*.\"")]
    #[test_case(
        "resources: [{resources: ['*.x'], providers: [{identity: {}}]}, {resources: [a.x], providers: [{identity: {}}]}]",
        "resources[1].resources: \"a.x\" is masked by the earlier \"*.x\""
    )]
    #[test_case("resources: [{resources: [secrets], providers: [{vault: {}}]}]", "\"vault\" is none of kms")]
    #[test_case("resources: [{resources: [secrets], providers: [{kms: {}}]}]", "kms.apiVersion: version v1 is")]
    #[test_case(
        "resources: [{resources: [secrets], providers: [{kms: &k {apiVersion: v2, name: a, endpoint: 'unix:///s'}}, {kms: *k}]}]",
        "the name \"a\" of a KMS provider stands twice"
    )]
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
        let told = Config::parse(&text).unwrap_err().to_string();
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
