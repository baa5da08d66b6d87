//! `POST pods/NAME/eviction`: deletes a pod where its disruption budget allows it.
//!
//! Rules: upstream `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::meta::Gvk;
use crate::api::meta::labels::Selector;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation};
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call, verbs};
use crate::registry::write::DeleteOptions;
use crate::registry::{Admission, Op, RequestCx, Resource, Target, View};
use crate::util::clock::rfc3339;

/// Evictions of one budget that its controller has not seen yet.
const DISRUPTED_PODS_MAX: usize = 2000;
/// Seconds after which a budget that was not yet looked at may be asked for again.
const PROCESSED_IN: u64 = 10;

impl Api {
    /// Evicts the pod of the path.
    pub(in crate::apiserver) async fn evict_pod(&self, pods: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let gvk = Gvk::new("policy", "v1", "Eviction");
        let mut cx = self.write_cx(pods, &call, "CreateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "CreateOptions")?;
        let mut raw = body::decode(&call.body, &call.headers, &gvk)?;
        // The older version says the same.
        if raw.value.str_at("/apiVersion") == Some("policy/v1beta1") {
            raw.value.set_at("/apiVersion", "policy/v1");
        }
        let def = crate::api::schema::table().kind(&gvk.group, &gvk.version, &gvk.kind);
        let mut eviction = body::canonical(raw, &gvk, def, strictness, &cx)?;
        let at = call.target(pods);
        if eviction.str_at("/metadata/name").unwrap_or_default() != at.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        self.registry.admit(&Admission::posted(pods, &cx, &at, "eviction"), &mut eviction).await?;
        let asked = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
        cx.dry_run |= asked.items_at("/dryRun").iter().any(|d| d == "All");
        let pod = View::get(&*self.registry, "", "pods", &at.namespace, &at.name)
            .ok_or_else(|| Status::not_found("", "pods", &at.name))?
            .value();
        if let Some(budget) = self.budget_of(&pod, &at)? {
            self.take_from_budget(&cx, &budget, &pod).await?;
        }
        let mut options = DeleteOptions::from_value(&asked)?;
        if !cx.dry_run {
            let marked = self.mark_evicted(pods, &cx, &at, &options).await?;
            // The mark is of this request: it is not what the precondition is about.
            if options.resource_version.is_some() {
                options.resource_version = marked.str_at("/metadata/resourceVersion").map(str::to_owned);
            }
        }
        self.registry.delete(pods, &cx, &at, &options).await?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(verbs::finish(respond::encoded(201, &done, verbs::error_encoding(&call.headers)), &cx))
    }

    /// Says on the pod why it goes: controllers tell a disruption from a failure by it.
    async fn mark_evicted(
        &self,
        pods: &Arc<Resource>,
        cx: &RequestCx,
        at: &Target,
        options: &DeleteOptions,
    ) -> ApiResult<Value> {
        let now = rfc3339(cx.now);
        let change = |old: &Value| {
            options.check(pods, old)?;
            let mut new = old.clone();
            let mark = json!({
                "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            });
            conclude(&mut new, mark);
            Ok(new)
        };
        let op = Op::Subresource("status".into());
        Ok(self.registry.update(pods, cx, at, &op, &change, None).await?.into_object())
    }

    /// The budget that the pod's eviction needs, if any.
    fn budget_of(&self, pod: &Value, at: &Target) -> ApiResult<Option<Target>> {
        let ended = matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed" | "Pending"));
        if ended || pod.str_at("/metadata/deletionTimestamp").is_some() {
            return Ok(None);
        }
        let budgets = View::list(&*self.registry, "policy", "poddisruptionbudgets", Some(&at.namespace));
        let matching: Vec<Target> = budgets
            .iter()
            .filter(|b| selects(&b.value(), pod))
            .map(|b| Target { namespace: at.namespace.clone(), name: b.meta.name.clone() })
            .collect();
        if matching.len() > 1 {
            // A plain Status, as upstream's: neither reason nor details.
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(Reason::Unknown, why));
        }
        Ok(matching.into_iter().next())
    }

    async fn take_from_budget(&self, cx: &RequestCx, budget: &Target, pod: &Value) -> ApiResult<()> {
        let Some(budgets) = self.registry.resources().get("policy", "v1", "poddisruptionbudgets") else {
            return Ok(());
        };
        let name = pod.str_at("/metadata/name").unwrap_or_default().to_owned();
        let (ready, now) = (is_ready(pod), rfc3339(cx.now));
        let change = |old: &Value| match allowed(old, ready)? {
            Allowed::Freely => Ok(old.clone()),
            Allowed::Counted => Ok(taken(old, &name, &now)),
        };
        self.registry.update(&budgets, cx, budget, &Op::Subresource("status".into()), &change, None).await?;
        Ok(())
    }
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let Some(selector) = budget.get_at("/spec/selector") else { return false };
    Selector::from_label_selector(selector).is_ok_and(|s| s.matches_value(pod.get_at("/metadata/labels")))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.items_at("/status/conditions");
    conditions.iter().any(|c| c.str_at("/type") == Some("Ready") && c.str_at("/status") == Some("True"))
}

#[derive(Debug, PartialEq)]
enum Allowed {
    /// Without counting: the pod does not serve.
    Freely,
    /// One disruption less.
    Counted,
}

/// May a pod of this budget go?
fn allowed(budget: &Value, ready: bool) -> ApiResult<Allowed> {
    let number = |at: &str| budget.int_at(at).unwrap_or(0);
    let name = budget.str_at("/metadata/name").unwrap_or_default();
    let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    if !ready {
        let always = budget.str_at("/spec/unhealthyPodEvictionPolicy") == Some("AlwaysAllow");
        if always || healthy >= desired && desired > 0 {
            return Ok(Allowed::Freely);
        }
    }
    if number("/status/observedGeneration") < number("/metadata/generation") {
        let mut status = too_many(&format!("The disruption budget {name} is still being processed by the server."));
        status.details["retryAfterSeconds"] = PROCESSED_IN.into();
        return Err(status);
    }
    let left = number("/status/disruptionsAllowed");
    if left < 0 {
        return Err(Status::forbidden("policy", "poddisruptionbudget", name, "pdb disruptions allowed is negative"));
    }
    if budget.get_at("/status/disruptedPods").and_then(Value::as_object).is_some_and(|d| d.len() > DISRUPTED_PODS_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden("policy", "poddisruptionbudget", name, why));
    }
    if left == 0 {
        return Err(too_many(&used_up(budget)));
    }
    Ok(Allowed::Counted)
}

/// Why a budget allows nothing. Its figures are not to be trusted where they could not be counted.
fn used_up(budget: &Value) -> String {
    let number = |at: &str| budget.int_at(at).unwrap_or(0);
    let name = budget.str_at("/metadata/name").unwrap_or_default();
    let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    let is_told = |c: &&Value| {
        let text = |at: &str| c.str_at(at).unwrap_or_default();
        text("/type") == "DisruptionAllowed" && text("/status") == "False" && !text("/message").is_empty()
    };
    let told = budget.items_at("/status/conditions").iter().find(is_told);
    let told = told.map(|c| (c.str_at("/reason").unwrap_or_default(), c.str_at("/message").unwrap_or_default()));
    match told {
        Some(("SyncFailed", why)) => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}")
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, why)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The budget with one disruption less. Where it was the last one, the budget says so at once.
fn taken(budget: &Value, pod: &str, now: &str) -> Value {
    let mut new = budget.clone();
    let left = budget.int_at("/status/disruptionsAllowed").unwrap_or(0) - 1;
    new.set_at("/status/disruptionsAllowed", left);
    if left == 0 {
        let mut condition = json!({"type": "DisruptionAllowed", "status": "False", "lastTransitionTime": now,
            "reason": "InsufficientPods", "message": ""});
        if let Some(observed) = budget.int_at("/status/observedGeneration") {
            condition["observedGeneration"] = observed.into();
        }
        conclude(&mut new, condition);
    }
    new.set_at(&format!("/status/disruptedPods/{pod}"), now);
    new
}

/// Sets a condition of an object's status; since when it has been so stays where it was so before.
fn conclude(object: &mut Value, mut condition: Value) {
    let mut all = object.items_at("/status/conditions").to_vec();
    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(known) => {
            if let Some(since) = known.get("lastTransitionTime").filter(|_| known["status"] == condition["status"]) {
                condition["lastTransitionTime"] = since.clone();
            }
            *known = condition;
        }
        None => all.push(condition),
    }
    object.set_at("/status/conditions", all);
}

fn too_many(why: &str) -> Box<Status> {
    Status::new(Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
        .with_details(json!({"causes": [{"reason": "DisruptionBudget", "message": why}]}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn budget(left: i64, healthy: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": left, "currentHealthy": healthy, "desiredHealthy": 2}})
    }

    #[test_case(1, 3, true, Some(Allowed::Counted); "room")]
    #[test_case(0, 2, true, None; "no room")]
    #[test_case(0, 2, false, Some(Allowed::Freely); "an unready pod of a healthy budget")]
    #[test_case(0, 1, false, None; "an unready pod of an unhealthy budget")]
    fn budgets(left: i64, healthy: i64, ready: bool, want: Option<Allowed>) {
        assert_eq!(allowed(&budget(left, healthy), ready).ok(), want);
    }

    fn condition(status: &str, reason: &str, message: &str) -> Value {
        json!([{"type": "DisruptionAllowed", "status": status, "reason": reason, "message": message}])
    }

    #[test_case(1, json!([]), "needs 2 healthy pods and has 1 currently"; "too few are healthy")]
    #[test_case(1, condition("False", "SyncFailed", "w"), "does not allow evicting pods currently because it failed sync: w"; "not counted")]
    #[test_case(2, condition("False", "Other", "w"), "needs 2 healthy pods and has 2 currently"; "just enough are healthy")]
    #[test_case(3, condition("False", "Other", "w"), "does not allow evicting pods currently (Other): w"; "for a reason of its own")]
    #[test_case(3, condition("False", "Other", ""), "does not allow evicting pods currently"; "nobody says why")]
    fn why_nothing_is_left(healthy: i64, conditions: Value, want: &str) {
        let mut budget = budget(0, healthy);
        budget["status"]["conditions"] = conditions;
        let refused = allowed(&budget, true).unwrap_err();
        let want =
            json!({"causes": [{"reason": "DisruptionBudget", "message": format!("The disruption budget b {want}")}]});
        assert_eq!((refused.code, refused.details), (429, want));
    }

    #[test]
    fn a_budget_that_was_not_looked_at_is_asked_again_later() {
        let mut budget = budget(1, 3);
        budget["metadata"]["generation"] = 2.into();
        let refused = allowed(&budget, true).unwrap_err();
        assert_eq!((refused.code, &refused.details["retryAfterSeconds"]), (429, &json!(10)));
    }

    #[test]
    fn the_last_one_closes_the_budget() {
        let mut two = budget(2, 4);
        two["status"]["conditions"] = json!([{"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "lastTransitionTime": "t0"}]);
        let one = taken(&two, "a", "t1");
        assert_eq!(one["status"]["conditions"][0]["status"], "True");
        let none = taken(&one, "b", "t2");
        assert_eq!(none["status"]["disruptedPods"], json!({"a": "t1", "b": "t2"}));
        let want = json!([{"type": "DisruptionAllowed", "status": "False", "lastTransitionTime": "t2",
            "reason": "InsufficientPods", "message": "", "observedGeneration": 1}]);
        assert_eq!(none["status"]["conditions"], want);
    }
}
