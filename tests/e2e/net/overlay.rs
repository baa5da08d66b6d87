//! Pods of several nodes in the real kernel: a namespace for each node, one for the wire between them.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use orch::cni::overlay::{self, Applied, Backend, DEVICE, Overlay};
use orch::cni::{self, CniConfig};
use orch::util::families::Networks;
use orch::util::tasks::Shutdown;
use serde_json::json;
use test_case::test_case;
use tokio::sync::watch;

use super::lab::{self, Ns, ip};
use super::objects::Cluster;
use super::{PATIENCE, Running};

/// Bytes of a transfer that is many packets of the largest size.
const MUCH: usize = 4 << 20;

/// A wire with machines on it, and one that is of no cluster.
struct Lan {
    wire: Ns,
    outside: Ns,
    cluster: Arc<Cluster>,
    /// Its machines and its cluster have IPv6, too.
    dual: bool,
}

impl Lan {
    fn new() -> Self {
        Self::of(false)
    }

    fn of(dual: bool) -> Self {
        let (wire, outside) = (Ns::new("wire"), Ns::new("out"));
        ip(&["-n", &wire.name, "link", "add", "name", "br0", "type", "bridge"]);
        ip(&["-n", &wire.name, "link", "set", "br0", "up"]);
        let lan = Self { wire, outside, cluster: Arc::new(Cluster::default()), dual };
        lan.plug(&lan.outside, 99);
        lan
    }

    /// Puts a machine on the wire, with the addresses of this number.
    fn plug(&self, machine: &Ns, port: u8) {
        let (w, m, end) = (self.wire.name.as_str(), machine.name.as_str(), format!("port{port}"));
        ip(&["-n", w, "link", "add", "name", &end, "type", "veth", "peer", "name", "eth0", "netns", m]);
        ip(&["-n", w, "link", "set", &end, "master", "br0", "up"]);
        ip(&["-n", m, "addr", "add", &format!("192.0.2.{port}/24"), "dev", "eth0"]);
        if self.dual {
            ip(&["-n", m, "addr", "add", &format!("2001:db8::{port}/64"), "dev", "eth0", "nodad"]);
        }
        ip(&["-n", m, "link", "set", "eth0", "up"]);
    }

    /// A machine and its Node: number 1 is `node1` at 192.0.2.1 with 10.42.1.0/24; where there is IPv6, at 2001:db8::1 with
    /// fd42:0:0:1::/64, too.
    fn node(&self, number: u8, backend: Backend) -> Node {
        let machine = Ns::new(&format!("node{number}"));
        self.plug(&machine, number);
        ip(&["-n", &machine.name, "route", "add", "default", "via", "192.0.2.99"]);
        let address: IpAddr = [192, 0, 2, number].into();
        let (mut range, mut addresses) = (format!("10.42.{number}.0/24"), address.to_string());
        let (mut cluster, mut services) = ("10.42.0.0/16", "10.43.0.0/16");
        if self.dual {
            range += &format!(",fd42:0:0:{number}::/64");
            addresses += &format!(",2001:db8::{number}");
            (cluster, services) = ("10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112");
        }
        self.cluster.node(&format!("node{number}"), &addresses, &range);
        let range: Networks = range.parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = CniConfig {
            bridge: "orch0".into(),
            subnet: range,
            cluster_cidr: cluster.parse().unwrap(),
            service_cidr: Some(services.parse().unwrap()),
            mtu: machine.block_on(|| overlay::pod_mtu(backend, address)).unwrap(),
            table: "orch-cni".into(),
            data_dir: dir.path().join("cni"),
            bin_dir: dir.path().join("bin"),
        };
        machine.block_on(|| cni::setup(&config)).unwrap();
        Node { number, machine, config, backend, _dir: dir, address: watch::Sender::new(address), running: None }
    }

    /// Nodes 1 to `count`, each with its overlay, which knows them all.
    fn nodes(&self, count: u8, backend: Backend) -> Vec<Node> {
        let mut nodes: Vec<Node> = (1..=count).map(|n| self.node(n, backend)).collect();
        for node in &mut nodes {
            node.start(&self.cluster);
        }
        let all: Vec<u8> = (1..=count).collect();
        nodes.iter().for_each(|n| n.wait_for_ranges(&all));
        nodes
    }
}

/// An overlay at work.
struct Working {
    applied: watch::Receiver<Applied>,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Node {
    number: u8,
    machine: Ns,
    config: CniConfig,
    backend: Backend,
    address: watch::Sender<IpAddr>,
    running: Option<Working>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start(&mut self, cluster: &Cluster) {
        let config = overlay::Config {
            backend: self.backend,
            node_name: format!("node{}", self.number),
            range: self.config.subnet,
            cluster_cidr: self.config.cluster_cidr,
        };
        let overlay = Overlay::new(config, cluster, self.address.subscribe());
        let (applied, shutdown) = (overlay.applied(), Shutdown::new());
        let (stop, ns) = (shutdown.clone(), self.machine.ns.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            ns.run(|| runtime().block_on(overlay.run(stop))).unwrap();
        });
        self.running = Some(Working { applied, shutdown, thread: Some(thread) });
    }

    /// Ends the overlay as a crash would: nothing is taken back.
    fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.shutdown.trigger();
        let joined = running.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            joined.unwrap().unwrap();
        }
    }

    fn wait(&self, what: &str, done: impl Fn(&Applied) -> bool) {
        let mut applied = self.running.as_ref().unwrap().applied.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wait = async { tokio::time::timeout(PATIENCE, applied.wait_for(|a| done(a))).await.is_ok() };
        assert!(runtime.block_on(wait), "node{}, {what}: {:?}", self.number, applied.borrow());
    }

    /// Waits until the ranges of these nodes are routed, its own aside, and no other.
    fn wait_for_ranges(&self, of: &[u8]) {
        let others = of.iter().filter(|n| **n != self.number);
        let ranges = |n: &u8| [format!("10.42.{n}.0/24"), format!("fd42:0:0:{n}::/64")];
        let families = self.config.subnet.iter().count();
        let want = others.flat_map(|n| ranges(n).into_iter().take(families)).map(|r| r.parse().unwrap()).collect();
        self.wait("routes", |a| a.passes > 0 && a.routed == want);
    }

    /// Waits until the kernel's state has been looked at since `change`, and what `done` asks for is there.
    fn after(&self, change: impl FnOnce(), done: impl Fn() -> bool) {
        let before = self.running.as_ref().unwrap().applied.borrow().passes;
        change();
        self.wait("a pass", |a| a.passes > before && done());
    }

    /// Tells the node's own parts that it has another address.
    fn move_to(&self, address: IpAddr) {
        self.address.send_replace(address);
    }

    fn pod(&self, name: &str) -> (Ns, String) {
        lab::add_pod(&self.machine, &self.config, name, &json!([]))
    }

    /// A pod and both of its addresses.
    fn dual_pod(&self, name: &str) -> (Ns, String, String) {
        let (pod, address) = self.pod(name);
        let six = lab::ipv6_of(&self.config, &address);
        (pod, address, six)
    }

    fn show(&self, what: &[&str]) -> String {
        let out = Command::new("ip").args(["-n", &self.machine.name]).args(what).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends much to whoever connects, once.
fn serve_much(pod: &Ns, port: u16) {
    let listener = pod.run(|| TcpListener::bind(&lab::anywhere(port)[..]).unwrap());
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&vec![7; MUCH]);
        }
    });
}

fn fetch_much(pod: &Ns, to: &str) -> usize {
    let mut stream = pod.run(|| TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all.len()
}

#[test_case(Backend::Vxlan, 1450)]
#[test_case(Backend::HostGw, 1500)]
fn pods_of_all_nodes_reach_each_other_and_services(backend: Backend, mtu: u32) {
    let lan = Lan::new();
    let nodes = lan.nodes(2, backend);
    let ((a, a_ip), (b, b_ip)) = (nodes[0].pod("a"), nodes[1].pod("b"));
    let a_ip: IpAddr = a_ip.parse().unwrap();
    b.serve_tcp("b", 8080);
    b.serve_udp("b", 8053);
    let to = format!("{b_ip}:8080");
    assert_eq!(a.ask_tcp(&to).unwrap(), ("b".into(), a_ip), "a pod is seen as itself");
    assert_eq!(a.ask_udp(&a.udp(), &format!("{b_ip}:8053")).unwrap(), ("b".into(), a_ip));
    let node: IpAddr = if backend == Backend::Vxlan { [10, 42, 1, 0].into() } else { [192, 0, 2, 1].into() };
    assert_eq!(nodes[0].machine.ask_tcp(&to).unwrap(), ("b".into(), node), "a node is seen where it can be answered");
    // Packets of the largest size, both ways.
    serve_much(&b, 9000);
    assert_eq!(fetch_much(&a, &format!("{b_ip}:9000")), MUCH);
    let link = Command::new("ip").args(["-n", &a.name, "link", "show", "eth0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&link.stdout).contains(&format!("mtu {mtu} ")));

    let service =
        json!({"type": "NodePort", "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    lan.cluster.service("web", "10.43.0.80", service);
    lan.cluster.endpoints_on("node2", "web", &[&b_ip]);
    let proxies =
        nodes.iter().map(|n| Running::start_as(&format!("node{}", n.number), &n.machine, &lan.cluster, vec![]));
    let proxies: Vec<Running> = proxies.collect();
    proxies.iter().for_each(|p| p.wait(|a| a.transactions > 0));
    assert_eq!(a.ask_tcp("10.43.0.80:80").unwrap(), ("b".into(), a_ip), "a Service whose pod is elsewhere");
    assert_eq!(nodes[0].machine.ask_tcp("10.43.0.80:80").unwrap().0, "b", "and from the node");
    lan.outside.serve_tcp("world", 8080);
    assert_eq!(
        a.ask_tcp("192.0.2.99:8080").unwrap(),
        ("world".into(), [192, 0, 2, 1].into()),
        "the world sees the node"
    );
    assert_eq!(lan.outside.ask_tcp("192.0.2.1:30080").unwrap().0, "b", "from outside over the node without the pod");
    assert_eq!(lan.outside.ask_tcp("192.0.2.2:30080").unwrap().0, "b", "and over the one with it");

    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    // Both nodes have to know: the one with the pod and the one without it.
    proxies[0].after(|| proxies[1].after(|| lan.cluster.service("web", "10.43.0.80", local)));
    let outside: IpAddr = [192, 0, 2, 99].into();
    assert_eq!(lan.outside.ask_tcp("192.0.2.2:30080").unwrap(), ("b".into(), outside), "a client is seen as itself");
    assert!(lan.outside.ask_tcp("192.0.2.1:30080").is_err(), "and is not sent on");

    let ports = json!([{"hostPort": 8081, "containerPort": 8080, "protocol": "TCP"}]);
    let (c, _) = lab::add_pod(&nodes[1].machine, &nodes[1].config, "c", &ports);
    c.serve_tcp("c", 8080);
    assert_eq!(lan.outside.ask_tcp("192.0.2.2:8081").unwrap(), ("c".into(), outside), "a host port");
    assert_eq!(a.ask_tcp("192.0.2.2:8081").unwrap().0, "c", "of another node");
}

#[test_case(Backend::Vxlan)]
#[test_case(Backend::HostGw)]
fn nodes_come_go_and_move(backend: Backend) {
    let lan = Lan::new();
    let mut nodes = lan.nodes(2, backend);
    let ((a, _), (b, b_ip)) = (nodes[0].pod("a"), nodes[1].pod("b"));
    b.serve_tcp("b", 8080);
    let to = format!("{b_ip}:8080");
    assert_eq!(a.ask_tcp(&to).unwrap().0, "b");

    // Another node's address changes, and with it that node's own.
    let moved = &nodes[1];
    ip(&["-n", &moved.machine.name, "addr", "del", "192.0.2.2/24", "dev", "eth0"]);
    ip(&["-n", &moved.machine.name, "addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    let at_home =
        || backend == Backend::HostGw || moved.show(&["-d", "link", "show", DEVICE]).contains("local 192.0.2.77");
    moved.after(|| moved.move_to([192, 0, 2, 77].into()), at_home);
    nodes[0].after(|| lan.cluster.node("node2", "192.0.2.77", "10.42.2.0/24"), || true);
    nodes.iter().for_each(|n| n.wait_for_ranges(&[1, 2]));
    assert_eq!(a.ask_tcp(&to).unwrap().0, "b", "by its new address");

    // One comes while another is down, and one goes.
    nodes[0].stop();
    let mut third = lan.node(3, backend);
    third.start(&lan.cluster);
    lan.cluster.of("", "nodes").remove("", "node2");
    let foreign = ["route", "add", "10.42.200.0/24", "via", "192.0.2.99"];
    ip(&[&["-n", &nodes[0].machine.name][..], &foreign].concat());
    nodes[0].start(&lan.cluster);
    nodes[0].wait_for_ranges(&[1, 3]);
    third.wait_for_ranges(&[1, 3]);
    assert!(a.ask_tcp(&to).is_err(), "a node that is gone is not routed");
    let (c, c_ip) = third.pod("c");
    c.serve_tcp("c", 8080);
    assert_eq!(a.ask_tcp(&format!("{c_ip}:8080")).unwrap().0, "c");
    let routes = nodes[0].show(&["route"]);
    assert!(routes.contains("10.42.200.0/24 via 192.0.2.99"), "what others routed stays: {routes}");

    // Somebody removes what is ours.
    let range = "10.42.3.0/24";
    nodes[0].after(
        || ip(&["-n", &nodes[0].machine.name, "route", "del", range]),
        || nodes[0].show(&["route"]).contains(range),
    );
    if backend == Backend::Vxlan {
        let delete = || ip(&["-n", &nodes[0].machine.name, "link", "del", DEVICE]);
        nodes[0].after(delete, || nodes[0].show(&["route"]).contains(&format!("10.42.3.0 dev {DEVICE}")));
        assert_eq!(a.ask_tcp(&format!("{c_ip}:8080")).unwrap().0, "c", "the device was made again");
    }

    // Another backend leaves nothing behind.
    nodes[0].stop();
    nodes[0].backend = Backend::None;
    nodes[0].start(&lan.cluster);
    nodes[0].wait("a pass", |a| a.passes > 0);
    let (routes, links) = (nodes[0].show(&["route"]), nodes[0].show(&["link"]));
    assert!(!routes.contains(range) && !links.contains(DEVICE), "{routes}{links}");
}

#[test]
fn what_cannot_be_routed_is_told_and_the_rest_is() {
    let lan = Lan::new();
    let nodes = lan.nodes(2, Backend::Vxlan);
    let foreign = ["-n", &nodes[0].machine.name, "route", "add", "10.42.9.0/24", "via", "192.0.2.99"];
    ip(&foreign);
    lan.cluster.node("late", "192.0.2.9", "10.42.9.0/24");
    lan.cluster.node("six", "2001:db8::6", "10.42.6.0/24");
    lan.cluster.node("twin", "192.0.2.8", "10.42.2.128/25");
    lan.cluster.node("young", "192.0.2.7", "");
    nodes[0].wait("notes", |a| a.notes.len() == 3);
    nodes[0].wait_for_ranges(&[1, 2]);
    let notes = nodes[0].running.as_ref().unwrap().applied.borrow().notes.clone();
    for part in ["10.42.9.0/24 is routed via 192.0.2.99", "node six", "node twin"] {
        assert!(notes.iter().any(|n| n.contains(part)), "{part}: {notes:?}");
    }
    // It comes right by itself.
    let remove = ["-n", &nodes[0].machine.name, "route", "del", "10.42.9.0/24"];
    ip(&remove);
    lan.cluster.of("", "nodes").remove("", "six");
    nodes[0].wait_for_ranges(&[1, 2, 9]);
}

#[test]
fn the_mtu_follows_the_interface() {
    let lan = Lan::new();
    let nodes = lan.nodes(1, Backend::Vxlan);
    let of_device = |mtu: u32| nodes[0].show(&["link", "show", DEVICE]).contains(&format!("mtu {mtu} "));
    assert!(of_device(1450));
    ip(&["-n", &nodes[0].machine.name, "link", "set", "eth0", "mtu", "1400"]);
    nodes[0].wait("the smaller MTU", |a| a.pod_mtu == 1350);
    assert!(of_device(1350));
}

#[test_case(Backend::Vxlan)]
#[test_case(Backend::HostGw)]
fn pods_of_all_nodes_reach_each_other_and_services_over_ipv6(backend: Backend) {
    let lan = Lan::of(true);
    let nodes = lan.nodes(2, backend);
    let ((a, a4, a6), (b, b4, b6)) = (nodes[0].dual_pod("a"), nodes[1].dual_pod("b"));
    let six = |text: &str| text.parse::<IpAddr>().unwrap();
    b.serve_tcp("b", 8080);
    b.serve_udp("b", 8053);
    let to = format!("[{b6}]:8080");
    assert_eq!(a.ask_tcp(&to).unwrap(), ("b".into(), six(&a6)), "a pod is seen as itself");
    assert_eq!(a.ask_tcp(&format!("{b4}:8080")).unwrap(), ("b".into(), six(&a4)), "and over IPv4 as ever");
    assert_eq!(a.ask_udp(&a.udp6(), &format!("[{b6}]:8053")).unwrap(), ("b".into(), six(&a6)));
    let node = if backend == Backend::Vxlan { "fd42:0:0:1::" } else { "2001:db8::1" };
    assert_eq!(
        nodes[0].machine.ask_tcp(&to).unwrap(),
        ("b".into(), six(node)),
        "a node is seen where it can be answered"
    );
    serve_much(&b, 9000);
    assert_eq!(fetch_much(&a, &format!("[{b6}]:9000")), MUCH, "packets of the largest size");

    let service = json!({"type": "NodePort", "clusterIPs": ["10.43.0.80", "fd43::80"],
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    lan.cluster.service("web", "10.43.0.80", service);
    lan.cluster.slice("node2", "web", "IPv4", &[&b4]);
    lan.cluster.slice("node2", "web", "IPv6", &[&b6]);
    let proxies: Vec<Running> =
        nodes.iter().map(|n| Running::start_dual(&format!("node{}", n.number), &n.machine, &lan.cluster)).collect();
    for (service, client) in [("[fd43::80]:80", &a6), ("10.43.0.80:80", &a4)] {
        assert_eq!(a.ask_tcp(service).unwrap(), ("b".into(), six(client)), "a Service whose pod is elsewhere");
        assert_eq!(nodes[0].machine.ask_tcp(service).unwrap().0, "b", "and from the node");
    }
    lan.outside.serve_tcp("world", 8080);
    let world = a.ask_tcp("[2001:db8::99]:8080").unwrap();
    assert_eq!(world, ("world".into(), six("2001:db8::1")), "the world sees the node");
    for node in ["2001:db8::1", "2001:db8::2"] {
        assert_eq!(lan.outside.ask_tcp(&format!("[{node}]:30080")).unwrap().0, "b", "by node port of {node}");
    }
    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "clusterIPs": ["10.43.0.80", "fd43::80"],
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    proxies[0].after(|| proxies[1].after(|| lan.cluster.service("web", "10.43.0.80", local)));
    let seen = lan.outside.ask_tcp("[2001:db8::2]:30080").unwrap();
    assert_eq!(seen, ("b".into(), six("2001:db8::99")), "a client is seen as itself");
    assert!(lan.outside.ask_tcp("[2001:db8::1]:30080").is_err(), "and is not sent on");
}

#[test]
fn ipv6_routes_come_go_and_change_their_way() {
    let lan = Lan::of(true);
    let mut nodes = lan.nodes(2, Backend::Vxlan);
    let ((a, ..), (b, _, b6)) = (nodes[0].dual_pod("a"), nodes[1].dual_pod("b"));
    b.serve_tcp("b", 8080);
    let to = format!("[{b6}]:8080");
    assert_eq!(a.ask_tcp(&to).unwrap().0, "b");
    let (range, machine) = ("fd42:0:0:2::/64", nodes[0].machine.name.clone());
    let there = |node: &Node| node.show(&["-6", "route"]).contains(&format!("{range} via"));
    nodes[0].after(|| ip(&["-n", &machine, "-6", "route", "del", range]), || there(&nodes[0]));
    nodes[0].after(
        || ip(&["-n", &machine, "addr", "del", "fd42:0:0:1::/128", "dev", DEVICE]),
        || nodes[0].show(&["-6", "addr", "show", "dev", DEVICE]).contains("fd42:0:0:1::/128"),
    );
    nodes[0].after(|| ip(&["-n", &machine, "link", "del", DEVICE]), || there(&nodes[0]));
    assert_eq!(a.ask_tcp(&to).unwrap().0, "b", "all was made again");
    for backend in [Backend::HostGw, Backend::Vxlan] {
        for node in &mut nodes {
            node.stop();
            node.backend = backend;
            node.start(&lan.cluster);
        }
        nodes.iter().for_each(|n| n.wait_for_ranges(&[1, 2]));
        assert_eq!(a.ask_tcp(&to).unwrap().0, "b", "by {backend}");
    }
    // A node that has no IPv6 address is reached over the overlay, and not through the network.
    lan.cluster.node("node2", "192.0.2.2", "10.42.2.0/24,fd42:0:0:2::/64");
    nodes[0].wait_for_ranges(&[1, 2]);
    lan.cluster.of("", "nodes").remove("", "node2");
    nodes[0].wait_for_ranges(&[1]);
    assert!(!there(&nodes[0]) && a.ask_tcp(&to).is_err(), "a node that is gone is not routed");
}
