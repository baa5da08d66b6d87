//! Quantities.
//!
//! Rules: upstream `apiserver/pkg/cel/library/quantity.go`.

use super::funcs::{Res, Row, fail, no_overload};
use super::value::Val;
use crate::api::meta::quantity::Quantity;

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "quantity", decls: &["(string) kubernetes.Quantity"], run: quantity },
    Row { name: "isQuantity", decls: &["(string) bool"], run: is_quantity },
    Row { name: "sign", decls: &["kubernetes.Quantity.() int"], run: sign },
    Row {
        name: "isGreaterThan",
        decls: &["kubernetes.Quantity.(kubernetes.Quantity) bool", "kubernetes.Semver.(kubernetes.Semver) bool"],
        run: |a| compared(a, std::cmp::Ordering::is_gt),
    },
    Row {
        name: "isLessThan",
        decls: &["kubernetes.Quantity.(kubernetes.Quantity) bool", "kubernetes.Semver.(kubernetes.Semver) bool"],
        run: |a| compared(a, std::cmp::Ordering::is_lt),
    },
    Row {
        name: "compareTo",
        decls: &["kubernetes.Quantity.(kubernetes.Quantity) int", "kubernetes.Semver.(kubernetes.Semver) int"],
        run: compare_to,
    },
    Row { name: "isInteger", decls: &["kubernetes.Quantity.() bool"], run: is_integer },
    Row { name: "asInteger", decls: &["kubernetes.Quantity.() int"], run: as_integer },
    Row { name: "asApproximateFloat", decls: &["kubernetes.Quantity.() double"], run: as_float },
    Row { name: "add", decls: ARITHMETIC, run: |a| arithmetic(a, Quantity::plus) },
    Row { name: "sub", decls: ARITHMETIC, run: |a| arithmetic(a, Quantity::minus) },
];

const ARITHMETIC: &[&str] =
    &["kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity", "kubernetes.Quantity.(int) kubernetes.Quantity"];
const NANO: i128 = 1_000_000_000;

fn quantity(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Quantity::parse(s).map(Val::Quantity).or_else(|why| fail(why.to_string())),
        _ => no_overload(),
    }
}

fn is_quantity(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::Bool(Quantity::parse(s).is_ok())),
        _ => no_overload(),
    }
}

fn sign(a: &[Val]) -> Res {
    match a {
        [Val::Quantity(q)] => Ok(Val::Int(q.nanos().signum() as i64)),
        _ => no_overload(),
    }
}

fn order(a: &[Val]) -> Option<std::cmp::Ordering> {
    match a {
        [Val::Quantity(a), Val::Quantity(b)] => Some(a.nanos().cmp(&b.nanos())),
        [Val::Semver(a), Val::Semver(b)] => Some(a.order(b)),
        _ => None,
    }
}

fn compared(a: &[Val], is: fn(std::cmp::Ordering) -> bool) -> Res {
    order(a).map_or_else(no_overload, |o| Ok(Val::Bool(is(o))))
}

fn compare_to(a: &[Val]) -> Res {
    order(a).map_or_else(no_overload, |o| Ok(Val::Int(o as i64)))
}

fn whole(q: &Quantity) -> Option<i64> {
    (q.nanos() % NANO == 0).then(|| i64::try_from(q.nanos() / NANO).ok())?
}

fn is_integer(a: &[Val]) -> Res {
    match a {
        [Val::Quantity(q)] => Ok(Val::Bool(whole(q).is_some())),
        _ => no_overload(),
    }
}

fn as_integer(a: &[Val]) -> Res {
    match a {
        [Val::Quantity(q)] => match whole(q) {
            Some(i) => Ok(Val::Int(i)),
            None => fail("cannot convert value to integer"),
        },
        _ => no_overload(),
    }
}

fn as_float(a: &[Val]) -> Res {
    match a {
        [Val::Quantity(q)] => Ok(Val::Double(q.nanos() as f64 / NANO as f64)),
        _ => no_overload(),
    }
}

fn arithmetic(a: &[Val], with: fn(Quantity, Quantity) -> Quantity) -> Res {
    match a {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(Val::Quantity(with(*a, *b))),
        [Val::Quantity(a), Val::Int(b)] => Ok(Val::Quantity(with(*a, Quantity::units(*b)))),
        _ => no_overload(),
    }
}
