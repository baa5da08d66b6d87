//! How the server reaches the Services of its cluster: webhooks and extension API servers.
//!
//! In: a port of a Service. Out: a connection to one of its endpoints. A pod is reached through its node, over the connection
//! that the node's agent keeps open: a server without a node reaches pods no other way. What is no pod is dialled.
//!
//! Rules: upstream `apiserver/pkg/util/proxy` (`ResolveEndpoint`), but for the way through nodes.
//!
//! **Invariant:** each connection looks anew: endpoints come and go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::seq::IndexedRandom;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::{self, Credentials, Dial};
use crate::registry::View;
use crate::registry::outward::{self, ServicePort};
use crate::runtime::node_api::Door;
use crate::util::duplex;

use super::nodes::Nodes;

/// How long a connection to one endpoint may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Ways to nodes and Services.
#[derive(Clone)]
pub struct Roads {
    pub(super) nodes: Arc<Nodes>,
    /// What extension API servers are shown.
    pub(super) identity: Credentials,
    view: Arc<dyn View>,
}

impl Roads {
    /// Over what `view` shows; extension API servers know this server by `identity`, a front proxy's certificate.
    pub fn new(view: Arc<dyn View>, identity: Credentials) -> Self {
        Self { nodes: Arc::default(), identity, view }
    }

    /// A Service, and its EndpointSlices.
    pub(super) fn look_up(&self, service: &ServicePort) -> (Option<Value>, Vec<Value>) {
        let object = self.view.get("", "services", &service.namespace, &service.name);
        let of = |o: &Arc<crate::api::object::Object>| o.meta.label(SERVICE_NAME_LABEL) == Some(&service.name);
        let slices = self.view.list("discovery.k8s.io", "endpointslices", Some(&service.namespace));
        (object.map(|o| o.value()), slices.iter().filter(|o| of(o)).map(|o| o.value()).collect())
    }

    fn find(&self, service: &ServicePort) -> Result<Vec<Goal>, String> {
        let (object, slices) = self.look_up(service);
        goals(service, object.as_ref(), &slices)
    }

    async fn dial(&self, service: &ServicePort) -> io::Result<duplex::Stream> {
        let goals = self.find(service).map_err(io::Error::other)?;
        let goal = goals.choose(&mut rand::rng()).ok_or_else(|| io::Error::other("no endpoint"))?;
        let connecting = async {
            let addresses: Vec<SocketAddr> = match goal {
                Goal::Host(host, port) => {
                    client::resolve(host).await?.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect()
                }
                Goal::Endpoint { address, node } => {
                    if let Some(node) = node.as_deref().and_then(|n| self.nodes.get(n).ok()) {
                        return node.open(Door::Port(*address)).await;
                    }
                    vec![*address]
                }
            };
            Ok(Box::new(TcpStream::connect(&addresses[..]).await?) as duplex::Stream)
        };
        tokio::time::timeout(DIAL_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut.into()).flatten()
    }
}

impl outward::Roads for Roads {
    fn check(&self, service: &ServicePort) -> Result<(), String> {
        self.find(service).map(drop)
    }

    fn to(&self, service: &ServicePort) -> Arc<dyn Dial> {
        Arc::new(Way { roads: self.clone(), service: service.clone() })
    }
}

/// The way to one port of a Service.
struct Way {
    roads: Roads,
    service: ServicePort,
}

impl Dial for Way {
    fn dial(&self) -> BoxFuture<'static, io::Result<duplex::Stream>> {
        let (roads, service) = (self.roads.clone(), self.service.clone());
        async move { roads.dial(&service).await }.boxed()
    }
}

/// Where a connection may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    /// A name outside of the cluster.
    Host(String, u16),
    /// An address, and the node that it is on when it is a pod's.
    Endpoint { address: SocketAddr, node: Option<String> },
}

/// Where a port of a Service leads. Pure.
fn goals(asked: &ServicePort, service: Option<&Value>, slices: &[Value]) -> Result<Vec<Goal>, String> {
    let ServicePort { name, port, .. } = asked;
    let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?;
    let no_port = || format!("no service port {port} found for service \"{name}\"");
    if service.str_at("/spec/type") == Some("ExternalName") {
        let host = service.str_at("/spec/externalName").unwrap_or_default();
        return Ok(vec![Goal::Host(host.to_owned(), u16::try_from(*port).map_err(|_| no_port())?)]);
    }
    let found =
        service.items_at("/spec/ports").iter().find(|p| p.int_at("/port") == Some(*port)).ok_or_else(no_port)?;
    let port_name = found.str_at("/name").unwrap_or_default();
    let mut goals = Vec::new();
    for slice in slices {
        let mut ports = slice.items_at("/ports").iter();
        let port = ports.find(|p| p.str_at("/name").unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|p| p.int_at("/port")).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.items_at("/endpoints").iter().filter(|e| e.bool_at("/conditions/ready") != Some(false)) {
            let ip: Option<IpAddr> = endpoint.str_at("/addresses/0").and_then(|a| a.parse().ok());
            let Some(ip) = ip else { continue };
            let is_pod = endpoint.str_at("/targetRef/kind") == Some("Pod");
            let node = endpoint.str_at("/nodeName").filter(|_| is_pod).map(str::to_owned);
            goals.push(Goal::Endpoint { address: SocketAddr::new(ip, port), node });
        }
    }
    if goals.is_empty() {
        return Err(format!("no endpoints available for service \"{name}\""));
    }
    Ok(goals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn endpoint(address: &str, node: Option<&str>) -> Goal {
        Goal::Endpoint { address: address.parse().unwrap(), node: node.map(str::to_owned) }
    }

    #[test_case(json!({"ports": [{"port": 443, "name": "h"}]}), 443 => Ok(vec![endpoint("10.1.0.1:8443", Some("a")), endpoint("10.9.9.9:8443", None)]); "pods and others")]
    #[test_case(json!({"ports": [{"port": 80, "name": "x"}]}), 443 => Err("no service port 443 found for service \"s\"".into()); "another port")]
    #[test_case(json!({"ports": [{"port": 443, "name": "x"}]}), 443 => Err("no endpoints available for service \"s\"".into()); "another name")]
    #[test_case(json!({"type": "ExternalName", "externalName": "e.org"}), 8443 => Ok(vec![Goal::Host("e.org".into(), 8443)]); "outside")]
    fn leads_to(spec: Value, port: i64) -> Result<Vec<Goal>, String> {
        let slices = [json!({"ports": [{"name": "h", "port": 8443}], "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "a", "targetRef": {"kind": "Pod"}},
            {"addresses": ["10.1.0.2"], "nodeName": "a", "conditions": {"ready": false}, "targetRef": {"kind": "Pod"}},
            {"addresses": ["10.9.9.9"], "nodeName": "a"}]})];
        let asked = ServicePort { namespace: "n".into(), name: "s".into(), port };
        goals(&asked, Some(&json!({"spec": spec})), &slices)
    }

    #[test]
    fn a_service_that_is_not_there_leads_nowhere() {
        let asked = ServicePort { namespace: "n".into(), name: "s".into(), port: 443 };
        assert_eq!(goals(&asked, None, &[]), Err("service \"s\" not found".into()));
    }
}
