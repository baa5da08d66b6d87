//! Types of the API's kinds, for expressions that are checked against them before any object is seen.
//!
//! In: a struct of the wire table, or a definition's schema. Out: a [`Type`] with the fields that expressions may name.
//! Rules: upstream `apiserver/pkg/cel/openapi` over the published schemas.
//!
//! **Invariant:** what the table or the schema does not describe is `dyn`: it is never warned of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::escape::escape;
use super::schema;
use super::types::{Object, Type};
use crate::api::schema as wire;
use crate::api::schema::StructDef;

/// The type of a built-in kind, or of another struct.
pub fn of_struct(def: &'static StructDef) -> Type {
    Walk::default().of_struct(def)
}

/// The type of a kind that a definition's schema describes.
pub fn of_definition(schema: &Value, kind: &str) -> Type {
    let Some(Type::Object(object)) = schema::type_of(schema, kind, true) else { return Type::Dyn };
    let mut fields = object.fields.clone();
    if let Some(metadata) = wire::table().by_name("meta.v1.ObjectMeta") {
        fields.insert("metadata".into(), of_struct(metadata));
    }
    // A schema that leaves fields alone says nothing of them.
    let open = schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool).unwrap_or(false);
    match open {
        true => Type::Dyn,
        false => Type::Object(Arc::new(Object { name: object.name.clone(), fields, open: false })),
    }
}

/// Structs that are done, and those on the way.
#[derive(Default)]
struct Walk {
    done: HashMap<&'static str, Type>,
    way: Vec<&'static str>,
}

impl Walk {
    fn of_struct(&mut self, def: &'static StructDef) -> Type {
        if let Some(done) = self.done.get(def.name) {
            return done.clone();
        }
        if self.way.contains(&def.name) {
            // A type within itself has no end.
            return Type::Dyn;
        }
        self.way.push(def.name);
        let mut fields = BTreeMap::new();
        for field in def.fields() {
            if let Some(name) = escape(field.json) {
                fields.insert(name, self.of_type(&field.ty));
            }
        }
        self.way.pop();
        let made = Type::Object(Arc::new(Object { name: def.name.to_owned(), fields, open: false }));
        self.done.insert(def.name, made.clone());
        made
    }

    fn of_type(&mut self, ty: &'static wire::Type) -> Type {
        match ty {
            wire::Type::String | wire::Type::Duration => Type::String,
            wire::Type::Bool => Type::Bool,
            wire::Type::Int32 | wire::Type::Int64 => Type::Int,
            wire::Type::Float => Type::Double,
            wire::Type::Bytes => Type::Bytes,
            wire::Type::Time | wire::Type::MicroTime => Type::Timestamp,
            wire::Type::Items => Type::list(Type::String),
            wire::Type::Struct(def) => self.of_struct(def),
            wire::Type::List(of) => Type::list(self.of_type(of)),
            wire::Type::Map(of) => Type::map(Type::String, self.of_type(of)),
            wire::Type::Quantity
            | wire::Type::IntOrString
            | wire::Type::FieldsV1
            | wire::Type::RawExtension
            | wire::Type::Json
            | wire::Type::Schema(_) => Type::Dyn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Env, Program};
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn why(object: Type, text: &str) -> String {
        let env = Env::new().with("object", object);
        Program::compile(&env, text).err().map(|e| e.0).unwrap_or_default()
    }

    #[test_case("object.spec.replicas > 1", ""; "a number")]
    #[test_case("object.spec.replicas > '1'", "found no matching overload for '_>_' applied to '(int, string)'"; "a text")]
    #[test_case("object.spec.replicass > 1", "undefined field 'replicass'"; "no such field")]
    #[test_case("object.spec.template.spec.containers.all(c, c.image.startsWith('a'))", ""; "lists")]
    #[test_case("object.metadata.labels['a'] == 'b'", ""; "maps")]
    #[test_case("object.spec.strategy.rollingUpdate.maxSurge == 1 || object.spec.strategy.rollingUpdate.maxSurge == '1%'", ""; "what is known when it runs")]
    #[test_case("object.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z')", ""; "times")]
    fn built_in_kinds(text: &str, want: &str) {
        let def = wire::table().kind("apps", "v1", "Deployment").expect("the table has Deployments");
        let found = why(of_struct(def), text);
        assert!(found.contains(want) && found.is_empty() == want.is_empty(), "{found}");
    }

    #[test]
    fn definitions() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"replicas": {"type": "integer"}}}}});
        let of = || of_definition(&schema, "Foo");
        assert_eq!(why(of(), "object.spec.replicas > 1 && object.metadata.labels.size() > 0"), "");
        assert!(why(of(), "object.spec.replicas > '1'").contains("'(int, string)'"));
        assert!(why(of(), "object.other").contains("undefined field"));
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(why(of_definition(&open, "Foo"), "object.spec.other > 1"), "");
    }

    #[test]
    fn every_struct_has_a_type() {
        for def in wire::table().structs() {
            assert!(matches!(of_struct(def), Type::Object(_)), "{}", def.name);
        }
    }
}
