//! `/openapi/v2` and `/openapi/v3`: documents made of the wire table and the rows, on demand.
//!
//! Nothing is kept: clients ask with the ETag or the hash they have, and mostly get 304. What they do get is made for
//! them, compressed where they take gzip, and dropped. v3 comes in JSON, v2 in JSON or as gnostic's protobuf.
//!
//! Rules: upstream `kube-openapi/pkg/handler` and `handler3`.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, json};
use tokio::sync::Semaphore;

use crate::api::meta::gvk::join;
use crate::api::schema::openapi;
use crate::pki::hex;
use crate::registry::Resource;

use super::respond::{self, Answer};
use super::{Api, Call, discovery};

/// Documents that are made at the same time; one takes a core and some megabytes for a moment.
static MAKING: Semaphore = Semaphore::const_new(1);

/// The forms of `/openapi/v2` by what a client accepts, upstream's order: the media type, what the answer says it is.
const V2_FORMS: [(&str, V2); 3] = [
    ("application/json", V2::Json),
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2::Proto),
    ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", V2::Proto),
];
const V3_FORMS: [(&str, ()); 1] = [("application/json", ())];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum V2 {
    Json,
    Proto,
}

impl V2 {
    fn content_type(self) -> &'static str {
        match self {
            V2::Json => "application/json",
            V2::Proto => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        }
    }
}

/// The form that a client likes best of those there are; none is 406.
fn accepted<T: Copy>(headers: &HeaderMap, forms: &[(&str, T)]) -> Option<T> {
    let all: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let all = all.join(",");
    let names = all.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    let mut names = names.filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        return forms.first().map(|(_, form)| *form);
    }
    names.find_map(|name| match name {
        "*/*" | "application/*" => forms.first().map(|(_, form)| *form),
        name => forms.iter().find(|(media, _)| *media == name).map(|(_, form)| *form),
    })
}

/// A text that changes when a document does: with what the documents are made from, and with the rows.
fn tag(what: &str, list: &[Arc<Resource>]) -> String {
    static SOURCES: LazyLock<digest::Digest> = LazyLock::new(|| {
        let mut context = digest::Context::new(&digest::SHA256);
        openapi::sources().iter().for_each(|source| context.update(source));
        context.finish()
    });
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(SOURCES.as_ref());
    context.update(what.as_bytes());
    for r in list {
        let subresources: Vec<_> = r.info.subresources.iter().map(|s| (&s.name, s.verbs.0)).collect();
        let row = format!("\n{} {} {:?} {subresources:?}", r.info.gvk, r.info.plural, r.info.verbs);
        context.update(row.as_bytes());
        context.update(r.custom.as_ref().map_or("", |c| c.schema_digest()).as_bytes());
    }
    hex(context.finish().as_ref()).to_uppercase()
}

fn published(r: &Resource) -> openapi::Kind<'_> {
    openapi::Kind { info: &r.info, custom: r.custom.as_ref().map(|c| (c.schema(), r.list_kind.as_str())) }
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
                let url = format!("/openapi/v3/{path}?hash={}", tag(&join(&g.name, version), list));
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        for e in self.extensions.all().iter() {
            if let Some(url) = &e.learned.load().openapi {
                let path = path_of(&e.remote.group, &e.remote.version);
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        // Upstream serves the index as a file, whose type it guesses.
        respond::text(200, json!({"paths": paths}).to_string())
    }

    /// `/openapi/v3/<group version>`.
    pub(super) async fn openapi_v3(&self, call: &Call, group: &str, version: &str) -> Answer {
        let groups = discovery::groups(self.registry.resources());
        let found = groups.iter().find(|g| g.name == group).and_then(|g| g.versions.iter().find(|(v, _)| v == version));
        let Some((_, list)) = found else { return respond::text(404, "404 page not found\n") };
        if accepted(&call.headers, &V3_FORMS).is_none() {
            return not_acceptable();
        }
        let tag = tag(&join(group, version), list);
        // A client that knows an older document is sent to the present one.
        if let Some(asked) = call.info.query.get("hash").filter(|hash| *hash != tag) {
            tracing::debug!(asked, "an OpenAPI document of another hash was asked for");
            let mut answer = respond::text(301, "");
            let place = format!("/openapi/v3/{}?hash={tag}", path_of(group, version));
            if let Ok(place) = HeaderValue::from_str(&place) {
                answer.headers_mut().insert(header::LOCATION, place);
            }
            return answer;
        }
        let (group, version, list) = (group.to_owned(), version.to_owned(), list.clone());
        tagged(call, &tag, V2::Json.content_type(), move || {
            let rows: Vec<openapi::Kind<'_>> = list.iter().map(|r| published(r)).collect();
            openapi::v3(&group, &version, &rows)
        })
        .await
    }

    /// `/openapi/v2`: everything.
    pub(super) async fn openapi_v2(&self, call: &Call) -> Answer {
        let all = self.registry.resources().all();
        let Some(form) = accepted(&call.headers, &V2_FORMS) else { return not_acceptable() };
        // Of other servers; in the order of their names, which decides whose definition keeps its name.
        let mut others = self.extensions.all().to_vec();
        others.sort_by(|a, b| a.remote.name.cmp(&b.remote.name));
        let others: Vec<_> = others.iter().map(|e| e.learned.load_full()).collect();
        let digests: String = others.iter().map(|l| &*l.part.tag).collect::<Vec<_>>().join(" ");
        let tag = tag(&format!("{} {digests}", form.content_type()), &all);
        tagged(call, &tag, form.content_type(), move || {
            let rows: Vec<openapi::Kind<'_>> = all.iter().map(|r| published(r)).collect();
            let parts = others.iter().filter_map(|l| l.part.read()).collect();
            match form {
                V2::Json => openapi::v2(&rows, parts),
                V2::Proto => openapi::v2_proto(&rows, parts),
            }
        })
        .await
    }
}

fn not_acceptable() -> Answer {
    respond::answer(406, "text/plain; charset=utf-8", respond::full(""))
}

/// A document under its ETag; 304 where the client has it.
async fn tagged(
    call: &Call,
    tag: &str,
    content_type: &'static str,
    make: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> Answer {
    let quoted = format!("\"{tag}\"");
    let text = |name| call.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    let known = text(header::IF_NONE_MATCH).split(',').any(|one| one.trim().trim_start_matches("W/") == quoted);
    let gzip =
        text(header::ACCEPT_ENCODING).split(',').any(|one| one.split(';').next().unwrap_or_default().trim() == "gzip");
    let mut answer = if known {
        respond::answer(304, content_type, respond::full(""))
    } else {
        match made(make, gzip).await {
            Some(body) => respond::answer(200, content_type, respond::full(body)),
            None => return respond::text(500, "the document could not be made\n"),
        }
    };
    let headers = answer.headers_mut();
    if gzip && !known {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        headers.insert(header::ETAG, value);
    }
    // A document named by its hash never changes.
    if call.info.query.get("hash") == Some(tag) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    answer
}

/// Makes a document aside from the tasks that serve other requests. None when making it has panicked.
async fn made(make: impl FnOnce() -> Vec<u8> + Send + 'static, gzip: bool) -> Option<Bytes> {
    let _turn = MAKING.acquire().await.ok()?;
    let work = move || {
        let document = make();
        if !gzip {
            return document;
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&document).and_then(|()| packed.finish()).expect("memory takes what is written")
    };
    tokio::task::spawn_blocking(work).await.ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("" => Some(V2::Json))]
    #[test_case("*/*" => Some(V2::Json))]
    #[test_case("application/json;q=0.5, */*" => Some(V2::Json))]
    #[test_case("application/com.github.proto-openapi.spec.v2@v1.0+protobuf" => Some(V2::Proto))]
    #[test_case("application/com.github.proto-openapi.spec.v2.v1.0+protobuf, application/json" => Some(V2::Proto))]
    #[test_case("text/html" => None)]
    fn forms(accept: &str) -> Option<V2> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        }
        accepted(&headers, &V2_FORMS)
    }

    #[tokio::test]
    async fn gzip_holds_the_document() {
        use std::io::Read;
        let packed = made(|| b"{}".to_vec(), true).await.unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), &made(|| b"{}".to_vec(), false).await.unwrap()[..]), ("{}", &b"{}"[..]));
    }
}
