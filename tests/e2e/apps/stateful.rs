//! StatefulSets: one pod for each name, and which edition of the template each has.

use serde_json::{Value, json};

use super::{has_a_status, is_listed_and_deleted, scales};
use crate::scenario::{Api, name, pod, ready, template, workload};

fn set(app: &str, replicas: u64, command: &[&str]) -> Value {
    let mut set = workload(app, replicas, template(app, command));
    set["spec"]["serviceName"] = app.into();
    set
}

/// The pods' editions by their ordinal; none as long as not all are ready.
fn editions(pods: &[Value], wanted: usize) -> Option<Vec<String>> {
    let mut all: Vec<(&str, String)> = pods
        .iter()
        .filter(|p| ready(p))
        .map(|p| (name(p), p["metadata"]["annotations"]["edition"].as_str().unwrap_or("none").to_owned()))
        .collect();
    all.sort();
    (all.len() == wanted).then(|| all.into_iter().map(|p| p.1).collect())
}

/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling
/// updates of template modifications"
pub async fn canary(api: Api) {
    let mut first = set("canary", 2, &["sleep", "1000"]);
    first["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    first["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "one"});
    api.create("statefulsets", first).await;
    let are = |api: Api, why: &'static str, wanted: [&'static str; 2]| async move {
        api.until_pods(why, "canary", |pods| editions(pods, 2).is_some_and(|e| e == wanted)).await
    };
    let before = are(api.clone(), "both run", ["one", "one"]).await;
    api.patch("statefulsets/canary", json!({"spec": {"template": {"metadata": {"annotations": {"edition": "two"}}}}}))
        .await;
    let status = |s: &Value, field: &str| s["status"][field].as_str().unwrap_or_default().to_owned();
    api.until("the new revision is seen", "statefulsets/canary", |s| {
        s["status"]["observedGeneration"] == s["metadata"]["generation"]
            && status(s, "updateRevision") != status(s, "currentRevision")
    })
    .await;
    let partition = |n: u64| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}});
    // One that goes below the partition comes back as it was.
    api.delete("pods/canary-1").await;
    let uid = |pods: &[Value], ordinal: &str| {
        pods.iter().find(|p| name(p) == ordinal).map(|p| p["metadata"]["uid"].clone()).unwrap_or_default()
    };
    let was = uid(&before, "canary-1");
    api.until_pods("it came back as it was", "canary", |pods| {
        editions(pods, 2).is_some_and(|e| e == ["one", "one"]) && uid(pods, "canary-1") != was
    })
    .await;
    api.patch("statefulsets/canary", partition(1)).await;
    let after = are(api.clone(), "the last one is the canary", ["one", "two"]).await;
    assert_eq!(uid(&after, "canary-0"), uid(&before, "canary-0"), "nobody touched the other");
    // Both come back as they were.
    api.delete("pods?labelSelector=app%3Dcanary").await;
    api.until_pods("each came back in its edition", "canary", |pods| {
        editions(pods, 2).is_some_and(|e| e == ["one", "two"])
            && ["canary-0", "canary-1"].iter().all(|n| uid(pods, n) != uid(&after, n))
    })
    .await;
    api.patch("statefulsets/canary", partition(0)).await;
    are(api.clone(), "the next phase", ["two", "two"]).await;
    api.until("the update is the present", "statefulsets/canary", |s| {
        status(s, "updateRevision") == status(s, "currentRevision")
    })
    .await;
}

/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with
/// unhealthy pods"
pub async fn burst(api: Api) {
    let mut unhealthy = set("burst", 1, &["sleep", "1000"]);
    unhealthy["spec"]["podManagementPolicy"] = "Parallel".into();
    unhealthy["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1});
    api.create("statefulsets", unhealthy).await;
    let run = |pods: &[Value], n: usize| {
        pods.len() == n && pods.iter().all(|p| p["status"]["phase"] == "Running" && !ready(p))
    };
    api.until_pods("the first runs", "burst", |pods| run(pods, 1)).await;
    api.patch("statefulsets/burst", json!({"spec": {"replicas": 3}})).await;
    api.until_pods("all run though none is ready", "burst", |pods| run(pods, 3)).await;
    api.patch("statefulsets/burst", json!({"spec": {"replicas": 0}})).await;
    api.until("none is left", "statefulsets/burst", |s| s["status"]["replicas"] == 0).await;
    api.until_pods("all went", "burst", <[_]>::is_empty).await;
}

/// Of an update that never gets ready as many pods are taken as may be missing, and the others serve on.
pub async fn two_at_a_time(api: Api) {
    let mut first = set("two", 4, &["sleep", "1000"]);
    first["spec"]["podManagementPolicy"] = "Parallel".into();
    first["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    first["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "one"});
    api.create("statefulsets", first).await;
    api.until_pods("all run", "two", |pods| editions(pods, 4).is_some()).await;
    let mut broken = template("two", &["sleep", "1000"]);
    broken["metadata"]["annotations"] = json!({"edition": "two"});
    broken["spec"]["containers"][0]["image"] = "localhost/orch/absent:v1".into();
    broken["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    api.patch("statefulsets/two", json!({"spec": {"template": broken}})).await;
    let of = |pods: &[Value], edition: &str| {
        let mut all: Vec<String> = pods
            .iter()
            .filter(|p| p["metadata"]["annotations"]["edition"] == edition && (edition == "two" || ready(p)))
            .map(|p| name(p).to_owned())
            .collect();
        all.sort();
        all
    };
    api.until_pods("two are taken", "two", |pods| of(pods, "two") == ["two-2", "two-3"]).await;
    // Whoever took a third one would have done it before another set has run.
    api.create("statefulsets", set("other", 1, &["sleep", "1000"])).await;
    api.until("another set runs", "statefulsets/other", |s| s["status"]["readyReplicas"] == 1).await;
    let pods = api.pods("two").await;
    assert_eq!((of(&pods, "one"), of(&pods, "two").len()), (vec!["two-0".to_owned(), "two-1".to_owned()], 2));
}

/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset"
pub async fn evicted_by_a_port(api: Api) {
    // A node's kubelet refuses what the scheduler was not asked about.
    let take_port = |spec: &mut Value| {
        spec["nodeName"] = "box".into();
        spec["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 21017}]);
    };
    let mut holder = pod("holder", &["sleep", "1000"]);
    take_port(&mut holder["spec"]);
    api.create("pods", holder).await;
    api.until("the port is taken", "pods/holder", ready).await;
    let since = api.get("pods").await["metadata"]["resourceVersion"].clone();
    let mut wants = set("evicted", 1, &["sleep", "1000"]);
    take_port(&mut wants["spec"]["template"]["spec"]);
    api.create("statefulsets", wants).await;
    let (mut failed, mut made) = (false, 0);
    api.follow("pods?labelSelector=app%3Devicted", &since, |kind, pod| {
        failed |= pod["status"]["phase"] == "Failed";
        made += usize::from(kind == "ADDED");
        failed && made > 1
    })
    .await;
    api.delete("pods/holder").await;
    api.until("it runs once the port is free", "pods/evicted-0", ready).await;
}

/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource",
/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints",
/// "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of
/// StatefulSets"
pub async fn scale_status_and_collection(api: Api) {
    api.create("statefulsets", set("ss", 1, &["sleep", "1000"])).await;
    api.until("it runs", "statefulsets/ss", |s| s["status"]["readyReplicas"] == 1).await;
    scales(&api, "statefulsets/ss", 1).await;
    has_a_status(&api, "statefulsets", "ss").await;
    is_listed_and_deleted(&api, "/apis/apps/v1", "statefulsets", "ss").await;
}
