//! Upstream's behaviours of [sig-apps] and [sig-scheduling] on two nodes with real containers: what each controller does
//! with its pods, what its subresources and collections do, and where pods go. One cluster for all; each scenario names
//! what it shows.

mod cron;
mod daemons;
mod deployments;
mod depth;
mod disruption;
mod jobs;
mod mistakes;
mod scalers;
mod sets;
mod stateful;
mod upkeep;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness::{Cluster, import};
use crate::scenario::{Api, Scenario, names, run, scenarios};
use crate::{containers, scheduling, serving};

const SCENARIOS: &[&[Scenario]] = &[
    // Those that wait longest begin.
    containers::SCENARIOS,
    upkeep::SCENARIOS,
    scenarios![scalers::go_by_what_others_measure],
    scenarios![jobs::every_index_runs_though_some_fail, jobs::evicted_pods_are_no_failures],
    scenarios![deployments::proportional, deployments::rollover, stateful::canary, scheduling::preemption_by_sets],
    scenarios![
        mistakes::jobs_that_can_never_finish,
        mistakes::two_fight_over_one_pod,
        mistakes::selectors_that_match_others_pods,
        mistakes::owners_that_never_existed,
        mistakes::a_hundred_race_for_a_quota_of_ten,
        deployments::stopped_by_an_absent_image,
    ],
    depth::SCENARIOS,
    scenarios![
        sets::replica_set,
        sets::replication_controller,
        sets::adopt_and_release,
        sets::quota_is_a_condition,
        sets::lifecycle_of_a_controller,
    ],
    scenarios![
        deployments::rolling_update_adopts_and_retires,
        deployments::recreate,
        deployments::lifecycle,
        stateful::burst,
        stateful::two_at_a_time,
        stateful::evicted_by_a_port,
        stateful::scale_status_and_collection,
        daemons::follow_labels_of_nodes,
        daemons::failed_pods_are_replaced,
        daemons::roll_out_and_back,
        daemons::revisions,
    ],
    scenarios![
        jobs::success_policies,
        jobs::failure_policies,
        jobs::restarted_in_place,
        jobs::lifecycle,
        jobs::adopts_and_releases
    ],
    scenarios![cron::concurrency, cron::suspended, cron::missed, cron::operations, disruption::budgets],
    scheduling::SCENARIOS,
    serving::SCENARIOS,
];

#[test]
fn workloads_and_scheduling_behave_as_upstreams() {
    let cluster = Cluster::with_node();
    let mut other = Agent::beside(&cluster, "a", 11);
    other.join("https://198.51.100.1:6443", &cluster.token());
    let web = cluster.web_archive("v1");
    import(&cluster.data_dir(), &web);
    other.wait_until_ready(&cluster);
    import(&other.data_dir(), &web);
    run(&cluster, &SCENARIOS.concat());
}

/// `GET`, `PUT` and `PATCH` of `scale`; ends with so many replicas.
async fn scales(api: &Api, what: &str, replicas: u64) {
    let path = format!("{what}/scale");
    let scale = api.get(&path).await;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(replicas)), "{what}");
    assert!(scale["status"]["selector"].as_str().is_some_and(|s| s.starts_with("app=")), "{scale}");
    let put = api.update(&path, |s| s["spec"]["replicas"] = json!(replicas + 1)).await;
    assert_eq!(put["spec"]["replicas"], replicas + 1);
    assert_eq!(api.get(what).await["spec"]["replicas"], replicas + 1);
    api.until("the pods follow", what, |w| w["status"]["replicas"] == replicas + 1).await;
    let patched = api.patch(&path, json!({"spec": {"replicas": replicas}})).await;
    assert_eq!(patched["spec"]["replicas"], replicas);
    api.until("the pods follow back", what, |w| w["status"]["replicas"] == replicas).await;
}

/// `PATCH` and `PUT` of `status` with a condition, which a watch shows; the spec cannot be changed this way.
async fn has_a_status(api: &Api, resource: &str, name: &str) {
    let (path, before) = (format!("{resource}/{name}/status"), api.get(&format!("{resource}/{name}")).await);
    assert_eq!(api.get(&path).await["metadata"]["uid"], before["metadata"]["uid"]);
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set from the test"});
    let has = |object: &Value, kind: &str| crate::scenario::condition(object, kind) == "True";
    let put = api.update(&path, |object| {
        object["metadata"]["annotations"]["put"] = "status".into();
        let mut all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.push(condition("StatusUpdate"));
        object["status"]["conditions"] = all.into();
    });
    assert!(has(&put.await, "StatusUpdate"), "{resource}");
    let patch = json!({"metadata": {"annotations": {"patched": "status"}}, "status": {"conditions": [condition("StatusPatched")]}});
    let patched = api.patch(&path, patch).await;
    assert!(has(&patched, "StatusPatched"), "{resource}: {patched}");
    assert_eq!(patched["spec"], before["spec"], "{resource}");
    let (mut updated, mut merged) = (false, false);
    api.follow(
        &format!("{resource}?fieldSelector=metadata.name%3D{name}"),
        &before["metadata"]["resourceVersion"],
        |_, o| {
            updated |= has(o, "StatusUpdate");
            merged |= has(o, "StatusPatched");
            updated && merged
        },
    )
    .await;
}

/// Found by label in all namespaces, patched, and deleted as a collection.
pub async fn is_listed_and_deleted(api: &Api, group: &str, resource: &str, app: &str) {
    let everywhere = format!("{group}/{resource}?labelSelector=app%3D{app}");
    let label = format!("{resource}?labelSelector=app%3D{app}");
    let found = api.get(&everywhere).await;
    assert!(names(&found).contains(&app.to_owned()), "{found}");
    api.patch(&format!("{resource}/{app}"), json!({"metadata": {"labels": {"patched": "true"}}})).await;
    let patched = api.get(&format!("{resource}?labelSelector=patched%3Dtrue")).await;
    assert_eq!(names(&patched), [app]);
    api.delete(&label).await;
    api.until("the collection is empty", &label, |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
}
