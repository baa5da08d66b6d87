//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize: claims and volumes.
//!
//! Rules: upstream `plugin/pkg/admission/storage`.

use std::sync::Arc;

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::{Plugin, list_mut, refuse};

/// Marks default classes; the second one is its old name.
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The class of a claim in old manifests.
const OLD_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

/// The newest object of a kind that one of the annotations marks as the default; by name where they are equally old.
pub(super) fn newest_default(view: &dyn View, group: &str, plural: &str, annotations: &[&str]) -> Option<Arc<Object>> {
    let marked = |o: &Arc<Object>| {
        let value = o.value();
        let found = &value["metadata"]["annotations"];
        annotations.iter().any(|a| found[*a] == "true")
    };
    let mut all: Vec<Arc<Object>> = view.list(group, plural, None).into_iter().filter(marked).collect();
    all.sort_by(|a, b| b.meta.created.cmp(&a.meta.created).then_with(|| a.meta.name.cmp(&b.meta.name)));
    all.into_iter().next()
}

/// Claims without a class get the default one.
pub struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let wanted = a.is("", "persistentvolumeclaims") && a.operation == "CREATE";
        let has_class = |v: &Value| v.get_at("/spec/storageClassName").is_some() || v.get_at(OLD_CLASS).is_some();
        if !wanted || has_class(new) {
            return Ok(());
        }
        if let Some(class) = newest_default(view, "storage.k8s.io", "storageclasses", &IS_DEFAULT) {
            new.set_at("/spec/storageClassName", class.meta.name.as_str());
        }
        Ok(())
    }
}

/// Claims and volumes that are in use do not go.
pub struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        let finalizer = match () {
            () if a.is("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            () if a.is("", "persistentvolumes") => "kubernetes.io/pv-protection",
            () if a.is("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
            () => return Ok(()),
        };
        if a.operation == "CREATE" && !new.items_at("/metadata/finalizers").iter().any(|f| f == finalizer) {
            list_mut(new, "/metadata/finalizers").push(finalizer.into());
        }
        Ok(())
    }
}

/// Only claims whose class allows it grow.
pub struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        if !a.is("", "persistentvolumeclaims") || a.operation != "UPDATE" || !a.subresource.is_empty() {
            return Ok(());
        }
        let size = |v: &Value| {
            let text = v.str_at("/spec/resources/requests/storage").unwrap_or_default();
            Quantity::parse(text).map_or(0, |q| q.nanos())
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.str_at("/status/phase") != Some("Bound") {
            return Err(refuse(a, &a.target.name, "only bound persistent volume claims can be expanded"));
        }
        let class = new.str_at("/spec/storageClassName").or(new.str_at(OLD_CLASS)).unwrap_or_default();
        let class = view.get("storage.k8s.io", "storageclasses", "", class).map(|c| c.value());
        if class.is_some_and(|c| c.bool_at("/allowVolumeExpansion") == Some(true)) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(refuse(a, &a.target.name, why))
    }
}
