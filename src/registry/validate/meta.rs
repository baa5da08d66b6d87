//! Metadata of templates: labels and annotations, and nothing else.
//!
//! Rules: upstream `ValidateTemplateObjectMeta`.

use crate::api::meta::names;

use super::Field;
use super::labels::labels;

/// `metadata` of a template from which claims are made.
pub fn of_template(field: &Field<'_>) {
    annotations(&field.at("annotations"));
    labels(&field.at("labels"));
    for (name, value) in field.value.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "labels" | "annotations") && !value.is_null() {
            field.errs.at(name).forbidden("cannot be set");
        }
    }
}

/// An annotation map: errors of keys stand at the map's own path.
pub fn annotations(field: &Field<'_>) {
    for (key, _) in field.value.as_object().into_iter().flatten() {
        field.errs.all_invalid(key, names::qualified_name(&key.to_lowercase()));
    }
}
