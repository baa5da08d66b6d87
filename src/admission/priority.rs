//! Priority: a pod gets the number of its PriorityClass, and there is one default class.
//!
//! Rules: upstream `plugin/pkg/admission/priority`.

use std::sync::Arc;

use serde_json::Value;

use crate::api::object::Object;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::{Plugin, is_new_pod, name_of, refuse};

const GROUP: &str = "scheduling.k8s.io";

/// The plugin.
pub struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if a.is("", "pods") && a.operation == "UPDATE" && a.subresource.is_empty() {
            // What admission set once stays, when the client leaves it out.
            for path in ["/spec/priority", "/spec/preemptionPolicy"] {
                if let Some(was) = old.and_then(|o| o.get_at(path)) {
                    new.set_if_absent(path, was.clone());
                }
            }
            return Ok(());
        }
        if !is_new_pod(a) {
            return Ok(());
        }
        let asked = new.str_at("/spec/priorityClassName").unwrap_or_default().to_owned();
        let (value, policy) = if asked.is_empty() {
            match default_class(view) {
                Some(class) => {
                    let class = class.value();
                    new.set_at("/spec/priorityClassName", class["metadata"]["name"].clone());
                    of_class(&class)
                }
                None => (0, None),
            }
        } else {
            let class = view.get(GROUP, "priorityclasses", "", &asked).map(|c| of_class(&c.value()));
            let none = || refuse(a, name_of(new), format!("no PriorityClass with name {asked} was found"));
            class.ok_or_else(none)?
        };
        let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
        agree(a, new, "priority", "the integer value of priority", &Value::from(value))?;
        agree(a, new, "preemptionPolicy", "the string value of PreemptionPolicy", &Value::from(policy))
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let Some(new) = new.filter(|n| a.is(GROUP, "priorityclasses") && n.bool_at("/globalDefault") == Some(true))
        else {
            return Ok(());
        };
        match default_class(view) {
            Some(other) if other.meta.name != name_of(new) => {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other.meta.name
                );
                Err(refuse(a, name_of(new), why))
            }
            _ => Ok(()),
        }
    }
}

/// Sets what was computed; a client may say the same, nothing else.
fn agree(a: &Admission<'_>, pod: &mut Value, field: &str, what: &str, computed: &Value) -> ApiResult<()> {
    let path = format!("/spec/{field}");
    match pod.get_at(&path).filter(|v| !v.is_null() && *v != computed) {
        Some(given) => {
            let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let why = format!(
                "{what} ({}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                plain(given),
                plain(computed)
            );
            Err(refuse(a, name_of(pod), why))
        }
        None => {
            pod.set_at(&path, computed.clone());
            Ok(())
        }
    }
}

fn of_class(class: &Value) -> (i64, Option<String>) {
    (class.int_at("/value").unwrap_or(0), class.str_at("/preemptionPolicy").map(str::to_owned))
}

/// The default class; of many the one with the lowest value.
fn default_class(view: &dyn View) -> Option<Arc<Object>> {
    let all = view.list(GROUP, "priorityclasses", None);
    let defaults = all.into_iter().filter(|c| c.text_at("/globalDefault") == "true");
    defaults.min_by_key(|c| c.text_at("/value").parse().unwrap_or(0))
}
