//! Service-account tokens: issued for TokenRequests, verified on requests, published as OpenID configuration.
//!
//! **Invariant:** only the algorithm of the key is accepted, never the one a token asks for.
//! **Invariant:** a token dies with the account, pod, secret or node it is bound to.
//!
//! Rules: upstream `pkg/serviceaccount` and the TokenRequest API.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::authn::{AuthError, CREDENTIAL_ID, TokenAuthenticator, TokenUser};
use super::impersonate::service_account_groups;
use super::lookup::ObjectLookup;
use super::rbac::service_account_name;
use crate::api::legacy_token;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::{ApiResult, Cause, Status};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::pki::keys::{TokenAlgorithm, TokenKey};
use crate::util::clock::{SharedClock, rfc3339};

/// Seconds a token lives when nothing is asked for.
pub const DEFAULT_SECONDS: i64 = 3_600;
/// Seconds a token lives at least.
pub const MIN_SECONDS: i64 = 600;
/// Seconds a token may be asked for at most.
pub const MAX_SECONDS: i64 = 1 << 32;
/// What kubelets ask for when a pod does not say; such tokens for the API server live a year and warn after this.
const WARN_SECONDS: i64 = 3_607;
const EXTENDED_SECONDS: i64 = 365 * 86_400;
/// Seconds by which clocks may differ, and by which a bound object's token outlives its deletion.
const LEEWAY_SECONDS: i64 = 60;
/// Uses of tokens in Secrets that wait to be written down; more are forgotten.
const USES_MAX: usize = 64;
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const CLAIMS: &str = "kubernetes.io";
/// Bytes of a token at most.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Issues and verifies tokens.
pub struct ServiceAccountTokens {
    /// `iss` of every token.
    issuer: String,
    /// Audiences of tokens that name none: the API's own.
    api_audiences: Vec<String>,
    /// The first one signs, all verify.
    keys: Vec<Key>,
    lookup: Arc<dyn ObjectLookup>,
    clock: SharedClock,
    /// Secrets whose tokens are used and do not say so yet for today.
    uses: broadcast::Sender<ObjectKey>,
}

/// A key as JOSE wants it.
struct Key {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// Its public part.
    jwk: Value,
}

impl Key {
    fn new(key: &TokenKey) -> Self {
        let id = URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.spki));
        let (algorithm, name, curve) = match key.algorithm {
            TokenAlgorithm::Es256 => (Algorithm::ES256, "ES256", "P-256"),
            TokenAlgorithm::Es384 => (Algorithm::ES384, "ES384", "P-384"),
            TokenAlgorithm::Rs256 => (Algorithm::RS256, "RS256", ""),
        };
        let mut jwk = json!({"use": "sig", "kid": id, "alg": name});
        let mut put = |name: &str, bytes: &[u8]| jwk[name] = URL_SAFE_NO_PAD.encode(bytes).into();
        let (encoding, decoding) = if key.algorithm == TokenAlgorithm::Rs256 {
            let (modulus, exponent) = numbers(&key.public);
            put("n", &modulus);
            put("e", &exponent);
            jwk["kty"] = "RSA".into();
            (EncodingKey::from_rsa_der(&key.private), DecodingKey::from_rsa_der(&key.public))
        } else {
            // An uncompressed point: 0x04, then x and y of the same length.
            let (x, y) = key.public[1..].split_at(key.public.len() / 2);
            put("x", x);
            put("y", y);
            (jwk["kty"], jwk["crv"]) = ("EC".into(), curve.into());
            (EncodingKey::from_ec_der(&key.private), DecodingKey::from_ec_der(&key.public))
        };
        Self { id, algorithm, encoding, decoding, jwk }
    }
}

/// A key for tests of other tokens: how it signs, with what, and its public part.
#[cfg(test)]
pub(super) fn signing(key: &TokenKey) -> (Algorithm, EncodingKey, Value) {
    let Key { algorithm, encoding, jwk, .. } = Key::new(key);
    (algorithm, encoding, jwk)
}

/// Modulus and exponent of an RSA public key (PKCS #1), without leading zeros.
fn numbers(public: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let Ok((_, key)) = RSAPublicKey::from_der(public) else { return Default::default() };
    let short = |n: &[u8]| n.iter().copied().skip_while(|b| *b == 0).collect();
    (short(key.modulus), short(key.exponent))
}

/// The issuer of a cluster domain's tokens.
pub fn issuer(cluster_domain: &str) -> String {
    format!("https://kubernetes.default.svc.{cluster_domain}")
}

impl ServiceAccountTokens {
    /// With these keys, of which there is at least one. The API's audience is the issuer.
    pub fn new(keys: &[TokenKey], issuer: String, lookup: Arc<dyn ObjectLookup>, clock: SharedClock) -> Self {
        let keys = keys.iter().map(Key::new).collect();
        let (uses, _) = broadcast::channel(USES_MAX);
        Self { api_audiences: vec![issuer.clone()], issuer, keys, lookup, clock, uses }
    }

    /// The Secrets whose tokens are used, from now on: those that do not say so yet for today. Who is slow misses some.
    pub fn uses(&self) -> broadcast::Receiver<ObjectKey> {
        self.uses.subscribe()
    }

    /// The API's own audiences.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// Answers a TokenRequest for an account: the request with its spec completed and its status set.
    pub fn request(&self, account: &Object, body: &Value) -> ApiResult<Value> {
        let now = self.clock.now().as_second();
        let (namespace, name) = (&*account.meta.namespace, &*account.meta.name);
        let seconds = body.int_at("/spec/expirationSeconds").unwrap_or(DEFAULT_SECONDS);
        check_seconds(seconds)?;
        let mut audiences: Vec<String> =
            body.items_at("/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences = self.api_audiences.clone();
        }
        let mut bound = Map::new();
        bound.insert("namespace".into(), namespace.into());
        bound.insert("serviceaccount".into(), json!({"name": name, "uid": account.meta.uid}));
        let reference = &body["spec"]["boundObjectRef"];
        if !reference.is_null() {
            self.bind(&mut bound, account, reference)?;
        }
        let mut lifetime = seconds;
        if seconds == WARN_SECONDS && bound.contains_key("pod") && audiences == self.api_audiences {
            lifetime = EXTENDED_SECONDS;
            bound.insert("warnafter".into(), (now + WARN_SECONDS).into());
        }
        let claims = json!({
            "aud": audiences, "exp": now + lifetime, "iat": now, "nbf": now, "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(), CLAIMS: bound, "sub": service_account_name(namespace, name),
        });
        let token = self.sign(&claims)?;
        let mut out = body.clone();
        out.set_at("/apiVersion", "authentication.k8s.io/v1");
        out.set_at("/kind", "TokenRequest");
        for (path, value) in [("/metadata/name", name), ("/metadata/namespace", namespace)] {
            out.set_at(path, value);
        }
        out.set_at("/metadata/uid", uuid::Uuid::new_v4().to_string());
        out.set_at("/metadata/creationTimestamp", time(now));
        out.set_at("/spec/audiences", audiences);
        out.set_at("/spec/expirationSeconds", seconds);
        out.set_at("/spec/boundObjectRef", reference.clone());
        out.set_at("/status", json!({"token": token, "expirationTimestamp": time(now + seconds)}));
        Ok(out)
    }

    fn bind(&self, bound: &mut Map<String, Value>, account: &Object, reference: &Value) -> ApiResult<()> {
        let text = |path| reference.str_at(path).unwrap_or_default();
        let (kind, name, uid) = (text("/kind"), text("/name"), text("/uid"));
        let (claim, resource, namespace) = match (text("/apiVersion"), kind) {
            ("v1", "Pod") => ("pod", "pods", &*account.meta.namespace),
            ("v1", "Secret") => ("secret", "secrets", &*account.meta.namespace),
            ("v1", "Node") => ("node", "nodes", ""),
            (version, _) => {
                let what = format!("cannot bind token to object of type {version}, Kind={kind}");
                return Err(Status::bad_request(what));
            }
        };
        let object =
            self.lookup.get("", resource, namespace, name).ok_or_else(|| Status::not_found("", resource, name))?;
        if !uid.is_empty() && uid != object.meta.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", kind, name, &why));
        }
        bound.insert(claim.into(), json!({"name": name, "uid": object.meta.uid}));
        if claim != "pod" {
            return Ok(());
        }
        let pod = object.value();
        if pod.str_at("/spec/serviceAccountName") != Some(&account.meta.name) {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.meta.name
            )));
        }
        // The pod's node comes along; a node that is gone leaves only its name.
        if let Some(node) = pod.str_at("/spec/nodeName").filter(|n| !n.is_empty()) {
            let mut claim = json!({"name": node});
            if let Some(found) = self.lookup.get("", "nodes", "", node) {
                claim["uid"] = found.meta.uid.as_str().into();
            }
            bound.insert("node".into(), claim);
        }
        Ok(())
    }

    /// A token without an end for a Secret of type `kubernetes.io/service-account-token`.
    pub fn legacy(&self, account: &Object, secret: &str) -> ApiResult<String> {
        let (namespace, name) = (&account.meta.namespace, &account.meta.name);
        self.sign(&json!({
            "iss": LEGACY_ISSUER, "sub": service_account_name(namespace, name),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": account.meta.uid,
        }))
    }

    fn sign(&self, claims: &Value) -> ApiResult<String> {
        let key = self.keys.first().ok_or_else(|| Status::internal("no key to sign service account tokens with"))?;
        let header = Header { kid: Some(key.id.clone()), typ: None, ..Header::new(key.algorithm) };
        jsonwebtoken::encode(&header, claims, &key.encoding)
            .map_err(|e| Status::internal(format!("signing a service account token: {e}")))
    }

    /// The claims of a token that one of the keys signed.
    fn signed_claims(&self, token: &str) -> Option<Value> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid;
        self.keys.iter().filter(|k| kid.as_ref().is_none_or(|id| *id == k.id)).find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            validation.required_spec_claims.clear();
            // Times and audiences are checked by the caller, against the injected clock and with upstream's words.
            (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
            Some(jsonwebtoken::decode::<Value>(token, &key.decoding, &validation).ok()?.claims)
        })
    }

    /// The user behind a token; `None` when it is not one of ours.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, AuthError> {
        let issuer = claimed_issuer(token);
        let legacy = match issuer.as_deref() {
            Some(i) if i == self.issuer => false,
            Some(LEGACY_ISSUER) => true,
            _ => return Ok(None),
        };
        let claims = self
            .signed_claims(token)
            .ok_or_else(|| AuthError::new("service account token is not signed by this cluster"))?;
        if legacy {
            return self.verify_legacy(token, &claims, audiences).map(Some);
        }
        let now = self.clock.now();
        check_times(&claims, now.as_second())?;
        let audiences = matching_audiences(&claims["aud"], audiences)?;
        let bound = &claims[CLAIMS];
        let text = |path| bound.str_at(path).unwrap_or_default();
        let namespace = text("/namespace");
        let account = text("/serviceaccount/name");
        if claims.str_at("/sub") != Some(&service_account_name(namespace, account)) {
            return Err(AuthError::new("the token's subject is not its service account"));
        }
        self.check_live("serviceaccounts", namespace, &bound["serviceaccount"], now)?;
        let mut extra = vec![("credential-id", format!("JTI={}", claims.str_at("/jti").unwrap_or_default()))];
        for (claim, resource, scope) in [("pod", "pods", namespace), ("secret", "secrets", namespace)] {
            if bound.get(claim).is_some() {
                self.check_live(resource, scope, &bound[claim], now)?;
            }
        }
        // A node that a pod's token only tells of may be gone; one that the token is bound to may not.
        if bound.get("node").is_some() && bound.get("pod").is_none() {
            self.check_live("nodes", "", &bound["node"], now)?;
        }
        for (name, path) in
            [("pod-name", "/pod/name"), ("pod-uid", "/pod/uid"), ("node-name", "/node/name"), ("node-uid", "/node/uid")]
        {
            extra.extend(bound.str_at(path).map(|v| (name, v.to_owned())));
        }
        debug_assert!(CREDENTIAL_ID.ends_with(extra[0].0));
        let extra = extra.into_iter().map(|(k, v)| (format!("authentication.kubernetes.io/{k}"), vec![v])).collect();
        let uid = text("/serviceaccount/uid").to_owned();
        let user = UserInfo { uid, extra, ..account_user(namespace, account) };
        Ok(Some(TokenUser { user, audiences }))
    }

    fn verify_legacy(&self, token: &str, claims: &Value, wanted: &[String]) -> Result<TokenUser, AuthError> {
        let text = |name: &str| {
            claims.get(format!("kubernetes.io/serviceaccount/{name}")).and_then(Value::as_str).unwrap_or_default()
        };
        let (namespace, account, uid) = (text("namespace"), text("service-account.name"), text("service-account.uid"));
        if claims.str_at("/sub") != Some(&service_account_name(namespace, account)) {
            return Err(AuthError::new("the token's subject is not its service account"));
        }
        let secret = self.lookup.get("", "secrets", namespace, text("secret.name"));
        let holds = |secret: &Arc<Object>| {
            let stored = secret.value();
            let stored = stored.str_at("/data/token");
            stored
                .and_then(|t| base64::engine::general_purpose::STANDARD.decode(t).ok())
                .is_some_and(|t| aws_lc_rs::constant_time::verify_slices_are_equal(&t, token.as_bytes()).is_ok())
        };
        let Some(secret) = secret.filter(|s| !s.is_deleting() && holds(s)) else {
            return Err(AuthError::new("service account token has been invalidated"));
        };
        let now = self.clock.now();
        self.check_live("serviceaccounts", namespace, &json!({"name": account, "uid": uid}), now)?;
        if !legacy_token::is_noted(secret.meta.label(legacy_token::LAST_USED), legacy_token::day(now)) {
            // Nobody listens where nobody writes.
            let _ = self.uses.send(ObjectKey::from(&secret.meta));
        }
        if secret.meta.label(legacy_token::INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
            return Err(AuthError(format!(
                "the token in secret {namespace}/{} for service account {namespace}/{account} has been marked invalid. Use \
                 tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{}' label from \
                 the secret to temporarily allow use of this token",
                secret.meta.name,
                legacy_token::INVALID_SINCE
            )));
        }
        // Legacy tokens name no audience: they are for the API.
        let audiences = matching_audiences(&json!(self.api_audiences), wanted)?;
        Ok(TokenUser { user: UserInfo { uid: uid.into(), ..account_user(namespace, account) }, audiences })
    }

    fn check_live(&self, resource: &str, namespace: &str, claim: &Value, now: Timestamp) -> Result<(), AuthError> {
        let (name, uid) = (claim.str_at("/name").unwrap_or_default(), claim.str_at("/uid").unwrap_or_default());
        let Some(object) = self.lookup.get("", resource, namespace, name) else {
            return Err(AuthError(format!("{resource} {name:?} not found")));
        };
        if object.meta.uid != uid {
            let kind = resource.trim_end_matches('s');
            return Err(AuthError(format!("{kind} UID ({}) does not match claim ({uid})", object.meta.uid)));
        }
        let deleted = object.meta.deleted.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        if deleted.is_some_and(|at| at.as_second() + LEEWAY_SECONDS < now.as_second()) {
            return Err(AuthError(format!("{resource} {name:?} has been deleted")));
        }
        Ok(())
    }

    /// `/.well-known/openid-configuration`; `base` is the API's external URL.
    pub fn openid_configuration(&self, base: &str) -> Value {
        let mut algorithms: Vec<&Value> = self.keys.iter().map(|k| &k.jwk["alg"]).collect();
        algorithms.dedup();
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{base}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(|k| &k.jwk).collect::<Vec<_>>()})
    }
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, AuthError> {
        self.verify(token, audiences)
    }
}

fn account_user(namespace: &str, account: &str) -> UserInfo {
    UserInfo {
        name: service_account_name(namespace, account),
        groups: service_account_groups(namespace),
        ..UserInfo::default()
    }
}

/// The issuer a token claims, unverified: only to see whose it is.
fn claimed_issuer(token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let payload = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.str_at("/iss").map(str::to_owned)
}

fn check_times(claims: &Value, now: i64) -> Result<(), AuthError> {
    let at = |name: &str| claims.get(name).and_then(Value::as_i64);
    match (at("exp"), at("nbf"), at("iat")) {
        (None, ..) => Err(AuthError::new("service account token has no expiry")),
        (Some(exp), ..) if exp + LEEWAY_SECONDS < now => Err(AuthError::new("service account token has expired")),
        (_, Some(nbf), _) if now + LEEWAY_SECONDS < nbf => {
            Err(AuthError::new("service account token is not valid yet"))
        }
        (.., Some(iat)) if now + LEEWAY_SECONDS < iat => {
            Err(AuthError::new("service account token is issued in the future"))
        }
        _ => Ok(()),
    }
}

fn matching_audiences(claimed: &Value, wanted: &[String]) -> Result<Vec<String>, AuthError> {
    let claimed: Vec<String> = match claimed {
        Value::String(one) => vec![one.clone()],
        many => many.items_at("").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
    };
    let both: Vec<String> = wanted.iter().filter(|w| claimed.contains(w)).cloned().collect();
    match both.is_empty() {
        false => Ok(both),
        true => Err(AuthError(format!("token audiences {claimed:?} is invalid for the target audiences {wanted:?}"))),
    }
}

fn check_seconds(seconds: i64) -> ApiResult<()> {
    let why = match seconds {
        s if s < MIN_SECONDS => "may not specify a duration less than 10 minutes",
        s if s > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let message = format!("Invalid value: {seconds}: {why}");
    let cause = Cause { reason: "FieldValueInvalid", message, field: "spec.expirationSeconds".into() };
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause]))
}

fn time(seconds: i64) -> String {
    rfc3339(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
