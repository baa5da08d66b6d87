//! Services and EndpointSlices as the network reads them: a few fields, decoded once per change.
//!
//! `proxy` makes rules of them and `dns` answers; neither writes objects through these types.
//! Rules: API reference v1 Service and discovery.k8s.io/v1 EndpointSlice.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use super::object::{Object, ObjectKey};
use crate::util::families::Family;

/// The label that names the Service an EndpointSlice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The label of an IPAddress that says who made it.
pub const IP_MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";

/// In that label: the address is a Service's, and follows it. Upstream's allocator.
pub const IP_ALLOCATOR: &str = "ipallocator.k8s.io";

/// Session affinity of `ClientIP` lasts this long where the Service does not say; seconds. Upstream's default.
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, also where nothing is said.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name in lower case, as DNS SRV names have it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// By its name in any case; none for an unknown one.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.lower().eq_ignore_ascii_case(name))
    }
}

/// Whether traffic may leave the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name; empty where the only port has none.
    #[serde(default)]
    pub name: String,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Port of the Service.
    pub port: u16,
    /// Port on every node; 0 for none.
    #[serde(default)]
    pub node_port: u16,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Namespace and name.
    pub key: Option<ObjectKey>,
    /// `spec.type` is `ExternalName`; the name it stands for.
    pub external_name: Option<String>,
    /// Cluster addresses; empty for headless and external ones.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that this node answers for (`ipMode` other than `Proxy`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty allows all.
    pub source_ranges: Vec<ipnet::IpNet>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Seconds that a client keeps its endpoint; none without affinity.
    pub affinity_seconds: Option<u32>,
    /// For the cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// For node ports, external and load balancer addresses.
    pub external_policy: TrafficPolicy,
    /// Names are answered for endpoints that are not ready, too.
    pub publish_not_ready: bool,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; all stand for the same pod.
    pub addresses: Vec<IpAddr>,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be on its way out.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Node it runs on; empty where unknown.
    pub node: String,
    /// Host name within the Service; empty for none.
    pub hostname: String,
    /// Zones whose clients should come here.
    pub for_zones: Vec<String>,
    /// Nodes whose clients should come here.
    pub for_nodes: Vec<String>,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EndpointPort {
    /// Name of the Service port.
    #[serde(default, deserialize_with = "null_default")]
    pub name: String,
    /// Protocol.
    #[serde(default, deserialize_with = "null_default")]
    pub protocol: Protocol,
    /// Port of the endpoints; none means all ports.
    #[serde(default)]
    pub port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slice {
    /// Namespace and name of the Service; none for a slice that belongs to none.
    pub service: Option<ObjectKey>,
    /// What its addresses are (`addressType`); none for names, and where it is not said.
    pub family: Option<Family>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Ports of all of them.
    pub ports: Vec<EndpointPort>,
}

impl Service {
    /// Decodes the object.
    pub fn decode(object: &Object) -> Result<Self, serde_json::Error> {
        let raw: RawService = serde_json::from_slice(&object.json)?;
        let spec = raw.spec;
        let external_name = (spec.r#type == "ExternalName").then_some(spec.external_name);
        let addresses = |texts: &[String]| texts.iter().filter_map(|a| a.parse().ok()).collect::<Vec<IpAddr>>();
        let headless = external_name.is_none() && spec.cluster_ip == "None";
        let mut cluster_ips = addresses(&spec.cluster_ips);
        if cluster_ips.is_empty() {
            cluster_ips = addresses(std::slice::from_ref(&spec.cluster_ip));
        }
        let ingress = raw.status.load_balancer.ingress.into_iter();
        Ok(Self {
            key: Some(ObjectKey::from(&object.meta)),
            headless,
            cluster_ips: if external_name.is_some() { Vec::new() } else { cluster_ips },
            external_name,
            external_ips: addresses(&spec.external_ips),
            load_balancer_ips: ingress.filter(|i| i.ip_mode != "Proxy").filter_map(|i| i.ip.parse().ok()).collect(),
            source_ranges: spec.load_balancer_source_ranges.iter().filter_map(|r| r.trim().parse().ok()).collect(),
            ports: spec.ports,
            affinity_seconds: (spec.session_affinity == "ClientIP").then(|| {
                let config = spec.session_affinity_config.unwrap_or_default();
                config.client_ip.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS)
            }),
            internal_policy: spec.internal_traffic_policy,
            external_policy: spec.external_traffic_policy,
            publish_not_ready: spec.publish_not_ready_addresses,
        })
    }

    /// The port of that name and protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.name == name && p.protocol == protocol)
    }
}

impl Slice {
    /// Decodes the object.
    pub fn decode(object: &Object) -> Result<Self, serde_json::Error> {
        let raw: RawSlice = serde_json::from_slice(&object.json)?;
        let service = object.meta.label(SERVICE_NAME_LABEL).filter(|n| !n.is_empty());
        let names = |hints: Vec<RawHint>| -> Vec<String> { hints.into_iter().map(|h| h.name).collect() };
        let endpoint = |e: RawEndpoint| {
            let ready = e.conditions.ready.unwrap_or(true);
            Endpoint {
                addresses: e.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
                ready,
                serving: e.conditions.serving.unwrap_or(ready),
                terminating: e.conditions.terminating.unwrap_or(false),
                node: e.node_name,
                hostname: e.hostname,
                for_zones: names(e.hints.for_zones),
                for_nodes: names(e.hints.for_nodes),
            }
        };
        Ok(Self {
            service: service.map(|name| ObjectKey::new(&object.meta.namespace, name)),
            family: Family::named(&raw.address_type),
            endpoints: raw.endpoints.into_iter().map(endpoint).collect(),
            ports: raw.ports,
        })
    }
}

#[derive(Deserialize)]
struct RawService {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default, deserialize_with = "null_default")]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    r#type: String,
    external_name: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "null_default")]
    external_ips: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    load_balancer_source_ranges: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<ServicePort>,
    session_affinity: String,
    session_affinity_config: Option<RawAffinity>,
    #[serde(deserialize_with = "null_default")]
    internal_traffic_policy: TrafficPolicy,
    #[serde(deserialize_with = "null_default")]
    external_traffic_policy: TrafficPolicy,
    publish_not_ready_addresses: bool,
}

#[derive(Deserialize, Default)]
struct RawAffinity {
    #[serde(rename = "clientIP")]
    client_ip: Option<RawClientIp>,
}

#[derive(Deserialize)]
struct RawClientIp {
    #[serde(rename = "timeoutSeconds")]
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    #[serde(rename = "loadBalancer", deserialize_with = "null_default")]
    load_balancer: RawLoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawLoadBalancer {
    #[serde(deserialize_with = "null_default")]
    ingress: Vec<RawIngress>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawIngress {
    ip: String,
    ip_mode: String,
}

#[derive(Deserialize)]
struct RawSlice {
    #[serde(default, rename = "addressType", deserialize_with = "null_default")]
    address_type: String,
    #[serde(default, deserialize_with = "null_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "null_default")]
    ports: Vec<EndpointPort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    conditions: RawConditions,
    #[serde(deserialize_with = "null_default")]
    node_name: String,
    #[serde(deserialize_with = "null_default")]
    hostname: String,
    #[serde(deserialize_with = "null_default")]
    hints: RawHints,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawHints {
    #[serde(deserialize_with = "null_default")]
    for_zones: Vec<RawHint>,
    #[serde(deserialize_with = "null_default")]
    for_nodes: Vec<RawHint>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHint {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

/// `null` reads as the default, as Go's decoder has it.
fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_the_network_needs_of_a_service() {
        let object = Object::from_value(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.43.1.2", "clusterIPs": ["10.43.1.2", "fd00::2"],
                    "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"name": "d", "port": 53, "protocol": "UDP"}],
                    "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                    "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "externalIPs": null,
                    "loadBalancerSourceRanges": ["192.0.2.0/24"]},
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"ip": "203.0.113.8", "ipMode": "Proxy"}]}}}),
            &[],
        );
        let s = Service::decode(&object).unwrap();
        assert_eq!(s.key, Some(ObjectKey::new("shop", "web")));
        assert_eq!(s.cluster_ips.len(), 2);
        assert_eq!((s.ports[0].node_port, s.ports[1].protocol), (30080, Protocol::Udp));
        assert_eq!(s.affinity_seconds, Some(60));
        assert_eq!((s.external_policy, s.internal_policy), (TrafficPolicy::Local, TrafficPolicy::Cluster));
        assert_eq!(s.load_balancer_ips, ["203.0.113.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(s.source_ranges.len(), 1);
        assert!(!s.headless && s.external_name.is_none());
    }

    #[test]
    fn absent_conditions_mean_ready() {
        let object = Object::from_value(
            &json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "web"}},
                "endpoints": [{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.3"],
                    "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "a", "hostname": null}],
                "ports": [{"name": null, "port": 8080, "protocol": "TCP"}]}),
            &[],
        );
        let s = Slice::decode(&object).unwrap();
        assert_eq!(s.service, Some(ObjectKey::new("shop", "web")));
        assert!(s.endpoints[0].ready && s.endpoints[0].serving && !s.endpoints[0].terminating);
        assert!(!s.endpoints[1].ready && s.endpoints[1].serving && s.endpoints[1].terminating);
        assert_eq!((s.ports[0].name.as_str(), s.ports[0].port), ("", Some(8080)));
    }
}
