//! Kinds of the API group `flowcontrol.apiserver.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "flowschema")
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::cluster(
                "flowcontrol.apiserver.k8s.io",
                "v1",
                "PriorityLevelConfiguration",
                "prioritylevelconfigurations",
                "prioritylevelconfiguration",
            )
            .subresources(STATUS_ONLY),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
    ]
}
