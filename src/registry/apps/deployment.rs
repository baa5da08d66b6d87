//! Deployments.

use serde_json::{Value, json};

use crate::api::patch::apply::FieldSet;
use crate::api::scheme::{Column, KindInfo, SCALE, STATUS, Subresource};
use crate::api::value::ValueExt;
use crate::registry::core::templates::{always_restarted, collisions, counts};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy, resets};
use crate::registry::validate::{self, Field, labels, warnings};
use crate::registry::{Resource, cells};

const SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", |d, _| {
        format!("{}/{}", cells::int(d, "/status/readyReplicas"), cells::int(d, "/spec/replicas")).into()
    }),
    Column::new("Up-to-date", |d, _| cells::int(d, "/status/updatedReplicas").into()),
    Column::new("Available", |d, _| cells::int(d, "/status/availableReplicas").into()),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    cells::SELECTOR,
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("apps", "v1", "Deployment", "deployments", "deployment")
        .short(&["deploy"])
        .categories(&["all"])
        .subresources(SUBRESOURCES)
        .columns(COLUMNS);
    Resource::new(info, Box::new(Deployments))
}

struct Deployments;

impl Strategy for Deployments {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn resets(&self, _: &KindInfo, subresource: Option<&str>) -> &'static FieldSet<'static> {
        match subresource {
            None => &resets::STATUS,
            Some("status") => &resets::SPEC_AND_LABELS,
            Some(_) => &resets::NOTHING,
        }
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({});
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        new["spec"] = old["spec"].clone();
        match old.get_at("/metadata/labels").cloned() {
            Some(labels) => new.set_at("/metadata/labels", labels),
            None => drop(new.remove_at("/metadata/labels")),
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &HookCx<'_>) -> Vec<String> {
        warnings::workload(new, cx.op == Op::Create)
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let deployment = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            return status(&deployment.at("status"), old);
        }
        let spec = deployment.at("spec");
        for number in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            spec.not_negative(number);
        }
        if labels::of_workload(&spec, "deployment") {
            always_restarted(&spec.at("template"));
        }
        strategy(&spec.at("strategy"));
        spec.not_negative("progressDeadlineSeconds");
        if let Some(deadline) = spec.int("progressDeadlineSeconds")
            && deadline <= spec.int("minReadySeconds").unwrap_or(0)
        {
            spec.at("progressDeadlineSeconds").invalid("must be greater than minReadySeconds");
        }
        if let Some(old) = old {
            spec.immutable("selector", &old["spec"]);
        }
    }
}

fn strategy(field: &Field<'_>) {
    let rolling = field.at("rollingUpdate");
    match field.text("type") {
        "Recreate" if !rolling.value.is_null() => {
            rolling.errs.forbidden("may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.value.is_null() => {
            rolling.errs.required("this should be defaulted and never be nil")
        }
        "RollingUpdate" => rolling_update(&rolling),
        _ => field.errs.not_supported(field.value.clone(), &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(rolling: &Field<'_>) {
    validate::int_or_percent(&rolling.at("maxUnavailable"));
    validate::int_or_percent(&rolling.at("maxSurge"));
    if validate::is_zero(rolling.value.get("maxUnavailable")) && validate::is_zero(rolling.value.get("maxSurge")) {
        rolling.at("maxUnavailable").invalid("may not be 0 when `maxSurge` is 0");
    }
    validate::at_most_all(&rolling.at("maxUnavailable"));
}

fn status(status: &Field<'_>, old: Option<&Value>) {
    let all = [
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ];
    counts(status, &all);
    collisions(status, old);
}
