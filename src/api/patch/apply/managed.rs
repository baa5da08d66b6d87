//! `metadata.managedFields`: the entries, whose they are, their order and their number.
//!
//! Entries stay JSON; the fields of one are parsed only when a write touches them.
//!
//! **Invariant:** stored entries are valid and canonical: they were made by [`super::wire::print`].
//!
//! Rules: upstream `apimachinery/pkg/util/managedfields/internal` (`managedfields.go`, `capmanagers.go`,
//! `fieldmanager.go`).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;
use super::wire;

/// Entries of updates that are kept; the oldest above are merged. Upstream: `DefaultMaxUpdateManagers`.
pub const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that merged entries get.
pub const ANCIENT: &str = "ancient-changes";
/// The manager of what was there before the first apply.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Anything else.
    Update,
}

impl Operation {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells managers apart. Appliers are the same in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a> {
    /// Manager.
    pub manager: &'a str,
    /// Apply or Update.
    pub operation: Operation,
    /// `group/version`.
    pub api_version: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
}

impl Id<'_> {
    fn is(&self, entry: &Value) -> bool {
        text(entry, "operation") == self.operation.as_str()
            && text(entry, "manager") == self.manager
            && text(entry, "subresource") == self.subresource
            && (self.operation == Operation::Apply || text(entry, "apiVersion") == self.api_version)
    }

    /// An entry with these fields.
    pub fn entry(&self, set: &FieldSet<'_>, time: Option<Timestamp>) -> Value {
        let mut entry = Map::with_capacity(7);
        entry.insert("manager".into(), self.manager.into());
        entry.insert("operation".into(), self.operation.as_str().into());
        entry.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = time {
            entry.insert("time".into(), stamp(time));
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), wire::print(set));
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.into());
        }
        Value::Object(entry)
    }
}

/// A text field of an entry; absent is empty.
pub fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn stamp(time: Timestamp) -> Value {
    crate::util::clock::rfc3339(time).into()
}

/// True for an entry of a server-side apply.
pub fn is_apply(entry: &Value) -> bool {
    text(entry, "operation") == "Apply"
}

/// The entries of an object.
pub fn of(object: &Value) -> &[Value] {
    object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Takes the entries out of an object; `None` where there is no list.
pub fn take(object: &mut Value) -> Option<Vec<Value>> {
    match object.get_mut("metadata")?.as_object_mut()?.shift_remove("managedFields")? {
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

/// Puts entries into an object, in upstream's order. None at all leaves the field out.
pub fn put(object: &mut Value, mut entries: Vec<Value>) {
    sort(&mut entries);
    if let (false, Some(object)) = (entries.is_empty(), object.as_object_mut()) {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("managedFields".into(), Value::Array(entries));
        }
    }
}

/// Checks what a client sent, and brings it to canonical form.
///
/// # Errors
/// What is wrong with which entry.
pub fn checked(entries: &[Value]) -> Result<Vec<Value>, String> {
    entries.iter().enumerate().map(|(i, e)| checked_entry(e).map_err(|why| format!("{why} in entry {i}"))).collect()
}

fn checked_entry(entry: &Value) -> Result<Value, String> {
    if !matches!(text(entry, "operation"), "Apply" | "Update") {
        return Err("operation must be `Apply` or `Update`".into());
    }
    if text(entry, "apiVersion").is_empty() {
        return Err("apiVersion must not be empty".into());
    }
    match text(entry, "fieldsType") {
        "FieldsV1" => {}
        "" => return Err("missing fieldsType".into()),
        other => return Err(format!("invalid fieldsType {other:?}")),
    }
    let set = wire::parse(entry.get("fieldsV1").unwrap_or(&Value::Null))?;
    let mut entry = entry.clone();
    entry["fieldsV1"] = wire::print(&set);
    Ok(entry)
}

/// True when a client asks to forget all managers: an empty list, or a list of one empty entry.
pub fn is_reset(entries: &[Value]) -> bool {
    match entries {
        [] => true,
        [one] => one.as_object().is_some_and(|m| m.values().all(|v| v.is_null() || v.as_str() == Some(""))),
        _ => false,
    }
}

/// Where the manager's entry stands.
pub fn position(entries: &[Value], id: &Id<'_>) -> Option<usize> {
    entries.iter().position(|e| id.is(e))
}

/// The fields of an entry; `Null` where it has none.
pub fn fields(entry: &Value) -> &Value {
    entry.get("fieldsV1").unwrap_or(&Value::Null)
}

/// Takes paths away from an entry. Untouched entries are not parsed. False when nothing is left.
pub fn lose(entry: &mut Value, paths: &[&FieldSet<'_>]) -> bool {
    if !paths.iter().any(|p| wire::touches(fields(entry), p)) {
        return true;
    }
    let left = {
        let Ok(mut set) = wire::parse(fields(entry)) else { return false };
        for paths in paths {
            set = set.difference(paths);
        }
        if set.is_empty() {
            return false;
        }
        wire::print(&set)
    };
    entry["fieldsV1"] = left;
    true
}

/// Adds paths to an entry and stamps it.
pub fn gain(entry: &mut Value, paths: FieldSet<'_>, now: Timestamp) {
    if !wire::contains(fields(entry), &paths) {
        let all = wire::print(&wire::parse(fields(entry)).unwrap_or_default().union(paths));
        entry["fieldsV1"] = all;
    }
    entry["time"] = stamp(now);
}

/// Merges the oldest updates of one version until no more than [`MAX_UPDATE_MANAGERS`] are left.
pub fn cap(entries: &mut Vec<Value>) {
    let mut updates: Vec<usize> = (0..entries.len()).filter(|i| !is_apply(&entries[*i])).collect();
    let mut excess = updates.len().saturating_sub(MAX_UPDATE_MANAGERS);
    if excess == 0 {
        return;
    }
    updates.sort_by_cached_key(|i| {
        let e = &entries[*i];
        (seconds(e), text(e, "manager").to_owned(), text(e, "apiVersion").to_owned(), text(e, "subresource").to_owned())
    });
    // Where the bucket of a version stands: at first the oldest entry of it.
    let mut buckets: Vec<(String, usize)> = Vec::new();
    let mut gone: Vec<usize> = Vec::new();
    for i in updates {
        if excess == 0 {
            break;
        }
        let version = text(&entries[i], "apiVersion").to_owned();
        let Some((_, bucket)) = buckets.iter().find(|(v, _)| *v == version) else {
            buckets.push((version, i));
            continue;
        };
        let merged = {
            let read = |i: usize| wire::parse(fields(&entries[i])).unwrap_or_default();
            wire::print(&read(*bucket).union(read(i)))
        };
        let time = entries[i].get("time").cloned();
        let into = &mut entries[*bucket];
        into["manager"] = ANCIENT.into();
        into["fieldsV1"] = merged;
        if let Some(map) = into.as_object_mut() {
            map.shift_remove("subresource");
            if let Some(time) = time {
                map.insert("time".into(), time);
            }
        }
        gone.push(i);
        excess -= 1;
    }
    gone.sort_unstable_by(|a, b| b.cmp(a));
    for i in gone {
        entries.remove(i);
    }
}

/// The time of an entry in seconds since the epoch; none is 0.
fn seconds(entry: &Value) -> i64 {
    text(entry, "time").parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

fn sort(entries: &mut [Value]) {
    if entries.len() > 1 {
        entries.sort_by_cached_key(|e| {
            let own = |field: &str| text(e, field).to_owned();
            (own("operation"), seconds(e), own("manager"), own("apiVersion"), own("subresource"))
        });
    }
}

/// Where two objects differ in nothing but the times of managedFields, gives the new one the old times: such a write
/// changes nothing, and must not be stored.
///
/// Upstream: `IgnoreManagedFieldsTimestampsTransformer`.
pub fn settle_times(live: &Value, new: &mut Value) {
    let (old, now) = (of(live), of(new));
    let untimed = |a: &Value, b: &Value| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let keys = |m: &Map<String, Value>| m.keys().filter(|k| *k != "time").count();
            keys(a) == keys(b) && a.iter().all(|(k, v)| k == "time" || b.get(k) == Some(v))
        }
        _ => false,
    };
    // Entries may stand in another order when their times differ.
    let same_entries = old.len() == now.len() && now.iter().all(|n| old.iter().any(|o| untimed(o, n)));
    if !same_entries || old == now || !equal_but_entries(live, new) {
        return;
    }
    new["metadata"]["managedFields"] = Value::Array(old.to_vec());
}

fn equal_but_entries(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    let metadata = |m: &Value, n: &Value| match (m.as_object(), n.as_object()) {
        (Some(m), Some(n)) => m.len() == n.len() && m.iter().all(|(k, v)| k == "managedFields" || n.get(k) == Some(v)),
        _ => m == n,
    };
    a.len() == b.len()
        && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| if k == "metadata" { metadata(v, w) } else { v == w }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": fields})
    }

    #[test]
    fn the_oldest_updates_become_one() {
        let mut entries: Vec<Value> = (0..12)
            .map(|i| {
                entry(&format!("m{i}"), "Update", &format!("2026-01-01T00:00:{i:02}Z"), json!({format!("f:{i}"): {}}))
            })
            .collect();
        entries.push(entry("a", "Apply", "2026-01-01T00:00:00Z", json!({"f:x": {}})));
        cap(&mut entries);
        assert_eq!(entries.len(), 11, "ten updates and one apply");
        let old = entries.iter().find(|e| e["manager"] == ANCIENT).unwrap();
        assert_eq!(old["fieldsV1"], json!({"f:0": {}, "f:1": {}, "f:2": {}}));
        assert_eq!(old["time"], "2026-01-01T00:00:02Z");
    }

    #[test]
    fn entries_are_ordered() {
        let mut o = json!({"metadata": {}});
        put(
            &mut o,
            vec![
                entry("b", "Update", "2026-01-01T00:00:00Z", json!({})),
                entry("b", "Apply", "2026-01-01T00:00:02Z", json!({})),
                entry("c", "Apply", "2026-01-01T00:00:01Z", json!({})),
            ],
        );
        let names: Vec<_> = of(&o).iter().map(|e| (text(e, "operation"), text(e, "manager"))).collect();
        assert_eq!(names, [("Apply", "c"), ("Apply", "b"), ("Update", "b")]);
    }

    #[test_case(json!([]), true; "empty")]
    #[test_case(json!([{}]), true; "one empty entry")]
    #[test_case(json!([{"manager": "a"}]), false; "an entry")]
    fn resets(entries: Value, want: bool) {
        assert_eq!(is_reset(entries.as_array().unwrap()), want);
    }

    #[test]
    fn times_alone_are_no_change() {
        let object = |time: &str, data: &str| json!({"metadata": {"managedFields": [entry("a", "Update", time, json!({}))]}, "data": data});
        let live = object("2026-01-01T00:00:00Z", "x");
        let mut new = object("2026-01-01T00:00:09Z", "x");
        settle_times(&live, &mut new);
        assert_eq!(new, live);
        let mut other = object("2026-01-01T00:00:09Z", "y");
        settle_times(&live, &mut other);
        assert_eq!(other["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:09Z");
    }
}
