//! Kinds of the API group `node.k8s.io`.

use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass"),
        Box::new(Common::NONE),
    )]
}
