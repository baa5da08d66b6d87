//! Server-side apply and the managed fields of every write.
//!
//! Flow: [`on_update`] takes the stored object and the one to be stored and gives it back with `managedFields`;
//! [`on_apply`] takes the stored object and a configuration and gives the merged object with `managedFields`, or the
//! conflicts. The caller canonicalizes, defaults, admits and validates what comes out.
//!
//! **Invariant:** a write that changes nothing leaves `managedFields` as they were.
//! **Invariant:** entries whose fields a write does not touch are moved or copied, never parsed.
//!
//! Entries of another version of the kind are read as if they were of this one: stored forms here are one per kind, and
//! versions share most paths.
//!
//! Rules: upstream `apimachinery/pkg/util/managedfields` and `structured-merge-diff/merge/update.go`.

mod atomics;
pub mod conflict;
pub mod fieldset;
mod last_applied;
pub mod managed;
mod merge;
mod misfits;
pub mod walk;
pub mod wire;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use atomics::atomics;
pub use conflict::{ApplyError, Conflict};
pub use fieldset::FieldSet;
pub use managed::settle_times;

use crate::api::meta::Gvk;
use crate::api::schema::{Shape, View, canonicalize};
use conflict::conflicts_with;
use managed::{Id, Operation};
use walk::{Diff, Strict};

/// The manager of a request that names none: the user agent up to its first `/`, cut to what fits.
///
/// Upstream: `managerOrUserAgent` and `prefixFromUserAgent`.
pub fn manager_of<'a>(field_manager: &'a str, user_agent: &'a str) -> &'a str {
    /// Bytes of a manager's name. Upstream: `FieldManagerMaxLength`.
    const MAX_NAME_BYTES: usize = 128;
    if !field_manager.is_empty() {
        return field_manager;
    }
    let agent = user_agent.split('/').next().unwrap_or_default();
    let mut end = agent.find(|c: char| c.is_control()).unwrap_or(agent.len()).min(MAX_NAME_BYTES);
    while !agent.is_char_boundary(end) {
        end -= 1;
    }
    match &agent[..end] {
        "" => "unknown",
        name => name,
    }
}

/// Who writes what, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The manager's name; see [`manager_of`].
    pub manager: &'a str,
    /// The subresource that is written, or empty.
    pub subresource: &'a str,
    /// The kind, in the version of the request.
    pub gvk: &'a Gvk,
    /// The kind's type.
    pub view: View<'a>,
    /// What this request cannot change, as `status` on the main resource: nobody gets to own it by it.
    pub reset: &'a FieldSet<'a>,
    /// The time of the request.
    pub now: Timestamp,
}

impl<'a> Writer<'a> {
    fn id<'b>(&'b self, operation: Operation, api_version: &'b str) -> Id<'b> {
        Id { manager: self.manager, operation, api_version, subresource: self.subresource }
    }

    /// What a typed object has before anything is set: what is there anyway, nobody added.
    fn blank(&self) -> Value {
        match self.view.shape() {
            Shape::Struct(def) => canonicalize(json!({}), def).map_or_else(|_| json!({}), |c| c.value),
            _ => json!({}),
        }
    }
}

/// An object with what a configuration says, as an apply merges it; nobody's ownership is looked at.
pub fn merge_into(view: View<'_>, live: &Value, config: &Value) -> Result<Value, walk::TypeError> {
    merge::merge(view, live, config)
}

/// Gives an object that is created (`live` is none) or updated its `managedFields`.
///
/// What the client sent as `managedFields` counts only where it is valid and no subresource is written; an empty list
/// forgets all managers. An object without managers gets none by an update.
pub fn on_update(live: Option<&Value>, mut new: Value, writer: &Writer<'_>) -> Value {
    let entries = entries_of(live, managed::take(&mut new), writer.subresource);
    if entries.is_empty() && live.is_some() {
        return new;
    }
    let blank;
    let old = match live {
        Some(live) => live,
        None => {
            blank = writer.blank();
            &blank
        }
    };
    let entries = updated(old, &new, entries, writer);
    managed::put(&mut new, entries);
    new
}

/// The entries a write starts from.
fn entries_of(live: Option<&Value>, sent: Option<Vec<Value>>, subresource: &str) -> Vec<Value> {
    let stored = live.map_or(&[][..], managed::of);
    match sent {
        Some(sent) if sent == stored => sent,
        Some(sent) if subresource.is_empty() => {
            if managed::is_reset(&sent) {
                return Vec::new();
            }
            match managed::checked(&sent) {
                Ok(sent) => sent,
                Err(_) => stored.to_vec(),
            }
        }
        _ => stored.to_vec(),
    }
}

/// The entries after an update from `old` to `new`.
fn updated(old: &Value, new: &Value, mut entries: Vec<Value>, writer: &Writer<'_>) -> Vec<Value> {
    // What has no identity cannot be tracked; the write itself is judged by validation.
    let Ok(diff) = walk::compare(writer.view, old, new) else { return entries };
    let diff = diff.without(writer.reset);
    if diff.is_empty() {
        return entries;
    }
    let Diff { added, modified, removed } = diff;
    let changed = modified.union(added);
    let api_version = writer.gvk.api_version();
    let id = writer.id(Operation::Update, &api_version);
    let own = managed::position(&entries, &id);
    // The own entry loses what is gone, and keeps what it is about to gain anyway.
    let mut at = 0;
    entries.retain_mut(|entry| {
        let is_own = own == Some(at);
        at += 1;
        let kept = match is_own {
            true => managed::lose(entry, &[&removed]),
            false => managed::lose(entry, &[&changed, &removed]),
        };
        kept || (is_own && !changed.is_empty() && {
            entry["fieldsV1"] = json!({});
            true
        })
    });
    if !changed.is_empty() {
        match managed::position(&entries, &id) {
            Some(own) => managed::gain(&mut entries[own], changed, writer.now),
            None => entries.push(id.entry(&changed, Some(writer.now))),
        }
    }
    managed::cap(&mut entries);
    entries
}

/// Applies a configuration to an object; to none where it is to be created.
///
/// # Errors
/// [`ApplyError::Conflicts`] when another manager owns what would change and `force` is false; [`ApplyError::Invalid`]
/// when the configuration is not of the kind or does not fit its type.
pub fn on_apply(live: Option<&Value>, config: &Value, force: bool, writer: &Writer<'_>) -> Result<Value, ApplyError> {
    check_kind(config, writer.gvk)?;
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".into()));
    }
    let mut base = live.cloned().unwrap_or_else(|| json!({}));
    let mut entries = managed::take(&mut base).unwrap_or_default();
    if entries.is_empty() && live.is_some() {
        let before = Writer { manager: managed::BEFORE_FIRST_APPLY, ..*writer };
        entries = updated(&writer.blank(), &base, entries, &before);
    }
    let applied = apply(&base, config, entries.clone(), force, live.is_some(), writer);
    let (mut object, entries) = match applied {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == last_applied::MANAGER => {
            let conflicts = last_applied::remaining(&base, conflicts, writer);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
            apply(&base, config, entries, true, live.is_some(), writer)?
        }
        other => other?,
    };
    if writer.manager == last_applied::MANAGER {
        last_applied::refresh(&mut object, config);
    }
    managed::put(&mut object, entries);
    Ok(object)
}

fn check_kind(config: &Value, gvk: &Gvk) -> Result<(), ApplyError> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = crate::api::meta::gvk::split(text("apiVersion"));
    if (group, version, text("kind")) == (&gvk.group, &gvk.version, &gvk.kind) {
        return Ok(());
    }
    Err(ApplyError::Invalid(format!("invalid object type: {group}/{version}, Kind={}", text("kind"))))
}

/// The merged object without `managedFields`, and the entries.
fn apply(
    base: &Value,
    config: &Value,
    mut entries: Vec<Value>,
    force: bool,
    exists: bool,
    writer: &Writer<'_>,
) -> Result<(Value, Vec<Value>), ApplyError> {
    let misfit = |what: &str, e: &dyn std::fmt::Display| {
        ApplyError::Invalid(format!("failed to create typed {what} object ({}): {e}", conflict::describe(config)))
    };
    let all = |first| misfits::all(writer.view, config, first);
    let set = walk::owned(writer.view, config, Strict::Yes).map_err(|e| misfit("patch", &all(e)))?;
    let merged = merge::merge(writer.view, base, config).map_err(|e| misfit("live", &e))?;
    let set = if writer.reset.is_empty() { set } else { set.recursive_difference(writer.reset) };
    let api_version = writer.gvk.api_version();
    let id = writer.id(Operation::Apply, &api_version);
    let previous = managed::position(&entries, &id).map(|own| entries.remove(own));
    let object = match &previous {
        Some(entry) => {
            let last = wire::parse(managed::fields(entry)).unwrap_or_default();
            prune(merged, &set, &last, &entries, writer).map_err(|e| misfit("live", &e))?
        }
        None => merged,
    };
    let diff = walk::compare(writer.view, base, &object).map_err(|e| misfit("live", &e))?.without(writer.reset);
    let Diff { added, modified, removed } = diff;
    let changed = modified.union(added);
    if !force {
        let conflicts = conflicts_with(&entries, &changed);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    entries.retain_mut(|entry| managed::lose(entry, &[&changed, &removed]));
    let time = match exists && walk::same(base, &object) {
        true => previous.as_ref().and_then(|p| managed::text(p, "time").parse().ok()),
        false => Some(writer.now),
    };
    if !set.is_empty() {
        entries.push(id.entry(&set, time));
    }
    Ok((object, entries))
}

/// Removes what this manager applied last time, does not apply now, and nobody else owns.
fn prune(
    merged: Value,
    set: &FieldSet<'_>,
    last: &FieldSet<'_>,
    others: &[Value],
    writer: &Writer<'_>,
) -> Result<Value, walk::TypeError> {
    if last.difference(set).is_empty() {
        return Ok(merged);
    }
    let view = writer.view;
    let last = walk::with_named(view, last);
    let everything = walk::with_named(view, &walk::owned(view, &merged, Strict::No)?);
    let mut without_last = merged.clone();
    merge::remove(view, &mut without_last, &last);

    // What others own comes back, with what is above and below it in the pruned object.
    let mut owned = walk::with_named(view, set);
    for entry in others {
        let theirs = wire::parse(managed::fields(entry)).unwrap_or_default();
        owned = owned.union(walk::with_named(view, &theirs));
    }
    let left = walk::with_named(view, &walk::owned(view, &without_last, Strict::No)?);
    let unowned = everything.difference(&left.union(owned));
    let mut with_owned = merged.clone();
    merge::remove(view, &mut with_owned, &unowned);

    // What hung below something removed, but was never this manager's, comes back too.
    let left = walk::with_named(view, &walk::owned(view, &with_owned, Strict::No)?);
    let gone = everything.difference(&left).intersection(&last);
    let mut pruned = merged.clone();
    merge::remove(view, &mut pruned, &gone);
    Ok(pruned)
}
