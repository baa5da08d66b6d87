//! Jobs: what counts as a success, as a failure and as neither, and when enough is enough.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{has_a_status, is_listed_and_deleted};
use crate::scenario::{Api, condition, name, names, ready, template};

/// A Job of a shell script with more in its spec.
pub fn job(app: &str, script: &str, more: Value) -> Value {
    let mut template = template(app, &["sh", "-c", script]);
    template["spec"]["restartPolicy"] = "Never".into();
    let mut spec = json!({"template": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": app, "labels": {"app": app}}, "spec": spec})
}

/// The reason of a condition that holds.
pub fn reason<'a>(job: &'a Value, kind: &str) -> &'a str {
    let all = job["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .find(|c| c["type"] == kind && c["status"] == "True")
        .and_then(|c| c["reason"].as_str())
        .unwrap_or_default()
}

/// Odd indexes fail.
const ODD_FAIL: &str = "exit $((JOB_COMPLETION_INDEX % 2))";
/// The first index succeeds, the others do not end.
const FIRST_ENDS: &str = "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 1000";

/// "[sig-apps] Job with successPolicy should succeeded when all indexes succeeded",
/// "[sig-apps] Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending",
/// "[sig-apps] Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending"
pub async fn success_policies(api: Api) {
    let rows = [
        ("all", "true", 2, json!({"succeededCount": 2}), "0,1"),
        ("count", FIRST_ENDS, 3, json!({"succeededCount": 1}), "0"),
        ("indexes", FIRST_ENDS, 3, json!({"succeededIndexes": "0"}), "0"),
    ];
    for (app, script, completions, rule, _) in &rows {
        let spec = json!({"completionMode": "Indexed", "completions": completions, "parallelism": 2, "successPolicy": {"rules": [rule]}});
        api.create("jobs", job(app, script, spec)).await;
    }
    for (app, .., indexes) in &rows {
        let done = api.until("it is complete", &format!("jobs/{app}"), |j| condition(j, "Complete") == "True").await;
        assert_eq!(
            (reason(&done, "SuccessCriteriaMet"), reason(&done, "Complete")),
            ("SuccessPolicy", "SuccessPolicy"),
            "{app}"
        );
        assert_eq!(done["status"]["completedIndexes"], *indexes, "{app}");
        for field in ["active", "ready", "terminating"] {
            assert_eq!(done["status"][field].as_u64().unwrap_or(0), 0, "{app}: {field}: {}", done["status"]);
        }
    }
}

/// "[sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex"
pub async fn every_index_runs_though_some_fail(api: Api) {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimitPerIndex": 1});
    api.create("jobs", job("odd", ODD_FAIL, spec)).await;
    let done = api.until("it has failed at its end", "jobs/odd", |j| condition(j, "Failed") == "True").await;
    let status = &done["status"];
    assert_eq!((&status["failedIndexes"], &status["completedIndexes"]), (&json!("1,3"), &json!("0,2")));
    assert_eq!(
        (&status["failed"], &status["succeeded"]),
        (&json!(4), &json!(2)),
        "each index that fails does so twice"
    );
}

/// "[sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes",
/// "[sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy",
/// "[sig-apps] Job should allow to use the pod failure policy on exit code to fail the job early"
pub async fn failure_policies(api: Api) {
    let on_exit =
        |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]});
    let per_index = |limit: u64, parallelism: u64| json!({"completionMode": "Indexed", "completions": 2, "parallelism": parallelism, "backoffLimitPerIndex": limit});
    let with = |mut spec: Value, field: &str, value: Value| {
        spec[field] = value;
        spec
    };
    let rows = [
        ("max", "exit 1", with(per_index(0, 1), "maxFailedIndexes", json!(0)), "MaxFailedIndexesExceeded", Some("0")),
        (
            "index",
            ODD_FAIL,
            with(per_index(1, 2), "podFailurePolicy", on_exit("FailIndex")),
            "FailedIndexes",
            Some("1"),
        ),
        (
            "early",
            "exit 1",
            json!({"backoffLimit": 6, "podFailurePolicy": on_exit("FailJob")}),
            "PodFailurePolicy",
            None,
        ),
    ];
    for (app, script, spec, ..) in &rows {
        api.create("jobs", job(app, script, spec.clone())).await;
    }
    for (app, .., why, indexes) in &rows {
        let failed = api.until("it has failed", &format!("jobs/{app}"), |j| condition(j, "Failed") == "True").await;
        assert_eq!(reason(&failed, "Failed"), *why, "{app}");
        assert_eq!(failed["status"]["failedIndexes"].as_str(), *indexes, "{app}");
        assert_eq!(failed["status"]["failed"], 1, "{app}: one was enough");
    }
}

/// "[sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition"
pub async fn evicted_pods_are_no_failures(api: Api) {
    let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let spec = json!({
        "completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0, "podFailurePolicy": {"rules": [rule]},
    });
    // A marker on the node tells the second run of an index from the first.
    let mut evicted = job(
        "evicted",
        "[ -e /seen/$JOB_COMPLETION_INDEX ] || { touch /seen/$JOB_COMPLETION_INDEX; sleep 1000; }",
        spec,
    );
    let pod = &mut evicted["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/hostname": "box"});
    pod["securityContext"] = json!({"runAsUser": 0});
    let seen = tempfile::tempdir().unwrap();
    pod["volumes"] = json!([{"name": "seen", "hostPath": {"path": seen.path()}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "seen", "mountPath": "/seen"}]);
    api.create("jobs", evicted).await;
    let marked = |_: &[Value]| seen.path().join("0").exists() && seen.path().join("1").exists();
    let pods = api.until_pods("both run", "evicted", |p| p.len() == 2 && p.iter().all(ready) && marked(p)).await;
    join_all(pods.iter().map(|pod| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name(pod)}});
        let api = api.clone();
        async move { api.create(&format!("pods/{}/eviction", name(pod)), eviction).await }
    }))
    .await;
    let done = api.until("it is complete", "jobs/evicted", |j| condition(j, "Complete") == "True").await;
    assert_eq!((&done["status"]["succeeded"], done["status"]["failed"].as_u64().unwrap_or(0)), (&json!(2), 0));
}

/// "[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted"
pub async fn restarted_in_place(api: Api) {
    let mut local =
        job("local", "[ -e /kept/seen ] || { touch /kept/seen; exit 1; }", json!({"completions": 2, "parallelism": 2}));
    let pod = &mut local["spec"]["template"]["spec"];
    pod["restartPolicy"] = "OnFailure".into();
    pod["volumes"] = json!([{"name": "kept", "emptyDir": {}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "kept", "mountPath": "/kept"}]);
    api.create("jobs", local).await;
    let done = api.until("it is complete", "jobs/local", |j| condition(j, "Complete") == "True").await;
    assert_eq!((&done["status"]["succeeded"], done["status"]["failed"].as_u64().unwrap_or(0)), (&json!(2), 0));
    for pod in api.pods("local").await {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1, "{}", name(&pod));
    }
}

/// "[sig-apps] Job should apply changes to a job status", "[sig-apps] Job should manage the lifecycle of a job",
/// "[sig-apps] Job should delete a job"
pub async fn lifecycle(api: Api) {
    let spec = json!({"suspend": true, "completions": 2, "parallelism": 1});
    api.create("jobs", job("life", "sleep 1000", spec)).await;
    api.until("it is suspended", "jobs/life", |j| condition(j, "Suspended") == "True").await;
    assert!(api.pods("life").await.is_empty());
    api.patch("jobs/life", json!({"spec": {"suspend": false}})).await;
    api.until("it goes on", "jobs/life", |j| j["status"]["active"] == 1 && condition(j, "Suspended") == "False").await;
    let updated = api.update("jobs/life", |j| j["metadata"]["annotations"]["updated"] = "true".into()).await;
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    has_a_status(&api, "jobs", "life").await;
    is_listed_and_deleted(&api, "/apis/batch/v1", "jobs", "life").await;
    api.until_pods("its pod goes", "life", <[_]>::is_empty).await;
    api.create("jobs", job("twins", "sleep 1000", json!({"parallelism": 2}))).await;
    let twins = api.until("both run", "jobs/twins", |j| j["status"]["active"] == 2).await;
    assert_eq!(names(&api.get("jobs").await), ["twins"]);
    assert_eq!(
        twins["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        twins["metadata"]["uid"]
    );
    api.delete("jobs/twins").await;
    api.gone("jobs/twins").await;
    api.until_pods("they go with it", "twins", <[_]>::is_empty).await;
}

/// "[sig-apps] Job should adopt matching orphans and release non-matching pods"
pub async fn adopts_and_releases(api: Api) {
    api.create("jobs", job("kept", "sleep 1000", json!({"parallelism": 2, "completions": 2}))).await;
    let pods = api.until_pods("both run", "kept", |pods| pods.len() == 2 && pods.iter().all(ready)).await;
    let (path, owner) =
        (format!("pods/{}", name(&pods[0])), |p: &Value| p["metadata"]["ownerReferences"][0]["uid"].clone());
    let orphan = api.patch(&path, json!({"metadata": {"ownerReferences": null}})).await;
    assert_eq!(orphan["metadata"].get("ownerReferences"), None);
    api.until("it is adopted again", &path, |p| owner(p) == owner(&pods[0])).await;
    api.patch(&path, json!({"metadata": {"labels": null}})).await;
    let is_free = |p: &Value| ["ownerReferences", "finalizers"].iter().all(|list| p["metadata"].get(list).is_none());
    api.until("it is let go, and nothing holds it", &path, is_free).await;
    let now = api.until_pods("another takes its place", "kept", |pods| pods.len() == 2 && pods.iter().all(ready)).await;
    assert!(now.iter().all(|p| name(p) != name(&pods[0])) && now.iter().any(|p| name(p) == name(&pods[1])), "{now:?}");
    api.delete(&path).await;
    api.delete("jobs/kept").await;
}
