//! Identity leases: each API server says that it lives, and collects what those left that do not.
//!
//! In: the machine's name, the Leases of `kube-system`. Out: `apiserver-<hash>`, renewed; expired ones are deleted.
//!
//! Upstream renews every ten seconds what holds for an hour. Here it is renewed every ten minutes: nobody can tell, and the
//! disk of a small machine is written less.
//!
//! Rules: upstream `apiserver/pkg/server` and `kubernetes/pkg/controlplane/apiserver/server.go`,
//! `…/controller/apiserverleasegc`.

use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, optional, res};
use crate::runtime::Listers;
use crate::util::backoff::Backoff;
use crate::util::clock::{SharedClock, rfc3339_micro};
use crate::util::tasks::Shutdown;

const NAMESPACE: &str = "kube-system";
/// Tells identity leases from those of elections, and whose they are.
const COMPONENT: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// How long a lease holds. Upstream's.
const DURATION_SECONDS: i64 = 3600;
/// Time between two renewals.
const RENEW: Duration = Duration::from_secs(600);

/// Letters of the name. Bytes of the hash in it.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const HASH_BYTES: usize = 16;

/// The name of a server's lease.
pub fn name(hostname: &str) -> String {
    let hash = digest::digest(&digest::SHA256, hostname.as_bytes());
    let (mut name, mut bits, mut held) = ("apiserver-".to_owned(), 0u32, 0);
    for byte in &hash.as_ref()[..HASH_BYTES] {
        (bits, held) = ((bits << 8 | u32::from(*byte)) & 0xFFFF, held + 8);
        while held >= 5 {
            held -= 5;
            name.push(char::from(BASE32[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        name.push(char::from(BASE32[(bits << (5 - held) & 31) as usize]));
    }
    name
}

/// The lease as it should be now. One of another run of the server begins anew.
fn lease(known: Option<Value>, hostname: &str, holder: &str, now: Timestamp) -> Value {
    let time = rfc3339_micro(now);
    let mut lease = known.unwrap_or_else(|| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name(hostname), "namespace": NAMESPACE}})
    });
    lease["metadata"]["labels"] = json!({COMPONENT.0: COMPONENT.1, "kubernetes.io/hostname": hostname});
    if lease.str_at("/spec/holderIdentity") != Some(holder) {
        lease["spec"] =
            json!({"holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS, "acquireTime": time});
    }
    lease["spec"]["renewTime"] = time.into();
    lease
}

/// True for an identity lease that nobody renews any more.
fn is_expired(lease: &Object, now: Timestamp) -> bool {
    if lease.meta.namespace != NAMESPACE || lease.meta.label(COMPONENT.0) != Some(COMPONENT.1) {
        return false;
    }
    let lease = lease.value();
    let renewed: Option<Timestamp> = lease.str_at("/spec/renewTime").and_then(|t| t.parse().ok());
    let holds = lease.int_at("/spec/leaseDurationSeconds").unwrap_or(0);
    renewed.is_none_or(|renewed| now.duration_since(renewed).as_secs() > holds)
}

/// Keeps this server's lease, and collects others', until the shutdown. The lease outlives a server that stops: it is the
/// same one when it comes back, and expires when it does not.
pub async fn run(client: &Client, listers: &dyn Listers, clock: &SharedClock, hostname: &str, stop: Shutdown) {
    let holder = format!("{}_{}", name(hostname), uuid::Uuid::new_v4());
    let leases = listers.lister("coordination.k8s.io", "leases");
    let mut failures = 0;
    loop {
        let wait = match renew(client, hostname, &holder, clock.now()).await {
            Ok(()) => {
                failures = 0;
                RENEW
            }
            Err(e) => {
                failures += 1;
                tracing::warn!("cannot renew this server's lease, trying again: {e}");
                Backoff::RESTART.delay(failures)
            }
        };
        for old in leases.list(Some(NAMESPACE)).iter().filter(|l| is_expired(l, clock.now())) {
            match client.delete(&res::LEASES, NAMESPACE, &old.meta.name, &DeleteOptions::default()).await {
                Err(e) if e.reason != Reason::NotFound => {
                    tracing::warn!(lease = old.meta.name, "cannot delete an expired lease: {e}");
                }
                _ => {}
            }
        }
        if stop.or(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn renew(client: &Client, hostname: &str, holder: &str, now: Timestamp) -> ApiResult<()> {
    let known = optional(client.get(&res::LEASES, NAMESPACE, &name(hostname)).await)?;
    let new = known.is_none();
    let lease = lease(known, hostname, holder, now);
    match new {
        true => client.create(&res::LEASES, NAMESPACE, &lease).await.map(drop),
        false => client.update(&res::LEASES, NAMESPACE, &name(hostname), None, &lease).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    #[test]
    fn names_follow_from_the_machines() {
        // base32 of the first half of SHA-256 of "node", in small letters, without padding.
        let name = name("node");
        assert_eq!(name.len(), "apiserver-".len() + 26);
        assert!(name["apiserver-".len()..].bytes().all(|b| BASE32.contains(&b)));
        assert_ne!(name, self::name("other"));
    }

    #[test]
    fn a_new_run_takes_the_lease_over() {
        let first = lease(None, "h", "a", Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&first["spec"]["acquireTime"], &first["spec"]["renewTime"]),
            (&first["spec"]["renewTime"], &first["spec"]["acquireTime"])
        );
        let later = Timestamp::from_second(60).unwrap();
        let renewed = lease(Some(first.clone()), "h", "a", later);
        assert_eq!(renewed["spec"]["acquireTime"], first["spec"]["acquireTime"]);
        assert_ne!(renewed["spec"]["renewTime"], first["spec"]["renewTime"]);
        let taken = lease(Some(renewed), "h", "b", later);
        assert_eq!(
            (&taken["spec"]["holderIdentity"], &taken["spec"]["acquireTime"]),
            (&json!("b"), &taken["spec"]["renewTime"])
        );
    }

    #[tokio::test]
    async fn leases_of_servers_that_are_gone_are_collected() {
        let cluster = Cluster::new();
        let put = |name: &str, label: &str, renewed: &str| {
            cluster.put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {COMPONENT.0: label}},
                "spec": {"leaseDurationSeconds": DURATION_SECONDS, "renewTime": renewed}}));
        };
        let now = cluster.cx().now();
        let ago = |seconds: i64| rfc3339_micro(now - jiff::SignedDuration::from_secs(seconds));
        put("old", COMPONENT.1, &ago(2 * DURATION_SECONDS));
        put("young", COMPONENT.1, &ago(60));
        put("election", "another", &ago(2 * DURATION_SECONDS));
        let (client, listers, clock): (_, _, SharedClock) =
            (cluster.client(), cluster.listers.clone(), cluster.clock.clone());
        let names = |c: &Cluster| {
            let mut all: Vec<String> =
                c.api.all(&res::LEASES).iter().filter_map(|l| l.str_at("/metadata/name").map(str::to_owned)).collect();
            all.sort();
            all
        };
        let wanted = [&name("h"), "election", "young"].map(str::to_owned);
        cluster
            .until(|_, stop| async move { run(&client, &*listers, &clock, "h", stop).await }, |c| names(c) == wanted)
            .await;
    }
}
