//! The verbs of resources: from a request that may be done to the registry, and back to an answer.
//!
//! **Invariant:** nothing here knows a kind; subresources with a behaviour of their own stand in `connect`.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::api::patch;
use crate::api::scheme::Verbs;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::table::Include;
use crate::api::value::ValueExt;
use crate::registry::custom::Custom;
use crate::registry::errors::FieldErrors;
use crate::registry::write::Stored;
use crate::registry::{Op, RequestCx, Resource, Target};

use super::body::{self, FieldValidation};
use super::negotiate::{self, Encoding, Form, Offer, Shape};
use super::read::ReadCx;
use super::request::Query;
use super::respond::{self, Answer};
use super::selection::{Options, Selection};
use super::usage::Which;
use super::websocket;
use super::{Api, Call, virtuals};

/// Longest name of a field manager, bytes.
const MANAGER_MAX_BYTES: usize = 128;

impl Api {
    /// A request for a resource of the registry.
    pub(super) async fn resource(&self, mut call: Call) -> ApiResult<Answer> {
        let a = &call.info.attributes;
        let Some(res) = self.registry.resources().get(&a.group, &a.version, &a.resource) else {
            return self.unknown_path(&a.group);
        };
        if !a.namespace.is_empty() && !res.info.is_namespaced() && a.resource != "namespaces" {
            return self.unknown_path(&a.group);
        }
        if matches!(a.name.as_str(), "." | "..") {
            return Err(Status::bad_request(format!("Name parameter invalid: {:?}: may not be '{}'", a.name, a.name)));
        }
        if call.method == http::Method::HEAD && a.subresource != "proxy" {
            return Err(method_not_allowed());
        }
        if !a.subresource.is_empty() {
            return self.subresource(res, call).await;
        }
        let needs_namespace = res.info.is_namespaced() && a.namespace.is_empty();
        let verb = match a.verb.as_str() {
            "get" => Verbs::GET,
            "list" => Verbs::LIST,
            "watch" => Verbs::WATCH,
            "create" if a.name.is_empty() => Verbs::CREATE,
            "update" if !a.name.is_empty() => Verbs::UPDATE,
            "patch" if !a.name.is_empty() => Verbs::PATCH,
            "delete" => Verbs::DELETE,
            "deletecollection" => Verbs::DELETE_COLLECTION,
            _ => return Err(method_not_allowed()),
        };
        let unwatched = verb == Verbs::WATCH && res.info.verbs.has(Verbs::LIST) && !res.info.verbs.has(Verbs::WATCH);
        if !unwatched && !res.info.verbs.has(verb) || needs_namespace && !matches!(verb, Verbs::LIST | Verbs::WATCH) {
            return Err(method_not_allowed());
        }
        if let Some(custom) = &res.custom {
            may_be_served(custom, verb)?;
        }
        let deprecation = res.info.deprecation.clone().map(|warning| (warning, error_encoding(&call.headers)));
        let answer = match verb {
            Verbs::GET => self.get(&res, &call).await,
            Verbs::LIST => self.list(&res, &call).await,
            Verbs::WATCH if unwatched => {
                let why = format!("watch is not supported on resources of kind \"{}\"", res.info.plural);
                Err(Status::new(Reason::MethodNotAllowed, why).with_details(json!({"kind": res.info.plural})))
            }
            Verbs::WATCH => {
                let answer = self.watch(&res, &call).await?;
                websocket::watch(answer, &mut call)
            }
            Verbs::CREATE => self.create(res, call).await,
            Verbs::UPDATE => self.update(&res, call, Op::Update).await,
            Verbs::PATCH => self.patch(&res, call, Op::Update).await,
            Verbs::DELETE => self.delete(&res, call).await,
            _ => self.delete_collection(&res, call).await,
        };
        let Some((warning, encoding)) = deprecation else { return answer };
        let mut answer = answer.unwrap_or_else(|status| respond::error(&status, encoding));
        respond::warn(&mut answer, &[warning.into_owned()]);
        Ok(answer)
    }

    pub(super) fn read_cx<'a>(
        &'a self,
        res: &'a Arc<Resource>,
        call: &Call,
        list: bool,
        watch: bool,
    ) -> ApiResult<ReadCx<'a>> {
        // What can only be asked, not kept, is shown as it is.
        let shapes = res.info.verbs != Verbs::CREATE;
        let offer = Offer { proto: res.def.is_some(), shapes, yaml: !watch };
        let form = negotiate::negotiate(&call.headers, offer).ok_or_else(|| not_acceptable(&call.headers))?;
        let include = match form.shape {
            Shape::Table(_) => {
                let include = call.info.query.get("includeObject");
                Include::parse(include)
                    .ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {include:?}")))?
            }
            // One kind of object was asked for, and the endpoint has the other.
            Shape::Partial { list: of_list, .. } if of_list != list && !watch => {
                let (asked, has) = if of_list { ("List", "not a list") } else { ("", "a list") };
                let why = format!("you requested PartialObjectMetadata{asked}, but the requested object is {has}");
                return Err(Status::new(Reason::NotAcceptable, why));
            }
            _ => Include::Metadata,
        };
        Ok(ReadCx {
            registry: &self.registry,
            cache: self.registry.cache(),
            resource: res,
            form,
            include,
            now: self.clock.now(),
        })
    }

    /// 404 for a path that is not served: a Status below a group that is, a line of text elsewhere.
    pub(super) fn unknown_path(&self, group: &str) -> ApiResult<Answer> {
        if self.registry.resources().all().iter().any(|r| r.info.gvk.group == group && r.custom.is_none()) {
            return Err(no_such_resource());
        }
        Ok(respond::text(404, "404 page not found\n"))
    }

    pub(super) async fn get(&self, res: &Arc<Resource>, call: &Call) -> ApiResult<Answer> {
        let a = &call.info.attributes;
        let selection = Selection::named(&a.name);
        if let Some(all) = self.made(res, &Which { namespace: call.namespace(), selection: &selection }).await {
            let one = virtuals::made_one(&res.info, all, &a.name)?;
            return Ok(self.read_cx(res, call, false, false)?.shaped(200, &one));
        }
        let namespace = if res.info.is_namespaced() { a.namespace.as_str() } else { "" };
        let read = self.read_cx(res, call, false, false)?;
        if let Some(text) = call.info.query.text("resourceVersion") {
            let revision =
                text.parse().map_err(|_| Status::bad_request(format!("invalid resource version {text:?}")))?;
            read.reach(Some(revision)).await?;
        }
        read.get(namespace, &a.name).await
    }

    async fn list(&self, res: &Arc<Resource>, call: &Call) -> ApiResult<Answer> {
        let read = self.read_cx(res, call, true, false)?;
        let options = Options::parse(&call.info.query, &res.info, false)?;
        let which = Which { namespace: call.namespace(), selection: &options.selection };
        if let Some(all) = self.made(res, &which).await {
            return Ok(read.made_list(&all, &options));
        }
        read.list(call.namespace(), &options).await
    }

    async fn watch(&self, res: &Arc<Resource>, call: &Call) -> ApiResult<Answer> {
        let read = self.read_cx(res, call, false, true)?;
        let mut options = Options::parse(&call.info.query, &res.info, true)?;
        let name = &call.info.attributes.name;
        if !name.is_empty() && call.info.query.text("fieldSelector").is_none() {
            let query = Query::parse(&format!("fieldSelector=metadata.name%3D{name}"));
            options.selection = Selection::parse(&query, &res.info)?;
        }
        read.watch(call.namespace(), options, self.shutdown.clone()).await
    }

    async fn create(&self, res: Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let read = self.read_cx(&res, &call, false, false)?;
        // What is only answered, and never kept, is no row of a table.
        if !res.info.verbs.has(Verbs::GET) && matches!(read.form.shape, Shape::Table(_)) {
            return Err(not_acceptable(&call.headers));
        }
        let cx = self.write_cx(&res, &call, "CreateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "CreateOptions")?;
        let raw = body::decode(&call.body, &call.headers, &res.info.gvk)?;
        let new = body::canonical_of(raw, &res, strictness, &cx)?;
        if res.info.gvk.group.is_empty()
            && res.info.plural == "bindings"
            && let Some(pods) = self.registry.resources().get("", "v1", "pods")
        {
            return self.bind_pod(&pods, call).await;
        }
        if !res.info.verbs.has(Verbs::GET) {
            let made = self.virtual_create(&res, &call, &cx, new).await?;
            return Ok(finish(read.shaped(201, &made), &cx));
        }
        let at = call.target(&res);
        check_namespace(&new, &at, &res)?;
        let stored = self.registry.create(&res, &cx, &at, new).await?;
        Ok(finish(read.stored(201, stored), &cx))
    }

    /// PUT, on the resource or a subresource that stores into the object.
    pub(super) async fn update(&self, res: &Arc<Resource>, call: Call, op: Op) -> ApiResult<Answer> {
        let read = self.read_cx(res, &call, false, false)?;
        let cx = self.write_cx(res, &call, "UpdateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "UpdateOptions")?;
        let raw = body::decode(&call.body, &call.headers, &res.info.gvk)?;
        let new = body::canonical_of(raw, res, strictness, &cx)?;
        let at = call.target(res);
        check_namespace(&new, &at, res)?;
        match new.str_at("/metadata/name").unwrap_or_default() {
            name if name == at.name => {}
            name => {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    at.name
                )));
            }
        }
        let create = (op == Op::Update && res.strategy().create_on_update()).then(|| new.clone());
        let change = |_: &Value| Ok(new.clone());
        let stored = self.registry.update(res, &cx, &at, &op, &change, create).await.map_err(|e| {
            // A uid is a precondition, which an object that is not there does not meet.
            match new.str_at("/metadata/uid").filter(|u| !u.is_empty() && e.reason == Reason::NotFound) {
                Some(uid) => Status::conflict(
                    &res.info.gvk.group,
                    &res.info.plural,
                    &at.name,
                    &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: "),
                ),
                None => e,
            }
        })?;
        Ok(finish(read.stored(code(&stored), stored), &cx))
    }

    /// PATCH, on the resource or a subresource that stores into the object.
    pub(super) async fn patch(&self, res: &Arc<Resource>, call: Call, op: Op) -> ApiResult<Answer> {
        let read = self.read_cx(res, &call, false, false)?;
        let mut cx = self.write_cx(res, &call, "PatchOptions")?;
        cx.is_patch = true;
        let strictness = FieldValidation::parse(&call.info.query, "PatchOptions")?;
        let at = call.target(res);
        let patch = PatchBody::read(&call, res)?;
        if let PatchBody::Apply(config) = patch {
            let (cx, stored) = self.apply(res, &call, cx, &at, op, config, strictness).await?;
            return Ok(finish(read.stored(code(&stored), stored), &cx));
        }
        let change = |old: &Value| {
            let new = patch.apply(old, res)?;
            let raw = body::Raw::patched(new, patch.found().to_vec());
            let new = body::canonical_of(raw, res, strictness, &cx).map_err(|e| match e.reason {
                Reason::BadRequest => unprocessable(res, &at.name, &e.message),
                _ => e,
            })?;
            check_namespace(&new, &at, res)?;
            Ok(new)
        };
        let stored = self.registry.update(res, &cx, &at, &op, &change, None).await?;
        Ok(finish(read.stored(code(&stored), stored), &cx))
    }

    #[allow(clippy::too_many_arguments)]
    async fn apply(
        &self,
        res: &Arc<Resource>,
        call: &Call,
        mut cx: RequestCx,
        at: &Target,
        op: Op,
        config: body::Raw,
        strictness: FieldValidation,
    ) -> ApiResult<(RequestCx, Stored)> {
        let force = call.info.query.flag("force");
        let (config, refused) = body::canonical_apply(config, res, strictness, &cx)?;
        check_namespace(&config, at, res)?;
        match config.str_at("/metadata/name") {
            Some(name) if name != at.name => {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    at.name
                )));
            }
            _ => {}
        }
        cx.applied = true;
        let subresource = match &op {
            Op::Subresource(s) => Some(s.to_string()),
            _ => None,
        };
        let change = |old: &Value| {
            let writer = res.writer(&cx, subresource.as_deref());
            let new = patch::apply::on_apply(Some(old), &config, force, &writer).map_err(|e| e.to_status())?;
            refused.clone().map_or(Ok(()), Err)?;
            let raw = body::Raw::made(new);
            body::canonical_of(raw, res, FieldValidation::Ignore, &cx)
        };
        let create = if op == Op::Update {
            let mut config = config.clone();
            config.set_at("/metadata/name", at.name.clone());
            // Of an object that is not there, no revision is out of date.
            config.remove_at("/metadata/resourceVersion");
            let new =
                patch::apply::on_apply(None, &config, force, &res.writer(&cx, None)).map_err(|e| e.to_status())?;
            refused.clone().map_or(Ok(()), Err)?;
            let raw = body::Raw::made(new);
            Some(body::canonical_of(raw, res, FieldValidation::Ignore, &cx)?)
        } else {
            None
        };
        let stored = self.registry.update(res, &cx, at, &op, &change, create).await?;
        Ok((cx, stored))
    }

    /// The context of a write: manager, dry run.
    pub(super) fn write_cx(&self, res: &Resource, call: &Call, options: &str) -> ApiResult<RequestCx> {
        let query = &call.info.query;
        let errs = FieldErrors::new();
        let dry_run = query.all("dryRun");
        if dry_run.iter().any(|d| d != "All") {
            errs.at("dryRun").not_supported(json!(dry_run), &["All"]);
        }
        let manager = query.get("fieldManager").unwrap_or_default();
        if manager.len() > MANAGER_MAX_BYTES {
            errs.at("fieldManager").too_long(MANAGER_MAX_BYTES);
        }
        if manager.chars().any(char::is_control) {
            errs.at("fieldManager").invalid(manager, "should only contain printable characters");
        }
        if options == "PatchOptions" {
            if is_apply(&call.headers) {
                if manager.is_empty() {
                    errs.at("fieldManager").required("is required for apply patch");
                }
            } else if query.get("force").is_some() {
                errs.at("force").forbidden("may not be specified for non-apply patch");
            }
        }
        if !errs.is_empty() {
            return Err(Status::invalid("meta.k8s.io", options, "", errs.take()));
        }
        let mut cx = self.cx(res, call, manager);
        cx.dry_run = !dry_run.is_empty();
        manager.clone_into(&mut cx.field_manager);
        Ok(cx)
    }

    /// The context of a write whose options have been read.
    pub(super) fn cx(&self, res: &Resource, call: &Call, manager: &str) -> RequestCx {
        let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut cx = RequestCx::new(call.user.clone(), patch::apply::manager_of(manager, agent), self.clock.now());
        cx.api_version = res.info.gvk.api_version();
        cx
    }
}

impl Call {
    /// The object in the path.
    pub(super) fn target(&self, res: &Resource) -> Target {
        let a = &self.info.attributes;
        let namespace = if res.info.is_namespaced() { a.namespace.clone() } else { String::new() };
        Target { namespace, name: a.name.clone() }
    }

    /// The host that the client asked for, with its port; "" when it named none.
    pub(super) fn host(&self) -> &str {
        let named = self.headers.get(header::HOST).and_then(|v| v.to_str().ok());
        named.or(self.authority.as_ref().map(|a| a.as_str())).unwrap_or_default()
    }

    /// The namespace in the path; none for all.
    pub(super) fn namespace(&self) -> Option<&str> {
        Some(self.info.attributes.namespace.as_str()).filter(|n| !n.is_empty())
    }
}

/// Adds the warnings.
pub(super) fn finish(mut answer: Answer, cx: &RequestCx) -> Answer {
    respond::warn(&mut answer, &cx.take_warnings());
    answer
}

fn code(stored: &Stored) -> u16 {
    if stored.created { 201 } else { 200 }
}

/// 405.
pub(super) fn method_not_allowed() -> Box<Status> {
    Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
        .with_details(json!({}))
}

/// 404 for a subresource that the resource does not have.
pub(super) fn no_such_resource() -> Box<Status> {
    Status::new(Reason::NotFound, "the server could not find the requested resource").with_details(json!({}))
}

/// 406.
pub(super) fn not_acceptable(headers: &HeaderMap) -> Box<Status> {
    let status = Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    // Upstream refuses unknown media types before it looks at their parameters, in another place.
    if negotiate::knows_media_type(headers) { status } else { status.with_details(json!({})) }
}

fn unprocessable(res: &Resource, name: &str, why: &str) -> Box<Status> {
    // Upstream names no object here.
    let message = format!("{} {name:?} is invalid: patch: Invalid value: {why}", res.info.gvk.kind);
    Status::new(Reason::Invalid, message)
        .with_details(json!({"causes": [{"reason": "FieldValueInvalid", "message": why, "field": "patch"}]}))
}

fn check_namespace(new: &Value, at: &Target, res: &Resource) -> ApiResult<()> {
    let given = new.str_at("/metadata/namespace").unwrap_or_default();
    if given.is_empty() || given == at.namespace {
        return Ok(());
    }
    if !res.info.is_namespaced() {
        // Validation tells it with the field's path.
        return Ok(());
    }
    Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn media_type(headers: &HeaderMap) -> &str {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim()
}

pub(super) fn is_apply(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/apply-patch+yaml"
}

/// A decoded patch.
enum PatchBody {
    Json(body::Raw),
    Merge(body::Raw),
    Strategic(body::Raw),
    Apply(body::Raw),
}

impl PatchBody {
    fn read(call: &Call, res: &Resource) -> ApiResult<Self> {
        let raw = |made: Result<body::Raw, String>| {
            made.map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
        };
        match media_type(&call.headers) {
            "application/json-patch+json" => Ok(Self::Json(raw(body::json_patch_raw(&call.body))?)),
            "application/merge-patch+json" => Ok(Self::Merge(raw(body::json_raw(&call.body))?)),
            "application/strategic-merge-patch+json" if res.def.is_some() => {
                Ok(Self::Strategic(raw(body::json_raw(&call.body))?))
            }
            "application/apply-patch+yaml" => {
                let read = body::yaml_raw(&call.body);
                Ok(Self::Apply(read.map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?))
            }
            _ => {
                let mut types: Vec<Cow<'static, str>> =
                    vec!["application/json-patch+json".into(), "application/merge-patch+json".into()];
                if res.def.is_some() {
                    types.push("application/strategic-merge-patch+json".into());
                }
                types.push("application/apply-patch+yaml".into());
                let status = Status::new(
                    Reason::UnsupportedMediaType,
                    format!(
                        "the body of the request was in an unknown format - accepted media types include: {}",
                        types.join(", ")
                    ),
                );
                // Upstream's definitions have a handler of their own, which says no more.
                Err(if res.def.is_some() { status.with_details(json!({})) } else { status })
            }
        }
    }

    fn found(&self) -> &[String] {
        match self {
            Self::Json(raw) | Self::Merge(raw) | Self::Strategic(raw) | Self::Apply(raw) => &raw.found,
        }
    }

    fn apply(&self, old: &Value, res: &Resource) -> ApiResult<Value> {
        match self {
            Self::Json(raw) => patch::json::apply(old.clone(), raw.value.clone()),
            Self::Merge(raw) => patch::merge::apply(old.clone(), raw.value.clone()),
            Self::Strategic(raw) => patch::strategic::apply(old.clone(), raw.value.clone(), res.view()),
            Self::Apply(_) => Err(Status::internal("apply is done by its own function")),
        }
    }
}

/// What a definition's state keeps from being done. Upstream: `crdHandler.serveResource`.
fn may_be_served(custom: &Custom, verb: Verbs) -> ApiResult<()> {
    if custom.definition.terminating && verb == Verbs::CREATE {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::new(Reason::MethodNotAllowed, why).with_details(json!({})));
    }
    Ok(())
}

/// The form for errors before the resource is known.
pub(super) fn error_encoding(headers: &HeaderMap) -> Encoding {
    let offer = Offer { proto: true, shapes: false, yaml: true };
    negotiate::negotiate(headers, offer).unwrap_or(Form::JSON).encoding
}
