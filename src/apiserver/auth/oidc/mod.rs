//! Tokens of OpenID Connect issuers.
//!
//! In: a configuration that may change while the server runs, and bearer tokens. Out: users.
//!
//! **Invariant:** a token is believed only after its signature, issuer, audience and times are right, for an algorithm with
//! a public key; nothing that it says of itself counts before.

pub mod config;
mod distributed;
mod jws;
mod keys;
mod mapping;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::Value;

use self::config::{Anonymous, Config, IssuerConfig};
use self::distributed::Others;
use self::keys::Keys;
use super::authn::{AuthError, TokenAuthenticator, TokenUser};
use crate::api::value::ValueExt;
use crate::util::clock::SharedClock;

/// Seconds that an issuer's clock may be ahead.
const LEEWAY_SECONDS: i64 = 300;

struct Issuer {
    config: IssuerConfig,
    keys: Arc<Keys>,
    others: Others,
    clock: SharedClock,
}

#[derive(Default)]
struct Present {
    issuers: Vec<Arc<Issuer>>,
    anonymous: Anonymous,
}

/// All issuers of the present configuration.
pub struct Issuers {
    present: ArcSwap<Present>,
    clock: SharedClock,
}

impl Issuers {
    /// None yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { present: ArcSwap::default(), clock }
    }

    /// Takes another configuration. Keys are fetched anew.
    pub fn replace(&self, config: Config) {
        let issuer = |config: IssuerConfig| {
            let clock = self.clock.clone();
            let keys = Arc::new(Keys::new(&config.url, &config.discovery_url, &config.ca, clock.clone()));
            Arc::new(Issuer { config, keys, others: Others::default(), clock })
        };
        let issuers = config.issuers.into_iter().map(issuer).collect();
        self.present.store(Arc::new(Present { issuers, anonymous: config.anonymous }));
    }

    /// True where a path may be asked for without credentials.
    pub fn allows_anonymous(&self, path: &str) -> bool {
        self.present.load().anonymous.allows(path)
    }
}

#[async_trait]
impl TokenAuthenticator for Issuers {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, AuthError> {
        let Some(claimed) = jws::claimed_issuer(token) else { return Ok(None) };
        let present = self.present.load_full();
        let Some(issuer) = present.issuers.iter().find(|i| i.config.url == claimed) else { return Ok(None) };
        let now = self.clock.now().as_second();
        let verified = issuer.verify(token, &issuer.keys, now).await;
        let mut claims = verified.map_err(|why| AuthError(format!("oidc: verify token: {why}")))?;
        let expanded = issuer.expand(&mut claims, now).await;
        expanded.map_err(|why| AuthError(format!("oidc: could not expand distributed claims: {why}")))?;
        let user = issuer.config.mapping.user(&claims)?;
        // They know no audiences of Kubernetes': upstream takes them as the server's own.
        Ok(Some(TokenUser { user, audiences: audiences.to_vec() }))
    }
}

impl Issuer {
    /// The claims of a token that one of the keys has signed and that is right at `now`, seconds.
    async fn verify(&self, token: &str, keys: &Keys, now: i64) -> Result<Value, String> {
        let token = jws::Token::parse(token)?;
        let (name, wanted) = (token.algorithm.name, &self.config.algorithms);
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            return Err(format!("signed with {name}, which is not taken"));
        }
        let keys = keys.of(token.kid.as_deref(), token.algorithm).await?;
        let claims = token.signed_by(&keys).ok_or("failed to verify signature")?;
        self.check(&claims, now)?;
        Ok(claims)
    }

    /// Times and audiences.
    fn check(&self, claims: &Value, now: i64) -> Result<(), String> {
        // Whole seconds, or a fraction more.
        let seconds = |name: &str| claims[name].as_i64().or_else(|| claims[name].as_f64().map(|f| f as i64));
        match seconds("exp") {
            None => return Err("it has no end (exp)".into()),
            Some(end) if end <= now => return Err("token is expired".into()),
            Some(_) => {}
        }
        if seconds("nbf").is_some_and(|begin| begin > now + LEEWAY_SECONDS) {
            return Err("current time is before its beginning (nbf)".into());
        }
        let audience = &claims["aud"];
        let one = audience.as_str().into_iter();
        let mut all = one.chain(audience.items_at("").iter().filter_map(Value::as_str));
        match all.any(|a| self.config.audiences.iter().any(|wanted| wanted == a)) {
            true => Ok(()),
            false => Err(format!("expected audience in {:?} got {audience}", self.config.audiences)),
        }
    }
}
