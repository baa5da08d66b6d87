//! DaemonSets.

use serde_json::{Value, json};

use crate::api::schema;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::core::templates::{always_restarted, collisions};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy};
use crate::registry::validate::{self, Field, labels, warnings};
use crate::registry::{Resource, cells};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int("Desired", "/status/desiredNumberScheduled"),
    Column::int("Current", "/status/currentNumberScheduled"),
    Column::int("Ready", "/status/numberReady"),
    Column::int("Up-to-date", "/status/updatedNumberScheduled"),
    Column::int("Available", "/status/numberAvailable"),
    Column::new("Node Selector", |d, _| cells::label_text(d.get_at("/spec/template/spec/nodeSelector")).into()),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    cells::SELECTOR,
];

/// Counts the templates, as a field of an older version did.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("apps", "v1", "DaemonSet", "daemonsets", "daemonset")
        .short(&["ds"])
        .categories(&["all"])
        .subresources(STATUS_ONLY)
        .derived_annotation(TEMPLATE_GENERATION)
        .columns(COLUMNS);
    Resource::new(info, Box::new(DaemonSets))
}

/// Counts that a status always has.
const COUNTS: [&str; 4] = ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"];
/// And those that it may have.
const MORE_COUNTS: [&str; 4] = ["updatedNumberScheduled", "numberAvailable", "numberUnavailable", "observedGeneration"];

struct DaemonSets;

impl Strategy for DaemonSets {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        match old {
            None => {
                new["status"] = json!({});
                for count in COUNTS {
                    new["status"][count] = 0.into();
                }
            }
            Some(_) if cx.op != Op::Update => return,
            Some(_) => {}
        }
        count_template(new, old);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        warnings::pod_spec(&new["spec"]["template"]["spec"], "spec.template.spec")
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let set = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            let status = set.at("status");
            COUNTS.iter().chain(&MORE_COUNTS).for_each(|c| status.not_negative(c));
            return collisions(&status, old);
        }
        let spec = set.at("spec");
        labels::of_daemon_set(&spec);
        always_restarted(&spec.at("template"));
        spec.not_negative("minReadySeconds");
        spec.not_negative("revisionHistoryLimit");
        strategy(&spec.at("updateStrategy"));
        if let Some(old) = old {
            spec.immutable("selector", &old["spec"]);
        }
    }
}

/// An annotation counts the templates, as a field of an older version did.
fn count_template(new: &mut Value, old: Option<&Value>) {
    let at = &format!("/metadata/annotations/{TEMPLATE_GENERATION}");
    let count = match old {
        None => 1,
        Some(old) => {
            let was = old.str_at(at).and_then(|t| t.parse::<i64>().ok()).unwrap_or(0);
            let (now, before) = (&new["spec"]["template"], &old["spec"]["template"]);
            was + i64::from(!schema::equal_as("core.v1.PodTemplateSpec", now, before))
        }
    };
    new.set_at(at, count.to_string());
    crate::registry::meta::order(crate::registry::meta::metadata(new));
}

fn strategy(field: &Field<'_>) {
    let rolling = field.at("rollingUpdate");
    match field.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.value.is_null() => rolling.errs.required(""),
        "RollingUpdate" => {
            for name in ["maxUnavailable", "maxSurge"] {
                validate::int_or_percent(&rolling.at(name));
                validate::at_most_all(&rolling.at(name));
            }
            let zero = |name: &str| validate::is_zero(rolling.value.get(name));
            match (zero("maxUnavailable"), zero("maxSurge")) {
                (true, true) => rolling.errs.at("maxUnavailable").required("cannot be 0 when maxSurge is 0"),
                (false, false) => rolling.at("maxSurge").invalid("may not be set when maxUnavailable is non-zero"),
                _ => {}
            }
        }
        _ => field.errs.not_supported(field.value.clone(), &["RollingUpdate", "OnDelete"]),
    }
}
