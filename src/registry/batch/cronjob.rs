//! CronJobs.

use serde_json::{Value, json};

use crate::api::cron::Schedule;
use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy};
use crate::registry::validate::{Field, warnings};
use crate::registry::{Resource, cells};

use super::job;

/// Longest name: jobs get eleven characters more.
const NAME_MAX: usize = names::LABEL_MAX - 11;
const CONTAINERS: &str = "/spec/jobTemplate/spec/template/spec/containers";
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Schedule", "/spec/schedule"),
    Column::new("Timezone", |c, _| cells::or_none(c, "/spec/timeZone")),
    Column::new("Suspend", |c, _| if c.bool_at("/spec/suspend") == Some(true) { "True" } else { "False" }.into()),
    Column::new("Active", |c, _| c.items_at("/status/active").len().into()),
    Column::new("Last Schedule", |c, now| match c.str_at("/status/lastScheduleTime") {
        Some(_) => cells::since(c, "/status/lastScheduleTime", now).into(),
        None => cells::NONE.into(),
    }),
    Column::AGE,
    Column::new("Containers", |c, _| cells::container_names(c, CONTAINERS)).wide(),
    Column::new("Images", |c, _| cells::container_images(c, CONTAINERS)).wide(),
    Column::new("Selector", |c, _| match c.get_at("/spec/jobTemplate/spec/selector") {
        Some(selector) => cells::selector_query(selector).into(),
        None => cells::NONE.into(),
    })
    .wide(),
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("batch", "v1", "CronJob", "cronjobs", "cronjob")
        .short(&["cj"])
        .categories(&["all"])
        .subresources(STATUS_ONLY)
        .columns(COLUMNS);
    Resource::new(info, Box::new(CronJobs))
}

struct CronJobs;

impl Strategy for CronJobs {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({});
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &HookCx<'_>) -> Vec<String> {
        let pod = new.get_at("/spec/jobTemplate/spec/template/spec").unwrap_or(&Value::Null);
        let mut out = warnings::pod_spec(pod, "spec.jobTemplate.spec.template.spec");
        if cx.op == Op::Create {
            out.extend(warnings::host_name(new, "Pod names and hostnames"));
        }
        out
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        if matches!(cx.op, Op::Subresource(_)) {
            return;
        }
        let name = new.str_at("/metadata/name").unwrap_or_default();
        if old.is_none() && name.len() > NAME_MAX {
            errs.at("metadata").at("name").invalid(name, format!("must be no more than {NAME_MAX} characters"));
        }
        let spec = Field::root(new, errs).at("spec");
        schedule(&spec);
        spec.not_negative("startingDeadlineSeconds");
        if spec.text("concurrencyPolicy").is_empty() {
            spec.errs.at("concurrencyPolicy").required("");
        } else {
            spec.one_of("concurrencyPolicy", &["Allow", "Forbid", "Replace"]);
        }
        time_zone(&spec, old);
        let template = spec.at("jobTemplate").at("spec");
        if template.flag("manualSelector") {
            template.errs.at("manualSelector").not_supported(true, &["nil", "false"]);
        }
        if template.has("selector") {
            template
                .errs
                .at("selector")
                .invalid(template.at("selector").value.clone(), "`selector` will be auto-generated");
        }
        job::job_spec(&template);
        spec.not_negative("successfulJobsHistoryLimit");
        spec.not_negative("failedJobsHistoryLimit");
    }
}

fn schedule(spec: &Field<'_>) {
    let text = spec.text("schedule");
    let at = spec.at("schedule");
    if text.is_empty() {
        at.errs.required("");
        return;
    }
    if let Err(why) = Schedule::parse(text) {
        at.invalid(why);
    }
    if text.contains("TZ") && spec.has("timeZone") {
        at.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule");
    } else if text.contains("TZ") {
        at.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn time_zone(spec: &Field<'_>, old: Option<&Value>) {
    let at = spec.at("timeZone");
    if at.value.is_null() || old.is_some_and(|o| o.get_at("/spec/timeZone") == Some(at.value)) {
        return;
    }
    let name = at.as_text();
    if name.is_empty() {
        at.invalid("timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        at.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if jiff::tz::TimeZone::get(name).is_err() {
        at.invalid(format!("unknown time zone {name}"));
    }
}
