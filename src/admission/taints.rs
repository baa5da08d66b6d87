//! TaintNodesByCondition: a new node takes no pods until its conditions are known.
//!
//! Rules: upstream `plugin/pkg/admission/nodetaint`.

use serde_json::{Value, json};

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::{Plugin, list_mut};

/// The taint of nodes that are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        if !a.is("", "nodes") || a.operation != "CREATE" {
            return Ok(());
        }
        let taints = list_mut(new, "/spec/taints");
        let is_there = |t: &Value| t.str_at("/key") == Some(NOT_READY) && t.str_at("/effect") == Some("NoSchedule");
        if !taints.iter().any(is_there) {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
