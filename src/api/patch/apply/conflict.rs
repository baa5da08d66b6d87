//! What an apply is refused for, and how it reads.
//!
//! Rules: upstream `managedfields/internal/conflict.go` and `structured-merge-diff/merge/conflict.go`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fieldset::FieldSet;
use super::{managed, wire};
use crate::api::status::{Reason, Status};

/// One path that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager, as it is printed: `"m" with subresource "scale" using apps/v1`.
    pub manager: String,
    /// The path, as `.spec.replicas`.
    pub path: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own what would change.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl ApplyError {
    /// 409 with one cause for each conflict; 400 for a wrong configuration (upstream answers 500 where it does not fit
    /// its type, which is the client's fault all the same).
    pub fn to_status(&self) -> Box<Status> {
        let message = self.to_string();
        let ApplyError::Conflicts(conflicts) = self else { return Status::bad_request(message) };
        let cause = |c: &Conflict| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.path});
        let causes: Vec<Value> = conflicts.iter().map(cause).collect();
        Status::new(Reason::Conflict, message).with_details(json!({"causes": causes}))
    }
}

/// One line for one conflict, a list by manager for more.
fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for c in conflicts {
        by_manager.entry(&c.manager).or_default().push(&c.path);
    }
    let lines: Vec<String> = by_manager
        .into_iter()
        .map(|(manager, paths)| format!("conflicts with {manager}:\n- {}", paths.join("\n- ")))
        .collect();
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The paths of `changed` that the entries own.
pub(super) fn conflicts_with(entries: &[Value], changed: &FieldSet<'_>) -> Vec<Conflict> {
    let mut out = Vec::new();
    for entry in entries.iter().filter(|e| wire::touches(managed::fields(e), changed)) {
        let Ok(theirs) = wire::parse(managed::fields(entry)) else { continue };
        let manager = print_manager(entry);
        let paths = theirs.intersection(changed).paths();
        out.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
    }
    out
}

fn print_manager(entry: &Value) -> String {
    let mut out = format!("{:?}", managed::text(entry, "manager"));
    let subresource = managed::text(entry, "subresource");
    if !subresource.is_empty() {
        out.push_str(&format!(" with subresource {subresource:?}"));
    }
    if !managed::is_apply(entry) {
        out.push_str(" using ");
        out.push_str(managed::text(entry, "apiVersion"));
    }
    out
}

/// Namespace, name and kind, as upstream puts them before a type error.
pub(super) fn describe(object: &Value) -> String {
    let meta =
        |name: &str| object.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default();
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = crate::api::meta::gvk::split(text("apiVersion"));
    format!("{}/{}; {group}/{version}, Kind={}", meta("namespace"), meta("name"), text("kind"))
}
