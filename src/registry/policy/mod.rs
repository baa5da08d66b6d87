//! Kinds of the API group `policy`.
//!
//! Rules: upstream `pkg/apis/policy/validation`.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation, HookCx};
use crate::registry::validate::labels::selector;
use crate::registry::validate::{Field, at_most_all, conditions, int_or_percent};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Min Available", |o, _| bound_cell(&o["spec"]["minAvailable"])),
    Column::new("Max Unavailable", |o, _| bound_cell(&o["spec"]["maxUnavailable"])),
    Column::int("Allowed Disruptions", "/status/disruptionsAllowed"),
    Column::AGE,
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
            .short(&["pdb"])
            .columns(COLUMNS)
            .subresources(STATUS_ONLY),
        Box::new(
            Common::NONE.generation(Generation::Spec).conditional_update().check(check).check_subresource(check_status),
        ),
    )]
}

fn bound_cell(bound: &Value) -> Value {
    match bound {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        number => number.to_string().into(),
    }
}

fn check(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        spec.invalid("minAvailable and maxUnavailable cannot be both set");
    }
    for bound in ["minAvailable", "maxUnavailable"] {
        let field = spec.at(bound);
        int_or_percent(&field);
        at_most_all(&field);
    }
    selector(&spec.at("selector"));
    spec.optional_one_of("unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"]);
}

fn check_status(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let status = o.at("status");
    for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        status.not_negative(count);
    }
    conditions::conditions(&status);
}
