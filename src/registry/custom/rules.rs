//! What the rules of a schema (`x-kubernetes-validations`) say, as errors of fields.
//!
//! In: the new object and the old one, the rules compiled. Out: errors, at the paths of upstream's
//! `schema/cel/validation.go`. What the rules are evaluated on is [`api::cel::rules`](crate::api::cel::rules)'s business.

use serde_json::Value;

use crate::api::cel::rules::{RuleSet, Step, Violation, Why};
use crate::registry::apiextensions::path;
use crate::registry::errors::FieldErrors;

/// Tells what is wrong with an object.
pub fn check(rules: &RuleSet, new: &Value, old: Option<&Value>, schema: &Value, errs: &FieldErrors) {
    for violation in rules.check(new, old) {
        tell(&violation, schema, errs);
    }
}

fn tell(violation: &Violation, schema: &Value, errs: &FieldErrors) {
    let (mut at, mut schema) = (errs.clone(), schema);
    for step in &violation.path {
        (at, schema) = match step {
            Step::Field(name) => (at.at(name), &schema["properties"][name]),
            Step::Key(key) => (at.key(key), &schema["additionalProperties"]),
            Step::Index(i) => (at.index(*i), &schema["items"]),
        };
    }
    for name in path::steps(&violation.field_path).unwrap_or_default() {
        (at, schema) = match schema["properties"].get(&name) {
            Some(property) => (at.at(&name), property),
            None => (at.key(&name), &schema["additionalProperties"]),
        };
    }
    let message = &violation.message;
    match violation.why {
        Why::Forbidden => at.forbidden(message),
        Why::Required => at.required(message),
        Why::Duplicate => at.duplicate(violation.value.clone().unwrap_or_else(|| message.as_str().into())),
        Why::Invalid => at.invalid(violation.value.clone().unwrap_or(Value::Null), message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    #[test_case(json!({"map": {"k": "bad"}}), "map[k]", "FieldValueInvalid"; "an entry of a map")]
    #[test_case(json!({"list": [{"n": 1}, {"n": 9}]}), "list[1].n", "FieldValueForbidden"; "a field of an element")]
    #[test_case(json!({"map": {"b/c": "x"}}), "map[b/c]", "FieldValueRequired"; "the field path goes through a map")]
    fn paths_and_reasons(new: Value, path: &str, reason: &str) {
        let schema = json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "!has(self.map) || !('b/c' in self.map)", "fieldPath": ".map['b/c']",
                "reason": "FieldValueRequired"}],
            "properties": {
                "map": {"type": "object", "additionalProperties": {"type": "string",
                    "x-kubernetes-validations": [{"rule": "self != 'bad'"}]}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.n < 5", "fieldPath": ".n",
                        "reason": "FieldValueForbidden"}]}}}});
        let errs = FieldErrors::new();
        check(&RuleSet::new(&schema).unwrap(), &new, None, &schema, &errs);
        let found: Vec<_> = errs.take().into_iter().map(|c| (c.field, c.reason)).collect();
        assert_eq!(found, [(path.to_owned(), reason)]);
    }
}
