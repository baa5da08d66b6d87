//! Services that a server under test asks: real TLS servers that take JSON and answer with it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the code and the body of an answer out of a path and a body.
pub type Answer = Box<dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync>;

/// One service.
pub struct Service {
    /// `https://127.0.0.1:port`.
    pub url: String,
    /// PEM of its certificate.
    pub ca: String,
    seen: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
}

impl Service {
    /// Starts one; it ends with the test.
    pub async fn start(answer: Answer) -> Self {
        orch::pki::install_provider();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (seen, answer): (Arc<Mutex<Vec<Value>>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let (counter, count) = watch::channel(0);
        let (log, counter) = (seen.clone(), Arc::new(counter));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, log, counter) = (tls.clone(), answer.clone(), log.clone(), counter.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                    let one = service_fn(move |request| one(request, answer.clone(), log.clone(), counter.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), one).await;
                });
            }
        });
        Self { url, ca: made.cert.pem(), seen, count }
    }

    /// A kubeconfig that leads to a path of it.
    pub fn kubeconfig(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.kubeconfig"));
        let ca = STANDARD.encode(&self.ca);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "s", "cluster": {"server": format!("{}/{name}", self.url), "certificate-authority-data": ca}}],
            "contexts": [{"name": "c", "context": {"cluster": "s", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "orch"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The bodies that it got so far.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until what it got is enough.
    pub async fn until(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut count = self.count.clone();
        let waiting = count.wait_for(|_| enough(&self.seen.lock().unwrap()));
        tokio::time::timeout(PATIENCE, waiting).await.expect("it comes").unwrap();
        self.seen()
    }
}

async fn one(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Value>>>,
    counter: Arc<watch::Sender<usize>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let bytes = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let (code, made) = answer(&path, &body);
    log.lock().unwrap().push(body);
    counter.send_modify(|n| *n += 1);
    let mut response = Response::new(Full::from(made.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    Ok(response)
}
