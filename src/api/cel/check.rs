//! The type checker: what an expression may name, and which functions take what it gives them.
//!
//! In: a tree and what is declared. Out: the type of its value, every call bound to what it runs, or what is wrong.
//! Rules: cel-go `checker`; upstream's base environment wants the members of a literal to be of one type.

use std::sync::Arc;

use super::Env;
use super::ast::{Entry, Expr, Fold, Kind};
use super::funcs;
use super::lexer::Problem;
use super::types::{Object, Signature, Type};
use super::value::Val;
use super::{lib_regex, lib_time};

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

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX))
    }

    /// What a type stands for, at its head.
    fn head(&self, t: &Type) -> Type {
        let mut t = t.clone();
        while let Type::Var(n) = t {
            match self.bound.get(n as usize).cloned().flatten() {
                Some(next) => t = next,
                None => break,
            }
        }
        t
    }

    /// A type without variables.
    fn whole(&self, t: &Type) -> Type {
        match self.head(t) {
            Type::Var(_) => Type::Dyn,
            Type::List(t) => Type::list(self.whole(&t)),
            Type::Map(k, v) => Type::map(self.whole(&k), self.whole(&v)),
            Type::Optional(t) => Type::Optional(Box::new(self.whole(&t))),
            Type::Type(t) => Type::Type(Box::new(self.whole(&t))),
            other => other,
        }
    }

    fn undo(&mut self, to: usize) {
        for n in self.trail.drain(to..) {
            self.bound[n] = None;
        }
    }

    fn occurs(&self, var: u32, t: &Type) -> bool {
        match self.head(t) {
            Type::Var(n) => n == var,
            Type::List(t) | Type::Optional(t) | Type::Type(t) => self.occurs(var, &t),
            Type::Map(k, v) => self.occurs(var, &k) || self.occurs(var, &v),
            _ => false,
        }
    }

    fn bind(&mut self, var: u32, t: Type) -> bool {
        if self.occurs(var, &t) {
            return t == Type::Var(var);
        }
        self.bound[var as usize] = Some(t);
        self.trail.push(var as usize);
        true
    }

    /// True when a value of a type can stand where another one is wanted.
    fn fits(&mut self, wanted: &Type, given: &Type) -> bool {
        match (self.head(wanted), self.head(given)) {
            (Type::Var(a), Type::Var(b)) if a == b => true,
            (Type::Var(n), t) | (t, Type::Var(n)) => self.bind(n, t),
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(&a, &b),
            (Type::Map(ka, va), Type::Map(kb, vb)) => self.fits(&ka, &kb) && self.fits(&va, &vb),
            // Of two types one may be asked whether it is the other.
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Timestamp | Type::Duration
            ),
            (a, b) => a == b,
        }
    }

    fn is(&mut self, wanted: &Type, given: &Type) -> bool {
        let mark = self.trail.len();
        let fits = self.fits(wanted, given);
        if !fits {
            self.undo(mark);
        }
        fits
    }

    /// A type for members of both types; they have to be of one.
    fn join(&mut self, at: u32, so_far: Option<Type>, next: Type) -> Type {
        let Some(so_far) = so_far else { return next };
        if self.is(&so_far, &next) {
            return if self.head(&next) == Type::Dyn { Type::Dyn } else { so_far };
        }
        let (a, b) = (self.whole(&so_far), self.whole(&next));
        self.problem(at, format!("expected type '{a}' but found '{b}'"))
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

    fn no_overload(&mut self, at: u32, name: &str, args: &[Type], member: bool) -> Type {
        let shown: Vec<String> = args.iter().map(|t| self.whole(t).to_string()).collect();
        let args = match member {
            true => format!("{}.({})", shown[0], shown[1..].join(", ")),
            false => format!("({})", shown.join(", ")),
        };
        self.problem(at, format!("found no matching overload for '{name}' applied to '{args}'"))
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

    fn call(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        let Kind::Call { name, member, args, fun } = &mut e.kind else { return Type::Dyn };
        // `sets.contains(a, b)` is a function of two arguments, unless somebody declared `sets`.
        if *member
            && let Some(space) = args[0].dotted()
            && !self.is_local(&space)
            && funcs::find(&format!("{space}.{name}")).is_some()
        {
            *name = format!("{space}.{name}");
            *member = false;
            args.remove(0);
        }
        let types: Vec<Type> = args.iter_mut().map(|a| self.expr(a)).collect();
        let Some(function) = funcs::find(name) else {
            return self.problem(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        let (name, member) = (name.clone(), *member);
        self.literals(&name, args, member);
        let mut result: Option<Type> = None;
        let mut runs = None;
        for (signature, run) in &function.overloads {
            if signature.member != member || signature.args.len() != types.len() {
                continue;
            }
            let mark = self.trail.len();
            let (wanted, made) = self.instance(signature);
            if !wanted.iter().zip(&types).all(|(w, t)| self.fits(w, t)) {
                self.undo(mark);
                continue;
            }
            runs = Some(*run);
            let made = self.whole_but_vars(&made);
            result = Some(match result {
                None => made,
                Some(before) if before == made => before,
                // Several fit: only the values will tell.
                Some(_) => Type::Dyn,
            });
        }
        *fun = runs;
        match result {
            Some(t) => t,
            None => self.no_overload(at, &name, &types, member),
        }
    }

    fn whole_but_vars(&self, t: &Type) -> Type {
        match self.head(t) {
            Type::List(t) => Type::list(self.whole_but_vars(&t)),
            Type::Map(k, v) => Type::map(self.whole_but_vars(&k), self.whole_but_vars(&v)),
            Type::Optional(t) => Type::Optional(Box::new(self.whole_but_vars(&t))),
            other => other,
        }
    }

    /// A signature with variables of its own.
    fn instance(&mut self, s: &Signature) -> (Vec<Type>, Type) {
        let vars = [self.fresh(), self.fresh()];
        (s.args.iter().map(|t| renamed(t, &vars)).collect(), renamed(&s.result, &vars))
    }

    /// What a literal argument must be.
    fn literals(&mut self, name: &str, args: &[Expr], member: bool) {
        let text = |i: usize| match args.get(i).map(|a| &a.kind) {
            Some(Kind::Const(Val::Str(s))) => Some(s.clone()),
            _ => None,
        };
        let bad = match (name, args.len(), member) {
            ("matches", 2, _) => text(1).filter(|s| lib_regex::compile(s).is_err()).map(|_| 1),
            ("timestamp", 1, false) => text(0).filter(|s| lib_time::parse_timestamp(s).is_none()).map(|_| 0),
            ("duration", 1, false) => text(0).filter(|s| lib_time::parse_duration(s).is_none()).map(|_| 0),
            _ => None,
        };
        if let Some(i) = bad {
            self.problem(args[i].at, format!("invalid {name} argument"));
        }
    }
}

fn renamed(t: &Type, vars: &[Type; 2]) -> Type {
    match t {
        Type::Var(n) => vars[*n as usize % 2].clone(),
        Type::List(t) => Type::list(renamed(t, vars)),
        Type::Map(k, v) => Type::map(renamed(k, vars), renamed(v, vars)),
        Type::Optional(t) => Type::Optional(Box::new(renamed(t, vars))),
        Type::Type(t) => Type::Type(Box::new(renamed(t, vars))),
        other => other.clone(),
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
