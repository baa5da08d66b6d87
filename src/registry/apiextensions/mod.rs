//! Kinds of the API group `apiextensions.k8s.io`.
//!
//! The rules for a definition are in `definition`, those for its schemas in `schema`, `structural` and `defaults`.

pub mod bundle;
mod costs;
mod defaults;
mod definition;
pub(super) mod path;
mod schema;
mod structural;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::meta;
use crate::registry::strategy::{Common, Generation, HookCx, Op};
use crate::registry::{Resource, custom};
use crate::util::clock::rfc3339;

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
                .on_delete(begin_deletion)
                .check(definition::check)
                .check_subresource(definition::check_status)
                .warn(unknown_formats)
                .any_finalizer()
                .owns_nothing()
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
    let storage = new.items_at("/spec/versions").iter().find(|v| v.bool_at("/storage") == Some(true));
    if let Some(name) = storage.and_then(|v| v.get("name"))
        && !stored.contains(name)
    {
        stored.push(name.clone());
    }
    new.set_at("/status/storedVersions", stored);
}

/// Formats of texts that nothing will be checked for. Upstream: `validation.GetUnrecognizedFormats`.
fn unknown_formats(crd: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    fn walk(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(map) => {
                let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
                let name = text("format");
                if text("type") == "string" && !name.is_empty() && !custom::is_known_format(name) {
                    found.push(format!("unrecognized format {name:?}"));
                }
                map.values().for_each(|v| walk(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let schemas = crd.items_at("/spec/versions").iter().filter_map(|v| v.pointer("/schema/openAPIV3Schema"));
    schemas.for_each(|s| walk(s, &mut found));
    found
}

/// Keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition that is deleted stays until its objects are gone, and tells so. Upstream: `REST.Delete` of
/// `customresourcedefinition/etcd.go`.
fn begin_deletion(crd: &mut Value, cx: &HookCx<'_>) {
    let mut finalizers = crd.items_at("/metadata/finalizers").to_vec();
    if !finalizers.iter().any(|f| f == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.into());
        let metadata = meta::metadata(crd);
        metadata.insert("finalizers".into(), finalizers.into());
        meta::order(metadata);
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(crd, ("Terminating", true, "InstanceDeletionPending", why), cx.now);
}

/// Type, status, reason and message of a condition.
pub type Condition<'a> = (&'a str, bool, &'a str, &'a str);

/// Sets a condition of a definition; its time moves with its status only. Upstream: `SetCRDCondition`.
pub fn set_condition(crd: &mut Value, (kind, status, reason, message): Condition<'_>, now: Timestamp) {
    let mut all = crd.items_at("/status/conditions").to_vec();
    let status = if status { "True" } else { "False" };
    let mut made = json!({"type": kind, "status": status, "lastTransitionTime": rfc3339(now), "reason": reason,
        "message": message});
    match all.iter_mut().find(|c| c.str_at("/type") == Some(kind)) {
        Some(old) => {
            if old.str_at("/status") == Some(status) {
                made["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = made;
        }
        None => all.push(made),
    }
    crd.set_at("/status/conditions", all);
}
