//! What a pod needs of each resource: exactly, and as scores count it.
//!
//! In: its spec, and what its status says of containers that are being resized. Out: sums.
//! Upstream: `component-helpers/resource` (`PodRequests`, `AggregateContainerRequests`).
//! **Invariant:** what a pod holds on its node counts until the status says that it has given it back.

use super::raw;
use super::resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, RawList, Resources};
use crate::api::object::Object;
use crate::api::value::ValueExt;

/// What a pod needs, and its CPU and memory with defaults for containers that ask for nothing. `infeasible` is asked only
/// where it matters: for pods that want more than they have.
pub fn of_pod(spec: &raw::PodSpec, status: &raw::PodStatus, infeasible: &dyn Fn() -> bool) -> (Resources, (i64, i64)) {
    let now = status.resources.as_ref().map(|has| (&has.requests, &status.allocated_resources));
    let mut level = effective(&spec.resources.requests, now, infeasible);
    let sum = |defaults| sum_of_containers(spec, status, infeasible, defaults);
    let exact = sum(false);
    // Where all say what they need the defaults change nothing.
    let says_all = |c: &raw::Container| ["cpu", "memory"].iter().all(|name| c.resources.requests.contains_key(*name));
    let scored =
        if spec.containers.iter().chain(&spec.init_containers).all(says_all) { exact.clone() } else { sum(true) };
    let mut both = [exact, scored];
    let overhead = Resources::from_list(&spec.overhead);
    for sum in &mut both {
        for name in spec.resources.requests.keys().filter(|name| is_of_pods(name)) {
            *sum.slot(name) = *level.slot(name);
        }
        sum.add(&overhead, 1);
    }
    let [exact, scored] = both;
    (exact, (scored.cpu, scored.memory))
}

/// True where the node has said that what the pod asks for can never be there. Upstream: `IsPodResizeInfeasible`.
pub fn is_infeasible(pod: &Object) -> bool {
    let pod = pod.only(&["status", "conditions"]);
    let pending = pod.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("PodResizePending"));
    pending.is_some_and(|c| c.str_at("/reason") == Some("Infeasible"))
}

/// Resources that pods as a whole may ask for. Upstream: `IsSupportedPodLevelResource`.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// The most of what is asked for and, while it is resized, of what it has and was given. What its node can never give it does
/// not count.
fn effective(asked: &RawList, now: Option<(&RawList, &RawList)>, infeasible: &dyn Fn() -> bool) -> Resources {
    let asked = Resources::from_list(asked);
    let Some((has, given)) = now else { return asked };
    let mut holds = Resources::from_list(has);
    holds.raise_to(&Resources::from_list(given));
    let mut most = holds.clone();
    most.raise_to(&asked);
    if most != holds && infeasible() { holds } else { most }
}

fn sum_of_containers(
    spec: &raw::PodSpec,
    status: &raw::PodStatus,
    infeasible: &dyn Fn() -> bool,
    defaults: bool,
) -> Resources {
    let one = |c: &raw::Container, statuses: &[raw::ContainerStatus]| {
        let asked = &c.resources.requests;
        let status = statuses.iter().find(|s| s.name == c.name);
        let now = status.and_then(|s| Some((&s.resources.as_ref()?.requests, &s.allocated_resources)));
        let mut needs = effective(asked, now, infeasible);
        let says = |name: &str| {
            let there = now.is_some_and(|(has, given)| has.contains_key(name) || given.contains_key(name));
            there || asked.contains_key(name)
        };
        if defaults && !says("cpu") {
            needs.cpu = DEFAULT_MILLI_CPU;
        }
        if defaults && !says("memory") {
            needs.memory = DEFAULT_MEMORY;
        }
        needs
    };
    let mut sum = Resources::default();
    for c in &spec.containers {
        sum.add(&one(c, &status.container_statuses), 1);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for c in &spec.init_containers {
        if c.restart_policy == "Always" {
            let needs = one(c, &status.init_container_statuses);
            sum.add(&needs, 1);
            sidecars.add(&needs, 1);
            peak.raise_to(&sidecars);
        } else {
            // These end before anything is resized.
            let mut needs = one(c, &[]);
            needs.add(&sidecars, 1);
            peak.raise_to(&needs);
        }
    }
    sum.raise_to(&peak);
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use test_case::test_case;

    use super::super::pod::PodInfo;
    use super::*;

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(name: &str, cpu: &str) -> Value {
        let mut c = container(name, cpu);
        c["restartPolicy"] = "Always".into();
        c
    }

    fn requests(spec: Value, status: Value) -> (i64, (i64, i64)) {
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status});
        let pod = PodInfo::new(&Object::from_value(&value, &[])).unwrap();
        (pod.requests.cpu, pod.non_zero)
    }

    fn pending(reason: &str) -> Value {
        json!([{"type": "Ready", "reason": "Infeasible"}, {"type": "PodResizePending", "status": "True", "reason": reason}])
    }

    fn has(name: &str, cpu: &str, given: &str) -> Value {
        json!([{"name": name, "allocatedResources": {"cpu": given}, "resources": {"requests": {"cpu": cpu}}}])
    }

    #[test_case(json!({}), 3500; "not resized")]
    #[test_case(json!({"containerStatuses": has("c", "1", "1")}), 3500; "wants more")]
    #[test_case(json!({"containerStatuses": has("c", "1", "1"), "conditions": pending("Deferred")}), 3500; "later perhaps")]
    #[test_case(json!({"containerStatuses": has("c", "1", "1"), "conditions": pending("Infeasible")}), 1000; "never")]
    #[test_case(json!({"containerStatuses": has("c", "1", "2"), "conditions": pending("Infeasible")}), 2000; "was given")]
    #[test_case(json!({"containerStatuses": has("c", "4", "1")}), 4000; "has more still")]
    #[test_case(json!({"containerStatuses": has("c", "1", "5"), "conditions": pending("Infeasible")}), 5000; "was given more")]
    #[test_case(json!({"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "9"}}]}), 3500; "nothing said of what it has")]
    #[test_case(json!({"containerStatuses": [{"name": "c"}], "conditions": pending("Infeasible")}), 3500; "nothing said at all")]
    fn a_resize_counts_as_far_as_it_goes(status: Value, want: i64) {
        assert_eq!(requests(json!({"containers": [container("c", "3500m")]}), status).0, want);
    }

    #[test_case(json!([container("i", "1")]), 1000; "ordinary ones end before")]
    #[test_case(json!([sidecar("i", "1")]), 5500; "sidecars stay")]
    fn of_init_containers_only_sidecars_are_resized(init: Value, want: i64) {
        let status = json!({"initContainerStatuses": has("i", "5", "5")});
        assert_eq!(requests(json!({"containers": [container("c", "500m")], "initContainers": init}), status).0, want);
    }

    #[test_case(json!({}), 3000; "not resized")]
    #[test_case(json!({"resources": {"requests": {"cpu": "4"}}, "allocatedResources": {"cpu": "1"}}), 4000; "has more still")]
    #[test_case(json!({"resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "2"},
        "conditions": pending("Infeasible")}), 2000; "never")]
    #[test_case(json!({"allocatedResources": {"cpu": "9"}}), 3000; "nothing said of what it has")]
    fn what_the_whole_pod_asks_for_is_resized_alike(status: Value, want: i64) {
        let spec = json!({"resources": {"requests": {"cpu": "3"}}, "containers": [container("c", "1")]});
        assert_eq!(requests(spec, status).0, want);
    }

    #[test]
    fn defaults_are_for_containers_that_say_nothing() {
        let spec = json!({"containers": [{"name": "c"}, container("d", "1")]});
        assert_eq!(requests(spec.clone(), json!({})), (1000, (1100, 2 * DEFAULT_MEMORY)));
        assert_eq!(
            requests(spec, json!({"containerStatuses": has("c", "20m", "20m")})),
            (1020, (1020, 2 * DEFAULT_MEMORY))
        );
    }
}
