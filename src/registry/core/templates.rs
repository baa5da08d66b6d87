//! PodTemplates and ReplicationControllers.

use serde_json::{Value, json};

use crate::api::meta::labels::Selector;
use crate::api::scheme::{Column, KindInfo, SCALE, STATUS, Selectable, Subresource};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy};
use crate::registry::validate::{Field, pod_spec, warnings};
use crate::registry::{Resource, cells};

const TEMPLATE_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Containers", |t, _| cells::container_names(t, "/template/spec/containers")),
    Column::new("Images", |t, _| cells::container_images(t, "/template/spec/containers")),
    Column::new("Pod Labels", |t, _| cells::label_text(t.get_at("/template/metadata/labels")).into()),
];

const CONTROLLER_SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];
const CONTROLLER_FIELDS: &[Selectable] = &[Selectable::or("status.replicas", "/status/replicas", "0")];
const CONTROLLER_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int("Desired", "/spec/replicas"),
    Column::int("Current", "/status/replicas"),
    Column::int("Ready", "/status/readyReplicas"),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    Column::new("Selector", |c, _| cells::label_text(c.get_at("/spec/selector")).into()).wide(),
];

/// PodTemplates.
pub fn pod_template() -> Resource {
    let info = KindInfo::namespaced("", "v1", "PodTemplate", "podtemplates", "podtemplate");
    Resource::new(info.columns(TEMPLATE_COLUMNS), Box::new(PodTemplates))
}

/// ReplicationControllers.
pub fn replication_controller() -> Resource {
    let (plural, singular) = ("replicationcontrollers", "replicationcontroller");
    let info = KindInfo::namespaced("", "v1", "ReplicationController", plural, singular)
        .short(&["rc"])
        .categories(&["all"])
        .subresources(CONTROLLER_SUBRESOURCES)
        .selectable(CONTROLLER_FIELDS)
        .columns(CONTROLLER_COLUMNS);
    Resource::new(info, Box::new(Controllers))
}

struct PodTemplates;

impl Strategy for PodTemplates {
    fn generation(&self) -> Generation {
        Generation::Content
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        warnings::pod_spec(&new["template"]["spec"], "template.spec")
    }

    fn validate(&self, new: &Value, _: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        pod_spec::template(&Field::root(new, errs).at("template"));
    }
}

struct Controllers;

impl Strategy for Controllers {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({"replicas": 0});
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        warnings::pod_spec(&new["spec"]["template"]["spec"], "spec.template.spec")
    }

    fn validate(&self, new: &Value, _: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let controller = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            return counts(
                &controller.at("status"),
                &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
            );
        }
        let spec = controller.at("spec");
        spec.not_negative("replicas");
        spec.not_negative("minReadySeconds");
        let selector = spec.at("selector").value;
        let empty = selector.as_object().is_none_or(serde_json::Map::is_empty);
        if empty {
            spec.errs.at("selector").required("");
        }
        if !spec.has("template") {
            spec.errs.at("template").required("");
            return;
        }
        let labels = spec.at("template").at("metadata").at("labels");
        if !empty && !Selector::from_map(selector).matches_value(Some(labels.value)) {
            labels.invalid("`selector` does not match template `labels`");
        }
        always_restarted(&spec.at("template"));
    }
}

/// Numbers that are parts of `replicas`.
const PARTS: [&str; 5] =
    ["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "updatedReplicas", "currentReplicas"];

/// A count that only grows.
pub fn collisions(status: &Field<'_>, old: Option<&Value>) {
    status.not_negative("collisionCount");
    let was = old.and_then(|o| o.int_at("/status/collisionCount"));
    if was.is_some_and(|was| status.int("collisionCount").is_none_or(|now| now < was)) {
        status.at("collisionCount").invalid("cannot be decremented");
    }
}

/// Numbers of a status that are not below zero, and not above `replicas`, the first of them.
pub fn counts(status: &Field<'_>, names: &[&str]) {
    for name in names {
        status.not_negative(name);
    }
    let all = status.int("replicas").unwrap_or(0);
    for name in PARTS.iter().filter(|n| names.contains(n)) {
        if status.int(name).unwrap_or(0) > all {
            status.at(name).invalid("cannot be greater than status.replicas");
        }
    }
    if status.int("availableReplicas").unwrap_or(0) > status.int("readyReplicas").unwrap_or(0)
        && names.contains(&"availableReplicas")
        && names.contains(&"readyReplicas")
    {
        status.at("availableReplicas").invalid("cannot be greater than readyReplicas");
    }
}

/// A template of pods that run until their controller ends them.
pub fn always_restarted(template: &Field<'_>) {
    pod_spec::template(template);
    let spec = template.at("spec");
    let policy = spec.text("restartPolicy");
    if policy != "Always" {
        spec.errs.at("restartPolicy").not_supported(policy, &["Always"]);
    }
    if spec.value.int_at("/activeDeadlineSeconds").is_some() {
        spec.errs
            .at("activeDeadlineSeconds")
            .forbidden("activeDeadlineSeconds in this kind's template is not supported");
    }
}
