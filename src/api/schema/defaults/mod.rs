//! Defaults of the built-in kinds: what upstream fills in between decoding and admission.
//!
//! One walk down a value along its struct. At each struct first the plain rows ([`rows`]: field and literal), then the
//! struct's hook ([`hooks`]: what depends on other fields), then the children. Conversions to the internal form that
//! show in answers (`stringData`, `serviceAccount`) are hooks too.
//!
//! Upstream: `pkg/apis/*/v1/defaults.go` and the generated `SetObjectDefaults_*`, which also go from outside in.
//!
//! **Invariant:** what the client set is never changed, only what is absent; defaulting twice changes nothing.
//! **Invariant:** fields are added behind those that stand there; [`super::canonicalize`] puts them in order.

mod hooks;
mod hooks_core;
mod rows;

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::{StructDef, Type, table};

/// The members of one struct.
type Members = Map<String, Value>;

/// A literal default.
#[derive(Debug, Clone, Copy)]
enum Literal {
    Text(&'static str),
    Int(i64),
    Bool(bool),
    /// `{}`.
    Empty,
    /// A list of one text.
    One(&'static str),
}

/// Plain defaults of one struct.
struct Row {
    structs: &'static [&'static str],
    fields: &'static [(&'static str, Literal)],
}

/// What depends on other fields of a struct.
struct Hook {
    structs: &'static [&'static str],
    run: fn(&mut Members),
}

/// All that happens at one struct.
#[derive(Default)]
struct Step {
    fields: Vec<(&'static str, Literal)>,
    hooks: Vec<fn(&mut Members)>,
    /// Fields with something to do at or below them.
    children: Vec<(&'static str, &'static Type)>,
}

/// The steps by [`StructDef::place`]; none for structs with nothing at or below them.
type Plan = Vec<Option<Step>>;

/// Fills in the defaults of a canonical object (or any struct) of the table.
pub fn apply(value: &mut Value, def: &'static StructDef) {
    run(plan(), value, def);
}

fn run(plan: &Plan, value: &mut Value, def: &'static StructDef) {
    let Some(step) = &plan[def.place] else { return };
    let Value::Object(members) = value else { return };
    for (field, literal) in &step.fields {
        // A text that is no pointer cannot be absent in upstream: empty is unset.
        let is_text = matches!(literal, Literal::Text(_)) && def.field(field).is_some_and(|f| !f.pointer);
        if is_text && members.get(*field).is_some_and(|v| *v == "") {
            members.insert((*field).to_owned(), literal.value());
        }
        set(members, field, || literal.value());
    }
    for hook in &step.hooks {
        hook(members);
    }
    if step.children.is_empty() {
        return;
    }
    for (key, child) in members.iter_mut() {
        if let Some((_, ty)) = step.children.iter().find(|(name, _)| name == key) {
            run_type(plan, child, ty);
        }
    }
}

fn run_type(plan: &Plan, value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(def), value) => run(plan, value, def),
        (Type::List(element), Value::Array(items)) => items.iter_mut().for_each(|item| run_type(plan, item, element)),
        (Type::Map(element), Value::Object(members)) => {
            members.values_mut().for_each(|item| run_type(plan, item, element));
        }
        _ => {}
    }
}

/// Sets a member that is absent or null.
fn set<V: Into<Value>>(members: &mut Members, field: &str, value: impl FnOnce() -> V) {
    match members.get_mut(field) {
        Some(Value::Null) => members[field] = value().into(),
        Some(_) => {}
        None => {
            members.insert(field.to_owned(), value().into());
        }
    }
}

impl Literal {
    fn value(self) -> Value {
        match self {
            Literal::Text(text) => text.into(),
            Literal::Int(n) => n.into(),
            Literal::Bool(b) => b.into(),
            Literal::Empty => Value::Object(Map::new()),
            Literal::One(text) => Value::Array(vec![text.into()]),
        }
    }
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let table = table();
        let mut plan: Plan = table.structs().iter().map(|_| None).collect();
        let mut step = |name: &str, change: &mut dyn FnMut(&mut Step)| {
            if let Some(def) = table.by_name(name) {
                change(plan[def.place].get_or_insert_default());
            }
        };
        for row in rows::ROWS {
            row.structs.iter().for_each(|name| step(name, &mut |s| s.fields.extend(row.fields)));
        }
        for hook in hooks::HOOKS.iter().chain(hooks_core::HOOKS) {
            hook.structs.iter().for_each(|name| step(name, &mut |s| s.hooks.push(hook.run)));
        }
        // Structs that lead to one with a step, until nothing is added.
        loop {
            let leads =
                |def: &&StructDef| plan[def.place].is_none() && def.fields().iter().any(|f| leads_to(&f.ty, &plan));
            let found: Vec<usize> = table.structs().iter().filter(leads).map(|d| d.place).collect();
            if found.is_empty() {
                break;
            }
            found.into_iter().for_each(|place| plan[place] = Some(Step::default()));
        }
        for def in table.structs() {
            let children = def.fields().iter().filter(|f| leads_to(&f.ty, &plan)).map(|f| (f.json, &f.ty)).collect();
            if let Some(step) = &mut plan[def.place] {
                step.children = children;
            }
        }
        plan
    })
}

fn leads_to(ty: &Type, plan: &Plan) -> bool {
    match ty {
        Type::Struct(def) => plan[def.place].is_some(),
        Type::List(inner) | Type::Map(inner) => leads_to(inner, plan),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
