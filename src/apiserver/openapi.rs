//! `/openapi/v2` and `/openapi/v3`: documents made of the wire table and the rows, on demand.
//!
//! Nothing is kept: clients ask with the ETag they have, and mostly get 304.

use std::sync::Arc;

use aws_lc_rs::digest;
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};

use crate::api::meta::gvk::join;
use crate::api::schema::openapi;
use crate::api::scheme::KindInfo;
use crate::pki::hex;
use crate::registry::Resource;

use super::respond::{self, Answer};
use super::{Api, Call, discovery};

/// A text that changes when the document of a group version does: with orch's version and the kinds served.
fn tag(group: &str, version: &str, list: &[Arc<Resource>]) -> String {
    let mut text = format!("{} {group}/{version}", env!("CARGO_PKG_VERSION"));
    for r in list {
        text.push_str(&r.info.plural);
    }
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()).to_uppercase()
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

impl Api {
    /// `/openapi/v3`: where the documents are.
    pub(super) fn openapi_index(&self) -> Answer {
        let mut paths = Map::new();
        for g in discovery::groups(self.registry.resources()) {
            for (version, list) in &g.versions {
                let path = path_of(&g.name, version);
                let url = format!("/openapi/v3/{path}?hash={}", tag(&g.name, version, list));
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        respond::json(200, &json!({"paths": paths}))
    }

    /// `/openapi/v3/<group version>`.
    pub(super) fn openapi_v3(&self, call: &Call, group: &str, version: &str) -> Answer {
        let groups = discovery::groups(self.registry.resources());
        let found = groups.iter().find(|g| g.name == group).and_then(|g| g.versions.iter().find(|(v, _)| v == version));
        let Some((_, list)) = found else { return respond::text(404, "404 page not found\n") };
        tagged(call, &tag(group, version, list), || {
            let rows: Vec<&KindInfo> = list.iter().map(|r| &r.info).collect();
            openapi::v3(group, version, &rows)
        })
    }

    /// `/openapi/v2`: everything.
    pub(super) fn openapi_v2(&self, call: &Call) -> Answer {
        let all = self.registry.resources().all();
        tagged(call, &tag("", &join("all", "v2"), &all), || {
            let rows: Vec<&KindInfo> = all.iter().map(|r| &r.info).collect();
            openapi::v2(&rows)
        })
    }
}

fn tagged(call: &Call, tag: &str, make: impl FnOnce() -> Value) -> Answer {
    let quoted = format!("\"{tag}\"");
    let known = call.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(quoted.as_str());
    let mut answer =
        if known { respond::answer(304, "application/json", respond::full("")) } else { respond::json(200, &make()) };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        answer.headers_mut().insert(header::ETAG, value);
    }
    // A document named by its hash never changes.
    if call.info.query.get("hash") == Some(tag) {
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    answer
}
