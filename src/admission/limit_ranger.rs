//! LimitRanger: a namespace's defaults and bounds for containers, pods and claims.
//!
//! Rules: upstream `plugin/pkg/admission/limitranger`.

use serde_json::{Map, Value};

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::{Plugin, is_new_pod, is_resize, limits, name_of, refuse};

/// Says what the defaults filled in.
const ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1limit-ranger";

/// The plugin.
pub struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if is_new_pod(a) || is_resize(a) {
            for range in view.list("", "limitranges", Some(&a.target.namespace)) {
                fill(new, &range.value());
            }
        }
        Ok(())
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let Some(new) = new.filter(|_| a.subresource.is_empty() || is_resize(a)) else { return Ok(()) };
        let check: fn(&Value, &Value) -> Vec<String> = match () {
            () if is_new_pod(a) || is_resize(a) => limits::of_pod,
            () if a.is("", "persistentvolumeclaims") => limits::of_claim,
            () => return Ok(()),
        };
        for range in view.list("", "limitranges", Some(&a.target.namespace)) {
            let broken = check(new, &range.value());
            match &broken[..] {
                [] => {}
                [one] => return Err(refuse(a, name_of(new), one)),
                many => return Err(refuse(a, name_of(new), format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Gives containers what they do not ask for themselves.
fn fill(pod: &mut Value, range: &Value) {
    let of_containers = |field: &str| -> Map<String, Value> {
        let items = range.items_at("/spec/limits").iter().filter(|i| i.str_at("/type") == Some("Container"));
        items.filter_map(|i| i[field].as_object().cloned()).flatten().collect()
    };
    let (limits, requests) = (of_containers("default"), of_containers("defaultRequest"));
    let mut told = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.str_at("/name").unwrap_or_default().to_owned();
            let set_limits = fill_one(container, "limits", &limits);
            let set_requests = fill_one(container, "requests", &requests);
            for (set, which) in [(set_requests, "request"), (set_limits, "limit")] {
                if !set.is_empty() {
                    told.push(format!("{} {which} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        pod.set_at(ANNOTATION, format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

fn fill_one(container: &mut Value, which: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in defaults {
        let path = format!("/resources/{which}/{}", name.replace('~', "~0").replace('/', "~1"));
        if container.get_at(&path).is_none() {
            container.set_at(&path, value.clone());
            set.push(name.clone());
        }
    }
    set.sort();
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_what_it_filled() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi", "cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]}});
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}});
        fill(&mut pod, &range);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "64Mi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod.str_at(ANNOTATION),
            Some("LimitRanger plugin set: cpu request for container c; memory limit for container c")
        );
    }
}
