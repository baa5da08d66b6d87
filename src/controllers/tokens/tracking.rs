//! Which tokens in Secrets are still used: since when that is followed, and the day of each token's last use.
//!
//! In: the Secrets whose tokens the API took, each at most a few times a day. Out: a label on the Secret, and the ConfigMap
//! [`NAME`], which says since when; the cleaner ([`super::unused`]) trusts the labels only from then on.
//!
//! Rules: upstream `pkg/controlplane/controller/legacytokentracking` and `pkg/serviceaccount/legacy.go`.

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::api::legacy_token::{self, LAST_USED};
use crate::api::object::{Object, ObjectKey};
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, optional, res};
use crate::runtime::{Delta, Listers};
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

/// Where the ConfigMap is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// Its key: the day on which it began.
pub const SINCE: &str = "since";

/// Keeps the ConfigMap and the labels until the shutdown. It ends early, to be started again, when a write fails.
pub async fn run(
    client: &Client,
    listers: &dyn Listers,
    clock: &SharedClock,
    mut uses: broadcast::Receiver<ObjectKey>,
    stop: Shutdown,
) -> ApiResult<()> {
    let (maps, secrets) = (listers.lister("", "configmaps"), listers.lister("", "secrets"));
    let mut deltas = maps.deltas();
    let ours = |o: &Object| o.meta.name == NAME && o.meta.namespace == NAMESPACE;
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            delta = deltas.next() => {
                let concerns = match &delta {
                    Some(Delta::Upsert { new, .. }) => maps.synced() && ours(new),
                    Some(Delta::Delete(last)) => ours(last),
                    Some(Delta::Synced) => true,
                    None => return Ok(()),
                };
                if concerns {
                    begin(client, maps.get(NAMESPACE, NAME).map(|map| map.value()), clock).await?;
                }
            }
            used = uses.recv() => match used {
                Ok(key) => {
                    if let Some(secret) = secrets.get(&key.namespace, &key.name) {
                        note(client, &secret, clock).await?;
                    }
                }
                // Those that are used go on being used.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Makes the ConfigMap as it should be.
async fn begin(client: &Client, known: Option<Value>, clock: &SharedClock) -> ApiResult<()> {
    let is_there = known.is_some();
    match begun(known, clock) {
        Some(map) if is_there => client.update(&res::CONFIG_MAPS, NAMESPACE, NAME, None, &map).await.map(drop),
        Some(map) => client.create(&res::CONFIG_MAPS, NAMESPACE, &map).await.map(drop),
        None => Ok(()),
    }
}

/// The ConfigMap as it should be; none when it is.
fn begun(known: Option<Value>, clock: &SharedClock) -> Option<Value> {
    let since = format!("/data/{SINCE}");
    if known.as_ref().and_then(|map| map.str_at(&since)).and_then(legacy_token::parse).is_some() {
        return None;
    }
    let mut map = known.unwrap_or_else(
        || json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}}),
    );
    map.set_at(&since, legacy_token::text(legacy_token::day(clock.now())));
    Some(map)
}

/// Writes down that a Secret's token was used today, once.
async fn note(client: &Client, secret: &Object, clock: &SharedClock) -> ApiResult<()> {
    let today = legacy_token::day(clock.now());
    if legacy_token::is_noted(secret.meta.label(LAST_USED), today) {
        return Ok(());
    }
    let labels = json!({LAST_USED: legacy_token::text(today)});
    let body = json!({"metadata": {"uid": secret.meta.uid, "labels": labels}});
    let (ns, name) = (&secret.meta.namespace, &secret.meta.name);
    optional(client.patch(&res::SECRETS, ns, name, None, Patch::Merge(&body)).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    fn since(cluster: &Cluster) -> Option<String> {
        cluster.get(&res::CONFIG_MAPS, NAMESPACE, NAME)?["data"][SINCE].as_str().map(str::to_owned)
    }

    async fn follow(cluster: &Cluster, used: &[&str], done: impl Fn(&Cluster) -> bool) {
        let (client, listers, clock): (_, _, SharedClock) =
            (cluster.client(), cluster.listers.clone(), cluster.clock.clone());
        let (sender, receiver) = broadcast::channel(8);
        for name in used {
            sender.send(ObjectKey::new("n", *name)).unwrap();
        }
        let work = |_, stop| async move { run(&client, &*listers, &clock, receiver, stop).await.unwrap() };
        cluster.until(work, done).await;
    }

    #[tokio::test]
    async fn it_is_known_since_when() {
        let cluster = Cluster::new();
        follow(&cluster, &[], |c| since(c).as_deref() == Some("2026-01-01")).await;
        let mut spoiled = cluster.get(&res::CONFIG_MAPS, NAMESPACE, NAME).unwrap();
        spoiled["data"][SINCE] = "long ago".into();
        cluster.put(spoiled);
        cluster.clock.advance(86_400);
        follow(&cluster, &[], |c| since(c).as_deref() == Some("2026-01-02")).await;
        cluster.clock.advance(86_400);
        follow(&cluster, &[], |c| since(c).as_deref() == Some("2026-01-02")).await;
    }

    #[tokio::test]
    async fn a_use_is_noted_once_a_day() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}));
        let noted = |c: &Cluster| c.get(&res::SECRETS, "n", "s").unwrap()["metadata"]["labels"][LAST_USED].clone();
        follow(&cluster, &["gone", "s", "s"], |c| noted(c) == "2026-01-01").await;
        let patches = cluster.api.take_log().iter().filter(|l| l.contains("/secrets/s")).count();
        assert_eq!(patches, 1);
    }
}
