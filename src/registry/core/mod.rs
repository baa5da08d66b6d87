//! Kinds of the API group `core`.

mod config;
mod endpoints;
pub mod event;
mod namespace;
mod node;
mod pod;
mod quota;
mod service;
mod storage;
pub mod templates;

use crate::api::meta::Gvk;
use crate::api::scheme::{Column, KindInfo, Subresource, Verbs};
use crate::registry::Resource;
use crate::registry::allocators::Allocators;
use crate::registry::strategy::Common;

const ACCOUNT_SUBRESOURCES: &[Subresource] =
    &[Subresource::of("token", Verbs::CREATE, Gvk::new("authentication.k8s.io", "v1", "TokenRequest"))];
const ACCOUNT_COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// The rows of this group. Services take their addresses and ports out of `allocators`.
pub fn kinds(allocators: &Allocators) -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced("", "v1", "Binding", "bindings", "binding").verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("", "v1", "ComponentStatus", "componentstatuses", "componentstatus")
                .deprecated("v1 ComponentStatus is deprecated in v1.19+")
                .short(&["cs"])
                .verbs(Verbs::GET.and(Verbs::LIST)),
            Box::new(Common::NONE),
        ),
        config::config_map(),
        endpoints::kind(),
        event::kind(),
        quota::limit_range(),
        namespace::kind(),
        node::kind(),
        storage::claim(),
        storage::volume(),
        pod::kind(),
        templates::pod_template(),
        templates::replication_controller(),
        quota::resource_quota(),
        config::secret(),
        Resource::new(
            KindInfo::namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
                .short(&["sa"])
                .subresources(ACCOUNT_SUBRESOURCES)
                .columns(ACCOUNT_COLUMNS),
            Box::new(Common::NONE.returns_deleted()),
        ),
        service::kind(allocators),
    ]
}
