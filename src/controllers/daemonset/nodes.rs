//! Where a DaemonSet's pods belong, and what makes them stay there. No IO.
//!
//! Rules: upstream `daemon_controller.go` (`NodeShouldRunDaemonPod`), `daemonset_util.go`.

use serde_json::{Value, json};

use crate::api::meta::labels::Requirement;
use crate::api::object::Object;
use crate::api::scan;
use crate::api::value::ValueExt;
use crate::controllers::common::taints::tolerates;

/// Taints of nodes that daemons live with: they are what repairs a node, or what it is watched by.
const TOLERATED: &[(&str, &str)] = &[
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
];

/// The template with what all daemons tolerate: for ever, whatever it says of the same taint itself.
/// Rule: upstream `AddOrUpdateTolerationInPodSpec`.
pub fn with_tolerations(template: &Value) -> Value {
    let mut template = template.clone();
    let mut all = template.items_at("/spec/tolerations").to_vec();
    let host = template.bool_at("/spec/hostNetwork") == Some(true);
    let network = host.then_some(("network-unavailable", "NoSchedule"));
    for (key, effect) in TOLERATED.iter().copied().chain(network) {
        let toleration = json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
        let same = |t: &Value| {
            let of = |t: &Value, field: &str| t[field].as_str().unwrap_or_default().to_owned();
            ["key", "effect", "operator", "value"].iter().all(|field| of(t, field) == of(&toleration, field))
        };
        let mut known = false;
        for told in all.iter_mut().filter(|t| same(t)) {
            *told = toleration.clone();
            known = true;
        }
        if !known {
            all.push(toleration);
        }
    }
    template["spec"]["tolerations"] = all.into();
    template
}

/// What of a node decides whether daemons belong there: its name, labels and spec. Its status is by far the most of it.
pub fn view(node: &Object) -> Value {
    let labels: serde_json::Map<String, Value> =
        node.meta.labels.iter().map(|(k, v)| (k.to_string(), (**v).into())).collect();
    let spec: Value = spec(node).and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    json!({"metadata": {"name": node.meta.name, "labels": labels}, "spec": spec})
}

/// True where a change of a node is none for daemons.
pub fn means_the_same(old: &Object, new: &Object) -> bool {
    old.meta.labels == new.meta.labels && spec(old) == spec(new)
}

fn spec(node: &Object) -> Option<&[u8]> {
    scan::member(&node.json, 0, "spec").map(|at| &node.json[at])
}

/// Whether a pod belongs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fit {
    /// One should be there.
    pub run: bool,
    /// One that is there may stay.
    pub stay: bool,
}

/// What a template (with all its tolerations) and a node make of each other.
pub fn fit(template: &Value, node: &Value) -> Fit {
    let name = node.str_at("/metadata/name");
    let pinned = template.str_at("/spec/nodeName").filter(|n| !n.is_empty());
    if pinned.is_some_and(|n| Some(n) != name) || !selects(template, node) {
        return Fit::default();
    }
    let tolerations = template.items_at("/spec/tolerations");
    let bars = |effects: &[&str]| {
        let mut taints = node.items_at("/spec/taints").iter();
        taints.any(|t| {
            t.str_at("/effect").is_some_and(|e| effects.contains(&e)) && !tolerations.iter().any(|x| tolerates(x, t))
        })
    };
    Fit { run: !bars(&["NoSchedule", "NoExecute"]), stay: !bars(&["NoExecute"]) }
}

/// `nodeSelector` and required node affinity.
fn selects(template: &Value, node: &Value) -> bool {
    let label = |key: &str| node.get_at("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| node.str_at("/metadata/name")).flatten();
    let plain = template.get_at("/spec/nodeSelector").and_then(Value::as_object);
    if plain.into_iter().flatten().any(|(key, value)| label(key) != value.as_str()) {
        return false;
    }
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let Some(required) = template.get_at(required) else { return true };
    let holds = |r: &Value, value: Option<&str>| {
        let text = |at: &str| r.str_at(at).unwrap_or_default();
        let values: Vec<String> = r.items_at("/values").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        Requirement::of_node(text("/key"), text("/operator"), &values).is_some_and(|r| r.matches(value))
    };
    let key = |r: &Value| r.str_at("/key").unwrap_or_default().to_owned();
    required.items_at("/nodeSelectorTerms").iter().any(|term| {
        let (labels, fields) = (term.items_at("/matchExpressions"), term.items_at("/matchFields"));
        // A term that asks for nothing means no node.
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|r| holds(r, label(&key(r))))
            && fields.iter().all(|r| holds(r, field(&key(r))))
    })
}

/// Lets the scheduler put a pod on `node` only. Whether it belongs there was decided already.
pub fn pin(pod: &mut Value, node: &str) {
    let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": terms});
}

/// The node of a pod: where it is, or where it is to go.
pub fn node_of(pod: &Value) -> Option<&str> {
    let at = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms\
              /0/matchFields/0/values/0";
    pod.str_at("/spec/nodeName").filter(|n| !n.is_empty()).or_else(|| pod.str_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const YES: Fit = Fit { run: true, stay: true };
    const NO: Fit = Fit { run: false, stay: false };
    const STAY: Fit = Fit { run: false, stay: true };

    #[test_case(json!({}), json!([]), YES; "plain")]
    #[test_case(json!({"nodeSelector": {"disk": "ssd"}}), json!([]), YES; "selected")]
    #[test_case(json!({"nodeSelector": {"disk": "hdd"}}), json!([]), NO; "not selected")]
    #[test_case(json!({"nodeName": "b"}), json!([]), NO; "pinned elsewhere")]
    #[test_case(json!({}), json!([{"key": "x", "effect": "NoSchedule"}]), STAY; "no new ones")]
    #[test_case(json!({}), json!([{"key": "x", "effect": "NoExecute"}]), NO; "all go")]
    #[test_case(json!({}), json!([{"key": "x", "effect": "PreferNoSchedule"}]), YES; "a wish")]
    #[test_case(json!({"tolerations": [{"operator": "Exists"}]}), json!([{"key": "x", "effect": "NoExecute"}]), YES; "tolerated")]
    #[test_case(json!({}), json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]), YES; "daemons live with that")]
    #[test_case(json!({}), json!([{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]), STAY; "no network")]
    #[test_case(json!({"hostNetwork": true}), json!([{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]),
        YES; "but the host's")]
    fn belongs(spec: Value, taints: Value, want: Fit) {
        let node = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        assert_eq!(fit(&with_tolerations(&json!({"spec": spec})), &node), want);
    }

    #[test_case(json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), YES; "by label")]
    #[test_case(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]), NO; "by name")]
    #[test_case(json!([{}]), NO; "an empty term")]
    fn affinity(terms: Value, want: Fit) {
        let node = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        assert_eq!(fit(&json!({"spec": {"affinity": affinity}}), &node), want);
    }

    #[test_case(json!({"status": {"phase": "x"}}), true; "what it tells of itself")]
    #[test_case(json!({"metadata": {"name": "a", "labels": {"disk": "hdd"}}}), false; "labels")]
    #[test_case(json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}}), false; "taints")]
    #[test_case(json!({"spec": {"unschedulable": true}}), false; "cordoned")]
    fn changes_that_count(change: Value, same: bool) {
        let old = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}, "spec": {"podCIDR": "10.0.0.0/24"}});
        let mut new = old.clone();
        change.as_object().unwrap().iter().for_each(|(key, value)| new[key] = value.clone());
        let object = |value: &Value| Object::from_value(value, &[]);
        assert_eq!(means_the_same(&object(&old), &object(&new)), same);
        let seen = view(&object(&new));
        assert_eq!((&seen["metadata"], &seen["spec"]), (&new["metadata"], &new["spec"]));
    }

    #[test]
    fn daemons_bear_what_they_must_for_ever() {
        let own = json!([{"key": "x", "operator": "Exists"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]);
        let all = with_tolerations(&json!({"spec": {"tolerations": own}}));
        let all = all.items_at("/spec/tolerations");
        assert_eq!(all.len(), 1 + TOLERATED.len());
        assert_eq!(all[1], json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}));
    }

    #[test]
    fn a_pinned_pod_knows_its_node() {
        let mut pod = json!({"spec": {}});
        pin(&mut pod, "a");
        assert_eq!(node_of(&pod), Some("a"));
    }
}
