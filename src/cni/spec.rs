//! The words of the Container Network Interface: request, configuration, result, error.
//!
//! Rules: CNI specification 0.4.0 and 1.0.0 (STATUS is of 1.1.0).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::services::Protocol;
use crate::util::families::{Family, Networks};

/// Versions that are spoken, oldest first.
pub const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of a configuration that names none that is known.
const FALLBACK_VERSION: &str = "1.0.0";

/// Error codes of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not spoken.
    IncompatibleVersion = 1,
    /// The container is not known.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The input is not what it should be.
    Decode = 6,
    /// The configuration makes no sense.
    Config = 7,
    /// It may work later.
    TryAgain = 11,
    /// A system call failed; from 100 on codes are the plugin's own.
    Network = 100,
    /// No address is left.
    NoAddress = 101,
    /// The host's port is another pod's.
    PortTaken = 102,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Kind.
    pub code: Code,
    /// What was attempted on what, and why it failed.
    pub message: String,
}

impl Error {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A failed system call.
    pub fn network(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::new(Code::Network, format!("cannot {what}: {why}"))
    }

    /// A failed file operation.
    pub fn io(what: impl std::fmt::Display, why: &std::io::Error) -> Self {
        Self::new(Code::Io, format!("cannot {what}: {why}"))
    }

    /// As the runtime wants to read it.
    pub fn to_json(&self) -> Value {
        json!({"cniVersion": FALLBACK_VERSION, "code": self.code as u32, "msg": self.message})
    }
}

/// Result of a CNI step.
pub type Result<T> = std::result::Result<T, Error>;

/// A port of the host that leads to the pod. containerd writes the fields with capitals: programs in Go take either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the host; 0 for none.
    #[serde(default, alias = "HostPort")]
    pub host_port: u16,
    /// In the pod.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp` in any case.
    #[serde(default = "tcp", alias = "Protocol")]
    pub protocol: String,
    /// Address of the host; empty for all, 0.0.0.0 or :: for all of the family.
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".into()
}

impl PortMapping {
    /// The protocol; none for an unknown one.
    pub fn protocol(&self) -> Option<Protocol> {
        Protocol::parse(&self.protocol)
    }

    /// What it is for among the host's addresses of a family; none for nothing. Where there is no IPv6, an address of it
    /// stands for all.
    pub fn on(&self, family: Family, has_ipv6: bool) -> Option<HostAddress> {
        match self.host_ip.parse::<IpAddr>() {
            Ok(address) if !family.has(&address) => (!has_ipv6).then_some(HostAddress::Any),
            Ok(address) if !address.is_unspecified() => Some(HostAddress::One(address)),
            _ => Some(HostAddress::Any),
        }
    }
}

/// Addresses of the host that a port is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// All of a family.
    Any,
    /// One.
    One(IpAddr),
}

/// The plugin's configuration, as `orch server` writes it and the runtime passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConfig {
    /// Version of the specification.
    #[serde(default)]
    pub cni_version: String,
    /// Name of the network; reservations are kept below it.
    pub name: String,
    /// File name of the plugin.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Name of the bridge.
    pub bridge: String,
    /// Addresses of this node's pods, as `10.42.0.0/24` or `10.42.0.0/24,fd42::/64`; the first one is the gateway.
    pub subnet: Networks,
    /// Addresses of all pods, of the same families: traffic to them is not masqueraded.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Networks,
    /// MTU of pods; 0 for the kernel's default.
    #[serde(default)]
    pub mtu: u32,
    /// Name of the nftables table.
    pub table: String,
    /// Directory for reservations.
    pub data_dir: PathBuf,
    /// What the runtime is asked to pass in `runtimeConfig`.
    #[serde(default)]
    pub capabilities: BTreeMap<String, bool>,
    /// What it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_config: Option<RuntimeConfig>,
}

/// What the runtime adds for one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
}

impl NetConfig {
    /// Reads and checks it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::new(Code::Decode, format!("cannot read the network configuration: {e}")))?;
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            let message = format!("CNI version {:?} is not spoken; {} are", config.cni_version, VERSIONS.join(", "));
            return Err(Error::new(Code::IncompatibleVersion, message));
        }
        let bits = 32 - config.subnet.v4.prefix_len();
        if bits < 2 || config.subnet.v6.is_some_and(|six| 128 - six.prefix_len() < bits) {
            return Err(Error::new(Code::Config, format!("subnet {} has no room for pods", config.subnet)));
        }
        if config.subnet.v6.is_some() != config.cluster_cidr.v6.is_some() {
            let message =
                format!("subnet {} and clusterCIDR {} differ in families", config.subnet, config.cluster_cidr);
            return Err(Error::new(Code::Config, message));
        }
        for mapping in config.port_mappings() {
            if mapping.protocol().is_none() {
                return Err(Error::new(
                    Code::Config,
                    format!("protocol {:?} of a port mapping is unknown", mapping.protocol),
                ));
            }
        }
        Ok(config)
    }

    /// The same for DEL, which needs nothing of what the runtime adds: a pod whose ports make no sense can be removed.
    pub fn parse_for_removal(bytes: &[u8]) -> Result<Self> {
        let mut config: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::new(Code::Decode, format!("cannot read the network configuration: {e}")))?;
        if let Some(fields) = config.as_object_mut() {
            fields.remove("runtimeConfig");
        }
        Self::parse(config.to_string().as_bytes())
    }

    /// The bridge's address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.v4.network()) + 1)
    }

    /// The bridge's IPv6 address.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(self.gateway())
    }

    /// The IPv6 address that goes with an IPv4 one: the same number in the other subnet. So there is one pool of addresses.
    pub fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let number = u32::from(address).wrapping_sub(u32::from(self.subnet.v4.network()));
        self.subnet.v6.map(|six| Ipv6Addr::from(u128::from(six.network()) | u128::from(number)))
    }

    /// A pod's address of a family, by its IPv4 one.
    pub fn address_of(&self, family: Family, address: Ipv4Addr) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(address.into()),
            Family::V6 => self.address6(address).map(IpAddr::V6),
        }
    }

    /// Host ports of the container at hand.
    pub fn port_mappings(&self) -> &[PortMapping] {
        self.runtime_config.as_ref().map_or(&[], |r| &r.port_mappings)
    }
}

/// What the runtime asks for, from its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `ADD`, `DEL`, …
    pub command: String,
    /// The container.
    pub container: String,
    /// Path of its network namespace; may be empty for DEL.
    pub netns: String,
    /// Name of the interface inside.
    pub interface: String,
}

impl Request {
    /// From variables; `get` reads one.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str| get(name).unwrap_or_default();
        let request = Self {
            command: text("CNI_COMMAND"),
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            interface: text("CNI_IFNAME"),
        };
        let needed: &[(&str, &str)] = match request.command.as_str() {
            "ADD" | "CHECK" => &[
                ("CNI_CONTAINERID", &request.container),
                ("CNI_NETNS", &request.netns),
                ("CNI_IFNAME", &request.interface),
            ],
            "DEL" => &[("CNI_CONTAINERID", &request.container), ("CNI_IFNAME", &request.interface)],
            "VERSION" | "STATUS" | "GC" => &[],
            other => return Err(Error::new(Code::Environment, format!("CNI_COMMAND {other:?} is unknown"))),
        };
        if let Some((name, _)) = needed.iter().find(|(_, value)| value.is_empty()) {
            return Err(Error::new(Code::Environment, format!("{name} is not set")));
        }
        // Both end up in file and interface names.
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain(&request.container) || !plain(&request.interface) || request.interface.len() > 15 {
            return Err(Error::new(
                Code::Environment,
                "CNI_CONTAINERID or CNI_IFNAME has characters that are not allowed",
            ));
        }
        Ok(request)
    }
}

/// What ADD gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Host end.
    pub host_interface: String,
    /// Its MAC address.
    pub mac: String,
    /// The pod's address.
    pub address: Ipv4Addr,
}

impl Attached {
    /// In the form of the configuration's version.
    pub fn to_json(&self, config: &NetConfig, request: &Request) -> Value {
        let mut ips =
            vec![json!({"address": format!("{}/32", self.address), "gateway": config.gateway(), "interface": 2})];
        let mut routes = vec![json!({"dst": "0.0.0.0/0", "gw": config.gateway()})];
        if let (Some(address), Some(gateway)) = (config.address6(self.address), config.gateway6()) {
            ips.push(json!({"address": format!("{address}/128"), "gateway": gateway, "interface": 2}));
            routes.push(json!({"dst": "::/0", "gw": gateway}));
        }
        if !matches!(config.cni_version.as_str(), "1.0.0" | "1.1.0") {
            for (ip, version) in ips.iter_mut().zip(["4", "6"]) {
                ip["version"] = json!(version);
            }
        }
        json!({
            "cniVersion": config.cni_version,
            "interfaces": [
                {"name": config.bridge},
                {"name": self.host_interface},
                {"name": request.interface, "mac": self.mac, "sandbox": request.netns},
            ],
            "ips": ips,
            "routes": routes,
            "dns": {},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn request(command: &str, container: &str, interface: &str) -> Result<Request> {
        Request::from_env(|name| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => container,
                "CNI_NETNS" => "/var/run/netns/a",
                _ => interface,
            };
            Some(value.to_owned())
        })
    }

    #[test_case("ADD", "a1", "eth0", true; "all there")]
    #[test_case("ADD", "", "eth0", false; "no container")]
    #[test_case("ADD", "../a", "eth0", false; "a path for a container")]
    #[test_case("ADD", "a1", "eth0123456789012", false; "a long interface name")]
    #[test_case("VERSION", "", "", true; "version needs nothing")]
    #[test_case("JUMP", "a1", "eth0", false; "an unknown command")]
    fn checks_the_environment(command: &str, container: &str, interface: &str, good: bool) {
        assert_eq!(request(command, container, interface).is_ok(), good);
    }

    #[test_case(json!({"hostPort": 80, "containerPort": 8080, "protocol": "UDP", "hostIP": "192.0.2.1"}); "as the convention writes it")]
    #[test_case(json!({"HostPort": 80, "ContainerPort": 8080, "Protocol": "udp", "HostIP": "192.0.2.1"}); "as containerd writes it")]
    fn reads_port_mappings(mapping: Value) {
        let config = json!({"cniVersion": "1.0.0", "name": "orch", "type": "orch-cni", "bridge": "orch0",
            "subnet": "10.42.0.0/24", "clusterCIDR": "10.42.0.0/16", "table": "orch-cni", "dataDir": "/nowhere",
            "runtimeConfig": {"portMappings": [mapping]}});
        let config = NetConfig::parse(config.to_string().as_bytes()).unwrap();
        let got = &config.port_mappings()[0];
        assert_eq!((got.host_port, got.container_port, got.protocol()), (80, 8080, Protocol::parse("UDP")));
        assert_eq!(got.on(Family::V4, false), Some(HostAddress::One([192, 0, 2, 1].into())));
    }

    #[test_case("", [Some(None), Some(None)]; "all")]
    #[test_case("0.0.0.0", [Some(None), None]; "all of IPv4")]
    #[test_case("::", [None, Some(None)]; "all of IPv6")]
    #[test_case("192.0.2.1", [Some(Some("192.0.2.1")), None]; "one of IPv4")]
    #[test_case("2001:db8::1", [None, Some(Some("2001:db8::1"))]; "one of IPv6")]
    fn a_host_port_is_at_addresses_of_its_family(host_ip: &str, want: [Option<Option<&str>>; 2]) {
        let mapping =
            PortMapping { host_port: 80, container_port: 80, protocol: "TCP".into(), host_ip: host_ip.into() };
        let at = |a: Option<&str>| a.map_or(HostAddress::Any, |a| HostAddress::One(a.parse().unwrap()));
        assert_eq!([Family::V4, Family::V6].map(|f| mapping.on(f, true)), want.map(|w| w.map(at)));
        assert!(mapping.on(Family::V4, false).is_some(), "where there is no IPv6, nothing is left out");
    }

    fn dual(version: &str) -> NetConfig {
        let config = json!({"cniVersion": version, "name": "orch", "type": "orch-cni", "bridge": "orch0",
            "subnet": "10.42.3.0/24,fd42:0:0:3::/64", "clusterCIDR": "10.42.0.0/16,fd42::/56", "table": "orch-cni",
            "dataDir": "/nowhere"});
        NetConfig::parse(config.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_ipv6_address_has_the_number_of_the_ipv4_one() {
        let config = dual("1.0.0");
        assert_eq!(config.gateway6(), Some("fd42:0:0:3::1".parse().unwrap()));
        assert_eq!(config.address6([10, 42, 3, 254].into()), Some("fd42:0:0:3::fe".parse().unwrap()));
        let written = serde_json::to_vec(&config).unwrap();
        assert_eq!(NetConfig::parse(&written).unwrap(), config);
    }

    #[test_case("1.0.0", None; "of now")]
    #[test_case("0.4.0", Some("6"); "of then")]
    fn results_list_both_addresses(version: &str, marked: Option<&str>) {
        let attached = Attached { host_interface: "veth1".into(), mac: "0a".into(), address: [10, 42, 3, 5].into() };
        let result = attached.to_json(&dual(version), &request("ADD", "a1", "eth0").unwrap());
        assert_eq!(
            (&result["ips"][0]["address"], &result["ips"][1]["address"]),
            (&json!("10.42.3.5/32"), &json!("fd42:0:0:3::5/128"))
        );
        assert_eq!(result["ips"][1]["version"].as_str(), marked);
        assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fd42:0:0:3::1"}));
    }

    #[test]
    fn removal_does_not_look_at_ports() {
        let config = json!({"cniVersion": "1.0.0", "name": "orch", "type": "orch-cni", "bridge": "orch0",
            "subnet": "10.42.0.0/24", "clusterCIDR": "10.42.0.0/16", "table": "orch-cni", "dataDir": "/nowhere",
            "runtimeConfig": {"portMappings": [{"strange": true}]}});
        let bytes = config.to_string();
        assert!(NetConfig::parse(bytes.as_bytes()).is_err());
        assert_eq!(NetConfig::parse_for_removal(bytes.as_bytes()).unwrap().port_mappings(), []);
    }

    #[test_case("2.0.0", "10.42.0.0/24", Some(Code::IncompatibleVersion); "a future version")]
    #[test_case("1.0.0", "10.42.0.0/31", Some(Code::Config); "no room")]
    #[test_case("1.0.0", "10.42.0.0/24,fd42::/121", Some(Code::Config); "no room in one of them")]
    #[test_case("1.0.0", "10.42.0.0/24,fd42::/64", Some(Code::Config); "a family that the cluster does not have")]
    #[test_case("0.4.0", "10.42.0.0/24", None; "good")]
    fn checks_the_configuration(version: &str, subnet: &str, code: Option<Code>) {
        let config = json!({"cniVersion": version, "name": "orch", "type": "orch-cni", "bridge": "orch0", "subnet": subnet,
            "clusterCIDR": "10.42.0.0/16", "table": "orch-cni", "dataDir": "/nowhere"});
        assert_eq!(NetConfig::parse(config.to_string().as_bytes()).err().map(|e| e.code), code);
    }
}
