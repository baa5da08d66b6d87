//! Where pods go: selectors, ports, what nodes have, and who has to make room. Part of the cluster of `apps`.

use serde_json::{Value, json};

use crate::scenario::{Api, Scenario, condition, name, names, pod, ready, scenarios, template, workload};

pub const SCENARIOS: &[Scenario] = scenarios![
    limits_are_defaults,
    selectors_of_nodes,
    what_a_node_has_is_given_once,
    ports_of_nodes,
    preemption,
    preempted_pods_say_so,
    priority_classes,
];

const IDLE: &[&str] = &["sleep", "1000"];

/// Waits until the scheduler has said that it finds no node, and gives its words.
async fn no_node(api: &Api, pod: &str) -> String {
    let refused =
        api.until("no node is found", &format!("pods/{pod}"), |p| condition(p, "PodScheduled") == "False").await;
    assert_eq!(refused["spec"].get("nodeName"), None);
    let told =
        refused["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "PodScheduled").unwrap();
    assert_eq!(told["reason"], "Unschedulable");
    told["message"].as_str().unwrap().to_owned()
}

async fn runs_on(api: &Api, pod: &str, node: &str) {
    let running = api.until("it runs", &format!("pods/{pod}"), ready).await;
    assert_eq!(running["spec"]["nodeName"], node);
}

/// "[sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if not matching",
/// "[sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if matching"
async fn selectors_of_nodes(api: Api) {
    let mut picky = pod("picky", IDLE);
    picky["spec"]["nodeSelector"] = json!({"e2e-place": "here"});
    api.create("pods", picky).await;
    let told = no_node(&api, "picky").await;
    assert!(
        told.starts_with("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        "{told}"
    );
    api.patch("/api/v1/nodes/a", json!({"metadata": {"labels": {"e2e-place": "here"}}})).await;
    runs_on(&api, "picky", "a").await;
    api.patch("/api/v1/nodes/a", json!({"metadata": {"labels": {"e2e-place": null}}})).await;
    assert!(ready(&api.get("pods/picky").await), "a label that goes later changes nothing");
}

/// "[sig-scheduling] SchedulerPredicates validates resource limits of pods that are allowed to run"
async fn what_a_node_has_is_given_once(api: Api) {
    let node = api.get("/api/v1/nodes/a").await;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    let millis = cpu.strip_suffix('m').map_or_else(|| cpu.parse::<u64>().unwrap() * 1000, |m| m.parse().unwrap());
    let asks = |name: &str, millis: u64| {
        let mut pod = pod(name, IDLE);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": format!("{millis}m")}});
        pod
    };
    api.create("pods", asks("most", millis - 100)).await;
    runs_on(&api, "most", "a").await;
    api.create("pods", asks("too-much", 101)).await;
    let told = no_node(&api, "too-much").await;
    assert!(told.contains("1 Insufficient cpu"), "{told}");
    api.create("pods", asks("rest", 100)).await;
    runs_on(&api, "rest", "a").await;
    api.delete("pods/most").await;
    runs_on(&api, "too-much", "a").await;
}

/// "[sig-scheduling] SchedulerPredicates validates that there exists conflict between pods with same hostPort and protocol but
/// one using 0.0.0.0 hostIP"
async fn ports_of_nodes(api: Api) {
    let on = |name: &str, ip: Option<&str>, protocol: &str| {
        let mut pod = pod(name, IDLE);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080, "hostPort": 24322, "protocol": protocol}]);
        if let Some(ip) = ip {
            pod["spec"]["containers"][0]["ports"][0]["hostIP"] = ip.into();
        }
        pod
    };
    api.create("pods", on("everywhere", None, "TCP")).await;
    runs_on(&api, "everywhere", "a").await;
    api.create("pods", on("there", Some("198.51.100.11"), "TCP")).await;
    let told = no_node(&api, "there").await;
    assert!(told.contains("1 node(s) didn't have free ports for the requested pod ports"), "{told}");
    api.create("pods", on("udp", Some("198.51.100.11"), "UDP")).await;
    runs_on(&api, "udp", "a").await;
}

/// Gives a node so much of a resource that nobody else has.
async fn endow(api: &Api, node: &str, resource: &str, amount: u64) {
    let has = json!({resource: amount.to_string()});
    api.patch(&format!("/api/v1/nodes/{node}/status"), json!({"status": {"capacity": has, "allocatable": has}})).await;
}

/// A class of its own for the scenario; gives its name.
async fn class(api: &Api, value: u64) -> String {
    let name = format!("{}-{value}", api.namespace);
    api.create("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"metadata": {"name": name}, "value": value})).await;
    name
}

/// Lets a pod's spec want a node's resource, by a priority class.
fn wants(spec: &mut Value, node: &str, resource: &str, amount: u64, class: &str) {
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    spec["priorityClassName"] = class.into();
    let much = json!({resource: amount.to_string()});
    spec["containers"][0]["resources"] = json!({"requests": much, "limits": much});
}

fn wanting(name: &str, node: &str, resource: &str, amount: u64, class: &str) -> Value {
    let mut pod = pod(name, IDLE);
    wants(&mut pod["spec"], node, resource, amount, class);
    pod
}

/// "[sig-scheduling] SchedulerPreemption validates basic preemption works", "[sig-scheduling] SchedulerPreemption validates
/// lower priority pod preemption by critical pod"
async fn preemption(api: Api) {
    let resource = "example.com/seat";
    let (low, middle, high) = (class(&api, 1).await, class(&api, 100).await, class(&api, 1000).await);
    for node in ["box", "a"] {
        endow(&api, node, resource, 2).await;
    }
    for (name, node, amount, class) in [("low-box", "box", 2, &low), ("middle-a", "a", 2, &middle)] {
        api.create("pods", wanting(name, node, resource, amount, class)).await;
        runs_on(&api, name, node).await;
    }
    // Either node would do; the lowest has to go.
    let mut chooses = wanting("high", "", resource, 2, &high);
    chooses["spec"].as_object_mut().unwrap().remove("nodeSelector");
    api.create("pods", chooses).await;
    runs_on(&api, "high", "box").await;
    api.gone("pods/low-box").await;
    assert!(ready(&api.get("pods/middle-a").await));

    let critical = "/api/v1/namespaces/kube-system/pods";
    api.create(critical, wanting("e2e-critical", "a", resource, 2, "system-cluster-critical")).await;
    let path = format!("{critical}/e2e-critical");
    api.until("what is critical runs", &path, ready).await;
    api.gone("pods/middle-a").await;
    assert!(ready(&api.get("pods/high").await));
    api.delete(&path).await;
}

/// "[sig-scheduling] SchedulerPreemption validates pod disruption condition is added to the preempted pod"
async fn preempted_pods_say_so(api: Api) {
    let resource = "example.com/only";
    let (low, high) = (class(&api, 1).await, class(&api, 1000).await);
    endow(&api, "a", resource, 1).await;
    let mut victim = wanting("victim", "a", resource, 1, &low);
    victim["metadata"]["finalizers"] = json!(["example.com/look"]);
    api.create("pods", victim).await;
    runs_on(&api, "victim", "a").await;
    api.create("pods", wanting("preemptor", "a", resource, 1, &high)).await;
    let going = api.until("it has to go", "pods/victim", |p| p["metadata"].get("deletionTimestamp").is_some()).await;
    let why =
        going["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&why["status"], &why["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    api.patch("pods/victim", json!({"metadata": {"finalizers": null}})).await;
    runs_on(&api, "preemptor", "a").await;
}

/// "[sig-scheduling] SchedulerPreemption PreemptionExecutionPath runs ReplicaSets to verify preemption running path"
pub async fn preemption_by_sets(api: Api) {
    let resource = "example.com/share";
    endow(&api, "box", resource, 1000).await;
    let since = api.get("pods").await["metadata"]["resourceVersion"].clone();
    for (app, value, amount) in [("one", 1, 200), ("two", 2, 300), ("three", 3, 450)] {
        let mut template = template(app, IDLE);
        wants(&mut template["spec"], "box", resource, amount, &class(&api, value).await);
        api.create("replicasets", workload(app, 1, template)).await;
        api.until("its pod runs", &format!("replicasets/{app}"), |s| s["status"]["readyReplicas"] == 1).await;
    }
    // 50 are left and 500 wanted: the two lowest have to go, and no other.
    let highest = class(&api, 4).await;
    api.create("pods", wanting("four", "box", resource, 500, &highest)).await;
    runs_on(&api, "four", "box").await;
    let mut made = [0; 3];
    api.follow("pods", &since, |kind, pod| {
        let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
        if let (Some(which), "ADDED") = (["one", "two", "three"].iter().position(|a| *a == app), kind) {
            made[which] += 1;
        }
        made[..2] == [2, 2]
    })
    .await;
    for app in ["one", "two"] {
        let waiting = api.pods(app).await;
        let told = no_node(&api, name(&waiting[0])).await;
        assert!(told.contains(&format!("Insufficient {resource}")), "{told}");
    }
    assert!(api.pods("three").await.iter().all(ready));
    assert_eq!((made, api.pods("one").await.len(), api.pods("two").await.len()), ([2, 2, 1], 1, 1));
}

/// "[sig-scheduling] SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different
/// HTTP methods"
async fn priority_classes(api: Api) {
    let all = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let path = format!("{all}/{}", class(&api, 7).await);
    let (code, refused) = api.send("PATCH", &path, "application/merge-patch+json", &json!({"value": 8})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("value")));
    let mut put = api.get(&path).await;
    put["value"] = 9.into();
    assert_eq!(api.send("PUT", &path, "application/json", &put).await.0, 422);
    let patched = api.patch(&path, json!({"description": "patched"})).await;
    assert_eq!((&patched["description"], &patched["value"]), (&json!("patched"), &json!(7)));
    let updated = api.update(&path, |c| c["description"] = "updated".into()).await;
    assert_eq!(updated["description"], "updated");
    assert!(names(&api.get(all).await).contains(&format!("{}-7", api.namespace)));
    api.delete(&path).await;
    api.gone(&path).await;
}

/// "[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied.",
/// "[sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection"
async fn limits_are_defaults(api: Api) {
    let bound = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let container = json!({
        "type": "Container", "min": bound("50m", "10Mi"), "max": bound("500m", "100Mi"),
        "default": bound("500m", "100Mi"), "defaultRequest": bound("100m", "20Mi"),
    });
    let range = json!({"metadata": {"name": "range", "labels": {"app": "range"}}, "spec": {"limits": [container]}});
    api.create("limitranges", range).await;
    let resources = |p: &Value| p["spec"]["containers"][0]["resources"].clone();
    let asks = |name: &str, resources: Value| {
        let mut pod = pod(name, IDLE);
        // None of these has to run.
        pod["spec"]["schedulingGates"] = json!([{"name": "example.com/look-only"}]);
        pod["spec"]["containers"][0]["resources"] = resources;
        pod
    };
    let rows = [
        ("nothing", json!({}), bound("100m", "20Mi"), bound("500m", "100Mi")),
        ("part", json!({"requests": {"cpu": "300m"}}), bound("300m", "20Mi"), bound("500m", "100Mi")),
        ("limit", json!({"limits": {"cpu": "300m"}}), bound("300m", "20Mi"), bound("300m", "100Mi")),
    ];
    for (name, given, requests, limits) in rows {
        let made = api.create("pods", asks(name, given)).await;
        assert_eq!((&resources(&made)["requests"], &resources(&made)["limits"]), (&requests, &limits), "{name}");
    }
    let refused = [("little", bound("10m", "20Mi"), "minimum cpu"), ("much", bound("100m", "200Mi"), "maximum memory")];
    for (name, amount, why) in &refused {
        let pod = asks(name, json!({"requests": amount, "limits": amount}));
        let (code, answer) = api.send("POST", "pods", "application/json", &pod).await;
        assert!(code == 403 && answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    api.update("limitranges/range", |r| r["spec"]["limits"][0]["min"]["cpu"] = "5m".into()).await;
    api.create("pods", asks("little", json!({"requests": refused[0].1, "limits": refused[0].1}))).await;
    crate::apps::is_listed_and_deleted(&api, "/api/v1", "limitranges", "range").await;
    let free = api.create("pods", asks("free", json!({}))).await;
    assert_eq!(resources(&free), json!({}), "what is gone is no default");
}
