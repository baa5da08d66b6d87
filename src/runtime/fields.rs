//! Fields that informers index where no watch cache does it: the selectable ones that orch's own components look up.

use super::objects::IndexedField;

/// Resource (group and plural name) and its indexed fields.
const FIELDS: &[(&str, &str, &[IndexedField])] = &[
    ("", "pods", &[("spec.nodeName", "/spec/nodeName"), ("status.phase", "/status/phase")]),
    ("", "services", &[("spec.clusterIP", "/spec/clusterIP")]),
    ("", "secrets", &[("type", "/type")]),
    ("", "events", &[("involvedObject.uid", "/involvedObject/uid")]),
];

/// The indexed fields of a resource.
pub fn indexed(group: &str, resource: &str) -> &'static [IndexedField] {
    FIELDS.iter().find(|(g, r, _)| (*g, *r) == (group, resource)).map_or(&[], |(.., fields)| *fields)
}
