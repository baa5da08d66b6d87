use super::*;
use crate::api::services::{EndpointPort, ServicePort};
use crate::util::families::Family;
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
        Zone::new("cluster.local", ["10.42.0.0/16", "10.43.0.0/16", "fd42::/56"].map(|n| n.parse().unwrap()).to_vec())
            .unwrap();
    let port = |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: 0 };
    let add = |z: &mut Zone, name: &str, service: Service, endpoints: Vec<Endpoint>| {
        let key = ObjectKey::new("shop", name);
        z.set_service(key.clone(), Service { key: Some(key.clone()), ..service });
        let ports = vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }];
        z.set_slice(
            ObjectKey::new("shop", format!("{name}-1")),
            Slice { service: Some(key), family: None, endpoints, ports },
        );
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
    let both = Service {
        cluster_ips: vec!["10.43.0.81".parse().unwrap(), "fd43::81".parse().unwrap()],
        ports: vec![port("http", 80)],
        ..Default::default()
    };
    add(&mut z, "both", both, vec![]);
    let six = Service { headless: true, ports: vec![port("http", 80)], ..Default::default() };
    add(&mut z, "pair", six, vec![endpoint("10.42.0.7", true, "p-0"), endpoint("10.42.0.8", true, "")]);
    let key = ObjectKey::new("shop", "pair");
    let ports = vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }];
    let endpoints = vec![endpoint("fd42::7", true, "p-0"), endpoint("fd42::8", true, "")];
    let slice = Slice { service: Some(key), family: Some(Family::V6), endpoints, ports };
    z.set_slice(ObjectKey::new("shop", "pair-2"), slice);
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
#[test_case("both.shop.svc.cluster.local.", RecordType::A, "10.43.0.81"; "of two addresses the one that was asked for")]
#[test_case("both.shop.svc.cluster.local.", RecordType::AAAA, "fd43::81"; "and the other one")]
#[test_case("pair.shop.svc.cluster.local.", RecordType::AAAA, "fd42::7 | fd42::8"; "endpoints of the other slice")]
#[test_case("p-0.pair.shop.svc.cluster.local.", RecordType::A, "10.42.0.7"; "a pod's host name over IPv4")]
#[test_case("p-0.pair.shop.svc.cluster.local.", RecordType::AAAA, "fd42::7"; "and over IPv6")]
#[test_case("fd42--8.pair.shop.svc.cluster.local.", RecordType::AAAA, "fd42::8"; "a pod without one over IPv6")]
#[test_case("fd42--8.shop.pod.cluster.local.", RecordType::AAAA, "fd42::8"; "a pod by its IPv6 address")]
#[test_case("fd42--8.shop.pod.cluster.local.", RecordType::A, "NoError"; "which is no IPv4 address")]
#[test_case("_http._tcp.pair.shop.svc.cluster.local.", RecordType::SRV,
    "0 33 8080 10-42-0-8.pair.shop.svc.cluster.local. | 0 33 8080 fd42--8.pair.shop.svc.cluster.local. | 0 33 8080 p-0.pair.shop.svc.cluster.local.";
    "a name with two addresses is one target")]
#[test_case("1.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa.", RecordType::PTR,
    "both.shop.svc.cluster.local."; "reverse of a service over IPv6")]
#[test_case("9.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa.", RecordType::PTR, "NXDomain";
    "reverse of nobody in the cluster over IPv6")]
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
