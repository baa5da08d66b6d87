//! What webhooks and policies share: which requests they are for.
//!
//! Rules: upstream `pkg/apis/admissionregistration/validation`.

use crate::api::cel::{Env, Type};
use crate::api::meta::names;
use crate::registry::validate::Field;
use crate::registry::validate::cel;
use crate::registry::validate::labels::selector;

/// Conditions of one webhook or policy.
const CONDITIONS_MAX: usize = 64;
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Stands for everything.
const ALL: &str = "*";

/// One rule: operations, groups, versions, resources, scope.
pub fn rule(r: &Field<'_>) {
    for member in ["operations", "apiGroups", "apiVersions", "resources"] {
        let all: Vec<Field<'_>> = r.items(member).collect();
        if all.is_empty() {
            r.errs.at(member).required("");
        }
        if all.len() > 1 && member != "resources" && all.iter().any(|v| v.as_text() == ALL) {
            r.at(member).invalid("if '*' is present, must not specify other values");
        }
        for value in &all {
            match member {
                "operations" if !OPERATIONS.contains(&value.as_text()) => {
                    value.errs.not_supported(value.as_text(), OPERATIONS);
                }
                "apiVersions" | "resources" if value.as_text().is_empty() => value.errs.required(""),
                _ => {}
            }
        }
    }
    overlapping(r);
    r.optional_one_of("scope", &["*", "Cluster", "Namespaced"]);
}

/// Resources that an earlier entry of the same rule covers.
fn overlapping(r: &Field<'_>) {
    let all: Vec<&str> = r.items("resources").map(|v| v.as_text()).collect();
    for (i, value) in r.items("resources").enumerate() {
        let Some((resource, sub)) = value.as_text().split_once('/') else { continue };
        let earlier = |by: &str| all[..i].contains(&by);
        if earlier(&format!("{resource}/*")) || earlier(&format!("*/{sub}")) {
            value.invalid("is covered by an earlier resource of this rule");
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        r.at("resources").invalid("if '*/*' is present, must not specify other resources");
    }
    // Upstream looks at the last of the plain ones.
    let last_plain = all.iter().rfind(|v| !v.is_empty() && !v.contains('/'));
    if all.contains(&ALL) && last_plain.is_some_and(|v| *v != ALL) {
        let why = "if '*' is present, must not specify other resources without subresources";
        r.at("resources").invalid(why);
    }
}

/// A rule that may name objects.
pub fn named_rule(r: &Field<'_>) {
    rule(r);
    let mut seen = Vec::new();
    for name in r.items("resourceNames") {
        name.reasons(names::path_segment(name.as_text()));
        if seen.contains(&name.as_text()) {
            name.errs.duplicate(name.as_text());
        }
        seen.push(name.as_text());
    }
}

/// `matchConstraints` and `matchResources` of policies and bindings.
pub fn resources(m: &Field<'_>, rules_needed: bool) {
    match m.has("matchPolicy") {
        true => m.one_of("matchPolicy", &["Equivalent", "Exact"]),
        false => m.errs.at("matchPolicy").required(""),
    }
    for member in ["namespaceSelector", "objectSelector"] {
        match m.has(member) {
            true => selector(&m.at(member)),
            false => m.errs.at(member).required(""),
        }
    }
    if rules_needed && m.count("resourceRules") == 0 {
        m.errs.at("resourceRules").required("");
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        m.items(list).for_each(|r| named_rule(&r));
    }
}

/// `matchConditions`, whose expressions may name what `env` has.
pub fn conditions(o: &Field<'_>, env: &Env) {
    if o.count("matchConditions") > CONDITIONS_MAX {
        o.errs.at("matchConditions").too_many(o.count("matchConditions"), CONDITIONS_MAX);
    }
    let mut seen = Vec::new();
    for condition in o.items("matchConditions") {
        expression(&condition, env, &[Type::Bool]);
        let name = condition.text("name");
        if condition.needs("name") {
            condition.at("name").reasons(names::qualified_name(name));
            if seen.contains(&name) {
                condition.errs.at("name").duplicate(name);
            }
            seen.push(name);
        }
    }
}

/// A member `expression` that says something.
pub fn expression(o: &Field<'_>, env: &Env, wanted: &[Type]) {
    if o.text("expression").trim().is_empty() {
        o.errs.at("expression").required("expression is not specified");
    } else {
        cel::check(&o.at("expression"), env, wanted);
    }
}
