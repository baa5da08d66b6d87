//! Kinds of the API group `storage.k8s.io`.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

mod attachment;
mod class;
mod csi;

const DRIVER_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::switch("AttachRequired", "/spec/attachRequired"),
    Column::switch("PodInfoOnMount", "/spec/podInfoOnMount"),
    Column::switch("StorageCapacity", "/spec/storageCapacity"),
    Column::new("TokenRequests", |o, _| {
        let all: Vec<&str> = o.items_at("/spec/tokenRequests").iter().filter_map(|t| t.str_at("/audience")).collect();
        if all.is_empty() { "<unset>".into() } else { all.join(",").into() }
    }),
    Column::switch("RequiresRepublish", "/spec/requiresRepublish"),
    Column::new("Modes", |o, _| {
        let modes = o.items_at("/spec/volumeLifecycleModes");
        modes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()
    }),
    Column::AGE,
];

const NODE_COLUMNS: &[Column] =
    &[Column::NAME, Column::int_fn("Drivers", |o, _| o.items_at("/spec/drivers").len().into()), Column::AGE];

const CLASS_COLUMNS: &[Column] = &[
    Column::name_fn("Name", |o, _| class::name_cell(o).into()),
    Column::text("Provisioner", "/provisioner"),
    Column::text("ReclaimPolicy", "/reclaimPolicy"),
    Column::text("VolumeBindingMode", "/volumeBindingMode"),
    // Upstream calls it a string and puts a boolean there.
    Column::new("AllowVolumeExpansion", |o, _| o.bool_at("/allowVolumeExpansion").unwrap_or(false).into()),
    Column::AGE,
];

const ATTACHMENT_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Attacher", "/spec/attacher"),
    Column::text("PV", "/spec/source/persistentVolumeName"),
    Column::text("Node", "/spec/nodeName"),
    Column::switch("Attached", "/status/attached"),
    Column::AGE,
];

const ATTRIBUTES_COLUMNS: &[Column] = &[Column::NAME, Column::text("DriverName", "/driverName"), Column::AGE];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver").columns(DRIVER_COLUMNS),
            Box::new(
                Common::NONE
                    .generation(Generation::Later)
                    .warn(csi::warn_driver)
                    .returns_deleted()
                    .conditional_update()
                    .check(csi::check_driver),
            ),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode").columns(NODE_COLUMNS),
            Box::new(Common::NONE.returns_deleted().conditional_update().check(csi::check_node)),
        ),
        Resource::new(
            KindInfo::namespaced(
                "storage.k8s.io",
                "v1",
                "CSIStorageCapacity",
                "csistoragecapacities",
                "csistoragecapacity",
            ),
            Box::new(Common::NONE.conditional_update().check(csi::check_capacity)),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass")
                .short(&["sc"])
                .columns(CLASS_COLUMNS),
            Box::new(Common::NONE.returns_deleted().check(class::check)),
        ),
        Resource::new(
            KindInfo::cluster("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment")
                .columns(ATTACHMENT_COLUMNS)
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.status_alone().returns_deleted().conditional_update().check(attachment::check)),
        ),
        Resource::new(
            KindInfo::cluster(
                "storage.k8s.io",
                "v1",
                "VolumeAttributesClass",
                "volumeattributesclasses",
                "volumeattributesclass",
            )
            .short(&["vac"])
            .columns(ATTRIBUTES_COLUMNS),
            Box::new(Common::NONE.returns_deleted().check(class::check_attributes)),
        ),
    ]
}
