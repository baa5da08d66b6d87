//! Every kind's row and hooks, and the one path on which all of them are written.
//!
//! In: decoded, canonical bodies with a request's context. Out: stored objects, or a Status. Reads go straight to the
//! watch cache.
//!
//! **Invariant:** no function here knows a kind; what differs stands in its [`Strategy`] or its row.

pub mod admissionregistration;
pub mod allocators;
pub mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod cells;
mod certificates;
mod conversion;
mod coordination;
mod core;
pub mod custom;
mod discovery;
mod encode;
pub mod errors;
mod events;
mod flowcontrol;
pub mod kinds;
pub mod meta;
pub mod metrics;
mod networking;
mod node;
pub mod outward;
mod policy;
mod rbac;
mod resource;
mod resources;
mod rewrite;
mod scheduling;
mod storage;
pub mod strategy;
pub mod validate;
pub mod write;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::Gvk;
use crate::api::object::Object;
use crate::api::patch::apply;
use crate::api::schema::{self, StructDef, View as SchemaView};
use crate::api::scheme::KindInfo;
use crate::api::status::ApiResult;
use crate::api::user::UserInfo;
use crate::store::Key;
use crate::store::cache::Cache;

pub use resources::Resources;
pub use strategy::{Op, Strategy, View};

/// Objects that every cluster has from the start, beside those of RBAC: each with its plural name, cluster-scoped.
pub fn first_objects() -> Vec<(&'static str, serde_json::Value)> {
    let plural = |kind: &str| match kind {
        "PriorityLevelConfiguration" => "prioritylevelconfigurations",
        "FlowSchema" => "flowschemas",
        "PriorityClass" => "priorityclasses",
        _ => "apiservices",
    };
    let all = [scheduling::system_classes(), flowcontrol::objects(), apiregistration::objects()];
    all.into_iter().flatten().map(|o| (plural(o["kind"].as_str().unwrap_or_default()), o)).collect()
}

/// A kind as the server serves it.
pub struct Resource {
    /// Its row.
    pub info: KindInfo,
    gvk: Arc<Gvk>,
    strategy: Box<dyn Strategy>,
    /// Its shape in the wire table; none for kinds of CustomResourceDefinitions.
    pub def: Option<&'static StructDef>,
    /// What its definition says; none for built-in kinds.
    pub custom: Option<custom::Custom>,
    /// The kind of its lists.
    pub list_kind: String,
}

impl Resource {
    /// From a row and hooks.
    pub fn new(info: KindInfo, strategy: Box<dyn Strategy>) -> Self {
        let def = schema::table().kind(&info.gvk.group, &info.gvk.version, &info.gvk.kind);
        let list_kind = format!("{}List", info.gvk.kind);
        Self { gvk: Arc::new(info.gvk.clone()), info, strategy, def, custom: None, list_kind }
    }

    /// Of a CustomResourceDefinition.
    pub fn custom(info: KindInfo, custom: custom::Custom, list_kind: String) -> Self {
        let (gvk, strategy) = (Arc::new(info.gvk.clone()), Box::new(custom.clone()));
        Self { gvk, info, strategy, def: None, custom: Some(custom), list_kind }
    }

    /// Its hooks.
    pub fn strategy(&self) -> &dyn Strategy {
        &*self.strategy
    }

    /// Key in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        let group = match &*self.info.stored.group {
            "" => "core",
            g => g,
        };
        let resource = &self.info.stored.resource;
        if self.info.is_namespaced() {
            format!("/registry/{group}/{resource}/{namespace}/{name}").into()
        } else {
            format!("/registry/{group}/{resource}/{name}").into()
        }
    }

    /// True when requests for it are answered: not so for some versions of definitions.
    pub fn is_served(&self) -> bool {
        self.custom.as_ref().is_none_or(|c| c.version().served)
    }

    /// True when objects are stored in this row's version.
    pub fn is_stored_version(&self) -> bool {
        self.info.stored_version == self.info.gvk.version && self.info.stored.group == self.info.gvk.group
    }

    /// True when objects are stored in another version than this row's, and the row itself converts them.
    pub fn converts(&self) -> bool {
        !self.is_stored_version() && self.by_webhook().is_none()
    }

    /// Its definition, when a webhook converts its versions: [`Registry::in_version`].
    pub fn by_webhook(&self) -> Option<&custom::Custom> {
        self.custom.as_ref().filter(|c| c.definition.webhook.is_some())
    }

    /// What a stored object is: of a definition with a webhook, objects keep the version they were written in.
    fn gvk_of(&self, json: &[u8]) -> Arc<Gvk> {
        if self.by_webhook().is_none() {
            return self.gvk.clone();
        }
        let found = crate::api::scan::fields(json, &["/apiVersion"]).pop().unwrap_or_default();
        match crate::api::meta::gvk::split(&found).1 {
            version if *version == *self.gvk.version => self.gvk.clone(),
            version => Arc::new(Gvk { version: version.to_owned().into(), ..(*self.gvk).clone() }),
        }
    }

    /// Turns a stored object into this row's version.
    pub fn from_stored(&self, value: &mut Value) {
        if self.converts() {
            self.strategy.convert(value, &self.info, false);
            value["apiVersion"] = self.info.gvk.api_version().into();
            value["kind"] = (*self.info.gvk.kind).into();
            *value = self.canonical(value.take());
            self.apply_custom(value);
        }
    }

    /// What this version's schema makes of an object of another version.
    fn apply_custom(&self, value: &mut Value) {
        if let Some(custom) = &self.custom
            && let Ok(decoded) = custom.decode(value.clone())
        {
            *value = decoded.value;
            custom.default(value);
        }
    }

    /// Turns an object of this row's version into the stored one.
    pub fn to_stored(&self, value: &mut Value) {
        if self.converts() {
            self.strategy.convert(value, &self.info, true);
            value["apiVersion"] =
                crate::api::meta::gvk::join(&self.info.stored.group, &self.info.stored_version).into();
        }
    }

    /// The bytes for the store: the stored version, without a resourceVersion, kind and apiVersion first.
    pub fn encode_for_store(&self, object: &Value) -> Bytes {
        if !self.converts() {
            return encode::unversioned(object);
        }
        let mut value = object.clone();
        self.to_stored(&mut value);
        encode::unversioned(&value)
    }

    /// Fills the defaults of the wire table, or of the schema.
    pub fn apply_defaults(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            custom.default(object);
        }
        if let Some(def) = self.def {
            schema::defaults::apply(object, def);
        }
    }

    /// The form in which it is stored and answered: what hooks took away or added is put in order, what is always written
    /// is there.
    fn canonical(&self, object: Value) -> Value {
        let Some(def) = self.def else { return object };
        match schema::canonicalize(object, def) {
            Ok(made) => made.value,
            // What hooks make fits its type; the object was decoded by the same table before.
            Err(error) => {
                tracing::error!(kind = %self.info.gvk.kind, "a hook made what does not fit: {error}");
                Value::Null
            }
        }
    }

    /// What somebody else made of an object, as this kind's type: what it does not know is left out, and what it has a
    /// default for is there.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn decoded(&self, object: Value) -> Result<Value, String> {
        if let Some(custom) = &self.custom {
            let mut made = custom.decode(object)?.value;
            custom.default(&mut made);
            return Ok(made);
        }
        let Some(def) = self.def else { return Ok(object) };
        schema::canonicalize(object, def).map(|made| made.value).map_err(|e| e.to_string())
    }

    /// Keeps `metadata.managedFields` up to date after a create or an update.
    pub fn track_fields(&self, old: Option<&Value>, new: Value, cx: &RequestCx, subresource: Option<&str>) -> Value {
        let mut new = if cx.applied { new } else { apply::on_update(old, new, &self.writer(cx, subresource)) };
        if let Some(old) = old {
            apply::managed::settle_times(old, &mut new);
        }
        new
    }

    /// What managed fields need to know of a request for this kind.
    pub fn writer<'a>(&'a self, cx: &'a RequestCx, subresource: Option<&'a str>) -> apply::Writer<'a> {
        apply::Writer {
            manager: &cx.manager,
            subresource: subresource.unwrap_or_default(),
            gvk: &self.info.gvk,
            view: self.view(),
            reset: self.strategy.resets(&self.info, subresource),
            now: cx.now,
        }
    }

    /// Its shape, as patches see it.
    pub fn view(&self) -> SchemaView<'_> {
        match (&self.custom, self.def) {
            (Some(custom), _) => SchemaView::crd(custom.schema()),
            (None, def) => def.map_or_else(SchemaView::deduced, SchemaView::of),
        }
    }

    /// True when an update changed nothing.
    fn same(&self, old: &Value, new: &Value) -> bool {
        fn rest(v: &Value) -> usize {
            v["metadata"].as_object().map_or(0, |m| m.keys().filter(|k| *k != "resourceVersion").count())
        }
        let fields = |v: &Value| v.as_object().map_or(0, serde_json::Map::len);
        let equal_meta = |(k, v): (&String, &Value)| k == "resourceVersion" || new["metadata"].get(k) == Some(v);
        fields(old) == fields(new)
            && rest(old) == rest(new)
            && old.as_object().into_iter().flatten().all(|(k, v)| k == "metadata" || new.get(k) == Some(v))
            && old["metadata"].as_object().into_iter().flatten().all(equal_meta)
    }
}

/// Bytes of all warnings of one answer. Upstream: 4096 characters.
pub const WARNINGS_MAX_BYTES: usize = 4096;

/// Who asks, how, and when.
#[derive(Debug)]
pub struct RequestCx {
    /// The user, after impersonation.
    pub user: UserInfo,
    /// Name for managed fields.
    pub manager: String,
    /// The field manager that the client named; empty when it named none.
    pub field_manager: String,
    /// `group/version` of the request, for managed fields.
    pub api_version: String,
    /// The time of the request.
    pub now: Timestamp,
    /// Nothing is stored.
    pub dry_run: bool,
    /// The new object comes from a patch of the current one.
    pub is_patch: bool,
    /// It comes from server-side apply, which has already written the managed fields.
    pub applied: bool,
    /// What admission sees instead of the object.
    pub face: Option<Face>,
    warnings: Mutex<Vec<String>>,
}

impl RequestCx {
    /// A context for a user.
    pub fn new(user: UserInfo, manager: impl Into<String>, now: Timestamp) -> Self {
        Self {
            user,
            manager: manager.into(),
            field_manager: String::new(),
            api_version: String::new(),
            now,
            dry_run: false,
            is_patch: false,
            applied: false,
            face: None,
            warnings: Mutex::default(),
        }
    }

    /// Tells the client something, once. What goes beyond [`WARNINGS_MAX_BYTES`] is left out: it all has to fit in the
    /// head of an answer.
    pub fn warn(&self, text: impl Into<String>) {
        let mut text = text.into();
        let mut all = self.warnings.lock().expect("no panic while held");
        let room = WARNINGS_MAX_BYTES.saturating_sub(all.iter().map(String::len).sum());
        if text.len() > room {
            let cut = (0..=room).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(cut);
        }
        if !text.is_empty() && !all.contains(&text) {
            all.push(text);
        }
    }

    /// What to tell the client.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().expect("no panic while held"))
    }
}

/// What admission sees of an object that is changed through a subresource with a kind of its own: a Scale.
#[derive(Debug, Clone, Copy)]
pub struct Face {
    /// What an object shows.
    pub of: fn(&Resource, &Value) -> Value,
    /// The object with what admission made of that.
    pub into: fn(&Resource, &Value, &Value) -> ApiResult<Value>,
}

/// Which object a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name; empty for a create.
    pub name: String,
}

/// What admission may look at.
pub struct Admission<'a> {
    /// The kind.
    pub resource: &'a Resource,
    /// The request.
    pub cx: &'a RequestCx,
    /// The object.
    pub target: &'a Target,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub operation: &'static str,
    /// Subresource, or empty.
    pub subresource: &'a str,
}

impl<'a> Admission<'a> {
    /// For a create or update.
    pub fn new(resource: &'a Resource, cx: &'a RequestCx, target: &'a Target, op: &'a Op) -> Self {
        let (operation, subresource) = match op {
            Op::Create => ("CREATE", ""),
            Op::Update => ("UPDATE", ""),
            Op::Subresource(s) => ("UPDATE", &**s),
        };
        Self { resource, cx, target, operation, subresource }
    }

    /// For a deletion.
    pub fn deletion(resource: &'a Resource, cx: &'a RequestCx, target: &'a Target) -> Self {
        Self { resource, cx, target, operation: "DELETE", subresource: "" }
    }

    /// For a connection to an object: `exec`, `attach`, `portforward`, `proxy`.
    pub fn connection(resource: &'a Resource, cx: &'a RequestCx, target: &'a Target, subresource: &'a str) -> Self {
        Self { resource, cx, target, operation: "CONNECT", subresource }
    }

    /// For what is posted to a subresource and is no change of the object: a Binding, an Eviction, a TokenRequest.
    pub fn posted(resource: &'a Resource, cx: &'a RequestCx, target: &'a Target, subresource: &'a str) -> Self {
        Self { resource, cx, target, operation: "CREATE", subresource }
    }

    /// True for this group and plural name.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.info.gvk.group == group && self.resource.info.plural == plural
    }
}

/// The admission chain as the registry sees it.
#[async_trait]
pub trait Admit: Send + Sync {
    /// Changes the new object, or refuses it.
    async fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()>;
    /// Refuses, or not. `new` is none for deletions.
    async fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()>;
}

/// The write path over the store and the watch cache.
pub struct Registry {
    resources: Arc<Resources>,
    cache: Arc<Cache>,
    admission: Arc<dyn Admit>,
    call: Arc<dyn outward::Call>,
    kept: parking_lot::Mutex<conversion::Kept>,
}

impl Registry {
    /// Over a cache whose objects `resources` decoded; conversion webhooks are asked through `call`.
    pub fn new(
        resources: Arc<Resources>,
        cache: Arc<Cache>,
        admission: Arc<dyn Admit>,
        call: Arc<dyn outward::Call>,
    ) -> Self {
        Self { resources, cache, admission, call, kept: parking_lot::Mutex::default() }
    }

    /// What is served.
    pub fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }

    /// The current state.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    fn admission(&self) -> &dyn Admit {
        &*self.admission
    }

    /// Asks the admission chain about something that is not stored: see [`Admission::posted`].
    pub async fn admit(&self, a: &Admission<'_>, body: &mut Value) -> ApiResult<()> {
        self.admission.mutate(a, body, None).await?;
        self.admission.validate(a, Some(body), None).await
    }
}

/// The watch cache as hooks and admission plugins read it.
pub struct CacheView(pub Arc<Cache>);

impl View for CacheView {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.resource_of(group, resource).get(namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.0.resource_of(group, resource).list(namespace).0
    }
}

impl View for Registry {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cache.resource_of(group, resource).get(namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.cache.resource_of(group, resource).list(namespace).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_fit_in_a_head() {
        let cx = RequestCx::new(UserInfo::default(), "t", Timestamp::UNIX_EPOCH);
        cx.warn("a");
        cx.warn("a");
        for i in 0..10_000 {
            cx.warn(format!("é{i}"));
        }
        let all = cx.take_warnings();
        assert_eq!(all[..2], ["a", "é0"]);
        let bytes: usize = all.iter().map(String::len).sum();
        assert!((WARNINGS_MAX_BYTES - 2..=WARNINGS_MAX_BYTES).contains(&bytes), "{bytes}");
    }
}
