//! The Common Expression Language with the functions that Kubernetes adds.
//!
//! In: a text, and an [`Env`] of what it may name. Out: a [`Program`], or why there is none; from that and values, a
//! value or an error. Rules: the language's specification, cel-go, upstream `apiserver/pkg/cel`.
//!
//! Why an own one: Kubernetes wants expressions refused when they are written (types, fields, costs), and values that
//! know their schema (sets, quantities, times within JSON). The crates there are have neither.
//!
//! **Invariant:** no IO, no panic, whatever the text: its length, its depth, the work and the memory of its evaluation
//! are bounded.

mod ast;
pub mod authorizer;
mod check;
mod convert;
pub mod cost;
pub mod device;
pub mod escape;
pub mod estimate;
mod eval;
mod funcs;
mod lexer;
mod lib_format;
mod lib_lists;
mod lib_math;
mod lib_net;
mod lib_optional;
mod lib_quantity;
mod lib_regex;
mod lib_semver;
mod lib_std;
mod lib_strings;
mod lib_time;
mod lib_url;
mod parser;
pub mod rules;
mod rules_compile;
mod schema;
#[cfg(test)]
mod tests;
pub mod typed;
pub mod types;
pub mod value;

use std::collections::HashMap;
use std::sync::Arc;

pub use cost::Budget;
pub use funcs::{Error, Res};
pub use parser::is_identifier;
pub use types::Type;
pub use value::Val;

/// What expressions may name.
#[derive(Debug, Clone, Default)]
pub struct Env {
    vars: HashMap<String, Type>,
    /// Objects that may be made, by their names.
    objects: HashMap<String, Arc<types::Object>>,
    /// Takes `Object{…}` and what stands below it, as patches of policies write them.
    patches: bool,
}

impl Env {
    /// One that names nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a variable. A dotted name (`variables.x`) is one that is evaluated by itself.
    #[must_use]
    pub fn with(mut self, name: &str, type_: Type) -> Self {
        self.vars.insert(name.to_owned(), type_);
        self
    }

    /// The same without a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.vars.remove(name);
        self
    }

    /// The same with what makes patches: `Object{…}` and `JSONPatch{…}`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        let fields = [("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)];
        if let Type::Object(object) = Type::object("JSONPatch", fields) {
            self.objects.insert("JSONPatch".to_owned(), object);
        }
        self.patches = true;
        self
    }

    fn var(&self, name: &str) -> Option<&Type> {
        self.vars.get(name)
    }

    fn object(&self, name: &str) -> Option<Arc<types::Object>> {
        let patch = self.patches && (name == "Object" || name.starts_with("Object."));
        let open = || Arc::new(types::Object { name: name.to_owned(), open: true, ..Default::default() });
        self.objects.get(name).cloned().or_else(|| patch.then(open))
    }
}

/// Where an evaluation finds the values of variables.
pub trait Vars {
    /// A variable's value; none when there is none. What it costs to make it is taken from the budget.
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Res>;
}

/// A few variables with their names.
pub struct Named<'a>(pub &'a [(&'a str, Val)]);

impl Vars for Named<'_> {
    fn get(&self, name: &str, _budget: &mut Budget) -> Option<Res> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| Ok(v.clone()))
    }
}

/// An expression that was checked.
#[derive(Debug, Clone)]
pub struct Program {
    expr: ast::Expr,
    /// The type of its value.
    pub result: Type,
}

/// Why a text cannot be evaluated, with the places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

impl Program {
    /// Reads and checks a text.
    pub fn compile(env: &Env, text: &str) -> Result<Self, CompileError> {
        let mut expr = parser::parse(text).map_err(|p| CompileError(located(text, &[p])))?;
        match check::check(env, &mut expr) {
            Ok(result) => Ok(Self { expr, result }),
            Err(problems) => Err(CompileError(located(text, &problems))),
        }
    }

    /// The most that one evaluation costs, where its variables are of a schema.
    pub fn cost(&self, schema: &serde_json::Value) -> u64 {
        estimate::cost(&self.expr, schema)
    }

    /// True when it names a variable, anywhere.
    pub fn names(&self, variable: &str) -> bool {
        self.expr.names(variable)
    }

    /// Its value. What one evaluation may cost is bounded by [`cost::PER_CALL`] too.
    pub fn eval(&self, vars: &dyn Vars, budget: &mut Budget) -> Res {
        let limit = budget.left().min(cost::PER_CALL);
        let mut own = Budget::new(limit);
        let out = eval::eval(&self.expr, vars, &mut own);
        budget.spend(limit - own.left()).and(out)
    }
}

/// Most problems that are told.
const TOLD_MAX: usize = 10;

/// Problems with the lines where they are, as the compiler upstream writes them.
fn located(text: &str, problems: &[lexer::Problem]) -> String {
    let all = problems.iter().take(TOLD_MAX).map(|p| {
        let (mut line, mut column) = (1, 0);
        for c in text.chars().take(p.at) {
            if c == '\n' {
                (line, column) = (line + 1, 0);
            } else {
                column += 1;
            }
        }
        let source: String = text.lines().nth(line - 1).unwrap_or_default().chars().take(4096).collect();
        format!("ERROR: <input>:{line}:{}: {}\n | {source}\n | {}^", column + 1, p.why, ".".repeat(column.min(4096)))
    });
    all.collect::<Vec<_>>().join("\n")
}
