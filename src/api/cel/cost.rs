//! What evaluation costs, and when it has cost too much.
//!
//! Rules: upstream `apiserver/pkg/cel/library/cost.go`, cel-go `interpreter/runtimecost.go`. Where upstream charges less
//! than this implementation has to do (joining lists, comparing values that share parts), the work is charged.

use super::funcs::Error;
use super::value::Val;

/// One evaluation of one expression.
pub const PER_CALL: u64 = 1_000_000;
/// All rules of one custom resource, or all expressions of one policy.
pub const PER_OBJECT: u64 = 10_000_000;

/// What one rule of a schema may be estimated to cost for one object.
pub const ESTIMATED_RULE: u64 = 10_000_000;
/// What all rules of a schema may be estimated to cost.
pub const ESTIMATED_SCHEMA: u64 = 100_000_000;

/// Cost of looking at a character.
const CHAR: f64 = 0.1;
/// Cost of a character of a pattern.
const PATTERN: f64 = 0.25;
/// A question to the authorizer.
const QUESTION: u64 = 350_000;

/// What may still be spent.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// A budget.
    pub fn new(limit: u64) -> Self {
        Self { left: limit }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes from it; less than nothing is an error that ends the evaluation.
    pub fn spend(&mut self, cost: u64) -> Result<(), Error> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Error::Budget)
            }
        }
    }
}

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// What a call costs, known before it runs.
pub fn call(name: &str, args: &[Val]) -> u64 {
    let size = |i: usize| args.get(i).map_or(0, Val::size);
    let weight = |i: usize| args.get(i).map_or(0, Val::weight);
    match name {
        "check" => QUESTION,
        "isSorted" | "sum" | "max" | "min" | "sort" | "reverse" | "unwrapOpt" | "optional.unwrap" | "slice" => {
            weight(0)
        }
        "indexOf" | "lastIndexOf" => match args.first() {
            Some(Val::List(_)) => weight(0),
            _ => scaled(size(0), CHAR),
        },
        "@in" => match args.get(1) {
            Some(Val::List(_)) => weight(1),
            _ => 1,
        },
        "flatten" => weight(0),
        "distinct" => size(0).saturating_mul(weight(0)),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            size(0).saturating_mul(weight(1)).saturating_add(size(1).saturating_mul(weight(0)))
        }
        "lists.range" => match args.first() {
            Some(Val::Int(n)) => u64::try_from(*n).unwrap_or(0),
            _ => 1,
        },
        "url"
        | "isURL"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "charAt"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver"
        | "strings.quote"
        | "jsonpatch.escapeKey"
        | "bytes"
        | "getQuery" => scaled(size(0), CHAR),
        "ip" => scaled(size(0), CHAR),
        "string" => scaled(size(0), CHAR).max(1),
        "replace" | "split" => {
            let grown = if name == "replace" { size(0).saturating_mul(size(2)) } else { 0 };
            scaled(size(0).saturating_mul(2).saturating_add(grown / 10), CHAR)
        }
        "join" => scaled(weight(0).saturating_mul(1 + size(1)), 2.0 * CHAR),
        "format" => scaled(size(0), CHAR).saturating_add(weight(1)),
        "find" | "findAll" | "matches" => scaled(1 + size(0), CHAR).saturating_mul(scaled(size(1), PATTERN)),
        "contains" => scaled(size(0), CHAR).saturating_mul(scaled(size(1), CHAR)),
        "startsWith" | "endsWith" => scaled(size(1), CHAR),
        "ip.isCanonical" => scaled(size(0), 2.0 * CHAR),
        "containsIP" | "containsCIDR" => scaled(size(0) * 3, CHAR) + scaled(size(1), CHAR),
        "validate" => match args {
            [Val::Format(f), _] => scaled(1 + size(1), CHAR).saturating_mul(scaled(f.pattern, PATTERN)),
            _ => 1,
        },
        "_+_" => match args {
            [Val::Str(_), _] | [Val::Bytes(_), _] => scaled(size(0).saturating_add(size(1)), CHAR),
            // A set looks for every new element among the old ones.
            [Val::List(a), Val::List(b)] if a.kind != super::value::ListKind::Atomic => {
                (a.items.len() as u64).saturating_mul(weight(1)).max(b.items.len() as u64)
            }
            [Val::List(_), _] => 1 + scaled(size(0).saturating_add(size(1)), CHAR),
            _ => 1,
        },
        "_==_" | "_!=_" => match args {
            [Val::List(a), Val::List(b)] if a.kind != b.kind || a.kind != super::value::ListKind::Atomic => {
                (a.items.len() as u64).saturating_mul(weight(1))
            }
            _ => compared(args),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" => compared(args),
        _ => 1,
    }
}

fn compared(args: &[Val]) -> u64 {
    let [a, b] = args else { return 1 };
    match (a, b) {
        (Val::List(_) | Val::Map(_) | Val::Optional(_), _) => a.weight().min(b.weight()),
        _ => scaled(a.size().min(b.size()), CHAR),
    }
}
