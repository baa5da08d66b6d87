//! Kinds of the API group `autoscaling`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced(
                "autoscaling",
                "v1",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
                "horizontalpodautoscaler",
            )
            .short(&["hpa"])
            .categories(&["all"])
            .subresources(STATUS_ONLY)
            .stored_as("autoscaling", "horizontalpodautoscalers", "v2"),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced(
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
                "horizontalpodautoscaler",
            )
            .short(&["hpa"])
            .categories(&["all"])
            .subresources(STATUS_ONLY),
            Box::new(Common::NONE),
        ),
    ]
}
