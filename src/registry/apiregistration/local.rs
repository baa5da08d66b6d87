//! The APIServices of what the server serves itself.

use serde_json::{Value, json};

/// Group, version, priority of the group, of the version within it. Figures: upstream's control plane.
const LOCAL: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("resource.k8s.io", "v1", 16_050, 15),
];

/// All of them.
pub fn objects() -> Vec<Value> {
    let one = |(group, version, minimum, priority): &(&str, &str, i64, i64)| {
        let mut spec = json!({"version": version, "groupPriorityMinimum": minimum, "versionPriority": priority});
        if !group.is_empty() {
            spec["group"] = (*group).into();
        }
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}"),
                "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}}, "spec": spec})
    };
    LOCAL.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Resources;

    #[test]
    fn every_group_version_is_listed() {
        for r in Resources::builtin().all() {
            let gvk = &r.info.gvk;
            let listed = LOCAL.iter().any(|(g, v, ..)| *g == gvk.group && *v == gvk.version);
            assert!(listed || gvk.group == "apiregistration.k8s.io", "{}/{}", gvk.group, gvk.version);
        }
    }
}
