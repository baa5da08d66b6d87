//! PodDisruptionBudgets: what they say of the pods they select, and their subresource and collections.

use serde_json::{Value, json};

use super::is_listed_and_deleted;
use crate::scenario::{Api, pod, ready};

/// "[sig-apps] DisruptionController should create a PodDisruptionBudget",
/// "[sig-apps] DisruptionController should observe PodDisruptionBudget status updated",
/// "[sig-apps] DisruptionController should update/patch PodDisruptionBudget status",
/// "[sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of
/// PodDisruptionBudgets"
pub async fn budgets(api: Api) {
    let path = "poddisruptionbudgets/few";
    let budget = json!({
        "metadata": {"name": "few", "labels": {"app": "few"}},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"group": "few"}}},
    });
    api.create("poddisruptionbudgets", budget).await;
    api.until("it is seen", path, |b| b["status"]["observedGeneration"] == 1).await;
    for name in ["one", "two"] {
        let mut pod = pod(name, &["sleep", "1000"]);
        pod["metadata"]["labels"]["group"] = "few".into();
        api.create("pods", pod).await;
    }
    for name in ["one", "two"] {
        api.until("it runs", &format!("pods/{name}"), ready).await;
    }
    let counts = |healthy: u64, wanted: u64, allowed: u64| {
        move |b: &Value| {
            let status = &b["status"];
            status["observedGeneration"] == b["metadata"]["generation"]
                && [&status["currentHealthy"], &status["desiredHealthy"], &status["disruptionsAllowed"]]
                    == [&json!(healthy), &json!(wanted), &json!(allowed)]
        }
    };
    api.until("one may go", path, counts(2, 1, 1)).await;
    api.update(path, |b| b["spec"]["minAvailable"] = "100%".into()).await;
    api.patch(path, json!({"spec": {"minAvailable": null, "maxUnavailable": 2}})).await;
    let now = api
        .until("bare pods have no number that they should be", path, |b| b["status"]["observedGeneration"] == 3)
        .await;
    assert_eq!(now["status"]["disruptionsAllowed"], 0);
    api.patch(path, json!({"spec": {"minAvailable": 2, "maxUnavailable": null}})).await;
    api.until("none may go", path, counts(2, 2, 0)).await;

    let status = format!("{path}/status");
    let time = "2026-01-01T00:00:00Z";
    let put = api.update(&status, |b| b["status"]["disruptedPods"]["one"] = time.into()).await;
    assert_eq!(put["status"]["disruptedPods"]["one"], time);
    let patched = api.patch(&status, json!({"status": {"disruptedPods": {"one": null}}})).await;
    assert_eq!(patched["status"]["disruptedPods"].get("one"), None);
    assert_eq!(patched["spec"]["minAvailable"], 2);
    is_listed_and_deleted(&api, "/apis/policy/v1", "poddisruptionbudgets", "few").await;
}
