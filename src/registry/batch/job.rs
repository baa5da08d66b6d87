//! Jobs: pods that run to their end.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::meta::labels::Selector;
use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY, Selectable, human_duration};
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, Held, HookCx, Op, Strategy};
use crate::registry::validate::{Field, labels, pod_spec, warnings};
use crate::registry::{Resource, cells};

use super::job_policy;

const FIELDS: &[Selectable] = &[Selectable::or("status.successful", "/status/succeeded", "0")];
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", status),
    Column::new("Completions", completions),
    Column::new("Duration", duration),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    cells::SELECTOR,
];
/// Longest name of the one who manages a job, characters.
const MANAGED_BY_MAX: usize = 63;
/// Most pods at once of an indexed job.
const PARALLELISM_MAX: i64 = 100_000;
const TEMPLATE_LABELS: &str = "/spec/template/metadata/labels";

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("batch", "v1", "Job", "jobs", "job")
        .categories(&["all"])
        .subresources(STATUS_ONLY)
        .selectable(FIELDS)
        .columns(COLUMNS);
    Resource::new(info, Box::new(Jobs))
}

fn has_condition(job: &Value, kind: &str) -> bool {
    let conditions = job.items_at("/status/conditions");
    conditions.iter().any(|c| c.str_at("/type") == Some(kind) && c.str_at("/status") == Some("True"))
}

fn status(job: &Value, _: Timestamp) -> Value {
    let deleting = job.str_at("/metadata/deletionTimestamp").is_some();
    let known = ["Complete", "Failed"].into_iter().find(|c| has_condition(job, c));
    match known {
        Some(condition) => condition,
        None if deleting => "Terminating",
        None if has_condition(job, "Suspended") => "Suspended",
        None if has_condition(job, "FailureTarget") => "FailureTarget",
        None if has_condition(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        None => "Running",
    }
    .into()
}

fn completions(job: &Value, _: Timestamp) -> Value {
    let done = cells::int(job, "/status/succeeded");
    match (job.int_at("/spec/completions"), job.int_at("/spec/parallelism").unwrap_or(0)) {
        (Some(all), _) => format!("{done}/{all}").into(),
        (None, n) if n > 1 => format!("{done}/1 of {n}").into(),
        (None, _) => format!("{done}/1").into(),
    }
}

fn duration(job: &Value, now: Timestamp) -> Value {
    let at = |p: &str| job.str_at(p).and_then(|t| t.parse::<Timestamp>().ok());
    let ended = job
        .items_at("/status/conditions")
        .iter()
        .find(|c| c.str_at("/type") == Some("Failed") && c.str_at("/status") == Some("True"))
        .and_then(|c| c.str_at("/lastTransitionTime")?.parse().ok());
    match at("/status/startTime") {
        None => "".into(),
        Some(start) => {
            let end = at("/status/completionTime").or(ended).unwrap_or(now);
            human_duration(end.as_second() - start.as_second()).into()
        }
    }
}

struct Jobs;

impl Strategy for Jobs {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_some() {
            return;
        }
        new["status"] = json!({});
        if new.bool_at("/spec/manualSelector") != Some(true) {
            own_labels(new);
        }
    }

    /// A job without labels of its own has its template's.
    fn allocate(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) -> ApiResult<Held> {
        let bare = new.pointer("/metadata/labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
        if let (None, true, Some(labels)) = (old, bare, new.pointer(TEMPLATE_LABELS).cloned()) {
            let meta = crate::registry::meta::metadata(new);
            meta.insert("labels".into(), labels);
            crate::registry::meta::order(meta);
        }
        Ok(Held::default())
    }

    fn warnings(&self, new: &Value, cx: &HookCx<'_>) -> Vec<String> {
        warnings::workload(new, cx.op == Op::Create)
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let job = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            let status = job.at("status");
            for count in ["active", "succeeded", "failed", "ready", "terminating"] {
                status.not_negative(count);
            }
            return;
        }
        let spec = job.at("spec");
        // A job names its pods: with an index they carry it, and must still be host names.
        if spec.text("completionMode") == "Indexed" && cx.op == Op::Create {
            let last = format!(
                "{}-{}",
                new.str_at("/metadata/name").unwrap_or_default(),
                spec.int("completions").unwrap_or(1) - 1
            );
            if last.len() > names::LABEL_MAX {
                errs.at("metadata")
                    .at("name")
                    .invalid(last, format!("must be no more than {} bytes", names::LABEL_MAX));
            }
        }
        job_spec(&spec);
        let before = errs.len();
        labels::selector(&spec.at("selector"), labels::Values::Checked);
        let well_formed = errs.len() == before;
        if spec.has("selector") {
            let field = spec.at("template").at("metadata").at("labels");
            match Selector::from_label_selector(spec.at("selector").value) {
                Ok(s) if well_formed && !s.matches_value(Some(field.value)) => {
                    field.invalid("`selector` does not match template `labels`")
                }
                Ok(_) => {}
                Err(_) => spec.at("selector").invalid("invalid label selector"),
            }
        } else {
            spec.errs.at("selector").required("");
            let labels = spec.at("template").at("metadata").at("labels");
            labels.invalid("`selector` does not match template `labels`");
        }
        generated_selector(new, old, &spec);
        if let Some(old) = old {
            update(&spec, &old["spec"], old);
        }
    }
}

/// A job that does not bring its own selector gets one by its uid.
fn own_labels(job: &mut Value) {
    let uid = job["metadata"]["uid"].clone();
    let name = Value::from(job.str_at("/metadata/name").unwrap_or_default());
    let mut labels = job.pointer(TEMPLATE_LABELS).cloned().filter(Value::is_object).unwrap_or(json!({}));
    for (key, value) in [("job-name", &name), ("controller-uid", &uid)] {
        for key in [key.to_owned(), format!("batch.kubernetes.io/{key}")] {
            if labels.get(&key).is_none() {
                labels[key] = value.clone();
            }
        }
    }
    if let Some(map) = labels.as_object_mut() {
        map.sort_keys();
    }
    job.set_at(TEMPLATE_LABELS, labels);
    job.set_at("/spec/selector/matchLabels/batch.kubernetes.io~1controller-uid", uid);
}

/// The labels and the selector that `own_labels` makes. Jobs from before the prefixed labels need not have those.
fn generated_selector(job: &Value, old: Option<&Value>, spec: &Field<'_>) {
    const PREFIX: &str = "batch.kubernetes.io/";
    let had = |key: &str| {
        let labels = old.and_then(|o| o.pointer(TEMPLATE_LABELS));
        labels.is_some_and(|l| l.get(format!("{PREFIX}{key}")).is_some())
    };
    let prefixed = old.is_none() || had("controller-uid") && had("job-name");
    if spec.flag("manualSelector") || !spec.has("selector") {
        return;
    }
    let uid = job.str_at("/metadata/uid").unwrap_or_default();
    let labels = spec.at("template").at("metadata").at("labels");
    for (key, want) in [
        ("batch.kubernetes.io/controller-uid", uid),
        ("controller-uid", uid),
        ("batch.kubernetes.io/job-name", job.str_at("/metadata/name").unwrap_or_default()),
        ("job-name", job.str_at("/metadata/name").unwrap_or_default()),
    ] {
        match labels.value.get(key).and_then(Value::as_str) {
            _ if key.starts_with(PREFIX) && !prefixed => {}
            None => labels.errs.key(key).required(format!("must be '{want}'")),
            Some(found) if found != want => labels.errs.key(key).invalid(found, format!("must be '{want}'")),
            Some(_) => {}
        }
    }
    let selected = |key: &str| spec.value.pointer("/selector/matchLabels").and_then(|m| m.get(key)?.as_str());
    let expected =
        ["batch.kubernetes.io/controller-uid", "controller-uid"].into_iter().any(|k| selected(k) == Some(uid));
    if !expected {
        spec.at("selector").invalid("`selector` not auto-generated");
    }
}

/// The `spec` of a job, as jobs and cron jobs' templates have it.
pub fn job_spec(spec: &Field<'_>) {
    for number in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.not_negative(number);
    }
    if spec.has("managedBy") {
        managed_by(&spec.at("managedBy"));
    }
    completion_mode(spec);
    job_policy::failure(spec);
    job_policy::success(spec);
    if spec.has("podReplacementPolicy") {
        let allowed: &[&str] =
            if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        spec.one_of("podReplacementPolicy", allowed);
    }
    let template = spec.at("template");
    pod_spec::template(&template, pod_spec::Options::default());
    let pod = template.at("spec");
    match pod.text("restartPolicy") {
        // Upstream tells of the default as of something left out.
        "" | "Always" => pod.errs.at("restartPolicy").required("valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            pod.at("restartPolicy").invalid("only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => pod.errs.at("restartPolicy").not_supported(other, &["OnFailure", "Never"]),
    }
}

fn managed_by(field: &Field<'_>) {
    let name = field.as_text();
    match name.split_once('/') {
        _ if name.is_empty() => field.errs.required(""),
        Some((domain, path)) if names::dns1123_subdomain(domain).is_empty() && !path.is_empty() => {}
        _ => field.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if name.len() > MANAGED_BY_MAX {
        field.errs.too_long(MANAGED_BY_MAX);
    }
}

fn completion_mode(spec: &Field<'_>) {
    let indexed = spec.text("completionMode") == "Indexed";
    spec.optional_one_of("completionMode", &["Indexed", "NonIndexed"]);
    if indexed {
        if !spec.has("completions") {
            spec.errs.at("completions").required("when completion mode is Indexed");
        }
        if spec.int("parallelism").is_some_and(|n| n > PARALLELISM_MAX) {
            spec.at("parallelism")
                .invalid(format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed"));
        }
        let (completions, failed) = (spec.int("completions"), spec.int("maxFailedIndexes"));
        if let (Some(all), Some(failed)) = (completions, failed)
            && failed > all
        {
            spec.at("maxFailedIndexes").invalid("must be less than or equal to completions");
        }
    } else if spec.has("backoffLimitPerIndex") {
        spec.at("backoffLimitPerIndex").invalid("requires indexed completion mode");
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        spec.errs.at("backoffLimitPerIndex").required("when maxFailedIndexes is specified");
    }
}

/// What of a job stays. Of a suspended one that never ran the scheduling directives may change.
fn update(spec: &Field<'_>, old: &Value, whole: &Value) {
    let elastic = spec.text("completionMode") == "Indexed"
        && spec.int("completions") == spec.int("parallelism")
        && old.int_at("/completions") == old.int_at("/parallelism");
    if !elastic {
        spec.immutable("completions", old);
    }
    spec.immutable("selector", old);
    let directives = [
        "/spec/nodeSelector",
        "/spec/affinity/nodeAffinity",
        "/spec/tolerations",
        "/spec/schedulingGates",
        "/metadata/labels",
        "/metadata/annotations",
    ];
    let suspended = old.get("suspend") == Some(&true.into()) && whole.pointer("/status/startTime").is_none();
    let strip = |template: &Value| {
        let mut template = template.clone();
        for at in directives.iter().filter(|_| suspended) {
            template.remove_at(at);
        }
        template
    };
    let template = spec.at("template");
    let (new, was) = (strip(template.value), strip(&old["template"]));
    if suspended && new.get("spec") != was.get("spec") {
        template.at("spec").invalid("field is immutable");
    } else if new != was {
        template.invalid("field is immutable");
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.immutable(field, old);
    }
}
