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

/// A kind, `group.version.Kind`, and its schema; none when it is not to be there.
type Wanted<'a> = (&'a str, Option<&'a Value>);

/// True when what is published of a kind is its schema, beside what every object has; or nothing, as wanted.
fn is_as_wanted(found: &Value, (name, schema): Wanted<'_>) -> bool {
    let (Some(schema), Some(found)) = (schema, found.as_object()) else { return schema.is_none() && found.is_null() };
    let parts: Vec<&str> = name.split('.').collect();
    let kind = json!([{"group": format!("{}.example.com", parts[0]), "version": parts[1], "kind": parts[2]}]);
    let mut found = found.clone();
    assert_eq!(found.remove("x-kubernetes-group-version-kind"), Some(kind));
    let properties = found["properties"].as_object_mut().unwrap();
    assert!(["apiVersion", "kind", "metadata"].iter().all(|own| properties.remove(*own).is_some()), "{name}");
    Value::Object(found) == *schema
}

impl Server {
    /// Waits until OpenAPI v2 has all of the kinds as wanted; then v3 has them, too.
    async fn published(&self, all: &[Wanted<'_>]) {
        let definition = |name: &str| format!("com.example.{name}");
        self.until("/openapi/v2", &format!("{all:?}"), |_, document| {
            all.iter().all(|wanted| is_as_wanted(&document["definitions"][definition(wanted.0)], *wanted))
        })
        .await;
        let paths = self.get("/openapi/v3").await.is(200);
        for (name, schema) in all {
            let parts: Vec<&str> = name.split('.').collect();
            let path = format!("apis/{}.example.com/{}", parts[0], parts[1]);
            let found = match paths["paths"][&path]["serverRelativeURL"].as_str() {
                Some(url) => self.get(url).await.is(200)["components"]["schemas"][definition(name)].clone(),
                None => Value::Null,
            };
            assert_eq!(found.is_object(), schema.is_some(), "{name} in OpenAPI v3");
        }
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
    let (foo, waldo) = (foo(), waldo());
    let (foo, waldo) = (Some(&foo), Some(&waldo));
    let foos = ["foo.v1.Foo", "multi.v2.Foo", "multi.v3.Foo", "common.v4.Foo", "same.v6.Foo"];
    let waldos = ["waldo.v1beta1.Waldo", "common.v5.Waldo", "same.v6.Waldo"];
    let all = foos.map(|name| (name, foo)).into_iter().chain(waldos.map(|name| (name, waldo)));
    s.published(&all.collect::<Vec<_>>()).await;
    // What is gone is published no more; its neighbours are.
    s.delete(&format!("{CRDS}/foos.same.example.com"), json!({})).await.is(200);
    s.published(&[("same.v6.Foo", None), ("same.v6.Waldo", waldo)]).await;
}

#[tokio::test]
async fn a_version_that_is_renamed_or_not_served_any_more() {
    let s = Server::new().await;
    s.define(definition("multi", "Foo", &["v2", "v3"], &foo())).await;
    let crd = format!("{CRDS}/foos.multi.example.com");
    let name = |op: &str, name: &str| json!({"op": op, "path": "/spec/versions/1/name", "value": name});
    s.patch(&crd, JSON_PATCH, json!([name("test", "v3"), name("replace", "v4")])).await.is(200);
    let foo = foo();
    let foo = Some(&foo);
    s.published(&[("multi.v4.Foo", foo), ("multi.v3.Foo", None), ("multi.v2.Foo", foo)]).await;
    let mut read = s.get(&crd).await.is(200);
    read["spec"]["versions"][1]["served"] = false.into();
    s.put(&crd, read).await.is(200);
    s.published(&[("multi.v4.Foo", None), ("multi.v2.Foo", foo)]).await;
}
