//! Conversions between types: `int(x)`, `string(x)`, ….

use std::sync::Arc;

use super::funcs::{Error, Res, fail, no_overload};
use super::lib_time;
use super::value::Val;

/// `int(x)`.
pub fn int(a: &[Val]) -> Res {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match a {
        [Val::Int(i)] => Ok(Val::Int(*i)),
        [Val::Uint(u)] => i64::try_from(*u).map_or_else(|_| fail("integer overflow"), |i| Ok(Val::Int(i))),
        [Val::Double(d)] if *d > -LIMIT && *d < LIMIT => Ok(Val::Int(*d as i64)),
        [Val::Double(_)] => fail("integer overflow"),
        [Val::Str(s)] => match s.parse() {
            Ok(i) => Ok(Val::Int(i)),
            Err(_) => fail(format!("strconv.ParseInt: parsing {s:?}: invalid syntax")),
        },
        [Val::Time(t)] => Ok(Val::Int(t.as_second())),
        [Val::Duration(d)] => Ok(Val::Int(*d)),
        _ => no_overload(),
    }
}

/// `uint(x)`.
pub fn uint(a: &[Val]) -> Res {
    match a {
        [Val::Uint(u)] => Ok(Val::Uint(*u)),
        [Val::Int(i)] => u64::try_from(*i).map_or_else(|_| fail("unsigned integer overflow"), |u| Ok(Val::Uint(u))),
        [Val::Double(d)] if *d >= 0.0 && *d < 18_446_744_073_709_551_616.0 => Ok(Val::Uint(*d as u64)),
        [Val::Double(_)] => fail("unsigned integer overflow"),
        [Val::Str(s)] => match s.parse() {
            Ok(u) => Ok(Val::Uint(u)),
            Err(_) => fail(format!("strconv.ParseUint: parsing {s:?}: invalid syntax")),
        },
        _ => no_overload(),
    }
}

/// `double(x)`.
pub fn double(a: &[Val]) -> Res {
    match a {
        [Val::Double(d)] => Ok(Val::Double(*d)),
        [Val::Int(i)] => Ok(Val::Double(*i as f64)),
        [Val::Uint(u)] => Ok(Val::Double(*u as f64)),
        [Val::Str(s)] => match s.parse() {
            Ok(d) => Ok(Val::Double(d)),
            Err(_) => fail(format!("strconv.ParseFloat: parsing {s:?}: invalid syntax")),
        },
        _ => no_overload(),
    }
}

/// `bool(x)`.
pub fn boolean(a: &[Val]) -> Res {
    match a {
        [Val::Bool(b)] => Ok(Val::Bool(*b)),
        [Val::Str(s)] => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => fail(format!("strconv.ParseBool: parsing {s:?}: invalid syntax")),
        },
        _ => no_overload(),
    }
}

/// `bytes(x)`.
pub fn bytes(a: &[Val]) -> Res {
    match a {
        [Val::Bytes(b)] => Ok(Val::Bytes(b.clone())),
        [Val::Str(s)] => Ok(Val::Bytes(s.as_bytes().into())),
        _ => no_overload(),
    }
}

/// `string(x)`.
pub fn string(a: &[Val]) -> Res {
    match a {
        [v] => text(v).map(Val::Str),
        _ => no_overload(),
    }
}

/// The text of a value that has one.
pub fn text(v: &Val) -> Result<Arc<str>, Error> {
    Ok(match v {
        Val::Str(s) => return Ok(s.clone()),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => go_double(*d),
        Val::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_owned(),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Val::Time(t) => lib_time::timestamp_text(*t),
        Val::Duration(d) => lib_time::duration_text(*d),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(net) => net.to_string(),
        Val::Url(url) => url.text.clone(),
        Val::Semver(v) => v.to_string(),
        _ => return fail("no such overload"),
    }
    .into())
}

/// As Go's `strconv.FormatFloat(d, 'g', -1, 64)`: the shortest digits, an exponent where it is below -4 or above 5.
pub fn go_double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if d != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    d.to_string()
}

/// `type(x)`.
pub fn type_of(a: &[Val]) -> Res {
    match a {
        [v] => Ok(Val::Type(v.type_name())),
        _ => no_overload(),
    }
}

/// `dyn(x)`.
pub fn dyn_(a: &[Val]) -> Res {
    match a {
        [v] => Ok(v.clone()),
        _ => no_overload(),
    }
}
