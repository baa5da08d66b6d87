//! What controllers can do beyond what upstream's conformance suite asks of them, on two nodes with real containers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::jobs::job;
use crate::scenario::{Api, Scenario, condition, name, names, pod, ready, scenarios, template, workload};

pub const SCENARIOS: &[Scenario] = scenarios![
    more_addresses_for_services,
    replaced_only_when_ended,
    ordinals_and_their_names,
    daemons_surge,
    paused_beside_a_canary,
    claims_of_pods_and_volumes_by_hand,
    a_namespace_goes_in_order,
    the_nearest_pod_answers,
    endpoints_by_hand_are_mirrored,
    others_manage_jobs,
    roles_of_roles,
];

fn rolled_out(app: &str, edition: &str) -> impl Fn(&Value) -> bool {
    let (app, edition) = (app.to_owned(), edition.to_owned());
    move |d: &Value| {
        let (spec, status) = (&d["spec"]["replicas"], &d["status"]);
        let template = &d["spec"]["template"]["metadata"]["annotations"]["edition"];
        name(d) == app
            && *template == *edition
            && status["observedGeneration"] == d["metadata"]["generation"]
            && [&status["replicas"], &status["updatedReplicas"], &status["availableReplicas"]]
                .iter()
                .all(|n| *n == spec)
    }
}

/// For a shell: whether this pod answers there. Its greeting is empty.
fn answers(host: &str, pod: &str) -> String {
    format!("[ \"$(wget -qO- http://{host}/)\" = \" from {pod} (v1)\" ]")
}

/// A Deployment and its canary behind one Service, and a change of the first one that waits until it is let go.
async fn paused_beside_a_canary(api: Api) {
    for (app, replicas) in [("stable", 2), ("canary", 1)] {
        let mut deployment = workload(app, replicas, template(app, &[]));
        let metadata = &mut deployment["spec"]["template"]["metadata"];
        metadata["labels"]["tier"] = "front".into();
        metadata["annotations"] = json!({"edition": "one"});
        api.create("deployments", deployment).await;
    }
    let spec = json!({"selector": {"tier": "front"}, "ports": [{"port": 80, "targetPort": 8080}]});
    api.create("services", json!({"metadata": {"name": "front"}, "spec": spec})).await;
    for app in ["stable", "canary"] {
        api.until("it runs", &format!("deployments/{app}"), rolled_out(app, "one")).await;
    }
    let mut seen = BTreeSet::new();
    api.until("both answer for the one Service", "services/front:80/proxy/", |answer| {
        let who = answer.as_str().unwrap_or_default().strip_prefix("from ").unwrap_or_default();
        seen.insert(who.split('-').next().unwrap_or_default().to_owned());
        seen.contains("stable") && seen.contains("canary")
    })
    .await;
    let replicas = |list: &Value| {
        let all = list["items"].as_array().cloned().unwrap_or_default();
        all.iter().map(|s| s["spec"]["replicas"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let sets = "replicasets?labelSelector=app%3Dstable";
    let edition = json!({"template": {"metadata": {"annotations": {"edition": "two"}}}, "replicas": 3, "paused": true});
    api.patch("deployments/stable", json!({"spec": edition})).await;
    api.until("it grows in its old edition", "deployments/stable", |d| {
        d["status"]["availableReplicas"] == 3 && condition(d, "Progressing") == "Unknown"
    })
    .await;
    assert_eq!(replicas(&api.get(sets).await), [3], "of the new edition there is nothing");
    api.patch("deployments/stable", json!({"spec": {"paused": false}})).await;
    api.until("it rolls out when it may", "deployments/stable", rolled_out("stable", "two")).await;
    let mut both = replicas(&api.get(sets).await);
    both.sort_unstable();
    assert_eq!(both, [0, 3]);
    // Foreground: when the owner is gone everything below it is.
    let (code, _) =
        api.send("DELETE", "deployments/stable", "application/json", &json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(code, 200);
    api.gone("deployments/stable").await;
    for left in [sets, "pods?labelSelector=app%3Dstable"] {
        assert_eq!(names(&api.get(left).await), [] as [String; 0]);
    }
}

/// Names that begin where they are told to, known to DNS, all at one time, and available only after a while.
async fn ordinals_and_their_names(api: Api) {
    let mut set = workload("ord", 2, template("ord", &[]));
    for (field, value) in [
        ("serviceName", json!("ord")),
        ("ordinals", json!({"start": 3})),
        ("podManagementPolicy", json!("Parallel")),
        ("minReadySeconds", json!(2)),
    ] {
        set["spec"][field] = value;
    }
    let spec = json!({"clusterIP": "None", "selector": {"app": "ord"}, "ports": [{"port": 8080}]});
    api.create("services", json!({"metadata": {"name": "ord"}, "spec": spec})).await;
    api.create("statefulsets", set).await;
    let of = |pods: &[Value]| -> Vec<String> {
        let mut all: Vec<String> = pods.iter().filter(|p| ready(p)).map(|p| name(p).to_owned()).collect();
        all.sort();
        all
    };
    let pods = api.until_pods("both run", "ord", |pods| of(pods) == ["ord-3", "ord-4"]).await;
    for pod in &pods {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["apps.kubernetes.io/pod-index"], name(pod)[4..], "{labels}");
    }
    let available =
        |n: u64| move |s: &Value| s["status"]["availableReplicas"] == n && s["status"]["readyReplicas"] == n;
    api.until("and are available in time", "statefulsets/ord", available(2)).await;
    // Each answers by its own name, on whichever node it is.
    let both =
        ["ord-3", "ord-4"].map(|pod| format!("until {}; do sleep 1; done", answers(&format!("{pod}.ord:8080"), pod)));
    api.create("jobs", job("asks", &both.join("; "), json!({}))).await;
    api.until("both are found by name", "jobs/asks", |j| condition(j, "Complete") == "True").await;
    let kept = pods.iter().find(|p| name(p) == "ord-4").unwrap()["metadata"]["uid"].clone();
    api.patch("statefulsets/ord", json!({"spec": {"ordinals": {"start": 4}}})).await;
    let moved = api.until_pods("the ordinals move on", "ord", |pods| of(pods) == ["ord-4", "ord-5"]).await;
    assert!(moved.iter().any(|p| p["metadata"]["uid"] == kept), "who has an ordinal still keeps its pod");
}

/// With surge the new pod of a node is there before the old one goes: never fewer than one of each node is ready.
async fn daemons_surge(api: Api) {
    let mut set = workload("surge", 1, template("surge", &["sleep", "1000"]));
    set["spec"].as_object_mut().unwrap().remove("replicas");
    set["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    set["spec"]["template"]["metadata"]["annotations"] = json!({"edition": "one"});
    api.create("daemonsets", set).await;
    let of = |pods: &[Value], edition: &str| {
        pods.iter().filter(|p| ready(p) && p["metadata"]["annotations"]["edition"] == edition).count()
    };
    api.until_pods("each node has one", "surge", |pods| of(pods, "one") == 2).await;
    let list = api.get("pods?labelSelector=app%3Dsurge").await;
    let mut now: BTreeMap<String, Value> =
        list["items"].as_array().unwrap().iter().map(|p| (name(p).to_owned(), p.clone())).collect();
    api.patch("daemonsets/surge", json!({"spec": {"template": {"metadata": {"annotations": {"edition": "two"}}}}}))
        .await;
    let mut most = 0;
    api.follow("pods?labelSelector=app%3Dsurge", &list["metadata"]["resourceVersion"], |kind, pod| {
        match kind {
            "DELETED" => drop(now.remove(name(pod))),
            _ => drop(now.insert(name(pod).to_owned(), pod.clone())),
        }
        let serve: BTreeSet<&str> =
            now.values().filter(|p| ready(p)).filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
        assert_eq!(serve.len(), 2, "a node without: {now:?}");
        most = most.max(now.len());
        now.len() == 2 && now.values().all(|p| p["metadata"]["annotations"]["edition"] == "two")
    })
    .await;
    assert!(most > 2, "there were both at one time");
}

/// A pod of a Job that waits for the end of its pods is on its way out for a while; only then comes the next.
async fn replaced_only_when_ended(api: Api) {
    let mut patient = job(
        "patient",
        "trap 'sleep 1; exit 1' TERM; while :; do sleep 0.1; done",
        json!({"podReplacementPolicy": "Failed", "backoffLimit": 3}),
    );
    patient["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30.into();
    api.create("jobs", patient).await;
    let first = api.until_pods("it runs", "patient", |pods| pods.len() == 1 && ready(&pods[0])).await.remove(0);
    let list = api.get("pods?labelSelector=app%3Dpatient").await;
    api.delete(&format!("pods/{}", name(&first))).await;
    let waits = api.until("it waits", "jobs/patient", |j| j["status"]["terminating"] == 1).await;
    assert_eq!(waits["status"]["active"].as_u64().unwrap_or(0), 0, "{waits}");
    let mut ended = false;
    api.follow("pods?labelSelector=app%3Dpatient", &list["metadata"]["resourceVersion"], |kind, pod| {
        if name(pod) == name(&first) {
            ended |= kind == "DELETED" || pod["status"]["phase"] == "Failed";
            return false;
        }
        assert!(ended, "the next one came too soon: {pod}");
        true
    })
    .await;
    api.until("which is a failure", "jobs/patient", |j| j["status"]["failed"] == 1 && j["status"]["active"] == 1).await;
}

/// A Job that somebody else manages is nobody's here; its manager may write its status.
async fn others_manage_jobs(api: Api) {
    api.create("jobs", job("foreign", "true", json!({"managedBy": "example.com/queue"}))).await;
    api.create("jobs", job("ours", "true", json!({}))).await;
    api.until("ours is done", "jobs/ours", |j| condition(j, "Complete") == "True").await;
    let foreign = api.get("jobs/foreign").await;
    assert_eq!(foreign["status"], json!({}), "{foreign}");
    assert!(api.pods("foreign").await.is_empty());
    let status = json!({"status": {"active": 2, "ready": 1, "startTime": foreign["metadata"]["creationTimestamp"]}});
    let written = api.patch("jobs/foreign/status", status).await;
    assert_eq!(written["status"]["active"], 2);
}

/// A claim that a pod brings along goes with it; one that names a volume gets that, and lets it go.
async fn claims_of_pods_and_volumes_by_hand(api: Api) {
    let claim = |class: &str| json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Mi"}}});
    let mut brings = pod("brings", &["sh", "-c", "echo kept > /data/file && exec sleep 1000"]);
    brings["spec"]["volumes"] =
        json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": claim("local-path")}}}]);
    brings["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let brings = api.create("pods", brings).await;
    let volumes = "/api/v1/persistentvolumes";
    let by_hand = format!("{}-by-hand", api.namespace);
    let spec = json!({
        "capacity": {"storage": "5Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": by_hand,
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nonexistent"},
    });
    api.create(volumes, json!({"metadata": {"name": by_hand}, "spec": spec})).await;
    api.create("persistentvolumeclaims", json!({"metadata": {"name": "mine"}, "spec": claim(&by_hand)})).await;
    let bound = api.until("it is bound", "persistentvolumeclaims/mine", |c| c["status"]["phase"] == "Bound").await;
    assert_eq!(bound["spec"]["volumeName"], by_hand);
    assert_eq!(bound["status"]["capacity"]["storage"], "5Mi", "all of the volume is its");
    api.create("persistentvolumeclaims", json!({"metadata": {"name": "late"}, "spec": claim(&by_hand)})).await;
    api.delete("persistentvolumeclaims/mine").await;
    let path = format!("{volumes}/{by_hand}");
    api.until("it is let go", &path, |v| v["status"]["phase"] == "Released").await;
    assert_eq!(api.get("persistentvolumeclaims/late").await["status"]["phase"], "Pending", "with what is on it");
    api.patch(&path, json!({"spec": {"claimRef": null}})).await;
    api.until("somebody has emptied it", "persistentvolumeclaims/late", |c| c["status"]["phase"] == "Bound").await;
    api.delete("persistentvolumeclaims/late").await;
    api.delete(&path).await;
    api.gone(&path).await;

    api.until("the other one runs", "pods/brings", ready).await;
    let own = api.get("persistentvolumeclaims/brings-data").await;
    assert_eq!(own["metadata"]["ownerReferences"][0]["uid"], brings["metadata"]["uid"]);
    let volume = format!("{volumes}/{}", own["spec"]["volumeName"].as_str().unwrap());
    api.delete("pods/brings").await;
    api.gone("persistentvolumeclaims/brings-data").await;
    api.gone(&volume).await;
}

/// A namespace goes: its pods first, and what holds one is told; its Services and settings are there until then.
async fn a_namespace_goes_in_order(api: Api) {
    let going = format!("{}-going", api.namespace);
    let path = format!("/api/v1/namespaces/{going}");
    api.create("/api/v1/namespaces", json!({"metadata": {"name": going}})).await;
    api.until("the default account", &format!("{path}/serviceaccounts/default"), |a| a["kind"] == "ServiceAccount")
        .await;
    let mut held = pod("held", &["sleep", "1000"]);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    api.create(&format!("{path}/pods"), held).await;
    let deployments = format!("/apis/apps/v1/namespaces/{going}/deployments");
    api.create(&deployments, workload("web", 1, template("web", &["sleep", "1000"]))).await;
    api.create(&format!("{path}/configmaps"), json!({"metadata": {"name": "settings"}})).await;
    api.until("it runs", &format!("{path}/pods/held"), ready).await;
    api.delete(&path).await;
    let waits = |n: &Value| condition(n, "NamespaceFinalizersRemaining") == "True";
    let told = api.until("it says what it waits for", &path, waits).await;
    assert_eq!(told["status"]["phase"], "Terminating");
    assert!(told.to_string().contains("example.com/held in 1 resource instances"), "{told}");
    assert_eq!(api.get(&format!("{path}/configmaps/settings")).await["kind"], "ConfigMap", "pods go first");
    let new = json!({"metadata": {"name": "new"}});
    let (code, refusal) = api.send("POST", &format!("{path}/configmaps"), "application/json", &new).await;
    assert_eq!((code, &refusal["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    api.patch(&format!("{path}/pods/held"), json!({"metadata": {"finalizers": null}})).await;
    api.gone(&path).await;
}

/// Endpoints that somebody writes for a Service that selects nothing: an EndpointSlice has them, clients come to them, and it
/// follows them to their end.
async fn endpoints_by_hand_are_mirrored(api: Api) {
    api.create("pods", pod("behind", &[])).await;
    let behind = api.until("it serves", "pods/behind", ready).await;
    let port = json!({"port": 8080});
    let ends = |ips: &[&Value]| {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!([{"addresses": addresses, "ports": [port]}])
    };
    let ip = &behind["status"]["podIP"];
    api.create("services", json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}})).await;
    let path = format!("/api/v1/namespaces/{}/endpoints", api.namespace);
    api.create(&path, json!({"metadata": {"name": "outside"}, "subsets": ends(&[ip])})).await;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", api.namespace);
    let manager = "endpointslicemirroring-controller.k8s.io";
    let is_mirror = |list: &Value, ips: &[&Value]| {
        let slice = &list["items"][0];
        let listed = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == manager
            && listed.iter().map(|end| &end["addresses"][0]).eq(ips.iter().copied())
    };
    api.until("they are mirrored", &slices, |list| is_mirror(list, &[ip])).await;
    api.create("jobs", job("asks", &format!("until {}; do sleep 0.2; done", answers("outside", "behind")), json!({})))
        .await;
    api.until("a client comes to them", "jobs/asks", |j| condition(j, "Complete") == "True").await;
    let more = "192.0.2.7".into();
    api.patch(&format!("{path}/outside"), json!({"subsets": ends(&[ip, &more])})).await;
    api.until("there is another", &slices, |list| is_mirror(list, &[ip, &more])).await;
    api.delete(&format!("{path}/outside")).await;
    api.until("nothing is left", &slices, |list| list["items"].as_array().is_some_and(Vec::is_empty)).await;
}

/// A Service that prefers pods of the client's node: the slices say which, and clients on the node come to no other.
async fn the_nearest_pod_answers(api: Api) {
    let mut addresses = BTreeMap::new();
    for node in ["box", "a"] {
        let mut web = pod(&format!("on-{node}"), &[]);
        web["metadata"]["labels"]["app"] = "near".into();
        web["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        api.create("pods", web).await;
    }
    let spec = json!({"selector": {"app": "near"}, "ports": [{"port": 80, "targetPort": 8080}], "trafficDistribution": "PreferSameNode"});
    api.create("services", json!({"metadata": {"name": "near"}, "spec": spec})).await;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", api.namespace);
    api.until("each says for whom it is", &slices, |list| {
        for end in list["items"][0]["endpoints"].as_array().into_iter().flatten() {
            let hint = &end["hints"]["forNodes"][0]["name"];
            addresses.insert(end["nodeName"].as_str().unwrap_or_default().to_owned(), hint == &end["nodeName"]);
        }
        addresses.len() == 2 && addresses.values().all(|hinted| *hinted)
    })
    .await;
    // From a pod of each node; what is wrong at first is right once the node has seen the slices, and stays so.
    for node in ["box", "a"] {
        let asks = format!(
            "n=0; while [ $n -lt 10 ]; do if {}; then n=$((n+1)); else n=0; sleep 0.2; fi; done",
            answers("near", &format!("on-{node}"))
        );
        let mut job = job(&format!("asks-{node}"), &asks, json!({}));
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        api.create("jobs", job).await;
    }
    for node in ["box", "a"] {
        let done = |j: &Value| condition(j, "Complete") == "True";
        api.until("only the pod of its node answers", &format!("jobs/asks-{node}"), done).await;
    }
}

/// A role that is made of others follows them.
async fn roles_of_roles(api: Api) {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let label = json!({format!("{}.example.com/part", api.namespace): "true"});
    let whole = format!("{}-whole", api.namespace);
    let rule = json!({"clusterRoleSelectors": [{"matchLabels": label}]});
    api.create(roles, json!({"metadata": {"name": whole}, "aggregationRule": rule, "rules": []})).await;
    let part = |what: &str| {
        let rules = json!([{"apiGroups": ["example.com"], "resources": [what], "verbs": ["get"]}]);
        json!({"metadata": {"name": format!("{}-{what}", api.namespace), "labels": label}, "rules": rules})
    };
    for what in ["doors", "windows"] {
        api.create(roles, part(what)).await;
    }
    let path = format!("{roles}/{whole}");
    let has = |role: &Value| -> Vec<String> {
        let rules = role["rules"].as_array().cloned().unwrap_or_default();
        rules.iter().map(|r| r["resources"][0].as_str().unwrap().to_owned()).collect()
    };
    api.until("it has what its parts have", &path, |role| has(role) == ["doors", "windows"]).await;
    api.delete(&format!("{roles}/{}-doors", api.namespace)).await;
    api.until("and no more", &path, |role| has(role) == ["windows"]).await;
    for left in [format!("{}-windows", api.namespace), whole] {
        api.delete(&format!("{roles}/{left}")).await;
    }
}

/// Addresses of a range that somebody adds: Services get them and answer there, and the range stays while they have them.
async fn more_addresses_for_services(api: Api) {
    let group = "/apis/networking.k8s.io/v1";
    let (ranges, range) = (format!("{group}/servicecidrs"), format!("{group}/servicecidrs/{}", api.namespace));
    let service = |ip: &str| {
        let spec = json!({"clusterIP": ip, "selector": {"app": "far"}, "ports": [{"port": 80, "targetPort": 8080}]});
        json!({"metadata": {"name": "far"}, "spec": spec})
    };
    let (code, refusal) = api.send("POST", "services", "application/json", &service("10.99.7.7")).await;
    assert_eq!(code, 422, "{refusal}");
    api.create(&ranges, json!({"metadata": {"name": api.namespace}, "spec": {"cidrs": ["10.99.7.0/28"]}})).await;
    api.until("it is ready", &range, |r| condition(r, "Ready") == "True").await;
    api.create("services", service("10.99.7.7")).await;
    let address = format!("{group}/ipaddresses/10.99.7.7");
    let has = api.until("the address is an object", &address, |ip| ip["kind"] == "IPAddress").await;
    let parent = json!({"resource": "services", "namespace": api.namespace, "name": "far"});
    assert_eq!(has["spec"]["parentRef"], parent);
    let mut far = pod("far", &[]);
    far["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
    api.create("pods", far).await;
    let asks = format!("until {}; do sleep 0.2; done", answers("10.99.7.7", "far"));
    api.create("jobs", job("asks", &asks, json!({}))).await;
    api.until("it answers there", "jobs/asks", |j| condition(j, "Complete") == "True").await;
    // Somebody keeps an address for himself.
    let own =
        json!({"metadata": {"name": "10.99.7.9"}, "spec": {"parentRef": {"resource": "routers", "name": "mine"}}});
    api.create(&format!("{group}/ipaddresses"), own).await;
    let mut other = service("10.99.7.9");
    other["metadata"]["name"] = "other".into();
    let (code, refusal) = api.send("POST", "services", "application/json", &other).await;
    assert_eq!(code, 422);
    assert!(refusal["message"].as_str().unwrap().contains("provided IP is already allocated"), "{refusal}");
    api.delete(&format!("{group}/ipaddresses/10.99.7.9")).await;

    api.delete(&range).await;
    api.until("it waits for whom it serves", &range, |r| condition(r, "Ready") == "False").await;
    other["spec"]["clusterIP"] = "10.99.7.10".into();
    let (code, _) = api.send("POST", "services", "application/json", &other).await;
    assert_eq!(code, 422, "it gives nothing any more");
    api.delete("services/far").await;
    api.gone(&address).await;
    api.gone(&range).await;
}
