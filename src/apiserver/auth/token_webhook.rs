//! Tokens that a webhook knows: a TokenReview sent, a TokenReview back.
//!
//! **Invariant:** a token is kept by its hash only; an answer counts for the token and the audiences that were asked for,
//! and for as long as the settings say. Failures are never kept.
//!
//! Rules: upstream `apiserver/plugin/pkg/authenticator/token/webhook`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::authn::{AuthError, TokenAuthenticator, TokenUser};
use super::remote::Remote;
use super::review::subject_of;
use crate::api::value::ValueExt;
use crate::util::ttl::TtlCache;

/// Answers that are kept.
const ANSWERS_MAX: usize = 4096;
/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// What the flags say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--authentication-token-webhook-config-file`, a kubeconfig.
    pub file: PathBuf,
    /// `--authentication-token-webhook-version`: `v1` or `v1beta1`.
    pub version: String,
    /// `--authentication-token-webhook-cache-ttl`.
    pub ttl: Duration,
}

/// Asks the webhook.
pub struct TokenWebhook {
    remote: Remote,
    settings: Settings,
    answers: TtlCache<Vec<u8>, Option<TokenUser>>,
}

impl TokenWebhook {
    /// Over a way to the webhook.
    pub fn new(remote: Remote, settings: Settings) -> Self {
        Self { remote, settings, answers: TtlCache::new(ANSWERS_MAX) }
    }
}

#[async_trait]
impl TokenAuthenticator for TokenWebhook {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, AuthError> {
        let key = digest(&SHA256, [&audiences.join("\0"), "\0\0", token].concat().as_bytes()).as_ref().to_vec();
        if let Some(answer) = self.answers.get(&key, Instant::now()) {
            return Ok(answer);
        }
        let review = question(token, audiences, &self.settings.version);
        let answer = self.remote.ask(&review, ANSWER_TIME).await;
        let answer = answer.map_err(|why| AuthError(format!("the token webhook: {why}")))?;
        let found = user(&answer, audiences)?;
        self.answers.put(key, found.clone(), self.settings.ttl, Instant::now());
        Ok(found)
    }
}

fn question(token: &str, audiences: &[String], version: &str) -> Value {
    let mut spec = json!({"token": token});
    if !audiences.is_empty() {
        spec["audiences"] = json!(audiences);
    }
    json!({"kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{version}"), "metadata": {}, "spec": spec})
}

/// The user of an answer; none when the webhook does not know the token.
fn user(answer: &Value, wanted: &[String]) -> Result<Option<TokenUser>, AuthError> {
    let status = &answer["status"];
    if status["authenticated"] != true {
        return match status.str_at("/error").filter(|e| !e.is_empty()) {
            Some(why) => Err(AuthError::new(why)),
            None => Ok(None),
        };
    }
    let said: Vec<String> =
        status.items_at("/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    // A webhook that knows no audiences answers for the server's own.
    let audiences: Vec<String> = match said.is_empty() {
        true => wanted.to_vec(),
        false => said.into_iter().filter(|a| wanted.contains(a)).collect(),
    };
    if audiences.is_empty() && !wanted.is_empty() {
        return Err(AuthError::new("token audiences are not those that were asked for"));
    }
    let user = subject_of(&status["user"], "/username");
    if user.name.is_empty() {
        return Err(AuthError::new("the token webhook named no user"));
    }
    Ok(Some(TokenUser { user, audiences }))
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(json!({"authenticated": true, "user": {"username": "jane"}}), Ok(Some(vec!["api"])); "no audiences")]
    #[test_case(json!({"authenticated": true, "user": {"username": "jane"}, "audiences": ["api", "x"]}), Ok(Some(vec!["api"])))]
    #[test_case(json!({"authenticated": true, "user": {"username": "jane"}, "audiences": ["x"]}), Err("token audiences are not those that were asked for"))]
    #[test_case(json!({"authenticated": true, "user": {}}), Err("the token webhook named no user"))]
    #[test_case(json!({"authenticated": false}), Ok(None); "unknown")]
    #[test_case(json!({}), Ok(None); "empty")]
    #[test_case(json!({"error": "broken"}), Err("broken"))]
    fn answers(status: Value, want: Result<Option<Vec<&str>>, &str>) {
        let got = user(&json!({"status": status}), &["api".to_owned()]);
        let want = want.map(|w| w.map(|a| a.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(got.map(|u| u.map(|u| u.audiences)).map_err(|e| e.0), want.map_err(str::to_owned));
    }

    #[test]
    fn a_question_is_a_review() {
        let asked = question("t", &["a".to_owned()], "v1");
        assert_eq!(asked["apiVersion"], "authentication.k8s.io/v1");
        assert_eq!(asked["spec"], json!({"token": "t", "audiences": ["a"]}));
    }
}
