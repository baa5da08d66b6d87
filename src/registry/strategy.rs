//! What makes a kind differ on its way through the registry. Every method has the default that most kinds want.

use std::borrow::Cow;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::names;
use crate::api::object::Object;
use crate::api::patch::apply::FieldSet;
use crate::api::scheme::KindInfo;
use crate::api::status::ApiResult;
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;

use super::errors::FieldErrors;
use super::validate::Field;

/// What an object's write is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new object.
    Create,
    /// The resource itself.
    Update,
    /// A subresource that stores into the object, as `status`.
    Subresource(Cow<'static, str>),
}

/// What hooks may look at beside the object.
pub struct HookCx<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// The kind.
    pub info: &'a KindInfo,
    /// What the write is for.
    pub op: Op,
    /// The other objects, for rules that depend on them.
    pub view: &'a dyn View,
    /// A dry run: nothing may be allocated for good.
    pub dry_run: bool,
    /// Who asks.
    pub user: &'a UserInfo,
}

/// Reading other objects from a hook: the watch cache.
pub trait View: Send + Sync {
    /// One object.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<Object>>;
    /// All objects of a resource, in a namespace where given.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<std::sync::Arc<Object>>;
}

/// How a kind's generation moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// It has none.
    None,
    /// 1 at creation, one more with every change of `spec`.
    Spec,
    /// 1 at creation, one more with every change outside of metadata and status.
    Content,
    /// 1 at creation, one more with every change outside of metadata: of a kind whose status is like any other field.
    Whole,
    /// 1 at creation, one more with every change, of metadata too.
    All,
    /// 1 at creation, for ever.
    Once,
    /// None at creation, one more with every change of `spec`.
    Later,
}

/// The hooks of a kind.
pub trait Strategy: Send + Sync {
    /// Why a name is not valid; none when it is.
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }

    /// How the generation moves.
    fn generation(&self) -> Generation {
        Generation::None
    }

    /// True when the kind has a `status` that only its subresource writes.
    fn has_status(&self, info: &KindInfo) -> bool {
        info.subresources.iter().any(|s| s.name == "status")
    }

    /// What a write to the resource or a subresource cannot change: its manager does not get to own it.
    ///
    /// Upstream: `GetResetFields` of each strategy.
    fn resets(&self, info: &KindInfo, subresource: Option<&str>) -> &'static FieldSet<'static> {
        match subresource {
            Some("status") => &resets::SPEC,
            None if info.subresources.iter().any(|s| s.name == "status") => &resets::STATUS,
            _ => &resets::NOTHING,
        }
    }

    /// True when a PUT may create.
    fn create_on_update(&self) -> bool {
        false
    }

    /// False when an update must name the resourceVersion.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// True when finalizers need no domain. Upstream asks for one where it validates metadata as the core group does, which
    /// is in all built-in groups that are not extensions.
    fn any_finalizer(&self) -> bool {
        false
    }

    /// True when an immediate deletion answers with the object, not with a Status.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// The finalizers a deletion adds without being asked for a propagation policy: true for orphaning.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// False for a kind that owns nothing: a propagation policy means nothing to it.
    fn has_dependents(&self) -> bool {
        true
    }

    /// Grace of a deletion in seconds: given what was asked for, `None` where the kind knows no grace.
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Defaults that depend on other fields; plain ones stand in the schema's table.
    fn default(&self, _new: &mut Value, _cx: &HookCx<'_>) {}

    /// Drops what the operation may not set and fills what the server sets. The generic part (status, generation,
    /// metadata) is done before.
    fn prepare(&self, _new: &mut Value, _old: Option<&Value>, _cx: &HookCx<'_>) {}

    /// What is wrong with the object.
    fn validate(&self, _new: &Value, _old: Option<&Value>, _cx: &HookCx<'_>, _errs: &FieldErrors) {}

    /// Warnings for the client: deprecated fields, suspicious values. There is an old object where one is updated.
    fn warnings(&self, _new: &Value, _old: Option<&Value>, _cx: &HookCx<'_>) -> Vec<String> {
        Vec::new()
    }

    /// What a write to `status` may change beside it; called with the old `status`'s place already taken by the new
    /// one. By default metadata may change and all the rest stays.
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        keep_all_but_status_and_metadata(new, old);
    }

    /// Takes what must be unique (addresses, ports) after validation and keeps it until the write is in the watch cache.
    fn allocate(&self, _new: &mut Value, _old: Option<&Value>, _cx: &HookCx<'_>) -> ApiResult<Held> {
        Ok(Held::default())
    }

    /// Refuses a deletion.
    fn check_delete(&self, _object: &Value, _cx: &HookCx<'_>) -> ApiResult<()> {
        Ok(())
    }

    /// True for a kind whose deletion is a phase of its own: the first request only marks the object, without a grace and
    /// without a new generation.
    fn terminates(&self) -> bool {
        false
    }

    /// Changes the object as a deletion begins (namespaces: phase Terminating).
    fn on_delete(&self, _object: &mut Value, _cx: &HookCx<'_>) {}

    /// Finalizers outside of metadata that keep an object from going (`spec.finalizers` of namespaces).
    fn keeps(&self, _object: &Value) -> bool {
        false
    }

    /// From another version to the stored one (`to_stored`), or back.
    fn convert(&self, _value: &mut Value, _info: &KindInfo, _to_stored: bool) {}
}

/// What writes may leave alone.
pub mod resets {
    use super::{FieldSet, LazyLock};

    /// A set, made when first used.
    pub type Reset = LazyLock<FieldSet<'static>>;

    /// Nothing.
    pub static NOTHING: FieldSet<'static> = FieldSet::EMPTY;
    /// `status`.
    pub static STATUS: Reset = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
    /// `spec`.
    pub static SPEC: Reset = LazyLock::new(|| FieldSet::of_fields(&[&["spec"]]));
    /// `spec` and `status`.
    pub static SPEC_AND_STATUS: Reset = LazyLock::new(|| FieldSet::of_fields(&[&["spec"], &["status"]]));
    /// `spec` and the labels.
    pub static SPEC_AND_LABELS: Reset = LazyLock::new(|| FieldSet::of_fields(&[&["spec"], &["metadata", "labels"]]));
    /// `spec` and `metadata`.
    pub static SPEC_AND_METADATA: Reset = LazyLock::new(|| FieldSet::of_fields(&[&["spec"], &["metadata"]]));
}

/// A kind without hooks.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Strategy for Plain {}

/// Keeps the old object but for the parts at the pointers, for what a subresource writes of metadata, the managed fields
/// and the resource version.
pub fn keep_all_but(new: &mut Value, old: &Value, parts: &[&str]) {
    let mut kept = old.clone();
    for at in ["/metadata/managedFields", "/metadata/resourceVersion"].iter().chain(parts) {
        match new.pointer_mut(at).map(Value::take) {
            Some(v) => kept.set_at(at, v),
            None => drop(kept.remove_at(at)),
        }
    }
    *new = kept;
}

/// Says what is wrong with an object that is created or (where there is an old one) updated.
pub type Check = fn(&Field<'_>, Option<&Value>, &HookCx<'_>);

/// Drops and fills what clients do not set.
pub type Prepare = fn(&mut Value, Option<&Value>, &HookCx<'_>);

/// Refuses a deletion.
pub type CheckDelete = fn(&Value, &HookCx<'_>) -> ApiResult<()>;

/// Changes an object as its deletion begins.
pub type OnDelete = fn(&mut Value, &HookCx<'_>);

/// What to tell the client of a valid object that is created or (where there is an old one) updated.
pub type Warn = fn(&Value, Option<&Value>) -> Vec<String>;

/// To the stored version, or back.
pub type Convert = fn(&mut Value, bool);

fn keep_all_but_status_and_metadata(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for part in ["metadata", "status"] {
        match new.get_mut(part).map(Value::take) {
            Some(v) => kept[part] = v,
            None => drop(kept.remove_at(&format!("/{part}"))),
        }
    }
    *new = kept;
}

/// What was taken for an object that is about to be written; dropped when the write is done or has failed. Until then
/// nobody else gets it, afterwards the watch cache tells of it.
#[derive(Default)]
pub struct Held(Option<Box<dyn Send + Sync>>);

impl Held {
    /// Holds a guard.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// True when it holds nothing.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

/// Hooks of kinds that differ only in these switches and functions.
#[derive(Clone, Copy)]
pub struct Common {
    generation: Generation,
    returns_deleted: bool,
    create_on_update: bool,
    unconditional_update: bool,
    names: fn(&str) -> Vec<String>,
    check: Option<Check>,
    check_subresource: Option<Check>,
    prepare: Option<Prepare>,
    check_delete: Option<CheckDelete>,
    on_delete: Option<OnDelete>,
    convert: Option<Convert>,
    warn: Option<Warn>,
    status_alone: bool,
    owns_nothing: bool,
    asked_once: bool,
    any_finalizer: bool,
}

impl Common {
    /// What most kinds do.
    pub const NONE: Common = Common {
        generation: Generation::None,
        returns_deleted: false,
        create_on_update: false,
        unconditional_update: true,
        names: names::dns1123_subdomain,
        check: None,
        check_subresource: None,
        prepare: None,
        check_delete: None,
        on_delete: None,
        convert: None,
        warn: None,
        status_alone: false,
        owns_nothing: false,
        asked_once: false,
        any_finalizer: false,
    };

    /// What is asked for is never asked for again: nobody owns `spec`.
    pub const fn asked_once(mut self) -> Self {
        self.asked_once = true;
        self
    }

    /// Finalizers need no domain.
    pub const fn any_finalizer(mut self) -> Self {
        self.any_finalizer = true;
        self
    }

    /// Nothing depends on its objects.
    pub const fn owns_nothing(mut self) -> Self {
        self.owns_nothing = true;
        self
    }

    /// A write to `status` leaves metadata alone.
    pub const fn status_alone(mut self) -> Self {
        self.status_alone = true;
        self
    }

    /// With a generation.
    pub const fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// A deletion answers with the object.
    pub const fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    /// A PUT may create.
    pub const fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    /// A PUT must name the resourceVersion.
    pub const fn conditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    /// With rules for what creates and updates may hold.
    pub const fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// With rules for what writes to subresources may hold.
    pub const fn check_subresource(mut self, check: Check) -> Self {
        self.check_subresource = Some(check);
        self
    }

    /// With what the server drops and fills.
    pub const fn prepare(mut self, prepare: Prepare) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// With objects that stay.
    pub const fn check_delete(mut self, check: CheckDelete) -> Self {
        self.check_delete = Some(check);
        self
    }

    /// With a phase of deletion, and what its beginning changes.
    pub const fn on_delete(mut self, on_delete: OnDelete) -> Self {
        self.on_delete = Some(on_delete);
        self
    }

    /// With warnings.
    pub const fn warn(mut self, warn: Warn) -> Self {
        self.warn = Some(warn);
        self
    }

    /// Stored in another form.
    pub const fn convert(mut self, convert: Convert) -> Self {
        self.convert = Some(convert);
        self
    }

    /// With another rule for names.
    pub const fn names(mut self, names: fn(&str) -> Vec<String>) -> Self {
        self.names = names;
        self
    }
}

impl Strategy for Common {
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        if self.status_alone {
            keep_all_but(new, old, &["/status"]);
        } else {
            keep_all_but_status_and_metadata(new, old);
        }
    }

    fn resets(&self, info: &KindInfo, subresource: Option<&str>) -> &'static FieldSet<'static> {
        match subresource {
            None if self.asked_once => &resets::SPEC_AND_STATUS,
            Some("status") if self.status_alone => &resets::SPEC_AND_METADATA,
            _ => Plain.resets(info, subresource),
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        (self.names)(name)
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn has_dependents(&self) -> bool {
        !self.owns_nothing
    }

    fn returns_deleted(&self) -> bool {
        self.returns_deleted
    }

    fn any_finalizer(&self) -> bool {
        self.any_finalizer
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        if let Some(prepare) = self.prepare {
            prepare(new, old, cx);
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let check = if matches!(cx.op, Op::Subresource(_)) { self.check_subresource } else { self.check };
        if let Some(check) = check {
            check(&Field::root(new, errs), old, cx);
        }
    }

    fn check_delete(&self, object: &Value, cx: &HookCx<'_>) -> ApiResult<()> {
        self.check_delete.map_or(Ok(()), |check| check(object, cx))
    }

    fn terminates(&self) -> bool {
        self.on_delete.is_some()
    }

    fn on_delete(&self, object: &mut Value, cx: &HookCx<'_>) {
        if let Some(on_delete) = self.on_delete {
            on_delete(object, cx);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _cx: &HookCx<'_>) -> Vec<String> {
        self.warn.map(|warn| warn(new, old)).unwrap_or_default()
    }

    fn convert(&self, value: &mut Value, _info: &KindInfo, to_stored: bool) {
        if let Some(convert) = self.convert {
            convert(value, to_stored);
        }
    }
}
