//! Join tokens that have expired go; [`secrets`] fills Secrets with tokens of accounts, [`tracking`] knows when those were
//! used last, and [`unused`] takes away what nobody uses.
//!
//! Rule: upstream `pkg/controller/bootstrap/tokencleaner.go`. The API refuses them from their end on, whether they are
//! gone or not.

pub mod secrets;
pub mod tracking;
pub mod unused;

use async_trait::async_trait;
use base64::Engine;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Removes expired join tokens.
pub fn cleaner() -> Box<dyn Reconciler> {
    Box::new(Cleaner)
}

/// Seconds until a token's end, 0 or less once it is over; none for one without, and for Secrets that are no tokens. An
/// end that cannot be read has come.
fn seconds_left(secret: &Value, now: Timestamp) -> Option<i64> {
    if secret.str_at("/type") != Some(TYPE) {
        return None;
    }
    let text = secret.str_at("/data/expiration").filter(|t| !t.is_empty())?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let end = String::from_utf8(bytes).ok().and_then(|t| t.parse::<Timestamp>().ok());
    Some(end.map_or(0, |end| end.as_second() - now.as_second()))
}

struct Cleaner;

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::SECRETS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        if key.namespace != NAMESPACE {
            return Ok(Requeue::Never);
        }
        let Some(secret) = cx.get(&res::SECRETS, key) else { return Ok(Requeue::Never) };
        match seconds_left(&secret.value(), cx.now()) {
            None => Ok(Requeue::Never),
            Some(left) if left > 0 => Ok(Requeue::after_seconds(Some(left))),
            Some(_) => {
                let options = DeleteOptions::default();
                optional(cx.client.delete(&res::SECRETS, NAMESPACE, &key.name, &options).await)?;
                tracing::info!(secret = key.name, "removed a join token that has expired");
                Ok(Requeue::Never)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(TYPE, Some("2026-01-01T00:00:10Z") => Some(10))]
    #[test_case(TYPE, Some("2025-12-31T23:59:59Z") => Some(-1))]
    #[test_case(TYPE, Some("soon") => Some(0); "what cannot be read has passed")]
    #[test_case(TYPE, None => None; "for ever")]
    #[test_case("Opaque", Some("2025-12-31T23:59:59Z") => None; "no token")]
    fn ends(kind: &str, at: Option<&str>) -> Option<i64> {
        let mut secret = json!({"type": kind, "data": {}});
        if let Some(at) = at {
            secret["data"]["expiration"] = base64::engine::general_purpose::STANDARD.encode(at).into();
        }
        seconds_left(&secret, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[tokio::test]
    async fn an_expired_token_goes_and_others_stay() {
        let cluster = Cluster::new();
        for (name, at) in [("old", "2025-12-31T23:59:59Z"), ("new", "2026-01-01T00:00:10Z")] {
            let at = base64::engine::general_purpose::STANDARD.encode(at);
            cluster.put(json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE,
                "metadata": {"name": name, "namespace": NAMESPACE}, "data": {"expiration": at}}));
        }
        cluster.reconcile(&Cleaner, NAMESPACE, "old").await.unwrap();
        let again = cluster.reconcile(&Cleaner, NAMESPACE, "new").await.unwrap();
        assert_eq!(again, Requeue::after_seconds(Some(10)));
        assert!(cluster.get(&res::SECRETS, NAMESPACE, "old").is_none());
        assert!(cluster.get(&res::SECRETS, NAMESPACE, "new").is_some());
    }
}
