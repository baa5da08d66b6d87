//! What a node's silence means: its taints, and which of its pods have to go. No IO, no clock.
//!
//! Rules: upstream `pkg/controller/nodelifecycle` and `tainteviction`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::scan;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;
use crate::controllers::common::pods::time;
use crate::controllers::common::taints::tolerates;
use crate::util::clock::rfc3339;

/// Seconds without a heartbeat after which a node counts as silent; upstream's default since 1.32.
pub const GRACE_SECONDS: i64 = 50;
/// The same for one of which nothing was ever heard, from its creation; upstream's `--node-startup-grace-period`.
pub const STARTUP_GRACE_SECONDS: i64 = 60;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Condition, its status, and the taint it brings (`NoSchedule`).
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that only the node itself can know.
const TOLD_BY_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The conditions of a node that fell silent; none when its Ready says so already.
pub fn silenced(node: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let old = node.items_at("/status/conditions");
    let mut new = old.to_vec();
    let stamp = rfc3339(now);
    for kind in TOLD_BY_NODE {
        match new.iter_mut().find(|c| c.str_at("/type") == Some(kind)) {
            Some(c) if c.str_at("/status") != Some("Unknown") => {
                c["status"] = "Unknown".into();
                c["reason"] = "NodeStatusUnknown".into();
                c["message"] = "Kubelet stopped posting node status.".into();
                c["lastTransitionTime"] = stamp.as_str().into();
            }
            Some(_) => {}
            None => new.push(json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.", "lastTransitionTime": stamp,
                "lastHeartbeatTime": node["metadata"]["creationTimestamp"]})),
        }
    }
    (conditions::get(&new, "Ready") != conditions::get(old, "Ready")).then_some(new)
}

/// The node's Ready condition: `True`, `False` or `Unknown`.
pub fn ready(node: &Value) -> &str {
    let ready = conditions::get(node.items_at("/status/conditions"), "Ready");
    ready.and_then(|c| c.str_at("/status")).unwrap_or("Unknown")
}

/// The same of an object, of which only the conditions are decoded: whoever asks for each pod asks often.
pub fn is_ready(node: &Object) -> bool {
    let status = scan::find(&node.json, 0, "status");
    let all = status.and_then(|at| scan::member(&node.json, at, "conditions")).map(|at| &node.json[at]);
    let all: Vec<Value> = all.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    conditions::get(&all, "Ready").and_then(|c| c.str_at("/status")) == Some("True")
}

/// The taints the node should have; none when it has them. `evict` is false while every node of the cluster is in
/// trouble: then it is rather the network or this side that is ill, and no pod is taken from where it runs. A node that says
/// nothing of Ready, which no kubelet registers, loses the taint that admission gave it, and keeps those that evict.
/// Rules: upstream `doNoScheduleTaintingPass` and `processTaintBaseEviction`.
pub fn taints(node: &Value, evict: bool, now: Timestamp) -> Option<Vec<Value>> {
    let all = node.items_at("/status/conditions");
    let mut wanted: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| conditions::get(all, kind).is_some_and(|c| c.str_at("/status") == Some(status)))
        .map(|(.., taint)| (*taint, "NoSchedule"))
        .collect();
    if node.bool_at("/spec/unschedulable") == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let reported = conditions::get(all, "Ready").is_some();
    match ready(node) {
        "False" if evict => wanted.push((NOT_READY, "NoExecute")),
        "Unknown" if evict && reported => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let ours = |t: &Value| {
        let key = t.str_at("/key").unwrap_or_default();
        match t.str_at("/effect") {
            Some("NoSchedule") => BY_CONDITION.iter().map(|(.., k)| *k).chain([UNSCHEDULABLE]).any(|k| k == key),
            Some("NoExecute") => reported && [NOT_READY, UNREACHABLE].contains(&key),
            _ => false,
        }
    };
    let is =
        |t: &Value, (key, effect): (&str, &str)| t.str_at("/key") == Some(key) && t.str_at("/effect") == Some(effect);
    let old = node.items_at("/spec/taints");
    let mut new: Vec<Value> = old.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, *w))).cloned().collect();
    for w in wanted {
        if !old.iter().any(|t| is(t, w)) {
            new.push(json!({"key": w.0, "effect": w.1, "timeAdded": rfc3339(now)}));
        }
    }
    (new != old).then_some(new)
}

/// The taints that send pods away.
pub fn no_execute(node: &Value) -> impl Iterator<Item = &Value> {
    node.items_at("/spec/taints").iter().filter(|t| t.str_at("/effect") == Some("NoExecute"))
}

/// True when some pods have to leave.
pub fn has_no_execute(node: &Value) -> bool {
    no_execute(node).next().is_some()
}

/// True when the node should get a taint that takes its pods away, and has none yet: that is done in turn.
pub fn waits_for_eviction(node: &Value) -> bool {
    let troubled = conditions::get(node.items_at("/status/conditions"), "Ready").is_some() && ready(node) != "True";
    troubled && !no_execute(node).any(|t| matches!(t.str_at("/key"), Some(NOT_READY | UNREACHABLE)))
}

/// Whether a pod has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It tolerates everything for ever.
    Never,
    /// At this time, in the past for at once.
    At(Timestamp),
}

/// When a pod has to leave a node with these `NoExecute` taints. `waiting` is what an earlier answer said: that stands, whatever
/// taints come or go, until a taint is not tolerated, or nothing ends any more. For each taint the first toleration that matches
/// counts, and of those the shortest.
/// Rule: upstream `processPodOnNode`, `GetMatchingTolerations` and `getMinTolerationTime`.
pub fn leave(pod: &Value, taints: &[Value], waiting: Option<Timestamp>, now: Timestamp) -> Leave {
    let (mut least, mut tainted) = (None, None);
    for taint in taints {
        let Some(toleration) = pod.items_at("/spec/tolerations").iter().find(|t| tolerates(t, taint)) else {
            return Leave::At(now);
        };
        if let Some(seconds) = toleration.int_at("/tolerationSeconds") {
            least = Some(least.map_or(seconds, |l: i64| l.min(seconds)));
            let added = time(taint.str_at("/timeAdded")).unwrap_or(now);
            tainted = Some(tainted.map_or(added, |t: Timestamp| t.min(added)));
        }
    }
    let (Some(least), Some(tainted)) = (least, tainted) else { return Leave::Never };
    let begun = || tainted.max(bound_at(pod).unwrap_or(tainted)).min(now).as_second();
    let ends = || Timestamp::from_second(begun().saturating_add(least.max(0))).unwrap_or(Timestamp::MAX);
    Leave::At(waiting.unwrap_or_else(ends))
}

/// When the pod came to its node.
fn bound_at(pod: &Value) -> Option<Timestamp> {
    let scheduled = conditions::get(pod.items_at("/status/conditions"), "PodScheduled");
    let bound = scheduled.and_then(|c| time(c.str_at("/lastTransitionTime")));
    bound.or_else(|| time(pod.str_at("/metadata/creationTimestamp")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    fn node(ready: &str) -> Value {
        json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn keys(taints: Option<Vec<Value>>) -> Option<Vec<String>> {
        let text = |t: &Value| format!("{}:{}", &t.str_at("/key").unwrap()[19..], t.str_at("/effect").unwrap());
        taints.map(|all| all.iter().map(text).collect())
    }

    #[test_case(node("True"), true)]
    #[test_case(node("False"), false)]
    #[test_case(node("Unknown"), false)]
    #[test_case(json!({"metadata": {"name": "a"}}), false; "says nothing")]
    fn an_object_is_as_ready_as_its_value(node: Value, want: bool) {
        assert_eq!((is_ready(&Object::from_value(&node, &[])), ready(&node) == "True"), (want, want));
    }

    #[test_case("True", true, None; "a healthy node has none")]
    #[test_case("False", true, Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]))]
    #[test_case("Unknown", true, Some(&["unreachable:NoSchedule", "unreachable:NoExecute"]))]
    #[test_case("Unknown", false, Some(&["unreachable:NoSchedule"]); "nobody is evicted when all are silent")]
    fn taints_follow_readiness(ready: &str, evict: bool, want: Option<&[&str]>) {
        let want = want.map(|w| w.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(keys(taints(&node(ready), evict, at(0))), want);
    }

    #[test]
    fn taints_of_others_stay_and_ours_go() {
        let mut n = node("True");
        n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoExecute"},
            {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(taints(&n, true, at(0)), Some(vec![json!({"key": "mine", "effect": "NoExecute"})]));
    }

    #[test_case(json!([{"key": NOT_READY, "effect": "NoSchedule"}]), Some(&[]); "admission's taint goes")]
    #[test_case(json!([{"key": UNREACHABLE, "effect": "NoExecute"}]), None; "what evicts stays")]
    fn a_node_that_says_nothing(given: Value, want: Option<&[&str]>) {
        let node = json!({"spec": {"taints": given}, "status": {"conditions": []}});
        let want = want.map(|w| w.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(keys(taints(&node, true, at(0))), want);
    }

    #[test]
    fn only_two_taints_that_evict_are_ours() {
        let mut n = node("True");
        n["spec"]["taints"] = json!([{"key": "node.kubernetes.io/memory-pressure", "effect": "NoExecute"},
            {"key": UNSCHEDULABLE, "effect": "NoExecute"}]);
        assert_eq!(taints(&n, true, at(0)), None);
    }

    #[test]
    fn only_ready_makes_silence_news() {
        let mut n = node("Unknown");
        n["status"]["conditions"][0]["reason"] = "NodeStatusUnknown".into();
        assert_eq!(silenced(&n, at(0)), None, "although the pressures are missing");
        assert_eq!(silenced(&json!({}), at(0)).map(|c| c.len()), Some(4));
    }

    #[test]
    fn silence_is_told_once() {
        let mut n = node("True");
        let new = silenced(&n, at(0)).unwrap();
        assert_eq!(new.len(), 4);
        assert_eq!(new[0].str_at("/reason"), Some("NodeStatusUnknown"));
        n["status"]["conditions"] = new.into();
        assert_eq!(silenced(&n, at(9)), None);
    }

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second() - at(0).as_second()
    }

    #[test_case(json!([]), Some(1000); "no toleration, at once")]
    #[test_case(json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]), Some(300))]
    #[test_case(json!([{"operator": "Exists"}]), None; "daemons stay")]
    #[test_case(json!([{"key": "other", "operator": "Exists"}]), Some(1000); "another taint is tolerated")]
    #[test_case(json!([{"operator": "Exists"}, {"key": UNREACHABLE, "tolerationSeconds": 5, "operator": "Exists"}]), None; "the first that matches counts")]
    #[test_case(json!([{"operator": "Exists", "tolerationSeconds": -5}]), Some(0); "less than nothing is nothing")]
    fn eviction(tolerations: Value, want: Option<i64>) {
        let taint = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": rfc3339(at(0))});
        let pod = json!({"spec": {"tolerations": tolerations}});
        let got = match leave(&pod, &[taint], None, at(1000)) {
            Leave::Never => None,
            Leave::At(when) => Some(when.as_second() - at(0).as_second()),
        };
        assert_eq!(got, want);
    }

    /// Seconds: the taint's time, when the pod was bound, what was said before; when it leaves. It is second 100.
    #[test_case(Some(10), None, None, 40; "from the taint's time")]
    #[test_case(None, None, None, 130; "from now")]
    #[test_case(Some(10), Some(50), None, 80; "a pod that came later has its own time")]
    #[test_case(Some(90), Some(5), Some(150), 150; "what was said stands")]
    #[test_case(Some(500), None, None, 130; "a clock that is ahead does not keep it")]
    fn times_run(added: Option<i64>, bound: Option<i64>, waiting: Option<i64>, want: i64) {
        let mut taint = json!({"key": UNREACHABLE, "effect": "NoExecute"});
        if let Some(added) = added {
            taint["timeAdded"] = rfc3339(at(added)).into();
        }
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists", "tolerationSeconds": 30}]}});
        if let Some(bound) = bound {
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(at(bound))});
            pod["status"]["conditions"] = json!([scheduled]);
        }
        let Leave::At(when) = leave(&pod, &[taint], waiting.map(at), at(100)) else { panic!("it stays") };
        assert_eq!(second(&rfc3339(when)), want);
    }

    #[test_case("False", json!([]), true)]
    #[test_case("Unknown", json!([{"key": "mine", "effect": "NoExecute"}]), true)]
    #[test_case("Unknown", json!([{"key": NOT_READY, "effect": "NoExecute"}]), false; "tainted already, if for another reason")]
    #[test_case("True", json!([]), false)]
    fn who_waits_for_a_turn(ready: &str, taints: Value, want: bool) {
        let mut node = node(ready);
        node["spec"]["taints"] = taints;
        assert_eq!(waits_for_eviction(&node), want);
    }
}
