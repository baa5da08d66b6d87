//! Containers that the runtime has lost, as the API remembers them: somebody pruned them, or the runtime's state is gone.
//!
//! Rules: upstream `kubelet_pods.convertToAPIContainerStatuses`. Pure.
//!
//! **Invariant:** a restart count never goes down, and an end that was told stays told.

use serde_json::{Value, json};

use super::pod::{Member, PodView, Role};
use crate::api::value::ValueExt;

/// Exit code of a container whose end nobody saw: as if it had been killed.
const LOST_EXIT_CODE: i64 = 137;

fn told<'a>(pod: &'a PodView, name: &str) -> Option<&'a Value> {
    let lists = ["/initContainerStatuses", "/containerStatuses", "/ephemeralContainerStatuses"];
    lists.iter().flat_map(|l| pod.status.items_at(l)).find(|s| s.str_at("/name") == Some(name))
}

fn is_in(status: &Value, state: &str) -> bool {
    status.get_at(state).is_some_and(|s| !s.is_null())
}

/// How often a container that the runtime knows nothing of was started again.
pub fn restarts(pod: &PodView, name: &str) -> u32 {
    let Some(old) = told(pod, name) else { return 0 };
    let count = old.int_at("/restartCount").and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    // It ran and is gone: what is made next is the next one.
    count + u32::from(is_in(old, "/state/running") && !pod.deleting())
}

/// Adds to the status of a container that the runtime knows nothing of what was told of it before.
pub fn remember(pod: &PodView, member: &Member, status: &mut Value) {
    let Some(old) = told(pod, member.name()) else { return };
    let has_ended = is_in(old, "/state/terminated");
    // Those never run a second time.
    if has_ended && (pod.is_terminal() || matches!(member.role, Role::Init | Role::Ephemeral)) {
        status.clone_from(old);
        return;
    }
    let last = if has_ended {
        old.get_at("/state/terminated").cloned()
    } else if is_in(old, "/state/running") {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        Some(json!({"exitCode": LOST_EXIT_CODE, "reason": "ContainerStatusUnknown", "message": message,
            "startedAt": null, "finishedAt": null}))
    } else {
        old.get_at("/lastState/terminated").filter(|t| !t.is_null()).cloned()
    };
    if let Some(last) = last {
        status["lastState"] = json!({ "terminated": last });
    }
    status["restartCount"] = restarts(pod, member.name()).into();
}
