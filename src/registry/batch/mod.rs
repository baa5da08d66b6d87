//! Kinds of the API group `batch`.

mod cronjob;
mod job;
mod job_policy;
mod job_status;

use crate::registry::Resource;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![cronjob::kind(), job::kind()]
}
