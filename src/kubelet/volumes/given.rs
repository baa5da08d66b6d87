//! Tokens from the API, with a memory: while no server answers a pod gets what it was given last.
//!
//! **Invariant:** only a server that cannot be reached is stood in for; one that refuses is not.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::Value;

use super::Tokens;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::runtime::kept;

/// What gives tokens, and where they are kept.
pub struct Given<T = crate::client::Client> {
    source: T,
    kept: OnceLock<Arc<kept::Tokens>>,
}

impl<T> Given<T> {
    /// Keeps nothing yet.
    pub fn new(source: T) -> Self {
        Self { source, kept: OnceLock::new() }
    }

    /// Keeps them there from now on.
    pub fn keep(&self, kept: Arc<kept::Tokens>) {
        // A second place would be one too many; the first one stays.
        let _ = self.kept.set(kept);
    }
}

#[async_trait]
impl<T: Tokens> Tokens for Given<T> {
    async fn request(&self, namespace: &str, account: &str, body: &Value) -> ApiResult<Value> {
        let answer = self.source.request(namespace, account, body).await;
        let Some(kept) = self.kept.get() else { return answer };
        let key = format!("{namespace}/{account}/{}", body["spec"]);
        match answer {
            Ok(answer) => {
                let pod = body.str_at("/spec/boundObjectRef/uid").unwrap_or_default().to_owned();
                kept.put(key, pod, answer.clone());
                Ok(answer)
            }
            Err(e) if unreachable(&e) => kept.get(&key).ok_or(e),
            refused => refused,
        }
    }
}

/// Nobody answered (the client's own error has no code), or nobody who could.
fn unreachable(error: &Status) -> bool {
    error.code == 0 || matches!(error.reason, Reason::ServiceUnavailable | Reason::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    struct Source(Mutex<Vec<ApiResult<Value>>>);

    #[async_trait]
    impl Tokens for Source {
        async fn request(&self, _: &str, _: &str, _: &Value) -> ApiResult<Value> {
            self.0.lock().unwrap().pop().unwrap()
        }
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_stood_in_for_and_one_that_refuses_is_not() {
        let gone = || {
            let mut status = Status::new(Reason::Unknown, "cannot talk to the API server");
            status.code = 0;
            Err(status)
        };
        let answers =
            vec![Err(Status::new(Reason::Forbidden, "no")), gone(), gone(), Ok(json!({"status": {"token": "t"}}))];
        let given = Given::new(Source(Mutex::new(answers)));
        given.keep(kept::Tokens::new(BTreeMap::new()));
        let body = |uid: &str| json!({"spec": {"boundObjectRef": {"uid": uid}}});
        let first = given.request("n", "a", &body("u")).await.unwrap();
        assert_eq!(given.request("n", "a", &body("u")).await.unwrap(), first);
        assert!(given.request("n", "a", &body("other")).await.is_err(), "a token is its pod's alone");
        assert_eq!(given.request("n", "a", &body("u")).await.unwrap_err().reason, Reason::Forbidden);
    }
}
