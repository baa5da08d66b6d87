//! Kinds of the API group `authorization.k8s.io`.

use crate::api::scheme::{KindInfo, Verbs};
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced(
                "authorization.k8s.io",
                "v1",
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
            .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster(
                "authorization.k8s.io",
                "v1",
                "SelfSubjectAccessReview",
                "selfsubjectaccessreviews",
                "selfsubjectaccessreview",
            )
            .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster(
                "authorization.k8s.io",
                "v1",
                "SelfSubjectRulesReview",
                "selfsubjectrulesreviews",
                "selfsubjectrulesreview",
            )
            .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster(
                "authorization.k8s.io",
                "v1",
                "SubjectAccessReview",
                "subjectaccessreviews",
                "subjectaccessreview",
            )
            .verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
    ]
}
