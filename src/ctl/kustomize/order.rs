//! The order of what is built: what others need comes first.
//!
//! Rules: upstream `kustomize/api/internal/builtins/SortOrderTransformer.go`, the "legacy" order.

use super::Resource;
use crate::api::meta::gvk;

/// Kinds that come first, in this order.
const FIRST: [&str; 22] = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
/// Kinds that come last: they would hold up the others.
const LAST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Sorts.
pub fn sort(all: &mut [Resource]) {
    all.sort_by_cached_key(|r| {
        let first = FIRST.iter().position(|k| *k == r.kind()).unwrap_or(FIRST.len());
        let last = LAST.iter().position(|k| *k == r.kind()).map_or(0, |n| n + 1);
        let (group, version) = gvk::split(r.api_version());
        let group = if group.is_empty() { "~G" } else { group };
        let ns = r.object["metadata"]["namespace"].as_str().unwrap_or("~X").to_owned();
        (last, first, format!("{group}_{version}_{}", r.kind()), ns, r.name().to_owned())
    });
}
