//! `scale` of workloads: an `autoscaling/v1` Scale in front of `spec.replicas`.
//!
//! Rules: upstream `pkg/registry/apps/*/storage` (`ScaleREST`).

use std::sync::{Arc, LazyLock};

use http::header;
use serde_json::{Value, json};

use crate::api::meta::labels::Selector;
use crate::api::patch;
use crate::api::scheme::{Column, KindInfo, Verbs};
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation, Raw};
use crate::apiserver::respond::Answer;
use crate::apiserver::{Api, Call, verbs};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::Plain;
use crate::registry::{Face, Op, RequestCx, Resource, View};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int("Desired", "/spec/replicas"),
    Column::int("Available", "/status/replicas"),
    Column::AGE,
];

/// The kind of the bodies.
static SCALE: LazyLock<Arc<Resource>> = LazyLock::new(|| {
    let info = KindInfo::namespaced("autoscaling", "v1", "Scale", "scales", "scale").columns(COLUMNS);
    Arc::new(Resource::new(info, Box::new(Plain)))
});

/// Admission is asked about the Scale, as upstream's is.
const FACE: Face = Face {
    of: |res, object| scale_of(object, &Places::of(res)),
    into: |res, object, scale| {
        let mut new = object.clone();
        new.set_at(Places::of(res).spec, scale.int_at("/spec/replicas").unwrap_or(0));
        check_replicas(&new, res)?;
        Ok(new)
    },
};

/// What a write says about the scale.
enum Wish {
    /// PUT: a whole Scale.
    Scale(Value),
    /// A patch of the Scale that there is.
    Patch,
    /// Server-side apply: the part of the parent that the configuration stands for, and force.
    Apply(Value, bool),
}

impl Api {
    /// GET, PUT or PATCH of a scale.
    pub(in crate::apiserver) async fn scale(&self, res: &Arc<Resource>, call: Call, verb: Verbs) -> ApiResult<Answer> {
        let answer = self.read_cx(&SCALE, &call, false, false)?;
        let at = call.target(res);
        if verb == Verbs::GET {
            let object =
                View::get(&*self.registry, &res.info.stored.group, &res.info.stored.resource, &at.namespace, &at.name)
                    .ok_or_else(|| Status::not_found(&res.info.gvk.group, &res.info.plural, &at.name))?;
            let mut object = self.registry.one_in_version(res, object).await?.value();
            res.from_stored(&mut object);
            let places = Places::of(res);
            if res.custom.is_some() && object.get_at(places.spec).is_none() {
                return Err(Status::internal(format!("the spec replicas field {:?} does not exist", places.spec)));
            }
            return Ok(answer.shaped(200, &scale_of(&object, &places)));
        }
        let options = if verb == Verbs::PATCH { "PatchOptions" } else { "UpdateOptions" };
        let mut cx = self.write_cx(res, &call, options)?;
        cx.is_patch = true;
        cx.face = Some(FACE);
        let strictness = FieldValidation::parse(&call.info.query, options)?;
        let wish = match verb {
            Verbs::UPDATE => {
                let raw = body::decode(&call.body, &call.headers, &SCALE.info.gvk)?;
                Wish::Scale(body::canonical(raw, &SCALE.info.gvk, SCALE.def, strictness, &cx)?)
            }
            _ if verbs::is_apply(&call.headers) => {
                cx.applied = true;
                let raw = body::yaml_raw(&call.body);
                let raw = raw.map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
                let (config, refused) = body::canonical_apply(raw, &SCALE, strictness, &cx)?;
                refused.map_or(Ok(()), Err)?;
                Wish::Apply(config, call.info.query.flag("force"))
            }
            _ => Wish::Patch,
        };
        if let Wish::Scale(scale) | Wish::Apply(scale, _) = &wish
            && let Some(name) = scale.str_at("/metadata/name").filter(|n| *n != at.name)
        {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                at.name
            )));
        }
        let change = |old: &Value| match &wish {
            Wish::Scale(scale) => scaled(old, scale, res),
            Wish::Patch => {
                let raw = Raw::made(patched(scale_of(old, &Places::of(res)), &call)?);
                scaled(old, &body::canonical(raw, &SCALE.info.gvk, SCALE.def, strictness, &cx)?, res)
            }
            Wish::Apply(config, force) => applied(old, config, *force, res, &cx),
        };
        let op = Op::Subresource("scale".into());
        let stored = self.registry.update(res, &cx, &at, &op, &change, None).await?;
        Ok(verbs::finish(answer.shaped(200, &scale_of(&stored.into_object(), &Places::of(res))), &cx))
    }
}

/// JSON pointers to what a Scale shows.
struct Places<'a> {
    spec: &'a str,
    status: &'a str,
    /// A text with a selector; none where it is a label selector in `spec`.
    selector: Option<&'a str>,
}

impl<'a> Places<'a> {
    fn of(res: &'a Resource) -> Self {
        match res.custom.as_ref().and_then(|c| c.version().scale.as_ref()) {
            Some(scale) => Self {
                spec: &scale.spec.pointer,
                status: &scale.status.pointer,
                selector: Some(scale.selector.as_ref().map_or("/", |s| &s.pointer)),
            },
            None => Self { spec: "/spec/replicas", status: "/status/replicas", selector: None },
        }
    }
}

/// A PATCH of the Scale.
fn patched(scale: Value, call: &Call) -> ApiResult<Value> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let raw = |made: Result<Raw, String>| {
        made.map(|r| r.value).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
    };
    match media {
        "application/json-patch+json" => patch::json::apply(scale, raw(body::json_raw(&call.body))?),
        "application/merge-patch+json" => patch::merge::apply(scale, raw(body::json_raw(&call.body))?),
        "application/strategic-merge-patch+json" => {
            patch::strategic::apply(scale, raw(body::json_raw(&call.body))?, SCALE.view())
        }
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            format!("the body of the request was in an unknown format: {media}"),
        )),
    }
}

/// An apply of the Scale is one of the parent's replicas: managers of both are the same, and conflict.
///
/// Upstream: `managedfields.ScaleHandler`, which translates the entries there and back.
fn applied(old: &Value, config: &Value, force: bool, res: &Resource, cx: &RequestCx) -> ApiResult<Value> {
    let check = |meta: &str| {
        let sent = config.str_at(&format!("/metadata/{meta}")).unwrap_or_default();
        let kept = old.str_at(&format!("/metadata/{meta}"));
        if sent.is_empty() || kept == Some(sent) { None } else { Some((sent, kept.unwrap_or_default())) }
    };
    let name = old.str_at("/metadata/name").unwrap_or_default();
    if let Some((sent, kept)) = check("uid").or_else(|| check("resourceVersion")) {
        let why = format!("Precondition failed: {sent} in precondition, {kept} in object meta");
        return Err(Status::conflict(&res.info.gvk.group, &res.info.plural, name, &why));
    }
    let mut part =
        json!({"apiVersion": res.info.gvk.api_version(), "kind": res.info.gvk.kind, "metadata": {"name": name}});
    let places = Places::of(res);
    if let Some(replicas) = config.get_at("/spec/replicas").filter(|r| !r.is_null()) {
        part.set_at(places.spec, replicas.clone());
    }
    let writer = res.writer(cx, Some("scale"));
    let mut new = patch::apply::on_apply(Some(old), &part, force, &writer).map_err(|e| e.to_status())?;
    // A Scale without a number is one of zero.
    new.set_if_absent(places.spec, 0);
    check_replicas(&new, res)?;
    Ok(new)
}

/// A definition's kind has its own rule, at its own path.
fn check_replicas(object: &Value, res: &Resource) -> ApiResult<()> {
    if res.custom.is_some() {
        return Ok(());
    }
    let replicas = object.int_at("/spec/replicas").unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let errs = FieldErrors::new();
    errs.at("spec").at("replicas").invalid(replicas, "must be greater than or equal to 0");
    let name = object.str_at("/metadata/name").unwrap_or_default();
    Err(Status::invalid("autoscaling", "Scale", name, errs.take()))
}

/// The object with the replicas of a Scale.
fn scaled(old: &Value, scale: &Value, res: &Resource) -> ApiResult<Value> {
    let name = old.str_at("/metadata/name").unwrap_or_default();
    let mut new = old.clone();
    new.set_at(Places::of(res).spec, scale.int_at("/spec/replicas").unwrap_or(0));
    check_replicas(&new, res)?;
    let uid = scale.str_at("/metadata/uid").unwrap_or_default();
    if !uid.is_empty() && old.str_at("/metadata/uid") != Some(uid) {
        let found = old.str_at("/metadata/uid").unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(Status::conflict(&res.info.gvk.group, &res.info.plural, name, &why));
    }
    match scale.str_at("/metadata/resourceVersion").filter(|rv| !rv.is_empty()) {
        Some(rv) => new.set_at("/metadata/resourceVersion", rv),
        None => {
            new.remove_at("/metadata/resourceVersion");
        }
    }
    Ok(new)
}

/// The Scale of an object.
fn scale_of(object: &Value, places: &Places<'_>) -> Value {
    let mut metadata = serde_json::Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = object["metadata"].get(key) {
            metadata.insert(key.into(), v.clone());
        }
    }
    let mut status = json!({"replicas": object.int_at(places.status).unwrap_or(0)});
    let selector = match places.selector {
        Some(place) => object.str_at(place).unwrap_or_default().to_owned(),
        None => selector_of(&object["spec"]["selector"]),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    match object.int_at(places.spec) {
        Some(n) if n != 0 => spec["replicas"] = n.into(),
        _ => {}
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The text of a workload's selector.
fn selector_of(selector: &Value) -> String {
    let selector = match selector.get("matchLabels").or(selector.get("matchExpressions")) {
        Some(_) => Selector::from_label_selector(selector).unwrap_or_default(),
        None => Selector::from_map(selector),
    };
    if selector.is_empty() { String::new() } else { selector.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::user::UserInfo;
    use crate::registry::{Resources, allocators::Allocators};

    #[test]
    fn an_applied_scale_owns_the_replicas() {
        let deployments = Resources::with(&Allocators::default()).get("apps", "v1", "deployments").unwrap();
        let cx = |manager: &str| {
            let mut cx = RequestCx::new(UserInfo::default(), manager, jiff::Timestamp::UNIX_EPOCH);
            cx.api_version = "apps/v1".into();
            cx
        };
        let old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "uid": "u"},
            "spec": {"replicas": 1}});
        let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3}});
        let new = applied(&old, &config, true, &deployments, &cx("a")).unwrap();
        assert_eq!(new["spec"]["replicas"], 3);
        let entry = &new["metadata"]["managedFields"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&entry["operation"], &entry["subresource"]), (&json!("Apply"), &json!("scale")));
        assert_eq!(entry["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        let mut other = config.clone();
        other["spec"]["replicas"] = 4.into();
        assert_eq!(applied(&new, &other, false, &deployments, &cx("b")).unwrap_err().code, 409);
        other["metadata"]["uid"] = "x".into();
        assert_eq!(applied(&new, &other, true, &deployments, &cx("b")).unwrap_err().code, 409);
    }

    #[test]
    fn a_scale_shows_selector_and_replicas() {
        let d = json!({"metadata": {"name": "d", "labels": {"x": "y"}}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2}});
        let places = Places { spec: "/spec/replicas", status: "/status/replicas", selector: None };
        let s = scale_of(&d, &places);
        assert_eq!(s["status"], json!({"replicas": 2, "selector": "app=web"}));
        assert_eq!(s["metadata"], json!({"name": "d"}));
        let rc = json!({"spec": {"replicas": 1, "selector": {"a": "b"}}});
        assert_eq!(scale_of(&rc, &places)["status"]["selector"], "a=b");
    }
}
