//! Kinds of the API group `policy`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
            .short(&["pdb"])
            .subresources(STATUS_ONLY),
        Box::new(Common::NONE.generation(Generation::Spec)),
    )]
}
