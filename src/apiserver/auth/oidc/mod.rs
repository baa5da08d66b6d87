//! Tokens of OpenID Connect issuers.
//!
//! In: a configuration that may change while the server runs, and bearer tokens. Out: users.
//!
//! **Invariant:** a token is believed only after its signature, issuer, audience and times are right, for an algorithm with
//! a public key; nothing that it says of itself counts before.

pub mod config;
mod keys;
mod mapping;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use self::config::{Anonymous, Config, IssuerConfig};
use self::keys::Keys;
use super::authn::{AuthError, TokenAuthenticator, TokenUser};
use crate::api::value::ValueExt;
use crate::util::clock::SharedClock;

/// Algorithms that a token may be signed with; those with a shared secret are not among them.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// Seconds that an issuer's clock may be ahead.
const LEEWAY_SECONDS: i64 = 300;
/// Longest token that is looked at, bytes.
const TOKEN_MAX_BYTES: usize = 64 << 10;

struct Issuer {
    config: IssuerConfig,
    keys: Keys,
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
            let keys = Keys::new(&config.url, &config.discovery_url, &config.ca, self.clock.clone());
            Arc::new(Issuer { config, keys })
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
        let Some(claimed) = claimed_issuer(token) else { return Ok(None) };
        let present = self.present.load_full();
        let Some(issuer) = present.issuers.iter().find(|i| i.config.url == claimed) else { return Ok(None) };
        let claims = issuer.verify(token, self.clock.now().as_second()).await?;
        let user = issuer.config.mapping.user(&claims)?;
        // They know no audiences of Kubernetes': upstream takes them as the server's own.
        Ok(Some(TokenUser { user, audiences: audiences.to_vec() }))
    }
}

impl Issuer {
    /// The claims of a token that is right at `now`.
    async fn verify(&self, token: &str, now: i64) -> Result<Value, AuthError> {
        let failed = |why: String| AuthError(format!("oidc: verify token: {why}"));
        let header = jsonwebtoken::decode_header(token).map_err(|e| failed(e.to_string()))?;
        let known = ALGORITHMS.contains(&header.alg);
        let wanted = &self.config.algorithms;
        if !known || !wanted.is_empty() && !wanted.contains(&format!("{:?}", header.alg)) {
            return Err(failed(format!("signed with {:?}, which is not taken", header.alg)));
        }
        let keys = self.keys.of(header.kid.as_deref(), header.alg).await.map_err(failed)?;
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        // Times and audiences are checked below, against the injected clock.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let signed = keys.iter().find_map(|jwk| {
            let key = DecodingKey::from_jwk(jwk).ok()?;
            jsonwebtoken::decode::<Value>(token, &key, &validation).ok()
        });
        let claims = signed.ok_or_else(|| failed("failed to verify signature".into()))?.claims;
        self.check(&claims, now).map_err(failed)?;
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

/// Who a token says it is of, unverified: only to find out who has to be asked.
fn claimed_issuer(token: &str) -> Option<String> {
    if token.len() > TOKEN_MAX_BYTES {
        return None;
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, _] = parts[..] else { return None };
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.str_at("/iss").map(str::to_owned)
}
