//! Kinds of the API group `node.k8s.io`.
//!
//! Rules: upstream `pkg/apis/node/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo};
use crate::registry::Resource;
use crate::registry::strategy::{Common, HookCx};
use crate::registry::validate::{Field, labels, resources, scheduling};

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Handler", "/handler"), Column::AGE];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass").columns(COLUMNS),
        Box::new(Common::NONE.create_on_update().conditional_update().check(check)),
    )]
}

fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    if o.needs("handler") {
        o.at("handler").reasons(names::dns1123_label(o.text("handler")));
    }
    let fixed = o.at("overhead").at("podFixed");
    let as_limits = serde_json::json!({"limits": fixed.value});
    resources::of_container(&Field { value: &as_limits, errs: fixed.errs }, &[]);
    let rules = o.at("scheduling");
    labels::labels(&rules.at("nodeSelector"));
    scheduling::tolerations(&rules);
    let mut seen = Vec::new();
    for toleration in rules.items("tolerations") {
        if seen.contains(&toleration.value) {
            toleration.errs.duplicate(toleration.value.clone());
        }
        seen.push(toleration.value);
    }
    if let Some(old) = old {
        o.immutable("handler", old);
    }
}
