//! Services, their endpoints and nodes on a cluster of IPv4 and IPv6.

use super::*;
use ipnet::IpNet;

const SERVICES: &str = "/api/v1/namespaces/n/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices";

fn dual() -> Setup {
    Setup { allocators: Allocators::new("10.43.0.0/16,fd43::/112".parse().unwrap(), 30000..=32767), ..Setup::default() }
}

fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({"ports": [{"port": 80}]});
    json_patch::merge(&mut all, &spec);
    json!({"metadata": {"name": name}, "spec": all})
}

/// `policy families`, and whether the addresses are of these.
#[track_caller]
fn families(service: &Value) -> String {
    let texts = |field: &str| -> Vec<String> {
        let all = service["spec"][field].as_array().into_iter().flatten();
        all.map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let (families, ips) = (texts("ipFamilies"), texts("clusterIPs"));
    if ips != ["None"] {
        let of = |ip: &String| if ip.starts_with("fd43::") { "IPv6" } else { "IPv4" };
        assert_eq!(ips.iter().map(of).collect::<Vec<_>>(), families, "{ips:?}");
        assert_eq!(service["spec"]["clusterIP"], *ips[0]);
    }
    format!("{} {}", service["spec"]["ipFamilyPolicy"].as_str().unwrap(), families.join(","))
}

/// Fields of what was refused.
#[track_caller]
fn refused(got: &Got) -> Vec<String> {
    let status = got.is(422);
    let causes = status["details"]["causes"].as_array().unwrap().iter();
    causes.map(|c| c["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_gets_the_addresses_that_it_asks_for() {
    let s = Server::with(dual()).await;
    for (name, spec, want) in [
        ("plain", json!({}), "SingleStack IPv4"),
        ("may", json!({"ipFamilyPolicy": "PreferDualStack", "type": "NodePort"}), "PreferDualStack IPv4,IPv6"),
        ("must", json!({"ipFamilyPolicy": "RequireDualStack"}), "RequireDualStack IPv4,IPv6"),
        ("turned", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}), "RequireDualStack IPv6,IPv4"),
        ("six", json!({"ipFamilies": ["IPv6"]}), "SingleStack IPv6"),
        ("bare", json!({"clusterIP": "None"}), "RequireDualStack IPv4,IPv6"),
        ("headless", json!({"clusterIP": "None", "selector": {"a": "b"}}), "SingleStack IPv4"),
        (
            "given",
            json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd43::201", "clusterIPs": ["fd43::201", "10.43.0.201"]}),
            "PreferDualStack IPv6,IPv4",
        ),
    ] {
        let made = s.post(SERVICES, service(name, spec)).await.is(201);
        assert_eq!(families(&made), want, "{name}");
    }
    for (spec, want) in [
        (json!({"clusterIP": "fd43::201"}), "spec.clusterIPs"),
        (json!({"clusterIP": "fd44::1"}), "spec.clusterIPs"),
        (json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}), "spec.ipFamilyPolicy"),
        (json!({"ipFamilies": ["IPv6"], "clusterIP": "10.43.0.202"}), "spec.clusterIPs[0]"),
    ] {
        assert_eq!(refused(&s.post(SERVICES, service("no", spec)).await), [want]);
    }
    // Of two addresses of which one cannot be had, the other is free.
    let two =
        |v4: &str, v6: &str| json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": v4, "clusterIPs": [v4, v6]});
    assert_eq!(refused(&s.post(SERVICES, service("no", two("10.43.0.203", "fd43::201"))).await), ["spec.clusterIPs"]);
    s.post(SERVICES, service("yes", two("10.43.0.203", "fd43::203"))).await.is(201);
    let dry = s.post(&format!("{SERVICES}?dryRun=All"), service("dry", two("10.43.0.204", "fd43::204"))).await.is(201);
    assert_eq!(families(&dry), "RequireDualStack IPv4,IPv6");
    s.post(SERVICES, service("wet", two("10.43.0.204", "fd43::204"))).await.is(201);
}

#[tokio::test]
async fn a_service_gets_a_second_address_and_gives_it_back() {
    let s = Server::with(dual()).await;
    let first = s.post(SERVICES, service("web", json!({}))).await.is(201)["spec"]["clusterIP"].clone();
    let path = format!("{SERVICES}/web");
    let change = async |spec: Value| s.patch(&path, MERGE, json!({ "spec": spec })).await;
    assert_eq!(refused(&change(json!({"ipFamilies": ["IPv4", "IPv6"]})).await), ["spec.ipFamilyPolicy"]);
    assert_eq!(refused(&change(json!({"ipFamilies": ["IPv6"]})).await), ["spec.clusterIPs[0]"]);
    let up = change(json!({"ipFamilyPolicy": "PreferDualStack"})).await.is(200);
    assert_eq!((families(&up).as_str(), &up["spec"]["clusterIP"]), ("PreferDualStack IPv4,IPv6", &first));
    let second = up["spec"]["clusterIPs"][1].clone();
    // Who says nothing of it changes nothing of it.
    let put = s.put(&path, service("web", json!({"ports": [{"port": 81}]}))).await.is(200);
    assert_eq!(put["spec"]["clusterIPs"], up["spec"]["clusterIPs"]);
    assert_eq!(refused(&change(json!({"clusterIPs": [first]})).await), ["spec.ipFamilyPolicy"]);
    assert_eq!(refused(&change(json!({"clusterIPs": [first, "fd43::7777"]})).await), ["spec.clusterIPs[1]"]);
    let swapped = json!({"clusterIP": second, "clusterIPs": [second, first], "ipFamilies": ["IPv6", "IPv4"]});
    assert_eq!(refused(&change(swapped).await), ["spec.clusterIPs[0]", "spec.clusterIPs[1]"]);
    let other = service("other", json!({"clusterIP": second, "ipFamilies": ["IPv6"]}));
    assert_eq!(refused(&s.post(SERVICES, other.clone()).await), ["spec.clusterIPs"]);
    let down = change(json!({"ipFamilyPolicy": "SingleStack"})).await.is(200);
    assert_eq!((families(&down).as_str(), &down["spec"]["clusterIP"]), ("SingleStack IPv4", &first));
    s.post(SERVICES, other).await.is(201);
    let again = change(json!({"ipFamilyPolicy": "RequireDualStack"})).await.is(200);
    assert_ne!(again["spec"]["clusterIPs"][1], second);
    // Both go with the type, and come with it.
    let named = change(json!({"type": "ExternalName", "externalName": "x.example.com"})).await.is(200);
    assert_eq!((&named["spec"]["clusterIPs"], &named["spec"]["ipFamilies"]), (&Value::Null, &Value::Null));
    let back = change(json!({"type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(families(&back.is(200)), "RequireDualStack IPv4,IPv6");
}

/// Addresses in the slices of the Service `web` of a family, or nothing where there is no such slice.
fn endpoints(slices: &Value, family: &str) -> Option<Vec<String>> {
    let mut of_family = slices["items"].as_array().unwrap().iter().filter(|s| s["addressType"] == family).peekable();
    of_family.peek()?;
    let all = of_family.flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
    Some(all.map(|e| e["addresses"][0].as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn controllers_know_both_families() {
    let s = Server::with(dual()).await;
    let cluster_cidrs: Vec<IpNet> = vec!["10.42.0.0/16".parse().unwrap(), "fd42::/56".parse().unwrap()];
    s.control(controllers::Config { cluster_cidrs, balanced_but: Some(Vec::new()), ..Default::default() });
    s.post("/api/v1/nodes", json!({"metadata": {"name": "a"}})).await.is(201);
    let node = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"}]}});
    s.patch("/api/v1/nodes/a/status", MERGE, node).await.is(200);
    let cidrs = json!(["10.42.0.0/24", "fd42::/64"]);
    s.until("/api/v1/nodes/a", "a subnet of each", |_, node| node["spec"]["podCIDRs"] == cidrs).await;
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    s.post("/api/v1/namespaces/n/pods", pod).await.is(201);
    let status = json!({"status": {"phase": "Running", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}, {"ip": "fd42::2"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    s.patch("/api/v1/namespaces/n/pods/p/status", MERGE, status).await.is(200);
    let web = service(
        "web",
        json!({"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}}),
    );
    let web = s.post(SERVICES, web).await.is(201);
    let (v4, v6) = (Some(vec!["10.42.0.2".to_owned()]), Some(vec!["fd42::2".to_owned()]));
    s.until(SLICES, "a slice of each", |_, all| endpoints(all, "IPv4") == v4 && endpoints(all, "IPv6") == v6).await;
    let legacy = "/api/v1/namespaces/n/endpoints/web";
    s.until(legacy, "the first family alone", |_, e| {
        e["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 1 && all[0]["ip"] == "10.42.0.2")
    })
    .await;
    let ingress = |service: &Value| -> Vec<Value> {
        let all = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
        all.map(|i| i["ip"].clone()).collect()
    };
    let path = format!("{SERVICES}/web");
    s.until(&path, "the node's addresses", |_, web| ingress(web) == ["192.0.2.1", "2001:db8::1"]).await;
    let second = format!("/apis/networking.k8s.io/v1/ipaddresses/{}", web["spec"]["clusterIPs"][1].as_str().unwrap());
    s.until(&second, "its owner", |_, ip| ip["spec"]["parentRef"]["name"] == "web").await;
    s.patch(&path, MERGE, json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await.is(200);
    s.until(&second, "free", |code, _| code == 404).await;
    s.until(SLICES, "one family", |_, all| endpoints(all, "IPv4") == v4 && endpoints(all, "IPv6").is_none()).await;
    s.until(&path, "one address of the node", |_, web| ingress(web) == ["192.0.2.1"]).await;
}
