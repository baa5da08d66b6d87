//! Label selectors.

use serde_json::Value;

use crate::api::meta::{labels::Selector, names};

use super::Field;

/// A `metav1.LabelSelector`; an absent one is valid.
pub fn selector(field: &Field<'_>) {
    if field.value.is_null() {
        return;
    }
    labels(&field.at("matchLabels"));
    for requirement in field.items("matchExpressions") {
        expression(&requirement);
    }
}

fn expression(r: &Field<'_>) {
    let count = r.count("values");
    match r.text("operator") {
        "In" | "NotIn" if count == 0 => {
            r.errs.at("values").required("must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            r.errs.at("values").forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => r.errs.at("operator").invalid(other, "not a valid selector operator"),
    }
    r.at("key").errs.all_invalid(r.text("key"), names::qualified_name(r.text("key")));
    for value in r.items("values") {
        value.reasons(names::label_value(value.as_text()));
    }
}

/// A label map: errors of keys and of values stand at the map's own path.
pub fn labels(field: &Field<'_>) {
    for (key, value) in field.value.as_object().into_iter().flatten() {
        field.errs.all_invalid(key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        field.errs.all_invalid(value, names::label_value(value));
    }
}

/// True when a selector selects nothing in particular: no labels and no expressions.
pub fn is_empty(selector: &Value) -> bool {
    let none = |key: &str| match selector.get(key) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    none("matchLabels") && none("matchExpressions")
}

/// A workload's selector over its template's labels: present, not empty, and matching them. `kind` is for the message.
/// False for one that cannot be understood: upstream looks no further then.
pub fn of_workload(spec: &Field<'_>, kind: &str) -> bool {
    let field = spec.at("selector");
    let before = field.errs.len();
    if field.value.is_null() {
        field.errs.required("");
    } else {
        selector(&field);
        if field.errs.len() > before {
            field.invalid("invalid label selector");
            return false;
        }
        if is_empty(field.value) {
            field.invalid(format!("empty selector is invalid for {kind}"));
            return true;
        }
    }
    matches_template(spec, &field);
    true
}

/// A DaemonSet's: upstream asks less of it.
pub fn of_daemon_set(spec: &Field<'_>) {
    let field = spec.at("selector");
    let before = field.errs.len();
    selector(&field);
    if field.errs.len() == before {
        matches_template(spec, &field);
    }
    if !field.value.is_null() && is_empty(field.value) {
        field.invalid("empty selector is invalid for daemonset");
    }
}

/// An absent selector matches nothing, an empty one everything.
fn matches_template(spec: &Field<'_>, field: &Field<'_>) {
    let labels = spec.at("template").at("metadata").at("labels");
    let matches = !field.value.is_null()
        && Selector::from_label_selector(field.value).is_ok_and(|s| s.matches_value(Some(labels.value)));
    if !matches {
        labels.invalid("`selector` does not match template `labels`");
    }
}
