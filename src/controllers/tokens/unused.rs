//! Tokens in Secrets that nobody has used for a year go: first they are not taken any more, then they are deleted.
//!
//! Only those that were made for an account of themselves, by a Kubernetes before 1.24, are touched: the account lists their
//! Secret. What people made is theirs.
//!
//! Rule: upstream `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde_json::json;

use super::secrets::{ACCOUNT, ACCOUNT_UID, TYPE};
use super::tracking;
use crate::api::legacy_token::{INVALID_SINCE, LAST_USED, day, parse, text};
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Days without use after which a token is not taken, and again until it goes. Upstream's
/// `--legacy-service-account-token-clean-up-period`.
const PERIOD_DAYS: i64 = 365;
/// Between two looks. Upstream's `DefaultCleanerSyncInterval`.
const LOOK: Duration = Duration::from_secs(24 * 3600);

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Cleaner)
}

/// What becomes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is not taken from now on.
    Invalid,
    Goes,
}

/// Decides over the Secret of a token. `since` is when its use began to be followed; `in_use` says that it was not made of
/// itself, or that a pod has it, and is asked last.
fn fate(secret: &Object, since: Option<Date>, now: Timestamp, in_use: impl FnOnce() -> bool) -> Fate {
    let limit = day(now).saturating_sub(PERIOD_DAYS.days());
    // The day after it began is the first whole one.
    let followed = since.is_some_and(|since| since.saturating_add(1.day()) <= limit);
    let created = secret.meta.created.parse::<Timestamp>().map(day);
    if !followed || created.is_ok_and(|created| created >= limit) || secret.is_deleting() {
        return Fate::Stays;
    }
    // What is no day tells nothing.
    if secret.meta.label(LAST_USED).is_some_and(|used| parse(used).is_none_or(|used| used >= limit)) || in_use() {
        return Fate::Stays;
    }
    match secret.meta.label(INVALID_SINCE).and_then(parse) {
        None => Fate::Invalid,
        Some(since) if since >= limit => Fate::Stays,
        Some(_) => Fate::Goes,
    }
}

/// True unless the Secret's account lists it, and no pod has anything of its name.
fn in_use(secret: &Object, cx: &Cx) -> bool {
    let (ns, name) = (&secret.meta.namespace, &secret.meta.name);
    let annotations = secret.only(&["metadata", "annotations"]);
    let text = |at: &str| annotations.str_at(at).unwrap_or_default();
    let (of, uid) = (text(ACCOUNT), text(ACCOUNT_UID));
    let account = cx.lister(&res::SERVICE_ACCOUNTS).get(ns, of).filter(|a| uid.is_empty() || a.meta.uid == uid);
    let lists =
        |account: Arc<Object>| account.value().items_at("/secrets").iter().any(|s| s.str_at("/name") == Some(name));
    !account.is_some_and(lists) || cx.lister(&res::PODS).list(Some(ns)).iter().any(|pod| pod.mentions(name))
}

struct Cleaner;

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "legacy-service-account-token-cleaner"
    }

    fn watches(&self) -> Watches {
        Watches::own_that(&res::SECRETS, |secret| secret.mentions(TYPE))
    }

    fn resync(&self) -> Option<Duration> {
        Some(LOOK)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let secret = cx.get(&res::SECRETS, key).filter(|s| s.only(&["type"]).str_at("/type") == Some(TYPE));
        let Some(secret) = secret else { return Ok(Requeue::Never) };
        let began = cx.lister(&res::CONFIG_MAPS).get(tracking::NAMESPACE, tracking::NAME);
        let since = began.and_then(|map| parse(map.value()["data"][tracking::SINCE].as_str()?));
        let (ns, name) = (&key.namespace, &key.name);
        match fate(&secret, since, cx.now(), || in_use(&secret, cx)) {
            Fate::Stays => {}
            Fate::Invalid => {
                let labels = json!({INVALID_SINCE: text(day(cx.now()))});
                let body = json!({"metadata": {"uid": secret.meta.uid, "labels": labels}});
                optional(cx.client.patch(&res::SECRETS, ns, name, None, Patch::Merge(&body)).await)?;
                tracing::info!(%key, "the token of this Secret was not used for a year and is not taken any more");
            }
            Fate::Goes => {
                let options = DeleteOptions {
                    resource_version: Some(secret.revision.to_string()),
                    ..DeleteOptions::of_uid(&secret.meta.uid)
                };
                optional(cx.client.delete(&res::SECRETS, ns, name, &options).await)?;
            }
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::Value;
    use test_case::test_case;

    fn secret(created: &str, labels: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {"name": "s", "namespace": "n",
            "creationTimestamp": created, "labels": labels,
            "annotations": {"kubernetes.io/service-account.name": "a"}}})
    }

    const OLD: &str = "2020-01-01T00:00:00Z";

    /// It is 2026-01-01.
    #[test_case(OLD, json!({}), Some("2024-12-31"), Fate::Invalid; "never used")]
    #[test_case(OLD, json!({}), Some("2025-01-01"), Fate::Stays; "not followed for a year")]
    #[test_case(OLD, json!({}), None, Fate::Stays; "not followed")]
    #[test_case("2025-01-01T00:00:00Z", json!({}), Some("2020-01-01"), Fate::Stays; "young")]
    #[test_case(OLD, json!({LAST_USED: "2024-12-31"}), Some("2020-01-01"), Fate::Invalid; "used long ago")]
    #[test_case(OLD, json!({LAST_USED: "2025-01-01"}), Some("2020-01-01"), Fate::Stays; "used within the year")]
    #[test_case(OLD, json!({LAST_USED: "once"}), Some("2020-01-01"), Fate::Stays; "who knows when")]
    #[test_case(OLD, json!({INVALID_SINCE: "2025-01-01"}), Some("2020-01-01"), Fate::Stays; "not taken for less than a year")]
    #[test_case(OLD, json!({INVALID_SINCE: "2024-12-31"}), Some("2020-01-01"), Fate::Goes)]
    #[test_case(OLD, json!({INVALID_SINCE: "once"}), Some("2020-01-01"), Fate::Invalid; "since who knows when")]
    fn fates(created: &str, labels: Value, since: Option<&str>, want: Fate) {
        let secret = Object::from_value(&secret(created, &labels), &[]);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(fate(&secret, since.and_then(parse), now, || false), want);
        assert_eq!(fate(&secret, since.and_then(parse), now, || true), Fate::Stays, "in use");
    }

    #[tokio::test]
    async fn only_what_was_made_of_itself_and_no_pod_has_is_touched() {
        let cluster = Cluster::new();
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"since": "2020-01-01"},
            "metadata": {"name": tracking::NAME, "namespace": tracking::NAMESPACE}});
        cluster.put(map);
        cluster.put(secret(OLD, &json!({})));
        let account = |secrets: Value| {
            cluster.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "secrets": secrets,
                "metadata": {"name": "a", "namespace": "n"}}))
        };
        let invalid = async || {
            cluster.reconcile(&Cleaner, "n", "s").await.unwrap();
            cluster.get(&res::SECRETS, "n", "s").unwrap()["metadata"]["labels"].get(INVALID_SINCE).is_some()
        };
        account(json!([]));
        assert!(!invalid().await, "a person made it");
        account(json!([{"name": "s"}]));
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}));
        assert!(!invalid().await, "a pod has it");
        cluster.client().delete(&res::PODS, "n", "p", &DeleteOptions::default()).await.unwrap();
        assert!(invalid().await);
        cluster.clock.advance(366 * 86_400);
        cluster.reconcile(&Cleaner, "n", "s").await.unwrap();
        assert!(cluster.get(&res::SECRETS, "n", "s").is_none());
    }
}
