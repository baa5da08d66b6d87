use super::*;
use serde_json::json;
use test_case::test_case;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn own() -> Own {
    let link = Link { index: 2, name: "eth0".into(), mtu: 1500, networks: vec![net("192.0.2.0/24")] };
    Own { name: "a".into(), address: ip("192.0.2.1"), range: "10.42.0.0/24".parse().unwrap(), link: Some(link) }
}

/// A node; its age follows its name.
fn peer(name: &str, address: &str, range: &str) -> Peer {
    Peer {
        created: name.into(),
        name: name.into(),
        addresses: address.parse().into_iter().collect(),
        ranges: range.parse().into_iter().collect(),
    }
}

/// The kernel when all of `want` was done.
fn after(want: &Wanted) -> Kernel {
    Kernel {
        device: want.device.clone(),
        name_taken: want.device.is_some(),
        routes: want.routes.iter().map(|(to, via)| Route { to: *to, via: via.clone(), ours: true }).collect(),
        neighbours: want.neighbours.clone(),
        forwards: want.forwards.clone(),
    }
}

fn two_nodes() -> [Peer; 3] {
    [
        peer("a", "192.0.2.1", "10.42.0.0/24"),
        peer("b", "192.0.2.2", "10.42.1.0/24"),
        peer("c", "198.51.100.3", "10.42.2.0/24"),
    ]
}

#[test]
fn vxlan_knows_all_nodes_and_host_gw_its_neighbours() {
    let want = wanted(Backend::Vxlan, &own(), &two_nodes());
    let device = want.device.unwrap();
    assert_eq!((device.local, device.mtu), (v4("192.0.2.1"), 1450));
    assert_eq!((device.mac, device.addresses), ([0x0a, 0x59, 10, 42, 0, 0], [ip("10.42.0.0")].into()));
    let over = |a: &str| Via::Device(ip(a));
    assert_eq!(
        want.routes,
        [(net("10.42.1.0/24"), over("10.42.1.0")), (net("10.42.2.0/24"), over("10.42.2.0"))].into()
    );
    let (b, c) = ([0x0a, 0x59, 10, 42, 1, 0], [0x0a, 0x59, 10, 42, 2, 0]);
    assert_eq!(want.neighbours, [(ip("10.42.1.0"), b), (ip("10.42.2.0"), c)].into());
    assert_eq!(want.forwards, [(b, v4("192.0.2.2")), (c, v4("198.51.100.3"))].into());
    assert_eq!(want.notes, [].into());

    let want = wanted(Backend::HostGw, &own(), &two_nodes());
    let near = Via::Link(Some(ip("192.0.2.2")), "eth0".into());
    assert_eq!((want.device, want.routes), (None, [(net("10.42.1.0/24"), near)].into()));
    let note = want.notes.first().unwrap().to_string();
    assert!(note.contains("node c") && note.contains("198.51.100.3") && note.contains("use vxlan"), "{note}");

    assert_eq!(wanted(Backend::None, &own(), &two_nodes()), Wanted::default());
}

#[test_case(peer("b", "192.0.2.2", ""), &[], None; "no range yet, nothing to say")]
#[test_case(peer("b", "2001:db8::2", "10.42.1.0/24"), &[], Some("node b cannot be reached: it has no IPv4 address"); "an IPv6 address")]
#[test_case(peer("b", "", "10.42.1.0/24"), &[], Some("no IPv4 address"); "no address yet")]
#[test_case(peer("b", "127.0.0.1", "10.42.1.0/24"), &[], Some("no IPv4 address that leads to it"); "a loopback address")]
#[test_case(peer("b", "192.0.2.1", "10.42.1.0/24"), &[], Some("the address of this one, 192.0.2.1"); "our address")]
#[test_case(peer("b", "192.0.2.2", "10.42.0.0/25"), &[], Some("overlaps 10.42.0.0/24 of node a"); "a part of our range")]
#[test_case(peer("b", "192.0.2.2", "10.42.1.0/24"), &["10.42.1.0/24"], None; "good")]
fn a_node_is_routed_or_it_is_told_why_not(node: Peer, routed: &[&str], note: Option<&str>) {
    let want = wanted(Backend::Vxlan, &own(), [&node]);
    assert_eq!(want.routes.keys().copied().collect::<Vec<_>>(), routed.iter().map(|r| net(r)).collect::<Vec<_>>());
    assert_eq!(want.notes.len(), usize::from(note.is_some()), "{:?}", want.notes);
    if let (Some(note), Some(got)) = (note, want.notes.first()) {
        assert!(got.to_string().contains(note), "{got}");
    }
}

#[test]
fn of_overlapping_ranges_the_oldest_is_routed_by_all_nodes() {
    let nodes = [peer("c", "192.0.2.3", "10.42.1.128/25"), peer("b", "192.0.2.2", "10.42.1.0/24")];
    for order in [[&nodes[0], &nodes[1]], [&nodes[1], &nodes[0]]] {
        let want = wanted(Backend::Vxlan, &own(), order);
        assert_eq!(want.routes.keys().collect::<Vec<_>>(), [&net("10.42.1.0/24")]);
        assert!(want.notes.first().unwrap().to_string().contains("node c"), "{:?}", want.notes);
    }
}

#[test_case("2001:db8::1", true, "knows only IPv4"; "an IPv6 address of our own")]
#[test_case("127.0.0.1", true, "loopback"; "no address but loopback")]
#[test_case("192.0.2.1", false, "on no interface"; "an address of nobody")]
fn without_an_address_of_our_own_nothing_is_routed(address: &str, linked: bool, note: &str) {
    let mut own = own();
    own.address = address.parse().unwrap();
    own.link = own.link.filter(|_| linked);
    let want = wanted(Backend::Vxlan, &own, &two_nodes());
    assert_eq!((want.device, want.routes.len()), (None, 0));
    assert!(want.notes.first().unwrap().to_string().contains(note), "{:?}", want.notes);
    assert_eq!(
        wanted(Backend::Vxlan, &own, [&peer("a", address, "10.42.0.0/24")]),
        Wanted::default(),
        "alone it is silent"
    );
}

#[test]
fn what_is_done_needs_nothing() {
    for backend in [Backend::Vxlan, Backend::HostGw, Backend::None] {
        for (own, nodes) in [(own(), two_nodes()), (dual_own(), dual_nodes())] {
            let want = wanted(backend, &own, &nodes);
            assert_eq!(steps(&want, &after(&want)), (vec![], [].into()), "{backend}");
        }
    }
}

/// This node in a cluster of both families.
fn dual_own() -> Own {
    let mut own = own();
    own.range = "10.42.0.0/24,fd42::/64".parse().unwrap();
    own.link.as_mut().unwrap().networks.push(net("2001:db8::/64"));
    own
}

/// The nodes of before, each with a range of IPv6; b has an address of it, too.
fn dual_nodes() -> [Peer; 3] {
    let mut nodes = two_nodes();
    for (node, range) in nodes.iter_mut().zip(["fd42::/64", "fd42:0:0:1::/64", "fd42:0:0:2::/64"]) {
        node.ranges.push(net(range));
    }
    nodes[1].addresses.push(ip("2001:db8::2"));
    nodes
}

#[test]
fn ipv6_goes_over_the_same_device_and_stands_behind_the_same_mac() {
    let want = wanted(Backend::Vxlan, &dual_own(), &dual_nodes());
    let (four, six) = (wanted(Backend::Vxlan, &own(), &two_nodes()), &want);
    assert_eq!(six.forwards, four.forwards, "nodes reach each other as before");
    assert_eq!(six.device.as_ref().unwrap().addresses, [ip("10.42.0.0"), ip("fd42::")].into());
    let over = |a: &str| Via::Device(ip(a));
    assert_eq!(six.routes.get(&net("fd42:0:0:1::/64")), Some(&over("fd42:0:0:1::")));
    assert_eq!(six.routes.len(), 4);
    assert_eq!(six.neighbours.get(&ip("fd42:0:0:2::")), Some(&[0x0a, 0x59, 10, 42, 2, 0]));
    assert_eq!(six.notes, [].into());

    let (got, _) = steps(&wanted(Backend::Vxlan, &dual_own(), &dual_nodes()[..2]), &after(six));
    let gone = |to: &str, gateway: &str| Step::DropRoute(net(to), over(gateway));
    assert_eq!(
        got,
        [
            gone("10.42.2.0/24", "10.42.2.0"),
            gone("fd42:0:0:2::/64", "fd42:0:0:2::"),
            Step::DropNeighbour(ip("10.42.2.0")),
            Step::DropNeighbour(ip("fd42:0:0:2::")),
            Step::DropForward([0x0a, 0x59, 10, 42, 2, 0])
        ]
    );
}

#[test]
fn host_gw_routes_ipv6_through_nodes_that_have_it() {
    let mut nodes = dual_nodes();
    nodes[2].addresses = vec![ip("192.0.2.3")];
    let want = wanted(Backend::HostGw, &dual_own(), &nodes);
    let through = |a: &str| Via::Link(Some(ip(a)), "eth0".into());
    assert_eq!(
        want.routes,
        [
            (net("10.42.1.0/24"), through("192.0.2.2")),
            (net("10.42.2.0/24"), through("192.0.2.3")),
            (net("fd42:0:0:1::/64"), through("2001:db8::2"))
        ]
        .into()
    );
    let told: Vec<String> = want.notes.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("node c cannot be reached over IPv6: it has no IPv6 address"), "{told:?}");
}

#[test]
fn ipv6_of_a_node_whose_range_is_anothers_is_left_out_too() {
    let mut nodes = dual_nodes();
    nodes[2].ranges[0] = net("10.42.1.0/24");
    let want = wanted(Backend::Vxlan, &dual_own(), &nodes);
    assert_eq!(want.routes.keys().collect::<Vec<_>>(), [&net("10.42.1.0/24"), &net("fd42:0:0:1::/64")]);
    assert_eq!(want.forwards.len(), 1, "packets for the other one go where they went");
}

#[test]
fn an_ipv6_route_makes_room_for_another_way() {
    let (vxlan, host_gw) = (
        wanted(Backend::Vxlan, &dual_own(), &dual_nodes()[..2]),
        wanted(Backend::HostGw, &dual_own(), &dual_nodes()[..2]),
    );
    let (got, _) = steps(&vxlan, &after(&host_gw));
    let (dropped, put) = (
        got.iter().position(|s| matches!(s, Step::DropRoute(IpNet::V6(_), _))),
        got.iter().position(|s| matches!(s, Step::PutRoute(IpNet::V6(_), _))),
    );
    assert!(dropped.is_some() && dropped < put, "{got:?}");
}

#[test]
fn a_link_too_small_for_ipv6_is_told_of() {
    let mut own = dual_own();
    own.link.as_mut().unwrap().mtu = 1300;
    let told = wanted(Backend::Vxlan, &own, &[]).notes;
    assert!(told.first().unwrap().to_string().contains("packets of 1250 bytes, and IPv6 needs 1280"), "{told:?}");
    assert_eq!(wanted(Backend::HostGw, &own, &[]).notes, [].into());
}

#[test]
fn from_nothing_the_way_is_there_before_the_route() {
    let want = wanted(Backend::Vxlan, &own(), &two_nodes()[..2]);
    let (got, _) = steps(&want, &Kernel::default());
    let mac = [0x0a, 0x59, 10, 42, 1, 0];
    let device = want.device.unwrap();
    assert_eq!(
        got,
        [
            Step::AddDevice(device),
            Step::AddAddress(ip("10.42.0.0")),
            Step::SetUp,
            Step::PutNeighbour(ip("10.42.1.0"), mac),
            Step::PutForward(mac, v4("192.0.2.2")),
            Step::PutRoute(net("10.42.1.0/24"), Via::Device(ip("10.42.1.0"))),
        ]
    );
}

#[test]
fn a_node_that_goes_takes_its_entries_along() {
    let have = after(&wanted(Backend::Vxlan, &own(), &two_nodes()));
    let (got, _) = steps(&wanted(Backend::Vxlan, &own(), &two_nodes()[..2]), &have);
    let gone = Step::DropRoute(net("10.42.2.0/24"), Via::Device(ip("10.42.2.0")));
    assert_eq!(got, [gone, Step::DropNeighbour(ip("10.42.2.0")), Step::DropForward([0x0a, 0x59, 10, 42, 2, 0])]);
}

#[test]
fn an_address_that_changes_is_one_entry() {
    let have = after(&wanted(Backend::Vxlan, &own(), &two_nodes()[..2]));
    let moved = [peer("b", "192.0.2.77", "10.42.1.0/24")];
    let (got, _) = steps(&wanted(Backend::Vxlan, &own(), &moved), &have);
    assert_eq!(got, [Step::PutForward([0x0a, 0x59, 10, 42, 1, 0], v4("192.0.2.77"))]);

    let have = after(&wanted(Backend::HostGw, &own(), &two_nodes()[..2]));
    let (got, _) = steps(&wanted(Backend::HostGw, &own(), &moved), &have);
    assert_eq!(
        got,
        [Step::PutRoute(net("10.42.1.0/24"), Via::Link(Some(ip("192.0.2.77")), "eth0".into()))],
        "replaced"
    );
}

#[test]
fn our_own_address_that_changes_makes_the_device_anew() {
    let have = after(&wanted(Backend::Vxlan, &own(), &two_nodes()[..2]));
    let mut moved = own();
    moved.address = ip("192.0.2.9");
    let (got, _) = steps(&wanted(Backend::Vxlan, &moved, &two_nodes()[..2]), &have);
    assert!(matches!(&got[..2], [Step::RemoveDevice, Step::AddDevice(d)] if d.local == v4("192.0.2.9")), "{got:?}");
    assert!(matches!(got.last(), Some(Step::PutRoute(..))), "what hung on it is made again: {got:?}");
    assert!(!got.iter().any(|s| matches!(s, Step::DropRoute(..))), "and went with it");
}

#[test]
fn mtu_and_state_are_mended_in_place() {
    let want = wanted(Backend::Vxlan, &own(), &two_nodes());
    let mut have = after(&want);
    let device = have.device.as_mut().unwrap();
    (device.mtu, device.up, device.addresses) = (1400, false, [ip("10.42.9.0")].into());
    let (got, _) = steps(&want, &have);
    let addresses = [Step::AddAddress(ip("10.42.0.0")), Step::DropAddress(ip("10.42.9.0"))];
    assert_eq!(got, [&[Step::SetMtu(1450)][..], &addresses, &[Step::SetUp]].concat());
}

#[test]
fn another_backend_leaves_nothing_of_the_last_one() {
    let (vxlan, host_gw) =
        (wanted(Backend::Vxlan, &own(), &two_nodes()), wanted(Backend::HostGw, &own(), &two_nodes()));
    let (got, _) = steps(&host_gw, &after(&vxlan));
    let near = Via::Link(Some(ip("192.0.2.2")), "eth0".into());
    assert_eq!(got, [Step::RemoveDevice, Step::PutRoute(net("10.42.1.0/24"), near.clone())]);
    let (got, _) = steps(&Wanted::default(), &after(&host_gw));
    assert_eq!(got, [Step::DropRoute(net("10.42.1.0/24"), near)]);
}

#[test]
fn foreign_routes_are_left_and_told_of() {
    let want = wanted(Backend::Vxlan, &own(), &two_nodes()[..2]);
    let mut have = after(&want);
    let flannel = |to: &str| Route { to: net(to), via: Via::Link(None, "flannel.1".into()), ours: false };
    have.routes = vec![flannel("10.42.1.0/24"), flannel("10.42.77.0/24")];
    let (got, notes) = steps(&want, &have);
    assert_eq!(got, []);
    assert!(notes.first().unwrap().to_string().starts_with("10.42.1.0/24 is routed dev flannel.1"), "{notes:?}");
    assert_eq!(notes.len(), 1, "what is in nobody's way is nobody's business");
}

#[test]
fn a_device_of_another_kind_makes_room() {
    let want = wanted(Backend::Vxlan, &own(), []);
    let have = Kernel { name_taken: true, ..Kernel::default() };
    assert_eq!(steps(&want, &have).0[0], Step::RemoveDevice);
    assert_eq!(steps(&Wanted::default(), &have).0, [], "none of ours is left alone");
}

#[test]
fn nodes_are_read() {
    let node = json!({"metadata": {"name": "b", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd00::/64"]},
        "status": {"addresses": [{"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "192.0.2.2"}]}});
    let read = Peer::of(&Object::from_value(&node, &[]));
    assert_eq!((read.address(), read.ranges), (Some(v4("192.0.2.2")), vec![net("10.42.1.0/24"), net("fd00::/64")]));
    let bare = json!({"metadata": {"name": "b"}, "spec": {"podCIDR": "10.42.1.0/24"}});
    assert_eq!(Peer::of(&Object::from_value(&bare, &[])).ranges, [net("10.42.1.0/24")]);
}

#[test_case("vxlan", Ok(Backend::Vxlan))]
#[test_case("host-gw", Ok(Backend::HostGw))]
#[test_case("none", Ok(Backend::None))]
#[test_case("wireguard-native", Err("wireguard-native is not built yet; use vxlan, host-gw or none"))]
#[test_case("ipsec", Err("must be vxlan, host-gw or none"))]
fn backends_are_read(text: &str, want: Result<Backend, &str>) {
    assert_eq!(text.parse::<Backend>(), want.map_err(str::to_owned));
}

#[test_case(Backend::Vxlan, 1500, 1450)]
#[test_case(Backend::Vxlan, 9000, 8950)]
#[test_case(Backend::Vxlan, 600, MIN_MTU)]
#[test_case(Backend::HostGw, 1500, 1500)]
fn mtus(backend: Backend, link: u32, pods: u32) {
    assert_eq!(backend.pod_mtu(link), pods);
}
