//! Services of pods on two nodes, asked from one of the nodes: types that change, clients that keep their pod, and what the
//! slices say. Part of the cluster of `apps`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::http_get;
use crate::scenario::{Api, Scenario, name, names, pod, ready, scenarios};

pub const SCENARIOS: &[Scenario] = scenarios![
    types_change,
    clients_keep_their_pod,
    endpoints_follow_pods,
    endpoints_by_hand,
    the_api_is_a_service,
    nodes_balance_load
];

/// The addresses of the two nodes.
const NODES: [&str; 2] = ["198.51.100.1", "198.51.100.11"];
/// Connections from which one learns whom a Service leads to.
const ASKS: usize = 30;

/// A pod of the web server with the label `app: web`.
async fn serve(api: &Api, name: &str, node: &str) {
    let mut web = pod(name, &[]);
    web["metadata"]["labels"]["app"] = "web".into();
    web["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    api.create("pods", web).await;
}

fn service(more: Value) -> Value {
    let mut spec = json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "web"}, "spec": spec})
}

/// Who answers at an address; empty when nobody does.
async fn who(address: &str) -> BTreeSet<String> {
    let address = address.to_owned();
    // A thread that is made here is on this machine too, and others share this one.
    let asking = tokio::task::spawn_blocking(move || {
        let answers = (0..ASKS).map(|_| http_get(&address, "/")).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        answers.iter().filter_map(|a| a.split(' ').nth(1)).map(str::to_owned).collect()
    });
    asking.await.unwrap()
}

async fn until_answered(api: &Api, why: &str, address: &str, are: impl Fn(&BTreeSet<String>) -> bool) {
    let end = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let seen = who(address).await;
        if are(&seen) {
            return;
        }
        assert!(std::time::Instant::now() < end, "{}: {why}: {address} is answered by {seen:?}", api.namespace);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// "[sig-network] Services should be able to change the type from ExternalName to ClusterIP", "[sig-network] Services should be
/// able to change the type from ClusterIP to ExternalName", "[sig-network] Services should be able to change the type from
/// ExternalName to NodePort", "[sig-network] Services should be able to change the type from NodePort to ExternalName"
async fn types_change(api: Api) {
    serve(&api, "one", "a").await;
    api.create(
        "services",
        json!({"metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}),
    )
    .await;
    api.until("it runs", "pods/one", ready).await;
    let one = |seen: &BTreeSet<String>| seen.iter().eq(["one"]);
    for (kind, with_port) in [("ClusterIP", false), ("NodePort", true)] {
        let mut inside = service(json!({"type": kind}))["spec"].clone();
        inside["externalName"] = Value::Null;
        let changed = api.patch("services/web", json!({"spec": inside})).await;
        let ip = changed["spec"]["clusterIP"].as_str().unwrap();
        until_answered(&api, "it serves", &format!("{ip}:80"), one).await;
        let port = changed["spec"]["ports"][0]["nodePort"].as_u64();
        assert_eq!(port.is_some(), with_port);
        for node in NODES.iter().filter(|_| with_port) {
            until_answered(&api, "each node serves", &format!("{node}:{}", port.unwrap()), one).await;
        }
        let outside =
            json!({"spec": {"type": "ExternalName", "externalName": "example.com", "selector": null, "ports": null}});
        let changed = api.patch("services/web", outside).await;
        assert_eq!(changed["spec"].get("clusterIP"), None, "{changed}");
        until_answered(&api, "it serves no more", &format!("{ip}:80"), BTreeSet::is_empty).await;
    }
}

/// "[sig-network] Services should have session affinity work for NodePort service", "[sig-network] Services should be able to
/// switch session affinity for NodePort service", "[sig-network] Services should be able to switch session affinity for service
/// with type clusterIP", "[sig-network] Services should have session affinity work for service with type clusterIP"
async fn clients_keep_their_pod(api: Api) {
    serve(&api, "one", "box").await;
    serve(&api, "two", "a").await;
    let made = api.create("services", service(json!({"type": "NodePort", "sessionAffinity": "ClientIP"}))).await;
    let spec = &made["spec"];
    let addresses = [
        format!("{}:80", spec["clusterIP"].as_str().unwrap()),
        format!("{}:{}", NODES[0], spec["ports"][0]["nodePort"]),
    ];
    for name in ["one", "two"] {
        api.until("it runs", &format!("pods/{name}"), ready).await;
    }
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", api.namespace);
    api.until("both serve", &slices, |l| {
        let ends = l["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        ends.iter().filter(|e| e["conditions"]["ready"] == true).count() == 2
    })
    .await;
    for (affinity, pods) in [("ClientIP", 1), ("None", 2), ("ClientIP", 1)] {
        api.patch("services/web", json!({"spec": {"sessionAffinity": affinity}})).await;
        for address in &addresses {
            until_answered(&api, affinity, address, |seen| seen.len() == pods).await;
        }
    }
}

/// The address of each node leads to a Service of type LoadBalancer. Another one that wants its port has to wait.
async fn nodes_balance_load(api: Api) {
    serve(&api, "one", "box").await;
    serve(&api, "two", "a").await;
    let balanced = service(json!({"type": "LoadBalancer", "ports": [{"port": 8099, "targetPort": 8080}]}));
    let mut second = balanced.clone();
    second["metadata"]["name"] = "second".into();
    api.create("services", balanced).await;
    let has = |service: &Value, nodes: &[&str]| {
        let all = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        all.iter().map(|i| i["ip"].as_str().unwrap()).eq(nodes.iter().copied())
    };
    api.until("it has the nodes' addresses", "services/web", |s| has(s, &NODES)).await;
    for node in NODES {
        let both = |seen: &BTreeSet<String>| seen.iter().eq(["one", "two"]);
        until_answered(&api, "each leads to all pods", &format!("{node}:8099"), both).await;
    }
    let made = api.create("services", second).await;
    assert!(has(&made, &[]));
    api.delete("services/web").await;
    api.until("it is the second one's turn", "services/second", |s| has(s, &NODES)).await;
    api.patch("services/second", json!({"spec": {"type": "ClusterIP"}})).await;
    until_answered(&api, "it serves there no more", &format!("{}:8099", NODES[0]), BTreeSet::is_empty).await;
}

/// The addresses and ports of a Service's slices: `address:port` of the ready ones.
fn ends(list: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for slice in list["items"].as_array().into_iter().flatten() {
        for end in slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] == true) {
            for port in slice["ports"].as_array().into_iter().flatten() {
                all.insert(format!(
                    "{}:{}/{}",
                    end["targetRef"]["name"].as_str().unwrap_or_default(),
                    port["port"],
                    port["protocol"].as_str().unwrap()
                ));
            }
        }
    }
    all
}

/// "[sig-network] Services should serve a basic endpoint from pods", "[sig-network] Services should serve multiport endpoints from
/// pods", "[sig-network] Services should serve endpoints on same port and different protocols", "[sig-network] EndpointSlice should
/// create Endpoints and EndpointSlices for Pods matching a Service", "[sig-network] EndpointsController should create Endpoints for
/// Pods matching a Service", "[sig-network] EndpointSlice should create and delete EndpointSlices for a Service with a selector that
/// matches no pods", "[sig-network] EndpointsController should create and delete Endpoints for a Service with a selector that matches
/// no pods"
async fn endpoints_follow_pods(api: Api) {
    let ports = json!([
        {"name": "one", "port": 80, "targetPort": "named"}, {"name": "two", "port": 81, "targetPort": 9090},
        {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
    ]);
    api.create("services", service(json!({"ports": ports}))).await;
    let slices = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{0}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb",
        api.namespace
    );
    let endpoints = format!("/api/v1/namespaces/{}/endpoints/web", api.namespace);
    let empty = api.until("a slice of nobody", &slices, |l| l["items"].as_array().is_some_and(|i| i.len() == 1)).await;
    assert!(ends(&empty).is_empty());
    api.until("endpoints of nobody", &endpoints, |e| e["kind"] == "Endpoints" && e.get("subsets").is_none()).await;
    for name in ["one", "two"] {
        let mut web = pod(name, &["sleep", "1000"]);
        web["metadata"]["labels"]["app"] = "web".into();
        web["spec"]["containers"][0]["ports"] = json!([{"name": "named", "containerPort": 8080}]);
        api.create("pods", web).await;
    }
    let of = |names: &[&str]| -> BTreeSet<String> {
        let ports = ["8080/TCP", "9090/TCP", "8080/UDP"];
        names.iter().flat_map(|n| ports.iter().map(move |p| format!("{n}:{p}"))).collect()
    };
    api.until("both are there", &slices, |l| ends(l) == of(&["one", "two"])).await;
    api.until("both are there", &endpoints, |e| {
        let subset = &e["subsets"][0];
        [&subset["addresses"], &subset["ports"]].map(|l| l.as_array().map_or(0, Vec::len)) == [2, 3]
    })
    .await;
    api.delete("pods/one").await;
    api.until("one is there", &slices, |l| ends(l) == of(&["two"])).await;
    api.delete("pods/two").await;
    api.until("nobody is there", &slices, |l| ends(l).is_empty()).await;
    api.delete("services/web").await;
    api.until("the slice goes", &slices, |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
    api.gone(&endpoints).await;
}

/// "[sig-network] EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices",
/// "[sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices"
async fn endpoints_by_hand(api: Api) {
    let mut addresses = Vec::new();
    for (name, node) in [("one", "box"), ("two", "a")] {
        serve(&api, name, node).await;
    }
    for name in ["one", "two"] {
        let running = api.until("it runs", &format!("pods/{name}"), ready).await;
        addresses.push(running["status"]["podIP"].as_str().unwrap().to_owned());
    }
    let ports = json!([{"name": "first", "port": 80}, {"name": "second", "port": 81}]);
    let made = api.create("services", json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", api.namespace);
    let rows = [("a", "first", &addresses[..1]), ("b", "first", &addresses[1..]), ("c", "second", &addresses[1..])];
    for (name, port, addresses) in rows {
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": port, "port": 8080}], "endpoints": [{"addresses": addresses}],
        });
        api.create(&slices, slice).await;
    }
    until_answered(&api, "two slices of a port", &format!("{ip}:80"), |seen| seen.iter().eq(["one", "two"])).await;
    until_answered(&api, "one slice of the other", &format!("{ip}:81"), |seen| seen.iter().eq(["two"])).await;
    assert_eq!(names(&api.get(&slices).await), ["a", "b", "c"]);
}

/// "[sig-network] API Server should provide secure master service", "[sig-network] API Server should have Endpoints and
/// EndpointSlices pointing to API Server"
async fn the_api_is_a_service(api: Api) {
    let service = api.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(
        (name(&service), &service["spec"]["ports"][0]["port"], &service["spec"]["ports"][0]["name"]),
        ("kubernetes", &json!(443), &json!("https"))
    );
    let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    let subset = &endpoints["subsets"][0];
    let slice = api.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    assert_eq!(
        (&subset["addresses"][0]["ip"], &subset["ports"][0]["port"]),
        (&slice["endpoints"][0]["addresses"][0], &slice["ports"][0]["port"])
    );
    assert_eq!((&subset["ports"][0]["name"], &slice["ports"][0]["name"]), (&json!("https"), &json!("https")));
}
