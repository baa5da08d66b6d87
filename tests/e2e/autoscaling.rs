//! What nodes and pods use, as a stock kubectl shows it, and autoscalers that go by it, on a node with real containers.
//! Nothing is installed for it: a fresh server measures by itself.

use serde_json::Value;

use crate::harness::Cluster;

/// Pods that burn what they may until they find a file; the autoscaler wants them to use a fifth of what they ask for.
const BURNING: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: burner}
spec:
  replicas: 1
  selector: {matchLabels: {app: burner}}
  template:
    metadata: {labels: {app: burner}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: "localhost/orch/web:v1"
        command: [sh, -c, "while ! test -e /tmp/quiet; do :; done; sleep 3600"]
        resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 64Mi}}
"#;

const SCALER: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burner}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burner}
  minReplicas: 1
  maxReplicas: 2
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 20}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
"#;

#[test]
fn a_deployment_grows_and_shrinks_with_what_its_pods_use() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(BURNING);
    cluster.k(&["rollout", "status", "deployment/burner", "--timeout=90s"]);
    // Its containers are measured from the first look on, a second long.
    let top = || cluster.kubectl(&["top", "pod", "-l", "app=burner", "--containers", "--no-headers"]).stdout;
    cluster.eventually("what the pod uses is told", || top().contains(" main "));
    let line = top();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert!(cells[2].ends_with('m') && cells[3].ends_with("Mi"), "{line}");
    let node = cluster.k(&["top", "node", "--no-headers"]);
    assert_eq!(node.split_whitespace().filter(|c| c.ends_with('%')).count(), 2, "{node}");
    let metrics = |path: &str| -> Value {
        let text = cluster.k(&["get", "--raw", &format!("/apis/metrics.k8s.io/v1beta1/{path}")]);
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(metrics("namespaces/default/pods")["items"][0]["metadata"]["labels"]["app"], "burner");
    let local = cluster.k(&["get", "apiservice", "v1beta1.metrics.k8s.io", "--no-headers"]);
    assert!(local.contains("Local") && local.contains("True"), "{local}");

    cluster.apply(SCALER);
    let replicas = || cluster.field("deployment", "burner", "/spec/replicas");
    let why = || cluster.k(&["describe", "hpa", "burner"]);
    cluster.eventually_or("it uses too much: there are two", why, || replicas() == 2);
    cluster.k(&["rollout", "status", "deployment/burner", "--timeout=90s"]);
    for pod in cluster.pods("app=burner") {
        cluster.k(&["exec", &pod, "--", "touch", "/tmp/quiet"]);
    }
    cluster.eventually_or("it uses nothing: there is one", why, || replicas() == 1);
    let conditions = cluster.field("hpa", "burner", "/status/conditions");
    let active = conditions.as_array().unwrap().iter().find(|c| c["type"] == "ScalingActive").unwrap();
    assert_eq!((&active["status"], &active["reason"]), (&"True".into(), &"ValidMetricFound".into()));
}
