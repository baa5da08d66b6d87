//! KINDS: the one list of what the server serves, by group.

use super::Resource;
use super::allocators::Allocators;

/// All built-in kinds at v1 and v2, in the order of discovery. Add a group here, a kind in its group.
pub fn all(allocators: &Allocators) -> Vec<Resource> {
    [
        super::core::kinds(allocators),
        super::admissionregistration::kinds(),
        super::apiextensions::kinds(),
        super::apiregistration::kinds(),
        super::apps::kinds(),
        super::authentication::kinds(),
        super::authorization::kinds(),
        super::autoscaling::kinds(),
        super::batch::kinds(),
        super::certificates::kinds(),
        super::coordination::kinds(),
        super::discovery::kinds(),
        super::events::kinds(),
        super::flowcontrol::kinds(),
        super::networking::kinds(),
        super::node::kinds(),
        super::policy::kinds(),
        super::rbac::kinds(),
        super::resource::kinds(),
        super::scheduling::kinds(),
        super::storage::kinds(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
