//! The group over a whole API, with nodes that say what they are told to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::apiserver::testing::Bed;
use crate::runtime::node_api::{Door, LogOptions, LogStream, NodeApi, NodeStream, Streams, Target};

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";

/// A node on which a quarter of a second of CPU is used in each of its seconds; a look is a second of its time.
#[derive(Default)]
struct Busy(AtomicU64);

impl Busy {
    fn looks(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl NodeApi for Arc<Busy> {
    async fn resource_metrics(&self) -> ApiResult<String> {
        let look = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let (ms, cpu) = (look * 1000, format!("{}", look as f64 * 0.25));
        let labels = "{container=\"c\",namespace=\"default\",pod=\"p\"}";
        Ok(format!(
            "node_cpu_usage_seconds_total {cpu} {ms}\nnode_memory_working_set_bytes 2048 {ms}\n\
             container_cpu_usage_seconds_total{labels} {cpu} {ms}\n\
             container_memory_working_set_bytes{labels} 1048576 {ms}\n"
        ))
    }

    async fn logs(&self, _: &Target, _: &LogOptions) -> ApiResult<LogStream> {
        Err(Status::bad_request("none"))
    }

    async fn exec(&self, _: &Target, _: &[String], _: Streams, _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn attach(&self, _: &Target, _: Streams, _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn port_forward(&self, _: &Target, _: &[u16], _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn open(&self, _: Door) -> io::Result<NodeStream> {
        Err(io::Error::other("none"))
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn healthz(&self) -> Result<(), String> {
        Ok(())
    }

    async fn pods(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn metrics(&self) -> ApiResult<String> {
        Ok(String::new())
    }
}

/// With a busy node, one that nobody can reach, a pod on each, and one on none.
async fn bed() -> (Bed, Arc<Busy>) {
    let (bed, busy) = (Bed::new().await, Arc::new(Busy::default()));
    bed.api.attach_node("busy", Arc::new(busy.clone()));
    for name in ["busy", "away"] {
        let node = json!({"metadata": {"name": name, "labels": {"on": name}}});
        assert_eq!(bed.admin("POST", "/api/v1/nodes", &node).await.0, 201);
    }
    let account = json!({"metadata": {"name": "default"}});
    bed.admin("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await;
    for (name, node) in [("p", "busy"), ("q", "away"), ("waits", "")] {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        let (code, made) = bed.admin("POST", "/api/v1/namespaces/default/pods", &pod).await;
        assert_eq!(code, 201, "{made}");
    }
    (bed, busy)
}

#[tokio::test]
async fn what_nodes_and_pods_use_is_measured_when_asked_for() {
    let (bed, busy) = bed().await;
    assert_eq!(busy.looks(), 0, "nobody asked");
    let (code, list) = bed.admin("GET", PODS, &Value::Null).await;
    assert_eq!((code, list["kind"].as_str()), (200, Some("PodMetricsList")), "{list}");
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "of pods that nobody has figures of nothing is said: {list}");
    assert_eq!((&items[0]["metadata"]["name"], &items[0]["metadata"]["labels"]), (&json!("p"), &json!({"app": "p"})));
    assert_eq!(items[0]["containers"], json!([{"name": "c", "usage": {"cpu": "250m", "memory": "1Mi"}}]));
    assert_eq!((&items[0]["window"], &items[0]["timestamp"]), (&json!("1s"), &json!("1970-01-01T00:00:02Z")));

    let (code, node) = bed.admin("GET", &format!("{NODES}/busy"), &Value::Null).await;
    assert_eq!((code, &node["kind"]), (200, &json!("NodeMetrics")), "{node}");
    assert_eq!(node["usage"], json!({"cpu": "250m", "memory": "2Ki"}));
    assert_eq!(busy.looks(), 2, "what was measured just now is good for all");
    let looks: Vec<_> = bed.api.meter.kept.lock().values().map(|kept| kept.look.clone()).collect();
    for look in looks {
        look.lock().await.as_mut().expect("it was looked at").at -= super::FRESH;
    }
    let (_, list) = bed.admin("GET", &format!("{NODES}?labelSelector=on%3Dbusy"), &Value::Null).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(busy.looks(), 3, "the look before is where a rate begins");
}

#[tokio::test]
async fn what_has_no_figures_is_not_found_and_what_is_not_selected_is_not_asked() {
    let (bed, busy) = bed().await;
    let (code, gone) = bed.admin("GET", &format!("{PODS}/q"), &Value::Null).await;
    assert_eq!((code, gone["message"].as_str()), (404, Some("pods.metrics.k8s.io \"q\" not found")));
    let (code, list) = bed.admin("GET", &format!("{PODS}?labelSelector=app%3Dq"), &Value::Null).await;
    assert_eq!((code, &list["items"]), (200, &json!([])));
    assert_eq!(busy.looks(), 0);
    let watch = format!("{PODS}?watch=1");
    for (method, path) in [("POST", PODS), ("DELETE", PODS), ("GET", &*watch)] {
        assert_eq!(bed.admin(method, path, &json!({})).await.0, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn the_group_is_told_of() {
    let bed = Bed::new().await;
    let (_, groups) = bed.admin("GET", "/apis", &Value::Null).await;
    let last = groups["groups"].as_array().and_then(|g| g.last()).unwrap();
    assert_eq!(last["preferredVersion"]["groupVersion"], "metrics.k8s.io/v1beta1");
    let (_, list) = bed.admin("GET", "/apis/metrics.k8s.io/v1beta1", &Value::Null).await;
    let told = |i: usize| (&list["resources"][i]["name"], &list["resources"][i]["verbs"]);
    assert_eq!(told(0), (&json!("nodes"), &json!(["get", "list"])));
    assert_eq!(told(1), (&json!("pods"), &json!(["get", "list"])));
}
