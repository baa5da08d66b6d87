//! The language's own functions: sizes, members, conversions.

use super::convert;
use super::funcs::{Res, Row, fail, no_overload};
use super::value::{self, Key, Val};

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row {
        name: "size",
        decls: &[
            "(string) int",
            "string.() int",
            "(bytes) int",
            "bytes.() int",
            "(list(A)) int",
            "list(A).() int",
            "(map(A,B)) int",
            "map(A,B).() int",
        ],
        run: size,
    },
    Row { name: "@in", decls: &["(A,list(A)) bool", "(A,map(A,B)) bool"], run: is_in },
    Row { name: "contains", decls: &["string.(string) bool"], run: contains },
    Row { name: "startsWith", decls: &["string.(string) bool"], run: starts_with },
    Row { name: "endsWith", decls: &["string.(string) bool"], run: ends_with },
    Row {
        name: "int",
        decls: &["(int) int", "(uint) int", "(double) int", "(string) int", "(timestamp) int", "(duration) int"],
        run: convert::int,
    },
    Row { name: "uint", decls: &["(uint) uint", "(int) uint", "(double) uint", "(string) uint"], run: convert::uint },
    Row {
        name: "double",
        decls: &["(double) double", "(int) double", "(uint) double", "(string) double"],
        run: convert::double,
    },
    Row { name: "bool", decls: &["(bool) bool", "(string) bool"], run: convert::boolean },
    Row { name: "bytes", decls: &["(bytes) bytes", "(string) bytes"], run: convert::bytes },
    Row {
        name: "string",
        decls: &[
            "(string) string",
            "(bool) string",
            "(int) string",
            "(uint) string",
            "(double) string",
            "(bytes) string",
            "(timestamp) string",
            "(duration) string",
            "(net.IP) string",
            "(net.CIDR) string",
        ],
        run: convert::string,
    },
    Row { name: "type", decls: &["(A) type(A)"], run: convert::type_of },
    Row { name: "dyn", decls: &["(A) dyn"], run: convert::dyn_ },
    Row { name: "jsonpatch.escapeKey", decls: &["(string) string"], run: escape_key },
];

fn size(a: &[Val]) -> Res {
    match a {
        [v @ (Val::Str(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_))] => Ok(Val::Int(v.size() as i64)),
        _ => no_overload(),
    }
}

fn is_in(a: &[Val]) -> Res {
    match a {
        [v, Val::List(l)] => Ok(Val::Bool(l.items.iter().any(|w| value::equal(v, w)))),
        [v, Val::Map(m)] => Ok(Val::Bool(Key::of(v).is_some_and(|k| m.entries.contains_key(&k)))),
        _ => no_overload(),
    }
}

fn contains(a: &[Val]) -> Res {
    match a {
        [Val::Str(s), Val::Str(t)] => Ok(Val::Bool(s.contains(&**t))),
        // Of `sets`-like lists there is no `contains`; the libraries of addresses have their own names.
        _ => no_overload(),
    }
}

fn starts_with(a: &[Val]) -> Res {
    match a {
        [Val::Str(s), Val::Str(t)] => Ok(Val::Bool(s.starts_with(&**t))),
        _ => no_overload(),
    }
}

fn ends_with(a: &[Val]) -> Res {
    match a {
        [Val::Str(s), Val::Str(t)] => Ok(Val::Bool(s.ends_with(&**t))),
        _ => no_overload(),
    }
}

/// As a step of a JSON pointer.
fn escape_key(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::from(s.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    }
}

/// `a[b]`.
pub fn index(operand: &Val, at: &Val) -> Res {
    match (operand, at) {
        (Val::List(l), at) => {
            let place = match at {
                Val::Int(i) => usize::try_from(*i).ok(),
                Val::Uint(u) => usize::try_from(*u).ok(),
                Val::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                Val::Double(_) => None,
                _ => return no_overload(),
            };
            match place.and_then(|i| l.items.get(i)) {
                Some(v) => Ok(v.clone()),
                None => fail(format!("index out of bounds: {}", convert::text(at)?)),
            }
        }
        (Val::Map(m), at) => match Key::of(at).and_then(|k| m.entry(&k)) {
            Some(Val::Bad(why)) => fail(&**why),
            Some(v) => Ok(v.clone()),
            None => fail(format!("no such key: {}", convert::text(at)?)),
        },
        (Val::Optional(Some(v)), at) => index(v, at),
        _ => no_overload(),
    }
}
