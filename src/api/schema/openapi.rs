//! OpenAPI v3 (a document per group version) and v2 (one document) from the wire table.
//!
//! In: the rows of the served kinds. Out: definitions with what clients act on: types, formats, required fields, list
//! types and map keys, patch strategies and merge keys, map types, defaults, group-version-kinds; and paths with their
//! verbs, which is what `kubectl explain`, `apply` and `diff` look up. Prose is left out.
//!
//! Upstream: `k8s.io/kube-openapi` and the generated definitions; names are those of 1.36 (`io.k8s.api.core.v1.Pod`).
//!
//! **Invariant:** each `$ref` leads to a definition of the same document.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{FieldDef, ListType, SchemaOr, StructDef, Type, table};
use crate::api::meta::gvk;
use crate::api::scheme::{KindInfo, Scope, Verbs};

/// Definitions that are no structs of the table: name, type, format.
const SCALARS: [(&str, &str, &str); 11] = [
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "string", ""),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "string", "int-or-string"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "string", "date-time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "string", "date-time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object", ""),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "object", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "", ""),
    (PATCH, "object", ""),
];

const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Kinds that belong to every group version.
const COMMON: [&str; 4] = ["meta.v1.Status", "meta.v1.DeleteOptions", "meta.v1.WatchEvent", "meta.v1.APIResourceList"];

/// Which of the two forms is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

/// The published name of a struct: `io.k8s.api.core.v1.Pod`.
pub fn published_name(def: &StructDef) -> String {
    let prefix = match def.package() {
        "meta.v1" => "io.k8s.apimachinery.pkg.apis",
        "apiextensions.v1" => "io.k8s.apiextensions-apiserver.pkg.apis",
        "apiregistration.v1" => "io.k8s.kube-aggregator.pkg.apis",
        "metrics.v1beta1" => "io.k8s.metrics.pkg.apis",
        _ => "io.k8s.api",
    };
    format!("{prefix}.{}", def.name)
}

/// The OpenAPI v3 document of one group version. `kinds` are the rows served there; rows of CustomResourceDefinitions
/// have no struct and are left out.
pub fn v3(group: &str, version: &str, kinds: &[&KindInfo]) -> Value {
    let mut document = Document::new(Form::V3);
    for kind in kinds.iter().filter(|k| k.gvk.group == group && k.gvk.version == version) {
        document.add_kind(kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": document.paths,
        "components": {"schemas": document.definitions},
    })
}

/// The OpenAPI v2 document of all kinds.
pub fn v2(kinds: &[&KindInfo]) -> Value {
    let mut document = Document::new(Form::V2);
    for kind in kinds {
        document.add_kind(kind);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": document.paths,
        "definitions": document.definitions,
    })
}

struct Document {
    form: Form,
    definitions: Map<String, Value>,
    paths: Map<String, Value>,
    seen: BTreeSet<&'static str>,
}

impl Document {
    fn new(form: Form) -> Self {
        let mut document = Self { form, definitions: Map::new(), paths: Map::new(), seen: BTreeSet::new() };
        for (name, kind, format) in SCALARS {
            let mut schema = Map::new();
            for (key, text) in [("type", kind), ("format", format)] {
                if !text.is_empty() {
                    schema.insert(key.into(), text.into());
                }
            }
            if form == Form::V3 && (name.ends_with(".Quantity") || format == "int-or-string") {
                schema.shift_remove("type");
                schema.insert("oneOf".into(), json!([{"type": "string"}, {"type": "number"}]));
            }
            document.definitions.insert(name.into(), Value::Object(schema));
        }
        for name in COMMON {
            let def = table().by_name(name).expect("the table has the common kinds");
            document.define(def, &[gvk_value("", "v1", def.short_name())]);
        }
        document
    }

    fn add_kind(&mut self, kind: &KindInfo) {
        let (group, version) = (&*kind.gvk.group, &*kind.gvk.version);
        let find = |name: &str| table().kind(group, version, name);
        let Some(def) = find(&kind.gvk.kind) else { return };
        self.define(def, &[gvk_value(group, version, &kind.gvk.kind)]);
        let list_kind = format!("{}List", kind.gvk.kind);
        let list = find(&list_kind);
        if let Some(list) = list {
            self.define(list, &[gvk_value(group, version, &list_kind)]);
        }
        let root = match group {
            "" => format!("/api/{version}"),
            _ => format!("/apis/{}", gvk::join(group, version)),
        };
        let home = match kind.scope {
            Scope::Cluster => root.clone(),
            Scope::Namespaced => format!("{root}/namespaces/{{namespace}}"),
        };
        let collection = format!("{home}/{}", kind.plural);
        let one = format!("{collection}/{{name}}");
        let list = list.unwrap_or(def);
        let on_collection = [
            (Verbs::LIST, "get", "list", list),
            (Verbs::CREATE, "post", "post", def),
            (Verbs::DELETE_COLLECTION, "delete", "deletecollection", def),
        ];
        let on_one = [
            (Verbs::GET, "get", "get", def),
            (Verbs::UPDATE, "put", "put", def),
            (Verbs::PATCH, "patch", "patch", def),
            (Verbs::DELETE, "delete", "delete", def),
        ];
        self.add_path(&collection, kind.verbs, &on_collection, &kind.gvk);
        self.add_path(&one, kind.verbs, &on_one, &kind.gvk);
        if kind.scope == Scope::Namespaced {
            let all = format!("{root}/{}", kind.plural);
            self.add_path(&all, kind.verbs, &on_collection[..1], &kind.gvk);
        }
        for sub in kind.subresources.iter() {
            let gvk = sub.gvk.as_ref().unwrap_or(&kind.gvk);
            let Some(def) = table().kind(&gvk.group, &gvk.version, &gvk.kind) else { continue };
            self.define(def, &[gvk_value(&gvk.group, &gvk.version, &gvk.kind)]);
            let on_sub = [
                (Verbs::GET, "get", "get", def),
                (Verbs::CREATE, "post", "post", def),
                (Verbs::UPDATE, "put", "put", def),
                (Verbs::PATCH, "patch", "patch", def),
                (Verbs::DELETE, "delete", "delete", def),
            ];
            self.add_path(&format!("{one}/{}", sub.name), sub.verbs, &on_sub, gvk);
        }
    }

    fn add_path(
        &mut self,
        path: &str,
        verbs: Verbs,
        methods: &[(Verbs, &'static str, &'static str, &'static StructDef)],
        gvk: &crate::api::meta::Gvk,
    ) {
        let mut item = Map::new();
        for (_, method, action, def) in methods.iter().filter(|(verb, ..)| verbs.has(*verb)) {
            let operation = self.operation(path, method, action, def, gvk);
            item.insert((*method).into(), operation);
        }
        if item.is_empty() {
            return;
        }
        let names = [("namespace", "{namespace}"), ("name", "{name}")];
        let parameters: Vec<Value> = names
            .iter()
            .filter(|(_, part)| path.contains(part))
            .map(|(name, _)| self.parameter(name, "path", "string"))
            .chain([self.parameter("pretty", "query", "string")])
            .collect();
        item.insert("parameters".into(), parameters.into());
        self.paths.insert(path.into(), Value::Object(item));
    }

    fn operation(&self, path: &str, method: &str, action: &str, def: &StructDef, gvk: &crate::api::meta::Gvk) -> Value {
        const JSON_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
        const PATCH_TYPES: [&str; 4] = [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ];
        let writes = matches!(method, "post" | "put" | "patch");
        let mut query: Vec<Value> = Vec::new();
        if writes {
            query.extend(["dryRun", "fieldManager", "fieldValidation"].map(|n| self.parameter(n, "query", "string")));
        }
        if method == "patch" {
            query.push(self.parameter("force", "query", "boolean"));
        }
        if action == "list" {
            let texts = ["continue", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch"];
            query.extend(texts.map(|n| self.parameter(n, "query", "string")));
            query.extend(["limit", "timeoutSeconds"].map(|n| self.parameter(n, "query", "integer")));
            query.push(self.parameter("watch", "query", "boolean"));
        }
        let answer = self.reference(&published_name(def));
        let body = match method {
            "patch" => Some(self.reference(PATCH)),
            "post" | "put" => Some(answer.clone()),
            _ => None,
        };
        let types: &[&str] = if method == "patch" { &PATCH_TYPES } else { &JSON_TYPES };
        let content = |schema: &Value, types: &[&str]| -> Value {
            types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
        };
        let mut operation = Map::new();
        operation.insert("operationId".into(), operation_id(action, path).into());
        let ok = match self.form {
            Form::V3 => json!({"description": "OK", "content": content(&answer, &JSON_TYPES)}),
            Form::V2 => json!({"description": "OK", "schema": answer}),
        };
        match (self.form, body) {
            (Form::V3, Some(schema)) => {
                operation.insert("requestBody".into(), json!({"required": true, "content": content(&schema, types)}));
            }
            (Form::V2, Some(schema)) => {
                query.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
                operation.insert("consumes".into(), json!(types));
            }
            (_, None) => {}
        }
        if self.form == Form::V2 {
            operation.insert("produces".into(), json!(JSON_TYPES));
        }
        if !query.is_empty() {
            operation.insert("parameters".into(), query.into());
        }
        operation.insert("responses".into(), json!({"200": ok, "401": {"description": "Unauthorized"}}));
        operation.insert("x-kubernetes-action".into(), action.into());
        operation.insert("x-kubernetes-group-version-kind".into(), gvk_value(&gvk.group, &gvk.version, &gvk.kind));
        Value::Object(operation)
    }

    fn parameter(&self, name: &str, place: &str, kind: &str) -> Value {
        let mut parameter = Map::new();
        parameter.insert("name".into(), name.into());
        parameter.insert("in".into(), place.into());
        if place == "path" {
            parameter.insert("required".into(), true.into());
        }
        match self.form {
            Form::V3 => parameter.insert("schema".into(), json!({"type": kind, "uniqueItems": true})),
            Form::V2 => parameter.insert("type".into(), kind.into()),
        };
        Value::Object(parameter)
    }

    fn reference(&self, name: &str) -> Value {
        let place = if self.form == Form::V3 { "#/components/schemas/" } else { "#/definitions/" };
        json!({ "$ref": format!("{place}{name}") })
    }

    /// Adds a struct and all that it refers to. Group-version-kinds are added to those that it has.
    fn define(&mut self, def: &'static StructDef, gvks: &[Value]) {
        if self.seen.insert(def.name) {
            let schema = self.of_struct(def);
            self.definitions.insert(published_name(def), schema);
            for field in def.fields() {
                self.define_inner(&field.ty);
            }
        }
        if gvks.is_empty() {
            return;
        }
        let schema = &mut self.definitions[&published_name(def)];
        let list = schema.as_object_mut().expect("a definition is an object");
        let known = list.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
        let known = known.as_array_mut().expect("made as a list");
        for gvk in gvks {
            if !known.contains(gvk) {
                known.push(gvk.clone());
            }
        }
    }

    fn define_inner(&mut self, ty: &Type) {
        match ty {
            Type::Struct(def) => self.define(def, &[]),
            Type::List(inner) | Type::Map(inner) => self.define_inner(inner),
            _ => {}
        }
    }

    fn of_struct(&self, def: &StructDef) -> Value {
        let mut properties = Map::new();
        for field in def.fields() {
            properties.insert(field.json.into(), self.of_field(field));
        }
        let mut schema = Map::new();
        schema.insert("type".into(), "object".into());
        let required: Vec<Value> = def.fields().iter().filter(|f| f.required).map(|f| f.json.into()).collect();
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        if !properties.is_empty() {
            schema.insert("properties".into(), Value::Object(properties));
        }
        if def.atomic {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        Value::Object(schema)
    }

    fn of_field(&self, field: &FieldDef) -> Value {
        let mut schema = match self.of_type(&field.ty) {
            Value::Object(schema) => schema,
            _ => Map::new(),
        };
        if let Some(default) = field.schema_default() {
            schema.insert("default".into(), default);
        }
        match field.list {
            None => {}
            Some(ListType::Atomic) => drop(schema.insert("x-kubernetes-list-type".into(), "atomic".into())),
            Some(ListType::Set) => drop(schema.insert("x-kubernetes-list-type".into(), "set".into())),
            Some(ListType::Map(keys)) => {
                let keys: Vec<Value> = keys.iter().map(Value::from).collect();
                schema.insert("x-kubernetes-list-map-keys".into(), keys.into());
                schema.insert("x-kubernetes-list-type".into(), "map".into());
            }
        }
        if let Some(atomic) = field.atomic {
            let text = if atomic { "atomic" } else { "granular" };
            schema.insert("x-kubernetes-map-type".into(), text.into());
        }
        if let Some(key) = field.merge.key {
            schema.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
        let flags =
            [(field.merge.merge, "merge"), (field.merge.retain_keys, "retainKeys"), (field.merge.replace, "replace")];
        let strategies: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            schema.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
        }
        // Beside a `$ref` nothing counts in OpenAPI 3.0: it goes into an `allOf`.
        if self.form == Form::V3 && schema.len() > 1 && schema.contains_key("$ref") {
            let reference = schema.shift_remove("$ref").expect("just seen");
            schema.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
        Value::Object(schema)
    }

    fn of_type(&self, ty: &Type) -> Value {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
        const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
        match ty {
            Type::String | Type::Duration => json!({"type": "string"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Float => json!({"type": "number", "format": "double"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Quantity => self.reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Type::IntOrString => self.reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Type::Time => self.reference(&format!("{META}Time")),
            Type::MicroTime => self.reference(&format!("{META}MicroTime")),
            Type::FieldsV1 => self.reference(&format!("{META}FieldsV1")),
            Type::RawExtension => self.reference("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            Type::Json => self.reference(&format!("{EXTENSIONS}JSON")),
            Type::Schema(SchemaOr::Array) => self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrArray")),
            Type::Schema(SchemaOr::Bool) => self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrBool")),
            Type::Schema(SchemaOr::Strings) => self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrStringArray")),
            Type::Items => json!({"type": "array", "items": {"type": "string"}}),
            Type::Struct(def) => self.reference(&published_name(def)),
            Type::List(element) => json!({"type": "array", "items": self.of_type(element)}),
            Type::Map(value) => json!({"type": "object", "additionalProperties": self.of_type(value)}),
        }
    }
}

fn gvk_value(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

/// A name that is unique in the document: the action and the path's words.
fn operation_id(action: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty() && !w.starts_with("api"));
    let mut id = action.to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        id.push_str(&first.to_ascii_uppercase());
        id.push_str(rest);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::meta::{GroupResource, Gvk};
    use crate::api::scheme::{SCALE, STATUS};

    fn row(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> KindInfo {
        KindInfo {
            gvk: Gvk::new(group, version, kind),
            plural: plural.into(),
            singular: "".into(),
            short: vec![],
            categories: vec![],
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            subresources: vec![STATUS, SCALE].into(),
            columns: vec![].into(),
            row_conditions: None,
            derived_annotation: None,
            deprecation: None,
            selectable: vec![].into(),
            stored: GroupResource::new(group, plural),
            stored_version: version.into(),
        }
    }

    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, value)| match (&**key, value) {
                ("$ref", Value::String(text)) => out.push(text.clone()),
                _ => references(value, out),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, out)),
            _ => {}
        }
    }

    #[test]
    fn each_reference_leads_somewhere() {
        let rows = [row("apps", "v1", "Deployment", "deployments"), row("", "v1", "Pod", "pods")];
        let rows: Vec<&KindInfo> = rows.iter().collect();
        for (document, skip) in [(v2(&rows), 1), (v3("apps", "v1", &rows), 1)] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 100);
            for reference in found {
                assert!(document.pointer(&reference[skip..]).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn what_apply_and_explain_look_for() {
        let rows = [row("apps", "v1", "Deployment", "deployments")];
        let rows: Vec<&KindInfo> = rows.iter().collect();
        let document = v3("apps", "v1", &rows);
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        assert!(patch["requestBody"]["content"].get("application/apply-patch+yaml").is_some());
        let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
        let ids: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|p| p.as_object().unwrap().values())
            .filter_map(|o| o["operationId"].as_str())
            .collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each operation has a name of its own");
    }
}
