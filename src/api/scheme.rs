//! What the machinery knows of a kind: one row each.
//!
//! A row is data (and a few cell functions); behaviour stands in `registry::Strategy`. Rows are made once at start, those
//! of CustomResourceDefinitions at run time, hence `Cow`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::jsonpath::JsonPath;
use super::meta::gvk::{GroupResource, Gvk, Str};
use super::value::ValueExt;

/// Cluster-wide or in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// No namespace.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbs(pub u16);

impl Verbs {
    const NAMES: [&'static str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    /// `create`
    pub const CREATE: Verbs = Verbs(1);
    /// `delete`
    pub const DELETE: Verbs = Verbs(2);
    /// `deletecollection`
    pub const DELETE_COLLECTION: Verbs = Verbs(4);
    /// `get`
    pub const GET: Verbs = Verbs(8);
    /// `list`
    pub const LIST: Verbs = Verbs(16);
    /// `patch`
    pub const PATCH: Verbs = Verbs(32);
    /// `update`
    pub const UPDATE: Verbs = Verbs(64);
    /// `watch`
    pub const WATCH: Verbs = Verbs(128);
    /// All eight.
    pub const ALL: Verbs = Verbs(255);
    /// `get`, `patch`, `update`: what `status` and `scale` have.
    pub const STATUS: Verbs = Verbs(8 | 32 | 64);

    /// Both sets.
    pub const fn and(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// This set without the other.
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// True when all of `other` are in.
    pub const fn has(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names in alphabetical order, as discovery lists them.
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0).map(|(_, n)| *n).collect()
    }
}

/// A subresource of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Name in the path, as `status`.
    pub name: Str,
    /// Verbs.
    pub verbs: Verbs,
    /// The kind of its bodies, where it is not the parent's.
    pub gvk: Option<Gvk>,
}

impl Subresource {
    /// One with the parent's kind.
    pub const fn own(name: &'static str, verbs: Verbs) -> Self {
        Self { name: Cow::Borrowed(name), verbs, gvk: None }
    }

    /// One with a kind of its own.
    pub const fn of(name: &'static str, verbs: Verbs, gvk: Gvk) -> Self {
        Self { name: Cow::Borrowed(name), verbs, gvk: Some(gvk) }
    }
}

/// `status`, as most kinds have it.
pub const STATUS: Subresource = Subresource::own("status", Verbs::STATUS);
/// Nothing but `status`.
pub const STATUS_ONLY: &[Subresource] = &[STATUS];
/// `scale` of workloads.
pub const SCALE: Subresource = Subresource::of("scale", Verbs::STATUS, Gvk::new("autoscaling", "v1", "Scale"));

/// Makes a cell from an object. The time is for ages.
pub type CellFn = fn(&Value, Timestamp) -> Value;

/// Where a cell's content comes from.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A function of the object.
    Fn(CellFn),
    /// The value at a JSON pointer; absent is "" (or 0 for integers).
    At(Str),
    /// A JSONPath of a CustomResourceDefinition's column, dates shown as ages.
    JsonPath(JsonPath),
    /// The age by `metadata.creationTimestamp`.
    Age,
}

/// A column of server-side tables, as `metav1.TableColumnDefinition`.
#[derive(Debug, Clone)]
pub struct Column {
    /// Heading.
    pub name: Str,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: Str,
    /// `name` for the first column of most kinds, else empty.
    pub format: Str,
    /// For people.
    pub description: Str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// False for a cell that rows have without a heading.
    pub listed: bool,
    /// Content.
    pub cell: Cell,
}

impl Column {
    const fn make(name: &'static str, kind: &'static str, format: &'static str, cell: Cell) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            format: Cow::Borrowed(format),
            description: Cow::Borrowed(""),
            priority: 0,
            listed: true,
            cell,
        }
    }

    /// The object's name: the first column of most kinds.
    pub const NAME: Column = Self::make("Name", "string", "name", Cell::At(Cow::Borrowed("/metadata/name")));

    /// Time since creation. Upstream's built-in tables say `string`.
    pub const AGE: Column = Self::make("Age", "string", "", Cell::Age);

    /// Creation time, the second column of kinds that have no columns of their own.
    pub const fn created_at() -> Self {
        Self::make("Created At", "date", "", Cell::At(Cow::Borrowed("/metadata/creationTimestamp")))
    }

    /// A text made by a function.
    pub const fn new(name: &'static str, cell: CellFn) -> Self {
        Self::make(name, "string", "", Cell::Fn(cell))
    }

    /// An integer made by a function.
    pub const fn int_fn(name: &'static str, cell: CellFn) -> Self {
        Self::make(name, "integer", "", Cell::Fn(cell))
    }

    /// The text at a JSON pointer.
    pub const fn text(name: &'static str, pointer: &'static str) -> Self {
        Self::make(name, "string", "", Cell::At(Cow::Borrowed(pointer)))
    }

    /// The switch at a JSON pointer.
    pub const fn switch(name: &'static str, pointer: &'static str) -> Self {
        Self::make(name, "boolean", "", Cell::At(Cow::Borrowed(pointer)))
    }

    /// The integer at a JSON pointer.
    pub const fn int(name: &'static str, pointer: &'static str) -> Self {
        Self::make(name, "integer", "", Cell::At(Cow::Borrowed(pointer)))
    }

    /// A text made by a function, which names the object.
    pub const fn name_fn(name: &'static str, cell: CellFn) -> Self {
        Self::make(name, "string", "name", Cell::Fn(cell))
    }

    /// The same cell, without a heading.
    pub const fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }

    /// The same column, shown with `-o wide` only.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// A field that a field selector of the kind may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selectable {
    /// As clients write it: `spec.nodeName`.
    pub field: Str,
    /// JSON pointer to it: `/spec/nodeName`.
    pub pointer: Str,
    /// What an absent field counts as (`false` for `spec.unschedulable`).
    pub absent: Str,
    /// JSON pointer to the field that is asked for where this one is empty.
    pub instead: Option<&'static str>,
}

impl Selectable {
    /// A static one; absent counts as "".
    pub const fn new(field: &'static str, pointer: &'static str) -> Self {
        Self { field: Cow::Borrowed(field), pointer: Cow::Borrowed(pointer), absent: Cow::Borrowed(""), instead: None }
    }

    /// What a field's text counts as; `read` gives the text of another one.
    pub fn counted(&self, text: String, read: impl Fn(&str) -> String) -> Box<str> {
        match self.instead {
            Some(pointer) if text.is_empty() => read(pointer).into(),
            _ if text.is_empty() => (&*self.absent).into(),
            _ => text.into(),
        }
    }

    /// The same with another field in place of an empty one.
    pub const fn or_field(mut self, pointer: &'static str) -> Self {
        self.instead = Some(pointer);
        self
    }

    /// A static one with a value for its absence.
    pub const fn or(field: &'static str, pointer: &'static str, absent: &'static str) -> Self {
        Self {
            field: Cow::Borrowed(field),
            pointer: Cow::Borrowed(pointer),
            absent: Cow::Borrowed(absent),
            instead: None,
        }
    }
}

/// A kind: its row.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// Group, version, kind.
    pub gvk: Gvk,
    /// Plural name, as in paths.
    pub plural: Str,
    /// Singular name.
    pub singular: Str,
    /// Short names.
    pub short: Vec<Str>,
    /// Categories, as `all`.
    pub categories: Vec<Str>,
    /// Scope.
    pub scope: Scope,
    /// Verbs of the resource itself.
    pub verbs: Verbs,
    /// Subresources.
    pub subresources: Cow<'static, [Subresource]>,
    /// Table columns, the name's among them; empty means Name and Age.
    pub columns: Cow<'static, [Column]>,
    /// `conditions` of a table row, null for none: clients hide rows of completed pods by it.
    pub row_conditions: Option<fn(&Value) -> Value>,
    /// Fields for field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable: Cow<'static, [Selectable]>,
    /// Group and resource it is stored under; another version's row may share it.
    pub stored: GroupResource,
    /// An annotation that upstream makes of a field as it answers: it is in whole objects only.
    pub derived_annotation: Option<&'static str>,
    /// Told with every answer, where the kind is deprecated.
    pub deprecation: Option<Str>,
    /// Version of the stored form, where it is not this row's (`autoscaling/v1` is stored as `v2`).
    pub stored_version: Str,
}

impl KindInfo {
    /// A namespaced kind with all verbs; the rest is added by the methods below.
    pub fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        Self {
            gvk: Gvk::new(group, version, kind),
            plural: Cow::Borrowed(plural),
            singular: Cow::Borrowed(singular),
            short: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            subresources: Cow::Borrowed(&[]),
            columns: Cow::Borrowed(&[]),
            row_conditions: None,
            selectable: Cow::Borrowed(&[]),
            stored: GroupResource::new(group, plural),
            stored_version: Cow::Borrowed(version),
            derived_annotation: None,
            deprecation: None,
        }
    }

    /// A cluster-scoped kind with all verbs.
    pub fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        let mut k = Self::namespaced(group, version, kind, plural, singular);
        k.scope = Scope::Cluster;
        k
    }

    /// With short names.
    pub fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names.iter().map(|n| Cow::Borrowed(*n)).collect();
        self
    }

    /// With categories.
    pub fn categories(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names.iter().map(|n| Cow::Borrowed(*n)).collect();
        self
    }

    /// With a warning that every answer carries.
    pub fn deprecated(mut self, warning: &'static str) -> Self {
        self.deprecation = Some(Cow::Borrowed(warning));
        self
    }

    /// With an annotation that is in whole objects only.
    pub fn derived_annotation(mut self, name: &'static str) -> Self {
        self.derived_annotation = Some(name);
        self
    }

    /// With another set of verbs.
    pub fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    /// With subresources.
    pub fn subresources(mut self, list: &'static [Subresource]) -> Self {
        self.subresources = Cow::Borrowed(list);
        self
    }

    /// With table columns; the name's is the first of them.
    pub fn columns(mut self, list: &'static [Column]) -> Self {
        self.columns = Cow::Borrowed(list);
        self
    }

    /// With fields for field selectors.
    pub fn selectable(mut self, list: &'static [Selectable]) -> Self {
        self.selectable = Cow::Borrowed(list);
        self
    }

    /// Stored as another group's, resource's or version's objects are.
    pub fn stored_as(mut self, group: &'static str, resource: &'static str, version: &'static str) -> Self {
        self.stored = GroupResource::new(group, resource);
        self.stored_version = Cow::Borrowed(version);
        self
    }

    /// Group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.gvk.group.clone(), resource: self.plural.clone() }
    }

    /// True when it lives in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The values of the selectable fields, in the row's order.
    pub fn extract_fields(&self, object: &Value) -> Box<[Box<str>]> {
        self.selectable
            .iter()
            .map(|s| s.counted(field_text(object.get_at(&s.pointer)), |p| field_text(object.get_at(p))))
            .collect()
    }
}

/// A field's value as field selectors compare it.
pub fn field_text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

/// Time since `since` (RFC 3339) as tables show it; `<unknown>` when there is none.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(|s| s.parse::<Timestamp>().ok()) {
        Some(t) => human_duration(now.as_second() - t.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as upstream's `duration.HumanDuration` writes them: two significant parts at most.
pub fn human_duration(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match s {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{s}s"),
        _ if m < 10 => two(m, "m", s % 60, "s"),
        _ if m < 180 => format!("{m}m"),
        _ if h < 8 => two(h, "h", m % 60, "m"),
        _ if h < 48 => format!("{h}h"),
        _ if h < 192 => two(d, "d", h % 24, "h"),
        _ if d < 730 => format!("{d}d"),
        _ if d < 2920 => two(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

/// Age since creation.
pub fn object_age(object: &Value, now: Timestamp) -> String {
    age(object.str_at("/metadata/creationTimestamp"), now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(5, "5s")]
    #[test_case(119, "119s")]
    #[test_case(120, "2m")]
    #[test_case(150, "2m30s")]
    #[test_case(3600, "60m")]
    #[test_case(3 * 3600 + 300, "3h5m")]
    #[test_case(50 * 3600, "2d2h")]
    #[test_case(400 * 86400, "400d")]
    #[test_case(800 * 86400, "2y70d")]
    fn durations(seconds: i64, want: &str) {
        assert_eq!(human_duration(seconds), want);
    }

    #[test]
    fn verbs_are_listed_in_order() {
        assert_eq!(Verbs::STATUS.names(), ["get", "patch", "update"]);
        assert_eq!(Verbs::ALL.without(Verbs::WATCH).names().len(), 7);
    }
}
