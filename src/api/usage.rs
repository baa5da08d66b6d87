//! What pods ask for in all: requests and limits, summed as the scheduler and quotas count them.
//!
//! Rules: upstream `k8s.io/component-helpers/resource`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Quantities by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a JSON map; what is no quantity was refused at validation and counts as nothing.
pub fn amounts(map: &Value) -> Amounts {
    let one = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), Quantity::parse(&text).ok()?))
    };
    map.as_object().into_iter().flatten().filter_map(one).collect()
}

/// Adds what is in `more`.
pub fn add(all: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = all.get(name).map_or(*amount, |a| a.plus(*amount));
        all.insert(name.clone(), sum);
    }
}

fn at_least(all: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let larger = all.get(name).map_or(*amount, |a| (*a).max(*amount));
        all.insert(name.clone(), larger);
    }
}

/// `which` is `requests` or `limits`. What the containers ask for, and what it takes to run them.
pub fn of_pod(pod: &Value, which: &str) -> Amounts {
    let mut total = of_containers(pod, which);
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        match total.get(&name) {
            Some(sum) => {
                let sum = sum.plus(amount);
                total.insert(name, sum);
            }
            None if which == "requests" => {
                total.insert(name, amount);
            }
            None => {}
        }
    }
    total
}

/// The same without the overhead. Containers and sidecars run together, other init containers one after another beside the
/// sidecars started before them.
pub fn of_containers(pod: &Value, which: &str) -> Amounts {
    let of = |c: &Value| amounts(&c["resources"][which]);
    let mut total = Amounts::new();
    for container in pod.items_at("/spec/containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for init in pod.items_at("/spec/initContainers") {
        let own = of(init);
        if init.str_at("/restartPolicy") == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            at_least(&mut peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &own);
            at_least(&mut peak, &now);
        }
    }
    at_least(&mut total, &peak);
    // What is asked for at the pod's level stands for all its containers.
    total.extend(amounts(&pod["spec"]["resources"][which]));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_by_their_peak() {
        let cpu = |n: &str| json!({"resources": {"requests": {"cpu": n}}});
        let mut sidecar = cpu("1");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {"containers": [cpu("2"), cpu("500m")], "initContainers": [sidecar, cpu("4")],
            "overhead": {"cpu": "100m"}}});
        assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), "5100m");
        let small = json!({"spec": {"containers": [cpu("2")], "initContainers": [cpu("1")]}});
        assert_eq!(of_pod(&small, "requests")["cpu"].to_string(), "2");
    }
}
