//! Kinds of the API group `rbac.authorization.k8s.io`.

use crate::api::meta::names;
use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster(
                "rbac.authorization.k8s.io",
                "v1",
                "ClusterRoleBinding",
                "clusterrolebindings",
                "clusterrolebinding",
            ),
            Box::new(Common::NONE.names(names::path_segment)),
        ),
        Resource::new(
            KindInfo::cluster("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole"),
            Box::new(Common::NONE.names(names::path_segment)),
        ),
        Resource::new(
            KindInfo::namespaced("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding"),
            Box::new(Common::NONE.names(names::path_segment)),
        ),
        Resource::new(
            KindInfo::namespaced("rbac.authorization.k8s.io", "v1", "Role", "roles", "role"),
            Box::new(Common::NONE.names(names::path_segment)),
        ),
    ]
}
