//! A set of field paths as a trie, sorted as upstream sorts path elements.
//!
//! Elements borrow from the values they came from, so that walking an object allocates only the trie's own nodes.
//!
//! **Invariant:** siblings are sorted and unique. **Invariant:** a node is a member of the set or has children.
//!
//! Rules: upstream `structured-merge-diff/fieldpath` (`PathElement`, `Set`).

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// The key fields of a list element, sorted by name.
pub type KeyFields<'a> = Box<[(Cow<'a, str>, Cow<'a, Value>)]>;

/// One step of a path.
#[derive(Debug, Clone)]
pub enum Elem<'a> {
    /// A field of a struct or a key of a map.
    Field(&'a str),
    /// An element of a list with keys.
    Key(KeyFields<'a>),
    /// An element of a set.
    Value(Cow<'a, Value>),
    /// An element by position; read and kept, never made.
    Index(i64),
}

impl Elem<'_> {
    fn rank(&self) -> u8 {
        match self {
            Elem::Field(_) => 0,
            Elem::Key(_) => 1,
            Elem::Value(_) => 2,
            Elem::Index(_) => 3,
        }
    }
}

impl Ord for Elem<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Elem::Field(a), Elem::Field(b)) => a.cmp(b),
            (Elem::Key(a), Elem::Key(b)) => a
                .iter()
                .zip(b.iter())
                .map(|((n, v), (m, w))| n.cmp(m).then_with(|| compare_values(v, w)))
                .find(|o| o.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len())),
            (Elem::Value(a), Elem::Value(b)) => compare_values(a, b),
            (Elem::Index(a), Elem::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Elem<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Elem<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Elem<'_> {}

impl fmt::Display for Elem<'_> {
    /// As it stands in a conflict: `.name`, `[name="c"]`, `[="value"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::Field(name) => write!(f, ".{name}"),
            Elem::Key(fields) => {
                f.write_str("[")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Elem::Value(value) => write!(f, "[={value}]"),
            Elem::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// Orders values as upstream does: numbers, texts, booleans, lists, maps, null.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(v: &Value) -> u8 {
        match v {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => x
            .iter()
            .zip(y)
            .map(|(v, w)| compare_values(v, w))
            .find(|o| o.is_ne())
            .unwrap_or_else(|| x.len().cmp(&y.len())),
        (Value::Object(_), Value::Object(_)) => a.to_string().cmp(&b.to_string()),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// A node of the trie: whether its path is in the set, and what is below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node<'a> {
    /// True when the path itself is in the set.
    pub member: bool,
    /// What is below.
    pub children: FieldSet<'a>,
}

impl Node<'_> {
    /// A path without anything below it.
    pub const LEAF: Node<'static> = Node { member: true, children: FieldSet(Vec::new()) };

    /// True when neither the path nor anything below is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// A set of paths below one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet<'a>(Vec<(Elem<'a>, Node<'a>)>);

impl<'a> FieldSet<'a> {
    /// The empty set.
    pub const EMPTY: FieldSet<'static> = FieldSet(Vec::new());

    /// The set of these paths of field names, as `&[&["spec"], &["metadata", "labels"]]`.
    pub fn of_fields(paths: &[&[&'a str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = Node::LEAF;
            for name in path.iter().rev() {
                node = Node { member: false, children: FieldSet(vec![(Elem::Field(name), node)]) };
            }
            set = set.union(node.children);
        }
        set
    }

    /// True when nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The children in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Elem<'a>, Node<'a>)> {
        self.0.iter()
    }

    /// The node at `elem`.
    pub fn get(&self, elem: &Elem<'_>) -> Option<&Node<'a>> {
        self.0.binary_search_by(|(e, _)| e.cmp(elem)).ok().map(|i| &self.0[i].1)
    }

    /// Puts a node at the end; empty ones are left out. [`Self::settle`] must follow before any other use.
    pub(super) fn push(&mut self, elem: Elem<'a>, node: Node<'a>) {
        if !node.is_empty() {
            self.0.push((elem, node));
        }
    }

    /// Sorts after pushing, and unites what stands for one path.
    pub(super) fn settle(&mut self) {
        if self.0.is_sorted_by(|(a, _), (b, _)| a < b) {
            return;
        }
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.0.dedup_by(|(later, node), (earlier, kept)| {
            let twice = later == earlier;
            if twice {
                kept.member |= node.member;
                kept.children = std::mem::take(&mut kept.children).union(std::mem::take(&mut node.children));
            }
            twice
        });
    }

    /// Everything that is in either set.
    pub fn union(self, other: FieldSet<'a>) -> FieldSet<'a> {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut out = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut left, mut right) = (self.0.into_iter().peekable(), other.0.into_iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return FieldSet(out),
            };
            match order {
                Ordering::Less => out.extend(left.next()),
                Ordering::Greater => out.extend(right.next()),
                Ordering::Equal => {
                    if let (Some((elem, a)), Some((_, b))) = (left.next(), right.next()) {
                        let children = a.children.union(b.children);
                        out.push((elem, Node { member: a.member || b.member, children }));
                    }
                }
            }
        }
    }

    /// This set without the paths of `other`; what stands below a path of `other` stays.
    pub fn difference(&self, other: &FieldSet<'_>) -> FieldSet<'a> {
        let mut out = FieldSet::default();
        for (elem, node) in &self.0 {
            match other.get(elem) {
                None => out.0.push((elem.clone(), node.clone())),
                Some(o) => {
                    let children = node.children.difference(&o.children);
                    out.push(elem.clone(), Node { member: node.member && !o.member, children });
                }
            }
        }
        out
    }

    /// This set without the paths of `other` and all below them.
    #[must_use]
    pub fn recursive_difference(mut self, other: &FieldSet<'_>) -> FieldSet<'a> {
        self.0.retain_mut(|(elem, node)| match other.get(elem) {
            None => true,
            Some(o) if o.member => false,
            Some(o) => {
                node.children = std::mem::take(&mut node.children).recursive_difference(&o.children);
                !node.is_empty()
            }
        });
        self
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &FieldSet<'_>) -> FieldSet<'a> {
        let mut out = FieldSet::default();
        for (elem, node) in &self.0 {
            if let Some(o) = other.get(elem) {
                let children = node.children.intersection(&o.children);
                out.push(elem.clone(), Node { member: node.member && o.member, children });
            }
        }
        out
    }

    /// All paths in upstream's order: those of one level first, then what is below.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out, |_| true);
        out
    }

    /// The paths that have nothing below them.
    pub fn leaves(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out, |node| node.children.is_empty());
        out
    }

    fn collect(&self, prefix: &mut String, out: &mut Vec<String>, wanted: fn(&Node<'_>) -> bool) {
        for (elem, node) in self.0.iter().filter(|(_, n)| n.member && wanted(n)) {
            debug_assert!(node.member);
            out.push(format!("{prefix}{elem}"));
        }
        let length = prefix.len();
        for (elem, node) in self.0.iter().filter(|(_, n)| !n.children.is_empty()) {
            prefix.push_str(&elem.to_string());
            node.children.collect(prefix, out, wanted);
            prefix.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(paths: &[&[&'a str]]) -> FieldSet<'a> {
        FieldSet::of_fields(paths)
    }

    #[test]
    fn unites_and_subtracts() {
        let a = set(&[&["spec"], &["spec", "x"], &["metadata", "labels", "a"]]);
        let b = set(&[&["spec"], &["metadata", "labels", "b"]]);
        assert_eq!(a.difference(&b).paths(), [".metadata.labels.a", ".spec.x"]);
        assert_eq!(a.clone().recursive_difference(&b).paths(), [".metadata.labels.a"]);
        assert_eq!(a.intersection(&b).paths(), [".spec"]);
        assert_eq!(a.clone().union(b).paths(), [".spec", ".metadata.labels.a", ".metadata.labels.b", ".spec.x"]);
        assert_eq!(a.leaves(), [".metadata.labels.a", ".spec.x"]);
        assert!(a.difference(&a).is_empty());
    }
}
