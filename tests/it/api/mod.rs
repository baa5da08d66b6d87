//! The API over a store in memory: requests go through every layer below the sockets, answers are read as a client does.
//!
//! One test is one topic; a request and what its answer must hold stand on a line or two.

mod access;
mod aggregation;
mod audit;
mod collector;
mod conversion;
mod custom;
mod definitions;
mod deletes;
mod devices;
mod discovery;
mod events;
mod families;
mod fields;
mod garbage;
mod hooks;
mod kms;
mod machinery;
mod operations;
mod plugins;
mod policies;
mod published;
mod quota;
mod reads;
mod services;
mod sig_auth;
mod webhook_kinds;
mod webhooks;
mod writes;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use orch::api::user::UserInfo;
use orch::apiserver::access::Settings;
use orch::apiserver::audit::Audit;
use orch::apiserver::health::Health;
use orch::apiserver::respond::Answer;
use orch::apiserver::serve::InProcess;
use orch::apiserver::{Access, Api, Roads};
use orch::cmd::CacheListers;
use orch::controllers::{self, ClientFor};
use orch::pki::{Pki, PkiConfig};
use orch::registry::allocators::Allocators;
use orch::registry::outward::Calls;
use orch::registry::{CacheView, Registry, Resources};
use orch::runtime::Listers;
use orch::store::Store;
use orch::store::cache::Cache;
use orch::store::memory::Memory;
use orch::store::sealed::Encryption;
use orch::util::clock::{Clock, SystemClock};
use orch::util::tasks::{Shutdown, Tasks};
use serde_json::{Value, json};
use tower::Service;

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

/// A server without sockets, and its administrator.
struct Server {
    api: Arc<Api>,
    service: InProcess,
    listers: Arc<dyn Listers>,
    shutdown: Shutdown,
    /// Who vouches for the front proxy.
    request_header_ca: String,
    _dir: tempfile::TempDir,
}

/// What came back.
struct Got {
    code: u16,
    content_type: String,
    etag: String,
    warnings: usize,
    text: String,
}

/// What a server is to have that is not usual.
#[derive(Default)]
struct Setup {
    /// Issuers, webhooks, modes.
    access: Settings,
    /// What is kept of requests.
    audit: Option<Arc<Audit>>,
    /// Which plugins run.
    admission: orch::admission::Choice,
    /// Encryption at rest, with its store.
    encryption: Option<Arc<Encryption>>,
    /// What Services get addresses and ports of.
    allocators: Allocators,
}

impl Server {
    /// With the namespace `n`.
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    /// The same with what is not usual.
    async fn with(setup: Setup) -> Self {
        orch::pki::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let config = PkiConfig {
            node_name: "node".into(),
            node_ips: vec![],
            service_ips: vec![],
            cluster_domain: "cluster.local".into(),
            tls_sans: vec![],
            life_seconds: None,
        };
        let pki = Pki::open(dir.path(), &config, clock.now()).unwrap();
        let store: Arc<dyn Store> = match &setup.encryption {
            Some(encryption) => encryption.store(),
            None => Arc::new(Memory::new()),
        };
        let resources = Resources::with(&setup.allocators);
        let cache = Cache::open(store, resources.clone()).await.unwrap();
        let listers = Arc::new(CacheListers(cache.clone()));
        let access = Access::open(&pki, listers.clone(), clock.clone(), "cluster.local", setup.access).await.unwrap();
        let access = Arc::new(access);
        let plugins = orch::apiserver::auth::admission::plugins(access.clone(), resources.clone(), listers.clone());
        let questions = orch::apiserver::auth::admission::questions(access.clone());
        let view = Arc::new(CacheView(cache.clone()));
        let identity = orch::client::Credentials::Certificate {
            cert_pem: pki.auth_proxy.cert_pem.clone().into(),
            key_pem: pki.auth_proxy.key_pem.clone().into(),
        };
        let roads = Roads::new(view.clone(), identity);
        let calls = Arc::new(Calls::new(Arc::new(roads.clone())));
        let admission = orch::admission::chain(setup.admission, view, plugins, questions, calls.clone());
        let registry = Arc::new(Registry::new(resources, cache.clone(), admission.clone(), calls));
        admission.charge_through(&registry);
        let shutdown = Shutdown::new();
        let running = (cache, shutdown.clone());
        tokio::spawn(async move { running.0.run(running.1).await });
        let (loaded, roles) = tokio::sync::oneshot::channel::<()>();
        let (following, stop, roles_of) = (access.clone(), shutdown.clone(), listers.clone());
        tokio::spawn(async move { stop.or(following.follow(&*roles_of, move || drop(loaded))).await });
        let (following, stop) = (access.clone(), shutdown.clone());
        tokio::spawn(async move { following.follow_files(stop).await.unwrap() });
        let api = Api::new(registry, access, clock, shutdown.clone(), Health::new(|| Ok(()), || false), &roads);
        setup.audit.into_iter().for_each(|audit| api.attach_audit(audit));
        setup.encryption.into_iter().for_each(|encryption| api.attach_encryption(encryption));
        let _ = roles.await;
        let definitions = api.definitions().follow(shutdown.clone());
        tokio::spawn(async move { definitions.await.unwrap() });
        let aggregator = api.aggregator().follow(shutdown.clone());
        tokio::spawn(async move { aggregator.await.unwrap() });
        let policies = api.policies().follow(shutdown.clone());
        tokio::spawn(async move { policies.await.unwrap() });
        let service = InProcess::new(api.clone(), UserInfo::authenticated("admin", &[UserInfo::MASTERS]));
        let request_header_ca = pki.request_header_ca.cert_pem.clone();
        let server = Self { api, service, listers, shutdown, request_header_ca, _dir: dir };
        server.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.is(201);
        server.post("/api/v1/namespaces/n/serviceaccounts", json!({"metadata": {"name": "default"}})).await.is(201);
        server
    }

    /// The same with all controllers, which may do everything.
    async fn controlled() -> Self {
        let server = Self::new().await;
        server.control(controllers::Config::default());
        server
    }

    /// Starts all controllers.
    fn control(&self, config: controllers::Config) {
        let mut tasks = Tasks::new(self.shutdown.clone());
        let api = self.api.clone();
        let client_for: ClientFor = Arc::new(move |name| {
            let user =
                UserInfo::authenticated(format!("system:serviceaccount:kube-system:{name}"), &[UserInfo::MASTERS]);
            orch::client::Client::in_process(InProcess::new(api.clone(), user))
        });
        let config = controllers::Config { root_ca_pem: "ca".into(), ..config };
        let clock: orch::util::clock::SharedClock = Arc::new(SystemClock);
        controllers::start(&mut tasks, &config, &client_for, &self.listers, &clock, &Default::default());
        tokio::spawn(tasks.join_in_reverse(custom::LONG));
    }

    /// Code and bytes of an answer that may be no text.
    async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Bytes,
    ) -> (u16, Bytes) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let answer = self.service.clone().call(request.body(Full::new(body)).unwrap()).await.unwrap();
        let code = answer.status().as_u16();
        (code, answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn send(&self, method: &str, path: &str, headers: &[(header::HeaderName, &str)], body: Bytes) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let answer = self.service.clone().call(request.body(Full::new(body)).unwrap()).await.unwrap();
        Got::read(answer).await
    }

    /// A request from outside, with a bearer token or nothing.
    async fn outside(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> Got {
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, JSON);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Got::read(self.api.handle(request.body(Full::new(Bytes::from(body))).unwrap()).await).await
    }

    /// A request of the administrator's as somebody else.
    async fn as_user(&self, user: &str, method: &str, path: &str, body: Value) -> Got {
        let headers = [(header::HeaderName::from_static("impersonate-user"), user), (header::CONTENT_TYPE, JSON)];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &headers, body.into()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.send("GET", path, &[], Bytes::new()).await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Got {
        self.send("GET", path, &[(header::ACCEPT, accept)], Bytes::new()).await
    }

    async fn with_body(&self, method: &str, path: &str, content_type: &str, body: Value) -> Got {
        self.send(method, path, &[(header::CONTENT_TYPE, content_type)], body.to_string().into()).await
    }

    async fn post(&self, path: &str, body: Value) -> Got {
        self.with_body("POST", path, JSON, body).await
    }

    async fn put(&self, path: &str, body: Value) -> Got {
        self.with_body("PUT", path, JSON, body).await
    }

    async fn patch(&self, path: &str, content_type: &str, body: Value) -> Got {
        self.with_body("PATCH", path, content_type, body).await
    }

    async fn delete(&self, path: &str, options: Value) -> Got {
        self.with_body("DELETE", path, JSON, options).await
    }

    /// Waits until somebody may do something, as a SubjectAccessReview asks it: roles are followed, which takes a moment.
    async fn until_allowed(&self, spec: Value) {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let review = json!({"spec": spec});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        while self.post(path, review.clone()).await.is(201)["status"]["allowed"] != true {
            assert!(tokio::time::Instant::now() < end, "never allowed: {review}");
            tokio::task::yield_now().await;
        }
    }

    /// A ConfigMap `name` in `n`.
    async fn config_map(&self, name: &str, metadata: Value) -> Got {
        let mut body = json!({"metadata": {"name": name}});
        body["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        self.post(MAPS, body).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Got {
    async fn read(answer: Answer) -> Self {
        let (parts, body) = answer.into_parts();
        let told = |name| parts.headers.get(name).map_or("", |v: &http::HeaderValue| v.to_str().unwrap()).to_owned();
        let (content_type, etag) = (told(header::CONTENT_TYPE), told(header::ETAG));
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let warnings = parts.headers.get_all(header::WARNING).iter().count();
        Self { code: parts.status.as_u16(), content_type, etag, warnings, text }
    }

    /// The body, when the code is this one.
    #[track_caller]
    fn is(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Names of a list's items.
    #[track_caller]
    fn names(&self) -> Vec<String> {
        let list = self.is(200);
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Events of a watch: type and name, or type and annotations for bookmarks.
    #[track_caller]
    fn events(&self) -> Vec<String> {
        self.is(200);
        let one = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let metadata = &event["object"]["metadata"];
            let what = metadata["name"].as_str().unwrap_or(match metadata.get("annotations") {
                Some(_) => "initial",
                None => "",
            });
            format!("{} {what}", event["type"].as_str().unwrap())
        };
        self.text.lines().map(one).collect()
    }
}

const MAPS: &str = "/api/v1/namespaces/n/configmaps";
