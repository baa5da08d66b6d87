//! More functions of texts.
//!
//! Rules: cel-go `ext.Strings`, version 2, which upstream offers.

use super::convert;
use super::funcs::{Error, Res, Row, fail, no_overload};
use super::value::{Key, Val};

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "charAt", decls: &["string.(int) string"], run: char_at },
    Row {
        name: "indexOf",
        decls: &["string.(string) int", "string.(string,int) int", "list(A).(A) int"],
        run: index_of,
    },
    Row {
        name: "lastIndexOf",
        decls: &["string.(string) int", "string.(string,int) int", "list(A).(A) int"],
        run: last_index_of,
    },
    Row { name: "lowerAscii", decls: &["string.() string"], run: |a| map(a, str::to_ascii_lowercase) },
    Row { name: "upperAscii", decls: &["string.() string"], run: |a| map(a, str::to_ascii_uppercase) },
    Row { name: "trim", decls: &["string.() string"], run: |a| map(a, |s| s.trim().to_owned()) },
    Row {
        name: "replace",
        decls: &["string.(string,string) string", "string.(string,string,int) string"],
        run: replace,
    },
    Row { name: "split", decls: &["string.(string) list(string)", "string.(string,int) list(string)"], run: split },
    Row { name: "substring", decls: &["string.(int) string", "string.(int,int) string"], run: substring },
    Row { name: "join", decls: &["list(string).() string", "list(string).(string) string"], run: join },
    Row { name: "format", decls: &["string.(list(dyn)) string"], run: format },
    Row { name: "strings.quote", decls: &["(string) string"], run: |a| map(a, quote) },
];

/// Longest text that a function makes, bytes.
const TEXT_MAX: usize = 16 << 20;

fn map(a: &[Val], f: fn(&str) -> String) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::from(f(s))),
        _ => no_overload(),
    }
}

fn out_of_range(at: i64) -> Res {
    fail(format!("index out of range: {at}"))
}

fn char_at(a: &[Val]) -> Res {
    let [Val::Str(s), Val::Int(at)] = a else { return no_overload() };
    let Ok(place) = usize::try_from(*at) else { return out_of_range(*at) };
    match s.chars().nth(place) {
        Some(c) => Ok(Val::from(c.to_string())),
        // One behind the end is no error.
        None if s.chars().count() == place => Ok(Val::from("")),
        None => out_of_range(*at),
    }
}

/// The byte at which a character begins; the end counts.
fn byte_at(s: &str, chars: usize) -> Option<usize> {
    s.char_indices().map(|(i, _)| i).chain([s.len()]).nth(chars)
}

fn chars_before(s: &str, byte: Option<usize>) -> Res {
    Ok(Val::Int(byte.map_or(-1, |b| s[..b].chars().count() as i64)))
}

fn index_of(a: &[Val]) -> Res {
    match a {
        [Val::List(l), v] => Ok(super::lib_lists::place(l.items.iter().position(|w| super::value::equal(v, w)))),
        [Val::Str(s), Val::Str(t)] => chars_before(s, s.find(&**t)),
        [Val::Str(s), Val::Str(t), Val::Int(from)] => {
            let Some(start) = usize::try_from(*from).ok().and_then(|n| byte_at(s, n)) else {
                return out_of_range(*from);
            };
            chars_before(s, s[start..].find(&**t).map(|b| b + start))
        }
        _ => no_overload(),
    }
}

fn last_index_of(a: &[Val]) -> Res {
    match a {
        [Val::List(l), v] => Ok(super::lib_lists::place(l.items.iter().rposition(|w| super::value::equal(v, w)))),
        [Val::Str(s), Val::Str(t)] => chars_before(s, s.rfind(&**t)),
        [Val::Str(s), Val::Str(t), Val::Int(until)] => {
            let Some(last) = usize::try_from(*until).ok().and_then(|n| byte_at(s, n)) else {
                return out_of_range(*until);
            };
            // The last place where the text may begin.
            let end = (last + t.len()).min(s.len());
            let end = (end..=s.len()).find(|e| s.is_char_boundary(*e)).unwrap_or(s.len());
            chars_before(s, s[..end].rfind(&**t).filter(|b| *b <= last))
        }
        _ => no_overload(),
    }
}

fn replace(a: &[Val]) -> Res {
    let (s, old, new, count) = match a {
        [Val::Str(s), Val::Str(old), Val::Str(new)] => (s, old, new, usize::MAX),
        [Val::Str(s), Val::Str(old), Val::Str(new), Val::Int(n)] => {
            (s, old, new, usize::try_from(*n).unwrap_or(usize::MAX))
        }
        _ => return no_overload(),
    };
    let places = if old.is_empty() { s.chars().count() + 1 } else { s.matches(&**old).count() }.min(count);
    if places.saturating_mul(new.len()).saturating_add(s.len()) > TEXT_MAX {
        return fail("result is too long");
    }
    Ok(Val::from(s.replacen(&**old, new, count)))
}

fn split(a: &[Val]) -> Res {
    let (s, separator, count) = match a {
        [Val::Str(s), Val::Str(t)] => (s, t, -1),
        [Val::Str(s), Val::Str(t), Val::Int(n)] => (s, t, *n),
        _ => return no_overload(),
    };
    let parts: Vec<Val> = match usize::try_from(count) {
        Ok(0) => Vec::new(),
        limit => {
            let limit = limit.unwrap_or(usize::MAX);
            if separator.is_empty() {
                letters(s, limit)
            } else {
                s.splitn(limit, &**separator).map(Val::from).collect()
            }
        }
    };
    Ok(Val::list(parts))
}

/// One part for each character, all that is left in the last one.
fn letters(s: &str, limit: usize) -> Vec<Val> {
    let mut out = Vec::new();
    let mut rest = s;
    while let Some(c) = rest.chars().next() {
        if out.len() + 1 == limit {
            out.push(Val::from(rest));
            break;
        }
        out.push(Val::from(&rest[..c.len_utf8()]));
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn substring(a: &[Val]) -> Res {
    let (s, from, to) = match a {
        [Val::Str(s), Val::Int(from)] => (s, *from, s.chars().count() as i64),
        [Val::Str(s), Val::Int(from), Val::Int(to)] => (s, *from, *to),
        _ => return no_overload(),
    };
    let place = |n: i64| usize::try_from(n).ok().and_then(|n| byte_at(s, n));
    match (place(from), place(to)) {
        (Some(_), Some(_)) if from > to => fail(format!("invalid substring range. start: {from}, end: {to}")),
        (Some(a), Some(b)) => Ok(Val::from(&s[a..b])),
        (None, _) => out_of_range(from),
        _ => out_of_range(to),
    }
}

fn join(a: &[Val]) -> Res {
    let (list, separator) = match a {
        [Val::List(l)] => (l, ""),
        [Val::List(l), Val::Str(s)] => (l, &**s),
        _ => return no_overload(),
    };
    let mut out = String::new();
    for (i, v) in list.items.iter().enumerate() {
        let Val::Str(s) = v else { return no_overload() };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(s);
        if out.len() > TEXT_MAX {
            return fail("result is too long");
        }
    }
    Ok(Val::from(out))
}

/// A text between quotes, its marks escaped.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Most digits behind the point that a format may ask for.
const PRECISION_MAX: usize = 1000;

fn format(a: &[Val]) -> Res {
    let [Val::Str(pattern), Val::List(args)] = a else { return no_overload() };
    let mut out = String::new();
    let mut next = args.items.iter();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if rest.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(d) = rest.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            precision = Some(digits.parse().unwrap_or(0usize));
        }
        if precision.is_some_and(|p| p > PRECISION_MAX) {
            return fail(format!("could not parse formatting clause: precision is more than {PRECISION_MAX}"));
        }
        let Some(verb) = rest.next() else { return fail("unexpected end of format string") };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(v) = next.next() else {
            return fail(format!("index {} out of range", args.items.len()));
        };
        clause(&mut out, verb, precision, v)?;
        if out.len() > TEXT_MAX {
            return fail("result is too long");
        }
    }
    Ok(Val::from(out))
}

fn clause(out: &mut String, verb: char, precision: Option<usize>, v: &Val) -> Result<(), Error> {
    let double = match v {
        Val::Double(d) => Some(*d),
        Val::Int(i) => Some(*i as f64),
        Val::Uint(u) => Some(*u as f64),
        _ => None,
    };
    let precision = precision.unwrap_or(6);
    let wrong = |what: &str| {
        fail(format!(
            "error during formatting: {what} clause can only be used on matching types, was given {}",
            v.type_name()
        ))
    };
    match (verb, v) {
        ('s', _) => out.push_str(&shown(v, 0)?),
        ('d', Val::Int(i)) => out.push_str(&format!("{i}")),
        ('d', Val::Uint(u)) => out.push_str(&format!("{u}")),
        ('d', Val::Double(d)) if !d.is_finite() => out.push_str(non_finite(*d)),
        ('d', _) => return wrong("decimal"),
        ('f' | 'e', Val::Double(d)) if !d.is_finite() => out.push_str(non_finite(*d)),
        ('f', _) if double.is_some() => out.push_str(&format!("{:.precision$}", double.unwrap_or_default())),
        ('e', _) if double.is_some() => {
            let text = format!("{:.precision$e}", double.unwrap_or_default());
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            out.push_str(&format!("{digits}e{sign}{:02}", exponent.abs()));
        }
        ('f' | 'e', _) => return wrong("fixed-point"),
        ('b', Val::Int(i)) => out.push_str(&format!("{}{:b}", if *i < 0 { "-" } else { "" }, i.unsigned_abs())),
        ('b', Val::Uint(u)) => out.push_str(&format!("{u:b}")),
        ('b', Val::Bool(b)) => out.push_str(&format!("{}", u8::from(*b))),
        ('b', _) => return wrong("binary"),
        ('o', Val::Int(i)) => out.push_str(&format!("{}{:o}", if *i < 0 { "-" } else { "" }, i.unsigned_abs())),
        ('o', Val::Uint(u)) => out.push_str(&format!("{u:o}")),
        ('o', _) => return wrong("octal"),
        ('x' | 'X', _) => {
            let text = match v {
                Val::Int(i) => format!("{}{:x}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
                Val::Uint(u) => format!("{u:x}"),
                Val::Str(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(s) => s.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return wrong("hex"),
            };
            out.push_str(&if verb == 'X' { text.to_uppercase() } else { text });
        }
        _ => return fail(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")),
    }
    Ok(())
}

fn non_finite(d: f64) -> &'static str {
    if d.is_nan() {
        "NaN"
    } else if d > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// How deep a value is shown.
const SHOWN_MAX: usize = 64;

/// A value as `%s` writes it.
fn shown(v: &Val, depth: usize) -> Result<String, Error> {
    if depth > SHOWN_MAX {
        return fail("error during formatting: the value nests too deep");
    }
    Ok(match v {
        Val::Null => "null".into(),
        Val::Type(t) => t.to_string(),
        Val::Double(d) if !d.is_finite() => non_finite(*d).into(),
        Val::List(l) => {
            let parts = l.items.iter().map(|v| shown(v, depth + 1)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", parts.join(", "))
        }
        Val::Map(m) => {
            let entry =
                |(k, v): (&Key, &Val)| Ok(format!("{}: {}", shown(&k.value(), depth + 1)?, shown(v, depth + 1)?));
            let mut parts = m.entries.iter().map(entry).collect::<Result<Vec<_>, Error>>()?;
            parts.sort();
            format!("{{{}}}", parts.join(", "))
        }
        Val::Str(_)
        | Val::Bool(_)
        | Val::Int(_)
        | Val::Uint(_)
        | Val::Double(_)
        | Val::Bytes(_)
        | Val::Time(_)
        | Val::Duration(_) => convert::text(v)?.to_string(),
        _ => return fail(format!("error during formatting: string clause cannot be used on {}", v.type_name())),
    })
}
