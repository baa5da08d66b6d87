//! Pods, Services and DNS in the real kernel: namespaces for a node, its pods and the world outside.

mod dual;
pub mod lab;
mod objects;
mod overlay;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use orch::api::services::Protocol;
use orch::dns::{self, Dns, Upstreams};
use orch::proxy::{self, Applied, LocalService, Proxy};
use orch::util::tasks::Shutdown;
use serde_json::{Value, json};
use test_case::test_case;
use tokio::sync::watch;

use self::lab::{Lab, NODE, Ns, OUTSIDE, ip};
use self::objects::Cluster;

/// Nothing here takes longer, or the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy that runs in the node's namespace.
struct Running {
    applied: watch::Receiver<Applied>,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(node: &Ns, cluster: &Arc<Cluster>) -> Self {
        Self::start_with(node, cluster, Vec::new())
    }

    fn start_with(node: &Ns, cluster: &Arc<Cluster>, local_services: Vec<LocalService>) -> Self {
        Self::start_as("node", node, cluster, local_services)
    }

    fn start_as(name: &str, node: &Ns, cluster: &Arc<Cluster>, local_services: Vec<LocalService>) -> Self {
        let config = proxy::Config {
            table: "orch".into(),
            node_name: name.into(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            local_services,
        };
        Self::start_of(config, node, cluster)
    }

    /// One for both families.
    fn start_dual(name: &str, node: &Ns, cluster: &Arc<Cluster>) -> Self {
        let config = proxy::Config {
            table: "orch".into(),
            node_name: name.into(),
            cluster_cidr: "10.42.0.0/16,fd42::/56".parse().unwrap(),
            local_services: Vec::new(),
        };
        Self::start_of(config, node, cluster)
    }

    fn start_of(config: proxy::Config, node: &Ns, cluster: &Arc<Cluster>) -> Self {
        let proxy = Proxy::new(config, &**cluster);
        let (applied, shutdown) = (proxy.applied(), Shutdown::new());
        let (stop, ns) = (shutdown.clone(), node.ns.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            ns.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(proxy.run(stop)).unwrap();
            })
            .unwrap();
        });
        let running = Self { applied, shutdown, thread: Some(thread) };
        running.wait(|a| a.transactions > 0);
        running
    }

    fn wait(&self, done: impl Fn(&Applied) -> bool) {
        let mut applied = self.applied.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wait = async { tokio::time::timeout(PATIENCE, applied.wait_for(|a| done(a))).await.is_ok() };
        assert!(runtime.block_on(wait), "the rules never came: {:?}", self.applied.borrow());
    }

    /// Changes objects and waits for the rules to follow.
    fn after(&self, change: impl FnOnce()) {
        let before = self.applied.borrow().transactions;
        change();
        self.wait(|a| a.transactions > before);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
        let joined = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            joined.unwrap().unwrap();
        }
    }
}

fn names(from: &Ns, to: &str) -> BTreeSet<String> {
    (0..40).map(|_| from.ask_tcp(to).unwrap().0).collect()
}

#[test]
fn pods_reach_each_other_the_world_and_come_and_go() {
    let lab = Lab::new();
    let none = json!([]);
    let ((a, a_ip), (b, b_ip)) = (lab.pod("a"), lab.pod("b"));
    b.serve_tcp("b", 8080);
    lab.outside.serve_tcp("world", 8080);
    assert_eq!(a.ask_tcp(&format!("{b_ip}:8080")).unwrap(), ("b".into(), a_ip.parse().unwrap()));
    assert_eq!(
        a.ask_tcp(&format!("{OUTSIDE}:8080")).unwrap(),
        ("world".into(), NODE.parse().unwrap()),
        "the world sees the node"
    );
    assert_eq!(lab.node.ask_tcp(&format!("{b_ip}:8080")).unwrap().1.to_string(), "10.42.7.1");

    let again = lab.cni("ADD", &a, &none);
    assert_eq!(again.unwrap()["ips"][0]["address"], format!("{a_ip}/32"), "ADD after a crash keeps the address");
    assert_eq!(a.ask_tcp(&format!("{b_ip}:8080")).unwrap().0, "b");
    assert_eq!(lab.cni("CHECK", &a, &none).unwrap(), Value::Null);

    assert_eq!(lab.cni("DEL", &a, &none).unwrap(), Value::Null);
    assert_eq!(lab.cni("DEL", &a, &none).unwrap(), Value::Null, "gone twice is gone");
    assert!(lab.cni("CHECK", &a, &none).is_err());
    assert!(a.ask_tcp(&format!("{b_ip}:8080")).is_err());

    let freed = lab.node.block_on(|| orch::cni::collect_garbage(&lab.config, Duration::ZERO, |_| false)).unwrap();
    assert_eq!(freed, 1, "b leaked");
    assert!(lab.dir.path().join("cni/orch").join(&b_ip).metadata().is_err());
}

#[test]
fn pods_of_a_data_directory_that_is_gone_do_not_answer_in_others_names() {
    let lab = Lab::new();
    let (old, address) = lab.pod("old");
    old.serve_tcp("old", 8080);
    assert_eq!(lab.node.ask_tcp(&format!("{address}:8080")).unwrap().0, "old");
    ip(&["-n", &lab.node.name, "link", "add", "foreign0", "type", "veth", "peer", "name", "foreign1"]);
    ip(&["-n", &lab.node.name, "link", "set", "foreign0", "master", "orch0"]);
    std::fs::remove_dir_all(lab.dir.path().join("cni")).unwrap();
    lab.node.block_on(|| orch::cni::setup(&lab.config)).unwrap();
    ip(&["-n", &lab.node.name, "link", "show", "foreign0"]);
    let (new, same) = lab.pod("new");
    assert_eq!(same, address, "nobody knows that it was given out");
    new.serve_tcp("new", 8080);
    assert_eq!(names(&lab.node, &format!("{same}:8080")), BTreeSet::from(["new".to_owned()]));
}

#[test]
fn host_ports_lead_to_their_pod() {
    let lab = Lab::new();
    let ports = json!([{"hostPort": 8081, "containerPort": 8080, "protocol": "TCP"},
        {"hostPort": 8082, "containerPort": 8080, "protocol": "tcp", "hostIP": NODE},
        {"hostPort": 5353, "containerPort": 8053, "protocol": "UDP"}]);
    let (a, _) = lab.pod_with_ports("a", &ports);
    a.serve_tcp("a", 8080);
    a.serve_udp("a", 8053);
    let outside = OUTSIDE.parse().unwrap();
    for port in [8081, 8082] {
        let to = format!("{NODE}:{port}");
        assert_eq!(lab.outside.ask_tcp(&to).unwrap(), ("a".into(), outside), "from outside, address kept");
        assert_eq!(lab.node.ask_tcp(&to).unwrap().0, "a", "from the node");
        assert_eq!(a.ask_tcp(&to).unwrap().0, "a", "from the pod itself");
    }
    let socket = lab.outside.udp();
    assert_eq!(lab.outside.ask_udp(&socket, &format!("{NODE}:5353")).unwrap(), ("a".into(), outside));
    let second = Ns::new("b");
    assert!(lab.cni("ADD", &second, &ports).unwrap_err().to_string().contains("8081 is in use"));
    lab.cni("DEL", &a, &json!([])).unwrap();
    assert_eq!(lab.outside.ask_tcp(&format!("{NODE}:8081")).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// br_netfilter may be loaded, and then sees what crosses the bridge, or not.
fn set_bridge_filter(node: &Ns, value: &str) {
    let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if std::path::Path::new(path).exists() {
        node.run(|| std::fs::write(path, value).unwrap());
    }
}

#[test_case("0"; "without br_netfilter")]
#[test_case("1"; "with br_netfilter")]
fn services_lead_to_their_pods(bridge_filter: &str) {
    let lab = Lab::new();
    set_bridge_filter(&lab.node, bridge_filter);
    let ((a, a_ip), (b, b_ip), (client, client_ip)) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    for (pod, name) in [(&a, "a"), (&b, "b")] {
        pod.serve_tcp(name, 8080);
        pod.serve_udp(name, 8053);
    }
    let cluster = Arc::new(Cluster::default());
    let proxy = Running::start(&lab.node, &cluster);
    let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    let vip = "10.43.0.80:80";

    proxy.after(|| cluster.service("web", "10.43.0.80", json!({"ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "udp", "port": 53, "protocol": "UDP"}]})));
    for who in [&client, &lab.node] {
        let began = Instant::now();
        assert_eq!(who.ask_tcp(vip).unwrap_err().kind(), ErrorKind::ConnectionRefused, "nobody is there");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(lab.outside.ask_tcp(&format!("{NODE}:30080")).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    proxy.after(|| cluster.endpoints("web", &[&a_ip, &b_ip]));
    assert_eq!(names(&client, vip), both, "from a pod");
    assert_eq!(client.ask_tcp(vip).unwrap().1.to_string(), client_ip, "the pod's own address is seen");
    assert_eq!(names(&lab.node, vip), both, "from the node");
    assert_eq!(names(&lab.outside, &format!("{NODE}:30080")), both, "from outside by node port");
    assert_eq!(names(&client, &format!("{NODE}:30080")), both, "from a pod by node port");
    assert_eq!(names(&lab.node, &format!("{NODE}:30080")), both, "from the node by node port");
    assert_eq!(names(&a, vip), both, "a pod reaches the others and itself");

    proxy.after(|| cluster.endpoints("web", &[&a_ip]));
    assert_eq!(names(&a, vip), ["a".to_owned()].into(), "hairpin");
    let socket = client.udp();
    let udp = "10.43.0.80:53";
    assert_eq!(client.ask_udp(&socket, udp).unwrap().0, "a");
    proxy.after(|| cluster.endpoints("web", &[&b_ip]));
    // The flow is forgotten right after the rules have changed: the same socket soon finds the new pod.
    let end = Instant::now() + PATIENCE;
    while client.ask_udp(&socket, udp).unwrap().0 != "b" {
        assert!(Instant::now() < end, "the flow stays with a pod that is gone");
    }

    proxy.after(|| cluster.services().remove("test", "web"));
    assert!(client.ask_tcp(vip).is_err());
}

/// "[sig-network] Services should have session affinity work for service with type clusterIP"
#[test]
fn a_client_keeps_its_pod_while_it_lives() {
    let lab = Lab::new();
    let ((a, a_ip), (b, b_ip), (client, _)) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    a.serve_tcp("a", 8080);
    b.serve_tcp("b", 8080);
    let cluster = Arc::new(Cluster::default());
    cluster.service("web", "10.43.0.80", json!({"sessionAffinity": "ClientIP"}));
    cluster.endpoints("web", &[&a_ip, &b_ip]);
    let proxy = Running::start(&lab.node, &cluster);
    let vip = "10.43.0.80:80";
    let first = names(&client, vip);
    assert_eq!(first.len(), 1, "forty connections, one pod");
    let (other, other_ip) = if first.contains("a") { ("b", &b_ip) } else { ("a", &a_ip) };
    proxy.after(|| cluster.endpoints("web", &[other_ip]));
    assert_eq!(names(&client, vip), [other.to_owned()].into(), "its pod is gone");
    proxy.after(|| cluster.endpoints("web", &[&a_ip, &b_ip]));
    assert_eq!(names(&client, vip), [other.to_owned()].into(), "and now it keeps the other one");
}

#[test]
fn external_policy_local_keeps_the_clients_address() {
    let lab = Lab::new();
    let (a, a_ip) = lab.pod("a");
    a.serve_tcp("a", 8080);
    let cluster = Arc::new(Cluster::default());
    let ports = json!([{"name": "tcp", "port": 80, "nodePort": 30080}]);
    cluster.service("web", "10.43.0.80", json!({"externalTrafficPolicy": "Cluster", "ports": ports}));
    cluster.endpoints("web", &[&a_ip]);
    let proxy = Running::start(&lab.node, &cluster);
    let to = format!("{NODE}:30080");
    assert_eq!(lab.outside.ask_tcp(&to).unwrap().1.to_string(), "10.42.7.1", "policy Cluster masquerades");
    proxy.after(|| cluster.service("web", "10.43.0.80", json!({"externalTrafficPolicy": "Local", "ports": ports})));
    assert_eq!(lab.outside.ask_tcp(&to).unwrap().1.to_string(), OUTSIDE);
    assert_eq!(lab.node.ask_tcp(&to).unwrap().0, "a");
}

#[test]
fn a_flushed_ruleset_is_back_within_a_second() {
    let lab = Lab::new();
    let ((a, a_ip), (client, _)) = (lab.pod("a"), lab.pod("c"));
    a.serve_tcp("a", 8080);
    let cluster = Arc::new(Cluster::default());
    cluster.service("web", "10.43.0.80", json!({}));
    cluster.endpoints("web", &[&a_ip]);
    let proxy = Running::start(&lab.node, &cluster);
    for command in
        [&["flush", "ruleset"][..], &["flush", "chain", "ip", "orch", "svc-1"], &["delete", "table", "ip", "orch"]]
    {
        assert_eq!(client.ask_tcp("10.43.0.80:80").unwrap().0, "a");
        let before = proxy.applied.borrow().installations;
        let began = Instant::now();
        let out = lab.node.run(|| Command::new("nft").args(command).output().unwrap());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        proxy.wait(|a| a.installations > before);
        assert!(began.elapsed() < Duration::from_secs(1), "{command:?} took {:?}", began.elapsed());
        assert_eq!(client.ask_tcp("10.43.0.80:80").unwrap().0, "a");
    }
}

#[test]
fn flushed_host_ports_and_masquerading_come_back() {
    let lab = Lab::new();
    let (a, _) = lab.pod_with_ports("a", &json!([{"hostPort": 8081, "containerPort": 8080}]));
    a.serve_tcp("a", 8080);
    let (config, ns, shutdown) = (lab.config.clone(), lab.node.ns.try_clone().unwrap(), Shutdown::new());
    let stop = shutdown.clone();
    let keeper = std::thread::spawn(move || {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ns.run(|| runtime().block_on(orch::cni::run(config, stop)).unwrap()).unwrap();
    });
    let to = format!("{NODE}:8081");
    assert_eq!(lab.outside.ask_tcp(&to).unwrap().0, "a");
    let end = Instant::now() + PATIENCE;
    // The keeper may not watch yet when the first flush comes: flush until a table is back by itself.
    let mut restored = false;
    while !restored {
        assert!(Instant::now() < end, "the table never came back");
        lab.node.run(|| Command::new("nft").args(["flush", "ruleset"]).status().unwrap());
        let soon = Instant::now() + Duration::from_secs(1);
        while !restored && Instant::now() < soon {
            restored = lab.outside.ask_tcp(&to).is_ok_and(|(name, _)| name == "a");
        }
    }
    shutdown.trigger();
    keeper.join().unwrap();
}

#[test]
fn a_removed_bridge_comes_back_with_its_pods() {
    let lab = Lab::new();
    let ((a, _), (b, b_ip)) = (lab.pod("a"), lab.pod("b"));
    b.serve_tcp("b", 8080);
    let address = format!("{}/24", lab.config.net().gateway());
    let removals = [&["link", "del", &lab.config.bridge][..], &["addr", "del", &address, "dev", &lab.config.bridge]];
    bridge_comes_back(&lab, &removals, &a, &format!("{b_ip}:8080"));
}

/// Removes what `ip` is told to of the bridge, one after the other; each time `from` reaches pod `b` again.
fn bridge_comes_back(lab: &Lab, removals: &[&[&str]], from: &Ns, to: &str) {
    let (config, ns, shutdown) = (lab.config.clone(), lab.node.ns.try_clone().unwrap(), Shutdown::new());
    let stop = shutdown.clone();
    let keeper = std::thread::spawn(move || {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // As a node does: from the beginning when something went away in its hands.
        let keep = async {
            while orch::cni::setup(&config).await.is_err()
                || orch::cni::run(config.clone(), stop.clone()).await.is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        ns.run(|| runtime().block_on(keep)).unwrap();
    });
    for removal in removals {
        assert_eq!(from.ask_tcp(to).unwrap().0, "b");
        // Once, whatever the keeper is at: also before it watches.
        ip(&[&["-n", &lab.node.name][..], removal].concat());
        let end = Instant::now() + PATIENCE;
        while !from.ask_tcp(to).is_ok_and(|(name, _)| name == "b") {
            assert!(Instant::now() < end, "it never came back: {removal:?}");
        }
    }
    shutdown.trigger();
    keeper.join().unwrap();
}

#[test]
fn the_node_needs_no_default_route_for_services() {
    let lab = Lab::new();
    let (a, a_ip) = lab.pod("a");
    a.serve_tcp("a", 8080);
    lab::ip(&["-n", &lab.node.name, "route", "del", "default"]);
    let cluster = Arc::new(Cluster::default());
    cluster.service("web", "10.43.0.80", json!({}));
    cluster.endpoints("web", &[&a_ip]);
    let proxy = Running::start(&lab.node, &cluster);
    assert_eq!(lab.node.ask_tcp("10.43.0.80:80").unwrap().0, "a");
    proxy.after(|| cluster.endpoints("web", &[]));
    assert_eq!(lab.node.ask_tcp("10.43.0.80:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn what_happens_while_nobody_listens_is_found_out_afterwards() {
    let lab = Lab::new();
    let (a, a_ip) = lab.pod("a");
    a.serve_tcp("a", 8080);
    let cluster = Arc::new(Cluster::default());
    cluster.service("web", "10.43.0.80", json!({}));
    cluster.endpoints("web", &[&a_ip]);
    let proxy = Running::start(&lab.node, &cluster);
    let before = proxy.applied.borrow().installations;
    // As during a large transaction.
    let deaf = orch::util::nft::deafen();
    lab.node.run(|| Command::new("nft").args(["flush", "ruleset"]).status().unwrap());
    drop(deaf);
    proxy.wait(|a| a.installations > before);
    assert_eq!(lab.node.ask_tcp("10.43.0.80:80").unwrap().0, "a");
    // And it listens again.
    let before = proxy.applied.borrow().installations;
    lab.node.run(|| Command::new("nft").args(["flush", "ruleset"]).status().unwrap());
    proxy.wait(|a| a.installations > before);
}

/// Prints the time from a change to rules in the kernel with 10,000 Services: `cargo test --test e2e -- --ignored bench_proxy --nocapture`.
#[test]
#[ignore = "a benchmark; scripts/bench/proxy runs it"]
fn bench_proxy() {
    const SERVICES: u32 = 10_000;
    let node = Ns::new("node");
    let cluster = Arc::new(Cluster::default());
    for i in 0..SERVICES {
        let name = format!("web-{i}");
        cluster.service(
            &name,
            &format!("10.43.{}.{}", i / 250, i % 250 + 1),
            json!({"ports": [{"name": "tcp", "port": 80}]}),
        );
        cluster.endpoints(
            &name,
            &[&format!("10.42.{}.{}", i / 250, i % 250 + 1), &format!("10.44.{}.{}", i / 250, i % 250 + 1)],
        );
    }
    let began = Instant::now();
    let proxy = Running::start(&node, &cluster);
    println!("{{\"bench\":\"proxy-install\",\"services\":{SERVICES},\"ms\":{}}}", began.elapsed().as_millis());
    let figure = |what: &str, addresses: fn(u32) -> Vec<String>| {
        let mut all: Vec<u128> = (0..50)
            .map(|i| {
                let addresses = addresses(i);
                let began = Instant::now();
                proxy.after(|| {
                    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
                    cluster.endpoints(&format!("web-{i}"), &addresses);
                });
                began.elapsed().as_micros()
            })
            .collect();
        all.sort_unstable();
        println!(
            "{{\"bench\":\"proxy-{what}\",\"services\":{SERVICES},\"p50_us\":{},\"max_us\":{}}}",
            all[25], all[49]
        );
    };
    figure("pod-replaced", |i| vec![format!("10.45.0.{}", i + 1), format!("10.45.1.{}", i + 1)]);
    figure("pod-gone", |i| vec![format!("10.45.0.{}", i + 1)]);
    let before = proxy.applied.borrow().installations;
    let began = Instant::now();
    node.run(|| Command::new("nft").args(["flush", "ruleset"]).status().unwrap());
    let flushed = began.elapsed();
    proxy.wait(|a| a.installations > before);
    let restored = began.elapsed() - flushed;
    println!("{{\"bench\":\"nft-flush\",\"services\":{SERVICES},\"ms\":{}}}", flushed.as_millis());
    println!("{{\"bench\":\"proxy-restore\",\"services\":{SERVICES},\"ms\":{}}}", restored.as_millis());
}

/// A DNS server that runs in the node's namespace, and where it listens.
fn start_dns(node: &Ns, cluster: &Arc<Cluster>, upstream: SocketAddr, shutdown: &Shutdown) -> SocketAddr {
    let config = dns::Config {
        listen: vec!["10.42.7.1:0".parse().unwrap()],
        domain: "cluster.local".into(),
        networks: vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()],
        upstreams: Upstreams::Fixed(vec![upstream]),
    };
    let server = Dns::new(config, &**cluster).unwrap();
    let (stop, ns) = (shutdown.clone(), node.ns.try_clone().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let bound = server.bind().await.unwrap();
                tell.send(bound.addresses()[0]).unwrap();
                bound.run(stop).await.unwrap();
            });
        })
    });
    told.recv_timeout(PATIENCE).unwrap()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn over_udp(from: &Ns, to: &str, name: &str, kind: RecordType) -> Message {
    let socket = from.udp();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&question(name, kind), to).unwrap();
    let mut buffer = [0; 4096];
    let n = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..n]).unwrap()
}

fn over_tcp(from: &Ns, to: &str, name: &str, kind: RecordType) -> Message {
    let mut stream = from.run(|| TcpStream::connect(to).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = question(name, kind);
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes[..]].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|a| a.data.to_string()).collect()
}

/// A resolver of the world: every name has the same address.
fn serve_world(outside: &Ns) -> SocketAddr {
    let socket = outside.run(|| UdpSocket::bind((OUTSIDE, 0)).unwrap());
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let mut message = Message::from_vec(&buffer[..n]).unwrap().into_response();
            let name = message.queries[0].name.clone();
            message.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(198, 51, 100, 7)))));
            let _ = socket.send_to(&message.to_vec().unwrap(), from);
        }
    });
    address
}

#[test]
fn names_are_answered_at_the_cluster_dns_address() {
    let lab = Lab::new();
    let (client, _) = lab.pod("c");
    let cluster = Arc::new(Cluster::default());
    cluster.of("", "namespaces").put(&json!({"metadata": {"name": "test"}}));
    cluster.service("web", "10.43.0.80", json!({}));
    cluster.service("out", "", json!({"type": "ExternalName", "externalName": "example.com"}));
    cluster.service("many", "None", json!({}));
    let many: Vec<String> = (1..=100).map(|i| format!("10.42.9.{i}")).collect();
    cluster.endpoints("many", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let shutdown = Shutdown::new();
    let at = start_dns(&lab.node, &cluster, serve_world(&lab.outside), &shutdown);
    let own = |protocol| LocalService {
        name: "dns".into(),
        address: "10.43.0.10".parse().unwrap(),
        protocol,
        port: 53,
        target: at,
    };
    let _proxy = Running::start_with(&lab.node, &cluster, vec![own(Protocol::Udp), own(Protocol::Tcp)]);

    let to = "10.43.0.10:53";
    let web = "web.test.svc.cluster.local.";
    for who in [&client, &lab.node] {
        assert_eq!(data(&over_udp(who, to, web, RecordType::A)), ["10.43.0.80"]);
        assert_eq!(data(&over_tcp(who, to, web, RecordType::A)), ["10.43.0.80"]);
    }
    let none = over_udp(&client, to, "none.test.svc.cluster.local.", RecordType::A);
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(data(&over_udp(&client, to, "example.org.", RecordType::A)), ["198.51.100.7"], "the world");
    assert_eq!(
        data(&over_udp(&client, to, "out.test.svc.cluster.local.", RecordType::A)),
        ["example.com.", "198.51.100.7"],
        "an external name and where it leads"
    );
    let cut = over_udp(&client, to, "many.test.svc.cluster.local.", RecordType::A);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(over_tcp(&client, to, "many.test.svc.cluster.local.", RecordType::A).answers.len(), 100);
    shutdown.trigger();
}
