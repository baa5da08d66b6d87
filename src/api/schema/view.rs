//! [`View`]: what a patch knows of a value while it walks down: from the table, from the structural schema of a
//! CustomResourceDefinition, or nothing (then the value itself tells).
//!
//! Upstream: `structured-merge-diff` schemas made from OpenAPI, and the struct tags that strategic merge reads.

use serde_json::Value;

use super::{FieldDef, Keys, ListType, MergeDef, StructDef, Type, table};

/// The type of a value.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// A value of a table type.
    Wire(&'static Type),
    /// A struct of the table.
    Struct(&'static StructDef),
    /// A node of a structural schema; `root` where it is a whole object with `apiVersion`, `kind` and `metadata`.
    Crd {
        /// The schema.
        schema: &'a Value,
        /// True at the top, and for embedded resources.
        root: bool,
    },
    /// Unknown: lists are atomic, objects are not.
    Deduced,
}

/// A value's type, and the field that led to it. Small, copied while walking.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    shape: Shape<'a>,
    field: Option<&'static FieldDef>,
}

impl<'a> View<'a> {
    /// Of an object of a built-in kind, or of any struct.
    pub fn of(def: &'static StructDef) -> Self {
        Self { shape: Shape::Struct(def), field: None }
    }

    /// Of a custom resource; `schema` is the version's `openAPIV3Schema`.
    pub fn crd(schema: &'a Value) -> Self {
        Self { shape: Shape::Crd { schema, root: true }, field: None }
    }

    /// Of something unknown.
    pub fn deduced() -> Self {
        Self { shape: Shape::Deduced, field: None }
    }

    /// The type itself.
    pub fn shape(self) -> Shape<'a> {
        self.shape
    }

    /// True when nothing is known.
    pub fn is_deduced(self) -> bool {
        matches!(self.shape, Shape::Deduced)
    }

    /// The field of the table that led here.
    pub fn field_def(self) -> Option<&'static FieldDef> {
        self.field
    }

    fn typed(ty: &'static Type, field: Option<&'static FieldDef>) -> Self {
        let shape = match ty {
            Type::Struct(def) => Shape::Struct(def),
            Type::Json | Type::RawExtension | Type::FieldsV1 | Type::Schema(_) => Shape::Deduced,
            other => Shape::Wire(other),
        };
        Self { shape, field }
    }

    fn text() -> Self {
        Self::typed(&Type::String, None)
    }

    fn schema(node: Option<&'a Value>) -> Self {
        let Some(schema @ Value::Object(node)) = node else { return Self::deduced() };
        let flag = |name: &str| node.get(name).and_then(Value::as_bool).unwrap_or(false);
        Self { shape: Shape::Crd { schema, root: flag("x-kubernetes-embedded-resource") }, field: None }
    }

    /// The child of a struct, object or map.
    pub fn field(self, name: &str) -> View<'a> {
        self.known_field(name).unwrap_or_else(|| match self.shape {
            Shape::Wire(Type::Map(_)) => self.map_value(),
            Shape::Crd { schema, .. } => Self::schema(schema.get("additionalProperties")),
            _ => Self::deduced(),
        })
    }

    /// The child with this name where the struct or schema declares it.
    pub fn known_field(self, name: &str) -> Option<View<'a>> {
        match self.shape {
            Shape::Struct(def) => def.field(name).map(|f| Self::typed(&f.ty, Some(f))),
            Shape::Crd { schema, root } => {
                if root && name == "metadata" {
                    return table().by_name("meta.v1.ObjectMeta").map(View::of);
                }
                // What every object has need not be declared.
                let own = root && matches!(name, "apiVersion" | "kind");
                let node = schema.get("properties").and_then(|all| all.get(name));
                node.map(|node| Self::schema(Some(node))).or_else(|| own.then(Self::text))
            }
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn element(self) -> View<'a> {
        match self.shape {
            Shape::Wire(Type::List(element)) => Self::typed(element, None),
            Shape::Wire(Type::Items) => Self::typed(&Type::String, None),
            Shape::Crd { schema, .. } => Self::schema(schema.get("items")),
            _ => Self::deduced(),
        }
    }

    /// The values of a map.
    pub fn map_value(self) -> View<'a> {
        match self.shape {
            Shape::Wire(Type::Map(value)) => Self::typed(value, None),
            Shape::Crd { schema, .. } => Self::schema(schema.get("additionalProperties")),
            _ => Self::deduced(),
        }
    }

    /// How apply sees this list. Unsaid is atomic.
    pub fn list(self) -> ListType<'a> {
        match self.shape {
            Shape::Crd { schema, .. } => match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(Keys::Schema(
                    schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).map_or(&[], Vec::as_slice),
                )),
                _ => ListType::Atomic,
            },
            Shape::Wire(_) => self.field.and_then(|f| f.list).unwrap_or(ListType::Atomic),
            Shape::Struct(_) | Shape::Deduced => ListType::Atomic,
        }
    }

    /// True when apply treats this struct, object or map as one value.
    pub fn is_atomic_struct(self) -> bool {
        let own = self.field.and_then(|f| f.atomic);
        match self.shape {
            Shape::Struct(def) => own.unwrap_or(def.atomic),
            Shape::Crd { schema, .. } => schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            Shape::Wire(_) | Shape::Deduced => own.unwrap_or(false),
        }
    }

    /// How strategic merge sees the field that led here.
    pub fn merge(self) -> MergeDef {
        self.field.map(|f| f.merge).unwrap_or_default()
    }

    /// On a list's element: what an absent key field counts as.
    pub fn key_default(self, key: &str) -> Option<Value> {
        match self.shape {
            Shape::Struct(def) => def.field(key)?.schema_default(),
            Shape::Crd { schema, .. } => schema.get("properties")?.get(key)?.get("default").cloned(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> View<'static> {
        View::of(table().kind("", "v1", "Pod").unwrap())
    }

    #[test]
    fn a_pods_containers_merge_by_name() {
        let containers = pod().field("spec").field("containers");
        assert_eq!(containers.merge(), MergeDef { merge: true, key: Some("name"), ..MergeDef::default() });
        let ListType::Map(keys) = containers.list() else { panic!("a map list") };
        assert_eq!(keys.iter().collect::<Vec<_>>(), ["name"]);
        let ports = containers.element().field("ports").element();
        assert_eq!(ports.key_default("protocol"), Some(json!("TCP")));
    }

    #[test]
    fn atomic_by_struct_or_by_field() {
        assert!(pod().field("spec").field("nodeSelector").is_atomic_struct());
        let pv = View::of(table().kind("", "v1", "PersistentVolume").unwrap());
        assert!(!pv.field("spec").field("claimRef").is_atomic_struct(), "the field says granular");
        let event = View::of(table().kind("", "v1", "Event").unwrap());
        assert!(event.field("involvedObject").is_atomic_struct());
        assert!(!pod().field("metadata").field("labels").is_atomic_struct());
    }

    #[test]
    fn custom_resources_tell_by_their_schema() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n", "p"],
                          "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
                "free": {"type": "object", "additionalProperties": {"type": "object", "x-kubernetes-map-type": "atomic"}},
            }},
        }});
        let view = View::crd(&schema);
        let ports = view.field("spec").field("ports");
        let ListType::Map(keys) = ports.list() else { panic!("a map list") };
        assert_eq!(keys.iter().collect::<Vec<_>>(), ["n", "p"]);
        assert_eq!(ports.element().key_default("p"), Some(json!("TCP")));
        assert!(view.field("spec").field("free").field("any").is_atomic_struct());
        assert!(view.field("spec").field("unknown").is_deduced());
        assert!(view.field("metadata").known_field("labels").is_some(), "metadata is that of every object");
    }
}
