//! DefaultTolerationSeconds: pods leave a node that is away only after five minutes.
//!
//! Rules: upstream `plugin/pkg/admission/defaulttolerationseconds`.

use serde_json::{Value, json};

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::taints::NOT_READY;
use super::{Plugin, list_mut};

/// The taint of nodes that are not heard of.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays on such a node, seconds.
const SECONDS: i64 = 300;

/// The plugin.
pub struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        if a.is("", "pods") && a.subresource.is_empty() && matches!(a.operation, "CREATE" | "UPDATE") {
            add(new);
        }
        Ok(())
    }
}

fn add(pod: &mut Value) {
    for key in [NOT_READY, UNREACHABLE] {
        let covers = |t: &Value| {
            let text = |path| t.str_at(path).unwrap_or_default();
            matches!(text("/key"), "") || text("/key") == key
        };
        let evicts = |t: &Value| matches!(t.str_at("/effect").unwrap_or_default(), "" | "NoExecute");
        if !pod.items_at("/spec/tolerations").iter().any(|t| covers(t) && evicts(t)) {
            let toleration =
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
            list_mut(pod, "/spec/tolerations").push(toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_tolerated_is_added() {
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "effect": "NoExecute"}]}});
        add(&mut pod);
        assert_eq!(pod.items_at("/spec/tolerations").len(), 2);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add(&mut all);
        assert_eq!(all.items_at("/spec/tolerations").len(), 1);
    }
}
