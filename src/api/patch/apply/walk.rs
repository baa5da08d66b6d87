//! Walks values by type: which paths a configuration names, and how two values differ.
//!
//! Flow: a [`View`] and values in, [`FieldSet`]s that borrow from them out.
//!
//! **Invariant:** identity (`apiVersion`, `kind`, the name, uid and such) is in no set; see [`is_identity`].
//!
//! Rules: upstream `structured-merge-diff/typed` (`tofieldset.go`, `compare.go`, `validate.go`) and
//! `managedfields/internal/stripmeta.go`.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::fieldset::{Elem, FieldSet, Node};
use crate::api::patch::go::GoFmt;
use crate::api::schema::{Keys, ListType, Shape, Type, View};

/// Why a value does not fit its type: where, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct TypeError {
    /// As `.spec.ports`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl TypeError {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self { path: String::new(), problem: problem.into() }
    }

    pub(super) fn below(mut self, elem: &Elem<'_>) -> Self {
        self.path.insert_str(0, &elem.to_string());
        self
    }
}

type Result<T> = std::result::Result<T, TypeError>;

/// Fields of `metadata` that nobody owns.
const IDENTITY: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// True for what nobody owns: `field` directly in the object, or in its `metadata`.
pub fn is_identity(in_metadata: bool, field: &str) -> bool {
    if in_metadata { IDENTITY.contains(&field) } else { field == "apiVersion" || field == "kind" }
}

/// How strict a walk is with what does not fit the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    /// A configuration that is applied: unknown fields, wrong types and duplicates are errors.
    Yes,
    /// A stored object: only elements without identity are errors.
    No,
}

/// Where in an object the walk is; identity is left out at the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Metadata,
    Below,
}

impl Level {
    fn child(self, field: &str) -> Self {
        if self == Level::Root && field == "metadata" { Level::Metadata } else { Level::Below }
    }

    fn skips(self, field: &str) -> bool {
        self != Level::Below && is_identity(self == Level::Metadata, field)
    }
}

/// What a value is for apply.
enum Form<'a> {
    /// One value.
    Leaf,
    Map(&'a Map<String, Value>),
    List(ListType<'a>, &'a [Value]),
}

/// Values of the table that hold any JSON are one value for apply; unknown fields of custom resources are not.
pub(super) fn is_opaque(view: View<'_>) -> bool {
    view.is_deduced() && view.field_def().is_some()
}

fn form<'a>(view: View<'a>, value: &'a Value) -> Form<'a> {
    match value {
        Value::Object(map) if !view.is_atomic_struct() && !is_opaque(view) => Form::Map(map),
        Value::Array(items) => match view.list() {
            ListType::Atomic => Form::Leaf,
            list => Form::List(list, items),
        },
        _ => Form::Leaf,
    }
}

/// The identity of a list's element.
pub fn list_elem<'a>(list: ListType<'a>, element: View<'a>, item: &'a Value) -> Result<Elem<'a>> {
    let ListType::Map(keys) = list else {
        return match item {
            Value::Null => Err(TypeError::new("associative list without keys has an element that's an explicit null")),
            Value::Object(_) => Err(TypeError::new("associative list without keys has an element that's a map type")),
            Value::Array(_) => Err(TypeError::new("not supporting lists of lists yet")),
            scalar => Ok(Elem::Value(Cow::Borrowed(scalar))),
        };
    };
    let fields = match item {
        Value::Null => return Err(TypeError::new("associative list with keys may not have a null element")),
        Value::Object(fields) => fields,
        _ => return Err(TypeError::new("associative list with keys may not have non-map elements")),
    };
    key_fields(keys, element, fields)
}

fn key_fields<'a>(keys: Keys<'a>, element: View<'a>, fields: &'a Map<String, Value>) -> Result<Elem<'a>> {
    let mut out = Vec::with_capacity(keys.iter().count());
    for name in keys.iter() {
        let value = match fields.get(name) {
            Some(value) => Cow::Borrowed(value),
            None => Cow::Owned(element.key_default(name).ok_or_else(|| {
                TypeError::new(format!(
                    "associative list with keys has an element that omits key field {name:?} (and doesn't have \
                     default value)"
                ))
            })?),
        };
        out.push((Cow::Borrowed(name), value));
    }
    out.sort_by(|(a, _): &(Cow<'_, str>, _), (b, _)| a.cmp(b));
    Ok(Elem::Key(out.into()))
}

/// The paths that an object names: what its applier owns.
pub fn owned<'a>(view: View<'a>, object: &'a Value, strict: Strict) -> Result<FieldSet<'a>> {
    owned_node(view, object, strict, Level::Root).map(|n| n.children)
}

fn owned_node<'a>(view: View<'a>, value: &'a Value, strict: Strict, level: Level) -> Result<Node<'a>> {
    if strict == Strict::Yes {
        fits(view, value)?;
    }
    match form(view, value) {
        Form::Leaf => {
            if strict == Strict::Yes {
                fits_below(view, value)?;
            }
            Ok(Node::LEAF)
        }
        Form::Map(map) => {
            let mut children = FieldSet::default();
            for (name, below) in map.iter().filter(|(name, _)| !level.skips(name)) {
                let elem = Elem::Field(name);
                let known = view.known_field(name);
                if strict == Strict::Yes && known.is_none() && !allows_unknown(view) {
                    return Err(TypeError::new("field not declared in schema").below(&elem));
                }
                let child = known.unwrap_or_else(|| view.field(name));
                let mut node = owned_node(child, below, strict, level.child(name)).map_err(|e| e.below(&elem))?;
                let hollow = below.is_null() || below.as_object().is_some_and(Map::is_empty);
                node.member |= (hollow || known.is_none()) && level.child(name) != Level::Metadata;
                children.push(elem, node);
            }
            children.settle();
            Ok(Node { member: false, children })
        }
        Form::List(list, items) => {
            let element = view.element();
            let mut children = FieldSet::default();
            for (i, item) in items.iter().enumerate() {
                let elem = list_elem(list, element, item).map_err(|e| e.below(&Elem::Index(i as i64)))?;
                let mut node = owned_node(element, item, strict, Level::Below).map_err(|e| e.below(&elem))?;
                node.member = true;
                children.push(elem, node);
            }
            if strict == Strict::Yes {
                refuse_duplicates(&children)?;
            }
            children.settle();
            Ok(Node { member: false, children })
        }
    }
}

fn refuse_duplicates(items: &FieldSet<'_>) -> Result<()> {
    let mut elems: Vec<&Elem<'_>> = items.iter().map(|(e, _)| e).collect();
    elems.sort();
    match elems.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(TypeError::new(format!("duplicate entries for key {}", twice[0]))),
        None => Ok(()),
    }
}

/// Checks what stands inside an atomic value.
fn fits_below(view: View<'_>, value: &Value) -> Result<()> {
    match value {
        Value::Object(map) if !is_opaque(view) => map.iter().try_for_each(|(name, below)| {
            let elem = Elem::Field(name);
            if view.known_field(name).is_none() && !allows_unknown(view) {
                return Err(TypeError::new("field not declared in schema").below(&elem));
            }
            let child = view.field(name);
            fits(child, below).and_then(|()| fits_below(child, below)).map_err(|e| e.below(&elem))
        }),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(i, item)| {
            let element = view.element();
            fits(element, item).and_then(|()| fits_below(element, item)).map_err(|e| e.below(&Elem::Index(i as i64)))
        }),
        _ => Ok(()),
    }
}

pub(super) fn allows_unknown(view: View<'_>) -> bool {
    match view.shape() {
        Shape::Struct(_) => false,
        Shape::Crd { schema, .. } => {
            schema.get("additionalProperties").is_some()
                || schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true)
        }
        Shape::Wire(_) | Shape::Deduced => true,
    }
}

/// Checks the value's own type. Null fits everything.
pub(super) fn fits(view: View<'_>, value: &Value) -> Result<()> {
    let expected = match view.shape() {
        Shape::Struct(_) | Shape::Wire(Type::Map(_)) => "map",
        Shape::Wire(Type::List(_)) => "list",
        Shape::Wire(Type::Bool) => "boolean",
        Shape::Wire(Type::Int32 | Type::Int64 | Type::Float) => "numeric (int or float)",
        Shape::Wire(Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration) => "string",
        Shape::Wire(_) | Shape::Deduced => return Ok(()),
        Shape::Crd { schema, root } => {
            let any = schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true);
            match schema.get("type").and_then(Value::as_str) {
                Some("object") => "map",
                None if root => "map",
                Some("array") => "list",
                Some("string") if !any => "string",
                Some("boolean") => "boolean",
                Some("integer" | "number") if !any => "numeric (int or float)",
                _ => return Ok(()),
            }
        }
    };
    let ok = match value {
        Value::Null => true,
        Value::Object(_) => expected == "map",
        Value::Array(_) => expected == "list",
        Value::Bool(_) => expected == "boolean",
        Value::Number(_) => expected.starts_with("numeric"),
        Value::String(_) => expected == "string",
    };
    if ok { Ok(()) } else { Err(TypeError::new(format!("expected {expected}, got {}", GoFmt(value)))) }
}

/// What stands in for an absent object.
static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// How an object differs from an earlier one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff<'a> {
    /// Paths that were not there, containers included.
    pub added: FieldSet<'a>,
    /// Values that changed.
    pub modified: FieldSet<'a>,
    /// Paths that are gone.
    pub removed: FieldSet<'a>,
}

impl<'a> Diff<'a> {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves out `fields` and all below them.
    pub fn without(self, fields: &FieldSet<'_>) -> Self {
        let cut = |set: FieldSet<'a>| {
            let untouched = fields.is_empty() || set.is_empty();
            if untouched { set } else { set.recursive_difference(fields) }
        };
        Self { added: cut(self.added), modified: cut(self.modified), removed: cut(self.removed) }
    }

    fn put(&mut self, elem: &Elem<'a>, below: Diff<'a>) {
        let node = |children| Node { member: false, children };
        self.added.push(elem.clone(), node(below.added));
        self.modified.push(elem.clone(), node(below.modified));
        self.removed.push(elem.clone(), node(below.removed));
    }

    fn settled(mut self) -> Self {
        self.added.settle();
        self.modified.settle();
        self.removed.settle();
        self
    }
}

/// Compares two objects of one type.
pub fn compare<'a>(view: View<'a>, old: &'a Value, new: &'a Value) -> Result<Diff<'a>> {
    let old = old.as_object().unwrap_or(&NONE);
    let new = new.as_object().unwrap_or(&NONE);
    compare_maps(view, old, new, Level::Root)
}

fn compare_maps<'a>(
    view: View<'a>,
    old: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
    level: Level,
) -> Result<Diff<'a>> {
    let mut diff = Diff::default();
    let whole_child = |name: &'a String, value| -> Result<Node<'a>> {
        let mut node = whole(view.field(name), value, level.child(name)).map_err(|e| e.below(&Elem::Field(name)))?;
        node.member &= level.child(name) != Level::Metadata;
        Ok(node)
    };
    for (name, now) in new.iter().filter(|(name, _)| !level.skips(name)) {
        match old.get(name) {
            None => diff.added.push(Elem::Field(name), whole_child(name, now)?),
            Some(before) if same(before, now) => {}
            Some(before) => {
                let elem = Elem::Field(name);
                pair(view.field(name), before, now, &elem, level.child(name), &mut diff).map_err(|e| e.below(&elem))?;
            }
        }
    }
    for (name, before) in old.iter().filter(|(name, _)| !level.skips(name) && !new.contains_key(name.as_str())) {
        diff.removed.push(Elem::Field(name), whole_child(name, before)?);
    }
    Ok(diff.settled())
}

/// Compares two values that stand at one path and differ.
fn pair<'a>(
    view: View<'a>,
    old: &'a Value,
    new: &'a Value,
    elem: &Elem<'a>,
    level: Level,
    diff: &mut Diff<'a>,
) -> Result<()> {
    let below = match (form(view, old), form(view, new)) {
        (Form::Map(a), Form::Map(b)) if !(a.is_empty() && b.is_empty()) => compare_maps(view, a, b, level)?,
        (Form::Map(a), _) if new.is_null() && !a.is_empty() => compare_maps(view, a, &NONE, level)?,
        (_, Form::Map(b)) if old.is_null() && !b.is_empty() => compare_maps(view, &NONE, b, level)?,
        (Form::List(list, a), Form::List(_, b)) if !(a.is_empty() && b.is_empty()) => compare_lists(view, list, a, b)?,
        (Form::List(list, a), _) if new.is_null() && !a.is_empty() => compare_lists(view, list, a, &[])?,
        (_, Form::List(list, b)) if old.is_null() && !b.is_empty() => compare_lists(view, list, &[], b)?,
        _ => {
            diff.modified.push(elem.clone(), Node::LEAF);
            return Ok(());
        }
    };
    diff.put(elem, below);
    Ok(())
}

fn compare_lists<'a>(view: View<'a>, list: ListType<'a>, old: &'a [Value], new: &'a [Value]) -> Result<Diff<'a>> {
    let element = view.element();
    let index = |items: &'a [Value]| -> Result<Vec<(Elem<'a>, &'a Value)>> {
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            out.push((list_elem(list, element, item).map_err(|e| e.below(&Elem::Index(i as i64)))?, item));
        }
        out.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(out)
    };
    let (left, right) = (index(old)?, index(new)?);
    let (mut left, mut right) = (&left[..], &right[..]);
    let mut diff = Diff::default();
    while let Some(elem) = match (left.first(), right.first()) {
        (Some((a, _)), Some((b, _))) => Some(a.min(b).clone()),
        (a, b) => a.or(b).map(|(e, _)| e.clone()),
    } {
        let (was, rest) = left.split_at(left.partition_point(|(e, _)| *e <= elem));
        left = rest;
        let (is, rest) = right.split_at(right.partition_point(|(e, _)| *e <= elem));
        right = rest;
        items(element, &elem, was, is, &mut diff).map_err(|e| e.below(&elem))?;
    }
    Ok(diff)
}

/// Compares the elements of one identity; more than one on a side are compared as one value.
fn items<'a>(
    view: View<'a>,
    elem: &Elem<'a>,
    old: &[(Elem<'a>, &'a Value)],
    new: &[(Elem<'a>, &'a Value)],
    diff: &mut Diff<'a>,
) -> Result<()> {
    let all = |value: &'a Value| whole(view, value, Level::Below);
    match (old, new) {
        ([], []) => {}
        ([(_, old)], [(_, new)]) if same(old, new) => {}
        ([(_, old)], [(_, new)]) => pair(view, old, new, elem, Level::Below, diff)?,
        ([(_, old)], []) => diff.removed.push(elem.clone(), all(old)?),
        ([], [(_, new)]) => diff.added.push(elem.clone(), all(new)?),
        ([_, _, ..], [_, _, ..]) => {
            let equal = old.len() == new.len() && old.iter().zip(new).all(|((_, a), (_, b))| same(a, b));
            if !equal {
                diff.modified.push(elem.clone(), Node::LEAF);
            }
        }
        ([_, _, ..], _) => {
            if let [(_, new)] = new {
                diff.added.push(elem.clone(), all(new)?);
            }
            diff.removed.push(elem.clone(), Node::LEAF);
        }
        (_, [_, _, ..]) => {
            if let [(_, old)] = old {
                diff.removed.push(elem.clone(), all(old)?);
            }
            diff.added.push(elem.clone(), Node::LEAF);
        }
    }
    Ok(())
}

/// All paths of a value that is only on one side, its own among them.
fn whole<'a>(view: View<'a>, value: &'a Value, level: Level) -> Result<Node<'a>> {
    let mut children = FieldSet::default();
    match form(view, value) {
        Form::Leaf => return Ok(Node::LEAF),
        Form::Map(map) => {
            for (name, below) in map.iter().filter(|(name, _)| !level.skips(name)) {
                let node =
                    whole(view.field(name), below, level.child(name)).map_err(|e| e.below(&Elem::Field(name)))?;
                children.push(Elem::Field(name), node);
            }
        }
        Form::List(list, items) => {
            let element = view.element();
            for (i, item) in items.iter().enumerate() {
                let elem = list_elem(list, element, item).map_err(|e| e.below(&Elem::Index(i as i64)))?;
                let node = whole(element, item, Level::Below).map_err(|e| e.below(&elem))?;
                children.push(elem, node);
            }
        }
    }
    children.settle();
    Ok(Node { member: true, children })
}

/// Equality as upstream has it: numbers by value, objects in any order.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len()
                && x.iter().zip(y).all(|((k, v), (l, w))| match k == l {
                    true => same(v, w),
                    false => y.get(k).is_some_and(|w| same(v, w)),
                })
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        (Value::Number(x), Value::Number(y)) => x == y || (x.as_f64() == y.as_f64() && (x.is_f64() || y.is_f64())),
        _ => a == b,
    }
}

/// The set with the named fields on its way: `a.b.c` makes `a` a member where `a` is a struct's field.
///
/// Upstream: `Set.EnsureNamedFieldsAreMembers`.
///
/// `metadata` itself is none: the identity in it stays whoever owns the rest.
pub fn with_named<'a>(view: View<'_>, set: &FieldSet<'a>) -> FieldSet<'a> {
    named(view, set, Level::Root)
}

fn named<'a>(view: View<'_>, set: &FieldSet<'a>, level: Level) -> FieldSet<'a> {
    let mut out = FieldSet::default();
    for (elem, node) in set.iter() {
        let (is_named, below, under) = match elem {
            Elem::Field(name) => match view.known_field(name) {
                Some(child) => (true, child, level.child(name)),
                None => (false, view.field(name), level.child(name)),
            },
            _ => (false, view.element(), Level::Below),
        };
        let member = node.member || (is_named && !node.children.is_empty());
        let member = member && under != Level::Metadata;
        out.push(elem.clone(), Node { member, children: named(below, &node.children, under) });
    }
    out
}
