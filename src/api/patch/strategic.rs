//! Strategic merge patch, the server's side: directives, merge keys, order.
//!
//! Directives: `$patch: replace|delete` in a map, `$patch: replace|delete` in an element of a list, `$retainKeys`,
//! `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
//!
//! **Invariant:** no directive is left in the result.
//!
//! Rules: upstream `apimachinery/pkg/util/strategicpatch/patch.go`.

use serde_json::{Map, Value};

use super::go::GoFmt;
use crate::api::schema::{MergeDef, View};
use crate::api::status::{ApiResult, Status};

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const ELEMENT_ORDER: &str = "$setElementOrder/";
pub(super) const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Merges a patch into an object of this type.
///
/// # Errors
/// 400 for a patch that is no object, a wrong directive or an element without its merge key. (Upstream answers some of
/// these with 500; they are the client's fault all the same.)
pub fn apply(object: Value, patch: Value, view: View<'_>) -> ApiResult<Value> {
    let Value::Object(object) = object else { return Err(Status::internal("the stored object is no JSON object")) };
    match patch {
        Value::Object(patch) => merge_map(object, patch, view).map(Value::Object),
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        other => Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            super::json_type(&other)
        ))),
    }
}

fn unknown_directive(directive: &Value, map: &Fields) -> Box<Status> {
    let map = Value::Object(map.clone());
    Status::bad_request(format!("unknown patch type: {} in map: {}", GoFmt(directive), GoFmt(&map)))
}

fn no_merge_key(element: &Value, key: &str) -> Box<Status> {
    Status::bad_request(format!("map: {} does not contain declared merge key: {key}", GoFmt(element)))
}

fn wrong_format(what: &str) -> Box<Status> {
    Status::bad_request(format!("invalid patch format of {what}"))
}

fn merge_map(mut object: Fields, mut patch: Fields, view: View<'_>) -> ApiResult<Fields> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Fields::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    if let Some(keys) = patch.shift_remove(RETAIN_KEYS) {
        retain_keys(&mut object, &patch, &keys)?;
    }
    order_lists(&mut object, &mut patch, view)?;
    for (name, value) in patch {
        match name.strip_prefix(DELETE_PRIMITIVES) {
            Some(list) => delete_primitives(&mut object, list, &value)?,
            None => merge_field(&mut object, name, value, view)?,
        }
    }
    Ok(object)
}

/// Drops the fields that are not listed. What the patch sets must be.
fn retain_keys(object: &mut Fields, patch: &Fields, keys: &Value) -> ApiResult<()> {
    let keys = keys.as_array().ok_or_else(|| wrong_format("retainKeys"))?;
    let listed = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    let directive = |name: &str| name.starts_with(ELEMENT_ORDER) || name.starts_with(DELETE_PRIMITIVES);
    if patch.iter().any(|(name, value)| !value.is_null() && !directive(name) && !listed(name)) {
        return Err(wrong_format("retainKeys"));
    }
    object.retain(|name, _| listed(name));
    Ok(())
}

fn delete_primitives(object: &mut Fields, list: &str, gone: &Value) -> ApiResult<()> {
    let Some(gone) = gone.as_array() else {
        return if gone.is_null() { Ok(()) } else { Err(wrong_format("primitive list")) };
    };
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_field(object: &mut Fields, name: String, value: Value, view: View<'_>) -> ApiResult<()> {
    if value.is_null() {
        object.shift_remove(&name);
        return Ok(());
    }
    let field = view.field(&name);
    let merged = match (object.get_mut(&name).map(Value::take), value) {
        (Some(Value::Object(old)), Value::Object(new)) if !field.merge().replace => {
            Value::Object(merge_map(old, new, field)?)
        }
        (Some(Value::Array(old)), Value::Array(new)) if field.merge().merge => {
            Value::Array(merge_list(old, new, field)?)
        }
        (_, value) => match without_directives(value) {
            Some(value) => value,
            None => {
                object.shift_remove(&name);
                return Ok(());
            }
        },
    };
    object.insert(name, merged);
    Ok(())
}

/// What is new to the object: directives and nulls have nothing to act on. `None` where a directive stood for it.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.get(PATCH).and_then(Value::as_str) == Some("replace") => {
            let rest = map.into_iter().filter(|(name, _)| name != PATCH).collect();
            without_directives(Value::Object(rest))
        }
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let is_directive = |name: &str| {
                name == RETAIN_KEYS || name.starts_with(ELEMENT_ORDER) || name.starts_with(DELETE_PRIMITIVES)
            };
            let clean = map
                .into_iter()
                .filter(|(name, value)| !is_directive(name) && !value.is_null())
                .filter_map(|(name, value)| Some((name, without_directives(value)?)))
                .collect();
            Some(Value::Object(clean))
        }
        Value::Array(items) => {
            let marker = |item: &Value| item.as_object().is_some_and(|m| m.contains_key(PATCH));
            Some(Value::Array(items.into_iter().filter(|i| !marker(i)).filter_map(without_directives).collect()))
        }
        scalar => Some(scalar),
    }
}

/// Merges the lists that have an order directive, and takes both out of the patch.
fn order_lists(object: &mut Fields, patch: &mut Fields, view: View<'_>) -> ApiResult<()> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[ELEMENT_ORDER.len()..];
        let Some(Value::Array(order)) = patch.shift_remove(&directive) else {
            return Err(wrong_format("setElementOrder list"));
        };
        let field = view.field(name);
        let def = field.merge();
        let list = |value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(wrong_format("setElementOrder list")),
        };
        if patch.get(name).is_some_and(Value::is_null) {
            continue;
        }
        let new = list(patch.shift_remove(name))?;
        let old = list(object.shift_remove(name))?;
        if let Some(new) = &new {
            check_order(new, &order, def)?;
        }
        let (merged, server_order) = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => (old.clone(), old),
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(items)) => (items, Vec::new()),
                _ => continue,
            },
            (Some(old), Some(new)) if def.merge => (merge_list(old.clone(), new, field)?, old),
            (Some(old), Some(new)) => (new, old),
        };
        require_keys(&merged, def)?;
        require_keys(&order, def)?;
        object.insert(name.to_owned(), Value::Array(arrange(merged, &order, &server_order, def.key)));
    }
    Ok(())
}

/// Elements of the patch must stand in the order they ask for.
fn check_order(new: &[Value], order: &[Value], def: MergeDef) -> ApiResult<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    let kept = new.iter().filter(|item| def.key.is_none() || item.get(PATCH).is_none());
    for item in kept {
        if !places.any(|place| same_element(place, item, def.key)) {
            return Err(Status::bad_request(format!(
                "The order in patch list:\n{}\n doesn't match {} list:\n{}\n",
                GoFmt(&Value::Array(new.to_vec())),
                ELEMENT_ORDER.trim_end_matches('/'),
                GoFmt(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

fn require_keys(items: &[Value], def: MergeDef) -> ApiResult<()> {
    let Some(key) = def.key else { return Ok(()) };
    match items.iter().find(|item| item.get(key).is_none()) {
        Some(item) => Err(no_merge_key(item, key)),
        None => Ok(()),
    }
}

pub(super) fn same_element(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        None => a == b,
        Some(key) => a.get(key).is_some_and(|k| b.get(key) == Some(k)),
    }
}

/// Merges a list by merge key, or a list of scalars.
fn merge_list(mut old: Vec<Value>, mut new: Vec<Value>, view: View<'_>) -> ApiResult<Vec<Value>> {
    let def = view.merge();
    let Some(key) = def.key else {
        let server_order = old.clone();
        for item in &new {
            if !old.contains(item) {
                old.push(item.clone());
            }
        }
        let mut merged: Vec<Value> = Vec::with_capacity(old.len());
        old.into_iter().for_each(|item| {
            if !merged.contains(&item) {
                merged.push(item);
            }
        });
        return Ok(arrange(merged, &new, &server_order, None));
    };
    if let Some(item) = new.iter().find(|item| !item.is_object()) {
        return Err(no_merge_key(item, key));
    }
    if take_directives(&mut old, &mut new, key)? {
        return Ok(new.into_iter().filter_map(without_directives).collect());
    }
    let server_order = old.clone();
    let order = new.clone();
    for item in new {
        let id = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
        match old.iter_mut().find(|o| o.get(key) == Some(id)) {
            Some(found) => {
                if let (Value::Object(was), Value::Object(item)) = (found.take(), item) {
                    *found = Value::Object(merge_map(was, item, view.element())?);
                }
            }
            None => old.extend(without_directives(item)),
        }
    }
    require_keys(&old, def)?;
    Ok(arrange(old, &order, &server_order, def.key))
}

/// Obeys the elements that are directives. True when the patch replaces the list.
fn take_directives(old: &mut Vec<Value>, new: &mut Vec<Value>, key: &str) -> ApiResult<bool> {
    let (special, plain): (Vec<Value>, Vec<Value>) =
        std::mem::take(new).into_iter().partition(|item| item.get(PATCH).is_some());
    *new = plain;
    let mut replace = false;
    for item in special {
        match item.get(PATCH).and_then(Value::as_str) {
            Some("replace") => replace = true,
            Some("delete") => {
                let id = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                old.retain(|o| o.get(key) != Some(id));
            }
            Some("merge") => return Err(Status::bad_request("merging lists cannot yet be specified in the patch")),
            _ => return Err(unknown_directive(&item[PATCH], item.as_object().unwrap_or(&Fields::new()))),
        }
    }
    Ok(replace)
}

/// Puts what `order` names in that order, and lets the server's own elements keep their place among them.
fn arrange(items: Vec<Value>, order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|l| same_element(l, item, key));
    let (mut asked, mut server): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item).is_some());
    asked.sort_by_key(|item| place(order, item));
    server.sort_by_key(|item| place(server_order, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(asked.len() + server.len());
    let mut asked = asked.into_iter().peekable();
    for item in server {
        // The server's element goes before the first asked one that stood behind it.
        while let Some(next) = asked.peek() {
            match (place(server_order, &item), place(server_order, next)) {
                (Some(s), Some(a)) if s < a => break,
                _ => out.extend(asked.next()),
            }
        }
        out.push(item);
    }
    out.extend(asked);
    out
}
