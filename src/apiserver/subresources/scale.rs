//! `scale` of workloads: an `autoscaling/v1` Scale in front of `spec.replicas`.
//!
//! Rules: upstream `pkg/registry/apps/*/storage` (`ScaleREST`).

use std::sync::Arc;

use http::header;
use serde_json::{Value, json};

use crate::api::meta::Gvk;
use crate::api::meta::labels::Selector;
use crate::api::patch;
use crate::api::schema::{self, View as SchemaView};
use crate::api::scheme::Verbs;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation, Raw};
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call, verbs};
use crate::registry::errors::FieldErrors;
use crate::registry::{Op, RequestCx, Resource, View};

impl Api {
    /// GET, PUT or PATCH of a scale.
    pub(in crate::apiserver) async fn scale(&self, res: &Arc<Resource>, call: Call, verb: Verbs) -> ApiResult<Answer> {
        let gvk = Gvk::new("autoscaling", "v1", "Scale");
        let encoding = verbs::error_encoding(&call.headers);
        let at = call.target(res);
        if verb == Verbs::GET {
            let object =
                View::get(&*self.registry, &res.info.stored.group, &res.info.stored.resource, &at.namespace, &at.name)
                    .ok_or_else(|| Status::not_found(&res.info.gvk.group, &res.info.plural, &at.name))?;
            return Ok(respond::encoded(200, &scale_of(&object.value()), encoding));
        }
        let options = if verb == Verbs::PATCH { "PatchOptions" } else { "UpdateOptions" };
        let mut cx = self.write_cx(res, &call, options)?;
        cx.is_patch = true;
        let strictness = FieldValidation::parse(&call.info.query, options)?;
        let def = schema::table().kind(&gvk.group, &gvk.version, &gvk.kind);
        let read = |raw: Raw, cx: &RequestCx| body::canonical(raw, &gvk, def, strictness, cx);
        let sent =
            if verb == Verbs::UPDATE { Some(read(body::decode(&call.body, &call.headers, &gvk)?, &cx)?) } else { None };
        if let Some(name) = sent.as_ref().and_then(|s| s.str_at("/metadata/name")).filter(|n| *n != at.name) {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                at.name
            )));
        }
        let change = |old: &Value| {
            let now = scale_of(old);
            let new = match &sent {
                Some(scale) => scale.clone(),
                None => read(Raw { value: patched(now, &call)?, duplicates: vec![] }, &cx)?,
            };
            scaled(old, &new, res)
        };
        let op = Op::Subresource("scale".into());
        let stored = self.registry.update(res, &cx, &at, &op, &change, None).await?;
        Ok(verbs::finish(respond::encoded(200, &scale_of(&stored.into_object()), encoding), &cx))
    }
}

/// A PATCH of the Scale.
fn patched(scale: Value, call: &Call) -> ApiResult<Value> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let raw = |made: Result<Raw, String>| {
        made.map(|r| r.value).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
    };
    let def = schema::table().kind("autoscaling", "v1", "Scale");
    match media {
        "application/json-patch+json" => patch::json::apply(scale, raw(body::json_raw(&call.body))?),
        "application/merge-patch+json" => patch::merge::apply(scale, raw(body::json_raw(&call.body))?),
        "application/strategic-merge-patch+json" => patch::strategic::apply(
            scale,
            raw(body::json_raw(&call.body))?,
            def.map_or_else(SchemaView::deduced, SchemaView::of),
        ),
        // Of a Scale only the replicas can be applied: the merge is the apply.
        "application/apply-patch+yaml" => patch::merge::apply(scale, raw(body::yaml_raw(&call.body))?),
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            format!("the body of the request was in an unknown format: {media}"),
        )),
    }
}

/// The object with the replicas of a Scale.
fn scaled(old: &Value, scale: &Value, res: &Resource) -> ApiResult<Value> {
    let replicas = scale.int_at("/spec/replicas").unwrap_or(0);
    let name = old.str_at("/metadata/name").unwrap_or_default();
    if replicas < 0 {
        let errs = FieldErrors::new();
        errs.at("spec").at("replicas").invalid(replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", name, errs.take()));
    }
    let uid = scale.str_at("/metadata/uid").unwrap_or_default();
    if !uid.is_empty() && old.str_at("/metadata/uid") != Some(uid) {
        let found = old.str_at("/metadata/uid").unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(Status::conflict(&res.info.gvk.group, &res.info.plural, name, &why));
    }
    let mut new = old.clone();
    new.set_at("/spec/replicas", replicas);
    match scale.str_at("/metadata/resourceVersion").filter(|rv| !rv.is_empty()) {
        Some(rv) => new.set_at("/metadata/resourceVersion", rv),
        None => {
            new.remove_at("/metadata/resourceVersion");
        }
    }
    Ok(new)
}

/// The Scale of an object.
fn scale_of(object: &Value) -> Value {
    let mut metadata = serde_json::Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = object["metadata"].get(key) {
            metadata.insert(key.into(), v.clone());
        }
    }
    let selector = &object["spec"]["selector"];
    let selector = match selector.get("matchLabels").or(selector.get("matchExpressions")) {
        Some(_) => Selector::from_label_selector(selector).unwrap_or_default(),
        None => Selector::from_map(selector),
    };
    let mut status = json!({"replicas": object.int_at("/status/replicas").unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.to_string().into();
    }
    let mut spec = json!({});
    match object.int_at("/spec/replicas") {
        Some(n) if n != 0 => spec["replicas"] = n.into(),
        _ => {}
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_selector_and_replicas() {
        let d = json!({"metadata": {"name": "d", "labels": {"x": "y"}}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2}});
        let s = scale_of(&d);
        assert_eq!(s["status"], json!({"replicas": 2, "selector": "app=web"}));
        assert_eq!(s["metadata"], json!({"name": "d"}));
        let rc = json!({"spec": {"replicas": 1, "selector": {"a": "b"}}});
        assert_eq!(scale_of(&rc)["status"]["selector"], "a=b");
    }
}
