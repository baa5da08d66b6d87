//! The table of functions: names, signatures, what they run.
//!
//! **Invariant:** a function refuses what its signatures do not say with "no such overload", and never panics.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::{Signature, signature};
use super::value::Val;
use super::{
    authorizer, lib_format, lib_lists, lib_math, lib_net, lib_optional, lib_quantity, lib_regex, lib_semver, lib_std,
    lib_strings, lib_time, lib_url,
};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What the expression did wrong. `&&`, `||` and the macros made of them may do without this value.
    #[error("{0}")]
    Failed(String),
    /// It did too much. Nothing does without this.
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
}

/// A value, or why there is none.
pub type Res = Result<Val, Error>;

/// What a function runs; a receiver is the first argument.
pub type Fun = fn(&[Val]) -> Res;

/// A function.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The ways to call it.
    pub decls: &'static [&'static str],
    /// What it runs.
    pub run: Fun,
}

/// A failure.
pub fn fail<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Failed(why.into()))
}

/// No function of this name takes these values.
pub fn no_overload() -> Res {
    fail("no such overload")
}

/// FUNCTIONS by library. Add one's rows here.
const LIBRARIES: &[&[Row]] = &[
    lib_std::ROWS,
    lib_math::ROWS,
    lib_time::ROWS,
    lib_strings::ROWS,
    lib_lists::ROWS,
    lib_optional::ROWS,
    lib_regex::ROWS,
    lib_url::ROWS,
    lib_net::ROWS,
    lib_quantity::ROWS,
    lib_semver::ROWS,
    lib_format::ROWS,
    authorizer::ROWS,
];

/// What a name may be called with, and what runs then.
pub struct Function {
    /// One for each way to call it.
    pub overloads: Vec<(Signature, Fun)>,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut out: HashMap<&'static str, Function> = HashMap::new();
    for row in LIBRARIES.iter().copied().flatten() {
        let function = out.entry(row.name).or_insert_with(|| Function { overloads: Vec::new() });
        function.overloads.extend(row.decls.iter().filter_map(|d| signature(d)).map(|s| (s, row.run)));
    }
    out
});

/// A function by its name.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_can_be_read() {
        for row in LIBRARIES.iter().copied().flatten() {
            for decl in row.decls {
                assert!(signature(decl).is_some(), "{}: {decl}", row.name);
            }
        }
    }
}
