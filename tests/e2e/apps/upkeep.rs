//! What the controllers beside those of workloads keep in order, on two nodes with real containers: certificates, accounts
//! and their tokens, volumes in use, pods of nodes that there are not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orch::pki::{Profile, request};
use serde_json::{Value, json};

use super::jobs::job;
use crate::scenario::{Api, Scenario, condition, name, names, pod, ready, scenarios, template, workload};

pub const SCENARIOS: &[Scenario] = scenarios![
    pods_of_no_node,
    a_container_makes_its_deployment_grow,
    certificates_are_for_the_asking,
    accounts_and_what_they_need,
    volumes_in_use_stay,
    names_of_sets_that_are_taken,
    jobs_go_when_their_time_is_over,
];

/// A pod whose node does not exist is removed after a while, and says why.
async fn pods_of_no_node(api: Api) {
    let mut lost = pod("lost", &["sleep", "1000"]);
    lost["spec"]["nodeName"] = "nowhere".into();
    let made = api.create("pods", lost).await;
    let mut last = Value::Null;
    api.follow("pods", &made["metadata"]["resourceVersion"], |kind, pod| {
        last = pod.clone();
        kind == "DELETED"
    })
    .await;
    assert_eq!((condition(&last, "DisruptionTarget"), &last["status"]["phase"]), ("True", &json!("Failed")), "{last}");
}

/// An autoscaler that looks at one container of its pods.
async fn a_container_makes_its_deployment_grow(api: Api) {
    let mut busy = template("busy", &["sh", "-c", "while :; do :; done"]);
    busy["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "60m"}});
    let mut idle = busy["spec"]["containers"][0].clone();
    idle["name"] = "idle".into();
    idle["command"] = json!(["sleep", "1000"]);
    // Both together use little of what they ask for.
    idle["resources"] = json!({"requests": {"cpu": "200m"}});
    busy["spec"]["containers"].as_array_mut().unwrap().push(idle);
    api.create("deployments", workload("busy", 1, busy)).await;
    api.until_pods("it runs", "busy", |pods| pods.len() == 1 && ready(&pods[0])).await;
    let scalers = format!("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", api.namespace);
    let metric = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "main",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
        "minReplicas": 1, "maxReplicas": 2, "metrics": [metric]});
    api.create(&scalers, json!({"metadata": {"name": "busy"}, "spec": spec})).await;
    api.until("it grows", "deployments/busy", |d| d["spec"]["replicas"] == 2).await;
    let scaler = api.until("it says why", &format!("{scalers}/busy"), |s| s["status"]["desiredReplicas"] == 2).await;
    assert_eq!(scaler["status"]["currentMetrics"][0]["containerResource"]["container"], "main", "{scaler}");
    api.delete(&format!("{scalers}/busy")).await;
    api.delete("deployments/busy").await;
}

/// A request that is approved gets its certificate, one that is denied gets none, and one that asks for what its signer does
/// not sign fails.
async fn certificates_are_for_the_asking(api: Api) {
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = request::new_key().unwrap();
    let asked = request::make(&key, &Profile::client("jane", &["editors"])).unwrap();
    let rows = [
        ("granted", "client auth", "Approved"),
        ("refused", "client auth", "Denied"),
        ("wrong", "server auth", "Approved"),
    ];
    for (what, usage, verdict) in rows {
        let path = format!("{all}/{}-{what}", api.namespace);
        let spec = json!({"request": STANDARD.encode(&asked), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": [usage], "expirationSeconds": 3600});
        let made = json!({"metadata": {"name": format!("{}-{what}", api.namespace)}, "spec": spec});
        let made = api.create(all, made).await;
        assert_eq!(made["spec"]["groups"][0], "system:masters", "{made}");
        let said = json!([{"type": verdict, "status": "True", "reason": "Test", "message": "by hand"}]);
        api.update(&format!("{path}/approval"), |r| r["status"]["conditions"] = said.clone()).await;
    }
    let of = |what: &str| format!("{all}/{}-{what}", api.namespace);
    let signed = api.until("it is signed", &of("granted"), |r| r["status"]["certificate"].is_string()).await;
    let pem = STANDARD.decode(signed["status"]["certificate"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let failed =
        api.until("it is not what that signer signs", &of("wrong"), |r| condition(r, "Failed") == "True").await;
    for (other, what) in [(failed, "wrong"), (api.get(&of("refused")).await, "refused")] {
        assert!(other["status"].get("certificate").is_none(), "{what}: {other}");
    }
    for (what, ..) in rows {
        api.delete(&of(what)).await;
    }
}

/// Each namespace has an account and the authority's certificate, and gets them again; a token by hand lives as long as its
/// account.
async fn accounts_and_what_they_need(api: Api) {
    let core = format!("/api/v1/namespaces/{}", api.namespace);
    let (secrets, root) = (format!("{core}/secrets"), format!("{core}/configmaps/kube-root-ca.crt"));
    let ca = api.until("the authority is told", &root, |c| c["data"]["ca.crt"].is_string()).await["data"].clone();
    api.patch(&root, json!({"data": {"ca.crt": "forged"}})).await;
    api.until("it is told again", &root, |c| c["data"] == ca).await;
    for (what, path) in [("certificate", &*root), ("account", "serviceaccounts/default")] {
        let old = api.get(path).await["metadata"]["uid"].clone();
        api.delete(path).await;
        api.until(what, path, |o| o["metadata"]["uid"].is_string() && o["metadata"]["uid"] != old).await;
    }
    api.create("serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let token = json!({"type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot", "annotations": {"kubernetes.io/service-account.name": "robot"}}});
    api.create(&secrets, token).await;
    let filled = api.until("it gets its token", &format!("{secrets}/robot"), |s| s["data"]["token"].is_string()).await;
    assert_eq!(filled["data"]["namespace"], STANDARD.encode(&api.namespace));
    let token = STANDARD.decode(filled["data"]["token"].as_str().unwrap()).unwrap();
    let review = json!({"spec": {"token": String::from_utf8(token).unwrap()}});
    let whose = |review: &Value| review["status"]["user"]["username"].as_str().unwrap_or_default().to_owned();
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let robot = format!("system:serviceaccount:{}:robot", api.namespace);
    assert_eq!(whose(&api.create(reviews, review.clone()).await), robot);
    api.delete("serviceaccounts/robot").await;
    api.gone(&format!("{secrets}/robot")).await;
    assert_eq!(whose(&api.create(reviews, review).await), "");
}

/// A claim that a pod uses, and the volume that is bound to it, stay until nobody needs them, however early they are deleted.
async fn volumes_in_use_stay(api: Api) {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
    api.create("persistentvolumeclaims", json!({"metadata": {"name": "data"}, "spec": spec})).await;
    let mut user = pod("user", &["sh", "-c", "echo kept > /data/file && exec sleep 1000"]);
    user["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    user["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    api.create("pods", user).await;
    api.until("it runs", "pods/user", ready).await;
    let claim = api.get("persistentvolumeclaims/data").await;
    let volume = format!("/api/v1/persistentvolumes/{}", claim["spec"]["volumeName"].as_str().unwrap());
    for what in ["persistentvolumeclaims/data", &volume] {
        api.delete(what).await;
        let kept = api.get(what).await;
        assert!(kept["metadata"]["deletionTimestamp"].is_string(), "{kept}");
        assert_eq!(kept["status"]["phase"], "Bound", "{kept}");
    }
    // A controller that let them go would have done it by now: it has seen what was written before this.
    api.create("jobs", job("later", "true", json!({}))).await;
    api.until("others' work is done", "jobs/later", |j| condition(j, "Complete") == "True").await;
    assert_eq!(api.get("persistentvolumeclaims/data").await["metadata"]["uid"], claim["metadata"]["uid"]);
    assert!(ready(&api.get("pods/user").await));
    api.delete("pods/user").await;
    api.gone("persistentvolumeclaims/data").await;
    api.gone(&volume).await;
}

/// The name that a Deployment gives its next set is taken by another one: it counts that, and finds another name.
async fn names_of_sets_that_are_taken(api: Api) {
    let deployment = || workload("again", 1, template("again", &["sleep", "1000"]));
    api.create("deployments", deployment()).await;
    let sets = "replicasets?labelSelector=app%3Dagain";
    let first = api.until("it has its set", sets, |l| names(l).len() == 1).await["items"][0].clone();
    let (code, _) =
        api.send("DELETE", "deployments/again", "application/json", &json!({"propagationPolicy": "Orphan"})).await;
    assert_eq!(code, 200);
    api.gone("deployments/again").await;
    // It keeps its name, and is another template's now.
    let path = format!("replicasets/{}", name(&first));
    api.patch(&path, json!({"spec": {"replicas": 0, "template": {"metadata": {"annotations": {"other": "yes"}}}}}))
        .await;
    api.create("deployments", deployment()).await;
    let done = |d: &Value| d["status"]["availableReplicas"] == 1 && d["status"]["collisionCount"] == 1;
    api.until("it has found another name", "deployments/again", done).await;
    let both = api.get(sets).await;
    assert_eq!(names(&both).len(), 2, "{both}");
    assert_eq!(api.get(&path).await["metadata"]["uid"], first["metadata"]["uid"]);
}

/// A Job goes a while after its end, with its pods; another one with more time stays.
async fn jobs_go_when_their_time_is_over(api: Api) {
    for (app, seconds) in [("brief", 2), ("kept", 3600)] {
        api.create("jobs", job(app, "true", json!({"ttlSecondsAfterFinished": seconds}))).await;
    }
    api.until("it is complete", "jobs/kept", |j| condition(j, "Complete") == "True").await;
    api.gone("jobs/brief").await;
    api.until_pods("its pods too", "brief", <[_]>::is_empty).await;
    assert_eq!(condition(&api.get("jobs/kept").await, "Complete"), "True");
}
