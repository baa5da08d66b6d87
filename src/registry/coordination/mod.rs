//! Kinds of the API group `coordination.k8s.io`.
//!
//! Rules: upstream `pkg/apis/coordination/validation`.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, HookCx};
use crate::registry::validate::Field;

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Holder", "/spec/holderIdentity"), Column::AGE];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("coordination.k8s.io", "v1", "Lease", "leases", "lease").columns(COLUMNS),
        Box::new(Common::NONE.create_on_update().conditional_update().prepare(prepare).check(check)),
    )]
}

/// Coordinated leader election is off, as upstream has it by default: its fields stay where they were before.
fn prepare(new: &mut Value, old: Option<&Value>, _cx: &HookCx<'_>) {
    for field in ["/spec/strategy", "/spec/preferredHolder"] {
        if old.is_none_or(|o| o.get_at(field).is_none()) {
            new.remove_at(field);
        }
    }
}

fn check(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if spec.int("leaseDurationSeconds").is_some_and(|s| s <= 0) {
        spec.at("leaseDurationSeconds").invalid("must be greater than 0");
    }
    spec.not_negative("leaseTransitions");
}
