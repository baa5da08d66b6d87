//! Devices as expressions see them: the variable `device` of selectors.
//!
//! Rules: upstream `dynamic-resource-allocation/cel/compile.go`. Attributes and capacities stand below their domains; what
//! has none is of the driver's. A domain that a device does not know is an empty map, not an error.

use std::collections::BTreeMap;

use serde_json::{Map as Json, Value};

use super::lib_semver;
use super::{CompileError, Env, Program, Type, Val};
use crate::api::meta::quantity::Quantity;

/// The variable's name.
pub const VARIABLE: &str = "device";

/// What selectors may name.
pub fn env() -> Env {
    let by_domain = |of: Type| Type::map(Type::String, Type::map(Type::String, of));
    let fields = [
        ("driver", Type::String),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    Env::new().with(VARIABLE, Type::object("kubernetes.DRADevice", fields))
}

/// A selector: an expression about a device that is true or false.
pub fn selector(text: &str) -> Result<Program, CompileError> {
    let program = Program::compile(&env(), text)?;
    match program.result {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(CompileError(format!("must evaluate to bool or the unknown type, not {other}"))),
    }
}

/// The value of a device of a driver, from what its slice says of it.
pub fn value(driver: &str, device: &Value) -> Val {
    let members = |name: &str| device.get(name).and_then(Value::as_object);
    Val::map([
        ("driver", Val::from(driver)),
        ("attributes", by_domain(driver, members("attributes"), attribute)),
        ("capacity", by_domain(driver, members("capacity"), capacity)),
        (
            "allowMultipleAllocations",
            Val::Bool(device.get("allowMultipleAllocations").and_then(Value::as_bool).unwrap_or(false)),
        ),
    ])
}

fn by_domain(driver: &str, all: Option<&Json<String, Value>>, read: fn(&Value) -> Val) -> Val {
    let mut domains: BTreeMap<&str, Vec<(&str, Val)>> = BTreeMap::new();
    for (name, value) in all.into_iter().flatten() {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        domains.entry(domain).or_default().push((name, read(value)));
    }
    let none = Val::map::<&str>([]);
    Val::map_with_default(domains.into_iter().map(|(domain, all)| (domain, Val::map(all))), none)
}

fn attribute(of: &Value) -> Val {
    let unknown = || Val::Bad("unsupported attribute value".into());
    let Some((kind, value)) = of.as_object().and_then(|o| o.iter().next()) else { return unknown() };
    match (kind.as_str(), value) {
        ("bool" | "int" | "string", value) => Val::from_json(value),
        ("version", Value::String(text)) => match lib_semver::exact(text) {
            Some(version) => version,
            None => Val::Bad("parse semantic version".into()),
        },
        _ => unknown(),
    }
}

fn capacity(of: &Value) -> Val {
    let parsed = of.get("value").and_then(Value::as_str).and_then(|text| Quantity::parse(text).ok());
    parsed.map_or_else(|| Val::Bad("no quantity".into()), Val::Quantity)
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, Named};
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("device.driver == 'd.test'", Ok(true))]
    #[test_case("device.attributes['d.test'].model == 'a'", Ok(true); "a name without a domain is the driver's")]
    #[test_case("device.attributes['x.test'].slots >= 4", Ok(true); "a name with a domain")]
    #[test_case("device.attributes['d.test'].slots >= 4", Err(()); "not in this domain")]
    #[test_case("'slots' in device.attributes['nobody.test']", Ok(false); "a domain that is not there is empty")]
    #[test_case("'nobody.test' in device.attributes", Ok(false); "and not there")]
    #[test_case("device.attributes['nobody.test'].slots > 1", Err(()); "and has nothing in it")]
    #[test_case("device.capacity['d.test'].memory.compareTo(quantity('80Gi')) == 0", Ok(true))]
    #[test_case("device.attributes['d.test'].version.isGreaterThan(semver('1.2.0'))", Ok(true))]
    #[test_case("device.attributes['d.test'].healthy && !device.allowMultipleAllocations", Ok(true))]
    #[test_case("cel.bind(g, device.attributes['d.test'], g.model == 'b')", Ok(false))]
    fn selectors_ask_of_devices(text: &str, want: Result<bool, ()>) {
        let device = json!({"name": "d0", "attributes": {"model": {"string": "a"}, "x.test/slots": {"int": 4},
            "version": {"version": "1.10.0"}, "healthy": {"bool": true}}, "capacity": {"memory": {"value": "80Gi"}}});
        let vars = [(VARIABLE, value("d.test", &device))];
        let got = selector(text).expect(text).eval(&Named(&vars), &mut Budget::new(1_000_000));
        assert_eq!(got.map(|v| matches!(v, Val::Bool(true))).map_err(drop), want);
    }

    #[test]
    fn selectors_are_about_devices_and_say_yes_or_no() {
        assert!(selector("device.driver").is_err() && selector("node.name == ''").is_err());
    }
}
