//! What people get wrong, on two nodes with real containers: each ends in the state and the condition that upstream's would,
//! and no pod is lost or doubled.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::{Value, json};

use super::jobs::{job, reason};
use crate::scenario::{Api, condition, name, names, pod, ready, template, workload};

/// Names of the pods of each owner, by the owner's name; "" has those of nobody.
fn by_owner(pods: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods {
        let owners = pod["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        assert!(owners.len() < 2, "two have it: {pod}");
        let owner = owners.first().map(|o| o["name"].as_str().unwrap().to_owned()).unwrap_or_default();
        all.entry(owner).or_default().push(name(pod).to_owned());
    }
    all
}

fn counts(pods: &[Value]) -> Vec<(String, usize)> {
    by_owner(pods).into_iter().map(|(owner, pods)| (owner, pods.len())).collect()
}

/// A set whose selector is the label `app`, which is not its name.
fn named(set: &str, app: &str, replicas: u64) -> Value {
    let mut all = workload(app, replicas, template(app, &["sleep", "1000"]));
    all["metadata"] = json!({"name": set});
    all
}

/// Two sets and a Deployment select the same label. Each makes what it lacks and counts only its own.
pub async fn selectors_that_match_others_pods(api: Api) {
    let since = api.get("pods").await["metadata"]["resourceVersion"].clone();
    for set in ["left", "right"] {
        api.create("replicasets", named(set, "shared", 2)).await;
    }
    api.create("deployments", named("above", "shared", 1)).await;
    let all_run = |pods: &[Value]| pods.len() == 5 && pods.iter().all(ready);
    let pods = api.until_pods("each has its own", "shared", all_run).await;
    let before = by_owner(&pods);
    assert_eq!(before.values().map(Vec::len).collect::<Vec<_>>(), [1, 2, 2], "{before:?}");
    // Of one that shrinks only its own go.
    api.patch("replicasets/left", json!({"spec": {"replicas": 0}})).await;
    let after = api.until_pods("what it had is gone", "shared", |pods| pods.len() == 3).await;
    let mut wanted = before.clone();
    wanted.remove("left");
    assert_eq!(by_owner(&after), wanted);
    for (what, replicas) in [("replicasets/left", 0), ("replicasets/right", 2), ("deployments/above", 1)] {
        api.until("it counts its own", what, |s| s["status"]["readyReplicas"].as_u64().unwrap_or(0) == replicas).await;
    }
    // Another one's end is seen by all; nobody has made a pod more than was wanted.
    api.create("pods", pod("marker", &["sleep", "1000"])).await;
    let mut made = Vec::new();
    api.follow("pods", &since, |kind, pod| {
        if kind == "ADDED" {
            made.push(name(pod).to_owned());
        }
        made.last().is_some_and(|n| n == "marker")
    })
    .await;
    assert_eq!(made.len(), 6, "{made:?}");
}

/// Two sets are made at one time and want the one pod that is there: one of them gets it, and the other one makes its own.
/// When the one goes and leaves the pod behind, the other has one too many.
pub async fn two_fight_over_one_pod(api: Api) {
    api.create("pods", pod("prize", &["sleep", "1000"])).await;
    api.until("it runs", "pods/prize", ready).await;
    let sets = ["left", "right"];
    join_all(sets.map(|set| {
        let api = api.clone();
        async move { api.create("replicasets", named(set, "prize", 1)).await }
    }))
    .await;
    let one_each = [("left".to_owned(), 1), ("right".to_owned(), 1)];
    let pods = api.until_pods("each has one", "prize", |p| p.iter().all(ready) && counts(p) == one_each).await;
    let owners = by_owner(&pods);
    let (winner, loser) = if owners["left"] == ["prize"] { ("left", "right") } else { ("right", "left") };
    assert_eq!(owners[winner], ["prize"], "{owners:?}");
    // Nobody may give it a second controller.
    let other = api.get(&format!("replicasets/{loser}")).await["metadata"]["uid"].clone();
    let mut both = api.get("pods/prize").await["metadata"]["ownerReferences"].clone();
    both.as_array_mut()
        .unwrap()
        .push(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": loser, "uid": other, "controller": true}));
    let patch = json!({"metadata": {"ownerReferences": both}});
    let (code, refusal) = api.send("PATCH", "pods/prize", "application/merge-patch+json", &patch).await;
    assert_eq!(code, 422, "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("Only one reference can have Controller set to true"));
    let orphan = json!({"propagationPolicy": "Orphan"});
    let (code, _) = api.send("DELETE", &format!("replicasets/{winner}"), "application/json", &orphan).await;
    assert_eq!(code, 200);
    api.gone(&format!("replicasets/{winner}")).await;
    let one = [(loser.to_owned(), 1)];
    let left = api.until_pods("the other one keeps one of the two", "prize", |p| counts(p) == one).await;
    let known = |p: &Value| p["metadata"]["uid"].clone();
    assert!(pods.iter().any(|p| known(p) == known(&left[0])), "no third one was made: {left:?}");
}

/// Owners that never were, that are elsewhere, and one of two that is there.
pub async fn owners_that_never_existed(api: Api) {
    let reference = |kind: &str, name: &str, uid: &str| {
        let version = if kind == "ReplicaSet" { "apps/v1" } else { "v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid})
    };
    let nobody = || reference("ReplicaSet", "never", "7c2cbd54-b2cd-4a61-b3cb-3f5ec4e1c1d6");
    let elsewhere = api.get("/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt").await;
    let elsewhere = reference("ConfigMap", "kube-root-ca.crt", elsewhere["metadata"]["uid"].as_str().unwrap());
    let here = api.get(&format!("/api/v1/namespaces/{}/configmaps/kube-root-ca.crt", api.namespace)).await;
    let here = reference("ConfigMap", "kube-root-ca.crt", here["metadata"]["uid"].as_str().unwrap());
    let owned = |name: &str, owners: Value| {
        let mut pod = pod(name, &["sleep", "1000"]);
        pod["metadata"]["ownerReferences"] = owners;
        pod
    };
    api.create("pods", owned("both", json!([here, nobody()]))).await;
    api.create("pods", owned("orphan", json!([nobody()]))).await;
    let abroad = api.create("pods", owned("abroad", json!([elsewhere]))).await;
    for gone in ["orphan", "abroad"] {
        api.gone(&format!("pods/{gone}")).await;
    }
    let uid = abroad["metadata"]["uid"].as_str().unwrap();
    let told = format!("events?fieldSelector=involvedObject.uid%3D{uid},reason%3DOwnerRefInvalidNamespace");
    let told = api.until("somebody says why", &told, |l| l["items"].as_array().is_some_and(|i| i.len() == 1)).await;
    assert_eq!(told["items"][0]["type"], "Warning");
    let left = api.until("it has the owner that is there", "pods/both", |p| {
        p["metadata"]["ownerReferences"].as_array().is_some_and(|o| o.len() == 1)
    });
    assert_eq!(left.await["metadata"]["ownerReferences"][0]["uid"], here["uid"]);
    api.until("and runs", "pods/both", ready).await;
}

/// Jobs that sleep too long, have no image, no node, or no luck.
pub async fn jobs_that_can_never_finish(api: Api) {
    let mut imageless = job("imageless", "true", json!({"activeDeadlineSeconds": 3}));
    let container = &mut imageless["spec"]["template"]["spec"]["containers"][0];
    container["image"] = "localhost/orch/absent:v1".into();
    container["imagePullPolicy"] = "Never".into();
    let mut nowhere = job("nowhere", "true", json!({}));
    nowhere["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "such"});
    let late = job("late", "sleep 1000", json!({"activeDeadlineSeconds": 3, "completions": 2, "parallelism": 2}));
    for job in [imageless, nowhere, late, job("luckless", "exit 1", json!({"backoffLimit": 0}))] {
        api.create("jobs", job).await;
    }
    for (app, why) in
        [("imageless", "DeadlineExceeded"), ("late", "DeadlineExceeded"), ("luckless", "BackoffLimitExceeded")]
    {
        let failed = api.until("it has failed", &format!("jobs/{app}"), |j| condition(j, "Failed") == "True").await;
        assert_eq!((reason(&failed, "Failed"), reason(&failed, "FailureTarget")), (why, why), "{app}");
        let left = |field: &str| failed["status"][field].as_u64().unwrap_or(0);
        assert_eq!([left("active"), left("ready"), left("terminating"), left("succeeded")], [0; 4], "{app}: {failed}");
        assert_eq!(condition(&failed, "Complete"), "", "{app}");
        let running = |p: &Value| p["status"]["phase"] == "Running" || p["status"]["phase"] == "Pending";
        api.until_pods("nothing of it runs", app, |pods| !pods.iter().any(running)).await;
    }
    // One that nobody can place waits, with one pod, and says nothing of an end.
    let waits = api.get("jobs/nowhere").await;
    assert_eq!((&waits["status"]["active"], &waits["status"]["ready"]), (&json!(1), &json!(0)), "{waits}");
    assert_eq!(waits["status"].get("conditions"), None, "{waits}");
    let pods = api.pods("nowhere").await;
    assert_eq!((pods.len(), condition(&pods[0], "PodScheduled")), (1, "False"), "{pods:?}");
    api.patch("jobs/nowhere", json!({"spec": {"suspend": true}})).await;
    api.until("it can be suspended", "jobs/nowhere", |j| condition(j, "Suspended") == "True").await;
    api.until_pods("its pod goes", "nowhere", <[_]>::is_empty).await;
}

/// A hundred want pods at one time where ten may be: exactly ten are made. What goes makes room for as many.
pub async fn a_hundred_race_for_a_quota_of_ten(api: Api) {
    let quota = json!({"metadata": {"name": "ten"}, "spec": {"hard": {"pods": "10", "requests.cpu": "1"}}});
    api.create("resourcequotas", quota).await;
    let used = |q: &Value, n: u64| q["status"]["used"]["pods"] == n.to_string().as_str();
    api.until("the quota is counted", "resourcequotas/ten", |q| used(q, 0)).await;
    let race = async |creators: usize, round: &str| {
        let all = (0..creators).map(|i| {
            let (api, app) = (api.clone(), format!("{round}-{i}"));
            async move {
                // It never runs: the race is for the right to be there.
                let mut pod = pod(&app, &["sleep", "1000"]);
                pod["metadata"]["labels"]["app"] = "racer".into();
                pod["spec"]["schedulingGates"] = json!([{"name": "example.com/held"}]);
                pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
                api.send("POST", "pods", "application/json", &pod).await
            }
        });
        let answers = join_all(all).await;
        let refused = |(code, answer): &&(u16, Value)| {
            let told = answer["message"].as_str().unwrap_or_default();
            *code == 403 && answer["reason"] == "Forbidden" && told.contains("exceeded quota: ten")
        };
        let made = answers.iter().filter(|(code, _)| *code == 201).count();
        assert_eq!(made + answers.iter().filter(refused).count(), creators, "{answers:?}");
        made
    };
    assert_eq!(race(100, "first").await, 10);
    let list = api.get("pods").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
    api.until("ten are counted", "resourcequotas/ten", |q| used(q, 10) && q["status"]["used"]["requests.cpu"] == "1")
        .await;
    for gone in names(&list).iter().take(4) {
        api.delete(&format!("pods/{gone}")).await;
    }
    api.until("their places are free", "resourcequotas/ten", |q| used(q, 6)).await;
    assert_eq!(race(20, "second").await, 4);
    assert_eq!(api.get("pods").await["items"].as_array().unwrap().len(), 10);
}
