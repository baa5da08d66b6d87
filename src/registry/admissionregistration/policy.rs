//! Admission policies and their bindings.
//!
//! Rules: upstream `pkg/apis/admissionregistration/validation`.

use serde_json::Value;

use crate::api::cel::{Env, Program, Type};
use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::cel;
use crate::registry::validate::labels::selector;
use crate::registry::validate::{Field, conditions};

use super::{expressions, matching};

/// Why a validation may refuse.
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
/// Annotations of one policy.
const ANNOTATIONS_MAX: usize = 20;
/// Longest expression of an annotation, bytes.
const VALUE_EXPRESSION_MAX: usize = 5 * 1024;

/// Create and update of a ValidatingAdmissionPolicy.
pub fn validating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    common(&spec);
    let env = env(&spec);
    if spec.count("validations") == 0 && spec.count("auditAnnotations") == 0 {
        for list in ["validations", "auditAnnotations"] {
            spec.errs.at(list).required("validations or auditAnnotations must contain at least one item");
        }
    }
    for validation in spec.items("validations") {
        matching::expression(&validation, &env, &[Type::Bool]);
        message(&validation, &env);
        validation.optional_one_of("reason", REASONS);
    }
    if spec.count("auditAnnotations") > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        spec.at("auditAnnotations").invalid(why);
    }
    let mut seen = Vec::new();
    for annotation in spec.items("auditAnnotations") {
        audit_annotation(&annotation, o.at("metadata").text("name"), &env);
        let key = annotation.text("key");
        if seen.contains(&key) {
            annotation.errs.at("key").duplicate(key);
        }
        seen.push(key);
    }
}

/// What the expressions of a policy may name, all its variables among it.
fn env(spec: &Field<'_>) -> Env {
    spec.items("variables").fold(expressions::policy(spec.has("paramKind")), |env, v| with_variable(env, &v))
}

/// The same with a variable, of any type if it cannot be compiled.
fn with_variable(env: Env, variable: &Field<'_>) -> Env {
    let text = variable.text("expression");
    if text.trim().is_empty() {
        return env;
    }
    let type_ = Program::compile(&env, text).map_or(Type::Dyn, |p| p.result);
    expressions::with_variable(env, variable.text("name"), type_)
}

fn message(validation: &Field<'_>, env: &Env) {
    let blank = |name: &str| !validation.text(name).is_empty() && validation.text(name).trim().is_empty();
    for name in ["message", "messageExpression"] {
        if blank(name) {
            validation.at(name).invalid("must be non-empty if specified");
        }
    }
    if validation.text("message").trim().contains(['\n', '\r']) {
        validation.at("message").invalid("must not contain line breaks");
    }
    let expression = validation.at("messageExpression");
    if !expression.as_text().trim().is_empty() {
        // What a message says must not depend on what its reader may do.
        cel::check(&expression, &expressions::without_authorizer(env.clone()), &[Type::String]);
    }
}

/// The key in the audit log is the policy's name and the annotation's key.
fn audit_annotation(annotation: &Field<'_>, policy: &str, env: &Env) {
    let key = annotation.text("key");
    match policy {
        "" => annotation.errs.at("key").invalid(key, "requires metadata.name be non-empty"),
        _ => annotation.errs.at("key").all_invalid(key, names::qualified_name(&format!("{policy}/{key}"))),
    }
    let expression = annotation.text("valueExpression").trim();
    let at = annotation.errs.at("valueExpression");
    if expression.is_empty() {
        at.required("valueExpression is not specified");
    } else if expression.len() > VALUE_EXPRESSION_MAX {
        at.required(format!("must not exceed {VALUE_EXPRESSION_MAX} bytes in length"));
    } else {
        cel::check(&annotation.at("valueExpression"), env, &[Type::String, Type::Null]);
    }
}

/// A write to a ValidatingAdmissionPolicy's `status`.
pub fn validating_status(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let status = o.at("status");
    for warning in status.at("typeChecking").items("expressionWarnings") {
        for member in ["warning", "fieldRef"] {
            if warning.text(member).trim().is_empty() {
                warning.errs.at(member).required("");
            }
        }
    }
    conditions::conditions(&status);
}

/// Create and update of a MutatingAdmissionPolicy.
pub fn mutating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    common(&spec);
    let env = env(&spec).with_patches();
    let (object, patches) = (Type::object("Object", []), Type::list(Type::object("JSONPatch", [])));
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
        let (own, result) = match mutation.text("patchType") {
            "ApplyConfiguration" => ("applyConfiguration", object.clone()),
            "JSONPatch" => ("jsonPatch", patches.clone()),
            _ => continue,
        };
        if mutation.has(own) {
            matching::expression(&mutation.at(own), &env, &[result]);
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
    let mut env = expressions::policy(spec.has("paramKind"));
    matching::conditions(spec, &env);
    for variable in spec.items("variables") {
        let name = variable.text("name");
        if name.trim().is_empty() {
            variable.errs.at("name").required("name is not specified");
        } else if !cel::is_identifier(name) {
            variable.at("name").invalid("must be a valid CEL identifier");
        }
        matching::expression(&variable, &env, &[]);
        env = with_variable(env, &variable);
    }
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
    let (name, by_label) = (param.text("name"), param.has("selector"));
    param.at("name").reasons(names::path_segment(name));
    selector(&param.at("selector"));
    match (name.is_empty(), by_label) {
        (true, false) => param.errs.required("one of name or selector must be specified"),
        (false, true) => {
            for member in ["name", "selector"] {
                param.errs.at(member).forbidden("name and selector are mutually exclusive");
            }
        }
        _ => {}
    }
    param.needs_one_of("parameterNotFoundAction", &["Allow", "Deny"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    fn paths(errs: &FieldErrors) -> Vec<String> {
        errs.take().into_iter().map(|c| c.field).collect()
    }

    #[test_case(json!({"name": "a", "selector": {}}), &["name", "selector"]; "both ways")]
    #[test_case(json!({}), &["<nil>"]; "no way")]
    #[test_case(json!({"name": "a", "namespace": "A B"}), &[]; "a namespace is not looked at")]
    fn parameters(mut param: Value, want: &[&str]) {
        param["parameterNotFoundAction"] = "Deny".into();
        let (value, errs) = (json!({"policyName": "p", "paramRef": param}), FieldErrors::new());
        binding(&Field::root(&value, &errs));
        let want: Vec<String> =
            want.iter().map(|p| if *p == "<nil>" { "paramRef".into() } else { format!("paramRef.{p}") }).collect();
        assert_eq!(paths(&errs), want);
    }

    #[test]
    fn expressions_name_earlier_variables_and_declared_parameters() {
        let expression = |text: &str| json!({"name": "b", "expression": text});
        for (text, with_params, fine) in [
            ("variables.a", false, true),
            ("variables.b", false, false),
            ("params.x", false, false),
            ("params.x", true, true),
            ("request.userInfo", false, true),
            ("request.users", false, false),
        ] {
            let mut spec = json!({"failurePolicy": "Fail", "variables": [{"name": "a", "expression": "1"}, expression(text)],
                "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
                    "resources": ["pods"]}], "matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}}});
            if with_params {
                spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
            }
            let errs = FieldErrors::new();
            common(&Field::root(&spec, &errs));
            let want: &[&str] = if fine { &[] } else { &["variables[1].expression"] };
            assert_eq!(paths(&errs), want, "{text}");
        }
    }

    #[test]
    fn messages_are_one_line() {
        let (value, errs) = (json!({"message": "a\nb", "messageExpression": " "}), FieldErrors::new());
        let spec = json!({});
        let unused = FieldErrors::new();
        message(&Field::root(&value, &errs), &env(&Field::root(&spec, &unused)));
        assert_eq!(paths(&errs), ["messageExpression", "message"]);
    }

    #[test]
    fn keys_of_annotations_stand_behind_the_policys_name() {
        let (value, errs) = (json!({"key": "a/b", "valueExpression": "'x'"}), FieldErrors::new());
        let env = env(&Field::root(&value, &errs));
        audit_annotation(&Field::root(&value, &errs), "p.example.com", &env);
        audit_annotation(&Field::root(&value, &errs), "", &env);
        assert_eq!(paths(&errs), ["key", "key"]);
    }

    #[test_case(&["pods", "pods/*", "pods/log"], &["resources[2]"]; "covered by an earlier one")]
    #[test_case(&["pods/log", "pods/*"], &[]; "a later one does not count")]
    #[test_case(&["*", "pods"], &["resources"]; "all, and one of them")]
    #[test_case(&["*/*", "pods"], &["resources"]; "all of all, and more")]
    fn resources(all: &[&str], want: &[&str]) {
        let rule = json!({"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": all});
        let errs = FieldErrors::new();
        matching::rule(&Field::root(&rule, &errs));
        assert_eq!(paths(&errs), want);
    }
}
