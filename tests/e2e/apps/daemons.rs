//! DaemonSets: a pod for each node that is meant, and the revisions that they share with StatefulSets.

use serde_json::{Value, json};

use super::{has_a_status, is_listed_and_deleted};
use crate::scenario::{Api, name, names, ready, template};

fn set(app: &str) -> Value {
    json!({
        "metadata": {"name": app, "labels": {"app": app}},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app, &["sleep", "1000"])},
    })
}

/// Their nodes, sorted; none as long as one is not ready.
fn nodes(pods: &[Value]) -> Option<Vec<&str>> {
    let mut all: Vec<&str> = pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    all.sort_unstable();
    (all.len() == pods.len() && pods.iter().all(ready)).then_some(all)
}

fn everywhere(pods: &[Value]) -> bool {
    nodes(pods).is_some_and(|n| n == ["a", "box"])
}

/// "[sig-apps] Daemon set should run and stop complex daemon"
pub async fn follow_labels_of_nodes(api: Api) {
    let colour = |colour: Value| json!({"metadata": {"labels": {"daemon-colour": colour}}});
    let mut blue = set("colour");
    blue["spec"]["template"]["spec"]["nodeSelector"] = json!({"daemon-colour": "blue"});
    api.create("daemonsets", blue).await;
    let counted = |n: u64| {
        move |s: &Value| {
            let status = &s["status"];
            status["observedGeneration"] == s["metadata"]["generation"]
                && status["desiredNumberScheduled"] == n
                && status["numberReady"] == n
        }
    };
    api.until("no node is blue", "daemonsets/colour", counted(0)).await;
    assert!(api.pods("colour").await.is_empty());
    api.patch("/api/v1/nodes/a", colour("blue".into())).await;
    api.until_pods("the blue node has its pod", "colour", |p| nodes(p).is_some_and(|n| n == ["a"])).await;
    api.patch("/api/v1/nodes/a", colour("green".into())).await;
    api.until_pods("no node is blue any more", "colour", <[_]>::is_empty).await;
    api.patch(
        "daemonsets/colour",
        json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": {"spec": {"nodeSelector": {"daemon-colour": "green"}}}}}),
    )
    .await;
    api.until_pods("the green node has its pod", "colour", |p| nodes(p).is_some_and(|n| n == ["a"])).await;
    api.until("it is counted", "daemonsets/colour", counted(1)).await;
    api.patch("/api/v1/nodes/a", colour(Value::Null)).await;
}

/// "[sig-apps] Daemon set should retry creating failed daemon pods",
/// "[sig-apps] Daemon set should verify changes to a daemon set status",
/// "[sig-apps] Daemon set should list and delete a collection of DaemonSets"
pub async fn failed_pods_are_replaced(api: Api) {
    api.create("daemonsets", set("retry")).await;
    let before = api.until_pods("each node has one", "retry", everywhere).await;
    let one = name(&before[0]).to_owned();
    api.patch(&format!("pods/{one}/status"), json!({"status": {"phase": "Failed"}})).await;
    api.until_pods("the failed one is replaced", "retry", |p| everywhere(p) && p.iter().all(|p| name(p) != one)).await;
    has_a_status(&api, "daemonsets", "retry").await;
    is_listed_and_deleted(&api, "/apis/apps/v1", "daemonsets", "retry").await;
    api.until_pods("its pods go", "retry", <[_]>::is_empty).await;
}

/// "[sig-apps] Daemon set should update pod when spec was updated and update strategy is RollingUpdate",
/// "[sig-apps] Daemon set should rollback without unnecessary restarts"
pub async fn roll_out_and_back(api: Api) {
    api.create("daemonsets", set("roll")).await;
    api.until_pods("each node has one", "roll", everywhere).await;
    let image = |image: &'static str| {
        move |s: &mut Value| {
            s["spec"]["template"]["metadata"]["annotations"]["edition"] = "two".into();
            s["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        }
    };
    api.update("daemonsets/roll", image(crate::scenario::IMAGE)).await;
    let second = |p: &[Value]| everywhere(p) && p.iter().all(|p| p["metadata"]["annotations"]["edition"] == "two");
    let before = api.until_pods("all are of the second edition", "roll", second).await;
    // No node has this image: one pod is lost to it, not more.
    let mut broken = api.get("daemonsets/roll").await["spec"]["template"]["spec"]["containers"][0].clone();
    broken["image"] = "localhost/orch/absent:v1".into();
    broken["imagePullPolicy"] = "Never".into();
    api.patch("daemonsets/roll", json!({"spec": {"template": {"spec": {"containers": [broken]}}}})).await;
    let is_broken = |p: &Value| p["spec"]["containers"][0]["image"] != crate::scenario::IMAGE;
    let stuck = api.until_pods("one is replaced", "roll", |p| p.len() == 2 && p.iter().any(is_broken)).await;
    let kept: Vec<&str> = stuck.iter().filter(|p| !is_broken(p)).map(name).collect();
    assert_eq!(kept.len(), 1, "the other runs on");
    api.update("daemonsets/roll", |s| {
        let container = &mut s["spec"]["template"]["spec"]["containers"][0];
        container["image"] = crate::scenario::IMAGE.into();
        container["imagePullPolicy"] = "IfNotPresent".into();
    })
    .await;
    let after = api.until_pods("it is as before", "roll", |p| second(p) && !p.iter().any(is_broken)).await;
    assert!(after.iter().any(|p| name(p) == kept[0]), "who was not broken was not restarted: {kept:?}");
    assert!(before.iter().any(|p| name(p) == kept[0]));
}

/// "[sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision"
pub async fn revisions(api: Api) {
    let mut nowhere = set("history");
    nowhere["spec"]["template"]["spec"]["nodeSelector"] = json!({"daemon-colour": "none"});
    let owner = api.create("daemonsets", nowhere).await;
    let all = "controllerrevisions?labelSelector=app%3Dhistory";
    let count = |n: usize| move |l: &Value| l["items"].as_array().is_some_and(|i| i.len() == n);
    let first = api.until("the first revision is kept", all, count(1)).await["items"][0].clone();
    assert_eq!(
        (&first["revision"], &first["metadata"]["ownerReferences"][0]["uid"]),
        (&json!(1), &owner["metadata"]["uid"])
    );
    let path = format!("controllerrevisions/{}", name(&first));
    let patched = api.patch(&path, json!({"metadata": {"labels": {"patched": "yes"}}})).await;
    assert_eq!((&patched["metadata"]["labels"]["patched"], &patched["data"]), (&json!("yes"), &first["data"]));
    let mut copy = first.clone();
    copy["metadata"] =
        json!({"name": "by-hand", "labels": {"by": "hand"}, "ownerReferences": first["metadata"]["ownerReferences"]});
    copy["revision"] = 7.into();
    api.create("controllerrevisions", copy).await;
    let updated =
        api.update("controllerrevisions/by-hand", |r| r["metadata"]["labels"]["updated"] = "yes".into()).await;
    assert_eq!((&updated["metadata"]["labels"]["updated"], &updated["revision"]), (&json!("yes"), &json!(7)));
    assert!(names(&api.get("/apis/apps/v1/controllerrevisions").await).contains(&"by-hand".to_owned()));
    api.delete("controllerrevisions/by-hand").await;
    api.gone("controllerrevisions/by-hand").await;
    api.patch("daemonsets/history", json!({"spec": {"template": {"metadata": {"annotations": {"edition": "two"}}}}}))
        .await;
    api.until("the second is kept beside it", all, count(2)).await;
    api.delete("controllerrevisions?labelSelector=patched%3Dyes").await;
    api.gone(&path).await;
    api.until("the present one stays", all, |l| {
        count(1)(l) && l["items"][0]["metadata"]["name"] != first["metadata"]["name"]
    })
    .await;
}
