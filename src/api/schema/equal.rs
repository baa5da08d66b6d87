//! Whether two values mean the same: amounts that are written in different units are equal.
//!
//! In: canonical values of one type. Upstream: `apiequality.Semantic`, by which generations move and immutable fields are
//! compared. What else upstream's semantic equality knows (empty and absent lists, times in other zones) canonical form has
//! settled already.

use serde_json::{Map, Value};

use super::{StructDef, Type, table};
use crate::api::meta::quantity::Quantity;

/// True when two objects, or two values of another struct, mean the same.
pub fn equal(def: &StructDef, a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Object(a), Value::Object(b)) if members_equal(def, a, b))
}

/// True when a member of two values of a struct means the same, absent ones included.
pub fn equal_member(def: &StructDef, name: &str, a: Option<&Value>, b: Option<&Value>) -> bool {
    let present = |v: Option<&Value>| v.is_some_and(|v| !v.is_null());
    match (a, b) {
        (Some(a), Some(b)) => a == b || def.field(name).is_some_and(|f| same(&f.ty, a, b)),
        _ => !present(a) && !present(b),
    }
}

/// The same by the struct's name, as `core.v1.PodTemplateSpec`. What has another type is compared as JSON.
pub fn equal_as(name: &str, a: &Value, b: &Value) -> bool {
    a == b || table().by_name(name).is_some_and(|def| equal(def, a, b))
}

fn members_equal(def: &StructDef, a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let member = |(name, value): (&String, &Value)| equal_member(def, name, Some(value), b.get(name));
    a.len() == b.len() && a.iter().all(member)
}

fn same(ty: &Type, a: &Value, b: &Value) -> bool {
    if a == b {
        return true;
    }
    match (ty, a, b) {
        (Type::Quantity, Value::String(a), Value::String(b)) => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        },
        (Type::Struct(def), Value::Object(a), Value::Object(b)) => members_equal(def, a, b),
        (Type::List(element), Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(element, a, b))
        }
        (Type::Map(element), Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(element, a, b)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn pod(memory: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"limits": {"memory": memory}}}]})
    }

    #[test_case("64Mi", "67108864", true; "another unit")]
    #[test_case("64Mi", "64M", false; "another amount")]
    #[test_case("1", "1000m", true; "thousandths")]
    fn amounts(a: &str, b: &str, want: bool) {
        assert_eq!(equal_as("core.v1.PodSpec", &pod(a), &pod(b)), want);
    }

    #[test]
    fn all_else_is_compared_as_it_is() {
        let named = |name: &str| json!({"containers": [{"name": name}]});
        assert!(!equal_as("core.v1.PodSpec", &named("1"), &named("1000m")));
        assert!(!equal_as("core.v1.PodSpec", &pod("1"), &json!({"containers": []})));
        assert!(!equal_as("core.v1.PodSpec", &pod("1"), &json!({"containers": [], "hostname": "h"})));
        let def = table().by_name("core.v1.Pod").expect("the table has pods");
        assert!(equal_member(def, "spec", None, Some(&Value::Null)));
        assert!(!equal_member(def, "spec", None, Some(&json!({}))));
    }
}
