//! StatefulSets.

use serde_json::{Value, json};

use crate::api::meta::names;
use crate::api::schema;
use crate::api::scheme::{Column, KindInfo, SCALE, STATUS, Subresource};
use crate::api::value::ValueExt;
use crate::registry::core::templates::{always_restarted, collisions, counts};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy};
use crate::registry::validate::{self, Field, claims, labels, warnings};
use crate::registry::{Resource, cells};

const SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", |s, _| {
        format!("{}/{}", cells::int(s, "/status/readyReplicas"), cells::int(s, "/spec/replicas")).into()
    }),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
];
/// What of the specification may change.
const MAY_CHANGE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("apps", "v1", "StatefulSet", "statefulsets", "statefulset")
        .short(&["sts"])
        .categories(&["all"])
        .subresources(SUBRESOURCES)
        .columns(COLUMNS);
    Resource::new(info, Box::new(StatefulSets))
}

struct StatefulSets;

impl Strategy for StatefulSets {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({"replicas": 0, "availableReplicas": 0});
        }
        for claim in new.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
            claim.set_if_absent("/status/phase", "Pending");
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        warnings::pod_spec(&new["spec"]["template"]["spec"], "spec.template.spec")
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let set = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            let all = [
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
            ];
            counts(&set.at("status"), &all);
            return collisions(&set.at("status"), old);
        }
        let spec = set.at("spec");
        if !matches!(spec.text("podManagementPolicy"), "OrderedReady" | "Parallel") {
            spec.at("podManagementPolicy").invalid("must be 'OrderedReady' or 'Parallel'");
        }
        strategy(&spec);
        retention(&spec.at("persistentVolumeClaimRetentionPolicy"));
        spec.not_negative("replicas");
        spec.not_negative("minReadySeconds");
        // It never changes: what older servers let in stays as it is.
        if cx.op == Op::Create && !spec.text("serviceName").is_empty() {
            spec.at("serviceName").reasons(names::dns1123_label(spec.text("serviceName")));
        }
        spec.at("ordinals").not_negative("start");
        let selects = labels::of_workload(&spec, "statefulset");
        for claim in spec.items("volumeClaimTemplates").filter(|_| cx.op == Op::Create) {
            claims::spec(&claim.at("spec"));
        }
        if selects {
            let template = as_in_pods(&spec);
            always_restarted(&Field { value: &template, errs: spec.errs.at("template") });
        }
        if let Some(old) = old {
            update(&spec, &old["spec"]);
        }
    }
}

/// The template as its pods have it: with a volume for each claim, which win over the template's own of the same name, and
/// without names, which are the set's to give.
fn as_in_pods(spec: &Field<'_>) -> Value {
    let claims: Vec<&str> =
        spec.items("volumeClaimTemplates").map(|t| t.value.str_at("/metadata/name").unwrap_or_default()).collect();
    let mut template = spec.at("template").value.clone();
    template.remove_at("/spec/hostname");
    template.remove_at("/spec/subdomain");
    if claims.is_empty() || !template["spec"].is_object() {
        return template;
    }
    let mut volumes = template.items_at("/spec/volumes").to_vec();
    volumes.retain(|v| !claims.contains(&v.str_at("/name").unwrap_or_default()));
    volumes.extend(claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})));
    template.set_at("/spec/volumes", volumes);
    template
}

fn strategy(spec: &Field<'_>) {
    let field = spec.at("updateStrategy");
    let rolling = field.at("rollingUpdate");
    match field.text("type") {
        "" => field.errs.required(""),
        "OnDelete" if !rolling.value.is_null() => rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.not_negative("partition");
            if rolling.has("maxUnavailable") {
                let max = rolling.at("maxUnavailable");
                validate::int_or_percent(&max);
                validate::at_most_all(&max);
                if validate::is_zero(Some(max.value)) {
                    max.invalid("cannot be 0");
                }
            }
        }
        _ => field.invalid("must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn retention(field: &Field<'_>) {
    if !field.value.is_null() {
        field.one_of("whenDeleted", &["Delete", "Retain"]);
        field.one_of("whenScaled", &["Delete", "Retain"]);
    }
}

fn update(spec: &Field<'_>, old: &Value) {
    let rest = |of: &Value| -> Value {
        let members = of.as_object().into_iter().flatten().filter(|(k, _)| !MAY_CHANGE.contains(&k.as_str()));
        members.map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>().into()
    };
    if !schema::equal_as("apps.v1.StatefulSetSpec", &rest(spec.value), &rest(old)) {
        spec.errs.forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
