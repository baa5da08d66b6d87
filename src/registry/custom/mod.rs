//! Kinds that CustomResourceDefinitions make: the same rows and hooks as built-in kinds have, made of a definition.
//!
//! In: an accepted CustomResourceDefinition. Out: a [`Resource`] for each of its versions. `apiserver::crd` puts them in
//! the place where all resources are looked up ([`super::Resources`]).
//!
//! **Invariant:** a definition is immutable; a changed one is another `Definition`, and requests that run keep theirs.
//! **Invariant:** what is read from the store has gone through the schema of the version it was stored in.

mod embedded;
mod format;
mod lists;
pub mod rules;
mod strategy;
pub mod validate;
pub mod webhook;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::SHA256;
use bytes::Bytes;
use regex::Regex;
use serde_json::{Value, json};

use super::Resource;
use super::apiextensions::path;
use crate::api::cel::rules::RuleSet;
use crate::api::jsonpath::JsonPath;
use crate::api::meta::gvk::{GroupResource, Gvk, Str, join};
use crate::api::schema::structural::{self, Misfit};
use crate::api::scheme::{Cell, Column, KindInfo, SCALE, STATUS, Scope, Selectable, Subresource, Verbs};
use crate::api::status::{Cause, Status};
use crate::api::value::ValueExt;
use crate::util::tasks::Shutdown;

pub use format::is_known as is_known_format;

/// Numbers of states of definitions.
static STATES: AtomicU64 = AtomicU64::new(0);

/// Compiled patterns of a schema by their texts.
pub(super) type Patterns = HashMap<String, Regex>;

/// Where a custom resource keeps what its `scale` subresource shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// As the definition writes it: `.spec.replicas`.
    pub spec: Place,
    /// `.status.replicas`.
    pub status: Place,
    /// A text with a label selector, where the definition names one.
    pub selector: Option<Place>,
}

/// A simple path, in two spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `.spec.replicas`.
    pub path: String,
    /// `/spec/replicas`.
    pub pointer: String,
}

impl Place {
    fn parse(path: &str) -> Option<Self> {
        Some(Self { path: path.to_owned(), pointer: pointer(path)? })
    }
}

/// `.spec.a['b/c']` as a JSON pointer.
fn pointer(path: &str) -> Option<String> {
    let steps = path::steps(path)?;
    Some(steps.iter().map(|s| format!("/{}", s.replace('~', "~0").replace('/', "~1"))).collect())
}

/// One version of a definition.
pub struct Version {
    name: String,
    /// Requests for it are answered.
    pub served: bool,
    schema: Value,
    /// Tells one schema from another.
    digest: String,
    patterns: Patterns,
    /// Its `x-kubernetes-validations`; none when no node has some.
    rules: Option<RuleSet>,
    /// `scale`, where it is a subresource.
    pub scale: Option<ScalePaths>,
    status: bool,
}

/// A CustomResourceDefinition, read.
pub struct Definition {
    group: String,
    plural: String,
    kind: String,
    /// Objects keep fields that no schema knows: definitions from before v1.
    keeps_unknown: bool,
    /// Converts versions; none where they differ by name only.
    pub webhook: Option<webhook::Webhook>,
    /// Tells this state of the definition from others.
    pub state: u64,
    /// Triggered when another definition, or none, has taken its place: watches end then.
    pub replaced: Shutdown,
    /// It is being deleted: nothing new may come.
    pub terminating: bool,
    versions: Vec<Version>,
    /// Place of the version that objects are stored in.
    storage: usize,
}

/// What a [`Resource`] of a definition knows: the definition and its version.
#[derive(Clone)]
pub struct Custom {
    /// All of the definition.
    pub definition: Arc<Definition>,
    at: usize,
}

/// A decoded custom resource.
pub struct Decoded {
    /// The object, pruned, with canonical metadata; without defaults.
    pub value: Value,
    /// Paths of the fields that were dropped.
    pub unknown: Vec<String>,
}

impl Custom {
    /// Its version.
    pub fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    /// The version's `openAPIV3Schema`.
    pub fn schema(&self) -> &Value {
        &self.version().schema
    }

    /// Tells the schema from others.
    pub fn schema_digest(&self) -> &str {
        &self.version().digest
    }

    /// Takes a client's object as the server keeps it. Upstream: `schemaCoercingDecoder`.
    ///
    /// # Errors
    /// A text for metadata that is not of its type.
    pub fn decode(&self, value: Value) -> Result<Decoded, String> {
        self.definition.coerce(value, self.version(), Misfit::Refuse)
    }

    /// Fills defaults.
    pub fn default(&self, object: &mut Value) {
        structural::default(object, self.schema());
    }

    /// Why an object is not of this kind, before anything else is looked at; upstream lets another kind pass to validation,
    /// another version not.
    pub fn check_type(&self, value: &Value) -> Result<(), Box<Status>> {
        let (group, wanted) = (&self.definition.group, join(&self.definition.group, &self.version().name));
        let (api_version, kind) =
            (value.str_at("/apiVersion").unwrap_or_default(), value.str_at("/kind").unwrap_or_default());
        if kind.is_empty() {
            return Err(Status::bad_request(format!("Object 'Kind' is missing in '{}'", excerpt(value))));
        }
        if api_version != wanted {
            return Err(Status::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
            )));
        }
        if kind != self.definition.kind {
            let message = format!("Invalid value: {kind:?}: must be {}", self.definition.kind);
            let cause = Cause { reason: "FieldValueInvalid", message, field: "kind".into() };
            return Err(Status::invalid(group, kind, value.str_at("/metadata/name").unwrap_or_default(), vec![cause]));
        }
        Ok(())
    }

    /// The JSON of a stored object, with its resourceVersion, as it is served in the storage version.
    pub fn current_json(&self, json: Bytes) -> Bytes {
        let Ok(stored) = serde_json::from_slice::<Value>(&json) else { return json };
        match self.from_store(&stored) {
            Some(made) => serde_json::to_vec(&made).map_or(json, Bytes::from),
            None => json,
        }
    }

    /// A stored object as it is served in the storage version: what the schema of the version it was stored in makes of it.
    /// None when that is what it is already.
    pub fn from_store(&self, stored: &Value) -> Option<Value> {
        let d = &self.definition;
        let was = crate::api::meta::gvk::split(stored.str_at("/apiVersion").unwrap_or_default()).1;
        let version = d.versions.iter().find(|v| v.name == was).unwrap_or(&d.versions[d.storage]);
        let mut made = d.coerce(stored.clone(), version, Misfit::Drop).ok()?.value;
        structural::default(&mut made, &version.schema);
        // A webhook's versions are not each other's.
        if was != d.versions[d.storage].name && d.webhook.is_none() {
            made["apiVersion"] = join(&d.group, &d.versions[d.storage].name).into();
        }
        (made != *stored).then_some(made)
    }
}

fn excerpt(value: &Value) -> String {
    /// Characters of a body that a message repeats.
    const MAX: usize = 200;
    value.to_string().chars().take(MAX).collect()
}

impl Definition {
    /// Reads a CustomResourceDefinition whose names have been accepted; none for one that is not (yet) served.
    pub fn of(crd: &Value) -> Option<Arc<Self>> {
        let condition = |name: &str| {
            let all = crd.items_at("/status/conditions");
            all.iter().any(|c| c.str_at("/type") == Some(name) && c.str_at("/status") == Some("True"))
        };
        if !condition("NamesAccepted") && !condition("Established") {
            return None;
        }
        let text = |pointer: &str| Some(crd.str_at(pointer)?.to_owned());
        let versions: Vec<Version> = crd.items_at("/spec/versions").iter().map(Version::of).collect();
        let storage = crd.items_at("/spec/versions").iter().position(|v| v.bool_at("/storage") == Some(true))?;
        Some(Arc::new(Self {
            group: text("/spec/group")?,
            plural: text("/status/acceptedNames/plural")?,
            kind: text("/status/acceptedNames/kind")?,
            keeps_unknown: crd.bool_at("/spec/preserveUnknownFields") == Some(true),
            webhook: webhook::Webhook::of(crd),
            state: STATES.fetch_add(1, Ordering::Relaxed),
            terminating: condition("Terminating") || crd.str_at("/metadata/deletionTimestamp").is_some(),
            versions,
            storage,
            replaced: Shutdown::new(),
        }))
    }

    /// The same in the place of another one of the same kinds: what watches them goes on.
    pub fn following(self: Arc<Self>, before: &Self) -> Arc<Self> {
        let mut new = Arc::into_inner(self).expect("just made, and not shared yet");
        new.replaced = before.replaced.clone();
        Arc::new(new)
    }

    /// Group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone().into(), resource: self.plural.clone().into() }
    }

    /// A resource for each version, those that are not served among them: the storage version's reads the store.
    pub fn resources(self: &Arc<Self>, crd: &Value) -> Vec<Arc<Resource>> {
        let specs = crd.items_at("/spec/versions");
        let made = (0..self.versions.len()).map(|at| {
            let info = self.row(at, crd, &specs[at]);
            let custom = Custom { definition: self.clone(), at };
            let list_kind = crd.str_at("/status/acceptedNames/listKind").unwrap_or_default().to_owned();
            Arc::new(Resource::custom(info, custom, list_kind))
        });
        made.collect()
    }

    fn row(&self, at: usize, crd: &Value, spec: &Value) -> KindInfo {
        let names = &crd["status"]["acceptedNames"];
        let text = |s: &str| -> Str { s.to_owned().into() };
        let list = |key: &str| -> Vec<Str> {
            let items = names.get(key).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(Value::as_str).map(text).collect()
        };
        let version = &self.versions[at];
        let mut info = KindInfo::namespaced("", "", "", "", "");
        info.gvk = Gvk { group: text(&self.group), version: text(&version.name), kind: text(&self.kind) };
        info.plural = text(&self.plural);
        info.singular = text(names.str_at("/singular").unwrap_or_default());
        info.short = list("shortNames");
        info.categories = list("categories");
        info.verbs = Verbs::ALL;
        info.stored = self.group_resource();
        info.stored_version = text(&self.versions[self.storage].name);
        if crd.str_at("/spec/scope") == Some("Cluster") {
            info.scope = Scope::Cluster;
        }
        let mut subresources: Vec<Subresource> = Vec::new();
        subresources.extend(version.status.then_some(STATUS));
        subresources.extend(version.scale.is_some().then_some(SCALE));
        info.subresources = Cow::Owned(subresources);
        info.columns = Cow::Owned(columns(spec));
        info.selectable = Cow::Owned(selectable(spec));
        if spec.bool_at("/deprecated") == Some(true) {
            let told = spec.str_at("/deprecationWarning").map(str::to_owned);
            let plain = || format!("{} {} is deprecated", join(&self.group, &version.name), self.kind);
            info.deprecation = Some(told.unwrap_or_else(plain).into());
        }
        info
    }

    fn coerce(&self, mut value: Value, version: &Version, misfit: Misfit) -> Result<Decoded, String> {
        let mut unknown = Vec::new();
        if !self.keeps_unknown {
            unknown = structural::prune(&mut value, &version.schema);
            structural::prune_nulls(&mut value, &version.schema);
        }
        unknown.extend(structural::coerce(&mut value, &version.schema, misfit)?);
        unknown.sort();
        Ok(Decoded { value, unknown })
    }
}

impl Version {
    fn of(spec: &Value) -> Self {
        let schema = spec.get_at("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
        let mut patterns = Patterns::new();
        collect(&schema, &mut patterns);
        let scale = spec.get_at("/subresources/scale").filter(|s| s.is_object()).and_then(|s| {
            let place = |key: &str| s.get(key).and_then(Value::as_str).and_then(Place::parse);
            Some(ScalePaths {
                spec: place("specReplicasPath")?,
                status: place("statusReplicasPath")?,
                selector: place("labelSelectorPath"),
            })
        });
        Self {
            name: spec.str_at("/name").unwrap_or_default().to_owned(),
            served: spec.bool_at("/served") == Some(true),
            status: spec.get_at("/subresources/status").is_some_and(|s| !s.is_null()),
            digest: crate::pki::hex(aws_lc_rs::digest::digest(&SHA256, schema.to_string().as_bytes()).as_ref()),
            rules: RuleSet::new(&schema),
            schema,
            patterns,
            scale,
        }
    }
}

/// All patterns of a schema, compiled once.
fn collect(node: &Value, patterns: &mut Patterns) {
    match node {
        Value::Object(map) => {
            if let Some(text) = map.get("pattern").and_then(Value::as_str)
                && let Ok(compiled) = Regex::new(text)
            {
                patterns.insert(text.to_owned(), compiled);
            }
            map.values().for_each(|v| collect(v, patterns));
        }
        Value::Array(list) => list.iter().for_each(|v| collect(v, patterns)),
        _ => {}
    }
}

/// The name and what the definition says, else the name and the age. Upstream: `tableconvertor.New`.
fn columns(spec: &Value) -> Vec<Column> {
    let made = |c: &Value| {
        let text = |key: &str| -> Str { c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned().into() };
        let path = c.str_at("/jsonPath").unwrap_or_default();
        Some(Column {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description: text("description"),
            priority: c.int_at("/priority").and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
            listed: true,
            cell: Cell::JsonPath(JsonPath::relaxed(path).ok()?),
        })
    };
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let said = spec.items_at("/additionalPrinterColumns");
    let own = if said.is_empty() { std::slice::from_ref(&age) } else { said };
    std::iter::once(Column::NAME).chain(own.iter().filter_map(made)).collect()
}

fn selectable(spec: &Value) -> Vec<Selectable> {
    let one = |f: &Value| {
        let path = f.str_at("/jsonPath")?;
        let field = path.strip_prefix('.').unwrap_or(path).to_owned();
        Some(Selectable { field: field.into(), pointer: pointer(path)?.into(), absent: "".into(), instead: None })
    };
    spec.items_at("/selectableFields").iter().filter_map(one).collect()
}
