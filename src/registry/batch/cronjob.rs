//! CronJobs.

use serde_json::{Value, json};

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
    Column::new("Selector", |c, _| match c.pointer("/spec/jobTemplate/spec/selector") {
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

    fn warnings(&self, new: &Value, cx: &HookCx<'_>) -> Vec<String> {
        let pod = new.pointer("/spec/jobTemplate/spec/template/spec").unwrap_or(&Value::Null);
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
    if let Err(why) = parse(text) {
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
    if at.value.is_null() || old.is_some_and(|o| o.pointer("/spec/timeZone") == Some(at.value)) {
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

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Checks a schedule of five fields, or a macro.
fn parse(text: &str) -> Result<(), String> {
    if let Some(macro_name) = text.strip_prefix('@') {
        let known =
            matches!(macro_name, "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly")
                || macro_name.strip_prefix("every ").is_some_and(is_duration);
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) };
    }
    let text = match text.strip_prefix("TZ=").or(text.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, fields)| fields),
        None => text,
    };
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    }
    let bounds: [(u32, u32, u32, &[&str]); 5] =
        [(0, 59, 0, &[]), (0, 23, 0, &[]), (1, 31, 0, &[]), (1, 12, 1, MONTHS), (0, 6, 0, DAYS)];
    for (field, (min, max, base, words)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            part_of(part, min, max, base, words)?;
        }
    }
    Ok(())
}

fn part_of(part: &str, min: u32, max: u32, base: u32, words: &[&str]) -> Result<(), String> {
    let value = |text: &str| -> Result<u32, String> {
        let word = words.iter().position(|w| w.eq_ignore_ascii_case(text));
        match word {
            Some(i) => Ok(u32::try_from(i).unwrap_or(0) + base),
            None => text.parse().map_err(|_| format!("failed to parse int from {text}")),
        }
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let (first, last) = match range.split_once('-') {
        _ if matches!(range, "*" | "?") => (min, max),
        Some((first, last)) => (value(first)?, value(last)?),
        None if step.is_some() => (value(range)?, max),
        None => (value(range)?, value(range)?),
    };
    if first < min {
        return Err(format!("beginning of range ({first}) below minimum ({min}): {part}"));
    }
    if last > max {
        return Err(format!("end of range ({last}) above maximum ({max}): {part}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    match step.map(str::parse::<u32>) {
        Some(Ok(0)) => Err(format!("step of range should be a positive number: {part}")),
        Some(Err(_)) => Err(format!("failed to parse int from {part}")),
        _ => Ok(()),
    }
}

/// A duration in Go's form, as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = ["ns", "us", "ms", "s", "m", "h"].iter().find(|u| rest[digits..].starts_with(**u));
        match unit {
            Some(unit) if digits > 0 => rest = &rest[digits + unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("*/5 0-12/2 1,15 JAN-mar mon", true)]
    #[test_case("@hourly", true)]
    #[test_case("@every 1h30m", true)]
    #[test_case("@yearlyx", false)]
    #[test_case("* * * *", false; "four fields")]
    #[test_case("60 * * * *", false; "no such minute")]
    #[test_case("* * * * 7", false; "no such day")]
    #[test_case("5-1 * * * *", false; "backwards")]
    #[test_case("*/0 * * * *", false; "no step")]
    fn schedules(text: &str, ok: bool) {
        assert_eq!(parse(text).is_ok(), ok);
    }
}
