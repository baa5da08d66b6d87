//! DELETE of one object and of a collection.
//!
//! Rules: upstream `apiserver/pkg/endpoints/handlers/delete.go` and `Store.DeleteCollection`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::meta::Gvk;
use crate::api::schema;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::write::{DeleteOptions, Deleted};
use crate::registry::{RequestCx, Resource, Target};

use super::respond::{self, Answer};
use super::selection::Options;
use super::{Api, Call, body, verbs};

impl Api {
    pub(super) async fn delete(&self, res: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let read = self.read_cx(res, &call, false, false)?;
        let sent = delete_options(&call)?;
        let options = DeleteOptions::from_value(&sent)?;
        let cx = self.delete_cx(res, &call, &options);
        let mut answer = match self.registry.delete(res, &cx, &call.target(res), &options).await? {
            Deleted::Gone(object) if res.strategy().returns_deleted() => read.shaped(200, &object),
            Deleted::Gone(object) => respond::encoded(200, &success(res, &object), read.form.encoding),
            Deleted::Pending(object) => {
                let accepted = sent.bool_at("/orphanDependents") == Some(false);
                read.shaped(if accepted { 202 } else { 200 }, &object)
            }
        };
        respond::warn(&mut answer, &cx.take_warnings());
        Ok(answer)
    }

    /// Deletes what a list with the same query would show, and answers with that list: the objects as they were.
    pub(super) async fn delete_collection(&self, res: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let read = self.read_cx(res, &call, true, false)?;
        let which = Options::parse(&call.info.query, &res.info, false)?;
        let options = DeleteOptions::from_value(&delete_options(&call)?)?;
        let cx = self.delete_cx(res, &call, &options);
        let (objects, metadata) = read.select(call.namespace(), &which).await?;
        for o in &objects {
            let at = Target { namespace: o.meta.namespace.clone(), name: o.meta.name.clone() };
            match self.registry.delete(res, &cx, &at, &options).await {
                Err(e) if e.reason != Reason::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(verbs::finish(read.list_answer(objects, metadata), &cx))
    }

    fn delete_cx(&self, res: &Resource, call: &Call, options: &DeleteOptions) -> RequestCx {
        let mut cx = self.cx(res, call, "");
        cx.dry_run = options.dry_run;
        cx
    }
}

fn success(res: &Resource, object: &Value) -> Value {
    let mut details = json!({"name": object["metadata"]["name"]});
    if !res.info.gvk.group.is_empty() {
        details["group"] = (*res.info.gvk.group).into();
    }
    details["kind"] = (*res.info.plural).into();
    details["uid"] = object["metadata"]["uid"].clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The `DeleteOptions` of a request. A body is all that counts where there is one.
fn delete_options(call: &Call) -> ApiResult<Value> {
    if !call.body.is_empty() {
        let v = body::decode(&call.body, &call.headers, &Gvk::new("", "v1", "DeleteOptions"))?.value;
        let kind = v.str_at("/kind").unwrap_or_default();
        return match () {
            () if !v.is_object() => Err(Status::bad_request("the body of a deletion must be DeleteOptions")),
            () if !matches!(kind, "" | "DeleteOptions") => {
                let version = v.str_at("/apiVersion").unwrap_or_default();
                Err(Status::bad_request(format!("no kind {kind:?} is registered for version {version:?}")))
            }
            () => match schema::table().kind("", "v1", "DeleteOptions") {
                Some(def) => schema::canonicalize(v, def).map(|made| made.value).map_err(|e| {
                    Status::bad_request(format!(
                        "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: {e}"
                    ))
                }),
                None => Ok(v),
            },
        };
    }
    let query = &call.info.query;
    let mut v = json!({"dryRun": query.all("dryRun")});
    if let Some(grace) = query.text("gracePeriodSeconds") {
        let grace: i64 =
            grace.parse().map_err(|_| Status::bad_request(format!("invalid gracePeriodSeconds {grace:?}")))?;
        v["gracePeriodSeconds"] = grace.into();
    }
    if let Some(policy) = query.get("propagationPolicy") {
        v["propagationPolicy"] = policy.into();
    }
    if query.get("orphanDependents").is_some() {
        v["orphanDependents"] = query.flag("orphanDependents").into();
    }
    Ok(v)
}
