//! StorageClass and VolumeAttributesClass.
//!
//! Rules: upstream `pkg/apis/storage/validation`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;

/// Keys and values of all parameters together, bytes.
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
/// Parameters.
const PARAMETERS_MAX: usize = 512;

/// The name, with a mark for the default class.
pub fn name_cell(o: &Value) -> String {
    let name = o.str_at("/metadata/name").unwrap_or_default();
    let marked = |key: &str| o["metadata"]["annotations"][key] == "true";
    let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if marks.into_iter().any(marked) { format!("{name} (default)") } else { name.to_owned() }
}

/// Create and update of a StorageClass.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    driver(o, "provisioner");
    parameters(o, false);
    if !o.text("reclaimPolicy").is_empty() {
        o.one_of("reclaimPolicy", &["Delete", "Retain"]);
    }
    if o.has("volumeBindingMode") {
        o.one_of("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]);
    } else {
        o.errs.at("volumeBindingMode").required("");
    }
    topologies(o);
    if let Some(old) = old {
        for (field, why) in [
            ("parameters", "updates to parameters are forbidden"),
            ("provisioner", "updates to provisioner are forbidden"),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden"),
            ("volumeBindingMode", "field is immutable"),
        ] {
            if o.value.get(field).unwrap_or(&Value::Null) != old.get(field).unwrap_or(&Value::Null) {
                o.at(field).invalid(why);
            }
        }
    }
}

/// Create and update of a VolumeAttributesClass.
pub fn check_attributes(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    driver(o, "driverName");
    parameters(o, true);
    if let Some(old) = old {
        for field in ["driverName", "parameters"] {
            if o.value.get(field).unwrap_or(&Value::Null) != old.get(field).unwrap_or(&Value::Null) {
                o.errs.at(field).forbidden(format!("updates to {field} are forbidden."));
            }
        }
    }
}

fn driver(o: &Field<'_>, member: &str) {
    if o.needs(member) {
        o.at(member).reasons(names::qualified_name(&o.text(member).to_lowercase()));
    }
}

fn parameters(o: &Field<'_>, needed: bool) {
    let field = o.at("parameters");
    let map = field.value.as_object();
    let count = map.map_or(0, serde_json::Map::len);
    if needed && count == 0 {
        field.errs.required("must contain at least one key/value pair");
        return;
    }
    if count > PARAMETERS_MAX {
        field.errs.too_long(PARAMETERS_MAX);
    }
    let mut size = 0;
    for (key, value) in map.into_iter().flatten() {
        if key.is_empty() {
            field.errs.invalid(key.as_str(), "field can not be empty.");
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > PARAMETERS_MAX_BYTES {
        field.errs.too_long(PARAMETERS_MAX_BYTES);
    }
}

fn topologies(o: &Field<'_>) {
    // A term without expressions counts as seen, as upstream has it.
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = vec![BTreeMap::new()];
    for term in o.items("allowedTopologies") {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for expression in term.items("matchLabelExpressions") {
            let key = expression.text("key");
            let mut values = BTreeSet::new();
            if expression.count("values") == 0 {
                expression.errs.at("values").required("");
            }
            for value in expression.items("values") {
                if !values.insert(value.as_text()) {
                    value.errs.duplicate(value.as_text());
                }
            }
            expression.errs.at("key").all_invalid(key, names::qualified_name(key));
            if keys.contains_key(key) {
                expression.errs.at("key").duplicate(key);
            }
            keys.insert(key, values);
        }
        if seen.contains(&keys) {
            term.errs.at("matchLabelExpressions").duplicate("");
        }
        seen.push(keys);
    }
}
