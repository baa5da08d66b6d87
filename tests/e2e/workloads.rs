//! Workloads beyond the Deployment, on a node with real containers and a stock kubectl: Jobs that count what ended,
//! StatefulSets whose pods have names, DaemonSets, and rollouts of both there and back.
//!
//! Conformance, [sig-apps]: "Job should create pods for an Indexed job with completion indexes and specified hostname",
//! "should perform rolling updates and roll backs of template modifications", "Scaling should happen in predictable order",
//! "Daemon set should rollback without unnecessary restarts", "Daemon set should run and stop simple daemon",
//! "DisruptionController should block an eviction until the PDB is updated to allow it".

use crate::harness::Cluster;

const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: counts}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: "localhost/orch/web:v1", command: [sh, -c, "echo $JOB_COMPLETION_INDEX on $(hostname)"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: gives-up}
spec:
  backoffLimit: 6
  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "localhost/orch/web:v1", command: [sh, -c, "exit 42"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: short-lived}
spec:
  ttlSecondsAfterFinished: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "localhost/orch/web:v1", command: [sh, -c, "exit 0"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: never}
spec:
  schedule: "0 0 31 12 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: "localhost/orch/web:v1", command: [sh, -c, "exit 0"]}]
"#;

const SETS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: dbs
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "localhost/orch/web:v1", env: [{name: EDITION, value: first}]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "localhost/orch/web:v1", env: [{name: EDITION, value: first}]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {minAvailable: 2, selector: {matchLabels: {app: db}}}
"#;

/// True when a Job has a condition, which its waiting clients look for.
fn job_is(cluster: &Cluster, job: &str, condition: &str) -> bool {
    let conditions = cluster.field("job", job, "/status/conditions");
    let all = conditions.as_array().cloned().unwrap_or_default();
    all.iter().any(|c| c["type"] == condition && c["status"] == "True")
}

#[test]
fn jobs_run_to_their_end_and_are_counted_once() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(JOBS);
    cluster.k(&["wait", "--for=condition=complete", "job/counts", "--timeout=90s"]);
    let job = cluster.get("job", "counts");
    assert_eq!((&job["status"]["succeeded"], &job["status"]["completedIndexes"]), (&3.into(), &"0-2".into()));
    assert_eq!(job["status"]["uncountedTerminatedPods"], serde_json::json!({}));
    let mut lines: Vec<String> =
        cluster.k(&["logs", "-l", "job-name=counts", "--tail=-1"]).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["0 on counts-0", "1 on counts-1", "2 on counts-2"]);
    let finalizers =
        cluster.k(&["get", "pods", "-l", "job-name=counts", "-o", "jsonpath={.items[*].metadata.finalizers}"]);
    assert_eq!(finalizers, "", "nothing keeps a pod that was counted");
    cluster.eventually("the policy ends the job at the first failure", || job_is(&cluster, "gives-up", "Failed"));
    assert_eq!(cluster.get("job", "gives-up")["status"]["failed"], 1);
    cluster.eventually("a finished job goes when its time is over", || {
        cluster.kubectl(&["get", "job", "short-lived"]).code != Some(0)
    });
    cluster.k(&["create", "job", "by-hand", "--from=cronjob/never"]);
    cluster.k(&["wait", "--for=condition=complete", "job/by-hand", "--timeout=90s"]);
    cluster.k(&["delete", "job", "counts", "--timeout=60s"]);
    cluster.eventually("its pods go with it", || cluster.pods("job-name=counts").is_empty());
}

#[test]
fn sets_roll_out_and_back() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster.apply(SETS);
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    cluster.k(&["rollout", "status", "daemonset/agent", "--timeout=90s"]);
    assert_eq!(cluster.pods("app=db"), ["db-0", "db-1"]);
    assert_eq!(cluster.k(&["exec", "db-1", "--", "hostname"]).trim(), "db-1");
    let node = cluster.k(&["get", "nodes", "-o", "name"]);
    assert_eq!(cluster.pods("app=agent").len(), node.lines().count());

    // Both have to be there, so none may be evicted.
    cluster.eventually("the budget has seen its pods", || cluster.field("pdb", "db", "/status/currentHealthy") == 2);
    assert_eq!(cluster.field("pdb", "db", "/status/disruptionsAllowed"), 0);
    let eviction = br#"{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-1"}}"#;
    let evict = || cluster.post("/api/v1/namespaces/default/pods/db-1/eviction", None, eviction).0;
    assert_eq!(evict(), 429);
    cluster.k(&["patch", "pdb", "db", "-p", r#"{"spec": {"minAvailable": 1}}"#]);
    cluster.eventually("one may go now", || cluster.field("pdb", "db", "/status/disruptionsAllowed") == 1);
    let evicted = cluster.field("pod", "db-1", "/metadata/uid");
    assert_eq!(evict(), 201);
    cluster.eventually("its successor has its name", || {
        let uid = cluster.field("pod", "db-1", "/metadata/uid");
        uid != evicted && !uid.is_null()
    });
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=90s"]);

    for (kind, pod) in [("statefulset/db", "app=db"), ("daemonset/agent", "app=agent")] {
        let edition = || {
            let path = "jsonpath={.items[*].spec.containers[0].env[0].value}";
            cluster.k(&["get", "pods", "-l", pod, "-o", path])
        };
        cluster.k(&["set", "env", kind, "EDITION=second"]);
        cluster.k(&["rollout", "status", kind, "--timeout=90s"]);
        cluster.eventually("all are of the second edition", || !edition().contains("first"));
        let history = cluster.k(&["rollout", "history", kind]);
        assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
        cluster.k(&["rollout", "undo", kind]);
        cluster.k(&["rollout", "status", kind, "--timeout=90s"]);
        cluster.eventually("all are of the first edition again", || !edition().contains("second"));
        let history = cluster.k(&["rollout", "history", kind]);
        assert!(history.contains("\n3 ") && !history.contains("\n1 "), "{history}");
    }
    cluster.k(&["scale", "statefulset", "db", "--replicas=1"]);
    cluster.eventually("the last one went", || cluster.pods("app=db") == ["db-0"]);
    cluster.k(&["delete", "daemonset", "agent", "--timeout=60s"]);
    cluster.eventually("its pods went with it", || cluster.pods("app=agent").is_empty());
}
