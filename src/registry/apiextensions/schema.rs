//! What the schema of a custom resource may say.
//!
//! In: the root of a schema. Out: what is wrong with it. Rules: upstream
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation` (beside [`structural`]).
//!
//! **Invariant:** defaults are looked at only in a structural schema, as nothing else says what they must fit.

use serde_json::Value;

use super::costs::Costs;
use super::{defaults, path, structural};
use crate::api::cel::estimate;
use crate::api::cel::rules::{self, Rule};
use crate::api::value::ValueExt;
use crate::registry::validate::Field;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPES: &[&str] = &["atomic", "set", "map"];
const MAP_TYPES: &[&str] = &["atomic", "granular"];
/// Why a rule may say that a value is refused.
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// Parts of JSON schema that custom resources do not have.
const UNSUPPORTED: &[&str] = &["patternProperties", "definitions"];
/// Members that may not even be empty.
const NEVER: &[&str] = &["additionalItems", "dependencies"];
/// Members that hold no further schema, allowed at the root of a kind with a status of its own.
const AT_ROOT: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
/// What every object has beside its own fields.
pub const META: &[&str] = &["metadata", "kind", "apiVersion"];

/// Where in a schema the walk is.
#[derive(Clone, Copy)]
struct At<'a> {
    root: bool,
    /// Inside of the schema for metadata.
    meta: bool,
    /// Defaults may stand here.
    defaults: bool,
    /// The schema says enough of types to look at rules.
    rules: bool,
    /// The schema is that of a whole resource within another one.
    embedded: bool,
    /// What a value was can be told: it is not within a list without keys.
    correlatable: bool,
    /// How many values of this schema one object may have; none when nothing bounds it.
    count: Option<u64>,
    /// What rules cost.
    costs: &'a Costs,
}

/// The schema of a version; `status` when the kind has a status subresource.
pub fn check(root: &Field<'_>, status: bool) {
    if root.value.is_null() {
        return;
    }
    if status {
        check_root(root);
    }
    if root.flag("nullable") {
        root.errs.at("nullable").forbidden("nullable cannot be true at the root");
    }
    let before = root.errs.len();
    structural::check(root);
    if root.errs.len() == before {
        defaults::check(root);
    }
    let rules = root.errs.len() == before;
    let costs = Costs::default();
    let at = At {
        root: true,
        meta: false,
        defaults: true,
        rules,
        embedded: false,
        correlatable: true,
        count: Some(1),
        costs: &costs,
    };
    walk(root, at);
    costs.check(&root.errs);
}

fn check_root(root: &Field<'_>) {
    let type_ = root.at("type");
    if !matches!(type_.as_text(), "" | "object") {
        type_.invalid(
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        );
        return;
    }
    let said = |v: &Value| !(v.is_null() || *v == false || *v == "");
    let members = root.value.as_object().into_iter().flatten();
    if members.into_iter().any(|(k, v)| said(v) && !AT_ROOT.contains(&k.as_str())) {
        root.invalid(format!(
            "only {} are allowed at the root of the schema if the status subresource is enabled",
            AT_ROOT.join(", ")
        ));
    }
}

fn walk(s: &Field<'_>, at: At<'_>) {
    if !s.value.is_object() {
        return;
    }
    let before = s.errs.len();
    supported(s, at);
    let atomic = s.text("x-kubernetes-map-type") == "atomic";
    let below = At { root: false, correlatable: at.correlatable && !atomic, ..at };
    let more = s.at("additionalProperties");
    if !more.value.is_null()
        && *more.value != true
        && !s.at("properties").value.as_object().is_none_or(|p| p.is_empty())
    {
        more.errs.forbidden("additionalProperties and properties are mutual exclusive");
    }
    let many = estimate::below(s.value, at.count);
    walk(&more, At { defaults: at.defaults && !at.meta, count: many, ..below });
    let embedded = s.flag("x-kubernetes-embedded-resource");
    for (name, property) in s.entries("properties") {
        let is_meta = (at.root || embedded) && META.contains(&name);
        let defaults = at.defaults && !(is_meta && at.root);
        walk(&property, At { meta: at.meta || is_meta, defaults, ..below });
    }
    walk(&s.at("not"), below);
    for junctor in ["allOf", "oneOf", "anyOf"] {
        s.items(junctor).for_each(|part| walk(&part, below));
    }
    let keyed = s.text("x-kubernetes-list-type") == "map";
    walk(&s.at("items"), At { correlatable: below.correlatable && keyed, count: many, ..below });
    extensions(s);
    s.items("x-kubernetes-validations").for_each(|rule| check_rule(&rule, s.value));
    if at.rules && s.errs.len() == before {
        s.items("x-kubernetes-validations").for_each(|rule| compile(&rule, s.value, At { embedded, ..at }));
    }
}

/// The expressions of a rule, which may name the fields that the schema has.
fn compile(rule: &Field<'_>, schema: &Value, at: At<'_>) {
    match rules::compile(rule.value, schema, at.root || at.embedded) {
        Some(Err(defects)) => defects.iter().for_each(|d| rule.at(d.member).invalid(&d.why)),
        Some(Ok(Rule { transition: true, .. })) if !at.correlatable => {
            rule.at("rule").invalid("oldSelf cannot be used on the uncorrelatable portion of the schema");
        }
        Some(Ok(compiled)) => {
            if !compiled.transition && rule.has("optionalOldSelf") {
                rule.at("optionalOldSelf").invalid("may not be set if oldSelf is not used in rule");
            }
            let count = at.count.unwrap_or_else(|| estimate::fit(schema));
            at.costs.add(&rule.errs.at("rule"), "rule", compiled.cost.saturating_mul(count));
            let message = compiled.message_cost.saturating_mul(count);
            at.costs.add(&rule.errs.at("messageExpression"), "messageExpression", message);
        }
        None => {}
    }
}

fn supported(s: &Field<'_>, at: At<'_>) {
    let type_ = s.at("type");
    if !type_.as_text().is_empty() && !TYPES.contains(&type_.as_text()) {
        type_.errs.not_supported(type_.as_text(), TYPES);
    }
    if type_.as_text() == "null" {
        type_.errs.forbidden("type cannot be set to null, use nullable as an alternative");
    }
    if s.has("default") && !at.defaults {
        s.errs.at("default").forbidden("must not be set");
    }
    if !s.text("id").is_empty() {
        s.errs.at("id").forbidden("id is not supported");
    }
    if s.has("$ref") {
        s.errs.at("$ref").forbidden("$ref is not supported");
    }
    for name in UNSUPPORTED.iter().filter(|n| s.at(n).value.as_object().is_some_and(|o| !o.is_empty())) {
        s.errs.at(name).forbidden(format!("{name} is not supported"));
    }
    for name in NEVER.iter().filter(|n| !s.at(n).value.is_null()) {
        s.errs.at(name).forbidden(format!("{name} is not supported"));
    }
    if s.at("items").value.is_array() {
        s.errs.at("items").forbidden("items must be a schema object and not an array");
    }
    if at.meta && s.flag("x-kubernetes-embedded-resource") {
        s.errs.at("x-kubernetes-embedded-resource").forbidden("must not be used inside of resource meta");
    }
    if s.flag("uniqueItems") {
        s.errs
            .at("uniqueItems")
            .forbidden("uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
}

/// A member text; none when it is absent, which is not the same as empty.
fn given<'a>(s: &Field<'a>, member: &str) -> Option<&'a str> {
    s.value.get(member).and_then(Value::as_str)
}

fn type_must_be(s: &Field<'_>, needed: &str, why: &str) -> bool {
    let type_ = s.at("type");
    match type_.as_text() {
        "" => type_.errs.required(format!("must be {needed} if {why} is specified")),
        text if text != needed => type_.invalid(format!("must be {needed} if {why} is specified")),
        _ => return true,
    }
    false
}

fn extensions(s: &Field<'_>) {
    const KEEP: &str = "x-kubernetes-preserve-unknown-fields";
    const MAP: &str = "x-kubernetes-map-type";
    const LIST: &str = "x-kubernetes-list-type";
    if s.value.bool_at(&format!("/{KEEP}")) == Some(false) {
        s.at(KEEP).invalid("must be true or undefined");
    }
    if given(s, MAP).is_some() {
        type_must_be(s, "object", MAP);
        s.one_of(MAP, MAP_TYPES);
    }
    let list = given(s, LIST);
    if list.is_some() {
        if type_must_be(s, "array", LIST) && list == Some("set") {
            set_items(&s.at("items"));
        }
        s.one_of(LIST, LIST_TYPES);
    }
    if s.count("x-kubernetes-list-map-keys") > 0 && list != Some("map") {
        let place = s.at(LIST);
        match list {
            None => place.errs.required("must be map if x-kubernetes-list-map-keys is non-empty"),
            Some(_) => place.invalid("must be map if x-kubernetes-list-map-keys is non-empty"),
        }
    }
    if list == Some("map") {
        map_list(s);
    }
    let items = s.at("items");
    if matches!(list, Some("set" | "map")) && items.flag("nullable") {
        items.errs.at("nullable").forbidden("cannot be nullable in a list of type set or map");
    }
}

/// The elements of a set are compared as a whole.
fn set_items(items: &Field<'_>) {
    const WHY: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    match items.text("type") {
        "array" if given(items, "x-kubernetes-list-type").is_some_and(|t| t != "atomic") => {
            items.at("x-kubernetes-list-type").invalid(WHY);
        }
        "object" if given(items, "x-kubernetes-map-type") != Some("atomic") => {
            items.at("x-kubernetes-map-type").invalid(WHY);
        }
        _ => {}
    }
}

fn map_list(s: &Field<'_>) {
    let keys = s.at("x-kubernetes-list-map-keys");
    let items = s.at("items");
    if s.count("x-kubernetes-list-map-keys") == 0 {
        keys.errs.required("must not be empty if x-kubernetes-list-type is map");
    }
    if items.value.is_null() {
        items.errs.required("must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if items.text("type") != "object" {
        items.at("type").invalid("must be object if parent array's x-kubernetes-list-type is map");
    }
    let mut seen = Vec::new();
    for key in s.items("x-kubernetes-list-map-keys") {
        let name = key.as_text();
        let property = Field {
            value: items.at("properties").value.get(name).unwrap_or(&Value::Null),
            errs: items.errs.at("properties").key(name),
        };
        if items.text("type") == "object" {
            if property.value.is_null() {
                keys.invalid("entries must all be names of item properties");
            } else if matches!(property.text("type"), "array" | "object") {
                property.at("type").invalid("must be a scalar type if parent array's x-kubernetes-list-type is map");
            }
            if seen.contains(&name) {
                keys.invalid("must not contain duplicate entries");
            }
        }
        seen.push(name);
        if property.value.is_null() {
            continue;
        }
        if !property.has("default") && !items.items("required").any(|r| r.as_text() == name) {
            property.errs.at("default").required("a key of a list must have a default or be required");
        }
        if property.flag("nullable") {
            property.errs.at("nullable").forbidden("a key of a list cannot be nullable");
        }
    }
}

fn has_line_break(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

fn check_rule(rule: &Field<'_>, schema: &Value) {
    let message = rule.at("message");
    let (said, text) = (rule.text("rule").trim(), message.as_text().trim());
    if said.is_empty() {
        rule.errs.at("rule").required("rule is not specified");
    } else if !message.as_text().is_empty() && text.is_empty() {
        message.invalid("message must be non-empty if specified");
    } else if has_line_break(text) {
        message.invalid("message must not contain line breaks");
    } else if has_line_break(said) && text.is_empty() {
        message.errs.required("message must be specified if rule contains line breaks");
    }
    let expression = rule.text("messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        rule.errs.at("messageExpression").required("messageExpression must be non-empty if specified");
    }
    rule.optional_one_of("reason", REASONS);
    let place = rule.at("fieldPath");
    let field = place.as_text();
    if field.is_empty() {
        return;
    }
    if field.trim().is_empty() {
        place.invalid("fieldPath must be non-empty if specified");
    }
    if has_line_break(field) {
        place.invalid("fieldPath must not contain line breaks");
    }
    if path::resolve(field, schema).is_none() {
        place.invalid("fieldPath must be a valid path");
    }
}
