//! One look at an extension server: is there somebody to ask, and does it say what it serves?

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::Value;

use crate::api::user::UserInfo;
use crate::api::value::ValueExt;

use super::forward::identify;
use super::plan::{self, Verdict};
use super::{Extension, Learned, Roads};

/// How long an extension server may take to say what it serves. Upstream's.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest list of resources that is read.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// Looks.
pub(super) async fn look(e: &Extension, roads: &Roads) -> Verdict {
    let (service, slices) = roads.look_up(&e.remote.service);
    if let Some(verdict) = plan::look(&e.remote.service, service.as_ref(), &slices) {
        return verdict;
    }
    let url = format!("{}{}", e.remote.service.base(), e.remote.path());
    let failed = |why: String| Verdict::silent(format!("failing or missing response from {url}: {why}"));
    match tokio::time::timeout(TIMEOUT, ask(e, &e.remote.path())).await {
        Ok(Ok(resources)) => {
            // Old servers have none, and clients read the other form then.
            let index = tokio::time::timeout(TIMEOUT, ask(e, "/openapi/v3")).await;
            let openapi = index.ok().and_then(Result::ok).and_then(|index| document(&index, e));
            e.learned.store(Learned { resources, openapi }.into());
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

/// What it answers to a GET, as the aggregator.
async fn ask(e: &Extension, path: &str) -> Result<Value, String> {
    let passage = e.passage.as_ref().ok_or("its caBundle holds no certificate")?;
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.uri_mut() = path.parse().map_err(|_| "its group is no path")?;
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let user = UserInfo {
        name: "system:kube-aggregator".into(),
        groups: vec![UserInfo::MASTERS.into()],
        ..UserInfo::default()
    };
    identify(request.headers_mut(), &user);
    let (parts, body) = passage.send(request).await?.into_parts();
    if !parts.status.is_success() {
        return Err(format!("bad status: {}", parts.status.as_u16()));
    }
    let read = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(|e| e.to_string())?;
    // It answers; what it says of itself is told as far as it can be read.
    Ok(serde_json::from_slice(&read.to_bytes()).unwrap_or_default())
}
