//! Both families on one node in the real kernel: pods' addresses, Services, host ports.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Lab, NODE, NODE6, OUTSIDE6, ip};
use super::objects::Cluster;
use super::{PATIENCE, Running, bridge_comes_back, names};

const VIP4: &str = "10.43.0.80:80";
const VIP6: &str = "[fd43::80]:80";

/// A Service with an address of each family.
fn dual(cluster: &Cluster, more: Value) {
    let mut spec = json!({"clusterIPs": ["10.43.0.80", "fd43::80"]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    cluster.service("web", "10.43.0.80", spec);
}

#[test]
fn pods_have_both_addresses_and_reach_each_other_and_the_world() {
    let lab = Lab::dual();
    let ((a, a4, a6), (b, b4, b6)) = (lab.dual_pod("a"), lab.dual_pod("b"));
    b.serve_tcp("b", 8080);
    lab.outside.serve_tcp("world", 8080);
    // At once: nobody waits for the kernel to look for others with the same address.
    let began = Instant::now();
    assert_eq!(a.ask_tcp(&format!("[{b6}]:8080")).unwrap(), ("b".into(), a6.parse().unwrap()));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(a.ask_tcp(&format!("{b4}:8080")).unwrap(), ("b".into(), a4.parse().unwrap()));
    let seen = a.ask_tcp(&format!("[{OUTSIDE6}]:8080")).unwrap();
    assert_eq!(seen, ("world".into(), NODE6.parse().unwrap()), "the world sees the node");
    assert_eq!(lab.node.ask_tcp(&format!("[{b6}]:8080")).unwrap().1.to_string(), "fd42:0:0:7::1");

    let none = json!([]);
    let again = lab.cni("ADD", &a, &none).unwrap();
    assert_eq!(again["ips"][1]["address"], format!("{a6}/128"), "ADD after a crash keeps the address");
    assert_eq!(lab.cni("CHECK", &a, &none).unwrap(), Value::Null);
    ip(&["-n", &a.name, "addr", "del", &format!("{a6}/128"), "dev", "eth0"]);
    assert!(lab.cni("CHECK", &a, &none).is_err(), "one of its addresses is gone");
    assert_eq!(lab.cni("DEL", &a, &none).unwrap(), Value::Null);
    assert!(a.ask_tcp(&format!("[{b6}]:8080")).is_err());
}

#[test]
fn a_cluster_without_ipv6_has_nothing_of_it() {
    let lab = Lab::new();
    let (a, _) = lab.pod("a");
    let shown = |ns: &str, what: &[&str]| {
        let out = Command::new("ip").args(["-n", ns, "-6"]).args(what).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(!shown(&a.name, &["addr", "show", "dev", "eth0", "scope", "global"]).contains("inet6"));
    assert!(!shown(&a.name, &["route"]).contains("default"));
    let forwarding = "/proc/sys/net/ipv6/conf/all/forwarding";
    assert_eq!(lab.node.run(|| std::fs::read_to_string(forwarding)).unwrap().trim(), "0");
    let (tables, conn) = (orch::util::nft::table_use, orch::util::nft::connect);
    let of_ipv6 = lab.node.block_on(|| async move {
        tables(&conn().unwrap(), "orch-cni", orch::util::families::Family::V6).await.unwrap()
    });
    assert_eq!(of_ipv6, None);
}

#[test]
fn services_lead_to_their_pods_over_both_families() {
    let lab = Lab::dual();
    let ((a, a4, a6), (b, b4, b6), (client, _, client6)) = (lab.dual_pod("a"), lab.dual_pod("b"), lab.dual_pod("c"));
    for (pod, name) in [(&a, "a"), (&b, "b")] {
        pod.serve_tcp(name, 8080);
        pod.serve_udp(name, 8053);
    }
    let cluster = Arc::new(Cluster::default());
    let proxy = Running::start_dual("node", &lab.node, &cluster);
    let ports = json!({"externalIPs": ["2001:db8::50"], "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "udp", "port": 53, "protocol": "UDP"}]});
    proxy.after(|| dual(&cluster, ports));
    let by_node_port = format!("[{NODE6}]:30080");
    for who in [&client, &lab.node] {
        let began = Instant::now();
        assert_eq!(who.ask_tcp(VIP6).unwrap_err().kind(), ErrorKind::ConnectionRefused, "nobody is there");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(lab.outside.ask_tcp(&by_node_port).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    proxy.after(|| cluster.endpoints("web", &[&a4]));
    assert_eq!(names(&client, VIP4), ["a".to_owned()].into(), "IPv4 has one");
    assert_eq!(client.ask_tcp(VIP6).unwrap_err().kind(), ErrorKind::ConnectionRefused, "and IPv6 none");
    proxy.after(|| cluster.endpoints6("web", &[&a6, &b6]));
    let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    assert_eq!(names(&client, VIP4), ["a".to_owned()].into());
    assert_eq!(names(&client, VIP6), both, "from a pod");
    assert_eq!(client.ask_tcp(VIP6).unwrap().1.to_string(), client6, "the pod's own address is seen");
    assert_eq!(names(&lab.node, VIP6), both, "from the node");
    for who in [&lab.outside, &client, &lab.node] {
        assert_eq!(names(who, &by_node_port), both, "by node port");
    }
    ip(&["-n", &lab.outside.name, "-6", "route", "add", "2001:db8::50/128", "via", NODE6]);
    assert_eq!(names(&lab.outside, "[2001:db8::50]:80"), both, "by an external address");
    assert_eq!(names(&a, VIP6), both, "a pod reaches the others and itself");

    proxy.after(|| cluster.endpoints6("web", &[&a6]));
    assert_eq!(names(&a, VIP6), ["a".to_owned()].into(), "hairpin");
    let (socket, udp) = (client.udp6(), "[fd43::80]:53");
    assert_eq!(client.ask_udp(&socket, udp).unwrap().0, "a");
    proxy.after(|| cluster.endpoints6("web", &[&b6]));
    let end = Instant::now() + PATIENCE;
    while client.ask_udp(&socket, udp).unwrap().0 != "b" {
        assert!(Instant::now() < end, "the flow stays with a pod that is gone");
    }
    proxy.after(|| cluster.endpoints("web", &[&b4]));
    assert_eq!(names(&client, VIP4), ["b".to_owned()].into());
    proxy.after(|| cluster.services().remove("test", "web"));
    assert!(client.ask_tcp(VIP6).is_err() && client.ask_tcp(VIP4).is_err());
}

#[test]
fn the_rules_of_either_family_come_back() {
    let lab = Lab::dual();
    let ((a, a4, a6), (client, ..)) = (lab.dual_pod("a"), lab.dual_pod("c"));
    a.serve_tcp("a", 8080);
    let cluster = Arc::new(Cluster::default());
    dual(&cluster, json!({}));
    cluster.endpoints("web", &[&a4]);
    cluster.endpoints6("web", &[&a6]);
    let proxy = Running::start_dual("node", &lab.node, &cluster);
    for command in [&["delete", "table", "ip6", "orch"][..], &["delete", "table", "ip", "orch"], &["flush", "ruleset"]]
    {
        let before = proxy.applied.borrow().installations;
        let out = lab.node.run(|| Command::new("nft").args(command).output().unwrap());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        proxy.wait(|a| a.installations > before);
        for vip in [VIP4, VIP6] {
            assert_eq!(client.ask_tcp(vip).unwrap().0, "a", "after {command:?}");
        }
    }
}

#[test]
fn affinity_and_the_local_policy_hold_over_ipv6() {
    let lab = Lab::dual();
    let ((a, _, a6), (b, _, b6), (client, ..)) = (lab.dual_pod("a"), lab.dual_pod("b"), lab.dual_pod("c"));
    a.serve_tcp("a", 8080);
    b.serve_tcp("b", 8080);
    let cluster = Arc::new(Cluster::default());
    dual(&cluster, json!({"sessionAffinity": "ClientIP"}));
    cluster.endpoints6("web", &[&a6, &b6]);
    let proxy = Running::start_dual("node", &lab.node, &cluster);
    let first = names(&client, VIP6);
    assert_eq!(first.len(), 1, "forty connections, one pod");
    let (other, other6) = if first.contains("a") { ("b", &b6) } else { ("a", &a6) };
    proxy.after(|| cluster.endpoints6("web", &[other6]));
    assert_eq!(names(&client, VIP6), [other.to_owned()].into(), "its pod is gone");
    proxy.after(|| cluster.endpoints6("web", &[&a6, &b6]));
    assert_eq!(names(&client, VIP6), [other.to_owned()].into(), "and now it keeps the other one");

    let ports = json!([{"name": "tcp", "port": 80, "nodePort": 30080}]);
    proxy.after(|| dual(&cluster, json!({"ports": ports})));
    let to = format!("[{NODE6}]:30080");
    assert_eq!(lab.outside.ask_tcp(&to).unwrap().1.to_string(), "fd42:0:0:7::1", "policy Cluster masquerades");
    proxy.after(|| dual(&cluster, json!({"externalTrafficPolicy": "Local", "ports": ports})));
    assert_eq!(lab.outside.ask_tcp(&to).unwrap().1.to_string(), OUTSIDE6);
}

#[test]
fn host_ports_lead_to_their_pod_over_the_family_they_name() {
    let lab = Lab::dual();
    let ports = json!([{"hostPort": 8081, "containerPort": 8080, "protocol": "TCP"},
        {"hostPort": 8082, "containerPort": 8080, "protocol": "TCP", "hostIP": NODE6},
        {"hostPort": 8083, "containerPort": 8080, "protocol": "TCP", "hostIP": "0.0.0.0"}]);
    let (a, _) = lab.pod_with_ports("a", &ports);
    a.serve_tcp("a", 8080);
    let ask =
        |at: &str, port: u16| lab.outside.ask_tcp(&format!("{at}:{port}")).map(|(name, seen)| (name, seen.to_string()));
    let six = format!("[{NODE6}]");
    for port in [8081, 8082] {
        assert_eq!(ask(&six, port).unwrap(), ("a".into(), OUTSIDE6.into()), "from outside, address kept");
        assert_eq!(lab.node.ask_tcp(&format!("{six}:{port}")).unwrap().0, "a", "from the node");
        assert_eq!(a.ask_tcp(&format!("{six}:{port}")).unwrap().0, "a", "from the pod itself");
    }
    assert_eq!([8081, 8082, 8083].map(|p| ask(NODE, p).is_ok()), [true, false, true]);
    assert!(ask(&six, 8083).is_err());
    lab.cni("DEL", &a, &json!([])).unwrap();
    assert!(ask(&six, 8081).is_err());
}

#[test]
fn a_removed_ipv6_address_of_the_bridge_comes_back() {
    let lab = Lab::dual();
    let ((a, ..), (b, _, b6)) = (lab.dual_pod("a"), lab.dual_pod("b"));
    b.serve_tcp("b", 8080);
    let removals = [&["addr", "del", "fd42:0:0:7::1/64", "dev", "orch0"][..], &["link", "del", "orch0"]];
    bridge_comes_back(&lab, &removals, &a, &format!("[{b6}]:8080"));
}
