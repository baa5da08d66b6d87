//! A whole kubelet over a runtime in memory and an API in memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::client::res;
use crate::kubelet::fake::FakeRuntime;
use crate::kubelet::runtime::{Runtime, SandboxConfig, State};
use crate::kubelet::status::{Failure, FailureKind};
use crate::kubelet::{Config, Kubelet};
use crate::runtime::fake::Cluster;
use crate::util::clock::SystemClock;
use crate::util::tasks::Shutdown;

/// Nothing here takes longer, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which a kubelet that was to do something would have done it: it looks at everything once a second.
const A_WHILE: Duration = Duration::from_secs(3);

struct Bench {
    cluster: Cluster,
    clock: Arc<SystemClock>,
    runtime: Arc<FakeRuntime>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(runtime: impl FnOnce(FakeRuntime) -> FakeRuntime) -> Self {
        let clock = Arc::new(SystemClock);
        let runtime = Arc::new(runtime(FakeRuntime::new(clock.clone()).with_image("i")));
        Self { cluster: Cluster::new(), clock, runtime, dir: tempfile::tempdir().unwrap() }
    }

    /// A kubelet that works while `test` runs, and is then ended as orch ends it.
    async fn with_kubelet(&self, test: impl Future<Output = ()>) {
        let (config, shutdown) = (Config::for_tests(self.dir.path()), Shutdown::new());
        let (client, listers) = (self.cluster.client(), self.cluster.listers.clone());
        let kubelet = Kubelet::new(config, self.runtime.clone(), listers, client, self.clock.clone());
        let test = async {
            test.await;
            shutdown.trigger();
        };
        tokio::join!(kubelet.run(shutdown.clone()), test);
    }

    fn pod(&self, name: &str, mut spec: Value) -> Value {
        spec.set_if_absent("/containers", json!([{"name": "c", "image": "i", "imagePullPolicy": "IfNotPresent"}]));
        spec.set_if_absent("/terminationGracePeriodSeconds", 7);
        spec["nodeName"] = "node".into();
        let meta = json!({"name": name, "namespace": "n"});
        self.cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))
    }

    /// What `kubectl delete` does to the object.
    fn delete(&self, name: &str) {
        let mut pod = self.now(name);
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = pod["spec"]["terminationGracePeriodSeconds"].clone();
        self.cluster.put(pod);
    }

    fn now(&self, name: &str) -> Value {
        self.cluster.get(&res::PODS, "n", name).unwrap()
    }

    /// Phase and containers of a pod.
    fn told(&self, name: &str) -> (Value, Value) {
        let status = self.now(name)["status"].take();
        (status["phase"].clone(), status["containerStatuses"].clone())
    }

    fn condition(&self, name: &str, kind: &str) -> String {
        let pod = self.now(name);
        let all = pod.items_at("/status/conditions");
        let found = all.iter().find(|c| c.str_at("/type") == Some(kind));
        found.and_then(|c| c.str_at("/status")).unwrap_or_default().to_owned()
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            let status = || self.cluster.get(&res::PODS, "n", "p").map(|mut p| p["status"].take());
            assert!(tokio::time::Instant::now() < end, "{what}: never; {:?}; {:?}", self.runtime.calls(), status());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn has_nothing(&self) -> bool {
        let there = self.runtime.state();
        there.sandboxes.is_empty() && there.containers.is_empty()
    }

    /// Calls that change something.
    fn count(&self, call: &str) -> usize {
        self.runtime.calls().iter().filter(|c| c.starts_with(call)).count()
    }
}

#[tokio::test]
async fn a_pod_runs_is_deleted_and_leaves_nothing() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({}));
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True").await;
            assert_eq!(bench.now("p").str_at("/status/phase"), Some("Running"));
            let hosts = bench.dir.path().join("agent/kubelet/pods/uid-p/etc-hosts");
            let mode = std::os::unix::fs::PermissionsExt::mode(&hosts.metadata().unwrap().permissions());
            assert_eq!(mode & 0o777, 0o644, "every user of a container reads it");
            let log = bench.dir.path().join("links/p_n_c-c2.log").read_link().unwrap();
            assert_eq!(log, bench.dir.path().join("logs/n_p_uid-p/c/0.log"));
            bench.delete("p");
            bench.until("nothing is left", Bench::has_nothing).await;
            let empty = |dir: &str| bench.dir.path().join(dir).read_dir().unwrap().next().is_none();
            let gone = |_: &Bench| ["logs", "links", "agent/kubelet/pods"].into_iter().all(empty);
            bench.until("nothing is left on the disk either", gone).await;
        })
        .await;
    assert_eq!(bench.runtime.calls().iter().filter(|c| c.starts_with("stop c ")).collect::<Vec<_>>(), ["stop c 7"]);
}

#[tokio::test]
async fn a_crash_loop_is_held_back_and_says_so() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({}));
            // The first restart comes at once.
            for attempt in 0..2 {
                let runs = |b: &Bench| {
                    b.runtime.newest("c").is_some_and(|c| c.state == State::Running && c.attempt == attempt)
                };
                bench.until("it is started", runs).await;
                bench.runtime.exit("c", 1);
            }
            let waiting = |b: &Bench| {
                b.now("p").str_at("/status/containerStatuses/0/state/waiting/reason") == Some("CrashLoopBackOff")
            };
            bench.until("it says so", waiting).await;
            tokio::time::sleep(A_WHILE).await;
            assert_eq!(bench.count("start c"), 2);
            assert_eq!(bench.now("p").int_at("/status/containerStatuses/0/restartCount"), Some(1));
            assert_eq!(bench.now("p").int_at("/status/containerStatuses/0/lastState/terminated/exitCode"), Some(1));
        })
        .await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_it_waits_for_its_image_goes_at_once() {
    let bench = Bench::new(FakeRuntime::with_stalled_registry);
    bench
        .with_kubelet(async {
            let slow = json!([{"name": "c", "image": "slow:v1"}]);
            bench.pod("p", json!({ "containers": slow }));
            bench.until("the pull has begun", |b| b.count("pull slow:v1") == 1).await;
            // Others whose image is there do not wait for it, however many pulls there are.
            for n in 0..5 {
                bench.pod(&format!("also-{n}"), json!({ "containers": slow }));
            }
            bench.pod("q", json!({}));
            bench.until("another pod is ready", |b| b.condition("q", "Ready") == "True").await;
            bench.delete("p");
            let gone = |b: &Bench| b.runtime.state().sandboxes.iter().all(|s| s.name != "p");
            bench.until("nothing of it is left", gone).await;
        })
        .await;
}

/// What fits is given to the running container; what does not is not, and the status says why.
#[tokio::test]
async fn a_running_pod_gets_other_resources() {
    let bench = Bench::new(|r| r);
    let ask = |cpu: &str| {
        let mut pod = bench.now("p");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = cpu.into();
        bench.cluster.put(pod);
    };
    let has = |b: &Bench, cpu: &str| b.told("p").1[0].str_at("/resources/requests/cpu") == Some(cpu);
    bench
        .with_kubelet(async {
            let container = json!({"name": "c", "image": "i", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "10m"}}});
            bench.pod("p", json!({"containers": [container]}));
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True" && has(b, "10m")).await;
            ask("20m");
            bench.until("it has more", |b| has(b, "20m")).await;
            assert_eq!((bench.count("update "), bench.told("p").1[0]["restartCount"].clone()), (1, json!(0)));
            ask("100000");
            bench.until("it is told why not", |b| b.condition("p", "PodResizePending") == "True").await;
            assert!(has(&bench, "20m") && bench.count("update ") == 1);
            ask("15m");
            bench.until("it has less", |b| has(b, "15m")).await;
            assert_eq!((bench.count("update "), bench.told("p").1[0]["restartCount"].clone()), (2, json!(0)));
        })
        .await;
}

#[tokio::test]
async fn a_critical_pod_gets_the_room_of_another_one() {
    let bench = Bench::new(|r| r.with_stubborn("large"));
    // Quarters of what the machine has.
    let asks = |name: &str, quarters: i64, priority: i64| {
        let node = bench.cluster.get(&res::NODES, "", "node").unwrap();
        let all = Quantity::parse(node.str_at("/status/allocatable/cpu").unwrap()).unwrap().milli_value();
        let cpu = format!("{}m", all / 4 * quarters);
        json!({"priority": priority, "terminationGracePeriodSeconds": 3000, "containers": [{"name": name, "image": "i",
            "imagePullPolicy": "IfNotPresent", "resources": {"requests": {"cpu": cpu}}}]})
    };
    let failed = |b: &Bench, name: &str, why: &str| b.now(name).str_at("/status/reason") == Some(why);
    bench
        .with_kubelet(async {
            let known = |b: &Bench| {
                let node = b.cluster.get(&res::NODES, "", "node");
                node.is_some_and(|n| n.str_at("/status/allocatable/cpu").is_some())
            };
            bench.until("the node is known", known).await;
            bench.pod("small", asks("small", 1, 0));
            bench.pod("large", asks("large", 2, 0));
            let ready = |b: &Bench| ["small", "large"].iter().all(|p| b.condition(p, "Ready") == "True");
            bench.until("both are ready", ready).await;
            bench.pod("late", asks("late", 2, 7));
            bench.until("one that is not critical finds no room", |b| failed(b, "late", "OutOfcpu")).await;
            bench.pod("critical", asks("critical", 3, 2_000_000_000));
            bench.until("another one makes room", |b| b.condition("large", "DisruptionTarget") == "True").await;
            // Long enough for a pod to start.
            tokio::time::sleep(A_WHILE).await;
            bench.pod("later", asks("later", 1, 7));
            bench.until("nobody else gets the room", |b| failed(b, "later", "OutOfcpu")).await;
            assert_eq!(bench.count("start critical"), 0, "it waits for the room");
            bench.runtime.exit("large", 0);
            bench.until("it is ready", |b| b.condition("critical", "Ready") == "True").await;
            bench.until("what made room has ended", |b| failed(b, "large", "Preempting")).await;
            assert_eq!(bench.condition("large", "DisruptionTarget"), "True");
            assert_eq!(bench.condition("small", "Ready"), "True", "no more of them than need be");
        })
        .await;
}

#[tokio::test]
async fn a_pod_that_is_evicted_in_the_middle_of_a_step_says_why() {
    let bench = Bench::new(FakeRuntime::with_stalled_registry);
    let (config, shutdown) = (Config::for_tests(bench.dir.path()), Shutdown::new());
    let (client, listers) = (bench.cluster.client(), bench.cluster.listers.clone());
    let kubelet = Kubelet::new(config, bench.runtime.clone(), listers, client, bench.clock.clone());
    let test = async {
        bench.pod("p", json!({"containers": [{"name": "c", "image": "slow:v1"}]}));
        bench.until("the pull has begun", |b| b.count("pull slow:v1") == 1).await;
        let kind = FailureKind::Disruption { grace_seconds: 0 };
        let failure = Failure { reason: "Evicted".into(), message: "why".into(), kind };
        kubelet.pods.fail("uid-p", failure);
        bench.until("it has failed", |b| b.now("p").str_at("/status/phase") == Some("Failed")).await;
        let status = bench.now("p")["status"].take();
        assert_eq!((status.str_at("/reason"), status.str_at("/message")), (Some("Evicted"), Some("why")));
        shutdown.trigger();
    };
    tokio::join!(kubelet.run(shutdown.clone()), test);
}

#[tokio::test]
async fn a_pod_that_ended_for_good_stays_as_it_is_until_it_is_deleted() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({"restartPolicy": "Never"}));
            bench.until("it runs", |b| b.runtime.newest("c").is_some_and(|c| c.state == State::Running)).await;
            bench.runtime.exit("c", 0);
            bench.until("it has succeeded", |b| b.now("p").str_at("/status/phase") == Some("Succeeded")).await;
            tokio::time::sleep(A_WHILE).await;
            assert!(bench.runtime.newest("c").is_some(), "somebody may want its logs");
            assert_eq!(bench.count("start c"), 1);
            // Somebody prunes the runtime; what was told stays told.
            let before = bench.told("p");
            let id = bench.runtime.newest("c").unwrap().id;
            bench.runtime.remove_container(&id).await.unwrap();
            tokio::time::sleep(A_WHILE).await;
            assert_eq!(bench.told("p"), before);
        })
        .await;
    // The next orch sees nothing of it in the runtime, and leaves it as it is, too.
    let before = bench.told("p");
    bench.with_kubelet(tokio::time::sleep(A_WHILE)).await;
    assert_eq!(bench.told("p"), before);
    bench
        .with_kubelet(async {
            bench.delete("p");
            bench.until("nothing is left", Bench::has_nothing).await;
        })
        .await;
}

#[tokio::test]
async fn the_next_kubelet_takes_over_what_runs() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({}));
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True").await;
        })
        .await;
    let (calls, status) = (bench.runtime.calls(), bench.told("p"));
    bench.with_kubelet(tokio::time::sleep(A_WHILE)).await;
    assert_eq!(bench.runtime.calls(), calls, "nothing was stopped or started");
    assert_eq!(bench.told("p"), status);
}

#[tokio::test]
async fn what_nobody_wants_is_stopped_and_swept_away() {
    let bench = Bench::new(|r| r);
    let orphan = SandboxConfig { name: "old".into(), uid: "old".into(), ..SandboxConfig::default() };
    bench.runtime.run_sandbox(&orphan).await.unwrap();
    // The other one was being removed when orch was killed.
    let pods = bench.dir.path().join("agent/kubelet/pods");
    for uid in ["old", "older"] {
        std::fs::create_dir_all(pods.join(uid).join("volumes/kubernetes.io~empty-dir/v")).unwrap();
    }
    let gone = |b: &Bench| b.has_nothing() && pods.read_dir().unwrap().next().is_none();
    bench.with_kubelet(bench.until("both are gone", gone)).await;
}

#[tokio::test]
async fn a_sandbox_that_died_is_replaced_and_init_containers_run_again() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({"initContainers": [{"name": "i", "image": "i", "imagePullPolicy": "Never"}]}));
            let runs =
                |name: &'static str| move |b: &Bench| b.runtime.newest(name).is_some_and(|c| c.state == State::Running);
            bench.until("the init container runs", runs("i")).await;
            bench.runtime.exit("i", 0);
            bench.until("the app runs", runs("c")).await;
            let first = bench.now("p").str_at("/status/podIP").map(str::to_owned);
            let sandbox = bench.runtime.state().sandboxes[0].id.clone();
            bench.runtime.stop_sandbox(&sandbox).await.unwrap();
            bench.until("the init container runs again", runs("i")).await;
            assert_eq!(bench.runtime.newest("c").unwrap().state, State::Exited, "the app waits for it");
            bench.runtime.exit("i", 0);
            bench.until("the app runs again", |b| b.condition("p", "Ready") == "True").await;
            assert_ne!(bench.now("p").str_at("/status/podIP").map(str::to_owned), first);
            assert_eq!(bench.now("p").int_at("/status/containerStatuses/0/restartCount"), Some(1));
        })
        .await;
}

#[tokio::test]
async fn a_volume_that_lost_its_source_does_not_hold_up_its_pod() {
    let bench = Bench::new(|r| r);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": {"a": "1"}});
    bench
        .with_kubelet(async {
            let volumes = json!([{"name": "v", "configMap": {"name": "m"}}]);
            bench.pod("p", json!({ "volumes": volumes }));
            tokio::time::sleep(A_WHILE).await;
            assert_eq!(bench.count("create"), 0, "it has never been there");
            bench.cluster.put(map);
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True").await;
            let objects = bench.cluster.listers.objects("", "configmaps");
            objects.delete(&crate::api::object::ObjectKey::new("n", "m"));
            tokio::time::sleep(A_WHILE).await;
            bench.runtime.exit("c", 1);
            bench.until("it is started again all the same", |b| b.count("start c") == 2).await;
        })
        .await;
}

#[tokio::test]
async fn containers_that_end_one_after_another_are_told_one_by_one() {
    let bench = Bench::new(|r| r.with_stubborn("slow"));
    let container = |name| json!({"name": name, "image": "i", "imagePullPolicy": "IfNotPresent"});
    let code =
        |b: &Bench, n: usize| b.now("p").int_at(&format!("/status/containerStatuses/{n}/state/terminated/exitCode"));
    bench
        .with_kubelet(async {
            bench.pod("p", json!({"containers": [container("quick"), container("slow")]}));
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True").await;
            // So that its last status can be seen.
            let mut kept = bench.now("p");
            kept["metadata"]["finalizers"] = json!(["test.example/keep"]);
            bench.cluster.put(kept);
            bench.delete("p");
            bench.until("the first end is told", |b| code(b, 0) == Some(143)).await;
            assert_eq!((code(&bench, 1), bench.condition("p", "Ready").as_str()), (None, "False"));
            assert_eq!(bench.now("p").str_at("/status/phase"), Some("Running"));
            bench.runtime.exit("slow", 3);
            bench.until("nothing is left", Bench::has_nothing).await;
        })
        .await;
    assert_eq!(code(&bench, 1), Some(3), "the last status has the last end");
}

#[tokio::test]
async fn a_pod_that_does_not_tell_its_state_is_left_alone_and_holds_up_nobody() {
    let bench = Bench::new(|r| r);
    bench
        .with_kubelet(async {
            bench.pod("p", json!({}));
            bench.until("it is ready", |b| b.condition("p", "Ready") == "True").await;
            bench.runtime.confuse("uid-p", true);
            bench.pod("q", json!({}));
            bench.until("another one is ready", |b| b.condition("q", "Ready") == "True").await;
            assert_eq!(bench.count("start c"), 2, "what runs is not started again");
            assert_eq!(bench.condition("p", "Ready"), "True");
            bench.runtime.confuse("uid-p", false);
            bench.delete("p");
            bench.until("it can go", |b| b.runtime.state().sandboxes.iter().all(|s| s.name != "p")).await;
        })
        .await;
}
