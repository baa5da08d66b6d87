//! The mandatory and the suggested objects.
//!
//! Figures: upstream `apiserver/pkg/apis/flowcontrol/bootstrap`.

use serde_json::{Value, json};

/// Name, concurrency shares, lendable percent, queues, hand size; no queues reject.
type Level = (&'static str, i64, i64, Option<(i64, i64)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
/// Requests that wait in one queue.
const QUEUE_LENGTH: i64 = 50;
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// All of them: priority levels first.
pub fn objects() -> Vec<Value> {
    let mut out = vec![object(
        "PriorityLevelConfiguration",
        "exempt",
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
    )];
    for (name, shares, lendable, queuing) in LEVELS {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH}}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        out.push(object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited})));
    }
    out.extend(schemas());
    out
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/v1", super::GROUP), "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec})
}

fn schema(name: &str, level: &str, precedence: i64, by: Option<&str>, rules: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence});
    if let Some(by) = by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    spec["rules"] = rules;
    object("FlowSchema", name, spec)
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str, namespace: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": namespace}})
}

fn every_resource() -> Value {
    json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]})
}

fn everything(subjects: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": [every_resource()],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

fn schemas() -> Vec<Value> {
    let leases = |verbs: &[&str]| {
        json!({"verbs": verbs, "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"], "namespaces": ["*"]})
    };
    let everyone = [group("system:authenticated"), group("system:unauthenticated")];
    let election = ["get", "create", "update"];
    let probes = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
    let nodes = json!([
        {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["*"]},
        {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]},
    ]);
    vec![
        schema("exempt", "exempt", 1, None, json!([everything(&[group("system:masters")])])),
        schema("catch-all", "catch-all", 10_000, Some("ByUser"), json!([everything(&everyone)])),
        schema("probes", "exempt", 2, None, json!([{"subjects": everyone, "nonResourceRules": [probes]}])),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            Some("ByUser"),
            json!([{
                "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler"), account("*", "kube-system")],
                "resourceRules": [leases(&election)],
            }]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            Some("ByUser"),
            json!([{
                "subjects": [account("endpoint-controller", "kube-system"), account("endpointslice-controller", "kube-system"),
                    account("endpointslicemirroring-controller", "kube-system"), user("system:kube-controller-manager")],
                "resourceRules": [{"verbs": ["get", "create", "update"], "apiGroups": [""], "resources": ["endpoints"], "namespaces": ["*"]},
                    {"verbs": ["get", "create", "update"], "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "namespaces": ["*"]}],
            }]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            Some("ByUser"),
            json!([{
                "subjects": [account("*", "kube-system")],
                "resourceRules": [leases(&election)],
            }]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            Some("ByUser"),
            json!([{
            "subjects": [group("system:nodes")], "resourceRules": nodes}]),
        ),
        schema("system-nodes", "system", 500, Some("ByUser"), json!([everything(&[group("system:nodes")])])),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            Some("ByNamespace"),
            json!([everything(&[user("system:kube-controller-manager")])]),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            Some("ByNamespace"),
            json!([everything(&[user("system:kube-scheduler")])]),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            Some("ByNamespace"),
            json!([everything(&[account("*", "kube-system")])]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            Some("ByUser"),
            json!([everything(&[group("system:serviceaccounts")])]),
        ),
        schema("global-default", "global-default", 9900, Some("ByUser"), json!([everything(&everyone)])),
    ]
}
