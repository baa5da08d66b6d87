//! What the rules of a schema may cost at worst, told from the schema alone.
//!
//! In: a checked expression, the schema of `self`. Out: the most that one evaluation can cost. Rules: cel-go
//! `checker/cost.go`, upstream `apiserver/pkg/cel/{common/schemas.go,library/cost.go}`.
//!
//! **Invariant:** numbers saturate; of what nothing is known, the largest request bounds it.

use std::sync::LazyLock;

use serde_json::{Value as Json, json};

use super::ast::{Expr, Fold, Kind};
use super::escape::unescape;
use super::schema;
use super::value::Val;

/// Metadata, as far as rules see it.
static METADATA: LazyLock<Json> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    json!({"type": "object", "properties": {"name": text, "generateName": text}})
});
/// Largest request, bytes: what bounds all that a schema does not.
const REQUEST_MAX: u64 = 3 << 20;
const CHAR: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// Making a list, a map, an object.
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;

/// What is known of a value.
#[derive(Debug, Clone)]
enum Shape<'s> {
    /// What a schema says; of objects with fields, once it is spelled out.
    Schema(&'s Json),
    /// A text, or bytes, of that many characters at most.
    Text(u64),
    /// A list of that many elements at most.
    List(u64, Box<Shape<'s>>),
    /// A map of that many entries at most.
    Map(u64, Box<Shape<'s>>),
    /// A number, a boolean, a time.
    Scalar,
    /// Nothing.
    Unknown,
}

fn scaled(size: u64, factor: f64) -> u64 {
    let cost = (size as f64 * factor).ceil();
    // Saturates.
    cost as u64
}

fn number(s: &Json, name: &str) -> Option<u64> {
    s.get(name).and_then(Json::as_i64).map(|n| u64::try_from(n).unwrap_or(0))
}

fn text<'a>(s: &'a Json, name: &str) -> &'a str {
    s.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn is_int_or_string(s: &Json) -> bool {
    s.get("x-kubernetes-int-or-string").and_then(Json::as_bool).unwrap_or(false)
}

/// The fewest bytes that a value of a schema takes in a request.
pub fn min_size(s: &Json) -> u64 {
    if is_int_or_string(s) {
        return 1;
    }
    match text(s, "type") {
        "boolean" => 4,
        "number" | "integer" => 1,
        "string" => match text(s, "format") {
            "date" => 12,
            "date-time" => 22,
            "duration" => 4,
            _ => 2,
        },
        "object" if schema::values_of(s).is_none() => {
            let required = s.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
            let member = |name: &str| {
                let property = s.get("properties")?.get(name)?;
                let needed = property.get("default").is_none();
                needed.then(|| (name.len() as u64).saturating_add(min_size(property)).saturating_add(4))
            };
            required.filter_map(member).fold(2, u64::saturating_add)
        }
        _ => 2,
    }
}

/// How many elements or entries a node has at most.
fn count_max(s: &Json) -> u64 {
    match schema::values_of(s) {
        Some(values) => {
            number(s, "maxProperties").unwrap_or_else(|| (REQUEST_MAX - 2) / min_size(values).saturating_add(6))
        }
        None => number(s, "maxItems")
            .unwrap_or_else(|| (REQUEST_MAX - 2) / s.get("items").map_or(1, min_size).saturating_add(1)),
    }
}

/// How many values of a node one object may have, given how many its parent may be; none when nothing bounds it.
pub fn below(s: &Json, count: Option<u64>) -> Option<u64> {
    let own = if schema::values_of(s).is_some() { number(s, "maxProperties") } else { number(s, "maxItems") };
    Some(count?.saturating_mul(own?))
}

/// How many values of a node fit into a request.
pub fn fit(s: &Json) -> u64 {
    REQUEST_MAX / min_size(s).saturating_add(1)
}

impl<'s> Shape<'s> {
    /// The same, with what a schema says of texts, lists and maps spelled out.
    fn plain(self) -> Self {
        let Shape::Schema(s) = self else { return self };
        if is_int_or_string(s) {
            return Shape::Text(text_max(s));
        }
        match text(s, "type") {
            "string" => match text(s, "format") {
                "date" | "date-time" | "duration" => Shape::Scalar,
                _ => Shape::Text(text_max(s)),
            },
            "array" => Shape::List(count_max(s), Box::new(s.get("items").map_or(Shape::Unknown, Shape::Schema))),
            "object" => match schema::values_of(s) {
                Some(values) => Shape::Map(count_max(s), Box::new(Shape::Schema(values))),
                None => Shape::Schema(s),
            },
            "boolean" | "number" | "integer" => Shape::Scalar,
            _ => Shape::Unknown,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Shape::Text(n) | Shape::List(n, _) | Shape::Map(n, _) => *n,
            Shape::Scalar | Shape::Schema(_) => 1,
            Shape::Unknown => REQUEST_MAX,
        }
    }

    fn element(&self) -> Shape<'s> {
        match self {
            Shape::List(_, of) | Shape::Map(_, of) => of.clone().plain(),
            _ => Shape::Unknown,
        }
    }

    fn field(&self, name: &str) -> Shape<'s> {
        match self {
            Shape::Map(_, of) => of.clone().plain(),
            Shape::Schema(s) => match s.get("properties").and_then(|p| p.get(unescape(name))) {
                Some(property) => Shape::Schema(property).plain(),
                // What every resource has without its schema saying so.
                None if name == "metadata" => Shape::Schema(&METADATA),
                None => Shape::Text(REQUEST_MAX - 2),
            },
            _ => Shape::Unknown,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            // Nothing is known of the elements of an empty list, and nothing has to be.
            (Shape::List(0, _), list @ Shape::List(..)) | (list @ Shape::List(..), Shape::List(0, _)) => list,
            (Shape::Map(0, _), map @ Shape::Map(..)) | (map @ Shape::Map(..), Shape::Map(0, _)) => map,
            (Shape::Text(a), Shape::Text(b)) => Shape::Text(a.max(b)),
            (Shape::List(a, x), Shape::List(b, y)) => Shape::List(a.max(b), Box::new(x.or(*y))),
            (Shape::Map(a, x), Shape::Map(b, y)) => Shape::Map(a.max(b), Box::new(x.or(*y))),
            (Shape::Scalar, Shape::Scalar) => Shape::Scalar,
            (Shape::Schema(a), Shape::Schema(b)) if std::ptr::eq(a, b) => Shape::Schema(a),
            _ => Shape::Unknown,
        }
    }
}

/// Longest text. A character may take four bytes, and bytes are what is counted.
fn text_max(s: &Json) -> u64 {
    let byte = text(s, "format") == "byte";
    if let Some(max) = number(s, "maxLength") {
        return if byte { max } else { max.saturating_mul(4) };
    }
    let values = s.get("enum").and_then(Json::as_array).map(|all| all.iter().filter_map(Json::as_str));
    values.and_then(|all| all.map(|v| v.len() as u64).max()).unwrap_or(REQUEST_MAX - 2)
}

/// The most that one evaluation costs, where `self` and `oldSelf` are of a schema.
pub fn cost(expr: &Expr, own: &Json) -> u64 {
    Estimator { own, locals: Vec::new() }.expr(expr).0
}

struct Estimator<'s, 'e> {
    own: &'s Json,
    locals: Vec<(&'e str, Shape<'s>)>,
}

type Estimate<'s> = (u64, Shape<'s>);

impl<'s, 'e> Estimator<'s, 'e> {
    fn sum(&mut self, all: impl IntoIterator<Item = &'e Expr>) -> u64 {
        all.into_iter().fold(0, |sum: u64, e| sum.saturating_add(self.expr(e).0))
    }

    fn expr(&mut self, e: &'e Expr) -> Estimate<'s> {
        match &e.kind {
            Kind::Const(v) => (0, constant(v)),
            Kind::Ident { name, local } => {
                let found = self.locals.iter().rev().find(|(n, _)| n == name).filter(|_| *local);
                let shape = match found {
                    Some((_, shape)) => shape.clone(),
                    None => Shape::Schema(self.own).plain(),
                };
                (1, shape)
            }
            Kind::Select { operand, field, test, .. } => {
                let (cost, of) = self.expr(operand);
                if *test {
                    return (cost, Shape::Scalar);
                }
                let counts = u64::from(!matches!(of, Shape::Unknown));
                (cost.saturating_add(counts), of.field(field))
            }
            Kind::Index { operand, index, .. } => {
                let (cost, of) = self.expr(operand);
                (cost.saturating_add(self.expr(index).0).saturating_add(1), of.element())
            }
            Kind::Call { name, args, .. } => self.call(name, args),
            Kind::And(parts) | Kind::Or(parts) => (self.sum(parts), Shape::Scalar),
            Kind::Cond(parts) => {
                let [cond, yes, no] = &**parts;
                let (c, (a, x), (b, y)) = (self.expr(cond).0, self.expr(yes), self.expr(no));
                (c.saturating_add(a.max(b)), x.or(y))
            }
            Kind::List(items) => {
                let mut made: Option<Shape<'s>> = None;
                let mut cost = LIST;
                for item in items {
                    let (c, shape) = self.expr(&item.value);
                    cost = cost.saturating_add(c);
                    made = Some(made.map_or(shape.clone(), |m| m.or(shape)));
                }
                (cost, Shape::List(items.len() as u64, Box::new(made.unwrap_or(Shape::Scalar))))
            }
            Kind::Map(entries) => {
                let cost = self.sum(entries.iter().flat_map(|e| [&e.key, &e.value]));
                (cost.saturating_add(MAP), Shape::Map(entries.len() as u64, Box::new(Shape::Unknown)))
            }
            Kind::Struct { fields, .. } => {
                (self.sum(fields.iter().map(|f| &f.value)).saturating_add(STRUCT), Shape::Unknown)
            }
            Kind::Fold { fold, range, vars, filter, step } => self.fold(*fold, range, vars, filter.as_deref(), step),
            Kind::Bind { name, value, body } => {
                let (cost, shape) = self.expr(value);
                let (more, made) = self.within(&[(name, shape)], |s| s.expr(body));
                (cost.saturating_add(more).saturating_add(LIST), made)
            }
            Kind::OptMap { operand, name, body, .. } => {
                let (cost, shape) = self.expr(operand);
                let (more, made) = self.within(&[(name, shape)], |s| s.expr(body));
                (cost.saturating_add(more).saturating_add(LIST), made)
            }
        }
    }

    fn within<T>(&mut self, vars: &[(&'e String, Shape<'s>)], f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.locals.len();
        self.locals.extend(vars.iter().map(|(n, shape)| (n.as_str(), shape.clone())));
        let out = f(self);
        self.locals.truncate(before);
        out
    }

    fn fold(
        &mut self,
        fold: Fold,
        range: &'e Expr,
        vars: &'e [String],
        filter: Option<&'e Expr>,
        step: &'e Expr,
    ) -> Estimate<'s> {
        let (cost, over) = self.expr(range);
        let is_map = matches!(over, Shape::Map(..));
        let (key, element) = (Shape::Scalar, over.element());
        let one = if is_map { key.clone() } else { element.clone() };
        let named = match vars {
            [k, v] => vec![(k, key), (v, element)],
            [v] => vec![(v, one.clone())],
            _ => Vec::new(),
        };
        let (condition, (stepped, made)) = self.within(&named, |s| (filter.map_or(0, |f| s.expr(f).0), s.expr(step)));
        // What a macro becomes: its condition, what it does with its accumulator, and its end.
        let (each, end) = match fold {
            Fold::All => (3, 1),
            Fold::Exists => (4, 1),
            Fold::ExistsOne => (2, 2),
            Fold::Map | Fold::SortBy => (12, LIST + 1),
            Fold::Filter => (13, LIST + 1),
            Fold::TransformMap | Fold::TransformMapEntry => (2, MAP + 1),
        };
        let count = over.size();
        let shape = match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Shape::Scalar,
            Fold::Map => Shape::List(count, Box::new(made)),
            Fold::Filter | Fold::SortBy => Shape::List(count, Box::new(one)),
            Fold::TransformMap | Fold::TransformMapEntry => Shape::Map(count, Box::new(made)),
        };
        let turn = stepped.saturating_add(condition).saturating_add(each);
        (cost.saturating_add(count.saturating_mul(turn)).saturating_add(end), shape)
    }

    fn call(&mut self, name: &str, args: &'e [Expr]) -> Estimate<'s> {
        let mut cost: u64 = 0;
        let mut shapes = Vec::with_capacity(args.len());
        for arg in args {
            let (c, shape) = self.expr(arg);
            cost = cost.saturating_add(c);
            shapes.push(shape);
        }
        let (own, shape) = call(name, &shapes);
        (cost.saturating_add(own), shape)
    }
}

fn constant<'s>(v: &Val) -> Shape<'s> {
    match v {
        Val::Str(_) | Val::Bytes(_) => Shape::Text(v.size()),
        _ => Shape::Scalar,
    }
}

/// What a call adds to its arguments, and what it gives.
fn call<'s>(name: &str, args: &[Shape<'s>]) -> Estimate<'s> {
    let size = |i: usize| args.get(i).map_or(0, Shape::size);
    let first = || args.first().cloned().unwrap_or(Shape::Unknown);
    let texts = |n: u64| Shape::List(n, Box::new(Shape::Text(size(0))));
    match name {
        "dyn" | "value" => (1, first()),
        "optional.of" | "optional.ofNonZeroValue" | "or" => (1, first()),
        "orValue" => (1, first().or(args.get(1).cloned().unwrap_or(Shape::Unknown))),
        "check" => (350_000, Shape::Unknown),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match first() {
            Shape::List(n, of) => {
                let of = of.plain();
                let each = if let Shape::Text(chars) = of { 1u64.saturating_add(scaled(chars, CHAR)) } else { 1 };
                let made = if matches!(name, "max" | "min") { of } else { Shape::Scalar };
                (n.saturating_mul(each), made)
            }
            other => (scaled(other.size(), CHAR), Shape::Scalar),
        },
        "lowerAscii" | "upperAscii" | "substring" | "trim" => (scaled(size(0), CHAR), Shape::Text(size(0))),
        "replace" => {
            let grown = size(0).saturating_add(1).saturating_mul(size(2).max(1));
            (scaled(size(0), 2.0 * CHAR), Shape::Text(size(0).saturating_add(grown)))
        }
        "split" => (scaled(size(0), 2.0 * CHAR), texts(size(0))),
        "join" => {
            let each = match first() {
                Shape::List(_, of) => of.plain().size(),
                _ => REQUEST_MAX,
            };
            let made = size(0).saturating_mul(each.saturating_add(size(1)));
            (scaled(made, CHAR), Shape::Text(made))
        }
        "find" | "findAll" | "matches" => {
            let cost = scaled(size(0).saturating_add(1), CHAR).saturating_mul(scaled(size(1), PATTERN));
            match name {
                "find" => (cost, Shape::Text(size(0))),
                "findAll" => (cost, texts(size(0))),
                _ => (cost, Shape::Scalar),
            }
        }
        "contains" => (scaled(size(0), CHAR).saturating_mul(scaled(size(1), CHAR)), Shape::Scalar),
        "startsWith" | "endsWith" => (scaled(size(1), CHAR), Shape::Scalar),
        "url" | "quantity" | "isQuantity" | "isURL" | "cidr" | "isIP" | "isCIDR" | "ip" | "semver" | "isSemver" => {
            (scaled(size(0), CHAR), Shape::Scalar)
        }
        "ip.isCanonical" => (scaled(size(0), 2.0 * CHAR), Shape::Scalar),
        "containsIP" | "containsCIDR" => (7u64.saturating_add(scaled(size(1), CHAR)), Shape::Scalar),
        "@in" => match args.get(1) {
            Some(Shape::List(n, _)) => (*n, Shape::Scalar),
            _ => (1, Shape::Scalar),
        },
        "_+_" => match (first(), args.get(1)) {
            (Shape::Text(a), Some(Shape::Text(b))) => {
                let made = a.saturating_add(*b);
                (scaled(made, CHAR), Shape::Text(made))
            }
            (Shape::List(a, x), Some(Shape::List(b, y))) => {
                (1, Shape::List(a.saturating_add(*b), Box::new(x.plain().or(y.clone().plain()))))
            }
            (Shape::Scalar, Some(Shape::Scalar)) => (1, Shape::Scalar),
            _ => (1, Shape::Unknown),
        },
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => (scaled(size(0).min(size(1)), CHAR).max(1), Shape::Scalar),
        "string" | "format" | "bytes" | "strings.quote" => {
            let made = match first() {
                Shape::Scalar => 64,
                other => other.size().saturating_mul(4),
            };
            (scaled(size(0), CHAR).max(1), Shape::Text(made))
        }
        "sort" | "distinct" | "reverse" | "slice" | "flatten" => (size(0), first()),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => (size(0).saturating_mul(size(1)), Shape::Scalar),
        "validate" => (scaled(size(1).saturating_add(1), CHAR).saturating_mul(15), texts(1)),
        _ => (1, Shape::Scalar),
    }
}

#[cfg(test)]
mod tests;
