//! Named formats of texts.
//!
//! Rules: upstream `apiserver/pkg/cel/library/format.go`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::funcs::{Res, Row, no_overload};
use super::value::Val;
use super::{lib_time, lib_url};
use crate::api::meta::names;

/// A format.
#[derive(Debug)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with a text.
    check: fn(&str) -> Vec<String>,
    /// Longest pattern that it stands for, for costs.
    pub pattern: u64,
}

fn one(fine: bool, why: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![why.to_owned()] }
}

/// A name of which the end may be missing, as a generated one's.
fn prefix(check: fn(&str) -> Vec<String>, s: &str) -> Vec<String> {
    match s.strip_suffix('-') {
        Some(rest) => check(&format!("{rest}a")),
        None => check(s),
    }
}

/// FORMATS by name.
const FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: names::dns1123_label, pattern: 30 },
    Format { name: "dns1123Subdomain", check: names::dns1123_subdomain, pattern: 60 },
    Format { name: "dns1035Label", check: names::dns1035_label, pattern: 30 },
    Format { name: "qualifiedName", check: names::qualified_name, pattern: 60 },
    Format { name: "dns1123LabelPrefix", check: |s| prefix(names::dns1123_label, s), pattern: 30 },
    Format { name: "dns1123SubdomainPrefix", check: |s| prefix(names::dns1123_subdomain, s), pattern: 60 },
    Format { name: "dns1035LabelPrefix", check: |s| prefix(names::dns1035_label, s), pattern: 30 },
    Format { name: "labelValue", check: names::label_value, pattern: 40 },
    Format { name: "uri", check: |s| one(lib_url::is_valid(s), "invalid URI for request"), pattern: 1 },
    Format { name: "uuid", check: |s| one(is_uuid(s), "does not match the UUID format"), pattern: 80 },
    Format { name: "byte", check: |s| one(base64(s).is_some(), "invalid base64"), pattern: 80 },
    Format { name: "date", check: |s| one(is_date(s), "invalid date"), pattern: 10 },
    Format {
        name: "datetime",
        check: |s| one(lib_time::parse_timestamp(s).is_some(), "invalid datetime"),
        pattern: 20,
    },
];

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "format.named", decls: &["(string) opt(kubernetes.NamedFormat)"], run: named },
    Row { name: "validate", decls: &["kubernetes.NamedFormat.(string) opt(list(string))"], run: validate },
    Row { name: "format.dns1123Label", decls: FORMAT, run: |_| format("dns1123Label") },
    Row { name: "format.dns1123Subdomain", decls: FORMAT, run: |_| format("dns1123Subdomain") },
    Row { name: "format.dns1035Label", decls: FORMAT, run: |_| format("dns1035Label") },
    Row { name: "format.qualifiedName", decls: FORMAT, run: |_| format("qualifiedName") },
    Row { name: "format.dns1123LabelPrefix", decls: FORMAT, run: |_| format("dns1123LabelPrefix") },
    Row { name: "format.dns1123SubdomainPrefix", decls: FORMAT, run: |_| format("dns1123SubdomainPrefix") },
    Row { name: "format.dns1035LabelPrefix", decls: FORMAT, run: |_| format("dns1035LabelPrefix") },
    Row { name: "format.labelValue", decls: FORMAT, run: |_| format("labelValue") },
    Row { name: "format.uri", decls: FORMAT, run: |_| format("uri") },
    Row { name: "format.uuid", decls: FORMAT, run: |_| format("uuid") },
    Row { name: "format.byte", decls: FORMAT, run: |_| format("byte") },
    Row { name: "format.date", decls: FORMAT, run: |_| format("date") },
    Row { name: "format.datetime", decls: FORMAT, run: |_| format("datetime") },
];

const FORMAT: &[&str] = &["() kubernetes.NamedFormat"];

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

fn format(name: &str) -> Res {
    find(name).map_or_else(no_overload, |f| Ok(Val::Format(f)))
}

fn named(a: &[Val]) -> Res {
    match a {
        [Val::Str(name)] => Ok(find(name).map_or(Val::Optional(None), |f| Val::some(Val::Format(f)))),
        _ => no_overload(),
    }
}

fn validate(a: &[Val]) -> Res {
    let [Val::Format(format), Val::Str(text)] = a else { return no_overload() };
    let wrong = (format.check)(text);
    Ok(match wrong.is_empty() {
        true => Val::Optional(None),
        false => Val::some(Val::list(wrong.into_iter().map(Val::from).collect())),
    })
}

fn is_uuid(s: &str) -> bool {
    let b = s.as_bytes();
    let fits = |(i, c): (usize, &u8)| match i {
        8 | 13 | 18 | 23 => *c == b'-',
        _ => c.is_ascii_hexdigit(),
    };
    b.len() == 36 && b.iter().enumerate().all(fits)
}

/// The bytes of a text in the standard alphabet with its padding.
pub fn base64(s: &str) -> Option<Vec<u8>> {
    STANDARD.decode(s).ok()
}

/// True for `2006-01-02`.
pub fn is_date(s: &str) -> bool {
    s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok()
}
