//! What a LimitRange refuses. Pure.
//!
//! Rules and words: upstream `plugin/pkg/admission/limitranger`.

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

use crate::api::usage::{self, Amounts, amounts};

/// What is held against one item of a LimitRange.
struct Subject {
    kind: &'static str,
    requests: Amounts,
    limits: Amounts,
}

/// Why a pod breaks a LimitRange.
pub fn of_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for item in range.items_at("/spec/limits") {
        match item.str_at("/type") {
            Some("Container") => {
                for container in ["/spec/containers", "/spec/initContainers"].iter().flat_map(|p| pod.items_at(p)) {
                    let of = |which: &str| amounts(&container["resources"][which]);
                    let subject = Subject { kind: "Container", requests: of("requests"), limits: of("limits") };
                    out.extend(subject.breaks(item));
                }
            }
            Some("Pod") => {
                // What it takes to run the pod is not its doing, and not counted.
                let of = |which: &str| usage::of_containers(pod, which);
                let subject = Subject { kind: "Pod", requests: of("requests"), limits: of("limits") };
                out.extend(subject.breaks(item));
            }
            _ => {}
        }
    }
    out
}

/// Why a claim breaks a LimitRange.
pub fn of_claim(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let mut out = Vec::new();
    let kind = "PersistentVolumeClaim";
    for item in range.items_at("/spec/limits").iter().filter(|i| i.str_at("/type") == Some(kind)) {
        for (bound, word) in [("min", "minimum"), ("max", "maximum")] {
            for (name, limit) in amounts(&item[bound]) {
                let rule = format!("{word} {name} usage per {kind} is {limit}");
                match requests.get(&name) {
                    None => out.push(format!("{rule}.  No request is specified")),
                    Some(r) if (bound == "min" && *r < limit) || (bound == "max" && *r > limit) => {
                        out.push(format!("{rule}, but request is {r}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    out
}

impl Subject {
    fn breaks(&self, item: &Value) -> Vec<String> {
        let min = amounts(&item["min"]).into_iter().filter_map(|(name, bound)| self.below(&name, bound));
        let max = amounts(&item["max"]).into_iter().filter_map(|(name, bound)| self.above(&name, bound));
        let ratio =
            amounts(&item["maxLimitRequestRatio"]).into_iter().filter_map(|(name, most)| self.ratio(&name, most));
        min.chain(max).chain(ratio).collect()
    }

    fn below(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("minimum {name} usage per {} is {bound}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{rule}.  No request is specified")),
            (Some(r), _) if *r < bound => Some(format!("{rule}, but request is {r}")),
            (_, Some(l)) if *l < bound => Some(format!("{rule}, but limit is {l}")),
            _ => None,
        }
    }

    fn above(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("maximum {name} usage per {} is {bound}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{rule}.  No limit is specified")),
            (_, Some(l)) if *l > bound => Some(format!("{rule}, but limit is {l}")),
            (Some(r), _) if *r > bound => Some(format!("{rule}, but request is {r}")),
            _ => None,
        }
    }

    fn ratio(&self, name: &str, most: Quantity) -> Option<String> {
        let rule = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let nanos = |of: &Amounts| of.get(name).map_or(0, Quantity::nanos);
        let (request, limit) = (nanos(&self.requests), nanos(&self.limits));
        if request == 0 {
            return Some(format!("{rule}, but no request is specified or request is 0"));
        }
        if limit == 0 {
            return Some(format!("{rule}, but no limit is specified or limit is 0"));
        }
        let (ratio, allowed) = (limit as f64 / request as f64, most.nanos() as f64 / 1e9);
        (ratio > allowed).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}), json!({"max": {"cpu": "1"}}), "maximum cpu usage per Container is 1, but limit is 2"; "max")]
    #[test_case(json!({"requests": {"cpu": "1m"}}), json!({"min": {"cpu": "50m"}}), "minimum cpu usage per Container is 50m, but request is 1m"; "min")]
    #[test_case(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}), json!({"maxLimitRequestRatio": {"cpu": "2"}}), "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"; "ratio")]
    #[test_case(json!({}), json!({"max": {"cpu": "1"}}), "maximum cpu usage per Container is 1.  No limit is specified"; "none")]
    fn containers(resources: Value, mut item: Value, want: &str) {
        item["type"] = "Container".into();
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        assert_eq!(of_pod(&pod, &json!({"spec": {"limits": [item]}})), [want]);
    }

    #[test]
    fn the_overhead_of_a_pod_does_not_count() {
        let pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}],
            "overhead": {"cpu": "500m"}}});
        let range = |max: &str| json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": max}}]}});
        assert_eq!(of_pod(&pod, &range("1")), [] as [&str; 0]);
        assert_eq!(of_pod(&pod, &range("900m")), ["maximum cpu usage per Pod is 900m, but limit is 1"]);
    }
}
