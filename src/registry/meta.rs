//! Object metadata: what the server fills in, what may not change, what is valid.
//!
//! Rules: upstream `apiserver/pkg/registry/rest` (`FillObjectMetaSystemFields`, `BeforeCreate`, `BeforeUpdate`) and
//! `apimachinery/pkg/api/validation`.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::api::meta::names;
use crate::api::schema;
use crate::api::scheme::KindInfo;
use crate::api::value::ValueExt;
use crate::util::clock::rfc3339;
use crate::util::random;

use super::Resource;
use super::errors::FieldErrors;
use super::strategy::{Generation, Strategy};

/// Bytes of all annotation keys and values together.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Characters of a generated suffix.
const SUFFIX_LEN: usize = 5;
/// Longest prefix of a generated name, bytes: what a name may have, less the suffix.
const PREFIX_MAX: usize = 63 - SUFFIX_LEN;

/// A name made of a prefix and a random suffix.
pub fn generate_name(prefix: &str) -> String {
    let mut cut = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{}", &prefix[..cut], random::suffix(SUFFIX_LEN))
}

/// Drops what no client sets, fills what the server sets. `namespace` is the request's.
pub fn before_create(new: &mut Value, info: &KindInfo, strategy: &dyn Strategy, now: Timestamp, namespace: &str) {
    let meta = metadata(new);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        meta.shift_remove(key);
    }
    let named = meta.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    if !named && let Some(prefix) = meta.get("generateName").and_then(Value::as_str).filter(|p| !p.is_empty()) {
        let name = generate_name(prefix);
        meta.insert("name".into(), name.into());
    }
    if info.is_namespaced() {
        meta.insert("namespace".into(), namespace.into());
    } else {
        meta.shift_remove("namespace");
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), rfc3339(now).into());
    // Kinds that do not count keep what the client says.
    if !matches!(strategy.generation(), Generation::None | Generation::Later) {
        meta.insert("generation".into(), 1.into());
    }
    order(meta);
    if strategy.has_status(info) {
        reset_status(new, None);
    }
}

/// Keeps one of each owner; true when there were more. Upstream: `dedupOwnerReferences`.
pub fn dedup_owners(new: &mut Value) -> bool {
    let Some(owners) = new.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else { return false };
    let before = owners.len();
    let mut seen = HashSet::with_capacity(before);
    owners.retain(|owner| seen.insert(owner.to_string()));
    owners.len() < before
}

/// Puts the old object's system fields back. `status` belongs to the subresource.
pub fn before_update(new: &mut Value, old: &Value, info: &KindInfo, strategy: &dyn Strategy) {
    let old_meta = &old["metadata"];
    let meta = metadata(new);
    for key in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace"]
    {
        let sent = meta.get(key).is_some_and(|v| !v.is_null() && v.as_str() != Some(""));
        let keep = !matches!(key, "uid" | "deletionTimestamp" | "deletionGracePeriodSeconds") || !sent;
        match old_meta.get(key) {
            Some(v) if keep => {
                meta.insert(key.into(), v.clone());
            }
            None if key == "generation" || !sent => {
                meta.shift_remove(key);
            }
            _ => {}
        }
    }
    meta.shift_remove("selfLink");
    // A client that predates generateName's echo does not clear it.
    if !meta.contains_key("generateName")
        && let Some(v) = old_meta.get("generateName")
    {
        meta.insert("generateName".into(), v.clone());
    }
    order(meta);
    if strategy.has_status(info) {
        reset_status(new, old.get("status"));
    }
}

/// Moves the generation when what it counts has changed; call after `prepare`.
pub fn bump_generation(new: &mut Value, old: &Value, res: &Resource) {
    // Amounts in other units are no change.
    let differs = |part: &str| match res.def {
        Some(def) => !schema::equal_member(def, part, new.get(part), old.get(part)),
        None => new.get(part) != old.get(part),
    };
    let changed = match res.strategy().generation() {
        Generation::None | Generation::Once => return,
        Generation::Spec | Generation::Later => differs("spec"),
        Generation::Content => content_differs(new, old),
        Generation::Whole => content_differs(new, old) || differs("status"),
        Generation::All => content_differs(new, old) || metadata_differs(new, old),
    };
    if changed {
        let generation = old.int_at("/metadata/generation").unwrap_or(0).saturating_add(1);
        metadata(new).insert("generation".into(), generation.into());
    }
}

/// True when metadata differs in what clients set.
fn metadata_differs(a: &Value, b: &Value) -> bool {
    let parts = ["labels", "annotations", "ownerReferences", "finalizers"];
    parts.iter().any(|k| a["metadata"].get(k) != b["metadata"].get(k))
}

fn content_differs(a: &Value, b: &Value) -> bool {
    let rest = |v: &Value| -> Vec<(String, Value)> {
        let mut all: Vec<(String, Value)> = v
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        all.sort_by(|x, y| x.0.cmp(&y.0));
        all
    };
    rest(a) != rest(b)
}

fn reset_status(new: &mut Value, to: Option<&Value>) {
    match to {
        Some(status) => {
            new["status"] = status.clone();
        }
        None => {
            // `status: {}` stays where the table says that it is always written: canonicalization puts it back.
            if let Some(map) = new.as_object_mut() {
                map.shift_remove("status");
            }
        }
    }
}

/// The metadata object; made when absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("made an object above")
}

const ORDER: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// Upstream's order of the fields of metadata.
pub fn order(meta: &mut Map<String, Value>) {
    let rank = |k: &str| ORDER.iter().position(|o| *o == k).unwrap_or(ORDER.len());
    if meta.keys().map(|k| rank(k)).is_sorted() {
        return;
    }
    let mut all: Vec<(String, Value)> = std::mem::take(meta).into_iter().collect();
    all.sort_by_key(|(k, _)| rank(k));
    meta.extend(all);
}

/// What is wrong with the metadata of any object.
pub fn validate(new: &Value, info: &KindInfo, strategy: &dyn Strategy, errs: &FieldErrors) {
    let errs = errs.at("metadata");
    let meta = &new["metadata"];
    let text = |k: &str| meta.get(k).and_then(Value::as_str).unwrap_or_default();
    let (name, prefix) = (text("name"), text("generateName"));
    if !prefix.is_empty() {
        // A prefix may end in a dash: judge it with a letter behind.
        let judged = if prefix.ends_with(['-', '.']) { format!("{prefix}a") } else { prefix.to_owned() };
        errs.at("generateName").all_invalid(prefix, strategy.name_errors(&judged));
    }
    if name.is_empty() {
        errs.at("name").required("name or generateName is required");
    } else {
        errs.at("name").all_invalid(name, strategy.name_errors(name));
    }
    if info.is_namespaced() {
        match text("namespace") {
            "" => errs.at("namespace").required(""),
            ns => errs.at("namespace").all_invalid(ns, names::dns1123_label(ns)),
        }
    } else if !text("namespace").is_empty() {
        errs.at("namespace").forbidden("not allowed on this type");
    }
    if meta.int_at("/generation").unwrap_or(0) < 0 {
        errs.at("generation").invalid(meta["generation"].clone(), "must be greater than or equal to 0");
    }
    validate_labels(&meta["labels"], &errs.at("labels"));
    validate_annotations(&meta["annotations"], &errs.at("annotations"));
    validate_owners(meta.items_at("/ownerReferences"), &errs.at("ownerReferences"));
    validate_finalizers(meta.items_at("/finalizers"), strategy.any_finalizer(), &errs.at("finalizers"));
}

/// Keys and values of a label map.
pub fn validate_labels(labels: &Value, errs: &FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errs.all_invalid(key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errs.all_invalid(value, names::label_value(value));
    }
}

/// Keys and the size of an annotation map.
pub fn validate_annotations(annotations: &Value, errs: &FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        errs.all_invalid(key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errs.too_long(ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_owners(owners: &[Value], errs: &FieldErrors) {
    let mut controllers = 0;
    for owner in owners {
        // Upstream's paths do not say which of them it is.
        let text = |k: &str| owner.get(k).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("apiVersion");
        let version = crate::api::meta::gvk::split(api_version).1;
        if version.is_empty() || version.contains('/') {
            errs.at("apiVersion").invalid(api_version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errs.at(key).invalid("", "must not be empty");
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            errs.invalid(owner.clone(), "is disallowed from being an owner");
        }
        controllers += usize::from(owner.bool_at("/controller").unwrap_or(false));
    }
    if controllers > 1 {
        errs.invalid(
            Value::Array(owners.to_vec()),
            "Only one reference can have Controller set to true. Found \"true\" in more than one",
        );
    }
}

fn validate_finalizers(finalizers: &[Value], any: bool, errs: &FieldErrors) {
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    for (i, f) in finalizers.iter().filter_map(Value::as_str).enumerate() {
        let reasons = names::qualified_name(f);
        let known = any || f.contains('/') || matches!(f, "orphan" | "foregroundDeletion" | "kubernetes");
        if reasons.is_empty() && !known {
            errs.index(i).invalid(f, "name is neither a standard finalizer name nor is it fully qualified");
        }
        errs.all_invalid(f, reasons);
    }
    if has("orphan") && has("foregroundDeletion") {
        errs.invalid(Value::Array(finalizers.to_vec()), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// What of metadata may not change.
pub fn validate_update(new: &Value, old: &Value, errs: &FieldErrors) {
    let errs = errs.at("metadata");
    let (new, old) = (&new["metadata"], &old["metadata"]);
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.get(key).unwrap_or(&Value::Null) != old.get(key).unwrap_or(&Value::Null) {
            errs.at(key).invalid(new.get(key).cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }
    if old.get("deletionTimestamp").is_some() {
        let was = old.items_at("/finalizers");
        let added: Vec<&str> =
            new.items_at("/finalizers").iter().filter(|f| !was.contains(f)).filter_map(Value::as_str).collect();
        if !added.is_empty() {
            errs.at("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::strategy::Plain;
    use serde_json::json;

    fn cm() -> KindInfo {
        KindInfo::namespaced("", "v1", "ConfigMap", "configmaps", "configmap")
    }

    #[test]
    fn fills_and_keeps_system_fields() {
        let now = Timestamp::UNIX_EPOCH;
        let mut a = json!({"metadata": {"generateName": "x-", "resourceVersion": "5", "selfLink": "s"}});
        before_create(&mut a, &cm(), &Plain, now, "ns");
        assert!(a.str_at("/metadata/name").unwrap().starts_with("x-"));
        assert_eq!(a.str_at("/metadata/creationTimestamp"), Some("1970-01-01T00:00:00Z"));
        assert_eq!(a.pointer("/metadata/resourceVersion"), None);
        let mut b = json!({"metadata": {"name": a["metadata"]["name"], "generation": 9}});
        before_update(&mut b, &a, &cm(), &Plain);
        assert_eq!(b["metadata"]["uid"], a["metadata"]["uid"]);
        assert_eq!(b.pointer("/metadata/generation"), None);
        let errs = FieldErrors::new();
        validate(&b, &cm(), &Plain, &errs);
        validate_update(&b, &a, &errs);
        assert_eq!(errs.take(), []);
    }

    #[test]
    fn refuses_bad_metadata() {
        let errs = FieldErrors::new();
        let bad = json!({"metadata": {"name": "A", "namespace": "n", "labels": {"-": "b c"}, "finalizers": ["x"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}});
        validate(&bad, &cm(), &Plain, &errs);
        let fields: Vec<String> = errs.take().into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.labels",
                "metadata.labels",
                "metadata.ownerReferences.uid",
                "metadata.finalizers[0]"
            ]
        );
    }

    #[test]
    fn generated_names_fit() {
        let name = generate_name(&"a".repeat(100));
        assert_eq!(name.len(), 63);
    }
}
