//! Reaching a webhook: a POST over TLS to an URL or a Service.
//!
//! In: where the webhook is, and a body. Out: the body of its answer, or why there is none.
//!
//! **Invariant:** one webhook's certificate is checked against its own CA and the name of its own Service, never another's.
//! **Invariant:** clients are kept for [`CLIENTS_MAX`] places; an answer is read up to [`ANSWER_MAX_BYTES`].

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};

use crate::api::value::ValueExt;
use crate::client::Client;
use crate::registry::View;

use super::hook::{ClientConfig, Place};

/// Clients that are kept. Each has its own CA and its own connections.
const CLIENTS_MAX: usize = 64;
/// Longest answer that is read: an object of the largest size, as a patch in base64, and some more.
const ANSWER_MAX_BYTES: usize = 8 << 20;

/// Calls webhooks.
#[async_trait]
pub trait Call: Send + Sync {
    /// Sends a JSON body.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn post(&self, to: &ClientConfig, view: &dyn View, timeout: Duration, body: Vec<u8>)
    -> Result<Bytes, String>;
}

/// Over the network.
#[derive(Default)]
pub struct Calls {
    clients: Mutex<HashMap<Peer, Client>>,
}

/// Whom a connection is made to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Peer {
    /// `https://host:port`.
    base: String,
    /// The name in its certificate, where it is not the host's.
    name: Option<String>,
    ca: Vec<u8>,
}

/// A webhook's place, with its Service looked up.
#[derive(Debug, PartialEq)]
struct Found {
    peer: Peer,
    path: String,
    /// As people know it.
    url: String,
    /// For the `Host` header.
    host: Option<String>,
}

impl Calls {
    fn client(&self, peer: &Peer) -> Result<Client, String> {
        let mut all = self.clients.lock().expect("no panic while held");
        if let Some(client) = all.get(peer) {
            return Ok(client.clone());
        }
        let client = Client::peer(&peer.base, &peer.ca, peer.name.clone()).map_err(|e| e.to_string())?;
        if all.len() >= CLIENTS_MAX {
            // Those in use are made again at their next call.
            all.clear();
        }
        all.insert(peer.clone(), client.clone());
        Ok(client)
    }
}

#[async_trait]
impl Call for Calls {
    async fn post(
        &self,
        to: &ClientConfig,
        view: &dyn View,
        timeout: Duration,
        body: Vec<u8>,
    ) -> Result<Bytes, String> {
        let found = find(to, view)?;
        let query = format!("timeout={}s", timeout.as_secs());
        let client = self.client(&found.peer)?;
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json.clone());
        headers.insert(header::ACCEPT, json);
        if let Some(host) = found.host.as_deref().and_then(|h| HeaderValue::from_str(h).ok()) {
            headers.insert(header::HOST, host);
        }
        let failed = |why: &str| format!("Post \"{}?{query}\": {why}", found.url);
        let asked = async {
            let answer = client.send(Method::POST, &format!("{}?{query}", found.path), headers, body.into()).await;
            let (parts, body) = answer.map_err(|e| failed(&e.message))?.into_parts();
            if !parts.status.is_success() {
                return Err(format!("the server of {} answered {}", found.url, parts.status));
            }
            let read = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
            read.map(http_body_util::Collected::to_bytes).map_err(|e| failed(&e.to_string()))
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err(failed("context deadline exceeded")))
    }
}

/// Finds a webhook.
fn find(to: &ClientConfig, view: &dyn View) -> Result<Found, String> {
    match &to.place {
        Place::Url(url) => {
            let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} is no https URL"))?;
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let path = if path.is_empty() { "/" } else { path };
            let peer = Peer { base: format!("https://{authority}"), name: None, ca: to.ca.clone() };
            Ok(Found { peer, path: path.to_owned(), url: url.clone(), host: None })
        }
        Place::Service { namespace, name, port, path } => {
            let missing = || format!("service \"{name}\" not found");
            let service = view.get("", "services", namespace, name).ok_or_else(missing)?.value();
            let host = format!("{name}.{namespace}.svc");
            let external = service.str_at("/spec/type") == Some("ExternalName");
            let has_port = service.items_at("/spec/ports").iter().any(|p| p.int_at("/port") == Some(*port));
            if !external && !has_port {
                return Err(format!("no service port {port} found for service \"{name}\""));
            }
            let place = if external { "/spec/externalName" } else { "/spec/clusterIP" };
            let address = match service.str_at(place).unwrap_or_default() {
                "" | "None" => return Err(format!("service \"{name}\" has no cluster IP")),
                address if address.contains(':') => format!("[{address}]"),
                address => address.to_owned(),
            };
            let peer = Peer { base: format!("https://{address}:{port}"), name: Some(host.clone()), ca: to.ca.clone() };
            let path = if path.is_empty() { "/".to_owned() } else { path.clone() };
            let host = format!("{host}:{port}");
            Ok(Found { peer, url: format!("https://{host}{path}"), path, host: Some(host) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use test_case::test_case;

    use crate::api::object::Object;

    use super::*;

    struct OneService(Value);

    impl View for OneService {
        fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            ((resource, namespace, name) == ("services", "n", "s"))
                .then(|| Arc::new(Object::from_value(&json!({"spec": self.0}), &[])))
        }
        fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Arc<Object>> {
            vec![]
        }
    }

    #[test_case(json!({"url": "https://h:9/a/b"}) => Ok(("https://h:9".into(), "/a/b".into(), None)))]
    #[test_case(json!({"url": "https://h"}) => Ok(("https://h".into(), "/".into(), None)); "no path")]
    #[test_case(json!({"service": {"namespace": "n", "name": "s", "path": "/x"}}) => Ok(("https://10.0.0.1:443".into(), "/x".into(), Some("s.n.svc".into()))); "service")]
    #[test_case(json!({"service": {"namespace": "n", "name": "s", "port": 1}}) => Err("no service port 1 found for service \"s\"".into()); "another port")]
    #[test_case(json!({"service": {"namespace": "n", "name": "t"}}) => Err("service \"t\" not found".into()); "another service")]
    fn found(config: Value) -> Result<(String, String, Option<String>), String> {
        let view = OneService(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 443}]}));
        find(&ClientConfig::of(&config), &view).map(|f| (f.peer.base, f.path, f.peer.name))
    }
}
