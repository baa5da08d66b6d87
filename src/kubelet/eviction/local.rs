//! Pods that took more of the disk than they may: more than an `emptyDir` may hold, or than containers are limited to. Pure.
//!
//! Rules: upstream `eviction_manager.localStorageEviction` and what it calls. They go at once, whatever the node has left.

use k8s_openapi::api::core::v1::Volume;

use crate::api::meta::quantity::Quantity;
use crate::kubelet::cgroups;
use crate::kubelet::pod::{Member, PodView, Role};

/// The resource.
const STORAGE: &str = "ephemeral-storage";

/// Bytes of the disk that a pod has taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// By its `emptyDir` volumes on the disk, by name.
    pub volumes: Vec<(String, u64)>,
    /// By its containers, by name: what they wrote into their own file systems, and their logs.
    pub containers: Vec<(String, u64)>,
}

/// Names of the pod's `emptyDir` volumes that are on the disk.
pub fn volumes(pod: &PodView) -> impl Iterator<Item = &str> {
    pod.spec.volumes.iter().flatten().filter(|v| on_disk(v)).map(|v| v.name.as_str())
}

fn on_disk(volume: &Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
}

/// Whether anything limits what the pod takes: only then it is worth counting.
pub fn is_limited(pod: &PodView) -> bool {
    pod.members.iter().any(|m| limit(m).is_some()) || sizes(pod).next().is_some()
}

fn limit(member: &Member) -> Option<Quantity> {
    cgroups::amount(member.spec.resources.as_ref(), true, STORAGE)
}

/// Volumes with the bytes that they may hold, as number and in the pod's own words.
fn sizes(pod: &PodView) -> impl Iterator<Item = (&str, Quantity)> {
    pod.spec.volumes.iter().flatten().filter(|v| on_disk(v)).filter_map(|v| {
        let size = Quantity::parse(&v.empty_dir.as_ref()?.size_limit.as_ref()?.0).ok()?;
        (size.value() > 0).then_some((v.name.as_str(), size))
    })
}

/// What its owner is told of a pod that has to go; none when it is within its limits.
pub fn overrun(pod: &PodView, taken: &Taken) -> Option<String> {
    let over = |used: u64, limit: Quantity| i64::try_from(used).is_ok_and(|used| used > limit.value());
    let of = |list: &[(String, u64)], name: &str| list.iter().find(|(n, _)| n == name).map_or(0, |(_, bytes)| *bytes);
    if let Some((name, size)) = sizes(pod).find(|(name, size)| over(of(&taken.volumes, name), *size)) {
        return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{size}\". "));
    }
    let sum = |list: &[(String, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let whole = whole_limit(pod);
    if let Some(limit) = whole.filter(|limit| over(sum(&taken.volumes) + sum(&taken.containers), *limit)) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    pod.members.iter().find_map(|m| {
        let limit = limit(m).filter(|limit| over(of(&taken.containers, m.name()), *limit))?;
        Some(format!("Container {} exceeded its local ephemeral storage limit \"{limit}\". ", m.name()))
    })
}

/// The limits of what runs together, and never less than an init container's; none where no container has one.
fn whole_limit(pod: &PodView) -> Option<Quantity> {
    let of = |init: bool| {
        let lasting = pod.members.iter().filter(|m| m.role != Role::Ephemeral);
        lasting.filter(move |m| (m.role == Role::Init) == init).filter_map(limit).map(|q| q.value())
    };
    let bytes = of(false).sum::<i64>().max(of(true).max().unwrap_or(0));
    (bytes > 0).then(|| Quantity::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::pod;
    use serde_json::json;
    use test_case::test_case;

    const MI: u64 = 1 << 20;

    #[test_case(1, 1, 1 => None; "within")]
    #[test_case(11, 0, 0 => Some("Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". ".into()); "a volume")]
    #[test_case(0, 21, 0 => Some("Container c exceeded its local ephemeral storage limit \"20Mi\". ".into()); "a container")]
    #[test_case(10, 15, 30 => Some("Pod ephemeral local storage usage exceeds the total limit of containers 50Mi. ".into()); "all together")]
    #[test_case(10, 20, 20 => None; "just within")]
    fn overruns(v: u64, c: u64, d: u64) -> Option<String> {
        let limited =
            |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        let pod = pod(json!({"containers": [limited("c", "20Mi"), limited("d", "30Mi")],
            "initContainers": [limited("i", "5Mi")],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "10Mi"}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]}));
        assert_eq!(volumes(&pod).collect::<Vec<_>>(), ["v"], "what is in memory is no matter of the disk");
        let named = |name: &str, mi: u64| (name.to_owned(), mi * MI);
        overrun(&pod, &Taken { volumes: vec![named("v", v)], containers: vec![named("c", c), named("d", d)] })
    }

    #[test_case(json!({}), json!([]) => false; "nothing")]
    #[test_case(json!({"requests": {"ephemeral-storage": "1Gi"}}), json!([{"name": "v", "emptyDir": {}}]) => false; "requests limit nothing")]
    #[test_case(json!({"limits": {"ephemeral-storage": "1Gi"}}), json!([]) => true; "a container")]
    #[test_case(json!({}), json!([{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]) => true; "a volume")]
    fn who_is_counted(resources: serde_json::Value, volumes: serde_json::Value) -> bool {
        is_limited(&pod(json!({"containers": [{"name": "c", "resources": resources}], "volumes": volumes})))
    }
}
