//! What definitions are refused for, by one change of a good one.

use serde_json::{Value, json};

use super::{definition, schema};
use crate::registry::errors::FieldErrors;
use crate::registry::validate::Field;

fn told(errs: &FieldErrors) -> Vec<(String, String)> {
    let mut out: Vec<_> =
        errs.take().into_iter().map(|c| (c.reason.trim_start_matches("FieldValue").to_owned(), c.field)).collect();
    out.sort();
    out
}

fn expect(errs: &FieldErrors, wanted: &[(&str, &str)], what: &str) {
    let mut wanted: Vec<_> = wanted.iter().map(|(r, f)| ((*r).to_owned(), (*f).to_owned())).collect();
    wanted.sort();
    assert_eq!(told(errs), wanted, "{what}");
}

fn root(schema: &Value) -> FieldErrors {
    let errs = FieldErrors::new();
    schema::check(&Field::root(schema, &errs), false);
    errs
}

#[test]
fn schemas_are_structural_and_their_extensions_fit() {
    let field = |f: Value| json!({"type": "object", "properties": {"f": f}});
    let rows: &[(Value, &[(&str, &str)])] = &[
        (field(json!({"type": "string"})), &[]),
        (json!({}), &[("Required", "type")]),
        (json!({"type": "string"}), &[("Invalid", "type")]),
        (json!({"type": "object", "additionalProperties": true}), &[("Forbidden", "additionalProperties")]),
        (json!({"type": "object", "nullable": true}), &[("Forbidden", "nullable")]),
        (field(json!({})), &[("Required", "properties[f].type")]),
        (field(json!({"x-kubernetes-int-or-string": true})), &[]),
        (field(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})), &[]),
        (
            field(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]})),
            &[("Forbidden", "properties[f].anyOf[0].type")],
        ),
        (field(json!({"type": "array"})), &[("Required", "properties[f].items")]),
        (
            field(json!({"type": "array", "items": {"type": "string"}, "additionalItems": true})),
            &[("Forbidden", "properties[f].additionalItems")],
        ),
        (json!({"type": "object", "dependencies": {}}), &[("Forbidden", "dependencies")]),
        (json!({"type": "object", "definitions": {}}), &[]),
        (
            field(json!({"type": "string",
                "x-kubernetes-validations": [{"rule": "self == 'a'", "optionalOldSelf": true}]})),
            &[("Invalid", "properties[f].x-kubernetes-validations[0].optionalOldSelf")],
        ),
        (field(json!({"type": "array", "items": {}})), &[("Required", "properties[f].items.type")]),
        (field(json!({"type": "any"})), &[("NotSupported", "properties[f].type")]),
        (field(json!({"type": "string", "pattern": "("})), &[("Invalid", "properties[f].pattern")]),
        (json!({"type": "object", "oneOf": [{"properties": {"a": {}}}]}), &[("Required", "properties[a]")]),
        (
            field(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"})),
            &[("Invalid", "properties[f].items.x-kubernetes-map-type")],
        ),
        (
            field(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"})),
            &[("Required", "properties[f].x-kubernetes-list-map-keys")],
        ),
        (
            field(json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}}}})),
            &[("Required", "properties[f].items.properties[a].default")],
        ),
        (
            field(json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "bag"})),
            &[("NotSupported", "properties[f].x-kubernetes-list-type")],
        ),
        (field(json!({"type": "string", "x-kubernetes-map-type": "atomic"})), &[("Invalid", "properties[f].type")]),
        (
            field(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false})),
            &[("Invalid", "properties[f].x-kubernetes-preserve-unknown-fields")],
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            &[("Forbidden", "properties[metadata]")],
        ),
        (
            field(json!({"type": "object", "properties": {"a": {"type": "string"}},
                "x-kubernetes-validations": [{"rule": " ", "reason": "Bad", "fieldPath": ".b"}]})),
            &[
                ("Required", "properties[f].x-kubernetes-validations[0].rule"),
                ("NotSupported", "properties[f].x-kubernetes-validations[0].reason"),
                ("Invalid", "properties[f].x-kubernetes-validations[0].fieldPath"),
            ],
        ),
    ];
    for (schema, wanted) in rows {
        expect(&root(schema), wanted, &schema.to_string());
    }
}

#[test]
fn defaults_fit_their_schema() {
    let rows: &[(Value, &[(&str, &str)])] = &[
        (json!({"type": "integer", "default": 3}), &[]),
        (json!({"type": "integer", "default": "3"}), &[("TypeInvalid", "properties[f].default")]),
        (json!({"type": "integer", "maximum": 2, "default": 3}), &[("Invalid", "properties[f].default")]),
        (json!({"type": "string", "enum": ["a"], "default": "b"}), &[("NotSupported", "properties[f].default")]),
        (json!({"type": "string", "maxLength": 1, "default": "bb"}), &[("TooLong", "properties[f].default")]),
        (json!({"type": "object", "default": {"a": 1}}), &[("Invalid", "properties[f].default")]),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}, "default": {}}),
            &[("Required", "properties[f].default.a")],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "default": [1]}),
            &[("TypeInvalid", "properties[f].default[0]")],
        ),
    ];
    for (field, wanted) in rows {
        expect(&root(&json!({"type": "object", "properties": {"f": field}})), wanted, &field.to_string());
    }
}

#[test]
fn definitions_say_what_versions_share_at_the_spec() {
    let good = json!({
        "group": "example.com", "scope": "Cluster",
        "names": {"plural": "gears", "singular": "gear", "kind": "Gear", "listKind": "GearList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
    });
    let other = json!({"name": "v2", "schema": {"openAPIV3Schema": {"type": "string"}}});
    type Causes = &'static [(&'static str, &'static str)];
    let rows: &[(&str, Value, Causes)] = &[
        ("/scope", json!("Cluster"), &[]),
        ("/scope", json!("Galaxy"), &[("NotSupported", "scope")]),
        ("/group", json!("example"), &[("Invalid", "group")]),
        ("/versions/0/schema", Value::Null, &[("Required", "versions[0].schema.openAPIV3Schema")]),
        ("/versions/0/schema/openAPIV3Schema", json!({}), &[("Required", "validation.openAPIV3Schema.type")]),
        ("/versions/1", other, &[("Invalid", "versions[1].schema.openAPIV3Schema.type")]),
        ("/versions/0/storage", json!(false), &[("Invalid", "versions")]),
        ("/versions/0/deprecationWarning", json!("x"), &[("Invalid", "versions[0].deprecationWarning")]),
        (
            "/versions/0/subresources",
            json!({"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": "n"}}),
            &[("Invalid", "subresources.scale.specReplicasPath"), ("Invalid", "subresources.scale.statusReplicasPath")],
        ),
        (
            "/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "map", "jsonPath": ""}]),
            &[("Invalid", "additionalPrinterColumns[0].type"), ("Required", "additionalPrinterColumns[0].JSONPath")],
        ),
        (
            "/versions/0/selectableFields",
            json!([{"jsonPath": ".spec.x"}]),
            &[("Invalid", "selectableFields[0].jsonPath")],
        ),
        ("/names/kind", json!("Ge_ar"), &[("Invalid", "names.kind")]),
        ("/names/listKind", json!("Gear"), &[("Invalid", "names.listKind")]),
        (
            "/conversion",
            json!({"strategy": "Webhook"}),
            &[("Required", "conversion.webhookClientConfig"), ("Required", "conversion.conversionReviewVersions")],
        ),
    ];
    for (path, value, wanted) in rows {
        let mut spec = good.clone();
        match path.strip_prefix("/versions/1") {
            Some(_) => spec["versions"].as_array_mut().expect("a list").push(value.clone()),
            None => {
                let (parent, member) = path.rsplit_once('/').expect("a path");
                spec.pointer_mut(parent).expect("a parent")[member] = value.clone();
            }
        }
        let errs = FieldErrors::new();
        definition::check_spec(&Field::root(&spec, &errs), None);
        expect(&errs, wanted, path);
    }
}

#[test]
fn stored_versions_stay_among_the_versions() {
    let v1 = json!({"name": "v1", "storage": true});
    type Causes = &'static [(&'static str, &'static str)];
    let rows: &[(Value, Value, Causes)] = &[
        (json!([v1]), json!(["v1"]), &[]),
        (json!([v1]), json!([]), &[("Invalid", "status.storedVersions")]),
        (json!([v1]), json!(["v1", "v0"]), &[("Invalid", "status.storedVersions[1]")]),
        (json!([{"name": "v2", "storage": true}]), json!(["v2", "v1"]), &[("Invalid", "status.storedVersions[1]")]),
        (json!([v1, v1]), json!(["v1"]), &[("Invalid", "status.storedVersions")]),
    ];
    for (versions, stored, wanted) in rows {
        let object = json!({"spec": {"versions": versions}, "status": {"storedVersions": stored}});
        let errs = FieldErrors::new();
        definition::stored_versions(&Field::root(&object, &errs));
        expect(&errs, wanted, &object.to_string());
    }
}
