//! Policies with their expressions compiled, and the values that the expressions name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::api::cel::{Budget, Env, Error, Program, Res, Type, Val, Vars, cost};
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::expressions;

use crate::admission::matching::Matcher;

/// Policies, or bindings, that a server keeps compiled.
const KEPT_MAX: usize = 4096;
/// What all match conditions of one policy may cost for one request.
const CONDITIONS_COST: u64 = cost::PER_OBJECT / 4;

/// What was made of objects, until they change.
pub struct Kept<T>(Mutex<HashMap<String, (u64, Arc<T>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Kept<T> {
    /// What was made of an object of this revision, or is now.
    pub fn of(&self, object: &Object, make: impl FnOnce(&Value) -> T) -> Arc<T> {
        let name = &*object.meta.name;
        if let Some((revision, kept)) = self.0.lock().expect("no panic while held").get(name)
            && *revision == object.revision
        {
            return kept.clone();
        }
        let made = Arc::new(make(&object.value()));
        let mut all = self.0.lock().expect("no panic while held");
        if all.len() >= KEPT_MAX {
            all.clear();
        }
        all.insert(name.to_owned(), (object.revision, made.clone()));
        made
    }
}

/// An expression, or why it is none: a policy stored by an older server may not compile any more.
pub struct Expression {
    /// As it was written.
    pub text: String,
    program: Result<Program, String>,
}

impl Expression {
    /// Compiles the text of a member; none when it is absent or blank.
    pub fn new(of: &Value, member: &str, env: &Env) -> Option<Self> {
        let text = of.str_at(&format!("/{member}")).unwrap_or_default().trim().to_owned();
        let program = Program::compile(env, &text).map_err(|e| format!("compilation error: {e}"));
        (!text.is_empty()).then_some(Self { text, program })
    }

    /// Its value.
    pub fn eval(&self, vars: &dyn Vars, budget: &mut Budget) -> Res {
        match &self.program {
            Ok(program) => program.eval(vars, budget),
            Err(why) => Err(Error::Failed(why.clone())),
        }
    }

    /// Its value, which has to be a boolean.
    pub fn is_true(&self, vars: &dyn Vars, budget: &mut Budget) -> Result<bool, Error> {
        match self.eval(vars, budget)? {
            Val::Bool(b) => Ok(b),
            _ => Err(Error::Failed("expression does not evaluate to a bool".into())),
        }
    }
}

/// `matchConditions` of a policy or of a webhook.
#[derive(Default)]
pub struct Conditions(Vec<(String, Expression)>);

impl Conditions {
    /// Of an object that has them.
    pub fn new(of: &Value, env: &Env) -> Self {
        let one = |c: &Value| {
            let name = c.str_at("/name").unwrap_or_default().to_owned();
            Some((name, Expression::new(c, "expression", env)?))
        };
        Self(of.items_at("/matchConditions").iter().filter_map(one).collect())
    }

    /// True when there is none: nothing has to be made for them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when all of them hold. One that does not is stronger than one that has no value.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn hold(&self, vars: &dyn Vars) -> Result<bool, String> {
        let mut budget = Budget::new(CONDITIONS_COST);
        let mut error = None;
        for (name, condition) in &self.0 {
            match condition.is_true(vars, &mut budget) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => {
                    let text = &condition.text;
                    error = error.or(Some(format!("{name}: expression '{text}' resulted in error: {why}")));
                }
            }
        }
        error.map_or(Ok(true), Err)
    }
}

impl std::fmt::Debug for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What both kinds of policies have.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Fail: what cannot be decided is refused.
    pub fail: bool,
    /// Which requests it is for.
    pub matcher: Matcher,
    /// `apiVersion` and `kind` of its parameters.
    pub param_kind: Option<(String, String)>,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    /// What its expressions may name.
    pub env: Env,
}

impl Policy {
    /// From the object.
    pub fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |v: &Value, path: &str| v.str_at(path).unwrap_or_default().to_owned();
        let param_kind = spec.get("paramKind").filter(|k| k.is_object());
        let param_kind = param_kind.map(|k| (text(k, "/apiVersion"), text(k, "/kind")));
        let mut env = expressions::policy(param_kind.is_some());
        let conditions = Conditions::new(spec, &env);
        let mut variables = Vec::new();
        for variable in spec.items_at("/variables") {
            let name = text(variable, "/name");
            let Some(expression) = Expression::new(variable, "expression", &env) else { continue };
            let type_ = expression.program.as_ref().map_or(Type::Dyn, |p| p.result.clone());
            env = expressions::with_variable(env, &name, type_);
            variables.push((name, expression));
        }
        Self {
            name: text(object, "/metadata/name"),
            fail: spec.str_at("/failurePolicy") != Some("Ignore"),
            matcher: Matcher::new(&spec["matchConstraints"], "resourceRules"),
            param_kind,
            conditions,
            variables,
            env,
        }
    }

    /// True when all match conditions hold.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn conditions_hold(&self, vars: &dyn Vars) -> Result<bool, String> {
        self.conditions.hold(vars)
    }

    /// The values that the expressions name, of which variables are made when they are first asked for.
    pub fn vars<'a>(&'a self, base: &'a [(&'static str, Val)], params: Val) -> Values<'a> {
        Values { base, params, variables: &self.variables, made: RefCell::default() }
    }
}

/// The values of one evaluation of a policy.
pub struct Values<'a> {
    base: &'a [(&'static str, Val)],
    params: Val,
    variables: &'a [(String, Expression)],
    made: RefCell<HashMap<&'a str, Res>>,
}

impl Values<'_> {
    /// A variable, made once. One that the budget did not suffice for is not kept.
    fn variable(&self, name: &str, budget: &mut Budget) -> Option<Res> {
        if let Some(made) = self.made.borrow().get(name) {
            return Some(made.clone());
        }
        let (name, expression) = self.variables.iter().find(|(n, _)| n == name)?;
        // A variable names earlier ones only: this ends.
        let made = expression.eval(self, budget);
        if !matches!(made, Err(Error::Budget)) {
            self.made.borrow_mut().insert(name, made.clone());
        }
        Some(made)
    }
}

impl Vars for Values<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Res> {
        if let Some(variable) = name.strip_prefix("variables.") {
            return self.variable(variable, budget);
        }
        if name == "params" {
            return Some(Ok(self.params.clone()));
        }
        self.base.iter().find(|(n, _)| *n == name).map(|(_, v)| Ok(v.clone()))
    }
}
