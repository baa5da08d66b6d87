//! Patches of a kustomization: strategic merges and JSON patches, of one object or of all that a selector finds.
//!
//! Rules: upstream `kustomize/api/internal/builtins/PatchTransformer.go`.

use regex::Regex;
use serde_json::{Value, json};

use super::Resource;
use super::load::Kustomization;
use crate::api::codec::yaml;
use crate::api::meta::gvk;
use crate::api::meta::labels::Selector;
use crate::api::patch::{json as json_patch, merge, strategic};
use crate::api::schema::{View, table};
use crate::api::value::ValueExt;
use crate::ctl::cx::Done;
use crate::ctl::fail::{Failure, fail};

/// `patchesStrategicMerge` and `patches`, which go first.
pub fn merges(kustomization: &Kustomization, all: &mut Vec<Resource>) -> Done {
    for entry in kustomization.strings("patchesStrategicMerge") {
        // A file, or the patch itself.
        let text = if entry.contains('\n') { entry } else { kustomization.text(&entry)? };
        one(&text, &Value::Null, &Value::Null, all)?;
    }
    for entry in kustomization.items("patches") {
        one(&text_of(kustomization, entry)?, &entry["target"], &entry["options"], all)?;
    }
    Ok(())
}

/// `patchesJson6902`, which go after the names and the labels.
pub fn lists(kustomization: &Kustomization, all: &mut Vec<Resource>) -> Done {
    for entry in kustomization.items("patchesJson6902") {
        one(&text_of(kustomization, entry)?, &entry["target"], &Value::Null, all)?;
    }
    Ok(())
}

fn text_of(kustomization: &Kustomization, entry: &Value) -> Done<String> {
    match (entry.str_at("/patch"), entry.str_at("/path")) {
        (Some(text), None) if !text.is_empty() => Ok(text.to_owned()),
        (None | Some(""), Some(path)) => kustomization.text(path),
        (Some(_), Some(_)) => fail!("patch and path can't be set at the same time"),
        _ => fail!("must specify one of patch and path in PatchTransformer"),
    }
}

fn one(text: &str, target: &Value, options: &Value, all: &mut Vec<Resource>) -> Done {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::Plain(format!("unable to parse SM or JSON patch from [{}]: {e}", text.trim_end()))
    };
    let documents = yaml::parse_all_strict(text).map_err(|e| bad(&e))?;
    for patch in documents.into_iter().filter(|p| !p.is_null()) {
        let found = if target.is_object() { selected(all, target)? } else { vec![named(all, &patch)?] };
        if patch.is_array() && !target.is_object() {
            fail!("must specify a target for JSON patch {}", text.trim_end());
        }
        let mut gone = Vec::new();
        for at in found {
            match applied(&all[at].object, &patch, options)? {
                Some(object) => {
                    let name = object.str_at("/metadata/name").unwrap_or_default().to_owned();
                    if name != all[at].name() {
                        all[at].rename(name);
                    }
                    all[at].object = object;
                }
                None => gone.push(at),
            }
        }
        gone.into_iter().rev().for_each(|at| drop(all.remove(at)));
    }
    Ok(())
}

/// The object that a patch names.
fn named(all: &[Resource], patch: &Value) -> Done<usize> {
    let text = |path: &str| patch.str_at(path).unwrap_or_default();
    let (kind, name, ns) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
    let (group, version) = gvk::split(text("/apiVersion"));
    let fits = |r: &Resource| {
        gvk::split(r.api_version()).0 == group
            && r.kind() == kind
            && r.is_called(name)
            && (ns.is_empty() || r.is_in(ns))
    };
    let found: Vec<usize> = (0..all.len()).filter(|i| fits(&all[*i])).collect();
    let group = if group.is_empty() { "[noGrp]" } else { group };
    let ns = if ns.is_empty() { "[noNs]" } else { ns };
    match found[..] {
        [one] => Ok(one),
        [] => fail!(
            "no resource matches strategic merge patch \"{kind}.{version}.{group}/{name}.{ns}\": no matches for Id {kind}.{version}.{group}/{name}.{ns}; failed to find unique target for patch {kind}.{version}.{group}/{name}.{ns}"
        ),
        _ => fail!(
            "multiple matches for Id {kind}.{version}.{group}/{name}.{ns}; failed to find unique target for patch"
        ),
    }
}

/// Those that a selector finds: kinds and names are expressions for the whole word.
fn selected(all: &[Resource], target: &Value) -> Done<Vec<usize>> {
    let whole = |field: &str| -> Done<Option<Regex>> {
        let Some(text) = target.str_at(&format!("/{field}")).filter(|t| !t.is_empty()) else { return Ok(None) };
        Regex::new(&format!("^(?:{text})$")).map(Some).map_err(|e| Failure::Plain(format!("{field} {text:?}: {e}")))
    };
    let selector = |field: &str| {
        let text = target.str_at(&format!("/{field}")).unwrap_or_default();
        Selector::parse(text).map_err(|e| Failure::Plain(format!("{field} {text:?}: {e}")))
    };
    let (group, version, kind) = (whole("group")?, whole("version")?, whole("kind")?);
    let (name, ns) = (whole("name")?, whole("namespace")?);
    let (labels, annotations) = (selector("labelSelector")?, selector("annotationSelector")?);
    let is = |want: &Option<Regex>, text: &str| want.as_ref().is_none_or(|w| w.is_match(text));
    let any = |want: &Option<Regex>, now: &str, were: &[String]| is(want, now) || were.iter().any(|w| is(want, w));
    let fits = |r: &Resource| {
        let (g, v) = gvk::split(r.api_version());
        is(&group, g)
            && is(&version, v)
            && is(&kind, r.kind())
            && any(&name, r.name(), &r.names)
            && any(&ns, r.namespace(), &r.namespaces)
            && labels.matches_value(r.object.get_at("/metadata/labels"))
            && annotations.matches_value(r.object.get_at("/metadata/annotations"))
    };
    Ok((0..all.len()).filter(|i| fits(&all[*i])).collect())
}

/// What a patch makes of an object; none where it removes it.
fn applied(object: &Value, patch: &Value, options: &Value) -> Done<Option<Value>> {
    if patch.is_array() {
        return Ok(Some(json_patch::apply(object.clone(), patch.clone())?));
    }
    if patch["$patch"] == "delete" {
        return Ok(None);
    }
    let mut patch = patch.clone();
    let keep = |field: &str| options[field] == true;
    if !keep("allowNameChange") {
        patch.set_at("/metadata/name", object["metadata"]["name"].clone());
    }
    if !keep("allowKindChange") {
        patch["kind"] = object["kind"].clone();
        patch["apiVersion"] = object["apiVersion"].clone();
    }
    if let Some(ns) = object["metadata"].get("namespace") {
        patch.set_at("/metadata/namespace", ns.clone());
    } else {
        patch.remove_at("/metadata/namespace");
    }
    let (group, version) = gvk::split(object.str_at("/apiVersion").unwrap_or_default());
    Ok(Some(match table().kind(group, version, object.str_at("/kind").unwrap_or_default()) {
        Some(def) => {
            let view = View::of(def);
            new_first(&mut patch, object, view);
            strategic::apply(object.clone(), patch, view)?
        }
        None => merge::apply(object.clone(), patch)?,
    }))
}

/// kustomize puts the elements that a patch names before the others; the server's strategic merge puts new ones behind. So
/// the patch is told the order.
fn new_first(patch: &mut Value, object: &Value, view: View<'_>) {
    let Value::Object(fields) = patch else { return };
    let names: Vec<String> = fields.keys().filter(|k| !k.starts_with('$')).cloned().collect();
    for name in names {
        let field = view.field(&name);
        let key = field.merge().key.filter(|_| field.merge().merge);
        let old = object.get(&name).unwrap_or(&Value::Null);
        let Some(value) = fields.get_mut(&name) else { continue };
        match (value, old) {
            (Value::Array(new), Value::Array(old)) => {
                let Some(key) = key else { continue };
                for element in new.iter_mut() {
                    let same = old.iter().find(|o| !o[key].is_null() && o[key] == element[key]);
                    new_first(element, same.unwrap_or(&Value::Null), field.element());
                }
                let kept = new.iter().filter(|e| e.get("$patch").is_none());
                let rest = old.iter().filter(|o| !new.iter().any(|e| e["$patch"].is_null() && e[key] == o[key]));
                let order: Vec<Value> = kept.chain(rest).map(|e| json!({ key: e[key] })).collect();
                let replaced = new.iter().any(|e| e["$patch"] == "replace");
                if !replaced && order.iter().all(|e| !e[key].is_null()) {
                    fields.insert(format!("$setElementOrder/{name}"), order.into());
                }
            }
            (value @ Value::Object(_), old) => new_first(value, old, field),
            _ => {}
        }
    }
}
