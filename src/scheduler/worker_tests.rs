//! The whole scheduler beside a fake API server, which binds nobody: what it writes, in which order, and when it goes wrong.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Config, Scheduler};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, Res, res};
use crate::runtime::fake::Cluster;
use crate::util::clock::SystemClock;
use crate::util::tasks::Shutdown;

fn cluster() -> Cluster {
    let cluster = Cluster::new();
    cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}}));
    cluster
}

/// A cluster with a pod whose claim waits for it.
fn with_claim() -> Cluster {
    let cluster = cluster();
    cluster.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
        "provisioner": "p.example.com", "volumeBindingMode": "WaitForFirstConsumer"}));
    cluster.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": "n", "name": "data"}, "spec": {"storageClassName": "late"}}));
    cluster.put(pod("p", 0, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})));
    cluster
}

fn pod(name: &str, priority: i32, mut spec: Value) -> Value {
    spec["priority"] = priority.into();
    spec["schedulerName"] = "default-scheduler".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": name}, "spec": spec})
}

fn needs(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

fn text(cluster: &Cluster, res: &Res, name: &str, at: &str) -> Option<String> {
    cluster.get(res, "n", name)?.str_at(at).map(str::to_owned)
}

fn nominated(cluster: &Cluster, pod: &str) -> Option<String> {
    text(cluster, &res::PODS, pod, "/status/nominatedNodeName")
}

fn selected(cluster: &Cluster) -> Option<String> {
    text(cluster, &res::PERSISTENT_VOLUME_CLAIMS, "data", "/metadata/annotations/volume.kubernetes.io~1selected-node")
}

/// What was told about pods: reason, message.
fn told(cluster: &Cluster) -> Vec<(String, String)> {
    let all = cluster.api.all(&res::EVENTS);
    let of = |e: &Value, at: &str| e.str_at(at).unwrap_or_default().to_owned();
    all.iter().map(|e| (of(e, "/reason"), of(e, "/message"))).collect()
}

fn heard(cluster: &Cluster, message: &str) -> bool {
    told(cluster).iter().any(|(_, said)| said == message)
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..8_000 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("it never came to that");
}

/// Runs the scheduler while `story` happens.
async fn run<Fut: Future<Output = ()>>(cluster: &Cluster, story: impl FnOnce(Client) -> Fut) {
    let stop = Shutdown::new();
    let cx = cluster.cx();
    // Events that come at the same moment would have the same name.
    let clock = Arc::new(SystemClock);
    let scheduler = Scheduler::new(Config::default(), cx.listers, cx.client.clone(), clock);
    let tell = async {
        story(cx.client).await;
        stop.trigger();
    };
    tokio::join!(scheduler.run(stop.clone()), tell);
}

#[tokio::test]
async fn a_claim_that_goes_while_it_is_waited_for_is_an_error_and_the_pod_is_tried_again() {
    let cluster = &with_claim();
    run(cluster, |client| async move {
        until(|| selected(cluster).is_some()).await;
        assert_eq!(nominated(cluster, "p").as_deref(), Some("n1"), "others see where it will be, long before it is bound");
        let options = DeleteOptions::default();
        client.delete(&res::PERSISTENT_VOLUME_CLAIMS, "n", "data", &options).await.unwrap();
        let why = "running PreBind plugin \"VolumeBinding\": binding volumes: failed to check provisioning pvc: could not \
            find v1.PersistentVolumeClaim \"n/data\"";
        until(|| heard(cluster, why)).await;
        until(|| nominated(cluster, "p").is_none()).await;
        let again = "0/1 nodes are available: persistentvolumeclaim \"data\" not found. not found";
        until(|| heard(cluster, again)).await;
    })
    .await;
    assert!(!cluster.api.take_log().iter().any(|line| line.ends_with("/binding")));
}

#[tokio::test]
async fn a_volume_that_cannot_be_made_is_noticed_at_once_and_one_that_is_made_ends_the_wait() {
    let cluster = &with_claim();
    run(cluster, |_| async move {
        until(|| selected(cluster).is_some()).await;
        let mut claim = cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "data").unwrap();
        claim.remove_at("/metadata/annotations");
        cluster.put(claim);
        let why = "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"data\"";
        until(|| heard(cluster, why)).await;
        until(|| selected(cluster).is_some()).await;
        let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["b"]}]}]}});
        let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {"storageClassName": "late", "nodeAffinity": elsewhere}});
        cluster.put(volume.clone());
        let mut claim = cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "data").unwrap();
        claim["spec"]["volumeName"] = "pv".into();
        claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
        cluster.put(claim);
        let why = "running PreBind plugin \"VolumeBinding\": binding volumes: pv \"pv\" node affinity doesn't match node \
            \"n1\": no matching NodeSelectorTerms";
        until(|| heard(cluster, why)).await;
        volume.remove_at("/spec/nodeAffinity");
        cluster.put(volume);
        until(|| heard(cluster, "Successfully assigned n/p to n1")).await;
    })
    .await;
    assert!(cluster.api.take_log().contains(&"POST /api/v1/namespaces/n/pods/p/binding".to_owned()));
}

#[tokio::test]
async fn who_is_not_the_least_takes_the_promise_of_who_is_less() {
    let cluster = &cluster();
    let mut low = pod("low", 1, needs("2"));
    low["metadata"]["finalizers"] = json!(["example.com/stay"]);
    low["spec"]["nodeName"] = "n1".into();
    cluster.put(low);
    cluster.put(pod("mid", 5, needs("2")));
    run(cluster, |_| async move {
        until(|| nominated(cluster, "mid").is_some()).await;
        until(|| told(cluster).iter().any(|(reason, _)| reason == "Preempted")).await;
        cluster.put(pod("high", 9, needs("2")));
        until(|| nominated(cluster, "high").is_some() && nominated(cluster, "mid").is_none()).await;
    })
    .await;
    let why = cluster.get(&res::PODS, "n", "low").unwrap();
    let why = why.items_at("/status/conditions").iter().find(|c| c["type"] == "DisruptionTarget").unwrap().clone();
    assert_eq!(why["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let events = cluster.api.all(&res::EVENTS);
    let event = events.iter().find(|e| e["reason"] == "Preempted").unwrap();
    let of = (event.str_at("/related/name"), event.str_at("/source/component"), event.str_at("/reportingComponent"));
    assert_eq!(of, (Some("mid"), Some("default-scheduler"), Some("default-scheduler")));
}

#[tokio::test]
async fn a_pod_that_goes_while_it_is_bound_leaves_its_place_at_once() {
    let cluster = &with_claim();
    let mut big = pod("p", 0, needs("2"));
    big["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    big["metadata"]["finalizers"] = json!(["example.com/stay"]);
    cluster.put(big);
    run(cluster, |client| async move {
        until(|| selected(cluster).is_some()).await;
        cluster.put(pod("next", 0, needs("2")));
        client.delete(&res::PODS, "n", "p", &DeleteOptions::default()).await.unwrap();
        until(|| heard(cluster, "Successfully assigned n/next to n1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_promise_that_somebody_takes_back_wakes_those_who_had_to_respect_it() {
    let cluster = &cluster();
    let mut gated = pod("gated", 5, needs("2"));
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/later"}]);
    let mut promised = gated.clone();
    promised["status"]["nominatedNodeName"] = "n1".into();
    cluster.put(promised);
    cluster.put(pod("p", 0, needs("2")));
    run(cluster, |_| async move {
        until(|| told(cluster).iter().any(|(reason, _)| reason == "FailedScheduling")).await;
        cluster.put(gated);
        until(|| heard(cluster, "Successfully assigned n/p to n1")).await;
    })
    .await;
}
