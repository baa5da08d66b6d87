//! Semantic versions.
//!
//! Rules: upstream `apiserver/pkg/cel/library/semverlib.go`; semver.org 2.0.0.

use std::cmp::Ordering;
use std::fmt;

use super::funcs::{Res, Row, fail, no_overload};
use super::value::Val;

/// FUNCTIONS of this library; its comparisons stand beside those of quantities.
pub const ROWS: &[Row] = &[
    Row { name: "semver", decls: &["(string) kubernetes.Semver", "(string,bool) kubernetes.Semver"], run: semver },
    Row { name: "isSemver", decls: &["(string) bool", "(string,bool) bool"], run: is_semver },
    Row { name: "major", decls: &["kubernetes.Semver.() int"], run: |a| part(a, 0) },
    Row { name: "minor", decls: &["kubernetes.Semver.() int"], run: |a| part(a, 1) },
    Row { name: "patch", decls: &["kubernetes.Semver.() int"], run: |a| part(a, 2) },
];

/// A version.
#[derive(Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: String,
}

impl Semver {
    /// Which of two comes first; what was built does not matter.
    pub fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => pre_order(&self.pre, &other.pre),
        })
    }
}

fn pre_order(a: &[String], b: &[String]) -> Ordering {
    let one = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        _ => a.cmp(b),
    };
    let differs = a.iter().zip(b).map(|(a, b)| one(a, b)).find(|o| o.is_ne());
    differs.unwrap_or_else(|| a.len().cmp(&b.len()))
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

fn identifiers(text: &str) -> Option<Vec<String>> {
    let fine = |p: &str| !p.is_empty() && p.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    text.split('.').all(fine).then(|| text.split('.').map(str::to_owned).collect())
}

/// Digits without a zero before others; `loose` drops those.
fn digits(text: &str, loose: bool) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    (plain && (loose || text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

fn parse(text: &str, loose: bool) -> Option<Semver> {
    let text = if loose { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(r, p)| (r, Some(p)));
    let mut parts: Vec<&str> = core.split('.').collect();
    if loose && pre.is_none() && build.is_none() {
        while parts.len() < 3 {
            parts.push("0");
        }
    }
    let [major, minor, patch] = parts[..] else { return None };
    let pre = pre.map_or(Some(Vec::new()), identifiers)?;
    let leading_zero = |p: &String| p.len() > 1 && p.starts_with('0') && p.bytes().all(|c| c.is_ascii_digit());
    if pre.iter().any(leading_zero) {
        return None;
    }
    if let Some(build) = build {
        identifiers(build)?;
    }
    let numbers = [digits(major, loose)?, digits(minor, loose)?, digits(patch, loose)?];
    Some(Semver { numbers, pre, build: build.unwrap_or_default().to_owned() })
}

/// The version that a text is, to the letter.
pub(super) fn exact(text: &str) -> Option<Val> {
    parse(text, false).map(|version| Val::Semver(version.into()))
}

fn read(a: &[Val]) -> Option<Option<Semver>> {
    match a {
        [Val::Str(s)] => Some(parse(s, false)),
        [Val::Str(s), Val::Bool(loose)] => Some(parse(s, *loose)),
        _ => None,
    }
}

fn semver(a: &[Val]) -> Res {
    match read(a) {
        Some(Some(v)) => Ok(Val::Semver(v.into())),
        Some(None) => fail("semver parse error during conversion from string: Invalid version"),
        None => no_overload(),
    }
}

fn is_semver(a: &[Val]) -> Res {
    read(a).map_or_else(no_overload, |v| Ok(Val::Bool(v.is_some())))
}

fn part(a: &[Val], at: usize) -> Res {
    match a {
        [Val::Semver(v)] => Ok(Val::Int(i64::try_from(v.numbers[at]).unwrap_or(i64::MAX))),
        _ => no_overload(),
    }
}
