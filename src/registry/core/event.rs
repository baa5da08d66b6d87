//! Events in the old form, without a check of most of their fields.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, Selectable};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Strategy};
use crate::registry::validate::Field;
use crate::registry::{Resource, cells};

const FIELDS: &[Selectable] = &[
    Selectable::new("involvedObject.kind", "/involvedObject/kind"),
    Selectable::new("involvedObject.namespace", "/involvedObject/namespace"),
    Selectable::new("involvedObject.name", "/involvedObject/name"),
    Selectable::new("involvedObject.uid", "/involvedObject/uid"),
    Selectable::new("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    Selectable::new("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    Selectable::new("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    Selectable::new("reason", "/reason"),
    Selectable::new("reportingComponent", "/reportingComponent"),
    Selectable::new("source", "/source/component"),
    Selectable::new("type", "/type"),
];

/// Columns of Events, in both groups.
pub const COLUMNS: &[Column] = &[
    Column::new("Last Seen", last_seen),
    Column::text("Type", "/type"),
    Column::text("Reason", "/reason"),
    Column::new("Object", object),
    Column::text("Subobject", "/involvedObject/fieldPath").wide(),
    Column::new("Source", source).wide(),
    Column::new("Message", |e, _| e.str_at("/message").unwrap_or_default().trim().into()),
    Column::new("First Seen", first_seen).wide(),
    Column::new("Count", count).wide(),
    Column::NAME.wide(),
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("", "v1", "Event", "events", "event").short(&["ev"]);
    Resource::new(info.selectable(FIELDS).columns(COLUMNS), Box::new(Events))
}

fn first_seen(event: &Value, now: Timestamp) -> Value {
    let at = if event.str_at("/firstTimestamp").is_some() { "/firstTimestamp" } else { "/eventTime" };
    cells::since(event, at, now).into()
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    match ["/series/lastObservedTime", "/lastTimestamp"].iter().find(|at| event.str_at(at).is_some()) {
        Some(at) => cells::since(event, at, now).into(),
        None => first_seen(event, now),
    }
}

fn object(event: &Value, _: Timestamp) -> Value {
    let text = |field: &str| event.str_at(&format!("/involvedObject/{field}")).unwrap_or_default();
    match text("name") {
        "" => text("kind").to_lowercase().into(),
        name => format!("{}/{name}", text("kind").to_lowercase()).into(),
    }
}

fn source(event: &Value, _: Timestamp) -> Value {
    let text = |at: &str| event.str_at(at).filter(|t| !t.is_empty());
    let component = text("/source/component").or(text("/reportingComponent")).unwrap_or_default();
    match text("/source/host").or(text("/reportingInstance")) {
        Some(host) => format!("{component}, {host}").into(),
        None => component.into(),
    }
}

fn count(event: &Value, _: Timestamp) -> Value {
    event.int_at("/series/count").or(event.int_at("/count").filter(|n| *n != 0)).unwrap_or(1).into()
}

/// Longest action, reason and instance, bytes.
const WORD_MAX: usize = 128;
/// Longest message, bytes.
const MESSAGE_MAX: usize = 1024;

struct Events;

impl Strategy for Events {
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, new: &Value, _: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        let event = Field::root(new, errs);
        let namespace = new.str_at("/metadata/namespace").unwrap_or_default();
        let involved = event.at("involvedObject").text("namespace");
        let timed = event.has("eventTime");
        let agree = match (involved, timed) {
            ("", false) => matches!(namespace, "" | "default"),
            ("", true) => matches!(namespace, "default" | "kube-system"),
            (other, false) => other == namespace,
            (_, true) => true,
        };
        if !agree {
            errs.at("involvedObject").at("namespace").invalid(involved, "does not match event.namespace");
        }
        if !timed {
            return;
        }
        if event.needs("reportingComponent") {
            event.at("reportingComponent").reasons(names::qualified_name(event.text("reportingComponent")));
        }
        for field in ["reportingInstance", "action", "reason"] {
            if event.needs(field) && event.text(field).len() > WORD_MAX {
                event.at(field).invalid(format!("can have at most {WORD_MAX} characters"));
            }
        }
        if event.text("message").len() > MESSAGE_MAX {
            event.at("message").invalid(format!("can have at most {MESSAGE_MAX} characters"));
        }
    }
}
