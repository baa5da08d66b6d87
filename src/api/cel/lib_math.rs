//! Arithmetic, order and equality.

use super::funcs::{Res, Row, fail, no_overload};
use super::value::{self, Val};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row {
        name: "_+_",
        decls: &[
            "(int,int) int",
            "(uint,uint) uint",
            "(double,double) double",
            "(string,string) string",
            "(bytes,bytes) bytes",
            "(list(A),list(A)) list(A)",
            "(timestamp,duration) timestamp",
            "(duration,timestamp) timestamp",
            "(duration,duration) duration",
        ],
        run: add,
    },
    Row {
        name: "_-_",
        decls: &[
            "(int,int) int",
            "(uint,uint) uint",
            "(double,double) double",
            "(timestamp,timestamp) duration",
            "(timestamp,duration) timestamp",
            "(duration,duration) duration",
        ],
        run: subtract,
    },
    Row { name: "_*_", decls: &["(int,int) int", "(uint,uint) uint", "(double,double) double"], run: multiply },
    Row { name: "_/_", decls: &["(int,int) int", "(uint,uint) uint", "(double,double) double"], run: divide },
    Row { name: "_%_", decls: &["(int,int) int", "(uint,uint) uint"], run: modulo },
    Row { name: "-_", decls: &["(int) int", "(double) double"], run: negate },
    Row { name: "!_", decls: &["(bool) bool"], run: not },
    Row { name: "_==_", decls: &["(A,A) bool"], run: equals },
    Row { name: "_!=_", decls: &["(A,A) bool"], run: differs },
    Row { name: "_<_", decls: ORDERED, run: |a| ordered(a, Ordering::is_lt) },
    Row { name: "_<=_", decls: ORDERED, run: |a| ordered(a, Ordering::is_le) },
    Row { name: "_>_", decls: ORDERED, run: |a| ordered(a, Ordering::is_gt) },
    Row { name: "_>=_", decls: ORDERED, run: |a| ordered(a, Ordering::is_ge) },
];

const ORDERED: &[&str] = &[
    "(bool,bool) bool",
    "(int,int) bool",
    "(int,double) bool",
    "(int,uint) bool",
    "(uint,uint) bool",
    "(uint,double) bool",
    "(uint,int) bool",
    "(double,double) bool",
    "(double,int) bool",
    "(double,uint) bool",
    "(string,string) bool",
    "(bytes,bytes) bool",
    "(timestamp,timestamp) bool",
    "(duration,duration) bool",
];

/// Most bytes that one text or list of bytes may come to hold.
const TEXT_MAX: usize = 16 << 20;

fn int(v: Option<i64>) -> Res {
    v.map_or_else(|| fail("integer overflow"), |v| Ok(Val::Int(v)))
}

fn uint(v: Option<u64>) -> Res {
    v.map_or_else(|| fail("unsigned integer overflow"), |v| Ok(Val::Uint(v)))
}

fn duration(v: Option<i64>) -> Res {
    v.map_or_else(|| fail("integer overflow"), |v| Ok(Val::Duration(v)))
}

fn shifted(t: Timestamp, nanos: Option<i64>) -> Res {
    let moved = nanos.and_then(|n| t.checked_add(SignedDuration::from_nanos(n)).ok());
    match moved.filter(|t| super::lib_time::in_range(*t)) {
        Some(t) => Ok(Val::Time(t)),
        None => fail("timestamp overflow"),
    }
}

fn add(a: &[Val]) -> Res {
    match a {
        [Val::Int(a), Val::Int(b)] => int(a.checked_add(*b)),
        [Val::Uint(a), Val::Uint(b)] => uint(a.checked_add(*b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a + b)),
        [Val::Str(a), Val::Str(b)] if a.len() + b.len() <= TEXT_MAX => Ok(Val::from([&**a, &**b].concat())),
        [Val::Bytes(a), Val::Bytes(b)] if a.len() + b.len() <= TEXT_MAX => Ok(Val::Bytes([&**a, &**b].concat().into())),
        [Val::Str(_), Val::Str(_)] | [Val::Bytes(_), Val::Bytes(_)] => fail("result is too long"),
        [Val::List(a), Val::List(b)] => Ok(value::concat(a, b)),
        [Val::Time(t), Val::Duration(d)] | [Val::Duration(d), Val::Time(t)] => shifted(*t, Some(*d)),
        [Val::Duration(a), Val::Duration(b)] => duration(a.checked_add(*b)),
        _ => no_overload(),
    }
}

fn subtract(a: &[Val]) -> Res {
    match a {
        [Val::Int(a), Val::Int(b)] => int(a.checked_sub(*b)),
        [Val::Uint(a), Val::Uint(b)] => uint(a.checked_sub(*b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a - b)),
        [Val::Time(a), Val::Time(b)] => duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok()),
        [Val::Time(t), Val::Duration(d)] => shifted(*t, d.checked_neg()),
        [Val::Duration(a), Val::Duration(b)] => duration(a.checked_sub(*b)),
        _ => no_overload(),
    }
}

fn multiply(a: &[Val]) -> Res {
    match a {
        [Val::Int(a), Val::Int(b)] => int(a.checked_mul(*b)),
        [Val::Uint(a), Val::Uint(b)] => uint(a.checked_mul(*b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide(a: &[Val]) -> Res {
    match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => fail("division by zero"),
        [Val::Int(a), Val::Int(b)] => int(a.checked_div(*b)),
        [Val::Uint(a), Val::Uint(b)] => uint(a.checked_div(*b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo(a: &[Val]) -> Res {
    match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => fail("modulus by zero"),
        [Val::Int(a), Val::Int(b)] => int(a.checked_rem(*b)),
        [Val::Uint(a), Val::Uint(b)] => uint(a.checked_rem(*b)),
        _ => no_overload(),
    }
}

fn negate(a: &[Val]) -> Res {
    match a {
        [Val::Int(a)] => int(a.checked_neg()),
        [Val::Double(a)] => Ok(Val::Double(-a)),
        [Val::Duration(a)] => duration(a.checked_neg()),
        _ => no_overload(),
    }
}

fn not(a: &[Val]) -> Res {
    match a {
        [Val::Bool(b)] => Ok(Val::Bool(!b)),
        _ => no_overload(),
    }
}

fn equals(a: &[Val]) -> Res {
    match a {
        [a, b] => Ok(Val::Bool(value::equal(a, b))),
        _ => no_overload(),
    }
}

fn differs(a: &[Val]) -> Res {
    match a {
        [a, b] => Ok(Val::Bool(!value::equal(a, b))),
        _ => no_overload(),
    }
}

fn ordered(a: &[Val], is: fn(Ordering) -> bool) -> Res {
    let [a, b] = a else { return no_overload() };
    match value::compare(a, b) {
        Some(order) => Ok(Val::Bool(is(order))),
        // Not a number has a type of numbers, and no order.
        None if matches!((a, b), (Val::Double(_), _) | (_, Val::Double(_)))
            && [a, b].iter().all(|v| matches!(v, Val::Double(_) | Val::Int(_) | Val::Uint(_))) =>
        {
            fail("NaN values cannot be ordered")
        }
        None => no_overload(),
    }
}
