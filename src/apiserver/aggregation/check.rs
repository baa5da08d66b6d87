//! One look at an extension server: is there somebody to ask, and does it say what it serves?

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::Value;

use crate::api::user::UserInfo;
use crate::api::value::ValueExt;

use super::forward::identify;
use super::plan::{self, Verdict};
use super::{Extension, Learned, Published, Roads};

/// How long an extension server may take to say what it serves. Upstream's.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read: a list of resources, or a document.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// Looks.
pub(super) async fn look(e: &Extension, roads: &Roads) -> Verdict {
    let (service, slices) = roads.look_up(&e.remote.service);
    if let Some(verdict) = plan::look(&e.remote.service, service.as_ref(), &slices) {
        return verdict;
    }
    let url = format!("{}{}", e.remote.service.base(), e.remote.path());
    let failed = |why: String| Verdict::silent(format!("failing or missing response from {url}: {why}"));
    let in_time = |path: String, etag| tokio::time::timeout(TIMEOUT, ask(e, path, etag));
    match in_time(e.remote.path(), "").await {
        Ok(Ok(answer)) => {
            let known = e.learned.load().part.clone();
            let (index, whole) =
                tokio::join!(in_time("/openapi/v3".into(), ""), in_time("/openapi/v2".into(), &known.etag));
            // Old servers have no index, and clients read the other form then.
            let openapi = index.ok().and_then(Result::ok).and_then(|index| document(&index.body, e));
            // That it says nothing for once changes nothing.
            let part = match whole {
                Ok(Ok(new)) if !new.is_known => Published::of(&new.body, new.etag, &e.remote.path()).into(),
                _ => known,
            };
            e.learned.store(Learned { resources: answer.body, openapi, part }.into());
            Verdict::passed()
        }
        Ok(Err(why)) => failed(why),
        Err(_) => failed("context deadline exceeded".into()),
    }
}

/// Where its document of the group version is: below the path that is passed on to it, nowhere else.
fn document(index: &Value, e: &Extension) -> Option<String> {
    let path = e.remote.path();
    let entry = index.get("paths")?.get(path.trim_start_matches('/'))?;
    let url = entry.str_at("/serverRelativeURL")?;
    url.starts_with(&format!("/openapi/v3{path}")).then(|| url.to_owned())
}

/// What an extension server answers.
struct Told {
    body: Value,
    etag: String,
    /// It is what the ETag of the question names, and has no body.
    is_known: bool,
}

/// What it answers to a GET, as the aggregator, who has what has that ETag; an empty one for nothing.
async fn ask(e: &Extension, path: String, known: &str) -> Result<Told, String> {
    let passage = e.passage.as_ref().ok_or("its caBundle holds no certificate")?;
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.uri_mut() = path.parse().map_err(|_| "its group is no path")?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Ok(known) = HeaderValue::try_from(known)
        && !known.is_empty()
    {
        headers.insert(header::IF_NONE_MATCH, known);
    }
    let user = UserInfo {
        name: "system:kube-aggregator".into(),
        groups: vec![UserInfo::MASTERS.into()],
        ..UserInfo::default()
    };
    identify(headers, &user);
    let (parts, body) = passage.send(request).await?.into_parts();
    let is_known = parts.status == StatusCode::NOT_MODIFIED && !known.is_empty();
    if !parts.status.is_success() && !is_known {
        return Err(format!("bad status: {}", parts.status.as_u16()));
    }
    let etag = parts.headers.get(header::ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let read = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(|e| e.to_string())?;
    // It answers; what it says of itself is told as far as it can be read.
    Ok(Told { body: serde_json::from_slice(&read.to_bytes()).unwrap_or_default(), etag, is_known })
}
