//! `apiserver.config.k8s.io AuthenticationConfiguration`: whose tokens are believed, and what they say. Pure.
//!
//! Rules: upstream `apiserver/pkg/apis/apiserver/validation`.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::mapping::Mapping;
use crate::api::value::ValueExt;

/// Issuers of one configuration. Upstream's bound.
const ISSUERS_MAX: usize = 64;

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Config {
    /// Whose tokens are believed.
    pub issuers: Vec<IssuerConfig>,
    /// Who may come without credentials.
    pub anonymous: Anonymous,
}

/// Who may come without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// Everybody, everywhere; what they may do there is up to authorization.
    #[default]
    Everywhere,
    /// On these paths.
    Only(BTreeSet<String>),
    /// Nobody.
    Nowhere,
}

impl Anonymous {
    /// True where a path may be asked for without credentials.
    pub fn allows(&self, path: &str) -> bool {
        // Who is about to join has nothing but the hash of the CA that stands there.
        const CA: &str = "/cacerts";
        match self {
            Self::Everywhere => true,
            Self::Only(paths) => path == CA || paths.contains(path),
            Self::Nowhere => path == CA,
        }
    }
}

/// One issuer.
#[derive(Debug)]
pub struct IssuerConfig {
    /// `iss` of its tokens.
    pub url: String,
    /// Where its configuration is; the well-known place below its URL when nothing is said.
    pub discovery_url: String,
    /// PEM of the CAs of its certificate; empty for the machine's own.
    pub ca: Vec<u8>,
    /// A token is for one of these.
    pub audiences: Vec<String>,
    /// Algorithms that are taken; empty for all that are known.
    pub algorithms: Vec<String>,
    /// What its claims mean.
    pub mapping: Mapping,
}

/// Why a text is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// An error at a field.
pub(super) fn wrong<T>(at: &str, why: impl std::fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{}: {why}", at.trim_start_matches('.'))))
}

/// Refuses members that are not known: a misspelt rule would let people in.
pub(super) fn only(value: &Value, at: &str, known: &[&str]) -> Result<(), ConfigError> {
    match value {
        Value::Null => Ok(()),
        Value::Object(map) => match map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(other) => wrong(&format!("{at}.{other}"), "unknown field"),
            None => Ok(()),
        },
        _ => wrong(at, "must be a map"),
    }
}

impl Config {
    /// Reads a file's text, YAML or JSON. `own_issuer` is the server's, which nobody else may be.
    pub fn parse(text: &str, own_issuer: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_yaml::from_str(text).map_err(|e| ConfigError(format!("is no YAML: {e}")))?;
        Self::from_value(&value, own_issuer)
    }

    /// From its value.
    pub fn from_value(value: &Value, own_issuer: &str) -> Result<Self, ConfigError> {
        let versions = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("apiserver.config.k8s.io/{v}"));
        let version = value.str_at("/apiVersion").unwrap_or_default();
        if value.str_at("/kind") != Some("AuthenticationConfiguration") || !versions.iter().any(|v| v == version) {
            return wrong("kind", format!("must be AuthenticationConfiguration of {}", versions[0]));
        }
        only(value, "", &["apiVersion", "kind", "jwt", "anonymous"])?;
        let jwt = value.items_at("/jwt");
        if jwt.len() > ISSUERS_MAX {
            return wrong("jwt", format!("must have at most {ISSUERS_MAX} items"));
        }
        let issuers = jwt.iter().enumerate().map(|(i, v)| IssuerConfig::parse(v, &format!("jwt[{i}]"), own_issuer));
        let issuers = issuers.collect::<Result<Vec<_>, _>>()?;
        let (mut urls, mut places) = (BTreeSet::new(), BTreeSet::new());
        for (i, one) in issuers.iter().enumerate() {
            if !urls.insert(&one.url) {
                return wrong(&format!("jwt[{i}].issuer.url"), "stands twice");
            }
            if !places.insert(&one.discovery_url) {
                return wrong(&format!("jwt[{i}].issuer.discoveryURL"), "stands twice");
            }
        }
        Ok(Self { anonymous: anonymous(&value["anonymous"])?, issuers })
    }
}

fn anonymous(value: &Value) -> Result<Anonymous, ConfigError> {
    if value.is_null() {
        return Ok(Anonymous::default());
    }
    only(value, "anonymous", &["enabled", "conditions"])?;
    let mut paths = BTreeSet::new();
    for (i, condition) in value.items_at("/conditions").iter().enumerate() {
        let at = format!("anonymous.conditions[{i}]");
        only(condition, &at, &["path"])?;
        match condition.str_at("/path") {
            Some(path) if path.starts_with('/') => paths.insert(path.to_owned()),
            _ => return wrong(&format!("{at}.path"), "must be a path as /livez"),
        };
    }
    match (value["enabled"] == true, paths.is_empty()) {
        (true, true) => Ok(Anonymous::Everywhere),
        (true, false) => Ok(Anonymous::Only(paths)),
        (false, true) => Ok(Anonymous::Nowhere),
        (false, false) => wrong("anonymous.conditions", "enabled should be set to true when conditions are defined"),
    }
}

impl IssuerConfig {
    fn parse(value: &Value, at: &str, own_issuer: &str) -> Result<Self, ConfigError> {
        only(value, at, &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"])?;
        let (issuer, of) = (&value["issuer"], format!("{at}.issuer"));
        // signingAlgorithms is not upstream's: the old flags have it, and become a configuration.
        only(
            issuer,
            &of,
            &["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "signingAlgorithms"],
        )?;
        let text = |name: &str| issuer.str_at(&format!("/{name}")).unwrap_or_default().to_owned();
        let (url, given) = (text("url"), text("discoveryURL"));
        https(&url, &format!("{of}.url"))?;
        if url == own_issuer {
            return wrong(&format!("{of}.url"), "is the server's own issuer of service account tokens");
        }
        let discovery_url = match given.is_empty() {
            true => discovery_url(&url),
            false => {
                https(&given, &format!("{of}.discoveryURL"))?;
                if given.trim_end_matches('/') == url.trim_end_matches('/') {
                    return wrong(&format!("{of}.discoveryURL"), "discoveryURL must be different from URL");
                }
                given
            }
        };
        let ca = text("certificateAuthority").into_bytes();
        let is_pem = CertificateDer::pem_slice_iter(&ca).next().is_some_and(|c| c.is_ok());
        if !ca.is_empty() && !is_pem {
            return wrong(&format!("{of}.certificateAuthority"), "holds no certificate");
        }
        let list = |name: &str| -> Vec<String> {
            issuer.items_at(&format!("/{name}")).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect()
        };
        let audiences = list("audiences");
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return wrong(&format!("{of}.audiences"), "at least one is needed, and none may be empty");
        }
        let policy = text("audienceMatchPolicy");
        if policy != "MatchAny" && !(policy.is_empty() && audiences.len() == 1) {
            return wrong(&format!("{of}.audienceMatchPolicy"), "must be MatchAny for multiple audiences");
        }
        let mapping = Mapping::parse(value, at)?;
        Ok(Self { url, discovery_url, ca, audiences, algorithms: list("signingAlgorithms"), mapping })
    }
}

/// Where an issuer's configuration is, unless somebody says otherwise.
pub(super) fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// An https URL without anything that has no place in an issuer's.
fn https(url: &str, at: &str) -> Result<(), ConfigError> {
    if url.is_empty() {
        return wrong(at, "is required");
    }
    let Ok(parsed) = url.parse::<http::Uri>() else { return wrong(at, "is no URL") };
    if parsed.scheme_str() != Some("https") || parsed.host().is_none_or(str::is_empty) {
        return wrong(at, "URL scheme must be https");
    }
    if parsed.query().is_some() || url.contains('#') || parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        return wrong(at, "URL must not contain a username, a query or a fragment");
    }
    Ok(())
}

/// What the flags `--oidc-…` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--oidc-issuer-url`.
    pub issuer_url: String,
    /// `--oidc-client-id`.
    pub client_id: String,
    /// `--oidc-username-claim`.
    pub username_claim: String,
    /// `--oidc-username-prefix`.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: String,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: String,
    /// `--oidc-required-claim`.
    pub required_claims: Vec<(String, String)>,
    /// The text of `--oidc-ca-file`.
    pub ca: String,
    /// `--oidc-signing-algs`.
    pub algorithms: Vec<String>,
}

impl Flags {
    /// The configuration that says the same.
    pub fn to_value(&self) -> Value {
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            // So that nobody's claim can make him a user of another kind.
            None if self.username_claim != "email" => format!("{}#", self.issuer_url),
            None => String::new(),
        };
        let mut mappings = json!({"username": {"claim": self.username_claim, "prefix": prefix}});
        if !self.groups_claim.is_empty() {
            mappings["groups"] = json!({"claim": self.groups_claim, "prefix": self.groups_prefix});
        }
        let rules = self.required_claims.iter().map(|(claim, value)| json!({"claim": claim, "requiredValue": value}));
        let mut issuer = json!({
            "url": self.issuer_url, "audiences": [self.client_id], "signingAlgorithms": self.algorithms,
        });
        if !self.ca.is_empty() {
            issuer["certificateAuthority"] = self.ca.as_str().into();
        }
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{"issuer": issuer, "claimMappings": mappings, "claimValidationRules": rules.collect::<Vec<_>>()}],
        })
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<Config, ConfigError> {
        let mut value = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{"issuer": {"url": "https://a.example/x", "audiences": ["me"]}, "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}],
        });
        change(&mut value);
        Config::from_value(&value, "https://kubernetes.default.svc")
    }

    #[test_case("/jwt/0/issuer/url", json!("http://a.example"), "jwt[0].issuer.url: URL scheme must be https")]
    #[test_case("/jwt/0/issuer/url", json!("https://u:p@a.example"), "must not contain a username")]
    #[test_case("/jwt/0/issuer/url", json!("https://a.example?x"), "must not contain a username, a query")]
    #[test_case("/jwt/0/issuer/url", json!("https://kubernetes.default.svc"), "is the server's own issuer")]
    #[test_case("/jwt/0/issuer/discoveryURL", json!("https://a.example/x/"), "must be different from URL")]
    #[test_case("/jwt/0/issuer/audiences", json!([]), "jwt[0].issuer.audiences: at least one is needed")]
    #[test_case("/jwt/0/issuer/audiences", json!(["a", "b"]), "must be MatchAny for multiple audiences")]
    #[test_case("/jwt/0/issuer/certificateAuthority", json!("x"), "holds no certificate")]
    #[test_case("/jwt/0/issuer/more", json!("x"), "jwt[0].issuer.more: unknown field")]
    #[test_case("/jwt/0/claimMappings/username", json!({}), "jwt[0].claimMappings.username: claim or expression is required")]
    #[test_case("/jwt/0/claimMappings/username", json!({"claim": "a"}), "prefix is required when claim is set")]
    #[test_case("/jwt/0/claimMappings/username", json!({"claim": "a", "expression": "b"}), "claim and expression can't both be set")]
    #[test_case("/jwt/0/claimMappings/username", json!({"expression": "claims.sub +"}), "jwt[0].claimMappings.username.expression: ")]
    #[test_case("/jwt/0/claimMappings/username", json!({"expression": "claims.email"}), "claims.email_verified must be used")]
    #[test_case("/jwt/0/claimMappings/extra", json!([{"key": "a.k8s.io/b", "valueExpression": "claims.x"}]), "reserved for Kubernetes use")]
    #[test_case("/jwt/0/claimMappings/extra", json!([{"key": "b", "valueExpression": "claims.x"}]), "must be a domain-prefixed path")]
    #[test_case("/jwt/0/userValidationRules", json!([{"expression": "user.username"}]), "must evaluate to bool")]
    #[test_case("/anonymous", json!({"enabled": false, "conditions": [{"path": "/livez"}]}), "enabled should be set to true")]
    fn what_is_no_configuration_is_told(path: &str, to: Value, why: &str) {
        let told = parsed(|v| v.set_at(path, to)).unwrap_err().0;
        assert!(told.contains(why), "{told}");
    }

    #[test]
    fn what_may_be_asked_without_credentials() {
        let of = |anonymous: Value| parsed(|v| v["anonymous"] = anonymous).unwrap().anonymous;
        assert_eq!(of(Value::Null), Anonymous::Everywhere);
        let some = of(json!({"enabled": true, "conditions": [{"path": "/livez"}]}));
        assert!(some.allows("/livez") && some.allows("/cacerts") && !some.allows("/livez/x") && !some.allows("/api"));
        let none = of(json!({"enabled": false}));
        assert!(none.allows("/cacerts") && !none.allows("/livez"));
    }

    #[test]
    fn places_have_defaults_and_twins_are_refused() {
        let one = parsed(|_| {}).unwrap();
        assert_eq!(one.issuers[0].discovery_url, "https://a.example/x/.well-known/openid-configuration");
        let twins = parsed(|v| {
            let first = v["jwt"][0].clone();
            v["jwt"].as_array_mut().unwrap().push(first);
        });
        assert_eq!(twins.unwrap_err().0, "jwt[1].issuer.url: stands twice");
    }

    #[test_case("sub", None, "https://i#")]
    #[test_case("email", None, "")]
    #[test_case("sub", Some("-"), "")]
    #[test_case("sub", Some("x:"), "x:")]
    fn flags_become_a_configuration(claim: &str, prefix: Option<&str>, want: &str) {
        let flags = Flags {
            issuer_url: "https://i".into(),
            client_id: "me".into(),
            username_claim: claim.into(),
            username_prefix: prefix.map(str::to_owned),
            groups_claim: "groups".into(),
            required_claims: vec![("hd".into(), "example.com".into())],
            algorithms: vec!["RS256".into()],
            ..Flags::default()
        };
        let value = flags.to_value();
        assert_eq!(value["jwt"][0]["claimMappings"]["username"]["prefix"], want);
        let config = Config::from_value(&value, "https://own").unwrap();
        assert_eq!(
            (config.issuers[0].audiences.as_slice(), config.issuers[0].algorithms.as_slice()),
            (&["me".to_owned()][..], &["RS256".to_owned()][..])
        );
    }
}
