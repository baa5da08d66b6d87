//! `POST pods/NAME/binding` (and the older `POST bindings`): gives a pod its node.
//!
//! Rules: upstream `pkg/registry/core/pod/storage` (`BindingREST`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::edit::Edit;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation};
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call};
use crate::registry::errors::FieldErrors;
use crate::registry::{Admission, Resource, Target};
use crate::util::clock::rfc3339;

impl Api {
    /// Binds the pod of the path; of the body where the path names none.
    pub(in crate::apiserver) async fn bind_pod(&self, pods: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let gvk = crate::api::meta::Gvk::new("", "v1", "Binding");
        let cx = self.write_cx(pods, &call, "CreateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "CreateOptions")?;
        let def = crate::api::schema::table().kind("", "v1", "Binding");
        let raw = body::decode(&call.body, &call.headers, &gvk)?;
        let mut binding = body::canonical(raw, &gvk, def, strictness, &cx)?;
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
        let change = |pod: &Object, edit: &mut Edit| bind(pod, edit, &binding, &node, &now);
        self.registry.rewrite(pods, &cx, &at, &change).await?;
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

/// Gives the pod its node.
fn bind(pod: &Object, edit: &mut Edit, binding: &Value, node: &str, now: &str) -> ApiResult<()> {
    let name = &*pod.meta.name;
    let refuse = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
    for (what, path, found) in [
        ("UID", "/metadata/uid", pod.meta.uid.to_string()),
        ("ResourceVersion", "/metadata/resourceVersion", pod.revision.to_string()),
    ] {
        if let Some(wanted) = binding.str_at(path).filter(|w| !w.is_empty() && *w != found) {
            return refuse(format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            ));
        }
    }
    if pod.is_deleting() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let host = edit.read(&["spec", "nodeName"]);
    if let Some(host) = host.as_ref().and_then(Value::as_str).filter(|host| !host.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {host:?}"));
    }
    if edit.read(&["spec", "schedulingGates"]).is_some_and(|gates| gates.as_array().is_some_and(|g| !g.is_empty())) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    edit.set(&["spec", "nodeName"], &node.into());
    // It has come true, or something else has.
    edit.remove(&["status", "nominatedNodeName"]);
    // Annotations of the Binding count more than the pod's, labels less.
    for (member, replaces) in [("annotations", true), ("labels", false)] {
        let Some(more) = binding["metadata"][member].as_object().filter(|m| !m.is_empty()) else { continue };
        let path = ["metadata", member];
        let own = edit.read(&path).and_then(|all| all.as_object().cloned()).unwrap_or_default();
        let (first, last) = if replaces { (&own, more) } else { (more, &own) };
        let all: BTreeMap<_, _> = first.iter().chain(last).collect();
        edit.set(&path, &json!(all));
    }
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let path = ["status", "conditions"];
    let mut conditions = edit.read(&path).and_then(|all| all.as_array().cloned()).unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    edit.set(&path, &Value::Array(conditions));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a pod by a Binding to a node.
    fn bound(pod: &Value, binding: &Value) -> ApiResult<Value> {
        let object = Object::from_value(pod, &[]);
        let mut edit = Edit::new(&object.json, crate::api::schema::table().kind("", "v1", "Pod").unwrap());
        bind(&object, &mut edit, binding, "n1", "now")?;
        Ok(serde_json::from_slice(&edit.finish()).unwrap())
    }

    #[test]
    fn labels_of_a_binding_replace_none_of_the_pods() {
        let both =
            |a: &str, b: &str| json!({"metadata": {"labels": {"x/a": a, b: "2"}, "annotations": {"x/a": a, b: "2"}}});
        let new = bound(&both("old", "b"), &both("new", "c")).unwrap();
        assert_eq!(new["metadata"]["labels"], json!({"x/a": "old", "b": "2", "c": "2"}));
        assert_eq!(new["metadata"]["annotations"], json!({"x/a": "new", "b": "2", "c": "2"}));
    }

    #[test]
    fn a_pod_is_bound_once_and_nominated_no_longer() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "spec": {},
            "status": {"nominatedNodeName": "n0"}});
        let new = bound(&pod, &json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}})).unwrap();
        assert_eq!(new.str_at("/spec/nodeName"), Some("n1"));
        assert_eq!(new.items_at("/status/conditions")[0]["status"], "True");
        assert_eq!(new.get_at("/status/nominatedNodeName"), None);
        for (pod, binding, why) in [
            (&new, json!({"metadata": {"name": "p"}}), "already assigned to node \"n1\""),
            (&pod, json!({"metadata": {"name": "p", "uid": "other"}}), "UID in precondition: other"),
            (&pod, json!({"metadata": {"name": "p", "resourceVersion": "6"}}), "ResourceVersion in precondition: 6"),
        ] {
            let refused = bound(pod, &binding).unwrap_err();
            assert_eq!(refused.code, 409);
            assert!(refused.message.contains(why), "{}", refused.message);
        }
    }

    #[test]
    fn a_binding_is_to_a_node() {
        let at = Target { namespace: "n".into(), name: "p".into() };
        assert_eq!(check(&json!({"target": {"kind": "Pod"}}), &at).unwrap_err().code, 422);
    }
}
