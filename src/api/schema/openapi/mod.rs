//! OpenAPI v3 (a document per group version) and v2 (one document) from the wire table.
//!
//! In: the rows of the served kinds. Out: the bytes of a document, with what clients act on: types, formats, required
//! fields, enums, list types and map keys, patch strategies and merge keys, map types, defaults, group-version-kinds,
//! descriptions; and paths with their operations.
//!
//! Upstream: `k8s.io/kube-openapi` and the generated definitions; names are those of 1.36 (`io.k8s.api.core.v1.Pod`).
//!
//! **Invariant:** each `$ref` leads to a definition of the same document. **Invariant:** a document is written part by
//! part: beside its bytes there is one path or definition at a time, and nothing stays in memory.

mod custom;
mod definitions;
mod merged;
mod paths;
mod shared;
mod words;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{StructDef, Type, table};
use crate::api::codec::proto::gnostic;
use crate::api::meta::Gvk;
use crate::api::scheme::KindInfo;
use definitions::{PATCH, Scalar};
use merged::Merged;
pub use merged::Part;
use shared::Shared;
use words::Words;

/// Kinds that belong to every group version; true for those that each lists as its own.
const COMMON: [(&str, bool); 4] = [
    ("meta.v1.APIResourceList", false),
    ("meta.v1.DeleteOptions", true),
    ("meta.v1.Status", false),
    ("meta.v1.WatchEvent", true),
];

/// The version that documents say they describe.
const VERSION: &str = "v1.36.0";

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

/// A kind to be published.
#[derive(Debug, Clone, Copy)]
pub struct Kind<'a> {
    /// Its row.
    pub info: &'a KindInfo,
    /// Of a CustomResourceDefinition: its schema, and the kind of its lists.
    pub custom: Option<(&'a Value, &'a str)>,
}

impl<'a> From<&'a KindInfo> for Kind<'a> {
    fn from(info: &'a KindInfo) -> Self {
        Self { info, custom: None }
    }
}

fn kinds_of<'a, K: Into<Kind<'a>> + Copy>(kinds: &[K]) -> Vec<Kind<'a>> {
    kinds.iter().map(|k| (*k).into()).collect()
}

/// The OpenAPI v3 document of one group version, in JSON. `kinds` are those served there.
pub fn v3<'a, K: Into<Kind<'a>> + Copy>(group: &str, version: &str, kinds: &[K]) -> Vec<u8> {
    let rows = kinds_of(kinds).into_iter().filter(|k| k.info.gvk.group == group && k.info.gvk.version == version);
    let document = Document::new(Form::V3, rows.collect());
    let mut json = Json::default();
    json.open("{");
    json.member("openapi", &"3.0.0".into());
    json.member("info", &json!({"title": "Kubernetes", "version": VERSION}));
    json.object("paths", document.paths());
    json.open("\"components\":{");
    document.with_definitions(|definitions| json.object("schemas", definitions));
    json.member("securitySchemes", &security());
    json.close();
    json.close();
    json.out
}

/// How requests say who they are from.
fn security() -> Value {
    let words = "Bearer Token authentication";
    json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization", "description": words}})
}

/// The OpenAPI v2 document of all kinds, in JSON, and with what other servers say of theirs.
pub fn v2<'a, K: Into<Kind<'a>> + Copy>(kinds: &[K], parts: Vec<Part>) -> Vec<u8> {
    let document = Document::new(Form::V2, kinds_of(kinds)).with(parts);
    let mut json = Json::default();
    json.open("{");
    json.member("swagger", &"2.0".into());
    json.member("info", &json!({"title": "Kubernetes", "version": VERSION}));
    let mut shared = Shared::default();
    json.object("paths", document.paths().map(|(path, item)| (path, shared.item(item))));
    document.with_definitions(|definitions| json.object("definitions", definitions));
    json.object("parameters", shared.parameters());
    json.member("securityDefinitions", &security());
    json.member("security", &json!([{"BearerToken": []}]));
    json.close();
    json.out
}

/// The same document as the protobuf message that Go's clients ask for.
pub fn v2_proto<'a, K: Into<Kind<'a>> + Copy>(kinds: &[K], parts: Vec<Part>) -> Vec<u8> {
    let document = Document::new(Form::V2, kinds_of(kinds)).with(parts);
    let info = json!({"title": "Kubernetes", "version": VERSION});
    let mut out = Vec::new();
    let shared = RefCell::new(Shared::default());
    let paths = document.paths().map(|(path, item)| (path, shared.borrow_mut().item(item)));
    let parameters = || shared.take().parameters();
    document.with_definitions(|definitions| out = gnostic::document(&info, paths, definitions, parameters));
    out
}

/// What documents are made from, beside the rows: they change when one of these does.
pub fn sources() -> [&'static [u8]; 4] {
    [env!("CARGO_PKG_VERSION").as_bytes(), super::table::TEXT.as_bytes(), words::ENUMS.as_bytes(), words::PACKED]
}

/// What a document defines.
enum Definition {
    /// A struct, and the kinds that it is.
    Struct(&'static StructDef, BTreeSet<Gvk>),
    Scalar(&'static Scalar),
}

struct Document<'a> {
    form: Form,
    rows: Vec<Kind<'a>>,
    /// By published name.
    definitions: BTreeMap<String, Definition>,
    /// Of other servers.
    merged: Merged,
}

impl<'a> Document<'a> {
    fn new(form: Form, mut rows: Vec<Kind<'a>>) -> Self {
        rows.sort_by(|a, b| (&a.info.gvk, &a.info.plural).cmp(&(&b.info.gvk, &b.info.plural)));
        let mut document = Self { form, rows: Vec::new(), definitions: BTreeMap::new(), merged: Merged::default() };
        document.definitions.insert(PATCH.name.into(), Definition::Scalar(&PATCH));
        for row in &rows {
            document.define_kind(*row);
        }
        document.rows = rows;
        for (name, everywhere) in COMMON {
            let def = table().by_name(name).expect("the table has the common kinds");
            document.define(def, Some(Gvk::new("", "v1", def.short_name())));
            for (group, version) in document.group_versions().into_iter().filter(|_| everywhere) {
                let gvk = Gvk { group: group.into(), version: version.into(), kind: def.short_name().into() };
                document.define(def, Some(gvk));
            }
        }
        document
    }

    /// With what other servers say.
    fn with(mut self, parts: Vec<Part>) -> Self {
        if !parts.is_empty() {
            let text = words::unpack();
            let words = Words::read(&text);
            let custom: BTreeMap<_, _> = self.rows.iter().flat_map(|k| custom::definitions(self.form, *k)).collect();
            let own = |name: &str| {
                let builtin = self.definitions.get(name).map(|definition| self.schema(&words, definition));
                builtin.or_else(|| custom.get(name).cloned())
            };
            let own_paths = self.paths().map(|(path, _)| path).collect();
            self.merged = Merged::of(parts, own, &own_paths);
        }
        self
    }

    fn group_versions(&self) -> BTreeSet<(String, String)> {
        self.rows.iter().map(|r| (r.info.gvk.group.to_string(), r.info.gvk.version.to_string())).collect()
    }

    fn define_kind(&mut self, kind: Kind<'a>) {
        if kind.custom.is_some() {
            for name in ["meta.v1.ObjectMeta", "meta.v1.ListMeta"] {
                self.define(table().by_name(name).expect("the table has the metadata"), None);
            }
        }
        let kind = kind.info;
        let list = Gvk { kind: format!("{}List", kind.gvk.kind).into(), ..kind.gvk.clone() };
        let subresources = kind.subresources.iter().filter_map(|s| s.gvk.clone());
        for gvk in [kind.gvk.clone(), list].into_iter().chain(subresources) {
            // What is not published are the parameters of streams.
            if let Some(def) = table().kind(&gvk.group, &gvk.version, &gvk.kind).filter(|d| d.published) {
                self.define(def, Some(gvk));
            }
        }
    }

    /// Adds a struct and all that it refers to.
    fn define(&mut self, def: &'static StructDef, gvk: Option<Gvk>) {
        let name = published_name(def);
        let known = self.definitions.contains_key(&name);
        let entry = self.definitions.entry(name).or_insert_with(|| Definition::Struct(def, BTreeSet::new()));
        if let Definition::Struct(_, gvks) = entry {
            gvks.extend(gvk);
        }
        if !known {
            def.fields().iter().for_each(|field| self.define_inner(&field.ty));
        }
    }

    fn define_inner(&mut self, ty: &Type) {
        match ty {
            Type::Struct(def) => self.define(def, None),
            Type::List(inner) | Type::Map(inner) => self.define_inner(inner),
            _ => {
                if let Some(scalar) = definitions::scalar_of(ty) {
                    self.definitions.insert(scalar.name.into(), Definition::Scalar(scalar));
                }
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = (String, Value)> + '_ {
        let roots = self.group_versions().into_iter().map(|(g, v)| paths::of_group_version(self.form, &g, &v));
        let own = roots.chain(self.rows.iter().flat_map(|row| paths::of_kind(self.form, *row)));
        own.chain(self.merged.paths.iter().cloned())
    }

    fn schema(&self, words: &Words<'_>, definition: &Definition) -> Value {
        match definition {
            Definition::Scalar(scalar) => definitions::of_scalar(self.form, words, scalar),
            Definition::Struct(def, gvks) => {
                let mut schema: Map<String, Value> = definitions::of_struct(self.form, words, def);
                if !gvks.is_empty() {
                    let gvks = gvks.iter().map(paths::gvk_value).collect();
                    schema.insert("x-kubernetes-group-version-kind".into(), gvks);
                }
                Value::Object(schema)
            }
        }
    }

    /// Hands on the definitions, each made when it is asked for.
    fn with_definitions(&self, take: impl FnOnce(&mut dyn Iterator<Item = (String, Value)>)) {
        let text = words::unpack();
        let words = Words::read(&text);
        let builtin = self.definitions.iter().map(|(name, definition)| (name.clone(), self.schema(&words, definition)));
        let custom = self.rows.iter().flat_map(|kind| custom::definitions(self.form, *kind));
        let own = builtin.chain(custom).map(|(name, schema)| {
            let schema = self.merged.completed(&name, schema);
            (name, schema)
        });
        let others = self.merged.definitions.iter().map(|(name, schema)| (name.clone(), schema.clone()));
        take(&mut own.chain(others));
    }
}

/// JSON written part by part.
#[derive(Default)]
struct Json {
    out: Vec<u8>,
    /// A comma is due before the next member.
    comma: bool,
}

impl Json {
    fn open(&mut self, text: &str) {
        if self.comma {
            self.out.push(b',');
        }
        self.out.extend_from_slice(text.as_bytes());
        self.comma = false;
    }

    fn close(&mut self) {
        self.out.push(b'}');
        self.comma = true;
    }

    fn member(&mut self, name: &str, value: &Value) {
        self.open("");
        serde_json::to_writer(&mut self.out, name).expect("a text is written to memory");
        self.out.push(b':');
        serde_json::to_writer(&mut self.out, value).expect("a JSON value is written to memory");
        self.comma = true;
    }

    fn object(&mut self, name: &str, members: impl Iterator<Item = (String, Value)>) {
        self.open(&format!("\"{name}\":{{"));
        for (name, value) in members {
            self.member(&name, &value);
        }
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::meta::GroupResource;
    use crate::api::scheme::{SCALE, STATUS, Scope, Subresource, Verbs};

    fn row(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> KindInfo {
        let stream = Subresource::of("exec", Verbs::GET.and(Verbs::CREATE), Gvk::new("", "v1", "PodExecOptions"));
        KindInfo {
            gvk: Gvk::new(group, version, kind),
            plural: plural.into(),
            singular: "".into(),
            short: vec![],
            categories: vec![],
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            subresources: vec![STATUS, SCALE, stream].into(),
            columns: vec![].into(),
            row_conditions: None,
            derived_annotation: None,
            deprecation: None,
            selectable: vec![].into(),
            stored: GroupResource::new(group, plural),
            stored_version: version.into(),
        }
    }

    fn rows() -> Vec<KindInfo> {
        vec![
            row("apps", "v1", "Deployment", "deployments"),
            row("", "v1", "Pod", "pods"),
            row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
        ]
    }

    fn read(json: &[u8]) -> Value {
        serde_json::from_slice(json).unwrap()
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
        let rows = rows();
        let rows: Vec<&KindInfo> = rows.iter().collect();
        let (core, apps) = (v3("", "v1", &rows), v3("apps", "v1", &rows));
        let definitions = v3("apiextensions.k8s.io", "v1", &rows);
        for document in [v2(&rows, vec![]), core, apps, definitions].map(|d| read(&d)) {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 100);
            for reference in found {
                assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn what_apply_and_explain_look_for() {
        let rows = rows();
        let rows: Vec<&KindInfo> = rows.iter().collect();
        let document = read(&v3("apps", "v1", &rows));
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
        );
        assert!(deployment["description"].as_str().unwrap().contains("declarative"));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
        let policy = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["restartPolicy"];
        assert_eq!(policy["enum"], json!(["Always", "Never", "OnFailure"]));
        assert!(
            policy["description"]
                .as_str()
                .unwrap()
                .ends_with("values:\n - `\"Always\"`\n - `\"Never\"`\n - `\"OnFailure\"`")
        );
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        assert!(patch["requestBody"]["content"].get("application/apply-patch+yaml").is_some());
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
        let list = &schemas["io.k8s.api.apps.v1.DeploymentList"];
        assert_eq!(list["description"], "DeploymentList is a list of Deployment objects.");
        let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
        assert_eq!(scale["operationId"], "readAppsV1NamespacedDeploymentScale");
    }

    /// Conformance, [sig-api-machinery]: "CustomResourcePublishOpenAPI works for CRD without validation schema".
    #[test]
    fn what_keeps_every_field_names_none_in_the_old_form() {
        let info = row("stable.example.com", "v1", "CronTab", "crontabs");
        let schema = json!({"type": "object", "description": "A tab.", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"type": "object"}}});
        let kind = Kind { info: &info, custom: Some((&schema, "CronTabList")) };
        let gvk = json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}]);
        let tab = &read(&v2(&[kind], vec![]))["definitions"]["com.example.stable.v1.CronTab"];
        assert_eq!(*tab, json!({"type": "object", "x-kubernetes-group-version-kind": gvk}));
    }

    #[test]
    fn custom_kinds_are_published_as_built_in_ones() {
        let info = row("stable.example.com", "v1", "CronTab", "crontabs");
        let schema = json!({"type": "object", "description": "A tab.", "properties": {"spec": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true, "properties": {"n": {"type": "integer", "nullable": true}}}}});
        let kind = Kind { info: &info, custom: Some((&schema, "CronTabList")) };
        let (v3, v2) = (read(&v3("stable.example.com", "v1", &[kind])), read(&v2(&[kind], vec![])));
        for document in [&v3, &v2] {
            let mut found = Vec::new();
            references(document, &mut found);
            for reference in found {
                assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            }
            let one = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
            assert_eq!(document["paths"][one]["patch"]["x-kubernetes-group-version-kind"]["kind"], "CronTab");
        }
        let name = "com.example.stable.v1.CronTab";
        let tab = &v3["components"]["schemas"][name];
        assert_eq!(tab["properties"]["spec"]["properties"]["n"]["nullable"], true);
        assert_eq!(tab["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
        assert!(v3["components"]["schemas"][format!("{name}List")].is_object());
        assert_eq!(
            v2["definitions"][name]["properties"]["spec"].get("properties"),
            None,
            "old clients would refuse more"
        );
        assert!(!v2_proto(&[kind], vec![]).is_empty());
    }

    #[test]
    fn operations_have_upstreams_names_each_once() {
        let rows = rows();
        let rows: Vec<&KindInfo> = rows.iter().collect();
        let document = read(&v2(&rows, vec![]));
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.values().flat_map(|p| p.as_object().unwrap().values());
        let ids: Vec<&str> = operations.filter_map(|o| o["operationId"].as_str()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each operation has a name of its own");
        for id in [
            "listCoreV1PodForAllNamespaces",
            "deleteCoreV1CollectionNamespacedPod",
            "replaceCoreV1NamespacedPodStatus",
            "connectCoreV1PostNamespacedPodExec",
            "getAppsV1APIResources",
        ] {
            assert!(ids.contains(&id), "{id}");
        }
    }
}
