//! Which types fit where: variables of types, what they stand for, and one type for several values.

use super::{Checker, Type};

impl Checker<'_> {
    pub(super) fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX))
    }

    /// What a type stands for, at its head.
    pub(super) fn head(&self, t: &Type) -> Type {
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
    pub(super) fn whole(&self, t: &Type) -> Type {
        match self.head(t) {
            Type::Var(_) => Type::Dyn,
            Type::List(t) => Type::list(self.whole(&t)),
            Type::Map(k, v) => Type::map(self.whole(&k), self.whole(&v)),
            Type::Optional(t) => Type::Optional(Box::new(self.whole(&t))),
            Type::Type(t) => Type::Type(Box::new(self.whole(&t))),
            other => other,
        }
    }

    pub(super) fn undo(&mut self, to: usize) {
        for n in self.trail.drain(to..) {
            self.bound[n] = None;
        }
    }

    pub(super) fn occurs(&self, var: u32, t: &Type) -> bool {
        match self.head(t) {
            Type::Var(n) => n == var,
            Type::List(t) | Type::Optional(t) | Type::Type(t) => self.occurs(var, &t),
            Type::Map(k, v) => self.occurs(var, &k) || self.occurs(var, &v),
            _ => false,
        }
    }

    pub(super) fn bind(&mut self, var: u32, t: Type) -> bool {
        if self.occurs(var, &t) {
            return t == Type::Var(var);
        }
        self.bound[var as usize] = Some(t);
        self.trail.push(var as usize);
        true
    }

    /// True when a value of a type can stand where another one is wanted.
    pub(super) fn fits(&mut self, wanted: &Type, given: &Type) -> bool {
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

    pub(super) fn is(&mut self, wanted: &Type, given: &Type) -> bool {
        let mark = self.trail.len();
        let fits = self.fits(wanted, given);
        if !fits {
            self.undo(mark);
        }
        fits
    }

    /// A type for members of both types; they have to be of one.
    pub(super) fn join(&mut self, at: u32, so_far: Option<Type>, next: Type) -> Type {
        let Some(so_far) = so_far else { return next };
        if self.is(&so_far, &next) {
            return if self.head(&next) == Type::Dyn { Type::Dyn } else { so_far };
        }
        let (a, b) = (self.whole(&so_far), self.whole(&next));
        self.problem(at, format!("expected type '{a}' but found '{b}'"))
    }
}
