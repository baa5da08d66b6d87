//! ReplicaSets.

use serde_json::{Value, json};

use crate::api::scheme::{Column, KindInfo, SCALE, STATUS, Subresource};
use crate::registry::core::templates::{always_restarted, counts};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy};
use crate::registry::validate::{Field, labels, warnings};
use crate::registry::{Resource, cells};

const SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int("Desired", "/spec/replicas"),
    Column::int("Current", "/status/replicas"),
    Column::int("Ready", "/status/readyReplicas"),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    cells::SELECTOR,
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("apps", "v1", "ReplicaSet", "replicasets", "replicaset")
        .short(&["rs"])
        .categories(&["all"])
        .subresources(SUBRESOURCES)
        .columns(COLUMNS);
    Resource::new(info, Box::new(ReplicaSets))
}

struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({"replicas": 0});
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &HookCx<'_>) -> Vec<String> {
        warnings::workload(new, cx.op == Op::Create)
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let set = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            let all = [
                "replicas",
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "terminatingReplicas",
                "observedGeneration",
            ];
            return counts(&set.at("status"), &all);
        }
        let spec = set.at("spec");
        spec.not_negative("replicas");
        spec.not_negative("minReadySeconds");
        if labels::of_workload(&spec, "replicaset") {
            always_restarted(&spec.at("template"));
        }
        if let Some(old) = old {
            spec.immutable("selector", &old["spec"]);
        }
    }
}
