//! A node and its pods as network namespaces, made anew for each test and gone after it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nlink::netlink::namespace::Netns;
use orch::cni::spec::Request;
use orch::cni::{self, CniConfig};
use orch::util::families::Networks;
use serde_json::Value;

/// The node's address towards the world.
pub const NODE: &str = "192.0.2.1";
/// A machine of that world.
pub const OUTSIDE: &str = "192.0.2.9";
/// The node's IPv6 address, where it has one.
pub const NODE6: &str = "2001:db8::1";
/// That machine's.
pub const OUTSIDE6: &str = "2001:db8::9";
/// A connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace; removed when dropped.
pub struct Ns {
    pub name: String,
    pub ns: Netns,
}

impl Ns {
    pub fn new(what: &str) -> Self {
        let name = format!("orch-e2e-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        ip(&["netns", "add", &name]);
        let ns = Netns::open(&name).unwrap();
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self { ns, name }
    }

    pub fn path(&self) -> String {
        format!("/var/run/netns/{}", self.name)
    }

    /// Runs `f` on a thread inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.ns.run(f).unwrap()
    }

    /// Runs a future inside, on a runtime of its own.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce() -> F + Send) -> T {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f()))
    }

    /// A TCP server that says its name and who it sees.
    pub fn serve_tcp(&self, says: &str, port: u16) {
        let listener = self.run(|| TcpListener::bind(&anywhere(port)[..]).unwrap());
        let says = says.to_owned();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = write!(stream, "{says} {}", peer.ip().to_canonical());
            }
        });
    }

    /// The same over UDP, one answer a datagram.
    pub fn serve_udp(&self, says: &str, port: u16) {
        let socket = self.run(|| UdpSocket::bind(&anywhere(port)[..]).unwrap());
        let says = says.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{says} {}", peer.ip().to_canonical()).as_bytes(), peer);
            }
        });
    }

    /// What a TCP server says: its name and the address it saw.
    pub fn ask_tcp(&self, to: &str) -> std::io::Result<(String, IpAddr)> {
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = self.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(split(&text))
    }

    /// What a UDP server says to a datagram of `socket`.
    pub fn ask_udp(&self, socket: &UdpSocket, to: &str) -> std::io::Result<(String, IpAddr)> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", to)?;
        let mut buffer = [0; 64];
        let (n, _) = socket.recv_from(&mut buffer)?;
        Ok(split(std::str::from_utf8(&buffer[..n]).unwrap()))
    }

    pub fn udp(&self) -> UdpSocket {
        self.run(|| UdpSocket::bind("0.0.0.0:0").unwrap())
    }

    /// The same for IPv6.
    pub fn udp6(&self) -> UdpSocket {
        self.run(|| UdpSocket::bind("[::]:0").unwrap())
    }
}

/// All addresses of both families; those of IPv4 where the kernel has no other.
pub fn anywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

fn split(text: &str) -> (String, IpAddr) {
    let (name, peer) = text.split_once(' ').unwrap();
    (name.to_owned(), peer.parse().unwrap())
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}

/// A node with a way to the world, and orch's CNI plugin.
pub struct Lab {
    pub outside: Ns,
    pub node: Ns,
    pub config: CniConfig,
    pub dir: tempfile::TempDir,
}

impl Lab {
    /// With IPv4 only.
    pub fn new() -> Self {
        Self::of("10.42.7.0/24", "10.42.0.0/16", "10.43.0.0/16")
    }

    /// With IPv4 and IPv6.
    pub fn dual() -> Self {
        Self::of("10.42.7.0/24,fd42:0:0:7::/64", "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112")
    }

    fn of(subnet: &str, cluster_cidr: &str, service_cidr: &str) -> Self {
        let (node, outside) = (Ns::new("node"), Ns::new("out"));
        let (n, o) = (node.name.as_str(), outside.name.as_str());
        ip(&["-n", n, "link", "add", "name", "up0", "type", "veth", "peer", "name", "down0", "netns", o]);
        ip(&["-n", n, "addr", "add", &format!("{NODE}/24"), "dev", "up0"]);
        ip(&["-n", o, "addr", "add", &format!("{OUTSIDE}/24"), "dev", "down0"]);
        ip(&["-n", n, "link", "set", "up0", "up"]);
        ip(&["-n", o, "link", "set", "down0", "up"]);
        ip(&["-n", n, "route", "add", "default", "via", OUTSIDE]);
        let subnet: Networks = subnet.parse().unwrap();
        if subnet.v6.is_some() {
            ip(&["-n", n, "addr", "add", &format!("{NODE6}/64"), "dev", "up0", "nodad"]);
            ip(&["-n", o, "addr", "add", &format!("{OUTSIDE6}/64"), "dev", "down0", "nodad"]);
            ip(&["-n", n, "-6", "route", "add", "default", "via", OUTSIDE6]);
        }
        let dir = tempfile::tempdir().unwrap();
        let config = CniConfig {
            bridge: "orch0".into(),
            subnet,
            cluster_cidr: cluster_cidr.parse().unwrap(),
            service_cidr: Some(service_cidr.parse().unwrap()),
            mtu: 1400,
            table: "orch-cni".into(),
            data_dir: dir.path().join("cni"),
            bin_dir: dir.path().join("bin"),
        };
        node.block_on(|| cni::setup(&config)).unwrap();
        Self { outside, node, config, dir }
    }

    /// Runs the plugin as the runtime would.
    pub fn cni(&self, command: &str, pod: &Ns, ports: &Value) -> Result<Value, cni::spec::Error> {
        plugin(&self.node, &self.config, command, pod, ports)
    }

    /// A pod and its address.
    pub fn pod(&self, name: &str) -> (Ns, String) {
        self.pod_with_ports(name, &serde_json::json!([]))
    }

    /// A pod and both of its addresses.
    pub fn dual_pod(&self, name: &str) -> (Ns, String, String) {
        let (pod, address) = self.pod(name);
        let six = ipv6_of(&self.config, &address);
        (pod, address, six)
    }

    pub fn pod_with_ports(&self, name: &str, ports: &Value) -> (Ns, String) {
        add_pod(&self.node, &self.config, name, ports)
    }
}

/// Runs the plugin on a node as the runtime would.
pub fn plugin(
    node: &Ns,
    config: &CniConfig,
    command: &str,
    pod: &Ns,
    ports: &Value,
) -> Result<Value, cni::spec::Error> {
    let request =
        Request { command: command.into(), container: pod.name.clone(), netns: pod.path(), interface: "eth0".into() };
    let mut input = serde_json::to_value(config.net()).unwrap();
    input["runtimeConfig"] = serde_json::json!({"portMappings": ports});
    node.block_on(|| async { cni::execute(&request, input.to_string().as_bytes()).await })
}

/// A pod on a node, and its address.
pub fn add_pod(node: &Ns, config: &CniConfig, name: &str, ports: &Value) -> (Ns, String) {
    let pod = Ns::new(name);
    let result = plugin(node, config, "ADD", &pod, ports).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    (pod, address)
}

/// The IPv6 address of the pod with this IPv4 one.
pub fn ipv6_of(config: &CniConfig, address: &str) -> String {
    config.net().address6(address.parse().unwrap()).unwrap().to_string()
}
