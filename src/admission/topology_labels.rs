//! PodTopologyLabels: a pod learns zone and region of its node as labels, so that it can read them without asking for nodes.
//!
//! Rules: upstream `plugin/pkg/admission/podtopologylabels`.

use serde_json::Value;

use crate::api::meta::labels::TOPOLOGY;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::Plugin;

/// The plugin.
pub struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if !a.is("", "pods") || a.operation != "CREATE" {
            return Ok(());
        }
        let node = match a.subresource {
            "" => new.str_at("/spec/nodeName"),
            // What a Binding says goes over to its pod.
            "binding" if new.str_at("/target/kind") == Some("Node") => new.str_at("/target/name"),
            _ => None,
        };
        let node = node.filter(|name| !name.is_empty()).and_then(|name| view.get("", "nodes", "", name));
        let Some(node) = node else { return Ok(()) };
        for label in TOPOLOGY {
            let path = format!("/metadata/labels/{}", label.replace('/', "~1"));
            if let Some(value) = node.meta.label(label).filter(|_| new.get_at(&path).is_none()) {
                new.set_at(&path, value);
            }
        }
        Ok(())
    }
}
