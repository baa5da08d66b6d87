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
use crate::registry::errors::FieldErrors;

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
                "metadata.namespace" if info.is_namespaced() => Field::Namespace,
                f => match info.selectable.iter().position(|s| s.field == f) {
                    Some(i) => Field::At(i),
                    None => {
                        let gv = crate::api::meta::gvk::join(&info.gvk.group, &info.gvk.version);
                        return Err(Status::bad_request(format!(
                            "Unable to find \"{gv}, Resource={}\" that match label selector \"{labels}\", field selector \"{}\": field label not supported: {f}",
                            info.plural,
                            query.get("fieldSelector").unwrap_or_default(),
                        )));
                    }
                },
            };
            terms.push((field, t.value, t.equal));
        }
        Ok(Self { labels, terms })
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.terms.is_empty()
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
        let errs = FieldErrors::new();
        let revision = match query.text("resourceVersion") {
            None => None,
            Some(rv) => match rv.parse::<u64>() {
                Ok(n) => Some(n),
                Err(_) => {
                    errs.at("resourceVersion").invalid(rv, "must be a number");
                    return Err(Status::bad_request(format!("invalid resource version {rv:?}")));
                }
            },
        };
        let matching = match query.get("resourceVersionMatch").unwrap_or_default() {
            "" => Match::Unset,
            "Exact" => Match::Exact,
            "NotOlderThan" => Match::NotOlderThan,
            other => {
                errs.at("resourceVersionMatch").not_supported(other, &["Exact", "NotOlderThan", ""]);
                Match::Unset
            }
        };
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let continued = query.text("continue");
        check(&errs, watch, revision, matching, initial_events, continued.is_some());
        if !errs.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", errs.take()));
        }
        let continued = continued.map(Token::decode).transpose()?;
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

fn check(errs: &FieldErrors, watch: bool, revision: Option<u64>, m: Match, initial: Option<bool>, continued: bool) {
    let version_match = errs.at("resourceVersionMatch");
    if initial.is_some() {
        if !watch {
            errs.at("sendInitialEvents").forbidden("sendInitialEvents is forbidden for list");
            return;
        }
        if m == Match::Unset {
            version_match.forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if m == Match::Exact {
            version_match.forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            version_match.not_supported("Exact", &["NotOlderThan"]);
        }
    } else if watch && m != Match::Unset {
        version_match.forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        if m == Match::Exact {
            version_match.not_supported("Exact", &["NotOlderThan"]);
        }
    } else if m != Match::Unset {
        if revision.is_none() {
            version_match.forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if m == Match::Exact && revision == Some(0) {
            version_match.forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if continued && (watch || m != Match::Unset) {
        version_match.forbidden("resourceVersionMatch is forbidden when continue is provided");
    }
}

/// Where a list goes on: `continue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Revision of the first page.
    pub revision: u64,
    /// The last namespace that was given out.
    pub namespace: String,
    /// The last name that was given out.
    pub name: String,
}

impl Token {
    /// The text for the client.
    pub fn encode(&self) -> String {
        let start = format!("{}/{}\u{0}", self.namespace, self.name);
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": start}).to_string())
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
            v["rv"].as_i64().filter(|r| *r > 0).ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
        let (namespace, name) = start
            .trim_end_matches('\u{0}')
            .split_once('/')
            .filter(|(_, n)| !n.is_empty())
            .ok_or_else(|| bad("encoded start key empty"))?;
        Ok(Self { revision: revision as u64, namespace: namespace.into(), name: name.into() })
    }
}

/// 504 for a revision that is still to come.
pub fn too_large(asked: u64, current: u64) -> Box<Status> {
    Status::new(Reason::Timeout, format!("Too large resource version: {asked}, current: {current}")).with_details(
        json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }),
    )
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
        let t = Token { revision: 7, namespace: "a".into(), name: "b".into() };
        assert_eq!(Token::decode(&t.encode()).unwrap(), t);
        assert_eq!(Token::decode("nonsense").unwrap_err().code, 400);
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
        assert_eq!(code("resourceVersion=x", false), Some(400));
    }
}
