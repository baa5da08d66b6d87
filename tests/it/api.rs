//! The API over a store in memory: requests go through every layer below the sockets, answers are read as a client does.
//!
//! One test is one topic; a request and what its answer must hold stand on a line or two.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use orch::api::user::UserInfo;
use orch::apiserver::health::Health;
use orch::apiserver::serve::InProcess;
use orch::apiserver::{Access, Api};
use orch::cmd::CacheListers;
use orch::pki::{Pki, PkiConfig};
use orch::registry::{CacheView, Registry, Resources};
use orch::store::Store;
use orch::store::cache::Cache;
use orch::store::memory::Memory;
use orch::util::clock::{Clock, SystemClock};
use orch::util::tasks::Shutdown;
use serde_json::{Value, json};
use tower::Service;

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

/// A server without sockets, and its administrator.
struct Server {
    service: InProcess,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

/// What came back.
struct Got {
    code: u16,
    content_type: String,
    text: String,
}

impl Server {
    /// With the namespace `n`.
    async fn new() -> Self {
        orch::pki::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let config = PkiConfig {
            node_name: "node".into(),
            node_ips: vec![],
            service_ips: vec![],
            cluster_domain: "cluster.local".into(),
            tls_sans: vec![],
        };
        let pki = Pki::open(dir.path(), &config, clock.now()).unwrap();
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let resources = Resources::builtin();
        let cache = Cache::open(store, resources.clone()).await.unwrap();
        let listers = Arc::new(CacheListers(cache.clone()));
        let access = Arc::new(Access::new(&pki, listers.clone(), clock.clone(), "cluster.local").unwrap());
        let plugins = orch::apiserver::auth::admission::plugins(access.clone(), listers);
        let admission = orch::admission::chain(Arc::new(CacheView(cache.clone())), plugins);
        let registry = Arc::new(Registry::new(resources, cache.clone(), admission.clone()));
        admission.charge_through(&registry);
        let shutdown = Shutdown::new();
        let running = (cache, shutdown.clone());
        tokio::spawn(async move { running.0.run(running.1).await });
        let api = Api::new(registry, access, clock, shutdown.clone(), Health::new(|| Ok(()), || false));
        let service = InProcess::new(api, UserInfo::authenticated("admin", &[UserInfo::MASTERS]));
        let server = Self { service, shutdown, _dir: dir };
        server.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.is(201);
        server.post("/api/v1/namespaces/n/serviceaccounts", json!({"metadata": {"name": "default"}})).await.is(201);
        server
    }

    async fn send(&self, method: &str, path: &str, headers: &[(header::HeaderName, &str)], body: Bytes) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let answer = self.service.clone().call(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let content_type = parts.headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap().to_owned());
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Got { code: parts.status.as_u16(), content_type: content_type.unwrap_or_default(), text }
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

#[tokio::test]
async fn a_collection_is_deleted_as_it_is_listed() {
    let s = Server::new().await;
    for name in ["a", "b", "c"] {
        s.config_map(name, json!({"labels": {"t": "x"}})).await.is(201);
    }
    s.config_map("held", json!({"labels": {"t": "x"}, "finalizers": ["example.com/hold"]})).await.is(201);
    let page = s.delete(&format!("{MAPS}?labelSelector=t&limit=2"), json!({})).await;
    assert_eq!(page.names(), ["a", "b"]);
    assert!(page.is(200)["metadata"]["continue"].is_string());
    let rest = s.delete(&format!("{MAPS}?labelSelector=t"), json!({})).await;
    assert_eq!(rest.names(), ["c", "held"]);
    let items = &rest.is(200)["items"];
    assert_eq!((items[1].get("kind"), items[1]["metadata"].get("deletionTimestamp")), (None, None), "as they were");
    assert!(s.get(&format!("{MAPS}/held")).await.is(200)["metadata"]["deletionTimestamp"].is_string());
    s.delete(&format!("{MAPS}?sendInitialEvents=true"), json!({})).await.is(422);
    s.delete(&format!("{MAPS}?labelSelector=none"), json!({"propagationPolicy": "Sideways"})).await.is(422);
    let table = s.send("DELETE", MAPS, &[(header::ACCEPT, TABLE)], Bytes::new()).await;
    assert_eq!(table.is(200)["kind"], "Table");
}

#[tokio::test]
async fn options_of_a_deletion() {
    let s = Server::new().await;
    s.config_map("a", json!({})).await.is(201);
    let a = format!("{MAPS}/a");
    s.delete(&a, json!({"dryRun": ["Some"]})).await.is(422);
    s.delete(&a, json!({"propagationPolicy": ""})).await.is(422);
    s.delete(&a, json!({"gracePeriodSeconds": "soon"})).await.is(400);
    s.delete(&format!("{a}?propagationPolicy="), json!({"kind": "Pod", "apiVersion": "v1"})).await.is(400);
    s.delete(&a, json!({"dryRun": ["All"], "gracePeriodSeconds": -7})).await.is(200);
    s.get(&a).await.is(200);
    // Beside a body the query says nothing.
    s.delete(&format!("{a}?dryRun=All"), json!({})).await.is(200);
    s.get(&a).await.is(404);
    s.put(&a, json!({"metadata": {"name": "a", "uid": "u"}})).await.is(409);
    s.put(&a, json!({"metadata": {"name": "a"}})).await.is(404);
}

#[tokio::test]
async fn a_running_grace_is_only_shortened() {
    let s = Server::new().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "none", "containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let p = "/api/v1/namespaces/n/pods/p";
    s.delete(p, json!({"gracePeriodSeconds": 20})).await.is(200);
    let again = s.delete(p, json!({"gracePeriodSeconds": 25, "propagationPolicy": "Foreground"})).await.is(200);
    assert_eq!(
        (&again["metadata"]["deletionGracePeriodSeconds"], again["metadata"].get("finalizers")),
        (&json!(20), None)
    );
    assert_eq!(
        s.delete(p, json!({"gracePeriodSeconds": 5})).await.is(200)["metadata"]["deletionGracePeriodSeconds"],
        5
    );
    s.delete(p, json!({"gracePeriodSeconds": 0})).await.is(200);
    s.get(p).await.is(404);
}

#[tokio::test]
async fn events_own_nothing() {
    let s = Server::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "n", "kind": "Pod", "name": "p"}});
    s.post("/api/v1/namespaces/n/events", event).await.is(201);
    s.delete("/api/v1/namespaces/n/events/e", json!({"propagationPolicy": "Foreground"})).await.is(200);
    s.get("/api/v1/namespaces/n/events/e").await.is(404);
}

#[tokio::test]
async fn a_watch_from_nowhere_marks_the_end_of_what_there_was() {
    let s = Server::new().await;
    s.config_map("a", json!({"labels": {"t": "x"}})).await.is(201);
    let watch = |query: &str| format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=t&{query}");
    let legacy = s.get(&watch("allowWatchBookmarks=true&resourceVersion=0")).await;
    assert_eq!(legacy.events()[..2], ["ADDED a", "BOOKMARK initial"]);
    let quiet = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(s.get(&watch(quiet)).await.events(), ["ADDED a"], "bookmarks were not asked for");
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    assert_eq!(s.get(&watch(none)).await.events(), [""; 0]);
}

#[tokio::test]
async fn pages_of_a_revision_are_of_that_one() {
    let s = Server::new().await;
    let first = s.config_map("a", json!({"labels": {"t": "x"}})).await.is(201);
    let then = first["metadata"]["resourceVersion"].as_str().unwrap();
    // More changes than one reading of the ring gives.
    for i in 0..300 {
        s.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"i": i.to_string()}})).await.is(200);
    }
    s.config_map("b", json!({"labels": {"t": "x"}})).await.is(201);
    let exact = s.get(&format!("{MAPS}?labelSelector=t&limit=5&resourceVersion={then}")).await;
    assert_eq!(exact.names(), ["a"]);
    assert_eq!(
        (&exact.is(200)["metadata"]["resourceVersion"], exact.is(200)["items"][0].get("data")),
        (&json!(then), None)
    );
    let newer = format!("{MAPS}?labelSelector=t&limit=5&resourceVersionMatch=NotOlderThan&resourceVersion={then}");
    assert_eq!(s.get(&newer).await.names(), ["a", "b"]);
}

#[tokio::test]
async fn one_and_many_are_told_apart() {
    let s = Server::new().await;
    s.config_map("a", json!({})).await.is(201);
    let a = format!("{MAPS}/a");
    let partial = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1,application/json");
    s.get_as(MAPS, &partial("PartialObjectMetadata")).await.is(406);
    s.get_as(&a, &partial("PartialObjectMetadataList")).await.is(406);
    assert_eq!(
        s.get_as(MAPS, &partial("PartialObjectMetadataList")).await.is(200)["kind"],
        "PartialObjectMetadataList"
    );
    s.get(&format!("{MAPS}?includeObject=Bogus")).await.is(200);
    s.get_as(&format!("{MAPS}?includeObject=Bogus"), TABLE).await.is(400);
}

#[tokio::test]
async fn people_get_lines() {
    let s = Server::new().await;
    let curl = [(header::USER_AGENT, "curl/8.5.0")];
    let list = s.send("GET", MAPS, &curl, Bytes::new()).await;
    assert!(list.text.starts_with("{\n  \"kind\": \"ConfigMapList\",\n"), "{}", list.text);
    assert_eq!(list.content_type, JSON);
    let plain = s.send("GET", &format!("{MAPS}?pretty=false"), &curl, Bytes::new()).await;
    assert!(plain.text.starts_with("{\"kind\""));
}

#[tokio::test]
async fn duplicates_in_yaml_are_warned_of() {
    let s = Server::new().await;
    let yaml = |query: &str| {
        let path = format!("{MAPS}?dryRun=All&{query}");
        let s = &s;
        async move {
            let body = Bytes::from_static(b"metadata: {name: c}\ndata: {a: x}\ndata: {a: z}\n");
            s.send("POST", &path, &[(header::CONTENT_TYPE, "application/yaml")], body).await
        }
    };
    assert_eq!(yaml("").await.is(201)["data"]["a"], "z");
    yaml("fieldValidation=Strict").await.is(400);
    s.config_map("c", json!({})).await.is(201);
    let patch = json!([{"op": "add", "path": "/data", "value": {"a": "b"}, "oops": 1}]);
    let c = format!("{MAPS}/c");
    s.patch(&format!("{c}?fieldValidation=Strict"), "application/json-patch+json", patch.clone()).await.is(422);
    s.patch(&c, "application/json-patch+json", patch).await.is(200);
}

#[tokio::test]
async fn a_scale_is_applied_and_shown() {
    let s = Server::new().await;
    let d = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    s.post("/apis/apps/v1/namespaces/n/deployments?fieldManager=maker", d).await.is(201);
    let scale = "/apis/apps/v1/namespaces/n/deployments/d/scale";
    let config = |n: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": n}});
    s.patch(scale, APPLY, config(2)).await.is(422);
    let conflict = s.patch(&format!("{scale}?fieldManager=hpa"), APPLY, config(2)).await.is(409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.replicas");
    assert_eq!(
        s.patch(&format!("{scale}?fieldManager=hpa&force=true"), APPLY, config(2)).await.is(200)["spec"]["replicas"],
        2
    );
    let table = s.get_as(scale, TABLE).await.is(200);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("d"), json!(2)]);
}

#[tokio::test]
async fn an_apply_keeps_the_identity_and_says_what_it_is() {
    let s = Server::new().await;
    let c = format!("{MAPS}/c?fieldManager=a");
    let config = |rest: Value| {
        let mut all = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    };
    let labelled = json!({"metadata": {"name": "c", "labels": {"l": "1"}}, "data": {"a": "1"}});
    s.patch(&c, APPLY, config(labelled)).await.is(201);
    let bare = s.patch(&c, APPLY, config(json!({}))).await.is(200);
    assert_eq!(
        (&bare["metadata"]["name"], bare["metadata"].get("labels"), bare.get("data")),
        (&json!("c"), None, None)
    );
    s.patch(&c, APPLY, json!({"kind": "ConfigMap", "metadata": {"name": "c"}})).await.is(400);
    s.patch(&c, APPLY, json!({"apiVersion": "v1", "metadata": {"name": "c"}})).await.is(400);
    let none = format!("{MAPS}/none?fieldManager=a");
    s.patch(&none, APPLY, config(json!({"metadata": {"name": "none", "uid": "u"}}))).await.is(422);
    s.patch(&none, APPLY, config(json!({"metadata": {"name": "none", "resourceVersion": "1"}}))).await.is(201);
}

#[tokio::test]
async fn a_patch_cannot_move_an_object() {
    let s = Server::new().await;
    s.config_map("c", json!({})).await.is(201);
    let c = format!("{MAPS}/c");
    let refused = s.patch(&c, MERGE, json!({"metadata": {"uid": "other"}})).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.uid");
    s.patch(&c, MERGE, json!({"metadata": {"namespace": "other"}})).await.is(400);
    s.put(&c, json!({"metadata": {"name": "c", "uid": "other"}})).await.is(409);
    assert_eq!(s.patch(&c, "text/plain", json!({})).await.is(415)["details"], json!({}));
}

#[tokio::test]
async fn nobody_owns_what_a_write_leaves_alone() {
    let s = Server::new().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}, "spec": {"unschedulable": true},
        "status": {"capacity": {"cpu": "1"}}});
    let applied = s.patch("/api/v1/nodes/x?fieldManager=a", APPLY, node).await.is(201);
    assert_eq!(applied["status"]["capacity"]["cpu"], "1", "a node registers with its status");
    assert_eq!(applied["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:unschedulable": {}}}));
}

#[tokio::test]
async fn each_form_of_an_event_is_whole() {
    let s = Server::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "n", "kind": "Pod", "name": "p"}});
    s.post("/api/v1/namespaces/n/events", event).await.is(201);
    let other = "/apis/events.k8s.io/v1/namespaces/n/events";
    let shown = s.get(&format!("{other}/e")).await.is(200);
    assert_eq!((&shown["reportingController"], &shown["reportingInstance"]), (&json!(""), &json!("")));
    let untimed = json!({"metadata": {"name": "f"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}});
    let refused = s.post(other, untimed).await.is(422);
    let fields = refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap());
    assert_eq!(fields.collect::<Vec<_>>(), ["eventTime", "type"]);
}

#[tokio::test]
async fn partial_metadata_is_not_derived() {
    let s = Server::new().await;
    let ds = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    s.post("/apis/apps/v1/namespaces/n/daemonsets", ds).await.is(201);
    let d = "/apis/apps/v1/namespaces/n/daemonsets/d";
    assert!(s.get(d).await.is(200)["metadata"]["annotations"].is_object());
    let partial = s.get_as(d, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.is(200);
    assert_eq!(partial["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn what_is_not_served_is_told_in_its_form() {
    let s = Server::new().await;
    assert_eq!(s.get_as(MAPS, "text/html").await.is(406)["details"], json!({}));
    assert_eq!(s.get_as(MAPS, "application/json;as=Nonsense;g=meta.k8s.io;v=v1").await.is(406).get("details"), None);
    s.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList").await.is(406);
    s.get_as("/openid/v1/jwks", JSON).await.is(406);
    s.get_as("/openid/v1/jwks", "*/*").await.is(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let log = s.get("/api/v1/namespaces/n/pods/p/log").await;
    assert_eq!((log.code, log.text.as_str()), (204, ""));
}

#[tokio::test]
async fn puts_that_need_no_revision() {
    let s = Server::new().await;
    let class = json!({"metadata": {"name": "r"}, "handler": "h"});
    s.put("/apis/node.k8s.io/v1/runtimeclasses/r", class).await.is(201);
    let schema = json!({"metadata": {"name": "f"}, "spec": {"priorityLevelConfiguration": {"name": "exempt"}}});
    s.post("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", schema.clone()).await.is(201);
    s.put("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/f", schema).await.is(200);
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"strategy": "OldestEmulationVersion", "preferredHolder": "x"}});
    let made = s.post("/apis/coordination.k8s.io/v1/namespaces/n/leases", lease).await.is(201);
    assert_eq!(made["spec"], json!({}));
}
