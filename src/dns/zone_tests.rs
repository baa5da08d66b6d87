use super::*;
use crate::api::services::{EndpointPort, ServicePort};
use test_case::test_case;

fn endpoint(address: &str, ready: bool, hostname: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().unwrap()],
        ready,
        serving: ready,
        terminating: false,
        node: "a".into(),
        hostname: hostname.into(),
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    }
}

fn zone() -> Zone {
    let mut z =
        Zone::new("cluster.local", vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()]).unwrap();
    let port = |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: 0 };
    let add = |z: &mut Zone, name: &str, service: Service, endpoints: Vec<Endpoint>| {
        let key = ObjectKey::new("shop", name);
        z.set_service(key.clone(), Service { key: Some(key.clone()), ..service });
        let ports = vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }];
        z.set_slice(ObjectKey::new("shop", format!("{name}-1")), Slice { service: Some(key), endpoints, ports });
    };
    let web = Service {
        cluster_ips: vec!["10.43.0.80".parse().unwrap()],
        ports: vec![port("http", 80)],
        ..Default::default()
    };
    add(&mut z, "web", web, vec![endpoint("10.42.0.9", true, "")]);
    let db = Service { headless: true, ports: vec![port("http", 80)], ..Default::default() };
    add(
        &mut z,
        "db",
        db.clone(),
        vec![
            endpoint("10.42.0.2", true, "db-0"),
            endpoint("10.42.0.3", true, ""),
            endpoint("10.42.0.4", false, "db-2"),
        ],
    );
    add(&mut z, "early", Service { publish_not_ready: true, ..db.clone() }, vec![endpoint("10.42.0.5", false, "")]);
    add(&mut z, "empty", db, vec![endpoint("10.42.0.6", false, "")]);
    add(&mut z, "out", Service { external_name: Some("example.com".into()), ..Default::default() }, vec![]);
    z
}

/// Answers as text, or the code where there are none.
fn ask(z: &Zone, name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(name).unwrap();
    match z.answer(&name, kind, |ns| ns == "shop") {
        None => "forwarded".into(),
        Some(r) if r.answers.is_empty() => {
            assert!(r.authority.is_some(), "a negative answer has an SOA");
            format!("{:?}", r.code)
        }
        Some(r) => r.answers.iter().map(|a| a.data.to_string()).collect::<Vec<_>>().join(" | "),
    }
}

#[test_case("web.shop.svc.cluster.local.", RecordType::A, "10.43.0.80"; "a service")]
#[test_case("WEB.Shop.svc.Cluster.Local.", RecordType::A, "10.43.0.80"; "in any case")]
#[test_case("web.shop.svc.cluster.local.", RecordType::AAAA, "NoError"; "no such type is no data")]
#[test_case("none.shop.svc.cluster.local.", RecordType::A, "NXDomain"; "no such service")]
#[test_case("shop.svc.cluster.local.", RecordType::A, "NoError"; "a namespace is a name without data")]
#[test_case("nowhere.svc.cluster.local.", RecordType::A, "NXDomain"; "no such namespace")]
#[test_case("db.shop.svc.cluster.local.", RecordType::A, "10.42.0.2 | 10.42.0.3"; "headless has its ready endpoints")]
#[test_case("empty.shop.svc.cluster.local.", RecordType::A, "NXDomain"; "headless with nobody ready")]
#[test_case("early.shop.svc.cluster.local.", RecordType::A, "10.42.0.5"; "publishNotReadyAddresses")]
#[test_case("db-0.db.shop.svc.cluster.local.", RecordType::A, "10.42.0.2"; "a pod's host name")]
#[test_case("10-42-0-3.db.shop.svc.cluster.local.", RecordType::A, "10.42.0.3"; "a pod without one")]
#[test_case("db-9.db.shop.svc.cluster.local.", RecordType::A, "NXDomain"; "no such pod")]
#[test_case("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV, "0 100 80 web.shop.svc.cluster.local."; "a named port")]
#[test_case("_http._udp.web.shop.svc.cluster.local.", RecordType::SRV, "NXDomain"; "of another protocol")]
#[test_case("_http._tcp.db.shop.svc.cluster.local.", RecordType::SRV,
    "0 50 8080 10-42-0-3.db.shop.svc.cluster.local. | 0 50 8080 db-0.db.shop.svc.cluster.local."; "named ports of pods")]
#[test_case("out.shop.svc.cluster.local.", RecordType::A, "example.com."; "an external name")]
#[test_case("10-42-0-3.shop.pod.cluster.local.", RecordType::A, "10.42.0.3"; "a pod by address")]
#[test_case("10-42-0-3.nowhere.pod.cluster.local.", RecordType::A, "NXDomain"; "in no namespace")]
#[test_case("10-42-0.shop.pod.cluster.local.", RecordType::A, "NXDomain"; "not an address")]
#[test_case("dns-version.cluster.local.", RecordType::TXT, "1.1.0"; "version")]
#[test_case("80.0.43.10.in-addr.arpa.", RecordType::PTR, "web.shop.svc.cluster.local."; "reverse of a service")]
#[test_case("2.0.42.10.in-addr.arpa.", RecordType::PTR, "db-0.db.shop.svc.cluster.local."; "reverse of a pod")]
#[test_case("99.0.42.10.in-addr.arpa.", RecordType::PTR, "NXDomain"; "reverse of nobody in the cluster")]
#[test_case("8.8.8.8.in-addr.arpa.", RecordType::PTR, "forwarded"; "reverse of the world")]
#[test_case("example.com.", RecordType::A, "forwarded"; "the world")]
#[test_case("cluster.local.", RecordType::NS, "ns.dns.cluster.local."; "the zone's server")]
fn answers(name: &str, kind: RecordType, want: &str) {
    assert_eq!(ask(&zone(), name, kind), want);
}

#[test]
fn srv_comes_with_addresses() {
    let name = Name::from_ascii("_http._tcp.db.shop.svc.cluster.local.").unwrap();
    let reply = zone().answer(&name, RecordType::SRV, |_| true).unwrap();
    let all: Vec<String> = reply.additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    assert_eq!(all, ["10-42-0-3.db.shop.svc.cluster.local. 10.42.0.3", "db-0.db.shop.svc.cluster.local. 10.42.0.2"]);
}

#[test]
fn what_goes_takes_its_names_along() {
    let mut z = zone();
    z.remove_service(&ObjectKey::new("shop", "web"));
    z.remove_slice(&ObjectKey::new("shop", "db-1"));
    assert_eq!(ask(&z, "web.shop.svc.cluster.local.", RecordType::A), "NXDomain");
    assert_eq!(ask(&z, "80.0.43.10.in-addr.arpa.", RecordType::PTR), "NXDomain");
    assert_eq!(ask(&z, "2.0.42.10.in-addr.arpa.", RecordType::PTR), "NXDomain");
    z.remove_slice(&ObjectKey::new("shop", "web-1"));
    assert!(!z.entries.contains_key(&ObjectKey::new("shop", "web")), "nothing stays of it");
}
