//! The keys of an issuer: found by its OpenID configuration, fetched when a token needs them, and kept.
//!
//! **Invariant:** what an issuer sends is read up to [`DOCUMENT_MAX_BYTES`], at most [`KEYS_MAX`] keys of it; it is asked at
//! most once in [`PAUSE_SECONDS`], however many tokens name keys that nobody knows.
//! **Invariant:** keys that were fetched stay in use while their issuer cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::sync::Mutex;

use super::jws::{Algorithm, Key};
use crate::api::value::ValueExt;
use crate::client::{Client, Credentials, Peer, Trust};
use crate::util::clock::SharedClock;

/// Longest document that is read.
const DOCUMENT_MAX_BYTES: usize = 1 << 20;
/// Keys of one issuer.
const KEYS_MAX: usize = 64;
/// How long an issuer may take for one document.
const FETCH_TIME: Duration = Duration::from_secs(10);
/// Seconds between two times that an issuer is asked.
const PAUSE_SECONDS: i64 = 10;

/// The keys of one issuer.
pub struct Keys {
    issuer: String,
    discovery_url: String,
    ca: Vec<u8>,
    clock: SharedClock,
    known: ArcSwap<Vec<Key>>,
    /// When the issuer was asked last, and what was wrong with its answer; one asks at a time.
    asked: Mutex<Option<(i64, Result<(), String>)>>,
}

impl Keys {
    /// Of an issuer that shows a certificate of `ca`; nothing is fetched yet.
    pub fn new(issuer: &str, discovery_url: &str, ca: &[u8], clock: SharedClock) -> Self {
        let (issuer, discovery_url, ca) = (issuer.to_owned(), discovery_url.to_owned(), ca.to_vec());
        Self { issuer, discovery_url, ca, clock, known: ArcSwap::default(), asked: Mutex::default() }
    }

    /// The keys that may have signed a token with this head; asks the issuer when none is known.
    pub async fn of(&self, kid: Option<&str>, algorithm: &Algorithm) -> Result<Vec<Key>, String> {
        let before = self.known.load_full();
        let found = fitting(&before, kid, algorithm);
        if !found.is_empty() {
            return Ok(found);
        }
        let mut asked = self.asked.lock().await;
        // Somebody else may have asked while this waited.
        let now = self.known.load_full();
        if !Arc::ptr_eq(&before, &now) {
            let found = fitting(&now, kid, algorithm);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let time = self.clock.now().as_second();
        if asked.as_ref().is_none_or(|(at, _)| time - at >= PAUSE_SECONDS) {
            let fetched = self.fetch().await;
            if let Err(why) = &fetched {
                tracing::warn!(issuer = self.issuer, "cannot fetch the keys of an OpenID issuer: {why}");
            }
            *asked = Some((time, fetched.map(|keys| self.known.store(Arc::new(keys)))));
        }
        match &*asked {
            Some((_, Err(why))) => Err(why.clone()),
            _ => Ok(fitting(&self.known.load(), kid, algorithm)),
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let config = self.get(&self.discovery_url).await?;
        let found = config.str_at("/issuer").unwrap_or_default();
        if found != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {found:?}",
                self.issuer
            ));
        }
        let place = config.str_at("/jwks_uri").unwrap_or_default();
        let set = self.get(place).await?;
        let keys = set.items_at("/keys").iter().take(KEYS_MAX);
        // One that is of an unknown kind spoils no other.
        Ok(keys.filter_map(Key::of).collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let bytes = document(url, &self.ca, None).await?;
        serde_json::from_slice(&bytes).map_err(|e| format!("Get {url:?}: it is no JSON: {e}"))
    }
}

/// What is at an https URL whose server shows a certificate of `ca`; asked for with a bearer token, if there is one.
///
/// # Errors
/// Why it cannot be had.
pub async fn document(url: &str, ca: &[u8], bearer: Option<&str>) -> Result<Bytes, String> {
    let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} is no https URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let failed = |why: &str| format!("Get {url:?}: {why}");
    let peer = Peer {
        base: format!("https://{authority}"),
        trust: Trust::of_bundle(ca.to_vec()),
        credentials: Credentials::None,
        dial: None,
    };
    let mut headers = HeaderMap::new();
    if let Some(bearer) = bearer {
        let mut value = HeaderValue::try_from(format!("Bearer {bearer}")).map_err(|e| failed(&e.to_string()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let client = Client::peer(peer).map_err(|e| failed(&e.to_string()))?;
    let asked = async {
        let answer = client.send(Method::GET, path, headers, Default::default()).await;
        let (parts, body) = answer.map_err(|e| failed(&e.message))?.into_parts();
        if !parts.status.is_success() {
            return Err(failed(parts.status.as_str()));
        }
        let body = Limited::new(body, DOCUMENT_MAX_BYTES).collect().await.map_err(|e| failed(&e.to_string()))?;
        Ok(body.to_bytes())
    };
    tokio::time::timeout(FETCH_TIME, asked).await.unwrap_or_else(|_| Err(failed("it takes too long")))
}

/// Those that a token's head may mean.
fn fitting(keys: &[Key], kid: Option<&str>, algorithm: &Algorithm) -> Vec<Key> {
    keys.iter().filter(|key| key.fits(kid, algorithm)).cloned().collect()
}
