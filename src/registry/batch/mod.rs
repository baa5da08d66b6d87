//! Kinds of the API group `batch`.

use crate::api::scheme::{KindInfo, STATUS_ONLY, Selectable};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

const JOB_FIELDS: &[Selectable] = &[Selectable::or("status.successful", "/status/successful", "0")];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced("batch", "v1", "CronJob", "cronjobs", "cronjob")
                .short(&["cj"])
                .categories(&["all"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("batch", "v1", "Job", "jobs", "job")
                .categories(&["all"])
                .subresources(STATUS_ONLY)
                .selectable(JOB_FIELDS),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
    ]
}
