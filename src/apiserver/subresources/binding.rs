//! `POST pods/NAME/binding` (and the older `POST bindings`): gives a pod its node.
//!
//! Rules: upstream `pkg/registry/core/pod/storage` (`BindingREST`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation};
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call};
use crate::registry::errors::FieldErrors;
use crate::registry::{Admission, Op, Resource, Target};
use crate::util::clock::rfc3339;

impl Api {
    /// Binds the pod of the path; of the body where the path names none.
    pub(in crate::apiserver) async fn bind_pod(&self, pods: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let gvk = crate::api::meta::Gvk::new("", "v1", "Binding");
        let mut cx = self.write_cx(pods, &call, "CreateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "CreateOptions")?;
        let def = crate::api::schema::table().kind("", "v1", "Binding");
        let raw = body::decode(&call.body, &call.headers, &gvk)?;
        let mut binding = body::canonical(raw, &gvk, def, strictness, &cx)?;
        cx.is_patch = true;
        let mut at = call.target(pods);
        let named = binding.str_at("/metadata/name").unwrap_or_default();
        if at.name.is_empty() {
            at.name = named.to_owned();
        } else if named != at.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        self.registry.admit(&Admission::posted(pods, &cx, &at, "binding"), &mut binding).await?;
        let node = check(&binding, &at)?;
        let now = rfc3339(self.clock.now());
        let change = |old: &Value| bound(old, &binding, &node, &now, &at);
        self.registry.update(pods, &cx, &at, &Op::Subresource("binding".into()), &change, None).await?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond::encoded(201, &done, crate::apiserver::verbs::error_encoding(&call.headers)))
    }
}

fn check(binding: &Value, at: &Target) -> ApiResult<String> {
    let errs = FieldErrors::new();
    let target = errs.at("target");
    let kind = binding.str_at("/target/kind").unwrap_or_default();
    if !matches!(kind, "" | "Node" | "Minion") {
        target.at("kind").not_supported(kind, &["Node", "<empty>"]);
    }
    let node = binding.str_at("/target/name").unwrap_or_default();
    if node.is_empty() {
        target.at("name").required("");
    }
    if errs.is_empty() { Ok(node.to_owned()) } else { Err(Status::invalid("", "Binding", &at.name, errs.take())) }
}

/// The pod with its node.
fn bound(old: &Value, binding: &Value, node: &str, now: &str, at: &Target) -> ApiResult<Value> {
    let refuse = |why: String| Err(Status::conflict("", "pods/binding", &at.name, &why));
    if old.str_at("/metadata/deletionTimestamp").is_some() {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", at.name));
    }
    if let Some(uid) =
        binding.str_at("/metadata/uid").filter(|u| !u.is_empty() && old.str_at("/metadata/uid") != Some(u))
    {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.str_at("/metadata/uid").unwrap_or_default()
        ));
    }
    if let Some(host) = old.str_at("/spec/nodeName").filter(|n| !n.is_empty()) {
        return refuse(format!("pod {} is already assigned to node {host:?}", at.name));
    }
    if !old.items_at("/spec/schedulingGates").is_empty() {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", at.name));
    }
    let mut new = old.clone();
    new.set_at("/spec/nodeName", node);
    // Annotations of the Binding count more than the pod's, labels less.
    for (member, replaces) in [("annotations", true), ("labels", false)] {
        for (key, value) in binding["metadata"][member].as_object().into_iter().flatten() {
            let path = format!("/metadata/{member}/{}", key.replace('~', "~0").replace('/', "~1"));
            if replaces || new.get_at(&path).is_none() {
                new.set_at(&path, value.clone());
            }
        }
    }
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let mut conditions = old.items_at("/status/conditions").to_vec();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    new.set_at("/status/conditions", conditions);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_binding_replace_none_of_the_pods() {
        let at = Target { namespace: "n".into(), name: "p".into() };
        let both =
            |a: &str, b: &str| json!({"metadata": {"labels": {"x/a": a, b: "2"}, "annotations": {"x/a": a, b: "2"}}});
        let new = bound(&both("old", "b"), &both("new", "c"), "n1", "now", &at).unwrap();
        assert_eq!(new["metadata"]["labels"], json!({"x/a": "old", "b": "2", "c": "2"}));
        assert_eq!(new["metadata"]["annotations"], json!({"x/a": "new", "b": "2", "c": "2"}));
    }

    #[test]
    fn a_pod_is_bound_once() {
        let at = Target { namespace: "n".into(), name: "p".into() };
        let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        let pod = json!({"metadata": {"name": "p"}, "spec": {}});
        let new = bound(&pod, &binding, "n1", "now", &at).unwrap();
        assert_eq!(new.str_at("/spec/nodeName"), Some("n1"));
        assert_eq!(new.items_at("/status/conditions")[0]["status"], "True");
        assert_eq!(bound(&new, &binding, "n2", "now", &at).unwrap_err().code, 409);
        assert_eq!(check(&json!({"target": {"kind": "Pod"}}), &at).unwrap_err().code, 422);
    }
}
