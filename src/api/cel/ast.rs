//! Expressions as trees.

use super::funcs::Fun;
use super::value::Val;

/// An expression and the place where it stands, counted in characters.
#[derive(Debug, Clone)]
pub struct Expr {
    /// What it is.
    pub kind: Kind,
    /// Its place.
    pub at: u32,
}

/// A member of a list, a map or an object.
#[derive(Debug, Clone)]
pub struct Entry<K> {
    /// The key or the field's name.
    pub key: K,
    /// The value.
    pub value: Expr,
    /// Left out when its value is an empty optional.
    pub optional: bool,
}

/// What a comprehension makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// True when all are.
    All,
    /// True when one is.
    Exists,
    /// True when exactly one is.
    ExistsOne,
    /// A list of results.
    Map,
    /// A list of those for which the condition holds.
    Filter,
    /// A map with the same keys and other values.
    TransformMap,
    /// A map of the entries that each step makes.
    TransformMapEntry,
    /// A list sorted by what each step makes.
    SortBy,
}

/// The kinds of expressions.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A literal.
    Const(Val),
    /// A variable; `local` when a comprehension around it names it.
    Ident {
        /// Its name.
        name: String,
        /// Named by a comprehension.
        local: bool,
    },
    /// `a.b`, `a.?b`, `has(a.b)`.
    Select {
        /// The object.
        operand: Box<Expr>,
        /// The field.
        field: String,
        /// Asks only whether it is there.
        test: bool,
        /// Gives an optional.
        optional: bool,
    },
    /// `a[b]`, `a[?b]`.
    Index {
        /// The list or map.
        operand: Box<Expr>,
        /// The place or the key.
        index: Box<Expr>,
        /// Gives an optional.
        optional: bool,
    },
    /// A function; the receiver is the first argument.
    Call {
        /// Its name.
        name: String,
        /// True when the first argument is a receiver.
        member: bool,
        /// The arguments.
        args: Vec<Expr>,
        /// What it runs, once it is known.
        fun: Option<Fun>,
    },
    /// `a && b`, in a row.
    And(Vec<Expr>),
    /// `a || b`, in a row.
    Or(Vec<Expr>),
    /// `a ? b : c`.
    Cond(Box<[Expr; 3]>),
    /// `[a, b]`.
    List(Vec<Entry<()>>),
    /// `{a: b}`.
    Map(Vec<Entry<Expr>>),
    /// `T{a: b}`.
    Struct {
        /// The type.
        name: String,
        /// The fields.
        fields: Vec<Entry<String>>,
    },
    /// A comprehension.
    Fold {
        /// What it makes.
        fold: Fold,
        /// What it goes through.
        range: Box<Expr>,
        /// The names of the element, or of the place (key) and the element.
        vars: Vec<String>,
        /// Skips elements for which it does not hold.
        filter: Option<Box<Expr>>,
        /// What is evaluated for each element.
        step: Box<Expr>,
    },
    /// `cel.bind(name, value, body)`.
    Bind {
        /// The name.
        name: String,
        /// Its value.
        value: Box<Expr>,
        /// Where it is known.
        body: Box<Expr>,
    },
    /// `a.optMap(x, body)`; flat when the body gives an optional itself.
    OptMap {
        /// The optional.
        operand: Box<Expr>,
        /// The name of its value.
        name: String,
        /// What becomes of it.
        body: Box<Expr>,
        /// The body gives an optional.
        flat: bool,
    },
}

impl Kind {
    /// At a place.
    pub fn at(self, at: usize) -> Expr {
        Expr { kind: self, at: u32::try_from(at).unwrap_or(u32::MAX) }
    }
}

impl Expr {
    /// True when it names a variable, anywhere.
    pub fn names(&self, variable: &str) -> bool {
        let any = |all: &[Expr]| all.iter().any(|e| e.names(variable));
        match &self.kind {
            Kind::Const(_) => false,
            Kind::Ident { name, local } => !local && name == variable,
            Kind::Select { operand, .. } => operand.names(variable),
            Kind::Index { operand, index, .. } => operand.names(variable) || index.names(variable),
            Kind::Call { args: all, .. } | Kind::And(all) | Kind::Or(all) => any(all),
            Kind::Cond(all) => any(&all[..]),
            Kind::List(all) => all.iter().any(|e| e.value.names(variable)),
            Kind::Map(all) => all.iter().any(|e| e.key.names(variable) || e.value.names(variable)),
            Kind::Struct { fields, .. } => fields.iter().any(|e| e.value.names(variable)),
            Kind::Fold { range, filter, step, .. } => {
                range.names(variable) || step.names(variable) || filter.as_ref().is_some_and(|f| f.names(variable))
            }
            Kind::Bind { value, body, .. } => value.names(variable) || body.names(variable),
            Kind::OptMap { operand, body, .. } => operand.names(variable) || body.names(variable),
        }
    }

    /// The dotted name that this is, if it is one.
    pub fn dotted(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident { name, local: false } => Some(name.clone()),
            Kind::Select { operand, field, test: false, optional: false } => {
                Some(format!("{}.{field}", operand.dotted()?))
            }
            _ => None,
        }
    }
}
