//! MutatingAdmissionPolicy.

use std::sync::Arc;

use serde_json::Value;

use crate::admission::Plugin;
use crate::api::cel::{Budget, Val, cost};
use crate::api::patch;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, Resource, Resources, View};

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
    /// Over the resources that parameters may be.
    pub fn new(ask: Arc<dyn Ask>, resources: Arc<Resources>) -> Self {
        Self { bound: Bound::new(resources, ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"]), ask }
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

impl MutatingAdmissionPolicy {
    /// Runs one policy; true when it changed the object.
    fn run(
        &self,
        met: &Met<Mutations>,
        a: &Admission<'_>,
        new: &mut Value,
        old: Option<&Value>,
        view: &dyn View,
    ) -> ApiResult<bool> {
        let (policy, mutations) = &*met.policy;
        let undecided = |why: String, new: &Value| match policy.fail {
            true => {
                let text =
                    format!("policy '{}' with binding '{}' denied request: {why}", policy.name, met.binding.name);
                Err(refusal(a, Some(new), text, ""))
            }
            false => Ok(()),
        };
        let before = new.clone();
        let params = match self.bound.params(policy, &met.binding, a, view) {
            Ok(params) => params,
            Err(why) => return undecided(format!("failed to configure binding: {why}"), new).map(|()| false),
        };
        for param in params {
            let mut budget = Budget::new(cost::PER_OBJECT);
            for (made, expression) in &mutations.all {
                // Every mutation sees what the one before it did.
                let shown = met.shown(a, new).into_owned();
                let before = old.map(|old| met.shown(a, old));
                let of = met.resource(a);
                let base = request::values_of(a, of, Some(&shown), before.as_deref(), view, &self.ask);
                let vars = policy.vars(&base, param.clone());
                match policy.conditions_hold(&vars) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => {
                        undecided(why, new)?;
                        break;
                    }
                }
                let value = expression.eval(&vars, &mut budget).map_err(|e| e.to_string());
                match value.and_then(|v| apply(of, &shown, *made, &v)) {
                    Ok(changed) => *new = met.back(a, changed),
                    Err(why) => {
                        let why = format!("expression '{}' resulted in error: {why}", expression.text);
                        undecided(why, new)?;
                        break;
                    }
                }
            }
        }
        Ok(*new != before)
    }
}

impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let met = self.bound.met(a, Some(new), old, view, compile)?;
        let mut last_change = None;
        for (i, met) in met.iter().enumerate() {
            if self.run(met, a, new, old, view)? {
                last_change = Some(i);
            }
        }
        // Those before the last one that changed something have not seen it; each is asked once more, if it wants.
        for met in met.iter().take(last_change.unwrap_or(0)).filter(|m| m.policy.1.again) {
            self.run(met, a, new, old, view)?;
        }
        Ok(())
    }
}
