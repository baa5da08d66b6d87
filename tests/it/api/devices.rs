//! Devices, with the scheduler and the controllers: extended resources that a class stands for, and drivers that have to agree.

use orch::scheduler::{Config, Scheduler};

use super::*;

const PODS: &str = "/api/v1/namespaces/n/pods";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims";
const EVENTS: &str = "/api/v1/namespaces/n/events";

impl Server {
    /// With controllers, the scheduler, and the node `n1`.
    async fn scheduled() -> Self {
        let s = Self::controlled().await;
        let user = UserInfo::authenticated("system:kube-scheduler", &[UserInfo::MASTERS]);
        let client = orch::client::Client::in_process(InProcess::new(s.api.clone(), user));
        let scheduler = Scheduler::new(Config::default(), s.listers.clone(), client, Arc::new(SystemClock));
        tokio::spawn(scheduler.run(s.shutdown.clone()));
        let status = json!({"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}});
        s.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}, "status": status})).await.is(201);
        s
    }

    /// A class, and a slice of one device of it.
    async fn devices(&self, class: Value, device: Value, reach: Value) {
        let dra = "/apis/resource.k8s.io/v1";
        let class = json!({"metadata": {"name": "gpu"}, "spec": class});
        self.post(&format!("{dra}/deviceclasses"), class).await.is(201);
        let mut spec = json!({"driver": "d.test", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [device]});
        spec.as_object_mut().unwrap().extend(reach.as_object().unwrap().clone());
        self.post(&format!("{dra}/resourceslices"), json!({"metadata": {"name": "s"}, "spec": spec})).await.is(201);
    }

    /// A pod that goes anywhere.
    async fn runs(&self, name: &str, resources: Value, claims: Value) {
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}],
            "resourceClaims": claims, "tolerations": [{"operator": "Exists"}]});
        self.post(PODS, json!({"metadata": {"name": name}, "spec": spec})).await.is(201);
    }

    async fn is_bound(&self, pod: &str) {
        self.until(&format!("{PODS}/{pod}"), "bound", |_, p| p["spec"]["nodeName"] == "n1").await;
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn why_not(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|c| c["type"] == "PodScheduled").and_then(|c| c["message"].as_str()).unwrap_or_default()
}

#[tokio::test]
async fn devices_stand_for_an_extended_resource() {
    let s = Server::scheduled().await;
    s.devices(json!({"extendedResourceName": "example.com/gpu"}), json!({"name": "d0"}), json!({"nodeName": "n1"}))
        .await;
    let one = json!({"limits": {"example.com/gpu": 1}});
    s.runs("p", one.clone(), json!([])).await;
    s.is_bound("p").await;
    let pod = s.get(&format!("{PODS}/p")).await.is(200);
    let claims = s.get(CLAIMS).await.is(200);
    let claim = &items(&claims)[0];
    let name = claim["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("p-extended-resources-") && items(&claims).len() == 1, "{claims}");
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
    assert_eq!(
        (&claim["metadata"]["ownerReferences"][0]["uid"], &claim["status"]["reservedFor"][0]["uid"]),
        (&pod["metadata"]["uid"], &pod["metadata"]["uid"])
    );
    assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "d0");
    let mapping =
        json!({"containerName": "c", "resourceName": "example.com/gpu", "requestName": "container-0-request-0"});
    let want = json!({"requestMappings": [mapping], "resourceClaimName": name});
    assert_eq!(pod["status"]["extendedResourceClaimStatus"], want);

    // The implicit name of the class means the same devices.
    s.runs("q", json!({"limits": {"deviceclass.resource.kubernetes.io/gpu": 1}}), json!([])).await;
    s.until(&format!("{PODS}/q"), "refused", |_, q| why_not(q).contains("1 cannot allocate all claims")).await;
    // Once the first is done its claim goes, and the device is the second's.
    s.patch(&format!("{PODS}/p/status"), MERGE, json!({"status": {"phase": "Succeeded"}})).await.is(200);
    s.is_bound("q").await;
    s.until(CLAIMS, "gone", |_, all| items(all).len() == 1 && items(all)[0]["metadata"]["name"] != name).await;
}

#[tokio::test]
async fn a_node_waits_for_a_class_that_stands_for_what_it_lacks() {
    let s = Server::scheduled().await;
    s.runs("p", json!({"limits": {"example.com/gpu": 1}}), json!([])).await;
    s.until(&format!("{PODS}/p"), "refused", |_, p| why_not(p).contains("Insufficient example.com/gpu")).await;
    s.devices(json!({"extendedResourceName": "example.com/gpu"}), json!({"name": "d0"}), json!({"nodeName": "n1"}))
        .await;
    s.is_bound("p").await;
}

#[tokio::test]
async fn a_pod_is_bound_when_its_drivers_agree() {
    let s = Server::scheduled().await;
    let device = json!({"name": "d0", "bindsToNode": true, "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"]});
    s.devices(json!({}), device, json!({"allNodes": true})).await;
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    s.post(CLAIMS, json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}})).await.is(201);
    s.runs("p", json!({"claims": [{"name": "gpu"}]}), json!([{"name": "gpu", "resourceClaimName": "c"}])).await;
    let claim = format!("{CLAIMS}/c");
    let says = |kind: &str| {
        let condition = json!({"type": kind, "status": "True", "reason": "Why", "message": "it is",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        json!({"status": {"devices": [{"driver": "d.test", "pool": "p", "device": "d0", "conditions": [condition]}]}})
    };
    let reserved = |claim: &Value| claim["status"]["reservedFor"][0]["name"] == "p";
    s.until(&claim, "reserved", |_, c| reserved(c)).await;
    let pending = |e: &Value| {
        e["reason"] == "BindingConditionsPending"
            && e["message"] == "waiting for binding conditions for device on node n1"
    };
    s.until(EVENTS, "told", |_, all| items(all).iter().any(pending)).await;
    let first = s.get(&claim).await.is(200);
    let allocation = &first["status"]["allocation"];
    let result = &allocation["devices"]["results"][0];
    let conditions = (&result["bindingConditions"], &result["bindingFailureConditions"]);
    assert_eq!(conditions, (&json!(["Ready"]), &json!(["Broken"])));
    let only = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
    assert_eq!(allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"], json!([only]));
    assert_eq!(s.get(&format!("{PODS}/p")).await.is(200)["spec"]["nodeName"], Value::Null);

    // The driver refuses: the claim gives the device back, and gets one anew.
    s.patch(&format!("{claim}/status"), MERGE, says("Broken")).await.is(200);
    let failed = "running PreBind plugin \"DynamicResources\": claim c binding failed: reason=Why, message=\"it is\"";
    s.until(EVENTS, "refused", |_, all| {
        items(all).iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains(failed)))
    })
    .await;
    s.until(&claim, "tried again", |_, c| c["status"]["devices"].is_null() && reserved(c)).await;
    s.patch(&format!("{claim}/status"), MERGE, says("Ready")).await.is(200);
    s.is_bound("p").await;
}
