//! Deployments: how one template follows another, and who keeps how many pods meanwhile.

use serde_json::{Value, json};

use super::{has_a_status, is_listed_and_deleted, scales};
use crate::scenario::{Api, condition, name, names, ready, template, workload};

const REVISION: &str = "deployment.kubernetes.io/revision";
/// An image that is on no node, and that nobody looks for elsewhere.
const ABSENT: &str = "localhost/orch/absent:v1";

/// Replicas that the ReplicaSets of a Deployment are to have, by the template's edition.
fn by_edition(sets: &Value) -> Vec<(String, u64)> {
    let one = |s: &Value| {
        let edition = s["spec"]["template"]["metadata"]["annotations"]["edition"].as_str().unwrap_or("none");
        (edition.to_owned(), s["spec"]["replicas"].as_u64().unwrap())
    };
    let mut all: Vec<_> = sets["items"].as_array().unwrap().iter().map(one).collect();
    all.sort();
    all
}

fn edition(edition: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"edition": edition}}}}})
}

/// Another edition of the template, with an image that cannot be had or with the one that can.
async fn next(api: &Api, app: &str, edition: &str, image: &str) {
    api.update(&format!("deployments/{app}"), |d| {
        let template = &mut d["spec"]["template"];
        template["metadata"]["annotations"]["edition"] = edition.into();
        template["spec"]["containers"][0]["image"] = image.into();
        template["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    })
    .await;
}

fn sets(app: &str) -> String {
    format!("replicasets?labelSelector=app%3D{app}")
}

/// True when all replicas are of the newest template and available.
fn is_done(deployment: &Value) -> bool {
    let (spec, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && [&status["replicas"], &status["updatedReplicas"], &status["availableReplicas"]].iter().all(|n| *n == spec)
}

/// "[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones",
/// "[sig-apps] Deployment deployment should delete old replica sets"
pub async fn rolling_update_adopts_and_retires(api: Api) {
    let mut set = workload("roll", 1, template("roll", &["sleep", "1000"]));
    // As large as a revision may be: the next one is one more.
    set["metadata"]["annotations"] = json!({REVISION: "3546343826724305832"});
    api.create("replicasets", set).await;
    let old = api.until_pods("the set's pod runs", "roll", |pods| pods.len() == 1 && ready(&pods[0])).await;
    let mut deployment = workload("roll", 1, template("roll", &["sleep", "2000"]));
    deployment["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "new"});
    let made = api.create("deployments", deployment).await;
    let done = api.until("the rollout is over", "deployments/roll", is_done).await;
    assert_eq!(done["metadata"]["annotations"][REVISION], "3546343826724305833");
    let list = api.get(&sets("roll")).await;
    assert_eq!(by_edition(&list), [("new".to_owned(), 1), ("none".to_owned(), 0)]);
    for set in list["items"].as_array().unwrap() {
        assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"], "adopted or made");
    }
    let new =
        api.until_pods("the old pod went", "roll", |pods| pods.len() == 1 && name(&pods[0]) != name(&old[0])).await;
    assert!(ready(&new[0]));
    api.patch("deployments/roll", json!({"spec": {"revisionHistoryLimit": 0}})).await;
    api.until("the old set goes", &sets("roll"), |l| by_edition(l) == [("new".to_owned(), 1)]).await;
}

/// "[sig-apps] Deployment RecreateDeployment should delete old pods and create new ones"
pub async fn recreate(api: Api) {
    let mut deployment = workload("again", 1, template("again", &["sleep", "1000"]));
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    api.create("deployments", deployment).await;
    api.until("the first edition runs", "deployments/again", is_done).await;
    let list = api.get("pods?labelSelector=app%3Dagain").await;
    let old = names(&list);
    api.patch("deployments/again", edition("second")).await;
    let mut old_went = false;
    api.follow("pods?labelSelector=app%3Dagain", &list["metadata"]["resourceVersion"], |kind, pod| {
        if old.contains(&name(pod).to_owned()) {
            old_went |=
                kind == "DELETED" || ["Failed", "Succeeded"].contains(&pod["status"]["phase"].as_str().unwrap_or(""));
            return false;
        }
        assert!(old_went, "a pod of the new edition beside one of the old: {pod}");
        ready(pod)
    })
    .await;
}

/// "[sig-apps] Deployment deployment should support proportional scaling"
pub async fn proportional(api: Api) {
    let mut deployment = workload("share", 4, template("share", &["sleep", "1000"]));
    deployment["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}});
    api.create("deployments", deployment).await;
    api.until("the first edition runs", "deployments/share", is_done).await;
    next(&api, "share", "stuck", ABSENT).await;
    let half = |n: u64| [("none".to_owned(), n), ("stuck".to_owned(), n)];
    api.until("the rollout is stuck at half", &sets("share"), |l| by_edition(l) == half(3)).await;
    api.until("which is seen", "deployments/share", |d| d["status"]["availableReplicas"] == 3).await;
    api.patch("deployments/share", json!({"spec": {"replicas": 8}})).await;
    api.until("both get their part of what was added", &sets("share"), |l| by_edition(l) == half(5)).await;
    api.until("the old ones run", "deployments/share", |d| d["status"]["availableReplicas"] == 5).await;
    assert_eq!(by_edition(&api.get(&sets("share")).await), half(5));
}

/// "[sig-apps] Deployment deployment should support rollover"
pub async fn rollover(api: Api) {
    let mut deployment = workload("over", 1, template("over", &["sleep", "1000"]));
    deployment["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    api.create("deployments", deployment).await;
    api.until("the first edition runs", "deployments/over", is_done).await;
    next(&api, "over", "stuck", ABSENT).await;
    api.until("the second is under way", &sets("over"), |l| {
        by_edition(l) == [("none".to_owned(), 1), ("stuck".to_owned(), 1)]
    })
    .await;
    next(&api, "over", "third", crate::scenario::IMAGE).await;
    api.until("the third is all there is", "deployments/over", is_done).await;
    let all = [("none".to_owned(), 0), ("stuck".to_owned(), 0), ("third".to_owned(), 1)];
    assert_eq!(by_edition(&api.get(&sets("over")).await), all);
}

/// A rollout whose image does not exist stops at its first pod and says so; those of before serve on, and are still there when it
/// is taken back.
pub async fn stopped_by_an_absent_image(api: Api) {
    let mut deployment = workload("stays", 2, template("stays", &[]));
    deployment["spec"]["progressDeadlineSeconds"] = 6.into();
    api.create("deployments", deployment).await;
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    api.create(
        "services",
        json!({"metadata": {"name": "stays"}, "spec": {"selector": {"app": "stays"}, "ports": ports}}),
    )
    .await;
    api.until("it runs", "deployments/stays", is_done).await;
    let before = api.pods("stays").await;
    let serves = || {
        let answers =
            |a: &Value| a.as_str().is_some_and(|a| before.iter().any(|p| a == format!("from {} (v1)", name(p))));
        api.until("one of them answers", "services/stays:80/proxy/", answers)
    };
    serves().await;
    next(&api, "stays", "stuck", ABSENT).await;
    let stuck = api.until("it gives up", "deployments/stays", |d| condition(d, "Progressing") == "False").await;
    let progressing = stuck["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing");
    assert_eq!(progressing.unwrap()["reason"], "ProgressDeadlineExceeded");
    assert_eq!(condition(&stuck, "Available"), "True");
    let counted = ["replicas", "availableReplicas", "updatedReplicas", "unavailableReplicas"]
        .map(|f| stuck["status"][f].as_u64());
    assert_eq!(counted, [Some(3), Some(2), Some(1), Some(1)], "{stuck}");
    serves().await;
    // Nobody tries again and again: there is one pod of the new edition.
    assert_eq!(by_edition(&api.get(&sets("stays")).await), [("none".to_owned(), 2), ("stuck".to_owned(), 1)]);
    api.update("deployments/stays", |d| {
        let template = &mut d["spec"]["template"];
        template["metadata"].as_object_mut().unwrap().remove("annotations");
        template["spec"]["containers"][0]["image"] = crate::scenario::IMAGE.into();
        template["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent".into();
    })
    .await;
    api.until("it is well again", "deployments/stays", |d| is_done(d) && condition(d, "Progressing") == "True").await;
    let uids = |pods: &[Value]| {
        let mut all: Vec<String> = pods.iter().map(|p| p["metadata"]["uid"].to_string()).collect();
        all.sort();
        all
    };
    let after = api.until_pods("only those of before are there", "stays", |pods| pods.len() == 2).await;
    assert_eq!(uids(&after), uids(&before));
    serves().await;
}

/// "[sig-apps] Deployment should run the lifecycle of a Deployment",
/// "[sig-apps] Deployment Deployment should have a working scale subresource",
/// "[sig-apps] Deployment should validate Deployment Status endpoints"
pub async fn lifecycle(api: Api) {
    let since = api.get("deployments").await["metadata"]["resourceVersion"].clone();
    api.create("deployments", workload("life", 1, template("life", &["sleep", "1000"]))).await;
    api.until("it runs", "deployments/life", |d| is_done(d) && condition(d, "Available") == "True").await;
    scales(&api, "deployments/life", 1).await;
    has_a_status(&api, "deployments", "life").await;
    let updated = api.update("deployments/life", |d| d["metadata"]["labels"]["updated"] = "true".into()).await;
    assert_eq!(updated["metadata"]["labels"]["updated"], "true");
    is_listed_and_deleted(&api, "/apis/apps/v1", "deployments", "life").await;
    let mut kinds = Vec::new();
    api.follow("deployments", &since, |kind, _| {
        kinds.push(kind.to_owned());
        kind == "DELETED"
    })
    .await;
    assert_eq!((kinds[0].as_str(), kinds.iter().filter(|k| *k == "ADDED").count()), ("ADDED", 1), "{kinds:?}");
    api.until("its sets go", &sets("life"), |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
}
