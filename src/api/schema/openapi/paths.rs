//! Paths and their operations, as clients look them up: by group-version-kind and action, and by the query parameters
//! that they take (kubectl asks whether there is `fieldValidation`, and `dryRun`).
//!
//! Upstream: `apiserver/pkg/endpoints/installer.go` names the operations, `x-kubernetes-action` and the parameters.

use serde_json::{Map, Value, json};

use super::definitions::{self, PATCH};
use super::{Form, Kind, custom, published_name};
use crate::api::meta::{Gvk, gvk};
use crate::api::schema::table;
use crate::api::scheme::{KindInfo, Scope, Verbs};

const JSON_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const WATCH_TYPES: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// A kind of a definition has no strategy for merging.
const CUSTOM_PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// Query parameters of lists, watches and deletions of many.
const LIST_QUERY: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_QUERY: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE_QUERY: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// One operation: the verb that a row has for it, HTTP's method, the name in `x-kubernetes-action`.
type Method = (Verbs, &'static str, &'static str);

const ON_COLLECTION: [Method; 3] = [
    (Verbs::LIST, "get", "list"),
    (Verbs::CREATE, "post", "post"),
    (Verbs::DELETE_COLLECTION, "delete", "deletecollection"),
];
const ON_ONE: [Method; 5] = [
    (Verbs::GET, "get", "get"),
    (Verbs::CREATE, "post", "post"),
    (Verbs::UPDATE, "put", "put"),
    (Verbs::PATCH, "patch", "patch"),
    (Verbs::DELETE, "delete", "delete"),
];
const ON_STREAM: [Method; 2] = [(Verbs::GET, "get", "connect"), (Verbs::CREATE, "post", "connect")];

/// Root of a group version: `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        _ => format!("/apis/{}", gvk::join(group, version)),
    }
}

/// What is served below a row's resource: each path with its item.
pub(super) fn of_kind(form: Form, kind: Kind<'_>) -> Vec<(String, Value)> {
    let gvk = &kind.info.gvk;
    let (own, list) = match kind.custom {
        Some((_, list_kind)) => (custom::name(gvk, &gvk.kind), custom::name(gvk, list_kind)),
        None => {
            let Some(def) = table().kind(&gvk.group, &gvk.version, &gvk.kind) else { return Vec::new() };
            let list = table().kind(&gvk.group, &gvk.version, &format!("{}List", gvk.kind)).unwrap_or(def);
            (published_name(def), published_name(list))
        }
    };
    let (is_custom, kind) = (kind.custom.is_some(), kind.info);
    let root = root(&kind.gvk.group, &kind.gvk.version);
    let home = match kind.scope {
        Scope::Cluster => root.clone(),
        Scope::Namespaced => format!("{root}/namespaces/{{namespace}}"),
    };
    let collection = format!("{home}/{}", kind.plural);
    let one = format!("{collection}/{{name}}");
    let mut paths = Vec::new();
    let mut add = |place: Place<'_>, path: String, verbs: Verbs, methods: &[Method]| {
        if let Some(item) = place.item(form, verbs, methods) {
            paths.push((path, item));
        }
    };
    let place = Place { kind, is_custom, gvk: &kind.gvk, own: &own, list: &list, sub: "", all: false, one: false };
    add(place, collection, kind.verbs, &ON_COLLECTION);
    if kind.scope == Scope::Namespaced {
        add(Place { all: true, ..place }, format!("{root}/{}", kind.plural), kind.verbs, &ON_COLLECTION[..1]);
    }
    add(Place { one: true, ..place }, one.clone(), kind.verbs.without(Verbs::CREATE), &ON_ONE);
    for sub in kind.subresources.iter() {
        let gvk = sub.gvk.as_ref().unwrap_or(&kind.gvk);
        let def = table().kind(&gvk.group, &gvk.version, &gvk.kind);
        let name = match (&sub.gvk, def) {
            (None, _) => own.clone(),
            (Some(_), Some(def)) => published_name(def),
            (Some(_), None) => continue,
        };
        let streams = def.is_some_and(|d| !d.published);
        let methods: &[Method] = if streams { &ON_STREAM } else { &ON_ONE };
        let place = Place { gvk, own: &name, sub: &sub.name, one: true, ..place };
        add(place, format!("{one}/{}", sub.name), sub.verbs, methods);
    }
    paths
}

/// The path of a group version itself: what it serves.
pub(super) fn of_group_version(form: Form, group: &str, version: &str) -> (String, Value) {
    let def = table().by_name("meta.v1.APIResourceList").expect("the table has the common kinds");
    let answer = definitions::reference(form, &published_name(def));
    let mut operation = Map::new();
    operation.insert("tags".into(), json!([tag(group, version)]));
    operation.insert("operationId".into(), format!("get{}APIResources", id_group(group, version)).into());
    operation.insert("responses".into(), responses(form, &["200"], &answer, &JSON_TYPES));
    add_types(form, &mut operation, &JSON_TYPES, None);
    (format!("{}/", root(group, version)), json!({ "get": operation }))
}

/// Where an operation stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    kind: &'a KindInfo,
    /// The kind of the bodies.
    gvk: &'a Gvk,
    /// A kind of a CustomResourceDefinition.
    is_custom: bool,
    /// Published name of the bodies.
    own: &'a str,
    /// Published name of the list.
    list: &'a str,
    /// The subresource; empty for the resource itself.
    sub: &'a str,
    /// All namespaces.
    all: bool,
    /// One object, named by the path.
    one: bool,
}

impl Place<'_> {
    fn item(&self, form: Form, verbs: Verbs, methods: &[Method]) -> Option<Value> {
        let mut item = Map::new();
        for (_, method, action) in methods.iter().filter(|(verb, ..)| verbs.has(*verb)) {
            item.insert((*method).into(), self.operation(form, method, action));
        }
        if item.is_empty() {
            return None;
        }
        let mut parameters = Vec::new();
        if self.one {
            parameters.push(parameter(form, "name", "path", "string"));
        }
        if self.kind.scope == Scope::Namespaced && !self.all {
            parameters.push(parameter(form, "namespace", "path", "string"));
        }
        parameters.push(parameter(form, "pretty", "query", "string"));
        item.insert("parameters".into(), parameters.into());
        Some(Value::Object(item))
    }

    fn operation(&self, form: Form, method: &str, action: &str) -> Value {
        let own = definitions::reference(form, self.own);
        let common = |name: &str| {
            let def = table().by_name(name).expect("the table has the common kinds");
            definitions::reference(form, &published_name(def))
        };
        let text = json!({"type": "string"});
        let (answer, codes): (Value, &[&str]) = match action {
            "list" => (definitions::reference(form, self.list), &["200"]),
            "connect" => (text, &["200"]),
            "get" => (own.clone(), &["200"]),
            "post" => (own.clone(), &["200", "201", "202"]),
            "delete" => (common("meta.v1.Status"), &["200", "202"]),
            "deletecollection" => (common("meta.v1.Status"), &["200"]),
            _ => (own.clone(), &["200", "201"]),
        };
        let body = match action {
            "patch" => Some((definitions::reference(form, PATCH.name), true)),
            "post" | "put" => Some((own, true)),
            "delete" | "deletecollection" => Some((common("meta.v1.DeleteOptions"), false)),
            _ => None,
        };
        let mut query: Vec<Value> = Vec::new();
        let mut ask = |names: &[(&str, &str)]| {
            query.extend(names.iter().map(|(name, kind)| parameter(form, name, "query", kind)));
        };
        match action {
            "list" => ask(&LIST_QUERY),
            "post" | "put" => ask(&WRITE_QUERY),
            "patch" => {
                ask(&WRITE_QUERY);
                ask(&[("force", "boolean")]);
            }
            "delete" => ask(&DELETE_QUERY),
            "deletecollection" => {
                ask(&DELETE_QUERY);
                ask(&LIST_QUERY[1..7]);
            }
            _ => {}
        }
        let streams = [&JSON_TYPES[..], &WATCH_TYPES[..]].concat();
        let produces: &[&str] = match action {
            "list" => &streams,
            "connect" => &["*/*"],
            _ => &JSON_TYPES,
        };
        let consumes: &[&str] = match action {
            "patch" if self.is_custom => &CUSTOM_PATCH_TYPES,
            "patch" => &PATCH_TYPES,
            _ => &JSON_TYPES,
        };
        let mut operation = Map::new();
        operation.insert("tags".into(), json!([tag(&self.kind.gvk.group, &self.kind.gvk.version)]));
        operation.insert("operationId".into(), self.id(method, action).into());
        if let Some((schema, required)) = body {
            add_body(form, &mut operation, &mut query, schema, required, consumes);
        }
        add_types(form, &mut operation, produces, (action != "get" && action != "list").then_some(consumes));
        if !query.is_empty() {
            operation.insert("parameters".into(), query.into());
        }
        operation.insert("responses".into(), responses(form, codes, &answer, produces));
        operation.insert("x-kubernetes-action".into(), action.into());
        operation.insert("x-kubernetes-group-version-kind".into(), gvk_value(self.gvk));
        Value::Object(operation)
    }

    /// Upstream's name: `patchAppsV1NamespacedDeploymentScale`, `listCoreV1PodForAllNamespaces`.
    fn id(&self, method: &str, action: &str) -> String {
        let verb = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "delete",
            other => other,
        };
        let many = match (action, method) {
            ("deletecollection", _) => "Collection".to_owned(),
            ("connect", method) => first_upper(method),
            _ => String::new(),
        };
        let group = id_group(&self.kind.gvk.group, &self.kind.gvk.version);
        let scope = if self.kind.scope == Scope::Namespaced && !self.all { "Namespaced" } else { "" };
        let (kind, sub) = (&self.kind.gvk.kind, first_upper(self.sub));
        let all = if self.all { "ForAllNamespaces" } else { "" };
        format!("{verb}{group}{many}{scope}{kind}{sub}{all}")
    }
}

fn add_body(
    form: Form,
    operation: &mut Map<String, Value>,
    parameters: &mut Vec<Value>,
    schema: Value,
    required: bool,
    types: &[&str],
) {
    match form {
        Form::V3 => {
            let types = if required { types } else { &["*/*"] };
            let mut body = json!({"content": content(&schema, types)});
            if required {
                body["required"] = true.into();
            }
            operation.insert("requestBody".into(), body);
        }
        Form::V2 => {
            let mut body = json!({"name": "body", "in": "body", "schema": schema});
            if required {
                body["required"] = true.into();
            }
            parameters.insert(0, body);
        }
    }
}

/// v2 says once for an operation what it reads and writes.
fn add_types(form: Form, operation: &mut Map<String, Value>, produces: &[&str], consumes: Option<&[&str]>) {
    if form == Form::V2 {
        operation.insert("produces".into(), json!(produces));
        operation.insert("consumes".into(), json!(consumes.unwrap_or(&["*/*"])));
    }
}

fn content(schema: &Value, types: &[&str]) -> Value {
    types.iter().map(|t| ((*t).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
}

fn responses(form: Form, codes: &[&str], answer: &Value, types: &[&str]) -> Value {
    let mut all = Map::new();
    for code in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        let response = match form {
            Form::V3 => json!({"description": description, "content": content(answer, types)}),
            Form::V2 => json!({"description": description, "schema": answer}),
        };
        all.insert((*code).into(), response);
    }
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

fn parameter(form: Form, name: &str, place: &str, kind: &str) -> Value {
    let mut parameter = Map::new();
    parameter.insert("name".into(), name.into());
    parameter.insert("in".into(), place.into());
    if place == "path" {
        parameter.insert("required".into(), true.into());
    }
    match form {
        Form::V3 => drop(parameter.insert("schema".into(), json!({"type": kind, "uniqueItems": true}))),
        Form::V2 => {
            parameter.insert("type".into(), kind.into());
            parameter.insert("uniqueItems".into(), true.into());
        }
    }
    Value::Object(parameter)
}

/// An `x-kubernetes-group-version-kind`.
pub(super) fn gvk_value(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version})
}

/// The words of a group: `rbac`, `authorization` of `rbac.authorization.k8s.io`.
fn words(group: &str) -> Vec<&str> {
    match group {
        "" => vec!["core"],
        _ => group.strip_suffix(".k8s.io").unwrap_or(group).split('.').collect(),
    }
}

/// `RbacAuthorizationV1`.
fn id_group(group: &str, version: &str) -> String {
    words(group).into_iter().chain([version]).map(first_upper).collect()
}

/// `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let words = words(group);
    let rest: String = words[1..].iter().map(|w| first_upper(w)).collect();
    format!("{}{rest}_{version}", words[0])
}

fn first_upper(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("", "v1", "CoreV1", "core_v1")]
    #[test_case("apps", "v1", "AppsV1", "apps_v1")]
    #[test_case("rbac.authorization.k8s.io", "v1", "RbacAuthorizationV1", "rbacAuthorization_v1")]
    #[test_case("stable.example.com", "v1beta1", "StableExampleComV1beta1", "stableExampleCom_v1beta1")]
    fn groups_in_names(group: &str, version: &str, id: &str, tagged: &str) {
        assert_eq!((id_group(group, version).as_str(), tag(group, version).as_str()), (id, tagged));
    }
}
