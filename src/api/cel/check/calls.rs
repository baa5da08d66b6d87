//! Calls: which overload of a function takes the arguments, and what it gives.

use super::{Checker, Expr, Kind, Type};
use crate::api::cel::types::Signature;
use crate::api::cel::value::Val;
use crate::api::cel::{funcs, lib_regex, lib_time};

impl Checker<'_> {
    pub(super) fn no_overload(&mut self, at: u32, name: &str, args: &[Type], member: bool) -> Type {
        let shown: Vec<String> = args.iter().map(|t| self.whole(t).to_string()).collect();
        let args = match member {
            true => format!("{}.({})", shown[0], shown[1..].join(", ")),
            false => format!("({})", shown.join(", ")),
        };
        self.problem(at, format!("found no matching overload for '{name}' applied to '{args}'"))
    }

    pub(super) fn call(&mut self, e: &mut Expr) -> Type {
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

    pub(super) fn whole_but_vars(&self, t: &Type) -> Type {
        match self.head(t) {
            Type::List(t) => Type::list(self.whole_but_vars(&t)),
            Type::Map(k, v) => Type::map(self.whole_but_vars(&k), self.whole_but_vars(&v)),
            Type::Optional(t) => Type::Optional(Box::new(self.whole_but_vars(&t))),
            other => other,
        }
    }

    /// A signature with variables of its own.
    pub(super) fn instance(&mut self, s: &Signature) -> (Vec<Type>, Type) {
        let vars = [self.fresh(), self.fresh()];
        (s.args.iter().map(|t| renamed(t, &vars)).collect(), renamed(&s.result, &vars))
    }

    /// What a literal argument must be.
    pub(super) fn literals(&mut self, name: &str, args: &[Expr], member: bool) {
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
