//! Autoscalers that go by what others measure: an adapter for metrics of objects and of the world outside, on two nodes with
//! real containers. The adapter is the test's own server, aggregated like anybody's.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::scenario::{Api, template, workload};

/// The server's node, where the test's sockets are as well.
const NODE: &str = "198.51.100.1";
const CUSTOM: &str = "custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "external.metrics.k8s.io/v1beta1";

/// What the adapter says that there is of everything.
type Level = Arc<AtomicU32>;

fn answer(path: &str, level: &Level) -> Value {
    let value = level.load(Relaxed).to_string();
    let timestamp = jiff::Timestamp::now().to_string();
    let groups = [CUSTOM, EXTERNAL];
    if let Some(group) = groups.iter().find(|g| path == format!("/apis/{g}")) {
        return json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": []});
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.starts_with(&format!("/apis/{EXTERNAL}/")) {
        let item = json!({"metricName": name, "metricLabels": {}, "timestamp": timestamp, "value": value});
        return json!({"kind": "ExternalMetricValueList", "apiVersion": EXTERNAL, "items": [item]});
    }
    let item = json!({"describedObject": {"kind": "Service", "name": "queue"}, "metric": {"name": name},
        "timestamp": timestamp, "value": value});
    json!({"kind": "MetricValueList", "apiVersion": CUSTOM, "items": [item]})
}

/// Serves until the test ends; gives the port.
async fn serve(level: Level) -> u16 {
    let made = rcgen::generate_simple_self_signed(vec!["adapter".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((NODE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, level) = (tls.clone(), level.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let one = service_fn(move |request: Request<Incoming>| {
                    let body = answer(request.uri().path(), &level).to_string();
                    let head = Response::builder().header("content-type", "application/json");
                    async move { Ok::<_, Infallible>(head.body(Full::new(Bytes::from(body))).unwrap()) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), one).await;
            });
        }
    });
    port
}

fn scaler(name: &str, metric: &Value, behavior: &Value) -> Value {
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": 1, "maxReplicas": 3, "metrics": [metric], "behavior": behavior});
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A metric of an object and one of the world outside lead to as many pods as they ask for; no faster than a policy allows,
/// and down again only when they have asked for less long enough.
pub async fn go_by_what_others_measure(api: Api) {
    let level = Level::new(30.into());
    let port = serve(level.clone()).await;
    let core = format!("/api/v1/namespaces/{}", api.namespace);
    let spec = json!({"ports": [{"port": 443, "targetPort": port}]});
    api.create("services", json!({"metadata": {"name": "adapter"}, "spec": spec})).await;
    let subsets = json!([{"addresses": [{"ip": NODE}], "ports": [{"port": port}]}]);
    api.create(&format!("{core}/endpoints"), json!({"metadata": {"name": "adapter"}, "subsets": subsets})).await;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let registered = [CUSTOM, EXTERNAL].map(|g| {
        let (group, version) = g.split_once('/').unwrap();
        (format!("{version}.{group}"), group, version)
    });
    for (name, group, version) in &registered {
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": api.namespace, "name": "adapter"}});
        api.create(services, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    for (name, ..) in &registered {
        let available = |s: &Value| crate::scenario::condition(s, "Available") == "True";
        api.until("it is served", &format!("{services}/{name}"), available).await;
    }

    let length = json!({"type": "Object", "object": {"describedObject": {"apiVersion": "v1", "kind": "Service", "name": "queue"},
        "metric": {"name": "length"}, "target": {"type": "Value", "value": "10"}}});
    let backlog = json!({"type": "External", "external": {"metric": {"name": "backlog"},
        "target": {"type": "AverageValue", "averageValue": "10"}}});
    let at_once = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let one_by_one = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 600}]}});
    let rows = [
        ("object", &length, &at_once),
        ("external", &backlog, &at_once),
        ("patient", &backlog, &one_by_one),
        ("slow", &length, &json!({})),
    ];
    let scalers = format!("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", api.namespace);
    for (name, metric, behavior) in rows {
        api.create("deployments", workload(name, 1, template(name, &["sleep", "1000"]))).await;
        api.create(&scalers, scaler(name, metric, behavior)).await;
    }
    let has = |n: u64| move |d: &Value| d["spec"]["replicas"] == n && d["status"]["readyReplicas"] == n;
    for (name, replicas) in [("object", 3), ("external", 3), ("slow", 3), ("patient", 2)] {
        api.until("it has what it needs", &format!("deployments/{name}"), has(replicas)).await;
    }
    let shared = |s: &Value| s["status"]["currentMetrics"][0]["external"]["current"]["averageValue"] == "10";
    api.until("each has its share", &format!("{scalers}/external"), shared).await;

    level.store(3, Relaxed);
    for name in ["object", "external"] {
        api.until("it needs less", &format!("deployments/{name}"), has(1)).await;
    }
    for (name, replicas) in [("slow", 3), ("patient", 2)] {
        assert_eq!(api.get(&format!("deployments/{name}")).await["spec"]["replicas"], replicas, "{name}");
    }
    for (name, ..) in &registered {
        api.delete(&format!("{services}/{name}")).await;
    }
    for (name, ..) in rows {
        api.delete(&format!("{scalers}/{name}")).await;
        api.delete(&format!("deployments/{name}")).await;
    }
}
