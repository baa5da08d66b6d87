//! The type checker: what an expression may name, and which functions take what it gives them.
//!
//! In: a tree and what is declared. Out: the type of its value, every call bound to what it runs, or what is wrong.
//! Rules: cel-go `checker`; upstream's base environment wants the members of a literal to be of one type.

mod calls;
mod unify;

use std::sync::Arc;

use super::Env;
use super::ast::{Entry, Expr, Fold, Kind};
use super::lexer::Problem;
use super::types::{Object, Type};
use super::value::Val;

/// Checks a tree and binds its calls.
pub fn check(env: &Env, expr: &mut Expr) -> Result<Type, Vec<Problem>> {
    let mut checker = Checker { env, locals: Vec::new(), bound: Vec::new(), trail: Vec::new(), problems: Vec::new() };
    let type_ = checker.expr(expr);
    let type_ = checker.whole(&type_);
    if checker.problems.is_empty() { Ok(type_) } else { Err(checker.problems) }
}

struct Checker<'a> {
    env: &'a Env,
    locals: Vec<(String, Type)>,
    /// What variables of types stand for.
    bound: Vec<Option<Type>>,
    /// Which were bound, in order: an overload that does not fit takes its own back.
    trail: Vec<usize>,
    problems: Vec<Problem>,
}

/// The type that a name stands for.
fn type_named(name: &str) -> Option<(Type, &'static str)> {
    Some(match name {
        "bool" => (Type::Bool, "bool"),
        "int" => (Type::Int, "int"),
        "uint" => (Type::Uint, "uint"),
        "double" => (Type::Double, "double"),
        "string" => (Type::String, "string"),
        "bytes" => (Type::Bytes, "bytes"),
        "list" => (Type::list(Type::Dyn), "list"),
        "map" => (Type::map(Type::Dyn, Type::Dyn), "map"),
        "null_type" => (Type::Null, "null_type"),
        "type" => (Type::Type(Box::new(Type::Dyn)), "type"),
        "optional_type" => (Type::Optional(Box::new(Type::Dyn)), "optional_type"),
        "google.protobuf.Timestamp" => (Type::Timestamp, "google.protobuf.Timestamp"),
        "google.protobuf.Duration" => (Type::Duration, "google.protobuf.Duration"),
        "kubernetes.Quantity" => (Type::Opaque("kubernetes.Quantity"), "kubernetes.Quantity"),
        "kubernetes.URL" => (Type::Opaque("kubernetes.URL"), "kubernetes.URL"),
        "net.IP" => (Type::Opaque("net.IP"), "net.IP"),
        "net.CIDR" => (Type::Opaque("net.CIDR"), "net.CIDR"),
        _ => return None,
    })
}

impl Checker<'_> {
    fn problem(&mut self, at: u32, why: impl Into<String>) -> Type {
        self.problems.push(Problem { at: at as usize, why: why.into() });
        Type::Dyn
    }

    fn expr(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        self.qualify(e);
        match &mut e.kind {
            Kind::Const(v) => constant(v),
            Kind::Ident { .. } => self.ident(e),
            Kind::Select { operand, field, test, optional } => {
                let of = self.expr(operand);
                let t = self.select(at, &of, field);
                match (*test, *optional) {
                    (true, _) => Type::Bool,
                    (_, true) => optional_of(t),
                    _ => t,
                }
            }
            Kind::Index { operand, index, optional } => {
                let (of, by) = (self.expr(operand), self.expr(index));
                let t = self.index(at, &of, &by, *optional);
                if *optional { optional_of(t) } else { t }
            }
            Kind::Call { .. } => self.call(e),
            Kind::And(parts) => self.logic(at, "_&&_", parts),
            Kind::Or(parts) => self.logic(at, "_||_", parts),
            Kind::Cond(parts) => {
                let [cond, yes, no] = &mut **parts;
                let (c, a, b) = (self.expr(cond), self.expr(yes), self.expr(no));
                if self.is(&Type::Bool, &c) && self.is(&a, &b) {
                    return if self.head(&b) == Type::Dyn || self.head(&a) == Type::Null { b } else { a };
                }
                self.no_overload(at, "_?_:_", &[c, a, b], false)
            }
            Kind::List(items) => {
                let mut element = None;
                for Entry { value, optional, .. } in items {
                    let t = self.entry(value, *optional);
                    element = Some(self.join(value.at, element, t));
                }
                Type::list(element.unwrap_or_else(|| self.fresh()))
            }
            Kind::Map(entries) => {
                let (mut key, mut value) = (None, None);
                for entry in entries {
                    let k = self.expr(&mut entry.key);
                    key = Some(self.join(entry.key.at, key, k));
                    let v = self.entry(&mut entry.value, entry.optional);
                    value = Some(self.join(entry.value.at, value, v));
                }
                Type::map(key.unwrap_or_else(|| self.fresh()), value.unwrap_or_else(|| self.fresh()))
            }
            Kind::Struct { name, fields } => self.object(at, name, fields),
            Kind::Fold { .. } => self.fold(e),
            Kind::Bind { name, value, body } => {
                let t = self.expr(value);
                self.within(&[(name, t)], |c| c.expr(body))
            }
            Kind::OptMap { operand, name, body, flat } => {
                let of = self.expr(operand);
                let inner = match self.head(&of) {
                    Type::Optional(t) => *t,
                    Type::Dyn | Type::Var(_) => Type::Dyn,
                    other => {
                        let other = self.whole(&other);
                        self.problem(at, format!("found no matching overload for 'hasValue' applied to '{other}.()'"))
                    }
                };
                let made = self.within(&[(name, inner)], |c| c.expr(body));
                if *flat { made } else { Type::Optional(Box::new(made)) }
            }
        }
    }

    /// A dotted name that is declared as a whole is one variable; a dotted name of a type is the type.
    fn qualify(&mut self, e: &mut Expr) {
        let Kind::Select { test, operand, field, .. } = &e.kind else { return };
        if *test {
            if let Some(base) = operand.dotted()
                && self.env.var(&format!("{base}.{field}")).is_some()
                && !self.is_local(&base)
            {
                e.kind = Kind::Const(Val::Bool(true));
            }
            return;
        }
        let Some(name) = e.dotted() else { return };
        if self.is_local(&name) {
            return;
        }
        if self.env.var(&name).is_some() || type_named(&name).is_some() {
            e.kind = Kind::Ident { name, local: false };
        }
    }

    fn is_local(&self, dotted: &str) -> bool {
        let first = dotted.split('.').next().unwrap_or_default();
        self.locals.iter().any(|(n, _)| n == first)
    }

    fn ident(&mut self, e: &mut Expr) -> Type {
        let Kind::Ident { name, local } = &mut e.kind else { return Type::Dyn };
        if let Some((_, t)) = self.locals.iter().rev().find(|(n, _)| n == name) {
            *local = true;
            return t.clone();
        }
        if let Some(t) = self.env.var(name) {
            return t.clone();
        }
        if let Some((t, text)) = type_named(name) {
            e.kind = Kind::Const(Val::Type(text.into()));
            return Type::Type(Box::new(t));
        }
        let why = format!("undeclared reference to '{name}' (in container '')");
        self.problem(e.at, why)
    }

    fn within<T>(&mut self, vars: &[(&String, Type)], f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.locals.len();
        self.locals.extend(vars.iter().map(|(n, t)| ((*n).clone(), t.clone())));
        let out = f(self);
        self.locals.truncate(before);
        out
    }

    fn select(&mut self, at: u32, of: &Type, field: &str) -> Type {
        match self.head(of) {
            Type::Dyn | Type::Var(_) => Type::Dyn,
            Type::Map(_, v) => *v,
            Type::Object(o) => match o.fields.get(field) {
                Some(t) => t.clone(),
                None if o.open => Type::Dyn,
                None => self.problem(at, format!("undefined field '{field}'")),
            },
            Type::Optional(t) => {
                let inner = self.select(at, &t, field);
                optional_of(inner)
            }
            other => {
                let other = self.whole(&other);
                self.problem(at, format!("type '{other}' does not support field selection"))
            }
        }
    }

    fn index(&mut self, at: u32, of: &Type, by: &Type, optional: bool) -> Type {
        match self.head(of) {
            Type::Dyn | Type::Var(_) => return Type::Dyn,
            Type::List(t) if self.is(&Type::Int, by) => return *t,
            Type::Map(k, v) if self.is(&k, by) => return *v,
            Type::Optional(t) => {
                let inner = self.index(at, &t, by, optional);
                return optional_of(inner);
            }
            _ => {}
        }
        let name = if optional { "_[?_]" } else { "_[_]" };
        self.no_overload(at, name, &[of.clone(), by.clone()], false)
    }

    fn entry(&mut self, value: &mut Expr, optional: bool) -> Type {
        let t = self.expr(value);
        if !optional {
            return t;
        }
        match self.head(&t) {
            Type::Optional(t) => *t,
            Type::Dyn | Type::Var(_) => Type::Dyn,
            other => {
                let other = self.whole(&other);
                self.problem(value.at, format!("expected type 'optional_type({other})' but found '{other}'"))
            }
        }
    }

    fn logic(&mut self, at: u32, name: &str, parts: &mut [Expr]) -> Type {
        let types: Vec<Type> = parts.iter_mut().map(|p| self.expr(p)).collect();
        if types.iter().all(|t| self.is(&Type::Bool, t)) {
            return Type::Bool;
        }
        self.no_overload(at, name, &types, false)
    }

    fn object(&mut self, at: u32, name: &str, fields: &mut [Entry<String>]) -> Type {
        let Some(object) = self.env.object(name) else {
            fields.iter_mut().for_each(|f| drop(self.expr(&mut f.value)));
            return self.problem(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        for field in fields {
            let given = self.entry(&mut field.value, field.optional);
            let wanted = match object.fields.get(&field.key) {
                Some(t) => t.clone(),
                // What stands below an object of no known schema is named after its place.
                None if object.open => match self.head(&given) {
                    Type::Object(o) if o.open => {
                        let name = format!("{name}.{}", field.key);
                        Type::Object(Arc::new(Object { name, open: true, ..Object::default() }))
                    }
                    _ => continue,
                },
                None => {
                    self.problem(field.value.at, format!("undefined field '{}'", field.key));
                    continue;
                }
            };
            if !self.is(&wanted, &given) {
                let given = self.whole(&given);
                let why =
                    format!("expected type of field '{}' is '{wanted}' but provided type is '{given}'", field.key);
                self.problem(field.value.at, why);
            }
        }
        Type::Object(object)
    }

    fn fold(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        let Kind::Fold { fold, range, vars, filter, step } = &mut e.kind else { return Type::Dyn };
        let of = self.expr(range);
        let (key, element) = match self.head(&of) {
            Type::List(t) => (Type::Int, *t),
            Type::Map(k, v) => (*k, *v),
            Type::Dyn | Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let other = self.whole(&other);
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.problem(range.at, why);
                (Type::Dyn, Type::Dyn)
            }
        };
        let is_map = matches!(self.head(&of), Type::Map(..));
        // One variable of a map is its key.
        let one = if is_map { key.clone() } else { element.clone() };
        let named: Vec<(&String, Type)> = match &vars[..] {
            [k, v] => vec![(k, key.clone()), (v, element)],
            [v] => vec![(v, one.clone())],
            _ => Vec::new(),
        };
        let fold = *fold;
        let made = self.within(&named, |c| {
            if let Some(filter) = filter {
                let t = c.expr(filter);
                c.condition(filter.at, &t);
            }
            c.expr(step)
        });
        match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => {
                self.condition(at, &made);
                Type::Bool
            }
            Fold::Filter => {
                self.condition(at, &made);
                Type::list(one)
            }
            Fold::Map => Type::list(made),
            Fold::TransformMap => Type::map(key, made),
            Fold::TransformMapEntry => match self.head(&made) {
                t @ (Type::Map(..) | Type::Dyn) => t,
                _ => self.no_overload(at, "cel.@mapInsert", &[made], false),
            },
            Fold::SortBy => Type::list(one),
        }
    }

    fn condition(&mut self, at: u32, given: &Type) {
        if !self.is(&Type::Bool, given) {
            let given = self.whole(given);
            self.problem(at, format!("expected type 'bool' but found '{given}'"));
        }
    }
}

fn optional_of(t: Type) -> Type {
    match t {
        Type::Optional(_) => t,
        t => Type::Optional(Box::new(t)),
    }
}

fn constant(v: &Val) -> Type {
    match v {
        Val::Null => Type::Null,
        Val::Bool(_) => Type::Bool,
        Val::Int(_) => Type::Int,
        Val::Uint(_) => Type::Uint,
        Val::Double(_) => Type::Double,
        Val::Str(_) => Type::String,
        Val::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}
