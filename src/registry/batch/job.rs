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
use crate::registry::validate::{Field, domain_prefixed_path, labels, pod_spec, resources, warnings};
use crate::registry::{Resource, cells};

use super::{job_policy, job_status};

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
/// Above so many indexes the next bound holds.
const MANY_INDEXES: i64 = 100_000;
/// Most pods at once, and most failures, of a job with that many indexes.
const OF_MANY_MAX: i64 = 10_000;
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
        let bare = new.get_at("/metadata/labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
        if let (None, true, Some(labels)) = (old, bare, new.get_at(TEMPLATE_LABELS).cloned()) {
            let meta = crate::registry::meta::metadata(new);
            meta.insert("labels".into(), labels);
            crate::registry::meta::order(meta);
        }
        Ok(Held::default())
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &HookCx<'_>) -> Vec<String> {
        warnings::workload(new, cx.op == Op::Create)
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let job = Field::root(new, errs);
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            job_status::update(new, old.unwrap_or(&Value::Null), errs);
            return;
        }
        let spec = job.at("spec");
        if old.is_none() {
            host_names(&job);
        }
        job_spec(&spec);
        selector(&spec);
        generated_selector(new, old, &spec);
        if let Some(old) = old {
            update(&spec, &old["spec"], old);
        }
    }
}

/// An indexed job's pods carry the index in their host names, which must be labels still.
fn host_names(job: &Field<'_>) {
    let spec = job.at("spec");
    let name = job.at("metadata").text("name");
    if let (Some(n @ 1..), "Indexed") = (spec.int("completions"), spec.text("completionMode")) {
        let last = format!("{name}-{}", n - 1);
        for why in names::dns1123_label(&last) {
            job.errs.at("metadata").at("name").invalid(name, format!("{last:?} would be a pod's host name: {why}"));
        }
    }
}

/// The selector is there, well formed, and matches the template. None matches nothing.
fn selector(spec: &Field<'_>) {
    let field = spec.at("selector");
    let before = field.errs.len();
    if field.value.is_null() {
        field.errs.required("");
    } else {
        labels::selector(&field);
        if field.errs.len() > before {
            return;
        }
    }
    let labels = spec.at("template").at("metadata").at("labels");
    let matches = |s: Selector| !field.value.is_null() && s.matches_value(Some(labels.value));
    if !Selector::from_label_selector(field.value).is_ok_and(matches) {
        labels.invalid("`selector` does not match template `labels`");
    }
}

/// A job that does not bring its own selector gets one by its uid.
fn own_labels(job: &mut Value) {
    let uid = job["metadata"]["uid"].clone();
    let name = Value::from(job.str_at("/metadata/name").unwrap_or_default());
    let mut labels = job.get_at(TEMPLATE_LABELS).cloned().filter(Value::is_object).unwrap_or(json!({}));
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
        let labels = old.and_then(|o| o.get_at(TEMPLATE_LABELS));
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
    let name = job.str_at("/metadata/name").unwrap_or_default();
    let of_job = json!({"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid,
        "batch.kubernetes.io/job-name": name, "job-name": name});
    let selector = Selector::from_label_selector(spec.at("selector").value);
    if !selector.is_ok_and(|s| s.matches_value(Some(&of_job))) {
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
        domain_prefixed_path(&spec.at("managedBy"));
        if spec.text("managedBy").len() > MANAGED_BY_MAX {
            spec.errs.at("managedBy").too_long(MANAGED_BY_MAX);
        }
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
    pod_spec::template(&template);
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

fn completion_mode(spec: &Field<'_>) {
    spec.optional_one_of("completionMode", &["Indexed", "NonIndexed"]);
    match spec.text("completionMode") {
        "Indexed" => indexed(spec),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"].iter().filter(|f| spec.has(f)) {
                spec.at(field).invalid("requires indexed completion mode");
            }
        }
        _ => {}
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        spec.errs.at("backoffLimitPerIndex").required("when maxFailedIndexes is specified");
    }
}

/// An indexed job's numbers. With very many indexes, counted one by one, less of them may run and fail at once.
fn indexed(spec: &Field<'_>) {
    if !spec.has("completions") {
        spec.errs.at("completions").required("when completion mode is Indexed");
    }
    let at_most = |field: &str, max: i64| {
        if spec.int(field).is_some_and(|n| n > max) {
            spec.at(field).invalid(format!("must be less than or equal to {max} when completion mode is Indexed"));
        }
    };
    at_most("parallelism", PARALLELISM_MAX);
    at_most("maxFailedIndexes", PARALLELISM_MAX);
    let completions = spec.int("completions");
    if let Some(all) = completions {
        at_most("maxFailedIndexes", all);
    }
    if completions.is_some_and(|n| n > MANY_INDEXES) && spec.has("backoffLimitPerIndex") {
        if !spec.has("maxFailedIndexes") {
            spec.errs.at("maxFailedIndexes").required(format!("when completions is above {MANY_INDEXES}"));
        }
        at_most("parallelism", OF_MANY_MAX);
        at_most("maxFailedIndexes", OF_MANY_MAX);
    }
}

/// What of a pod template may change while its job is suspended: where its pods go, and what they need.
const DIRECTIVES: [&str; 4] =
    ["/spec/nodeSelector", "/spec/affinity/nodeAffinity", "/spec/tolerations", "/spec/schedulingGates"];

/// Nothing runs by the template of such a job: it was suspended before it started, or all of its pods are on their way out.
/// Rule: upstream `validationOptionsForJob`.
fn is_at_rest(job: &Value) -> bool {
    let started = job.get_at("/status/startTime").is_some_and(|t| !t.is_null());
    let left = has_condition(job, "Suspended") && job.int_at("/status/active").unwrap_or(0) == 0;
    job.bool_at("/spec/suspend") == Some(true) && (!started || left)
}

/// The template without what may change at rest.
fn without_directives(template: &Value) -> Value {
    let mut template = template.clone();
    for at in DIRECTIVES {
        template.remove_at(at);
    }
    if template.get_at("/spec/affinity").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        template.remove_at("/spec/affinity");
    }
    for list in ["containers", "initContainers"] {
        let containers = template.get_mut("spec").and_then(|s| s.get_mut(list)).and_then(Value::as_array_mut);
        containers.into_iter().flatten().for_each(|c| drop(c.remove_at("/resources")));
    }
    template
}

/// What of a job stays.
fn update(spec: &Field<'_>, old: &Value, whole: &Value) {
    if spec.text("completionMode") != "Indexed" {
        spec.immutable("completions", old);
    } else if spec.int("completions") != old.int_at("/completions")
        && spec.has("completions")
        && spec.int("completions") != spec.int("parallelism")
    {
        spec.at("completions").invalid("can only be modified in tandem with spec.parallelism");
    }
    spec.immutable("selector", old);
    template(&spec.at("template"), &old["template"], is_at_rest(whole));
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.immutable(field, old);
    }
}

/// At rest upstream compares the pods' specifications only.
fn template(template: &Field<'_>, old: &Value, at_rest: bool) {
    let settled = |template: &Value| {
        let mut template = if at_rest { without_directives(template) } else { template.clone() };
        resources::settle(&mut template["spec"]);
        template
    };
    let (new, was) = (settled(template.value), settled(old));
    if at_rest && new.get("spec") != was.get("spec") {
        template.at("spec").invalid("field is immutable");
    } else if !at_rest && new != was {
        template.invalid("field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn job() -> Value {
        json!({"suspend": true, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {}},
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}})
    }

    const LEFT: &str =
        r#"{"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]}"#;
    const BUSY: &str = r#"{"startTime": "2026-01-01T00:00:00Z", "active": 1, "conditions": [{"type": "Suspended", "status": "True"}]}"#;
    const SOON: &str = r#"{"startTime": "2026-01-01T00:00:00Z"}"#;

    #[test_case("{}", "/spec/containers/0/resources/requests/cpu", json!("2"), None; "needs more, not started")]
    #[test_case(LEFT, "/spec/containers/0/resources/requests/cpu", json!("2"), None; "needs more")]
    #[test_case(LEFT, "/spec/containers/0/resources", json!({"limits": {"cpu": "3"}}), None; "has a limit")]
    #[test_case(LEFT, "/spec/nodeSelector/a", json!("c"), None; "goes elsewhere")]
    #[test_case(LEFT, "/metadata/labels/a", json!("c"), None; "is called otherwise")]
    #[test_case(LEFT, "/spec/affinity", json!(null), None; "goes anywhere")]
    #[test_case(LEFT, "/spec/affinity", json!({"podAffinity": {}}), Some("spec.template.spec"); "goes with others")]
    #[test_case(LEFT, "/spec/containers/0/image", json!("j"), Some("spec.template.spec"); "another image")]
    #[test_case(BUSY, "/spec/containers/0/resources/requests/cpu", json!("2"), Some("spec.template"); "pods still run")]
    #[test_case(SOON, "/spec/containers/0/resources/requests/cpu", json!("2"), Some("spec.template"); "not suspended yet")]
    fn a_template_at_rest(status: &str, at: &str, value: Value, wrong: Option<&str>) {
        let old = job();
        let mut new = old.clone();
        match value.is_null() {
            true => drop(new["template"].remove_at(at)),
            false => new["template"].set_at(at, value),
        }
        let whole = json!({"spec": old, "status": serde_json::from_str::<Value>(status).unwrap()});
        let errs = FieldErrors::new();
        update(&Field { value: &new, errs: errs.at("spec") }, &old, &whole);
        let fields: Vec<String> = errs.take().into_iter().map(|c| c.field).collect();
        assert_eq!(fields, wrong.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
    }
}
