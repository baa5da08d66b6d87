//! Namespaces. One that is being deleted stays as long as `spec.finalizers` names somebody.

use serde_json::{Value, json};

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, STATUS, Selectable, Subresource, Verbs};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Op, Strategy, keep_all_but};

const SUBRESOURCES: &[Subresource] = &[Subresource::own("finalize", Verbs::UPDATE), STATUS];
const FIELDS: &[Selectable] = &[Selectable::new("status.phase", "/status/phase")];
const COLUMNS: &[Column] = &[Column::NAME, Column::text("Status", "/status/phase"), Column::AGE];
const FINALIZERS: &str = "/spec/finalizers";

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::cluster("", "v1", "Namespace", "namespaces", "namespace")
        .short(&["ns"])
        .verbs(Verbs::ALL.without(Verbs::DELETE_COLLECTION))
        .subresources(SUBRESOURCES)
        .selectable(FIELDS)
        .columns(COLUMNS);
    Resource::new(info, Box::new(Namespaces))
}

struct Namespaces;

impl Strategy for Namespaces {
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        match (&cx.op, old) {
            (Op::Create, _) => {
                new["status"] = json!({"phase": "Active"});
                let mut finalizers = new.items_at(FINALIZERS).to_vec();
                if !finalizers.iter().any(|f| f == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
                new.set_at(FINALIZERS, finalizers);
            }
            (Op::Update, Some(old)) => match old.get_at(FINALIZERS).cloned() {
                Some(kept) => new.set_at(FINALIZERS, kept),
                None => drop(new.remove_at(FINALIZERS)),
            },
            (Op::Subresource(sub), Some(old)) if sub == "finalize" => keep_all_but(new, old, &[FINALIZERS]),
            _ => {}
        }
    }

    fn validate(&self, new: &Value, _: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        if matches!(&cx.op, Op::Subresource(sub) if sub == "status") {
            let phase = new.str_at("/status/phase").unwrap_or_default();
            let deleting = new.str_at("/metadata/deletionTimestamp").is_some();
            let at = errs.at("status").at("Phase");
            if deleting && phase != "Terminating" {
                at.invalid(phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            } else if !deleting && phase != "Active" {
                at.invalid(phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            return;
        }
        // An update keeps them. Upstream tells of one only where they are the matter.
        let list = errs.at("spec").at("finalizers");
        let at = |i: usize| match &cx.op {
            Op::Create => Some(list.clone()),
            Op::Subresource(sub) if sub == "finalize" => Some(list.index(i)),
            _ => None,
        };
        for (i, finalizer) in new.items_at(FINALIZERS).iter().filter_map(Value::as_str).enumerate() {
            let Some(errs) = at(i) else { return };
            errs.all_invalid(finalizer, names::qualified_name(finalizer));
            if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
                errs.invalid(finalizer, "name is neither a standard finalizer name nor is it fully qualified");
            }
        }
    }

    fn terminates(&self) -> bool {
        true
    }

    fn on_delete(&self, object: &mut Value, _: &HookCx<'_>) {
        object.set_at("/status/phase", "Terminating");
    }

    fn keeps(&self, object: &Value) -> bool {
        !object.items_at(FINALIZERS).is_empty()
    }
}
