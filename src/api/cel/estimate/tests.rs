//! What expressions may cost, as upstream estimates it.

use test_case::test_case;

use super::super::rules::{Rule, compile};
use super::*;

fn of(rule: &str) -> u64 {
    let text = json!({"type": "string"});
    let node = json!({"type": "object", "properties": {
        "s": text, "short": {"type": "string", "maxLength": 10}, "i": {"type": "integer"},
        "l": {"type": "array", "items": text},
        "few": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}},
        "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}}}});
    let Rule { cost, .. } = compile(&json!({"rule": rule}), &node, true).unwrap().unwrap();
    cost
}

#[test_case("true", 0, 0; "nothing")]
#[test_case("self.i > 5", 3, 3; "a comparison")]
#[test_case("has(self.i)", 1, 1; "presence")]
#[test_case("self.short == 'abc'", 3, 3; "the shorter text counts")]
#[test_case("self.few.all(x, x == 'abc')", 50, 80; "a short list")]
#[test_case("self.m.all(k, k.startsWith('k'))", 20, 50; "a short map")]
#[test_case("self.l.all(x, x.size() > 1)", 1_000_000, 9_999_999; "a list that only requests bound")]
#[test_case("self.l.all(a, self.l.all(b, a == b))", 1_000_000_000, u64::MAX; "the same twice")]
#[test_case("self.s.matches('^[a-z]+$')", 600_000, 1_000_000; "a long text and a pattern")]
#[test_case("self.metadata.name.matches('^a')", 300_000, 400_000; "a name")]
#[test_case("self.?few.orValue([]).all(x, x.matches('^[a-z]+$'))", 100, 400; "a list or an empty one")]
#[test_case("self.l.map(x, x.size()).sum() < 10", 10_000_000, u64::MAX; "a list is made")]
fn costs(rule: &str, min: u64, max: u64) {
    let cost = of(rule);
    assert!((min..=max).contains(&cost), "{rule}: {cost}");
}

#[test]
fn how_many_values_there_may_be() {
    let list = |max: Json| json!({"type": "array", "maxItems": max, "items": {"type": "string"}});
    assert_eq!(below(&list(json!(10)), Some(3)), Some(30));
    assert_eq!(below(&list(Json::Null), Some(3)), None);
    let object = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}});
    assert_eq!((min_size(&object), fit(&object)), (12, REQUEST_MAX / 13));
}
