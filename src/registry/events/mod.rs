//! Events: one kind in two groups, stored in the form of the core group.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, Selectable, age, object_age};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::Common;

mod check;

/// Columns of either form.
pub const COLUMNS: &[Column] = &[
    Column::new("Last Seen", |o, now| seen(o, now, true).into()),
    Column::text("Type", "/type"),
    Column::text("Reason", "/reason"),
    Column::new("Object", |o, _| {
        let of = subject(o);
        let text = |k: &str| of.get(k).and_then(Value::as_str).unwrap_or_default();
        let kind = text("kind").to_lowercase();
        if text("name").is_empty() { kind.into() } else { format!("{kind}/{}", text("name")).into() }
    }),
    Column::new("Subobject", |o, _| subject(o).str_at("/fieldPath").unwrap_or_default().into()).wide(),
    Column::new("Source", |o, _| source(o).into()).wide(),
    Column::new("Message", |o, _| first(o, &["/message", "/note"]).trim().into()),
    Column::new("First Seen", |o, now| seen(o, now, false).into()).wide(),
    Column::new("Count", |o, _| count(o).into()).wide(),
    Column::NAME.wide(),
];

/// The core group's selectable fields under this group's names, in the same places.
const FIELDS: &[Selectable] = &[
    Selectable::new("regarding.kind", "/regarding/kind"),
    Selectable::new("regarding.namespace", "/regarding/namespace"),
    Selectable::new("regarding.name", "/regarding/name"),
    Selectable::new("regarding.uid", "/regarding/uid"),
    Selectable::new("regarding.apiVersion", "/regarding/apiVersion"),
    Selectable::new("regarding.resourceVersion", "/regarding/resourceVersion"),
    Selectable::new("regarding.fieldPath", "/regarding/fieldPath"),
    Selectable::new("reason", "/reason"),
    Selectable::new("reportingController", "/reportingController"),
    // `source` has no name here.
    Selectable::new("", "/deprecatedSource/component"),
    Selectable::new("type", "/type"),
];

const EVENTS: Common =
    Common::NONE.create_on_update().owns_nothing().names(names::path_segment).check(check::strict).convert(convert);

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("events.k8s.io", "v1", "Event", "events", "event")
            .short(&["ev"])
            .columns(COLUMNS)
            .selectable(FIELDS)
            .stored_as("", "events", "v1"),
        Box::new(EVENTS),
    )]
}

/// What each field is called in this group, and in the core group.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// To the core form when `to_stored`, or back.
fn convert(value: &mut Value, to_stored: bool) {
    let Some(map) = value.as_object_mut() else { return };
    for (new, old) in RENAMED {
        let (from, to) = if to_stored { (new, old) } else { (old, new) };
        if let Some(v) = map.shift_remove(from) {
            map.insert(to.to_owned(), v);
        }
    }
}

fn first<'a>(o: &'a Value, pointers: &[&str]) -> &'a str {
    pointers.iter().find_map(|p| o.str_at(p)).unwrap_or_default()
}

fn subject(o: &Value) -> &Value {
    o.get("involvedObject").or_else(|| o.get("regarding")).unwrap_or(&Value::Null)
}

fn source(o: &Value) -> String {
    let component = match first(o, &["/source/component", "/deprecatedSource/component"]) {
        "" => first(o, &["/reportingComponent", "/reportingController"]),
        own => own,
    };
    let host = match first(o, &["/source/host", "/deprecatedSource/host"]) {
        "" => first(o, &["/reportingInstance"]),
        own => own,
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

fn seen(o: &Value, now: Timestamp, last: bool) -> String {
    let recent = match last {
        true => o
            .str_at("/series/lastObservedTime")
            .or_else(|| o.str_at("/lastTimestamp").or_else(|| o.str_at("/deprecatedLastTimestamp"))),
        false => o.str_at("/firstTimestamp").or_else(|| o.str_at("/deprecatedFirstTimestamp")),
    };
    match recent.or_else(|| o.str_at("/eventTime")) {
        Some(time) => age(Some(time), now),
        None => object_age(o, now),
    }
}

fn count(o: &Value) -> i64 {
    let plain = o.int_at("/count").or_else(|| o.int_at("/deprecatedCount"));
    o.int_at("/series/count").or(plain).filter(|n| *n != 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_form_in_two_groups() {
        let new = json!({"regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c", "deprecatedCount": 2});
        let mut v = new.clone();
        convert(&mut v, true);
        assert_eq!(v["involvedObject"]["kind"], "Pod");
        assert_eq!(v["count"], 2);
        convert(&mut v, false);
        assert_eq!(v, new);
    }
}
