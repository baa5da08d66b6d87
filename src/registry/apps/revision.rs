//! ControllerRevisions: what a controller's object said at a time.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Strategy};
use crate::registry::validate::Field;
use crate::registry::{Resource, cells};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", |r, _| controller(r)),
    Column::new("Revision", |r, _| cells::int(r, "/revision").into()),
    Column::AGE,
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision");
    Resource::new(info.columns(COLUMNS), Box::new(Revisions))
}

/// `statefulset.apps/web`.
fn controller(revision: &Value) -> Value {
    let owners = revision.items_at("/metadata/ownerReferences");
    let Some(owner) = owners.iter().find(|o| o.bool_at("/controller") == Some(true)) else { return cells::NONE.into() };
    let text = |f: &str| owner.get(f).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind").to_lowercase();
    match crate::api::meta::gvk::split(text("apiVersion")).0 {
        "" => format!("{kind}/{}", text("name")).into(),
        group => format!("{kind}.{group}/{}", text("name")).into(),
    }
}

struct Revisions;

impl Strategy for Revisions {
    fn validate(&self, new: &Value, old: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        let revision = Field::root(new, errs);
        match (revision.has("data"), old) {
            (false, None) => revision.errs.at("data").required("data is mandatory"),
            (true, None) if !revision.at("data").value.is_object() => {
                revision.at("data").invalid("must be a valid JSON object");
            }
            _ => {}
        }
        revision.not_negative("revision");
        if let Some(old) = old {
            revision.immutable("data", old);
        }
    }
}
