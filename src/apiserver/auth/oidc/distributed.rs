//! Distributed claims: groups that a token does not tell itself, but says who tells them.
//!
//! In: the verified claims of a token that have `_claim_names` and `_claim_sources`. Out: the same with the claim for groups,
//! taken from a token that the source gave and that its issuer has signed.
//!
//! **Invariant:** a source is asked only when a verified token of the configured issuer names it, and over TLS.
//! **Invariant:** what a source gives counts only for the one claim, and only after its signature, audience and times are
//! right.
//!
//! Rules: OpenID Connect Core 5.6.2; upstream's `claimResolver` in `apiserver/plugin/pkg/authenticator/token/oidc`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::keys::{self, Keys};
use super::{Issuer, jws};

/// Other issuers whose keys are kept for one that is configured.
const OTHERS_MAX: usize = 16;

/// The keys of issuers that nobody configured, by their URLs.
pub type Others = Mutex<HashMap<String, Arc<Keys>>>;

/// Where a claim is to be had.
#[derive(Debug, PartialEq, Eq)]
struct Source<'a> {
    endpoint: &'a str,
    access_token: Option<&'a str>,
}

/// The source of a claim that the claims themselves do not have; none where nothing is to be fetched. Pure.
///
/// # Errors
/// Why the claims contradict themselves.
fn source<'a>(claims: &'a Value, claim: &str) -> Result<Option<Source<'a>>, String> {
    let Some(names) = claims.get("_claim_names").filter(|_| claims.get(claim).is_none()) else { return Ok(None) };
    let names = names.as_object().ok_or("error parsing distributed claim names: they are no map")?;
    let sources = claims.get("_claim_sources").ok_or("no claim sources")?;
    let sources = sources.as_object().ok_or("could not parse claim sources: they are no map")?;
    let Some(name) = names.get(claim) else { return Ok(None) };
    let name = name.as_str().ok_or("error parsing distributed claim names: one is no text")?;
    let Some(found) = sources.get(name) else {
        return Err(format!("id token _claim_names contained a source {name} missing in _claim_sources"));
    };
    let text = |member: &str| found.get(member).and_then(Value::as_str).filter(|t| !t.is_empty());
    // Without an endpoint it is an aggregated claim, which upstream does not read either.
    Ok(text("endpoint").map(|endpoint| Source { endpoint, access_token: text("access_token") }))
}

impl Issuer {
    /// Adds the claim for groups where another issuer tells it.
    ///
    /// # Errors
    /// Why it cannot be had: then nobody is let in.
    pub(super) async fn expand(&self, claims: &mut Value, now: i64) -> Result<(), String> {
        let Some(claim) = self.config.mapping.groups_claim() else { return Ok(()) };
        let Some(source) = source(claims, claim)? else { return Ok(()) };
        let token = keys::document(source.endpoint, &self.config.ca, source.access_token).await?;
        let token =
            std::str::from_utf8(&token).map_err(|_| "error while getting distributed claim JWT: it is no text")?;
        let token = token.trim();
        let issuer = jws::claimed_issuer(token).ok_or("error while getting distributed claim JWT: malformed jwt")?;
        let keys = if issuer == self.config.url { self.keys.clone() } else { self.keys_of(&issuer) };
        let told =
            self.verify(token, &keys, now).await.map_err(|why| format!("verify distributed claim token: {why}"))?;
        let Some(value) = told.get(claim) else {
            let place = source.endpoint;
            return Err(format!("jwt returned by distributed claim endpoint {place:?} did not contain claim: {claim}"));
        };
        // A map, or no source would have been found in it.
        claims[claim] = value.clone();
        Ok(())
    }

    fn keys_of(&self, issuer: &str) -> Arc<Keys> {
        let mut others = self.others.lock();
        if let Some(known) = others.get(issuer) {
            return known.clone();
        }
        if others.len() >= OTHERS_MAX {
            others.clear();
        }
        let discovery = super::config::discovery_url(issuer);
        let made = Arc::new(Keys::new(issuer, &discovery, &self.config.ca, self.clock.clone()));
        others.insert(issuer.to_owned(), made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn claims(names: Value, sources: Value) -> Value {
        json!({"_claim_names": names, "_claim_sources": sources})
    }

    #[test_case(json!({"sub": "a"}), Ok(None); "nothing is distributed")]
    #[test_case(claims(json!({"groups": "s"}), json!({"s": {"endpoint": "https://e", "access_token": "t"}})),
        Ok(Some(("https://e", Some("t")))); "a source with a token")]
    #[test_case(claims(json!({"groups": "s"}), json!({"s": {"endpoint": "https://e"}})), Ok(Some(("https://e", None))))]
    #[test_case(claims(json!({"address": "s"}), json!({"s": {"endpoint": "https://e"}})), Ok(None); "another claim")]
    #[test_case(claims(json!({"groups": "s"}), json!({"s": {"JWT": "a.b.c"}})), Ok(None); "an aggregated claim")]
    #[test_case(claims(json!({"groups": "s"}), json!({})), Err("missing in _claim_sources"); "no such source")]
    #[test_case(claims(json!(["groups"]), json!({})), Err("distributed claim names"); "names that are no map")]
    #[test_case(claims(json!({"groups": 7}), json!({})), Err("distributed claim names"); "a name that is no text")]
    #[test_case(claims(json!({"groups": "s"}), json!("s")), Err("could not parse claim sources"); "sources that are no map")]
    #[test_case(json!({"_claim_names": {"groups": "s"}}), Err("no claim sources"); "no sources")]
    fn sources(claims: Value, want: Result<Option<(&str, Option<&str>)>, &str>) {
        let found = source(&claims, "groups");
        match want {
            Ok(want) => assert_eq!(found.unwrap().map(|s| (s.endpoint, s.access_token)), want),
            Err(why) => assert!(found.as_ref().is_err_and(|told| told.contains(why)), "{found:?}"),
        }
    }

    #[test]
    fn a_claim_that_is_there_is_not_fetched() {
        let mut both = claims(json!({"groups": "s"}), json!({"s": {"endpoint": "https://e"}}));
        both["groups"] = json!(["a"]);
        assert_eq!(source(&both, "groups"), Ok(None));
    }
}
