//! Writes what was decided about devices: allocations and reservations of claims; and waits for drivers that have to agree.
//!
//! **Invariant:** a claim gets an allocation only while it has none, and a reservation only while it has an allocation: each
//! write replaces the version that was looked at.
//! **Invariant:** a claim that was made for a pod goes again where the pod is not bound.
//! Upstream: `plugins/dynamicresources` (`bindClaim`, `PreBind`, `Unreserve`, `PostFilter`, `deleteClaim`).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::devices::agreed::{Agreed, PATIENCE, agreed, late_at};
use super::devices::extended::ANNOTATION;
use super::devices::model::Claim;
use super::plugins::devices::{DevicePlan, NewClaim};
use super::pod::PodInfo;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, ListOptions, Patch, WatchKind, optional, res};
use crate::runtime::Recorder;
use crate::util::clock::{Clock, rfc3339};

/// What keeps a claim with devices from going before it gave them back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Times that a claim is read again because somebody else changed it meanwhile.
const TRIES: usize = 5;

/// What a binding is done with, and for whom.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub(super) struct Hands<'a> {
    pub client: &'a Client,
    pub clock: &'a dyn Clock,
    pub events: &'a Recorder,
    pub pod: &'a PodInfo,
}

/// Never as not found: that is said of pods, whose end the caller knows how to take.
fn failed(why: String) -> Box<Status> {
    Status::new(Reason::InternalError, why)
}

/// Gives all claims what was found for them, reserves them for the pod, and waits until their drivers agree. What was reserved
/// is given up where anything fails.
pub(super) async fn all(hands: &Hands<'_>, node: &str, plan: &mut DevicePlan) -> ApiResult<()> {
    let mut reserved = 0;
    let done = async {
        let (client, pod, now) = (hands.client, hands.pod, rfc3339(hands.clock.now()));
        for (claim, allocation) in &plan.claims {
            one(client, pod, claim, allocation.as_deref(), &now).await?;
            reserved += 1;
        }
        if let Some(new) = &mut plan.new {
            make(client, pod, new, &now).await?;
        }
        until_agreed(hands, node, &plan.awaited()).await
    };
    let done = done.await;
    if done.is_err() {
        undo(hands.client, hands.pod, plan, reserved).await;
    }
    done
}

/// Makes the claim for extended resources, gives it what was found, and tells the pod's kubelet of it.
async fn make(client: &Client, pod: &PodInfo, new: &mut NewClaim, now: &str) -> ApiResult<()> {
    let ns = &*pod.namespace;
    let body = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"generateName": format!("{}-extended-resources-", pod.name), "namespace": ns,
            "annotations": {ANNOTATION: "true"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid, "controller": true}]},
        "spec": {"devices": {"requests": new.of.asked.requests}}});
    let made = client.create(&res::RESOURCE_CLAIMS, ns, &body).await;
    let made = made.map_err(|e| failed(format!("create claim for extended resources {ns}/: {}", e.message)))?;
    let text = |at: &str| made.str_at(at).unwrap_or_default().into();
    let (name, uid): (Box<str>, _) = (text("/metadata/name"), text("/metadata/uid"));
    let claim = Arc::new(Claim { namespace: ns.into(), name: name.clone(), uid, ..Claim::default() });
    new.made = Some(claim.clone());
    one(client, pod, &claim, Some(&new.allocation), now).await?;
    let status = json!({"metadata": {"uid": pod.uid}, "status": {"extendedResourceClaimStatus": {
        "requestMappings": new.of.asked.mappings, "resourceClaimName": name}}});
    let patch = Patch::Strategic(&status);
    let noted = client.patch(&res::PODS, ns, &pod.name, Some("status"), patch).await.map(drop);
    noted.map_err(|e| match e.reason {
        // The pod is gone.
        Reason::NotFound => e,
        _ => failed(format!("update pod {} ExtendedResourceClaimStatus: {}", pod.key(), e.message)),
    })
}

/// Waits until the drivers of all these claims agree. Nobody asks again and again: each change of a claim is looked at.
async fn until_agreed(hands: &Hands<'_>, node: &str, claims: &[&str]) -> ApiResult<()> {
    if claims.is_empty() {
        return Ok(());
    }
    let message = format!("waiting for binding conditions for device on node {node}");
    hands.events.normal(hands.pod.regarding(), "BindingConditionsPending", message);
    let waits = try_join_all(claims.iter().map(|name| agrees(hands, name)));
    match tokio::time::timeout(PATIENCE, waits).await {
        Ok(done) => done.map(drop),
        Err(_) => Err(failed("device binding timeout".into())),
    }
}

async fn agrees(hands: &Hands<'_>, name: &str) -> ApiResult<()> {
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let late = || failed(format!("claim {name} binding timeout"));
    let mut until: Option<Timestamp> = None;
    loop {
        let mut events = hands.client.watch(&res::RESOURCE_CLAIMS, Some(&hands.pod.namespace), &options).await?;
        loop {
            let left = until.map_or(PATIENCE, |at| {
                let left = at.duration_since(hands.clock.now());
                Duration::try_from(left).unwrap_or_default().min(PATIENCE)
            });
            let Ok(event) = tokio::time::timeout(left, events.next()).await else { return Err(late()) };
            let Some(event) = event else { break };
            let event = event?;
            if event.kind == WatchKind::Deleted {
                return Err(failed(format!("claim {name} got deleted in the meantime")));
            }
            match agreed(&event.object) {
                Agreed::Yes => return Ok(()),
                Agreed::No(why) => return Err(failed(why)),
                Agreed::NotYet => until = late_at(&event.object),
            }
        }
    }
}

async fn one(client: &Client, pod: &PodInfo, claim: &Claim, found: Option<&Value>, now: &str) -> ApiResult<()> {
    let (ns, name) = (&*claim.namespace, &*claim.name);
    for _ in 1..TRIES {
        match attempt(client, pod, claim, found, now).await {
            Err(error) if error.reason == Reason::Conflict => {}
            Err(error) => {
                let what = if found.is_some() { "allocation and reservation" } else { "reservation" };
                return Err(failed(format!("add {what} to claim {ns}/{name}: {}", error.message)));
            }
            Ok(()) => return Ok(()),
        }
    }
    attempt(client, pod, claim, found, now).await
}

async fn attempt(client: &Client, pod: &PodInfo, claim: &Claim, found: Option<&Value>, now: &str) -> ApiResult<()> {
    let (ns, name) = (&*claim.namespace, &*claim.name);
    let mut object = client.get(&res::RESOURCE_CLAIMS, ns, name).await?;
    let gone = || failed(format!("claim {ns}/{name} got deleted in the meantime"));
    if object.str_at("/metadata/uid") != Some(&claim.uid) || object.get_at("/metadata/deletionTimestamp").is_some() {
        return Err(gone());
    }
    let allocated = object.get_at("/status/allocation").is_some_and(|a| !a.is_null());
    match found {
        Some(_) if allocated => {
            return Err(failed(format!("claim {ns}/{name} got allocated elsewhere in the meantime")));
        }
        Some(allocation) => {
            let held = object.items_at("/metadata/finalizers").iter().any(|f| f == FINALIZER);
            if !held {
                add(&mut object, "metadata", "finalizers", FINALIZER.into());
                object = client.update(&res::RESOURCE_CLAIMS, ns, name, None, &object).await?;
            }
            object.set_at("/status/allocation", allocation.clone());
        }
        None if !allocated => {
            return Err(failed(format!("claim {ns}/{name} got deallocated in the meantime")));
        }
        None => {}
    }
    object.set_if_absent("/status/allocation/allocationTimestamp", now);
    add(&mut object, "status", "reservedFor", json!({"resource": "pods", "name": pod.name, "uid": pod.uid}));
    client.update(&res::RESOURCE_CLAIMS, ns, name, Some("status"), &object).await.map(drop)
}

fn add(object: &mut Value, part: &str, list: &str, item: Value) {
    match object[part][list].as_array_mut() {
        Some(items) => items.push(item),
        None => object[part][list] = json!([item]),
    }
}

/// Gives reservations up again. The allocations stay: the pod will be tried again, and may use them. A claim that was made for
/// it goes: the next attempt may need another. `reserved`: so many of the claims were written.
pub(super) async fn undo(client: &Client, pod: &PodInfo, plan: &DevicePlan, reserved: usize) {
    for (claim, _) in &plan.claims[..reserved] {
        let body = json!({"metadata": {"uid": claim.uid},
            "status": {"reservedFor": [{"$patch": "delete", "uid": pod.uid}]}});
        let (ns, name) = (&*claim.namespace, &*claim.name);
        let patch = Patch::Strategic(&body);
        if let Err(error) = client.patch(&res::RESOURCE_CLAIMS, ns, name, Some("status"), patch).await {
            // The claim's controller gives it up when the pod is gone; until then the pod is tried again.
            tracing::warn!(claim = claim.key(), pod = pod.key(), "cannot give up a reservation: {error}");
        }
    }
    if let Some(claim) = plan.new.as_ref().and_then(|n| n.made.as_ref())
        && let Err(error) = discard(client, claim).await
    {
        // The next attempt finds it, and deletes it before anything else.
        tracing::warn!(claim = claim.key(), pod = pod.key(), "cannot delete the claim for extended resources: {error}");
    }
}

/// Deletes a claim that was made for a pod, whatever it has.
pub(super) async fn discard(client: &Client, claim: &Claim) -> ApiResult<()> {
    let (ns, name) = (&*claim.namespace, &*claim.name);
    for left in (0..TRIES).rev() {
        let Some(mut object) = optional(client.get(&res::RESOURCE_CLAIMS, ns, name).await)? else { return Ok(()) };
        let is_it = object.str_at("/metadata/uid") == Some(&claim.uid);
        let Some(all) = object["metadata"]["finalizers"].as_array_mut().filter(|_| is_it) else { break };
        all.retain(|f| f != FINALIZER);
        match client.update(&res::RESOURCE_CLAIMS, ns, name, None, &object).await {
            Err(error) if error.reason == Reason::Conflict && left > 0 => {}
            done => {
                optional(done)?;
                break;
            }
        }
    }
    let options = DeleteOptions::of_uid(&*claim.uid);
    match client.delete(&res::RESOURCE_CLAIMS, ns, name, &options).await {
        // Another of its name is not ours.
        Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
        done => done.map(drop),
    }
}

/// Takes its devices from a claim, as it was looked at.
pub(super) async fn free(client: &Client, claim: &Claim) -> ApiResult<()> {
    let body = json!({"metadata": {"uid": claim.uid, "resourceVersion": claim.revision.to_string()},
        "status": {"allocation": null, "reservedFor": null, "devices": null}});
    let (ns, name) = (&*claim.namespace, &*claim.name);
    client.patch(&res::RESOURCE_CLAIMS, ns, name, Some("status"), Patch::Merge(&body)).await.map(drop)
}
