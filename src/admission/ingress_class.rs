//! DefaultIngressClass: an Ingress that names no class gets the default one.
//!
//! Rules: upstream `plugin/pkg/admission/network/defaultingressclass`.

use serde_json::Value;

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::Plugin;
use super::storage::newest_default;

const GROUP: &str = "networking.k8s.io";
/// The class of an Ingress in old manifests.
const OLD_CLASS: &str = "/metadata/annotations/kubernetes.io~1ingress.class";

/// The plugin.
pub struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let has_class = |v: &Value| v.get_at("/spec/ingressClassName").is_some() || v.get_at(OLD_CLASS).is_some();
        if !a.is(GROUP, "ingresses") || a.operation != "CREATE" || has_class(new) {
            return Ok(());
        }
        let marks = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some(class) = newest_default(view, GROUP, "ingressclasses", &marks) {
            new.set_at("/spec/ingressClassName", class.meta.name.as_str());
        }
        Ok(())
    }
}
