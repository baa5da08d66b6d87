//! Kinds of the API group `storage.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver"),
            Box::new(Common::NONE.generation(Generation::Spec).returns_deleted()),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode"),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced(
                "storage.k8s.io",
                "v1",
                "CSIStorageCapacity",
                "csistoragecapacities",
                "csistoragecapacity",
            ),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass").short(&["sc"]),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment")
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::cluster(
                "storage.k8s.io",
                "v1",
                "VolumeAttributesClass",
                "volumeattributesclasses",
                "volumeattributesclass",
            )
            .short(&["vac"]),
            Box::new(Common::NONE.returns_deleted()),
        ),
    ]
}
