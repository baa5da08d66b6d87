//! Kinds of the API group `apiextensions.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .subresources(STATUS_ONLY),
        Box::new(Common::NONE.generation(Generation::Spec)),
    )]
}
