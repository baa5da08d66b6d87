//! Structural schemas: every field has a type, and what only narrows values adds no fields.
//!
//! In: the root of a schema. Out: where it is not structural. Rules: upstream
//! `apiextensions-apiserver/pkg/apiserver/schema`.
//!
//! **Invariant:** schemas below `allOf`, `anyOf`, `oneOf` and `not` only narrow; those at the root name no field that does
//! not exist outside.

use serde_json::{Value, json};

use crate::registry::errors::FieldErrors;
use crate::registry::validate::Field;

const KEEP: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// What narrows without naming fields.
const JUNCTORS: &[&str] = &["allOf", "anyOf", "oneOf"];

/// What a schema that only narrows must not say.
const FORBIDDEN: &[&str] = &[
    "type",
    "additionalProperties",
    "default",
    "title",
    "description",
    "nullable",
    KEEP,
    EMBEDDED,
    INT_OR_STRING,
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The schema at the root of a kind.
pub fn check(root: &Field<'_>) {
    invariants(root, Level::Root);
    complete(root);
}

fn said(value: &Value) -> bool {
    !(value.is_null() || *value == false || *value == "" || value.as_array().is_some_and(Vec::is_empty))
}

fn invariants(s: &Field<'_>, level: Level) {
    let type_ = s.text("type");
    let items = s.at("items");
    if type_ == "array" && !items.value.is_object() {
        items.errs.required("must be specified");
    }
    if items.value.is_object() {
        invariants(&items, Level::Item);
    }
    s.entries("properties").for_each(|(_, property)| invariants(&property, Level::Field));
    let more = s.at("additionalProperties");
    if !more.value.is_null() && level == Level::Root {
        more.errs.forbidden("must not be used at the root");
    }
    if more.value.is_object() {
        invariants(&more, Level::Field);
    }
    if s.flag(INT_OR_STRING) {
        for name in [KEEP, EMBEDDED].iter().filter(|n| s.flag(n)) {
            s.at(name).invalid(format!("must be false if {INT_OR_STRING} is true"));
        }
    }
    values(s, true);
    check_type(s, level);
    if s.flag(EMBEDDED) {
        if !more.value.is_null() {
            more.errs.forbidden(format!("must not be used if {EMBEDDED} is set"));
        }
        if !s.flag(KEEP) && s.at("properties").value.as_object().is_none_or(|p| p.is_empty()) {
            s.errs.at("properties").required(format!("must not be empty if {EMBEDDED} is true without {KEEP}"));
        }
    }
    check_meta(s, level);
}

fn check_type(s: &Field<'_>, level: Level) {
    let type_ = s.at("type");
    let is_free = s.flag(INT_OR_STRING) || s.flag(KEEP);
    match (type_.as_text(), level) {
        ("", _) if s.flag(EMBEDDED) => type_.errs.required(format!("must be object if {EMBEDDED} is true")),
        (text, _) if s.flag(EMBEDDED) && text != "object" => {
            type_.invalid(format!("must be object if {EMBEDDED} is true"));
        }
        ("", _) if s.flag(EMBEDDED) || is_free => {}
        ("", Level::Root) => type_.errs.required("must not be empty at the root"),
        ("", Level::Item) => type_.errs.required("must not be empty for specified array items"),
        ("", Level::Field) => type_.errs.required("must not be empty for specified object fields"),
        _ => {}
    }
    if level == Level::Root && !matches!(type_.as_text(), "" | "object") {
        type_.invalid("must be object at the root");
    }
}

/// Every object has kind, apiVersion and metadata already; a schema may only narrow its name.
fn check_meta(s: &Field<'_>, level: Level) {
    let properties = s.at("properties");
    if level == Level::Root || s.flag(EMBEDDED) {
        for (name, needed) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
            let Some(value) = properties.value.get(name) else { continue };
            let property = Field { value, errs: properties.errs.key(name) };
            if property.text("type") != needed {
                property.at("type").invalid(format!("must be {needed}"));
            }
        }
    }
    let Some(metadata) = properties.value.get("metadata").and_then(Value::as_object) else { return };
    let is_name = |k: &String| matches!(k.as_str(), "name" | "generateName");
    let narrows = metadata.iter().all(|(key, value)| match key.as_str() {
        "type" | "default" => true,
        "properties" => value.as_object().is_none_or(|p| p.keys().all(is_name)),
        _ => !said(value),
    });
    if level == Level::Root && !narrows {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        properties.errs.key("metadata").forbidden(why);
    }
}

/// The one use of types below a junctor: both types of an int-or-string.
fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

/// What a schema says of values. `may_type` where the types of an int-or-string may be named.
fn values(s: &Field<'_>, may_type: bool) {
    for junctor in JUNCTORS {
        if may_type && *junctor == "anyOf" && is_int_or_string(s.at("anyOf").value) {
            continue;
        }
        for (i, part) in s.items(junctor).enumerate() {
            narrowing(&part, may_type && *junctor == "allOf" && i == 0);
        }
    }
    if s.has("not") {
        narrowing(&s.at("not"), false);
    }
    let pattern = s.at("pattern");
    if !pattern.as_text().is_empty() && regex::Regex::new(pattern.as_text()).is_err() {
        pattern.invalid("must be a valid regular expression, but isn't");
    }
}

fn narrowing(s: &Field<'_>, may_type: bool) {
    values(s, may_type);
    if s.has("items") {
        narrowing(&s.at("items"), false);
    }
    s.entries("properties").for_each(|(_, property)| narrowing(&property, false));
    for name in FORBIDDEN.iter().filter(|n| said(s.at(n).value)) {
        s.errs.at(name).forbidden("must be undefined to be structural");
    }
}

/// What narrows a field at the root needs the field. Upstream asks this of the root's junctors only.
fn complete(root: &Field<'_>) {
    covered(root.value, Some(root), &root.errs);
}

/// The junctors of `narrow`, against the schema `s` that must have their fields; `errs` is where `s` is or should be.
fn covered(narrow: &Value, s: Option<&Field<'_>>, errs: &FieldErrors) {
    let parts = JUNCTORS.iter().filter_map(|j| narrow.get(*j)).filter_map(Value::as_array).flatten();
    for part in parts.chain(narrow.get("not").filter(|n| n.is_object())) {
        covered_part(part, s, errs);
    }
}

fn covered_part(part: &Value, s: Option<&Field<'_>>, errs: &FieldErrors) {
    let Some(s) = s else {
        errs.required("because it is narrowed below a junctor");
        return;
    };
    covered(part, Some(s), errs);
    if let Some(items) = part.get("items").filter(|i| i.is_object()) {
        let below = s.at("items");
        covered_part(items, below.value.is_object().then_some(&below), &below.errs);
    }
    for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let errs = s.errs.at("properties").key(name);
        let below = s.at("properties").value.get(name).map(|value| Field { value, errs: errs.clone() });
        covered_part(property, below.as_ref(), &errs);
    }
}
