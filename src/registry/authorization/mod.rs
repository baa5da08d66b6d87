//! Kinds of the API group `authorization.k8s.io`.

use crate::api::scheme::{KindInfo, Verbs};
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group: questions, which are answered and never stored.
pub fn kinds() -> Vec<Resource> {
    const GROUP: &str = "authorization.k8s.io";
    let local = KindInfo::namespaced(
        GROUP,
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
    );
    let everywhere = [
        ("SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
        ("SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
        ("SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
    ];
    let everywhere = everywhere.map(|(kind, plural, singular)| KindInfo::cluster(GROUP, "v1", kind, plural, singular));
    let row = |info: KindInfo| Resource::new(info.verbs(Verbs::CREATE), Box::new(Common::NONE));
    std::iter::once(local).chain(everywhere).map(row).collect()
}
