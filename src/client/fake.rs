//! An API server of a hundred lines for tests: objects by path, no validation, no defaults.
//!
//! It does what controllers depend on: uids, revisions and their conflicts, generation, generated names, finalizers,
//! preconditions, status apart from the rest. Every change reaches `on_change` before its request is answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Client, Res, res};
use crate::api::patch::strategic;
use crate::api::schema::{self, StructDef, View};
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;

type OnChange = dyn Fn(&Res, &Value, bool) + Send + Sync;

/// The server.
pub struct FakeApi {
    state: Mutex<State>,
    on_change: Box<OnChange>,
    /// `creationTimestamp` of what is created.
    pub now: Mutex<String>,
    refusals: Mutex<Vec<(String, Box<Status>)>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    log: Vec<String>,
}

struct Target {
    res: &'static Res,
    namespace: String,
    name: String,
    sub: Option<String>,
}

impl FakeApi {
    /// Empty. `on_change` hears of every object after a change, and whether it is gone.
    pub fn new(on_change: impl Fn(&Res, &Value, bool) + Send + Sync + 'static) -> Arc<Self> {
        let now = Mutex::new("2026-01-01T00:00:00Z".to_owned());
        Arc::new(Self { state: Mutex::default(), on_change: Box::new(on_change), now, refusals: Mutex::default() })
    }

    /// Answers requests that begin so, as `POST /api/v1/…`, with `why` from now on.
    pub fn refuse(&self, request: &str, why: Box<Status>) {
        self.refusals.lock().push((request.to_owned(), why));
    }

    /// A client of it.
    pub fn client(self: &Arc<Self>) -> Client {
        let api = self.clone();
        Client::in_process(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        }))
    }

    /// Stores an object as it is, with a uid and a new revision.
    pub fn put(&self, mut object: Value) -> Value {
        let kind = object.str_at("/kind").unwrap_or_default();
        let group = crate::api::meta::gvk::split(object.str_at("/apiVersion").unwrap_or_default()).0;
        let res = res::ALL.iter().find(|r| r.kind == kind && r.group == group).expect("a known kind");
        let ns = object.str_at("/metadata/namespace").unwrap_or_default().to_owned();
        let path = res.object(&ns, object.str_at("/metadata/name").expect("a name"), None);
        object.set_if_absent("/metadata/uid", format!("uid-{}", object.str_at("/metadata/name").unwrap_or_default()));
        object.set_if_absent("/metadata/creationTimestamp", self.now.lock().clone());
        self.store(&mut self.state.lock(), res, path, object)
    }

    /// What stands at a path.
    pub fn at(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// All objects of a resource.
    pub fn all(&self, res: &Res) -> Vec<Value> {
        let state = self.state.lock();
        let mine = |v: &&Value| v["kind"] == *res.kind && v["apiVersion"] == res.api_version();
        state.objects.values().filter(mine).cloned().collect()
    }

    /// The writes since the last call, as `PATCH /api/v1/…`.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().log)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let media = parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (code, value) = match self.handle(&parts.method, parts.uri.path(), media, body) {
            Ok(value) => (200, value),
            Err(status) => (status.code, status.to_value()),
        };
        let answer = Response::builder().status(code).body(Full::new(Bytes::from(value.to_string())));
        answer.expect("a valid answer")
    }

    fn handle(&self, method: &Method, path: &str, media: &str, body: Value) -> ApiResult<Value> {
        if let Some(found) = discovery(path) {
            return Ok(found);
        }
        let target = parse(path).ok_or_else(|| Status::not_found("", "path", path))?;
        let mut state = self.state.lock();
        if method != Method::GET {
            state.log.push(format!("{method} {path}"));
        }
        let request = format!("{method} {path}");
        if let Some((_, why)) = self.refusals.lock().iter().find(|(begin, _)| request.starts_with(begin)) {
            return Err(why.clone());
        }
        let object_path = target.res.object(&target.namespace, &target.name, None);
        let missing = || Status::not_found(&target.res.group, &target.res.plural, &target.name);
        let old = state.objects.get(&object_path).cloned();
        match *method {
            Method::GET if target.name.is_empty() => Ok(list(&state, path, target.res)),
            Method::GET => old.ok_or_else(missing),
            Method::POST => self.create(&mut state, &target, body),
            Method::PUT => self.write(&mut state, &target, old.ok_or_else(missing)?, body),
            Method::PATCH if media == "application/apply-patch+yaml" && old.is_none() => {
                let mut new = body;
                new["metadata"]["name"] = target.name.as_str().into();
                self.create(&mut state, &target, new)
            }
            Method::PATCH => {
                let old = old.ok_or_else(missing)?;
                let mut new = old.clone();
                if media == "application/json-patch+json" {
                    let patch: json_patch::Patch =
                        serde_json::from_value(body).map_err(|e| Status::bad_request(e.to_string()))?;
                    json_patch::patch(&mut new, &patch).map_err(|e| Status::bad_request(e.to_string()))?;
                } else if let Some(def) = strategic_type(media, target.res) {
                    new = strategic::apply(new, body, View::of(def))?;
                } else {
                    json_patch::merge(&mut new, &body);
                }
                self.write(&mut state, &target, old, new)
            }
            Method::DELETE if target.name.is_empty() => {
                let prefix = format!("{path}/");
                let all: Vec<String> = state.objects.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
                for path in all {
                    let old = state.objects[&path].clone();
                    self.remove(&mut state, target.res, path, old, &Value::Null);
                }
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            Method::DELETE => {
                let old = old.ok_or_else(missing)?;
                let uid = body.str_at("/preconditions/uid");
                if uid.is_some_and(|u| old.str_at("/metadata/uid") != Some(u)) {
                    return Err(Status::conflict(&target.res.group, &target.res.plural, &target.name, "another uid"));
                }
                Ok(self.remove(&mut state, target.res, object_path, old, &body))
            }
            _ => Err(Status::bad_request("no such method")),
        }
    }

    fn create(&self, state: &mut State, target: &Target, mut object: Value) -> ApiResult<Value> {
        if target.sub.is_some() {
            return Ok(object);
        }
        if let Some(prefix) = object.str_at("/metadata/generateName").map(str::to_owned)
            && object.str_at("/metadata/name").is_none()
        {
            object.set_at("/metadata/name", format!("{prefix}{:05}", state.revision));
        }
        let name = object.str_at("/metadata/name").unwrap_or_default().to_owned();
        let path = target.res.object(&target.namespace, &name, None);
        if state.objects.contains_key(&path) {
            return Err(Status::already_exists(&target.res.group, &target.res.plural, &name));
        }
        object.set_at("/apiVersion", target.res.api_version());
        object.set_at("/kind", &*target.res.kind);
        object.set_at("/metadata/uid", format!("uid-{name}-{}", state.revision));
        object.set_at("/metadata/creationTimestamp", self.now.lock().clone());
        object.set_at("/metadata/generation", 1);
        if target.res.namespaced {
            object.set_at("/metadata/namespace", target.namespace.clone());
        }
        Ok(self.store(state, target.res, path, object))
    }

    fn write(&self, state: &mut State, target: &Target, old: Value, mut new: Value) -> ApiResult<Value> {
        let stale =
            new.str_at("/metadata/resourceVersion").is_some_and(|r| old.str_at("/metadata/resourceVersion") != Some(r));
        if stale {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Status::conflict(&target.res.group, &target.res.plural, &target.name, why));
        }
        match target.sub.as_deref() {
            Some("status") => {
                let status = new.remove_at("/status");
                new = old.clone();
                new.set_at("/status", status.unwrap_or_default());
            }
            Some("finalize") => {}
            _ => {
                new.remove_at("/status");
                if let Some(status) = old.get("status") {
                    new.set_at("/status", status.clone());
                }
                if new.get("spec") != old.get("spec") {
                    new.set_at("/metadata/generation", old.int_at("/metadata/generation").unwrap_or(0) + 1);
                }
            }
        }
        for kept in ["uid", "creationTimestamp"] {
            new["metadata"][kept] = old["metadata"][kept].clone();
        }
        let path = target.res.object(&target.namespace, &target.name, None);
        let held = !new.items_at("/metadata/finalizers").is_empty() || !new.items_at("/spec/finalizers").is_empty();
        if new.str_at("/metadata/deletionTimestamp").is_some() && !held {
            return Ok(self.gone(state, target.res, &path, new));
        }
        if without_revision(&new) == without_revision(&old) {
            return Ok(old);
        }
        Ok(self.store(state, target.res, path, new))
    }

    fn remove(&self, state: &mut State, res: &Res, path: String, mut object: Value, options: &Value) -> Value {
        let finalizer = match options.str_at("/propagationPolicy") {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut finalizers = object.items_at("/metadata/finalizers").to_vec();
        finalizers.extend(finalizer.map(Value::from));
        if finalizers.is_empty() && object.items_at("/spec/finalizers").is_empty() {
            return self.gone(state, res, &path, object);
        }
        if !finalizers.is_empty() {
            object.set_at("/metadata/finalizers", finalizers);
        }
        object.set_if_absent("/metadata/deletionTimestamp", self.now.lock().clone());
        if res == &res::NAMESPACES {
            object.set_at("/status/phase", "Terminating");
        }
        self.store(state, res, path, object)
    }

    fn gone(&self, state: &mut State, res: &Res, path: &str, last: Value) -> Value {
        state.objects.remove(path);
        (self.on_change)(res, &last, true);
        last
    }

    fn store(&self, state: &mut State, res: &Res, path: String, mut object: Value) -> Value {
        state.revision += 1;
        object.set_at("/metadata/resourceVersion", state.revision.to_string());
        state.objects.insert(path, object.clone());
        (self.on_change)(res, &object, false);
        object
    }
}

fn without_revision(object: &Value) -> Value {
    let mut object = object.clone();
    object.remove_at("/metadata/resourceVersion");
    object
}

fn list(state: &State, path: &str, res: &Res) -> Value {
    let in_namespace = path.contains("/namespaces/");
    let prefix = format!("{path}/");
    let mine = |(at, v): &(&String, &Value)| match in_namespace {
        true => at.starts_with(&prefix),
        false => v["kind"] == *res.kind && v["apiVersion"] == res.api_version(),
    };
    let items: Vec<Value> = state.objects.iter().filter(mine).map(|(_, v)| v.clone()).collect();
    json!({"kind": format!("{}List", res.kind), "apiVersion": res.api_version(),
        "metadata": {"resourceVersion": state.revision.to_string()}, "items": items})
}

fn parse(path: &str) -> Option<Target> {
    let mut parts = path.trim_start_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let mut namespace = String::new();
    let mut plural = parts.next()?;
    if plural == "namespaces" {
        let rest: Vec<&str> = parts.clone().collect();
        if rest.len() >= 2 && !matches!(rest[1], "status" | "finalize") {
            namespace = parts.next()?.to_owned();
            plural = parts.next()?;
        }
    }
    let res = res::ALL.iter().find(|r| r.group == group && r.plural == plural)?;
    let name = parts.next().unwrap_or_default().replace("%3A", ":");
    Some(Target { res, namespace, name, sub: parts.next().map(str::to_owned) })
}

fn discovery(path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let group = match parts[..] {
        ["apis"] => {
            let mut groups: Vec<Value> = Vec::new();
            for r in res::ALL.iter().filter(|r| !r.group.is_empty()) {
                if !groups.iter().any(|g| g["name"] == *r.group) {
                    let version = json!({"groupVersion": r.api_version(), "version": r.version});
                    groups.push(json!({"name": r.group, "versions": [version], "preferredVersion": version}));
                }
            }
            return Some(json!({"kind": "APIGroupList", "groups": groups}));
        }
        ["api", "v1"] => "",
        ["apis", group] => {
            let mut versions: Vec<Value> = Vec::new();
            for r in res::ALL.iter().filter(|r| r.group == group) {
                let version = json!({"groupVersion": r.api_version(), "version": r.version});
                if !versions.contains(&version) {
                    versions.push(version);
                }
            }
            return (!versions.is_empty()).then(|| json!({"kind": "APIGroup", "name": group, "versions": versions}));
        }
        ["apis", group, version] if res::ALL.iter().any(|r| r.group == group && r.version == version) => group,
        _ => return None,
    };
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let row = |r: &&Res| json!({"name": r.plural, "kind": r.kind, "namespaced": r.namespaced, "verbs": verbs});
    let rows: Vec<Value> = res::ALL.iter().copied().filter(|r| r.group == group).map(|r| row(&r)).collect();
    Some(
        json!({"kind": "APIResourceList", "groupVersion": path.trim_start_matches("/apis/").trim_start_matches("/api/"), "resources": rows}),
    )
}
/// The type by which a patch of this media type is merged; none where fields alone are.
fn strategic_type(media: &str, res: &Res) -> Option<&'static StructDef> {
    let strategic = media == "application/strategic-merge-patch+json";
    strategic.then(|| schema::table().kind(&res.group, &res.version, &res.kind)).flatten()
}
