//! Fields that an object has not, and fields that are said twice: refused where the client asks for it.
//!
//! Conformance, [sig-api-machinery] FieldValidation: "should detect unknown and duplicate fields of a typed object", "should
//! detect unknown metadata fields of a typed object", "should create/apply a valid CR for CRD with validation schema",
//! "should create/apply a CR with unknown fields for CRD with no validation schema", "should create/apply an invalid CR with
//! extra properties for CRD with validation schema", "should detect unknown metadata fields in both the root and embedded
//! object of a CR", "should detect duplicates in a CR when preserving unknown fields".

use test_case::test_case;

use super::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/n/deployments?fieldManager=m&fieldValidation=Strict";
const TOOLS: &str = "/apis/stable.example.com/v1/tools";

#[test_case(r#""name": "d""#, r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#,
    r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#; "of the object")]
#[test_case(r#""name": "d", "unknownMeta": "foo""#, "", r#"strict decoding error: unknown field "metadata.unknownMeta""#;
    "of its metadata")]
#[tokio::test]
async fn of_a_built_in_kind(metadata: &str, spec: &str, message: &str) {
    let s = Server::new().await;
    let body = format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{{metadata}}}, "spec": {{{spec}
            "selector": {{"matchLabels": {{"a": "b"}}}}, "template": {{"metadata": {{"labels": {{"a": "b"}}}},
            "spec": {{"containers": [{{"name": "c", "image": "i"}}]}}}}}}}}"#
    );
    let refused = s.send("POST", DEPLOYMENTS, &[(header::CONTENT_TYPE, JSON)], body.clone().into()).await.is(400);
    assert!(refused["message"].as_str().unwrap().contains(message), "{refused}");
    assert_eq!(refused["reason"], "BadRequest");
    // Whoever does not ask is warned, and what is unknown is not kept.
    let lenient = DEPLOYMENTS.replace("Strict", "Warn");
    let made = s.send("POST", &lenient, &[(header::CONTENT_TYPE, JSON)], body.into()).await;
    assert!(made.warnings > 0 && !made.text.contains("foo"), "{}", made.text);
    made.is(201);
}

/// What upstream's tests say of `spec`, beside `more`.
fn schema(more: Value) -> Value {
    let port = json!({"type": "object", "required": ["containerPort", "protocol"], "properties": {
        "containerPort": {"type": "integer", "format": "int32"}, "name": {"type": "string"}, "protocol": {"type": "string"}}});
    let mut spec = json!({"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "items": port},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"type": "object", "properties": {"spec": spec}})
}

fn any() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn preserving() -> Value {
    schema(json!({"x-kubernetes-preserve-unknown-fields": true}))
}

const SPEC: &str =
    "  foo: foo1\n  cronSpec: \"* * * * */5\"\n  ports:\n  - {name: x, containerPort: 80, protocol: TCP}\n";

#[test_case(schema(json!({})), "", "", ""; "what the schema has")]
#[test_case(any(), "", "  unknown: uk1\n", ""; "anything, where nothing is said")]
#[test_case(schema(json!({})), "unknownField: unknown\n", "", ".unknownField: field not declared in schema"; "at the root")]
#[test_case(preserving(), "", "  template:\n    apiVersion: foo/v1\n    kind: Sub\n    metadata: {unknownSubMeta: u, name: s}\n",
    ".spec.template.metadata.unknownSubMeta: field not declared in schema"; "in the metadata of an object within")]
#[test_case(preserving(), "", "  unknown: uk1\n  foo: foo2\n", "key \"foo\" already set in map"; "twice")]
#[tokio::test]
async fn of_an_applied_custom_kind(schema: Value, root: &str, more: &str, message: &str) {
    let s = Server::new().await;
    s.define(json!({"metadata": {"name": "tools.stable.example.com"}, "spec": {"group": "stable.example.com",
        "scope": "Cluster", "names": {"plural": "tools", "kind": "Tool"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}))
        .await;
    let yaml =
        format!("apiVersion: stable.example.com/v1\nkind: Tool\nmetadata:\n  name: t\n{root}spec:\n{SPEC}{more}");
    let path = format!("{TOOLS}/t?fieldManager=m&fieldValidation=Strict");
    let got = s.send("PATCH", &path, &[(header::CONTENT_TYPE, APPLY)], yaml.into()).await;
    match message {
        "" => assert_eq!(got.is(201)["spec"]["ports"][0]["containerPort"], 80),
        message => assert!(got.code >= 400 && got.text.contains(&message.replace('"', "\\\"")), "{}", got.text),
    }
}

#[tokio::test]
async fn of_the_metadata_of_a_custom_kind() {
    let s = Server::new().await;
    s.define(json!({"metadata": {"name": "tools.stable.example.com"}, "spec": {"group": "stable.example.com",
        "scope": "Cluster", "names": {"plural": "tools", "kind": "Tool"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": preserving()}}]}}))
        .await;
    let body = json!({"apiVersion": "stable.example.com/v1", "kind": "Tool",
        "metadata": {"name": "t", "unknownMeta": "u"}, "spec": {"template": {"apiVersion": "foo/v1", "kind": "Sub",
            "metadata": {"name": "s", "unknownSubMeta": "u"}}}});
    let refused = s.post(&format!("{TOOLS}?fieldValidation=Strict"), body).await.is(400);
    let message = refused["message"].as_str().unwrap();
    for field in ["metadata.unknownMeta", "spec.template.metadata.unknownSubMeta"] {
        assert!(message.contains(&format!("unknown field \"{field}\"")), "{message}");
    }
    let body = br#"{"apiVersion": "stable.example.com/v1", "kind": "Tool", "metadata": {"name": "t"},
        "spec": {"unknown": "uk1", "foo": "foo1", "foo": "foo2"}}"#;
    let path = format!("{TOOLS}?fieldValidation=Strict");
    let refused = s.send("POST", &path, &[(header::CONTENT_TYPE, JSON)], Bytes::from_static(body)).await.is(400);
    assert!(refused["message"].as_str().unwrap().contains("duplicate field \"spec.foo\""), "{refused}");
}
