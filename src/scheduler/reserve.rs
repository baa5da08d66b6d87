//! Writes what was decided about devices: allocations and reservations of claims.
//!
//! **Invariant:** a claim gets an allocation only while it has none, and a reservation only while it has an allocation: each
//! write replaces the version that was looked at.
//! Upstream: `plugins/dynamicresources` (`bindClaim`, `Unreserve`, `PostFilter`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::devices::model::Claim;
use super::plugins::devices::DevicePlan;
use super::pod::PodInfo;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, res};

/// What keeps a claim with devices from going before it gave them back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Times that a claim is read again because somebody else changed it meanwhile.
const TRIES: usize = 5;

/// Gives all claims what was found for them, and reserves them for the pod. What was reserved is given up where one fails.
pub(super) async fn all(client: &Client, pod: &PodInfo, plan: &DevicePlan, now: &str) -> ApiResult<()> {
    for (at, (claim, allocation)) in plan.iter().enumerate() {
        if let Err(error) = one(client, pod, claim, allocation.as_deref(), now).await {
            undo(client, pod, &plan[..at]).await;
            return Err(error);
        }
    }
    Ok(())
}

async fn one(client: &Client, pod: &PodInfo, claim: &Claim, found: Option<&Value>, now: &str) -> ApiResult<()> {
    let (ns, name) = (&*claim.namespace, &*claim.name);
    for _ in 1..TRIES {
        match attempt(client, pod, claim, found, now).await {
            Err(error) if error.reason == Reason::Conflict => {}
            Err(error) => {
                let what = if found.is_some() { "allocation and reservation" } else { "reservation" };
                // Never as not found: that is said of pods, whose end the caller knows how to take.
                let why = format!("add {what} to claim {ns}/{name}: {}", error.message);
                return Err(Status::new(Reason::InternalError, why));
            }
            Ok(()) => return Ok(()),
        }
    }
    attempt(client, pod, claim, found, now).await
}

async fn attempt(client: &Client, pod: &PodInfo, claim: &Claim, found: Option<&Value>, now: &str) -> ApiResult<()> {
    let (ns, name) = (&*claim.namespace, &*claim.name);
    let mut object = client.get(&res::RESOURCE_CLAIMS, ns, name).await?;
    let gone = || Status::new(Reason::InternalError, format!("claim {ns}/{name} got deleted in the meantime"));
    if object.str_at("/metadata/uid") != Some(&claim.uid) || object.get_at("/metadata/deletionTimestamp").is_some() {
        return Err(gone());
    }
    let allocated = object.get_at("/status/allocation").is_some_and(|a| !a.is_null());
    match found {
        Some(_) if allocated => {
            let why = format!("claim {ns}/{name} got allocated elsewhere in the meantime");
            return Err(Status::new(Reason::InternalError, why));
        }
        Some(allocation) => {
            let held = object.items_at("/metadata/finalizers").iter().any(|f| f == FINALIZER);
            if !held {
                add(&mut object, "metadata", "finalizers", FINALIZER.into());
                object = client.update(&res::RESOURCE_CLAIMS, ns, name, None, &object).await?;
            }
            let mut allocation = allocation.clone();
            allocation["allocationTimestamp"] = now.into();
            object.set_at("/status/allocation", allocation);
        }
        None if !allocated => {
            return Err(Status::new(
                Reason::InternalError,
                format!("claim {ns}/{name} got deallocated in the meantime"),
            ));
        }
        None => {}
    }
    add(&mut object, "status", "reservedFor", json!({"resource": "pods", "name": pod.name, "uid": pod.uid}));
    client.update(&res::RESOURCE_CLAIMS, ns, name, Some("status"), &object).await.map(drop)
}

fn add(object: &mut Value, part: &str, list: &str, item: Value) {
    match object[part][list].as_array_mut() {
        Some(items) => items.push(item),
        None => object[part][list] = json!([item]),
    }
}

/// Gives reservations up again. The allocations stay: the pod will be tried again, and may use them.
pub(super) async fn undo(client: &Client, pod: &PodInfo, plan: &[(Arc<Claim>, Option<Arc<Value>>)]) {
    for (claim, _) in plan {
        let body = json!({"metadata": {"uid": claim.uid},
            "status": {"reservedFor": [{"$patch": "delete", "uid": pod.uid}]}});
        let (ns, name) = (&*claim.namespace, &*claim.name);
        let patch = Patch::Strategic(&body);
        if let Err(error) = client.patch(&res::RESOURCE_CLAIMS, ns, name, Some("status"), patch).await {
            // The claim's controller gives it up when the pod is gone; until then the pod is tried again.
            tracing::warn!(claim = claim.key(), pod = pod.key(), "cannot give up a reservation: {error}");
        }
    }
}

/// Takes its devices from a claim, as it was looked at.
pub(super) async fn free(client: &Client, claim: &Claim) -> ApiResult<()> {
    let body = json!({"metadata": {"uid": claim.uid, "resourceVersion": claim.revision.to_string()},
        "status": {"allocation": null, "reservedFor": null, "devices": null}});
    let (ns, name) = (&*claim.namespace, &*claim.name);
    client.patch(&res::RESOURCE_CLAIMS, ns, name, Some("status"), Patch::Merge(&body)).await.map(drop)
}
