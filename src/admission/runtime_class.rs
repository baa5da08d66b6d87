//! RuntimeClass: a pod gets the overhead, node selector and tolerations of its runtime class.
//!
//! Rules: upstream `plugin/pkg/admission/runtimeclass`.

use serde_json::Value;

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::{Plugin, is_new_pod, list_mut, name_of, refuse};

/// The plugin.
pub struct RuntimeClass;

fn class_name(pod: &Value) -> &str {
    pod.str_at("/spec/runtimeClassName").unwrap_or_default()
}

fn class_of(pod: &Value, view: &dyn View) -> Option<Value> {
    Some(view.get("node.k8s.io", "runtimeclasses", "", class_name(pod))?.value())
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if !is_new_pod(a) || class_name(new).is_empty() {
            return Ok(());
        }
        let Some(class) = class_of(new, view) else {
            let why = format!("pod rejected: RuntimeClass {:?} not found", class_name(new));
            return Err(refuse(a, name_of(new), why));
        };
        let overhead = &class["overhead"]["podFixed"];
        if overhead.is_object() {
            match new.get_at("/spec/overhead").filter(|o| o.as_object().is_some_and(|m| !m.is_empty())) {
                Some(own) if own != overhead => {
                    let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                    return Err(refuse(a, name_of(new), why));
                }
                _ => new.set_at("/spec/overhead", overhead.clone()),
            }
        }
        for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
            let path = format!("/spec/nodeSelector/{}", key.replace('~', "~0").replace('/', "~1"));
            if let Some(own) = new.get_at(&path).filter(|own| *own != value) {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(own)
                );
                return Err(refuse(a, name_of(new), why));
            }
            new.set_at(&path, value.clone());
        }
        for toleration in class.items_at("/scheduling/tolerations") {
            let all = list_mut(new, "/spec/tolerations");
            if !all.contains(toleration) {
                all.push(toleration.clone());
            }
        }
        Ok(())
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let Some(new) = new.filter(|_| is_new_pod(a)) else { return Ok(()) };
        let own = new.get_at("/spec/overhead").is_some_and(|o| o.as_object().is_some_and(|m| !m.is_empty()));
        let given =
            !class_name(new).is_empty() && class_of(new, view).is_some_and(|c| c["overhead"]["podFixed"].is_object());
        if own && !given {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(refuse(a, name_of(new), why));
        }
        Ok(())
    }
}
