//! Regular expressions, in RE2's syntax.
//!
//! **Invariant:** they run in time linear in the text; a pattern's compiled form has a bounded size.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use regex::{Regex, RegexBuilder};

use super::funcs::{Error, Res, Row, fail, no_overload};
use super::value::Val;

/// Largest compiled pattern, bytes.
const COMPILED_MAX: usize = 1 << 20;
/// Compiled patterns that a thread keeps.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "matches", decls: &["(string,string) bool", "string.(string) bool"], run: matches },
    Row { name: "find", decls: &["string.(string) string"], run: find },
    Row {
        name: "findAll",
        decls: &["string.(string) list(string)", "string.(string,int) list(string)"],
        run: find_all,
    },
];

thread_local! {
    /// The patterns used last, the newest at the end: an expression uses the same one for every element of a list.
    static KEPT: RefCell<Vec<Regex>> = const { RefCell::new(Vec::new()) };
}

/// Compiles a pattern.
pub fn compile(pattern: &str) -> Result<Regex, Error> {
    KEPT.with_borrow_mut(|kept| {
        if let Some(found) = kept.iter().find(|r| r.as_str() == pattern) {
            return Ok(found.clone());
        }
        let compiled = RegexBuilder::new(pattern).size_limit(COMPILED_MAX).dfa_size_limit(COMPILED_MAX).build();
        let regex = match compiled {
            Ok(regex) => regex,
            Err(why) => {
                let last = why.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return fail(format!("error parsing regexp: {last}: `{pattern}`"));
            }
        };
        if kept.len() == KEPT_MAX.get() {
            kept.remove(0);
        }
        kept.push(regex.clone());
        Ok(regex)
    })
}

fn matches(a: &[Val]) -> Res {
    match a {
        [Val::Str(s), Val::Str(p)] => Ok(Val::Bool(compile(p)?.is_match(s))),
        _ => no_overload(),
    }
}

fn find(a: &[Val]) -> Res {
    match a {
        [Val::Str(s), Val::Str(p)] => Ok(Val::from(compile(p)?.find(s).map_or("", |m| m.as_str()))),
        _ => no_overload(),
    }
}

fn find_all(a: &[Val]) -> Res {
    let (s, p, max) = match a {
        [Val::Str(s), Val::Str(p)] => (s, p, usize::MAX),
        [Val::Str(s), Val::Str(p), Val::Int(n)] => (s, p, usize::try_from(*n).unwrap_or(usize::MAX)),
        _ => return no_overload(),
    };
    Ok(Val::list(compile(p)?.find_iter(s).take(max).map(|m| Val::from(m.as_str())).collect()))
}
