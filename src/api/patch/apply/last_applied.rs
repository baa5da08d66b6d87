//! The annotation of kubectl's client-side apply: what it says is the applier's already, and it is kept up to date.
//!
//! Rules: upstream `managedfields/internal/lastappliedmanager.go` and `lastappliedupdater.go`.

use serde_json::{Map, Value};

use super::conflict::Conflict;
use super::walk::{self, Diff, Strict};
use super::{FieldSet, Writer};

/// The only manager that gets this treatment.
pub const MANAGER: &str = "kubectl";
/// The annotation.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes of all annotations of an object. Upstream: `TotalAnnotationSizeLimitB`.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// The conflicts that remain when what was applied client-side, and is still so, is the applier's.
pub fn remaining(live: &Value, conflicts: Vec<Conflict>, writer: &Writer<'_>) -> Vec<Conflict> {
    let config = annotation(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(config) = config.filter(|c| c["apiVersion"].as_str() == Some(&*writer.gvk.api_version())) else {
        return conflicts;
    };
    let Some(allowed) = unchanged(&config, live, writer) else { return conflicts };
    let allowed = allowed.paths();
    conflicts.into_iter().filter(|c| !allowed.contains(&c.path)).collect()
}

/// The paths of the configuration that the object still has as they were applied.
fn unchanged<'a>(config: &'a Value, live: &'a Value, writer: &Writer<'a>) -> Option<FieldSet<'a>> {
    let set = walk::owned(writer.view, config, Strict::Yes).ok()?;
    let Diff { added, modified, removed } = walk::compare(writer.view, config, live).ok()?;
    Some(set.difference(&modified).difference(&added).difference(&removed))
}

/// Writes the configuration into the annotation, where the object has one; drops it where it would be too large.
pub fn refresh(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = annotations_mut(&mut config) {
        annotations.shift_remove(ANNOTATION);
    }
    let mut text = sorted(config).to_string();
    text.push('\n');
    let Some(annotations) = annotations_mut(object) else { return };
    annotations.insert(ANNOTATION.into(), text.into());
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        annotations.shift_remove(ANNOTATION);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

fn annotations_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

/// Objects with their keys in order, as Go writes maps.
fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}
