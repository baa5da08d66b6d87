//! The quality-of-service class of a pod, from its requests and limits.

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::registry::validate::resources::amount;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &Value) -> &'static str {
    let zero = Quantity::units(0);
    let positive = |of: &Value, kind: &str, name: &str| -> Option<Quantity> {
        let found = of.get("resources")?.get(kind)?.get(name).map(amount)?;
        (found > zero).then_some(found)
    };
    // Amounts of the pod as a whole count instead of its containers'.
    let whole = ["requests", "limits"].iter().any(|k| spec.get_at(&format!("/resources/{k}")).is_some());
    let parts: Vec<&Value> = if whole {
        vec![spec]
    } else {
        spec.items_at("/containers").iter().chain(spec.items_at("/initContainers")).collect()
    };
    let mut any = false;
    let mut guaranteed = true;
    for part in parts {
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(part, "requests", name), positive(part, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!([{"resources": {}}]), "BestEffort")]
    #[test_case(json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable")]
    #[test_case(json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}}]),
        "Guaranteed")]
    #[test_case(json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]), "Burstable"; "one without")]
    fn classes(containers: Value, want: &str) {
        assert_eq!(class(&json!({"containers": containers})), want);
    }
}
