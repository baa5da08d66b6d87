//! What webhooks and policies share: which requests they are for.
//!
//! Rules: upstream `pkg/apis/admissionregistration/validation`.

use crate::api::meta::names;
use crate::registry::validate::Field;
use crate::registry::validate::labels::{Values, selector};

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

/// Resources that another entry of the same rule covers.
fn overlapping(r: &Field<'_>) {
    let all: Vec<&str> = r.items("resources").map(|v| v.as_text()).collect();
    if all.len() > 1 && all.contains(&"*/*") {
        r.at("resources").invalid("if '*/*' is present, must not specify other resources");
        return;
    }
    for value in r.items("resources") {
        let (resource, sub) = value.as_text().split_once('/').unwrap_or((value.as_text(), ""));
        let covered = |by: &str| value.as_text() != by && all.contains(&by);
        if (!sub.is_empty() && (covered(&format!("{resource}/*")) || covered(&format!("*/{sub}"))))
            || (sub.is_empty() && covered(ALL))
        {
            value.invalid("is covered by another resource of this rule");
        }
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
    m.optional_one_of("matchPolicy", &["Equivalent", "Exact"]);
    for member in ["namespaceSelector", "objectSelector"] {
        selector(&m.at(member), Values::Checked);
    }
    if rules_needed && m.count("resourceRules") == 0 {
        m.errs.at("resourceRules").required("");
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        m.items(list).for_each(|r| named_rule(&r));
    }
}

/// `matchConditions`.
pub fn conditions(o: &Field<'_>) {
    if o.count("matchConditions") > CONDITIONS_MAX {
        o.errs.at("matchConditions").too_many(o.count("matchConditions"), CONDITIONS_MAX);
    }
    let mut seen = Vec::new();
    for condition in o.items("matchConditions") {
        expression(&condition);
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
pub fn expression(o: &Field<'_>) {
    if o.text("expression").trim().is_empty() {
        o.errs.at("expression").required("expression is not specified");
    }
}
