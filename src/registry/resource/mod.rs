//! Kinds of the API group `resource.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY, Selectable};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

const RESOURCESLICE_FIELDS: &[Selectable] =
    &[Selectable::new("spec.nodeName", "/spec/nodeName"), Selectable::new("spec.driver", "/spec/driver")];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", "deviceclass"),
            Box::new(Common::NONE.generation(Generation::Spec).returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", "resourceclaim")
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.status_alone().returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced(
                "resource.k8s.io",
                "v1",
                "ResourceClaimTemplate",
                "resourceclaimtemplates",
                "resourceclaimtemplate",
            ),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::cluster("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", "resourceslice")
                .selectable(RESOURCESLICE_FIELDS),
            Box::new(Common::NONE.generation(Generation::Spec).returns_deleted()),
        ),
    ]
}
