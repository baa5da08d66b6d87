//! Service account tokens: requested for the pod, renewed long before they expire.
//!
//! Rules: upstream `pkg/kubelet/token`: at 80 % of the lifetime, or after a day.
//!
//! **Invariant:** a token is in memory, in the pod's volume, and in what an agent keeps for a start without a server
//! (`given`); nowhere else, and never in a log.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;
use serde_json::json;

use super::atomic::File;
use super::keyed::DEFAULT_MODE;
use super::{Cx, VolumeError};
use crate::api::value::ValueExt;
use crate::kubelet::pod::PodView;

/// Seconds a token lives when the volume does not say. Upstream: one hour.
const DEFAULT_SECONDS: i64 = 3600;
/// A token is not kept longer than this, however long it lives.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Before a renewal that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// A token that was given.
#[derive(Clone)]
pub struct Token {
    text: String,
    renew: Timestamp,
    expires: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("renew", &self.renew).finish_non_exhaustive()
    }
}

/// When a token asked for at `now` is renewed.
pub fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).max(SignedDuration::ZERO);
    let age = (life * 4 / 5).min(MAX_AGE);
    now.checked_add(age).unwrap_or(expires)
}

/// The file of a token and when it is to be written anew. A renewal that fails keeps the old token while it is valid.
pub async fn file(
    cx: &mut Cx<'_>,
    volume: &str,
    source: &ServiceAccountTokenProjection,
    mode: Option<i32>,
) -> Result<(File, Timestamp), VolumeError> {
    let key = format!("{volume}/{}", source.path);
    let present = cx.issued.get(&key).filter(|t| t.expires > cx.now).cloned();
    let token = match present {
        Some(token) if token.renew > cx.now => token,
        present => match (request(cx, source).await, present) {
            // Kept from before, and too old: a pod that starts without a server has nobody to show it to yet.
            (Ok(token), _) if token.expires <= cx.now => {
                Token { renew: cx.now.checked_add(RETRY).unwrap_or(token.expires), ..token }
            }
            (Ok(token), _) => token,
            (Err(why), Some(token)) => {
                tracing::warn!(pod = cx.pod.name, namespace = cx.pod.namespace, "keeps its old token: {why}");
                let renew = cx.now.checked_add(RETRY).unwrap_or(token.expires);
                Token { renew: renew.min(token.expires), ..token }
            }
            (Err(why), None) => return Err(why),
        },
    };
    cx.issued.insert(key, token.clone());
    let uid = single_user(cx.pod);
    let grouped = super::ownership::group(cx.pod).is_some();
    let mode = if uid.is_some() || grouped { 0o600 } else { mode.map_or(DEFAULT_MODE, |m| m as u32) };
    Ok((File { bytes: token.text.into_bytes(), mode, uid }, token.renew))
}

async fn request(cx: &Cx<'_>, source: &ServiceAccountTokenProjection) -> Result<Token, VolumeError> {
    let account = cx.pod.spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let audiences: Vec<&str> = source.audience.iter().map(String::as_str).filter(|a| !a.is_empty()).collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": cx.pod.name, "uid": cx.pod.uid},
        },
    });
    let answer = cx.tokens.request(&cx.pod.namespace, account, &body).await?;
    let missing = || VolumeError::Missing("the API gave no token".into());
    let text = answer.str_at("/status/token").ok_or_else(missing)?.to_owned();
    let expires = answer.str_at("/status/expirationTimestamp").and_then(|t| t.parse().ok()).ok_or_else(missing)?;
    Ok(Token { text, renew: renewal(cx.now, expires), expires })
}

/// The one user that all containers run as; the token is then readable by that user alone.
fn single_user(pod: &PodView) -> Option<u32> {
    let whole = pod.spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = pod.members.iter().map(|m| m.spec.security_context.as_ref().and_then(|s| s.run_as_user).or(whole));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok())?
}
