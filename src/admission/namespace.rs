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

    /// A deletion changes nothing, so it is only looked at here.
    fn validate(&self, a: &Admission<'_>, _: Option<&Value>, _: Option<&Value>, _: &dyn View) -> ApiResult<()> {
        let stays = a.operation == "DELETE" && a.is("", "namespaces") && IMMORTAL.contains(&a.target.name.as_str());
        if stays { Err(refuse(a, &a.target.name, "this namespace may not be deleted")) } else { Ok(()) }
    }

    /// Before anybody looks at the object: that its namespace is missing is what its client has to know first.
    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
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
        let name = name_of(new);
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
