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

use std::collections::HashMap;
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

/// All that happens at one struct. Structs with nothing at or below them are not in the plan.
#[derive(Default)]
struct Step {
    fields: Vec<(&'static str, Literal)>,
    hooks: Vec<fn(&mut Members)>,
}

/// Fills in the defaults of a canonical object (or any struct) of the table.
pub fn apply(value: &mut Value, def: &'static StructDef) {
    let Some(step) = plan().get(def.name) else { return };
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
    for (key, child) in members.iter_mut() {
        if let Some(field) = def.field(key) {
            apply_type(child, &field.ty);
        }
    }
}

fn apply_type(value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(def), value) => apply(value, def),
        (Type::List(element), Value::Array(items)) if holds_structs(element) => {
            items.iter_mut().for_each(|item| apply_type(item, element));
        }
        (Type::Map(element), Value::Object(members)) if holds_structs(element) => {
            members.values_mut().for_each(|item| apply_type(item, element));
        }
        _ => {}
    }
}

fn holds_structs(ty: &Type) -> bool {
    match ty {
        Type::Struct(def) => plan().contains_key(def.name),
        Type::List(inner) | Type::Map(inner) => holds_structs(inner),
        _ => false,
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

/// The steps by struct name, for structs with something to do at or below them.
fn plan() -> &'static HashMap<&'static str, Step> {
    static PLAN: OnceLock<HashMap<&'static str, Step>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let mut plan: HashMap<&'static str, Step> = HashMap::new();
        for row in rows::ROWS {
            for name in row.structs {
                plan.entry(name).or_default().fields.extend(row.fields);
            }
        }
        for hook in hooks::HOOKS.iter().chain(hooks_core::HOOKS) {
            for name in hook.structs {
                plan.entry(name).or_default().hooks.push(hook.run);
            }
        }
        // Structs that lead to one with a step, until nothing is added.
        loop {
            let leads =
                |def: &&StructDef| !plan.contains_key(def.name) && def.fields().iter().any(|f| leads_to(&f.ty, &plan));
            let found: Vec<&'static str> = table().structs().iter().filter(leads).map(|d| d.name).collect();
            if found.is_empty() {
                return plan;
            }
            plan.extend(found.into_iter().map(|name| (name, Step::default())));
        }
    })
}

fn leads_to(ty: &Type, plan: &HashMap<&'static str, Step>) -> bool {
    match ty {
        Type::Struct(def) => plan.contains_key(def.name),
        Type::List(inner) | Type::Map(inner) => leads_to(inner, plan),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
