//! All that does not fit in a configuration, told at once.
//!
//! In: a configuration of which the walk found something wrong. Out: the text for its owner. Only what is refused comes here.
//!
//! Rules: upstream `structured-merge-diff/typed` (`validate.go`, `helpers.go`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::fieldset::Elem;
use super::walk::{TypeError, allows_unknown, fits, is_identity, is_opaque, list_elem};
use crate::api::schema::{ListType, View};

/// Most that are told of.
const MISFITS_MAX: usize = 32;

/// What `first` and all others read like: one as it is, more as a list.
pub fn all(view: View<'_>, config: &Value, first: TypeError) -> String {
    let mut found = Vec::new();
    gather(view, config, &mut Vec::new(), &mut found);
    match found.as_slice() {
        [] => first.to_string(),
        [one] => one.to_string(),
        several => {
            let lines: Vec<String> = several.iter().map(|e| format!("\n  {e}")).collect();
            format!("errors:{}", lines.concat())
        }
    }
}

fn gather<'a>(view: View<'a>, value: &'a Value, at: &mut Vec<Elem<'a>>, found: &mut Vec<TypeError>) {
    if found.len() >= MISFITS_MAX {
        return;
    }
    let told = |e: TypeError, at: &[Elem<'_>]| at.iter().rev().fold(e, |e, elem| e.below(elem));
    if let Err(e) = fits(view, value) {
        found.push(told(e, at));
        return;
    }
    match value {
        Value::Object(map) if !is_opaque(view) => {
            let in_metadata = matches!(at.as_slice(), [Elem::Field("metadata")]);
            for (name, below) in map {
                if (at.is_empty() || in_metadata) && is_identity(in_metadata, name) {
                    continue;
                }
                at.push(Elem::Field(name));
                match view.known_field(name) {
                    None if !allows_unknown(view) => {
                        found.push(told(TypeError::new("field not declared in schema"), at));
                    }
                    known => gather(known.unwrap_or_else(|| view.field(name)), below, at, found),
                }
                at.pop();
            }
        }
        Value::Array(items) => {
            let (list, element) = (view.list(), view.element());
            let mut seen = BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                let elem = match list {
                    ListType::Atomic => Elem::Index(i as i64),
                    list => match list_elem(list, element, item) {
                        Ok(elem) => elem,
                        Err(e) => {
                            found.push(told(e.below(&Elem::Index(i as i64)), at));
                            continue;
                        }
                    },
                };
                if !matches!(elem, Elem::Index(_)) && !seen.insert(elem.to_string()) {
                    found.push(told(TypeError::new(format!("duplicate entries for key {elem}")), at));
                }
                at.push(elem);
                gather(element, item, at, found);
                at.pop();
            }
        }
        _ => {}
    }
}
