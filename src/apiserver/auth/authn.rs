//! Authentication: from a connection's certificate and a request's headers to a user.
//!
//! The order is upstream's: front proxy, client certificate, bearer token, then anonymous.
//!
//! **Invariant:** a credential that fails is 401 even when anonymous access would be allowed.
//! **Invariant:** a chain is checked cryptographically once per connection, its end on every request.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::lookup::ObjectLookup;
use crate::api::node_identity;
use crate::api::status::{Reason, Status};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::api::websocket;
use crate::pki::tls::ClientVerifier;
use crate::pki::{profile, token};
use crate::util::clock::SharedClock;
use crate::util::percent;

/// Credentials that are wrong. The client sees only `Unauthorized`; the text is for the log and TokenReview.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

impl AuthError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Upstream's 401: the text is the same for all reasons.
    pub fn to_status(&self) -> Box<Status> {
        Status::new(Reason::Unauthorized, "Unauthorized")
    }
}

/// What a connection's client certificate says, worked out once when it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Peer {
    /// No certificate, or a connection without TLS.
    #[default]
    None,
    /// A user's, by the client CA.
    Client {
        /// Common name.
        name: String,
        /// Organizations.
        groups: Vec<String>,
        /// SHA-256 of the certificate.
        fingerprint: String,
        /// SHA-256 of its key.
        key_hash: String,
        /// Its end, seconds since the epoch.
        not_after: i64,
    },
    /// A front proxy's, by the request-header CA.
    Proxy {
        /// Common name.
        name: String,
        /// Its end, seconds since the epoch.
        not_after: i64,
    },
    /// A certificate that none of our CAs vouches for.
    Unknown,
}

impl Peer {
    /// Which CA vouches for `chain` (end entity first). The request-header CA comes first, as upstream asks it first.
    pub fn identify(
        chain: &[CertificateDer<'_>],
        clients: &ClientVerifier,
        proxies: &ClientVerifier,
        now: Timestamp,
    ) -> Self {
        let Some(leaf) = chain.first() else { return Self::None };
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return Self::Unknown };
        let not_after = cert.validity().not_after.timestamp();
        let (name, groups) = profile::subject(&cert);
        if proxies.accepts(chain, now) {
            Self::Proxy { name, not_after }
        } else if clients.accepts(chain, now) {
            let key_hash = crate::pki::request::hash(cert.public_key().raw);
            Self::Client { name, groups, fingerprint: crate::pki::ca::fingerprint(leaf), key_hash, not_after }
        } else {
            Self::Unknown
        }
    }
}

/// What a request brings.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The connection's certificate.
    pub peer: &'a Peer,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

/// One way to prove who one is.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user; `None` when the request brings no credentials of this kind.
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthError>;
}

/// A token's user, and for which of the wanted audiences it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUser {
    /// Who.
    pub user: UserInfo,
    /// For whom; empty when the kind of token knows no audiences.
    pub audiences: Vec<String>,
}

/// One kind of bearer token.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// The token's user; `None` when it is not a token of this kind. It has to be for one of `audiences`.
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, AuthError>;
}

/// All kinds of bearer tokens.
pub struct BearerTokens {
    /// The kinds.
    pub kinds: Vec<Arc<dyn TokenAuthenticator>>,
    /// What a token that is used here has to be for.
    pub audiences: Vec<String>,
}

impl BearerTokens {
    /// The user of a token that has to be for one of `audiences`. One that no kind knows is an error.
    pub async fn user(&self, token: &str, audiences: &[String]) -> Result<TokenUser, AuthError> {
        const INVALID: &str = "invalid bearer token";
        let mut errors = vec![INVALID.to_owned()];
        for kind in &self.kinds {
            match kind.authenticate_token(token, audiences).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => {}
                Err(e) => errors.push(e.0),
            }
        }
        match &errors[..] {
            [one] => Err(AuthError::new(one)),
            many => Err(AuthError(format!("[{}]", many.join(", ")))),
        }
    }
}

#[async_trait]
impl Authenticator for BearerTokens {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthError> {
        let Some(token) = bearer_token(credentials.headers) else { return Ok(None) };
        let found = self.user(&token, &self.audiences).await?;
        Ok(Some(found.user))
    }
}

/// The bearer token of a request: in `Authorization`, or among the protocols of a websocket, where browsers put it.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if let Some((scheme, token)) = authorization.trim().split_once(' ')
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.trim().is_empty()
    {
        return Some(token.trim().to_owned());
    }
    let protocols = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let mut protocols = protocols.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let encoded = protocols.find_map(|p| p.trim().strip_prefix(websocket::BEARER))?;
    // Undecodable text is a wrong token, not none.
    let bytes = URL_SAFE_NO_PAD.decode(encoded).unwrap_or_default();
    Some(String::from_utf8(bytes).unwrap_or_default())
}

/// Users by client certificate: common name and organizations. A node is let in with the key that its name belongs to.
pub struct ClientCertificates {
    /// Now.
    pub clock: SharedClock,
    /// Whose the nodes' names are.
    pub records: Arc<dyn ObjectLookup>,
}

impl ClientCertificates {
    /// True when the node's name belongs to another key: its Node was deleted, and another machine has joined since.
    fn is_replaced(&self, user: &UserInfo, key: &str) -> bool {
        let Some(node) = super::node::identity(user) else { return false };
        let record = self.records.get("", "configmaps", node_identity::NAMESPACE, &node_identity::name_of(node));
        record.is_some_and(|r| node_identity::key_hash(&r.value()) != key)
    }
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthError> {
        match credentials.peer {
            Peer::None | Peer::Proxy { .. } => Ok(None),
            Peer::Unknown => Err(AuthError::new("x509: certificate signed by unknown authority")),
            Peer::Client { not_after, .. } if *not_after < self.clock.now().as_second() => {
                Err(AuthError::new("x509: certificate has expired or is not yet valid"))
            }
            Peer::Client { name, .. } if name.is_empty() => Ok(None),
            Peer::Client { name, groups, fingerprint, key_hash, .. } => {
                let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])];
                let (name, groups, extra) = (name.clone(), groups.clone(), extra.into());
                let user = UserInfo { name, groups, extra, ..UserInfo::default() };
                if self.is_replaced(&user, key_hash) {
                    return Err(AuthError(format!("{} is another machine by now", user.name)));
                }
                Ok(Some(user))
            }
        }
    }
}

/// Extra key under which a credential is named.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Users that a front proxy names in `X-Remote-…` headers.
pub struct FrontProxy {
    /// Common names that a proxy's certificate may have; empty: any that the CA signed.
    pub allowed_names: Vec<String>,
    /// Now.
    pub clock: SharedClock,
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthError> {
        let Peer::Proxy { name, not_after } = credentials.peer else { return Ok(None) };
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(name) {
            return Err(AuthError(format!("x509: subject with cn={name} is not in the allowed list")));
        }
        if *not_after < self.clock.now().as_second() {
            return Err(AuthError::new("x509: certificate has expired or is not yet valid"));
        }
        let texts = |header: &str| -> Vec<String> {
            credentials.headers.get_all(header).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
        };
        let one = |header: &str| texts(header).into_iter().next().unwrap_or_default();
        let user = one("x-remote-user");
        if user.is_empty() {
            return Ok(None);
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in credentials.headers {
            if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("x-remote-extra-"), value.to_str()) {
                extra.entry(percent_decoded(key)).or_default().push(value.to_owned());
            }
        }
        Ok(Some(UserInfo { name: user, uid: one("x-remote-uid"), groups: texts("x-remote-group"), extra }))
    }
}

/// Undoes percent-encoding; what is not valid stays as it was.
pub fn percent_decoded(text: &str) -> String {
    String::from_utf8(percent::bytes(text, false)).unwrap_or_else(|_| text.to_owned())
}

/// A join token as the server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Names it.
    pub id: String,
    /// `pki::token::hash` of the secret.
    pub hash: String,
    /// Its end.
    pub expires: Option<Timestamp>,
    /// More groups, all below `system:bootstrappers:`.
    pub groups: Vec<String>,
}

/// Where join tokens are kept.
pub trait TokenRecords: Send + Sync {
    /// The record of an id.
    fn record(&self, id: &str) -> Option<TokenRecord>;
}

impl TokenRecords for Vec<TokenRecord> {
    fn record(&self, id: &str) -> Option<TokenRecord> {
        self.iter().find(|r| r.id == id).cloned()
    }
}

/// Bootstrap tokens in Secrets `kube-system/bootstrap-token-<id>`, upstream's form. `token-secret-hash` (orch's) holds
/// the secret's hash; upstream's plain `token-secret` is taken as well.
pub struct SecretTokens(pub Arc<dyn ObjectLookup>);

impl TokenRecords for SecretTokens {
    fn record(&self, id: &str) -> Option<TokenRecord> {
        let secret = self.0.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
        let body = secret.value();
        let data = |key: &str| -> Option<String> {
            let bytes = base64::engine::general_purpose::STANDARD.decode(body["data"][key].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let usable = body.str_at("/type") == Some("bootstrap.kubernetes.io/token")
            && !secret.is_deleting()
            && data("token-id").as_deref() == Some(id)
            && data("usage-bootstrap-authentication").as_deref() == Some("true");
        if !usable {
            return None;
        }
        // A time that cannot be read has passed.
        let expires = data("expiration").map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH));
        let hash = match data("token-secret-hash") {
            Some(hash) => hash,
            None => token::hash(&data("token-secret").filter(|s| !s.is_empty())?),
        };
        let groups = data("auth-extra-groups").unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|g| g.starts_with("system:bootstrappers:"));
        Some(TokenRecord { id: id.to_owned(), hash, expires, groups: groups.map(str::to_owned).collect() })
    }
}

/// Join tokens: `K10<hash>::<id>:<secret>`, or upstream's `<id>.<secret>`.
pub struct JoinTokens {
    /// Where they are kept.
    pub records: Vec<Arc<dyn TokenRecords>>,
    /// Now.
    pub clock: SharedClock,
}

#[async_trait]
impl TokenAuthenticator for JoinTokens {
    async fn authenticate_token(&self, text: &str, _: &[String]) -> Result<Option<TokenUser>, AuthError> {
        let (id, secret) = match token::parse(text) {
            Ok(t) => (t.id, t.secret),
            Err(_) => match text.split_once('.') {
                Some((id, secret)) if id.len() == 6 && secret.len() == 16 => (id.to_owned(), secret.to_owned()),
                _ => return Ok(None),
            },
        };
        let Some(record) = self.records.iter().find_map(|r| r.record(&id)) else { return Ok(None) };
        if !token::verify(&secret, &record.hash) {
            return Err(AuthError(format!("the secret of join token {id:?} is wrong")));
        }
        if record.expires.is_some_and(|end| end <= self.clock.now()) {
            return Err(AuthError(format!("join token {id:?} has expired; make another")));
        }
        let mut groups = vec!["system:bootstrappers".to_owned()];
        groups.extend(record.groups);
        let user = UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() };
        Ok(Some(TokenUser { user, audiences: vec![] }))
    }
}

/// The whole chain. Who brings no credentials is anonymous.
pub struct Chain(pub Vec<Arc<dyn Authenticator>>);

impl Chain {
    /// The request's user, with the group of all who were authenticated.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<UserInfo, AuthError> {
        let mut failure = None;
        for one in &self.0 {
            match one.authenticate(credentials).await {
                Ok(Some(user)) => return Ok(with_authenticated_group(user)),
                Ok(None) => {}
                Err(e) => failure = Some(e),
            }
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(UserInfo::anonymous()),
        }
    }
}

/// Adds `system:authenticated`, except to the anonymous user.
pub fn with_authenticated_group(mut user: UserInfo) -> UserInfo {
    let known = user.in_group(UserInfo::AUTHENTICATED) || user.in_group(UserInfo::UNAUTHENTICATED);
    if !known && user.name != UserInfo::ANONYMOUS {
        user.groups.push(UserInfo::AUTHENTICATED.into());
    }
    user
}
