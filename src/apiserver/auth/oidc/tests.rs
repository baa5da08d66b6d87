//! Tokens against a real issuer: TLS, discovery and keys over the network.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::apiserver::auth::tokens;
use crate::util::clock::ManualClock;

const NOW: i64 = 1_800_000_000;

/// An issuer on the network, with keys that can be changed.
struct Provider {
    url: String,
    ca: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    /// What it tells at `/claims` to who shows the token `let-me`.
    claims: Arc<Mutex<String>>,
}

impl Provider {
    async fn start() -> Self {
        crate::pki::install_provider();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (keys, asked): (Arc<Mutex<Vec<Value>>>, Arc<AtomicUsize>) = Default::default();
        let claims: Arc<Mutex<String>> = Default::default();
        let (served, count, base, told) = (keys.clone(), asked.clone(), url.clone(), claims.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, served, count, base, told) =
                    (tls.clone(), served.clone(), count.clone(), base.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                    let one = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let let_in = request.headers().get("authorization").is_some_and(|a| a == "Bearer let-me");
                        let body = match request.uri().path() {
                            "/claims" if let_in => Value::from(told.lock().clone()),
                            "/claims" => json!({"error": "who are you?"}),
                            "/.well-known/openid-configuration" => {
                                json!({"issuer": base, "jwks_uri": format!("{base}/keys")})
                            }
                            "/elsewhere" => {
                                json!({"issuer": "https://other.example", "jwks_uri": format!("{base}/keys")})
                            }
                            _ => {
                                count.fetch_add(1, Ordering::SeqCst);
                                json!({"keys": *served.lock()})
                            }
                        };
                        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                        async move { Ok::<_, Infallible>(http::Response::new(Full::<bytes::Bytes>::from(text))) }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), one).await;
                });
            }
        });
        Self { url, ca: made.cert.pem(), keys, asked, claims }
    }

    fn issuers(&self, clock: SharedClock, change: impl FnOnce(&mut Value)) -> Issuers {
        let mut value = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": self.url, "certificateAuthority": self.ca, "audiences": ["orch", "other"], "audienceMatchPolicy": "MatchAny"},
                "claimMappings": {"username": {"claim": "sub", "prefix": "o:"}},
            }],
        });
        change(&mut value);
        let issuers = Issuers::new(clock);
        issuers.replace(Config::from_value(&value, "https://own").unwrap());
        issuers
    }
}

/// A key to sign with, and its public half.
struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new(kid: &str, kind: &'static rcgen::SignatureAlgorithm) -> Self {
        let made = rcgen::KeyPair::generate_for(kind).unwrap();
        let (algorithm, key, mut jwk) = tokens::signing(&crate::pki::keys::parse(&made.serialize_pem()).unwrap()[0]);
        jwk["kid"] = kid.into();
        Self { algorithm, key, jwk }
    }

    fn sign(&self, change: Value) -> String {
        let mut claims = json!({"iss": "", "sub": "jane", "aud": "orch", "exp": NOW + 60, "iat": NOW});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let kid = self.jwk["kid"].as_str().map(str::to_owned);
        jsonwebtoken::encode(&Header { kid, ..Header::new(self.algorithm) }, &claims, &self.key).unwrap()
    }
}

async fn ask(issuers: &Issuers, token: &str) -> Result<Option<String>, String> {
    let found = issuers.authenticate_token(token, &["api".to_owned()]).await;
    found.map(|u| u.map(|u| u.user.name)).map_err(|e| e.0)
}

#[tokio::test]
async fn signatures_audiences_and_times_are_checked() {
    let provider = Provider::start().await;
    let clock = Arc::new(ManualClock::at(NOW));
    let issuers = provider.issuers(clock.clone(), |_| {});
    let signer = Signer::new("one", &rcgen::PKCS_ECDSA_P256_SHA256);
    *provider.keys.lock() = vec![signer.jwk.clone(), json!({"kty": "what"})];
    let token = |change: Value| {
        let mut claims = json!({"iss": provider.url});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        signer.sign(claims)
    };
    assert_eq!(ask(&issuers, &token(json!({}))).await, Ok(Some("o:jane".into())));
    assert_eq!(ask(&issuers, &token(json!({"aud": ["x", "other"]}))).await, Ok(Some("o:jane".into())));
    for (change, why) in [
        (json!({"aud": "x"}), "expected audience in"),
        (json!({"exp": NOW}), "token is expired"),
        (json!({"exp": null}), "it has no end"),
        (json!({"nbf": NOW + 301}), "before its beginning"),
        (json!({"sub": null}), "it is no text"),
    ] {
        let told = ask(&issuers, &token(change)).await.unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    // Of somebody else, or no token at all: others are asked.
    assert_eq!(ask(&issuers, &token(json!({"iss": "https://other.example"}))).await, Ok(None));
    assert_eq!(ask(&issuers, "a.b").await, Ok(None));
    // Changed, signed by another key of the same name, with a shared secret, or with nothing.
    let whole = token(json!({}));
    let forged = Signer::new("one", &rcgen::PKCS_ECDSA_P256_SHA256).sign(json!({"iss": provider.url}));
    let secret = {
        let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(signer.jwk["x"].as_str().unwrap().as_bytes());
        jsonwebtoken::encode(&header, &json!({"iss": provider.url, "exp": NOW + 60, "aud": "orch", "sub": "x"}), &key)
            .unwrap()
    };
    let parts: Vec<&str> = whole.split('.').collect();
    let bare = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), parts[1]);
    for bad in [&whole[..whole.len() - 4], &forged, &secret, &bare] {
        assert!(ask(&issuers, bad).await.is_err(), "{bad}");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "known keys are not fetched again");
}

#[tokio::test]
async fn new_keys_are_fetched_once_in_a_while_and_old_ones_outlive_their_issuer() {
    let provider = Provider::start().await;
    let clock = Arc::new(ManualClock::at(NOW));
    let issuers = provider.issuers(clock.clone(), |_| {});
    let (one, two) = (Signer::new("one", &rcgen::PKCS_ECDSA_P256_SHA256), Signer::new("two", &rcgen::PKCS_RSA_SHA256));
    let claims = json!({"iss": provider.url, "exp": NOW + 3600});
    *provider.keys.lock() = vec![one.jwk.clone()];
    assert!(ask(&issuers, &one.sign(claims.clone())).await.is_ok());
    *provider.keys.lock() = vec![one.jwk.clone(), two.jwk.clone()];
    for _ in 0..3 {
        assert!(ask(&issuers, &two.sign(claims.clone())).await.is_err(), "it was asked a moment ago");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
    clock.advance(10);
    assert_eq!(ask(&issuers, &two.sign(claims.clone())).await, Ok(Some("o:jane".into())));
    assert_eq!(ask(&issuers, &one.sign(claims)).await, Ok(Some("o:jane".into())));
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_issuer_that_says_it_is_another_is_not_believed() {
    let provider = Provider::start().await;
    let clock = Arc::new(ManualClock::at(NOW));
    let signer = Signer::new("one", &rcgen::PKCS_ECDSA_P384_SHA384);
    *provider.keys.lock() = vec![signer.jwk.clone()];
    let elsewhere = format!("{}/elsewhere", provider.url);
    let issuers = provider.issuers(clock.clone(), |v| v["jwt"][0]["issuer"]["discoveryURL"] = elsewhere.into());
    let told = ask(&issuers, &signer.sign(json!({"iss": provider.url}))).await.unwrap_err();
    assert!(told.contains("issuer did not match"), "{told}");
    // One without the right CA is not reached.
    let issuers = provider.issuers(clock.clone(), |v| {
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
        v["jwt"][0]["issuer"]["certificateAuthority"] = other.into();
    });
    assert!(ask(&issuers, &signer.sign(json!({"iss": provider.url}))).await.is_err());
    let issuers = provider.issuers(clock, |v| v["jwt"][0]["issuer"]["signingAlgorithms"] = json!(["RS256"]));
    let told = ask(&issuers, &signer.sign(json!({"iss": provider.url}))).await.unwrap_err();
    assert!(told.contains("ES384, which is not taken"), "{told}");
}

#[tokio::test]
async fn groups_that_another_issuer_tells_are_taken_from_its_token() {
    let (provider, other) = (Provider::start().await, Provider::start().await);
    let issuers = provider.issuers(Arc::new(ManualClock::at(NOW)), |v| {
        v["jwt"][0]["claimMappings"]["groups"] = json!({"claim": "groups", "prefix": "o:"});
        v["jwt"][0]["issuer"]["certificateAuthority"] = format!("{}{}", provider.ca, other.ca).into();
    });
    let [one, two] = ["one", "two"].map(|kid| Signer::new(kid, &rcgen::PKCS_ECDSA_P256_SHA256));
    *provider.keys.lock() = vec![one.jwk.clone()];
    *other.keys.lock() = vec![two.jwk.clone()];
    let token = |access: &str, more: Value| {
        let source = json!({"endpoint": format!("{}/claims", other.url), "access_token": access});
        let mut claims =
            json!({"iss": provider.url, "_claim_names": {"groups": "far"}, "_claim_sources": {"far": source}});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one.sign(claims)
    };
    let groups = async |token: &str| {
        let found = issuers.authenticate_token(token, &["api".to_owned()]).await;
        found.map(|user| user.unwrap().user.groups).map_err(|why| why.0)
    };
    *other.claims.lock() = two.sign(json!({"iss": other.url, "groups": ["a", "b"], "sub": "x"}));
    assert_eq!(groups(&token("let-me", json!({}))).await, Ok(vec!["o:a".to_owned(), "o:b".to_owned()]));
    assert_eq!(groups(&token("", json!({"groups": "own"}))).await, Ok(vec!["o:own".to_owned()]), "nobody is asked");
    assert!(groups(&token("wrong", json!({}))).await.unwrap_err().contains("malformed jwt"));
    for (told, why) in [
        // By the key of the first, in the name of the second.
        (one.sign(json!({"iss": other.url, "groups": ["a"]})), "verify"),
        (two.sign(json!({"iss": provider.url, "groups": ["a"]})), "verify"),
        (two.sign(json!({"iss": other.url, "groups": ["a"], "aud": "x"})), "expected audience"),
        (two.sign(json!({"iss": other.url, "groups": ["a"], "exp": NOW})), "expired"),
        (two.sign(json!({"iss": other.url})), "did not contain claim: groups"),
        (two.sign(json!({"iss": "https://127.0.0.1:1", "groups": ["a"]})), "verify"),
        ("no token".to_owned(), "malformed jwt"),
    ] {
        *other.claims.lock() = told;
        let error = groups(&token("let-me", json!({}))).await.unwrap_err();
        assert!(error.starts_with("oidc: could not expand distributed claims: ") && error.contains(why), "{error}");
    }
}

/// What an issuer might say in a claim, and nobody expects.
fn odd_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e308),
        json!(0.5),
        json!(""),
        json!("\u{0}"),
        json!("system:masters"),
        json!("x".repeat(20_000)),
        json!([]),
        json!({}),
        json!([null, 1, "a", {"b": []}]),
        json!({"a": {"b": null}}),
        deep,
    ]
}

#[tokio::test]
async fn a_token_that_was_changed_anywhere_is_never_taken() {
    use rand::{Rng, SeedableRng};
    let provider = Provider::start().await;
    let issuers = provider.issuers(Arc::new(ManualClock::at(NOW)), |_| {});
    let signer = Signer::new("one", &rcgen::PKCS_ECDSA_P256_SHA256);
    *provider.keys.lock() = vec![signer.jwk.clone()];
    let whole = signer.sign(json!({"iss": provider.url}));
    assert_eq!(ask(&issuers, &whole).await, Ok(Some("o:jane".into())));
    let mut dice = rand::rngs::StdRng::seed_from_u64(7);
    for case in 0..3000 {
        let mut text = whole.clone().into_bytes();
        for _ in 0..dice.random_range(1..4) {
            let at = dice.random_range(0..text.len());
            let end = dice.random_range(at..text.len());
            match dice.random_range(0..5) {
                0 => text[at] ^= 1 << dice.random_range(0..7),
                1 => text[at] = b"AZaz09-_.={}\"\n\0"[dice.random_range(0..15)],
                2 => drop(text.drain(at..end)),
                3 => text.extend_from_within(at..end),
                _ => text[at..=end].reverse(),
            }
            if text.is_empty() {
                text.push(b'.');
            }
        }
        let text = String::from_utf8(text).unwrap();
        let found = ask(&issuers, &text).await;
        assert!(text == whole || !matches!(found, Ok(Some(_))), "case {case}: {text}");
    }
}

#[tokio::test]
async fn claims_of_any_shape_are_refused_or_used_as_texts() {
    let provider = Provider::start().await;
    let clock = Arc::new(ManualClock::at(NOW));
    let plain = provider
        .issuers(clock.clone(), |c| c["jwt"][0]["claimMappings"]["groups"] = json!({"claim": "groups", "prefix": ""}));
    let by_cel = provider.issuers(clock, |c| {
        c["jwt"][0]["claimMappings"] = json!({
            "username": {"expression": "'o:' + claims.sub"}, "groups": {"expression": "claims.groups"},
            "uid": {"expression": "claims.jti"}, "extra": [{"key": "example.com/x", "valueExpression": "claims.x"}],
        });
        c["jwt"][0]["claimValidationRules"] = json!([{"expression": "claims.x != 'no'", "message": "no"}]);
    });
    let signer = Signer::new("one", &rcgen::PKCS_ECDSA_P256_SHA256);
    *provider.keys.lock() = vec![signer.jwk.clone()];
    let usual = json!({"iss": provider.url, "groups": ["g"], "jti": "u", "x": "y"});
    for issuers in [&plain, &by_cel] {
        assert_eq!(ask(issuers, &signer.sign(usual.clone())).await, Ok(Some("o:jane".into())));
    }
    for claim in ["sub", "groups", "aud", "exp", "nbf", "iat", "jti", "x", "iss"] {
        for odd in odd_values() {
            let mut claims = usual.clone();
            claims[claim] = odd.clone();
            let token = signer.sign(claims);
            for issuers in [&plain, &by_cel] {
                let Ok(Some(name)) = ask(issuers, &token).await else { continue };
                let wanted = if claim == "sub" { odd.as_str().unwrap_or("what is no text is no name") } else { "jane" };
                assert_eq!(name, format!("o:{wanted}"), "{claim}");
            }
        }
    }
}
