//! Conditions in the form that many kinds of statuses share.
//!
//! Rules: upstream `apimachinery/pkg/apis/meta/v1/validation` (`ValidateConditions`).

use crate::api::meta::names;

use super::Field;

/// Longest reason, bytes.
const REASON_MAX: usize = 1024;
/// Longest message, bytes.
const MESSAGE_MAX: usize = 32 * 1024;

/// `conditions` of a status.
pub fn conditions(status: &Field<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in status.items("conditions") {
        let kind = condition.text("type");
        if seen.contains(&kind) {
            condition.errs.at("type").duplicate(kind);
        }
        seen.push(kind);
        one(&condition);
    }
}

fn one(condition: &Field<'_>) {
    let kind = condition.text("type");
    condition.errs.at("type").all_invalid(kind, names::qualified_name(kind));
    condition.one_of("status", &["False", "True", "Unknown"]);
    condition.not_negative("observedGeneration");
    condition.needs("lastTransitionTime");
    let reason = condition.text("reason");
    if condition.needs("reason") {
        if !is_reason(reason) {
            condition.at("reason").invalid(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            );
        }
        if reason.len() > REASON_MAX {
            condition.errs.at("reason").too_long(REASON_MAX);
        }
    }
    if condition.text("message").len() > MESSAGE_MAX {
        condition.errs.at("message").too_long(MESSAGE_MAX);
    }
}

fn is_reason(text: &str) -> bool {
    let b = text.as_bytes();
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    b.first().is_some_and(u8::is_ascii_alphabetic)
        && b.last().is_some_and(|c| word(*c))
        && b.iter().all(|c| word(*c) || matches!(c, b',' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::{Value, json};
    use test_case::test_case;

    #[test_case(json!([{"type": "Ready", "status": "True", "reason": "All_good", "lastTransitionTime": "2024-01-01T00:00:00Z"}]), &[]; "valid")]
    #[test_case(json!([{}]), &["type", "type", "status", "lastTransitionTime", "reason"]; "empty")]
    #[test_case(json!([{"type": "a", "status": "Yes", "reason": "1x", "lastTransitionTime": "t", "observedGeneration": -1}]),
        &["status", "observedGeneration", "reason"]; "wrong values")]
    fn told(list: Value, want: &[&str]) {
        let (status, errs) = (json!({ "conditions": list }), FieldErrors::new());
        conditions(&Field::root(&status, &errs));
        let want: Vec<String> = want.iter().map(|f| format!("conditions[0].{f}")).collect();
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), want);
    }

    #[test]
    fn each_kind_once() {
        let one = json!({"type": "A", "status": "True", "reason": "R", "lastTransitionTime": "t"});
        let (status, errs) = (json!({"conditions": [one, one]}), FieldErrors::new());
        conditions(&Field::root(&status, &errs));
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), ["conditions[1].type"]);
    }
}
