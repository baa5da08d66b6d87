//! A request as expressions see it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::cel::Val;
use crate::api::cel::authorizer::{Authz, Question, Stage};
use crate::api::cel::value;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::expressions::{NAMESPACE_METADATA, REQUEST_RESOURCE};
use crate::registry::{Admission, Resource, View};

use crate::admission::matching;

use super::{Ask, Asked};

/// The values of all variables but `params` and `variables`.
pub fn values(
    a: &Admission<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
    view: &dyn View,
    ask: &Arc<dyn Ask>,
) -> Vec<(&'static str, Val)> {
    values_of(a, a.resource, new, old, view, ask)
}

/// The same where the objects are of another version of the resource than the request's.
pub fn values_of(
    a: &Admission<'_>,
    shown: &Resource,
    new: Option<&Value>,
    old: Option<&Value>,
    view: &dyn View,
    ask: &Arc<dyn Ask>,
) -> Vec<(&'static str, Val)> {
    let object = |v: Option<&Value>| v.map_or(Val::Null, Val::from_json);
    let namespace = match &*a.target.namespace {
        "" => None,
        // A namespace is not in itself.
        _ if a.is("", "namespaces") => None,
        ns => view.get("", "namespaces", "", ns),
    };
    let authorizer = Arc::new(Asked { ask: ask.clone(), user: a.cx.user.clone() });
    let question = Question {
        group: a.resource.info.gvk.group.to_string(),
        resource: a.resource.info.plural.to_string(),
        subresource: a.subresource.to_owned(),
        namespace: a.target.namespace.clone(),
        name: matching::name_of(a, new).to_owned(),
        ..Question::default()
    };
    let own = Authz { authorizer: authorizer.clone(), question, stage: Stage::Resource };
    vec![
        ("object", object(new)),
        ("oldObject", object(old)),
        ("request", Val::from_json(&request(a, shown, new))),
        ("namespaceObject", namespace.map_or(Val::Null, |ns| namespace_value(&ns))),
        ("authorizer", Val::Authz(Arc::new(Authz::new(authorizer)))),
        (REQUEST_RESOURCE, Val::Authz(Arc::new(own))),
    ]
}

/// The AdmissionRequest, without its objects; what is empty is left out.
fn request(a: &Admission<'_>, shown: &Resource, new: Option<&Value>) -> Value {
    let kind_of =
        |r: &Resource| json!({"group": r.info.gvk.group, "version": r.info.gvk.version, "kind": r.info.gvk.kind});
    let resource_of =
        |r: &Resource| json!({"group": r.info.gvk.group, "version": r.info.gvk.version, "resource": r.info.plural});
    let user = &a.cx.user;
    let mut out = json!({
        "kind": kind_of(shown), "resource": resource_of(shown),
        "requestKind": kind_of(a.resource), "requestResource": resource_of(a.resource),
        "operation": a.operation, "dryRun": a.cx.dry_run, "options": options(a),
        "userInfo": present([
            ("username", user.name.as_str().into()),
            ("uid", user.uid.as_str().into()),
            ("groups", json!(user.groups)),
            ("extra", json!(user.extra)),
        ]),
    });
    let more = present([
        ("name", matching::name_of(a, new).into()),
        ("namespace", a.target.namespace.as_str().into()),
        ("subResource", a.subresource.into()),
        ("requestSubResource", a.subresource.into()),
    ]);
    if let (Some(out), Value::Object(more)) = (out.as_object_mut(), more) {
        out.extend(more);
    }
    out
}

fn present<const N: usize>(members: [(&str, Value); N]) -> Value {
    let empty = |v: &Value| match v {
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    let members = members.into_iter().filter(|(_, v)| !empty(v)).map(|(k, v)| (k.to_owned(), v));
    Value::Object(members.collect::<Map<_, _>>())
}

/// The options of the request, as far as the write path knows them.
fn options(a: &Admission<'_>) -> Value {
    let kind = match a.operation {
        "CREATE" => "CreateOptions",
        "UPDATE" if a.cx.is_patch => "PatchOptions",
        "UPDATE" => "UpdateOptions",
        "DELETE" => "DeleteOptions",
        _ => return Value::Null,
    };
    let mut out = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
    if a.cx.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if a.operation != "DELETE" && !a.cx.manager.is_empty() {
        out["fieldManager"] = a.cx.manager.as_str().into();
    }
    out
}

/// A namespace with the members that expressions may see.
fn namespace_value(ns: &Object) -> Val {
    let object = ns.value();
    let metadata = NAMESPACE_METADATA.iter().filter_map(|name| {
        let member = if *name == "UID" { "uid" } else { name };
        let v = object.get_at(&format!("/metadata/{member}"))?;
        let time = name.ends_with("Timestamp").then(|| v.as_str().and_then(|t| t.parse().ok()));
        Some((*name, time.flatten().map_or_else(|| Val::from_json(v), Val::Time)))
    });
    let part = |name: &str| object.get(name).map_or(Val::Null, Val::from_json);
    value::Val::map([("metadata", Val::map(metadata)), ("spec", part("spec")), ("status", part("status"))])
}
