//! The ConfigMaps and Secrets that a pod names: what its node may read. Pure.
//!
//! Rules: upstream `pkg/api/v1/pod` (`VisitPodSecretNames`, `VisitPodConfigmapNames`), without volumes that orch has not.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::value::ValueExt;

/// An object that a pod names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `configmaps` or `secrets`.
    pub plural: &'static str,
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All that a pod names.
pub fn references(pod: &Value) -> BTreeSet<Reference> {
    let namespace = pod.str_at("/metadata/namespace").unwrap_or_default();
    let mut out = BTreeSet::new();
    let mut add = |plural: &'static str, name: Option<&str>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            out.insert(Reference { plural, namespace: namespace.to_owned(), name: name.to_owned() });
        }
    };
    for secret in pod.items_at("/spec/imagePullSecrets") {
        add("secrets", secret.str_at("/name"));
    }
    let lists = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
    for container in lists.iter().flat_map(|l| pod.items_at(l)) {
        for from in container.items_at("/envFrom") {
            add("configmaps", from.str_at("/configMapRef/name"));
            add("secrets", from.str_at("/secretRef/name"));
        }
        for env in container.items_at("/env") {
            add("configmaps", env.str_at("/valueFrom/configMapKeyRef/name"));
            add("secrets", env.str_at("/valueFrom/secretKeyRef/name"));
        }
    }
    for volume in pod.items_at("/spec/volumes") {
        add("configmaps", volume.str_at("/configMap/name"));
        add("secrets", volume.str_at("/secret/secretName"));
        for source in volume.items_at("/projected/sources") {
            add("configmaps", source.str_at("/configMap/name"));
            add("secrets", source.str_at("/secret/name"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_places_are_looked_at() {
        let env = json!([{"valueFrom": {"configMapKeyRef": {"name": "c2"}}}, {"valueFrom": {"secretKeyRef": {"name": "s2"}}}, {"value": "x"}]);
        let sources = json!([{"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}, {"serviceAccountToken": {}}]);
        let pod = json!({"metadata": {"namespace": "n"}, "spec": {
            "imagePullSecrets": [{"name": "s0"}, {}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
            "containers": [{"env": env}],
            "volumes": [{"configMap": {"name": "c3"}}, {"secret": {"secretName": "s3"}}, {"projected": {"sources": sources}}]}});
        let found: Vec<String> = references(&pod).into_iter().map(|r| r.name).collect();
        assert_eq!(found, ["c1", "c2", "c3", "c4", "s0", "s1", "s2", "s3", "s4"]);
        assert!(references(&pod).iter().all(|r| r.namespace == "n"));
    }
}
