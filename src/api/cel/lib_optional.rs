//! Optional values.

use std::sync::Arc;

use super::funcs::{Res, Row, fail, no_overload};
use super::value::Val;

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "optional.of", decls: &["(A) opt(A)"], run: of },
    Row { name: "optional.none", decls: &["() opt(A)"], run: |_| Ok(Val::Optional(None)) },
    Row { name: "optional.ofNonZeroValue", decls: &["(A) opt(A)"], run: of_non_zero },
    Row { name: "hasValue", decls: &["opt(A).() bool"], run: has_value },
    Row { name: "value", decls: &["opt(A).() A"], run: value },
    Row { name: "or", decls: &["opt(A).(opt(A)) opt(A)"], run: or },
    Row { name: "orValue", decls: &["opt(A).(A) A"], run: or_value },
    Row { name: "optional.unwrap", decls: &["(list(opt(A))) list(A)"], run: unwrap },
    Row { name: "unwrapOpt", decls: &["list(opt(A)).() list(A)"], run: unwrap },
];

fn of(a: &[Val]) -> Res {
    match a {
        [v] => Ok(Val::some(v.clone())),
        _ => no_overload(),
    }
}

fn of_non_zero(a: &[Val]) -> Res {
    match a {
        [v] => Ok(if v.is_zero() { Val::Optional(None) } else { Val::some(v.clone()) }),
        _ => no_overload(),
    }
}

fn has_value(a: &[Val]) -> Res {
    match a {
        [Val::Optional(o)] => Ok(Val::Bool(o.is_some())),
        _ => no_overload(),
    }
}

fn value(a: &[Val]) -> Res {
    match a {
        [Val::Optional(Some(v))] => Ok(Val::clone(v)),
        [Val::Optional(None)] => fail("optional.none() dereference"),
        _ => no_overload(),
    }
}

fn or(a: &[Val]) -> Res {
    match a {
        [Val::Optional(None), other @ Val::Optional(_)] => Ok(other.clone()),
        [one @ Val::Optional(_), Val::Optional(_)] => Ok(one.clone()),
        _ => no_overload(),
    }
}

fn or_value(a: &[Val]) -> Res {
    match a {
        [Val::Optional(Some(v)), _] => Ok(Val::clone(v)),
        [Val::Optional(None), other] => Ok(other.clone()),
        _ => no_overload(),
    }
}

fn unwrap(a: &[Val]) -> Res {
    let [Val::List(l)] = a else { return no_overload() };
    let mut out = Vec::new();
    for v in &l.items {
        match v {
            Val::Optional(Some(v)) => out.push(Val::clone(Arc::as_ref(v))),
            Val::Optional(None) => {}
            _ => return no_overload(),
        }
    }
    Ok(Val::list(out))
}
