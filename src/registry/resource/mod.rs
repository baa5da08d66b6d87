//! Kinds of the API group `resource.k8s.io`.

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY, Selectable};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

mod claim;
mod device;
mod slice;

const GROUP: &str = "resource.k8s.io";

const SLICE_FIELDS: &[Selectable] =
    &[Selectable::new("spec.nodeName", "/spec/nodeName"), Selectable::new("spec.driver", "/spec/driver")];

const NAME_AND_AGE: &[Column] = &[Column::NAME, Column::AGE];

const CLAIM_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("State", |o, _| {
        let mut states = Vec::new();
        if o.get_at("/metadata/deletionTimestamp").is_some() {
            states.push("deleted");
        }
        match o.get_at("/status/allocation") {
            None => states.push("pending"),
            Some(_) => states.push("allocated"),
        }
        if !o.items_at("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
        states.join(",").into()
    }),
    Column::AGE,
];

const SLICE_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Node", "/spec/nodeName"),
    Column::text("Driver", "/spec/driver"),
    Column::text("Pool", "/spec/pool/name"),
    Column::AGE,
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let common = Common::NONE.returns_deleted();
    vec![
        Resource::new(
            KindInfo::cluster(GROUP, "v1", "DeviceClass", "deviceclasses", "deviceclass").columns(NAME_AND_AGE),
            Box::new(common.generation(Generation::Spec).check(claim::check_class)),
        ),
        Resource::new(
            KindInfo::namespaced(GROUP, "v1", "ResourceClaim", "resourceclaims", "resourceclaim")
                .columns(CLAIM_COLUMNS)
                .subresources(STATUS_ONLY),
            Box::new(common.status_alone().check(claim::check)),
        ),
        Resource::new(
            KindInfo::namespaced(
                GROUP,
                "v1",
                "ResourceClaimTemplate",
                "resourceclaimtemplates",
                "resourceclaimtemplate",
            )
            .columns(NAME_AND_AGE),
            Box::new(common.check(claim::check_template)),
        ),
        Resource::new(
            KindInfo::cluster(GROUP, "v1", "ResourceSlice", "resourceslices", "resourceslice")
                .columns(SLICE_COLUMNS)
                .selectable(SLICE_FIELDS),
            Box::new(common.generation(Generation::Spec).prepare(slice::prepare).check(slice::check)),
        ),
    ]
}
