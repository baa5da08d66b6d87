//! Admission policies and their bindings. Expressions are looked at when they are used.
//!
//! Rules: upstream `pkg/apis/admissionregistration/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;
use crate::registry::validate::labels::{Values, selector};

use super::matching;

/// Why a validation may refuse.
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

/// Create and update of a ValidatingAdmissionPolicy.
pub fn validating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    common(&spec);
    if spec.count("validations") == 0 && spec.count("auditAnnotations") == 0 {
        for list in ["validations", "auditAnnotations"] {
            spec.errs.at(list).required("validations or auditAnnotations must contain at least one item");
        }
    }
    for validation in spec.items("validations") {
        matching::expression(&validation);
        if validation.has("messageExpression") && validation.text("messageExpression").trim().is_empty() {
            validation.at("messageExpression").invalid("must be non-empty if specified");
        }
        validation.optional_one_of("reason", REASONS);
    }
    let mut seen = Vec::new();
    for annotation in spec.items("auditAnnotations") {
        let key = annotation.text("key");
        if annotation.needs("key") {
            annotation.at("key").reasons(names::qualified_name(key));
        }
        if seen.contains(&key) {
            annotation.errs.at("key").duplicate(key);
        }
        seen.push(key);
        if annotation.text("valueExpression").trim().is_empty() {
            annotation.errs.at("valueExpression").required("valueExpression is not specified");
        }
    }
}

/// Create and update of a MutatingAdmissionPolicy.
pub fn mutating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    common(&spec);
    let rules = spec.at("matchConstraints");
    for rule in rules.items("resourceRules") {
        for operation in rule.items("operations") {
            if !matches!(operation.as_text(), "CREATE" | "UPDATE" | "CONNECT" | "*") {
                rules
                    .errs
                    .at("resourceRules")
                    .at("operations")
                    .not_supported(operation.as_text(), &["CREATE", "UPDATE"]);
            }
        }
    }
    spec.needs_one_of("reinvocationPolicy", &["IfNeeded", "Never"]);
    if spec.count("mutations") == 0 {
        spec.errs.at("mutations").required("mutations must contain at least one item");
    }
    for mutation in spec.items("mutations") {
        mutation.needs_one_of("patchType", &["ApplyConfiguration", "JSONPatch"]);
        let own = match mutation.text("patchType") {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            _ => continue,
        };
        if mutation.has(own) {
            matching::expression(&mutation.at(own));
        } else {
            mutation
                .errs
                .at(own)
                .required(format!("must be specified when patchType is {}", mutation.text("patchType")));
        }
        let other = if own == "jsonPatch" { "applyConfiguration" } else { "jsonPatch" };
        if mutation.has(other) {
            mutation
                .at(other)
                .invalid(format!("must not be specified when patchType is {}", mutation.text("patchType")));
        }
    }
}

fn common(spec: &Field<'_>) {
    if spec.has("failurePolicy") {
        spec.one_of("failurePolicy", &["Fail", "Ignore"]);
    } else {
        spec.errs.at("failurePolicy").required("");
    }
    if spec.has("paramKind") {
        param_kind(&spec.at("paramKind"));
    }
    let matching = spec.at("matchConstraints");
    if matching.value.is_null() {
        matching.errs.required("");
    } else {
        matching::resources(&matching, true);
    }
    matching::conditions(spec);
    let mut seen = Vec::new();
    for variable in spec.items("variables") {
        let name = variable.text("name");
        if variable.needs("name") && !is_identifier(name) {
            variable.at("name").invalid("must be a valid CEL identifier");
        }
        if seen.contains(&name) {
            variable.errs.at("name").duplicate(name);
        }
        seen.push(name);
        matching::expression(&variable);
    }
}

fn is_identifier(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn param_kind(kind: &Field<'_>) {
    if kind.needs("apiVersion") {
        let text = kind.text("apiVersion");
        let (group, version) = text.split_once('/').unwrap_or(("", text));
        let errs = kind.errs.at("apiVersion");
        if !group.is_empty() {
            errs.all_invalid(group, names::dns1123_subdomain(group));
        }
        errs.all_invalid(version, names::dns1035_label(version));
    }
    if kind.needs("kind") {
        kind.at("kind").reasons(names::dns1035_label(&kind.text("kind").to_lowercase()));
    }
}

/// Create and update of a ValidatingAdmissionPolicyBinding.
pub fn validating_binding(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    binding(&spec);
    let all: Vec<Field<'_>> = spec.items("validationActions").collect();
    if all.is_empty() {
        spec.errs.at("validationActions").required("at least one validation action is required");
    }
    let mut seen = Vec::new();
    for action in &all {
        let text = action.as_text();
        if !matches!(text, "Audit" | "Deny" | "Warn") {
            action.errs.not_supported(text, &["Audit", "Deny", "Warn"]);
        }
        if seen.contains(&text) {
            action.errs.duplicate(text);
        }
        seen.push(text);
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        spec.at("validationActions").invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
}

/// Create and update of a MutatingAdmissionPolicyBinding.
pub fn mutating_binding(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    binding(&o.at("spec"));
}

fn binding(spec: &Field<'_>) {
    if spec.needs("policyName") {
        spec.at("policyName").reasons(names::dns1123_subdomain(spec.text("policyName")));
    }
    if spec.has("matchResources") {
        matching::resources(&spec.at("matchResources"), false);
    }
    let param = spec.at("paramRef");
    if param.value.is_null() {
        return;
    }
    match (param.text("name"), param.has("selector")) {
        ("", false) => param.errs.required("one of name or selector must be specified"),
        ("", true) => selector(&param.at("selector"), Values::Checked),
        (_, true) => param.errs.at("name").forbidden("name and selector are mutually exclusive"),
        (name, false) => param.at("name").reasons(names::path_segment(name)),
    }
    if !param.text("namespace").is_empty() {
        param.at("namespace").reasons(names::dns1123_label(param.text("namespace")));
    }
    param.needs_one_of("parameterNotFoundAction", &["Allow", "Deny"]);
}
