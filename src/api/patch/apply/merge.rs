//! Merges an applied configuration into an object by type, and removes paths from an object.
//!
//! Rules: upstream `structured-merge-diff/typed` (`merge.go`, `remove.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fieldset::{Elem, FieldSet};
use super::walk::{TypeError, list_elem};
use crate::api::schema::{ListType, View};

/// The object with what the configuration says; lists with identities are merged, everything else it names is replaced.
pub fn merge(view: View<'_>, live: &Value, config: &Value) -> Result<Value, TypeError> {
    match (live, config) {
        (Value::Object(l), Value::Object(c)) if !atomic_map(view) && (!l.is_empty() || !c.is_empty()) => {
            let mut out = Map::with_capacity(l.len().max(c.len()));
            for (name, old) in l {
                let value = match c.get(name) {
                    Some(new) => merge(view.field(name), old, new)?,
                    None => old.clone(),
                };
                out.insert(name.clone(), value);
            }
            for (name, new) in c.iter().filter(|(name, _)| !l.contains_key(name.as_str())) {
                out.insert(name.clone(), new.clone());
            }
            Ok(Value::Object(out))
        }
        // Null adds nothing to a map or list that has something.
        (Value::Object(l), Value::Null) if !atomic_map(view) && !l.is_empty() => Ok(live.clone()),
        (Value::Array(l), Value::Null) if view.list() != ListType::Atomic && !l.is_empty() => Ok(live.clone()),
        (Value::Array(l), Value::Array(c)) => match view.list() {
            ListType::Atomic => Ok(config.clone()),
            _ if l.is_empty() && c.is_empty() => Ok(config.clone()),
            list => merge_lists(view, list, l, c).map(Value::Array),
        },
        _ => Ok(config.clone()),
    }
}

fn atomic_map(view: View<'_>) -> bool {
    view.is_atomic_struct() || (view.is_deduced() && view.field_def().is_some())
}

/// One list by identity: the order of the configuration holds among its elements; those of the object alone keep their
/// place before the next element both have.
fn merge_lists<'a>(
    view: View<'a>,
    list: ListType<'a>,
    live: &'a [Value],
    config: &'a [Value],
) -> Result<Vec<Value>, TypeError> {
    let element = view.element();
    let elems =
        |items: &'a [Value]| items.iter().map(|item| list_elem(list, element, item)).collect::<Result<Vec<_>, _>>();
    let (left, right) = (elems(live)?, elems(config)?);
    // The first of each identity; later duplicates of the object are dropped once the configuration names it.
    let first = |elems: &[Elem<'a>]| {
        let mut map: BTreeMap<Elem<'a>, usize> = BTreeMap::new();
        for (i, e) in elems.iter().enumerate() {
            map.entry(e.clone()).or_insert(i);
        }
        map
    };
    let (in_live, in_config) = (first(&left), first(&right));
    let both = |r: usize| match in_live.get(&right[r]) {
        Some(l) => merge(element, &live[*l], &config[r]),
        None => Ok(config[r].clone()),
    };
    let mut shared = right.iter().filter(|e| in_live.contains_key(e));
    let mut next_shared = shared.next();
    let mut done: Vec<bool> = vec![false; config.len()];
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                done[r] = true;
                out.push(both(r)?);
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config.contains_key(&left[l]) && next_shared.is_some_and(|s| *s != left[l]) {
                // Both have it, but it is not its turn.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            match in_config.get(&left[l]) {
                None => {
                    out.push(live[l].clone());
                    l += 1;
                    continue;
                }
                Some(c) if done[*c] => l += 1,
                Some(_) => {}
            }
        }
        if r < right.len() {
            done[r] = true;
            out.push(both(r)?);
            if next_shared.is_some_and(|s| *s == right[r]) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    Ok(out)
}

/// Removes the paths of the set. A container that becomes empty stays, unless its own path is in the set.
pub fn remove(view: View<'_>, value: &mut Value, set: &FieldSet<'_>) {
    match value {
        Value::Object(map) if !atomic_map(view) => {
            map.retain(|name, below| match set.get(&Elem::Field(name)) {
                None => true,
                Some(node) if node.member => false,
                Some(node) => {
                    remove(view.field(name), below, &node.children);
                    true
                }
            });
        }
        Value::Array(items) if view.list() != ListType::Atomic => {
            let (list, element) = (view.list(), view.element());
            items.retain_mut(|item| {
                let children = match list_elem(list, element, item).ok().and_then(|elem| set.get(&elem)) {
                    None => return true,
                    Some(node) if node.member => return false,
                    Some(node) => &node.children,
                };
                remove(element, item, children);
                true
            });
        }
        _ => {}
    }
}
