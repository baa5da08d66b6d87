//! The wire table: per struct its fields, presence rules, defaults, list types, merge keys and protobuf numbers.
//!
//! The table is text (`wire.table`, one line a field), read once into a static arena. Everything that treats JSON by
//! shape runs over it: canonicalization, strict-field warnings, defaults, protobuf, strategic merge and apply (through
//! [`View`]), OpenAPI.
//!
//! **Invariant:** built-in definitions live for the whole process (`&'static`) and never change.
//!
//! # The form of `wire.table`
//!
//! ```text
//! @core.v1 v1                        structs of core.v1 are the kinds of group version v1
//! core.v1.Volume schema              a struct; flags: kind (has apiVersion and kind), atomic, schema (is published)
//!  name 1 string !                   JSON name, protobuf number, type, flags
//!  VolumeSource.hostPath 2.1 *HostPathVolumeSource ?
//! ```
//!
//! A number `2.1` is field 1 of the message embedded as field 2: Go's inlined structs are spread in JSON and nested in
//! protobuf; their names stand before the field's. `-` is not in protobuf. Types: `*` pointer, `[]` list, `{}` map from text; a bare struct name is one of the
//! same package. Flags: `?` omitted when empty, `??` when zero, `!` required, `l=` list type (`atomic`, `set` or the map
//! keys), `t=` map type, `m=strategy:key` strategic merge, `d=` the schema's default where it is not the zero value, `[]` an
//! empty list is not dropped: to defaults and rules it is not the same as none.

pub mod canon;
#[cfg(test)]
mod canon_recorded;
pub mod defaults;
pub mod equal;
pub mod openapi;
pub mod structural;
pub mod table;
pub mod time;
pub mod view;

use std::sync::OnceLock;

use serde_json::Value;

pub use canon::{Canonical, DecodeError, canonicalize};
pub use equal::{equal_as, equal_member};
pub use table::{Table, table};
pub use view::{Shape, View};

/// A struct of the API.
#[derive(Debug)]
pub struct StructDef {
    /// Short full name: `core.v1.PodSpec`, `meta.v1.ObjectMeta`, `apiextensions.v1.JSONSchemaProps`.
    pub name: &'static str,
    /// Its place in [`Table::structs`].
    pub place: usize,
    /// True when it starts with `kind` and `apiVersion`.
    pub kind: bool,
    /// True when apply treats the whole struct as one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// True when upstream publishes it in OpenAPI.
    pub published: bool,
    /// Set once, right after all structs exist: structs refer to each other in circles.
    body: OnceLock<Body>,
}

/// The inside of a struct.
#[derive(Debug)]
struct Body {
    fields: Vec<FieldDef>,
    /// Indexes of fields that JSON has even where nothing was set, ascending.
    always: Vec<usize>,
    /// Indexes of fields that protobuf carries, by their numbers.
    protobuf: Vec<usize>,
}

/// When JSON leaves a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omit {
    /// Always written; `null` for a nil pointer, list or map.
    Never,
    /// Left out when zero, false, "", nil or an empty list or map; a struct that is no pointer is always written.
    Empty,
    /// As `Empty`, and a zero struct is left out too.
    Zero,
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType<'a> {
    /// One value.
    Atomic,
    /// A set of scalars.
    Set,
    /// Elements with these keys; defaults of keys come from the element's definition.
    Map(Keys<'a>),
}

/// Names of the key fields of a list's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys<'a> {
    /// From the table.
    Table(&'static [&'static str]),
    /// From a schema's `x-kubernetes-list-map-keys`.
    Schema(&'a [Value]),
}

impl<'a> Keys<'a> {
    /// The names in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let (table, schema): (&'static [&'static str], &'a [Value]) = match self {
            Keys::Table(t) => (t, &[]),
            Keys::Schema(s) => (&[], s),
        };
        table.iter().copied().chain(schema.iter().filter_map(Value::as_str))
    }
}

/// How strategic merge sees a list or struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeDef {
    /// `merge` strategy is set.
    pub merge: bool,
    /// `retainKeys` strategy is set.
    pub retain_keys: bool,
    /// `replace` strategy is set.
    pub replace: bool,
    /// Merge key of the elements; none for lists of scalars.
    pub key: Option<&'static str>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct FieldDef {
    /// JSON name.
    pub json: &'static str,
    /// The JSON name behind the names of the inlined Go structs that it is from, as messages write it:
    /// `VolumeSource.hostPath`. Mostly the JSON name alone.
    pub go_path: &'static str,
    /// Type.
    pub ty: Type,
    /// True for a Go pointer: absent is different from zero.
    pub pointer: bool,
    /// Presence rule.
    pub omit: Omit,
    /// True when the published schema requires it.
    pub required: bool,
    /// Protobuf field number; 0 where protobuf does not carry it.
    pub pb: u32,
    /// Numbers of the embedded messages that hold it in protobuf, outermost first; mostly empty.
    pub via: &'static [u32],
    /// For lists: an empty one is something else than none. Rules refuse it, so that it never is stored.
    pub keeps_empty: bool,
    /// For lists: how apply sees it, where the schema says so. Unsaid is atomic.
    pub list: Option<ListType<'static>>,
    /// For structs and maps: the field's own map type, which wins over the struct's; true is atomic.
    pub atomic: Option<bool>,
    /// For strategic merge.
    pub merge: MergeDef,
    /// JSON text of the schema's default, where it is not the implied zero value.
    default: Option<&'static str>,
}

/// The type of a value.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// Text.
    String,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Double.
    Float,
    /// Base64 text in JSON, bytes in protobuf.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`, whole seconds.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// `metav1.Duration`.
    Duration,
    /// `metav1.FieldsV1`: JSON that protobuf carries as bytes.
    FieldsV1,
    /// `runtime.RawExtension`: any object.
    RawExtension,
    /// `apiextensions.JSON`: any value.
    Json,
    /// A list of texts that protobuf wraps in a message (`ExtraValue`, `Verbs`).
    Items,
    /// `apiextensions.JSONSchemaPropsOrArray` and its relatives.
    Schema(SchemaOr),
    /// A struct of the table.
    Struct(&'static StructDef),
    /// A list of this.
    List(&'static Type),
    /// A map from text to this.
    Map(&'static Type),
}

/// What may stand in place of a JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOr {
    /// A list of schemas.
    Array,
    /// A boolean.
    Bool,
    /// A list of texts.
    Strings,
}

impl StructDef {
    /// Fields in upstream's order; inlined structs are spread out here.
    pub fn fields(&self) -> &[FieldDef] {
        self.body.get().map_or(&[], |b| b.fields.as_slice())
    }

    /// Indexes into [`StructDef::fields`] of those that JSON has even where nothing was set, ascending.
    pub fn always_written(&self) -> &[usize] {
        self.body.get().map_or(&[], |b| b.always.as_slice())
    }

    /// Indexes into [`StructDef::fields`] of those that protobuf carries, in the order of their numbers.
    pub fn protobuf_order(&self) -> &[usize] {
        self.body.get().map_or(&[], |b| b.protobuf.as_slice())
    }

    /// The field with this JSON name; names are case-sensitive.
    pub fn field(&self, json: &str) -> Option<&FieldDef> {
        self.fields().iter().find(|f| f.json == json)
    }

    /// `core.v1` of `core.v1.Pod`.
    pub fn package(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(package, _)| package)
    }

    /// `Pod` of `core.v1.Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, name)| name)
    }
}

impl FieldDef {
    /// True when JSON has the field even where nothing was set: no `omit`, or a struct by value.
    pub fn is_always_written(&self) -> bool {
        self.omit == Omit::Never || (self.omit == Omit::Empty && !self.pointer && self.ty.is_go_struct())
    }

    /// The default that the published schema names: a scalar that is always written has its zero value.
    pub fn schema_default(&self) -> Option<Value> {
        if let Some(text) = self.default {
            return Some(serde_json::from_str(text).expect("the table's defaults are JSON; a test reads all"));
        }
        if self.pointer || self.omit != Omit::Never {
            return None;
        }
        match self.ty {
            Type::String => Some("".into()),
            Type::Bool => Some(false.into()),
            Type::Int32 | Type::Int64 => Some(0.into()),
            _ => None,
        }
    }

    /// The schema's default where it is more than the zero value of the Go type.
    pub fn real_default(&self) -> Option<Value> {
        let default = self.default?;
        (self.pointer || !matches!(default, "\"\"" | "0" | "false")).then(|| self.schema_default()).flatten()
    }
}

impl Type {
    /// True for what is a struct in Go, so that `omitempty` never leaves it out.
    pub fn is_go_struct(&self) -> bool {
        match self {
            Type::Struct(_) | Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime | Type::Duration => {
                true
            }
            Type::FieldsV1 | Type::RawExtension | Type::Json | Type::Schema(_) => true,
            Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Float | Type::Bytes => false,
            Type::Items | Type::List(_) | Type::Map(_) => false,
        }
    }

    /// True for a list of any kind.
    pub fn is_list(&self) -> bool {
        matches!(self, Type::List(_) | Type::Items)
    }
}
