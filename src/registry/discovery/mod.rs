//! Kinds of the API group `discovery.k8s.io`.

use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice"),
        Box::new(Common::NONE.generation(Generation::Content)),
    )]
}
