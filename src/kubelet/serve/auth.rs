//! Who may ask the node on its HTTPS port: client certificates of the cluster's CA, or bearer tokens that the API knows;
//! and then what the API allows them on `nodes/…`.
//!
//! Rules: upstream `pkg/kubelet/server/auth.go` and the delegating authenticator and authorizer, with their times.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use http::{Request, Response, StatusCode, header};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Body, routes, text};
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::client::{Client, res};
use crate::pki::profile;

/// How long an answer of the API holds. Upstream: `authentication.webhook.cacheTTL`, `authorization.webhook.cache…TTL`.
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOW_TTL: Duration = Duration::from_secs(300);
const DENY_TTL: Duration = Duration::from_secs(30);
/// Answers kept of each kind.
const MAX_KEPT: usize = 1024;
/// How long the API may take.
const REVIEW_LIMIT: Duration = Duration::from_secs(10);

/// What the certificate of a connection says.
#[derive(Debug, Default)]
pub struct Peer(Option<(User, i64)>);

impl Peer {
    /// From a chain that was verified, end entity first.
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let Some(Ok((_, leaf))) = chain.first().map(|leaf| X509Certificate::from_der(leaf)) else {
            return Self::default();
        };
        let (name, groups) = profile::subject(&leaf);
        Self(Some((User { name, groups, ..User::default() }, leaf.validity().not_after.timestamp())))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    /// JSON of what else is known of him, for the review of his access.
    extra: String,
}

/// Decides by asking the API.
pub struct Guard {
    node: String,
    client: Client,
    tokens: Kept<[u8; 32], Option<User>>,
    access: Kept<(User, &'static str, &'static str), bool>,
}

impl Guard {
    /// For the node of this name; `client` is the node's own.
    pub fn new(node: &str, client: Client) -> Self {
        Self { node: node.to_owned(), client, tokens: Kept::default(), access: Kept::default() }
    }

    /// Lets a request in, or says with what answer not.
    pub(super) async fn admit<B>(&self, peer: &Peer, request: &Request<B>) -> Result<(), Response<Body>> {
        let unavailable = |e| {
            tracing::warn!("cannot ask the API who may use the node's port: {e}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error: the API cannot be asked\n")
        };
        let user = match self.user(peer, request).await.map_err(unavailable)? {
            Some(user) => user,
            None => return Err(text(StatusCode::UNAUTHORIZED, "Unauthorized")),
        };
        let (verb, subresources) = routes::attributes(request.method(), request.uri().path());
        for subresource in &subresources {
            if self.allowed(&user, verb, subresource).await.map_err(unavailable)? {
                return Ok(());
            }
        }
        let what =
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={subresources:?})\n", user.name);
        Err(text(StatusCode::FORBIDDEN, what))
    }

    async fn user<B>(&self, peer: &Peer, request: &Request<B>) -> Result<Option<User>, String> {
        if let Some((user, ends)) = &peer.0
            && *ends > jiff::Timestamp::now().as_second()
        {
            return Ok(Some(user.clone()));
        }
        let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let Some((scheme, token)) = given.trim().split_once(' ') else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let token = token.trim();
        let key: [u8; 32] =
            digest::digest(&digest::SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.ask(self.client.create(&res::TOKEN_REVIEWS, "", &review)).await?;
        let user = (answer.bool_at("/status/authenticated") == Some(true)).then(|| user_of(&answer["status"]["user"]));
        self.tokens.put(key, user.clone(), TOKEN_TTL);
        Ok(user)
    }

    async fn allowed(&self, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.access.get(&key) {
            return Ok(known);
        }
        let extra: Value = serde_json::from_str(&user.extra).unwrap_or_default();
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "extra": extra,
            "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "name": self.node,
                "subresource": subresource}}});
        let answer = self.ask(self.client.create(&res::SUBJECT_ACCESS_REVIEWS, "", &review)).await?;
        let allowed = answer.bool_at("/status/allowed") == Some(true);
        self.access.put(key, allowed, if allowed { ALLOW_TTL } else { DENY_TTL });
        Ok(allowed)
    }

    async fn ask(&self, review: impl Future<Output = ApiResult<Value>>) -> Result<Value, String> {
        match tokio::time::timeout(REVIEW_LIMIT, review).await {
            Ok(answer) => answer.map_err(|e| e.message.clone()),
            Err(_) => Err("it does not answer".into()),
        }
    }
}

fn user_of(value: &Value) -> User {
    let text = |path| value.str_at(path).unwrap_or_default().to_owned();
    User {
        name: text("/username"),
        uid: text("/uid"),
        groups: value.items_at("/groups").iter().filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        extra: value.get("extra").map(Value::to_string).unwrap_or_default(),
    }
}

/// Answers for a time.
struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, end)| *end > Instant::now()).map(|(v, _)| v.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let (mut all, now) = (self.0.lock(), Instant::now());
        if all.len() >= MAX_KEPT {
            all.retain(|_, (_, end)| *end > now);
        }
        // Better to ask again than to grow.
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(key, (value, now + ttl));
    }
}
