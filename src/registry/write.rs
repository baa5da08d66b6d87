//! Create, update, patch and delete: one path for all kinds.
//!
//! In: a decoded body or patch and a request's context. Out: the object as stored, with its revision.
//!
//! **Invariant:** admission and validation of an update run on what the compare-and-swap then writes.
//! **Invariant:** an answer of success was durable and is in the watch cache (read your writes).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::store::cache::splice_revision;
use crate::store::{CommitError, Expect, Revision, Txn, Write};
use crate::util::clock::rfc3339;

use super::errors::FieldErrors;
use super::strategy::{Held, HookCx, Op};
use super::{Admission, Registry, RequestCx, Resource, Target, meta};

/// How often a write without a resourceVersion is tried again when others write the same object.
pub(super) const MAX_CONFLICT_RETRIES: usize = 30;

/// An object as it was stored (or would be, in a dry run).
#[derive(Debug, Clone)]
pub struct Stored {
    /// The object. After a write it has not got its new resourceVersion yet: most answers are made of `json`.
    body: Value,
    /// The revision of the write; none when nothing was written.
    revision: Option<Revision>,
    json: Option<Bytes>,
    /// True when it did not exist before.
    pub created: bool,
}

impl Stored {
    /// What would have been stored.
    fn dry(body: Value, created: bool) -> Self {
        Self { body, revision: None, json: None, created }
    }

    /// The object's JSON in the version it is stored in, or, of a kind with a conversion webhook, in the request's; none when
    /// it is not stored (a dry run, or it is gone).
    pub fn json(&self) -> Option<&Bytes> {
        self.json.as_ref()
    }

    /// The object, with its resourceVersion.
    pub fn into_object(self) -> Value {
        match self.revision {
            Some(revision) => with_revision(self.body, revision),
            None => self.body,
        }
    }
}

/// What a deletion led to.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone.
    Gone(Value),
    /// It is marked, and goes when grace and finalizers allow.
    Pending(Value),
}

/// What a client asks of a deletion, `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds.
    pub grace: Option<i64>,
    /// Must be the object's uid.
    pub uid: Option<String>,
    /// Must be the object's revision.
    pub resource_version: Option<String>,
    /// `Orphan`, `Background`, `Foreground`.
    pub propagation: Option<String>,
    /// Nothing is to be deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Does the object that is there meet the preconditions?
    ///
    /// # Errors
    /// 409 with the precondition that it does not meet.
    pub fn check(&self, res: &Resource, current: &Value) -> ApiResult<()> {
        for (wanted, what, field, perhaps) in [
            (&self.uid, "UID", "/metadata/uid", "deleted and then recreated"),
            (&self.resource_version, "ResourceVersion", "/metadata/resourceVersion", "modified"),
        ] {
            let found = current.str_at(field).unwrap_or_default();
            if let Some(wanted) = wanted.as_deref().filter(|w| *w != found) {
                let name = current.str_at("/metadata/name").unwrap_or_default();
                if res.strategy().terminates() {
                    // Upstream judges these two kinds in code of its own, in other words.
                    let why = format!(
                        "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                    );
                    return Err(Status::conflict(&res.info.stored.group, &res.info.plural, name, &why));
                }
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been {perhaps}"
                );
                return Err(Status::conflict(&res.info.stored.group, &res.info.gvk.kind, name, &why));
            }
        }
        Ok(())
    }

    /// From a body; the deprecated `orphanDependents` counts as a policy.
    ///
    /// # Errors
    /// 422 with what upstream's `ValidateDeleteOptions` finds. A negative grace is no error: it counts as a second.
    pub fn from_value(v: &Value) -> ApiResult<Self> {
        let errs = FieldErrors::new();
        let policy = v.str_at("/propagationPolicy");
        let orphan = v.bool_at("/orphanDependents").map(|o| if o { "Orphan" } else { "Background" });
        if let (Some(policy), Some(_)) = (policy, orphan) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errs.at("propagationPolicy").invalid(policy, why);
        }
        if let Some(p) = policy.filter(|p| !matches!(*p, "Orphan" | "Background" | "Foreground")) {
            errs.at("propagationPolicy").not_supported(p, &["Foreground", "Background", "Orphan", "nil"]);
        }
        let dry_run = v.items_at("/dryRun");
        if dry_run.iter().any(|d| d != "All") {
            errs.at("dryRun").not_supported(json!(dry_run), &["All"]);
        }
        if !errs.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errs.take()));
        }
        Ok(Self {
            grace: v.int_at("/gracePeriodSeconds").map(|g| if g < 0 { 1 } else { g }),
            uid: v.str_at("/preconditions/uid").map(str::to_owned),
            resource_version: v.str_at("/preconditions/resourceVersion").map(str::to_owned),
            propagation: policy.or(orphan).map(str::to_owned),
            dry_run: !dry_run.is_empty(),
        })
    }
}

/// Makes the new object from the current one. Called again after every lost race.
pub type Change<'a> = &'a (dyn Fn(&Value) -> ApiResult<Value> + Send + Sync);

impl Registry {
    /// Stores a new object. `body` is canonical, in the resource's own version.
    pub async fn create(&self, res: &Resource, cx: &RequestCx, at: &Target, mut body: Value) -> ApiResult<Stored> {
        let info = &res.info;
        if body.str_at("/metadata/resourceVersion").is_some_and(|rv| !rv.is_empty()) {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if cx.applied && body.str_at("/metadata/uid").is_some_and(|uid| !uid.is_empty()) {
            // An apply that names a uid means an object that is there.
            let errs = FieldErrors::new();
            errs.at("metadata").at("uid").invalid(body["metadata"]["uid"].clone(), "field is immutable");
            let name = body.str_at("/metadata/name").unwrap_or_default();
            return Err(Status::invalid(&info.stored.group, &info.gvk.kind, name, errs.take()));
        }
        warn_of_owners(&mut body, cx);
        let asked = body.str_at("/metadata/name").unwrap_or_default().is_empty();
        let writes_status = body.get("status").is_some() && res.def.is_some() && res.strategy().has_status(info);
        meta::before_create(&mut body, info, res.strategy(), cx.now, &at.namespace);
        if writes_status {
            // The wire table has put it there because it is always written, or else the client did.
            body["status"] = json!({});
        }
        let hooks = self.hooks(res, cx, Op::Create);
        res.apply_defaults(&mut body);
        res.strategy().default(&mut body, &hooks);
        self.admission().mutate(&Admission::new(res, cx, at, &Op::Create), &mut body, None).await?;
        res.apply_defaults(&mut body);
        res.strategy().prepare(&mut body, None, &hooks);
        body = res.canonical(body);
        body = res.track_fields(None, body, cx, None);
        let admission = Admission::new(res, cx, at, &Op::Create);
        self.check(res, cx, &body, None, &Op::Create)?;
        self.admission().validate(&admission, Some(&body), None).await?;
        let mut tries = 0;
        loop {
            let name = body.str_at("/metadata/name").unwrap_or_default().to_owned();
            if let Some(existing) = self.cache().resource(&info.stored).get(&at.namespace, &name) {
                if !asked || tries >= 8 {
                    return Err(already_exists(res, &existing, &name));
                }
            } else {
                let hooks = self.hooks(res, cx, Op::Create);
                let held = res.strategy().allocate(&mut body, None, &hooks)?;
                if cx.dry_run {
                    return Ok(Stored::dry(body, true));
                }
                let stored = self.encoded(res, &body).await?;
                match self.store(res, (&at.namespace, &name), Expect::Absent, &stored, held).await {
                    Ok((revision, json)) => return self.answered(res, body, revision, json, true).await,
                    Err(CommitError::Conflict { .. }) if asked && tries < 8 => {}
                    Err(CommitError::Conflict { .. }) => {
                        return Err(Status::already_exists(&info.gvk.group, &info.plural, &name));
                    }
                    Err(other) => return Err(store_failure(&other)),
                }
            }
            // A generated name that is taken: another one.
            tries += 1;
            let prefix = body.str_at("/metadata/generateName").unwrap_or_default().to_owned();
            body.set_at("/metadata/name", meta::generate_name(&prefix));
        }
    }

    /// Changes an object, or creates it where `create` gives one and the kind, or an apply, allows it.
    pub async fn update(
        &self,
        res: &Resource,
        cx: &RequestCx,
        at: &Target,
        op: &Op,
        change: Change<'_>,
        create: Option<Value>,
    ) -> ApiResult<Stored> {
        if let Some(name) = create.as_ref().and_then(|b| b.str_at("/metadata/name")).filter(|n| *n != at.name) {
            return Err(misnamed(name, at));
        }
        for attempt in 0.. {
            let Some(current) = self.cache().resource(&res.info.stored).get(&at.namespace, &at.name) else {
                return match create.filter(|_| cx.applied || res.strategy().create_on_update()) {
                    Some(body) => self.create(res, cx, at, body).await,
                    None => Err(Status::not_found(&res.info.gvk.group, &res.info.plural, &at.name)),
                };
            };
            // An object that a webhook brings forward is written even when nothing else changes.
            let stale = res.by_webhook().is_some() && current.gvk.version != res.info.stored_version;
            let current = Current { object: self.one_in_version(res, current).await?, stale };
            let mut old = current.object.value();
            res.from_stored(&mut old);
            let new = change(&old)?;
            // A lost race is run again: a patch then sees the new state, and a client's own resourceVersion is found old.
            match self.try_update(res, cx, at, op, &current, &old, new).await {
                Err(TryError::Conflict) if attempt < MAX_CONFLICT_RETRIES => {}
                Err(TryError::Conflict) => return Err(modified(res, &at.name)),
                Err(TryError::Status(status)) => return Err(status),
                Ok(stored) => return Ok(stored),
            }
        }
        unreachable!("the loop above only ends by returning")
    }

    #[allow(clippy::too_many_arguments)]
    async fn try_update(
        &self,
        res: &Resource,
        cx: &RequestCx,
        at: &Target,
        op: &Op,
        current: &Current,
        old: &Value,
        mut new: Value,
    ) -> Result<Stored, TryError> {
        let (info, current, stale) = (&res.info, &current.object, current.stale);
        check_identity(res, at, old, &new, cx.is_patch)?;
        match new.str_at("/metadata/resourceVersion").unwrap_or_default() {
            "" | "0" if !res.strategy().unconditional_update() && *op == Op::Update && !cx.is_patch => {
                let errs = FieldErrors::new();
                errs.at("metadata").at("resourceVersion").invalid(0, "must be specified for an update");
                return Err(Status::invalid(&info.gvk.group, &info.plural, &at.name, errs.take()).into());
            }
            "" | "0" => {}
            rv if rv.parse::<u64>().is_err() => {
                let errs = FieldErrors::new();
                errs.at("metadata").at("resourceVersion").invalid(rv, "must be a number");
                return Err(Status::invalid(&info.gvk.group, &info.gvk.kind, &at.name, errs.take()).into());
            }
            rv if rv.parse() != Ok(current.revision) => return Err(modified(res, &at.name).into()),
            _ => {}
        }
        warn_of_owners(&mut new, cx);
        meta::metadata(&mut new).insert("resourceVersion".into(), current.revision.to_string().into());
        match op {
            Op::Subresource(sub) if sub == "status" => {
                let status = new.get_mut("status").map(Value::take);
                meta::before_update(&mut new, old, info, res.strategy());
                match status {
                    Some(status) => new["status"] = status,
                    None => drop(new.remove_at("/status")),
                }
                res.strategy().prepare_status(&mut new, old);
            }
            Op::Subresource(_) => {}
            _ => meta::before_update(&mut new, old, info, res.strategy()),
        }
        let hooks = self.hooks(res, cx, op.clone());
        res.apply_defaults(&mut new);
        res.strategy().default(&mut new, &hooks);
        let subresource = op_subresource(op);
        let admission = Admission::new(res, cx, at, op);
        self.mutate_change(&admission, &mut new, old).await?;
        res.strategy().prepare(&mut new, Some(old), &hooks);
        meta::bump_generation(&mut new, old, res);
        new = res.track_fields(Some(old), res.canonical(new), cx, subresource);
        self.check(res, cx, &new, Some(old), op)?;
        self.validate_change(&admission, &new, old).await?;
        let hooks = self.hooks(res, cx, op.clone());
        let held = res.strategy().allocate(&mut new, Some(old), &hooks)?;
        if !stale && res.same(old, &new) {
            let json = Some(current.json.clone());
            return Ok(Stored { body: old.clone(), revision: None, json, created: false });
        }
        if cx.dry_run {
            return Ok(Stored::dry(new, false));
        }
        let key = res.key(&at.namespace, &at.name);
        let expect = Expect::Revision(current.revision);
        // The last finalizer of an object that is being deleted is gone: so is the object.
        if is_deleting(&new) && self.may_go(res, &new) {
            let revision = self.commit(key, expect, None, held).await.map_err(TryError::from)?;
            return Ok(Stored { body: new, revision: Some(revision), json: None, created: false });
        }
        let stored = self.encoded(res, &new).await?;
        let named = (at.namespace.as_str(), at.name.as_str());
        let (revision, json) = self.store(res, named, expect, &stored, held).await.map_err(TryError::from)?;
        Ok(self.answered(res, new, revision, json, false).await?)
    }

    /// Lets admission change the object, or what the subresource shows of it.
    async fn mutate_change(&self, a: &Admission<'_>, new: &mut Value, old: &Value) -> ApiResult<()> {
        let Some(face) = &a.cx.face else { return self.admission().mutate(a, new, Some(old)).await };
        let (mut shown, before) = ((face.of)(a.resource, new), (face.of)(a.resource, old));
        self.admission().mutate(a, &mut shown, Some(&before)).await?;
        *new = (face.into)(a.resource, new, &shown)?;
        Ok(())
    }

    /// Asks admission about the same.
    async fn validate_change(&self, a: &Admission<'_>, new: &Value, old: &Value) -> ApiResult<()> {
        let Some(face) = &a.cx.face else { return self.admission().validate(a, Some(new), Some(old)).await };
        let (new, old) = ((face.of)(a.resource, new), (face.of)(a.resource, old));
        self.admission().validate(a, Some(&new), Some(&old)).await
    }

    /// What a write left. Where a webhook converts, that is what it makes of the stored form.
    async fn answered(
        &self,
        res: &Resource,
        body: Value,
        revision: Revision,
        json: Option<Bytes>,
        created: bool,
    ) -> ApiResult<Stored> {
        let own = match &json {
            Some(json) => self.written(res, json, revision).await?,
            None => None,
        };
        Ok(match own {
            Some(own) => Stored { body: own.value(), revision: Some(revision), json: Some(own.json.clone()), created },
            None => Stored { body, revision: Some(revision), json, created },
        })
    }

    /// Deletes an object, or begins to.
    pub async fn delete(
        &self,
        res: &Resource,
        cx: &RequestCx,
        at: &Target,
        options: &DeleteOptions,
    ) -> ApiResult<Deleted> {
        for _ in 0..MAX_CONFLICT_RETRIES {
            let Some(current) = self.cache().resource(&res.info.stored).get(&at.namespace, &at.name) else {
                return Err(Status::not_found(&res.info.gvk.group, &res.info.plural, &at.name));
            };
            let current = self.one_in_version(res, current).await?;
            let mut old = current.value();
            res.from_stored(&mut old);
            options.check(res, &old)?;
            let hooks = self.hooks(res, cx, Op::Update);
            res.strategy().check_delete(&old, &hooks)?;
            self.admission().validate(&Admission::deletion(res, cx, at), None, Some(&old)).await?;
            let mut marked = old.clone();
            let gone = self.mark(res, cx, &mut marked, options, &hooks);
            if gone && res.strategy().grace(&old, options.grace).is_none() && !is_deleting(&old) {
                // Without grace there is no moment between: the answer shows it as it was.
                marked = old.clone();
            }
            if cx.dry_run {
                return Ok(if gone { Deleted::Gone(marked) } else { Deleted::Pending(marked) });
            }
            if !gone && marked == old {
                return Ok(Deleted::Pending(old));
            }
            let value = if gone { None } else { Some(self.encoded(res, &marked).await?) };
            let key = res.key(&at.namespace, &at.name);
            match self.commit(key, Expect::Revision(current.revision), value, Held::default()).await {
                Ok(revision) if gone => return Ok(Deleted::Gone(with_revision(marked, revision))),
                Ok(revision) => return Ok(Deleted::Pending(with_revision(marked, revision))),
                Err(CommitError::Conflict { .. }) => {}
                Err(other) => return Err(store_failure(&other)),
            }
        }
        Err(modified(res, &at.name))
    }

    /// Puts the marks of a deletion on an object; true when nothing keeps it.
    fn mark(
        &self,
        res: &Resource,
        cx: &RequestCx,
        object: &mut Value,
        options: &DeleteOptions,
        hooks: &HookCx<'_>,
    ) -> bool {
        let strategy = res.strategy();
        let asked = strategy.grace(object, options.grace);
        let grace = asked.unwrap_or(0).max(0);
        let deleting = is_deleting(object);
        let left = object.int_at("/metadata/deletionGracePeriodSeconds").unwrap_or(0);
        if deleting && asked.is_some() && left > 0 && options.grace.is_none_or(|_| grace >= left) {
            // Its grace runs: only a shorter one changes anything.
            return false;
        }
        if deleting && strategy.terminates() && strategy.keeps(object) {
            return false;
        }
        if strategy.has_dependents() {
            propagate(object, options, strategy.orphans_by_default());
        }
        if !deleting {
            let at = cx.now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(cx.now);
            let meta = meta::metadata(object);
            meta.insert("deletionTimestamp".into(), rfc3339(at).into());
            match strategy.terminates() {
                true => meta::order(meta),
                false => give_grace(meta, grace),
            }
            strategy.on_delete(object, hooks);
        } else if object.get_at("/metadata/deletionGracePeriodSeconds").is_none() {
            // The second request for what only began to terminate.
            give_grace(meta::metadata(object), grace);
        } else if grace < left {
            let meta = meta::metadata(object);
            let began =
                meta.get("deletionTimestamp").and_then(Value::as_str).and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let at =
                began.and_then(|t| t.checked_add(jiff::SignedDuration::from_secs(grace - left)).ok()).unwrap_or(cx.now);
            meta.insert("deletionTimestamp".into(), rfc3339(at).into());
            meta.insert("deletionGracePeriodSeconds".into(), grace.into());
        }
        self.may_go(res, object)
    }

    fn may_go(&self, res: &Resource, object: &Value) -> bool {
        object.items_at("/metadata/finalizers").is_empty()
            && object.int_at("/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
            && !res.strategy().keeps(object)
    }

    fn hooks<'a>(&'a self, res: &'a Resource, cx: &'a RequestCx, op: Op) -> HookCx<'a> {
        HookCx { now: cx.now, info: &res.info, op, view: self, dry_run: cx.dry_run, user: &cx.user }
    }

    /// Validates; warnings go to the client.
    fn check(&self, res: &Resource, cx: &RequestCx, new: &Value, old: Option<&Value>, op: &Op) -> ApiResult<()> {
        let errs = FieldErrors::new();
        meta::validate(new, &res.info, res.strategy(), &errs);
        if let Some(old) = old {
            meta::validate_update(new, old, &errs);
        }
        let hooks = self.hooks(res, cx, op.clone());
        res.strategy().validate(new, old, &hooks, &errs);
        if !matches!(op, Op::Subresource(_)) {
            for warning in res.strategy().warnings(new, old, &hooks) {
                cx.warn(warning);
            }
        }
        if errs.is_empty() {
            return Ok(());
        }
        let name = new.str_at("/metadata/name").unwrap_or_default();
        // Upstream's errors name the internal kind: that of the stored form.
        Err(Status::invalid(&res.info.stored.group, &res.info.gvk.kind, name, errs.take()))
    }

    /// Writes an object; gives back its revision and its JSON with it.
    async fn store(
        &self,
        res: &Resource,
        (namespace, name): (&str, &str),
        expect: Expect,
        stored: &Bytes,
        held: Held,
    ) -> Result<(Revision, Option<Bytes>), CommitError> {
        let revision = self.commit(res.key(namespace, name), expect, Some(stored.clone()), held).await?;
        // The cache has made the same already, unless somebody else has changed it since. What a definition's objects say
        // of themselves can be another version there.
        let cache = res.def.map(|_| self.cache().resource(&res.info.stored));
        let cached = cache.and_then(|c| c.get(namespace, name));
        match cached.filter(|o| o.revision == revision) {
            Some(object) => Ok((revision, Some(object.json.clone()))),
            None => Ok((revision, splice_revision(stored, revision))),
        }
    }

    /// Writes, and waits until the watch cache has it. What is held is held until then, also when the client goes away
    /// in the middle: the write happens all the same, and nobody else may get the same number before it shows.
    pub(super) async fn commit(
        &self,
        key: Bytes,
        expect: Expect,
        value: Option<Bytes>,
        held: Held,
    ) -> Result<Revision, CommitError> {
        let cache = self.cache().clone();
        let holds = !held.is_nothing();
        let work = async move {
            let done = cache.store().commit(Txn(vec![Write { key, expect, value }])).await;
            if let Ok(revision) | Err(CommitError::Conflict { actual: Some(revision), .. }) = &done {
                cache.wait_for(*revision).await.map_err(|_| CommitError::Closed)?;
            }
            drop(held);
            done
        };
        if !holds {
            return work.await;
        }
        // Ends with the commit, which the store finishes or refuses.
        tokio::spawn(work).await.unwrap_or(Err(CommitError::Closed))
    }
}

/// What an update begins with.
struct Current {
    /// The object, in the request's version.
    object: Arc<Object>,
    /// It is stored in another version than the stored one.
    stale: bool,
}

/// Why one round of an update did not write.
enum TryError {
    Conflict,
    Status(Box<Status>),
}

impl From<Box<Status>> for TryError {
    fn from(status: Box<Status>) -> Self {
        Self::Status(status)
    }
}

impl From<CommitError> for TryError {
    fn from(e: CommitError) -> Self {
        match e {
            CommitError::Conflict { .. } => Self::Conflict,
            other => Self::Status(store_failure(&other)),
        }
    }
}

fn op_subresource(op: &Op) -> Option<&str> {
    match op {
        Op::Subresource(s) => Some(s),
        _ => None,
    }
}

fn is_deleting(object: &Value) -> bool {
    object.str_at("/metadata/deletionTimestamp").is_some()
}

fn with_revision(mut object: Value, revision: Revision) -> Value {
    let meta = meta::metadata(&mut object);
    meta.insert("resourceVersion".into(), revision.to_string().into());
    meta::order(meta);
    object
}

pub(super) fn modified(res: &Resource, name: &str) -> Box<Status> {
    Status::conflict(
        &res.info.gvk.group,
        &res.info.plural,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

fn already_exists(res: &Resource, existing: &Object, name: &str) -> Box<Status> {
    let mut status = Status::already_exists(&res.info.gvk.group, &res.info.plural, name);
    if existing.is_deleting() {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// The store's error as a client sees it.
pub fn store_failure(e: &CommitError) -> Box<Status> {
    match e {
        CommitError::TooLarge { size, limit } => Status::new(
            Reason::RequestEntityTooLarge,
            format!("etcdserver: request is too large: {size} bytes, the limit is {limit}"),
        ),
        CommitError::ReadOnly(why) => {
            Status::new(Reason::InternalError, format!("the store is read-only, nothing was written: {why}"))
        }
        other => Status::internal(other),
    }
}

fn warn_of_owners(new: &mut Value, cx: &RequestCx) {
    if meta::dedup_owners(new) {
        cx.warn(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests");
    }
}

fn misnamed(name: &str, at: &Target) -> Box<Status> {
    Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", at.name))
}

/// The uid of a whole object is a precondition; that of a patch is a change, which validation refuses.
fn check_identity(res: &Resource, at: &Target, old: &Value, new: &Value, is_patch: bool) -> ApiResult<()> {
    let name = new.str_at("/metadata/name").unwrap_or_default();
    if name != at.name {
        return Err(misnamed(name, at));
    }
    if is_patch {
        return Ok(());
    }
    let (was, is) = (old.str_at("/metadata/uid"), new.str_at("/metadata/uid").unwrap_or_default());
    if !is.is_empty() && was != Some(is) {
        let why =
            format!("Precondition failed: UID in precondition: {is}, UID in object meta: {}", was.unwrap_or_default());
        return Err(Status::conflict(&res.info.gvk.group, &res.info.plural, &at.name, &why));
    }
    Ok(())
}

/// Says how long an object may stay, which is news of it.
fn give_grace(meta: &mut Map<String, Value>, seconds: i64) {
    meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64) {
        meta.insert("generation".into(), generation.saturating_add(1).into());
    }
    meta::order(meta);
}

/// Adds the finalizer that a propagation policy means, and takes away the other one.
fn propagate(object: &mut Value, options: &DeleteOptions, orphans_by_default: bool) {
    let has = |name: &str| object.items_at("/metadata/finalizers").iter().any(|f| f == name);
    let (orphan, foreground) = match options.propagation.as_deref() {
        Some("Orphan") => (true, false),
        Some("Foreground") => (false, true),
        Some("Background") => (false, false),
        _ => (has("orphan") || orphans_by_default, has("foregroundDeletion")),
    };
    let mut list: Vec<Value> = object.items_at("/metadata/finalizers").to_vec();
    list.retain(|f| f != "orphan" && f != "foregroundDeletion");
    if orphan {
        list.push(json!("orphan"));
    }
    if foreground {
        list.push(json!("foregroundDeletion"));
    }
    let meta = meta::metadata(object);
    if list.is_empty() {
        meta.shift_remove("finalizers");
    } else {
        meta.insert("finalizers".into(), Value::Array(list));
        meta::order(meta);
    }
}
