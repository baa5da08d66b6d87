//! Jobs over a fake API; the tests are the kubelet.

use serde_json::{Value, json};
use test_case::test_case;

use super::*;
use crate::runtime::fake::Cluster;

fn job(spec: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n", "uid": "uid-j"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 6, "selector": {"matchLabels": {"job": "j"}},
            "template": {"metadata": {"labels": {"job": "j", JOB_NAME: "j"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}}});
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

struct World(Cluster, Jobs);

impl World {
    async fn with(spec: Value) -> Self {
        let world = Self(Cluster::new(), Jobs::default());
        world.0.put(job(spec));
        world.settle().await;
        world
    }

    /// Reconciles until nothing is written any more.
    async fn settle(&self) -> Requeue {
        for _ in 0..20 {
            self.0.api.take_log();
            let again = self.0.reconcile(&self.1, "n", "j").await.unwrap();
            if self.0.api.take_log().is_empty() {
                return again;
            }
        }
        panic!("it never settles");
    }

    fn job(&self) -> Value {
        self.0.get(&res::JOBS, "n", "j").unwrap()
    }

    fn status(&self, at: &str) -> Value {
        self.job()["status"].pointer(at).cloned().unwrap_or(Value::Null)
    }

    fn conditions(&self) -> Vec<String> {
        let job = self.job();
        let all = job.items_at("/status/conditions").iter();
        all.map(|c| format!("{} {}", c["type"].as_str().unwrap(), c["reason"].as_str().unwrap())).collect()
    }

    /// Pods that have not ended.
    fn running(&self) -> Vec<Value> {
        let ended = |p: &Value| matches!(p.str_at("/status/phase"), Some("Succeeded" | "Failed"));
        self.0.api.all(&res::PODS).into_iter().filter(|p| !ended(p)).collect()
    }

    fn set_spec(&self, key: &str, value: Value) {
        let mut job = self.job();
        job["spec"][key] = value;
        self.0.put(job);
    }

    /// Ends a pod now.
    fn end(&self, mut pod: Value, code: i64) {
        let at = crate::util::clock::rfc3339(self.0.cx().now());
        pod["status"] = json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses":
            [{"name": "main", "state": {"terminated": {"exitCode": code, "finishedAt": at}}}]});
        self.0.put(pod);
    }

    fn end_first(&self, code: i64) {
        self.end(self.running().remove(0), code);
    }
}

#[tokio::test]
async fn a_job_runs_its_pods_to_completion() {
    let world = World::with(json!({})).await;
    assert_eq!((world.running().len(), world.status("/active")), (2, json!(2)));
    assert!(world.status("/startTime").is_string());
    assert_eq!(world.running()[0]["metadata"]["finalizers"], json!([FINALIZER]));
    world.end_first(0);
    world.settle().await;
    assert_eq!((world.running().len(), world.status("/succeeded")), (2, json!(1)), "one is left to start");
    world.end_first(0);
    world.settle().await;
    assert_eq!(world.running().len(), 1, "three are enough");
    world.end_first(0);
    world.settle().await;
    assert_eq!(world.conditions(), ["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"]);
    assert_eq!((world.status("/succeeded"), world.status("/uncountedTerminatedPods")), (json!(3), json!({})));
    assert!(world.status("/completionTime").is_string() && world.status("/active").is_null());
    assert!(world.0.api.all(&res::PODS).iter().all(|p| p.items_at("/metadata/finalizers").is_empty()));
}

#[tokio::test]
async fn failures_wait_longer_each_time_and_then_end_the_job() {
    let world = World::with(json!({"parallelism": 1, "completions": 1, "backoffLimit": 2})).await;
    for wait in [10, 20] {
        world.end_first(1);
        assert_eq!(world.settle().await, Requeue::after_seconds(Some(wait)));
        assert!(world.running().is_empty(), "not at once");
        world.0.clock.advance(wait);
        world.settle().await;
        assert_eq!(world.running().len(), 1);
    }
    world.end_first(1);
    world.settle().await;
    assert_eq!(world.conditions(), ["FailureTarget BackoffLimitExceeded", "Failed BackoffLimitExceeded"]);
    assert_eq!(world.status("/failed"), json!(3));
}

#[tokio::test]
async fn an_ended_pod_is_counted_once_though_every_step_may_be_the_last() {
    let world = World::with(json!({"parallelism": 1, "completions": 2})).await;
    let pod = world.running().remove(0);
    world.end(pod.clone(), 0);
    // The uid was written down, then somebody crashed.
    let mut job = world.job();
    job["status"]["uncountedTerminatedPods"] = json!({"succeeded": [pod["metadata"]["uid"]]});
    world.0.put(job);
    world.settle().await;
    assert_eq!(world.status("/succeeded"), json!(1));
    // The finalizer went as well, then somebody crashed.
    let second = world.running().remove(0);
    world.end(second.clone(), 0);
    let mut ended = world.0.get(&res::PODS, "n", second.str_at("/metadata/name").unwrap()).unwrap();
    ended["metadata"]["finalizers"] = json!([]);
    world.0.put(ended);
    let mut job = world.job();
    job["status"]["uncountedTerminatedPods"] = json!({"succeeded": [second["metadata"]["uid"]]});
    world.0.put(job);
    world.settle().await;
    assert_eq!((world.status("/succeeded"), world.conditions().len()), (json!(2), 2));
}

#[tokio::test]
async fn each_index_has_one_pod_that_knows_it() {
    let world = World::with(json!({"completionMode": "Indexed"})).await;
    let pods = world.running();
    let indexes: Vec<_> = pods.iter().map(|p| p["metadata"]["annotations"][INDEX].as_str().unwrap()).collect();
    assert_eq!(indexes, ["0", "1"]);
    assert_eq!((&pods[1]["spec"]["hostname"], &pods[1]["metadata"]["labels"][INDEX]), (&json!("j-1"), &json!("1")));
    assert_eq!(pods[1].str_at("/spec/containers/0/env/0/name"), Some(INDEX_ENV));
    assert!(pods[1].str_at("/metadata/name").unwrap().starts_with("j-1-"));
    world.end(pods[1].clone(), 0);
    world.settle().await;
    assert_eq!(world.status("/completedIndexes"), json!("1"));
    for _ in 0..2 {
        world.end_first(0);
        world.settle().await;
    }
    assert_eq!((world.status("/completedIndexes"), world.status("/succeeded")), (json!("0-2"), json!(3)));
    assert_eq!(world.conditions().len(), 2);
}

#[tokio::test]
async fn an_index_fails_alone() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 2, "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1});
    let world = World::with(spec).await;
    world.end(world.running().remove(0), 1);
    assert_eq!(world.settle().await, Requeue::after_seconds(Some(10)));
    world.0.clock.advance(10);
    world.settle().await;
    let again = world.running().into_iter().find(|p| p["metadata"]["annotations"][INDEX] == "0").unwrap();
    assert_eq!(again["metadata"]["annotations"][INDEX_FAILURES], "1");
    assert_eq!(world.status("/failed"), json!(1));
    world.end(again, 1);
    world.settle().await;
    assert_eq!(world.status("/failedIndexes"), json!("0"));
    assert_eq!(world.running().len(), 1, "the other index goes on");
    world.end_first(0);
    world.settle().await;
    assert_eq!(world.conditions(), ["FailureTarget FailedIndexes", "Failed FailedIndexes"]);
    assert_eq!((world.status("/completedIndexes"), world.status("/failed")), (json!("1"), json!(2)));
}

#[tokio::test]
async fn too_many_failed_indexes_end_the_job() {
    let spec = json!({"completionMode": "Indexed", "backoffLimit": i32::MAX, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0});
    let world = World::with(spec).await;
    world.end_first(1);
    world.settle().await;
    // The other pod was deleted; without a kubelet it is gone at once, but for the finalizer.
    assert_eq!(world.conditions()[0], "FailureTarget MaxFailedIndexesExceeded");
}

#[tokio::test]
async fn a_policy_fails_the_job_or_forgives() {
    let rules = json!({"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let world = World::with(json!({"parallelism": 1, "backoffLimit": 0, "podFailurePolicy": rules})).await;
    world.end_first(7);
    world.settle().await;
    assert!(world.status("/failed").is_null() && world.conditions().is_empty());
    world.0.clock.advance(10);
    world.settle().await;
    world.end_first(42);
    world.settle().await;
    assert_eq!(world.conditions(), ["FailureTarget PodFailurePolicy", "Failed PodFailurePolicy"]);
}

#[tokio::test]
async fn a_policy_says_when_it_is_enough() {
    let policy = json!({"rules": [{"succeededIndexes": "1"}]});
    let world = World::with(json!({"completionMode": "Indexed", "successPolicy": policy})).await;
    world.end(world.running().remove(1), 0);
    world.settle().await;
    assert_eq!(world.conditions()[0], "SuccessCriteriaMet SuccessPolicy");
    assert!(
        world.running().is_empty() || world.running().iter().all(|p| p["metadata"]["deletionTimestamp"].is_string())
    );
}

/// A template whose pods stay for a while when they are deleted.
fn slow_pods() -> Value {
    json!({"metadata": {"labels": {"job": "j", JOB_NAME: "j"}, "finalizers": ["test/slow"]},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}})
}

/// Upstream's integration test `TestSuccessPolicy`: what is cut off when it is enough did not fail.
#[tokio::test]
async fn pods_that_are_too_many_after_success_count_as_nothing() {
    let policy = json!({"rules": [{"succeededIndexes": "1"}]});
    let spec = json!({"completionMode": "Indexed", "completions": 2, "successPolicy": policy, "template": slow_pods()});
    let world = World::with(spec).await;
    world.end(world.running().remove(1), 0);
    world.settle().await;
    let left = world.running().remove(0);
    assert_eq!(
        (left.items_at("/metadata/finalizers"), world.status("/failed")),
        (&[json!("test/slow")][..], Value::Null)
    );
    assert_eq!((world.status("/terminating"), world.status("/completedIndexes")), (json!(1), json!("1")));
    assert_eq!((world.status("/active"), world.conditions().len()), (Value::Null, 1), "it waits for the pod");
}

#[tokio::test]
async fn pods_that_run_when_a_job_fails_have_failed() {
    let rules = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let spec = json!({"completions": 2, "podFailurePolicy": rules, "template": slow_pods()});
    let world = World::with(spec).await;
    world.end_first(42);
    world.settle().await;
    assert_eq!(world.running()[0]["metadata"]["finalizers"], json!(["test/slow"]));
    assert_eq!((world.status("/failed"), world.status("/terminating")), (json!(2), json!(1)));
    assert_eq!(world.conditions(), ["FailureTarget PodFailurePolicy"]);
}

#[tokio::test]
async fn an_index_that_waits_keeps_its_turn() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 10, "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1});
    let world = World::with(spec).await;
    world.end_first(1);
    assert_eq!(world.settle().await, Requeue::after_seconds(Some(10)));
    assert_eq!(world.running().len(), 1, "no other index comes first");
    world.0.clock.advance(10);
    world.settle().await;
    let mut indexes: Vec<_> = world.running().iter().map(|p| p["metadata"]["annotations"][INDEX].clone()).collect();
    indexes.sort_by_key(Value::to_string);
    assert_eq!(indexes, ["0", "1"]);
}

#[tokio::test]
async fn deleted_pods_are_failures_that_are_remembered() {
    let world = World::with(json!({"parallelism": 1, "completions": 1})).await;
    for (count, wait) in [(1, 10), (2, 20), (3, 40)] {
        let mut pod = world.running().remove(0);
        let now = crate::util::clock::rfc3339(world.0.cx().now() + jiff::SignedDuration::from_secs(30));
        pod["metadata"]["deletionTimestamp"] = now.into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        world.0.put(pod);
        assert_eq!(world.settle().await, Requeue::after_seconds(Some(wait)));
        assert!(world.0.api.all(&res::PODS).is_empty(), "nothing held it any longer");
        assert_eq!(world.status("/failed"), json!(count));
        world.0.clock.advance(wait);
        world.settle().await;
        assert_eq!(world.running().len(), 1);
    }
    world.end_first(0);
    world.settle().await;
    assert_eq!(world.conditions().len(), 2);
    world.settle().await;
    assert!(world.1.streaks.lock().is_empty(), "nobody asks any more");
}

#[tokio::test]
async fn fewer_pods_at_once_are_no_failures_to_wait_for() {
    let world = World::with(json!({"template": slow_pods()})).await;
    world.set_spec("parallelism", json!(1));
    world.settle().await;
    world.set_spec("parallelism", json!(2));
    world.settle().await;
    assert_eq!((world.status("/active"), world.status("/terminating")), (json!(2), json!(1)));
}

/// Conformance asks that a Job's end be the end of its finalizers, whatever happened to it.
#[tokio::test]
async fn nothing_of_a_job_that_is_over_is_held() {
    let world = World::with(json!({"parallelism": 1, "completions": 1})).await;
    world.end_first(0);
    world.settle().await;
    let mut pod = world.0.api.all(&res::PODS).remove(0);
    let name = pod.str_at("/metadata/name").unwrap().to_owned();
    pod["metadata"]["finalizers"] = json!([FINALIZER]);
    world.0.put(pod);
    world.settle().await;
    assert!(world.0.get(&res::PODS, "n", &name).unwrap().items_at("/metadata/finalizers").is_empty());
}

#[tokio::test]
async fn an_orphan_that_nobody_adopts_is_not_held() {
    let world = World::with(json!({})).await;
    world.0.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o", "namespace": "n", "uid": "o",
        "labels": {JOB_NAME: "j"}, "finalizers": [FINALIZER]}}));
    world.settle().await;
    assert!(world.0.get(&res::PODS, "n", "o").unwrap().items_at("/metadata/finalizers").is_empty());
}

#[tokio::test]
async fn a_suspended_job_that_ends_has_started() {
    let world = World::with(json!({"suspend": true})).await;
    let mut job = world.job();
    job["status"]["failed"] = 7.into();
    world.0.put(job);
    world.settle().await;
    assert!(world.conditions().contains(&"Failed BackoffLimitExceeded".to_owned()));
    assert!(world.status("/startTime").is_string());
    // But one of nothing, which has nothing to start.
    let world = World::with(json!({"suspend": true, "completions": 0})).await;
    assert_eq!((world.conditions().len(), world.status("/startTime")), (2, Value::Null));
}

#[tokio::test]
async fn suspended_jobs_have_no_pods_and_start_anew() {
    let world = World::with(json!({"suspend": true})).await;
    assert!(world.running().is_empty() && world.status("/startTime").is_null());
    assert_eq!(world.conditions(), ["Suspended JobSuspended"]);
    world.set_spec("suspend", json!(false));
    world.settle().await;
    assert_eq!((world.running().len(), world.conditions()), (2, vec!["Suspended JobResumed".to_owned()]));
    world.set_spec("suspend", json!(true));
    world.settle().await;
    assert!(world.running().is_empty() && world.status("/failed").is_null(), "that is no failure");
    assert!(world.status("/startTime").is_null(), "it may get another template");
}

#[tokio::test]
async fn deadlines_count_from_the_start() {
    let world = World::with(json!({"activeDeadlineSeconds": 30})).await;
    assert_eq!(world.settle().await, Requeue::after_seconds(Some(30)));
    world.0.clock.advance(30);
    world.settle().await;
    assert_eq!(world.conditions()[0], "FailureTarget DeadlineExceeded");
}

#[tokio::test]
async fn fewer_pods_at_once_when_parallelism_shrinks() {
    let world = World::with(json!({})).await;
    world.set_spec("parallelism", json!(1));
    world.settle().await;
    assert_eq!((world.running().len(), world.status("/active"), world.status("/failed")), (1, json!(1), Value::Null));
}

#[tokio::test]
async fn others_jobs_are_left_alone() {
    let world = World::with(json!({"managedBy": "example.com/other"})).await;
    assert!(world.running().is_empty() && world.job().get("status").is_none());
}

#[tokio::test]
async fn pods_of_a_job_that_is_gone_lose_the_finalizer() {
    let world = World::with(json!({})).await;
    world.0.client().delete(&res::JOBS, "n", "j", &Default::default()).await.unwrap();
    world.0.reconcile(&world.1, "n", "j").await.unwrap();
    assert!(world.0.api.all(&res::PODS).iter().all(|p| p.items_at("/metadata/finalizers").is_empty()));
}

#[test_case(None, 1, None; "no time")]
#[test_case(Some(100), 1, Some(-100_000); "long ago")]
fn time_to_live(ttl: Option<i64>, now: i64, want: Option<i64>) {
    let finished =
        json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:00:01Z"}]});
    let spec = ttl.map_or(json!({}), |t| json!({"ttlSecondsAfterFinished": t}));
    let job = Job { spec, status: finished, ..Job::default() };
    assert_eq!(ttl::left(&job, now + want.map_or(0, |w| 100 - w)), want);
}

/// Conformance, [sig-apps]: "Job should adopt matching orphans and release non-matching pods". One that lost all its labels is
/// nobody's to count: nothing may hold it.
#[tokio::test]
async fn a_released_pod_is_not_held() {
    let world = World::with(json!({"parallelism": 1, "completions": 1})).await;
    let mut pod = world.running().remove(0);
    let name = pod.str_at("/metadata/name").unwrap().to_owned();
    assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
    pod.remove_at("/metadata/labels");
    world.0.put(pod);
    world.settle().await;
    let released = world.0.get(&res::PODS, "n", &name).unwrap();
    assert!(released.items_at("/metadata/ownerReferences").is_empty());
    assert!(released.items_at("/metadata/finalizers").is_empty());
}
