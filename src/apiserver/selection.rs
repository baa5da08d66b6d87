//! Which objects a collection request is for, and how: its query, read and checked.
//!
//! Rules: upstream `apimachinery/pkg/apis/meta/internalversion/validation` and the documented semantics of
//! `resourceVersion` and `resourceVersionMatch`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::api::meta::fields::FieldSelector;
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::scheme::KindInfo;
use crate::api::status::{ApiResult, Reason, Status};
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::store::cache::Narrow;

use super::request::Query;

/// A field term against a position in `Object::fields`, or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    At(usize),
}

/// Which objects.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: Selector,
    terms: Vec<(Field, String, bool)>,
}

impl Selection {
    /// From the query; 400 for what cannot be read.
    pub fn parse(query: &Query, info: &KindInfo) -> ApiResult<Self> {
        let unreadable = |e: crate::api::meta::labels::SelectorError| Status::bad_request(e.0);
        let labels = Selector::parse(query.get("labelSelector").unwrap_or_default()).map_err(unreadable)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).map_err(unreadable)?;
        let mut terms = Vec::with_capacity(fields.0.len());
        for t in fields.0 {
            let field = match t.field.as_str() {
                "metadata.name" => Field::Name,
                // Kinds without fields of their own know these two, whatever their scope.
                "metadata.namespace" if info.is_namespaced() || info.selectable.is_empty() => Field::Namespace,
                f => match info.selectable.iter().position(|s| s.field == f && !f.is_empty()) {
                    Some(i) => Field::At(i),
                    None => return Err(not_selectable(info, f)),
                },
            };
            terms.push((field, t.value, t.equal));
        }
        Ok(Self { labels, terms })
    }

    /// Objects of one name.
    pub fn named(name: &str) -> Self {
        Self { labels: Selector::default(), terms: vec![(Field::Name, name.to_owned(), true)] }
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.terms.is_empty()
    }

    /// What a list or a watch needs not look beyond, if there is such a thing.
    pub fn narrowed(&self, namespace: Option<&str>, resource: &Resource) -> Option<Narrow> {
        self.terms.iter().filter(|(.., equal)| *equal).find_map(|(field, value, _)| match field {
            Field::Name => {
                let namespace = if resource.info.is_namespaced() { namespace? } else { "" };
                Some(Narrow::Object { namespace: namespace.to_owned(), name: value.clone() })
            }
            // Versions of definitions may have fields of their own, which the stored form does not have.
            Field::At(at) if resource.custom.is_none() => Some(Narrow::Field { at: *at, value: value.as_str().into() }),
            _ => None,
        })
    }

    /// True for an object it selects.
    pub fn matches(&self, o: &Object) -> bool {
        self.terms.iter().all(|(field, value, equal)| {
            let found = match field {
                Field::Name => o.meta.name.as_str(),
                Field::Namespace => o.meta.namespace.as_str(),
                Field::At(i) => o.fields.get(*i).map_or("", |f| &**f),
            };
            (found == value) == *equal
        }) && (self.labels.is_empty() || self.labels.matches(|k| o.meta.label(k)))
    }
}

fn not_selectable(info: &KindInfo, field: &str) -> Box<Status> {
    Status::bad_request(match info.selectable.is_empty() {
        true => format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        false => format!("field label not supported: {field}"),
    })
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Not given.
    Unset,
    /// `Exact`.
    Exact,
    /// `NotOlderThan`.
    NotOlderThan,
}

/// The query of a list or watch.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which objects.
    pub selection: Selection,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// Where to go on.
    pub continued: Option<Token>,
    /// `resourceVersion`; none when unset.
    pub revision: Option<u64>,
    /// How to read it.
    pub matching: Match,
    /// Bookmarks are welcome.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// Seconds.
    pub timeout: Option<u64>,
}

impl Options {
    /// Reads and checks a query.
    pub fn parse(query: &Query, info: &KindInfo, watch: bool) -> ApiResult<Self> {
        let selection = Selection::parse(query, info)?;
        let number = |key: &str| -> ApiResult<Option<i64>> {
            query
                .text(key)
                .map(|v| {
                    v.parse::<i64>().map_err(|_| Status::bad_request(format!("invalid {key}: {v:?} is not a number")))
                })
                .transpose()
        };
        let version = query.text("resourceVersion").unwrap_or_default();
        let mut matching = query.get("resourceVersionMatch").unwrap_or_default();
        let mut initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        if watch && matches!(version, "" | "0") && matching.is_empty() && initial_events.is_none() {
            // A watch from nowhere begins with what there is.
            (matching, initial_events) = ("NotOlderThan", Some(true));
        }
        let continued = query.text("continue");
        let errs = FieldErrors::new();
        match watch {
            true => check_watch(&errs, matching, initial_events.is_some(), continued.is_some()),
            false => check_list(&errs, version, matching, initial_events.is_some(), continued.is_some()),
        }
        if !errs.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", errs.take()));
        }
        let unparsed = |_| {
            Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {version:?}: must be a number"
            ))
        };
        let revision = if version.is_empty() { None } else { Some(version.parse::<u64>().map_err(unparsed)?) };
        let matching = match matching {
            "Exact" => Match::Exact,
            "NotOlderThan" => Match::NotOlderThan,
            _ => Match::Unset,
        };
        let continued = continued.filter(|_| !watch).map(Token::decode).transpose()?;
        if continued.is_some() && revision.is_some_and(|r| r != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(Self {
            selection,
            limit: number("limit")?.unwrap_or(0).max(0) as usize,
            continued,
            revision,
            matching,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
            timeout: number("timeoutSeconds")?.filter(|t| *t > 0).map(|t| t as u64),
        })
    }
}

/// Upstream's `validateWatchOptions`.
fn check_watch(errs: &FieldErrors, matching: &str, initial: bool, continued: bool) {
    let errs = errs.at("resourceVersionMatch");
    if initial && matching != "NotOlderThan" {
        errs.forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if matching.is_empty() {
        return;
    }
    if !initial {
        errs.forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if matching != "NotOlderThan" {
        errs.not_supported(matching, &["NotOlderThan"]);
    }
    if continued {
        errs.forbidden("resourceVersionMatch is forbidden when continue is provided");
    }
}

/// Upstream's `ValidateListOptions`.
fn check_list(errs: &FieldErrors, version: &str, matching: &str, initial: bool, continued: bool) {
    if initial {
        errs.at("sendInitialEvents").forbidden("sendInitialEvents is forbidden for list");
    }
    let errs = errs.at("resourceVersionMatch");
    if matching.is_empty() {
        return;
    }
    if version.is_empty() {
        errs.forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if continued {
        errs.forbidden("resourceVersionMatch is forbidden when continue is provided");
    }
    if !matches!(matching, "Exact" | "NotOlderThan") {
        errs.not_supported(matching, &["Exact", "NotOlderThan", ""]);
    }
    if matching == "Exact" && version == "0" {
        errs.forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
}

/// Where a list goes on: `continue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Revision of the first page; none to go on with whatever there is.
    pub revision: Option<u64>,
    /// The last namespace that was given out.
    pub namespace: String,
    /// The last name that was given out.
    pub name: String,
}

impl Token {
    /// The text for the client.
    pub fn encode(&self) -> String {
        let start = format!("{}/{}\u{0}", self.namespace, self.name);
        URL_SAFE_NO_PAD.encode(
            json!({"v": "meta.k8s.io/v1", "rv": self.revision.map_or(-1, |r| r as i64), "start": start}).to_string(),
        )
    }

    /// From the client's text; 400 when it is none of ours.
    pub fn decode(text: &str) -> ApiResult<Self> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let v: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if v["v"] != "meta.k8s.io/v1" {
            return Err(bad("server does not recognize this encoded version"));
        }
        let start = v["start"].as_str().unwrap_or_default();
        let revision =
            v["rv"].as_i64().filter(|r| *r != 0).ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
        let (namespace, name) = start
            .trim_end_matches('\u{0}')
            .split_once('/')
            .filter(|(_, n)| !n.is_empty())
            .ok_or_else(|| bad("encoded start key empty"))?;
        Ok(Self { revision: u64::try_from(revision).ok(), namespace: namespace.into(), name: name.into() })
    }
}

/// 504 for a revision that is still to come.
pub fn too_large(asked: u64, current: u64) -> Box<Status> {
    Status::new(Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {current}"))
        .with_details(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> KindInfo {
        crate::registry::kinds::all(&crate::registry::allocators::Allocators::default())
            .into_iter()
            .find(|r| r.info.plural == "pods")
            .unwrap()
            .info
    }

    #[test]
    fn tokens_survive() {
        for revision in [Some(7), None] {
            let t = Token { revision, namespace: "a".into(), name: "b".into() };
            assert_eq!(Token::decode(&t.encode()).unwrap(), t);
        }
        assert_eq!(Token::decode("nonsense").unwrap_err().code, 400);
    }

    #[test]
    fn each_group_of_events_has_its_own_fields() {
        let all = crate::registry::kinds::all(&crate::registry::allocators::Allocators::default());
        let code = |group: &str, plural: &str, q: &str| {
            let info = &all.iter().find(|r| r.info.plural == plural && r.info.gvk.group == group).unwrap().info;
            Selection::parse(&Query::parse(q), info).err().map(|e| e.code)
        };
        assert_eq!(code("", "events", "fieldSelector=involvedObject.kind%3DPod,source%3Dx"), None);
        assert_eq!(code("", "events", "fieldSelector=regarding.kind%3DPod"), Some(400));
        assert_eq!(code("events.k8s.io", "events", "fieldSelector=regarding.kind%3DPod"), None);
        assert_eq!(code("events.k8s.io", "events", "fieldSelector=%3DPod"), Some(400));
        assert_eq!(code("storage.k8s.io", "storageclasses", "fieldSelector=metadata.namespace%3Da"), None);
        assert_eq!(code("", "nodes", "fieldSelector=metadata.namespace%3Da"), Some(400));
    }

    #[test]
    fn a_watch_from_nowhere_begins_with_what_there_is() {
        let initial = |q: &str, watch| Options::parse(&Query::parse(q), &pods(), watch).unwrap().initial_events;
        assert_eq!(initial("resourceVersion=0", true), Some(true));
        assert_eq!(initial("resourceVersion=7", true), None);
        assert_eq!(initial("", false), None);
    }

    #[test]
    fn wrong_queries_are_told() {
        let code = |q: &str, watch| Options::parse(&Query::parse(q), &pods(), watch).err().map(|e| e.code);
        assert_eq!(code("labelSelector=a%3Db", false), None);
        assert_eq!(code("labelSelector=%3D%3D", false), Some(400));
        assert_eq!(code("fieldSelector=spec.nope%3Db", false), Some(400));
        assert_eq!(code("resourceVersionMatch=Exact", false), Some(422));
        assert_eq!(code("resourceVersion=5&resourceVersionMatch=Exact", false), None);
        assert_eq!(code("sendInitialEvents=true", true), Some(422));
        assert_eq!(code("sendInitialEvents=true", false), Some(422));
        assert_eq!(code("resourceVersion=x", false), Some(400));
        assert_eq!(code("resourceVersion=x&resourceVersionMatch=Nope", false), Some(422));
        assert_eq!(code("resourceVersion=5&continue=abc", true), None);
        assert_eq!(code("continue=abc", true), Some(422));
    }
}
