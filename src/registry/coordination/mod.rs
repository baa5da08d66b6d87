//! Kinds of the API group `coordination.k8s.io`.

use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("coordination.k8s.io", "v1", "Lease", "leases", "lease"),
        Box::new(Common::NONE),
    )]
}
