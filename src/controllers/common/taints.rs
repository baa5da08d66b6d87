//! Taints, of nodes and of devices, that take pods away.

use serde_json::{Value, json};

use super::conditions::{self, Condition};
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::runtime::{Cx, Error};
use crate::util::clock::rfc3339;

/// The effect that makes pods go.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether a toleration lets something be where a taint is. Upstream: `ToleratesTaint`, the same of both kinds of taints.
pub fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |v: &Value, p: &str| v.str_at(p).unwrap_or_default().to_owned();
    let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
    let exists = toleration.str_at("/operator") == Some("Exists");
    (effect.is_empty() || effect == text(taint, "/effect"))
        && (key.is_empty() && exists || key == text(taint, "/key"))
        && (exists || text(toleration, "/value") == text(taint, "/value"))
}

/// What is said of a pod that has to go.
#[derive(Debug, Clone)]
pub struct Farewell {
    /// Reason of the event.
    pub event: &'static str,
    /// Its message.
    pub told: String,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Its message.
    pub message: &'static str,
}

/// Says why a pod goes, in its condition `DisruptionTarget`, and deletes it: it, and no other of its name.
pub async fn evict(cx: &Cx, pod: &Object, value: &Value, why: &Farewell) -> Result<(), Error> {
    let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
    cx.events.normal(pod, why.event, why.told.clone());
    let mut all = value.items_at("/status/conditions").to_vec();
    let condition = Condition::new("DisruptionTarget", "True", why.reason, why.message);
    conditions::set_of_pod(&mut all, &condition, pod.meta.generation, &rfc3339(cx.now()));
    let body = json!({"metadata": {"uid": pod.meta.uid}, "status": {"conditions": all}});
    optional(cx.client.patch(&res::PODS, ns, name, Some("status"), Patch::Merge(&body)).await)?;
    optional(cx.client.delete(&res::PODS, ns, name, &DeleteOptions::of_uid(&pod.meta.uid)).await)?;
    Ok(())
}
