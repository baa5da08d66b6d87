//! Calculations and decisions as tables, and one autoscaler with its target and its metrics.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use test_case::test_case;

use super::behavior::{Ask, Memory, decide};
use super::calc::{
    Figure, Figures, Input, Tolerances, by_average, by_utilization, by_value, by_value_per_pod, requests,
};
use super::controller;
use super::metrics::Metrics;
use super::propose::{Failed, Proposal, propose};
use crate::api::status::Status;
use crate::api::value::ValueExt;
use crate::client::{Client, res};
use crate::controllers::common::discovery::Kinds;
use crate::runtime::Requeue;
use crate::runtime::fake::Cluster;

/// When decisions are asked for.
const TICK: i64 = 3600;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// `name:state`: ready for long, `starting`, `pending`, `failed`; each container asks for half a CPU.
fn pod(name: &str, state: &str) -> Value {
    let (phase, ready, started) = match state {
        "pending" => ("Pending", "False", "2026-01-01T00:59:00Z"),
        "starting" => ("Running", "False", "2026-01-01T00:59:00Z"),
        "failed" => ("Failed", "False", "2026-01-01T00:00:00Z"),
        _ => ("Running", "True", "2026-01-01T00:00:00Z"),
    };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
        "status": {"phase": phase, "startTime": started,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": started}]}})
}

fn figures(of: &[(&str, i64)]) -> Figures {
    let figure = |value| Figure { value, at: Some(now()), window: SignedDuration::from_secs(30) };
    of.iter().map(|(name, value)| ((*name).to_owned(), figure(*value))).collect()
}

fn input(pods: &[Value], replicas: i64) -> Input<'_> {
    Input { replicas, running: replicas, pods, tolerances: Tolerances::of(&json!({})), now: now() }
}

#[test_case(&[("a", ""), ("b", "")], &[("a", 250), ("b", 250)], 50, "2 50%"; "as wanted")]
#[test_case(&[("a", ""), ("b", "")], &[("a", 270), ("b", 270)], 50, "2 54%"; "near enough")]
#[test_case(&[("a", ""), ("b", "")], &[("a", 500), ("b", 500)], 50, "4 100%"; "twice as much")]
#[test_case(&[("a", ""), ("b", "")], &[("a", 100), ("b", 100)], 50, "1 20%"; "less")]
#[test_case(&[("a", ""), ("b", "starting")], &[("a", 500), ("b", 500)], 50, "2 100%"; "one that starts will take its part")]
#[test_case(&[("a", ""), ("b", "starting")], &[("a", 100), ("b", 500)], 50, "1 20%"; "what starts does not keep others up")]
#[test_case(&[("a", ""), ("b", "pending")], &[("a", 750)], 50, "3 150%"; "one that is not there yet uses nothing")]
#[test_case(&[("a", ""), ("b", "")], &[("a", 100)], 50, "2 20%"; "one without figures might use all")]
#[test_case(&[("a", ""), ("b", ""), ("c", "")], &[("a", 500), ("b", 500)], 100, "3 100%"; "exactly as wanted and one without figures")]
#[test_case(&[("a", ""), ("b", ""), ("c", "")], &[("a", 500), ("b", 500)], 150, "3 100%"; "one without figures might use what is wanted")]
#[test_case(&[("a", ""), ("b", "failed")], &[("a", 500), ("b", 500)], 50, "2 100%"; "a failed one does not count")]
#[test_case(&[("a", "")], &[], 50, "did not receive metrics for targeted pods (pods might be unready)"; "no figures")]
#[test_case(&[], &[("a", 1)], 50, "no pods returned by selector while calculating replica count"; "no pods")]
fn utilization_of_requests(pods: &[(&str, &str)], of: &[(&str, i64)], target: i64, want: &str) {
    let pods: Vec<Value> = pods.iter().map(|(name, state)| pod(name, state)).collect();
    let got = by_utilization(&input(&pods, pods.len() as i64), figures(of), "cpu", None, target);
    let text = got.map(|o| format!("{} {}%", o.replicas, o.utilization.unwrap())).unwrap_or_else(|e| e);
    assert_eq!(text, want);
}

#[test]
fn requests_must_be_there_and_have_levels() {
    let mut p = pod("a", "");
    p["spec"]["initContainers"] = json!([{"name": "side", "restartPolicy": "Always",
        "resources": {"requests": {"cpu": "1"}}}, {"name": "init"}]);
    assert_eq!(requests(&[p.clone()], "cpu", None).unwrap()["a"], 1500);
    assert_eq!(requests(&[p.clone()], "cpu", Some("c")).unwrap()["a"], 500);
    let missing = requests(&[p.clone()], "memory", None).unwrap_err();
    assert_eq!(missing, "missing request for memory in container c of Pod a");
    assert_eq!(requests(&[p.clone()], "cpu", Some("d")).unwrap_err(), "container d not found in Pod a");
    p["spec"]["resources"] = json!({"requests": {"memory": "1"}});
    assert_eq!(requests(&[p.clone()], "memory", None).unwrap()["a"], 1000);
    assert_eq!(requests(&[p.clone()], "cpu", None).unwrap()["a"], 1500, "of what is not asked for at its level");
    let missing = requests(&[p], "hugepages-2Mi", None).unwrap_err();
    assert_eq!(missing, "missing pod-level request for hugepages-2Mi in Pod a");
}

/// What is wrong with figures is told before what is wrong with requests.
#[test]
fn figures_are_looked_at_first() {
    let mut p = pod("a", "");
    p["spec"]["containers"][0]["resources"] = json!({});
    let told = |pods: &[Value], of| by_utilization(&input(pods, 1), figures(of), "cpu", None, 50).unwrap_err();
    assert_eq!(told(&[], &[("a", 1)]), "no pods returned by selector while calculating replica count");
    assert_eq!(told(&[p.clone()], &[]), "did not receive metrics for targeted pods (pods might be unready)");
    assert_eq!(told(&[p], &[("a", 1)]), "missing request for cpu in container c of Pod a");
}

#[test]
fn values_for_all_and_for_each() {
    let pods = [pod("a", ""), pod("b", ""), pod("c", "pending")];
    let replicas = |usage, target| by_value(&input(&pods, 3), usage, target).map(|o| o.replicas);
    assert_eq!([replicas(105, 100), replicas(200, 100), replicas(50, 100)], [Ok(3), Ok(4), Ok(1)]);
    assert_eq!(by_value(&input(&[], 0), 250, 100).map(|o| o.replicas), Ok(3), "from nothing");
    let each = |usage| by_value_per_pod(&input(&pods, 3), usage, 100);
    assert_eq!((each(310).replicas, each(600).replicas, each(601).usage), (3, 6, 201));
    let average = by_average(&input(&pods[..2], 2), figures(&[("a", 300), ("b", 100)]), 100, false).unwrap();
    assert_eq!((average.replicas, average.usage), (4, 200));
}

#[test]
fn tolerances_of_ones_own() {
    let pods = [pod("a", ""), pod("b", "")];
    let spec = json!({"behavior": {"scaleUp": {"tolerance": "500m"}, "scaleDown": {"tolerance": "0"}}});
    let input = Input { tolerances: Tolerances::of(&spec), ..input(&pods, 2) };
    let replicas = |usage| by_value(&input, usage, 100).unwrap().replicas;
    assert_eq!([replicas(150), replicas(151), replicas(49)], [2, 4, 1]);
}

fn rules(up: Value, down: Value) -> Value {
    json!({"scaleUp": up, "scaleDown": down})
}

fn ask(current: i64, desired: i64) -> Ask {
    Ask { current, desired, min: 1, max: 20, now: TICK }
}

#[test_case(ask(3, 3), "3 ReadyForNewScale DesiredWithinRange"; "nothing to do")]
#[test_case(ask(2, 30), "4 ReadyForNewScale ScaleUpLimit!"; "at most four at once")]
#[test_case(ask(8, 30), "16 ReadyForNewScale ScaleUpLimit!"; "or twice as many")]
#[test_case(ask(15, 30), "20 ReadyForNewScale TooManyReplicas!"; "no more than allowed")]
#[test_case(ask(5, 0), "1 ReadyForNewScale TooFewReplicas!"; "no fewer")]
fn without_a_behavior(ask: Ask, want: &str) {
    assert_eq!(told(None, ask, &mut Memory::default()), want);
}

/// What is done and why; `!` where it is less than was asked for.
fn told(behavior: Option<&Value>, ask: Ask, memory: &mut Memory) -> String {
    let got = decide(behavior, ask, memory);
    let mark = if got.limited.0 { "!" } else { "" };
    format!("{} {} {}{mark}", got.replicas, got.able.0, got.limited.1.0)
}

#[test]
fn what_goes_down_waits() {
    let mut memory = Memory::default();
    memory.begin(TICK, 10);
    let at = |seconds| Ask { now: TICK + seconds, ..ask(10, 2) };
    assert_eq!(told(None, at(60), &mut memory), "10 ScaleDownStabilized DesiredWithinRange");
    assert_eq!(told(None, at(300), &mut memory), "2 ReadyForNewScale DesiredWithinRange", "five minutes later");
}

#[test]
fn policies_bound_the_rate() {
    let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 60});
    let with =
        |select: &str, all: Value| json!({"selectPolicy": select, "policies": all, "stabilizationWindowSeconds": 0});
    let both = || json!([policy("Pods", 2), policy("Percent", 50)]);
    let fresh = |select: &str, ask: Ask| {
        told(Some(&rules(with(select, both()), with(select, both()))), ask, &mut Memory::default())
    };
    assert_eq!(fresh("Max", ask(10, 18)), "15 ReadyForNewScale ScaleUpLimit!");
    assert_eq!(fresh("Min", ask(10, 18)), "12 ReadyForNewScale ScaleUpLimit!");
    assert_eq!(fresh("Disabled", ask(10, 18)), "10 ReadyForNewScale ScaleUpLimit!");
    assert_eq!(fresh("Max", ask(10, 1)), "5 ReadyForNewScale ScaleDownLimit!");
    assert_eq!(fresh("Min", ask(10, 1)), "8 ReadyForNewScale ScaleDownLimit!");
    assert_eq!(fresh("Disabled", ask(10, 1)), "10 ReadyForNewScale ScaleDownLimit!");
    assert_eq!(fresh("Max", ask(19, 40)), "20 ReadyForNewScale TooManyReplicas!");
    // Within the period what was added already counts.
    let behavior = rules(with("Max", json!([policy("Pods", 4)])), with("Max", both()));
    let mut memory = Memory::default();
    memory.scaled(TICK, 3, 6);
    let later = |seconds| Ask { now: TICK + seconds, ..ask(6, 18) };
    assert_eq!(told(Some(&behavior), later(30), &mut memory), "7 ReadyForNewScale ScaleUpLimit!");
    assert_eq!(told(Some(&behavior), later(61), &mut memory), "10 ReadyForNewScale ScaleUpLimit!");
}

#[test]
fn windows_take_the_calmest_of_what_was_recommended() {
    let free = |window: i64| {
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": window,
            "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]})
    };
    let behavior = rules(free(60), free(120));
    let mut memory = Memory::default();
    let at = |seconds, desired| Ask { now: TICK + seconds, ..ask(5, desired) };
    assert_eq!(told(Some(&behavior), at(0, 8), &mut memory), "8 ReadyForNewScale DesiredWithinRange");
    assert_eq!(told(Some(&behavior), at(30, 12), &mut memory), "8 ScaleUpStabilized DesiredWithinRange");
    assert_eq!(told(Some(&behavior), at(60, 2), &mut memory), "5 ScaleDownStabilized DesiredWithinRange");
}

/// A window holds back; it never pulls to the other side.
#[test_case((300, 0), (240, 2), 10, "5 ScaleUpStabilized DesiredWithinRange"; "few were wanted while more are")]
#[test_case((0, 300), (100, 10), 2, "5 ScaleDownStabilized DesiredWithinRange"; "many were wanted while fewer are")]
#[test_case((300, 0), (240, 8), 10, "8 ScaleUpStabilized DesiredWithinRange"; "as many as all of the window wanted")]
#[test_case((0, 300), (100, 3), 2, "3 ScaleDownStabilized DesiredWithinRange"; "as few as all of the window wanted")]
fn windows_hold_what_is_there((up, down): (i64, i64), (ago, was): (i64, i64), desired: i64, want: &str) {
    let free = |window: i64| {
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": window,
            "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]})
    };
    let mut memory = Memory::default();
    memory.begin(TICK - ago, was);
    assert_eq!(told(Some(&rules(free(up), free(down))), ask(5, desired), &mut memory), want);
}

/// An API with scales of Deployments and with metrics, before the fake one.
fn api(cluster: &Cluster, usage: Arc<Mutex<Option<&'static str>>>) -> Client {
    let inner = cluster.client();
    Client::in_process(tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        let usage = *usage.lock();
        async move { Ok::<_, Infallible>(answer(&inner, usage, request).await) }
    }))
}

async fn answer(inner: &Client, usage: Option<&str>, request: Request<Body>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await.unwrap();
    let path = parts.uri.path_and_query().unwrap().to_string();
    let ok = |value: Value| Response::new(Full::new(Bytes::from(value.to_string())));
    let missing = || {
        let status = Status::not_found("", "things", "").to_value();
        Response::builder().status(404).body(Full::new(Bytes::from(status.to_string()))).unwrap()
    };
    let deployment = || inner.get(&res::DEPLOYMENTS, "n", "web");
    if path.starts_with("/apis/metrics.k8s.io/v1beta1/namespaces/n/pods?labelSelector=app%3Dweb") {
        let Some(usage) = usage else { return missing() };
        let item = |name: &str| {
            json!({"metadata": {"name": name}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
                "containers": [{"name": "c", "usage": {"cpu": usage, "memory": "1Mi"}}]})
        };
        return ok(json!({"items": [item("a"), item("b")]}));
    }
    if path.contains("/deployments/web/scale") && parts.method == Method::GET {
        let Ok(deployment) = deployment().await else { return missing() };
        let replicas = deployment["spec"]["replicas"].clone();
        return ok(json!({"spec": {"replicas": replicas}, "status": {"replicas": replicas, "selector": "app=web"}}));
    }
    if path.contains("/deployments/web/scale") {
        let scale: Value = serde_json::from_slice(&body).unwrap();
        let mut new = deployment().await.unwrap();
        if new["spec"]["paused"] == true {
            return missing();
        }
        new["spec"]["replicas"] = scale["spec"]["replicas"].clone();
        inner.update(&res::DEPLOYMENTS, "n", "web", None, &new).await.unwrap();
        return ok(scale);
    }
    let (parts, body) = inner.raw(parts.method, &path, parts.headers, body).await.unwrap().into_parts();
    Response::from_parts(parts, Full::new(body))
}

fn autoscaler() -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "namespace": "n",
        "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 6, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]}})
}

#[tokio::test]
async fn a_deployment_follows_its_load() {
    let cluster = Cluster::new();
    let usage = Arc::new(Mutex::new(None));
    let mut cx = cluster.cx();
    cx.client = api(&cluster, usage.clone());
    let hpa = controller();
    let look = async || hpa.reconcile(&crate::api::object::ObjectKey::new("n", "h"), &cx).await.unwrap();
    let status = || cluster.get(&res::HORIZONTAL_POD_AUTOSCALERS, "n", "h").unwrap()["status"].clone();
    let reason = |kind: &str| {
        let all = status();
        let found = all.items_at("/conditions").iter().find(|c| c["type"] == kind).cloned().unwrap_or_default();
        format!("{} {}", found["status"].as_str().unwrap_or("-"), found["reason"].as_str().unwrap_or("-"))
    };
    let next = || cluster.clock.advance(15);
    cluster.put(autoscaler());
    assert_eq!(look().await, Requeue::After(super::PERIOD));
    assert_eq!(reason("AbleToScale"), "- -", "its target may be created next");
    next();
    assert_eq!(look().await, Requeue::After(super::PERIOD));
    assert_eq!(reason("AbleToScale"), "False FailedGetScale", "no target");
    cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": 2}}));
    for name in ["a", "b"] {
        let mut p = pod(name, "");
        p["status"]["startTime"] = "2025-12-31T00:00:00Z".into();
        p["status"]["conditions"][0]["lastTransitionTime"] = "2025-12-31T00:00:00Z".into();
        cluster.put(p);
    }
    look().await;
    assert_eq!(reason("AbleToScale"), "False FailedGetScale", "not sooner than in its turn");
    next();
    look().await;
    assert_eq!(
        (reason("AbleToScale"), reason("ScalingActive")),
        ("True SucceededGetScale".into(), "False FailedGetResourceMetric".into())
    );
    *usage.lock() = Some("500m");
    next();
    look().await;
    let replicas = || cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap()["spec"]["replicas"].clone();
    assert_eq!(
        (replicas(), reason("AbleToScale"), reason("ScalingActive")),
        (json!(4), "True SucceededRescale".into(), "True ValidMetricFound".into())
    );
    let now = status();
    assert_eq!((now["currentReplicas"].clone(), now["desiredReplicas"].clone()), (json!(2), json!(4)));
    let want = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 100, "averageValue": "500m"}}}]);
    assert_eq!(now["currentMetrics"], want);
    assert!(now["lastScaleTime"].is_string());
    *usage.lock() = Some("10m");
    next();
    look().await;
    assert_eq!((replicas(), reason("AbleToScale")), (json!(4), "True ScaleDownStabilized".into()), "not at once");
    cluster.clock.advance(301);
    look().await;
    assert_eq!((replicas(), reason("ScalingLimited")), (json!(1), "False DesiredWithinRange".into()));
}

/// What was measured is told, whatever becomes of it.
#[tokio::test]
async fn a_target_that_cannot_be_scaled_hides_no_figures() {
    let cluster = Cluster::new();
    let mut cx = cluster.cx();
    cx.client = api(&cluster, Arc::new(Mutex::new(Some("500m"))));
    cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": 2, "paused": true}}));
    for name in ["a", "b"] {
        cluster.put(pod(name, ""));
    }
    cluster.put(autoscaler());
    cluster.clock.advance(3600);
    controller().reconcile(&crate::api::object::ObjectKey::new("n", "h"), &cx).await.unwrap();
    let status = cluster.get(&res::HORIZONTAL_POD_AUTOSCALERS, "n", "h").unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "FailedUpdateScale");
    assert_eq!(status["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 100);
    assert_eq!((status.get("lastScaleTime"), &status["desiredReplicas"]), (None, &json!(0)));
}

/// What a metric wants of two ready pods, before APIs that measure 200 of everything, or nothing.
async fn proposed(metric: Value, measured: bool) -> Result<Proposal, Failed> {
    let inner = Cluster::new().client();
    let client = Client::in_process(tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move {
            let item = json!({"metadata": {"name": "a"}, "value": "200", "timestamp": "2026-01-01T01:00:00Z",
                "window": "30s", "containers": [{"name": "c", "usage": {"cpu": "500m"}}]});
            let path = request.uri().path().to_owned();
            let (code, body) = match path.contains(".k8s.io/") {
                true if measured => (200, json!({"items": [item]})),
                true => (404, Status::not_found("", "things", "").to_value()),
                false => match inner.read(path).await {
                    Ok(found) => (200, found),
                    Err(status) => (status.code, status.to_value()),
                },
            };
            let body = Full::new(Bytes::from(body.to_string()));
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    }));
    let pods = [pod("a", ""), pod("b", "")];
    let metrics = Metrics { client: &client, namespace: "n" };
    propose(&metrics, &mut Kinds::of(&client), &metric, &input(&pods, 2), "app=web").await
}

/// A metric of an object, or of something outside of the cluster.
fn one_value(kind: &str, target: Value) -> Value {
    let mut source = json!({"metric": {"name": "q"}, "target": target});
    if kind == "Object" {
        source["describedObject"] = json!({"apiVersion": "apps/v1beta1", "kind": "Deployment", "name": "web"});
    }
    json!({"type": kind, kind.to_lowercase(): source})
}

fn in_all() -> Value {
    json!({"type": "Value", "value": "100"})
}

fn for_each() -> Value {
    json!({"type": "AverageValue", "averageValue": "50"})
}

fn of_container() -> Value {
    json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 50}}})
}

fn selected() -> Value {
    let mut metric = one_value("External", in_all());
    metric["external"]["metric"]["selector"] = json!({"matchLabels": {"a": "b"}});
    metric
}

#[test_case(one_value("Object", in_all()), "Deployment metric q", "web"; "of an object")]
#[test_case(one_value("Object", for_each()), "external metric q(nil)", ""; "of an object for each pod")]
#[test_case(one_value("External", in_all()), "external metric q(nil)", "-"; "from outside")]
#[test_case(one_value("External", for_each()), "external metric q(nil)", "-"; "from outside for each pod")]
#[test_case(selected(), "external metric q(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},})", "-";
    "with a selector")]
#[test_case(of_container(), "cpu container resource utilization (percentage of request)", "-"; "of a container")]
#[tokio::test]
async fn metrics_are_called_as_upstream_does(metric: Value, name: &str, described: &str) {
    let got = proposed(metric, true).await.unwrap();
    let object = got.status.str_at("/object/describedObject/name").unwrap_or("-");
    assert_eq!((got.name.as_str(), object), (name, described));
}

#[test_case(one_value("Object", in_all()), "failed to get object metric value: ",
    "unable to get metric q: Deployment on n web/unable to fetch metrics from custom metrics API: things \"\" not found"; "an object")]
#[test_case(one_value("Object", for_each()), "failed to get object metric value: failed to get q object metric: ",
    "unable to get metric q: Deployment on n web/unable to fetch metrics from custom metrics API: things \"\" not found";
    "an object for each pod")]
#[test_case(one_value("Object", json!({"type": "Utilization"})), "failed to get object metric value: ",
    "invalid object metric source: neither a value target nor an average value target was set"; "no target")]
#[test_case(one_value("External", in_all()), "failed to get q external metric value: failed to get external metric q: ",
    "unable to get external metric n/q/nil: unable to fetch metrics from external metrics API: things \"\" not found"; "from outside")]
#[test_case(one_value("External", for_each()), "failed to get q external metric value: failed to get q external metric: ",
    "unable to get external metric n/q/nil: unable to fetch metrics from external metrics API: things \"\" not found";
    "from outside for each pod")]
#[tokio::test]
async fn metrics_fail_in_upstreams_words(metric: Value, within: &str, why: &str) {
    let got = proposed(metric, false).await.unwrap_err();
    assert_eq!((got.told, got.why.as_str()), (format!("{within}{why}"), why));
}

#[tokio::test]
async fn an_object_of_no_known_kind_has_no_metric() {
    let mut metric = one_value("Object", in_all());
    metric["object"]["describedObject"]["kind"] = "Thing".into();
    let want = "unable to get metric q: Thing on n web/unable to fetch metrics from custom metrics API: \
        unable to map kind Thing.apps to resource: no matches for kind \"Thing\" in group \"apps\"";
    assert_eq!(proposed(metric, true).await.unwrap_err().why, want);
}

/// Two autoscalers of the same pods would pull at them for ever: neither does anything, and both say why.
#[tokio::test]
async fn autoscalers_of_the_same_pods_stand_still() {
    let cluster = Cluster::new();
    let mut cx = cluster.cx();
    let usage = Arc::new(Mutex::new(None));
    cx.client = api(&cluster, usage.clone());
    cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": 2}}));
    for name in ["a", "b"] {
        let mut p = pod(name, "");
        p["status"]["startTime"] = "2025-12-31T00:00:00Z".into();
        p["status"]["conditions"][0]["lastTransitionTime"] = "2025-12-31T00:00:00Z".into();
        cluster.put(p);
    }
    let mut other = autoscaler();
    other["metadata"]["name"] = "other".into();
    cluster.put(autoscaler());
    cluster.put(other);
    let hpa = controller();
    // In the first round both learn which pods are theirs, and there is nothing to measure.
    for measured in [None, Some("500m")] {
        *usage.lock() = measured;
        cluster.clock.advance(15);
        for name in ["h", "other"] {
            hpa.reconcile(&crate::api::object::ObjectKey::new("n", name), &cx).await.unwrap();
        }
    }
    for name in ["h", "other"] {
        let status = cluster.get(&res::HORIZONTAL_POD_AUTOSCALERS, "n", name).unwrap()["status"].clone();
        let active = status.items_at("/conditions").iter().find(|c| c["type"] == "ScalingActive").cloned().unwrap();
        assert_eq!((&active["status"], &active["reason"]), (&json!("False"), &json!("AmbiguousSelector")), "{name}");
        let want = "pods by selector app=web are controlled by multiple HPAs: [n/h n/other]";
        assert_eq!(active["message"], want);
    }
    // One of them goes, and the other one works.
    let replicas = || cluster.get(&res::DEPLOYMENTS, "n", "web").unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(), 2);
    cluster.client().delete(&res::HORIZONTAL_POD_AUTOSCALERS, "n", "other", &Default::default()).await.unwrap();
    for name in ["other", "h"] {
        cluster.clock.advance(15);
        hpa.reconcile(&crate::api::object::ObjectKey::new("n", name), &cx).await.unwrap();
    }
    assert_eq!(replicas(), 4);
}
