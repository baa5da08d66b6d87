//! MutatingAdmissionPolicy.

use std::sync::Arc;

use serde_json::Value;

use crate::admission::asking::Asking;
use crate::api::cel::{Budget, Val, cost};
use crate::api::patch;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::Resource;

use super::bound::{Bound, Met, refusal};
use super::compiled::{Expression, Policy};
use super::{Ask, request};

/// What an expression makes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// A list of JSON patch operations.
    Patch,
    /// A part of an object, which is merged as server-side apply merges.
    Object,
}

/// What a policy does.
struct Mutations {
    all: Vec<(Made, Expression)>,
    /// Runs once more when another policy changed the object after it.
    again: bool,
}

/// The plugin.
pub struct MutatingAdmissionPolicy {
    bound: Bound<Mutations>,
    ask: Arc<dyn Ask>,
}

impl MutatingAdmissionPolicy {
    /// `ask` answers what expressions ask the authorizer.
    pub fn new(ask: Arc<dyn Ask>) -> Self {
        Self { bound: Bound::new(["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"]), ask }
    }
}

fn compile(object: &Value, policy: &Policy) -> Mutations {
    let env = policy.env.clone().with_patches();
    let one = |m: &Value| match m.str_at("/patchType") {
        Some("JSONPatch") => Some((Made::Patch, Expression::new(&m["jsonPatch"], "expression", &env)?)),
        _ => Some((Made::Object, Expression::new(&m["applyConfiguration"], "expression", &env)?)),
    };
    Mutations {
        all: object.items_at("/spec/mutations").iter().filter_map(one).collect(),
        again: object.str_at("/spec/reinvocationPolicy") == Some("IfNeeded"),
    }
}

/// The object with what an expression made of it.
fn apply(of: &Resource, object: &Value, made: Made, value: &Val) -> Result<Value, String> {
    let patch = value.to_json().ok_or("the expression's value has no JSON")?;
    let changed = match (made, patch) {
        (Made::Patch, patch @ Value::Array(_)) => {
            patch::json::apply(object.clone(), patch).map_err(|s| s.message.clone())?
        }
        (Made::Object, patch @ Value::Object(_)) => {
            // All that it does not say of one would be lost.
            let atomics = patch::apply::atomics(of.view(), &patch);
            if !atomics.is_empty() {
                let atomics = atomics.join(", ");
                return Err(format!(
                    "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomics}"
                ));
            }
            patch::apply::merge_into(of.view(), object, &patch).map_err(|e| e.to_string())?
        }
        (Made::Patch, _) => return Err("the expression does not evaluate to a list of JSONPatch".into()),
        (Made::Object, _) => return Err("the expression does not evaluate to an Object".into()),
    };
    // Who the object is, is not for a policy to say.
    let same = |path: &str| changed.get_at(path) == object.get_at(path);
    match ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/uid"]
        .into_iter()
        .find(|p| !same(p))
    {
        Some(path) => Err(format!("a policy must not change {}", &path[1..].replace('/', "."))),
        None => Ok(changed),
    }
}

/// Why a policy does nothing for a request.
enum Stop {
    /// Its conditions do not hold.
    Unmet,
    /// It cannot be told what it would do.
    Undecided(String),
}

impl MutatingAdmissionPolicy {
    /// Runs one policy; true when it changed the object.
    async fn run(
        &self,
        met: &Met<'_, Mutations>,
        cx: &Asking<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> ApiResult<bool> {
        let policy = &met.policy.0;
        let before = new.clone();
        match self.change(met, cx, new, old).await {
            Err(why) if policy.fail => {
                let text =
                    format!("policy '{}' with binding '{}' denied request: {why}", policy.name, met.binding.name);
                Err(refusal(cx.admission, Some(new), text, ""))
            }
            _ => Ok(*new != before),
        }
    }

    /// What it changes before it cannot go on stays, where that is let pass.
    async fn change(
        &self,
        met: &Met<'_, Mutations>,
        cx: &Asking<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), String> {
        let fail = met.policy.0.fail;
        let unversioned = |why: Box<Status>| format!("failed to convert object version: {}", why.message);
        let params = met.params(cx).await.map_err(|why| format!("failed to configure binding: {why}"))?;
        let old = met.between.to(old).await.map_err(unversioned)?;
        for param in params {
            let mut budget = Budget::new(cost::PER_OBJECT);
            for mutation in &met.policy.1.all {
                // Every mutation sees what the one before it did.
                let shown = met.between.to(Some(new)).await.map_err(unversioned)?;
                let made = self.made(met, cx, mutation, (shown.as_deref(), old.as_deref()), &param, &mut budget);
                drop(shown);
                match made {
                    Ok(changed) => *new = met.between.back(changed).await.map_err(unversioned)?,
                    Err(Stop::Unmet) => break,
                    Err(Stop::Undecided(why)) if fail => return Err(why),
                    Err(Stop::Undecided(_)) => break,
                }
            }
        }
        Ok(())
    }

    /// What one mutation makes of the object, both in the version that the policy names.
    fn made(
        &self,
        met: &Met<'_, Mutations>,
        cx: &Asking<'_>,
        (made, expression): &(Made, Expression),
        (shown, old): (Option<&Value>, Option<&Value>),
        param: &Val,
        budget: &mut Budget,
    ) -> Result<Value, Stop> {
        let (policy, of) = (&met.policy.0, met.between.shown());
        let base = request::values_of(cx.admission, of, shown, old, cx.view, &self.ask);
        let vars = policy.vars(&base, param.clone());
        if !policy.conditions_hold(&vars).map_err(Stop::Undecided)? {
            return Err(Stop::Unmet);
        }
        let value = expression.eval(&vars, budget).map_err(|e| e.to_string());
        value
            .and_then(|v| apply(of, shown.unwrap_or(&Value::Null), *made, &v))
            .map_err(|why| Stop::Undecided(format!("expression '{}' resulted in error: {why}", expression.text)))
    }

    /// Changes the new object.
    ///
    /// # Errors
    /// The refusal of a policy that cannot be decided.
    pub async fn mutate(&self, cx: &Asking<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        let met = self.bound.met(cx, Some(new), old, compile)?;
        let mut last_change = None;
        for (i, met) in met.iter().enumerate() {
            if self.run(met, cx, new, old).await? {
                last_change = Some(i);
            }
        }
        // Those before the last one that changed something have not seen it; each is asked once more, if it wants.
        for met in met.iter().take(last_change.unwrap_or(0)).filter(|m| m.policy.1.again) {
            self.run(met, cx, new, old).await?;
        }
        Ok(())
    }
}
