//! What events of their own group may hold.
//!
//! Rules: upstream `pkg/apis/core/validation/events.go`. Errors name the fields of the core form.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;

/// Longest reason, action and instance, bytes.
const WORD_MAX: usize = 128;
/// Longest note, bytes.
const NOTE_MAX: usize = 1024;

/// Create and update of an event of this group.
pub fn strict(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    belongs(o);
    if o.has("eventTime") {
        words(o);
    }
    match old {
        None => {
            if !o.has("eventTime") {
                o.errs.at("eventTime").required("");
            }
            if !matches!(o.text("type"), "Normal" | "Warning") {
                o.errs.at("type").invalid(o.text("type"), "has invalid value: ");
            }
            series(o);
            for (field, told) in [
                ("deprecatedFirstTimestamp", "firstTimestamp"),
                ("deprecatedLastTimestamp", "lastTimestamp"),
                ("deprecatedCount", "count"),
                ("deprecatedSource", "source"),
            ] {
                let set = match &o.value[field] {
                    Value::Null => false,
                    Value::Object(map) => map.values().any(|v| v.as_str().is_some_and(|t| !t.is_empty())),
                    Value::Number(n) => n.as_i64() != Some(0),
                    _ => true,
                };
                if set {
                    o.errs.at(told).invalid(o.value[field].clone(), "needs to be unset");
                }
            }
        }
        Some(old) => {
            if o.value.get("series") != old.get("series") {
                series(o);
            }
            unchanged(o, old);
        }
    }
}

/// An event lives where its object does; those of cluster-scoped ones in `default`.
fn belongs(o: &Field<'_>) {
    let namespace = o.value.str_at("/metadata/namespace").unwrap_or_default();
    let of = o.at("regarding").text("namespace");
    let fits = match (of, o.has("eventTime")) {
        ("", true) => matches!(namespace, "default" | "kube-system"),
        ("", false) => matches!(namespace, "" | "default"),
        (_, true) => true,
        (of, false) => of == namespace,
    };
    if !fits {
        o.errs.at("involvedObject").at("namespace").invalid(of, "does not match event.namespace");
    }
}

fn words(o: &Field<'_>) {
    let name = o.text("reportingController");
    let errs = o.errs.at("reportingController");
    if name.is_empty() {
        errs.required("");
    }
    errs.all_invalid(name, names::qualified_name(name));
    for field in ["reportingInstance", "action", "reason"] {
        let text = o.text(field);
        if text.is_empty() {
            o.errs.at(field).required("");
        }
        if text.len() > WORD_MAX {
            o.errs.at(field).invalid("", format!("can have at most {WORD_MAX} characters"));
        }
    }
    if o.text("note").len() > NOTE_MAX {
        o.errs.at("message").invalid("", format!("can have at most {NOTE_MAX} characters"));
    }
}

fn series(o: &Field<'_>) {
    let series = o.at("series");
    if series.value.is_null() {
        return;
    }
    if series.int("count").unwrap_or(0) < 2 {
        series.errs.at("count").invalid(series.int("count").unwrap_or(0), "should be at least 2");
    }
    if !series.has("lastObservedTime") {
        series.errs.at("lastObservedTime").required("");
    }
}

/// Only the series moves on.
fn unchanged(o: &Field<'_>, old: &Value) {
    for (field, told) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (new, was) = (o.value.get(field).unwrap_or(&Value::Null), old.get(field).unwrap_or(&Value::Null));
        if new != was {
            o.errs.at(told).invalid(new.clone(), "field is immutable");
        }
    }
}
