//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going; some namespaces stay.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/namespace/lifecycle`.

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::registry::{Admission, View};

use super::{Plugin, name_of, refuse};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if a.operation == "DELETE" {
            if a.is("", "namespaces") && IMMORTAL.contains(&a.target.name.as_str()) {
                return Err(refuse(a, &a.target.name, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        if a.operation != "CREATE" || !a.resource.info.is_namespaced() {
            return Ok(());
        }
        let namespace = &a.target.namespace;
        let Some(found) = view.get("", "namespaces", "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if !found.is_deleting() {
            return Ok(());
        }
        let name = new.map(name_of).unwrap_or_default();
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = refuse(a, name, why);
        status.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(status)
    }
}
