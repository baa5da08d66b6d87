//! What OpenAPI says of custom kinds, while their definitions change.
//!
//! Conformance, [sig-api-machinery] CustomResourcePublishOpenAPI: "works for multiple CRDs of different groups", "works for
//! multiple CRDs of same group but different versions", "works for multiple CRDs of same group and version but different
//! kinds", "updates the published spec when one version gets renamed", "removes definition from spec when one version gets
//! changed to not be served".

use super::*;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON_PATCH: &str = "application/json-patch+json";

fn foo() -> Value {
    let bar = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"description": "Name of Bar.", "type": "string"},
        "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
        "bazs": {"description": "List of Bazs.", "type": "array", "items": {"type": "string"}}}});
    json!({"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo", "properties": {
            "bars": {"description": "List of Bars and their specs.", "type": "array", "items": bar}}},
        "status": {"description": "Status of Foo", "type": "object"}}})
}

fn waldo() -> Value {
    json!({"description": "Waldo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
            "dummy": {"description": "Dummy property.", "type": "object"}}}}})
}

/// A definition of the kind in the group, with the schema in each of the versions; the first one is stored.
fn definition(group: &str, kind: &str, versions: &[&str], schema: &Value) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let version = |(i, name): (usize, &&str)| json!({"name": name, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": schema}});
    let versions: Vec<Value> = versions.iter().enumerate().map(version).collect();
    json!({"metadata": {"name": format!("{plural}.{group}.example.com")}, "spec": {"group": format!("{group}.example.com"),
        "scope": "Namespaced", "names": {"plural": plural, "kind": kind}, "versions": versions}})
}

impl Server {
    /// Waits until OpenAPI v2 and v3 have a kind as its schema says, beside what every object has; or until they have not.
    async fn published(&self, group: &str, version: &str, kind: &str, schema: Option<&Value>) {
        let name = format!("com.example.{group}.{version}.{kind}");
        let as_wanted = |found: &Value| match (schema, found.as_object()) {
            (None, None) => true,
            (Some(schema), Some(found)) => {
                assert_eq!(
                    found["x-kubernetes-group-version-kind"],
                    json!([{"group": format!("{group}.example.com"), "version": version, "kind": kind}])
                );
                let mut found = found.clone();
                found.remove("x-kubernetes-group-version-kind");
                let properties = found["properties"].as_object_mut().unwrap();
                for own in ["apiVersion", "kind", "metadata"] {
                    assert!(properties.remove(own).is_some(), "{own} of {name}");
                }
                Value::Object(found) == *schema
            }
            _ => false,
        };
        self.until("/openapi/v2", &name, |_, document| as_wanted(&document["definitions"][&name])).await;
        let paths = self.get("/openapi/v3").await.is(200);
        let path = format!("apis/{group}.example.com/{version}");
        let found = match paths["paths"][&path]["serverRelativeURL"].as_str() {
            Some(url) => self.get(url).await.is(200)["components"]["schemas"][&name].clone(),
            None => Value::Null,
        };
        assert_eq!(found.is_object(), schema.is_some(), "{name} in OpenAPI v3");
    }
}

#[tokio::test]
async fn kinds_of_groups_and_versions_stand_beside_each_other() {
    let s = Server::new().await;
    s.define(definition("foo", "Foo", &["v1"], &foo())).await;
    s.define(definition("waldo", "Waldo", &["v1beta1"], &waldo())).await;
    s.define(definition("multi", "Foo", &["v2", "v3"], &foo())).await;
    s.define(definition("common", "Foo", &["v4"], &foo())).await;
    s.define(definition("common", "Waldo", &["v5"], &waldo())).await;
    s.define(definition("same", "Foo", &["v6"], &foo())).await;
    s.define(definition("same", "Waldo", &["v6"], &waldo())).await;
    for (group, version) in [("foo", "v1"), ("multi", "v2"), ("multi", "v3"), ("common", "v4"), ("same", "v6")] {
        s.published(group, version, "Foo", Some(&foo())).await;
    }
    for (group, version) in [("waldo", "v1beta1"), ("common", "v5"), ("same", "v6")] {
        s.published(group, version, "Waldo", Some(&waldo())).await;
    }
    // What is gone is published no more; its neighbours are.
    s.delete(&format!("{CRDS}/foos.same.example.com"), json!({})).await.is(200);
    s.published("same", "v6", "Foo", None).await;
    s.published("same", "v6", "Waldo", Some(&waldo())).await;
}

#[tokio::test]
async fn a_version_that_is_renamed_or_not_served_any_more() {
    let s = Server::new().await;
    s.define(definition("multi", "Foo", &["v2", "v3"], &foo())).await;
    let crd = format!("{CRDS}/foos.multi.example.com");
    let name = |op: &str, name: &str| json!({"op": op, "path": "/spec/versions/1/name", "value": name});
    s.patch(&crd, JSON_PATCH, json!([name("test", "v3"), name("replace", "v4")])).await.is(200);
    s.published("multi", "v4", "Foo", Some(&foo())).await;
    s.published("multi", "v3", "Foo", None).await;
    s.published("multi", "v2", "Foo", Some(&foo())).await;
    let mut read = s.get(&crd).await.is(200);
    read["spec"]["versions"][1]["served"] = false.into();
    s.put(&crd, read).await.is(200);
    s.published("multi", "v4", "Foo", None).await;
    s.published("multi", "v2", "Foo", Some(&foo())).await;
}
