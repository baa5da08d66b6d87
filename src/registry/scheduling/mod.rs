//! Kinds of the API group `scheduling.k8s.io`.
//!
//! Rules: upstream `pkg/apis/scheduling/validation`.

use serde_json::{Value, json};

use crate::api::scheme::{Column, KindInfo};
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation, HookCx};
use crate::registry::validate::Field;

const GROUP: &str = "scheduling.k8s.io";
/// Highest value of a class that is not the system's.
const USER_VALUE_MAX: i64 = 1_000_000_000;
/// Names that are the system's.
const SYSTEM_PREFIX: &str = "system-";
/// The system's classes: name, value, description.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int("Value", "/value"),
    Column::switch("Global-Default", "/globalDefault"),
    Column::AGE,
    Column::text("PreemptionPolicy", "/preemptionPolicy"),
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster(GROUP, "v1", "PriorityClass", "priorityclasses", "priorityclass")
            .short(&["pc"])
            .columns(COLUMNS),
        Box::new(Common::NONE.generation(Generation::Once).check(check).check_delete(check_delete)),
    )]
}

/// The classes that every cluster has.
pub fn system_classes() -> Vec<Value> {
    let one = |(name, value, description): &(&str, i64, &str)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"})
    };
    SYSTEM.iter().map(one).collect()
}

fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let name = o.value.str_at("/metadata/name").unwrap_or_default();
    let value = o.int("value").unwrap_or(0);
    if name.starts_with(SYSTEM_PREFIX) {
        let known = SYSTEM.iter().any(|(n, v, _)| *n == name && *v == value) && !o.flag("globalDefault");
        if !known {
            o.errs.at("metadata").at("name").forbidden(format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {name} is not a known system priority class"
            ));
        }
    } else if value > USER_VALUE_MAX {
        o.errs.at("value").forbidden(format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}"));
    }
    if old.is_none() {
        o.optional_one_of("preemptionPolicy", &["Never", "PreemptLowerPriority"]);
    }
    if let Some(old) = old {
        if value != old.int_at("/value").unwrap_or(0) {
            o.errs.at("value").forbidden("may not be changed in an update.");
        }
        o.immutable("preemptionPolicy", old);
    }
}

fn check_delete(object: &Value, _cx: &HookCx<'_>) -> ApiResult<()> {
    let name = object.str_at("/metadata/name").unwrap_or_default();
    match SYSTEM.iter().any(|(n, ..)| *n == name) {
        true => {
            let why = "this is a system priority class and cannot be deleted";
            Err(Status::forbidden(GROUP, "priorityclasses", name, why))
        }
        false => Ok(()),
    }
}
