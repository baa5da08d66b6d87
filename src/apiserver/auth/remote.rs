//! Services that the server asks: a POST of JSON to the server of a kubeconfig file.
//!
//! Upstream's form for token, authorization and audit webhooks: `clusters[].cluster` says where, `users[].user` who asks.
//!
//! **Invariant:** an answer is read up to [`ANSWER_MAX_BYTES`], and waited for as long as the caller says.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::client::{Client, ConnectError};
use crate::util::backoff::Backoff;

/// Longest answer that is read.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// How often a question is asked at most, while it may help.
const TRIES: u32 = 4;
/// Pauses between them.
const PAUSES: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(1) };

/// One service.
pub struct Remote {
    client: Client,
    path: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoAnswer {
    why: String,
    /// It may be another one the next time.
    again: bool,
}

impl NoAnswer {
    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true }
    }
}

impl Remote {
    /// As a kubeconfig file says.
    pub async fn open(file: &Path) -> Result<Self, ConnectError> {
        let (client, path) = Client::to_url_of(file).await?;
        Ok(Self { client: client.named("orch"), path })
    }

    /// Sends JSON once; gives back the answer's bytes.
    ///
    /// # Errors
    /// Why there is no answer that means success.
    pub async fn post(&self, body: Bytes, timeout: Duration) -> Result<Bytes, NoAnswer> {
        let json = HeaderValue::from_static("application/json");
        let headers: HeaderMap = [(header::CONTENT_TYPE, json.clone()), (header::ACCEPT, json)].into_iter().collect();
        let asked = async {
            let answer = self.client.send(Method::POST, &self.path, headers, body).await;
            let (parts, body) = answer.map_err(|e| NoAnswer::passing(e.message))?.into_parts();
            if !parts.status.is_success() {
                let again = parts.status.is_server_error() || parts.status.as_u16() == 429;
                return Err(NoAnswer { why: format!("it answered {}", parts.status), again });
            }
            let read = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
            read.map(http_body_util::Collected::to_bytes).map_err(|e| NoAnswer::passing(e.to_string()))
        };
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| Err(NoAnswer::passing("context deadline exceeded")))
    }

    /// Asks a question, again where that may help, all within `timeout`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, question: &Value, timeout: Duration) -> Result<Value, NoAnswer> {
        let body = Bytes::from(serde_json::to_vec(question).expect("a JSON value serializes"));
        let end = tokio::time::Instant::now() + timeout;
        let mut tried = 1;
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let why = match self.post(body.clone(), left).await {
                Ok(answer) => {
                    let read = serde_json::from_slice(&answer);
                    return read.map_err(|e| NoAnswer { why: format!("its answer is no JSON: {e}"), again: false });
                }
                Err(why) => why,
            };
            let pause = PAUSES.delay(tried);
            if !why.again || tried == TRIES || tokio::time::Instant::now() + pause >= end {
                return Err(why);
            }
            tried += 1;
            tokio::time::sleep(pause).await;
        }
    }
}
