use super::*;
use crate::api::services::{Endpoint, EndpointPort};
use test_case::test_case;

fn cx() -> Context {
    Context {
        family: Family::V4,
        node_name: "here".into(),
        zone: "near".into(),
        cluster_cidr: Some("10.42.0.0/16".parse().unwrap()),
        local_services: vec![LocalService {
            name: "dns".into(),
            address: "10.43.0.10".parse().unwrap(),
            protocol: Protocol::Udp,
            port: 53,
            target: "10.42.0.1:53".parse().unwrap(),
        }],
    }
}

fn port(number: u16, node_port: u16) -> ServicePort {
    ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: number, node_port }
}

fn service() -> Service {
    Service {
        key: Some(ObjectKey::new("shop", "web")),
        cluster_ips: vec!["10.43.1.1".parse().unwrap()],
        ports: vec![port(80, 0)],
        ..Default::default()
    }
}

/// `r` ready, `t` terminating but serving, `n` not ready; `@` puts it on this node.
fn slice(endpoints: &[&str]) -> Slice {
    let endpoint = |text: &&str| {
        let (state, rest) = text.split_at(1);
        let (here, address) = rest.strip_prefix('@').map_or((false, rest), |a| (true, a));
        Endpoint {
            addresses: vec![address.parse().unwrap()],
            ready: state == "r",
            serving: state != "n",
            terminating: state == "t",
            node: if here { "here" } else { "there" }.into(),
            hostname: String::new(),
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    };
    Slice {
        service: Some(ObjectKey::new("shop", "web")),
        family: None,
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }],
    }
}

fn slices(endpoints: &[&str]) -> BTreeMap<String, Slice> {
    BTreeMap::from([("web-1".to_owned(), slice(endpoints))])
}

fn one(service: &Service, endpoints: &[&str]) -> PortRules {
    plan(service, &slices(endpoints), &cx(), |_| 7).remove(0)
}

#[test_case(&["r10.42.0.2", "r10.42.1.2"], &["10.42.0.2:8080", "10.42.1.2:8080"]; "ready ones")]
#[test_case(&["r10.42.0.2", "t10.42.1.2"], &["10.42.0.2:8080"]; "the leaving one only when nobody is ready")]
#[test_case(&["t10.42.0.2", "n10.42.1.2"], &["10.42.0.2:8080"]; "a leaving one that still answers is better than none")]
#[test_case(&["n10.42.0.2"], &[]; "one that is not ready gets nothing")]
fn chooses_endpoints(given: &[&str], want: &[&str]) {
    let want: Vec<SocketAddr> = want.iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(one(&service(), given).all, want);
}

#[test]
fn without_endpoints_every_front_is_rejected() {
    let mut s = service();
    s.ports = vec![port(80, 30080)];
    let rules = one(&s, &[]);
    assert_eq!(
        rules.fronts,
        [
            (Front::Address("10.43.1.1".parse().unwrap(), Protocol::Tcp, 80), Action::Reject),
            (Front::Node(Protocol::Tcp, 30080), Action::Reject)
        ]
    );
    assert!(rules.chains.is_empty());
}

fn rules_of<'a>(rules: &'a PortRules, chain: &str) -> &'a [Rule] {
    &rules.chains.iter().find(|c| c.name == chain).unwrap().rules
}

#[test]
fn a_cluster_address_masquerades_strangers_and_picks() {
    let rules = one(&service(), &["r10.42.0.2", "r@10.42.1.2"]);
    assert_eq!(rules_of(&rules, "svc-7"), [Rule::MarkOutside("10.42.0.0/16".parse().unwrap()), Rule::Pick(14, 2)]);
    assert_eq!(rules.hairpins.iter().collect::<Vec<_>>(), [&"10.42.1.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn affinity_stays_then_remembers_then_picks() {
    let mut s = service();
    s.affinity_seconds = Some(60);
    let rules = one(&s, &["r10.42.0.2"]);
    assert_eq!(
        rules_of(&rules, "svc-7")[1..],
        [Rule::Stay(14, 60), Rule::PickAndRemember(14, 1, 60), Rule::Pick(14, 1)]
    );
    assert!(rules.elements().contains(&Element::Live(14, "10.42.0.2:8080".parse().unwrap())));
}

#[test]
fn local_external_policy_keeps_the_client_address_and_drops_where_nobody_is() {
    let mut s = service();
    s.ports = vec![port(80, 30080)];
    s.external_policy = TrafficPolicy::Local;
    let net: IpNet = "10.42.0.0/16".parse().unwrap();
    let with = one(&s, &["r@10.42.0.2", "r10.42.1.2"]);
    assert_eq!(
        rules_of(&with, "ext-7"),
        [Rule::GotoFrom(net, "all-7".into()), Rule::GotoFromNode("all-7".into()), Rule::Pick(15, 1)]
    );
    let without = one(&s, &["r10.42.1.2"]);
    assert_eq!(rules_of(&without, "ext-7").last(), Some(&Rule::Drop));
    assert_eq!(rules_of(&without, "all-7"), [Rule::Pick(14, 1)]);
}

#[test]
fn local_internal_policy_without_local_endpoints_drops() {
    let mut s = service();
    s.internal_policy = TrafficPolicy::Local;
    assert_eq!(one(&s, &["r10.42.1.2"]).fronts[0].1, Action::Drop);
    assert_eq!(rules_of(&one(&s, &["r@10.42.1.2"]), "svc-7").last(), Some(&Rule::Pick(15, 1)));
}

#[test]
fn a_load_balancer_address_admits_its_source_ranges_only() {
    let mut s = service();
    s.load_balancer_ips = vec!["203.0.113.7".parse().unwrap()];
    s.source_ranges = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let rules = one(&s, &["r10.42.0.2"]);
    assert_eq!(rules_of(&rules, "lb-7"), [Rule::GotoFrom("192.0.2.0/24".parse().unwrap(), "ext-7".into()), Rule::Drop]);
}

#[test]
fn headless_and_external_services_have_no_rules() {
    let headless = Service { cluster_ips: vec![], headless: true, ..service() };
    let external = Service { external_name: Some("example.com".into()), ..service() };
    assert!(plan(&headless, &slices(&["r10.42.0.2"]), &cx(), |_| 1).is_empty());
    assert!(plan(&external, &BTreeMap::new(), &cx(), |_| 1).is_empty());
}

fn model() -> Model {
    let mut m = Model::new(Context { local_services: vec![], ..cx() });
    m.set_service(ObjectKey::new("shop", "web"), service());
    m.set_slice(ObjectKey::new("shop", "web-1"), slice(&["r@10.42.0.2", "r10.42.1.2"]));
    m
}

#[test]
fn a_change_holds_only_what_changed() {
    let mut m = model();
    let first = m.take_change();
    assert_eq!((first.add_chains.len(), first.add.len(), first.del.len()), (1, 4, 0));
    assert!(m.take_change().is_empty(), "nothing happened since");

    m.set_slice(ObjectKey::new("shop", "web-1"), slice(&["r@10.42.0.2", "r10.42.1.3"]));
    let second = m.take_change();
    assert_eq!(second.del, [Element::Endpoint(2, 1, "10.42.1.2:8080".parse().unwrap())]);
    assert_eq!(second.add, [Element::Endpoint(2, 1, "10.42.1.3:8080".parse().unwrap())]);
    assert!(second.add_chains.is_empty() && second.set_chains.is_empty() && second.del_chains.is_empty());

    m.remove_service(&ObjectKey::new("shop", "web"));
    let last = m.take_change();
    assert_eq!((last.del_chains.as_slice(), last.del.len()), (&["svc-1".to_owned()][..], 4));
    assert_eq!(m.everything(), Change::default());
}

#[test]
fn everything_is_the_sum_of_the_changes() {
    let mut m = model();
    let change = m.take_change();
    let all = m.everything();
    assert_eq!(
        (all.add_chains, all.add.into_iter().collect::<BTreeSet<_>>()),
        (change.add_chains, change.add.into_iter().collect())
    );
}

#[test]
fn a_taken_address_is_waited_for() {
    let mut m = model();
    m.take_change();
    let mut other = service();
    other.key = Some(ObjectKey::new("shop", "zeta"));
    m.set_service(ObjectKey::new("shop", "zeta"), other);
    assert!(m.take_change().is_empty(), "the first one keeps it");
    m.remove_service(&ObjectKey::new("shop", "web"));
    let front = Front::Address("10.43.1.1".parse().unwrap(), Protocol::Tcp, 80);
    let change = m.take_change();
    assert!(change.del.contains(&Element::Front(front, Action::Chain("svc-1".into()))));
    assert!(
        change.add.contains(&Element::Front(front, Action::Reject)),
        "now it is the other's, which has no endpoints"
    );
}

#[test]
fn the_nodes_own_dns_answers_until_a_service_has_endpoints() {
    let mut m = Model::new(cx());
    let target: SocketAddr = "10.42.0.1:53".parse().unwrap();
    let has = |c: &Change, to: SocketAddr| c.add.iter().any(|e| matches!(e, Element::Endpoint(_, _, a) if *a == to));
    assert!(has(&m.take_change(), target), "without any Service");

    let key = ObjectKey::new("kube-system", "kube-dns");
    let dns = ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: 0 };
    m.set_service(
        key.clone(),
        Service {
            key: Some(key.clone()),
            cluster_ips: vec!["10.43.0.10".parse().unwrap()],
            ports: vec![dns],
            ..Default::default()
        },
    );
    assert!(has(&m.take_change(), target), "the Service without endpoints leads to the node");

    let mut of_dns = slice(&["r10.42.0.9"]);
    of_dns.service = Some(key);
    of_dns.ports = vec![EndpointPort { name: "dns".into(), protocol: Protocol::Udp, port: Some(5353) }];
    m.set_slice(ObjectKey::new("kube-system", "kube-dns-1"), of_dns);
    let change = m.take_change();
    assert!(has(&change, "10.42.0.9:5353".parse().unwrap()), "somebody runs a DNS server of their own");
    assert!(change.stale.iter().any(|s| s.endpoint == Some(target)), "connections to the old one are forgotten");
}

#[test]
fn shared_pods_stay_hairpins_while_one_service_has_them() {
    let mut m = model();
    let second = ObjectKey::new("shop", "second");
    m.set_service(
        second.clone(),
        Service { cluster_ips: vec!["10.43.1.2".parse().unwrap()], key: Some(second.clone()), ..service() },
    );
    let mut of_second = slice(&["r@10.42.0.2"]);
    of_second.service = Some(second.clone());
    m.set_slice(ObjectKey::new("shop", "second-1"), of_second);
    m.take_change();
    let hairpin = Element::Hairpin("10.42.0.2".parse().unwrap());
    m.remove_service(&second);
    assert!(!m.take_change().del.contains(&hairpin));
    m.remove_service(&ObjectKey::new("shop", "web"));
    assert!(m.take_change().del.contains(&hairpin));
}

/// An endpoint is `address`, zones that it is for, nodes that it is for.
#[test_case(&[("10.42.0.1", "near", ""), ("10.42.1.1", "far", "")], &["10.42.0.1"]; "the zone's")]
#[test_case(&[("10.42.0.1", "near", "there"), ("10.42.0.2", "near", "here")], &["10.42.0.2"]; "the node's")]
#[test_case(&[("10.42.0.1", "near", "there"), ("10.42.1.1", "far", "there")], &["10.42.0.1"]; "the zone's where the node has none")]
#[test_case(&[("10.42.0.1", "near", ""), ("10.42.1.1", "", "")], &["10.42.0.1", "10.42.1.1"]; "one says nothing: all")]
#[test_case(&[("10.42.1.1", "far", ""), ("10.42.2.1", "far", "")], &["10.42.1.1", "10.42.2.1"]; "none is near: all")]
fn clients_go_to_who_is_near(endpoints: &[(&str, &str, &str)], want: &[&str]) {
    let names = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    let texts: Vec<String> = endpoints.iter().map(|(a, ..)| format!("r{a}")).collect();
    let mut hinted = slice(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (endpoint, (_, zone, node)) in hinted.endpoints.iter_mut().zip(endpoints) {
        (endpoint.for_zones, endpoint.for_nodes) = (names(zone), names(node));
    }
    let rules = plan(&service(), &BTreeMap::from([("web-1".to_owned(), hinted)]), &cx(), |_| 7).remove(0);
    let got: Vec<String> = rules.all.iter().map(|a| a.ip().to_string()).collect();
    assert_eq!(got, want);
}

#[test]
fn a_node_that_comes_into_a_zone_goes_by_its_hints() {
    let mut model = Model::new(Context { local_services: vec![], zone: String::new(), ..cx() });
    let mut slice = slice(&["r10.42.0.1", "r10.42.1.1"]);
    for (endpoint, zone) in slice.endpoints.iter_mut().zip(["near", "far"]) {
        endpoint.for_zones = vec![zone.into()];
    }
    model.set_service(ObjectKey::new("shop", "web"), service());
    model.set_slice(ObjectKey::new("shop", "web-1"), slice);
    model.take_change();
    model.set_zone("near");
    let change = model.take_change();
    assert!(!change.del.is_empty(), "the far one is not asked any more: {change:?}");
    model.set_zone("near");
    assert!(model.take_change().is_empty());
}

/// The rules of both families of a Service with endpoints of both.
#[test]
fn each_family_has_its_own_fronts_and_endpoints() {
    let both = Service {
        cluster_ips: vec!["10.43.1.1".parse().unwrap(), "fd43::1".parse().unwrap()],
        external_ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        load_balancer_ips: vec!["2001:db8::8".parse().unwrap()],
        source_ranges: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ports: vec![port(80, 30080)],
        ..service()
    };
    let of = |family, cidr: &str| {
        let cx = Context { family, cluster_cidr: Some(cidr.parse().unwrap()), local_services: vec![], ..cx() };
        let mut model = Model::new(cx);
        model.set_service(ObjectKey::new("shop", "web"), both.clone());
        for (name, family, endpoints) in [
            ("web-4", Family::V4, ["r10.42.0.2", "r10.42.1.2"]),
            ("web-6", Family::V6, ["r@fd42::2", "rfd42:0:0:1::2"]),
        ] {
            let of_family = Slice { family: Some(family), ..slice(&endpoints) };
            model.set_slice(ObjectKey::new("shop", name), of_family);
        }
        model.take_change()
    };
    let endpoints = |change: &Change| -> Vec<String> {
        let endpoint = |e: &Element| if let Element::Endpoint(_, _, at) = e { Some(at.to_string()) } else { None };
        change.add.iter().filter_map(endpoint).collect()
    };
    let fronts = |change: &Change| -> Vec<(Front, Action)> {
        let front = |e: &Element| if let Element::Front(f, a) = e { Some((*f, a.clone())) } else { None };
        change.add.iter().filter_map(front).collect()
    };
    let to = |address: &str| Front::Address(address.parse().unwrap(), Protocol::Tcp, 80);
    let chain = |name: &str| Action::Chain(name.into());
    let node = (Front::Node(Protocol::Tcp, 30080), chain("ext-1"));

    let four = of(Family::V4, "10.42.0.0/16");
    assert_eq!(endpoints(&four), ["10.42.0.2:8080", "10.42.1.2:8080"]);
    assert_eq!(fronts(&four), [(to("10.43.1.1"), chain("svc-1")), (to("192.0.2.7"), chain("ext-1")), node.clone()]);

    let six = of(Family::V6, "fd42::/56");
    assert_eq!(endpoints(&six), ["[fd42::2]:8080", "[fd42:0:0:1::2]:8080"]);
    assert_eq!(
        fronts(&six),
        [
            (to("2001:db8::7"), chain("ext-1")),
            (to("2001:db8::8"), chain("lb-1")),
            (to("fd43::1"), chain("svc-1")),
            node
        ]
    );
    let rules = |name: &str| six.add_chains.iter().find(|c| c.name == name).unwrap().rules.clone();
    assert_eq!(rules("svc-1"), [Rule::MarkOutside("fd42::/56".parse().unwrap()), Rule::Pick(2, 2)]);
    assert_eq!(rules("lb-1"), [Rule::GotoFrom("2001:db8::/32".parse().unwrap(), "ext-1".into()), Rule::Drop]);
    assert!(six.add.contains(&Element::Hairpin("fd42::2".parse().unwrap())), "{six:?}");
}

#[test]
fn a_service_of_one_family_has_nothing_in_the_other() {
    let six = Context { family: Family::V6, cluster_cidr: None, local_services: vec![], ..cx() };
    let node_port = Service { ports: vec![port(80, 30080)], ..service() };
    assert!(plan(&node_port, &slices(&["rfd42::2"]), &six, |_| 1).is_empty());
    let mut model = Model::new(six);
    model.set_slice(ObjectKey::new("shop", "web-1"), Slice { family: Some(Family::V6), ..slice(&["rfd42::2"]) });
    model.set_slice(ObjectKey::new("shop", "web-1"), Slice { family: Some(Family::V4), ..slice(&["r10.42.0.2"]) });
    assert!(model.slices.is_empty(), "a slice that became another one is forgotten");
}
