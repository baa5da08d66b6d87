//! An object of the API: its metadata parsed once, its JSON bytes, its revision. Immutable and shared.
//!
//! **Invariant:** `json` is the whole object as a client gets it, `metadata.resourceVersion` included.
//! **Invariant:** an `Object` never changes; a new revision is a new `Object`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::meta::Gvk;
use super::scan;
use super::scheme::Selectable;
use super::value::{ValueExt, nested};

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRef {
    /// `group/version`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name, in the same namespace or cluster-scoped.
    pub name: String,
    /// Uid; what really identifies the owner.
    pub uid: String,
    /// True for the managing controller.
    pub controller: bool,
    /// True when a foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// Metadata that the machinery looks at without decoding the body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Generation; 0 where the kind has none.
    pub generation: i64,
    /// `creationTimestamp`, RFC 3339.
    pub created: String,
    /// `deletionTimestamp`, RFC 3339, when it is being deleted.
    pub deleted: Option<String>,
    /// Labels, sorted by name.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Owners.
    pub owners: Box<[OwnerRef]>,
    /// Finalizers.
    pub finalizers: Box<[Box<str>]>,
}

impl Meta {
    /// From an object's JSON.
    pub fn from_value(object: &Value) -> Self {
        let m = &object["metadata"];
        let text = |k: &str| m.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut labels: Vec<(Box<str>, Box<str>)> = m
            .get("labels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into()))
            .collect();
        labels.sort();
        let owner = |o: &Value| {
            let text = |k: &str| o.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
            OwnerRef {
                api_version: text("apiVersion"),
                kind: text("kind"),
                name: text("name"),
                uid: text("uid"),
                controller: o.bool_at("/controller").unwrap_or(false),
                block_owner_deletion: o.bool_at("/blockOwnerDeletion").unwrap_or(false),
            }
        };
        Self {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            generation: m.int_at("/generation").unwrap_or(0),
            created: text("creationTimestamp"),
            deleted: m.str_at("/deletionTimestamp").map(str::to_owned),
            labels: labels.into(),
            owners: m.items_at("/ownerReferences").iter().map(owner).collect(),
            finalizers: m.items_at("/finalizers").iter().filter_map(|f| f.as_str().map(Into::into)).collect(),
        }
    }

    /// From the JSON text of `metadata` alone; what the machinery does not look at (annotations, managed fields) is
    /// skipped without being decoded.
    pub fn from_slice(metadata: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(metadata).map(Self::from_text)
    }

    /// From the JSON text that `metadata` starts; what follows is left alone. Gives its length too.
    fn from_start(text: &[u8]) -> Result<(Self, usize), serde_json::Error> {
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<MetaText<'_>>();
        let meta = values.next().unwrap_or_else(|| Err(serde::de::Error::custom("there is none")))?;
        let length = values.byte_offset();
        Ok((Self::from_text(meta), length))
    }

    fn from_text(m: MetaText<'_>) -> Self {
        let text = |t: Option<Cow<'_, str>>| t.unwrap_or_default().into_owned();
        let owner = |o: OwnerText<'_>| OwnerRef {
            api_version: text(o.api_version),
            kind: text(o.kind),
            name: text(o.name),
            uid: text(o.uid),
            controller: o.controller.unwrap_or(false),
            block_owner_deletion: o.block_owner_deletion.unwrap_or(false),
        };
        // Sorted, because the map is.
        let label = |(k, v): (Cow<'_, str>, Option<Cow<'_, str>>)| (k.into(), v.unwrap_or_default().into());
        Self {
            name: text(m.name),
            namespace: text(m.namespace),
            uid: text(m.uid),
            generation: m.generation.unwrap_or(0),
            created: text(m.creation_timestamp),
            deleted: m.deletion_timestamp.map(Cow::into_owned),
            labels: m.labels.unwrap_or_default().into_iter().map(label).collect(),
            owners: m.owner_references.unwrap_or_default().into_iter().map(owner).collect(),
            finalizers: m.finalizers.unwrap_or_default().into_iter().map(Into::into).collect(),
        }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(name)).ok().map(|i| &*self.labels[i].1)
    }

    /// The managing controller.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owners.iter().find(|o| o.controller)
    }
}

/// `metadata` as it stands in the text, borrowed from it where nothing is escaped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaText<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    uid: Option<Cow<'a, str>>,
    generation: Option<i64>,
    creation_timestamp: Option<Cow<'a, str>>,
    deletion_timestamp: Option<Cow<'a, str>>,
    labels: Option<BTreeMap<Cow<'a, str>, Option<Cow<'a, str>>>>,
    owner_references: Option<Vec<OwnerText<'a>>>,
    finalizers: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerText<'a> {
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    uid: Option<Cow<'a, str>>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

/// An immutable object. Cloning the `Arc` around it is the way to share it.
#[derive(Debug, Clone)]
pub struct Object {
    /// What it is.
    pub gvk: Arc<Gvk>,
    /// Metadata, parsed once.
    pub meta: Meta,
    /// Values of the kind's selectable fields (those of its row, in its order), for field selectors and indexes.
    pub fields: Box<[Box<str>]>,
    /// The whole object as JSON, with its resourceVersion.
    pub json: Bytes,
    /// The revision of its last write; `metadata.resourceVersion` is this in decimal.
    pub revision: u64,
}

impl Object {
    /// Decodes the body. Not free: ask `meta` and `fields` first.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    /// Decodes the body into a typed view; absent or wrong fields are an error of the type's own.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// The text of a scalar field of the body by its JSON pointer, without decoding the body; "" where there is none.
    pub fn text_at(&self, pointer: &str) -> String {
        scan::fields(&self.json, &[pointer]).into_iter().next().unwrap_or_default()
    }

    /// The text of what stands at a path of members; none where there is nothing. Nothing is decoded.
    pub fn raw(&self, path: &[&str]) -> Option<&[u8]> {
        Some(&self.json[scan::below(&self.json, 0..self.json.len(), path)?])
    }

    /// The body as if it had nothing but what stands at a path of members: for who needs a little of many objects.
    pub fn only(&self, path: &[&str]) -> Value {
        let part = self.raw(path).and_then(|text| serde_json::from_slice(text).ok());
        part.map_or(Value::Null, |part| nested(path, part))
    }

    /// True when its text has this word as a whole string, as a key or a value: a look that decodes nothing, to pass over
    /// the many objects that something is not about. The word has no character that JSON escapes.
    pub fn mentions(&self, word: &str) -> bool {
        memchr::memmem::find(&self.json, format!("\"{word}\"").as_bytes()).is_some()
    }

    /// True when it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.meta.deleted.is_some()
    }

    /// From its JSON text (resourceVersion included), decoding nothing but the metadata and the selectable fields. The
    /// error says what is wrong with the text.
    pub fn from_json(gvk: Arc<Gvk>, json: Bytes, revision: u64, selectable: &[Selectable]) -> Result<Self, String> {
        let at = scan::find(&json, 0, "metadata").ok_or("an object needs metadata")?;
        let (meta, length) = Meta::from_start(&json[at..]).map_err(|e| format!("metadata: {e}"))?;
        let pointers: Vec<&str> = selectable.iter().map(|s| &*s.pointer).collect();
        let texts =
            if pointers.is_empty() { Vec::new() } else { scan::fields_beside(&json, &pointers, at..at + length) };
        let field = |(text, s): (String, &Selectable)| -> Box<str> {
            s.counted(text, |p| scan::fields(&json, &[p]).into_iter().next().unwrap_or_default())
        };
        let fields = texts.into_iter().zip(selectable).map(field).collect();
        Ok(Self { gvk, meta, fields, json, revision })
    }

    /// From a decoded body, as clients (remote informers, tests) make it. `selectable` are the JSON pointers of the
    /// kind's selectable fields.
    pub fn from_value(value: &Value, selectable: &[&str]) -> Self {
        let api_version = value.str_at("/apiVersion").unwrap_or_default();
        let (group, version) = super::meta::gvk::split(api_version);
        let gvk = Gvk {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            kind: value.str_at("/kind").unwrap_or_default().to_owned().into(),
        };
        let field = |p: &&str| -> Box<str> { super::scheme::field_text(value.get_at(p)).into() };
        Self {
            gvk: Arc::new(gvk),
            meta: Meta::from_value(value),
            fields: selectable.iter().map(field).collect(),
            json: serde_json::to_vec(value).expect("a JSON value serializes").into(),
            revision: value.str_at("/metadata/resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0),
        }
    }
}

/// Namespace (empty when cluster-scoped) and name: what controllers queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl From<&Meta> for ObjectKey {
    fn from(m: &Meta) -> Self {
        Self::new(&m.namespace, &m.name)
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            ns => write!(f, "{ns}/{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_read_without_the_rest() {
        let value =
            json!({"metadata": {"name": "a", "labels": {"spec": "x"}}, "spec": {"selector": {"a": "b"}, "n": 1}});
        let object = Object::from_value(&value, &[]);
        assert_eq!(object.raw(&["spec", "selector"]), Some(&br#"{"a":"b"}"#[..]));
        assert_eq!(object.only(&["spec", "selector"]), json!({"spec": {"selector": {"a": "b"}}}));
        assert_eq!((object.raw(&["status", "phase"]), object.only(&["spec", "none"])), (None, Value::Null));
    }

    #[test]
    fn metadata_is_parsed_once() {
        let o = Object::from_value(
            &json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a", "namespace": "n",
                "resourceVersion": "7", "labels": {"b": "2", "a": "1"},
                "ownerReferences": [{"kind": "Deployment", "name": "d", "uid": "u", "controller": true}]},
                "spec": {"nodeName": "x"}}),
            &["/spec/nodeName", "/spec/none"],
        );
        assert_eq!(o.meta.label("b"), Some("2"));
        assert_eq!(o.meta.controller().unwrap().uid, "u");
        assert_eq!((o.revision, &*o.fields[0], &*o.fields[1]), (7, "x", ""));
        assert_eq!(o.gvk.to_string(), "apps/v1, Kind=ReplicaSet");
        assert!(o.mentions("nodeName") && o.mentions("x") && !o.mentions("node") && !o.mentions("odeName"));
    }

    #[test]
    fn text_and_value_give_the_same_object() {
        let value = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "a\"b", "uid": "u", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
            "labels": {"z": "", "b": "2", "a": "1"}, "annotations": {"x": "y"}, "finalizers": ["f", "g"],
            "managedFields": [{"fieldsV1": {"f:spec": {}}}], "resourceVersion": "9",
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "d", "uid": "w", "blockOwnerDeletion": true}]},
            "spec": {"unschedulable": true, "providerID": "p"}});
        let selectable = [
            Selectable::or("spec.unschedulable", "/spec/unschedulable", "false"),
            Selectable::or("x", "/spec/x", "no"),
        ];
        let json = Bytes::from(serde_json::to_vec(&value).unwrap());
        let o = Object::from_json(Arc::new(Gvk::new("", "v1", "Node")), json, 9, &selectable).unwrap();
        assert_eq!(o.meta, Meta::from_value(&value));
        assert_eq!(*o.fields, ["true".into(), "no".into()]);
        assert!(Meta::from_slice(b"{\"name\":1}").is_err());
        assert_eq!(Meta::from_slice(b"{\"labels\":null}").unwrap(), Meta::default());
    }
}
