//! Kinds of the API group `apiregistration.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice")
            .categories(&["api-extensions"])
            .subresources(STATUS_ONLY),
        Box::new(Common::NONE),
    )]
}
