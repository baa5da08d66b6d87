//! Events in the old form, without a check of most of their fields.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{KindInfo, Selectable};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::registry::events::COLUMNS;
use crate::registry::strategy::{HookCx, Strategy};
use crate::registry::validate::Field;

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
    // Events of the newer API have no source.
    Selectable::new("source", "/source/component").or_field("/reportingComponent"),
    Selectable::new("type", "/type"),
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("", "v1", "Event", "events", "event").short(&["ev"]);
    Resource::new(info.selectable(FIELDS).columns(COLUMNS), Box::new(Events))
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

    fn has_dependents(&self) -> bool {
        false
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
