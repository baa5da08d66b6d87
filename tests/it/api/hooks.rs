//! A server of webhooks over real TLS, for admission and for conversion.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// Makes a `response` out of a `request`.
pub type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// A webhook server: each path has its answer, what has none never answers.
pub struct Hooks {
    pub address: SocketAddr,
    pub ca: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hooks {
    /// `answers` make the `response` of a review out of its `request`.
    pub async fn start(answers: Vec<(&'static str, Answer)>) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let answers: Arc<BTreeMap<&str, Answer>> = Arc::new(answers.into_iter().collect());
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answers, log) = (tls.clone(), answers.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let one = service_fn(move |request| answer(request, answers.clone(), log.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), one).await;
                });
            }
        });
        Self { address, ca: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()), seen }
    }

    /// A webhook of a configuration, for ConfigMaps unless `more` says otherwise.
    pub fn hook(&self, path: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{path}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://{}/{path}", self.address), "caBundle": self.ca},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    }

    /// The requests that a path got since the last call.
    pub fn seen(&self, path: &str) -> Vec<Value> {
        let mut all = self.seen.lock().unwrap();
        let (found, rest) = all.drain(..).partition::<Vec<_>, _>(|(p, _)| p == path);
        *all = rest;
        found.into_iter().map(|(_, request)| request).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Arc<BTreeMap<&str, Answer>>,
    log: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let review: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    log.lock().unwrap().push((path.clone(), review["request"].clone()));
    let Some(make) = answers.get(path.as_str()) else { return std::future::pending().await };
    // Of admission the query says how long the answer may take.
    assert_eq!(query.starts_with("timeout="), review["kind"] == "AdmissionReview");
    let mut response = match review["kind"] == "AdmissionReview" {
        true => json!({"uid": review["request"]["uid"], "allowed": true}),
        false => json!({"uid": review["request"]["uid"], "result": {"status": "Success"}}),
    };
    response.as_object_mut().unwrap().extend(make(&review["request"]).as_object().unwrap().clone());
    let body = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
    Ok(http::Response::new(Full::from(body.to_string())))
}

/// An answer.
pub fn answers(make: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Answer {
    Arc::new(make)
}
