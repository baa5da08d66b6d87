//! Reaching others' servers: a POST over TLS to an URL or a Service, for webhooks of admission and of conversion.
//!
//! In: where the other server is, and a body. Out: the body of its answer, or why there is none.
//!
//! **Invariant:** one server's certificate is checked against its own CA and the name of its own Service, never another's.
//! **Invariant:** clients are kept for [`CLIENTS_MAX`] places; an answer is read up to [`ANSWER_MAX_BYTES`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::api::value::ValueExt;
use crate::client::{Client, Credentials, Dial, Peer, Trust};

/// Clients that are kept. Each has its own CA and its own connections.
const CLIENTS_MAX: usize = 64;
/// Longest answer that is read: an object of the largest size, as a patch in base64, and some more; or a batch of objects.
const ANSWER_MAX_BYTES: usize = 8 << 20;
/// The port of a Service that none is named for.
const PORT_DEFAULT: i64 = 443;

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// An URL or a Service.
    pub place: Place,
    /// PEM of the CAs that its certificate may be of; empty for the machine's own.
    pub ca: Vec<u8>,
}

/// How a webhook is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `https://host:port/path`.
    Url(String),
    /// A Service of the cluster.
    Service {
        /// Which.
        service: ServicePort,
        /// With its first slash; may be empty.
        path: String,
    },
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// One of its ports.
    pub port: i64,
}

impl ServicePort {
    /// From a reference with `namespace`, `name` and perhaps `port`.
    pub fn of(reference: &Value) -> Self {
        let text = |member: &str| reference.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let port = reference.int_at("/port").unwrap_or(PORT_DEFAULT);
        Self { namespace: text("namespace"), name: text("name"), port }
    }

    /// The address by which it is known, and which its certificate is for: `https://NAME.NAMESPACE.svc:PORT`.
    pub fn base(&self) -> String {
        format!("https://{}.{}.svc:{}", self.name, self.namespace, self.port)
    }
}

impl ClientConfig {
    /// From a `WebhookClientConfig`.
    pub fn of(config: &Value) -> Self {
        use base64::Engine;
        let ca = config.str_at("/caBundle").unwrap_or_default();
        let place = match config.str_at("/url") {
            Some(url) => Place::Url(url.to_owned()),
            None => {
                let path = match config.str_at("/service/path").unwrap_or_default() {
                    path if path.is_empty() || path.starts_with('/') => path.to_owned(),
                    path => format!("/{path}"),
                };
                Place::Service { service: ServicePort::of(&config["service"]), path }
            }
        };
        // What is no base64 did not pass the wire table.
        Self { place, ca: base64::engine::general_purpose::STANDARD.decode(ca).unwrap_or_default() }
    }
}

/// How the Services of the cluster are reached.
pub trait Roads: Send + Sync {
    /// Why a port of a Service cannot be asked, when that is known without asking.
    fn check(&self, service: &ServicePort) -> Result<(), String>;
    /// What makes connections to it.
    fn to(&self, service: &ServicePort) -> Arc<dyn Dial>;
}

/// Calls webhooks.
#[async_trait]
pub trait Call: Send + Sync {
    /// Sends a JSON body. `query` is what comes behind the path's question mark; empty for none.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn post(&self, to: &ClientConfig, query: &str, timeout: Duration, body: Vec<u8>) -> Result<Bytes, String>;
}

/// Over the network.
pub struct Calls {
    roads: Arc<dyn Roads>,
    clients: Mutex<HashMap<(Door, Vec<u8>), Client>>,
}

/// Whom a connection is made to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Door {
    /// `https://host:port`.
    Host(String),
    Service(ServicePort),
}

impl Door {
    fn base(&self) -> String {
        match self {
            Self::Host(base) => base.clone(),
            Self::Service(service) => service.base(),
        }
    }
}

impl Calls {
    /// Services are reached by `roads`.
    pub fn new(roads: Arc<dyn Roads>) -> Self {
        Self { roads, clients: Mutex::default() }
    }

    fn client(&self, door: &Door, ca: &[u8]) -> Result<Client, String> {
        let key = (door.clone(), ca.to_vec());
        let mut all = self.clients.lock().expect("no panic while held");
        if let Some(client) = all.get(&key) {
            return Ok(client.clone());
        }
        let dial = match door {
            Door::Host(_) => None,
            Door::Service(service) => Some(self.roads.to(service)),
        };
        let trust = Trust::of_bundle(ca.to_vec());
        let peer = Peer { base: door.base(), trust, credentials: Credentials::None, dial };
        let client = Client::peer(peer).map_err(|e| e.to_string())?;
        if all.len() >= CLIENTS_MAX {
            // Those in use are made again at their next call.
            all.clear();
        }
        all.insert(key, client.clone());
        Ok(client)
    }
}

#[async_trait]
impl Call for Calls {
    async fn post(&self, to: &ClientConfig, query: &str, timeout: Duration, body: Vec<u8>) -> Result<Bytes, String> {
        let (door, mut path) = door(&to.place)?;
        if let Door::Service(service) = &door {
            self.roads.check(service)?;
        }
        if !query.is_empty() {
            path = format!("{path}?{query}");
        }
        let client = self.client(&door, &to.ca)?;
        let url = format!("{}{path}", door.base());
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json.clone());
        headers.insert(header::ACCEPT, json);
        let failed = |why: &str| format!("Post \"{url}\": {why}");
        let asked = async {
            let answer = client.send(Method::POST, &path, headers, body.into()).await;
            let (parts, body) = answer.map_err(|e| failed(&e.message))?.into_parts();
            if !parts.status.is_success() {
                return Err(format!("the server of {url} answered {}", parts.status));
            }
            let read = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
            read.map(http_body_util::Collected::to_bytes).map_err(|e| failed(&e.to_string()))
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err(failed("context deadline exceeded")))
    }
}

/// Whom to connect to, and the path there.
fn door(place: &Place) -> Result<(Door, String), String> {
    let rooted = |path: &str| if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    match place {
        Place::Url(url) => {
            let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} is no https URL"))?;
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            Ok((Door::Host(format!("https://{authority}")), rooted(path)))
        }
        Place::Service { service, path } => Ok((Door::Service(service.clone()), rooted(path))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use test_case::test_case;

    use super::*;

    #[test_case(json!({"url": "https://h:9/a/b"}) => Ok(("https://h:9".into(), "/a/b".into())))]
    #[test_case(json!({"url": "https://h"}) => Ok(("https://h".into(), "/".into())); "no path")]
    #[test_case(json!({"url": "http://h"}) => Err("\"http://h\" is no https URL".into()); "no TLS")]
    #[test_case(json!({"service": {"namespace": "n", "name": "s", "path": "x"}}) => Ok(("https://s.n.svc:443".into(), "/x".into())); "service")]
    #[test_case(json!({"service": {"namespace": "n", "name": "s", "port": 1}}) => Ok(("https://s.n.svc:1".into(), "/".into())); "another port")]
    fn doors(config: Value) -> Result<(String, String), String> {
        door(&ClientConfig::of(&config).place).map(|(door, path)| (door.base(), path))
    }
}
