//! A value against a schema: types, formats, limits, enumerations, required fields, junctors.
//!
//! In: a value, its schema and, of an update, the value it was. Out: what is wrong, with upstream's paths and reasons.
//!
//! Rules: upstream `kube-openapi/pkg/validation/validate` and `apiextensions-apiserver/pkg/apiserver/validation`, with its
//! ratcheting: what was wrong before and did not change is let alone.
//!
//! **Invariant:** what a junctor finds is told at the object's root, as upstream tells it.

use serde_json::{Map, Value};

use super::{Patterns, format, lists};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::validate::Field;

/// Checks a value. `old` is what it was.
pub fn check(value: &Field<'_>, schema: &Value, old: Option<&Value>, patterns: &Patterns) {
    Validator { patterns, root: FieldErrors::root_of(&value.errs) }.node(value, schema, old);
}

struct Validator<'p> {
    patterns: &'p Patterns,
    /// Where junctors are told of.
    root: FieldErrors,
}

/// A limit of the schema as a count.
fn limit(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}

/// What upstream calls the type of a value.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that is wanted and not there.
fn misfit(value: &Value, schema: &Value) -> Option<String> {
    let either = schema.bool_at("/x-kubernetes-int-or-string") == Some(true);
    let wanted = if either { "integer,string" } else { schema.str_at("/type").unwrap_or_default() };
    let has = |name: &str| wanted.split(',').any(|w| w == name);
    let fits = match value {
        _ if wanted.is_empty() => true,
        Value::Null => schema.bool_at("/nullable") == Some(true),
        Value::Number(n) if n.is_f64() => {
            has("number") || has("integer") && !either && n.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        Value::Number(_) => has("integer") || has("number"),
        other => has(type_name(other)),
    };
    (!fits).then(|| wanted.to_owned())
}

fn is_same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

impl Validator<'_> {
    fn node(&self, v: &Field<'_>, schema: &Value, old: Option<&Value>) {
        if old == Some(v.value) {
            return;
        }
        if let Some(wanted) = misfit(v.value, schema) {
            let found = type_name(v.value);
            v.errs.type_invalid(found, format!("must be of type {wanted}: {found:?}"));
        }
        let allowed = schema.items_at("/enum");
        if !allowed.is_empty() && !allowed.iter().any(|a| is_same(a, v.value)) {
            let texts: Vec<String> =
                allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
            v.errs.not_supported(v.value.clone(), &texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
        match v.value {
            Value::Null => return,
            Value::String(text) => self.text(v, text, schema),
            Value::Number(n) => number(v, n.as_f64().unwrap_or_default(), schema),
            Value::Array(list) => self.list(v, list, schema, old),
            Value::Object(map) => self.map(v, map, schema, old),
            Value::Bool(_) => {}
        }
        self.junctors(v, schema, old);
    }

    fn text(&self, v: &Field<'_>, text: &str, schema: &Value) {
        let length = text.chars().count();
        if let Some(max) = limit(schema, "maxLength").filter(|max| length > *max) {
            v.errs.too_long(max);
        }
        if let Some(min) = limit(schema, "minLength").filter(|min| length < *min) {
            v.invalid(format!("should be at least {min} chars long"));
        }
        let pattern = schema.str_at("/pattern").unwrap_or_default();
        if !pattern.is_empty() && !self.matches(pattern, text) {
            v.invalid(format!("should match '{pattern}'"));
        }
        let name = schema.str_at("/format").unwrap_or_default();
        if schema.str_at("/type") == Some("string") && !format::is_valid(name, text) {
            v.errs.type_invalid(text, format!("must be of type {name}: {text:?}"));
        }
    }

    /// A pattern that does not compile matches everything: it was refused when the definition came, or is from before.
    fn matches(&self, pattern: &str, text: &str) -> bool {
        match self.patterns.get(pattern) {
            Some(compiled) => compiled.is_match(text),
            None => regex::Regex::new(pattern).map_or(true, |r| r.is_match(text)),
        }
    }

    fn list(&self, v: &Field<'_>, list: &[Value], schema: &Value, old: Option<&Value>) {
        if let Some(max) = limit(schema, "maxItems").filter(|max| list.len() > *max) {
            v.errs.too_many(list.len(), max);
        }
        if let Some(min) = limit(schema, "minItems").filter(|min| list.len() < *min) {
            v.invalid(format!("should have at least {min} items"));
        }
        let Some(items) = schema.get("items").filter(|i| i.is_object()) else { return };
        for (i, value) in list.iter().enumerate() {
            let before = old.and_then(|o| lists::counterpart(value, o, schema));
            self.node(&Field { value, errs: v.errs.index(i) }, items, before);
        }
    }

    fn map(&self, v: &Field<'_>, map: &Map<String, Value>, schema: &Value, old: Option<&Value>) {
        if let Some(max) = limit(schema, "maxProperties").filter(|max| map.len() > *max) {
            v.errs.too_many(map.len(), max);
        }
        if let Some(min) = limit(schema, "minProperties").filter(|min| map.len() < *min) {
            v.invalid(format!("should have at least {min} properties"));
        }
        for name in schema.items_at("/required").iter().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                v.errs.at(name).required("");
            }
        }
        for (name, value) in map {
            let named = schema.get("properties").and_then(|p| p.get(name));
            if let Some(below) = named.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object())) {
                self.node(&Field { value, errs: v.errs.at(name) }, below, old.and_then(|o| o.get(name)));
            }
        }
    }

    /// What a part of a junctor finds, apart from the rest.
    fn apart(&self, v: &Field<'_>, schema: &Value, old: Option<&Value>) -> FieldErrors {
        let errs = v.errs.apart();
        let part = Validator { patterns: self.patterns, root: FieldErrors::root_of(&errs) };
        part.node(&Field { value: v.value, errs: errs.clone() }, schema, old);
        errs
    }

    fn junctors(&self, v: &Field<'_>, schema: &Value, old: Option<&Value>) {
        let path = v.errs.path();
        let all = schema.items_at("/allOf");
        let valid = all.iter().filter(|part| {
            let found = self.apart(v, part, old);
            let fits = found.is_empty();
            v.errs.adopt(&found);
            fits
        });
        if valid.count() < all.len() {
            self.root.invalid("", format!("{path:?} must validate all the schemas (allOf)"));
        }
        for (name, one) in [("anyOf", false), ("oneOf", true)] {
            let parts = schema.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if parts.is_empty() {
                continue;
            }
            let found: Vec<FieldErrors> = parts.iter().map(|part| self.apart(v, part, old)).collect();
            let fit = found.iter().filter(|f| f.is_empty()).count();
            match (fit, one) {
                (0, false) => self.root.invalid("", format!("{path:?} must validate at least one schema (anyOf)")),
                (0, true) => self
                    .root
                    .invalid("", format!("{path:?} must validate one and only one schema (oneOf). Found none valid")),
                (2.., true) => self.root.invalid(
                    "",
                    format!("{path:?} must validate one and only one schema (oneOf). Found {fit} valid alternatives"),
                ),
                _ => {}
            }
            // What is wrong with the first of those that come closest says what to do.
            if fit == 0
                && let Some(closest) = found.iter().min_by_key(|f| f.len())
            {
                v.errs.adopt(closest);
            }
        }
        if let Some(not) = schema.get("not").filter(|n| n.is_object())
            && self.apart(v, not, old).is_empty()
        {
            self.root.invalid("", format!("{path:?} must not validate the schema (not)"));
        }
    }
}

fn number(v: &Field<'_>, n: f64, schema: &Value) {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let strict = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
    if let Some(max) = number("maximum").filter(|max| n > *max || (strict("exclusiveMaximum") && n >= *max)) {
        v.invalid(format!("should be less than {max}"));
    }
    if let Some(min) = number("minimum").filter(|min| n < *min || (strict("exclusiveMinimum") && n <= *min)) {
        v.invalid(format!("should be greater than {min}"));
    }
    if let Some(step) = number("multipleOf").filter(|step| *step > 0.0 && !is_multiple(n, *step)) {
        v.invalid(format!("should be a multiple of {step}"));
    }
}

/// As far as doubles can tell: 0.3 is a multiple of 0.1.
fn is_multiple(n: f64, step: f64) -> bool {
    let ratio = n / step;
    (ratio - ratio.round()).abs() <= f64::EPSILON * ratio.abs().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn found(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let errs = FieldErrors::new();
        let schema = json!({"type": "object", "properties": {"f": schema}});
        let (value, old) = (json!({"f": value}), old.map(|o| json!({"f": o})));
        check(&Field::root(&value, &errs), &schema, old.as_ref(), &Patterns::new());
        errs.take().into_iter().map(|c| format!("{} {}", c.reason.trim_start_matches("FieldValue"), c.field)).collect()
    }

    #[test_case(json!({"type": "integer"}), json!("x"), &["TypeInvalid f"]; "type")]
    #[test_case(json!({"type": "integer"}), json!(2.0), &[]; "a whole number")]
    #[test_case(json!({"type": "integer"}), json!(2.5), &["TypeInvalid f"]; "a broken one")]
    #[test_case(json!({"type": "number"}), json!(2), &[]; "an integer is a number")]
    #[test_case(json!({"type": "string"}), json!(null), &["TypeInvalid f"]; "null")]
    #[test_case(json!({"type": "string", "nullable": true}), json!(null), &[]; "nullable")]
    #[test_case(json!({"x-kubernetes-int-or-string": true}), json!(1.5), &["TypeInvalid f"]; "int or string")]
    #[test_case(json!({"x-kubernetes-int-or-string": true}), json!("50%"), &[]; "string of both")]
    #[test_case(json!({"type": "string", "maxLength": 1}), json!("éa"), &["TooLong f"]; "too long")]
    #[test_case(json!({"type": "string", "minLength": 2}), json!("é"), &["Invalid f"]; "too short")]
    #[test_case(json!({"type": "string", "format": "ipv4"}), json!("x"), &["TypeInvalid f"]; "format")]
    #[test_case(json!({"type": "string", "pattern": "^a$"}), json!("b"), &["Invalid f"]; "pattern")]
    #[test_case(json!({"type": "number", "multipleOf": 0.1}), json!(0.3), &[]; "multiple")]
    #[test_case(json!({"type": "number", "multipleOf": 0.5}), json!(0.7), &["Invalid f"]; "no multiple")]
    #[test_case(json!({"type": "number", "minimum": 0, "exclusiveMinimum": true}), json!(0), &["Invalid f"]; "exclusive")]
    #[test_case(json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}), json!(["a", 1]), &["TooMany f", "TypeInvalid f[1]"]; "list")]
    #[test_case(json!({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}}), json!({"b": "x"}),
        &["Required f.a", "TypeInvalid f.b"]; "map")]
    #[test_case(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"a": 1, "b": 1}), &["Invalid <nil>"]; "one of")]
    #[test_case(json!({"anyOf": [{"required": ["a"]}, {"required": ["b", "c"]}]}), json!({}), &["Invalid <nil>", "Required f.a"]; "any of")]
    #[test_case(json!({"allOf": [{"required": ["a"]}]}), json!({}), &["Required f.a", "Invalid <nil>"]; "all of")]
    #[test_case(json!({"not": {"required": ["a"]}}), json!({"a": 1}), &["Invalid <nil>"]; "not")]
    fn finds(schema: Value, value: Value, want: &[&str]) {
        assert_eq!(found(schema, value, None), want);
    }

    #[test]
    fn what_was_wrong_and_stays_is_let_alone() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "l": {"type": "array",
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}}});
        let old = json!({"a": "x", "l": [{"k": "1", "v": "bad"}]});
        let new = json!({"a": "x", "l": [{"k": "2", "v": "bad"}, {"k": "1", "v": "bad"}]});
        assert_eq!(found(schema.clone(), new, Some(old.clone())), ["TypeInvalid f.l[0].v"]);
        assert_eq!(found(schema, json!({"a": "y"}), Some(old)), ["TypeInvalid f.a"]);
    }
}
