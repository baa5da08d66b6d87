//! Kinds of the API group `authentication.k8s.io`.

use crate::api::scheme::{KindInfo, Verbs};
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster(
                "authentication.k8s.io",
                "v1",
                "SelfSubjectReview",
                "selfsubjectreviews",
                "selfsubjectreview",
            )
            .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview")
                .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
    ]
}
