//! What a proxied request is for: the node, and the port that is meant. Pure over what the caller reads.
//!
//! Rules: upstream `pkg/registry/core/{node,pod,service}` (`ResourceLocation`) and `apimachinery/pkg/util/net`
//! (`SplitSchemeNamePort`). Endpoints of a Service are only those that are pods, as upstream has it: a Service with
//! addresses of somebody's choice does not make the API server a way to them.

use std::net::{IpAddr, SocketAddr};

use rand::seq::IndexedRandom;
use serde_json::Value;

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::user::Attributes;
use crate::api::value::ValueExt;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The node that it goes through.
    pub node: String,
    /// What is there.
    pub way: Way,
    /// Host and port, as links name them.
    pub host: String,
}

/// What on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The node's own API.
    Kubelet,
    /// A port of the node, or of a pod on it.
    Port { address: SocketAddr, tls: bool },
}

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Ask<'a> {
    /// None when it has not that form.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
        known.then_some(Self { tls: scheme == "https", name, port })
    }
}

/// Reads an object of the core group: plural, namespace, name.
pub(super) type Get<'a> = &'a dyn Fn(&str, &str, &str) -> Option<Value>;
/// Reads the EndpointSlices of a Service of the request's namespace.
pub(super) type Slices<'a> = &'a dyn Fn(&str) -> Vec<Value>;

/// Finds out what is meant.
pub(super) fn find(plural: &str, a: &Attributes, get: Get<'_>, slices: Slices<'_>) -> ApiResult<Place> {
    let invalid = || Status::bad_request(format!("invalid {} request {:?}", plural.trim_end_matches('s'), a.name));
    let ask = Ask::parse(&a.name).ok_or_else(invalid)?;
    let read = |resource: &str, name: &str| {
        get(resource, &a.namespace, name).ok_or_else(|| Status::not_found("", resource, name))
    };
    match plural {
        "nodes" => node(ask, &read("nodes", ask.name)?, invalid),
        "pods" => pod(ask, &read("pods", ask.name)?, invalid),
        _ => service(ask, &read("services", ask.name)?, &slices(ask.name), &|name| get("pods", &a.namespace, name)),
    }
}

fn node(ask: Ask<'_>, node: &Value, invalid: impl Fn() -> Box<Status>) -> ApiResult<Place> {
    let own = node.int_at("/status/daemonEndpoints/kubeletEndpoint/Port").unwrap_or_default().to_string();
    let of = |kind: &str| {
        let mut all = node.items_at("/status/addresses").iter();
        all.find(|a| a.str_at("/type") == Some(kind)).and_then(|a| a.str_at("/address"))
    };
    let address = of("InternalIP").or_else(|| of("ExternalIP"));
    if ask.port.is_empty() || ask.port == own {
        let host = format!("{}:{own}", address.unwrap_or(ask.name));
        return Ok(Place { node: ask.name.to_owned(), way: Way::Kubelet, host });
    }
    let port = ask.port.parse().map_err(|_| invalid())?;
    port_of(ask.name, address, port, ask.tls, true)
}

fn pod(ask: Ask<'_>, pod: &Value, invalid: impl Fn() -> Box<Status>) -> ApiResult<Place> {
    let declared = || {
        let mut containers = pod.items_at("/spec/containers").iter();
        containers.find_map(|c| c.int_at("/ports/0/containerPort")).and_then(|p| u16::try_from(p).ok())
    };
    let port = match ask.port {
        "" => declared(),
        port => Some(port.parse().map_err(|_| invalid())?),
    };
    let named = port.is_some();
    let port = port.unwrap_or(if ask.tls { 443 } else { 80 });
    port_of(pod.str_at("/spec/nodeName").unwrap_or_default(), pod.str_at("/status/podIP"), port, ask.tls, named)
}

fn service(ask: Ask<'_>, service: &Value, slices: &[Value], pod: &dyn Fn(&str) -> Option<Value>) -> ApiResult<Place> {
    let unavailable = |why: String| Status::new(Reason::ServiceUnavailable, why);
    let name = match ask.port.parse::<i64>() {
        Ok(number) => {
            let mut ports = service.items_at("/spec/ports").iter();
            let port = ports.find(|p| p.int_at("/port") == Some(number));
            let none = || unavailable(format!("no service port {number} found for service {:?}", ask.name));
            port.ok_or_else(none)?.str_at("/name").unwrap_or_default()
        }
        Err(_) => ask.port,
    };
    let mut found = Vec::new();
    for slice in slices {
        let mut ports = slice.items_at("/ports").iter();
        let port = ports.find(|p| p.str_at("/name").unwrap_or_default() == name);
        let Some(port) = port.and_then(|p| p.int_at("/port")).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.items_at("/endpoints") {
            if endpoint.bool_at("/conditions/ready") == Some(false) || endpoint.str_at("/targetRef/kind") != Some("Pod")
            {
                continue;
            }
            let pod = endpoint.str_at("/targetRef/name").and_then(pod);
            let (Some(pod), Some(ip)) = (pod, endpoint.str_at("/addresses/0")) else { continue };
            // Anybody who may write slices could name any address.
            if pod.items_at("/status/podIPs").iter().any(|i| i.str_at("/ip") == Some(ip)) {
                let node = pod.str_at("/spec/nodeName").unwrap_or_default();
                found.extend(port_of(node, Some(ip), port, ask.tls, true));
            }
        }
    }
    let one = found.choose(&mut rand::rng()).cloned();
    one.ok_or_else(|| unavailable(format!("no endpoints available for service {:?}", ask.name)))
}

/// A port of an address that may be asked: none that means the asking machine itself. Upstream: `IsProxyableIP`.
fn port_of(node: &str, address: Option<&str>, port: u16, tls: bool, named: bool) -> ApiResult<Place> {
    let ip: Option<IpAddr> = address.and_then(|a| a.parse().ok());
    let local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let fit = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !local(ip);
    let ip = ip.filter(fit).ok_or_else(|| Status::bad_request("address not allowed"))?;
    let address = SocketAddr::new(ip, port);
    let host = if named { address.to_string() } else { ip.to_string() };
    Ok(Place { node: node.to_owned(), way: Way::Port { address, tls }, host })
}

/// What stands behind `/proxy` in a path, as it came: with its escapes and its slash at the end.
pub(super) fn behind_proxy(path: &str, namespaced: bool) -> &str {
    // `/api/v1/nodes/NAME/proxy`, `/api/v1/namespaces/NAMESPACE/pods/NAME/proxy`
    let before = if namespaced { 7 } else { 5 };
    path.match_indices('/').nth(before).map_or("", |(at, _)| &path[at..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn objects(resource: &str, _: &str, name: &str) -> Option<Value> {
        Some(match (resource, name) {
            ("nodes", "n") => json!({"status": {"addresses": [{"type": "Hostname", "address": "n"},
                {"type": "InternalIP", "address": "10.0.0.7"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}),
            ("pods", "p") => json!({"spec": {"nodeName": "n", "containers": [{"name": "a"},
                {"name": "b", "ports": [{"containerPort": 8080}]}]},
                "status": {"podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}}),
            ("pods", "bare") => json!({"spec": {"nodeName": "n", "containers": [{"name": "a"}]},
                "status": {"podIP": "10.42.0.6", "podIPs": [{"ip": "10.42.0.6"}]}}),
            ("pods", "waiting") => json!({"spec": {"containers": [{"name": "a"}]}}),
            ("pods", "sly") => json!({"spec": {"nodeName": "n"}, "status": {"podIP": "127.0.0.1"}}),
            ("services", _) if name != "none" => {
                json!({"spec": {"ports": [{"name": "web", "port": 80}, {"port": 81}]}})
            }
            _ => return None,
        })
    }

    fn slices(service: &str) -> Vec<Value> {
        let endpoint = |ip: &str, ready: bool| {
            json!({"addresses": [ip], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": "p"}})
        };
        let endpoints = match service {
            "s" => json!([endpoint("10.42.0.5", true), endpoint("10.42.0.9", true)]),
            "unready" => json!([endpoint("10.42.0.5", false)]),
            "foreign" => json!([{"addresses": ["10.42.0.5"], "conditions": {"ready": true}}]),
            _ => json!([]),
        };
        vec![json!({"ports": [{"name": "web", "port": 8080}, {"name": "", "port": 8081}], "endpoints": endpoints})]
    }

    fn at(address: &str, tls: bool, host: &str) -> Result<Place, (u16, String)> {
        let way = Way::Port { address: address.parse().unwrap(), tls };
        Ok(Place { node: "n".into(), way, host: host.into() })
    }

    fn no(code: u16, why: &str) -> Result<Place, (u16, String)> {
        Err((code, why.into()))
    }

    #[test_case("nodes", "n" => Ok(Place { node: "n".into(), way: Way::Kubelet, host: "10.0.0.7:10250".into() }); "a node")]
    #[test_case("nodes", "https:n:10250" => Ok(Place { node: "n".into(), way: Way::Kubelet, host: "10.0.0.7:10250".into() }); "its own port")]
    #[test_case("nodes", "n:9100" => at("10.0.0.7:9100", false, "10.0.0.7:9100"); "another port of a node")]
    #[test_case("nodes", "x" => no(404, "nodes \"x\" not found"); "no node")]
    #[test_case("nodes", "n:http" => no(400, "invalid node request \"n:http\""); "no port")]
    #[test_case("pods", "p" => at("10.42.0.5:8080", false, "10.42.0.5:8080"); "the first port that a pod tells of")]
    #[test_case("pods", "https:p:8443" => at("10.42.0.5:8443", true, "10.42.0.5:8443"); "TLS")]
    #[test_case("pods", "bare" => at("10.42.0.6:80", false, "10.42.0.6"); "no port anywhere")]
    #[test_case("pods", "https:bare:" => at("10.42.0.6:443", true, "10.42.0.6"); "no port anywhere, with TLS")]
    #[test_case("pods", "p:99999" => no(400, "invalid pod request \"p:99999\""); "a port too high")]
    #[test_case("pods", "ftp:p:21" => no(400, "invalid pod request \"ftp:p:21\""); "another scheme")]
    #[test_case("pods", "a:b:c:d" => no(400, "invalid pod request \"a:b:c:d\""); "too many parts")]
    #[test_case("pods", "waiting" => no(400, "address not allowed"); "no address yet")]
    #[test_case("pods", "sly:6443" => no(400, "address not allowed"); "the server itself")]
    #[test_case("services", "s:web" => at("10.42.0.5:8080", false, "10.42.0.5:8080"); "a port's name")]
    #[test_case("services", "https:s:80" => at("10.42.0.5:8080", true, "10.42.0.5:8080"); "a port's number")]
    #[test_case("services", "s" => at("10.42.0.5:8081", false, "10.42.0.5:8081"); "the port without a name")]
    #[test_case("services", "s:82" => no(503, "no service port 82 found for service \"s\""); "a number that it has not")]
    #[test_case("services", "s:db" => no(503, "no endpoints available for service \"s\""); "a name that it has not")]
    #[test_case("services", "unready:web" => no(503, "no endpoints available for service \"unready\""); "nobody ready")]
    #[test_case("services", "foreign:web" => no(503, "no endpoints available for service \"foreign\""); "no pod of the cluster")]
    #[test_case("services", "none" => no(404, "services \"none\" not found"); "no service")]
    fn places(plural: &str, name: &str) -> Result<Place, (u16, String)> {
        let a = Attributes { name: name.into(), namespace: "d".into(), ..Attributes::default() };
        find(plural, &a, &objects, &slices).map_err(|e| (e.code, e.message.clone()))
    }

    #[test_case("/api/v1/nodes/n/proxy", false => ""; "nothing")]
    #[test_case("/api/v1/nodes/n/proxy/", false => "/"; "a slash")]
    #[test_case("/api/v1/namespaces/proxy/pods/p/proxy/a%2Fb//c/", true => "/a%2Fb//c/"; "escapes and slashes")]
    fn rests(path: &str, namespaced: bool) -> &str {
        behind_proxy(path, namespaced)
    }
}
