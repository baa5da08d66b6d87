//! Kinds of the API group `apiextensions.k8s.io`.
//!
//! The rules for a definition are in `definition`, those for its schemas in `schema`, `structural` and `defaults`.

mod defaults;
mod definition;
mod path;
mod schema;
mod structural;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation, HookCx, Op};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .subresources(STATUS_ONLY),
        Box::new(
            Common::NONE
                .prepare(prepare)
                .check(definition::check)
                .check_subresource(definition::check_status)
                .conditional_update()
                .generation(Generation::Spec),
        ),
    )]
}

/// The versions that objects may be stored in: every one that was the storage version.
fn prepare(new: &mut Value, _old: Option<&Value>, cx: &HookCx<'_>) {
    if matches!(cx.op, Op::Subresource(_)) {
        return;
    }
    let mut stored = new.items_at("/status/storedVersions").to_vec();
    let storage = new.items_at("/spec/versions").iter().filter(|v| v.bool_at("/storage") == Some(true));
    for name in storage.filter_map(|v| v.get("name")) {
        if !stored.contains(name) {
            stored.push(name.clone());
        }
    }
    new.set_at("/status/storedVersions", stored);
}
