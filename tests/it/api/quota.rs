//! ResourceQuota with its controller: what is used is told, charged before it is there, and given back.
//!
//! Conformance, [sig-api-machinery] ResourceQuota: "should create a ResourceQuota and ensure its status is promptly
//! calculated.", "should create a ResourceQuota and capture the life of a service.", "should create a ResourceQuota and
//! capture the life of a secret.", "should create a ResourceQuota and capture the life of a pod.", "should create a
//! ResourceQuota and capture the life of a configMap.", "should create a ResourceQuota and capture the life of a
//! replication controller.", "should create a ResourceQuota and capture the life of a replica set.", "should verify
//! ResourceQuota with terminating scopes.", "should verify ResourceQuota with best effort scope.".

use test_case::test_case;

use super::*;

const QUOTAS: &str = "/api/v1/namespaces/n/resourcequotas";
const PODS: &str = "/api/v1/namespaces/n/pods";
const SERVICES: &str = "/api/v1/namespaces/n/services";

impl Server {
    /// A quota; waits until what is used of all that it limits is told.
    async fn limit(&self, name: &str, spec: Value) {
        let all: Vec<String> = spec["hard"].as_object().unwrap().keys().cloned().collect();
        self.post(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await.is(201);
        self.until(&format!("{QUOTAS}/{name}"), "calculated", |_, quota| {
            quota["status"]["hard"] == quota["spec"]["hard"]
                && all.iter().all(|r| quota["status"]["used"][r].is_string())
        })
        .await;
    }

    /// Waits until a quota tells that this is used, beside others.
    async fn used(&self, name: &str, used: Value) {
        let holds = |quota: &Value| used.as_object().unwrap().iter().all(|(r, n)| quota["status"]["used"][r] == *n);
        self.until(&format!("{QUOTAS}/{name}"), &format!("uses {used}"), |_, quota| holds(quota)).await;
    }
}

fn pod(name: &str, requests: Value, limits: Value, more: Value) -> Value {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}});
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [container]}});
    pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod
}

fn replicas() -> Value {
    json!({"replicas": 0, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}})
}

fn replica_set() -> Value {
    let mut spec = replicas();
    spec["selector"] = json!({"matchLabels": {"a": "b"}});
    spec
}

#[test_case("secrets", "/api/v1/namespaces/n/secrets", json!({"data": {"a": "dmFsdWU="}}); "a secret")]
#[test_case("configmaps", MAPS, json!({"data": {"a": "b"}}); "a config map")]
#[test_case("replicationcontrollers", "/api/v1/namespaces/n/replicationcontrollers", json!({"spec": replicas()});
    "a replication controller")]
#[test_case("count/replicasets.apps", "/apis/apps/v1/namespaces/n/replicasets", json!({"spec": replica_set()});
    "a replica set")]
#[tokio::test]
async fn objects_are_counted(resource: &str, path: &str, object: Value) {
    let mut object = object;
    let s = Server::controlled().await;
    // What every namespace has is there first.
    s.until(&format!("{MAPS}/kube-root-ca.crt"), "made", |code, _| code == 200).await;
    let before = s.get(path).await.names().len();
    let hard = json!({"resourcequotas": "1", resource: (before + 1).to_string()});
    s.limit("q", json!({"hard": hard})).await;
    s.used("q", json!({"resourcequotas": "1", resource: before.to_string()})).await;
    object["metadata"] = json!({"name": "one"});
    s.post(path, object.clone()).await.is(201);
    s.used("q", json!({resource: (before + 1).to_string()})).await;
    object["metadata"] = json!({"name": "two"});
    let refused = s.post(path, object).await.is(403);
    assert!(refused["message"].as_str().unwrap().contains("exceeded quota: q"), "{refused}");
    s.delete(&format!("{path}/one"), json!({"propagationPolicy": "Background"})).await.is(200);
    s.used("q", json!({resource: before.to_string()})).await;
}

#[tokio::test]
async fn services_are_counted_by_what_they_take() {
    let s = Server::controlled().await;
    let hard = json!({"services": "10", "services.nodeports": "1", "services.loadbalancers": "1"});
    s.limit("q", json!({"hard": hard})).await;
    let service =
        |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    s.post(SERVICES, service("plain", "ClusterIP")).await.is(201);
    s.post(SERVICES, service("ported", "NodePort")).await.is(201);
    s.post(SERVICES, service("balanced", "LoadBalancer")).await.is(403);
    s.used("q", json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"})).await;
    for name in ["plain", "ported"] {
        s.delete(&format!("{SERVICES}/{name}"), json!({})).await.is(200);
    }
    s.used("q", json!({"services": "0", "services.nodeports": "0"})).await;
}

#[tokio::test]
async fn pods_are_charged_for_what_they_ask() {
    let s = Server::controlled().await;
    let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
        "requests.example.com/dongle": "3"});
    s.limit("q", json!({"hard": hard})).await;
    let dongles = json!({"example.com/dongle": "2"});
    let asks = json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    let mut made = s.post(PODS, pod("p", asks.clone(), dongles.clone(), json!({}))).await.is(201);
    let taken = json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "requests.example.com/dongle": "2"});
    s.used("q", taken.clone()).await;
    let more = json!({"cpu": "600m", "memory": "100Mi"});
    s.post(PODS, pod("cpu", more, json!({}), json!({}))).await.is(403);
    let more = json!({"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "10Gi", "example.com/dongle": "2"});
    let refused = s.post(PODS, pod("dongle", more, dongles, json!({}))).await.is(403);
    assert!(refused["message"].as_str().unwrap().contains("requests.example.com/dongle=2"), "{refused}");
    made["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "100m", "memory": "100Mi"});
    s.put(&format!("{PODS}/p"), made).await.is(422);
    s.used("q", taken).await;
    s.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.is(200);
    let nothing = json!({"pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0",
        "requests.example.com/dongle": "0"});
    s.used("q", nothing).await;
}

/// Each scope with a pod of its own, which the other one does not see.
#[test_case(["Terminating", "NotTerminating"], [json!({"activeDeadlineSeconds": 3600}), json!({})], [true, true];
    "pods that end")]
#[test_case(["BestEffort", "NotBestEffort"], [json!({}), json!({})], [false, true]; "pods that ask for nothing")]
#[tokio::test]
async fn scopes(scopes: [&str; 2], more: [Value; 2], asks: [bool; 2]) {
    let s = Server::controlled().await;
    for scope in scopes {
        let name = scope.to_lowercase();
        s.limit(&name, json!({"hard": {"pods": "5"}, "scopes": [scope]})).await;
    }
    for i in [0, 1] {
        let (requests, limits) = match asks[i] {
            true => (json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"})),
            false => (json!({}), json!({})),
        };
        s.post(PODS, pod("p", requests, limits, more[i].clone())).await.is(201);
        s.used(&scopes[i].to_lowercase(), json!({"pods": "1"})).await;
        s.used(&scopes[1 - i].to_lowercase(), json!({"pods": "0"})).await;
        s.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.is(200);
        s.used(&scopes[i].to_lowercase(), json!({"pods": "0"})).await;
    }
}

/// Devices count by their class, and by the names under which pods ask for them.
#[tokio::test]
async fn claims_of_devices_are_charged_as_extended_resources() {
    let s = Server::controlled().await;
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    s.post("/apis/resource.k8s.io/v1/deviceclasses", class).await.is(201);
    let by_class = "requests.deviceclass.resource.kubernetes.io/gpu";
    s.limit("q", json!({"hard": {by_class: "1", "requests.example.com/gpu": "5"}})).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims";
    let claim = |name: &str, count: i64| {
        json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count}}]}}})
    };
    let refused = s.post(claims, claim("two", 2)).await.is(403);
    assert!(
        refused["message"].as_str().unwrap().contains(&format!("exceeded quota: q, requested: {by_class}=2")),
        "{refused}"
    );
    s.post(claims, claim("one", 1)).await.is(201);
    s.used("q", json!({by_class: "1", "requests.example.com/gpu": "1"})).await;
    s.delete(&format!("{claims}/one"), json!({})).await.is(200);
    s.used("q", json!({by_class: "0", "requests.example.com/gpu": "0"})).await;
}
