//! Kinds of the API group `scheduling.k8s.io`.

use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass")
            .short(&["pc"]),
        Box::new(Common::NONE.generation(Generation::Content)),
    )]
}
