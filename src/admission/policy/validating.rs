//! ValidatingAdmissionPolicy.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admission::asking::Asking;
use crate::api::audit::annotate;
use crate::api::cel::{Budget, Error, Val, cost};
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::expressions;

use super::bound::{Bound, Met, refusal};
use super::compiled::{Expression, Policy, Values};
use super::{Ask, request};

/// Longest message that an expression makes, bytes.
const MESSAGE_MAX: usize = 5 * 1024;
/// The annotation of audit events for what bindings with the action `Audit` found.
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// One `validations` entry.
struct Rule {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// One `auditAnnotations` entry.
struct Annotation {
    key: String,
    value: Expression,
}

/// What a policy asks of objects and notes about them.
struct Rules {
    validations: Vec<Rule>,
    annotations: Vec<Annotation>,
}

/// What the annotations of policies found: by policy and key, each distinct value once.
type Noted<'a> = BTreeMap<(&'a str, &'a str), Vec<String>>;

/// The plugin.
pub struct ValidatingAdmissionPolicy {
    bound: Bound<Rules>,
    ask: Arc<dyn Ask>,
}

/// A rule that was broken, or could not be looked at.
struct Broken {
    message: String,
    reason: String,
    /// Of the rule in the policy; none of an annotation, which refuses whatever the binding's actions are.
    index: Option<usize>,
}

impl ValidatingAdmissionPolicy {
    /// `ask` answers what expressions ask the authorizer.
    pub fn new(ask: Arc<dyn Ask>) -> Self {
        Self { bound: Bound::new(["validatingadmissionpolicies", "validatingadmissionpolicybindings"]), ask }
    }
}

fn compile(object: &Value, policy: &Policy) -> Rules {
    let messages = expressions::without_authorizer(policy.env.clone());
    let text = |v: &Value, path: &str| v.str_at(path).unwrap_or_default().trim().to_owned();
    let rule = |v: &Value| {
        Some(Rule {
            expression: Expression::new(v, "expression", &policy.env)?,
            message: text(v, "/message"),
            message_expression: Expression::new(v, "messageExpression", &messages),
            reason: text(v, "/reason"),
        })
    };
    let annotation = |v: &Value| {
        let value = Expression::new(v, "valueExpression", &policy.env)?;
        Some(Annotation { key: text(v, "/key"), value })
    };
    Rules {
        validations: object.items_at("/spec/validations").iter().filter_map(rule).collect(),
        annotations: object.items_at("/spec/auditAnnotations").iter().filter_map(annotation).collect(),
    }
}

impl Annotation {
    /// What is to be noted, if anything is.
    ///
    /// # Errors
    /// Why that cannot be told, where the request is to be refused for it.
    fn value(&self, fail: bool, vars: &Values<'_>, budget: &mut Budget) -> Result<Option<String>, String> {
        match self.value.eval(vars, budget) {
            Ok(Val::Str(text)) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
            Ok(Val::Null) => Ok(None),
            Ok(_) => Err(format!(
                "valueExpression '{}' resulted in unsupported return type. Return type must be either string or null.",
                self.value.text
            )),
            Err(_) if !fail => Ok(None),
            Err(why) => Err(format!("expression '{}' resulted in error: {why}", self.value.text)),
        }
    }
}

impl Rule {
    /// Why the rule is broken, if it is.
    fn broken(&self, index: usize, fail: bool, vars: &Values<'_>, budget: &mut Budget) -> Option<Broken> {
        match self.expression.is_true(vars, budget) {
            Ok(true) => None,
            Ok(false) => {
                Some(Broken { message: self.text(vars, budget), reason: self.reason.clone(), index: Some(index) })
            }
            Err(_) if !fail => None,
            Err(why) => {
                let message = match why {
                    Error::Budget => {
                        "validation failed due to running out of cost budget, no further validation rules will be run"
                            .to_owned()
                    }
                    Error::Failed(why) => format!("expression '{}' resulted in error: {why}", self.expression.text),
                };
                Some(Broken { message, reason: String::new(), index: Some(index) })
            }
        }
    }

    fn text(&self, vars: &Values<'_>, budget: &mut Budget) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.eval(vars, budget).ok());
        if let Some(Val::Str(made)) = made {
            let made = made.trim();
            if !made.is_empty() && made.len() <= MESSAGE_MAX && !made.contains('\n') {
                return made.to_owned();
            }
        }
        match &*self.message {
            "" => format!("failed expression: {}", self.expression.text),
            text => text.to_owned(),
        }
    }
}

/// What a policy finds wrong with what its expressions see; what it wants to be noted goes to `noted`.
fn findings<'m>(
    met: &'m Met<'_, Rules>,
    base: &[(&'static str, Val)],
    params: Vec<Val>,
    noted: &mut Noted<'m>,
) -> Vec<Broken> {
    let (policy, rules) = &*met.policy;
    let mut out = Vec::new();
    for param in params {
        let vars = policy.vars(base, param);
        match policy.conditions_hold(&vars) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                out.extend(undecided(policy, why));
                continue;
            }
        }
        let mut budget = Budget::new(cost::PER_OBJECT);
        for (index, rule) in rules.validations.iter().enumerate() {
            out.extend(rule.broken(index, policy.fail, &vars, &mut budget));
            if budget.left() == 0 {
                break;
            }
        }
        // As upstream: what validations cost is not taken from annotations.
        let mut budget = Budget::new(cost::PER_OBJECT);
        for annotation in &rules.annotations {
            match annotation.value(policy.fail, &vars, &mut budget) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let values = noted.entry((&policy.name, &annotation.key)).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                Err(message) => out.push(Broken { message, reason: String::new(), index: None }),
            }
        }
    }
    out
}

/// What a policy that cannot be decided is taken for.
fn undecided(policy: &Policy, message: String) -> Option<Broken> {
    policy.fail.then(|| Broken { message, reason: String::new(), index: Some(0) })
}

impl ValidatingAdmissionPolicy {
    /// The values of a policy's expressions where it names another version than the request's, and its parameters.
    async fn seen(
        &self,
        met: &Met<'_, Rules>,
        cx: &Asking<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(Option<Vec<(&'static str, Val)>>, Vec<Val>), String> {
        let params = met.params(cx).await.map_err(|why| format!("failed to configure binding: {why}"))?;
        if met.between.is_own() {
            return Ok((None, params));
        }
        let failed = |why: Box<Status>| format!("failed to convert object version: {}", why.message);
        let new = met.between.to(new).await.map_err(failed)?;
        let old = met.between.to(old).await.map_err(failed)?;
        let shown = met.between.shown();
        let values = request::values_of(cx.admission, shown, new.as_deref(), old.as_deref(), cx.view, &self.ask);
        Ok((Some(values), params))
    }

    /// Refuses, or not; `new` is none for a deletion.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, cx: &Asking<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        let met = self.bound.met(cx, new, old, compile)?;
        if met.is_empty() {
            return Ok(());
        }
        let a = cx.admission;
        let base = request::values(a, new, old, cx.view, &self.ask);
        let mut denied = None;
        let mut failures = Vec::new();
        let mut noted = Noted::new();
        for met in &met {
            let (policy, binding) = (&met.policy.0, &met.binding);
            let name = &binding.name;
            let acts = |action: &str| binding.actions.iter().any(|a| a == action);
            let broken = match self.seen(met, cx, new, old).await {
                Ok((other, params)) => findings(met, other.as_ref().unwrap_or(&base), params, &mut noted),
                Err(why) => undecided(policy, why).into_iter().collect(),
            };
            let policy = &policy.name;
            for Broken { message, reason, index } in broken {
                if let Some(index) = index.filter(|_| acts("Audit")) {
                    failures.push(json!({
                        "message": message, "policy": policy, "binding": name,
                        "expressionIndex": index, "validationActions": binding.actions,
                    }));
                }
                if index.is_some() && acts("Warn") {
                    a.cx.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"
                    ));
                }
                if denied.is_none() && (index.is_none() || acts("Deny")) {
                    let text =
                        format!("ValidatingAdmissionPolicy '{policy}' with binding '{name}' denied request: {message}");
                    denied = Some(refusal(a, new, text, &reason));
                }
            }
        }
        if !failures.is_empty() {
            annotate(|| (FAILURES.to_owned(), Value::from(failures).to_string()));
        }
        for ((policy, key), values) in noted {
            annotate(|| (format!("{policy}/{key}"), values.join(", ")));
        }
        denied.map_or(Ok(()), Err)
    }
}
