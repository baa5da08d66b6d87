//! The wire table: per struct its fields, presence rules, defaults, list types, merge keys and protobuf numbers.
//!
//! The table is text (`wire.table`, one line a field), read once into a static arena. Everything that treats JSON by
//! shape runs over it: canonicalization, strict-field warnings, defaults, protobuf, strategic merge, apply, OpenAPI.
//! Patches see it through [`View`], which also covers the structural schemas of CustomResourceDefinitions.
//!
//! **Invariant:** built-in definitions live for the whole process (`&'static`).

use serde_json::Value;

/// A struct of the API.
#[derive(Debug)]
pub struct StructDef {
    /// Short full name: `core.v1.PodSpec`, `meta.v1.ObjectMeta`, `apiextensions.v1.JSONSchemaProps`.
    pub name: String,
    /// Fields in upstream's order; inlined structs are already spread out here.
    pub fields: Vec<FieldDef>,
    /// True when apply treats the whole struct as one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Strategic-merge union keys dropped by `$retainKeys` stand on the field, not here.
    pub required: Vec<String>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    Atomic,
    /// A set of scalars.
    Set,
    /// Elements with keys; defaults of keys come from the element's definition.
    Map(Vec<String>),
}

/// How strategic merge sees a list or struct.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MergeDef {
    /// `merge` strategy is set.
    pub merge: bool,
    /// `retainKeys` strategy is set.
    pub retain_keys: bool,
    /// Merge key of the elements; none for lists of scalars.
    pub key: Option<String>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct FieldDef {
    /// JSON name.
    pub json: String,
    /// Type.
    pub ty: Type,
    /// True for a Go pointer: absent is different from zero.
    pub pointer: bool,
    /// Presence rule.
    pub omit: Omit,
    /// Protobuf field number; 0 where protobuf does not carry it.
    pub pb: u32,
    /// Static default, applied where the field is absent.
    pub default: Option<Value>,
    /// Allowed values; empty means any. Only what upstream's published schema lists.
    pub enumeration: Vec<String>,
    /// For lists: how apply sees it.
    pub list: ListType,
    /// For strategic merge.
    pub merge: MergeDef,
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
    /// `apiextensions.JSON` and its relatives: any value.
    Json,
    /// A struct of the table.
    Struct(&'static StructDef),
    /// A list of this.
    List(&'static Type),
    /// A map from text to this.
    Map(&'static Type),
}

impl StructDef {
    /// The field with this JSON name.
    pub fn field(&self, json: &str) -> Option<&FieldDef> {
        self.fields.iter().find(|f| f.json == json)
    }
}
