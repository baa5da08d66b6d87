//! Kinds of the API group `apps`.

use crate::api::scheme::{KindInfo, SCALE, STATUS, STATUS_ONLY, Selectable, Subresource};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

const DEPLOYMENT_SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];

const REPLICASET_SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];

const REPLICASET_FIELDS: &[Selectable] = &[Selectable::or("status.replicas", "/status/replicas", "0")];

const STATEFULSET_SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision"),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("apps", "v1", "DaemonSet", "daemonsets", "daemonset")
                .short(&["ds"])
                .categories(&["all"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("apps", "v1", "Deployment", "deployments", "deployment")
                .short(&["deploy"])
                .categories(&["all"])
                .subresources(DEPLOYMENT_SUBRESOURCES),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("apps", "v1", "ReplicaSet", "replicasets", "replicaset")
                .short(&["rs"])
                .categories(&["all"])
                .subresources(REPLICASET_SUBRESOURCES)
                .selectable(REPLICASET_FIELDS),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("apps", "v1", "StatefulSet", "statefulsets", "statefulset")
                .short(&["sts"])
                .categories(&["all"])
                .subresources(STATEFULSET_SUBRESOURCES),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
    ]
}
