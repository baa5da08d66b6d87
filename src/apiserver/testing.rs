//! A whole API over a store in memory, for tests of what only shows when its parts work together.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::health::Health;
use super::{Access, Api, Identity};
use crate::api::object::Object;
use crate::api::user::UserInfo;
use crate::pki::{Pki, PkiConfig};
use crate::registry::allocators::Allocators;
use crate::registry::outward::Calls;
use crate::registry::{CacheView, Registry, Resources};
use crate::runtime::{Delta, Lister, Listers};
use crate::store::cache::{Cache, ResourceCache};
use crate::store::memory::Memory;
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::tasks::Shutdown;

/// The API and what keeps it going; all of it ends with the test.
pub(crate) struct Bed {
    pub(crate) api: Arc<Api>,
    _files: tempfile::TempDir,
}

impl Bed {
    /// With the namespaces `default` and `kube-node-lease`.
    pub(crate) async fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = PkiConfig {
            node_name: "n1".into(),
            node_ips: vec![],
            service_ips: vec![],
            cluster_domain: "cluster.local".into(),
            tls_sans: vec![],
            life_seconds: None,
        };
        let clock: SharedClock = Arc::new(SystemClock);
        let pki = Pki::open(files.path(), &config, clock.now()).unwrap();
        let resources = Resources::and(&Allocators::default(), crate::registry::metrics::kinds());
        let cache = Cache::open(Arc::new(Memory::new()), resources.clone()).await.unwrap();
        let following = cache.clone();
        tokio::spawn(async move { following.run(Shutdown::new()).await });
        let listers: Arc<dyn Listers> = Arc::new(Objects(cache.clone()));
        let access = Arc::new(Access::new(&pki, listers.clone(), clock.clone(), "cluster.local").unwrap());
        let plugins = super::auth::admission::plugins(access.clone(), resources.clone(), listers);
        let view = Arc::new(CacheView(cache.clone()));
        let roads = super::Roads::new(view.clone(), crate::client::Credentials::None);
        let calls = Arc::new(Calls::new(Arc::new(roads.clone())));
        let questions = super::auth::admission::questions(access.clone());
        let admission = crate::admission::chain(Default::default(), view, plugins, questions, calls.clone());
        let registry = Arc::new(Registry::new(resources, cache, admission.clone(), calls));
        admission.charge_through(&registry);
        let api = Api::new(registry, access, clock, Shutdown::new(), Health::new(|| Ok(()), || false), &roads);
        let bed = Self { api, _files: files };
        for name in ["default", "kube-node-lease"] {
            let body = serde_json::json!({"metadata": {"name": name}});
            assert_eq!(bed.admin("POST", "/api/v1/namespaces", &body).await.0, 201);
        }
        bed
    }

    /// What somebody's request is answered with: code and body; text that is no JSON comes as a string.
    pub(crate) async fn ask(&self, user: &UserInfo, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.send(user, method, path, content_type, body).await
    }

    /// The same with any bytes of any type.
    pub(crate) async fn send(
        &self,
        user: &UserInfo,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> (u16, Value) {
        let request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(path)
            .header("content-type", content_type)
            .extension(Identity(user.clone()))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        // On the heap: a test that asks often would have a copy of its state for each time on its stack.
        let answer = Box::pin(self.api.handle(request)).await;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    /// A request of the administrator's.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.ask(&UserInfo::authenticated("admin", &[UserInfo::MASTERS]), method, path, body).await
    }
}

/// Listers over the watch cache that are read and never followed.
struct Objects(Arc<Cache>);

impl Listers for Objects {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        Arc::new(One(self.0.resource_of(group, resource)))
    }
}

struct One(Arc<ResourceCache>);

impl Lister for One {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(namespace, name)
    }

    fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.0.list(namespace).0
    }

    fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>> {
        self.0.by_index(index, value)
    }

    fn field<'o>(&self, object: &'o Object, index: &str) -> &'o str {
        self.0.field(object, index)
    }

    fn deltas(&self) -> BoxStream<'static, Delta> {
        stream::pending().boxed()
    }

    fn synced(&self) -> bool {
        true
    }
}
